"""Reads files off a file system in an image: by e2fsprogs' debugfs and by mtools, confined, without mounting anything.

The kernel's own drivers would do it with the kernel's rights, and a file system that is made to break them is an old
trick.

Source: debugfs(8); mtools(1); Linux, Documentation/filesystems/ext4; UEFI Specification 2.10, section 13.3.
"""

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Protocol

from steelyard.evidence.reader import refuse_over
from steelyard.imaging.partitions import HEAD_BYTES, Partition, parse_partitions
from steelyard.imaging.tools import Outcome, read_output, run_confined
from steelyard.model.errors import MalformedImage
from steelyard.model.limits import BOOT_ENTRIES, TOOL_OUTPUT_BYTES, Limit

_SECONDS: Final = 60
_NAME: Final = r"[A-Za-z0-9_+~-][A-Za-z0-9._+~-]{0,127}"
_PATH: Final = re.compile(rf"(?:/{_NAME}){{1,16}}", re.ASCII)
"""What is asked for: nothing hidden, no blank, quote or wildcard, which the tools take for more than a name."""
_DISK: Final = "/disk"

_EXT_MAGIC_AT: Final = 1024 + 56
_EXT_MAGIC: Final = b"\x53\xef"
_FAT_MAGIC_AT: Final = 510
_FAT_MAGIC: Final = b"\x55\xaa"
_FAT_NAMES_AT: Final = (54, 82)
"""Where FAT12 or FAT16, and FAT32, say that they are."""


class FileSystem(Protocol):
    """A file system on a disk, as far as it is understood. Both methods may raise MalformedImage and TooLarge."""

    def names(self, directory: str) -> Sequence[str]:
        """Return the plain files in a directory, sorted; none if it is not there. Odd names are left out."""

    def read(self, path: str, target: Path, limit: Limit) -> bool:
        """Write the file to `target`, which is new; return False, and write nothing, if there is none."""


def find_file_systems(disk: Path) -> tuple[FileSystem, ...]:
    """Return those on a raw disk that can be read; one that firmware looks into comes first. Raises MalformedImage."""
    size = disk.stat().st_size
    found: list[FileSystem] = []
    with disk.open("rb") as file:
        partitions = parse_partitions(file.read(HEAD_BYTES), size) or (Partition(0, size, efi_system=False),)
        for partition in sorted(partitions, key=lambda each: not each.efi_system):
            file.seek(partition.start)
            start = file.read(_EXT_MAGIC_AT + len(_EXT_MAGIC))
            if start[_EXT_MAGIC_AT:] == _EXT_MAGIC:
                found.append(_Ext(disk, partition.start))
            elif start[_FAT_MAGIC_AT : _FAT_MAGIC_AT + 2] == _FAT_MAGIC and any(
                start[at : at + 3] == b"FAT" for at in _FAT_NAMES_AT
            ):
                found.append(_Fat(disk, partition.start))
    return tuple(found)


def is_path(path: str) -> bool:
    """Say whether this is a path that can be asked for."""
    return _PATH.fullmatch(path) is not None


@dataclass(frozen=True, slots=True)
class _Ext:
    """ext2 to ext4, by debugfs, which ends well whatever it finds: so sizes are compared."""

    disk: Path
    start: int

    def names(self, directory: str) -> Sequence[str]:
        return sorted(self._sizes(directory))

    def read(self, path: str, target: Path, limit: Limit) -> bool:
        directory, _, name = _checked(path).rpartition("/")
        size = self._sizes(directory or "/").get(name)
        if size is None:
            return False
        refuse_over(limit, size, _reading(path))
        with target.open("xb") as output:
            # It writes some words of its own as well, to its error output.
            self._run(f"cat {path}", output, max(size, TOOL_OUTPUT_BYTES.most))
        if target.stat().st_size != size:
            raise MalformedImage(_reading(path), expected=f"{size} bytes", found=f"{target.stat().st_size}")
        return True

    def _sizes(self, directory: str) -> Mapping[str, int]:
        """Return the size of each plain file."""
        with tempfile.TemporaryFile() as output:
            self._run(f"ls -p {_checked_directory(directory)}", output, TOOL_OUTPUT_BYTES.most)
            listing = read_output(output).decode("utf-8", "replace")
        # Of each entry: /inode/mode/user/group/name/size/
        entries = [line.split("/") for line in listing.splitlines()]
        files = [entry for entry in entries if len(entry) == 8 and entry[2].startswith("100") and entry[6].isdecimal()]
        _check_few(len(files))
        return {entry[5]: int(entry[6]) for entry in files if is_path(f"/{entry[5]}")}

    def _run(self, request: str, output: IO[bytes], most: int) -> None:
        _run(["debugfs", "-R", request, f"{_DISK}?offset={self.start}"], self.disk, output, most)


@dataclass(frozen=True, slots=True)
class _Fat:
    """FAT, by mtools."""

    disk: Path
    start: int

    def names(self, directory: str) -> Sequence[str]:
        with tempfile.TemporaryFile() as output:
            # Ends badly when there is no such directory, and prints nothing.
            self._run(["mdir", "-b"], _checked_directory(directory), output, TOOL_OUTPUT_BYTES.most)
            listing = read_output(output).decode("utf-8", "replace")
        # Of each: the whole path after "::", with a slash at the end of a directory's.
        names = [line.rpartition("/")[2] for line in listing.splitlines() if line.startswith("::")]
        _check_few(len(names))
        return sorted(name for name in names if is_path(f"/{name}"))

    def read(self, path: str, target: Path, limit: Limit) -> bool:
        directory, _, name = _checked(path).rpartition("/")
        if name not in self.names(directory or "/"):
            return False
        with target.open("xb") as output:
            outcome = self._run(["mcopy"], path, output, limit.most, "-")
        refuse_over(limit, target.stat().st_size + (outcome.status != 0), _reading(path))
        if outcome.status != 0:
            raise MalformedImage(_reading(path), expected="a whole file", found=outcome.complaint)
        return True

    def _run(self, command: Sequence[str], path: str, output: IO[bytes], most: int, *more: str) -> Outcome:
        return _run([*command, "-i", f"{_DISK}@@{self.start}", f"::{path}", *more], self.disk, output, most)


def _run(command: Sequence[str], disk: Path, output: IO[bytes], most: int) -> Outcome:
    return run_confined("reading an image", command, {_DISK: disk}, {}, output, most, _SECONDS, _go_on)


def _go_on() -> None:
    """Let it go on: nobody gives up what takes so little time."""


def _checked(path: str) -> str:
    if not is_path(path):
        raise MalformedImage("reading an image", expected="a plain path", found=path)
    return path


def _checked_directory(path: str) -> str:
    return path if path == "/" else _checked(path)


def _check_few(entries: int) -> None:
    refuse_over(BOOT_ENTRIES, entries, "listing a directory in an image")


def _reading(path: str) -> str:
    return f"reading {path} in an image"
