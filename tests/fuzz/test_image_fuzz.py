"""Whatever stands at the start of an image, its parsers return or raise their own error."""

from struct import pack
from uuid import UUID
from zlib import crc32

from hypothesis import given
from hypothesis import strategies as st

from steelyard.imaging.partitions import EFI_SYSTEM, parse_partitions
from steelyard.imaging.qcow2 import parse_qcow2_head
from steelyard.model.errors import MalformedImage, TooLarge
from tests.disks import extension, qcow2_head
from tests.fuzz.test_artefact_fuzz import damaged

HEAD = qcow2_head(
    backing=(200, 4), after=extension(0x6803F857, bytes(48)) + extension(0xE2792ACA, b"raw") + bytes(8)
).ljust(200, b"\0")


@given(st.binary(max_size=200) | damaged(HEAD + b"base"), st.integers(0, 2**64))
def test_qcow2_heads(data: bytes, file_bytes: int) -> None:
    try:
        head = parse_qcow2_head(data, file_bytes)
    except (MalformedImage, TooLarge) as refusal:
        shown = str(refusal)
    else:
        assert head.size_bytes > 0
        assert head.backing_file is None or 0 < len(head.backing_file) < 1024
        return
    assert shown.isprintable()


PROTECTIVE = bytes(446) + pack("<B3xB3xII", 0, 0xEE, 1, 2**32 - 1) + bytes(48) + b"\x55\xaa"
MBR = bytes(446) + pack("<B3xB3xII", 0, 0xEF, 1, 8) + pack("<B3xB3xII", 0x80, 0x83, 9, 7) + bytes(32) + b"\x55\xaa"


@st.composite
def gpts(draw: st.DrawFn) -> bytes:
    """Draw a GPT that is damaged behind its checksums."""
    entry = EFI_SYSTEM.bytes_le + UUID(int=1).bytes_le + pack("<QQQ", 8, 15, 0) + bytes(72)
    entries = draw(damaged(entry * 2))
    fields = draw(damaged(pack("<8xQQQQ16sQII", 1, 15, 2, 14, bytes(16), 2, 2, 128)))[:68].ljust(68, b"\0")
    header = pack("<8sIII", b"EFI PART", 0x10000, 92, 0) + fields + pack("<I", crc32(entries[:256]))
    header = header[:16] + pack("<I", crc32(header)) + header[20:]
    return PROTECTIVE + header.ljust(512, b"\0") + entries


@given(st.binary(max_size=600) | damaged(MBR) | gpts(), st.integers(0, 20 * 512) | st.integers(0, 2**64))
def test_partition_tables(data: bytes, disk_bytes: int) -> None:
    try:
        partitions = parse_partitions(data, disk_bytes)
    except (MalformedImage, TooLarge) as refusal:
        shown = str(refusal)
    else:
        assert all(0 < each.size <= disk_bytes - each.start for each in partitions)
        return
    assert shown.isprintable()
