"""What of an image boots, and what that measures to: found in the image, by no word of its owner.

Looked for in this order: a unified kernel image; an entry by the Boot Loader Specification; GRUB's configuration; a
kernel as Debian installs it, with the command line as kernel-install keeps it. Of several of a kind it is the newest,
by version; of GRUB's entries the first, which is its default. LVM, LUKS, and other file systems than ext2 to ext4 and
FAT are not looked into.

Source: UAPI.1 Boot Loader Specification; UAPI.2 Unified Kernel Images; GNU GRUB Manual 2.06; kernel-install(8).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from steelyard.evidence.reader import refuse_over
from steelyard.evidence.reference.banks import digests_of
from steelyard.evidence.reference.measurement import Measurement, Presence
from steelyard.evidence.reference.uki import measurements_of_uki
from steelyard.evidence.reference.version import Version
from steelyard.imaging.filesystems import FileSystem, find_file_systems, is_path
from steelyard.imaging.ports import ImageFile
from steelyard.model.errors import MalformedArtefact, MalformedImage, WrongUse
from steelyard.model.limits import (
    BOOT_FILE_BYTES,
    COMMAND_LINE_BYTES,
    EFI_APPLICATION_BYTES,
    INITRAMFS_BYTES,
    KERNEL_BYTES,
)

HANDOVER_PCR: Final = 13
"""Into which the airlock extends what it boots."""

_DOING: Final = "looking for what boots in an image"
_UNIFIED: Final = "/EFI/Linux"
_ENTRIES: Final = ("/loader/entries", "/boot/loader/entries")
_GRUB: Final = ("/boot/grub/grub.cfg", "/grub/grub.cfg", "/boot/grub2/grub.cfg", "/grub2/grub.cfg")
_INSTALLED: Final = ("/boot", "/")
_INSTALLED_LINE: Final = ("/etc/kernel/cmdline", "/cmdline")
_KERNEL_PREFIX: Final = "vmlinuz-"
_INITRAMFS_PREFIX: Final = "initrd.img-"


@dataclass(frozen=True, slots=True)
class UnifiedBoot:
    """A unified kernel image, as a file of its own; `measurements` are those of its boot by firmware."""

    image: Path
    measurements: tuple[Measurement, ...]


@dataclass(frozen=True, slots=True)
class DirectBoot:
    """A kernel and what it is given, as files of their own; `measurements` are those of its boot by the airlock.

    initramfs     all that there is of it, as the kernel gets it; None if there is none.
    command_line  None if nothing in the image says what it should be.
    """

    kernel: Path
    initramfs: Path | None
    command_line: str | None
    measurements: tuple[Measurement, ...]


Boot = UnifiedBoot | DirectBoot


@dataclass(frozen=True, slots=True)
class Entry:
    """What a boot loader is told to load, by paths of the file system that told it."""

    kernel: str
    initramfs: tuple[str, ...]
    command_line: str


def find_boot(disk: ImageFile, place: Path) -> Boot | None:
    """Return what boots of the disk, taken out into the directory `place`; None if nothing that is known does.

    Raises MalformedImage, TooLarge: it is damaged, or not what it seems.
    """
    file_systems = find_file_systems(disk.path)
    for find in (_find_unified, _find_entry, _find_grub, _find_installed):
        for file_system in file_systems:
            boot = find(file_system, place)
            if boot is not None:
                return boot
    return None


def _find_unified(file_system: FileSystem, place: Path) -> UnifiedBoot | None:
    name = _newest([each for each in file_system.names(_UNIFIED) if each.lower().endswith(".efi")])
    target = place / "unified"
    if name is None or not file_system.read(f"{_UNIFIED}/{name}", target, EFI_APPLICATION_BYTES):
        return None
    try:
        return UnifiedBoot(target, measurements_of_uki(target.read_bytes()))
    except MalformedArtefact as error:
        raise MalformedImage(_DOING, expected=f"a unified kernel image {name}", found=str(error)) from error


def _find_entry(file_system: FileSystem, place: Path) -> DirectBoot | None:
    for directory in _ENTRIES:
        name = _newest([each for each in file_system.names(directory) if each.endswith(".conf")])
        text = None if name is None else _read_text(file_system, f"{directory}/{name}", place)
        if text is not None and (entry := parse_boot_entry(text)) is not None:
            return _take(file_system, entry, place)
    return None


def _find_grub(file_system: FileSystem, place: Path) -> DirectBoot | None:
    for path in _GRUB:
        text = _read_text(file_system, path, place)
        if text is not None and (entry := parse_grub_configuration(text)) is not None:
            return _take(file_system, entry, place)
    return None


def _find_installed(file_system: FileSystem, place: Path) -> DirectBoot | None:
    for directory in _INSTALLED:
        names = file_system.names(directory)
        kernel = _newest([each for each in names if each.startswith(_KERNEL_PREFIX)])
        if kernel is None:
            continue
        initramfs = _INITRAMFS_PREFIX + kernel.removeprefix(_KERNEL_PREFIX)
        lines = (_read_text(file_system, path, place) for path in _INSTALLED_LINE)
        line = next((" ".join(text.split()) for text in lines if text is not None), "")
        below = directory.rstrip("/")
        given = (f"{below}/{initramfs}",) if initramfs in names else ()
        return _take(file_system, Entry(f"{below}/{kernel}", given, line), place)
    return None


def parse_boot_entry(text: str) -> Entry | None:
    """Return what an entry by the Boot Loader Specification loads; None if it loads something else than a kernel."""
    keys: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, _, value = line.strip().partition(" ")
        if key and not key.startswith("#"):
            keys.setdefault(key, []).append(value.strip())
    if len(keys.get("linux", [])) != 1:
        return None
    return _entry(keys["linux"][0], keys.get("initrd", []), " ".join(keys.get("options", [])).split())


def parse_grub_configuration(text: str) -> Entry | None:
    """Return what the first entry of GRUB's loads; None if there is none.

    The file is a program. What update-grub writes of it is read, not run: words that GRUB would fill in are left out
    of the command line, and a kernel with such a name is none.
    """
    lines = iter(text.splitlines())
    for line in lines:
        words = line.split()
        if len(words) > 1 and words[0] in ("linux", "linuxefi"):
            break
    else:
        return None
    initramfs: list[str] = []
    for line in lines:
        following = line.split()
        if following[:1] == ["}"]:
            break
        if following[:1] in (["initrd"], ["initrdefi"]):
            initramfs += following[1:]
    return _entry(words[1], initramfs, [word for word in words[2:] if "$" not in word])


def _entry(kernel: str, initramfs: Iterable[str], options: Sequence[str]) -> Entry | None:
    paths = tuple(f"/{path.lstrip('/')}" for path in (kernel, *initramfs))
    return Entry(paths[0], paths[1:], " ".join(options)) if all(map(is_path, paths)) else None


def _take(file_system: FileSystem, entry: Entry, place: Path) -> DirectBoot:
    kernel, initramfs = place / "kernel", place / "initramfs"
    if not file_system.read(entry.kernel, kernel, KERNEL_BYTES):
        raise MalformedImage(_DOING, expected=f"the kernel {entry.kernel}, as is said there", found="none")
    measurements = [_measured("kernel", kernel.read_bytes())]
    parts = []
    for number, path in enumerate(entry.initramfs):
        part = place / f"initramfs-{number}"
        if not file_system.read(path, part, INITRAMFS_BYTES):
            raise MalformedImage(_DOING, expected=f"the initramfs {path}, as is said there", found="none")
        parts.append(part)
    if parts:
        _join(parts, initramfs)
        measurements.append(_measured("initramfs", initramfs.read_bytes()))
    line = entry.command_line or None
    if line is not None:
        refuse_over(COMMAND_LINE_BYTES, len(line), _DOING)
        if not (line.isascii() and line.isprintable()):
            raise MalformedImage(_DOING, expected="a command line of printable ASCII", found=line)
        measurements.append(_measured("command line", line.encode("ascii")))
    return DirectBoot(kernel, initramfs if parts else None, line, tuple(measurements))


def _join(parts: Sequence[Path], target: Path) -> None:
    """Put archives one after the other, each at a multiple of 4 bytes, as the kernel looks for them."""
    refuse_over(INITRAMFS_BYTES, sum(part.stat().st_size for part in parts), _DOING)
    with target.open("xb") as file:
        for part in parts:
            file.write(bytes(-file.tell() % 4))
            file.write(part.read_bytes())
            part.unlink()


def _measured(what: str, data: bytes) -> Measurement:
    return Measurement(HANDOVER_PCR, what, Presence.ALWAYS, digests_of(data))


def _read_text(file_system: FileSystem, path: str, place: Path) -> str | None:
    target = place / "text"
    if not file_system.read(path, target, BOOT_FILE_BYTES):
        return None
    text = target.read_bytes().decode("utf-8", "replace")
    target.unlink()
    return text


def _newest(names: Sequence[str]) -> str | None:
    """Return the name with the highest version in it, by Debian's order; of names without one the last."""
    return max(names, key=_version, default=None)


def _version(name: str) -> tuple[bool, Version, str]:
    number = re.search(r"[0-9][A-Za-z0-9.+~:-]*", name)
    try:
        return True, Version(number[0]) if number else Version("0"), name
    except WrongUse:
        return False, Version("0"), name
