"""The API over HTTP: reads with 10,000 nodes registered; many attachments at once against one, switches of 50 ms."""

import asyncio
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from pytest_benchmark.fixture import BenchmarkFixture
from sqlalchemy import insert

from steelyard.client import isolation
from steelyard.client.connection import AsyncClient, Client, Service
from steelyard.isolation import tables
from steelyard.isolation.api import Means, isolation_router
from steelyard.isolation.life import NodeState
from steelyard.model.secret import Secret
from steelyard.service import accounts
from steelyard.service.api import shared_router
from steelyard.service.database import Database
from steelyard.service.gate import Gate
from steelyard.service.http import Front, make_app
from tests.api import Api, client_of, listening, make_api
from tests.bench.test_isolation_bench import NODES as ATTACHED
from tests.bench.test_isolation_bench import LiveWorld
from tests.filling import filled
from tests.unit.isolation.rig import POOL, SEALER

pytestmark = pytest.mark.slow

NODES = 10_000
RACKS = 100


def _register(database: Database) -> None:
    """Write down 10,000 nodes of one NIC each; every tenth is project red's, each hundred are a rack."""
    now = datetime.now(UTC)
    nodes = [
        {
            "name": f"n{number:05}",
            "state": (NodeState.FREE if number % 10 else NodeState.ALLOCATED).value,
            "since": now,
            "why": "a benchmark",
            "project": None if number % 10 else "red",
            "labels": {"rack": f"r{number % RACKS}", "cpu": "x86"},
            "hardware": {"memory": "256 GiB"},
            "identity": {"endorsement_certificates": {}, "endorsement_keys": [], "references": []},
            "bmc_driver": "fake",
            "bmc_address": {"host": f"b{number}"},
            "bmc_sealed": b"",
            "version": 1,
        }
        for number in range(NODES)
    ]
    nics = [
        {"node": f"n{number:05}", "name": "nic0", "mac": f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"}
        for number in range(NODES)
    ]
    with database.writing() as tx:
        tx.connection.execute(insert(tables.nodes), nodes)
        tx.connection.execute(insert(tables.nics), nics)


@pytest.fixture
def api(database: Database) -> Api:
    api = make_api(database)
    filled(database, _register)
    return api


@pytest.fixture
def client(api: Api) -> Iterator[Client]:
    with listening(api.app) as url, client_of(url, api.tokens["provider"]) as client:
        yield client


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        pytest.param(lambda: isolation.read_node("n05000"), 1, id="one node"),
        pytest.param(lambda: isolation.list_nodes(limit=100), 100, id="a page of 100"),
        pytest.param(lambda: isolation.list_nodes(limit=1000), 1000, id="a page of 1,000"),
        pytest.param(lambda: isolation.list_nodes(labels={"rack": "r7"}, limit=100), 100, id="a label: 100 of 10,000"),
        pytest.param(lambda: isolation.list_nodes(project="red", limit=1000), 1000, id="a project's 1,000"),
    ],
)
def test_a_read_with_10000_nodes(
    client: Client, benchmark: BenchmarkFixture, call: Callable[[], Any], expected: int
) -> None:
    answer = benchmark(lambda: client.ask(call()))
    assert len(getattr(answer, "items", [answer])) == expected


@pytest.fixture
def world(database: Database) -> Iterator[LiveWorld]:
    world = LiveWorld(database, switches=4)
    yield world
    world.keepers.stop(10)


@pytest.mark.parametrize("at_once", [1, ATTACHED])
def test_attachments_from_request_to_the_word_that_they_are_done(
    world: LiveWorld, benchmark: BenchmarkFixture, at_once: int
) -> None:
    """Server, keepers, database and all clients share this process and its cores."""
    front = Front(world.database, Gate(world.database, None), CollectorRegistry(), lambda: True)
    app = make_app(front, [shared_router(), isolation_router(Means(SEALER, world.devices.drivers, POOL))], "0")
    with world.database.writing() as tx:
        _, token = accounts.make_first_token(tx, "boss", "test")

    async def attach_all(url: str) -> list[float]:
        async with AsyncClient(Service(url, None, Secret(token.reveal()))) as client:

            async def attach(node: int) -> float:
                begin = time.monotonic()
                network = f"net{node % 8}"
                await client.wait_for(await client.ask(isolation.attach(f"n{node}", "nic0", network, seconds=60)))
                return time.monotonic() - begin

            return await asyncio.gather(*(attach(node) for node in range(at_once)))

    def detach_all() -> None:
        if world.attachments("n0"):
            for node in range(at_once):
                world.detach(f"n{node}", f"net{node % 8}")
            world.wait_for_all()

    with listening(app) as url:
        seconds = benchmark.pedantic(  # type: ignore[no-untyped-call]  # pytest-benchmark's
            lambda: asyncio.run(attach_all(url)), setup=detach_all, rounds=3
        )
    assert len(seconds) == at_once
