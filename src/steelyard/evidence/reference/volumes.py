"""Firmware volumes: the containers of which an EDK2 firmware file is made, and how they nest.

Each volume holds files, a file may hold sections, a section, plain or compressed, may hold a volume again. Every header
is checked as firmware checks it. What a volume measures to is for `firmware`, what variables say for `variables`.
"""

import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from steelyard.evidence.reader import LittleEndianReader, refuse_over
from steelyard.model.errors import MalformedArtefact
from steelyard.model.limits import (
    FIRMWARE_BYTES,
    FIRMWARE_DECOMPRESSED_BYTES,
    FIRMWARE_DEPTH,
    FIRMWARE_FILES,
    FIRMWARE_UNPACKING_BYTES,
)

_DOING: Final = "reading a firmware file"

VARIABLE_STORE: Final = UUID("fff12b8d-7696-4c8b-a985-2747075b4f50")
"""EFI_SYSTEM_NV_DATA_FV_GUID."""
_FILE_SYSTEM_2: Final = UUID("8c8ce578-8a3d-4f1c-9935-896185c32dd3")
_FILE_SYSTEM_3: Final = UUID("5473c07a-3dcb-4dca-bd6f-1e9689e7349a")
_LZMA: Final = UUID("ee4e5898-3914-4259-9d6e-dc7bd79403cf")
"""LZMA_CUSTOM_DECOMPRESS_GUID of EDK2."""

_ERASED_BITS_ARE_ONE: Final = 0x800
"""EFI_FVB2_ERASE_POLARITY in a volume's attributes."""
_LARGE_FILE: Final = 0x01
_CHECKSUMMED_FILE: Final = 0x40
_FIXED_FILE_CHECKSUM: Final = 0xAA
_VALID_FILE_STATE: Final = 0x07
"""Header constructed, header valid, data valid; and not marked for update or deleted."""

SECURITY_CORE: Final = 0x03
PEI_CORE: Final = 0x04
DXE_CORE: Final = 0x05
_VOLUME_IMAGE_FILE: Final = 0x0B

_COMPRESSION_SECTION: Final = 0x01
_GUID_DEFINED_SECTION: Final = 0x02
_VOLUME_IMAGE_SECTION: Final = 0x17


@dataclass(frozen=True, slots=True)
class Volume:
    """One firmware volume.

    file_system   what it holds: files, or variables.
    data          all of it, header and free space included.
    header_bytes  of `data`.
    depth         0 for a volume of the file itself, more for one inside another.
    file_types    of the files in it, EFI_FV_FILETYPE; none for a variable store.
    """

    file_system: UUID
    data: memoryview
    header_bytes: int
    depth: int
    file_types: frozenset[int]


def volumes_of(image: bytes) -> tuple[Volume, ...]:
    """Return all volumes of a firmware file, each before those inside it.

    image  volumes one behind the other, nothing before, between or after them.

    Raises MalformedArtefact, TooLarge.
    Source: UEFI Platform Initialization 1.8, volume 3, section 3 (firmware volumes, files and sections).
    """
    refuse_over(FIRMWARE_BYTES, len(image), _DOING)
    view = memoryview(image)
    unpacker = _Unpacker()
    found: list[Volume] = []
    at = 0
    while at < len(view):
        inside = list(unpacker.volume(view[at:], 0))
        found += inside
        at += len(inside[0].data)
    return tuple(found)


