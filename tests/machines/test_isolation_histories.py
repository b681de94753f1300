"""Random histories of a rack: tenants and strangers, failing devices, two processes killed and stalled at any point.

Safety is checked against the devices after every step, at every kill, and after what follows it; when all faults have
ended, everything comes to what is wanted, and every operation to its end.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from steelyard.isolation import networks, operations, rules
from steelyard.isolation.life import NodeState
from steelyard.isolation.objects import Members, OpenAdmission, Private, Public, ReleaseStep, SharedWith, Verb
from steelyard.isolation.ports import BootDevice, Other
from steelyard.isolation.rules import POWER_VERBS
from steelyard.model.errors import SteelyardError
from steelyard.model.network import SHUT, PortVlans, Vlan
from steelyard.service.authority import Caller, Office
from steelyard.service.database import Transaction
from tests.fakes import bmc, switch
from tests.machines.histories import NETWORKS, NODES, PORTS, Killed, Rack, a_rack
from tests.unit.isolation.rig import AUDITOR, BLUE, POOL, PROVIDER, RED, STRANGER
from tests.unit.isolation.verdicts import claims, sign

WHO = st.sampled_from([*["holder"] * 6, "provider", "provider", "other", "auditor", "stranger"])
PROJECT = st.sampled_from(["red", "blue"])
NODE = st.sampled_from(list(NODES))
NETWORK = st.sampled_from(NETWORKS)
VERBS = st.sampled_from(sorted(POWER_VERBS, key=str))
NIC = st.sampled_from(["nic0", "nic0", "nic1"])
SWITCH = st.sampled_from(list(PORTS))
PORT = st.sampled_from([(name, port) for name, ports in PORTS.items() for port in ports])
PROCESS = st.integers(0, 1)
LONG = timedelta(minutes=20)
LIMIT = st.sampled_from([timedelta(seconds=5), LONG, LONG])
EVENTS = st.integers(0, 9)
OTHERS: dict[str, Callable[[Transaction, Caller, str], object]] = {
    "boot": lambda tx, caller, node: operations.set_boot_device(
        tx, caller, node=node, device=BootDevice.NETWORK, once=True, limit=LONG
    ),
    "hold": lambda tx, caller, node: operations.hold_node(tx, caller, node=node, why="to be looked at"),
    "lift": lambda tx, caller, node: operations.lift_hold(tx, caller, node=node, name="disk"),
    "place": lambda tx, caller, node: operations.place_hold(tx, caller, node=node, name="disk", why="exported"),
    "reject": lambda tx, caller, node: operations.reject_node(tx, caller, node=node, why="to be repaired"),
}


Step = tuple[str, dict[str, Any]]


def _steps(weight: int, step: str, /, **arguments: st.SearchStrategy[Any]) -> list[st.SearchStrategy[Step]]:
    """Return what draws such a step, as often as its weight says."""
    return [st.tuples(st.just(step), st.fixed_dictionaries(arguments))] * weight


def _any_of(*kinds: list[st.SearchStrategy[Step]]) -> st.SearchStrategy[Step]:
    return st.one_of([strategy for kind in kinds for strategy in kind])


KEEPERS = _any_of(
    _steps(2, "keep", process=PROCESS, name=SWITCH),
    _steps(1, "work", process=PROCESS, name=NODE),
    _steps(4, "do_all", process=PROCESS, seconds=st.sampled_from([0, 0.5, 11])),
    _steps(1, "time_passes", seconds=st.sampled_from([0.5, 3, 21, 61, 610])),
)
TENANTS = _any_of(
    _steps(1, "allocate", who=WHO, project=PROJECT, name=NODE),
    _steps(
        4,
        "attach",
        who=WHO,
        name=NODE,
        nic=NIC,
        network=st.sampled_from(NETWORKS),
        tagged=st.sampled_from([False, False, True]),
        weighed=st.sampled_from([0, 0, 30, 590, None]),
        limit=LIMIT,
    ),
    _steps(3, "attach_all", network=st.sampled_from(["airlock", "weighed", "extra", "shared"]), project=PROJECT),
    _steps(2, "detach", who=WHO, name=NODE, which=st.integers(0, 2), limit=LIMIT),
    _steps(2, "power", who=WHO, name=NODE, verb=st.sampled_from(sorted(POWER_VERBS, key=str)), limit=LIMIT),
    _steps(1, "quarantine", who=WHO, name=NODE, limit=LIMIT),
    _steps(
        2,
        "release",
        who=WHO,
        name=NODE,
        to=st.sampled_from([NodeState.FREE, NodeState.FREE, NodeState.FREE, *sorted(rules.IDLE, key=str)]),
        waives=st.sampled_from([(), (), (), (ReleaseStep.POWER,), (ReleaseStep.PORTS,), tuple(ReleaseStep)]),
        limit=LIMIT,
    ),
    _steps(1, "ask_otherwise", who=WHO, name=NODE, verb=st.sampled_from(sorted(OTHERS))),
    _steps(1, "cancel", who=WHO, which=st.integers(0, 3)),
    _steps(
        2,
        "put_network",
        who=WHO,
        owner=PROJECT,
        sharing=st.sampled_from([Private(), SharedWith(frozenset({"red", "blue"})), Public()]),
        name=st.sampled_from(["extra", "extra", "shared"]),
    ),
    _steps(1, "delete_network", who=WHO, owner=PROJECT),
)
TROUBLE = _any_of(
    _steps(
        1,
        "break_switch",
        name=SWITCH,
        fault=st.sampled_from([None, None, *switch.Fault]),
        lasts=st.booleans(),
        good=st.integers(0, 2),
    ),
    _steps(
        1,
        "break_bmc",
        name=NODE,
        fault=st.sampled_from([None, None, *bmc.Fault]),
        lasts=st.booleans(),
        good=st.integers(0, 2),
    ),
    _steps(1, "forget", name=SWITCH),
    _steps(
        1,
        "meddle",
        port=PORT,
        reading=st.sampled_from([Other("a mirror"), SHUT, PortVlans(Vlan(102)), PortVlans(Vlan(105))]),
    ),
    _steps(2, "kill_soon", count=EVENTS),
    _steps(2, "stall_soon", count=EVENTS, seconds=st.sampled_from([3, 19, 65])),
    _steps(
        2,
        "interfere_soon",
        count=EVENTS,
        name=NODE,
        what=st.sampled_from(["quarantine", "release", "detach", "attach", "cancel"]),
    ),
)


class Histories(RuleBasedStateMachine):
    """What may happen to a rack."""

    def __init__(self) -> None:
        super().__init__()
        self._context = a_rack()
        self.rack: Rack = self._context.__enter__()

    def teardown(self) -> None:
        try:
            self.rack.settle()
        finally:
            self._context.__exit__(None, None, None)

    @invariant()
    def nothing_is_unsafe(self) -> None:
        self.rack.check()

    @rule(what=KEEPERS)
    def keepers_go_on(self, what: Step) -> None:
        getattr(self, what[0])(**what[1])

    @rule(what=TENANTS)
    def somebody_asks(self, what: Step) -> None:
        getattr(self, what[0])(**what[1])

    @rule(what=TENANTS, then=KEEPERS)
    def somebody_asks_and_keepers_go_on(self, what: Step, then: Step) -> None:
        for name, arguments in (what, then):
            getattr(self, name)(**arguments)

    @rule(what=TROUBLE, ask=TENANTS, then=KEEPERS)
    def something_goes_wrong(self, what: Step, ask: Step, then: Step) -> None:
        for name, arguments in (what, ask, then):
            getattr(self, name)(**arguments)

    # -- the keepers --

    def keep(self, process: int, name: str) -> None:
        self._run(process, lambda: self.rack.processes[process].switch(name).pass_once())

    def work(self, process: int, name: str) -> None:
        self._run(process, lambda: self.rack.processes[process].nodes.work(name))

    def do_all(self, process: int, seconds: float) -> None:
        self.rack.clock.advance(seconds)
        self._run(process, self.rack.processes[process].do_all)

    def time_passes(self, seconds: float) -> None:
        self.rack.clock.advance(seconds)
        self._run(0, self.rack.end_overdue)

    # -- the tenants --

    def allocate(self, who: str, project: str, name: str) -> None:
        self._ask(
            None,
            self._caller(who, project),
            lambda tx, caller: operations.allocate(
                tx, caller, project=project, count=1, labels={}, allocation=f"for-{name}", names=[name]
            ),
        )

    def attach(
        self, who: str, name: str, nic: str, network: str, *, tagged: bool, weighed: int | None, limit: timedelta
    ) -> None:
        verdict = None
        if weighed is not None:
            verdict = sign(claims(name, self.rack.clock.now - timedelta(seconds=weighed)))
        self._ask(
            name,
            self._holder(who, name),
            lambda tx, caller: operations.attach(
                tx, caller, node=name, nic=nic, network=network, tagged=tagged, verdict=verdict, limit=limit
            ),
        )

    def attach_all(self, network: str, project: str) -> None:
        """Put every node of a project on a network, as far as that goes."""
        for name in NODES:
            if self.rack.node_now(name).project == project:
                self.attach("holder", name, "nic0", network, tagged=False, weighed=0, limit=LONG)

    def detach(self, who: str, name: str, which: int, limit: timedelta) -> None:
        rows = self.rack.attachments(name)
        nic, network = (rows[which % len(rows)].nic, rows[which % len(rows)].network) if rows else ("nic0", "public")
        self._ask(
            name,
            self._holder(who, name),
            lambda tx, caller: operations.detach(tx, caller, node=name, nic=nic, network=network, limit=limit),
        )

    def power(self, who: str, name: str, verb: Verb, limit: timedelta) -> None:
        self._ask(
            name,
            self._holder(who, name),
            lambda tx, caller: operations.power(tx, caller, node=name, verb=verb, limit=limit),
        )

    def quarantine(self, who: str, name: str, limit: timedelta) -> None:
        self._ask(
            name,
            self._holder(who, name),
            lambda tx, caller: operations.quarantine(tx, caller, node=name, why="it misbehaves", limit=limit),
        )

    def release(self, who: str, name: str, to: NodeState, waives: tuple[ReleaseStep, ...], limit: timedelta) -> None:
        self._ask(
            name,
            self._holder(who, name),
            lambda tx, caller: operations.release(
                tx, caller, node=name, to=to, why="enough", waives=frozenset(waives), limit=limit
            ),
        )

    def ask_otherwise(self, who: str, name: str, verb: str) -> None:
        """Boot device, holds, putting a node aside."""
        self._ask(name, self._holder(who, name), lambda tx, caller: OTHERS[verb](tx, caller, name))

    def cancel(self, who: str, which: int) -> None:
        live = self.rack.live_operations()
        if live:
            chosen, node = live[which % len(live)]
            self._ask(node, self._holder(who, node), lambda tx, caller: operations.cancel(tx, caller, operation=chosen))

    def put_network(self, who: str, owner: str, sharing: Private | SharedWith | Public, name: str) -> None:
        """Make a network, or share it with others, or no longer."""
        owner = "red" if name == "shared" else owner
        self._ask(
            None,
            self._caller(who, owner),
            lambda tx, caller: networks.put_network(
                tx,
                caller,
                POOL,
                name=name,
                owner=owner,
                sharing=sharing,
                vlan=None,
                members=Members.TOGETHER,
                admission=OpenAdmission(),
                expected_version=None,
            ),
        )

    def delete_network(self, who: str, owner: str) -> None:
        self._ask(
            None,
            self._caller(who, owner),
            lambda tx, caller: networks.delete_network(tx, caller, name="extra", expected_version=None),
        )

    # -- what goes wrong --

    def break_switch(self, name: str, fault: switch.Fault | None, *, lasts: bool, good: int) -> None:
        device = self.rack.devices.switches[name]
        device.faults.clear()
        if fault is not None and lasts:
            device.faults.add(fault)
        else:
            device.next_faults.extend([None] * good + [fault])

    def break_bmc(self, name: str, fault: bmc.Fault | None, *, lasts: bool, good: int) -> None:
        device = self.rack.devices.bmcs[name]
        device.faults.clear()
        if fault is bmc.Fault.LYING:
            self.rack.liars.add(name)
        if fault is not None and lasts:
            device.faults.add(fault)
        else:
            device.next_faults.extend([None] * good + [fault])

    def forget(self, name: str) -> None:
        self.rack.forget(name)

    def meddle(self, port: tuple[str, str], reading: Other | PortVlans) -> None:
        self.rack.set_port_by_hand(*port, reading)
        self.rack.start_by_hand(next(name for name, ports in NODES.items() if port in ports))

    def kill_soon(self, count: int) -> None:
        """Kill whoever is at work then."""

        def kill(_event: str) -> None:
            self.rack.check()
            raise Killed

        self.rack.arm(count, kill)

    def stall_soon(self, count: int, seconds: float) -> None:
        """Have a process stand still while the other goes on; at a BMC, which knows no fence, within a call's time."""

        def stall(event: str) -> None:
            if event == "before commit" or (seconds > 20 and any(f"of {node}" in event for node in NODES)):
                return
            self.rack.clock.advance(seconds)
            for process in self.rack.processes:
                if process is not self.rack.at_work:
                    process.do_all()

        self.rack.arm(count, stall)

    def interfere_soon(self, count: int, name: str, what: str) -> None:
        """Have somebody change what is wanted while it is being made true."""

        def interfere(event: str) -> None:
            match what:
                case _ if event == "before commit":
                    pass
                case "quarantine":
                    self.quarantine("provider", name, LONG)
                case "release":
                    self.release("provider", name, NodeState.FREE, (), LONG)
                case "cancel":
                    self.cancel("provider", 0)
                case "attach":
                    self.attach("holder", name, "nic0", "weighed", tagged=True, weighed=0, limit=LONG)
                case "detach":
                    for which in range(len(self.rack.attachments(name))):
                        self.detach("provider", name, which, LONG)

        self.rack.arm(count, interfere)

    # -- doing it --

    def _run(self, process: int, work: Callable[[], object]) -> None:
        self.rack.at_work = self.rack.processes[process]
        try:
            work()
        except Killed:
            self.rack.kill(process)

    def _holder(self, who: str, node: str) -> Caller:
        return self._caller(who, self.rack.node_now(node).project)

    def _caller(self, who: str, project: str | None) -> Caller:
        """Return who asks: mostly somebody of the project, else somebody who may do other things, or nothing."""
        callers = {"red": RED, "blue": BLUE, None: PROVIDER}
        others = {"red": BLUE, "blue": RED, None: RED}
        return {"holder": callers[project], "other": others[project], "provider": PROVIDER}.get(who) or (
            AUDITOR if who == "auditor" else STRANGER
        )

    def _ask(self, node: str | None, caller: Caller, verb: Callable[[Transaction, Caller], object]) -> None:
        """Have a verb asked for: what is refused changes nothing, what is granted was the caller's to ask for."""
        before = None if node is None else self.rack.node_now(node).project
        with suppress(SteelyardError, Killed):
            with self.rack.database.writing() as tx:
                verb(tx, caller)
            assert caller.office is Office.PROVIDER or before is None or before in caller.roles
            assert caller not in (STRANGER, AUDITOR)


TestHistories = pytest.mark.slow(Histories.TestCase)  # a few histories are in `fuzz`
TestHistories.settings = settings(stateful_step_count=40, suppress_health_check=list(HealthCheck), max_examples=60)
