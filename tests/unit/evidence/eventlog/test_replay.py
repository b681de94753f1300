"""Replay: what each PCR must hold, and when a log may be believed to say what was extended."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from steelyard.evidence.eventlog.events import Event, EventLog, EventType
from steelyard.evidence.eventlog.parse import parse_event_log
from steelyard.evidence.eventlog.replay import replay, verify_log
from steelyard.model.algorithms import HASH_BY_NAME, HashAlgorithm
from steelyard.model.errors import LogRejected
from steelyard.model.pcrs import PcrValues
from tests.unit.evidence.eventlog.build import SHA256, SHA384, Boot, agile_event, digest_of
from tests.vectors_dir import OWN, shared_vectors

SHA1: Final = HashAlgorithm.SHA1
SHA512: Final = HashAlgorithm.SHA512
NOWHERE: Final[frozenset[int]] = frozenset()
STARTUP_LOCALITY: Final = b"StartupLocality\0"


def _expected() -> dict[str, Any]:
    expected: dict[str, Any] = json.loads((shared_vectors("eventlogs") / "EXPECTED.json").read_text())
    return expected


def _log(name: str) -> EventLog:
    return parse_event_log((shared_vectors("eventlogs") / name).read_bytes())


def _quoted(log: EventLog, *pcrs: int) -> PcrValues:
    values = replay(log, SHA256)
    return PcrValues(SHA256, {pcr: values[pcr] for pcr in pcrs or values})


def _changed(log: EventLog, number: int, change: Callable[[Event], Event]) -> EventLog:
    events = [change(event) if event.number == number else event for event in log.events]
    return replace(log, events=tuple(events))


def _boot() -> Boot:
    boot = Boot()
    boot.measure(0, EventType.EV_S_CRTM_VERSION, b"1\0\0\0")
    boot.measure(4, EventType.EV_EFI_ACTION, b"Calling EFI Application from Boot Option")
    boot.separate()
    boot.measure(4, EventType.EV_EFI_BOOT_SERVICES_APPLICATION, bytes(32), covered=b"image")
    return boot


# -- real logs, and a second opinion -----------------------------------------------------------------------------------


def test_every_recorded_log_replays_to_the_expected_values() -> None:
    for name, expected in _expected().items():
        if "truncated last event" in expected["notes"]:
            continue
        log = _log(name)
        for bank in log.algorithms:
            values = {str(pcr): value.hex() for pcr, value in replay(log, bank).items()}
            assert values == expected["pcrs"].get(bank.label, {}), (name, bank)


def test_every_recorded_log_verifies_against_its_own_values() -> None:
    for name, expected in _expected().items():
        if "sha256" in expected["pcrs"]:
            values = {int(pcr): bytes.fromhex(value) for pcr, value in expected["pcrs"]["sha256"].items()}
            replayed = verify_log(_log(name), PcrValues(SHA256, values), NOWHERE)
            assert len(replayed.events) + replayed.left_out == expected["events"], name


def _values_by_tpm2_eventlog(log: Path) -> dict[str, dict[str, str]]:
    """Return the `pcrs` section of the tool's YAML: bank -> PCR -> hex."""
    if shutil.which("tpm2_eventlog") is None:
        pytest.skip("needs tpm2_eventlog from the Debian package tpm2-tools")
    output = subprocess.run(["tpm2_eventlog", log], capture_output=True, text=True, check=True).stdout
    values: dict[str, dict[str, str]] = {}
    bank = ""
    for line in output[output.rindex("\npcrs:\n") :].splitlines():
        if named := re.fullmatch(r"  (\w+):", line):
            bank = named[1]
            values[bank] = {}
        elif value := re.fullmatch(r"    (\d+) *: 0x([0-9a-f]+)", line):
            values[bank][value[1]] = value[2]
    return values


def test_tpm2_eventlog_computes_the_same_values() -> None:
    agreed = 0
    for name, expected in _expected().items():
        if expected.get("agrees_with_tpm2_eventlog"):
            log = _log(name)
            ours = {
                bank.label: {str(pcr): value.hex() for pcr, value in replay(log, bank).items()}
                for bank in log.algorithms
                if replay(log, bank)
            }
            assert _values_by_tpm2_eventlog(shared_vectors("eventlogs") / name) == ours, name
            agreed += 1
    assert agreed >= 10


def test_tpm2_eventlog_computes_the_same_values_in_every_bank(tmp_path: Path) -> None:
    boot = Boot(SHA1, SHA256, SHA384, SHA512)
    for pcr in (0, 4, 7, 14):
        boot.measure(pcr, EventType.EV_EFI_ACTION, f"event in {pcr}".encode())
    (tmp_path / "log").write_bytes(boot.log)
    log = parse_event_log(boot.log)
    theirs = _values_by_tpm2_eventlog(tmp_path / "log")
    assert theirs == {
        name: {str(pcr): value.hex() for pcr, value in replay(log, HASH_BY_NAME[name]).items()} for name in theirs
    }
    assert set(theirs) == {"sha1", "sha256", "sha384", "sha512"}


@pytest.mark.parametrize("boot", sorted(path.name for path in (OWN / "ovmf" / "boots").iterdir()))
@pytest.mark.parametrize("bank", [SHA1, SHA256, SHA384])
def test_a_recorded_boot_replays_to_what_its_tpm_held(boot: str, bank: HashAlgorithm) -> None:
    # PCR 10 is the kernel's list; 15 to 23 are no firmware's.
    folder = OWN / "ovmf" / "boots" / boot
    held = json.loads((folder / "pcrs.json").read_text())[bank.label]
    log = parse_event_log((folder / "event_log.bin").read_bytes())
    for pcr, value in replay(log, bank).items():
        assert value.hex() == held[str(pcr)], pcr
    if bank.believed:
        quoted = PcrValues(bank, {pcr: bytes.fromhex(held[str(pcr)]) for pcr in range(15)})
        assert verify_log(log, quoted, frozenset({10})).events


def test_a_bank_of_sha3_is_replayed() -> None:
    sha3 = HashAlgorithm.SHA3_256
    boot = Boot(sha3)
    boot.measure(4, EventType.EV_IPL, b"data")
    assert replay(parse_event_log(boot.log), sha3) == boot.quoted(4, bank=sha3).values


@pytest.mark.parametrize("bank", [HashAlgorithm.SM3_256, SHA384])
def test_a_bank_that_cannot_be_computed_or_is_not_there_is_refused(bank: HashAlgorithm) -> None:
    log = parse_event_log(Boot(SHA256).log)
    log = replace(log, algorithms=(SHA256, HashAlgorithm.SM3_256))
    with pytest.raises(LogRejected, match=r"a bank that the log carries \(sha256\); found " + bank.label):
        replay(log, bank)


# -- what a verified log is --------------------------------------------------------------------------------------------


def test_a_log_that_replays_gives_its_events_in_order() -> None:
    boot = _boot()
    replayed = boot.replayed()
    assert replayed.bank is SHA256
    assert [event.pcr for event in replayed.events] == [0, 4, 0, 1, 2, 3, 4, 5, 6, 7, 4]
    assert replayed.pcrs == boot.quoted(*range(8)).values
    assert replayed.left_out == 1
    assert replayed.digest(replayed.events[-1]) == digest_of(b"image", SHA256)


def test_a_log_is_verified_in_any_believed_bank() -> None:
    boot = Boot(SHA1, SHA256, SHA384)
    boot.measure(7, EventType.EV_EFI_ACTION, b"action")
    replayed = verify_log(parse_event_log(boot.log), boot.quoted(7, bank=SHA384), NOWHERE)
    assert replayed.digest(replayed.events[0]) == digest_of(b"action", SHA384)


def test_a_quoted_pcr_without_events_holds_its_start_value() -> None:
    boot = _boot()
    replayed = boot.replayed(0, 16, 17, 23)
    assert replayed.pcrs[16] == bytes(32)
    assert replayed.pcrs[17] == b"\xff" * 32


# -- attack 16 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pcr", range(8))
def test_a_mismatch_in_any_quoted_pcr_is_refused_and_named(pcr: int) -> None:
    boot = _boot()
    boot.extend(pcr, {SHA256: bytes(32)})
    with pytest.raises(LogRejected, match=f"PCR {pcr} to be {boot.quoted(pcr).values[pcr].hex()}"):
        boot.replayed()


def test_a_quoted_pcr_that_was_extended_behind_the_logs_back_is_refused() -> None:
    boot = _boot()
    boot.extend(14, {SHA256: bytes(32)})
    with pytest.raises(LogRejected, match=r"PCR 14 to be .* \(without events, start value\)"):
        boot.replayed(0, 14)


@pytest.mark.parametrize("number", range(1, 12))
def test_a_log_without_one_of_its_events_is_refused(number: int) -> None:
    boot = _boot()
    del boot.events[number]
    with pytest.raises(LogRejected):
        boot.replayed()


@pytest.mark.parametrize("number", range(1, 12))
def test_a_log_with_an_event_twice_is_refused(number: int) -> None:
    boot = _boot()
    boot.events.insert(number, boot.events[number])
    with pytest.raises(LogRejected):
        boot.replayed()


def test_a_log_with_two_events_of_a_pcr_exchanged_is_refused() -> None:
    boot = _boot()
    boot.events[2], boot.events[-1] = boot.events[-1], boot.events[2]
    with pytest.raises(LogRejected):
        boot.replayed()


def test_a_log_for_other_pcrs_than_were_quoted_is_refused() -> None:
    boot = Boot()
    boot.measure(4, EventType.EV_IPL, b"image")
    with pytest.raises(LogRejected, match="PCR 5"):
        verify_log(parse_event_log(boot.log), PcrValues(SHA256, {5: boot.quoted(4).values[4]}), NOWHERE)


def test_events_that_no_quoted_pcr_covers_are_left_out_and_counted() -> None:
    boot = _boot()
    boot.events += [boot.event(pcr, EventType.EV_EFI_ACTION, b"never extended") for pcr in (8, 23)]
    replayed = boot.replayed()
    assert {event.pcr for event in replayed.events} == set(range(8))
    assert replayed.left_out == 3


def test_an_event_without_a_digest_of_the_quoted_bank_is_left_out() -> None:
    boot = Boot(SHA1, SHA256)
    boot.measure(4, EventType.EV_IPL, b"both")
    boot.events.append(agile_event(4, EventType.EV_IPL, b"one", [(SHA1.tpm_id, digest_of(b"one", SHA1))]))
    replayed = boot.replayed(4)
    assert [event.data for event in replayed.events] == [b"both"]
    assert replayed.left_out == 2


def test_sha1_is_never_believed() -> None:
    boot = Boot(SHA1, SHA256)
    boot.measure(4, EventType.EV_IPL, b"data")
    with pytest.raises(LogRejected, match="SHA-256 or better; found sha1"):
        verify_log(parse_event_log(boot.log), boot.quoted(4, bank=SHA1), NOWHERE)


def test_a_bank_that_is_not_believed_is_refused_even_if_it_can_be_computed() -> None:
    sha3 = HashAlgorithm.SHA3_256
    boot = Boot(sha3)
    boot.measure(4, EventType.EV_IPL, b"data")
    with pytest.raises(LogRejected, match="SHA-256 or better"):
        verify_log(parse_event_log(boot.log), boot.quoted(4, bank=sha3), NOWHERE)


def test_a_bank_that_the_log_does_not_carry_is_refused() -> None:
    boot = _boot()
    with pytest.raises(LogRejected, match=r"a bank that the log carries \(sha256\); found sha384"):
        verify_log(parse_event_log(boot.log), PcrValues(SHA384, {0: bytes(48)}), NOWHERE)


def test_a_sha1_only_log_is_refused() -> None:
    log = _log("tt-event-uefi-sha1-log.bin")
    with pytest.raises(LogRejected, match="found sha1"):
        verify_log(log, PcrValues(SHA1, replay(log, SHA1)), NOWHERE)
    with pytest.raises(LogRejected, match="found sha256"):
        verify_log(log, PcrValues(SHA256, {0: bytes(32)}), NOWHERE)


@pytest.mark.parametrize("elsewhere", [NOWHERE, frozenset({10})])
def test_nothing_to_explain_is_refused(elsewhere: frozenset[int]) -> None:
    quoted = PcrValues(SHA256, {pcr: bytes(32) for pcr in elsewhere})
    with pytest.raises(LogRejected, match="at least one quoted PCR"):
        verify_log(parse_event_log(_boot().log), quoted, elsewhere)


def test_a_pcr_that_another_log_accounts_for_is_left_to_it() -> None:
    boot = _boot()
    boot.extend(10, {SHA256: bytes(32)})
    replayed = verify_log(parse_event_log(boot.log), boot.quoted(0, 10), frozenset({10}))
    assert set(replayed.pcrs) == {0}
    with pytest.raises(LogRejected, match="PCR 10"):
        boot.replayed(0, 10)


def test_two_logs_of_one_pcr_are_refused() -> None:
    boot = _boot()
    boot.measure(10, EventType.EV_IPL, b"not the kernel's")
    with pytest.raises(LogRejected, match="no event in PCR 10"):
        verify_log(parse_event_log(boot.log), boot.quoted(0, 10), frozenset({10}))


def _two_stories() -> Boot:
    """Return a boot with an event whose SHA-256 digest is of the data it shows, and whose SHA-384 digest is not."""
    boot = Boot(SHA256, SHA384)
    digests = {SHA256: digest_of(b"shown", SHA256), SHA384: digest_of(b"hidden", SHA384)}
    boot.extend(4, digests)
    listed = [(bank.tpm_id, digest) for bank, digest in digests.items()]
    boot.events.append(agile_event(4, EventType.EV_EFI_ACTION, b"shown", listed))
    return boot


def test_banks_that_disagree_about_covered_data_are_refused() -> None:
    with pytest.raises(LogRejected, match="event 1 in PCR 4: expected sha256 and sha384 digests of the same data"):
        _two_stories().replayed(4)


def test_data_that_only_a_bank_that_was_not_quoted_covers_is_not_believed() -> None:
    boot = _two_stories()
    replayed = verify_log(parse_event_log(boot.log), boot.quoted(4, bank=SHA384), NOWHERE)
    assert replayed.committed(replayed.events[0]) is None


def test_a_wrong_sha1_digest_beside_a_right_one_says_nothing() -> None:
    boot = Boot(SHA1, SHA256)
    boot.extend(4, {SHA256: digest_of(b"shown", SHA256)})
    digests = [(SHA1.tpm_id, bytes(20)), (SHA256.tpm_id, digest_of(b"shown", SHA256))]
    boot.events.append(agile_event(4, EventType.EV_EFI_ACTION, b"shown", digests))
    assert len(boot.replayed(4).events) == 1


def test_a_zero_digest_is_extended_like_any_other() -> None:
    # Attack 21; OpenPOWER firmware extends zeros, and an all-zero digest must not pass for "nothing was extended".
    boot = Boot()
    boot.extend(1, {SHA256: bytes(32)})
    boot.events.append(agile_event(1, EventType.EV_ACTION, b"Node id", [(SHA256.tpm_id, bytes(32))]))
    replayed = boot.replayed(1)
    assert replayed.committed(replayed.events[0]) is None


def test_an_extra_driver_is_an_event_of_its_own() -> None:
    # Attack 22: nothing in here drops or merges it, so that an appraisal sees it and names it.
    boot = _boot()
    boot.measure(2, EventType.EV_EFI_BOOT_SERVICES_DRIVER, bytes(32), covered=b"driver")
    assert [event.number for event in boot.replayed().events if event.pcr == 2] == [5, 12]


# -- attack 17, and where PCR 0 starts ---------------------------------------------------------------------------------


def test_startup_locality_3_is_where_pcr_0_starts() -> None:
    # The vector is one that tpm2_eventlog 5.4 computes wrongly, as it ignores the event.
    log = _log("ibm-dell1.log")
    assert log.events[1].data == STARTUP_LOCALITY + b"\3"
    without = replace(log, events=tuple(event for event in log.events if event.number != 1))
    assert replay(log, SHA256)[0] != replay(without, SHA256)[0]
    with pytest.raises(LogRejected, match="PCR 0"):
        verify_log(without, _quoted(log), NOWHERE)


@pytest.mark.parametrize("locality", [0, 3, 4])
def test_pcr_0_starts_at_the_locality_of_startup(locality: int) -> None:
    boot = Boot(locality=locality)
    boot.no_action(STARTUP_LOCALITY + bytes([locality]))
    boot.measure(0, EventType.EV_S_CRTM_VERSION, b"1")
    assert boot.replayed(0).pcrs == boot.quoted(0).values


def test_pcr_0_without_events_starts_at_the_locality_of_startup() -> None:
    boot = Boot(locality=3)
    boot.no_action(STARTUP_LOCALITY + b"\3")
    assert boot.replayed(0).pcrs == boot.quoted(0).values


@pytest.mark.parametrize("claimed", [None, 0, 3, 4])
def test_an_h_crtm_makes_pcr_0_start_at_4_whatever_startup_was(claimed: int | None) -> None:
    boot = Boot(locality=4)
    if claimed is not None:
        boot.no_action(STARTUP_LOCALITY + bytes([claimed]))
    boot.measure(0, EventType.EV_EFI_HCRTM_EVENT, b"HCRTM")
    assert boot.replayed(0).pcrs == boot.quoted(0).values


def test_an_h_crtm_that_is_not_first_changes_nothing() -> None:
    boot = Boot()
    boot.measure(0, EventType.EV_S_CRTM_VERSION, b"1")
    boot.measure(0, EventType.EV_EFI_HCRTM_EVENT, b"HCRTM")
    assert boot.replayed(0).pcrs == boot.quoted(0).values


def test_the_locality_starts_pcr_0_alone() -> None:
    boot = Boot(locality=3)
    boot.no_action(STARTUP_LOCALITY + b"\3")
    boot.separate()
    assert boot.replayed().pcrs == boot.quoted(*range(8)).values


def test_a_locality_that_was_not_does_not_replay() -> None:
    boot = _boot()
    boot.events.insert(1, Boot().event(0, EventType.EV_NO_ACTION, STARTUP_LOCALITY + b"\3"))
    with pytest.raises(LogRejected, match="PCR 0 to be"):
        boot.replayed()


@pytest.mark.parametrize(
    ("data", "pcr", "place", "expected"),
    [
        (STARTUP_LOCALITY + b"\0", 1, 1, "one StartupLocality event, in PCR 0"),
        (STARTUP_LOCALITY + b"\0", 0, 2, "before any measurement into it"),
        (STARTUP_LOCALITY, 0, 1, "of 17 bytes"),
        (STARTUP_LOCALITY + b"\0\0", 0, 1, "of 17 bytes"),
        (b"StartupLocality", 0, 1, "of 17 bytes"),
        (b"StartupLocality!\0", 0, 1, "of 17 bytes"),
        (STARTUP_LOCALITY + b"\1", 0, 1, "locality 0, 3 or 4; found 1"),
        (STARTUP_LOCALITY + b"\xff", 0, 1, "locality 0, 3 or 4; found 255"),
    ],
)
def test_a_forged_startup_locality_is_refused(data: bytes, pcr: int, place: int, expected: str) -> None:
    boot = _boot()
    boot.events.insert(place, Boot().event(pcr, EventType.EV_NO_ACTION, data))
    log = parse_event_log(boot.log)
    with pytest.raises(LogRejected, match=expected):
        verify_log(log, boot.quoted(*range(8)), NOWHERE)
    with pytest.raises(LogRejected, match=expected):
        replay(log, SHA256)


def test_a_second_startup_locality_is_refused() -> None:
    boot = Boot(locality=3)
    boot.no_action(STARTUP_LOCALITY + b"\3")
    boot.no_action(STARTUP_LOCALITY + b"\3")
    with pytest.raises(LogRejected, match="one StartupLocality event"):
        boot.replayed(0)


@pytest.mark.parametrize("pcr", [0, 4, 7])
def test_an_event_that_extends_nothing_is_never_taken_for_a_measurement(pcr: int) -> None:
    boot = _boot()
    boot.no_action(b"Calling EFI Application from Boot Option", pcr)
    replayed = boot.replayed()
    assert all(event.claimed_type != EventType.EV_NO_ACTION for event in replayed.events)
    assert replayed.left_out == 2


@pytest.mark.parametrize("number", range(1, 12))
def test_a_measurement_relabelled_as_extending_nothing_is_missed(number: int) -> None:
    boot = _boot()
    log = parse_event_log(boot.log)
    lie = _changed(log, number, lambda event: replace(event, claimed_type=int(EventType.EV_NO_ACTION)))
    with pytest.raises(LogRejected):
        verify_log(lie, boot.quoted(*range(8)), NOWHERE)


def test_an_event_that_extended_nothing_relabelled_as_a_measurement_does_not_replay() -> None:
    boot = _boot()
    boot.no_action(b"SP800-155 Event")
    log = parse_event_log(boot.log)
    lie = _changed(log, 12, lambda event: replace(event, claimed_type=int(EventType.EV_POST_CODE)))
    with pytest.raises(LogRejected, match="PCR 0"):
        verify_log(lie, boot.quoted(*range(8)), NOWHERE)


@pytest.mark.parametrize("name", ["ibm-dell1.log", "rk-uefi_log.bin", "ibm-sm4.log"])
def test_a_recorded_log_with_any_digest_changed_is_refused(name: str) -> None:
    log = _log(name)
    quoted = _quoted(log)
    for number in range(2, len(log.events)):
        lie = _changed(
            log, number, lambda event: replace(event, digests={SHA256: digest_of(event.digests[SHA256], SHA256)})
        )
        with pytest.raises(LogRejected):
            verify_log(lie, quoted, NOWHERE)