class _Unpacker:
    """Walks volumes in volumes, and counts what that costs over the whole of one firmware file."""

    def __init__(self) -> None:
        self._files = 0
        self._decompressed_bytes = 0

    def volume(self, view: memoryview, depth: int) -> Iterator[Volume]:
        """Yield the volume at the start of `view`, then those inside it."""
        file_system, header_bytes, first_file, erased, data = _read_volume_header(view)
        if file_system == VARIABLE_STORE:
            yield Volume(file_system, data, header_bytes, depth, frozenset())
            return
        files = list(self._walk_files(data, first_file, erased, large_files=file_system == _FILE_SYSTEM_3))
        yield Volume(file_system, data, header_bytes, depth, frozenset(kind for kind, _ in files))
        for kind, body in files:
            if kind == _VOLUME_IMAGE_FILE:
                yield from self._sections(body, depth + 1)

    def _walk_files(
        self, volume: memoryview, at: int, erased: int, *, large_files: bool
    ) -> Iterator[tuple[int, memoryview]]:
        """Yield type and body of each file. Source: Platform Initialization 1.8, volume 3, section 3.2.3."""
        while at < len(volume):
            if len(volume) - at < 24 or volume[at : at + 24] == bytes([erased]) * 24:
                _check_free_space(volume[at:], erased)
                return
            self._files += 1
            refuse_over(FIRMWARE_FILES, self._files, _DOING)
            kind, size, body = _read_file(volume[at:], erased, large_files=large_files)
            yield kind, body
            at = _aligned(at + size, 8)

    def _sections(self, body: memoryview, depth: int) -> Iterator[Volume]:
        """Yield the volumes in a run of sections. Source: Platform Initialization 1.8, volume 3, section 3.2.4."""
        refuse_over(FIRMWARE_DEPTH, depth, _DOING)
        at = 0
        while at < len(body):
            reader = _reader(body[at : at + 8])
            size = int.from_bytes(reader.take(3, "size of a section"), "little")
            kind = reader.u8("type of a section")
            if size == 0xFFFFFF:
                size = reader.u32("size of a large section")
            if not reader.position <= size <= len(body) - at:
                raise reader.wrong(f"a section inside its file, of which {len(body) - at} bytes are left", f"{size}")
            content = body[at + reader.position : at + size]
            if kind == _VOLUME_IMAGE_SECTION:
                yield from self._one_volume(content, depth)
            elif kind == _GUID_DEFINED_SECTION:
                yield from self._sections(self._decompress(body[at : at + size], reader.position), depth + 1)
            elif kind == _COMPRESSION_SECTION:
                raise reader.wrong("sections that are plain or LZMA", "one in EFI's own compression")
            at = _aligned(at + size, 4)

    def _one_volume(self, content: memoryview, depth: int) -> Iterator[Volume]:
        inside = list(self.volume(content, depth))
        if len(inside[0].data) != len(content):
            raise MalformedArtefact(
                _DOING,
                expected=f"a volume that fills its section of {len(content)} bytes",
                found=f"{len(inside[0].data)}",
            )
        yield from inside

    def _decompress(self, section: memoryview, header_bytes: int) -> memoryview:
        """Return what an LZMA section unpacks to; its header says how much, which must fit what is left to spend."""
        reader = _reader(section[header_bytes : header_bytes + 20])
        kind = UUID(bytes_le=reader.take(16, "GUID of a section"))
        data_offset = reader.u16("offset of a section's data")
        if kind != _LZMA:
            raise reader.wrong(f"a section compressed with LZMA, {_LZMA}", f"{kind}")
        packed = bytes(section[data_offset:])
        header = LittleEndianReader(packed[:13], _DOING, MalformedArtefact)
        header.take(5, "LZMA properties and dictionary size")
        size = header.u64("LZMA unpacked size")
        self._decompressed_bytes += size
        refuse_over(FIRMWARE_DECOMPRESSED_BYTES, self._decompressed_bytes, _DOING)
        decompressor = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=FIRMWARE_UNPACKING_BYTES.most)
        try:
            unpacked = decompressor.decompress(packed, max_length=size + 1)
        except lzma.LZMAError as error:
            raise MalformedArtefact(_DOING, expected="an LZMA stream", found=str(error)) from error
        if not decompressor.eof or decompressor.unused_data:
            raise MalformedArtefact(
                _DOING, expected=f"an LZMA stream of {size} bytes, and nothing after it", found=f"{len(packed)} bytes"
            )
        return memoryview(unpacked)


