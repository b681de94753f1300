"""Whatever bytes come for an IMA list, the answer is a list or one of the module's own errors."""

import struct
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from steelyard.evidence.ima.judge import judge_ima
from steelyard.evidence.ima.parse import ImaList, parse_ima_list
from steelyard.evidence.ima.policy import compile_runtime_policy
from steelyard.evidence.ima.records import TEMPLATES, file_claim
from steelyard.evidence.ima.replay import ImaExcerpt, ImaPosition, pcr10_values, replay
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import LogRejected, Malformed
from steelyard.model.pcrs import PcrValues
from tests.unit.evidence.ima.lists import Blob, Digest, Entry, Form, one_of_each, write

SHA256 = HashAlgorithm.SHA256
START = ImaPosition.start(SHA256)
NOW = datetime(2030, 1, 1, tzinfo=UTC)
POLICY = compile_runtime_policy(
    files=[{SHA256: {"/bin/sh": "00" * 32}}],
    revoked=(),
    signing_keys=(),
    excluded=["/srv/**"],
    tolerated_violations=["/var/*"],
    buffers=(),
)

ANY_DIGEST = st.builds(Digest, st.binary(max_size=70), st.sampled_from(["sha1", "sha256", "ima:sha256", "", ":", "x"]))
ANY_ENTRY = st.builds(
    Entry,
    template=st.sampled_from([*sorted(name.decode() for name in TEMPLATES), "evm-sig", ""]),
    digest=ANY_DIGEST,
    name=st.binary(max_size=300).filter(lambda name: len(name) <= 256),
    blobs=st.lists(st.one_of(ANY_DIGEST, st.builds(Blob, st.binary(max_size=40))), max_size=4),
    violation=st.booleans(),
    pcr=st.sampled_from([10, 10, 10, 10, 0, 11, 2**32 - 1]),
)
ANY_LIST = st.builds(
    write,
    st.lists(st.one_of(ANY_ENTRY, st.sampled_from(one_of_each())), max_size=6),
    st.sampled_from(Form),
    st.sampled_from(["sha1", "sha256", "sha384", "sha512"]),
)
SOUND_LISTS = [write(one_of_each(), form, listed) for form in Form for listed in ("sha1", "sha256")]


def parsed(data: bytes) -> ImaList | None:
    try:
        return parse_ima_list(data)
    except (Malformed, LogRejected):
        return None


@given(
    st.one_of(
        st.binary(), st.binary().map(lambda tail: b"10 " + tail), st.binary().map(lambda tail: b"\n\0\0\0" + tail)
    )
)
def test_any_bytes_are_a_list_or_refused(data: bytes) -> None:
    parsed(data)


@given(ANY_LIST)
def test_any_row_of_entries_is_a_list_or_refused(data: bytes) -> None:
    ima_list = parsed(data)
    if ima_list is not None:
        assert set(pcr10_values(ima_list)) == {
            HashAlgorithm.SHA1,
            HashAlgorithm.SHA256,
            HashAlgorithm.SHA384,
            HashAlgorithm.SHA512,
        }


@given(st.sampled_from(SOUND_LISTS), st.data())
def test_a_damaged_list_is_a_list_or_refused(data: bytes, choose: st.DataObject) -> None:
    damaged = bytearray(data)
    for _ in range(choose.draw(st.integers(1, 4))):
        start = choose.draw(st.integers(0, len(damaged)))
        end = min(len(damaged), start + choose.draw(st.integers(0, 8)))
        size = struct.pack("<I", choose.draw(st.integers(0, 2**32 - 1)))
        damaged[start:end] = choose.draw(st.one_of(st.binary(max_size=8), st.just(size), st.just(b"\n10 ")))
    parsed(bytes(damaged))


@given(ANY_LIST, st.integers(0, 10), st.integers(0, 10), st.sampled_from(["the list's", "another"]))
def test_any_excerpt_is_judged_or_refused(data: bytes, first: int, entries: int, quote: str) -> None:
    ima_list = parsed(data)
    quoted = pcr10_values(ima_list)[SHA256] if ima_list and quote == "the list's" else b"\1" * 32
    position = ImaPosition(SHA256, entries, bytes(32))
    try:
        appraisal = judge_ima(ImaExcerpt(first, data), position, PcrValues(SHA256, {10: quoted}), POLICY, NOW)
    except (Malformed, LogRejected):
        return
    assert appraisal.position.pcr10 == quoted
    assert appraisal.position.entries == entries + appraisal.judged


@given(ANY_LIST)
def test_every_entry_is_replayed_or_waits(data: bytes) -> None:
    ima_list = parsed(data)
    if ima_list is None:
        return
    result = replay(ImaExcerpt(0, data), START, pcr10_values(ima_list)[SHA256], frozenset())
    assert result.judged + result.waiting == len(ima_list.entries)


@given(st.sampled_from(sorted(TEMPLATES)), st.one_of(st.binary(), ANY_ENTRY.map(Entry.data)))
def test_any_template_data_claims_a_file_or_nothing(template: bytes, data: bytes) -> None:
    claim = file_claim(template, data)
    assert template == b"ima-ng" or len(claim) <= len(data)
