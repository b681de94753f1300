"""A list is believed as far as it leads to the quoted value, and no further."""

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.evidence.ima.parse import parse_ima_list
from steelyard.evidence.ima.replay import ImaExcerpt, ImaPosition, Replay, pcr10_values, replay
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import LogRejected, MalformedImaList, WrongUse
from tests.unit.evidence.ima.lists import Entry, Form, boot_aggregate, ng, one_of_each, pcr10, sig, violation, write

START = ImaPosition.start(HashAlgorithm.SHA256)
NOTHING: frozenset[bytes] = frozenset()


def replayed(entries: list[Entry], quoted: bytes, position: ImaPosition = START, first: int = 0) -> Replay:
    return replay(ImaExcerpt(first, write(entries)), position, quoted, NOTHING)


@pytest.mark.parametrize("bank", [HashAlgorithm.SHA256, HashAlgorithm.SHA384, HashAlgorithm.SHA512])
@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("listed", ["sha1", "sha256", "sha512"])
def test_template_hashes_are_computed_in_the_bank_that_was_quoted(bank: HashAlgorithm, form: Form, listed: str) -> None:
    entries = one_of_each()
    quoted = pcr10(entries, bank.label)
    result = replay(ImaExcerpt(0, write(entries, form, listed)), ImaPosition.start(bank), quoted, NOTHING)
    assert result.position == ImaPosition(bank, len(entries), quoted)
    assert (result.judged, result.waiting) == (len(entries), 0)


def test_entries_after_the_quote_wait() -> None:
    entries = [boot_aggregate(), *(ng(b"/bin/%d" % number) for number in range(20))]
    for upto in range(1, len(entries) + 1):
        result = replayed(entries, pcr10(entries[:upto]))
        assert (result.judged, result.waiting, result.position.entries) == (upto, len(entries) - upto, upto)
        assert [number for number, _ in result.set_aside] == list(range(1, upto + 1))


def test_a_position_already_at_the_quote_judges_nothing() -> None:
    entries = [boot_aggregate(), ng(b"/a")]
    position = ImaPosition(HashAlgorithm.SHA256, 2, pcr10(entries))
    result = replayed([ng(b"/later")], position.pcr10, position, first=2)
    assert result == Replay(position, judged=0, waiting=1, set_aside=())


def test_only_entries_whose_claim_is_not_accepted_are_set_aside() -> None:
    entries = [boot_aggregate(), ng(b"/a"), sig(b"/b", signature=b"\3"), ng(b"/c"), violation(b"/a")]
    accepted = frozenset({ng(b"/a").data(), ng(b"/b").data()})
    result = replay(ImaExcerpt(0, write(entries)), START, pcr10(entries), accepted)
    assert [number for number, _ in result.set_aside] == [1, 4, 5]


def test_a_violation_is_set_aside_even_where_its_data_looks_like_an_accepted_claim() -> None:
    looks_good = replace(ng(b"/a"), violation=True)
    result = replay(
        ImaExcerpt(0, write([looks_good])), START, pcr10([looks_good]), frozenset({looks_good.data(), ng(b"/a").data()})
    )
    assert [number for number, _ in result.set_aside] == [1]


def test_entries_before_the_position_are_passed_over() -> None:
    entries = [boot_aggregate(), *(ng(b"/bin/%d" % number) for number in range(9))]
    position = ImaPosition(HashAlgorithm.SHA256, 4, pcr10(entries[:4]))
    for first in range(5):
        result = replayed(entries[first:], pcr10(entries), position, first)
        assert (result.judged, result.position.entries) == (6, 10)
        assert [number for number, _ in result.set_aside] == [5, 6, 7, 8, 9, 10]


def test_entries_are_numbered_as_in_the_whole_list_when_one_is_malformed() -> None:
    position = ImaPosition(HashAlgorithm.SHA256, 4, bytes(32))
    with pytest.raises(MalformedImaList, match="entry 6"):
        replayed([ng(b"/a"), replace(ng(b"/b"), pcr=11)], b"\1" * 32, position, 4)


