"""Reads fixed-layout bytes from front to back, and says exactly what was missing where.

The TPM writes big-endian, UEFI firmware and the kernel little-endian; apart from that the two readers are one.
"""

from struct import Struct
from typing import ClassVar

from steelyard.model.errors import Malformed, TooLarge
from steelyard.model.limits import Limit


def refuse_over(limit: Limit, size: int, doing: str) -> None:
    """Raise TooLarge when `size` (in the limit's unit) is over the limit: the check before any parsing."""
    if size > limit.most:
        raise TooLarge(doing, expected=f"at most {limit.most} {limit.unit} ({limit.reason})", found=f"{size}")


class _Reader:
    """A position in bytes; every read either gives what was asked for or raises the `error` it was made with."""

    _U16: ClassVar[Struct]
    _U32: ClassVar[Struct]
    _U64: ClassVar[Struct]

    __slots__ = ("_data", "_doing", "_error", "position")

    def __init__(self, data: bytes, doing: str, error: type[Malformed]) -> None:
        self._data = data
        self._doing = doing
        self._error = error
        self.position = 0

    @property
    def remaining(self) -> int:
        """Bytes not yet read."""
        return len(self._data) - self.position

    def take(self, size: int, field: str) -> bytes:
        """Return the next `size` bytes."""
        start = self.position
        end = start + size
        if size < 0 or end > len(self._data):
            raise self._error(
                self._doing,
                expected=f"{size} bytes of {field} at offset {start}",
                found=f"{len(self._data) - start} bytes left",
            )
        self.position = end
        return self._data[start:end]

    def u8(self, field: str) -> int:
        """Return the next byte as a number."""
        return self.take(1, field)[0]

    def u16(self, field: str) -> int:
        """Return the next 2 bytes as an unsigned number."""
        return int(self._U16.unpack(self.take(2, field))[0])

    def u32(self, field: str) -> int:
        """Return the next 4 bytes as an unsigned number."""
        return int(self._U32.unpack(self.take(4, field))[0])

    def u64(self, field: str) -> int:
        """Return the next 8 bytes as an unsigned number."""
        return int(self._U64.unpack(self.take(8, field))[0])

    def rest(self) -> bytes:
        """Return all that is left."""
        return self.take(self.remaining, "the rest")

    def end(self) -> None:
        """Raise unless everything was read: trailing bytes are where a second meaning hides."""
        if self.remaining:
            raise self.wrong("nothing after the last field", f"{self.remaining} trailing bytes")

    def wrong(self, expected: str, found: str) -> Malformed:
        """Return the error to raise for a field that was read and is not legal."""
        return self._error(self._doing, expected=expected, found=found)


class BigEndianReader(_Reader):
    """For what a TPM marshals."""

    __slots__ = ()
    _U16: ClassVar[Struct] = Struct(">H")
    _U32: ClassVar[Struct] = Struct(">I")
    _U64: ClassVar[Struct] = Struct(">Q")

    def sized(self, field: str) -> bytes:
        """Return a TPM2B: the bytes after their 16-bit size."""
        return self.take(self.u16(f"size of {field}"), field)


class LittleEndianReader(_Reader):
    """For what firmware and the kernel log."""

    __slots__ = ()
    _U16: ClassVar[Struct] = Struct("<H")
    _U32: ClassVar[Struct] = Struct("<I")
    _U64: ClassVar[Struct] = Struct("<Q")
