"""Measured variables, boot entries and the boot order."""

import struct
from typing import Final
from uuid import UUID

import pytest

from steelyard.evidence.eventlog.variables import (
    EFI_GLOBAL_VARIABLE,
    UefiVariable,
    parse_boot_order,
    parse_load_option,
    parse_variable,
    split_variable,
)
from steelyard.model.errors import MalformedEventLog
from tests.unit.evidence.eventlog.build import END, GLOBAL_VARIABLE, SECURITY_DATABASE, node, variable

PATH: Final = node(4, 4, "\\a\0".encode("utf-16-le")) + END
OTHER_PATH: Final = node(1, 1, b"\0\1") + END


def _option(description: bytes, paths: bytes, optional: bytes = b"", *, paths_size: int | None = None) -> bytes:
    size = len(paths) if paths_size is None else paths_size
    return struct.pack("<IH", 1, size) + description + paths + optional


def _wide(text: str) -> bytes:
    return text.encode("utf-16-le") + b"\0\0"


def test_a_variable_has_vendor_name_and_value() -> None:
    assert parse_variable(variable("dbx", b"lists", SECURITY_DATABASE)) == UefiVariable(
        SECURITY_DATABASE, "dbx", b"lists"
    )
    assert EFI_GLOBAL_VARIABLE == GLOBAL_VARIABLE


def test_a_guid_is_read_in_its_mixed_order() -> None:
    data = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c") + struct.pack("<QQ", 0, 0)
    assert parse_variable(data).vendor == UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")


def test_what_follows_a_variable_is_given_back() -> None:
    assert split_variable(variable("a", b"1") + b"rest") == (UefiVariable(GLOBAL_VARIABLE, "a", b"1"), b"rest")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (variable("a", b"1") + b"!", "nothing after the value"),
        (variable("a", b"1")[:-1], "a value of 1 bytes"),
        (variable("a", b"1")[:31], "32 bytes before the name"),
        (bytes(16) + struct.pack("<QQ", (1 << 64) - 1, (1 << 64) - 1), "a name of 18446744073709551615 characters"),
        (variable("a\0", b"1"), "a name without NUL"),
        (bytes(16) + struct.pack("<QQ", 1, 0) + b"\x00\xdc", "a name in UTF-16"),
    ],
)
def test_a_variable_is_refused(data: bytes, expected: str) -> None:
    with pytest.raises(MalformedEventLog, match=expected):
        parse_variable(data)


def test_a_boot_entry_has_a_description_paths_and_more() -> None:
    option = parse_load_option(_option(_wide("Linux"), PATH + OTHER_PATH, b"more"))
    assert option.description == "Linux"
    assert [str(path) for path in option.paths] == ["\\a", "Pci(0x1,0x0)"]
    assert option.optional_data == b"more"
    assert option.active


def test_a_boot_entry_may_be_inactive_and_nameless() -> None:
    option = parse_load_option(b"\0" + _option(b"\0\0", END)[1:])
    assert (option.active, option.description, len(option.paths)) == (False, "", 1)


def test_a_description_ends_at_a_whole_nul() -> None:
    # U+0100 U+0001 has two zero bytes side by side that are not one character.
    assert parse_load_option(_option(_wide("\u0100\u0001x"), PATH)).description == "\u0100\u0001x"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"\1\0\0\0\0", "2 bytes of size of the file paths"),
        (_option(b"L\0", b""), "a description that ends in NUL"),
        (_option(b"L", b"\0\0", paths_size=0), "a description that ends in NUL"),
        (_option(b"\x00\xd8\0\0", PATH), "a description in UTF-16"),
        (_option(_wide("L"), PATH, paths_size=len(PATH) + 1), "bytes of file paths"),
        (_option(_wide("L"), PATH, paths_size=0), "1 bytes of type of a node"),
        (_option(_wide("L"), PATH, b"\0\0", paths_size=len(PATH) + 2), "2 bytes of its length"),
        (_option(_wide("L"), PATH, paths_size=len(PATH) - 1), "2 bytes of its length"),
    ],
)
def test_a_boot_entry_is_refused(value: bytes, expected: str) -> None:
    with pytest.raises(MalformedEventLog, match=expected):
        parse_load_option(value)


def test_a_boot_order_is_16_bit_numbers() -> None:
    assert parse_boot_order(b"\1\0\x1c\0\0\2") == (1, 0x1C, 0x200)
    assert parse_boot_order(b"") == ()
    with pytest.raises(MalformedEventLog, match="16-bit numbers"):
        parse_boot_order(b"\1\0\2")
