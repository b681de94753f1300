"""Unified kernel images: what firmware, systemd-stub and the kernel in the image measure when it is booted.

One PE file holds stub, kernel, initramfs and command line. Firmware measures the file (PCR 4) and then the kernel that
the stub hands it (PCR 4 again), the stub each of its sections (PCR 11), the kernel's own EFI stub the command line and
the initramfs that it is given (PCR 9). Nothing goes into PCR 8, 12 and 13 unless somebody passes another command line,
a credential or an add-on beside the image: no reference covers such an event, which is the point.

Shown to be so by boots of the stubs of systemd 252, 254 and 257 with the kernels 6.1 and 6.12; what changed between
these stubs is told by systemd's history.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from steelyard.evidence.cpio import ARCHIVE_END, archive_entry, padding
from steelyard.evidence.reader import refuse_over
from steelyard.evidence.reference.banks import digests_of
from steelyard.evidence.reference.measurement import Measurement, Presence
from steelyard.evidence.reference.pe import PeImage, measurements_of_efi_application, parse_pe
from steelyard.model.errors import MalformedArtefact
from steelyard.model.limits import COMMAND_LINE_BYTES
from steelyard.model.text import printable

_DOING: Final = "reading a unified kernel image"

_MEASURED_SECTIONS: Final = (
    b".linux",
    b".osrel",
    b".cmdline",
    b".initrd",
    b".ucode",
    b".splash",
    b".dtb",
    b".uname",
    b".sbat",
    b".pcrpkey",
)
"""In the order in which a stub measures those it knows. Source: UAPI.5 Unified Kernel Image."""
_PASSED_SECTIONS: Final = frozenset({*_MEASURED_SECTIONS, b".pcrsig"})
""".pcrsig signs what the measurements come to, so that it is not measured itself; it is passed to the kernel."""
_CHOSEN_SECTIONS: Final = frozenset({b".profile", b".dtbauto", b".hwids", b".efifw"})
"""What is measured of these depends on the machine, and on who boots it."""

_STUB_VERSION: Final = re.compile(rb"#### LoaderInfo: systemd-stub ([0-9]{3})(?:[^0-9#][^#]{0,64})? ####\0*")
_KNOWN_STUBS: Final = range(252, 258)
"""From 258 on the stub starts the kernel without the firmware, and may pass on what only the machine knows."""
_STRIPS_BOTH_ENDS: Final = 255
"""The first stub that strips the command line at its start; all of them strip its end."""
_PASSES_OS_RELEASE: Final = 257
"""The first stub that puts .osrel into the initramfs."""

_KERNEL_MEASURES_COMMAND_LINE: Final = re.compile(rb"LOADED_IMAGE::LoadOptions\0")
_KERNEL_MEASURES_INITRAMFS: Final = re.compile(rb"Linux initrd\0")
"""How a kernel that measures the two describes the event. One without the words is older, and makes no such event."""


def measurements_of_uki(image: bytes) -> tuple[Measurement, ...]:
    """Return all that a boot of the unified kernel image measures, in that order, in the PCRs 4, 9 and 11.

    It holds for a firmware that measures what is loaded through it, and a boot without parameters of its own.

    Raises MalformedArtefact, also for a stub that is not known to measure like this; TooLarge.
    Source: systemd, docs/TPM2_PCR_MEASUREMENTS.md; Linux, drivers/firmware/efi/libstub.
    """
    parsed = parse_pe(image)
    contents = _contents_of(parsed)
    stub = _stub_of(parsed)
    kernel = contents.get(b".linux")
    if kernel is None:
        raise MalformedArtefact(_DOING, expected="a kernel, in .linux", found="no such section")
    return (
        *measurements_of_efi_application(image),
        *_measured_by_stub(stub, contents),
        *_measured_of_kernel(kernel),
        *_measured_by_kernel(stub, contents, kernel),
    )


@dataclass(frozen=True, slots=True)
class _Stub:
    """The program that the image starts: its major version, and which sections it looks for."""

    version: int
    knows: frozenset[bytes]


def _contents_of(image: PeImage) -> Mapping[bytes, memoryview]:
    """Return what the stub finds in memory as each section that means something to it.

    Refuses what stubs of different versions take differently: the old ones match the start of a name, and the last one.
    """
    # Loaders take a size of 0 for that of the file's part.
    spans = sorted((each.virtual_address, each.virtual_size or len(each.raw)) for each in image.sections)
    for (start, length), (following, _) in pairwise([(0, image.header_bytes), *spans]):
        if start + length > following:
            raise MalformedArtefact(
                _DOING,
                expected="headers and sections that do not overlap in memory",
                found=f"{length} bytes at {start} run into what begins at {following}",
            )
    contents: dict[bytes, memoryview] = {}
    for section in image.sections:
        name, shown = section.name, printable(section.name)
        if name in _CHOSEN_SECTIONS:
            raise MalformedArtefact(_DOING, expected="sections that every boot measures alike", found=shown)
        if name not in _PASSED_SECTIONS:
            if name.startswith(tuple(_PASSED_SECTIONS)):
                raise MalformedArtefact(_DOING, expected="no name that continues one with a meaning", found=shown)
            continue
        if name in contents:
            raise MalformedArtefact(_DOING, expected=f"one section {shown}", found="a second")
        if not 0 < section.virtual_size <= len(section.raw):
            raise MalformedArtefact(
                _DOING,
                expected=f"a section {shown} that is in the file, whole",
                found=f"{section.virtual_size} bytes in memory, {len(section.raw)} in the file",
            )
        contents[name] = section.raw[: section.virtual_size]
    return contents


def _stub_of(image: PeImage) -> _Stub:
    marks = [bytes(section.raw[: section.virtual_size]) for section in image.sections if section.name == b".sdmagic"]
    versions = [int(match[1]) for mark in marks if (match := _STUB_VERSION.fullmatch(mark))]
    if len(marks) != 1 or not versions or versions[0] not in _KNOWN_STUBS:
        raise MalformedArtefact(
            _DOING,
            expected=f"a systemd-stub of version {_KNOWN_STUBS[0]} to {_KNOWN_STUBS[-1]}, by its .sdmagic section",
            found=printable(b"".join(marks)) or "none",
        )
    # Distributions give new sections to old stubs, so which ones are measured is asked of the stub, not of its version.
    code = [section.raw for section in image.sections if section.name not in _PASSED_SECTIONS]
    knows = {name for name in _MEASURED_SECTIONS for part in code if re.search(re.escape(name) + rb"\0", part)}
    return _Stub(versions[0], frozenset(knows))


def _measured_by_stub(stub: _Stub, contents: Mapping[bytes, memoryview]) -> Iterator[Measurement]:
    for name in _MEASURED_SECTIONS:
        if name in stub.knows and name in contents:
            shown = name.decode("ascii")
            yield Measurement(11, f"name of section {shown}", Presence.ALWAYS, digests_of(name + b"\0"))
            yield Measurement(11, f"section {shown}", Presence.ALWAYS, digests_of(contents[name]))


def _measured_of_kernel(kernel: memoryview) -> Iterator[Measurement]:
    # With Secure Boot on, the stub vouches for the kernel itself and firmware, not asked, does not measure it.
    for measurement in measurements_of_efi_application(kernel):
        yield replace(measurement, what="kernel in .linux", presence=Presence.SOMETIMES)


def _measured_by_kernel(stub: _Stub, contents: Mapping[bytes, memoryview], kernel: memoryview) -> Iterator[Measurement]:
    if b".cmdline" in contents and _KERNEL_MEASURES_COMMAND_LINE.search(kernel):
        options = _load_options(stub, contents[b".cmdline"])
        yield Measurement(9, "command line", Presence.ALWAYS, digests_of(options))
    initramfs = _initramfs(stub, contents)
    if initramfs and _KERNEL_MEASURES_INITRAMFS.search(kernel):
        yield Measurement(9, "initramfs", Presence.ALWAYS, digests_of(*initramfs))


def _load_options(stub: _Stub, section: memoryview) -> bytes:
    """Return what the stub makes of .cmdline for the kernel: UTF-16, control characters as spaces, a NUL at the end."""
    refuse_over(COMMAND_LINE_BYTES, len(section), _DOING)
    line = bytes(section).rstrip(b"\0")
    if not line.strip() or not all(0 < letter < 0x7F for letter in line):
        raise MalformedArtefact(_DOING, expected="a command line in ASCII, in .cmdline", found=printable(line))
    spaced = "".join(chr(max(letter, ord(" "))) for letter in line).rstrip()
    if stub.version >= _STRIPS_BOTH_ENDS:
        spaced = spaced.lstrip()
    return (spaced + "\0").encode("utf-16-le")


def _initramfs(stub: _Stub, contents: Mapping[bytes, memoryview]) -> list[bytes | memoryview]:
    """Return the parts of what the stub gives the kernel to unpack: the image's own archives, then those it makes."""
    own = [b".ucode", b".initrd"] if b".ucode" in stub.knows else [b".initrd"]
    made = {b".pcrsig": b"tpm2-pcr-signature.json", b".pcrpkey": b"tpm2-pcr-public-key.pem"}
    if stub.version >= _PASSES_OS_RELEASE:
        made[b".osrel"] = b"os-release"
    archives: list[bytes | memoryview] = [contents[name] for name in own if name in contents]
    archives += [_archive(file_name, contents[name]) for name, file_name in made.items() if name in contents]
    if len(archives) == 1:
        return archives
    return [part for archive in archives for part in (archive, padding(len(archive)))]


def _archive(file_name: bytes, contents: memoryview) -> bytes:
    """Return the cpio archive by which the stub passes a section on, as the file of that name in /.extra."""
    directory = archive_entry(b".extra", 0o040555, b"", inode=1)
    file = archive_entry(b".extra/" + file_name, 0o100444, contents, inode=2)
    return directory + file + ARCHIVE_END.replace(b"0000000b", b"0000000B")
