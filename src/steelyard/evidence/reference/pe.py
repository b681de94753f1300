"""EFI applications: the PE/COFF file, its sections, and the Authenticode digest by which firmware measures it.

Strict where a lenient reading would let two readers see two files: sections may not overlap, and the certificate table
is the end of the file. What the sections mean is for `uki`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import Final

from steelyard.evidence.reader import LittleEndianReader, refuse_over
from steelyard.evidence.reference.banks import digests_of
from steelyard.evidence.reference.measurement import Measurement, Presence
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import MalformedArtefact
from steelyard.model.limits import EFI_APPLICATION_BYTES, PE_SECTIONS
from steelyard.model.text import printable

_DOING: Final = "reading an EFI application"

_DOS_HEADER_BYTES: Final = 0x40
_PE_OFFSET_AT: Final = 0x3C
_CHECKSUM_AT: Final = 64
"""In the optional header, of both formats."""
_CHECKSUM_BYTES: Final = 4
_DIRECTORIES_AT: Final = {0x10B: 96, 0x20B: 112}
"""Where the data directories begin in the optional header, per its magic: PE32 and PE32+."""
_DIRECTORY_BYTES: Final = 8
_MOST_DIRECTORIES: Final = 16
_SECURITY_DIRECTORY: Final = 4


class Subsystem(IntEnum):
    """What firmware starts an image as. Source: UEFI 2.10, section 2.1.1."""

    APPLICATION = 10
    BOOT_SERVICE_DRIVER = 11
    RUNTIME_DRIVER = 12


_PCR_BY_SUBSYSTEM: Final = {
    Subsystem.APPLICATION: (4, "EFI application"),
    Subsystem.BOOT_SERVICE_DRIVER: (2, "EFI boot service driver"),
    Subsystem.RUNTIME_DRIVER: (2, "EFI runtime driver"),
}
"""Source: TCG PC Client Platform Firmware Profile 1.06, sections 3.3.4.3 and 3.3.4.5."""


@dataclass(frozen=True, slots=True)
class PeSection:
    """One section: `raw` is what the file holds of it; the loader puts `virtual_size` bytes at `virtual_address`."""

    name: bytes
    virtual_address: int
    virtual_size: int
    raw_offset: int
    raw: memoryview


@dataclass(frozen=True, slots=True)
class PeImage:
    """A PE file whose structure was checked.

    header_bytes  of the file's start, which the loader puts before the sections.
    sections      in the order of the file's section table.
    hashed        the file's bytes that Authenticode covers, in its order: all but the checksum, the security directory
                  and the certificate table.
    """

    subsystem: Subsystem
    header_bytes: int
    sections: tuple[PeSection, ...]
    hashed: tuple[memoryview, ...]

    def authenticode_digests(self) -> Mapping[HashAlgorithm, bytes]:
        """Return what firmware extends when it loads the image, per bank.

        Source: Windows Authenticode Portable Executable Signature Format, "Calculating the PE Image Hash", without the
        padding to 8 bytes that signing tools add: firmware hashes the file as it is.
        """
        return digests_of(*self.hashed)


def measurements_of_efi_application(image: bytes | memoryview) -> tuple[Measurement, ...]:
    """Return the one measurement that firmware makes of an EFI application (PCR 4) or driver (PCR 2) it loads.

    Raises MalformedArtefact, TooLarge.
    """
    parsed = parse_pe(image)
    pcr, what = _PCR_BY_SUBSYSTEM[parsed.subsystem]
    return (Measurement(pcr, what, Presence.ALWAYS, parsed.authenticode_digests()),)


def parse_pe(image: bytes | memoryview) -> PeImage:
    """Return the PE32 or PE32+ image in `image`, the bytes of a file.

    Raises MalformedArtefact, TooLarge.
    Source: Microsoft PE Format; what UEFI loaders demand of it beyond that: UEFI 2.10, section 2.1.1.
    """
    refuse_over(EFI_APPLICATION_BYTES, len(image), _DOING)
    view = memoryview(image)
    reader = LittleEndianReader(bytes(view[:_DOS_HEADER_BYTES]), _DOING, MalformedArtefact)
    if (magic := reader.take(2, "DOS magic")) != b"MZ":
        raise reader.wrong('the magic "MZ"', printable(magic))
    reader.take(_PE_OFFSET_AT - 2, "DOS header")
    pe_at = reader.u32("offset of the PE header")

    reader = LittleEndianReader(bytes(view[pe_at : pe_at + 24]), _DOING, MalformedArtefact)
    if (magic := reader.take(4, "PE magic")) != b"PE\0\0":
        raise reader.wrong('the magic "PE"', printable(magic))
    reader.u16("machine")
    section_count = reader.u16("count of sections")
    reader.take(12, "time stamp and symbol table")
    optional_bytes = reader.u16("size of the optional header")
    reader.u16("characteristics")
    refuse_over(PE_SECTIONS, section_count, _DOING)

    optional_at = pe_at + 24
    table_at = optional_at + optional_bytes
    optional = _parse_optional_header(bytes(view[optional_at:table_at]), optional_bytes)
    if not table_at + 40 * section_count <= optional.header_bytes <= len(view):
        raise MalformedArtefact(
            _DOING,
            expected=f"headers that hold the section table and end in the file of {len(view)} bytes",
            found=f"{optional.header_bytes} bytes of headers, section table at {table_at}",
        )
    table = LittleEndianReader(bytes(view[table_at : table_at + 40 * section_count]), _DOING, MalformedArtefact)
    sections = tuple(_read_section(table, view) for _ in range(section_count))
    table.end()
    end = _refuse_unruly(sections, optional, len(view))

    hashed = [view[: optional_at + _CHECKSUM_AT]]
    after_checksum = optional_at + _CHECKSUM_AT + _CHECKSUM_BYTES
    if optional.security_directory_at is None:
        hashed.append(view[after_checksum : optional.header_bytes])
    else:
        directory_at = optional_at + optional.security_directory_at
        hashed.append(view[after_checksum:directory_at])
        hashed.append(view[directory_at + _DIRECTORY_BYTES : optional.header_bytes])
    hashed.extend(section.raw for section in sorted(sections, key=lambda section: section.raw_offset))
    # Where sections leave gaps this rest begins before the last section's end. So does the standard's, and firmware's.
    hashed.append(view[optional.header_bytes + sum(len(section.raw) for section in sections) : end])
    return PeImage(optional.subsystem, optional.header_bytes, sections, tuple(hashed))


@dataclass(frozen=True, slots=True)
class _OptionalHeader:
    """The fields that matter; offsets from the optional header's start. No certificate table: offset and size 0."""

    header_bytes: int
    subsystem: Subsystem
    security_directory_at: int | None
    certificates_at: int
    certificates_bytes: int


