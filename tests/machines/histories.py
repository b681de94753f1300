"""A rack whose every step can be looked at, and broken off: what random histories are made of.

Safety is judged by the devices: what the fake switches carry and whether the fake nodes run, not what the database
says of them. Devices that somebody changed by hand, or that lost their configuration, are not the keepers' doing: they
count again from the keepers' next write.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import event, select

from steelyard.isolation import store, tables
from steelyard.isolation.due import plan_ports
from steelyard.isolation.life import NodeState
from steelyard.isolation.objects import (
    Attachment,
    Members,
    Network,
    Node,
    OperationState,
    PortName,
    Public,
    SharedWith,
    Verb,
)
from steelyard.isolation.ports import Missing, PortReading, Power
from steelyard.isolation.rules import may_use
from steelyard.model.network import SHUT, PortVlans, Vlan
from steelyard.service.database import Database, Transaction
from tests.databases import MEMORY, make_tables
from tests.fakes.bmc import FakeBmc
from tests.fakes.switch import Call, FakeSwitch
from tests.unit.isolation.keeping.rig import SETTINGS, Clock, World
from tests.unit.isolation.things import WEIGHED

PORTS: Final = {"s1": ("p1", "p2", "p3"), "s2": ("p1", "p2")}
NODES: Final = {
    "n1": (("s1", "p1"), ("s2", "p1")),
    "n2": (("s1", "p2"),),
    "n3": (("s2", "p2"),),
    "n4": (("s1", "p3"),),
}
"""The first two are red's, the third blue's; the last is in maintenance, and on."""
NETWORKS: Final = ("red-own", "blue-own", "shared", "public", "airlock", "weighed", "extra")
WEIGHED_VLAN: Final = Vlan(104)
PLAN_SECONDS: Final = SETTINGS.switch.lease.total_seconds() / 2
"""How old a plan may be when it is written."""


class Killed(BaseException):
    """The process ended here."""


class Unsafe(AssertionError):
    """What must never be."""


class BreakableDatabase(Database):
    """A database that tells before and after each commit."""

    def __init__(self, url: str, clock: Clock, tell: Callable[[str], None]) -> None:
        super().__init__(url, clock=clock)
        self._tell = tell
        for engine in (self.engine, self._readers):
            event.listen(engine, "connect", _be_quick)

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        with super().writing() as tx:
            yield tx
            self._tell("before commit")
        self._tell("after commit")


def _be_quick(connection: object, _record: object) -> None:
    # Processes are killed here, not computers.
    connection.execute("PRAGMA synchronous=OFF")  # type: ignore[attr-defined]  # sqlite3's, which the event does not say


class Rack(World):
    """The world of histories. `events` counts what happens; something can be made to happen at one of them."""

    def __init__(self, url: str, clock: Clock) -> None:
        self._armed: tuple[int, Callable[[str], None]] | None = None
        super().__init__(url, clock)
        self.database.close()
        self.database = BreakableDatabase(url, clock, self._event)
        self.processes = [self.another(), self.another()]
        self.process = self.at_work = self.processes[0]
        self.tainted: set[PortName] = set()
        """Ports that somebody else set."""
        self.touched: set[str] = set()
        """Nodes that somebody switched on by hand; they count again when a keeper has switched them off."""
        self.liars: set[str] = set()
        """Nodes whose BMC lied, once at least."""
        self.started: dict[str, datetime] = {}
        """When a keeper last started a node."""

    # -- devices --

    def add_devices(self) -> None:
        """Connect the devices of a rack that is registered already."""
        for name, ports in PORTS.items():
            self.watch_switch(self.devices.switches.add(name, ports))
        for name in NODES:
            self.watch_bmc(self.devices.bmcs.add(name, Power.ON if name == "n4" else Power.OFF))

    def watch_switch(self, device: FakeSwitch) -> None:
        def before(call: Call) -> None:
            if call.verb == "write":
                self._check_verdicts(device, call)
            self._event(f"before {call.verb} of {device.name}")

        def after(call: Call) -> None:
            for port, carry in call.wanted.items():
                if device.now(port) == carry:
                    self.tainted.discard(PortName(device.name, port))
            self._event(f"after {call.verb} of {device.name}")

        device.before, device.after = before, after

    def watch_bmc(self, device: FakeBmc) -> None:
        starts = 0

        def before(verb: str) -> None:
            nonlocal starts
            starts = len(device.starts)
            self._event(f"before {verb} of {device.name}")

        def after(verb: str) -> None:
            if len(device.starts) > starts and verb == "set_power":
                self.started[device.name] = self.clock.now
            if verb == "set_power" and device.power is Power.OFF:
                self.touched.discard(device.name)
            self._event(f"after {verb} of {device.name}")

        device.before, device.after = before, after

    def set_port_by_hand(self, switch: str, port: str, reading: PortReading) -> None:
        self.tainted.add(PortName(switch, port))
        self.devices.switches[switch].set_port(port, reading)

    def forget(self, switch: str) -> None:
        self.tainted |= {PortName(switch, port) for port in PORTS[switch]}
        self.devices.switches[switch].forget()

    def start_by_hand(self, node: str) -> None:
        self.touched.add(node)
        self.devices.bmcs[node].be(Power.ON)

    def live_operations(self) -> list[tuple[str, str]]:
        """Return what is under way, and at which node."""
        table = tables.operations
        with self.database.reading() as connection:
            live = connection.execute(select(table).where(table.c.state.in_(store.LIVE)))
            return sorted((row.id, row.node) for row in live)

    # -- breaking off --

    def arm(self, count: int, what: Callable[[str], None]) -> None:
        """Have `what` happen at the event after `count` others."""
        self._armed = (count, what)

    def disarm(self) -> None:
        self._armed = None

    def _event(self, name: str) -> None:
        if self._armed is None:
            return
        count, what = self._armed
        if count > 0:
            self._armed = (count - 1, what)
            return
        self._armed = None
        what(name)

    def kill(self, number: int) -> None:
        """Forget all that a process knew."""
        self.processes[number] = self.another()

    # -- judging --

    def check(self) -> None:
        """Compare the devices with what may be. Raises Unsafe."""
        cuts = select(tables.operations).where(tables.operations.c.verb == Verb.QUARANTINE.value)
        with self.database.reading() as connection:
            networks = store.load_networks(connection)
            nics = store.nics_of(connection, NODES)
            nodes = [store.node_of(row, nics[row.name]) for row in connection.execute(select(tables.nodes))]
            rows = [store.attachment_of(row) for row in connection.execute(select(tables.attachments))]
            last_cut = {row.node: row for row in connection.execute(cuts.order_by(tables.operations.c.created))}
        was_cut = {name for name, row in last_cut.items() if row.state == OperationState.DONE.value}
        by_node = {node.name: tuple(row for row in rows if row.node == node.name) for node in nodes}
        for node in nodes:
            self._check_ports(node, by_node[node.name], {network.vlan: network for network in networks}, was_cut)
            self._check_power(node, by_node[node.name], {network.name: network for network in networks})
        for network in networks:
            if network.members is Members.ISOLATED:
                self._check_isolation(network)

    def carried(self, name: PortName) -> PortVlans | None:
        """Return what the keepers have a port carry; None: it is somebody else's doing."""
        reading = self.devices.switches[name.switch].now(name.port)
        if name in self.tainted or reading == Missing():
            return None
        _insist(isinstance(reading, PortVlans), f"{name} is {reading}")
        return reading if isinstance(reading, PortVlans) else None

    def _check_ports(
        self, node: Node, rows: tuple[Attachment, ...], networks: dict[Vlan, Network], was_cut: set[str]
    ) -> None:
        for nic in node.nics:
            if nic.port is None or (carried := self.carried(nic.port)) is None:
                continue
            at = f"{nic.port} of {node.name}, {node.state.value} of {node.project}, carries {carried}"
            allowed = {row.network: row for row in rows if row.nic == nic.name}
            for vlan in carried.vlans:
                network = networks.get(vlan)
                _insist(network is not None and network.name in allowed, f"{at}: nobody put it on {vlan}")
                assert network is not None
                if node.project is not None or node.state in (NodeState.ALLOCATED, NodeState.RELEASING):
                    _insist(may_use(network, node.project), f"{at}: {network.name} is not for it")
                isolated = network.members is Members.ISOLATED
                _insist(carried.isolated == isolated, f"{at}: isolated is {isolated}")
                if network.vlan == WEIGHED_VLAN:
                    self._check_weighed(node, allowed[network.name], at)
            if node.state is NodeState.FREE:
                _insist(carried == SHUT, at)
            if node.state is NodeState.QUARANTINED and node.name in was_cut:
                _insist(carried == SHUT, f"{at}, and was cut")

    def _check_weighed(self, node: Node, row: Attachment, at: str) -> None:
        _insist(row.verdict_at is not None, f"{at}: without a verdict")
        assert row.verdict_at is not None
        since = max(filter(None, (node.allocated_at, self.started.get(node.name))), default=None)
        # Verdicts count whole seconds.
        late = since is None or row.verdict_at + timedelta(seconds=1) > since
        _insist(late, f"{at}: weighed {row.verdict_at}, and runs since {since}")

    def _check_verdicts(self, device: FakeSwitch, call: Call) -> None:
        """Nothing comes onto the weighed network with a verdict that has become too old."""
        for port, carry in call.wanted.items():
            before = device.now(port)
            if WEIGHED_VLAN not in carry.vlans or (isinstance(before, PortVlans) and WEIGHED_VLAN in before.vlans):
                continue
            name = next(name for name, ports in NODES.items() if (device.name, port) in ports)
            for row in self.attachments(name):
                if row.network == "weighed" and row.wanted and row.applied_at is None:
                    _insist(row.verdict_at is not None, f"{port}: no verdict")
                    assert row.verdict_at is not None
                    age = (self.clock.now - row.verdict_at).total_seconds()
                    limit = WEIGHED.most_age.total_seconds() + PLAN_SECONDS
                    _insist(age <= limit, f"{device.name}/{port} of {name}: a verdict {age} s old")

    def _check_power(self, node: Node, rows: tuple[Attachment, ...], networks: dict[str, Network]) -> None:
        if node.state is NodeState.FREE and node.name not in self.touched | self.liars:
            power = self.devices.bmcs[node.name].power
            _insist(power is Power.OFF, f"{node.name} is free, and {power.value}")
        if node.state in (NodeState.FREE, NodeState.MAINTENANCE, NodeState.REJECTED):
            _insist(node.project is None, f"{node.name} is {node.state.value} and {node.project}'s")
        if node.state is NodeState.FREE:
            _insist(not rows, f"{node.name} is free, with {rows}")
        if node.project is not None:
            for row in rows:
                _insist(may_use(networks[row.network], node.project), f"{node.name} of {node.project} has {row}")

    def _check_isolation(self, network: Network) -> None:
        members = [
            PortName(switch, port)
            for switch, ports in PORTS.items()
            for port in ports
            if (carried := self.carried(PortName(switch, port))) is not None and network.vlan in carried.vlans
        ]
        _insist(len({member.switch for member in members}) <= 1, f"{network.name} is on two switches: {members}")
        for one in members:
            for other in members:
                if one != other:
                    hears = self.devices.switches[one.switch].reaches(one.port, other.port)
                    _insist(not hears, f"on {network.name}, {one} hears {other}")

    # -- the end --

    def settle(self) -> None:
        """Let all faults end and the keepers work on; check that everything came to its end."""
        self.disarm()
        for switch in self.devices.switches.devices.values():
            switch.faults.clear()
            switch.next_faults.clear()
        for bmc in self.devices.bmcs.devices.values():
            bmc.faults.clear()
            bmc.next_faults.clear()
            bmc.obeys_button = True
        with self.database.writing() as tx:
            tx.connection.execute(tables.holds.delete())
        for _ in range(30):
            for process in self.processes:
                process.do_all()
                self.check()
            if self._is_at_rest():
                break
            self.clock.advance(21)
            self.end_overdue()
        self._check_rest()

    def _is_at_rest(self) -> bool:
        with contextlib.suppress(Unsafe):
            self._check_rest()
            return True
        return False

    def _check_rest(self) -> None:
        with self.database.reading() as connection:
            live = connection.execute(select(tables.operations).where(tables.operations.c.state.in_(store.LIVE))).all()
            _insist(not live, f"still under way: {live}")
            for name in PORTS:
                for plan in plan_ports(connection, name, self.clock.now):
                    found = self.devices.switches[name].now(plan.port)
                    _insist(found == plan.carry, f"{name}/{plan.port} is {found}, and is to be {plan.carry}")
                    _insist(plan.applied == plan.wanted, f"{name}/{plan.port} is not confirmed")
                    _insist(not plan.due.urgent, f"{name}/{plan.port} is urgent, and done")
            for name in NODES:
                node = store.load_node(connection, name)
                _insist(node.state is not NodeState.RELEASING, f"{name} is releasing: {node.why}")
            leaving = connection.execute(select(tables.attachments).where(~tables.attachments.c.wanted)).all()
            _insist(not leaving, f"not taken off: {leaving}")
            waiting = connection.execute(select(tables.operation_ports)).all()
            _insist(not waiting, f"waited for by nobody: {waiting}")


