"""What the head of a qcow2 file says, and which of these files are taken in.

A qcow2 file may name other files to read from, and a program that opens it would: on the server, with the server's
rights, into the disk of whoever sent the file. So the head is read here, before any other program sees the file, and
whatever is not plainly one self-contained disk is refused.

Source: QEMU 7.2, docs/interop/qcow2.txt.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from steelyard.evidence.reader import BigEndianReader, refuse_over
from steelyard.model.errors import MalformedImage
from steelyard.model.limits import IMAGE_BYTES, QCOW2_HEADER_BYTES, QCOW2_L1_BYTES, QCOW2_REFCOUNT_TABLE_BYTES
from steelyard.model.text import printable

MAGIC: Final = b"QFI\xfb"

_DOING: Final = "reading the head of a qcow2 file"
_VERSIONS: Final = (2, 3)
_VERSION_2_BYTES: Final = 72
_VERSION_3_BYTES: Final = 104
_CLUSTER_BITS: Final = range(9, 22)

_DIRTY: Final = 1 << 0
_COMPRESSION_TYPE: Final = 1 << 3
_EXTENDED_L2: Final = 1 << 4
_FEATURES: Final = _DIRTY | _COMPRESSION_TYPE | _EXTENDED_L2
"""Incompatible features that are taken. Not bit 1, a file known to be corrupt, nor bit 2, data in another file."""

_END: Final = 0
_FEATURE_NAMES: Final = 0x6803F857
_BITMAPS: Final = 0x23852875
_BACKING_FORMAT: Final = 0xE2792ACA
_EXTENSIONS: Final = frozenset({_FEATURE_NAMES, _BITMAPS, _BACKING_FORMAT})
"""Taken. Not the name of a data file (0x44415441), nor encryption (0x0537be77), whose disk no node could read."""


@dataclass(frozen=True, slots=True)
class Qcow2Head:
    """What matters of the head of a qcow2 file.

    size_bytes     of the disk in it.
    backing_file   what it says to read from where it has nothing itself, as it stands there; None in a self-contained
                   one.
    """

    size_bytes: int
    backing_file: bytes | None


def parse_qcow2_head(data: bytes, file_bytes: int) -> Qcow2Head:
    """Return what the head says; `data` are the first bytes of the file, up to `QCOW2_HEADER_BYTES` of them.

    Raises MalformedImage, also when the tables it speaks of are not within the `file_bytes` that the file has;
    TooLarge.
    """
    refuse_over(QCOW2_HEADER_BYTES, len(data), _DOING)
    reader = BigEndianReader(data, _DOING, MalformedImage)
    magic = reader.take(4, "magic")
    if magic != MAGIC:
        raise reader.wrong(f"the magic {MAGIC.hex()}", printable(magic))
    version = reader.u32("version")
    if version not in _VERSIONS:
        raise reader.wrong("version 2 or 3", f"{version}")
    backing_at, backing_bytes = reader.u64("backing_file_offset"), reader.u32("backing_file_size")
    cluster_bits = reader.u32("cluster_bits")
    if cluster_bits not in _CLUSTER_BITS:
        raise reader.wrong("clusters of 512 bytes to 2 MiB", f"2^{cluster_bits}")
    size = reader.u64("size")
    refuse_over(IMAGE_BYTES, size, _DOING)
    if size == 0 or size % 512:
        raise reader.wrong("a disk of whole blocks of 512 bytes, at least one", f"{size} bytes")
    if encryption := reader.u32("crypt_method"):
        raise reader.wrong("no encryption", f"method {encryption}")
    tables = [_read_level_1(reader)]
    refcounts_at, refcount_clusters = reader.u64("refcount_table_offset"), reader.u32("refcount_table_clusters")
    tables.append((refcounts_at, refcount_clusters << cluster_bits))
    refuse_over(QCOW2_REFCOUNT_TABLE_BYTES, refcount_clusters << cluster_bits, _DOING)
    snapshots = reader.u32("nb_snapshots")
    if snapshots:
        raise reader.wrong("no snapshots within", f"{snapshots}")
    reader.take(8, "snapshots_offset")
    for start, length in tables:
        if start % (1 << cluster_bits) or start + length > file_bytes:
            raise reader.wrong(f"tables within the {file_bytes} bytes of the file", f"{length} bytes at {start}")
    head_bytes = _VERSION_2_BYTES if version == 2 else _read_version_3(reader, cluster_bits)
    extensions = dict(_read_extensions(reader, head_bytes, backing_at or (1 << cluster_bits)))
    backing = _read_backing(reader, data, backing_at, backing_bytes)
    if backing is None and _BACKING_FORMAT in extensions:
        raise reader.wrong("no format of a backing file without one", printable(extensions[_BACKING_FORMAT]))
    return Qcow2Head(size, backing)


def _read_level_1(reader: BigEndianReader) -> tuple[int, int]:
    length = reader.u32("l1_size") * 8
    refuse_over(QCOW2_L1_BYTES, length, _DOING)
    return reader.u64("l1_table_offset"), length


def _read_version_3(reader: BigEndianReader, cluster_bits: int) -> int:
    """Read what version 3 adds to version 2, and return how long the head is."""
    incompatible = reader.u64("incompatible_features")
    if incompatible & ~_FEATURES:
        raise reader.wrong("one whole file, all data in it, in no unknown format", f"features {incompatible:#x}")
    reader.take(8 + 8, "compatible_features and autoclear_features")
    if (order := reader.u32("refcount_order")) > 6:
        raise reader.wrong("a refcount_order of at most 6", f"{order}")
    length = reader.u32("header_length")
    if not _VERSION_3_BYTES <= length <= 1 << cluster_bits or length % 8:
        raise reader.wrong(f"a header_length from {_VERSION_3_BYTES} to a cluster, in eights", f"{length}")
    return length


def _read_extensions(reader: BigEndianReader, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    reader.take(start - reader.position, "additional fields")
    while reader.position + 8 <= min(end, reader.position + reader.remaining):
        kind, length = reader.u32("extension type"), reader.u32("extension length")
        if kind == _END:
            return
        if kind not in _EXTENSIONS:
            raise reader.wrong("extensions that leave the disk in this file, and readable", f"{kind:#x}")
        if reader.position + length > end:
            raise reader.wrong(f"extensions that end before {end}", f"{length} bytes at {reader.position}")
        yield kind, reader.take(length, "extension")
        reader.take(min(-length % 8, reader.remaining), "padding")


def _read_backing(reader: BigEndianReader, data: bytes, start: int, length: int) -> bytes | None:
    if start == 0 and length == 0:
        return None
    name = data[start : start + length]
    if start < _VERSION_2_BYTES or not 0 < length <= 1023 or len(name) != length:
        raise reader.wrong("the name of a backing file in the head, of at most 1023 bytes", f"{length} at {start}")
    return name
