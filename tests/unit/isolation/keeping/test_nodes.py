"""Working at nodes: only what was read back counts, and a node is free when everything is certain."""

from datetime import timedelta

import pytest
from sqlalchemy import insert, update

from steelyard.isolation import operations, tables
from steelyard.isolation.life import NodeState
from steelyard.isolation.objects import OperationState, ReleaseStep, Verb
from steelyard.isolation.ports import BootDevice, Power
from steelyard.model.network import SHUT
from tests.fakes import bmc, switch
from tests.unit.isolation.keeping.rig import LIMIT, SETTINGS, World
from tests.unit.isolation.rig import PROVIDER
from tests.unit.isolation.things import WEIGHED


def rest(world: World, name: str = "n1", seconds: float = 11, turns: int = 4) -> None:
    """Have all done that is due, and a little later again."""
    for _ in range(turns):
        world.process.do_all()
        world.process.work(name)
        world.clock.advance(seconds)


@pytest.mark.parametrize(
    ("verb", "before", "after", "asked"),
    [
        (Verb.POWER_ON, Power.OFF, Power.ON, ["set_power", "read_power"]),
        (Verb.POWER_OFF, Power.ON, Power.OFF, ["set_power", "read_power"]),
        (Verb.POWER_SOFT, Power.ON, Power.OFF, ["shut_down", "read_power"]),
        (Verb.POWER_CYCLE, Power.ON, Power.ON, ["set_power", "read_power"] * 2),
        (Verb.POWER_READ, Power.ON, Power.ON, ["read_power"]),
    ],
)
def test_a_power_verb_is_done_when_it_was_read_back(
    world: World, verb: Verb, before: Power, after: Power, asked: list[str]
) -> None:
    device = world.devices.bmcs["n1"]
    device.be(before)
    device.calls.clear()
    operation = world.power("n1", verb)
    world.process.work("n1")
    assert world.how(operation) is OperationState.DONE
    assert device.power is world.node_now("n1").power is after
    assert device.calls == asked


def test_a_bmc_that_says_yes_and_does_nothing_is_not_believed(world: World) -> None:
    world.devices.bmcs["n1"].faults.add(bmc.Fault.DEAF)
    operation = world.power("n1", Verb.POWER_ON)
    assert world.process.work("n1") == SETTINGS.confirm.total_seconds()
    assert world.operation(operation).progress == "waiting until it is on"
    world.devices.bmcs["n1"].faults.clear()
    world.process.work("n1")
    assert world.how(operation) is OperationState.RUNNING
    world.clock.advance(SETTINGS.repeat.total_seconds())
    world.process.work("n1")
    assert world.how(operation) is OperationState.DONE


def test_a_command_is_given_although_the_bmc_says_that_it_is_so_already(world: World) -> None:
    device = world.devices.bmcs["n1"]
    device.be(Power.ON)
    device.faults.add(bmc.Fault.LYING)
    operation = world.power("n1", Verb.POWER_OFF)
    world.process.work("n1")
    assert device.power is Power.OFF
    assert world.how(operation) is OperationState.RUNNING


@pytest.mark.parametrize("fault", [bmc.Fault.UNREACHABLE, bmc.Fault.LOST_BEFORE, bmc.Fault.GARBLED])
def test_what_fails_is_tried_again_until_its_time_is_up(world: World, fault: bmc.Fault) -> None:
    world.devices.bmcs["n1"].faults.add(fault)
    operation = world.power("n1", Verb.POWER_ON)
    waits = [world.process.nodes.work("n1") for _ in range(8)]
    assert waits == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 15]
    assert world.node_now("n1").trouble is not None
    world.clock.advance(LIMIT.total_seconds())
    world.end_overdue()
    assert world.how(operation) is OperationState.FAILED
    assert world.process.nodes.work("n1") is None


def test_what_is_refused_fails_at_once(world: World) -> None:
    world.devices.bmcs["n1"].next_faults.append(bmc.Fault.REFUSING)
    operation = world.power("n1", Verb.POWER_ON)
    world.process.work("n1")
    assert world.how(operation) is OperationState.FAILED


