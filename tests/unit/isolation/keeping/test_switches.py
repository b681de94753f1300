"""Keeping switches: what is wanted comes true, is read back, and stays true; what fails holds nobody else up."""

from datetime import timedelta

from steelyard.isolation.keeping.switches import SwitchKeeper
from steelyard.isolation.life import NodeState
from steelyard.isolation.objects import OperationState, Verb
from steelyard.isolation.ports import Missing, Other
from steelyard.model.network import SHUT, PortVlans, Vlan
from tests.fakes.switch import Call, Fault
from tests.unit.isolation.keeping.rig import SETTINGS, World
from tests.unit.isolation.things import WEIGHED
from tests.unit.isolation.verdicts import claims, sign

WINE, SHERRY = PortVlans(Vlan(100)), PortVlans(Vlan(101))


def test_an_attachment_is_done_when_the_port_was_read_to_carry_it(world: World) -> None:
    operation = world.attach("n1", "wine")
    assert world.how(operation) is OperationState.PENDING
    world.process.keep("s1")
    assert world.devices.switches["s1"].ports["p1"] == WINE
    assert world.how(operation) is OperationState.DONE
    assert world.attachments("n1")[0].applied_at is not None


def test_an_attachment_stays_written_down_until_the_port_was_read_to_be_without_it(world: World) -> None:
    switch = world.devices.switches["s1"]
    world.attach("n1", "wine")
    world.process.keep("s1")
    operation = world.detach("n1", "wine")
    switch.next_faults.extend([None, Fault.UNREACHABLE])
    world.process.keep("s1")
    assert switch.ports["p1"] == SHUT
    assert not world.attachments("n1")[0].wanted
    assert world.how(operation) is OperationState.PENDING
    world.clock.advance(1)
    world.process.keep("s1")
    assert not world.attachments("n1")
    assert world.how(operation) is OperationState.DONE


def test_a_port_in_doubt_is_read_before_anything_is_written(world: World) -> None:
    switch = world.devices.switches["s1"]
    world.process.keep("s1")
    switch.calls.clear()
    operation = world.attach("n1", "wine")
    switch.next_faults.append(Fault.LOST_AFTER)
    world.process.keep("s1")
    assert world.port("s1", "p1")["carries"] is None
    assert world.how(operation) is OperationState.PENDING
    world.clock.advance(1)
    world.process.keep("s1")
    assert [call.verb for call in switch.calls] == ["write", "read", "write", "read"]
    assert world.how(operation) is OperationState.DONE


def test_a_write_from_before_that_may_still_come_is_not_taken_for_read_back(world: World) -> None:
    """The new holder of a lease believes what it reads only when the switch has taken a write of its own."""
    slow, quick = world.process, world.another()
    switch = world.devices.switches["s1"]
    world.attach("n1", "wine")

    def overtake(call: Call) -> None:
        if call.verb == "write":
            switch.before = lambda _: None
            world.clock.advance(SETTINGS.switch.lease.total_seconds())
            world.detach("n1", "wine")
            quick.keep("s1")
            assert not world.attachments("n1")

    switch.before = overtake
    slow.keep("s1")
    assert switch.history["p1"][-1] == SHUT
    assert WINE not in switch.history["p1"]


def test_a_process_that_lost_its_lease_does_not_write_down_what_it_read(world: World) -> None:
    slow, quick = world.process, world.another()
    switch = world.devices.switches["s1"]
    slow.keep("s1")
    operation = world.attach("n1", "wine")

    def overtake(call: Call) -> None:
        if call.verb == "read":
            switch.after = lambda _: None
            world.clock.advance(SETTINGS.switch.lease.total_seconds())
            switch.next_faults.append(Fault.UNREACHABLE)
            quick.keep("s1")

    switch.after = overtake
    slow.switch("s1").pass_once()
    slow.switch("s1").pass_once()
    assert world.how(operation) is OperationState.PENDING


def test_a_switch_is_one_process_at_a_time(world: World) -> None:
    world.process.keep("s1")
    world.attach("n1", "wine")
    assert world.another().keep("s1") == SETTINGS.take_over.total_seconds()
    assert world.devices.switches["s1"].ports["p1"] == SHUT
    world.process.switch("s1").close()
    world.another().keep("s1")
    assert world.devices.switches["s1"].ports["p1"] == WINE


def test_a_cut_goes_before_every_queue_and_alone(world: World) -> None:
    for name in ("n1", "n2"):
        world.attach(name, "wine")
    world.process.keep("s1")
    for name in ("n1", "n2"):
        world.attach(name, "sherry", tagged=True)
    operation = world.quarantine("n2")
    switch = world.devices.switches["s1"]
    switch.calls.clear()
    world.clock.advance(SETTINGS.check.total_seconds())
    world.process.switch("s1").pass_once()
    assert [call.ports for call in switch.calls] == [frozenset({"p2"})] * 2
    assert world.how(operation) is OperationState.DONE
    assert world.port("s1", "p1")["applied"] != world.port("s1", "p1")["wanted"]


