"""Who delivers: a dead receiver costs the others nothing, processes share the work, one that is killed loses none."""

import dataclasses
import socket
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from steelyard.service import journal, webhooks
from steelyard.service.database import Database
from steelyard.service.listening import Listener
from tests.fakes.receiver import Answering, Receiver, Sent, answer, receiving
from tests.unit.service.hooks import QUICK, Clock, World, delivering, make_deliveries, start_process

SECONDS = 30


@pytest.fixture
def world(database: Database) -> World:
    """A database on which time is what it is."""
    world = World(database, Clock(), QUICK)
    world.happen("installation/new", None)
    return world


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


def holding(until: threading.Event, then: Answering) -> Answering:
    """Return what answers when told to."""

    def wait(sent: Sent, connection: socket.socket) -> bytes:
        until.wait(SECONDS)
        return then(sent, connection)

    return wait


def test_what_happens_is_told_at_once(world: World, receiver: Receiver) -> None:
    early = world.hook(receiver)
    world.happen("node/n1")
    with delivering(world.database):
        receiver.wait_for(1)
        world.happen("node/n2")
        receiver.wait_for(2)
        with receiving() as second:
            late = world.hook(second, "late")  # a webhook that is made while others are told
            world.happen("node/n3")
            second.wait_for(1)
            receiver.wait_for(3)
            assert world.subjects(second, late) == ["node/n3"]
    told = [subject for subject in world.subjects(receiver, early) if subject.startswith("node/")]
    assert told == ["node/n1", "node/n2", "node/n3"]


def test_receivers_that_do_not_answer_cost_the_others_nothing(world: World, receiver: Receiver) -> None:
    """More of them than there are threads, of several projects, and of the same one as the good receiver."""
    settings = dataclasses.replace(QUICK, threads=4, seconds=60)
    ended = threading.Event()
    with receiving() as silent:
        silent.answering = holding(ended, answer(204))
        for project in ("red", "blue", "green"):
            for number in range(4):
                world.hook(silent, f"silent{number}", project=project)
            world.happen("node/lost", project)
        deliveries = make_deliveries(world.database, settings)
        # As it is after their first failure: they are known.
        with world.database.reading() as connection:
            deliveries._slow.update(hook.id for hook in webhooks.read_all(connection))
        deliveries.start()
        try:
            silent.wait_for(2)
            good = world.hook(receiver, "good", project="white")
            world.happen("node/n1", "white")
            receiver.wait_for(1)
            assert world.subjects(receiver, good) == ["node/n1"]
            assert len(silent.sent) == 2, "half of the threads are kept from such"
        finally:
            ended.set()
            deliveries.stop()


def test_the_journal_is_listened_to_while_there_is_somebody_to_tell(world: World, receiver: Receiver) -> None:
    deliveries = make_deliveries(world.database, QUICK)
    deliveries.start()
    try:
        world.happen("node/n1")
        assert journal.TOPIC not in deliveries._alarm.topics
        hook = world.hook(receiver)
        world.happen("node/n2")
        receiver.wait_for(1)
        assert world.subjects(receiver, hook) == ["node/n2"]
        assert journal.TOPIC in deliveries._alarm.topics
    finally:
        deliveries.stop()


def test_a_project_has_no_more_than_its_part_of_the_threads(world: World, receiver: Receiver) -> None:
    settings = dataclasses.replace(QUICK, threads=8, seconds=60)
    ended = threading.Event()
    with receiving() as silent:
        silent.answering = holding(ended, answer(204))
        for number in range(8):
            world.hook(silent, f"silent{number}")
        world.happen("node/lost")
        deliveries = make_deliveries(world.database, settings)
        deliveries.start()
        try:
            silent.wait_for(2)
            world.hook(receiver, "good", project="blue")
            world.happen("node/n1", "blue")
            receiver.wait_for(1)
            assert len(silent.sent) == 2
        finally:
            ended.set()
            deliveries.stop()


