"""Files are whole or not there, and their owner's alone."""

import errno
import fcntl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from steelyard.imaging.files import (
    clear_workplaces,
    locked,
    make_directory,
    move,
    needing_room,
    workplace,
    write_file,
)
from steelyard.model.errors import StorageUnready

PATIENCE_SECONDS = 20.0


def test_what_is_written_is_its_owners_alone(tmp_path: Path) -> None:
    make_directory(tmp_path / "place")
    write_file(tmp_path / "place" / "file", b"data")
    assert (tmp_path / "place").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "place" / "file").stat().st_mode & 0o777 == 0o600


def test_a_file_that_somebody_put_there_before_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"")
    (tmp_path / "file").symlink_to(tmp_path / "target")
    with pytest.raises(FileExistsError):
        write_file(tmp_path / "file", b"data")
    assert (tmp_path / "target").read_bytes() == b""


def test_a_directory_does_not_take_the_place_of_another(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    with pytest.raises(FileExistsError):
        move(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "one" / "one").exists()


def test_nothing_is_left_of_work_that_failed(tmp_path: Path) -> None:
    def fail() -> None:
        with workplace(tmp_path) as place:
            (place / "file").write_bytes((place / "nothing").read_bytes())

    with pytest.raises(FileNotFoundError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_work_that_goes_on_is_not_cleared_away_and_work_that_was_cut_short_is(tmp_path: Path) -> None:
    (tmp_path / "cut-short" / "deep").mkdir(parents=True)
    with workplace(tmp_path) as place:
        clear_workplaces(tmp_path)
        assert list(tmp_path.iterdir()) == [place]


@contextmanager
def waiting(path: Path, work: Callable[[], object]) -> Iterator[None]:
    """Have `work` wait for the lock of `path`, which is held until done; then it ends."""
    inode = f":{path.stat().st_ino} "
    thread = threading.Thread(target=work)
    with locked(path, fcntl.LOCK_EX):
        thread.start()
        limit = time.monotonic() + PATIENCE_SECONDS
        while not any("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines()):
            assert thread.is_alive(), "it did not wait"
            assert time.monotonic() < limit
            time.sleep(0.001)
        yield
    thread.join()


def test_a_place_that_is_not_yet_held_is_not_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "just-made").mkdir()
    with waiting(tmp_path, lambda: clear_workplaces(tmp_path)):
        assert (tmp_path / "just-made").exists()
    assert not (tmp_path / "just-made").exists()


def test_no_place_is_made_while_places_are_cleared_away(tmp_path: Path) -> None:
    def work() -> None:
        with workplace(tmp_path):
            pass

    with waiting(tmp_path, work):
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMLINK])
def test_no_room_is_told_as_such(number: int) -> None:
    with pytest.raises(StorageUnready, match="writing"), needing_room("writing"):
        raise OSError(number, "no room")


def test_what_is_not_about_room_is_passed_on() -> None:
    with pytest.raises(PermissionError), needing_room("writing"):
        raise PermissionError(errno.EACCES, "no right")


def test_no_file_is_left_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with workplace(tmp_path) as place:
        write_file(place / "file", b"data")
        move(place / "file", tmp_path / "file")
    assert len(list(Path("/proc/self/fd").iterdir())) == before
