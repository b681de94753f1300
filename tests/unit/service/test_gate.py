"""The gate lets in who shows a valid token, tells nobody else why not, and does not let itself be tried for ever."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import select

from steelyard.model.errors import NotSignedIn, TooMany, Unavailable
from steelyard.service import gate as gate_module
from steelyard.service.accounts import Kind, OpenIdName, put_account
from steelyard.service.authority import Role
from steelyard.service.database import Database
from steelyard.service.gate import MOST_FAILURES, FailureLimit, Gate
from steelyard.service.openid import Issuer, OpenIdSettings
from steelyard.service.tables import tokens
from tests.fakes.openid import FakeIssuer
from tests.unit.service.people import People


@pytest.fixture
def people(database: Database) -> People:
    return People(database)


@pytest.fixture
def gate(database: Database) -> Gate:
    return Gate(database, None)


@pytest.fixture
def fake() -> Iterator[FakeIssuer]:
    with FakeIssuer() as issuer:
        yield issuer


def test_who_shows_a_valid_token_is_let_in(people: People, gate: Gate) -> None:
    bearer = people.bearer("ann", {"red": Role.MEMBER})
    for header in (f"Bearer {bearer}", f"bearer {bearer}"):
        assert gate.admit(header, "192.0.2.1").name == "ann"


def test_the_first_use_of_an_hour_is_kept(people: People, gate: Gate) -> None:
    bearer = people.bearer("ann")
    gate.admit(f"Bearer {bearer}", "192.0.2.1")
    assert not people.session(bearer).stale
    with people.database.reading() as connection:
        used = connection.execute(select(tokens.c.used).where(tokens.c.account == "ann")).scalar_one()
    assert used is not None


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic {}",
        "{}",
        "Bearer  {}",
        "Bearer {} ",
        "Token {}",
        "Bearer {},{}",
        "Bearer ä",
    ],
)
def test_whatever_is_wrong_the_answer_is_one(people: People, gate: Gate, header: str | None) -> None:
    shown = None if header is None else header.format(people.provider_bearer, "more")
    with pytest.raises(NotSignedIn, match=r"^signing in: expected a token that is valid; found none that is$"):
        gate.admit(shown, "192.0.2.1")


def test_a_token_beyond_all_measure_is_not_looked_at(people: People, gate: Gate) -> None:
    with pytest.raises(NotSignedIn):
        gate.admit("Bearer " + "a" * 10_000, "192.0.2.1")
    assert people.provider.name == "provider"


def test_who_fails_too_often_is_not_looked_at_for_a_while(people: People, gate: Gate) -> None:
    good = f"Bearer {people.provider_bearer}"
    for _ in range(MOST_FAILURES):
        with pytest.raises(NotSignedIn):
            gate.admit("Bearer wrong", "192.0.2.1")
    with pytest.raises(TooMany):
        gate.admit(good, "192.0.2.1")
    assert gate.admit(good, "192.0.2.2").name == "provider"


def test_no_token_at_all_is_no_failure(people: People, gate: Gate) -> None:
    for _ in range(MOST_FAILURES + 1):
        with pytest.raises(NotSignedIn):
            gate.admit(None, "192.0.2.1")
    assert gate.admit(f"Bearer {people.provider_bearer}", "192.0.2.1").name == "provider"


def test_a_database_that_is_away_is_nobodys_failure() -> None:
    database = Database("postgresql://nobody@/none?host=/nowhere")
    gate = Gate(database, None)
    for _ in range(MOST_FAILURES + 1):
        with pytest.raises(Unavailable):
            gate.admit(f"Bearer sy_{'0' * 16}_{'A' * 43}", "192.0.2.1")
    database.close()


class SetTime:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> SetTime:
    set_time = SetTime()
    monkeypatch.setattr(gate_module, "time", set_time)
    return set_time


def fail(limit: FailureLimit, source: str, times: int = MOST_FAILURES) -> None:
    for _ in range(times):
        limit.count(source)


def test_failures_are_forgiven_one_by_one(time: SetTime) -> None:
    limit = FailureLimit()
    fail(limit, "192.0.2.1", MOST_FAILURES - 1)
    limit.must_be_few("192.0.2.1")
    fail(limit, "192.0.2.1", 1)
    with pytest.raises(TooMany):
        limit.must_be_few("192.0.2.1")
    time.now += gate_module.FORGIVEN_SECONDS
    limit.must_be_few("192.0.2.1")
    fail(limit, "192.0.2.1", 1)
    with pytest.raises(TooMany):
        limit.must_be_few("192.0.2.1")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::1", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("", "192.0.2.2", False),
    ],
)
def test_a_subscriber_is_one_source_whatever_address_it_takes(one: str, other: str, same: bool) -> None:  # noqa: FBT001
    limit = FailureLimit()
    fail(limit, one)
    if same:
        with pytest.raises(TooMany):
            limit.must_be_few(other)
    else:
        limit.must_be_few(other)


def test_any_number_of_sources_takes_a_bounded_memory(time: SetTime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "MOST_SOURCES", 100)
    limit = FailureLimit()
    fail(limit, "192.0.2.1")
    for number in range(1000):
        limit.count(f"198.51.{number // 250}.{number % 250}")
    assert len(limit._forgiven) == 100
    limit.must_be_few("192.0.2.1")
    assert time.now == 1000


def test_openid_tokens_and_our_own_are_let_in_side_by_side(people: People, fake: FakeIssuer) -> None:
    issuer = Issuer(OpenIdSettings(fake.url, "steelyard", "preferred_username", None))
    gate = Gate(people.database, issuer)
    people.bearer("bob", {"red": Role.ADMIN})
    with people.database.writing() as transaction:
        put_account(transaction, people.provider, "bob", Kind.USER, None, OpenIdName(fake.url, "17"))
    now = people.database.clock()
    claims = {"iss": fake.url, "aud": "steelyard", "sub": "17", "exp": int((now + timedelta(hours=1)).timestamp())}
    bob = gate.admit(f"Bearer {fake.token(claims)}", "192.0.2.1")
    assert (bob.name, bob.token, bob.roles) == ("bob", None, {"red": Role.ADMIN})
    assert gate.admit(f"Bearer {people.provider_bearer}", "192.0.2.1").name == "provider"
    for wrong in ({**claims, "sub": "18"}, {**claims, "aud": "other"}):
        with pytest.raises(NotSignedIn):
            gate.admit(f"Bearer {fake.token(wrong)}", "192.0.2.1")
    issuer.close()
