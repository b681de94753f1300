"""How long a rack takes: from nothing to BMCs that answer, from power to the first packet, for a BMC's command.

`./check bench` shows the figures; those of docs/lab.md were found so.
"""

import select
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from tests.lab_rack.rack import SIMULATED, Rack, bring_up, lab, room_for_a_rack

pytestmark = [pytest.mark.rack, pytest.mark.benchmark(timer=time.perf_counter)]

ROUNDS: Final = 5
EVERY_PROTOCOL: Final = 0x0003


@pytest.fixture
def place() -> Iterator[Path]:
    with room_for_a_rack() as root:
        yield root


@pytest.fixture
def rack(place: Path) -> Rack:
    return bring_up(place, "--nodes", "1")


def _measure(
    benchmark: BenchmarkFixture, act: Callable[[], object], prepare: Callable[[], None], *, rounds: int
) -> None:
    """Measure `act`, each time after `prepare`."""
    benchmark.pedantic(act, setup=prepare, rounds=rounds)  # type: ignore[no-untyped-call]  # the plugin's one gap


def _from_nothing(place: Path) -> None:
    if place.exists():
        lab(place, "down")
        shutil.rmtree(place)


def test_four_nodes_are_up_from_nothing(benchmark: BenchmarkFixture, place: Path) -> None:
    """Powered off and reachable by their BMCs."""

    def up() -> None:
        rack = bring_up(place, "--nodes", "4")
        assert [rack.ipmi_power(node.name) for node in rack.inventory.nodes] == ["off"] * 4

    _measure(benchmark, up, lambda: _from_nothing(place), rounds=3)


def test_a_thousand_simulated_nodes_are_up_from_nothing(benchmark: BenchmarkFixture, place: Path) -> None:
    _measure(
        benchmark,
        lambda: bring_up(place, "--nodes", "1000", *SIMULATED),
        lambda: _from_nothing(place),
        rounds=2,
    )


def test_from_power_on_to_the_first_packet(benchmark: BenchmarkFixture, rack: Rack) -> None:
    """From the start of ipmitool to the firmware's first frame on the node's cable."""
    nic = rack.node("n1").nics[0]

    def listen() -> socket.socket:
        cable = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(EVERY_PROTOCOL))
        cable.bind((nic.port, 0))
        cable.settimeout(60)
        return cable

    with rack.within(listen) as cable:

        def off() -> None:
            rack.ipmi("n1", "power", "off")
            while select.select([cable], [], [], 0)[0]:
                cable.recv(2048)

        def on() -> None:
            rack.ipmi("n1", "power", "on")
            while cable.recv(2048)[6:12] != bytes.fromhex(nic.mac.replace(":", "")):
                pass

        _measure(benchmark, on, off, rounds=ROUNDS)


def test_an_ipmi_command(benchmark: BenchmarkFixture, rack: Rack) -> None:
    benchmark(lambda: rack.ipmi_power("n1"))


def test_a_redfish_session_with_one_command(benchmark: BenchmarkFixture, rack: Rack) -> None:
    benchmark(lambda: rack.redfish("n1", lambda system: system.power_state))


def test_a_vlan_move_by_ovs_vsctl(benchmark: BenchmarkFixture, rack: Rack) -> None:
    vlans = iter(range(2, 4094))
    benchmark(lambda: rack.put_on(next(vlans), "n1"))
