"""From a log's bytes to its events, in both formats: SHA-1-only and crypto-agile.

Looks at the frame alone: what an event's data means is decoded by `payloads` when somebody asks.
"""

from collections.abc import Mapping
from struct import Struct
from typing import Final

from steelyard.evidence.eventlog.events import Event, EventLog, EventType, SpecIdEvent
from steelyard.evidence.reader import LittleEndianReader, refuse_over
from steelyard.model.algorithms import HASH_BY_TPM_ID, HashAlgorithm
from steelyard.model.errors import MalformedEventLog, TooLarge
from steelyard.model.limits import EVENT_DATA_BYTES, EVENT_LOG_ALGORITHMS, EVENT_LOG_BYTES, EVENT_LOG_EVENTS
from steelyard.model.pcrs import PCR_COUNT

_DOING: Final = "reading an event log"

_SHA1_EVENT: Final = Struct("<II20sI")
"""TCG_PCClientPCREvent before its data: PCR, type, SHA-1 digest, size of the data."""
_AGILE_EVENT: Final = Struct("<III")
"""TCG_PCR_EVENT2 before its digests: PCR, type, count of digests."""
_U16: Final = Struct("<H")
_U32: Final = Struct("<I")

_SPEC_ID_03: Final = b"Spec ID Event03\0"
_SPEC_ID: Final = b"Spec ID Event"
"""How the headers of all versions of the profile begin: 00 and 02 stand in logs of TPM 1.2, which are SHA-1-only."""

_NOT_PCRS: Final = frozenset({0xFFFFFFFF, *range(0x01C40200, 0x01C40204)})
"""What an EV_NO_ACTION may have for a PCR: none at all, as Windows gives what it appends to its own copy of the log, or
the NV index that an SPDM record went to.

Source of the indices: TCG PC Client Platform Firmware Profile 1.06, SPDM records in NV.
"""


def parse_event_log(data: bytes) -> EventLog:
    """Return the events of a log as Linux shows it in /sys/kernel/security/tpm0/binary_bios_measurements.

    data  little-endian TCG_PCClientPCREvent, then TCG_PCR_EVENT2 when the first is a "Spec ID Event03" header, else
          TCG_PCClientPCREvent to the end; nothing after the last event.

    Raises MalformedEventLog, TooLarge.
    Source: TCG PC Client Platform Firmware Profile 1.06: the structures named.
    """
    refuse_over(EVENT_LOG_BYTES, len(data), _DOING)
    first, end = _read_sha1_event(data, 0, 0)
    if not first.data.startswith(_SPEC_ID_03):
        return EventLog(_read_sha1_events(data, first, end), (HashAlgorithm.SHA1,), None)
    if first.claimed_type != EventType.EV_NO_ACTION or first.pcr != 0:
        found = f"type 0x{first.claimed_type:x} in PCR {first.pcr}"
        raise _wrong(0, "the Spec ID header as an EV_NO_ACTION in PCR 0", found)
    # Its digest is not looked at: it is never extended, and OpenPOWER firmware logs one that is not zero.
    header, end = _read_header(data, end)
    first = Event(0, 0, first.claimed_type, first.digests, data[_SHA1_EVENT.size : end])
    algorithms = tuple(HASH_BY_TPM_ID[number] for number in header.digest_sizes if number in HASH_BY_TPM_ID)
    return EventLog(_read_agile_events(data, first, end, header.digest_sizes), algorithms, header)


# -- SHA-1-only --------------------------------------------------------------------------------------------------------


def _read_sha1_event(data: bytes, number: int, start: int) -> tuple[Event, int]:
    payload = start + _SHA1_EVENT.size
    if payload > len(data):
        raise _truncated(number, _SHA1_EVENT.size, "event before its data", start, data)
    pcr, claimed_type, digest, size = _SHA1_EVENT.unpack_from(data, start)
    if pcr >= PCR_COUNT:
        _check_not_a_pcr(number, pcr, claimed_type)
    end = payload + size
    _check_data(number, size, payload, data)
    return Event(number, pcr, claimed_type, {HashAlgorithm.SHA1: digest}, data[payload:end]), end


def _read_sha1_events(data: bytes, first: Event, start: int) -> tuple[Event, ...]:
    events = [first]
    while start < len(data):
        refuse_over(EVENT_LOG_EVENTS, len(events) + 1, _DOING)
        event, start = _read_sha1_event(data, len(events), start)
        if event.claimed_type == EventType.EV_NO_ACTION:
            _check_no_header(event)
        events.append(event)
    return tuple(events)


# -- crypto-agile ------------------------------------------------------------------------------------------------------


def _read_header(data: bytes, declared_end: int) -> tuple[SpecIdEvent, int]:
    """Return the header that stands in the first event, and where the second event begins.

    One firmware was seen to leave the vendor's information out of the event's size (TCG_EfiSpecIDEvent has it as a
    byte of size, the last that was counted, and 4 bytes beyond): so it may reach past the event, whole.
    """
    reader = LittleEndianReader(data, "reading the Spec ID header of an event log", MalformedEventLog)
    reader.take(_SHA1_EVENT.size + len(_SPEC_ID_03), "event before its data, and signature")
    platform_class = reader.u32("platformClass")
    minor, major, errata = reader.u8("specVersionMinor"), reader.u8("specVersionMajor"), reader.u8("specErrata")
    reader.u8("uintnSize")
    if major != 2:
        raise reader.wrong("specVersionMajor 2", f"{major}")
    count = reader.u32("numberOfAlgorithms")
    if not count:
        raise reader.wrong("at least one algorithm", "none")
    refuse_over(EVENT_LOG_ALGORITHMS, count, _DOING)
    digest_sizes: dict[int, int] = {}
    for _ in range(count):
        algorithm, size = reader.u16("algorithmId"), reader.u16("digestSize")
        known = HASH_BY_TPM_ID.get(algorithm)
        if algorithm in digest_sizes or not size or (known is not None and known.size != size):
            raise reader.wrong("each algorithm once, with the size of its digests", f"0x{algorithm:04x}, {size} bytes")
        digest_sizes[algorithm] = size
    vendor_info_size = reader.u8("vendorInfoSize")
    counted = reader.position
    vendor_info = reader.take(vendor_info_size, "vendorInfo")
    if declared_end not in (counted, reader.position):
        raise reader.wrong(f"an event that ends at offset {reader.position}", f"one that ends at {declared_end}")
    return SpecIdEvent(platform_class, (major, minor, errata), digest_sizes, vendor_info), reader.position


