"""Runs the programs that imaging stands on, confined: what they read is a stranger's, or was written for one.

A confined program sees the system's programs, read-only, and the files that it is given: no other file, no network, no
other process, no privilege. It ends with us, and at its limits of time, memory and output. Its parser may be broken by
what it reads; then that is all it can do.
"""

import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from steelyard.model.errors import StorageFailed, StorageUnready
from steelyard.model.limits import TOOL_OUTPUT_BYTES

_ENVIRONMENT: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
_MEMORY_BYTES: Final = 2 * 1024**3
"""Of addresses, not pages: QEMU's programs reserve some hundreds of MiB of them and use 20."""
_BEAT_SECONDS: Final = 0.1
_KILLED_SECONDS: Final = 10.0
"""Within which a killed program is gone; the disk may keep it for a while."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended: 0 is well. `complaint` is the end of what it wrote to its error output."""

    status: int
    complaint: str

    def check(self, doing: str) -> None:
        """Raise StorageFailed unless it ended well."""
        if self.status != 0:
            raise StorageFailed(doing, expected="it to be done", found=self.complaint or f"status {self.status}")


def run_confined(
    doing: str,
    command: Sequence[str],
    reads: Mapping[str, Path],
    writes: Mapping[str, Path],
    output: IO[bytes],
    most_bytes: int,
    seconds: int,
    beat: Callable[[], None],
) -> Outcome:
    """Run a program over a stranger's file, with what it prints in `output`.

    reads, writes  path as the program sees it -> the file, or directory, that it is.
    most_bytes     of any file that it writes, and of what it prints.
    seconds        of processor time, and twice that of any time.
    beat           is called some times a second; when it raises, the program is ended first.

    Raises StorageUnready; StorageFailed when the time is over.
    """
    limits = [f"--as={_MEMORY_BYTES}", f"--cpu={seconds}", f"--fsize={most_bytes}", "--core=0"]
    confined = ["prlimit", *limits, "--", _find(doing, command[0]), *command[1:]]
    caged = [*cage(reads, writes), "--die-with-parent", "--", *confined]
    with tempfile.TemporaryFile() as complaint:
        outcome = _run(doing, caged, 2 * seconds, output, complaint, beat)
    if outcome.status != 0 and outcome.complaint.startswith("bwrap: "):
        raise StorageUnready(doing, expected="a place to confine a program in", found=outcome.complaint)
    return outcome


def cage(reads: Mapping[str, Path], writes: Mapping[str, Path]) -> list[str]:
    """Return the beginning of a command that confines the rest of it; after more options of bwrap comes `--`.

    reads, writes  path as the program sees it -> the file, or directory, that it is.
    """
    words = ["bwrap", "--unshare-all", "--new-session", "--cap-drop", "ALL", "--ro-bind", "/usr", "/usr"]
    for directory in ("bin", "sbin", "lib", "lib64"):
        words += ["--symlink", f"usr/{directory}", f"/{directory}"]
    words += ["--dev", "/dev"]
    words += [word for inside, path in reads.items() for word in ("--ro-bind", str(path.absolute()), inside)]
    words += [word for inside, path in writes.items() for word in ("--bind", str(path.absolute()), inside)]
    return words


def _find(doing: str, program: str) -> str:
    found = shutil.which(program, path=_ENVIRONMENT["PATH"])
    if found is None:
        raise StorageUnready(doing, expected=f"the program {program}", found="it is not installed")
    return found


def parse_json(doing: str, text: bytes) -> dict[str, Any]:
    """Return the JSON object that a program printed. Raises StorageFailed."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StorageFailed(doing, expected="an answer in JSON", found=f"{text[:100]!r}") from error
    if not isinstance(document, dict):
        raise StorageFailed(doing, expected="an object in JSON", found=f"{text[:100]!r}")
    return document


def read_output(output: IO[bytes]) -> bytes:
    """Return what a program printed, as far as is reasonable of a short answer."""
    output.seek(0)
    return output.read(TOOL_OUTPUT_BYTES.most)


def _run(
    doing: str,
    command: Sequence[str],
    seconds: float,
    output: IO[bytes],
    complaint: IO[bytes],
    beat: Callable[[], None],
) -> Outcome:
    # Every process of the program has the other end of this, and so keeps it open.
    life, held = os.pipe()
    try:
        process = subprocess.Popen(  # noqa: S603 (no shell; names are checked, paths absolute)
            [_find(doing, command[0]), *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=complaint,
            env=_ENVIRONMENT,
            cwd="/",
            pass_fds=(held,),
        )
    except BaseException:
        os.close(life)
        raise
    finally:
        os.close(held)
    with process, os.fdopen(life, "rb"):
        try:
            _wait(doing, process, seconds, beat)
        except BaseException:
            process.kill()
            select.select([life], [], [], _KILLED_SECONDS)
            raise
    complaint.seek(0)
    lines = complaint.read(4096).decode("utf-8", "backslashreplace").strip().splitlines()
    return Outcome(process.returncode, lines[-1] if lines else "")


def _wait(doing: str, process: subprocess.Popen[bytes], seconds: float, beat: Callable[[], None]) -> None:
    limit = time.monotonic() + seconds
    while True:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_BEAT_SECONDS)
            return
        if time.monotonic() > limit:
            raise StorageFailed(doing, expected=f"it to be done in {seconds:g} s", found="it was not")
        beat()