def test_a_refusal_to_switch_off_what_is_off_is_no_failure(world: World) -> None:
    world.devices.bmcs["n1"].next_faults.append(bmc.Fault.REFUSING)
    operation = world.power("n1", Verb.POWER_OFF)
    world.process.work("n1")
    assert world.how(operation) is OperationState.DONE


def test_the_button_is_pressed_once(world: World) -> None:
    device = world.devices.bmcs["n1"]
    device.be(Power.ON)
    device.obeys_button = False
    operation = world.power("n1", Verb.POWER_SOFT)
    for _ in range(4):
        world.process.work("n1")
        world.clock.advance(SETTINGS.repeat.total_seconds())
    assert device.calls.count("shut_down") == 1
    device.be(Power.OFF)
    world.process.work("n1")
    assert world.how(operation) is OperationState.DONE


def test_a_cycle_that_was_broken_off_goes_on_where_it_was(world: World) -> None:
    device = world.devices.bmcs["n1"]
    device.be(Power.ON)
    operation = world.power("n1", Verb.POWER_CYCLE)
    assert world.process.nodes.work("n1") == 0
    assert device.power is Power.OFF
    world.another().work("n1")
    assert world.how(operation) is OperationState.DONE
    assert device.history[-2:] == [Power.OFF, Power.ON]
    assert device.calls.count("set_power") == 2 + 1  # that of the release to free included


def test_work_at_a_node_is_done_in_order(world: World) -> None:
    device = world.devices.bmcs["n1"]
    asked = [world.power("n1", Verb.POWER_ON)]
    world.clock.advance(0.01)
    with world.database.writing() as tx:
        asked.append(
            operations.set_boot_device(tx, PROVIDER, node="n1", device=BootDevice.NETWORK, once=True, limit=LIMIT)
        )
    world.clock.advance(0.01)
    asked.append(world.power("n1", Verb.POWER_CYCLE))
    device.calls.clear()
    world.process.work("n1")
    assert [world.how(one) for one in asked] == [OperationState.DONE] * 3
    assert device.calls == ["set_power", "read_power", "set_boot_device", *["set_power", "read_power"] * 2]
    assert device.starts[-1] is BootDevice.NETWORK


def test_a_node_is_worked_at_by_one_process_at_a_time(world: World) -> None:
    device, other = world.devices.bmcs["n1"], world.another()
    waits: list[float | None] = []
    device.before = lambda _verb: waits.append(other.nodes.work("n1"))
    world.power("n1", Verb.POWER_ON)
    world.process.work("n1")
    assert waits == [SETTINGS.take_over.total_seconds()] * 2


def test_a_call_is_not_begun_that_may_outlast_the_lease(world: World) -> None:
    """Another process would talk to the same BMC while it lasts."""
    device = world.devices.bmcs["n1"]
    operation = world.power("n1", Verb.POWER_ON)
    other = world.another()

    def late(verb: str) -> None:
        if verb == "set_power":
            device.before = lambda _: None
            world.clock.advance(SETTINGS.bmc.lease.total_seconds() + 1)
            other.nodes.work("n1")

    device.before = late
    device.calls.clear()
    assert world.process.nodes.work("n1") == SETTINGS.take_over.total_seconds()
    assert device.calls == ["set_power", "set_power", "read_power"]
    assert world.how(operation) is OperationState.DONE


def test_a_node_on_a_network_that_demands_a_verdict_is_not_started(world: World) -> None:
    """It was asked for before; it would come up there unweighed."""
    world.network("weighed", "red", 104, admission=WEIGHED)
    world.clock.advance(60)
    operation = world.power("n1", Verb.POWER_CYCLE)
    with world.database.writing() as tx:
        row = {"node": "n1", "nic": "nic0", "network": "weighed", "tagged": False, "wanted": True, "since": tx.now}
        tx.connection.execute(insert(tables.attachments).values(row))
    world.devices.bmcs["n1"].calls.clear()
    world.process.work("n1")
    assert world.how(operation) is OperationState.FAILED
    assert world.devices.bmcs["n1"].calls == []


