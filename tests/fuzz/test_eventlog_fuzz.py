"""Event logs made by someone who means harm: nothing leaves but the errors that are promised, in linear time."""

import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.evidence.eventlog.content import committed_content, covers_data
from steelyard.evidence.eventlog.device_path import parse_device_path
from steelyard.evidence.eventlog.events import EventLog, EventType
from steelyard.evidence.eventlog.parse import parse_event_log
from steelyard.evidence.eventlog.payloads import describe, read_payload
from steelyard.evidence.eventlog.replay import replay, verify_log
from steelyard.evidence.eventlog.sequence import check_sequence
from steelyard.evidence.eventlog.variables import parse_load_option
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import LogRejected, Malformed
from steelyard.model.pcrs import PcrValues
from tests.unit.evidence.eventlog.build import (
    END,
    SHA256,
    agile_event,
    digest_of,
    header,
    image_load,
    node,
    sha1_event,
    single_event,
    spec_id,
    variable,
)
from tests.vectors_dir import shared_vectors

BELIEVED: Final = [bank for bank in HashAlgorithm if bank.believed]


def _use(data: bytes) -> None:
    """Do all that can be done with a log; let through what may be raised, and nothing else."""
    try:
        log = parse_event_log(data)
    except Malformed:
        return
    assert log.events
    for event in log.events:
        describe(event)
        with suppress(Malformed):
            read_payload(event)
        for bank in BELIEVED:
            committed = committed_content(event, bank)
            assert committed is None or digest_of(committed.covered, bank) == event.digests[bank]
            assert committed is not None or not covers_data(event, bank)
    _verify(log)


def _verify(log: EventLog) -> None:
    for bank in HashAlgorithm:
        try:
            values = replay(log, bank)
            replayed = verify_log(log, PcrValues(bank, values), frozenset())
        except LogRejected:
            continue
        assert replayed.pcrs == values
        assert len(replayed.events) + replayed.left_out == len(log.events)
        assert all(event.claimed_type != EventType.EV_NO_ACTION for event in replayed.events)
        check_sequence(replayed)


# -- any bytes ---------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.binary(max_size=512))
def test_any_bytes_are_a_log_or_malformed(data: bytes) -> None:
    _use(data)


@settings(deadline=None)
@given(st.sampled_from([*EventType, 0x8401]), st.binary(max_size=256))
def test_any_bytes_after_a_header_and_the_fields_of_an_event_are_used_or_refused(kind: int, data: bytes) -> None:
    _use(header(SHA256) + agile_event(0, kind, data, [(SHA256.tpm_id, digest_of(data, SHA256))]))


# -- real logs, changed ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded() -> list[bytes]:
    """Recorded logs, cut to some twenty events so that a change meets one that matters."""
    logs = [path.read_bytes() for path in sorted(shared_vectors("eventlogs").iterdir()) if path.suffix != ".json"]
    return [_without_large_events(data) for data in logs]


def _without_large_events(data: bytes) -> bytes:
    try:
        log = parse_event_log(data)
    except Malformed:
        return data
    if log.header is None:
        return data[:2000]
    first = sha1_event(0, EventType.EV_NO_ACTION, log.events[0].data)
    small = [event for event in log.events[1:] if len(event.data) < 600][:40]
    return first + b"".join(
        agile_event(
            event.pcr,
            event.claimed_type,
            event.data,
            [(bank.tpm_id, digest) for bank, digest in event.digests.items()],
        )
        for event in small
    )


CHANGE: Final = st.tuples(st.integers(0, 1 << 16), st.sampled_from(["set", "insert", "delete"]), st.binary(max_size=8))


@settings(deadline=None)
@given(st.integers(0, 1 << 16), st.lists(CHANGE, max_size=6), st.integers(0, 1 << 16))
def test_a_changed_recorded_log_is_used_or_refused(
    recorded: list[bytes], which: int, changes: list[tuple[int, str, bytes]], cut: int
) -> None:
    data = bytearray(recorded[which % len(recorded)])
    for place, change, new in changes:
        at = place % (len(data) + 1)
        data[at : at if change == "insert" else at + len(new)] = b"" if change == "delete" else new
    _use(bytes(data[: len(data) - cut % 64 if cut % 3 else len(data)]))


# -- well-made logs, with sizes that lie -------------------------------------------------------------------------------

