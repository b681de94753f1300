"""Who holds a name keeps others out, until it is done or dies."""

import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from steelyard.imaging.locks import Hold, holding, is_open, keeping_away, keeping_still
from steelyard.model.errors import InUse, NotFound

HOLDER = """
import sys
from pathlib import Path
from steelyard.imaging.locks import Hold, holding
with holding(Path(sys.argv[1]), "name", Hold.ALONE, "holding"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("first", "second", "refused"),
    [
        (Hold.ALONE, Hold.ALONE, True),
        (Hold.ALONE, Hold.SHARED, True),
        (Hold.SHARED, Hold.ALONE, True),
        (Hold.SHARED, Hold.SHARED, False),
    ],
)
def test_who_holds_alone_is_alone(tmp_path: Path, first: Hold, second: Hold, *, refused: bool) -> None:
    with ExitStack() as held:
        held.enter_context(holding(tmp_path / "locks", "name", first, "holding"))
        if refused:
            with pytest.raises(InUse), holding(tmp_path / "locks", "name", second, "holding"):
                pass
        else:
            held.enter_context(holding(tmp_path / "locks", "name", second, "holding"))
        held.enter_context(holding(tmp_path / "locks", "other", Hold.ALONE, "holding"))
    with holding(tmp_path / "locks", "name", Hold.ALONE, "holding"):
        pass


def test_what_a_killed_process_held_is_free(tmp_path: Path) -> None:
    lock = tmp_path / "locks"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(InUse), holding(lock, "name", Hold.SHARED, "holding"):
            pass
        holder.kill()
        holder.wait()
    with holding(lock, "name", Hold.ALONE, "holding"):
        pass


def test_a_file_that_is_not_there_is_not_open(tmp_path: Path) -> None:
    assert not is_open(tmp_path / "nothing")
    (tmp_path / "file").touch()
    assert not is_open(tmp_path / "file")


@pytest.mark.parametrize("keep", [keeping_away, keeping_still])
def test_what_is_not_there_cannot_be_kept(
    tmp_path: Path, keep: Callable[[Path, str], AbstractContextManager[None]]
) -> None:
    with pytest.raises(NotFound), keep(tmp_path / "nothing", "keeping"):
        pass