def test_a_dead_letter_is_tried_again_as_soon_as_somebody_asks(world: World, receiver: Receiver) -> None:
    world.settings = dataclasses.replace(QUICK, tries=1)
    hook = world.hook(receiver)
    receiver.answering = answer(500)
    number = world.happen("node/n1")
    with delivering(world.database, world.settings), world.database.wakeups.subscribe("journal") as alarm:
        while not world.letters(hook):
            assert alarm.wait(SECONDS)
        receiver.answering = answer(204)
        world.redeliver(hook, number)
        receiver.wait_for(2)
    assert world.letters(hook) == []


@pytest.mark.both_databases
def test_two_processes_deliver_everything_once_and_in_order(world: World) -> None:
    """Threads stand for them: each has connections of its own, and knows of the other by the database alone."""
    other = Database(world.database.url.render_as_string(hide_password=False))
    listeners = [Listener(world.database), Listener(other)]
    for listener in listeners:
        listener.start()
    with receiving() as first, receiving() as second, receiving() as third:
        receivers = (first, second, third)
        hooks = [world.hook(each, f"hook{number}") for number, each in enumerate(receivers)]
        with delivering(world.database), delivering(other):
            for number in range(30):
                world.happen(f"node/n{number}")
            for receiver in receivers:
                receiver.wait_for(30)
        for receiver, hook in zip(receivers, hooks, strict=True):
            told = [subject for subject in world.subjects(receiver, hook) if subject.startswith("node/")]
            assert told == [f"node/n{number}" for number in range(30)]
    for listener in listeners:
        listener.stop()
    other.close()


@pytest.mark.both_databases
def test_a_process_that_is_killed_while_it_delivers_loses_nothing(world: World, receiver: Receiver) -> None:
    hook = world.hook(receiver)
    numbers = [world.happen(f"node/n{number}") for number in range(4)]
    ended = threading.Event()

    def third_time_slow(sent: Sent, connection: socket.socket) -> bytes:
        if len(receiver.sent) == 3:
            ended.wait(SECONDS)
        return answer(204)(sent, connection)

    receiver.answering = third_time_slow
    process = start_process(world.database)
    try:
        receiver.wait_for(3)
    finally:
        process.kill()
        process.communicate()
    ended.set()
    assert world.read(hook).position == numbers[1]
    successor = start_process(world.database)
    try:
        receiver.wait_for(5)
    finally:
        successor.communicate("")
    assert successor.returncode == 0
    assert world.subjects(receiver, hook) == ["node/n0", "node/n1", "node/n2", "node/n2", "node/n3"]
    times = Counter(sent.headers["webhook-id"] for sent in receiver.sent)
    assert sorted(times.values()) == [1, 1, 1, 2], "the one that was under way is known by its id"
    assert world.read(hook).position == numbers[3]


def test_it_ends_while_a_receiver_does_not_answer(world: World, receiver: Receiver) -> None:
    ended = threading.Event()
    receiver.answering = holding(ended, answer(204))
    world.hook(receiver)
    world.happen("node/n1")
    with delivering(world.database, dataclasses.replace(QUICK, seconds=1)):
        receiver.wait_for(1)
    ended.set()


def test_a_fault_in_one_is_logged_and_costs_the_others_nothing(world: World, receiver: Receiver) -> None:
    bad, good = world.hook(receiver, "bad"), world.hook(receiver, "good")
    deliveries = make_deliveries(world.database)
    work = deliveries._deliverer.work

    def faulty(identifier: str) -> object:
        if identifier == bad:
            raise ZeroDivisionError
        return work(identifier)

    deliveries._deliverer.work = faulty  # type: ignore[method-assign, assignment]  # a fault that no input makes
    deliveries.start()
    try:
        world.happen("node/n1")
        receiver.wait_for(1)
    finally:
        deliveries.stop()
    assert world.subjects(receiver, good) == ["node/n1"]
