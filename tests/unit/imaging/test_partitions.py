"""Partition tables are read as the tools that make them mean them."""

import json
import subprocess
import zlib
from pathlib import Path
from struct import pack_into

import pytest

from steelyard.imaging.partitions import HEAD_BYTES, Partition, parse_partitions
from steelyard.model.errors import MalformedImage, TooLarge
from tests.disks import run

SIZE = 16 * 1024 * 1024
MIB = 1024 * 1024


def partitioned(path: Path, script: str, size: int = SIZE) -> bytes:
    with path.open("wb") as file:
        file.truncate(size)
    subprocess.run(["sfdisk", "--quiet", str(path)], input=script, check=True, capture_output=True, text=True)
    return path.read_bytes()[:HEAD_BYTES]


GPT = "label: gpt\nsize=4MiB, type=uefi\nsize=8MiB, type=linux\n"
MBR = "label: dos\nsize=4MiB, type=ef\nsize=2MiB, type=5\nsize=1MiB, type=83, bootable\n"


def test_a_gpt_is_read_as_sfdisk_wrote_it(tmp_path: Path) -> None:
    head = partitioned(tmp_path / "disk", GPT)
    written = json.loads(run("sfdisk", "--json", str(tmp_path / "disk")))["partitiontable"]["partitions"]
    assert parse_partitions(head, SIZE) == (
        Partition(MIB, 4 * MIB, efi_system=True),
        Partition(5 * MIB, 8 * MIB, efi_system=False),
    )
    assert [part.start for part in parse_partitions(head, SIZE)] == [512 * each["start"] for each in written]


def test_an_mbr_is_read_without_what_nobody_boots_from(tmp_path: Path) -> None:
    assert parse_partitions(partitioned(tmp_path / "disk", MBR), SIZE) == (
        Partition(MIB, 4 * MIB, efi_system=True),
        Partition(7 * MIB, MIB, efi_system=False),
    )


@pytest.mark.parametrize("command", [["mkfs.vfat"], ["mkfs.ext4", "-q"]])
def test_a_file_system_without_a_table_has_none(tmp_path: Path, command: list[str]) -> None:
    with (tmp_path / "disk").open("wb") as file:
        file.truncate(SIZE)
    run(*command, str(tmp_path / "disk"))
    assert parse_partitions((tmp_path / "disk").read_bytes()[:HEAD_BYTES], SIZE) == ()


def test_a_boot_sector_with_code_in_it_is_no_table() -> None:
    assert parse_partitions(b"not a system disk. ".ljust(510, b"x") + b"\x55\xaa", SIZE) == ()


@pytest.mark.parametrize("script", [GPT, MBR])
def test_a_disk_that_was_cut_off_is_refused(tmp_path: Path, script: str) -> None:
    head = partitioned(tmp_path / "disk", script)
    with pytest.raises(MalformedImage, match="cut off"):
        parse_partitions(head, 6 * MIB)


@pytest.mark.parametrize(
    ("at", "layout", "value"),
    [
        (512, "B", 0),  # signature
        (512 + 12, "<I", 91),  # header size
        (512 + 16, "<I", 0),  # header checksum
        (512 + 56, "B", 1),  # disk GUID, under that checksum
        (512 + 72, "<Q", 1),  # where the entries are
        (1024, "B", 0xFF),  # an entry, under the other checksum
    ],
)
def test_a_damaged_gpt_is_refused(tmp_path: Path, at: int, layout: str, value: int) -> None:
    head = bytearray(partitioned(tmp_path / "disk", GPT))
    pack_into(layout, head, at, value)
    with pytest.raises(MalformedImage):
        parse_partitions(bytes(head), SIZE)


def checksummed(head: bytearray) -> bytes:
    """Return the head with the checksums of its GPT put right, as one who means harm would."""
    at = int.from_bytes(head[512 + 72 : 512 + 80], "little") * 512
    count, size = (
        int.from_bytes(head[512 + 80 : 512 + 84], "little"),
        int.from_bytes(head[512 + 84 : 512 + 88], "little"),
    )
    pack_into("<I", head, 512 + 88, zlib.crc32(head[at : at + count * size]))
    pack_into("<I", head, 512 + 16, 0)
    pack_into("<I", head, 512 + 16, zlib.crc32(head[512 : 512 + 92]))
    return bytes(head)


@pytest.mark.parametrize(
    ("at", "layout", "value"),
    [
        (512, "B", 0),  # signature
        (512 + 32, "<Q", SIZE // 512),  # where the backup is
        (512 + 72, "<Q", 1),  # where the entries are: over the header
        (512 + 72, "<Q", 120),  # the last of them beyond what was read
        (512 + 84, "<I", 256),  # size of an entry
        (512 + 84, "<I", 0),
        (1024 + 32, "<Q", 2**64 - 1),  # the first block of a partition
        (1024 + 40, "<Q", SIZE // 512),  # its last
        (1024 + 40, "<Q", 2047),
    ],
)
def test_a_gpt_that_was_made_to_mislead_is_refused(tmp_path: Path, at: int, layout: str, value: int) -> None:
    head = bytearray(partitioned(tmp_path / "disk", GPT))
    assert parse_partitions(checksummed(head), SIZE) == parse_partitions(bytes(head), SIZE)
    pack_into(layout, head, at, value)
    with pytest.raises(MalformedImage):
        parse_partitions(checksummed(head), SIZE)


@pytest.mark.parametrize("script", [GPT, MBR])
def test_a_table_without_its_signature_is_none(tmp_path: Path, script: str) -> None:
    head = partitioned(tmp_path / "disk", script)
    assert parse_partitions(head[:510] + bytes(2) + head[512:], SIZE) == ()


def test_a_gpt_that_goes_beyond_what_was_read_is_refused(tmp_path: Path) -> None:
    head = partitioned(tmp_path / "disk", GPT)
    for end in (513, 600, 1024, 2048):
        with pytest.raises(MalformedImage):
            parse_partitions(head[:end], SIZE)


def test_more_entries_than_a_gpt_has_are_refused(tmp_path: Path) -> None:
    head = partitioned(tmp_path / "disk", "label: gpt\ntable-length: 200\nfirst-lba: 2048\nsize=1MiB\n")
    with pytest.raises(TooLarge):
        parse_partitions(head, SIZE)
