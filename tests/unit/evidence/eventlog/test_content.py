"""What a digest covers: the conventions of real firmware and boot loaders, and the tricks that live beside them."""

import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Final
from uuid import UUID

import pytest

from steelyard.evidence.eventlog.content import (
    Committed,
    CommittedData,
    CommittedSeparator,
    CommittedText,
    CommittedVariable,
    CommittedVariableValue,
    committed_content,
    covers_data,
    separator_value,
)
from steelyard.evidence.eventlog.events import Event, EventType
from steelyard.evidence.eventlog.parse import parse_event_log
from steelyard.evidence.eventlog.variables import UefiVariable
from steelyard.model.algorithms import HashAlgorithm
from tests.unit.evidence.eventlog.build import (
    GLOBAL_VARIABLE,
    SECURITY_DATABASE,
    SHA256,
    SHA384,
    Boot,
    digest_of,
    single_event,
    variable,
)
from tests.vectors_dir import shared_vectors

SHIM: Final = UUID("605dab50-e046-4300-abb6-3dd810dd8b23")
EVERY_TYPE: Final = [*(kind for kind in EventType if kind is not EventType.EV_NO_ACTION), 0x8401]


def _content(data: bytes, covered: bytes | None = None, claimed_type: int = EventType.EV_IPL) -> Committed | None:
    return committed_content(single_event(claimed_type, data, covered), SHA256)


def _recorded(name: str, number: int) -> Event:
    return parse_event_log((shared_vectors("eventlogs") / name).read_bytes()).events[number]


# -- real logs ---------------------------------------------------------------------------------------------------------

_CONVENTIONS: Final = {
    # What is whole: text in ASCII and UTF-16, variables, tables, structures.
    ("rk-uefi_log.bin", 1): CommittedText,
    ("rk-uefi_log.bin", 5): CommittedVariable,
    ("rk-uefi_log.bin", 34): CommittedText,
    ("rk-uefi_log.bin", 45): CommittedData,
    ("rk-uefi_log.bin", 49): CommittedVariable,
    ("ibm-hp1.log", 1): CommittedData,
    ("ibm-hp1.log", 16): CommittedVariable,
    ("tt-event-sd-boot-fedora37.bin", 23): CommittedText,
    # Separators, one with a description in place of its value.
    ("rk-uefi_log.bin", 35): CommittedSeparator,
    ("acs-tpm2bios.log", 9): CommittedSeparator,
    ("acs-tpm2bios.log", 19): CommittedSeparator,
    # What is covered in part: EDK2's boot variables, GRUB's strings in two generations, shim 15, systemd-boot.
    ("rk-uefi_log.bin", 22): CommittedVariableValue,
    ("rk-uefi_log.bin", 54): CommittedText,
    ("rk-uefi_log.bin", 119): CommittedText,
    ("ibm-sm4.log", 20): CommittedVariable,
    ("ibm-sm4.log", 21): CommittedText,
    ("ibm-sm4.log", 30): CommittedText,
    ("tt-event-arch-linux.bin", 24): CommittedText,
    # What is not: firmware volumes, images, files, tables in memory, MokList, an initrd, Boot Guard, words of IBM's.
    ("rk-uefi_log.bin", 2): type(None),
    ("rk-uefi_log.bin", 11): type(None),
    ("rk-uefi_log.bin", 13): type(None),
    ("rk-uefi_log.bin", 43): type(None),
    ("rk-uefi_log.bin", 46): type(None),
    ("rk-uefi_log.bin", 47): type(None),
    ("rk-uefi_log.bin", 52): type(None),
    ("tt-event-sd-boot-fedora37.bin", 25): type(None),
    ("ibm-dell1.log", 2): type(None),
    ("ibm-dell1.log", 17): type(None),
    ("acs-tpm2bios.log", 1): type(None),
}


def test_each_convention_of_a_recorded_log_is_recognised() -> None:
    for (name, number), expected in _CONVENTIONS.items():
        committed = committed_content(_recorded(name, number), SHA256)
        assert type(committed) is expected, (name, number)


