"""A site: a rack that runs, and beside it the isolation service as its provider starts it, used by the command line."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from typer.testing import CliRunner

from steelyard.cli.main import app
from steelyard.lab.namespace import inside
from steelyard.model.errors import SteelyardError
from tests.lab_rack.rack import Rack, wait_until

PORT: Final = 8443
"""Of the service; in the rack's own network namespace nobody else has it."""
STEELYARD: Final = Path(sys.executable).with_name("steelyard")
READY_SECONDS: Final = 40
LOOK_SECONDS: Final = 5
"""How often a free node's power is read; usually every five minutes."""
TENANT_RIGHTS: Final = ("read", "nodes", "networks", "power", "console", "members", "images", "attest", "enclaves")
CHECK_SECONDS: Final = 2
"""How often a switch is read, so that no test has to wait for the usual ten."""


@dataclass(frozen=True)
class Done:
    """What came of a command."""

    exit_code: int
    stdout: str
    stderr: str


def _run(command: Sequence[str], environment: dict[str, str]) -> Done:
    result = CliRunner().invoke(app, list(command), env=environment)
    if isinstance(result.exception, SteelyardError):
        return Done(result.exception.exit_code, result.stdout, f"{result.exception.code}: {result.exception}")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Done(result.exit_code, result.stdout, result.stderr)


@dataclass
class Site:
    """A rack and the service that has it; `home` is the provider's, and that of every tenant."""

    rack: Rack
    home: Path
    port: int = PORT
    service: subprocess.Popen[bytes] | None = None
    tokens: dict[str, Path] = field(default_factory=dict)
    name: str = "steelyard"

    @property
    def directory(self) -> Path:
        return self.home / self.name

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.home / f"{self.name}.log"

    def install(self, database: str, more: str, host: str, names: Sequence[str]) -> None:
        """Do what a provider does first; `more` is written into the configuration."""
        self.home.chmod(0o700)
        where = ["--directory", str(self.directory), "--host", host, "--port", str(self.port)]
        named = [word for name in names for word in ("--name", name)]
        self.run(["init", *where, *named, "--database-url", database])
        with (self.directory / "steelyard.toml").open("a") as configuration:
            configuration.write(
                f"\n[isolation]\ncheck_seconds = {CHECK_SECONDS}\npower_check_seconds = {LOOK_SECONDS}\n{more}"
            )
        self.tokens["provider"] = self.directory / "provider.token"

    def start(self) -> None:
        """Start the service, and wait until it answers."""
        with self.log.open("ab") as log:
            self.service = subprocess.Popen(
                inside(self.rack.namespace, [str(STEELYARD), "serve", "--directory", str(self.directory)]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until("the service answers", self._answers, seconds=READY_SECONDS)

    @contextmanager
    def beside(self) -> "Iterator[Site]":
        """Give another process of this installation, on a port of its own."""
        other = Site(self.rack, self.home, PORT + 1, tokens=self.tokens, name="steelyard-2")
        shutil.copytree(self.directory, other.directory)
        configuration = other.directory / "steelyard.toml"
        configuration.write_text(configuration.read_text().replace(f"port = {self.port}", f"port = {other.port}"))
        try:
            other.start()
            yield other
        finally:
            other.stop()

    def _answers(self) -> bool:
        assert self.service is not None
        assert self.service.poll() is None, self.log.read_text()
        return self.run(["project", "list"], check=False).exit_code == 0

    def kill(self) -> None:
        """End the service as a power cut would, and everything that it started."""
        assert self.service is not None
        os.killpg(self.service.pid, signal.SIGKILL)
        self.service.wait()

    def stop(self) -> None:
        """End the service as a provider would."""
        if self.service is not None and self.service.poll() is None:
            os.killpg(self.service.pid, signal.SIGTERM)
            try:
                assert self.service.wait(timeout=30) == 0, self.log.read_text()
            finally:
                if self.service.poll() is None:
                    self.kill()

    def run(self, command: Sequence[str], who: str = "provider", *, check: bool = True) -> "Done":
        """Run a command of `steelyard` as somebody, in the rack's network namespace.

        Within this process: to start one for each of a story's fifty commands takes a minute.
        """
        done = self.rack.within(partial(_run, command, self.environment(who)))
        if check:
            assert done.exit_code == 0, f"{command}: {done.stderr}"
        return done

    def environment(self, who: str) -> dict[str, str]:
        """Return what somebody's shell has."""
        return {
            "HOME": str(self.home),
            "STEELYARD_URL": self.url,
            "STEELYARD_CA": str(self.directory / "authority.pem"),
            "STEELYARD_TOKEN_FILE": str(self.tokens.get(who, self.directory / "provider.token")),
        }

    def ask(self, *command: str, who: str = "provider") -> dict[str, Any]:
        """Return what a command prints with `--json`."""
        answer: dict[str, Any] = json.loads(self.run([*command, "--json"], who).stdout)
        return answer

    def begin(self, *command: str, who: str = "provider") -> str:
        """Begin an operation; return its name."""
        [operation] = self.ask(*command, "--no-wait", who=who)["items"]
        return str(operation["id"])

    def operation(self, name: str) -> dict[str, Any]:
        return self.ask("operation", "show", name)

    def node(self, name: str) -> dict[str, Any]:
        return self.ask("node", "show", name)

    def wait_for_state(self, name: str, state: str, seconds: float = 60) -> None:
        wait_until(f"{name} is {state}", lambda: self.node(name)["state"] == state, seconds)

    def add_tenant(self, project: str) -> None:
        """Make a project with one member of the same name, who then can be `who`."""
        self.run(["project", "create", project, "--nodes", "4", "--networks", "4"])
        self.run(["account", "put", project])
        self.run(["project", "add", project, project, "--role", "admin"])
        path = self.home / f"{project}.token"
        rights = [word for right in TENANT_RIGHTS for word in ("--right", right)]
        self.run(["token", "create", "--account", project, "--days", "1", "--out", str(path), *rights])
        self.tokens[project] = path


@contextmanager
def site_of(
    rack: Rack,
    database: str = "sqlite:///steelyard.db",
    more: str = "",
    host: str = "127.0.0.1",
    names: Sequence[str] = (),
) -> Iterator[Site]:
    """Give a site on a rack: two tenants, blue and green; every node free."""
    with TemporaryDirectory(prefix="site-") as folder:
        site = Site(rack, Path(folder))
        try:
            site.install(database, more, host, names)
            site.start()
            site.run(["inventory", "import", str(rack.root / "inventory.json")])
            names = [node.name for node in rack.inventory.nodes]
            site.run(["node", "release", *names])
            for project in ("blue", "green"):
                site.add_tenant(project)
            yield site
        finally:
            site.stop()
