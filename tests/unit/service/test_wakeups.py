"""Who waits is woken: by this process, by another one, from a thread or in an event loop; never too little."""

import asyncio
import threading
from collections.abc import Callable

import psycopg
import pytest

from steelyard.service.database import Database
from steelyard.service.listening import Listener
from steelyard.service.wakeups import AsyncAlarm, Wakeups
from tests.databases import Cluster

pytestmark = pytest.mark.both_databases

WAIT_SECONDS = 20


def test_an_alarm_rings_for_its_topics_alone() -> None:
    wakeups = Wakeups()
    with wakeups.subscribe("a", "b") as alarm:
        wakeups.ring(["c"])
        assert not alarm.wait(0)
        for topic in ("a", "b"):
            wakeups.ring([topic])
            assert alarm.wait(0)
            assert not alarm.wait(0)


def test_what_rings_before_the_wait_is_not_lost_and_a_closed_alarm_is_forgotten() -> None:
    wakeups = Wakeups()
    alarm = wakeups.subscribe("a")
    wakeups.ring(["a"])
    assert alarm.wait(WAIT_SECONDS)
    alarm.close()
    alarm.close()
    wakeups.ring(["a"])
    assert not alarm.wait(0)
    assert wakeups._bells == {}


def test_everybody_can_be_woken_at_once() -> None:
    wakeups = Wakeups()
    alarms = [wakeups.subscribe(topic) for topic in ("a", "b")]
    wakeups.ring_all()
    assert all(alarm.wait(0) for alarm in alarms)


def test_tasks_are_woken_from_other_threads() -> None:
    wakeups = Wakeups()

    async def story() -> None:
        with wakeups.subscribe_async("a") as alarm:
            assert not await alarm.wait(0.001)
            for _ in range(3):
                thread = threading.Thread(target=wakeups.ring, args=(["a"],))
                thread.start()
                assert await alarm.wait(WAIT_SECONDS)
                thread.join()
            assert not await alarm.wait(0.001)

    asyncio.run(story())
    assert wakeups._bells == {}


def test_a_bell_of_a_loop_that_has_ended_rings_for_nobody_and_harms_nobody() -> None:
    wakeups = Wakeups()

    async def leave_it() -> AsyncAlarm:
        return wakeups.subscribe_async("a")

    asyncio.run(leave_it())
    with wakeups.subscribe("a") as alarm:
        wakeups.ring(["a"])
        assert alarm.wait(0)


def again(database: Database) -> Database:
    return Database(database.url.render_as_string(hide_password=False))


def backends(database: Database) -> list[int]:
    """Return who listens, by PostgreSQL's process."""
    with psycopg.connect(database.url.set(drivername="postgresql").render_as_string(hide_password=False)) as connection:
        rows = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
        )
        return [row[0] for row in rows]


def wait_until(true: Callable[[], object]) -> None:
    for _ in range(WAIT_SECONDS * 50):
        if true():
            return
        threading.Event().wait(0.02)
    pytest.fail("not in time")


def test_a_change_in_another_process_rings_here(database: Database) -> None:
    """With SQLite there is nobody to tell: who waits looks when the time is over."""
    other = again(database)
    listener = Listener(database)
    listener.start()
    with database.wakeups.subscribe("a") as alarm:
        if not database.embedded:
            wait_until(lambda: backends(database))
            alarm.wait(0.2)  # the ring of the beginning
        with other.writing() as transaction:
            transaction.wake("a")
        assert alarm.wait(0.2 if database.embedded else WAIT_SECONDS) is not database.embedded
    listener.stop()
    other.close()


def test_a_listener_that_was_cut_off_comes_back_and_wakes_everybody(database: Database, postgresql: Cluster) -> None:
    if database.embedded:
        return
    listener = Listener(database)
    listener.start()
    wait_until(lambda: backends(database))
    with database.wakeups.subscribe("a") as alarm:
        while alarm.wait(0.05):
            pass
        [before] = backends(database)
        postgresql.execute(f"SELECT pg_terminate_backend({before})")
        assert alarm.wait(WAIT_SECONDS)
        wait_until(lambda: backends(database) not in ([], [before]))
        other = again(database)
        with other.writing() as transaction:
            transaction.wake("a")
        other.close()
        assert alarm.wait(WAIT_SECONDS)
    listener.stop()
    wait_until(lambda: not backends(database))


def test_a_listener_that_was_never_begun_ends(database: Database) -> None:
    Listener(database).stop()
