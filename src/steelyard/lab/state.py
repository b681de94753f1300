"""The one directory in which a rack lives: what it is, and what of it runs."""

import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from steelyard.lab.plan import Accelerator, Firmware, Machines, NetworkBoot, NodeFiles, RackShape
from steelyard.lab.processes import ProcessIdentity, boot_identity
from steelyard.model.errors import WrongUse

LONGEST_DIRECTORY: Final = 70
"""Sockets in it have names of up to 30 characters more, and the kernel takes 107. Source: unix(7)."""


@dataclass(frozen=True, slots=True)
class Rack:
    """What was decided when the rack was built, and holds for its life."""

    shape: RackShape
    accelerator: Accelerator


@dataclass(frozen=True, slots=True)
class Running:
    """What was started, by whom it can be told apart from others. Written before the thing itself is begun."""

    boot: str
    namespace: str
    processes: tuple[ProcessIdentity, ...]


@dataclass(frozen=True, slots=True)
class RackDirectory:
    """The rack's files. Each write is whole or not at all."""

    root: Path

    @property
    def namespace(self) -> str:
        """The network namespace's name: of this directory alone, so that racks stand side by side."""
        return f"steelyard-{hashlib.sha256(str(self.root).encode()).hexdigest()[:10]}"

    @property
    def inventory(self) -> Path:
        """The inventory, for the provider to import."""
        return self.root / "inventory.json"

    @property
    def control_socket(self) -> Path:
        """Where the supervisor is asked for faults and status; never for power."""
        return self.root / "control.sock"

    @property
    def supervisor_log(self) -> Path:
        """What the supervisor, with the BMCs in it, has to say."""
        return self.root / "supervisor.log"

    @property
    def maker(self) -> Path:
        """The TPM maker's certification authority."""
        return self.root / "maker"

    @property
    def bmc_keys(self) -> Path:
        """The BMCs' TLS keys and the authority that signed them."""
        return self.root / "bmc-keys"

    @property
    def credentials(self) -> Path:
        """Node -> BMC password."""
        return self.root / "credentials.json"

    @property
    def switch(self) -> Path:
        """The switch's database, sockets and logs."""
        return self.root / "switch"

    @property
    def firmware(self) -> Path:
        """The firmware that the nodes run."""
        return self.root / "firmware.fd"

    @property
    def modified_firmware(self) -> Path:
        """The same with one byte of a measured volume changed; made when that fault is first asked for."""
        return self.root / "firmware-modified.fd"

    def node(self, name: str) -> NodeFiles:
        """Return where the node's parts are."""
        return NodeFiles(self.root / "nodes" / name)

    @property
    def _rack(self) -> Path:
        return self.root / "rack.json"

    @property
    def _running(self) -> Path:
        return self.root / "running.json"

    def prepare(self) -> None:
        """Make the directory, for its owner alone. Raises WrongUse if it is another's, or holds something else."""
        doing = f"preparing {self.root} for a rack"
        if len(os.fsencode(self.root)) > LONGEST_DIRECTORY:
            raise WrongUse(doing, expected=f"a path of at most {LONGEST_DIRECTORY} bytes", found=str(self.root))
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as cause:
            raise WrongUse(doing, expected="a directory", found="a file") from cause
        found = self.root.stat()
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            # Whoever may write here could have the rack's programs run with files of theirs.
            raise WrongUse(doing, expected="a directory of yours with mode 0700", found=stat.filemode(found.st_mode))
        strangers = {entry.name for entry in self.root.iterdir()} - {"lock"}
        if strangers and not self._rack.exists():
            raise WrongUse(doing, expected="an empty directory or a rack", found=f"{min(strangers)} and no rack")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other `lab` commands on this rack out until done. The kernel frees it when the holder dies."""
        with (self.root / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def read_rack(self) -> Rack | None:
        """Return what was built here; None if nothing. Raises WrongUse."""
        text = _read(self._rack)
        if text is None:
            return None
        try:
            document = json.loads(text)
            shape = document["shape"]
            return Rack(
                RackShape(
                    machines=Machines(shape["machines"]),
                    nodes=shape["nodes"],
                    nics=shape["nics"],
                    memory_mib=shape["memory_mib"],
                    firmware=Firmware(shape["firmware"]),
                    network_boot=NetworkBoot(shape["network_boot"]),
                ),
                Accelerator(document["accelerator"]),
            )
        except (ValueError, KeyError, TypeError) as cause:
            raise WrongUse(f"reading {self._rack}", expected="what `lab up` wrote", found=repr(cause)) from cause

    def write_rack(self, rack: Rack) -> None:
        """Remember what was decided."""
        write_private(self._rack, json.dumps(asdict(rack), indent=2))

    def read_running(self) -> Running | None:
        """Return what was started since this computer did; None if nothing. Raises WrongUse."""
        text = _read(self._running)
        if text is None:
            return None
        try:
            document = json.loads(text)
            processes = tuple(ProcessIdentity(**process) for process in document["processes"])
            if document["boot"] != boot_identity():
                # Numbers and start times of another boot mean nothing now.
                processes = ()
            return Running(document["boot"], document["namespace"], processes)
        except (ValueError, KeyError, TypeError) as cause:
            raise WrongUse(f"reading {self._running}", expected="what `lab up` wrote", found=repr(cause)) from cause

    def write_running(self, processes: Collection[ProcessIdentity]) -> None:
        """Remember what runs."""
        running = Running(boot_identity(), self.namespace, tuple(processes))
        write_private(self._running, json.dumps(asdict(running), indent=2))

    def forget_running(self) -> None:
        """Nothing runs any more: leave neither the record nor a socket that nobody answers."""
        for path in (self._running, *self.root.glob("**/*.sock")):
            path.unlink(missing_ok=True)


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        return None


def write_private(path: Path, text: str) -> None:
    """Put `text` in `path`, readable by its owner alone from the first byte on, whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)