def test_what_was_asked_of_a_node_is_not_done_to_the_next_ones(world: World) -> None:
    operation = world.power("n1", Verb.POWER_ON)
    world.clock.advance(1)
    with world.database.writing() as tx:
        tx.connection.exec_driver_sql(
            "UPDATE nodes SET project = 'blue', since = '2026-11-24 12:00:01' WHERE name = 'n1'"
        )
    world.devices.bmcs["n1"].calls.clear()
    world.process.work("n1")
    assert world.how(operation) is OperationState.FAILED
    assert world.devices.bmcs["n1"].calls == []


# -- release -----------------------------------------------------------------------------------------------------------


def test_a_node_is_off_before_its_ports_are_shut(world: World) -> None:
    """Fault 8: the root disk over the network was cut off under a running node."""
    device = world.devices.bmcs["n1"]
    world.attach("n1", "wine")
    world.process.keep("s1")
    device.be(Power.ON)
    seen: list[Power] = []
    world.devices.switches["s1"].before = lambda call: seen.append(device.power) if "p1" in call.wanted else None
    operation = world.release("n1")
    world.process.keep("s1")
    assert world.devices.switches["s1"].ports["p1"] != SHUT
    rest(world)
    assert world.state("n1") is NodeState.FREE
    assert world.node_now("n1").project is None
    assert world.how(operation) is OperationState.DONE
    assert set(seen) == {Power.OFF}


def test_every_port_is_written_and_read_for_a_release_shut_or_not(world: World) -> None:
    world.process.keep("s1")
    calls = world.devices.switches["s1"].calls
    calls.clear()
    world.release("n1")
    rest(world, seconds=1)
    its = frozenset({"p1"})
    assert [(call.verb, call.ports) for call in calls[:2]] == [("write", its), ("read", its)]


@pytest.mark.parametrize(
    ("fault", "waits"),
    [
        (bmc.Fault.DEAF, "waiting until it is off: it is still on, since 2026-11-24 12:00:00+00:00"),
        (bmc.Fault.UNREACHABLE, "waiting until it is off: set_power of n1"),
        (bmc.Fault.LOST_BEFORE, "waiting until it is off: set_power of n1"),
    ],
)
def test_a_node_that_cannot_be_switched_off_is_not_let_go(world: World, fault: bmc.Fault, waits: str) -> None:
    device = world.devices.bmcs["n1"]
    world.attach("n1", "wine")
    world.process.keep("s1")
    device.be(Power.ON)
    device.faults.add(fault)
    operation = world.release("n1")
    rest(world, seconds=60, turns=7)
    world.end_overdue()
    node = world.node_now("n1")
    assert (node.state, node.project) == (NodeState.RELEASING, "red")
    assert node.why.startswith(waits)
    assert world.devices.switches["s1"].ports["p1"] != SHUT
    assert world.how(operation) is OperationState.FAILED
    device.faults.clear()
    again = world.release("n1")
    rest(world)
    assert world.state("n1") is NodeState.FREE
    assert world.how(again) is OperationState.DONE


def test_a_node_whose_port_cannot_be_read_is_not_let_go(world: World) -> None:
    world.attach("n1", "wine")
    world.process.keep("s1")
    world.devices.switches["s1"].faults.add(switch.Fault.LOST_AFTER)
    world.release("n1")
    rest(world)
    assert world.state("n1") is NodeState.RELEASING
    assert world.attachments("n1")
    assert world.node_now("n1").why.startswith("waiting until its ports are shut, since ")
    world.devices.switches["s1"].faults.clear()
    rest(world)
    assert world.state("n1") is NodeState.FREE
    assert not world.attachments("n1")


def test_a_node_that_is_held_is_not_let_go(world: World) -> None:
    with world.database.writing() as tx:
        operations.place_hold(tx, PROVIDER, node="n1", name="disk", why="exported")
    world.release("n1")
    rest(world)
    assert world.state("n1") is NodeState.RELEASING
    assert world.node_now("n1").why.startswith("waiting until it is let go by disk, since ")
    with world.database.writing() as tx:
        operations.lift_hold(tx, PROVIDER, node="n1", name="disk")
    rest(world)
    assert world.state("n1") is NodeState.FREE


