"""One writer at a time, on both databases, whoever else is there; readers see one instant and change nothing."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import DBAPIError, StatementError

from steelyard.model.errors import Unavailable
from steelyard.service import database as database_module
from steelyard.service.database import Database
from steelyard.service.tables import leases

pytestmark = pytest.mark.both_databases

WAIT_SECONDS = 20


def add(database: Database, name: str) -> None:
    with database.writing() as transaction:
        transaction.connection.execute(insert(leases).values(name=name, fence=1, expires=transaction.now))


def fail_in_the_middle(database: Database) -> None:
    with database.writing() as transaction:
        transaction.connection.execute(insert(leases).values(name="a", fence=1, expires=transaction.now))
        transaction.wake("topic")
        _ = 1 / 0


def names(database: Database) -> list[str]:
    with database.reading() as connection:
        return sorted(connection.execute(select(leases.c.name)).scalars())


def again(database: Database) -> Database:
    return Database(database.url.render_as_string(hide_password=False))


def run(*tasks: Callable[[], None]) -> None:
    threads = [threading.Thread(target=task) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_SECONDS)
        assert not thread.is_alive()


def test_what_a_writer_read_stays_true_until_it_commits(database: Database) -> None:
    _count_from_two_places(database)


def _count_from_two_places(database: Database) -> None:
    """Check, then act: eight threads in two processes' places each add one to what they read; none is lost."""
    other = again(database)
    add(database, "counter")

    def count(place: Database) -> None:
        for _ in range(5):
            with place.writing() as transaction:
                value = transaction.connection.execute(select(leases.c.fence)).scalar_one()
                transaction.connection.execute(leases.update().values(fence=value + 1))

    run(*[lambda place=place: count(place) for place in (database, other) * 4])
    with database.reading() as connection:
        assert connection.execute(select(leases.c.fence)).scalar_one() == 41
    other.close()


def test_it_does_so_whatever_the_server_is_set_to(database: Database) -> None:
    """With a snapshot from before it had its turn, a writer would count on what was true then, or be refused."""
    if not database.embedded:
        with database.engine.connect() as connection:
            name = connection.execute(text("SELECT current_database()")).scalar_one()
            connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'"))
            connection.commit()
    fresh = again(database)
    _count_from_two_places(fresh)
    fresh.close()


def test_an_error_undoes_all_of_a_transaction_and_wakes_nobody(database: Database) -> None:
    with database.wakeups.subscribe("topic") as alarm:
        with pytest.raises(ZeroDivisionError):
            fail_in_the_middle(database)
        assert not alarm.wait(0)
        assert names(database) == []
        with database.writing() as transaction:
            transaction.wake("topic")
            assert not alarm.wait(0)
        assert alarm.wait(0)


def test_a_reader_sees_one_instant(database: Database) -> None:
    add(database, "a")
    with database.reading() as connection:
        assert connection.execute(select(leases.c.name)).scalars().all() == ["a"]
        add(database, "b")
        assert connection.execute(select(leases.c.name)).scalars().all() == ["a"]
    assert names(database) == ["a", "b"]


def test_a_reader_changes_nothing(database: Database) -> None:
    with pytest.raises((DBAPIError, Unavailable)), database.reading() as connection:
        connection.execute(text("DELETE FROM leases"))


def test_readers_do_not_wait_for_the_writer(database: Database) -> None:
    add(database, "a")
    with database.writing() as transaction:
        transaction.connection.execute(text("DELETE FROM leases"))
        assert names(database) == ["a"]
    assert names(database) == []


def test_a_writer_that_waits_too_long_for_its_turn_is_told_that_there_is_none(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "LOCK_SECONDS", 1)
    monkeypatch.setattr(database_module, "_WRITING", "-c lock_timeout=100ms")
    other = again(database)
    with database.writing(), pytest.raises(Unavailable), other.writing():
        pass
    other.close()
    add(database, "a")


def test_a_wrong_statement_is_a_bug_and_not_a_database_that_is_away(database: Database) -> None:
    with pytest.raises(DBAPIError), database.writing() as transaction:
        transaction.connection.execute(text("SELECT * FROM nothing"))


def test_a_database_that_is_away_is_unavailable(tmp_path: object) -> None:
    for url in (f"sqlite:///{tmp_path}/none/there.db", f"postgresql://nobody@/none?host={tmp_path}"):
        database = Database(url)
        with pytest.raises(Unavailable), database.writing():
            pass
        with pytest.raises(Unavailable), database.reading() as connection:
            connection.execute(text("SELECT 1"))
        database.close()


def test_times_come_back_as_they_went_in_and_naive_ones_are_refused(database: Database) -> None:
    there = datetime(2026, 7, 1, 12, 30, 15, 123456, timezone(timedelta(hours=5, minutes=30)))
    with database.writing() as transaction:
        transaction.connection.execute(insert(leases).values(name="a", fence=1, expires=there))
    with database.reading() as connection:
        found = connection.execute(select(leases.c.expires)).scalar_one()
        assert connection.execute(select(leases.c.name).where(leases.c.expires == there)).scalar_one() == "a"
    assert found == there
    assert found.tzinfo is UTC
    with pytest.raises(StatementError), database.writing() as transaction:
        transaction.connection.execute(insert(leases).values(name="b", fence=1, expires=datetime(2026, 7, 1)))


def test_transactions_are_told_the_time_that_all_processes_share(database: Database) -> None:
    with database.writing() as first:
        pass
    with database.writing() as second:
        pass
    assert first.now <= second.now
    assert first.began <= second.began
    assert abs(first.now - database.clock()) < timedelta(minutes=1)