@pytest.mark.parametrize("bank", [HashAlgorithm.SHA1, HashAlgorithm.SM3_256, HashAlgorithm.SHA3_256])
def test_no_position_is_in_a_bank_that_is_not_believed(bank: HashAlgorithm) -> None:
    with pytest.raises(WrongUse, match="SHA-2 bank"):
        ImaPosition.start(bank)


@pytest.mark.parametrize(("entries", "pcr"), [(-1, bytes(32)), (0, bytes(20)), (0, b"")])
def test_a_position_is_a_count_and_a_value_of_its_bank(entries: int, pcr: bytes) -> None:
    with pytest.raises(WrongUse):
        ImaPosition(HashAlgorithm.SHA256, entries, pcr)


def test_a_sha1_template_hash_padded_with_zeros_is_not_what_a_sha256_bank_holds() -> None:
    """Some kernels extend that; accepting it would rest the proof on SHA-1 (attack 25)."""
    entries = [boot_aggregate(), ng(b"/a")]
    value = bytes(32)
    for entry in entries:
        value = hashlib.sha256(value + entry.listed_hash("sha1") + bytes(12)).digest()
    with pytest.raises(LogRejected):
        replayed(entries, value)


def test_pcr10_of_each_bank_is_shown_for_a_whole_list() -> None:
    entries = one_of_each()
    values = pcr10_values(parse_ima_list(write(entries)))
    assert {bank.label: value for bank, value in values.items()} == {
        label: pcr10(entries, label) for label in ("sha1", "sha256", "sha384", "sha512")
    }


ENTRIES = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=30).filter(lambda name: b"\0" not in name).map(lambda name: ng(b"/" + name)),
        st.builds(lambda number, blob: sig(b"/s%d" % number, signature=blob), st.integers(0, 99), st.binary()),
        st.integers(0, 99).map(lambda number: violation(b"/v%d" % number)),
        st.sampled_from(one_of_each()),
    ),
    min_size=1,
    max_size=12,
)


@given(ENTRIES, st.data())
def test_replaying_in_parts_is_replaying_the_whole(entries: list[Entry], data: st.DataObject) -> None:
    whole = replayed(entries, pcr10(entries))
    position = START
    set_aside: tuple[object, ...] = ()
    while position.entries < len(entries):
        upto = data.draw(st.integers(position.entries + 1, len(entries)))
        first = data.draw(st.integers(0, position.entries))
        part = replayed(entries[first:upto], pcr10(entries[:upto]), position, first)
        position = part.position
        set_aside += part.set_aside
    assert position == whole.position
    assert set_aside == whole.set_aside


@given(ENTRIES.filter(lambda entries: not any(entry.violation for entry in entries)), st.data())
def test_no_byte_of_a_list_without_violations_can_be_edited(entries: list[Entry], data: st.DataObject) -> None:
    original = write(entries)
    position = data.draw(st.integers(0, len(original) - 1))
    bits = data.draw(st.integers(1, 255))
    changed = original[:position] + bytes([original[position] ^ bits]) + original[position + 1 :]
    with pytest.raises((LogRejected, MalformedImaList)):
        replay(ImaExcerpt(0, changed), START, pcr10(entries), NOTHING)


@given(ENTRIES, st.data())
def test_no_forger_who_fixes_the_listed_hashes_gets_through(entries: list[Entry], data: st.DataObject) -> None:
    forged = list(entries)
    at = data.draw(st.integers(0, len(entries) - 1))
    match data.draw(st.sampled_from(["remove", "insert", "duplicate", "reorder", "edit", "violate"])):
        case "remove":
            del forged[at]
        case "insert":
            forged.insert(at, ng(b"/inserted"))
        case "duplicate":
            forged.insert(at, forged[at])
        case "reorder":
            forged = data.draw(st.permutations(forged))
        case "edit":
            forged[at] = replace(forged[at], name=forged[at].name + b"x")
        case "violate":
            forged[at] = replace(forged[at], violation=not forged[at].violation)
    what_is_hashed = [None if entry.violation else entry.data() for entry in entries]
    if [None if entry.violation else entry.data() for entry in forged[: len(entries)]] == what_is_hashed:
        return
    with pytest.raises(LogRejected):
        replayed(forged, pcr10(entries))
