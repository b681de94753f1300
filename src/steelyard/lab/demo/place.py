"""Where the demo lives, and how its commands are run: as a provider and a tenant run them, and shown as they are."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from steelyard.lab.namespace import inside
from steelyard.lab.processes import ProcessIdentity, end_processes, identify
from steelyard.lab.state import RackDirectory
from steelyard.model.errors import LabFailed, LabUnready

STEELYARD: Final = Path(sys.executable).with_name("steelyard")
PORT: Final = 8443
"""Of the services, in the rack's own network namespace."""
_LOOK_SECONDS: Final = 0.2
_ENDING_SECONDS: Final = 60.0
_LONGEST_SECONDS: Final = 600.0


def wait_for(what: str, condition: Callable[[], bool], seconds: float) -> None:
    """Return when it holds. Raises LabFailed when it does not within `seconds`."""
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            raise LabFailed("waiting", expected=f"{what} within {seconds:.0f} s", found="not so")
        time.sleep(_LOOK_SECONDS)


def run_program(
    command: Sequence[str], environment: Mapping[str, str] | None = None, seconds: float | None = None
) -> str:
    """Run a program to its end; return what it printed. Raises LabFailed with what it said.

    seconds  how long it may take; None: as long as it takes, as to build an image.
    """
    doing = f"running {shlex.join(command)}"
    try:
        done = subprocess.run(  # noqa: S603 (no shell; our own words)
            command,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise LabFailed(doing, expected=f"its end within {seconds} s", found="not so") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise LabFailed(doing, expected="it to end well", found=said)
    return done.stdout


@dataclass(slots=True)
class Screen:
    """What the onlooker sees, and how long each chapter took. root: as seen from it, files have short names."""

    console: Console
    root: Path
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def chapter(self, title: str) -> Iterator[None]:
        """Tell what comes now, and time it."""
        self.console.rule(f"[bold]{len(self.seconds) + 1}  {title}", align="left")
        begun = time.monotonic()
        yield
        self.seconds[title] = time.monotonic() - begun

    def say(self, words: str) -> None:
        """Say a line about what is to be seen."""
        self.console.print(words, highlight=False)

    def show_command(self, who: str, words: Sequence[str]) -> None:
        """Show a command as it could be typed."""
        line = shlex.join(words).replace(f"{self.root}/", "")
        self.console.print(f"[dim]{who}$ {escape(line)}[/dim]", highlight=False, soft_wrap=True)

    def show_times(self) -> None:
        """Tell how long each chapter took."""
        table = Table("chapter", "seconds", box=None)
        table.columns[1].justify = "right"
        for title, seconds in self.seconds.items():
            table.add_row(title, f"{seconds:.0f}")
        table.add_row("[bold]in all", f"[bold]{sum(self.seconds.values()):.0f}")
        self.console.print(table)


@dataclass(slots=True)
class Place:
    """A directory with a rack, an installation of all services, and what the tenant keeps to itself.

    tokens   of each who can be asked to do something.
    started  the services, if this very program started them.
    """

    root: Path
    screen: Screen
    tokens: dict[str, Path] = field(default_factory=dict)
    started: subprocess.Popen[bytes] | None = None

    @property
    def rack(self) -> RackDirectory:
        """The rack's directory."""
        return RackDirectory(self.root / "rack")

    @property
    def services(self) -> Path:
        """The installation's directory."""
        return self.root / "services"

    @property
    def tenant(self) -> Path:
        """What is the tenant's: keys, references, policies, the enclave file."""
        return self.root / "tenant"

    @property
    def images(self) -> Path:
        """What was built, and need not be built again."""
        return self.root / "images"

    @property
    def _running(self) -> Path:
        """Which process the services are."""
        return self.root / "services.json"

    # -- commands --

    def run(self, who: str, *words: str, show: bool = True) -> str:
        """Run a command of `steelyard` as somebody; return what it printed. Raises LabFailed with what it said."""
        if show:
            self.screen.show_command(who, ["steelyard", *words])
        return self.inside([str(STEELYARD), *words], self.environment(who))

    def ask(self, who: str, *words: str) -> Any:
        """Return what a command prints with `--json`; it is not shown."""
        return json.loads(self.run(who, *words, "--json", show=False))

    def watch(self, who: str, *words: str) -> int:
        """Run a command whose progress is to be seen; return its exit code."""
        self.screen.show_command(who, ["steelyard", *words])
        command = self._within([str(STEELYARD), *words])
        return subprocess.run(  # noqa: S603 (no shell; our own words)
            command, env={**os.environ, **self.environment(who)}, stdin=subprocess.DEVNULL, check=False
        ).returncode

    def inside(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
        """Run any program where the services and machines are; return what it printed. Raises LabFailed."""
        return run_program(self._within(command), environment, _LONGEST_SECONDS)

    def _within(self, command: Sequence[str]) -> list[str]:
        return inside(self.rack.namespace, command)

    def environment(self, who: str) -> dict[str, str]:
        """Return what somebody's shell has."""
        return {
            "STEELYARD_URL": f"https://127.0.0.1:{PORT}",
            "STEELYARD_CA": str(self.services / "authority.pem"),
            "STEELYARD_TOKEN_FILE": str(self.tokens.get(who, self.services / "provider.token")),
        }

    # -- the services' one process --

    def start_services(self) -> None:
        """Start them; return when they answer. They live on when this program ends."""
        with (self.root / "services.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 (no shell; our own words)
                self._within([str(STEELYARD), "serve", "--directory", str(self.services)]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.started = process
        started = identify("services", process.pid)
        if started is not None:
            self._running.write_text(json.dumps(asdict(started)))

        def answer() -> bool:
            if process.poll() is not None:
                raise LabFailed("starting the services", expected="them to run", found=f"see {self.root}/services.log")
            try:
                self.run("provider", "project", "list", show=False)
            except LabFailed:
                return False
            return True

        wait_for("the services answer", answer, 60)

    def end_services(self) -> None:
        """End them, as an operator does. None is no failure."""
        if self._running.exists():
            self._end(_ENDING_SECONDS)

    def kill_services(self) -> None:
        """End them as a power cut would, in the midst of whatever they are doing. The disks that they serve go on."""
        self._end(0)

    def end_servers(self) -> None:
        """End what the services let live on when they end, disks above all; they are named by files of theirs."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                ours = f"{self.services}/".encode() in (process / "cmdline").read_bytes()
            except OSError:
                continue
            if ours and (identity := identify("server", int(process.name))) is not None:
                found.append(identity)
        end_processes(found, _ENDING_SECONDS)

    def _end(self, grace_seconds: float) -> None:
        end_processes([ProcessIdentity(**json.loads(self._running.read_text()))], grace_seconds)
        self._running.unlink()
        if self.started is not None:
            self.started.wait()


def check_root() -> None:
    """Return if this is root, who may have machines, switches and network namespaces. Raises LabUnready."""
    if os.geteuid() != 0:
        raise LabUnready("starting the demo", expected="root, for network namespaces and images", found="another user")
