"""Isolation on the emulated rack, over HTTPS, a real switch at the far end: from a request to what was read back."""

from collections.abc import Callable, Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from steelyard.client import isolation
from steelyard.client.call import Call
from steelyard.client.connection import Client, Service
from steelyard.client.objects import Operation
from steelyard.client.settings import read_token
from tests.lab_rack.rack import bring_up, room_for_a_rack
from tests.lab_rack.site import Site, site_of
from tests.lab_rack.test_isolation import N1, take

pytestmark = pytest.mark.rack

ROUNDS = 10


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with room_for_a_rack() as root, site_of(bring_up(root, "--nodes", "2")) as site:
        take(site, "blue", "n1", "n2")
        site.ask("network", "create", "lab", "--project", "blue", who="blue")
        yield site


def _done(site: Site, client: Client, call: Call[Operation]) -> Callable[[], Operation]:
    return lambda: site.rack.within(lambda: client.wait_for(client.ask(call)))


def _void(act: Callable[[], object]) -> None:
    """Act; pytest-benchmark takes what a set-up returns for arguments."""
    act()


@pytest.fixture
def client(site: Site) -> Iterator[Client]:
    with Client(Service(site.url, site.directory / "authority.pem", read_token(site.tokens["provider"]))) as client:
        yield client


def test_attaching_a_nic(site: Site, client: Client, benchmark: BenchmarkFixture) -> None:
    attach = _done(site, client, isolation.attach(*N1, "lab"))
    detach = _done(site, client, isolation.detach(*N1, "lab"))
    benchmark.pedantic(attach, setup=lambda: _void(detach), rounds=ROUNDS)  # type: ignore[no-untyped-call]  # pytest-benchmark's


def test_detaching_a_nic(site: Site, client: Client, benchmark: BenchmarkFixture) -> None:
    attach = _done(site, client, isolation.attach(*N1, "lab"))
    detach = _done(site, client, isolation.detach(*N1, "lab"))
    benchmark.pedantic(detach, setup=lambda: _void(attach), rounds=ROUNDS)  # type: ignore[no-untyped-call]  # pytest-benchmark's


def test_cutting_a_node_off(site: Site, client: Client, benchmark: BenchmarkFixture) -> None:
    """The second node; released, allocated and attached before. 0.15 s of it is the driver's wait for old flows."""

    def prepare() -> None:
        if site.node("n2")["state"] == "quarantined":
            site.ask("node", "release", "n2")
            site.ask("node", "allocate", f"again-{site.node('n2')['version']}", "--project", "blue", "--node", "n2")
        site.ask("node", "attach", "n2", "nic0", "lab")

    cut = _done(site, client, isolation.quarantine("n2", "a benchmark"))
    benchmark.pedantic(cut, setup=prepare, rounds=ROUNDS)  # type: ignore[no-untyped-call]  # pytest-benchmark's


def test_allocating_a_node(site: Site, client: Client, benchmark: BenchmarkFixture) -> None:
    """Beside it the answer of a read: what HTTPS, sign-in and the database cost."""
    site.run(["node", "release", "n1"])
    names = iter(range(ROUNDS))

    def give_back() -> None:
        if site.node("n1")["state"] != "free":
            site.ask("node", "release", "n1")

    def allocate() -> None:
        call = isolation.allocate("blue", f"bench-{next(names)}", 1, nodes=["n1"])
        site.rack.within(lambda: client.ask(call))

    benchmark.pedantic(allocate, setup=give_back, rounds=ROUNDS)  # type: ignore[no-untyped-call]  # pytest-benchmark's


def test_releasing_a_node_that_is_off(site: Site, client: Client, benchmark: BenchmarkFixture) -> None:
    names = iter(range(ROUNDS))

    def take_it() -> None:
        if site.node("n1")["state"] == "free":
            site.ask("node", "allocate", f"release-{next(names)}", "--project", "blue", "--node", "n1")

    release = _done(site, client, isolation.release("n1", to="free", why="a benchmark"))
    benchmark.pedantic(release, setup=take_it, rounds=ROUNDS)  # type: ignore[no-untyped-call]  # pytest-benchmark's
