"""A firmware file whose volume was tampered with, and that boots all the same."""

import lzma
import uuid
from typing import Final

from steelyard.model.errors import LabFailed

_LZMA_SECTION: Final = uuid.UUID("ee4e5898-3914-4259-9d6e-dc7bd79403cf").bytes_le
"""Source: Platform Initialization Specification 1.8, volume 3, GUIDed section; EDK2 LzmaCustomDecompress."""
_LZMA_HEADER_SIZE: Final = 13
_VOLUME_SIGNATURE: Final = b"_FVH"
_ERASED: Final = 0xFF


def change_one_measured_byte(image: bytes) -> bytes:
    """Return an OVMF image that differs from `image` in one byte of the volume that firmware measures into PCR 0.

    The byte is the last one of the main volume's free space: measured with the volume, run by nobody. The volume is
    kept compressed, so that in the file its compressed form is another; everything around it stays in place.
    Raises LabFailed if the image is not laid out as EDK2's are.
    """
    doing = "changing one byte of a measured firmware volume"
    start, end = _compressed_section(image, doing)
    volumes = bytearray(_decompress(image[start:end], doing))
    if volumes[-1] != _ERASED:
        raise LabFailed(doing, expected="a last volume that ends in free space", found=f"{volumes[-1]:#04x} at its end")
    volumes[-1] ^= 0x01
    packed = _compress(bytes(volumes))
    if len(packed) > end - start:
        raise LabFailed(doing, expected=f"at most {end - start} bytes again", found=f"{len(packed)}")
    return image[:start] + packed.ljust(end - start, b"\0") + image[end:]


def _compressed_section(image: bytes, doing: str) -> tuple[int, int]:
    """Return where the first LZMA section's data begins and ends.

    A GUIDed section: 3 bytes size, 1 type, 16 GUID, 2 offset of the data, 2 attributes; little-endian.
    """
    guid = image.find(_LZMA_SECTION)
    if guid < 4:
        raise LabFailed(doing, expected="a volume compressed with LZMA", found="none")
    section = guid - 4
    end = section + int.from_bytes(image[section : section + 3], "little")
    return section + int.from_bytes(image[guid + 16 : guid + 18], "little"), end


def _decompress(packed: bytes, doing: str) -> bytes:
    try:
        volumes = lzma.LZMADecompressor(format=lzma.FORMAT_ALONE).decompress(packed)
    except lzma.LZMAError as cause:
        raise LabFailed(doing, expected="LZMA data", found=str(cause)) from cause
    if _VOLUME_SIGNATURE not in volumes:
        raise LabFailed(doing, expected="a firmware volume inside", found="none")
    return volumes


def _compress(volumes: bytes) -> bytes:
    """Return `volumes` as EDK2's decoder reads them: with their size in the header, where others may leave it open."""
    packed = lzma.compress(volumes, format=lzma.FORMAT_ALONE, preset=9 | lzma.PRESET_EXTREME)
    return packed[: _LZMA_HEADER_SIZE - 8] + len(volumes).to_bytes(8, "little") + packed[_LZMA_HEADER_SIZE:]
