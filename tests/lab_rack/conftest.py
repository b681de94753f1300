"""One rack of two nodes for all tests of a worker; each test finds it off, shut and without faults."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from steelyard.lab.control import ask
from tests.lab_rack.rack import Rack, bring_up, room_for_a_rack


@pytest.fixture(scope="session")
def standing_rack() -> Iterator[Rack]:
    with room_for_a_rack() as root:
        yield bring_up(root, "--nodes", "2")


@pytest.fixture
def rack(standing_rack: Rack) -> Iterator[Rack]:
    yield standing_rack
    socket = standing_rack.root / "control.sock"
    for node in ask(socket, "status")["nodes"]:
        for fault in node["faults"]:
            ask(socket, "fault", target=node["name"], fault=fault, state="off", image=None)
        for fault in node["bmc_faults"]:
            ask(socket, "fault", target=f"{node['name']}/bmc", fault=fault, state="off", image=None)
    for fault in ask(socket, "status")["switch"]["faults"]:
        ask(socket, "fault", target="switch", fault=fault, state="off", image=None)
    for name in ("n1", "n2"):
        standing_rack.ipmi(name, "power", "off")
        standing_rack.ipmi(name, "chassis", "bootdev", "none")
    standing_rack.shut("n1", "n2")


@pytest.fixture
def place() -> Iterator[Path]:
    """Where a rack of the test's own may be."""
    with room_for_a_rack() as root:
        yield root
