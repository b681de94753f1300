"""What it takes to admit many machines at once, on simulated services: the control plane's own time and memory.

The machines, the three services, the database and the keeper share this process; the simulators' own time is measured
beside it and taken off. Each machine's verdict is verified, its keys are made, split and sealed, and its delivery is
opened, with real cryptography, by the simulated machine.
"""

import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from steelyard.enclave import operations, store
from steelyard.enclave.keeping import Keeper
from steelyard.enclave.life import State
from steelyard.enclave.plan import Difference
from steelyard.enclave.worker import Worker
from steelyard.service.database import Database, utc_now
from tests.bench.sizes import size
from tests.fakes.enclave_world import World
from tests.unit.enclave.rig import MEMBER, SEALER, Clock, Rig, text

pytestmark = pytest.mark.slow

LIMIT_SECONDS = 1200


@contextmanager
def living(world: World, spent: list[float]) -> Iterator[None]:
    stop = threading.Event()

    def live() -> None:
        while not stop.wait(0.2):
            with world.lock:
                world.tick()
        spent.append(time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID))

    thread = threading.Thread(target=live)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def memory_mib() -> float:
    with open("/proc/self/statm") as file:  # noqa: PTH123 (not a path of ours)
        return int(file.read().split()[1]) * resource.getpagesize() / (1 << 20)


@pytest.mark.parametrize("trust", ["open", "sealed"])
@pytest.mark.parametrize("nodes", size([100, 1000], [3]))
def test_machines_admitted_at_once(
    sqlite_database: Database, benchmark: BenchmarkFixture, nodes: int, trust: str
) -> None:
    """See the benchmark's extra figures: nodes a minute, CPU and memory of the control plane for each machine."""
    world = World(utc_now, nodes)
    world.looks, world.demands = False, trust != "open"
    rig = Rig(sqlite_database, world, Clock())
    world.fault = lambda _verb: None
    simulators: list[float] = []
    before_memory, before_cpu = memory_mib(), cpu_seconds()

    took: list[float] = []

    def admit() -> None:
        begin = time.monotonic()
        keeper = Keeper(sqlite_database, Worker(sqlite_database, SEALER, world.locked_services()), threads=16)
        with living(world, simulators):
            rig.apply(text(trust, nodes))
            keeper.start()
            try:
                wait_until_all_run(rig, nodes)
            finally:
                took.append(time.monotonic() - begin)
                keeper.stop(60)

    benchmark.pedantic(admit, rounds=1, iterations=1)  # type: ignore[no-untyped-call]  # pytest-benchmark's
    [seconds] = took
    cpu = cpu_seconds() - before_cpu - sum(simulators)
    benchmark.extra_info["nodes a minute"] = round(60 * nodes / seconds)
    benchmark.extra_info["CPU milliseconds a node"] = round(1000 * cpu / nodes, 1)
    benchmark.extra_info["KiB a node"] = round(1024 * (memory_mib() - before_memory) / nodes, 1)
    benchmark.extra_info["threads"] = threading.active_count()


def wait_until_all_run(rig: Rig, nodes: int) -> None:
    end = time.monotonic() + LIMIT_SECONDS
    pause = threading.Event()
    while True:
        with rig.database.reading() as connection:
            counts = store.count_states(connection, rig.enclave().id)
        if counts.get(State.RUNNING) == nodes:
            return
        assert time.monotonic() < end, counts
        pause.wait(0.25)


def test_a_plan_of_10000_machines(sqlite_database: Database, benchmark: BenchmarkFixture) -> None:
    """From the file's text to the answer, the places read from the database."""
    nodes = size(10_000, 100)
    rig = Rig(sqlite_database, World(utc_now, 0), Clock())
    rig.apply(text("attested", nodes))
    with sqlite_database.writing() as tx:
        rig.worker.look_at_enclave(tx, rig.enclave().id)
    other = text("attested", nodes, image="debian-2")

    def plan() -> Difference:
        with sqlite_database.reading() as connection:
            return operations.plan(connection, MEMBER, project="blue", name="lab", text=other)

    assert len(benchmark(plan).replace) == nodes
