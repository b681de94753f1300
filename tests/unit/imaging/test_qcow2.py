"""Only a qcow2 file that is one whole, plain disk passes."""

from pathlib import Path

import pytest

from steelyard.imaging.qcow2 import Qcow2Head, parse_qcow2_head
from steelyard.model.errors import MalformedImage, TooLarge
from tests.disks import SIZE, extension, qcow2_disk, qcow2_head, raw_disk, run

FILE_BYTES = 0x40000
NAMES = extension(0x6803F857, b"\0\0dirty bit".ljust(48, b"\0"))
END = extension(0, b"")
BASE = b"/etc/shadow"


def parse(head: bytes, file_bytes: int = FILE_BYTES) -> Qcow2Head:
    return parse_qcow2_head(head, file_bytes)


def with_backing(after: bytes = END) -> bytes:
    start = 104 + len(after)
    return qcow2_head(backing=(start, len(BASE)), after=after) + BASE


@pytest.mark.parametrize(
    "options", [(), ("-c",), ("-o", "compat=0.10"), ("-o", "extended_l2=on"), ("-o", "cluster_size=512")]
)
def test_what_qemu_writes_is_read(tmp_path: Path, options: tuple[str, ...]) -> None:
    raw_disk(tmp_path / "raw", {1: "a"})
    qcow2_disk(tmp_path / "image", tmp_path / "raw", *options)
    data = (tmp_path / "image").read_bytes()
    assert parse(data[: 64 * 1024], len(data)) == Qcow2Head(SIZE, None)


def test_a_base_that_qemu_writes_is_read(tmp_path: Path) -> None:
    run("qemu-img", "create", "-u", "-f", "qcow2", "-b", "some.raw", "-F", "raw", str(tmp_path / "image"), str(SIZE))
    data = (tmp_path / "image").read_bytes()
    assert parse(data[: 64 * 1024], len(data)) == Qcow2Head(SIZE, b"some.raw")


@pytest.mark.parametrize(
    "head",
    [
        qcow2_head(),
        qcow2_head(version=2),
        qcow2_head(after=NAMES + END),
        qcow2_head(after=b""),
        qcow2_head(incompatible=1 | 8 | 16),
        qcow2_head(header_length=112, after=bytes(8) + END),
    ],
)
def test_a_plain_head_is_read(head: bytes) -> None:
    assert parse(head) == Qcow2Head(SIZE, None)


@pytest.mark.parametrize("after", [END, NAMES + END, extension(0xE2792ACA, b"raw") + END])
def test_a_backing_file_is_told(after: bytes) -> None:
    assert parse(with_backing(after)).backing_file == BASE


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"QFI\xfb",
        qcow2_head()[:71],
        qcow2_head()[:103],
        qcow2_head()[:-9],
        b"QFI\xfa" + qcow2_head()[4:],
        qcow2_head(version=1),
        qcow2_head(version=4),
        qcow2_head(cluster_bits=8),
        qcow2_head(cluster_bits=22),
        qcow2_head(cluster_bits=2**32 - 1),
        qcow2_head(size=0),
        qcow2_head(size=SIZE + 1),
        qcow2_head(encryption=1),
        qcow2_head(encryption=2),
        qcow2_head(snapshots=1),
        qcow2_head(incompatible=2),
        qcow2_head(incompatible=4),
        qcow2_head(incompatible=32),
        qcow2_head(refcount_order=7),
        qcow2_head(header_length=96),
        qcow2_head(header_length=105),
        qcow2_head(header_length=108, after=bytes(4) + END),
        qcow2_head(header_length=2**31),
        qcow2_head(header_length=120),
        qcow2_head(l1=(1, FILE_BYTES)),
        qcow2_head(l1=(1, 0x30008)),
        qcow2_head(l1=(1, 2**64 - 0x10000)),
        qcow2_head(refcounts=(FILE_BYTES, 1)),
        qcow2_head(refcounts=(0x10000, 4)),
        qcow2_head(after=extension(0x44415441, b"/etc/shadow") + END),
        qcow2_head(after=extension(0x0537BE77, bytes(16)) + END),
        qcow2_head(after=extension(0x12345678, b"") + END),
        qcow2_head(after=NAMES + extension(0x44415441, b"/etc/shadow") + END),
        qcow2_head(after=extension(0x6803F857, b"dirty bit") + extension(0x44415441, b"/etc/shadow") + END),
        qcow2_head(after=extension(0xE2792ACA, b"raw") + END),
        qcow2_head(after=extension(0x6803F857, b"")[:4] + b"\0\1\0\0"),
        qcow2_head(backing=(120, 11), after=NAMES + END),
        qcow2_head(backing=(104, 0)),
        qcow2_head(backing=(0, 11)),
        qcow2_head(backing=(40, 11)),
        qcow2_head(backing=(112, 1024)) + bytes(1024),
        qcow2_head(backing=(112, 11)) + b"/etc",
        qcow2_head(backing=(2**40, 11)),
    ],
)
def test_another_head_is_refused(head: bytes) -> None:
    with pytest.raises(MalformedImage):
        parse(head)


@pytest.mark.parametrize(
    "head",
    [
        qcow2_head(size=2**45),
        qcow2_head(l1=(2**32 - 1, 0x30000)),
        qcow2_head(refcounts=(0x10000, 2**32 - 1)),
        qcow2_head() + bytes(64 * 1024),
    ],
)
def test_a_head_beyond_its_limits_is_refused(head: bytes) -> None:
    with pytest.raises(TooLarge):
        parse(head, 2**60)