def test_a_node_that_was_switched_on_during_its_release_is_switched_off_again(world: World) -> None:
    device = world.devices.bmcs["n1"]
    world.release("n1")
    world.process.work("n1")
    device.be(Power.ON)
    rest(world)
    assert world.state("n1") is NodeState.FREE
    assert device.power is Power.OFF
    assert device.history[-3:] == [Power.OFF, Power.ON, Power.OFF]


def test_a_port_that_drifts_during_a_release_is_shut_again_first(world: World) -> None:
    with world.database.writing() as tx:
        operations.place_hold(tx, PROVIDER, node="n1", name="disk", why="exported")
    world.release("n1")
    rest(world)
    world.devices.switches["s1"].forget()
    world.process.switch("s1").expect_change()
    world.process.switch("s1").pass_once()
    with world.database.writing() as tx:
        operations.lift_hold(tx, PROVIDER, node="n1", name="disk")
    assert world.process.work("n1") is None
    assert world.state("n1") is NodeState.RELEASING
    rest(world)
    assert world.state("n1") is NodeState.FREE


def test_what_is_waived_is_not_waited_for_and_the_node_is_not_free(world: World) -> None:
    world.attach("n1", "wine")
    world.process.keep("s1")
    world.devices.bmcs["n1"].faults.add(bmc.Fault.UNREACHABLE)
    world.devices.switches["s1"].faults.add(switch.Fault.UNREACHABLE)
    operation = world.release("n1", NodeState.MAINTENANCE, [ReleaseStep.POWER, ReleaseStep.PORTS])
    world.process.work("n1")
    assert world.state("n1") is NodeState.MAINTENANCE
    assert world.how(operation) is OperationState.DONE
    assert world.node_now("n1").why == "released with ports, power unconfirmed"
    # The VLAN stays taken until the port was read to be without it.
    assert [row.wanted for row in world.attachments("n1")] == [False]
    world.devices.switches["s1"].faults.clear()
    world.clock.advance(20)
    world.process.keep("s1")
    assert not world.attachments("n1")


def test_a_node_with_something_unconfirmed_is_never_free(world: World) -> None:
    world.release("n1", NodeState.MAINTENANCE, [ReleaseStep.POWER])
    with world.database.writing() as tx:
        tx.connection.execute(update(tables.nodes).values(release_to="free"))
    rest(world)
    assert world.state("n1") is NodeState.MAINTENANCE


# -- free nodes --------------------------------------------------------------------------------------------------------


def test_a_free_node_that_was_switched_on_is_released_anew(empty: World) -> None:
    device = empty.node("n1", ("s1", "p1"))
    empty.free("n1")
    device.be(Power.ON)
    empty.process.do_all()
    assert empty.state("n1") is NodeState.FREE
    empty.clock.advance(SETTINGS.look.total_seconds() + 1)
    empty.process.do_all()
    assert empty.state("n1") is NodeState.RELEASING
    rest(empty)
    assert empty.state("n1") is NodeState.FREE
    assert device.power is Power.OFF


def test_a_free_node_whose_bmc_fails_is_in_trouble_and_looked_at_oftener(empty: World) -> None:
    device = empty.node("n1", ("s1", "p1"))
    empty.free("n1")
    empty.clock.advance(SETTINGS.look.total_seconds() + 1)
    device.faults.add(bmc.Fault.UNREACHABLE)
    empty.process.do_all()
    assert "its BMC" in (empty.node_now("n1").trouble or "")
    device.faults.clear()
    empty.clock.advance(SETTINGS.look.total_seconds() / 10 + 1)
    empty.process.do_all()
    assert empty.node_now("n1").trouble is None


def test_a_node_that_merely_waits_is_no_work(world: World) -> None:
    world.devices.switches["s1"].faults.add(switch.Fault.UNREACHABLE)
    world.release("n1", limit=timedelta(hours=1))
    world.process.do_all()
    calls = len(world.devices.bmcs["n1"].calls)
    for _ in range(5):
        world.clock.advance(20)
        world.process.do_all()
    assert len(world.devices.bmcs["n1"].calls) == calls
