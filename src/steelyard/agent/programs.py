"""The programs that the agent runs: kexec, and what attaches a volume."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn, Protocol

from steelyard.agent.payload import NbdVolume
from steelyard.model.errors import NodeFailed

_DEVICE: Final = Path("/dev/nbd0")
_LONGEST_SECONDS: Final = 60


def run(command: Sequence[str | Path]) -> None:
    """Run a program to its end. Raises NodeFailed with what it said."""
    doing = f"running {command[0]}"
    try:
        done = subprocess.run(  # noqa: S603  (no shell; arguments are checked, and none can be taken for an option)
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_LONGEST_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NodeFailed(doing, expected="it to end well", found=str(error)) from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()[-200:]
        raise NodeFailed(doing, expected="it to end well", found=f"status {done.returncode}: {said}")


@contextmanager
def attached(volume: NbdVolume, work: Path) -> Iterator[Path]:
    """Give the volume as a block device, read-only, for as long as the context lasts. Raises NodeFailed."""
    files = {"authority": volume.authority.encode(), "certificate": volume.certificate.encode()}
    paths = {name: write_private(work / f"nbd.{name}", content) for name, content in files.items()}
    key = write_private(work / "nbd.key", volume.key.reveal())
    run(["modprobe", "nbd"])
    try:
        tls: list[str | Path] = ["-cacertfile", paths["authority"], "-certfile", paths["certificate"], "-keyfile", key]
        run(["nbd-client", volume.address, str(volume.port), _DEVICE, "-N", volume.export, "-readonly", *tls])
    finally:
        key.unlink()
    try:
        yield _DEVICE
    finally:
        # Its export may serve one session only: the next system is to find it free.
        run(["nbd-client", "-d", _DEVICE])


def write_private(path: Path, content: bytes) -> Path:
    """Write a new file in memory, readable by root alone, and return its path."""
    path.touch(mode=0o600, exist_ok=False)
    path.write_bytes(content)
    return path


class Kexec(Protocol):
    """Starts another kernel."""

    def load(self, kernel: Path, initramfs: Path, command_line: str) -> None:
        """Make the kernel ready to be started. Raises NodeFailed."""

    def start(self) -> NoReturn:
        """Start the kernel that is ready. Raises NodeFailed."""


class KexecTools:
    """By the program of that name."""

    def load(self, kernel: Path, initramfs: Path, command_line: str) -> None:
        """Have the kernel itself read the files."""
        options = [f"--initrd={initramfs}", f"--command-line={command_line}"]
        run(["kexec", "--kexec-file-syscall", "--load", kernel, *options])

    def start(self) -> NoReturn:
        """Leave this system."""
        run(["kexec", "--exec"])
        raise NodeFailed("starting the tenant's kernel", expected="not to come back", found="kexec returned")
