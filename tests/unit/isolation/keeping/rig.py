"""A rack of fake devices, the database that wants something of them, and processes that keep it; time is the test's."""

import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Final

import pytest
from sqlalchemy import select

from steelyard.isolation import networks, operations, rack, store, tables
from steelyard.isolation.confirmed import end_overdue
from steelyard.isolation.due import nodes_to_look_at, nodes_with_work, switch_names
from steelyard.isolation.keeping.nodes import OFTENER, NodeKeeper
from steelyard.isolation.keeping.switches import SwitchKeeper
from steelyard.isolation.keeping.tenure import Settings
from steelyard.isolation.life import NodeState
from steelyard.isolation.objects import (
    Admission,
    Attachment,
    Members,
    Node,
    OpenAdmission,
    Operation,
    OperationState,
    PortName,
    Private,
    ReleaseStep,
    Sharing,
    Verb,
)
from steelyard.isolation.ports import Drivers, Power
from steelyard.model.network import MacAddress, Vlan
from steelyard.model.secret import Secret
from steelyard.service import tables as service
from steelyard.service.authority import Caller
from steelyard.service.database import Database
from tests.fakes.bmc import FakeBmc, FakeBmcs
from tests.fakes.switch import FakeSwitch, FakeSwitches
from tests.unit.isolation.rig import NO_IDENTITY, NOW, POOL, PROVIDER, SEALER

SETTINGS: Final = Settings()
LIMIT: Final = timedelta(minutes=5)


