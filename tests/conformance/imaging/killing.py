"""Kills a program at each of its steps in turn: kill -9 at a call that changes a file or starts another program."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

FILE_CALLS = ("mkdir", "rename", "fsync", "unlink", "rmdir", "chmod", "vfork")
"""By which Python changes what outlives it; the last starts programs."""
DAEMON_CALLS = ("rename", "rmdir", "vfork", "connect", "sendto", "pidfd_send_signal")
"""By which it changes what goes on without it."""


def kills_at_each_step(
    calls: Sequence[str], begin: Callable[[], object], module: str, arguments: Sequence[str], scratch: Path
) -> Iterator[str]:
    """Run a module of the tests as a program, killed at the next step each time; yield after each what it died at.

    begin  puts all as it should be when the program starts, each time.
    """
    for call in calls:
        for step in range(1, 100):
            begin()
            if _runs_through(module, arguments, call, step, scratch):
                break
            yield f"{call} {step}"


def _runs_through(module: str, arguments: Sequence[str], call: str, step: int, scratch: Path) -> bool:
    inject = ["strace", "-qqq", "-o", str(scratch / "trace"), "-e", f"inject={call}:signal=KILL:when={step}"]
    program = [sys.executable, "-B", "-m", module, *arguments]
    ended = subprocess.run([*inject, *program], cwd=Path(__file__).parents[3], capture_output=True, text=True)
    if ended.returncode == 0:
        return True
    assert "killed by SIGKILL" in (scratch / "trace").read_text(), ended.stderr
    return False
