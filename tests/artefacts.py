"""Small artefacts made from their specifications, right in every byte unless a test asks for a wrong one."""

import gzip
import lzma
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from struct import pack, pack_into, unpack_from
from typing import Final
from uuid import UUID

from steelyard.evidence.eventlog.variables import EFI_GLOBAL_VARIABLE, UefiVariable


def _aligned(offset: int, boundary: int) -> int:
    return -(-offset // boundary) * boundary


def _padded(data: bytes, filler: bytes) -> bytes:
    return data + filler * (-len(data) % 4)


# -- EFI applications --------------------------------------------------------------------------------------------------

_PAGE: Final = 0x1000
_FILE_ALIGNMENT: Final = 0x200

PE32: Final = 0x10B
PE32_PLUS: Final = 0x20B


@dataclass(frozen=True, slots=True)
class Section:
    """A section of a PE file; the sizes and the address are what fits the content unless said otherwise."""

    name: bytes
    content: bytes
    virtual_size: int | None = None
    virtual_address: int | None = None


def pe_image(
    sections: Sequence[Section],
    *,
    magic: int = PE32_PLUS,
    subsystem: int = 10,
    directories: int = 16,
    trailing: bytes = b"",
    certificates: bytes = b"",
) -> bytes:
    """Return a PE file of these sections, each aligned and padded as linkers do it."""
    fixed = 96 if magic == PE32 else 112
    optional_bytes = fixed + 8 * directories
    header_bytes = _aligned(0x40 + 24 + optional_bytes + 40 * len(sections), _FILE_ALIGNMENT)
    table, body = b"", b""
    address = _aligned(header_bytes, _PAGE)
    for section in sections:
        raw = section.content + bytes(-len(section.content) % _FILE_ALIGNMENT)
        size = len(section.content) if section.virtual_size is None else section.virtual_size
        at = address if section.virtual_address is None else section.virtual_address
        table += pack("<8sIIIIIIHHI", section.name, size, at, len(raw), header_bytes + len(body), 0, 0, 0, 0, 0)
        body += raw
        address = _aligned(address + max(size, 1), _PAGE) % 2**32
    body += trailing
    optional = bytearray(optional_bytes)
    pack_into("<H", optional, 0, magic)
    pack_into("<I", optional, 60, header_bytes)
    pack_into("<I", optional, 64, 0x12345678)
    pack_into("<H", optional, 68, subsystem)
    pack_into("<I", optional, fixed - 4, directories)
    if certificates:
        pack_into("<II", optional, fixed + 32, header_bytes + len(body), len(certificates))
    dos = b"MZ" + bytes(0x3A) + pack("<I", 0x40)
    coff = b"PE\0\0" + pack("<HHIIIHH", 0x14C if magic == PE32 else 0x8664, len(sections), 0, 0, 0, optional_bytes, 0)
    return (dos + coff + optional + table).ljust(header_bytes, b"\0") + body + certificates


def kernel_image(
    describes: Iterable[bytes] = (b"Linux initrd\0", b"LOADED_IMAGE::LoadOptions\0"),
) -> bytes:
    """Return what a unified image may carry as its kernel: an EFI application with these words in it."""
    return pe_image([Section(b".text", b"kernel " + b"".join(describes))])


STUB_SECTIONS: Final = (".linux", ".osrel", ".cmdline", ".initrd", ".splash", ".dtb", ".pcrsig", ".pcrpkey")
"""What the stub of systemd 252 knows. Source: its own strings, of Debian 12's build."""


def unified_image(
    passed: Mapping[str, bytes],
    *,
    mark: bytes = b"#### LoaderInfo: systemd-stub 252.39-1~deb12u2 ####\0",
    knows: Iterable[str] = STUB_SECTIONS,
    more: Sequence[Section] = (),
) -> bytes:
    """Return a unified kernel image of these sections behind a stub that knows the given names."""
    code = b"".join(name.encode() + b"\0" for name in knows)
    own = [Section(b".text", b"code of the stub \0" + code), Section(b".sdmagic", mark)]
    return pe_image([*own, *(Section(name.encode(), content) for name, content in passed.items()), *more])


# -- firmware volumes --------------------------------------------------------------------------------------------------

FILE_SYSTEM_2: Final = UUID("8c8ce578-8a3d-4f1c-9935-896185c32dd3")
FILE_SYSTEM_3: Final = UUID("5473c07a-3dcb-4dca-bd6f-1e9689e7349a")
VARIABLE_FILE_SYSTEM: Final = UUID("fff12b8d-7696-4c8b-a985-2747075b4f50")
LZMA_GUID: Final = UUID("ee4e5898-3914-4259-9d6e-dc7bd79403cf")
SEC, PEI, DXE, DRIVER, IMAGE = 0x03, 0x04, 0x05, 0x07, 0x0B


def firmware_volume(
    body: bytes, *, file_system: UUID = FILE_SYSTEM_2, free: int = 64, attributes: int = 0x4FEFF, extension: bytes = b""
) -> bytes:
    """Return a volume of this body and free space after it.

    extension  what an extended header holds besides its name and size; without one if empty.
    """
    if extension:
        extended = bytes(16) + pack("<I", 20 + len(extension)) + extension
        body = extended + bytes(-(72 + len(extended)) % 8) + body
    size = 72 + len(body) + free
    header = bytearray(
        pack(
            "<16s16sQ4sIHHHBB",
            b"",
            file_system.bytes_le,
            size,
            b"_FVH",
            attributes,
            72,
            0,
            72 if extension else 0,
            0,
            2,
        )
        + pack("<IIII", 1, size, 0, 0)
    )
    fix_volume_checksum(header)
    return bytes(header) + body + b"\xff" * free


def fix_volume_checksum(volume: bytearray) -> None:
    """Set the checksum of a volume's 72 bytes of header to what they need."""
    volume[50:52] = b"\0\0"
    pack_into("<H", volume, 50, -sum(unpack_from("<36H", volume)) & 0xFFFF)


def firmware_file(kind: int, content: bytes, *, attributes: int = 0, state: int = 0xF8) -> bytes:
    """Return a file for a volume, padded to where the next may begin."""
    large = attributes & 1
    size = (32 if large else 24) + len(content)
    header = bytearray(b"\xab" * 16 + bytes([0, 0, kind, attributes]))
    header += (b"\0\0\0" if large else size.to_bytes(3, "little")) + b"\0" + (pack("<Q", size) if large else b"")
    header[16] = -sum(header) & 0xFF
    header[17] = -sum(content) & 0xFF if attributes & 0x40 else 0xAA
    header[23] = state
    return (bytes(header) + content).ljust(_aligned(size, 8), b"\xff")


def firmware_section(kind: int, content: bytes) -> bytes:
    """Return a section, padded to where the next may begin."""
    size = 4 + len(content)
    if size < 0xFFFFFF:
        section = size.to_bytes(3, "little") + bytes([kind]) + content
    else:
        section = b"\xff\xff\xff" + bytes([kind]) + pack("<I", size + 4) + content
    return section + bytes(-len(section) % 4)


def lzma_section(content: bytes, *, guid: UUID = LZMA_GUID, claimed_size: int | None = None) -> bytes:
    """Return a GUID-defined section that unpacks to `content`, or says that it unpacks to another size."""
    # LZMA's old format with the size in the header, as EDK2's tool writes it; Python's writes an end mark instead.
    filters = [{"id": lzma.FILTER_LZMA1, "lc": 3, "lp": 0, "pb": 2, "dict_size": 1 << 16}]
    size = len(content) if claimed_size is None else claimed_size
    stream = pack("<BIQ", 0x5D, 1 << 16, size) + lzma.compress(content, lzma.FORMAT_RAW, filters=filters)
    return firmware_section(0x02, guid.bytes_le + pack("<HH", 24, 1) + stream)


def volume_section(volume: bytes) -> bytes:
    """Return a section that holds a volume."""
    return firmware_section(0x17, volume)


PEI_VOLUME: Final = firmware_volume(firmware_file(PEI, b"PEI core") + firmware_file(0x06, b"PEI module"))
DXE_VOLUME: Final = firmware_volume(firmware_file(DXE, b"DXE core") + firmware_file(DRIVER, b"a driver"))
SEC_VOLUME: Final = firmware_volume(firmware_file(SEC, b"first code"))


def firmware_image(
    *,
    pei: bytes = PEI_VOLUME,
    dxe: bytes = DXE_VOLUME,
    sec: bytes = SEC_VOLUME,
    packed: Callable[[bytes], bytes] = lzma_section,
) -> bytes:
    """Return a firmware file that is put together as OVMF is."""
    sections = firmware_section(0x19, b"filler") + volume_section(pei) + volume_section(dxe)
    return firmware_volume(firmware_file(IMAGE, packed(sections)), extension=b"ext.") + sec


# -- variables ---------------------------------------------------------------------------------------------------------

AUTHENTICATED_STORE: Final = UUID("aaf32c78-947b-439a-a180-2e144ec37792")
IMAGE_SECURITY: Final = UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
SECURE_BOOT_ENABLE: Final = UUID("f0a30bc7-af08-4556-99c4-001009c93a44")
X509: Final = UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
SHA256_HASH: Final = UUID("c1c41626-504c-4092-aca9-41f936934328")
OWNER: Final = UUID("00112233-4455-6677-8899-aabbccddeeff")

_ADDED: Final = 0x3F


def blank_store(size: int = 0x2000) -> bytes:
    """Return a firmware file of one volume with an empty variable store."""
    store = AUTHENTICATED_STORE.bytes_le + pack("<IBBHI", size - 72, 0x5A, 0xFE, 0, 0)
    return firmware_volume(store.ljust(size - 72, b"\xff"), file_system=VARIABLE_FILE_SYSTEM, free=0)


def stored_variable(variable: UefiVariable, *, state: int = _ADDED, attributes: int = 0x27) -> bytes:
    """Return a variable as it lies in an authenticated store."""
    name = (variable.name + "\0").encode("utf-16-le")
    sizes = pack("<II", len(name), len(variable.value))
    head = b"\xaa\x55" + pack("<BBIQ16sI", state, 0, attributes, 0, b"", 0) + sizes + variable.vendor.bytes_le
    return _padded(head + name + variable.value, b"\xff")


def write_store(blank: bytes, variables: Iterable[bytes]) -> bytes:
    """Return a store that was empty, such as Debian's OVMF_VARS.fd, with these variables in it."""
    at = unpack_from("<H", blank, 48)[0] + 28
    written = b"".join(variables)
    return blank[:at] + written + blank[at + len(written) :]


def signature_list(kind: UUID, entries: Sequence[bytes], owner: UUID = OWNER) -> bytes:
    """Return an EFI_SIGNATURE_LIST of entries that are all of one size."""
    size = 16 + len(entries[0])
    return (
        kind.bytes_le
        + pack("<III", 28 + size * len(entries), 0, size)
        + b"".join(owner.bytes_le + entry for entry in entries)
    )


def secure_boot_store(blank: bytes, *, pk: bytes, kek: bytes, db: bytes, dbx: bytes, dbt: bytes) -> bytes:
    """Return a store in which Secure Boot is set up with these signature lists."""
    return write_store(
        blank,
        [
            stored_variable(UefiVariable(IMAGE_SECURITY, "db", db)),
            stored_variable(UefiVariable(IMAGE_SECURITY, "dbx", dbx)),
            stored_variable(UefiVariable(IMAGE_SECURITY, "dbt", dbt)),
            stored_variable(UefiVariable(EFI_GLOBAL_VARIABLE, "KEK", kek)),
            stored_variable(UefiVariable(EFI_GLOBAL_VARIABLE, "PK", pk)),
            stored_variable(UefiVariable(SECURE_BOOT_ENABLE, "SecureBootEnable", b"\1"), attributes=0x3),
        ],
    )


# -- Debian packages ---------------------------------------------------------------------------------------------------


def tar_member(
    name: bytes,
    content: bytes = b"",
    *,
    kind: bytes = b"0",
    target: bytes = b"",
    magic: bytes = b"ustar  \0",
    size: bytes | None = None,
    prefix: bytes = b"",
) -> bytes:
    """Return a member of a tar archive, GNU format, with its content and padding."""
    length = b"%011o\0" % len(content) if size is None else size
    header = bytearray(
        name.ljust(100, b"\0")
        + b"0000644\0" * 3
        + length
        + b"00000000000\0"
        + b" " * 8
        + kind
        + target.ljust(100, b"\0")
        + magic
    ).ljust(345, b"\0")
    header = (header + prefix).ljust(512, b"\0")
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + content + bytes(-len(content) % 512)


TAR_END: Final = bytes(1024)


def ar_member(name: bytes, content: bytes) -> bytes:
    """Return a member of an ar archive."""
    return name.ljust(48) + b"%-10d`\n" % len(content) + content + b"\n" * (len(content) % 2)


def debian_package(
    members: Iterable[bytes], *, name: bytes = b"data.tar.xz", pack_with: Callable[[bytes], bytes] = lzma.compress
) -> bytes:
    """Return a .deb with these tar members as its files."""
    data = pack_with(b"".join(members) + TAR_END)
    return (
        b"!<arch>\n"
        + ar_member(b"debian-binary", b"2.0\n")
        + ar_member(b"control.tar.xz", lzma.compress(TAR_END))
        + ar_member(name, data)
    )


def gzipped(data: bytes) -> bytes:
    """Return `data` compressed with gzip, the same bytes each time."""
    return gzip.compress(data, mtime=0)
