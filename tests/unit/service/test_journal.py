"""The journal cannot be changed unnoticed, by whoever may see how much of it."""

import dataclasses
import itertools
from collections.abc import Callable

import pytest
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from steelyard.model.errors import AuditRejected
from steelyard.service.authority import Caller, Office, Right, Role
from steelyard.service.database import Database
from steelyard.service.journal import NOTHING, Detail, Link, check, read_entries, read_head, read_links, record
from steelyard.service.tables import journal

READ = frozenset({Right.READ})
PROVIDER = Caller("p", Office.PROVIDER, {}, READ)
RED = Caller("r", None, {"red": Role.MEMBER}, READ)


@pytest.fixture
def written(database: Database) -> Database:
    """A journal of three entries: of red, of blue, of the provider; then another of red."""
    entries: list[tuple[str | None, Detail]] = [
        ("red", {"one": 1, "more": ["a", "b"], "none": None, "letters": "\u00e4\u2028"}),
        ("blue", {}),
        (None, {"yes": True}),
        ("red", {}),
    ]
    for project, detail in entries:
        with database.writing() as transaction:
            record(transaction, actor="ann", verb="node.moved", subject="node/n1", project=project, detail=detail)
    return database


def fail_after_recording(database: Database) -> None:
    with database.writing() as transaction:
        record(transaction, actor="a", verb="v", subject="s", project=None, detail={})
        _ = 1 / 0


def links(database: Database, caller: Caller, after: int = 0) -> tuple[Link, ...]:
    with database.reading() as connection:
        return read_links(connection, caller, after=after, limit=100)


def test_who_sees_everything_and_who_sees_a_part_check_the_same_chain(written: Database) -> None:
    with written.reading() as connection:
        head = read_head(connection)
    assert head.number == 4
    for caller, seen in ((PROVIDER, [1, 2, 3, 4]), (RED, [1, 4]), (Caller("x", None, {}, READ), [])):
        chain = links(written, caller)
        assert [link.number for link in chain if link.entry is not None] == seen
        assert check(chain, NOTHING) == head


def test_a_chain_is_checked_in_parts(written: Database) -> None:
    middle = check(links(written, PROVIDER)[:2], NOTHING)
    with written.reading() as connection:
        assert check(links(written, PROVIDER, after=2), middle) == read_head(connection)


def test_an_empty_journal_has_a_head(database: Database) -> None:
    with database.reading() as connection:
        assert read_head(connection) == NOTHING


def altered(position: int, change: Callable[[Link], Link]) -> Callable[[list[Link]], list[Link]]:
    return lambda chain: [change(link) if at == position else link for at, link in enumerate(chain)]


def other_actor(link: Link) -> Link:
    assert link.entry is not None
    return dataclasses.replace(link, entry=dataclasses.replace(link.entry, actor="eve"))


def other_actor_and_digest(link: Link) -> Link:
    changed = other_actor(link)
    assert changed.entry is not None
    return dataclasses.replace(changed, digest=changed.entry.digest())


@pytest.mark.parametrize(
    "forge",
    [
        altered(1, other_actor),
        altered(1, other_actor_and_digest),
        altered(1, lambda link: dataclasses.replace(link, entry=None, digest=bytes(32))),
        altered(1, lambda link: dataclasses.replace(link, chain=bytes(32))),
        lambda chain: chain[1:],
        lambda chain: chain[:1] + chain[2:],
        lambda chain: [chain[0], chain[2], chain[1], chain[3]],
        lambda chain: [chain[0], chain[0], *chain[1:]],
        altered(2, lambda link: dataclasses.replace(link, number=2)),
    ],
)
def test_what_was_altered_left_out_or_moved_is_found(
    written: Database, forge: Callable[[list[Link]], list[Link]]
) -> None:
    chain = list(links(written, PROVIDER))
    with pytest.raises(AuditRejected):
        check(forge(chain), NOTHING)