def _read_agile_events(data: bytes, header: Event, start: int, digest_sizes: Mapping[int, int]) -> tuple[Event, ...]:
    events = [header]
    append = events.append
    # Nearly every event of nearly every log has the header's algorithms in the header's order: then all before the
    # data is one fixed layout, read in one step. What does not fit it is read field by field, and refused there.
    algorithms = [HASH_BY_TPM_ID[number] for number in digest_sizes if number in HASH_BY_TPM_ID]
    usual = Struct("<III" + "".join(f"H{size}s" for size in digest_sizes.values()) + "I")
    unpack_usual, usual_size = usual.unpack_from, usual.size
    usual_count, usual_numbers = len(digest_sizes), tuple(digest_sizes)
    all_known = len(algorithms) == usual_count
    log_size, most_data, no_action = len(data), EVENT_DATA_BYTES.most, int(EventType.EV_NO_ACTION)
    while start < log_size:
        number = len(events)
        if number >= EVENT_LOG_EVENTS.most:
            refuse_over(EVENT_LOG_EVENTS, number + 1, _DOING)
        digests: dict[HashAlgorithm, bytes]
        payload = start + usual_size
        fields = unpack_usual(data, start) if all_known and payload <= log_size else ()
        if fields and fields[2] == usual_count and fields[3:-1:2] == usual_numbers:
            pcr, claimed_type, size = fields[0], fields[1], fields[-1]
            digests = dict(zip(algorithms, fields[4:-1:2], strict=True))
        else:
            pcr, claimed_type, digests, size, payload = _read_unusual(data, start, number, digest_sizes)
        if pcr >= PCR_COUNT:
            _check_not_a_pcr(number, pcr, claimed_type)
        start = payload + size
        if start > log_size or size > most_data:
            _check_data(number, size, payload, data)
        event = Event(number, pcr, claimed_type, digests, data[payload:start])
        if claimed_type == no_action:
            _check_no_header(event)
        append(event)
    return tuple(events)


def _read_unusual(
    data: bytes, start: int, number: int, digest_sizes: Mapping[int, int]
) -> tuple[int, int, dict[HashAlgorithm, bytes], int, int]:
    """Return PCR, type, digests of known algorithms, size of the data and where it begins, whatever digests come."""
    position = start + _AGILE_EVENT.size
    if position > len(data):
        raise _truncated(number, _AGILE_EVENT.size, "event before its digests", start, data)
    pcr, claimed_type, count = _AGILE_EVENT.unpack_from(data, start)
    if not 0 < count <= len(digest_sizes):
        raise _wrong(number, f"1 to {len(digest_sizes)} digests", f"{count}")
    digests: dict[HashAlgorithm, bytes] = {}
    seen = set()
    for _ in range(count):
        if position + _U16.size > len(data):
            raise _truncated(number, _U16.size, "algorithm of a digest", position, data)
        (algorithm,) = _U16.unpack_from(data, position)
        position += _U16.size
        if algorithm in seen or algorithm not in digest_sizes:
            raise _wrong(number, "each of the header's algorithms at most once", f"0x{algorithm:04x}")
        seen.add(algorithm)
        end = position + digest_sizes[algorithm]
        if end + _U32.size > len(data):
            raise _truncated(number, end + _U32.size - position, "digest and size of the data", position, data)
        known = HASH_BY_TPM_ID.get(algorithm)
        if known is not None:
            digests[known] = data[position:end]
        position = end
    (size,) = _U32.unpack_from(data, position)
    return pcr, claimed_type, digests, size, position + _U32.size


# -- what both refuse --------------------------------------------------------------------------------------------------


def _check_not_a_pcr(number: int, pcr: int, claimed_type: int) -> None:
    if claimed_type != EventType.EV_NO_ACTION or pcr not in _NOT_PCRS:
        raise _wrong(number, f"PCR 0 to {PCR_COUNT - 1}", f"{pcr}")


def _check_data(number: int, size: int, start: int, data: bytes) -> None:
    if size > EVENT_DATA_BYTES.most:
        raise TooLarge(
            f"{_DOING}, event {number}", expected=f"at most {EVENT_DATA_BYTES.most} bytes of data", found=f"{size}"
        )
    if start + size > len(data):
        raise _truncated(number, size, "data", start, data)


def _check_no_header(event: Event) -> None:
    # A second header could give the digests after it other sizes in another reader than in this one.
    if event.data.startswith(_SPEC_ID):
        raise _wrong(event.number, "a Spec ID header as the first event only", "another")


def _wrong(number: int, expected: str, found: str) -> MalformedEventLog:
    return MalformedEventLog(f"{_DOING}, event {number}", expected=expected, found=found)


def _truncated(number: int, size: int, what: str, start: int, data: bytes) -> MalformedEventLog:
    return _wrong(number, f"{size} bytes of {what} at offset {start}", f"{len(data) - start} bytes left")
