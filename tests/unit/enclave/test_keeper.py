"""The keeper with its threads: it does what the turns of `rig.py` do, goes on after a restart, and two do not meet."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from steelyard.enclave import store
from steelyard.enclave.keeping import Keeper
from steelyard.enclave.life import State
from steelyard.enclave.worker import Worker
from steelyard.service.database import Database, utc_now
from tests.fakes.enclave_world import World
from tests.unit.enclave.rig import SEALER, Clock, Rig, text

LIMIT_SECONDS = 60.0


def wait_until(so: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_SECONDS
    pause = threading.Event()
    while not so():
        assert time.monotonic() < end
        pause.wait(0.05)


@contextmanager
def living(world: World) -> Iterator[None]:
    """Let the machines live."""
    stop = threading.Event()

    def live() -> None:
        while not stop.wait(0.02):
            with world.lock:
                world.tick()

    thread = threading.Thread(target=live)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def keeping(database: Database, world: World) -> Iterator[Keeper]:
    keeper = Keeper(database, Worker(database, SEALER, world.locked_services()), threads=8)
    keeper.start()
    try:
        yield keeper
    finally:
        keeper.stop(LIMIT_SECONDS)


def make(database: Database, nodes: int) -> Rig:
    return Rig(database, World(utc_now, nodes), Clock())


def test_machines_are_admitted_and_handed_back_by_threads(sqlite_database: Database) -> None:
    rig = make(sqlite_database, 6)
    with living(rig.world), keeping(sqlite_database, rig.world):
        rig.apply(text("sealed", 5))
        wait_until(lambda: rig.states() == [State.RUNNING] * 5)
        rig.delete()
        wait_until(rig.gone)
    assert rig.world.is_as_at_the_start()


def test_what_one_keeper_has_begun_another_ends(sqlite_database: Database) -> None:
    rig = make(sqlite_database, 4)
    with living(rig.world):
        with keeping(sqlite_database, rig.world):
            rig.apply(text("sealed", 4))
            wait_until(lambda: any(state is not State.WANTED for state in rig.states()))
        with keeping(sqlite_database, rig.world):
            wait_until(lambda: rig.states() == [State.RUNNING] * 4)


def test_of_two_keepers_one_keeps(sqlite_database: Database) -> None:
    rig = make(sqlite_database, 4)
    with living(rig.world), keeping(sqlite_database, rig.world) as first, keeping(sqlite_database, rig.world) as second:
        rig.apply(text("sealed", 4))
        wait_until(lambda: rig.states() == [State.RUNNING] * 4)
        assert [keeper._lease is None for keeper in (first, second)].count(True) == 1


def test_a_place_that_was_changed_while_its_step_was_taken_is_not_moved_by_it(sqlite_database: Database) -> None:
    rig = make(sqlite_database, 1)
    rig.apply(text("open", 1))
    with sqlite_database.writing() as tx:
        rig.worker.look_at_enclave(tx, rig.enclave().id)
    [place] = rig.places()
    outcome = rig.worker.take(place)
    rig.cancel()
    with sqlite_database.writing() as tx:
        rig.worker.write(tx, [outcome])
    [now] = rig.places()
    assert now.state is State.RELEASING
    rig.clock.now = utc_now()
    rig.run(rig.settled)
    assert rig.world.is_as_at_the_start()
    with sqlite_database.reading() as connection:
        assert store.seen_places(connection, rig.enclave().id) == []
