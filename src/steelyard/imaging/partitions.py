"""The partition table on a disk: where the file systems are that a node boots from.

Source: UEFI Specification 2.10, sections 5.2.1 (MBR) and 5.3 (GPT).
"""

import zlib
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from steelyard.evidence.reader import LittleEndianReader, refuse_over
from steelyard.model.errors import MalformedImage
from steelyard.model.limits import PARTITIONS

BLOCK_BYTES: Final = 512
HEAD_BYTES: Final = 128 * BLOCK_BYTES
"""Of the disk, from its start: the tables that tools make end at block 34."""

EFI_SYSTEM: Final = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")

_DOING: Final = "reading the partition table of an image"
_MBR_SIGNATURE: Final = b"\x55\xaa"
_MBR_ENTRIES_AT: Final = 446
_MBR_PROTECTIVE: Final = 0xEE
_MBR_EFI_SYSTEM: Final = 0xEF
_MBR_EXTENDED: Final = frozenset({0x05, 0x0F, 0x85})
_GPT_SIGNATURE: Final = b"EFI PART"
_GPT_HEADER_BYTES: Final = 92
_GPT_ENTRY_BYTES: Final = 128
_UNUSED: Final = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Partition:
    """A piece of a disk, in bytes; whether its type says that firmware looks into it."""

    start: int
    size: int
    efi_system: bool


def parse_partitions(head: bytes, disk_bytes: int) -> tuple[Partition, ...]:
    """Return the partitions in use, in the order of the table; none when there is no table.

    head        the first `HEAD_BYTES` of the disk, or all of it.
    disk_bytes  how large the disk is.

    Raises MalformedImage: the table is damaged, or speaks of what is beyond the end, as in a file that was cut off.
    """
    if head[510:512] != _MBR_SIGNATURE:
        return ()
    reader = LittleEndianReader(head[_MBR_ENTRIES_AT:510], _DOING, MalformedImage)
    found = []
    for _ in range(4):
        reader.take(4, "status and first sector")
        kind = reader.u8("type")
        reader.take(3, "last sector")
        start, size = reader.u32("first block"), reader.u32("blocks")
        if kind == _MBR_PROTECTIVE:
            return _parse_gpt(head, disk_bytes)
        if kind and size and _is_mbr(head):
            _check_within(start, start + size, disk_bytes)
            # Nobody boots from the logical partitions within.
            if kind not in _MBR_EXTENDED:
                found.append(Partition(start * BLOCK_BYTES, size * BLOCK_BYTES, kind == _MBR_EFI_SYSTEM))
    return tuple(found)


def _is_mbr(head: bytes) -> bool:
    """Say whether block 0 is a table: a FAT file system without one has the same signature, and code for entries."""
    return all(head[_MBR_ENTRIES_AT + 16 * entry] in (0x00, 0x80) for entry in range(4))


def _parse_gpt(head: bytes, disk_bytes: int) -> tuple[Partition, ...]:
    reader = LittleEndianReader(head[BLOCK_BYTES : 2 * BLOCK_BYTES], _DOING, MalformedImage)
    signature = reader.take(8, "signature")
    if signature != _GPT_SIGNATURE:
        raise reader.wrong(f"signature {_GPT_SIGNATURE.hex()} in block 1", signature.hex())
    reader.take(4, "revision")
    if (length := reader.u32("header size")) != _GPT_HEADER_BYTES:
        raise reader.wrong(f"a header of {_GPT_HEADER_BYTES} bytes", f"{length}")
    checksum = reader.u32("header checksum")
    _check_sum(head[BLOCK_BYTES : BLOCK_BYTES + 16] + bytes(4) + head[BLOCK_BYTES + 20 : BLOCK_BYTES + 92], checksum)
    reader.take(4 + 8, "reserved, own block")
    backup = reader.u64("block of the backup")
    _check_within(backup, backup + 1, disk_bytes)
    reader.take(8 + 8 + 16, "usable blocks, disk GUID")
    entries_at = reader.u64("block of the entries") * BLOCK_BYTES
    count, size, checksum = reader.u32("entries"), reader.u32("size of an entry"), reader.u32("checksum of the entries")
    refuse_over(PARTITIONS, count, _DOING)
    if size != _GPT_ENTRY_BYTES or not 2 * BLOCK_BYTES <= entries_at <= len(head) - count * size:
        raise reader.wrong(f"entries of {_GPT_ENTRY_BYTES} bytes at the start of the disk", f"{size} at {entries_at}")
    entries = head[entries_at : entries_at + count * size]
    _check_sum(entries, checksum)
    return tuple(
        partition
        for at in range(0, len(entries), size)
        if (partition := _parse_entry(entries[at : at + size], disk_bytes)) is not None
    )


def _parse_entry(entry: bytes, disk_bytes: int) -> Partition | None:
    reader = LittleEndianReader(entry, _DOING, MalformedImage)
    kind = UUID(bytes_le=reader.take(16, "type"))
    if kind == _UNUSED:
        return None
    reader.take(16, "GUID")
    first, last = reader.u64("first block"), reader.u64("last block")
    _check_within(first, last + 1, disk_bytes)
    return Partition(first * BLOCK_BYTES, (last + 1 - first) * BLOCK_BYTES, kind == EFI_SYSTEM)


def _check_within(first: int, end: int, disk_bytes: int) -> None:
    if not first < end <= disk_bytes // BLOCK_BYTES:
        raise MalformedImage(
            _DOING,
            expected=f"all of it within the {disk_bytes // BLOCK_BYTES} blocks of the disk; is the file cut off?",
            found=f"blocks {first} to {end - 1}",
        )


def _check_sum(data: bytes, checksum: int) -> None:
    if zlib.crc32(data) != checksum:
        raise MalformedImage(_DOING, expected=f"the checksum {checksum:08x}", found=f"{zlib.crc32(data):08x}")
