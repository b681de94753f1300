"""Disks to be taken in, and a second implementation, QEMU's own programs, that reads and writes them."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from struct import pack

from steelyard.imaging.ports import ImageDisk, Overlay, VolumeDisk

BLOCK = 64 * 1024
SIZE = 64 * BLOCK


def block(letter: str) -> bytes:
    """Return 64 KiB of one letter."""
    return letter.encode() * BLOCK


def raw_disk(path: Path, blocks: Mapping[int, str], size: int = SIZE) -> bytes:
    """Write a disk with a letter in some blocks of 64 KiB, and return it."""
    data = bytearray(size)
    for at, letter in blocks.items():
        data[at * BLOCK : (at + 1) * BLOCK] = block(letter)
    path.write_bytes(data)
    return bytes(data)


def qcow2_disk(path: Path, raw: Path, *options: str) -> None:
    """Write the raw disk as a qcow2 file."""
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, str(raw), str(path))


def qcow2_head(
    *,
    size: int = SIZE,
    version: int = 3,
    cluster_bits: int = 16,
    backing: tuple[int, int] = (0, 0),
    encryption: int = 0,
    l1: tuple[int, int] = (1, 0x30000),
    refcounts: tuple[int, int] = (0x10000, 1),
    snapshots: int = 0,
    incompatible: int = 0,
    refcount_order: int = 4,
    header_length: int = 104,
    after: bytes = bytes(8),
) -> bytes:
    """Return the head of a qcow2 file, with what follows its fields."""
    fields = pack(
        ">4sIQIIQIIQQIIQ", b"QFI\xfb", version, *backing, cluster_bits, size, encryption, *l1, *refcounts, snapshots, 0
    )
    if version > 2:
        fields += pack(">QQQII", incompatible, 0, 0, refcount_order, header_length)
    return fields + after


def extension(kind: int, data: bytes) -> bytes:
    """Return an extension of a qcow2 head."""
    return pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)


def content(disk: ImageDisk | VolumeDisk, scratch: Path) -> bytes:
    """Return the disk as a node sees it."""
    copy = scratch / "content"
    run("qemu-img", "convert", "-f", form(disk), "-O", "raw", str(disk.path), str(copy))
    data = copy.read_bytes()
    copy.unlink()
    return data


def write(disk: ImageDisk | VolumeDisk, blocks: Mapping[int, str]) -> None:
    """Do as a node that writes to its disk."""
    for at, letter in blocks.items():
        command = f"write -P {ord(letter)} {at * BLOCK} {BLOCK}"
        run("qemu-io", "-f", form(disk), "-c", command, str(disk.path))


@contextmanager
def opened(disk: ImageDisk | VolumeDisk) -> Iterator[None]:
    """Have the disk open for writing, as for a node, until done."""
    with subprocess.Popen(
        ["qemu-io", "-f", form(disk), str(disk.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as node:
        try:
            assert node.stdout is not None
            assert node.stdout.read(9) == b"qemu-io> "
            yield
        finally:
            node.kill()


def form(disk: ImageDisk | VolumeDisk) -> str:
    return "qcow2" if isinstance(disk, Overlay) else "raw"


def is_sound(path: Path) -> bool:
    """Say what QEMU thinks of a qcow2 file."""
    report = json.loads(run("qemu-img", "check", "--output=json", "-f", "qcow2", str(path)))
    return not report.get("corruptions") and not report.get("leaks")


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout
