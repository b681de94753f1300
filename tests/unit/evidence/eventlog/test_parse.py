"""The frame of the log: both formats, every size and count, and what real firmware makes of them."""

import json
import struct
from collections.abc import Callable
from typing import Any, Final

import pytest

from steelyard.evidence.eventlog.events import EventType, type_name
from steelyard.evidence.eventlog.parse import parse_event_log
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import Malformed, MalformedEventLog, TooLarge
from steelyard.model.limits import EVENT_DATA_BYTES, EVENT_LOG_BYTES, EVENT_LOG_EVENTS
from tests.unit.evidence.eventlog.build import (
    SHA256,
    SHA384,
    Boot,
    agile_event,
    digest_of,
    header,
    sha1_event,
    single_event,
    spec_id,
)
from tests.vectors_dir import shared_vectors

SHA1: Final = HashAlgorithm.SHA1
EMPTY: Final = digest_of(b"", SHA256)
SIZE_OF_DATA_FIELD: Final = 4


def _expected() -> dict[str, Any]:
    expected: dict[str, Any] = json.loads((shared_vectors("eventlogs") / "EXPECTED.json").read_text())
    return expected


def _vector(name: str) -> bytes:
    return (shared_vectors("eventlogs") / name).read_bytes()


def _event(pcr: int = 4, claimed_type: int = EventType.EV_IPL, data: bytes = b"data") -> bytes:
    return agile_event(pcr, claimed_type, data, [(SHA256.tpm_id, digest_of(data, SHA256))])


# -- real logs ---------------------------------------------------------------------------------------------------------


def test_every_recorded_log_has_the_expected_number_of_events() -> None:
    for name, expected in _expected().items():
        if "truncated last event" not in expected["notes"]:
            assert len(parse_event_log(_vector(name)).events) == expected["events"], name


def test_every_recorded_log_cut_anywhere_is_refused_or_loses_whole_events() -> None:
    for name, expected in _expected().items():
        data = _vector(name)[:4000]
        for end in range(0, len(data), 7):
            try:
                log = parse_event_log(data[:end])
            except MalformedEventLog:
                continue
            assert len(log.events) < max(2, expected["events"]), (name, end)


def test_words_in_place_of_a_log_are_refused() -> None:
    with pytest.raises(MalformedEventLog, match="PCR 0 to 23"):
        parse_event_log(_vector("kl-binary_bios_measurements-bogus"))


def test_vendor_information_beyond_the_size_of_the_header_belongs_to_it() -> None:
    log = parse_event_log(_vector("tt-specid-vendordata.bin"))
    assert log.header is not None
    assert log.header.vendor_info == bytes.fromhex("deadbeef")
    assert log.events[0].data.endswith(bytes.fromhex("04deadbeef"))


def test_a_log_of_tpm_1_2_is_sha1_only() -> None:
    log = parse_event_log(_vector("tt-event-uefi-sha1-log.bin"))
    assert (log.algorithms, log.header) == ((SHA1,), None)


def test_an_event_may_carry_fewer_banks_than_the_header_lists() -> None:
    log = parse_event_log(_vector("ibm-dell1.log"))
    assert log.algorithms == (SHA1, SHA256)
    assert set(log.events[38].digests) == {SHA256}


def test_digests_may_come_in_another_order_than_in_the_header() -> None:
    log = parse_event_log(_vector("acs-tpm2bios.log"))
    assert log.algorithms == (SHA256, SHA1)
    assert list(log.events[9].digests) == [SHA1, SHA256]
    assert log.events[9].digests[SHA256] == digest_of(b"\xff" * 4, SHA256)


# -- what each field gives ---------------------------------------------------------------------------------------------


def test_every_field_is_where_it_belongs() -> None:
    data = header(SHA256) + _event(pcr=5, claimed_type=0x8401, data=b"what")
    event = parse_event_log(data).events[1]
    assert (event.number, event.pcr, event.claimed_type, event.data) == (1, 5, 0x8401, b"what")
    assert event.digests == {SHA256: digest_of(b"what", SHA256)}


def test_the_header_says_what_firmware_said() -> None:
    data = spec_id([(SHA256.tpm_id, 32), (0x7777, 5)], vendor_info=b"maker")
    log = parse_event_log(sha1_event(0, EventType.EV_NO_ACTION, data))
    assert log.header is not None
    assert log.header.version == (2, 0, 0)
    assert dict(log.header.digest_sizes) == {SHA256.tpm_id: 32, 0x7777: 5}
    assert log.header.vendor_info == b"maker"
    assert log.events[0].data == data


def test_an_algorithm_nobody_knows_is_read_over_by_its_size() -> None:
    first = sha1_event(0, EventType.EV_NO_ACTION, spec_id([(0x7777, 5), (SHA256.tpm_id, 32)]))
    second = agile_event(4, EventType.EV_IPL, b"data", [(0x7777, b"12345"), (SHA256.tpm_id, EMPTY)])
    log = parse_event_log(first + second + _event())
    assert log.algorithms == (SHA256,)
    assert [event.data for event in log.events[1:]] == [b"data", b"data"]
    assert log.events[1].digests == {SHA256: EMPTY}


