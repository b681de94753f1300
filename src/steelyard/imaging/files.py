"""Files that are whole or not there, for their owner alone, whatever moment the power fails at."""

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from steelyard.model.errors import StorageUnready

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMLINK})


@contextmanager
def needing_room(doing: str) -> Iterator[None]:
    """Have it told as StorageUnready when there is no room, or no right to write, on the disk."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise StorageUnready(doing, expected="room to write", found=str(error)) from error


def make_directory(path: Path) -> None:
    """See to it that `path` is a directory, for its owner alone when made here."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def write_file(path: Path, data: bytes) -> None:
    """Write a new file, mode 0600, to the disk. One that is there is an error: nobody waits at a name of ours."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Return when what was written to the file, or the names in the directory, would outlive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move(source: Path, target: Path) -> None:
    """Rename for good: in place of a file that is there; a directory that is there is FileExistsError."""
    try:
        source.rename(target)
    except OSError as error:
        if target.is_dir():
            raise FileExistsError(target) from error
        raise
    sync(target.parent)


@contextmanager
def workplace(parent: Path) -> Iterator[Path]:
    """Have a fresh directory in `parent` to make something in; what is left in it at the end is deleted."""
    place = parent / secrets.token_hex(8)
    with locked(parent, fcntl.LOCK_SH):
        place.mkdir(mode=0o700)
        # The kernel frees it when we die, which is what tells work that was cut short from work that goes on.
        held = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(held, fcntl.LOCK_EX)
    try:
        yield place
    finally:
        shutil.rmtree(place)
        os.close(held)


def clear_workplaces(parent: Path) -> None:
    """Delete the workplaces whose users have died."""
    # Alone, as a place that was made and is not yet held looks like one that was left.
    with locked(parent, fcntl.LOCK_EX):
        for place in parent.iterdir():
            # Whoever is done with one deletes it at any time, and blocks us until then.
            with suppress(BlockingIOError, FileNotFoundError), locked(place, fcntl.LOCK_EX | fcntl.LOCK_NB):
                shutil.rmtree(place)


@contextmanager
def locked(path: Path, how: int) -> Iterator[None]:
    """Have the file or directory locked, as flock(2) does it `how`, until done."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)
