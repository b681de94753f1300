"""What may happen, by when: pure rules, and the limits on who asks too often."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from steelyard.attestation import rules
from steelyard.attestation.life import State
from steelyard.attestation.objects import (
    AnyParameters,
    DemandedMakers,
    Endorsements,
    ExactParameters,
    Node,
    NoMakers,
    Purpose,
    Terms,
)
from steelyard.attestation.throttle import MOST, Buckets, Rate, subscriber
from steelyard.evidence.ima.records import cut_binary
from steelyard.model.errors import MalformedCertificate, MalformedImaList, TooMany, WrongState, WrongUse
from tests.simulated_boots import file_entry
from tests.simulated_tpm import make_tpm

NOW: Final = datetime(2026, 11, 24, 12, tzinfo=UTC)
MINUTE: Final = timedelta(minutes=1)


def terms(**changes: Any) -> Terms:
    whole: dict[str, Any] = {
        "endorsements": Endorsements({}, (bytes(32),)),
        "makers": NoMakers(),
        "airlock": "airlock",
        "runtime": "runtime",
        "parameters": AnyParameters(),
        "interval": MINUTE,
        "grace": MINUTE,
        **changes,
    }
    return Terms(**whole)


def a_node(state: State, **changes: Any) -> Node:
    node = Node(
        *("n1", "red", terms(), 0, state, NOW, "a test", None, "boot", None, None, None, None, None, 1),
    )
    return replace(node, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"endorsements": Endorsements({}, ())},
        {"endorsements": Endorsements({}, (bytes(32),) * 9)},
        {"endorsements": Endorsements({"a/b": ""}, ()), "makers": DemandedMakers("makers")},
        {"makers": DemandedMakers("a/b")},
        {"airlock": ""},
        {"runtime": "A B"},
        {"interval": timedelta(0)},
        {"grace": timedelta(days=2)},
        {"parameters": ExactParameters(b"short")},
    ],
)
def test_terms_that_tell_no_node_from_another_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(WrongUse):
        rules.check_terms(terms(**changes))


def test_a_certificate_without_makers_to_ask_for_is_refused() -> None:
    certificate = make_tpm().keys().endorsement_certificates[0]
    with pytest.raises((WrongUse, MalformedCertificate)):
        rules.check_terms(terms(endorsements=Endorsements({"one": certificate.hex()}, ())))


@pytest.mark.parametrize("state", State)
def test_a_pass_that_has_expired_is_shown_as_none(state: State) -> None:
    for expires, shown in ((NOW, State.OVERDUE), (None, State.OVERDUE), (NOW + MINUTE, State.PASSED)):
        found = rules.shown_state(a_node(state, expires=expires), NOW)
        assert found is (shown if state is State.PASSED else state)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("purpose", Purpose)
@pytest.mark.parametrize("passed_airlock", [False, True])
def test_a_node_is_asked_for_what_comes_next(
    state: State,
    purpose: Purpose,
    passed_airlock: bool,  # noqa: FBT001 (pytest gives it so)
) -> None:
    airlock = purpose is Purpose.AIRLOCK and not passed_airlock and state in (State.REGISTERED, State.CHALLENGED)
    runtime = purpose is Purpose.RUNTIME and passed_airlock and state in (State.PASSED, State.OVERDUE)
    if airlock or runtime:
        assert rules.check_may_be_asked(a_node(state), purpose, passed_airlock) == purpose.value
    else:
        with pytest.raises(WrongState):
            rules.check_may_be_asked(a_node(state), purpose, passed_airlock)


def test_a_bucket_fills_again_with_time_and_others_have_their_own() -> None:
    now = 0.0
    buckets = Buckets(Rate(burst=2, seconds=10.0), lambda: now)
    for _ in range(2):
        buckets.take("a", "asking")
    with pytest.raises(TooMany):
        buckets.take("a", "asking")
    buckets.take("b", "asking")
    now = 10.0
    buckets.take("a", "asking")
    with pytest.raises(TooMany):
        buckets.take("a", "asking")


def test_buckets_take_a_bounded_memory() -> None:
    buckets = Buckets(Rate(burst=1, seconds=1.0), lambda: 0.0)
    for number in range(MOST + 10):
        buckets.take(f"{number}", "asking")
    assert len(buckets._full) == MOST


def test_addresses_of_one_subscriber_count_as_one() -> None:
    assert subscriber("2001:db8::1") == subscriber("2001:db8::ffff:1")
    assert subscriber("::ffff:192.0.2.1") == subscriber("192.0.2.1") != subscriber("192.0.2.2")
    assert subscriber("unix") == "unix"


@pytest.mark.parametrize("template", ["ima-ng", "ima-sig"])
@pytest.mark.parametrize("listed", ["sha1", "sha256"])
def test_a_list_is_cut_between_its_entries(template: str, listed: str) -> None:
    entries = [file_entry(f"/bin/{number}", template=template) for number in range(6)]
    binary = [each.binary(listed) for each in entries]
    whole = b"".join(binary)
    for start in range(6):
        for end in range(start, 7):
            assert cut_binary(whole, 0, start, end) == b"".join(binary[start:end])
            assert cut_binary(b"".join(binary[start:]), start, start, end) == b"".join(binary[start:end])
    with pytest.raises(MalformedImaList):
        cut_binary(whole, 0, 0, 7)
    with pytest.raises(MalformedImaList):
        cut_binary(whole[:-1], 0, 5, 6)
