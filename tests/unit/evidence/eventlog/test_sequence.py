"""Attack 20: separators, what follows them, and what follows the exit from boot services."""

from typing import Final

import pytest

from steelyard.evidence.eventlog.events import EventType
from steelyard.evidence.eventlog.parse import parse_event_log
from steelyard.evidence.eventlog.replay import replay, verify_log
from steelyard.evidence.eventlog.sequence import check_sequence
from steelyard.evidence.findings import Reason
from steelyard.model.pcrs import PcrValues
from tests.unit.evidence.eventlog.build import (
    EXIT_BOOT_SERVICES,
    EXIT_FAILED,
    EXIT_SUCCEEDED,
    SECURITY_DATABASE,
    SEPARATOR,
    SHA256,
    SHA384,
    Boot,
    variable,
)
from tests.vectors_dir import OWN, shared_vectors

ACTION: Final = b"Calling EFI Application from Boot Option"


def _found(boot: Boot, *pcrs: int) -> list[tuple[Reason, str]]:
    return [(finding.reason, finding.where) for finding in check_sequence(boot.replayed(*pcrs))]


def _booted() -> Boot:
    boot = Boot()
    boot.measure(0, EventType.EV_S_CRTM_VERSION, b"1\0\0\0")
    boot.measure(7, EventType.EV_EFI_VARIABLE_DRIVER_CONFIG, variable("SecureBoot", b"\1"))
    boot.separate()
    boot.measure(7, EventType.EV_EFI_VARIABLE_AUTHORITY, variable("db", b"certificate", SECURITY_DATABASE))
    boot.measure(4, EventType.EV_EFI_BOOT_SERVICES_APPLICATION, bytes(32), covered=b"image")
    return boot


# -- real logs ---------------------------------------------------------------------------------------------------------

_WHOLE_BOOTS: Final = (
    "ibm-dell1.log",
    "ibm-hp1.log",
    "ibm-sm4.log",
    "rk-uefi_log.bin",
    "tt-event-arch-linux.bin",
    "tt-event-bootorder.bin",
    "tt-event-moklisttrusted.bin",
    "tt-event-postcode.bin",
    "tt-event-sd-boot-fedora37.bin",
)


@pytest.mark.parametrize("name", _WHOLE_BOOTS)
def test_a_recorded_boot_breaks_no_rule(name: str) -> None:
    log = parse_event_log((shared_vectors("eventlogs") / name).read_bytes())
    replayed = verify_log(log, PcrValues(SHA256, replay(log, SHA256)), frozenset())
    assert check_sequence(replayed) == ()


@pytest.mark.parametrize("boot", sorted(path.name for path in (OWN / "ovmf" / "boots").iterdir()))
def test_a_recorded_boot_of_ours_breaks_no_rule(boot: str) -> None:
    log = parse_event_log((OWN / "ovmf" / "boots" / boot / "event_log.bin").read_bytes())
    replayed = verify_log(log, PcrValues(SHA256, replay(log, SHA256)), frozenset())
    assert check_sequence(replayed) == ()


def test_a_recorded_openpower_boot_separates_twice() -> None:
    log = parse_event_log((shared_vectors("eventlogs") / "acs-tpm2bios.log").read_bytes())
    replayed = verify_log(log, PcrValues(SHA256, replay(log, SHA256)), frozenset())
    assert [finding.where for finding in check_sequence(replayed)] == [
        f"PCR {pcr}, event {19 + pcr}" for pcr in range(8)
    ]


# -- separators --------------------------------------------------------------------------------------------------------


def test_a_boot_in_order_breaks_no_rule() -> None:
    assert _found(_booted()) == []


@pytest.mark.parametrize("value", [bytes(4), b"\xff" * 4])
def test_either_normal_separator_is_one(value: bytes) -> None:
    boot = Boot()
    boot.measure(4, EventType.EV_SEPARATOR, value)
    assert _found(boot, 4) == []


@pytest.mark.parametrize("pcr", range(8))
def test_a_pcr_without_separator_is_found(pcr: int) -> None:
    boot = Boot()
    boot.separate(*(other for other in range(8) if other != pcr))
    assert _found(boot) == [(Reason.BAD_SEPARATOR, f"PCR {pcr}")]


