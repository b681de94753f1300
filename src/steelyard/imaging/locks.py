"""Who may work on what, among the processes of this computer. The kernel frees every lock when its holder dies.

Locks belong to an open file, not to a process, so that threads keep each other out as well. Source: fcntl(2).
"""

import fcntl
import hashlib
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Final

from steelyard.model.errors import InUse, NotFound

_FLOCK: Final = struct.Struct("@hhqqi4x")
"""struct flock: type, whence, start, length, holder."""


class Hold(Enum):
    """How something is held: together with others that share it, or alone."""

    SHARED = fcntl.F_RDLCK
    ALONE = fcntl.F_WRLCK


@contextmanager
def holding(lock: Path, name: str, hold: Hold, doing: str) -> Iterator[None]:
    """Hold `name` until done. Raises InUse: nobody waits, as work on a volume may take minutes.

    lock  the file by which all who deal with such names know of each other.
    """
    with os.fdopen(os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "rb") as file:
        # A name is a byte of the file, far beyond its end; two names that share one only come to keep each other out.
        place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7])
        try:
            _take(file.fileno(), hold, place, 1)
        except BlockingIOError as error:
            raise InUse(doing, expected=f"nobody else at work on {name}", found="somebody is") from error
        yield


# QEMU tells others what it does to an image by locks on two rows of bytes: what it does, and what nobody else may.
# Source: QEMU 7.2, block/file-posix.c, RAW_LOCK_PERM_BASE and RAW_LOCK_SHARED_BASE; include/block/block-common.h.
_DOES: Final = 100
_FORBIDS: Final = 200
_WRITE: Final = 1
_KINDS: Final = 8
"""Of permissions there are 5; a few more in case."""


@contextmanager
def keeping_still(path: Path, doing: str) -> Iterator[None]:
    """Have no QEMU write to the image file until done; it may be read. Raises InUse if one may write to it now."""
    with _as_a_user(path, doing, frozenset({_WRITE, _WRITE + 2})):
        yield


@contextmanager
def keeping_away(path: Path, doing: str) -> Iterator[None]:
    """Have no QEMU open the image file until done. Raises InUse if one has it open now."""
    with _as_a_user(path, doing, frozenset(range(_KINDS))):
        yield


def is_open(path: Path) -> bool:
    """Say whether a QEMU has the image file open that is there by this name now."""
    try:
        with path.open("rb") as file:
            return any(_taken(file.fileno(), _DOES + kind) for kind in range(_KINDS))
    except FileNotFoundError:
        return False


@contextmanager
def _as_a_user(path: Path, doing: str, forbidden: frozenset[int]) -> Iterator[None]:
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise NotFound(doing, expected=f"a file {path}", found="none") from error
    with file:
        # First say it, then look: of two that do so at once at least one sees the other.
        for kind in forbidden:
            _take(file.fileno(), Hold.SHARED, _FORBIDS + kind, 1)
        if any(_taken(file.fileno(), _DOES + kind) for kind in forbidden):
            raise InUse(doing, expected="nobody to have it open", found="it is served to a node, or worked on")
        yield


def _take(descriptor: int, hold: Hold, start: int, length: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(hold.value, os.SEEK_SET, start, length, 0))


def _taken(descriptor: int, start: int) -> bool:
    answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, 1, 0))
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