def test_a_whole_recorded_log_is_covered_as_it_should_be() -> None:
    log = parse_event_log((shared_vectors("eventlogs") / "rk-uefi_log.bin").read_bytes())
    kinds = Counter(type(committed_content(event, SHA256)) for event in log.events)
    assert kinds == {
        type(None): 29,
        CommittedText: 64,
        CommittedVariable: 9,
        CommittedVariableValue: 12,
        CommittedSeparator: 8,
        CommittedData: 2,
    }


def test_the_text_of_a_recorded_command_line_comes_without_its_label() -> None:
    committed = committed_content(_recorded("tt-event-bootorder.bin", 94), SHA256)
    assert isinstance(committed, CommittedText)
    assert committed.text.startswith("/boot/vmlinuz-5.4.0-45-generic root=PARTUUID=")
    older = committed_content(_recorded("ibm-sm4.log", 30), SHA256)
    assert isinstance(older, CommittedText)
    assert older.text.startswith("/xcat/osimage/rhels8")
    wide = committed_content(_recorded("tt-event-arch-linux.bin", 24), SHA256)
    assert isinstance(wide, CommittedText)
    assert wide.text.startswith(r"initrd=\intel-ucode.img ")


def test_a_recorded_certificate_of_shim_is_a_variable() -> None:
    committed = committed_content(_recorded("ibm-sm4.log", 20), SHA256)
    assert isinstance(committed, CommittedVariable)
    assert (committed.variable.vendor, committed.variable.name) == (SHIM, "Shim")
    assert len(committed.variable.value) == 977


def test_nothing_in_a_sha1_only_log_is_believed() -> None:
    log = parse_event_log((shared_vectors("eventlogs") / "tt-event-uefi-sha1-log.bin").read_bytes())
    assert all(committed_content(event, bank) is None for event in log.events for bank in HashAlgorithm)


# -- what each convention gives ----------------------------------------------------------------------------------------


def test_covered_bytes_always_hash_to_the_digest() -> None:
    for name in ("rk-uefi_log.bin", "ibm-sm4.log", "tt-event-arch-linux.bin", "acs-tpm2bios.log", "ibm-hp1.log"):
        for event in parse_event_log((shared_vectors("eventlogs") / name).read_bytes()).events:
            committed = committed_content(event, SHA256)
            if committed is not None:
                assert digest_of(committed.covered, SHA256) == event.digests[SHA256], (name, event.number)


@pytest.mark.parametrize(
    ("data", "covered", "expected"),
    [
        (b"action", None, CommittedText(b"action", "action")),
        (b"action\0", None, CommittedText(b"action\0", "action")),
        (b"v\0\x31\0\0\0", None, CommittedText(b"v\0\x31\0\0\0", "v1")),
        (b"a\tb\r\nc", None, CommittedText(b"a\tb\r\nc", "a\tb\r\nc")),
        (b"esc\x1b[2J", None, CommittedData(b"esc\x1b[2J")),
        (b"\0\0", None, CommittedData(b"\0\0")),
        (b"", None, CommittedData(b"")),
        (b"\x00\xd8\0\0", None, CommittedData(b"\x00\xd8\0\0")),
        (b"\xff\xfe", None, CommittedData(b"\xff\xfe")),
        (b"grub_cmd: set a=b\0", b"set a=b", CommittedText(b"set a=b", "set a=b")),
        (b"grub_cmd: set a=b", b"set a=b", CommittedText(b"set a=b", "set a=b")),
        (b"module_cmdline: /xen\0", b"/xen", CommittedText(b"/xen", "/xen")),
        (b"grub_cmd set a=b\0", b"set a=b\0", CommittedText(b"set a=b\0", "set a=b")),
        (b"grub_kernel_cmdline k\0", b"k", CommittedText(b"k", "k")),
        (b"grub_cmd: \xff\0", b"\xff", CommittedData(b"\xff")),
        (b".\0l\0\0\0", b".l\0", CommittedText(b".l\0", ".l")),
        (b"r\0o\0\0", b"r\0o\0\0\0", CommittedText(b"r\0o\0\0\0", "ro")),
        (b"linux_cmd: set a=b\0", b"set a=b", None),
        (b"file.cfg\0", b"its content", None),
        (b".\x01l\0\0\0", b".l\0", None),
    ],
)
def test_a_string_is_read_as(data: bytes, covered: bytes | None, expected: Committed | None) -> None:
    assert _content(data, covered) == expected


