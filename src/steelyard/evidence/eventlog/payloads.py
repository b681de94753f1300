"""What an event's data says, by the type it claims: for people, and for a report that names the component that differs.

All of it is claimed. What a rule may rest on is in `content`; the structures inside it (variables, boot entries, device
paths, partition tables) are read by the same functions. Nothing is decoded before it is asked for.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from steelyard.evidence.eventlog.device_path import DevicePath, parse_device_path
from steelyard.evidence.eventlog.events import Event, EventType
from steelyard.evidence.eventlog.partitions import PartitionTable, parse_partition_table
from steelyard.evidence.eventlog.texts import read_text
from steelyard.evidence.eventlog.variables import (
    EFI_GLOBAL_VARIABLE,
    LoadOption,
    UefiVariable,
    parse_boot_order,
    parse_load_option,
    split_variable,
)
from steelyard.evidence.reader import LittleEndianReader
from steelyard.model.errors import Malformed, MalformedEventLog

_SHOWN_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Words:
    """Text: an action, a version, a command line, the name of a file or section; GRUB's with its label."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Opaque:
    """Bytes that the profile gives no structure."""

    data: bytes

    def __str__(self) -> str:
        shown = self.data[:_SHOWN_BYTES].hex() or "empty"
        return f"{shown}... ({len(self.data)} bytes)" if len(self.data) > _SHOWN_BYTES else shown


@dataclass(frozen=True, slots=True)
class Identifier:
    """A GUID in place of a version."""

    guid: UUID

    def __str__(self) -> str:
        return str(self.guid)


@dataclass(frozen=True, slots=True)
class Separator:
    """The four bytes that a separator is the hash of, as a number."""

    value: int

    def __str__(self) -> str:
        return f"separator 0x{self.value:08x}"


@dataclass(frozen=True, slots=True)
class ImageLoad:
    """UEFI_IMAGE_LOAD_EVENT: the digest beside it is the image's Authenticode hash, and covers none of this."""

    address: int
    size: int
    link_address: int
    path: DevicePath

    def __str__(self) -> str:
        return f"image of {self.size} bytes from {self.path}" if self.path.nodes else f"image of {self.size} bytes"


@dataclass(frozen=True, slots=True)
class Variable:
    """UEFI_VARIABLE_DATA."""

    variable: UefiVariable

    def __str__(self) -> str:
        return f"variable {self.variable.name} of {self.variable.vendor}: {Opaque(self.variable.value)}"


@dataclass(frozen=True, slots=True)
class BootEntry:
    """A Boot#### variable; `name` is the variable's."""

    name: str
    option: LoadOption

    def __str__(self) -> str:
        paths = " or ".join(str(path) for path in self.option.paths)
        return f"{self.name}{'' if self.option.active else ' (inactive)'}: {self.option.description}, {paths}"


@dataclass(frozen=True, slots=True)
class BootOrder:
    """The BootOrder variable: numbers of boot entries, first to last."""

    order: tuple[int, ...]

    def __str__(self) -> str:
        return "boot order " + (", ".join(f"{number:04X}" for number in self.order) or "empty")


@dataclass(frozen=True, slots=True)
class FirmwareBlob:
    """UEFI_PLATFORM_FIRMWARE_BLOB or _BLOB2: a range of memory or flash; `description` is empty in the first."""

    description: str
    base: int
    size: int

    def __str__(self) -> str:
        return f"{self.description or 'firmware'}, {self.size} bytes at 0x{self.base:x}"


@dataclass(frozen=True, slots=True)
class HandoffTables:
    """UEFI_HANDOFF_TABLE_POINTERS or _POINTERS2: GUID and address of each; `description` is empty in the first."""

    description: str
    tables: tuple[tuple[UUID, int], ...]

    def __str__(self) -> str:
        tables = ", ".join(f"{guid} at 0x{address:x}" for guid, address in self.tables)
        return f"{self.description or 'tables'}: {tables or 'none'}"


@dataclass(frozen=True, slots=True)
class Tagged:
    """TCG_PCClientTaggedEvent; `content` is Words where it is text."""

    tag: int
    content: Words | Opaque

    def __str__(self) -> str:
        return f"{_TAGS.get(self.tag, f'tag 0x{self.tag:08x}')}: {self.content}"


@dataclass(frozen=True, slots=True)
class DeviceSecurity:
    """TCG_DEVICE_SECURITY_EVENT_DATA: what a device measured of itself, told over SPDM; `path` from version 2 on."""

    version: int
    path: DevicePath | None

    def __str__(self) -> str:
        return f"SPDM measurement of {self.path or 'a device'}"