def test_an_entry_cannot_stand_for_another_of_the_same_digest(written: Database) -> None:
    """The number is hashed with the rest: what happened once is not shown twice."""
    chain = list(links(written, PROVIDER))
    chain[3] = dataclasses.replace(chain[3], entry=chain[0].entry, digest=chain[0].digest)
    with pytest.raises(AuditRejected):
        check(chain, NOTHING)


def test_the_digest_of_a_hidden_entry_tells_nothing_of_it(database: Database) -> None:
    """Who guesses what it says cannot try it out: the same entry has another digest each time."""
    with database.writing() as transaction:
        for _ in range(2):
            record(transaction, actor="a", verb="v", subject="s", project=None, detail={})
    first, second = links(database, PROVIDER)
    assert first.entry is not None
    assert second.entry is not None
    assert dataclasses.replace(second.entry, number=1).digest() != first.digest
    assert first.entry.salt != second.entry.salt


def test_entries_are_those_that_the_caller_may_see_in_order_and_in_pages(written: Database) -> None:
    with written.reading() as connection:
        assert [one.number for one in read_entries(connection, RED, after=0, limit=9)] == [1, 4]
        assert [one.number for one in read_entries(connection, RED, after=1, limit=9)] == [4]
        assert [one.number for one in read_entries(connection, RED, after=0, limit=1)] == [1]
        assert [one.number for one in read_entries(connection, PROVIDER, after=1, limit=9, until=3)] == [2, 3]
        blind = Caller("r", None, {"red": Role.MEMBER}, frozenset({Right.POWER}))
        assert read_entries(connection, blind, after=0, limit=9) == ()
        assert all(link.entry is None for link in read_links(connection, blind, after=0, limit=9))


@pytest.mark.parametrize(
    "statement",
    [
        update(journal).values(actor="eve"),
        update(journal).where(journal.c.number == 4).values(project="blue"),
        delete(journal),
        delete(journal).where(journal.c.number == 4),
        text("INSERT INTO journal SELECT * FROM journal WHERE number = 1"),
    ],
    ids=itertools.count(),
)
def test_the_database_itself_lets_nobody_change_the_journal(written: Database, statement: text) -> None:  # type: ignore[valid-type]  # any statement
    before = links(written, PROVIDER)
    with pytest.raises(DBAPIError), written.writing() as transaction:
        transaction.connection.execute(statement)
    assert links(written, PROVIDER) == before


def test_not_by_replacing_or_emptying_it_either(written: Database) -> None:
    before = links(written, PROVIDER)
    if written.embedded:
        statements = ["INSERT OR REPLACE INTO journal SELECT * FROM journal WHERE number = 1"]
    else:
        statements = [
            "TRUNCATE journal",
            "INSERT INTO journal SELECT * FROM journal WHERE number = 1 ON CONFLICT (number) DO UPDATE SET actor = ''",
        ]
    for statement in statements:
        with pytest.raises(DBAPIError), written.writing() as transaction:
            transaction.connection.execute(text(statement))
    assert links(written, PROVIDER) == before


def test_an_entry_is_part_of_the_change_that_it_tells_of(database: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        fail_after_recording(database)
    assert links(database, PROVIDER) == ()


def test_writers_of_several_processes_make_one_chain(database: Database) -> None:
    other = Database(database.url.render_as_string(hide_password=False))
    for place in (database, other, database, other):
        with place.writing() as transaction:
            record(transaction, actor="a", verb="v", subject="s", project=None, detail={})
    other.close()
    assert check(links(database, PROVIDER), NOTHING).number == 4


def test_a_row_that_was_forged_behind_the_databases_back_is_found(written: Database) -> None:
    with written.writing() as transaction:
        row = dict(transaction.connection.execute(select(journal).where(journal.c.number == 4)).mappings().one())
        transaction.connection.execute(insert(journal).values(**{**row, "number": 5}))
    with pytest.raises(AuditRejected):
        check(links(written, PROVIDER), NOTHING)