def _insist(holds: object, what: str) -> None:
    if not holds:
        raise Unsafe(what)


def register(rack: Rack) -> None:
    """Register the rack, and bring all nodes but one to where they can be allocated."""
    for project in ("red", "blue"):
        rack.project(project)
    for name, ports in PORTS.items():
        rack.switch(name, ports)
    for name, cables in NODES.items():
        rack.node(name, *cables)
    rack.network("red-own", "red", 100)
    rack.network("blue-own", "blue", 101)
    rack.network("shared", "red", 102, SharedWith(frozenset({"blue"})))
    rack.network("public", None, 103, Public())
    rack.network("weighed", None, WEIGHED_VLAN.number, Public(), admission=WEIGHED)
    rack.network("airlock", None, 105, Public(), members=Members.ISOLATED)
    rack.free(*(name for name in NODES if name != "n4"))
    for name, project in (("n1", "red"), ("n2", "red"), ("n3", "blue")):
        rack.allocate(name, project)
    for process in rack.processes:
        for name in PORTS:
            process.switch(name).close()


_TEMPLATES: Final[list[bytes]] = []


@contextmanager
def a_rack() -> Iterator[Rack]:
    """Give a rack as it was registered, in a database of its own."""
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="history-") as directory, pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr(time, "clock_gettime", clock.local)
        if not _TEMPLATES:
            _TEMPLATES.append(_make_template(Path(directory) / "template.db", clock))
        path = Path(directory) / "steelyard.db"
        path.write_bytes(_TEMPLATES[0])
        rack = Rack(f"sqlite:///{path}", clock)
        rack.add_devices()
        try:
            yield rack
        finally:
            rack.database.close()


def _make_template(path: Path, clock: Clock) -> bytes:
    rack = Rack(f"sqlite:///{path}", clock)
    make_tables(rack.database)
    register(rack)
    rack.database.close()
    return path.read_bytes()