@pytest.mark.parametrize("pcr", range(8))
@pytest.mark.parametrize("value", [bytes(4), b"\xff" * 4])
def test_a_second_separator_is_found(pcr: int, value: bytes) -> None:
    boot = _booted()
    boot.measure(pcr, EventType.EV_SEPARATOR, value)
    assert _found(boot) == [(Reason.BAD_SEPARATOR, f"PCR {pcr}, event 13")]


def test_a_second_separator_under_another_type_is_found() -> None:
    boot = _booted()
    boot.measure(4, EventType.EV_EFI_BOOT_SERVICES_APPLICATION, b"an image", covered=SEPARATOR)
    assert _found(boot) == [(Reason.BAD_SEPARATOR, "PCR 4, event 13")]


def test_an_event_that_is_only_labelled_as_a_separator_is_none() -> None:
    # The data says that it is one, the digest does not.
    boot = Boot()
    boot.measure(4, EventType.EV_SEPARATOR, SEPARATOR, covered=b"image")
    assert _found(boot, 4) == [(Reason.BAD_SEPARATOR, "PCR 4, event 1"), (Reason.BAD_SEPARATOR, "PCR 4")]


@pytest.mark.parametrize("claimed_type", [EventType.EV_SEPARATOR, EventType.EV_ACTION])
def test_an_error_separator_is_found_under_any_type(claimed_type: EventType) -> None:
    boot = Boot()
    boot.measure(0, claimed_type, b"\1\0\0\0")
    boot.separate(0)
    assert _found(boot, 0) == [(Reason.BAD_SEPARATOR, "PCR 0, event 1")]
    assert check_sequence(boot.replayed(0))[0].found.startswith("one of value 0x00000001, digest ")


def test_an_error_separator_does_not_stand_for_a_normal_one() -> None:
    boot = Boot()
    boot.measure(0, EventType.EV_SEPARATOR, b"\1\0\0\0")
    assert _found(boot, 0) == [(Reason.BAD_SEPARATOR, "PCR 0, event 1"), (Reason.BAD_SEPARATOR, "PCR 0")]


def test_separators_are_known_in_every_believed_bank() -> None:
    boot = Boot(SHA384)
    boot.separate(0)
    replayed = verify_log(parse_event_log(boot.log), boot.quoted(0, bank=SHA384), frozenset())
    assert check_sequence(replayed) == ()


def test_only_quoted_pcrs_need_a_separator() -> None:
    boot = Boot()
    boot.separate(4)
    assert _found(boot, 4, 14) == []


def test_pcrs_of_boot_loaders_have_no_separator() -> None:
    # Windows extends "WBCL" as one into 12 to 14.
    boot = Boot()
    for _ in range(2):
        boot.measure(12, EventType.EV_SEPARATOR, b"WBCL")
    assert _found(boot, 12) == []


# -- after a separator -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pcr", [0, 3, 6])
def test_nothing_may_follow_the_separator_of_firmware(pcr: int) -> None:
    boot = _booted()
    boot.measure(pcr, EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB, bytes(16), covered=b"volume")
    assert _found(boot) == [(Reason.AFTER_SEPARATOR, f"PCR {pcr}, event 13")]


@pytest.mark.parametrize("pcr", [1, 2, 4, 5])
def test_configuration_drivers_and_loaders_may_follow_a_separator(pcr: int) -> None:
    boot = _booted()
    boot.measure(pcr, EventType.EV_EFI_BOOT_SERVICES_DRIVER, bytes(32), covered=b"driver")
    assert _found(boot) == []


@pytest.mark.parametrize("name", ["SecureBoot", "PK", "KEK", "dbx", "DeployedMode"])
def test_the_state_of_secure_boot_may_not_follow_its_separator(name: str) -> None:
    boot = _booted()
    boot.measure(7, EventType.EV_EFI_VARIABLE_AUTHORITY, variable(name, b"\1"))
    assert _found(boot) == [(Reason.AFTER_SEPARATOR, "PCR 7, event 13")]


