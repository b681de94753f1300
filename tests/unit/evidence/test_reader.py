"""Reading front to back: what was asked for, or an error that says what was missing where."""

import pytest

from steelyard.evidence.reader import BigEndianReader, LittleEndianReader, refuse_over
from steelyard.model.errors import MalformedEventLog, MalformedTpmStructure, TooLarge
from steelyard.model.limits import Limit

DATA = bytes(range(1, 16))


def test_each_reader_reads_numbers_its_own_way() -> None:
    big = BigEndianReader(DATA, "reading", MalformedTpmStructure)
    assert [big.u8("a"), big.u16("b"), big.u32("c"), big.u64("d")] == [0x01, 0x0203, 0x04050607, 0x08090A0B0C0D0E0F]
    little = LittleEndianReader(DATA, "reading", MalformedEventLog)
    assert [little.u8("a"), little.u16("b"), little.u32("c"), little.u64("d")] == [
        0x01,
        0x0302,
        0x07060504,
        0x0F0E0D0C0B0A0908,
    ]
    for reader in (big, little):
        reader.end()


def test_bytes_are_taken_once_and_the_rest_is_what_is_left() -> None:
    reader = LittleEndianReader(DATA, "reading", MalformedEventLog)
    assert reader.take(4, "head") == DATA[:4]
    assert (reader.position, reader.remaining) == (4, 11)
    assert reader.rest() == DATA[4:]
    assert reader.rest() == b""


def test_a_sized_field_is_its_size_and_as_many_bytes() -> None:
    assert BigEndianReader(b"\x00\x03abc", "reading", MalformedTpmStructure).sized("field") == b"abc"
    for short in (b"", b"\x00", b"\x00\x03ab", b"\xff\xff"):
        with pytest.raises(MalformedTpmStructure):
            BigEndianReader(short, "reading", MalformedTpmStructure).sized("field")


@pytest.mark.parametrize("size", [16, 1 << 64, -1])
def test_more_bytes_than_there_are_or_fewer_than_none_are_refused_and_nothing_is_taken(size: int) -> None:
    reader = BigEndianReader(DATA, "reading", MalformedTpmStructure)
    with pytest.raises(MalformedTpmStructure, match="of a field at offset 0; found 15 bytes left"):
        reader.take(size, "a field")
    assert reader.remaining == 15


def test_bytes_behind_the_last_field_are_refused() -> None:
    reader = BigEndianReader(DATA, "reading", MalformedTpmStructure)
    reader.take(14, "all but one")
    with pytest.raises(MalformedTpmStructure, match="1 trailing"):
        reader.end()


def test_a_limit_is_kept_to_the_byte() -> None:
    limit = Limit(10, "bytes", "a test")
    refuse_over(limit, 10, "reading")
    with pytest.raises(TooLarge, match="at most 10 bytes"):
        refuse_over(limit, 11, "reading")