def _parse_optional_header(header: bytes, size: int) -> _OptionalHeader:
    reader = LittleEndianReader(header, _DOING, MalformedArtefact)
    magic = reader.u16("magic of the optional header")
    if magic not in _DIRECTORIES_AT:
        raise reader.wrong("the magic of PE32 (0x10b) or PE32+ (0x20b)", f"{magic:#x}")
    directories_at = _DIRECTORIES_AT[magic]
    reader.take(58, "fields before the size of headers")
    header_bytes = reader.u32("size of headers")
    reader.take(_CHECKSUM_BYTES, "checksum")
    subsystem = reader.u16("subsystem")
    reader.take(directories_at - 4 - reader.position, "fields before the count of directories")
    directory_count = reader.u32("count of directories")
    if directory_count > _MOST_DIRECTORIES or size != directories_at + _DIRECTORY_BYTES * directory_count:
        raise reader.wrong(
            f"an optional header that ends with its data directories, {_MOST_DIRECTORIES} at most",
            f"{size} bytes, {directory_count} directories",
        )
    if subsystem not in set(Subsystem):
        raise reader.wrong("the subsystem of an EFI application or driver", f"{subsystem}")
    security_directory_at, certificates_at, certificates_bytes = None, 0, 0
    if directory_count > _SECURITY_DIRECTORY:
        reader.take(_DIRECTORY_BYTES * _SECURITY_DIRECTORY, "data directories")
        security_directory_at = reader.position
        certificates_at = reader.u32("offset of the certificate table")
        certificates_bytes = reader.u32("size of the certificate table")
    return _OptionalHeader(
        header_bytes, Subsystem(subsystem), security_directory_at, certificates_at, certificates_bytes
    )


def _read_section(table: LittleEndianReader, view: memoryview) -> PeSection:
    name = table.take(8, "section name").rstrip(b"\0")
    virtual_size = table.u32("virtual size")
    virtual_address = table.u32("virtual address")
    raw_size = table.u32("raw size")
    raw_offset = table.u32("raw offset")
    table.take(16, "relocations, line numbers, characteristics")
    if raw_size and raw_offset + raw_size > len(view):
        raise table.wrong(
            f"section {printable(name)} inside the file of {len(view)} bytes",
            f"{raw_size} bytes at {raw_offset}",
        )
    return PeSection(name, virtual_address, virtual_size, raw_offset, view[raw_offset : raw_offset + raw_size])


def _refuse_unruly(sections: tuple[PeSection, ...], optional: _OptionalHeader, size: int) -> int:
    """Return where the file ends for Authenticode, after checking that nothing overlaps.

    Overlap would hash bytes twice and leave as many at the end unhashed: a place to change a file under its digest.
    """
    end = size
    if optional.certificates_bytes:
        end = optional.certificates_at
        if end + optional.certificates_bytes != size:
            raise MalformedArtefact(
                _DOING,
                expected=f"a certificate table that ends the file of {size} bytes",
                found=f"{optional.certificates_bytes} bytes at {end}",
            )
    filled = sorted((section.raw_offset, len(section.raw)) for section in sections if section.raw)
    for (start, length), (following, _) in pairwise([(0, optional.header_bytes), *filled, (end, 0)]):
        if start + length > following:
            raise MalformedArtefact(
                _DOING,
                expected="headers, sections and certificates that do not overlap",
                found=f"{length} bytes at {start} run into what begins at {following}",
            )
    return end
