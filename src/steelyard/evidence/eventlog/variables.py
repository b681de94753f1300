"""UEFI variables as they are measured: UEFI_VARIABLE_DATA, and what boot entries and the boot order hold."""

from dataclasses import dataclass
from struct import Struct
from typing import Final
from uuid import UUID

from steelyard.evidence.eventlog.device_path import DevicePath, read_device_path
from steelyard.evidence.reader import LittleEndianReader
from steelyard.model.errors import MalformedEventLog

EFI_GLOBAL_VARIABLE: Final = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
"""The vendor of SecureBoot, PK, KEK, BootOrder and the boot entries. Source: UEFI Specification 2.10, section 3.3."""

_HEAD: Final = Struct("<16sQQ")
"""Vendor GUID, length of the name in characters, length of the value in bytes."""

_ACTIVE: Final = 0x1
"""LOAD_OPTION_ACTIVE."""


@dataclass(frozen=True, slots=True)
class UefiVariable:
    """A variable: its vendor's GUID, its name (any characters but NUL) and its value."""

    vendor: UUID
    name: str
    value: bytes


@dataclass(frozen=True, slots=True)
class LoadOption:
    """EFI_LOAD_OPTION, the value of a Boot#### variable. Source: UEFI Specification 2.10, section 3.1.3.

    paths  where to load from, in the order to try; at least one.
    """

    attributes: int
    description: str
    paths: tuple[DevicePath, ...]
    optional_data: bytes

    @property
    def active(self) -> bool:
        """Whether the boot manager tries it of its own accord."""
        return bool(self.attributes & _ACTIVE)


def parse_variable(data: bytes) -> UefiVariable:
    """Return the variable that `data`, a UEFI_VARIABLE_DATA, holds, with nothing after it. Raises MalformedEventLog."""
    variable, rest = split_variable(data)
    if rest:
        raise _wrong("nothing after the value", f"{len(rest)} bytes")
    return variable


def split_variable(data: bytes) -> tuple[UefiVariable, bytes]:
    """Return the variable that `data` begins with, and what follows it.

    data  GUID in its mixed-endian form, two 64-bit lengths, the name in UTF-16 without NUL, the value; little-endian.

    Raises MalformedEventLog.
    Source: TCG PC Client Platform Firmware Profile 1.06, UEFI_VARIABLE_DATA.
    """
    if len(data) < _HEAD.size:
        raise _wrong(f"{_HEAD.size} bytes before the name", f"{len(data)}")
    vendor, name_characters, value_bytes = _HEAD.unpack_from(data)
    value = _HEAD.size + 2 * name_characters
    end = value + value_bytes
    if end > len(data):
        raise _wrong(f"a name of {name_characters} characters and a value of {value_bytes} bytes", f"{len(data)} bytes")
    try:
        name = data[_HEAD.size : value].decode("utf-16-le")
    except UnicodeDecodeError as error:
        raise _wrong("a name in UTF-16", data[_HEAD.size : value].hex()) from error
    if "\0" in name:
        # A name that ends early in a reader of C strings would be another variable's.
        raise _wrong("a name without NUL", name)
    return UefiVariable(UUID(bytes_le=vendor), name, data[value:end]), data[end:]


def parse_load_option(value: bytes) -> LoadOption:
    """Return the boot entry that the value of a Boot#### variable is. Raises MalformedEventLog, TooLarge."""
    reader = LittleEndianReader(value, "reading a boot entry", MalformedEventLog)
    attributes, paths_size = reader.u32("attributes"), reader.u16("size of the file paths")
    after_head = reader.rest()
    description, rest = _split_utf16(after_head, reader)
    if paths_size > len(rest):
        raise reader.wrong(f"{paths_size} bytes of file paths", f"{len(rest)} bytes left")
    paths_reader = LittleEndianReader(rest[:paths_size], "reading a boot entry's device path", MalformedEventLog)
    paths = [read_device_path(paths_reader)]
    while paths_reader.remaining:
        paths.append(read_device_path(paths_reader))
    return LoadOption(attributes, description, tuple(paths), rest[paths_size:])


def parse_boot_order(value: bytes) -> tuple[int, ...]:
    """Return the numbers of the boot entries in the order that BootOrder puts them. Raises MalformedEventLog."""
    if len(value) % 2:
        raise MalformedEventLog("reading the boot order", expected="16-bit numbers", found=f"{len(value)} bytes")
    return tuple(int.from_bytes(value[place : place + 2], "little") for place in range(0, len(value), 2))


def _split_utf16(data: bytes, reader: LittleEndianReader) -> tuple[str, bytes]:
    end = 0
    while (end := data.find(b"\0\0", end)) % 2:
        if end < 0:
            raise reader.wrong("a description that ends in NUL", f"{len(data)} bytes without one")
        end += 1
    try:
        return data[:end].decode("utf-16-le"), data[end + 2 :]
    except UnicodeDecodeError as error:
        raise reader.wrong("a description in UTF-16", data[:end].hex()) from error


def _wrong(expected: str, found: str) -> MalformedEventLog:
    return MalformedEventLog("reading a measured variable", expected=expected, found=found)