@pytest.mark.parametrize(
    ("data", "covered"),
    [
        (variable("db", b"certificate"), b"other"),
        (variable("db", b"certificate"), b"certificate"),
        (b"UEFI Debug Mode", None),
    ],
)
def test_what_is_not_known_to_be_an_authority_may_not_follow_its_separator(data: bytes, covered: bytes | None) -> None:
    boot = _booted()
    boot.measure(7, EventType.EV_EFI_VARIABLE_AUTHORITY, data, covered)
    assert _found(boot) == [(Reason.AFTER_SEPARATOR, "PCR 7, event 13")]


def test_an_authority_may_come_before_the_separator_too() -> None:
    boot = Boot()
    boot.measure(7, EventType.EV_EFI_VARIABLE_AUTHORITY, variable("db", b"certificate", SECURITY_DATABASE))
    boot.separate(7)
    assert _found(boot, 7) == []


# -- after the exit from boot services ---------------------------------------------------------------------------------


def _exited(*answers: bytes) -> Boot:
    boot = _booted()
    for action in (EXIT_BOOT_SERVICES, *answers):
        boot.measure(5, EventType.EV_EFI_ACTION, action)
    return boot


def test_an_exit_that_succeeds_breaks_no_rule() -> None:
    assert _found(_exited(EXIT_SUCCEEDED)) == []


@pytest.mark.parametrize("answers", [(), (EXIT_SUCCEEDED,), (EXIT_FAILED, EXIT_BOOT_SERVICES, EXIT_SUCCEEDED)])
def test_an_application_loaded_after_the_exit_is_found(answers: tuple[bytes, ...]) -> None:
    boot = _exited(*answers)
    boot.measure(4, EventType.EV_EFI_BOOT_SERVICES_APPLICATION, bytes(32), covered=b"late")
    assert _found(boot) == [(Reason.OUT_OF_ORDER, f"PCR 4, event {len(boot.events) - 1}")]


@pytest.mark.parametrize("pcr", [1, 2, 4, 5])
def test_nothing_is_measured_after_the_exit(pcr: int) -> None:
    boot = _exited(EXIT_SUCCEEDED)
    boot.measure(pcr, EventType.EV_EFI_ACTION, ACTION)
    assert _found(boot) == [(Reason.OUT_OF_ORDER, f"PCR {pcr}, event 15")]


def test_after_an_exit_that_failed_loading_may_go_on() -> None:
    boot = _exited(EXIT_FAILED)
    boot.measure(4, EventType.EV_EFI_BOOT_SERVICES_APPLICATION, bytes(32), covered=b"again")
    assert _found(boot) == []


def test_a_second_exit_without_an_answer_is_found() -> None:
    assert _found(_exited(EXIT_BOOT_SERVICES)) == [(Reason.OUT_OF_ORDER, "PCR 5, event 14")]


def test_what_the_kernel_measures_after_the_exit_is_its_own() -> None:
    boot = _exited(EXIT_SUCCEEDED)
    boot.measure(9, EventType.EV_EVENT_TAG, b"initrd")
    assert _found(boot, *range(8), 9) == []


def test_the_words_of_an_exit_in_another_pcr_are_only_words() -> None:
    boot = _booted()
    boot.measure(4, EventType.EV_EFI_ACTION, EXIT_BOOT_SERVICES)
    boot.measure(4, EventType.EV_EFI_ACTION, ACTION)
    assert _found(boot) == []


# -- how it is told ----------------------------------------------------------------------------------------------------


def test_a_finding_says_what_where_and_how_it_looks() -> None:
    boot = _booted()
    boot.measure(0, EventType.EV_EFI_ACTION, b"hello\nworld")
    (finding,) = check_sequence(boot.replayed())
    assert finding.subject == r"EV_EFI_ACTION: hello\nworld"
    assert finding.expected == "nothing after the separator"
    assert finding.found.startswith("an event, digest ")


def test_findings_come_in_the_order_of_the_log() -> None:
    boot = _exited(EXIT_SUCCEEDED)
    boot.measure(4, EventType.EV_EFI_ACTION, ACTION)
    boot.measure(0, EventType.EV_EFI_ACTION, ACTION)
    found = _found(boot)
    assert [where for _, where in found] == ["PCR 4, event 15", "PCR 0, event 16", "PCR 0, event 16"]
    assert {reason for reason, _ in found} == {Reason.OUT_OF_ORDER, Reason.AFTER_SEPARATOR}