def test_a_whole_variable_is_covered_with_its_name() -> None:
    data = variable("SecureBoot", b"\1")
    expected = CommittedVariable(data, UefiVariable(GLOBAL_VARIABLE, "SecureBoot", b"\1"))
    assert _content(data) == expected


def test_of_a_variables_value_alone_the_name_is_not_covered() -> None:
    committed = _content(variable("BootOrder", b"\1\0\2\0"), covered=b"\1\0\2\0")
    assert committed == CommittedVariableValue(b"\1\0\2\0")


@pytest.mark.parametrize(
    ("data", "covered"),
    [
        (variable("Boot0001", b"value") + b"!", b"value"),
        (variable("Boot0001", b"value")[:-1], b"valu"),
        (variable("Boot0001", b"value"), b"other"),
        (struct.pack("<16sQQ", b"", 1 << 63, 1) + b"value", b"value"),
        (b"short", b"shor"),
    ],
)
def test_what_is_not_exactly_a_variables_value_is_not_covered(data: bytes, covered: bytes) -> None:
    assert _content(data, covered) is None


@pytest.mark.parametrize("data", [variable("a\0b", b""), variable("a", b"")[:-2] + b"\x00\xd8"])
def test_a_variable_without_a_proper_name_is_only_data(data: bytes) -> None:
    # Attack 21: a name with NUL or ill-formed UTF-16 would be another name in another reader.
    assert _content(data) == CommittedData(data)


def test_a_variable_with_more_after_it_is_only_data() -> None:
    data = variable("db", b"certificate") + b"\1\2"
    assert _content(data) == CommittedData(data)


def test_shim_15_covers_a_variable_and_five_zeros() -> None:
    data = variable("Shim", b"certificate", SHIM) + bytes(5) + b"\xaf"
    expected = CommittedVariable(data[:-1], UefiVariable(SHIM, "Shim", b"certificate"))
    assert _content(data, data[:-1]) == expected


@pytest.mark.parametrize(
    "data",
    [
        variable("Shim", b"certificate", SHIM) + b"\0\0\0\0\1\xaf",
        variable("Shim", b"certificate", SHIM) + bytes(4) + b"\xaf",
        variable("Shim", b"certificate", SHIM) + bytes(6) + b"\xaf",
        variable("S\0im", b"certificate", SHIM) + bytes(5) + b"\xaf",
    ],
)
def test_other_bytes_after_a_variable_leave_it_uncovered(data: bytes) -> None:
    assert _content(data, data[:-1]) is None


@pytest.mark.parametrize(("value", "number"), [(bytes(4), 0), (b"\xff" * 4, 0xFFFFFFFF), (b"\1\0\0\0", 1)])
@pytest.mark.parametrize("data", [None, b"Skiboot Boot", b""])
def test_a_separator_is_known_by_its_digest(value: bytes, number: int, data: bytes | None) -> None:
    committed = _content(value if data is None else data, value)
    assert isinstance(committed, CommittedSeparator)
    assert committed.value == number
    assert separator_value(digest_of(value, SHA256), SHA256) == number


def test_a_digest_of_something_else_is_no_separator() -> None:
    assert separator_value(digest_of(b"\2\0\0\0", SHA256), SHA256) is None


# -- attacks 17, 18, 19 ------------------------------------------------------------------------------------------------


def test_an_event_that_extends_nothing_covers_nothing() -> None:
    event = single_event(EventType.EV_NO_ACTION, b"right digest")
    assert digest_of(event.data, SHA256) == event.digests[SHA256]
    assert committed_content(event, SHA256) is None
    assert committed_content(replace(event, claimed_type=int(EventType.EV_ACTION)), SHA256) is not None


@pytest.mark.parametrize("number", [1, 5, 8, 10, 22, 34, 45, 49, 54, 119])
def test_data_swapped_for_other_data_is_not_believed(number: int) -> None:
    event = _recorded("rk-uefi_log.bin", number)
    others = [
        b"",
        event.data[:-1],
        event.data + b"\0\0",
        event.data[:-3] + bytes([event.data[-3] ^ 1]) + event.data[-2:],
        variable("SecureBoot", b"\1"),
        b"grub_cmd: boot\0",
    ]
    for data in others:
        # What differs is nothing, or only the NUL that was not covered; a separator is known by its digest alone.
        assert committed_content(replace(event, data=data), SHA256) in (None, committed_content(event, SHA256)), data


