"""Tokens are known again, and nobody makes one that may more than the one shown."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from steelyard.model.errors import AlreadyThere, NotAllowed, NotFound, NotSignedIn, WrongUse
from steelyard.model.secret import Secret
from steelyard.service.accounts import (
    ALL_RIGHTS,
    Kind,
    OpenIdName,
    Session,
    Token,
    delete_account,
    delete_member,
    forget_project,
    look_again,
    make_token,
    note_use,
    put_account,
    put_member,
    read_accounts,
    read_members,
    read_tokens,
    revoke_token,
    sign_in,
    sign_in_by_openid,
)
from steelyard.service.authority import Office, Right, Role
from steelyard.service.database import Database
from steelyard.service.tables import journal, tokens
from tests.unit.service.people import DAY, People

ISSUER = "https://id.example"
LATER = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture
def people(database: Database) -> People:
    return People(database)


def new_token(
    people: People,
    maker: Session,
    account: str,
    *,
    project: str | None = None,
    rights: frozenset[Right] = frozenset({Right.READ}),
    office: Office | None = None,
    lasts: timedelta = timedelta(minutes=1),
    words: str = "",
) -> tuple[Token, Secret]:
    with people.database.writing() as transaction:
        return make_token(
            transaction, maker, account, project=project, rights=rights, office=office, lasts=lasts, words=words
        )


# -- signing in --------------------------------------------------------------------------------------------------------


def test_a_token_gives_what_its_account_and_it_have(people: People) -> None:
    bearer = people.bearer("ann", {"red": Role.ADMIN, "blue": Role.MEMBER}, rights={Right.READ, Right.POWER})
    ann = people.session(bearer)
    assert (ann.name, ann.office, ann.project) == ("ann", None, None)
    assert ann.roles == {"red": Role.ADMIN, "blue": Role.MEMBER}
    assert ann.rights == {Right.READ, Right.POWER}


def test_a_token_for_one_project_gives_that_alone(people: People) -> None:
    ann = people.somebody("ann", {"red": Role.ADMIN, "blue": Role.MEMBER}, project="blue")
    assert ann.roles == {"blue": Role.MEMBER}
    assert ann.office is None


def test_every_wrong_token_gets_the_same_answer(people: People) -> None:
    good = people.bearer("ann", {"red": Role.MEMBER})
    revoked, expired = people.bearer("ann"), people.bearer("ann", lasts=timedelta(microseconds=1))
    with people.database.writing() as transaction:
        revoke_token(transaction, people.provider, people.session(revoked).token or "")
    prefix, identifier, secret = good.split("_", 2)
    wrong = [
        "",
        "sy_",
        good + "A",
        good[:-1],
        f"{prefix}_{identifier}_{'A' * 43}",
        f"{prefix}_{'0' * 16}_{secret}",
        f"{prefix}_{identifier.upper()}_{secret}",
        good + "\n",
        revoked,
        expired,
    ]
    answers = set()
    for bearer in wrong:
        with pytest.raises(NotSignedIn) as refused:
            people.session(bearer)
        answers.add(str(refused.value))
    assert len(answers) == 1


def test_an_unknown_id_and_a_wrong_secret_cost_the_same_statements(people: People) -> None:
    """Time itself is not measured; what takes it is the same: one question to the database, one comparison."""
    good = people.bearer("ann")
    asked: list[str] = []
    with people.database.reading() as connection:
        execute = connection.execute

        class Counting:
            def execute(self, statement: object) -> object:
                asked.append(str(statement))
                return execute(statement)  # type: ignore[call-overload]  # whatever was given

        for bearer in (f"sy_{'0' * 16}_{good.split('_', 2)[2]}", good[:-2] + "AA"):
            with pytest.raises(NotSignedIn):
                sign_in(Counting(), bearer, people.database.clock())  # type: ignore[arg-type]  # all that it calls
    assert len(asked) == 2
    assert asked[0] == asked[1]


def test_the_database_has_no_token_that_could_be_shown(people: People) -> None:
    bearer = people.bearer("ann")
    with people.database.reading() as connection:
        rows = connection.execute(select(tokens)).all()
        entries = connection.execute(select(journal)).all()
    secret = bearer.split("_", 2)[2]
    assert secret not in repr(rows)
    assert secret.encode() not in b"".join(row.digest for row in rows)
    assert secret not in repr(entries)


def test_a_token_has_no_office_that_was_taken_from_its_account(people: People) -> None:
    bearer = people.bearer("ada", office=Office.PROVIDER)
    assert people.session(bearer).office is Office.PROVIDER
    with people.database.writing() as transaction:
        put_account(transaction, people.provider, "ada", Kind.USER, Office.AUDITOR, None)
    assert people.session(bearer).office is None


def test_a_session_that_lasts_sees_what_was_taken_from_it(people: People) -> None:
    ann = people.somebody("ann", {"red": Role.MEMBER})
    with people.database.reading() as connection:
        assert look_again(connection, ann, people.database.clock()).roles == {"red": Role.MEMBER}
    with people.database.writing() as transaction:
        delete_member(transaction, people.provider, "red", "ann")
    with people.database.reading() as connection:
        assert look_again(connection, ann, people.database.clock()).roles == {}
        with pytest.raises(NotSignedIn):
            look_again(connection, ann, ann.expires)
    with people.database.writing() as transaction:
        revoke_token(transaction, ann, ann.token or "")
    with people.database.reading() as connection, pytest.raises(NotSignedIn):
        look_again(connection, ann, people.database.clock())


def test_when_a_token_was_used_is_kept_roughly(people: People) -> None:
    bearer = people.bearer("ann")
    ann = people.session(bearer)
    assert ann.stale
    with people.database.writing() as transaction:
        note_use(transaction, ann.token or "")
    assert not people.session(bearer).stale
    with people.database.reading() as connection:
        assert sign_in(connection, bearer, people.database.clock() + timedelta(hours=1)).stale


def test_openid_finds_the_account_by_subject_or_by_a_name_that_is_the_issuers(people: People) -> None:
    with people.database.writing() as transaction:
        put_account(transaction, people.provider, "ann", Kind.USER, None, OpenIdName(ISSUER, "17"))
        put_account(transaction, people.provider, "bob", Kind.USER, None, OpenIdName(ISSUER, None))

    def name(issuer: str, subject: str, claimed: str) -> str:
        with people.database.reading() as connection:
            return sign_in_by_openid(connection, OpenIdName(issuer, subject), claimed, LATER).name

    assert name(ISSUER, "17", "whatever") == "ann"
    assert name(ISSUER, "99", "bob") == "bob"
    assert name(ISSUER, "17", "bob") == "ann"
    for issuer, subject, claimed in (
        (ISSUER, "99", "ann"),  # ann is that subject alone
        (ISSUER, "99", "provider"),  # no account of the issuer's
        ("https://other.example", "17", "bob"),
        (ISSUER, "18", ""),
    ):
        with pytest.raises(NotSignedIn):
            name(issuer, subject, claimed)


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_who_makes_a_token_gives_no_right_that_it_lacks(people: People) -> None:
    ann = people.somebody("ann", {"red": Role.ADMIN}, rights={Right.READ, Right.MEMBERS})
    assert new_token(people, ann, "ann")[0].rights == {Right.READ}
    for rights in (frozenset({Right.POWER}), frozenset({Right.READ, Right.RACK})):
        with pytest.raises(NotAllowed):
            new_token(people, ann, "ann", rights=rights)


def test_who_may_not_make_tokens_makes_none(people: People) -> None:
    ann = people.somebody("ann", {"red": Role.ADMIN}, rights=ALL_RIGHTS - {Right.MEMBERS})
    with pytest.raises(NotAllowed):
        new_token(people, ann, "ann")


def test_a_token_for_a_project_makes_none_for_another_or_for_all(people: People) -> None:
    ann = people.somebody("ann", {"red": Role.ADMIN, "blue": Role.ADMIN}, project="red")
    assert new_token(people, ann, "ann", project="red")[0].project == "red"
    for project in ("blue", None):
        with pytest.raises(NotAllowed):
            new_token(people, ann, "ann", project=project)


def test_a_token_without_an_office_makes_none_that_has_it(people: People) -> None:
    people.bearer("ada", {"red": Role.MEMBER}, office=Office.PROVIDER)
    ada = people.session(people.bearer("ada", office=Office.PROVIDER, project="red"))
    with pytest.raises(NotAllowed):
        new_token(people, ada, "ada", office=Office.PROVIDER)
    with pytest.raises(NotAllowed):
        new_token(people, ada, "ada")


def test_a_token_ends_no_later_than_its_makers(people: People) -> None:
    ann = people.somebody("ann", {"red": Role.ADMIN})
    assert new_token(people, ann, "ann", lasts=DAY - timedelta(minutes=1))[0].expires <= ann.expires
    with pytest.raises(NotAllowed):
        new_token(people, ann, "ann", lasts=DAY + timedelta(minutes=1))


def test_none_but_a_provider_makes_tokens_for_others(people: People) -> None:
    people.bearer("bob", {"red": Role.MEMBER})
    ann = people.somebody("ann", {"red": Role.ADMIN})
    auditor = people.somebody("eve", office=Office.AUDITOR)
    for maker in (ann, auditor):
        with pytest.raises(NotAllowed):
            new_token(people, maker, "bob")
    assert new_token(people, people.provider, "bob")[0].account == "bob"


def test_an_auditor_makes_no_provider_of_itself(people: People) -> None:
    auditor = people.somebody("eve", office=Office.AUDITOR)
    assert new_token(people, auditor, "eve", office=Office.AUDITOR)[0].office is Office.AUDITOR
    with pytest.raises(NotAllowed):
        new_token(people, auditor, "eve", office=Office.PROVIDER)


@pytest.mark.parametrize(
    ("project", "rights", "office", "lasts", "words"),
    [
        (None, frozenset(), None, DAY, ""),
        ("red", {Right.READ}, Office.PROVIDER, DAY, ""),
        (None, {Right.READ}, Office.AUDITOR, DAY, ""),
        (None, {Right.READ}, None, timedelta(), ""),
        (None, {Right.READ}, None, -DAY, ""),
        (None, {Right.READ}, None, timedelta(days=367), ""),
        (None, {Right.READ}, None, DAY, "x" * 401),
    ],
)
def test_a_token_that_makes_no_sense_is_refused(
    people: People, project: str | None, rights: frozenset[Right], office: Office | None, lasts: timedelta, words: str
) -> None:
    with pytest.raises(WrongUse):
        new_token(
            people,
            people.provider,
            "provider",
            project=project,
            rights=frozenset(rights),
            office=office,
            lasts=lasts,
            words=words,
        )


def test_a_token_is_for_an_account_and_a_membership_that_there_is(people: People) -> None:
    with pytest.raises(NotFound):
        new_token(people, people.provider, "nobody")
    with pytest.raises(NotFound):
        new_token(people, people.provider, "provider", project="red")


def test_tokens_are_ended_by_their_account_and_by_providers(people: People) -> None:
    ann, bob = people.somebody("ann"), people.somebody("bob")
    reader = people.somebody("ann", rights={Right.READ})
    with people.database.writing() as transaction, pytest.raises(NotFound):
        revoke_token(transaction, bob, ann.token or "")
    with people.database.writing() as transaction, pytest.raises(NotAllowed):
        revoke_token(transaction, reader, ann.token or "")
    auditor = people.somebody("eve", office=Office.AUDITOR)
    with people.database.writing() as transaction, pytest.raises(NotAllowed):
        revoke_token(transaction, auditor, ann.token or "")
    for caller, token in ((reader, reader), (ann, ann), (people.provider, bob)):
        with people.database.writing() as transaction:
            revoke_token(transaction, caller, token.token or "")
            revoke_token(transaction, caller, token.token or "")
    with people.database.reading() as connection:
        found = {token.id: token.revoked for token in read_tokens(connection, people.provider, after="", limit=100)}
    assert all(found[session.token or ""] is not None for session in (reader, ann, bob))
    assert found[people.provider.token or ""] is None


def test_tokens_are_shown_to_whose_they_are_and_to_offices(people: People) -> None:
    ann, bob = people.somebody("ann"), people.somebody("bob")
    with people.database.reading() as connection:
        assert {token.id for token in read_tokens(connection, ann, after="", limit=100)} == {ann.token}
        everything = read_tokens(connection, people.provider, after="", limit=100)
        assert {token.id for token in everything} == {ann.token, bob.token, people.provider.token}
        assert read_tokens(connection, people.provider, after=everything[0].id, limit=1) == everything[1:2]


# -- accounts and members ----------------------------------------------------------------------------------------------


def test_none_but_a_provider_changes_who_there_is(people: People) -> None:
    for caller in (
        people.somebody("ann", {"red": Role.ADMIN}),
        people.somebody("eve", office=Office.AUDITOR),
        people.somebody("ada", office=Office.PROVIDER, rights=ALL_RIGHTS - {Right.MEMBERS}),
    ):
        with people.database.writing() as transaction, pytest.raises(NotAllowed):
            put_account(transaction, caller, "new", Kind.USER, None, None)
        with people.database.writing() as transaction, pytest.raises(NotAllowed):
            delete_account(transaction, caller, "ann")


def test_a_provider_whose_token_lacks_rights_makes_nobody_who_has_them(people: People) -> None:
    """An account with an office, or one that signs in by OpenID, has every right that there is."""
    ada = people.somebody("ada", office=Office.PROVIDER, rights={Right.READ, Right.MEMBERS})
    with people.database.writing() as transaction:
        put_account(transaction, ada, "new", Kind.SERVICE, None, None)
        for office, openid in ((Office.PROVIDER, None), (None, OpenIdName(ISSUER, "1"))):
            with pytest.raises(NotAllowed):
                put_account(transaction, ada, "new", Kind.USER, office, openid)


def test_an_openid_subject_is_one_account(people: People) -> None:
    with people.database.writing() as transaction:
        put_account(transaction, people.provider, "ann", Kind.USER, None, OpenIdName(ISSUER, "17"))
        put_account(transaction, people.provider, "ann", Kind.SERVICE, None, OpenIdName(ISSUER, "17"))
        with pytest.raises(AlreadyThere):
            put_account(transaction, people.provider, "bob", Kind.USER, None, OpenIdName(ISSUER, "17"))


def test_an_account_that_goes_takes_tokens_and_memberships_along(people: People) -> None:
    bearer = people.bearer("ann", {"red": Role.ADMIN})
    with people.database.writing() as transaction:
        delete_account(transaction, people.provider, "ann")
        with pytest.raises(NotFound):
            delete_account(transaction, people.provider, "ann")
    with pytest.raises(NotSignedIn):
        people.session(bearer)
    assert people.somebody("ann").roles == {}


def test_who_holds_no_office_sees_itself_alone(people: People) -> None:
    ann = people.somebody("ann", {"red": Role.ADMIN})
    with people.database.reading() as connection:
        assert [account.name for account in read_accounts(connection, ann, after="", limit=9)] == ["ann"]
        names = [account.name for account in read_accounts(connection, people.provider, after="", limit=9)]
    assert names == ["ann", "provider"]


def test_an_admin_says_who_is_in_the_project_and_nobody_else_does(people: People) -> None:
    people.bearer("bob")
    admin = people.somebody("ann", {"red": Role.ADMIN})
    with people.database.writing() as transaction:
        put_member(transaction, admin, "red", "bob", Role.MEMBER)
        put_member(transaction, admin, "red", "bob", Role.MEMBER)
    member, stranger = people.somebody("bob"), people.somebody("cem", {"blue": Role.ADMIN})
    with people.database.writing() as transaction:
        with pytest.raises(NotAllowed):
            put_member(transaction, member, "red", "bob", Role.ADMIN)
        with pytest.raises(NotAllowed):
            delete_member(transaction, member, "red", "ann")
        with pytest.raises(NotFound):
            put_member(transaction, stranger, "red", "cem", Role.ADMIN)
        with pytest.raises(NotFound):
            put_member(transaction, admin, "red", "nobody", Role.MEMBER)
        with pytest.raises(NotFound):
            delete_member(transaction, admin, "red", "cem")
    with people.database.reading() as connection:
        found = read_members(connection, member, "red", after="", limit=9)
        assert [(one.account, one.role) for one in found] == [("ann", Role.ADMIN), ("bob", Role.MEMBER)]
        with pytest.raises(NotFound):
            read_members(connection, stranger, "red", after="", limit=9)
    with people.database.writing() as transaction:
        delete_member(transaction, admin, "red", "bob")
    assert people.somebody("bob").roles == {}


def test_nobody_is_in_the_next_project_of_the_same_name(people: People) -> None:
    bearer = people.bearer("ann", {"red": Role.ADMIN}, project="red")
    with people.database.writing() as transaction:
        forget_project(transaction, "red")
    with pytest.raises(NotSignedIn):
        people.session(bearer)
    assert people.somebody("ann").roles == {}


def test_changes_are_in_the_journal_and_repetitions_are_not(people: People) -> None:
    people.bearer("ann", {"red": Role.ADMIN})
    with people.database.writing() as transaction:
        put_account(transaction, people.provider, "ann", Kind.USER, None, None)
        put_member(transaction, people.provider, "red", "ann", Role.ADMIN)
    with people.database.reading() as connection:
        verbs = connection.execute(select(journal.c.verb).order_by(journal.c.number)).scalars().all()
    assert verbs == ["account.made", "token.made", "account.made", "member.put", "token.made"]
