"""Kills a program at each of its steps in turn: kill -9 at a call that changes a file or starts another program.

Which calls a program makes, it shows by running through once. One that fails changes nothing: a kill at it would find
what a kill at the next one finds.
"""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

FILE_CALLS: Final = ("mkdir", "rename", "fsync", "unlink", "rmdir", "chmod", "vfork")
"""By which Python changes what outlives it; the last starts programs."""
DAEMON_CALLS: Final = ("rename", "rmdir", "vfork", "sendto", "pidfd_send_signal")
"""By which it changes what goes on without it. No daemon does anything for a connection on which nothing was said."""
_ROOT: Final = Path(__file__).parents[3]


def kills_at_each_step(
    calls: Sequence[str], begin: Callable[[], object], module: str, arguments: Sequence[str], scratch: Path
) -> Iterator[str]:
    """Run a module of the tests as a program, killed at the next step each time; yield after each what it died at.

    begin  puts all as it should be when the program starts, each time.
    """
    program = [sys.executable, "-B", "-m", module, *arguments]
    begin()
    for call, number in _steps(calls, program, scratch):
        begin()
        if _dies_at(program, call, number, scratch):
            yield f"{call} {number}"


def _steps(calls: Sequence[str], program: Sequence[str], scratch: Path) -> list[tuple[str, int]]:
    """Return the calls that did something when it ran through: each with its number among those of its name."""
    trace = scratch / "trace"
    subprocess.run(
        ["strace", "-qqq", "-o", trace, "-e", f"trace={','.join(calls)}", "-e", "signal=none", *program],
        cwd=_ROOT,
        check=True,
        capture_output=True,
    )
    made: Counter[str] = Counter()
    steps = []
    for line in trace.read_text().splitlines():
        call = line.partition("(")[0]
        made[call] += 1
        if " = -1 " not in line:
            steps.append((call, made[call]))
    return steps


def _dies_at(program: Sequence[str], call: str, number: int, scratch: Path) -> bool:
    """Tell whether it came to that call, of which it died."""
    inject = ["strace", "-qqq", "-o", str(scratch / "trace"), "-e", f"inject={call}:signal=KILL:when={number}"]
    ended = subprocess.run([*inject, *program], cwd=_ROOT, capture_output=True, text=True)
    if ended.returncode == 0:
        return False
    assert "killed by SIGKILL" in (scratch / "trace").read_text(), ended.stderr
    return True
