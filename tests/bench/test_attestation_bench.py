"""What an attestation service spends on nodes, in CPU time of its own process, HTTP, TLS and database included.

Wanted: boot evidence <= 6 ms, a report with nothing new under a policy of 50,000 files <= 2 ms, with 100 new entries
<= 3 ms, register and activate <= 5 ms; <= 20 KB of memory for each node that is watched, beside the policy. Each round
has so many nodes; `ms_each` is among what is saved of each benchmark. Run it alone: what is shared is the processor's
cache and clock, not its time.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from tests.bench.attestation_fleet import Fleet, fleet, service_seconds
from tests.bench.sizes import size
from tests.databases import Cluster
from tests.simulated_nodes import SimulatedNode
from tests.simulated_references import BENCHMARK_FILES

pytestmark = [pytest.mark.slow, pytest.mark.benchmark(timer=service_seconds)]

NODES: Final = size(200, 3)
"""In a round: the system counts CPU time in hundredths of a second."""
ROUNDS: Final = size(3, 1)
WATCHED: Final = size(2000, 3)
FIRST: Final = size(50, 1)
"""So many are watched before memory is looked at: policies, threads and statements come with them."""
FILES: Final = size(BENCHMARK_FILES, 500)


@pytest.fixture(scope="module", params=["sqlite", "postgresql-1", "postgresql-2"])
def services(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Services: one on SQLite, one and two on PostgreSQL."""
    directory: Path = tmp_path_factory.mktemp("attestation")
    kind, _, count = request.param.partition("-")
    if kind == "sqlite":
        url = "sqlite:///steelyard.db"
    else:
        cluster: Cluster = request.getfixturevalue("postgresql")
        name = f"bench_{count}_{os.getpid()}"
        cluster.execute(f"CREATE DATABASE {name}")
        url = cluster.url(name)
    with fleet(directory, url, int(count or 1), FILES) as made:
        yield made


def measure(
    benchmark: BenchmarkFixture,
    services: Fleet,
    prepare: Callable[[SimulatedNode], object],
    work: Callable[[SimulatedNode], object],
) -> None:
    """Have each of a round's nodes do `work`, by as many threads as there are services."""

    def fresh() -> tuple[tuple[Sequence[SimulatedNode]], dict[str, object]]:
        nodes = services.enrol(NODES)
        with services.wires(nodes):
            for node in nodes:
                prepare(node)
        return (nodes,), {}

    walls: list[float] = []

    def run(nodes: Sequence[SimulatedNode]) -> None:
        with services.wires(nodes), ThreadPoolExecutor(len(services.processes)) as pool:
            half = -(-len(nodes) // len(services.processes))
            begin = time.monotonic()
            list(pool.map(lambda part: [work(node) for node in part], [nodes[:half], nodes[half:]]))
            walls.append(time.monotonic() - begin)

    benchmark.group = f"{NODES} nodes"
    benchmark.pedantic(run, setup=fresh, rounds=ROUNDS, warmup_rounds=size(1, 0))  # type: ignore[no-untyped-call]  # no types
    if benchmark.stats:
        benchmark.extra_info["ms_each"] = round(benchmark.stats.stats.min / NODES * 1000, 2)
        benchmark.extra_info["each_per_second_of_wall_clock"] = round(NODES / min(walls))


def test_register_and_activate(benchmark: BenchmarkFixture, services: Fleet) -> None:
    measure(benchmark, services, lambda _: None, SimulatedNode.join)


def test_boot_evidence(benchmark: BenchmarkFixture, services: Fleet) -> None:
    """A challenge and the evidence for it."""

    def pass_airlock(node: SimulatedNode) -> None:
        asked = node.ask_challenge()
        node.submit(asked, node.evidence(asked))

    measure(benchmark, services, SimulatedNode.join, pass_airlock)


def _watched(node: SimulatedNode) -> None:
    node.pass_airlock()
    node.run_more(20)
    node.report()


def test_a_report_with_nothing_new(benchmark: BenchmarkFixture, services: Fleet) -> None:
    measure(benchmark, services, _watched, SimulatedNode.report)


def test_a_report_with_100_new_entries(benchmark: BenchmarkFixture, services: Fleet) -> None:
    def prepare(node: SimulatedNode) -> None:
        _watched(node)
        node.run_more(100)

    measure(benchmark, services, prepare, SimulatedNode.report)


def test_memory_for_each_node_that_is_watched(benchmark: BenchmarkFixture, services: Fleet) -> None:
    """Each passes the airlock and reports twice."""
    if len(services.processes) > 1:
        pytest.skip("one process tells")
    [process] = services.processes

    def watch(count: int) -> None:
        nodes = services.enrol(count)
        with services.wires(nodes):
            for node in nodes:
                _watched(node)
                node.report()

    watch(FIRST)
    before = process.resident_bytes()
    benchmark.pedantic(watch, (WATCHED,), rounds=1)  # type: ignore[no-untyped-call]  # no types
    benchmark.extra_info["bytes_each"] = (process.resident_bytes() - before) // WATCHED
    benchmark.extra_info["resident_megabytes"] = process.resident_bytes() >> 20