@dataclass(frozen=True, slots=True)
class StartupLocality:
    """TCG_EfiStartupLocalityEvent: what the last byte of PCR 0 was before anything extended it."""

    locality: int

    def __str__(self) -> str:
        return f"startup at locality {self.locality}"


@dataclass(frozen=True, slots=True)
class NoAction:
    """Any other EV_NO_ACTION, by its signature: a header, a reference manifest's place, a component of an H-CRTM."""

    signature: str
    data: bytes

    def __str__(self) -> str:
        return f"{self.signature}, {len(self.data)} bytes"


Payload = (
    Words
    | Opaque
    | Identifier
    | Separator
    | ImageLoad
    | Variable
    | BootEntry
    | BootOrder
    | PartitionTable
    | FirmwareBlob
    | HandoffTables
    | Tagged
    | DeviceSecurity
    | StartupLocality
    | NoAction
)


def read_payload(event: Event) -> Payload:
    """Return what the event's data says by its claimed type; a type without a structure gives Words or Opaque.

    Raises MalformedEventLog, TooLarge for data that is not what its type makes it.
    Source: TCG PC Client Platform Firmware Profile 1.06, event types and event data.
    """
    return _READERS.get(event.claimed_type, _read_words)(event.data)


def describe(event: Event) -> str:
    """Return the payload in words, as claimed and unescaped; of data that is malformed, what is wrong with it."""
    try:
        return str(read_payload(event))
    except Malformed as error:
        return f"unreadable ({error})"


# -- readers, one for each shape of data -------------------------------------------------------------------------------


def _reader(data: bytes, what: str) -> LittleEndianReader:
    return LittleEndianReader(data, f"reading {what} in an event log", MalformedEventLog)


def _read_words(data: bytes) -> Words | Opaque:
    # Two that log their text otherwise: systemd-boot before 250 leaves out the last byte of a UTF-16 NUL, and shim 15
    # has a byte too many after the NUL.
    text = read_text(data)
    if text is None and len(data) % 2:
        text = read_text(data + b"\0")
    if text is None and data[-2:-1] == b"\0":
        text = read_text(data[:-1])
    return Opaque(data) if text is None else Words(text)


def _read_version(data: bytes) -> Words | Opaque | Identifier:
    words = _read_words(data)
    return Identifier(UUID(bytes_le=data)) if isinstance(words, Opaque) and len(data) == 16 else words


def _read_code(data: bytes) -> Words | Opaque | FirmwareBlob:
    """EV_POST_CODE and its like: a word for what was measured, or where it lay."""
    words = _read_words(data)
    return _read_blob(data) if isinstance(words, Opaque) and len(data) == 16 else words


def _read_separator(data: bytes) -> Separator | Words | Opaque:
    words = _read_words(data)
    return Separator(int.from_bytes(data, "little")) if isinstance(words, Opaque) and len(data) == 4 else words


def _read_image_load(data: bytes) -> ImageLoad:
    reader = _reader(data, "the load of an image")
    address, size, link_address = reader.u64("address"), reader.u64("size"), reader.u64("link address")
    path = reader.take(reader.u64("size of the device path"), "device path")
    # shim 15 logs 9 bytes more, that were never filled in.
    return ImageLoad(address, size, link_address, parse_device_path(path))


_BOOT_ENTRY: Final = re.compile(r"Boot[0-9A-F]{4}")


def _read_variable(data: bytes) -> Variable | BootEntry | BootOrder:
    variable, _ = split_variable(data)  # shim 15 logs 6 bytes more
    if variable.vendor == EFI_GLOBAL_VARIABLE and variable.name == "BootOrder":
        return BootOrder(parse_boot_order(variable.value))
    if variable.vendor == EFI_GLOBAL_VARIABLE and _BOOT_ENTRY.fullmatch(variable.name):
        return BootEntry(variable.name, parse_load_option(variable.value))
    return Variable(variable)


def _read_blob(data: bytes) -> FirmwareBlob:
    reader = _reader(data, "the place of a firmware blob")
    blob = FirmwareBlob("", reader.u64("BlobBase"), reader.u64("BlobLength"))
    reader.end()
    return blob


def _read_blob2(data: bytes) -> FirmwareBlob:
    reader = _reader(data, "the place of a firmware blob")
    description = _read_description(reader)
    blob = FirmwareBlob(description, reader.u64("BlobBase"), reader.u64("BlobLength"))
    reader.end()
    return blob


def _read_tables(data: bytes) -> HandoffTables:
    return _read_table_entries(_reader(data, "the place of tables"), "")


