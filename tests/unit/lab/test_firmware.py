"""Firmware with one measured byte changed."""

import lzma
from pathlib import Path

import pytest

from steelyard.lab.firmware import change_one_measured_byte
from steelyard.model.errors import LabFailed
from tests.tpm import require_programs

OVMF = Path("/usr/share/OVMF/OVMF_CODE.fd")
_GUID = bytes.fromhex("9858 4eee 1439 5942 9d6e dc7b d794 03cf")


def _image(volumes: bytes) -> bytes:
    """Return an image with one compressed section, as EDK2 lays it out, between other bytes."""
    packed = lzma.compress(volumes, format=lzma.FORMAT_ALONE, preset=0)
    packed = packed[:5] + len(volumes).to_bytes(8, "little") + packed[13:]
    section = (24 + len(packed)).to_bytes(3, "little") + b"\x02" + _GUID + b"\x18\0\x01\0" + packed
    return b"before" + section + b"after"


def _volumes(image: bytes) -> bytes:
    start = image.index(_GUID) + 20
    return lzma.LZMADecompressor(format=lzma.FORMAT_ALONE).decompress(image[start:])


VOLUMES = bytes(40) + b"_FVH" + bytes(range(256)) * 40 + b"\xff" * 4096


def test_one_byte_of_the_volume_is_another_and_nothing_else_has_moved() -> None:
    image = _image(VOLUMES)
    changed = change_one_measured_byte(image)
    assert len(changed) == len(image)
    assert (changed[:6], changed[-5:]) == (b"before", b"after")
    differing = [at for at, (old, new) in enumerate(zip(VOLUMES, _volumes(changed), strict=True)) if old != new]
    assert differing == [len(VOLUMES) - 1]


@pytest.mark.parametrize(
    "image",
    [
        b"",
        b"no section",
        _GUID,
        _image(VOLUMES[:-4096]),
        _image(VOLUMES.replace(b"_FVH", b"____")),
        _image(VOLUMES)[:60],
    ],
)
def test_an_image_of_another_kind_is_refused(image: bytes) -> None:
    with pytest.raises(LabFailed):
        change_one_measured_byte(image)


@pytest.mark.slow
def test_debians_firmware_can_be_changed() -> None:
    require_programs({str(OVMF): "ovmf"})
    image = OVMF.read_bytes()
    old, new = _volumes(image), _volumes(change_one_measured_byte(image))
    assert sum(a != b for a, b in zip(old[-4096:], new[-4096:], strict=True)) == 1
    assert old[:-4096] == new[:-4096]