def test_sm3_digests_are_carried() -> None:
    sm3 = HashAlgorithm.SM3_256
    log = parse_event_log(header(sm3) + agile_event(0, EventType.EV_IPL, b"", [(sm3.tpm_id, bytes(32))]))
    assert log.events[1].digests == {sm3: bytes(32)}


def test_a_type_nobody_knows_is_shown_as_its_number() -> None:
    assert type_name(0x8401) == "0x00008401"
    assert type_name(0x800000E4) == "EV_EFI_SPDM_DEVICE_AUTHORITY"


@pytest.mark.parametrize("index", [0, 23, 0xFFFFFFFF, 0x01C40200, 0x01C40203])
def test_an_event_that_extends_nothing_may_name_what_is_no_pcr(index: int) -> None:
    event = agile_event(index, EventType.EV_NO_ACTION, b"SP800-155 Event3", [(SHA256.tpm_id, bytes(32))])
    assert parse_event_log(header(SHA256) + event).events[1].pcr == index


# -- attack 16: what is refused ----------------------------------------------------------------------------------------

_HEADER: Final = header(SHA256)
_SHA256: Final = SHA256.tpm_id

REFUSED: Final[dict[str, tuple[bytes, str]]] = {
    "nothing": (b"", "32 bytes of event before its data"),
    "a header cut short": (_HEADER[:40], "bytes of data"),
    "an event cut before its digests": (_HEADER + _event()[:11], "12 bytes of event before its digests"),
    "an event cut in the number of an algorithm": (_HEADER + _event()[:13], "2 bytes of algorithm"),
    "an event cut in a digest": (_HEADER + _event()[:40], "36 bytes of digest and size"),
    "an event cut in the size of its data": (_HEADER + _event()[:48], "36 bytes of digest and size"),
    "an event cut in its data": (_HEADER + _event()[:-1], "4 bytes of data"),
    "bytes after the last event": (_HEADER + _event() + b"\0", "12 bytes of event before its digests"),
    "zeros after the last event": (_HEADER + _event() + bytes(64), "1 to 1 digests"),
    "a second header": (_HEADER + _HEADER, "event 1: expected 1 to 1 digests"),
    "a header as an agile event": (
        _HEADER + agile_event(0, EventType.EV_NO_ACTION, spec_id([(_SHA256, 32)]), [(_SHA256, bytes(32))]),
        "a Spec ID header as the first event only",
    ),
    "an older header later": (
        _HEADER + agile_event(0, EventType.EV_NO_ACTION, b"Spec ID Event02\0", [(_SHA256, bytes(32))]),
        "a Spec ID header as the first event only",
    ),
    "a header in a SHA-1-only log that is not the first": (
        sha1_event(0, EventType.EV_S_CRTM_VERSION, b"1") + sha1_event(0, EventType.EV_NO_ACTION, spec_id([(4, 20)])),
        "a Spec ID header as the first event only",
    ),
    "a header that claims to be measured": (
        sha1_event(0, EventType.EV_EFI_ACTION, spec_id([(_SHA256, 32)])),
        "the Spec ID header as an EV_NO_ACTION in PCR 0",
    ),
    "a header in another PCR": (
        sha1_event(1, EventType.EV_NO_ACTION, spec_id([(_SHA256, 32)])),
        "the Spec ID header as an EV_NO_ACTION in PCR 0",
    ),
    "a header without algorithms": (sha1_event(0, EventType.EV_NO_ACTION, spec_id([])), "at least one algorithm"),
    "a header that lists an algorithm twice": (
        sha1_event(0, EventType.EV_NO_ACTION, spec_id([(_SHA256, 32), (_SHA256, 32)])),
        "each algorithm once",
    ),
    "a header with a wrong size of a known digest": (
        sha1_event(0, EventType.EV_NO_ACTION, spec_id([(_SHA256, 20)])),
        "with the size of its digests",
    ),
    "a header with digests of no size": (
        sha1_event(0, EventType.EV_NO_ACTION, spec_id([(0x7777, 0)])),
        "with the size of its digests",
    ),
    "a header of another major version": (
        sha1_event(0, EventType.EV_NO_ACTION, spec_id([(_SHA256, 32)])).replace(
            b"\x00\x02\x00\x02", b"\x00\x01\x00\x02"
        ),
        "specVersionMajor 2",
    ),
    "a header with more after the vendor's information": (
        sha1_event(0, EventType.EV_NO_ACTION, spec_id([(_SHA256, 32)]) + b"!"),
        "an event that ends at",
    ),
    "a header whose vendor's information is counted in part": (
        sha1_event(0, EventType.EV_NO_ACTION, spec_id([(_SHA256, 32)], vendor_info=b"1234")[:-2]) + b"34",
        "an event that ends at",
    ),
    "a header that ends before its algorithms": (
        sha1_event(0, EventType.EV_NO_ACTION, spec_id([(_SHA256, 32)]), size=20),
        "an event that ends at",
    ),
    "an algorithm the header does not list": (
        _HEADER + agile_event(0, 1, b"", [(SHA384.tpm_id, bytes(48))]),
        "each of the header's algorithms at most once",
    ),
    "an algorithm twice in one event": (
        header(SHA256, SHA384) + agile_event(0, 1, b"", [(_SHA256, EMPTY), (_SHA256, EMPTY)]),
        "each of the header's algorithms at most once",
    ),
    "no digest": (_HEADER + agile_event(0, 1, b"", []), "1 to 1 digests"),
    "more digests than algorithms": (_HEADER + agile_event(0, 1, b"", [(_SHA256, EMPTY)] * 2), "1 to 1 digests"),
    "a huge count of digests": (_HEADER + agile_event(0, 1, b"", [(_SHA256, EMPTY)], count=0xFFFFFFFF), "digests"),
    "a PCR that no TPM has": (_HEADER + _event(pcr=24), "PCR 0 to 23"),
    "a measurement into no PCR": (_HEADER + _event(pcr=0xFFFFFFFF), "PCR 0 to 23"),
    "an event that extends nothing in a PCR that no TPM has": (
        _HEADER + agile_event(24, EventType.EV_NO_ACTION, b"", [(_SHA256, bytes(32))]),
        "PCR 0 to 23",
    ),
    "a SHA-1-only event in a PCR that no TPM has": (sha1_event(24, 1, b""), "PCR 0 to 23"),
    "a size beyond the end": (_HEADER + agile_event(0, 1, b"1234", [(_SHA256, EMPTY)], size=5), "5 bytes of data"),
    "a SHA-1-only size beyond the end": (sha1_event(0, 1, b"1234", size=5), "5 bytes of data"),
    "a SHA-1-only event cut short": (sha1_event(0, 1, b"") + bytes(31), "32 bytes of event before its data"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_log_is_refused_for(case: str) -> None:
    data, expected = REFUSED[case]
    with pytest.raises(MalformedEventLog, match=expected):
        parse_event_log(data)


def test_a_recorded_log_of_which_the_header_was_taken_off_is_refused() -> None:
    for name, expected in _expected().items():
        data = _vector(name)
        if data[32:48] == b"Spec ID Event03\0" and expected["events"] > 1:
            first = parse_event_log(data).events[0]
            with pytest.raises(Malformed):
                parse_event_log(data[32 + len(first.data) :])


def test_no_byte_of_a_log_can_be_missing_at_its_end() -> None:
    boot = Boot(SHA256, SHA384)
    boot.measure(4, EventType.EV_IPL, b"data")
    whole = [len(b"".join(boot.events[:number])) for number in range(1, len(boot.events) + 1)]
    for end in range(len(boot.log)):
        if end not in whole:
            with pytest.raises(MalformedEventLog):
                parse_event_log(boot.log[:end])


def _huge_data() -> bytes:
    return _HEADER + agile_event(0, 1, bytes(EVENT_DATA_BYTES.most + 1), [(_SHA256, EMPTY)])


def _huge_claim() -> bytes:
    return _HEADER + agile_event(0, 1, b"", [(_SHA256, EMPTY)], size=0xFFFFFFFF)


def _huge_sha1_claim() -> bytes:
    return sha1_event(0, 1, b"", size=0xFFFFFFFF)


def _many_events() -> bytes:
    return _HEADER + _event() * EVENT_LOG_EVENTS.most


def _many_sha1_events() -> bytes:
    return sha1_event(0, 1, b"") * (EVENT_LOG_EVENTS.most + 1)


def _many_algorithms() -> bytes:
    return sha1_event(0, EventType.EV_NO_ACTION, spec_id([(number, 1) for number in range(100, 109)]))


def _huge_log() -> bytes:
    large = agile_event(0, 1, bytes(EVENT_DATA_BYTES.most), [(_SHA256, EMPTY)])
    return _HEADER + large * (EVENT_LOG_BYTES.most // EVENT_DATA_BYTES.most)


@pytest.mark.parametrize(
    "make",
    [_huge_data, _huge_claim, _huge_sha1_claim, _many_events, _many_sha1_events, _many_algorithms, _huge_log],
)
def test_more_than_a_limit_is_too_large(make: Callable[[], bytes]) -> None:
    with pytest.raises(TooLarge):
        parse_event_log(make())


def test_as_many_events_as_the_limit_are_read() -> None:
    assert len(parse_event_log(_HEADER + _event() * (EVENT_LOG_EVENTS.most - 1)).events) == EVENT_LOG_EVENTS.most
    assert len(parse_event_log(sha1_event(0, 1, b"") * EVENT_LOG_EVENTS.most).events) == EVENT_LOG_EVENTS.most


def test_a_header_that_claims_a_huge_count_of_algorithms_is_refused_before_they_are_read() -> None:
    with pytest.raises(Malformed, match="at most 8 algorithms"):
        parse_event_log(sha1_event(0, EventType.EV_NO_ACTION, spec_id([(_SHA256, 32)], count=0xFFFFFFFF)))


def test_the_last_size_of_a_log_may_be_zero() -> None:
    assert single_event(EventType.EV_IPL, b"").data == b""
    assert struct.unpack("<I", (_HEADER + _event(data=b""))[-SIZE_OF_DATA_FIELD:]) == (0,)
