"""The UEFI variables in a firmware's variable store, as EDK2 keeps them in flash (OVMF_VARS.fd)."""

from typing import Final
from uuid import UUID

from steelyard.evidence.eventlog.variables import UefiVariable
from steelyard.evidence.reader import LittleEndianReader, refuse_over
from steelyard.evidence.reference.volumes import VARIABLE_STORE, volumes_of
from steelyard.model.errors import MalformedArtefact
from steelyard.model.limits import FIRMWARE_VARIABLES

_DOING: Final = "reading a variable store"

_AUTHENTICATED_STORE: Final = UUID("aaf32c78-947b-439a-a180-2e144ec37792")
"""gEfiAuthenticatedVariableGuid of EDK2."""
_STORE_HEADER_BYTES: Final = 28
_FORMATTED: Final = 0x5A
_HEALTHY: Final = 0xFE
_START_OF_VARIABLE: Final = b"\xaa\x55"
_VARIABLE_HEADER_BYTES: Final = 60

# A variable's state loses bits as it ages; flash cannot set them again.
_ADDED: Final = 0x3F
_REPLACEMENT_BEING_WRITTEN: Final = 0x3E
_DEAD: Final = frozenset({0x3D, 0x3C, 0x7F, 0x7E, 0x7D, 0x7C})
"""Deleted, or never written to the end."""


def variables_of_firmware_store(image: bytes) -> tuple[UefiVariable, ...]:
    """Return the variables that firmware finds in its store, each once.

    image  a firmware file with one variable store: volumes one behind the other.

    Raises MalformedArtefact, TooLarge.
    Source: EDK2, MdeModulePkg/Include/Guid/VariableFormat.h.
    """
    stores = [volume for volume in volumes_of(image) if volume.file_system == VARIABLE_STORE]
    if len(stores) != 1:
        raise MalformedArtefact(_DOING, expected="a file with one variable store", found=f"{len(stores)}")
    (store,) = stores
    reader = LittleEndianReader(bytes(store.data[store.header_bytes :]), _DOING, MalformedArtefact)
    if (signature := UUID(bytes_le=reader.take(16, "GUID of the store"))) != _AUTHENTICATED_STORE:
        raise reader.wrong(f"a store of authenticated variables, {_AUTHENTICATED_STORE}", f"{signature}")
    size = reader.u32("size of the store")
    if (status := reader.take(2, "format and state of the store")) != bytes([_FORMATTED, _HEALTHY]):
        raise reader.wrong("a store that is formatted and healthy", status.hex())
    reader.take(6, "reserved")
    if size < _STORE_HEADER_BYTES:
        raise reader.wrong(f"a store of at least {_STORE_HEADER_BYTES} bytes", f"{size}")
    contents = reader.take(size - _STORE_HEADER_BYTES, "the store's variables")
    return _read_variables(LittleEndianReader(contents, _DOING, MalformedArtefact))


def _read_variables(reader: LittleEndianReader) -> tuple[UefiVariable, ...]:
    live: dict[tuple[UUID, str], UefiVariable] = {}
    fading: dict[tuple[UUID, str], UefiVariable] = {}
    count = 0
    while reader.remaining >= _VARIABLE_HEADER_BYTES:
        if (start := reader.take(2, "start of a variable")) != _START_OF_VARIABLE:
            if start != b"\xff\xff":
                raise reader.wrong("a variable or erased flash", start.hex())
            break
        count += 1
        refuse_over(FIRMWARE_VARIABLES, count, _DOING)
        state = reader.u8("state of a variable")
        reader.take(33, "attributes, count, time stamp and key")
        name_bytes = reader.u32("size of a name")
        data_bytes = reader.u32("size of a variable")
        vendor = UUID(bytes_le=reader.take(16, "vendor GUID"))
        name = reader.take(name_bytes, "name of a variable")
        data = reader.take(data_bytes, "data of a variable")
        reader.take(min(-reader.position % 4, reader.remaining), "padding")
        if state in _DEAD:
            continue
        if state not in {_ADDED, _REPLACEMENT_BEING_WRITTEN}:
            raise reader.wrong("a variable in a state that firmware leaves it in", f"{state:#04x}")
        variable = UefiVariable(vendor, _decode_name(reader, name), data)
        same = live if state == _ADDED else fading
        if (vendor, variable.name) in same:
            raise reader.wrong("every variable once", f"{variable.name} twice")
        same[vendor, variable.name] = variable
    if reader.rest().strip(b"\xff"):
        raise reader.wrong("erased flash after the last variable", "other bytes")
    return tuple({**fading, **live}.values())


def _decode_name(reader: LittleEndianReader, name: bytes) -> str:
    try:
        text = name.decode("utf-16-le")
    except UnicodeDecodeError as error:
        raise reader.wrong("a variable's name in UTF-16", name.hex()) from error
    if not text.endswith("\0") or "\0" in text[:-1]:
        raise reader.wrong("a variable's name that ends with its one NUL", text)
    return text[:-1]
