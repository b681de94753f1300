"""A lease has one holder at a time, whatever anybody's clock says."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from steelyard.service.database import Database, local_seconds
from steelyard.service.leases import Lease, acquire, give_up, renew

pytestmark = pytest.mark.both_databases

DURATION = timedelta(seconds=10)
START = datetime(2026, 1, 1, tzinfo=UTC)


class SetClock:
    """A clock that goes when told."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


def clocked(database: Database, clock: SetClock) -> Database:
    return Database(database.url.render_as_string(hide_password=False), clock=clock)


def take(database: Database, holder: str) -> Lease | None:
    with database.writing() as transaction:
        return acquire(transaction, "switch/s1", holder, DURATION)


def test_one_holder_at_a_time_and_each_new_one_has_a_higher_fence(database: Database) -> None:
    clock = SetClock()
    database = clocked(database, clock)
    first = take(database, "a")
    assert first is not None
    assert take(database, "b") is None
    clock.now += DURATION - timedelta(microseconds=1)
    assert take(database, "b") is None
    clock.now += timedelta(microseconds=1)
    second = take(database, "b")
    assert second is not None
    assert second.fence > first.fence > 0
    database.close()


def test_two_threads_of_one_name_do_not_have_it_both(database: Database) -> None:
    assert take(database, "a") is not None
    assert take(database, "a") is None


def test_what_was_given_up_is_free_at_once_and_its_fence_is_not_used_again(database: Database) -> None:
    first = take(database, "a")
    assert first is not None
    with database.writing() as transaction:
        give_up(transaction, first)
    second = take(database, "a")
    assert second is not None
    assert second.fence > first.fence


def test_giving_up_what_was_lost_takes_nothing_from_the_new_holder(database: Database) -> None:
    clock = SetClock()
    database = clocked(database, clock)
    lost = take(database, "a")
    clock.now += DURATION
    held = take(database, "b")
    assert lost is not None
    assert held is not None
    with database.writing() as transaction:
        give_up(transaction, lost)
    assert take(database, "c") is None
    with database.writing() as transaction:
        assert renew(transaction, lost, DURATION) is None
        assert renew(transaction, held, DURATION) is not None
    database.close()


def test_a_renewed_lease_is_longer_and_keeps_its_fence(database: Database) -> None:
    clock = SetClock()
    database = clocked(database, clock)
    lease = take(database, "a")
    assert lease is not None
    clock.now += DURATION + timedelta(seconds=1)
    with database.writing() as transaction:
        longer = renew(transaction, lease, DURATION)
    assert longer is not None
    assert longer.fence == lease.fence
    assert longer.deadline >= lease.deadline
    assert take(database, "b") is None
    database.close()


def test_the_holder_stops_before_others_may_begin(database: Database) -> None:
    """Time that passes between asking and being granted is on the holder's account."""
    before = local_seconds()
    with database.writing() as transaction:
        asked = transaction.now
        lease = acquire(transaction, "switch/s1", "a", DURATION)
    assert lease is not None
    assert before < lease.deadline < before + DURATION.total_seconds()
    assert lease.seconds_left() < DURATION.total_seconds()
    assert transaction.began + DURATION.total_seconds() > lease.deadline
    assert abs((database.clock() - asked).total_seconds()) < 60


def test_of_many_that_ask_at_once_one_gets_it(database: Database) -> None:
    other = Database(database.url.render_as_string(hide_password=False))
    got: list[Lease] = []

    def ask(place: Database, holder: str) -> None:
        lease = take(place, holder)
        if lease is not None:
            got.append(lease)

    threads = [threading.Thread(target=ask, args=((database, other)[n % 2], str(n))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
    other.close()
