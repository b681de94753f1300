"""The threads, in real time: what is wanted comes true by itself, and stopping ends them all."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from steelyard.isolation import consoles
from steelyard.isolation.keeping.keepers import Keepers
from steelyard.isolation.life import NodeState
from steelyard.isolation.objects import OperationState, Verb
from steelyard.isolation.ports import Power
from steelyard.model.network import SHUT, PortVlans, Vlan
from steelyard.service.database import Database, utc_now
from tests.fakes import bmc, switch
from tests.unit.isolation.keeping.rig import SETTINGS, Devices, World
from tests.unit.isolation.rig import PROVIDER, SEALER

LIMIT_SECONDS = 20


class LiveWorld(World):
    """A rack with real time."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.devices = Devices()


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_SECONDS
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def world(database: Database) -> Iterator[LiveWorld]:
    """Threads keep a rack of two switches and two nodes, the first of them red's."""
    before = set(threading.enumerate())
    world = LiveWorld(database)
    keepers = Keepers(database, world.devices.drivers, SEALER, SETTINGS)
    keepers.start()
    world.project("red")
    for number in (1, 2):
        world.switch(f"s{number}", ["p1"])
        world.node(f"n{number}", (f"s{number}", "p1"), power=Power.ON)
        world.release(f"n{number}")
    wait_until(lambda: world.state("n1") is world.state("n2") is NodeState.FREE)
    world.network("wine", "red", 100)
    world.allocate("n1", "red")
    yield world
    keepers.stop(LIMIT_SECONDS)
    assert {thread for thread in threading.enumerate() if thread.is_alive()} <= before


@pytest.mark.both_databases
def test_what_is_wanted_comes_true(world: LiveWorld) -> None:
    operations = [world.attach("n1", "wine"), world.power("n1", Verb.POWER_ON)]
    wait_until(lambda: all(world.how(one) is OperationState.DONE for one in operations))
    assert world.devices.switches["s1"].ports["p1"] == PortVlans(Vlan(100))
    cut = world.quarantine("n1")
    wait_until(lambda: world.how(cut) is OperationState.DONE)
    world.release("n1")
    wait_until(lambda: world.state("n1") is NodeState.FREE)
    assert world.devices.bmcs["n1"].power is Power.OFF


def test_a_change_by_somebody_else_is_undone_as_soon_as_the_switch_tells(world: LiveWorld) -> None:
    began = utc_now()
    world.devices.switches["s1"].forget()
    wait_until(lambda: world.devices.switches["s1"].ports["p1"] == SHUT)
    assert (utc_now() - began).total_seconds() < SETTINGS.check.total_seconds() / 2


def test_dead_devices_hold_nobody_up(world: LiveWorld) -> None:
    world.devices.switches["s2"].faults.add(switch.Fault.UNREACHABLE)
    world.devices.bmcs["n2"].faults.add(bmc.Fault.UNREACHABLE)
    operation = world.attach("n1", "wine")
    wait_until(lambda: world.how(operation) is OperationState.DONE)


def test_a_bug_in_one_devices_handling_is_its_own(world: LiveWorld) -> None:
    def stumble(_call: object) -> None:
        raise ZeroDivisionError

    world.devices.switches["s2"].before = stumble
    world.devices.bmcs["n2"].before = stumble
    operations = [world.attach("n1", "wine"), world.power("n1", Verb.POWER_ON)]
    wait_until(lambda: all(world.how(one) is OperationState.DONE for one in operations))


def test_a_console_is_kept_and_typed_at(world: LiveWorld) -> None:
    device = world.devices.bmcs["n1"]
    device.be(Power.ON)
    with world.database.writing() as tx:
        consoles.open_console(tx, PROVIDER, node="n1")
    wait_until(lambda: device._console is not None)
    device.say(b"login: ")

    def said() -> bytes:
        with world.database.reading() as connection:
            return consoles.read_console(connection, PROVIDER, node="n1", offset=0, most=100).said

    wait_until(lambda: said() == b"login: ")
    with world.database.writing() as tx:
        consoles.write_console(tx, PROVIDER, node="n1", keys=b"root\n")
    wait_until(lambda: device.typed == b"root\n")
    with world.database.writing() as tx:
        consoles.close_console(tx, PROVIDER, node="n1")
    wait_until(lambda: device._console is None)


def test_an_operation_ends_in_time(world: LiveWorld) -> None:
    world.devices.bmcs["n1"].faults.add(bmc.Fault.DEAF)
    operation = world.power("n1", Verb.POWER_ON, timedelta(seconds=1))
    wait_until(lambda: world.how(operation) is OperationState.FAILED)


def test_a_cut_is_read_back_within_a_tenth_of_a_second(world: LiveWorld) -> None:
    """With switches that answer at once; the bound here leaves room for a busy computer."""
    operation = world.attach("n1", "wine")
    wait_until(lambda: world.how(operation) is OperationState.DONE)
    device = world.devices.switches["s1"]
    cut = threading.Event()

    def look(call: switch.Call) -> None:
        if call.verb == "read" and device.ports["p1"] == SHUT:
            cut.set()

    device.after = look
    world.quarantine("n1")
    began = time.monotonic()
    assert cut.wait(LIMIT_SECONDS)
    assert time.monotonic() - began < 1