def _read_tables2(data: bytes) -> HandoffTables:
    reader = _reader(data, "the place of tables")
    return _read_table_entries(reader, _read_description(reader))


def _read_table_entries(reader: LittleEndianReader, description: str) -> HandoffTables:
    count = reader.u64("NumberOfTables")
    if count * 24 != reader.remaining:
        raise reader.wrong(f"{count} tables of 24 bytes", f"{reader.remaining} bytes left")
    tables = tuple((UUID(bytes_le=reader.take(16, "GUID")), reader.u64("address")) for _ in range(count))
    return HandoffTables(description, tables)


def _read_description(reader: LittleEndianReader) -> str:
    data = reader.take(reader.u8("size of the description"), "description")
    return str(_read_words(data)) if data else ""


def _read_tagged(data: bytes) -> Tagged:
    reader = _reader(data, "a tagged event")
    tag = reader.u32("taggedEventID")
    content = reader.take(reader.u32("taggedEventDataSize"), "taggedEventData")
    reader.end()
    return Tagged(tag, _read_words(content))


def _read_device_security(data: bytes) -> DeviceSecurity:
    reader = _reader(data, "the measurement of a device")
    signature, version = reader.take(16, "signature"), reader.u16("version")
    if signature == b"SPDM Device Sec\0":
        return DeviceSecurity(version, None)
    if signature != b"SPDM Device Sec2":
        raise reader.wrong("signature SPDM Device Sec or SPDM Device Sec2", signature.hex())
    reader.take(1 + 1 + 4 + 4 + 4 + 4 + 8, "state, length, type and sub-header")
    path = reader.take(reader.u64("size of the device path"), "device path")
    return DeviceSecurity(version, parse_device_path(path))


def _read_no_action(data: bytes) -> StartupLocality | NoAction:
    signature, rest = data[:16].rstrip(b"\0"), data[16:]
    if signature == b"StartupLocality" and len(rest) == 1:
        return StartupLocality(rest[0])
    return NoAction(str(_read_words(signature)), rest)


_TAGS: Final[Mapping[int, str]] = {
    0x8F3B22EC: "Linux initrd",
    0x8F3B22ED: "Linux load options",
    0xF5BC582A: "systemd-boot loader.conf",
    0x6C46F751: "systemd-stub device tree",
    0x49DFFE0F: "systemd-stub initrd add-on",
    0xDAC08E1A: "systemd-stub microcode add-on",
    0x13AED6DB: "systemd-stub profile",
}
"""Source: Linux drivers/firmware/efi/libstub/efistub.h; systemd src/fundamental/tpm2-pcr.h."""

_READERS: Final[Mapping[int, Callable[[bytes], Payload]]] = {
    EventType.EV_POST_CODE: _read_code,
    EventType.EV_NO_ACTION: _read_no_action,
    EventType.EV_SEPARATOR: _read_separator,
    EventType.EV_EVENT_TAG: _read_tagged,
    EventType.EV_S_CRTM_CONTENTS: _read_code,
    EventType.EV_S_CRTM_VERSION: _read_version,
    EventType.EV_POST_CODE2: _read_blob2,
    EventType.EV_EFI_VARIABLE_DRIVER_CONFIG: _read_variable,
    EventType.EV_EFI_VARIABLE_BOOT: _read_variable,
    EventType.EV_EFI_BOOT_SERVICES_APPLICATION: _read_image_load,
    EventType.EV_EFI_BOOT_SERVICES_DRIVER: _read_image_load,
    EventType.EV_EFI_RUNTIME_SERVICES_DRIVER: _read_image_load,
    EventType.EV_EFI_GPT_EVENT: parse_partition_table,
    EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB: _read_blob,
    EventType.EV_EFI_HANDOFF_TABLES: _read_tables,
    EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB2: _read_blob2,
    EventType.EV_EFI_HANDOFF_TABLES2: _read_tables2,
    EventType.EV_EFI_VARIABLE_BOOT2: _read_variable,
    EventType.EV_EFI_GPT_EVENT2: parse_partition_table,
    EventType.EV_EFI_VARIABLE_AUTHORITY: _read_variable,
    EventType.EV_EFI_SPDM_FIRMWARE_BLOB: _read_device_security,
    EventType.EV_EFI_SPDM_FIRMWARE_CONFIG: _read_device_security,
    EventType.EV_EFI_SPDM_DEVICE_POLICY: _read_variable,
    EventType.EV_EFI_SPDM_DEVICE_AUTHORITY: _read_variable,
}
