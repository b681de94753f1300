"""What isolation takes: many tenants at once, switches that are slow, and a cut while all are at work."""

import threading
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from sqlalchemy import func, select, update

from steelyard.isolation import tables
from steelyard.isolation.keeping.keepers import Keepers
from steelyard.isolation.life import NodeState
from steelyard.isolation.objects import Operation
from steelyard.isolation.store import LIVE
from steelyard.model.network import SHUT
from steelyard.service.database import Database
from tests.bench.sizes import size
from tests.fakes.switch import Call
from tests.unit.isolation.keeping.rig import SETTINGS, Devices, World
from tests.unit.isolation.rig import SEALER

pytestmark = pytest.mark.slow

NODES = size(200, 32)
ROUND_TRIP_SECONDS = 0.05
PROJECTS = 8


class LiveWorld(World):
    """A rack of many nodes, allocated to eight projects; keepers at work, in real time."""

    def __init__(self, database: Database, switches: int) -> None:
        self.database = database
        self.devices = Devices()
        self.changed = threading.Event()
        for project in range(PROJECTS):
            self.project(f"project{project}")
            self.network(f"net{project}", f"project{project}", 200 + project)
        for switch in range(switches):
            self.switch(f"s{switch}", [f"p{port}" for port in range(NODES)])
        for node in range(NODES):
            self.node(f"n{node}", (f"s{node % switches}", f"p{node}"))
        with database.writing() as tx:
            # As after their release; what is measured is what comes then.
            tx.connection.execute(update(tables.nodes).values(state=NodeState.FREE.value, power_read_at=tx.now))
            tx.connection.execute(update(tables.ports).values(applied=tables.ports.c.wanted, urgent=False))
        for node in range(NODES):
            self.allocate(f"n{node}", f"project{node % PROJECTS}")
        for device in self.devices.switches.devices.values():
            device.latency = ROUND_TRIP_SECONDS
        self.keepers = Keepers(database, self.devices.drivers, SEALER, SETTINGS)
        self.keepers.start()
        self.wait_for_all()

    def attach_all(self) -> list[Operation]:
        """Attach all nodes, from as many threads as there are projects."""
        asked: list[Operation] = []

        def ask(project: int) -> None:
            mine = range(project, NODES, PROJECTS)
            asked.extend(self.attach(f"n{node}", f"net{project}") for node in mine)

        threads = [threading.Thread(target=ask, args=(project,)) for project in range(PROJECTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return asked

    def detach_all(self) -> None:
        for node in range(NODES):
            self.detach(f"n{node}", f"net{node % PROJECTS}")
        self.wait_for_all()

    def live(self) -> int:
        table = tables.operations
        with self.database.reading() as connection:
            return connection.execute(select(func.count()).where(table.c.state.in_(LIVE))).scalar_one()

    def wait_for_all(self) -> None:
        end = time.monotonic() + 60
        with self.database.wakeups.subscribe("journal") as alarm:
            while self.live():
                assert time.monotonic() < end
                alarm.wait(1)


@pytest.fixture(params=[4, 1], ids=["4 switches", "1 switch"])
def world(database: Database, request: pytest.FixtureRequest) -> Iterator[LiveWorld]:
    world = LiveWorld(database, request.param)
    yield world
    world.keepers.stop(10)


def test_many_attachments_from_the_first_question_to_the_last_read_back(
    world: LiveWorld, benchmark: BenchmarkFixture
) -> None:
    def begin() -> None:
        if any(world.attachments(f"n{node}") for node in (0, NODES - 1)):
            world.detach_all()

    def attach() -> None:
        world.attach_all()
        world.wait_for_all()

    benchmark.pedantic(attach, setup=begin, rounds=3)  # type: ignore[no-untyped-call]  # pytest-benchmark's
    trips = sum(device.round_trips for device in world.devices.switches.devices.values())
    # One by one they would be 2 round trips each.
    benchmark.extra_info["round trips"] = trips
    assert trips < 3 * 2 * 2 * NODES / 2


def test_a_cut_while_many_attachments_wait(world: LiveWorld, benchmark: BenchmarkFixture) -> None:
    """From the commit to when the port is read to be shut: the device's own two round trips, and one under way."""
    for device in world.devices.switches.devices.values():
        device.latency = 0
    world.attach_all()
    world.wait_for_all()
    nodes = iter(range(0, NODES, 7))
    seconds: list[float] = []

    def begin() -> None:
        for node in set(range(NODES)) - set(range(0, NODES, 7)):
            world.detach(f"n{node}", f"net{node % PROJECTS}")

    def cut() -> None:
        node = next(nodes)
        switch, port = f"s{node % len(world.devices.switches.devices)}", f"p{node}"
        device = world.devices.switches[switch]
        is_cut = threading.Event()

        def look(call: Call) -> None:
            if call.verb == "read" and port in call.ports and device.ports[port] == SHUT:
                is_cut.set()

        device.after = look
        world.quarantine(f"n{node}")
        began = time.monotonic()
        assert is_cut.wait(10)
        seconds.append(time.monotonic() - began)

    benchmark.pedantic(cut, setup=begin, rounds=5)  # type: ignore[no-untyped-call]  # pytest-benchmark's
    benchmark.extra_info["commit to read back, most"] = max(seconds)
    # 0.1 s on a computer of its own.
    assert max(seconds) < timedelta(seconds=1).total_seconds()