class Clock:
    """The time of a test: of all processes and of this computer."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def local(self, _clock: int) -> float:
        """Stand in for `time.clock_gettime`."""
        return (self.now - NOW).total_seconds()


class Devices:
    """The switches and BMCs of a rack, and the drivers that reach them. They outlive every process."""

    def __init__(self) -> None:
        self.switches = FakeSwitches()
        self.bmcs = FakeBmcs()
        self.drivers = Drivers({"fake": self.switches}, {"fake": self.bmcs})


class Process:
    """What one process has in its memory: keepers, whose passes the test makes."""

    def __init__(self, database: Database, devices: Devices, settings: Settings = SETTINGS) -> None:
        self.database = database
        self._devices = devices
        self._settings = settings
        self._switches: dict[str, SwitchKeeper] = {}
        self.nodes = NodeKeeper(database, devices.drivers, SEALER, settings)

    def switch(self, name: str) -> SwitchKeeper:
        """Return the keeper of a switch."""
        if name not in self._switches:
            keeper = SwitchKeeper(name, self.database, self._devices.drivers, SEALER, self._settings)
            self._switches[name] = keeper
        return self._switches[name]

    def keep(self, name: str, most: int = 50) -> float | None:
        """Make passes at a switch until there is nothing to do at once; return when there may be."""
        for _ in range(most):
            wait = self.switch(name).pass_once()
            if wait is None or wait > 0:
                return wait
        raise AssertionError(f"no rest at {name}")

    def work(self, name: str, most: int = 50) -> float | None:
        """Take turns at a node until there is nothing to do at once; return when there may be."""
        for _ in range(most):
            wait = self.nodes.work(name)
            if wait is None or wait > 0:
                return wait
        raise AssertionError(f"no rest at {name}")

    def do_all(self) -> None:
        """Do what is due, as the dispatcher would, once everywhere."""
        with self.database.reading() as connection:
            switches = sorted(switch_names(connection))
            now = self.database.clock()
            looks = nodes_to_look_at(connection, now - self._settings.look, now - self._settings.look / OFTENER, 100)
        for name in switches:
            self.keep(name)
        with self.database.reading() as connection:
            work = nodes_with_work(connection)
        for name in sorted({*work, *looks}):
            self.work(name)


class World:
    """A rack with its database; a process to keep it; verbs in few words."""

    def __init__(self, url: str, clock: Clock) -> None:
        self.clock = clock
        self.url = url
        self.devices = Devices()
        self.database = Database(url, clock=clock)
        self.process = Process(self.database, self.devices)

    def another(self) -> Process:
        """Return another process on the same database and devices."""
        return Process(self.database, self.devices)

    # -- what there is --

    def switch(self, name: str, ports: Iterable[str] = (), password: bytes = b"tell nobody") -> FakeSwitch:
        device = self.devices.switches.add(name, ports)
        with self.database.writing() as tx:
            rack.put_switch(
                tx,
                PROVIDER,
                SEALER,
                self.devices.drivers,
                name=name,
                driver="fake",
                address={"host": name},
                credentials={"password": Secret(password)},
                expected_version=None,
            )
        return device

    def node(self, name: str, *ports: tuple[str, str], power: Power = Power.OFF) -> FakeBmc:
        """Register a node, in maintenance, with a NIC for each port."""
        bmc = self.devices.bmcs.add(name, power)
        number = zlib.crc32(name.encode()).to_bytes(4).hex(":")
        with self.database.writing() as tx:
            rack.put_node(
                tx,
                PROVIDER,
                SEALER,
                self.devices.drivers,
                name=name,
                labels={},
                hardware={},
                identity=NO_IDENTITY,
                bmc_driver="fake",
                bmc_address={"host": name},
                bmc_credentials={"password": Secret(b"tell nobody either")},
                expected_version=None,
            )
            for position, (switch, port) in enumerate(ports):
                there = PortName(switch, port)
                rack.put_port(tx, PROVIDER, port=there)
                mac = MacAddress(f"02:{position:02x}:{number}")
                rack.put_nic(tx, PROVIDER, node=name, name=f"nic{position}", mac=mac, port=there)
        return bmc

    def project(self, name: str) -> None:
        with self.database.writing() as tx:
            rack.put_project(tx, PROVIDER, name=name, node_quota=1000, network_quota=100, expected_version=None)

    def network(
        self,
        name: str,
        owner: str | None,
        vlan: int,
        sharing: Sharing | None = None,
        *,
        members: Members = Members.TOGETHER,
        admission: Admission | None = None,
    ) -> None:
        with self.database.writing() as tx:
            networks.put_network(
                tx,
                PROVIDER,
                POOL,
                name=name,
                owner=owner,
                sharing=sharing or Private(),
                vlan=Vlan(vlan),
                members=members,
                admission=admission or OpenAdmission(),
                expected_version=None,
            )

    # -- what is asked --

    def allocate(self, name: str, project: str) -> None:
        with self.database.writing() as tx:
            operations.allocate(
                tx, PROVIDER, project=project, count=1, labels={}, allocation=f"for-{name}", names=[name]
            )

    def attach(
        self,
        node: str,
        network: str,
        nic: str = "nic0",
        *,
        tagged: bool = False,
        verdict: str | None = None,
        caller: Caller = PROVIDER,
    ) -> Operation:
        with self.database.writing() as tx:
            return operations.attach(
                tx, caller, node=node, nic=nic, network=network, tagged=tagged, verdict=verdict, limit=LIMIT
            )

    def detach(self, node: str, network: str, nic: str = "nic0") -> Operation:
        with self.database.writing() as tx:
            return operations.detach(tx, PROVIDER, node=node, nic=nic, network=network, limit=LIMIT)

    def power(self, node: str, verb: Verb, limit: timedelta = LIMIT) -> Operation:
        with self.database.writing() as tx:
            return operations.power(tx, PROVIDER, node=node, verb=verb, limit=limit)

    def quarantine(self, node: str) -> Operation:
        with self.database.writing() as tx:
            return operations.quarantine(tx, PROVIDER, node=node, why="it misbehaves", limit=LIMIT)

    def release(
        self,
        node: str,
        to: NodeState = NodeState.FREE,
        waives: Iterable[ReleaseStep] = (),
        limit: timedelta = LIMIT,
    ) -> Operation:
        with self.database.writing() as tx:
            return operations.release(
                tx, PROVIDER, node=node, to=to, why="no longer needed", waives=frozenset(waives), limit=limit
            )

    def end_overdue(self) -> None:
        with self.database.writing() as tx:
            end_overdue(tx)

    def free(self, *names: str) -> None:
        """Release nodes, and have it done."""
        for name in names:
            self.release(name)
        for _ in range(4):
            if any(self.state(name) is not NodeState.FREE for name in names):
                self.process.do_all()
        assert all(self.state(name) is NodeState.FREE for name in names)

    # -- what is --

    def node_now(self, name: str) -> Node:
        with self.database.reading() as connection:
            return store.load_node(connection, name)

    def state(self, name: str) -> NodeState:
        return self.node_now(name).state

    def operation(self, operation: Operation) -> Operation:
        with self.database.reading() as connection:
            return store.load_operation(connection, operation.id)

    def how(self, operation: Operation) -> OperationState:
        return self.operation(operation).state

    def attachments(self, node: str) -> tuple[Attachment, ...]:
        with self.database.reading() as connection:
            return store.attachments_of(connection, node)

    def port(self, switch: str, port: str) -> Mapping[str, object]:
        with self.database.reading() as connection:
            row = connection.execute(select(tables.ports).where(store.is_port(tables.ports, PortName(switch, port))))
            return dict(row.one()._mapping)

    def journal(self, verb: str) -> list[tuple[str, Mapping[str, object]]]:
        """Return subject and detail of every entry with this verb."""
        table = service.journal
        with self.database.reading() as connection:
            rows = connection.execute(select(table).where(table.c.verb == verb).order_by(table.c.number))
            return [(row.subject, row.detail) for row in rows]


@contextmanager
def a_world(url: str) -> Iterator[World]:
    """Give a rack in a database that has every table, and its own time."""
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "clock_gettime", clock.local)
        world = World(url, clock)
        yield world
        world.database.close()