def _read_volume_header(view: memoryview) -> tuple[UUID, int, int, int, memoryview]:
    """Return file system, header size, offset of the first file, erased byte, and the volume's bytes.

    Source: Platform Initialization 1.8, volume 3, section 3.2.1.
    """
    reader = _reader(view[:56])
    reader.take(16, "zero vector")
    file_system = UUID(bytes_le=reader.take(16, "file system GUID"))
    size = reader.u64("size of a volume")
    if (signature := reader.take(4, "signature of a volume")) != b"_FVH":
        raise reader.wrong("the signature _FVH of a volume", signature.hex())
    attributes = reader.u32("attributes")
    header_bytes = reader.u16("size of a volume's header")
    reader.u16("checksum")
    extension_at = reader.u16("offset of the extended header")
    reader.u8("reserved")
    revision = reader.u8("revision")
    if file_system not in {VARIABLE_STORE, _FILE_SYSTEM_2, _FILE_SYSTEM_3}:
        raise reader.wrong("a volume of files (FFS 2 or 3) or variables", f"{file_system}")
    if revision != 2:
        raise reader.wrong("a volume of revision 2", f"{revision}")
    if not 56 <= header_bytes <= size <= len(view) or header_bytes % 2:
        raise reader.wrong(
            f"a volume inside its container of {len(view)} bytes", f"{size} bytes, {header_bytes} of them header"
        )
    header = view[:header_bytes]
    if sum(header[0::2]) + (sum(header[1::2]) << 8) & 0xFFFF:
        raise reader.wrong("a volume header whose 16-bit words add up to 0", "another sum")
    first_file = header_bytes
    if extension_at:
        extension = _reader(view[extension_at : min(extension_at + 20, size)])
        extension.take(16, "name of a volume")
        first_file = extension_at + extension.u32("size of the extended header")
        if not header_bytes <= extension_at <= first_file <= size:
            raise reader.wrong("an extended header inside its volume", f"bytes {extension_at} to {first_file}")
    erased = 0xFF if attributes & _ERASED_BITS_ARE_ONE else 0x00
    return file_system, header_bytes, _aligned(first_file, 8), erased, view[:size]


def _read_file(view: memoryview, erased: int, *, large_files: bool) -> tuple[int, int, memoryview]:
    """Return a file's type, size and body; `view` begins with it."""
    reader = _reader(view[:32])
    reader.take(17, "name and header checksum of a file")
    checksum = reader.u8("checksum of a file")
    kind = reader.u8("type of a file")
    attributes = reader.u8("attributes of a file")
    size = int.from_bytes(reader.take(3, "size of a file"), "little")
    state = reader.u8("state of a file")
    large = bool(attributes & _LARGE_FILE)
    if large:
        if not large_files:
            raise reader.wrong("files of up to 16 MiB in a volume of FFS 2", "a large one")
        size = reader.u64("size of a large file")
    header = view[: reader.position]
    if not reader.position <= size <= len(view):
        raise reader.wrong(f"a file inside its volume, of which {len(view)} bytes are left", f"{size} bytes")
    if state ^ erased != _VALID_FILE_STATE:
        raise reader.wrong("a file that is valid, not deleted or in the middle of an update", f"state {state:#04x}")
    # The header's sum leaves out the state, which changes later, and the sum over the body.
    if sum(header) - state - checksum & 0xFF:
        raise reader.wrong("a file header whose bytes add up to 0", "another sum")
    body = view[reader.position : size]
    right = -sum(body) & 0xFF if attributes & _CHECKSUMMED_FILE else _FIXED_FILE_CHECKSUM
    if checksum != right:
        raise reader.wrong(f"a file with checksum {right:#04x}", f"{checksum:#04x}")
    return kind, size, body


def _check_free_space(rest: memoryview, erased: int) -> None:
    """Raise unless the rest of a volume is empty: a place where something could lie that nobody looked at."""
    if bytes(rest).count(erased) != len(rest):
        raise MalformedArtefact(
            _DOING, expected=f"free space of {erased:#04x} after the last file", found="other bytes"
        )


def _reader(view: memoryview) -> LittleEndianReader:
    return LittleEndianReader(bytes(view), _DOING, MalformedArtefact)


def _aligned(offset: int, boundary: int) -> int:
    return -(-offset // boundary) * boundary