def test_a_second_cut_while_the_first_is_written_stays_urgent(world: World) -> None:
    world.attach("n1", "wine")
    world.process.keep("s1")
    world.quarantine("n1")
    switch = world.devices.switches["s1"]

    def again(call: Call) -> None:
        if call.verb == "write":
            switch.after = lambda _: None
            world.quarantine("n1")

    switch.after = again
    world.process.switch("s1").pass_once()
    assert world.port("s1", "p1")["urgent"] is True
    world.process.keep("s1")
    assert world.port("s1", "p1")["urgent"] is False


def test_a_change_while_the_port_is_written_is_made_too(world: World) -> None:
    operation = world.attach("n1", "wine")
    switch = world.devices.switches["s1"]
    later = []

    def change(call: Call) -> None:
        if call.verb == "write":
            switch.after = lambda _: None
            later.append(world.detach("n1", "wine"))
            later.append(world.attach("n1", "sherry"))

    switch.after = change
    world.process.keep("s1")
    assert switch.ports["p1"] == SHERRY
    assert world.how(operation) is OperationState.CANCELLED
    assert [world.how(one) for one in later] == [OperationState.DONE, OperationState.DONE]
    assert [row.network for row in world.attachments("n1")] == ["sherry"]


def test_many_ports_are_one_write(world: World) -> None:
    world.process.keep("s1")
    switch = world.devices.switches["s1"]
    switch.calls.clear()
    world.attach("n1", "wine")
    world.attach("n2", "sherry")
    world.process.keep("s1")
    both = frozenset({"p1", "p2"})
    assert [(call.verb, call.ports) for call in switch.calls] == [("write", both), ("read", both)]


def test_a_dead_switch_delays_nobody_else(empty: World) -> None:
    """Fault 3: a time-out at one switch killed the worker of all."""
    empty.network("wine", "red", 100)
    empty.node("n1", ("s1", "p1"))
    empty.node("n2", ("s2", "p1"))
    empty.free("n1", "n2")
    for name in ("n1", "n2"):
        empty.allocate(name, "red")
    dead, live = empty.attach("n1", "wine"), empty.attach("n2", "wine")
    empty.devices.switches["s1"].faults.add(Fault.UNREACHABLE)
    for _ in range(5):
        assert empty.process.keep("s1")
        empty.clock.advance(1)
    empty.process.keep("s2")
    assert empty.how(live) is OperationState.DONE
    assert empty.how(dead) is OperationState.PENDING
    assert [subject for subject, _ in empty.journal("switch.trouble")] == ["switch/s1"]
    empty.devices.switches["s1"].faults.clear()
    empty.process.keep("s1")
    assert empty.how(dead) is OperationState.DONE
    assert [subject for subject, _ in empty.journal("switch.answers")] == ["switch/s1"]


def test_waits_after_failures_grow_to_a_limit(world: World) -> None:
    world.devices.switches["s1"].faults.add(Fault.UNREACHABLE)
    world.attach("n1", "wine")
    waits = [world.process.switch("s1").pass_once() for _ in range(10)]
    assert waits == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 15, 15, 15]


def test_a_fault_in_a_driver_is_that_switchs_own(world: World) -> None:
    def stumble(_call: Call) -> None:
        raise KeyError("a bug")

    operation = world.attach("n1", "wine")
    world.devices.switches["s1"].before = stumble
    assert world.process.switch("s1").pass_once() == SETTINGS.patience.least
    assert "a fault of this service: KeyError" in [detail["trouble"] for _, detail in world.journal("switch.trouble")]
    world.devices.switches["s1"].before = lambda _: None
    world.clock.advance(1)
    world.process.keep("s1")
    assert world.how(operation) is OperationState.DONE


def test_a_port_that_the_switch_does_not_have_holds_up_no_other(world: World) -> None:
    """Fault 2: an action that could not be done stayed at the head of the queue for ever."""
    switch = world.devices.switches["s1"]
    world.process.keep("s1")
    switch.set_port("p1", Missing())
    gone, there = world.attach("n1", "wine"), world.attach("n2", "wine")
    world.process.keep("s1")
    assert world.how(there) is OperationState.DONE
    assert world.how(gone) is OperationState.PENDING
    assert "no such port" in str(world.port("s1", "p1")["trouble"])
    switch.set_port("p1", SHUT)
    world.clock.advance(SETTINGS.check.total_seconds())
    world.process.keep("s1")
    assert world.how(gone) is OperationState.DONE


def test_a_port_that_the_switch_refuses_is_tried_by_itself_and_less_and_less(world: World) -> None:
    switch = world.devices.switches["s1"]
    world.process.keep("s1")
    refused, good = world.attach("n1", "wine"), world.attach("n2", "wine")

    def refuse(call: Call) -> None:
        if "p1" in call.wanted:
            switch.next_faults.append(Fault.REFUSING)

    switch.before = refuse
    wait = world.process.keep("s1")
    assert world.how(good) is OperationState.DONE
    assert wait == SETTINGS.patience.least
    for _ in range(6):
        world.clock.advance((wait or 0) + 0.001)
        wait = world.process.keep("s1")
    assert wait is not None
    assert wait > 10
    switch.before = lambda _: None
    world.clock.advance(SETTINGS.patience.most)
    world.process.keep("s1")
    assert world.how(refused) is OperationState.DONE


