"""The partition table that firmware booted from, as it is measured: UEFI_GPT_DATA."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from steelyard.evidence.reader import LittleEndianReader
from steelyard.model.errors import MalformedEventLog

_SIGNATURE: Final = b"EFI PART"
_FIELDS_BEFORE_GUID: Final = 56
"""EFI_PARTITION_TABLE_HEADER up to its DiskGUID."""
_UNUSED: Final = UUID(int=0)
_SMALLEST_ENTRY: Final = 128
_LARGEST_ENTRY: Final = 4096
_NAME_BYTES: Final = 72


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition in use; `first` and `last` are its blocks, both its own."""

    kind: UUID
    unique: UUID
    first: int
    last: int
    attributes: int
    name: str


@dataclass(frozen=True, slots=True)
class PartitionTable:
    """A disk and its partitions, in the order of the table."""

    disk: UUID
    partitions: tuple[Partition, ...]

    def __str__(self) -> str:
        names = ", ".join(partition.name or str(partition.kind) for partition in self.partitions)
        return f"partition table of disk {self.disk}: {names or 'no partition'}"


def parse_partition_table(data: bytes) -> PartitionTable:
    """Return the partition table that `data` is, whole.

    data  EFI_PARTITION_TABLE_HEADER (92 bytes), a 64-bit count of entries, the entries in use; little-endian.

    Raises MalformedEventLog.
    Source: TCG PC Client Platform Firmware Profile 1.06, UEFI_GPT_DATA; UEFI Specification 2.10, section 5.3.
    """
    reader = LittleEndianReader(data, "reading a measured partition table", MalformedEventLog)
    head = reader.take(_FIELDS_BEFORE_GUID, "header")
    if not head.startswith(_SIGNATURE):
        raise reader.wrong(f"signature {_SIGNATURE.hex()}", head[: len(_SIGNATURE)].hex())
    disk = UUID(bytes_le=reader.take(16, "DiskGUID"))
    reader.take(8 + 4, "place and number of entries")
    entry_size = reader.u32("SizeOfPartitionEntry")
    if not _SMALLEST_ENTRY <= entry_size <= _LARGEST_ENTRY:
        raise reader.wrong(f"entries of {_SMALLEST_ENTRY} to {_LARGEST_ENTRY} bytes", f"{entry_size}")
    reader.take(4, "PartitionEntryArrayCRC32")
    count = reader.u64("NumberOfPartitions")
    if count * entry_size != reader.remaining:
        raise reader.wrong(f"{count} entries of {entry_size} bytes", f"{reader.remaining} bytes left")
    partitions = [_read_partition(reader, entry_size) for _ in range(count)]
    return PartitionTable(disk, tuple(partition for partition in partitions if partition.kind != _UNUSED))


def _read_partition(reader: LittleEndianReader, size: int) -> Partition:
    kind, unique = UUID(bytes_le=reader.take(16, "type")), UUID(bytes_le=reader.take(16, "GUID"))
    first, last, attributes = reader.u64("first block"), reader.u64("last block"), reader.u64("attributes")
    name = reader.take(_NAME_BYTES, "name")
    reader.take(size - _SMALLEST_ENTRY, "rest of an entry")
    try:
        return Partition(kind, unique, first, last, attributes, name.decode("utf-16-le").partition("\0")[0])
    except UnicodeDecodeError as error:
        raise reader.wrong("a partition's name in UTF-16", name.hex()) from error
