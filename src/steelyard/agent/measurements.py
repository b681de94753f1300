"""The kernel's run-time measurement list, as it grows: how many entries it has, and those from some number on.

After a kexec the list of the system before counts as its beginning, where PCR 10 says so: a kernel that does not carry
the list over starts a new one, and goes on extending the same PCR.
"""

import math
from pathlib import Path
from struct import Struct, error
from typing import Final

from steelyard.evidence.ima.replay import ImaExcerpt, ImaPosition, replay
from steelyard.evidence.reader import refuse_over
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import LogRejected, NodeFailed
from steelyard.model.limits import IMA_LIST_BYTES

_DOING: Final = "reading the measurement list"
LIST: Final = "binary_runtime_measurements"
COUNT: Final = "runtime_measurements_count"
"""In the kernel's folder. The count is there to be asked for often: to show the list costs the kernel its length."""

_HEAD: Final = Struct("<I20sI")
"""PCR, template hash, size of the template's name."""
_SIZE: Final = Struct("<I")
_OLDEST_TEMPLATE: Final = b"ima"
_OLDEST_DIGEST_BYTES: Final = 20
"""Which has no size before it. Source: security/integrity/ima/ima_fs.c, ima_measurements_show, of Linux 6.12."""


class MeasurementList:
    """The list in a folder of the kernel's, such as /sys/kernel/security/ima."""

    def __init__(self, folder: Path, before: bytes) -> None:
        """Take the list.

        before  the list of the system before the kexec, binary. Whether it counts is for `settle` to find out.
        """
        self._folder = folder
        self._before = before
        self._entries_before = _count(before)
        self._entry, self._offset = 0, 0
        """An entry of the kernel's own list, from 0, and where it begins: what came before is not read again."""

    def count(self) -> int:
        """Return how many entries there are. Raises NodeFailed."""
        text = self._read(COUNT, 0)
        try:
            return self._entries_before + int(text)
        except ValueError as wrong:
            raise NodeFailed(_DOING, expected=f"a number in {COUNT}", found=repr(text[:40])) from wrong

    def after(self, entries: int) -> bytes:
        """Return all entries but the first so many. Raises NodeFailed, also when there are not as many; TooLarge."""
        if entries < self._entries_before:
            return self._before[_end_of(self._before, entries) :] + self._read(LIST, 0)
        own = entries - self._entries_before
        if own < self._entry:
            self._entry, self._offset = 0, 0
        data = self._read(LIST, self._offset)
        passed = _end_of(data, own - self._entry)
        self._entry, self._offset = own, self._offset + passed
        return data[passed:]

    def settle(self, bank: HashAlgorithm, quoted: bytes) -> None:
        """Find out with which beginning the list leads to PCR 10 as it was quoted; where with neither, keep the first.

        As both begin with the same entry, one may lead there too early: the right one leaves fewer entries over.
        Raises NodeFailed, TooLarge, MalformedImaList.
        """
        if not self._before:
            return
        with_it, without = (_left_over(data, bank, quoted) for data in (self.after(0), self._read(LIST, 0)))
        if without < with_it:
            self._before, self._entries_before = b"", 0

    def _read(self, name: str, offset: int) -> bytes:
        path = self._folder / name
        try:
            with path.open("rb") as file:
                file.seek(offset)
                data = file.read(IMA_LIST_BYTES.most + 1)
        except OSError as failed:
            raise NodeFailed(_DOING, expected=f"{path}", found=str(failed)) from failed
        refuse_over(IMA_LIST_BYTES, len(data), _DOING)
        return data


def _left_over(data: bytes, bank: HashAlgorithm, quoted: bytes) -> float:
    """Return how many entries come after those that lead to the quoted value; infinity where none do."""
    try:
        return replay(ImaExcerpt(0, data), ImaPosition.start(bank), quoted, frozenset()).waiting
    except LogRejected:
        return math.inf


def _count(data: bytes) -> int:
    entries = end = 0
    while end < len(data):
        end = _next(data, end)
        entries += 1
    return entries


def _end_of(data: bytes, entries: int) -> int:
    """Return where the first so many entries end."""
    end = 0
    for _ in range(entries):
        end = _next(data, end)
    return end


def _next(data: bytes, start: int) -> int:
    """Return where the entry that begins at `start` ends."""
    try:
        _, _, size = _HEAD.unpack_from(data, start)
        end = start + _HEAD.size + size
        if data[end - size : end] == _OLDEST_TEMPLATE:
            end += _OLDEST_DIGEST_BYTES
        (size,) = _SIZE.unpack_from(data, end)
        end += _SIZE.size + size
    except error:
        end = len(data) + 1
    if end > len(data):
        raise NodeFailed(_DOING, expected="as many whole entries as there were", found=f"{len(data)} bytes of them")
    return int(end)
