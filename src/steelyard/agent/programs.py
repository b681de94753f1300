"""Runs programs, kexec among them, and writes the files that they are given secrets in."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn, Protocol

from steelyard.model.errors import NodeFailed

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