def test_drift_is_told_and_mended(world: World) -> None:
    """Fault 4: nothing read the switch back."""
    world.attach("n1", "wine")
    world.process.keep("s1")
    switch = world.devices.switches["s1"]
    switch.set_port("p1", Other("a mirror"))
    world.clock.advance(SETTINGS.check.total_seconds())
    world.process.keep("s1")
    assert switch.ports["p1"] == WINE
    assert world.journal("port.drift") == [
        ("port/s1/p1", {"expected": "100 untagged", "found": "a mirror", "node": "n1"})
    ]


def test_a_switch_that_forgot_all_is_put_right_at_once_when_it_says_so(world: World) -> None:
    """Fault 5: after a power cut a switch came back with all VLANs on its ports."""
    world.attach("n1", "wine")
    world.process.keep("s1")
    switch = world.devices.switches["s1"]
    switch.forget()
    world.process.switch("s1").expect_change()
    world.process.keep("s1")
    assert (switch.ports["p1"], switch.ports["p2"]) == (WINE, SHUT)


def test_a_free_node_whose_port_was_found_open_is_released_anew(world: World) -> None:
    world.release("n2")
    for _ in range(3):
        world.process.do_all()
    assert world.state("n2") is NodeState.FREE
    world.devices.switches["s1"].set_port("p2", WINE)
    world.clock.advance(SETTINGS.check.total_seconds())
    world.process.switch("s1").pass_once()
    assert world.state("n2") is NodeState.RELEASING
    for _ in range(3):
        world.process.do_all()
    assert world.state("n2") is NodeState.FREE
    assert world.devices.switches["s1"].ports["p2"] == SHUT


def test_an_attachment_that_waited_longer_than_its_verdict_is_good_for_is_dropped(world: World) -> None:
    world.network("weighed", "red", 104, admission=WEIGHED)
    world.clock.advance(60)
    operation = world.attach("n1", "weighed", verdict=sign(claims("n1", world.clock.now)))
    world.devices.switches["s1"].faults.add(Fault.UNREACHABLE)
    world.process.keep("s1")
    world.devices.switches["s1"].faults.clear()
    world.clock.advance(WEIGHED.most_age.total_seconds() + 1)
    world.process.keep("s1")
    assert world.devices.switches["s1"].history["p1"] == [SHUT]
    assert not world.attachments("n1")
    ended = world.operation(operation)
    assert ended.state is OperationState.FAILED
    assert ended.failure is not None
    assert ended.failure["code"] == "not-admitted"


def test_an_attachment_that_came_true_outlives_its_verdict(world: World) -> None:
    world.network("weighed", "red", 104, admission=WEIGHED)
    world.clock.advance(60)
    world.attach("n1", "weighed", verdict=sign(claims("n1", world.clock.now)))
    world.process.keep("s1")
    world.clock.advance(WEIGHED.most_age.total_seconds() + 1)
    world.devices.switches["s1"].forget()
    world.process.keep("s1")
    assert world.devices.switches["s1"].ports["p1"] == PortVlans(Vlan(104))


def test_an_operation_whose_time_is_up_fails_and_says_what_it_waited_for(world: World) -> None:
    world.devices.switches["s1"].faults.add(Fault.UNREACHABLE)
    operation = world.attach("n1", "wine")
    world.clock.advance(timedelta(minutes=6).total_seconds())
    world.end_overdue()
    ended = world.operation(operation)
    assert ended.state is OperationState.FAILED
    assert ended.failure is not None
    assert (ended.failure["code"], ended.failure["found"]) == ("out-of-time", "waiting for port s1/p1")
    world.devices.switches["s1"].faults.clear()
    world.process.keep("s1")
    assert world.devices.switches["s1"].ports["p1"] == WINE


def test_a_switch_that_is_registered_no_more_is_kept_no_more(empty: World) -> None:
    keeper: SwitchKeeper = empty.process.switch("s3")
    assert keeper.pass_once() is None


def test_a_switch_is_reached_anew_when_its_registration_changed(world: World) -> None:
    world.process.keep("s1")
    other = world.devices.switches.devices["s1"]
    world.switch("s1", ["p1", "p2"], password=b"another")
    assert world.devices.switches["s1"] is not other
    world.attach("n1", "wine")
    world.process.keep("s1")
    assert world.devices.switches["s1"].ports["p1"] == WINE


def test_power_is_not_the_switchs_to_end(world: World) -> None:
    operation = world.power("n1", Verb.POWER_ON)
    world.attach("n1", "wine")
    world.process.keep("s1")
    assert world.how(operation) is OperationState.PENDING