SIZES: Final = st.one_of(st.none(), st.integers(0, 64), st.sampled_from([0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF]))
TEXT: Final = st.text(max_size=12)
PATHS: Final = st.lists(
    st.tuples(st.integers(1, 5), st.integers(1, 30), st.binary(max_size=44)).map(lambda part: node(*part)), max_size=6
).map(lambda nodes: b"".join(nodes) + END)
WIDE: Final = TEXT.map(lambda text: text.encode("utf-16-le", "surrogatepass") + b"\0\0")
LOAD_OPTIONS: Final = st.builds(
    lambda size, description, paths: struct.pack("<IH", 1, len(paths) if size is None else size) + description + paths,
    st.one_of(st.none(), st.integers(0, 0xFFFF)),
    WIDE,
    PATHS,
)
DATA: Final = st.one_of(
    st.binary(max_size=64),
    WIDE,
    TEXT.map(str.encode),
    TEXT.map(lambda text: b"grub_cmd: " + text.encode() + b"\0"),
    st.builds(variable, st.sampled_from(["Boot0001", "BootOrder", "SecureBoot", "db"]), LOAD_OPTIONS | st.binary()),
    st.builds(lambda path, size: image_load(path, path_size=size), PATHS, SIZES),
    st.builds(lambda tag, data: struct.pack("<II", tag, len(data)) + data, st.just(0x8F3B22EC), st.binary(max_size=9)),
    st.sampled_from(
        [bytes(4), b"\1\0\0\0", b"StartupLocality\0\3", b"StartupLocality\0", b"Exit Boot Services Invocation"]
    ),
)
KNOWN_SIZES: Final = {bank.tpm_id: bank.size for bank in HashAlgorithm}
ALGORITHMS: Final = st.lists(st.sampled_from([4, 0xB, 0xC, 0x12, 0x27, 0x7777]), min_size=1, max_size=4, unique=True)
TYPES: Final = st.sampled_from([*EventType, 0x8401])


@st.composite
def _logs(draw: st.DrawFn) -> bytes:
    lies = draw(st.booleans())

    def lie() -> int | None:
        return draw(SIZES) if lies and draw(st.integers(0, 7)) == 0 else None

    algorithms = [(number, KNOWN_SIZES.get(number, 7)) for number in draw(ALGORITHMS)]
    head = spec_id(
        [(number, (lie() or size) & 0xFFFF) for number, size in algorithms],
        vendor_info=draw(st.binary(max_size=5)),
        count=lie(),
    )
    parts = [sha1_event(0, EventType.EV_NO_ACTION, head, size=lie())]
    for _ in range(draw(st.integers(0, 6))):
        data = draw(DATA)
        covered = draw(st.sampled_from([data, data[10:-1], data[48:], data[:-1], data[::2], data + b"\0"]))
        listed = [(number, _digest(number, size, covered)) for number, size in algorithms]
        digests = draw(st.permutations(listed)) if draw(st.booleans()) else listed
        pcr = lie() or draw(st.sampled_from([0, 1, 4, 5, 7, 8]))
        parts.append(agile_event(pcr, draw(TYPES), data, digests, count=lie(), size=lie()))
    return b"".join(parts)


def _digest(number: int, size: int, data: bytes) -> bytes:
    for bank in BELIEVED:
        if bank.tpm_id == number and bank.size == size:
            return digest_of(data, bank)
    return bytes(size)


@settings(deadline=None)
@given(_logs())
def test_a_made_log_whose_sizes_lie_is_used_or_refused(data: bytes) -> None:
    _use(data)


@settings(deadline=None)
@given(PATHS, st.integers(0, 1 << 16), st.binary(min_size=1, max_size=4))
def test_a_changed_device_path_is_read_or_refused(path: bytes, place: int, new: bytes) -> None:
    at = place % len(path)
    with suppress(Malformed):
        str(parse_device_path(path[:at] + new + path[at + len(new) :]))


# -- linear time -------------------------------------------------------------------------------------------------------


def _calls(function: Callable[[], object]) -> int:
    """Count the calls, of Python's and of C's functions, that `function` makes: what it costs, whatever the machine."""
    count = 0

    def tick(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(tick)
    try:
        with suppress(Malformed, LogRejected):
            function()
    finally:
        sys.setprofile(before)
    return count


def _whole(size: int) -> Callable[[], object]:
    event = agile_event(4, EventType.EV_IPL, b"grub_cmd: boot\0", [(SHA256.tpm_id, digest_of(b"boot", SHA256))])
    data = header(SHA256) + event * size
    return lambda: _use(data)


def _odd_zeros(size: int) -> Callable[[], object]:
    # Two zeros in a row at every odd place, so that the end of the description is found again and again.
    return lambda: parse_load_option(struct.pack("<IH", 0, 0) + b"\1\0\0\1" * size)


def _many_paths(size: int) -> Callable[[], object]:
    return lambda: parse_load_option(struct.pack("<IH", 0, 4 * min(size, 1 << 13)) + b"\0\0" + END * size)


def _text(size: int) -> Callable[[], object]:
    event = single_event(EventType.EV_IPL, "x\0".encode("utf-16-le") * size)
    return lambda: (describe(event), committed_content(event, SHA256))


@pytest.mark.parametrize("make", [_whole, _odd_zeros, _many_paths, _text])
def test_twice_the_input_costs_at_most_twice_the_calls(make: Callable[[int], Callable[[], object]]) -> None:
    small, large = _calls(make(1000)), _calls(make(2000))
    assert large <= 2 * small + 100