def _name(event: Event) -> Event:
    return replace(event, data=event.data.replace("0001".encode("utf-16-le"), "0000".encode("utf-16-le")))


def _vendor(event: Event) -> Event:
    return replace(event, data=SECURITY_DATABASE.bytes_le + event.data[16:])


@pytest.mark.parametrize("change", [_name, _vendor])
def test_a_boot_entry_under_another_name_shows_no_more_than_its_value(change: Callable[[Event], Event]) -> None:
    event = _recorded("rk-uefi_log.bin", 23)
    changed = change(event)
    assert changed != event
    assert committed_content(changed, SHA256) == committed_content(event, SHA256)


@pytest.mark.parametrize("change", [_name, _vendor])
def test_a_wholly_measured_boot_entry_under_another_name_is_not_believed(change: Callable[[Event], Event]) -> None:
    event = _recorded("ibm-hp1.log", 18)
    assert isinstance(committed_content(event, SHA256), CommittedVariable)
    assert committed_content(change(event), SHA256) is None


@pytest.mark.parametrize(
    ("data", "covered"),
    [
        (b"Calling EFI Application from Boot Option", None),
        (variable("SecureBoot", b"\1"), None),
        (variable("BootOrder", b"\1\0"), b"\1\0"),
        (b"grub_cmd: set a=b\0", b"set a=b"),
        (bytes(4), None),
        (b"\x01\x02\x03", None),
        (b"image", b"another"),
    ],
)
def test_what_is_covered_does_not_depend_on_the_type(data: bytes, covered: bytes | None) -> None:
    contents = [_content(data, covered, claimed_type) for claimed_type in EVERY_TYPE]
    assert contents == [contents[0]] * len(EVERY_TYPE)


def test_a_label_of_grub_is_not_covered_and_not_shown() -> None:
    # A command that the administrator types is measured like the command line of the kernel.
    as_command = _content(b"grub_cmd: quiet init=/bin/sh\0", b"quiet init=/bin/sh")
    as_command_line = _content(b"kernel_cmdline: quiet init=/bin/sh\0", b"quiet init=/bin/sh")
    assert as_command == as_command_line == CommittedText(b"quiet init=/bin/sh", "quiet init=/bin/sh")


def test_vendors_are_compared_as_numbers_not_as_text() -> None:
    # Attack 21: a GUID in another case is the same GUID.
    committed = _content(variable("db", b"", UUID(str(SECURITY_DATABASE).upper())))
    assert isinstance(committed, CommittedVariable)
    assert committed.variable.vendor == SECURITY_DATABASE


def test_each_bank_is_asked_for_itself() -> None:
    boot = Boot(SHA256, SHA384)
    boot.measure(4, EventType.EV_ACTION, b"data")
    event = parse_event_log(boot.log).events[1]
    lie = replace(event, digests={SHA256: event.digests[SHA256], SHA384: bytes(48)})
    assert committed_content(lie, SHA256) is not None
    assert committed_content(lie, SHA384) is None
    assert committed_content(lie, HashAlgorithm.SHA512) is None


# -- what is shown as trusted ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "covered", "trusted"),
    [
        (b"action", None, True),
        (variable("SecureBoot", b"\1"), None, True),
        (bytes(4), None, True),
        (b"r\0o\0\0", b"r\0o\0\0\0", True),
        (variable("BootOrder", b"\1\0"), b"\1\0", False),
        (b"grub_cmd: set a=b\0", b"set a=b", False),
        (b"Skiboot Boot", bytes(4), False),
        (b".\0l\0\0\0", b".l\0", False),
        (b"image", b"another", False),
    ],
)
def test_data_is_trusted_when_all_of_it_is_covered(data: bytes, covered: bytes | None, *, trusted: bool) -> None:
    assert covers_data(single_event(EventType.EV_IPL, data, covered), SHA256) is trusted


def test_an_event_that_extends_nothing_is_never_trusted() -> None:
    assert not covers_data(single_event(EventType.EV_NO_ACTION, b"right digest"), SHA256)
