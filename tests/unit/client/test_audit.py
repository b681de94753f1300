"""The chain is checked here, not believed; and a log that was cut short is caught by who has seen its end."""

import hashlib
import json
from dataclasses import replace

import pytest

from steelyard.client.audit import START, Chain
from steelyard.client.objects import AuditEntry, AuditHead
from steelyard.model.errors import AuditRejected


def make_log(count: int, *, hidden: frozenset[int] = frozenset(), word: str = "made") -> list[AuditEntry]:
    """Return a log as a service that keeps to the rules would show it."""
    entries, chain = [], bytes(32)
    for number in range(1, count + 1):
        entry = {"number": number, "verb": word, "detail": {"é": 1}, "salt": f"{number:032x}"}
        form = json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()
        digest = hashlib.sha256(form).digest()
        chain = hashlib.sha256(chain + digest).digest()
        entries.append(AuditEntry(number, digest.hex(), chain.hex(), None if number in hidden else entry))
    return entries


def check(log: list[AuditEntry], *known: AuditHead, head: AuditHead = START) -> AuditHead:
    chain = Chain(head, known or (START,))
    for entry in log:
        chain.follow(entry)
    chain.must_be_whole()
    return chain.head


def head_of(log: list[AuditEntry]) -> AuditHead:
    return AuditHead(log[-1].number, log[-1].chain)


def test_a_log_that_keeps_to_the_rules_passes_also_where_entries_are_hidden() -> None:
    log = make_log(6, hidden=frozenset({2, 5}))
    assert check(log, head_of(log)) == head_of(log)
    assert check([], START) == START


def test_from_a_head_on_the_rest_is_enough() -> None:
    log = make_log(6)
    assert check(log[3:], head_of(log), head=head_of(log[:3])) == head_of(log)


@pytest.mark.parametrize("number", range(1, 7))
def test_an_altered_entry_is_caught(number: int) -> None:
    log = make_log(6)
    entry = log[number - 1]
    log[number - 1] = replace(entry, entry={**(entry.entry or {}), "verb": "unmade"})
    with pytest.raises(AuditRejected):
        check(log)


@pytest.mark.parametrize("number", range(1, 6))
def test_an_entry_that_was_taken_out_is_caught(number: int) -> None:
    log = make_log(6)
    del log[number - 1]
    with pytest.raises(AuditRejected):
        check(log)


def test_an_entry_altered_with_its_digest_breaks_the_chain() -> None:
    log = make_log(6)
    other = make_log(6, word="unmade")
    log[2] = replace(other[2], chain=log[2].chain)
    with pytest.raises(AuditRejected):
        check(log)


def test_an_entry_in_anothers_place_is_caught() -> None:
    log = make_log(3)
    log[1] = replace(log[1], entry={**(log[1].entry or {}), "number": 7})
    with pytest.raises(AuditRejected):
        check(log)


def test_a_log_made_anew_from_an_entry_on_is_caught_by_who_saw_the_old_one() -> None:
    seen = head_of(make_log(4))
    log = make_log(8, word="unmade")
    check(log)
    with pytest.raises(AuditRejected):
        check(log, seen)


def test_a_log_that_was_cut_short_is_caught_by_who_saw_its_end() -> None:
    log = make_log(6)
    check(log[:4])
    with pytest.raises(AuditRejected):
        check(log[:4], head_of(log))


@pytest.mark.parametrize("digest", ["", "zz" * 32, "é"])
def test_what_is_no_digest_is_refused(digest: str) -> None:
    log = make_log(2, hidden=frozenset({1}))
    with pytest.raises(AuditRejected):
        check([replace(log[0], digest=digest)])
