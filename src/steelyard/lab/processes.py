"""Which process is which, for good: a number that the kernel gave again to a stranger is never signalled."""

import os
import select
import signal
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

GRACE_SECONDS: Final = 10.0
"""How long a process may take to end when asked, before it is made to."""

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process of this boot of the computer.

    started  in clock ticks since the computer started: field 22 of /proc/PID/stat. Source: proc(5).
    """

    role: str
    pid: int
    started: int


def boot_identity() -> str:
    """Return the kernel's name for this boot: after another one, no recorded process lives."""
    return _BOOT_ID.read_text("ascii").strip()


def identify(role: str, pid: int) -> ProcessIdentity | None:
    """Return who has the number `pid` now; None if nobody, or one that has ended and only waits to be reaped."""
    try:
        line = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is a name of the program's own choice, in brackets, that may hold anything.
    fields = line[line.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else ProcessIdentity(role, pid, int(fields[19]))


def lives(process: ProcessIdentity) -> bool:
    """Say whether this very process still runs."""
    return identify(process.role, process.pid) == process


def end_processes(processes: Collection[ProcessIdentity], grace_seconds: float = GRACE_SECONDS) -> None:
    """Return when none of `processes` lives: each asked to end, then made to. Others with their numbers are spared."""
    held = _hold(processes)
    try:
        _signal(held, signal.SIGTERM)
        left = _wait(held, grace_seconds)
        _signal(left, signal.SIGKILL)
        _wait(left, grace_seconds)
    finally:
        for handle in held:
            os.close(handle)


def _hold(processes: Collection[ProcessIdentity]) -> list[int]:
    """Return handles that cannot come to mean another process; made first, and the process checked after."""
    held = []
    for process in processes:
        try:
            handle = os.pidfd_open(process.pid)
        except ProcessLookupError:
            continue
        if lives(process):
            held.append(handle)
        else:
            os.close(handle)
    return held


def _signal(handles: Sequence[int], number: signal.Signals) -> None:
    for handle in handles:
        try:
            signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            continue


def _wait(handles: Sequence[int], seconds: float) -> list[int]:
    """Return the handles whose processes have not ended within `seconds`."""
    poll = select.poll()
    left = set(handles)
    for handle in left:
        poll.register(handle, select.POLLIN)
    limit = time.monotonic() + seconds
    while left and (remaining := limit - time.monotonic()) > 0:
        for handle, _ in poll.poll(remaining * 1000):
            poll.unregister(handle)
            left.discard(handle)
    return sorted(left)
