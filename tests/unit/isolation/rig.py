"""A small rack in a database, and callers of every kind; switches and BMCs only by name, as no verb touches one."""

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Table, delete, select, update

from steelyard.isolation import networks, operations, rack, store, tables
from steelyard.isolation.life import NodeState
from steelyard.isolation.objects import (
    Admission,
    Attachment,
    Identity,
    Members,
    Network,
    Node,
    OpenAdmission,
    Operation,
    OperationState,
    PortName,
    Private,
    Sharing,
)
from steelyard.isolation.ports import Access, Drivers
from steelyard.model.errors import WrongUse
from steelyard.model.network import MacAddress, Vlan
from steelyard.model.secret import Secret
from steelyard.service import tables as service
from steelyard.service.authority import Caller, Office, Right, Role
from steelyard.service.database import Database, Transaction
from steelyard.service.sealing import Sealer
from tests.filling import filled

EVERY_RIGHT: Final = frozenset(Right)
PROVIDER: Final = Caller("pia", Office.PROVIDER, {}, EVERY_RIGHT)
AUDITOR: Final = Caller("aude", Office.AUDITOR, {}, EVERY_RIGHT)
RED: Final = Caller("rob", None, {"red": Role.MEMBER}, EVERY_RIGHT)
BLUE: Final = Caller("bea", None, {"blue": Role.ADMIN}, EVERY_RIGHT)
STRANGER: Final = Caller("sam", None, {}, EVERY_RIGHT)
CALLERS: Final = (PROVIDER, AUDITOR, RED, BLUE, STRANGER)

SEALER: Final = Sealer({b"key1": Secret(bytes(32))})
NOW: Final = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
POOL: Final = tuple(Vlan(number) for number in range(100, 110))
LIMIT: Final = timedelta(minutes=5)
NO_IDENTITY: Final = Identity({}, (), ())


def _check(access: Access) -> None:
    if set(access.address) != {"host"}:
        raise WrongUse("reaching a device", expected="a host", found=", ".join(access.address))


class _Unconnected:
    """A device that no test here calls."""

    def __init__(self, access: Access) -> None:
        _check(access)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} of a device was used")


DRIVERS: Final = Drivers({"fake": _Unconnected}, {"fake": _Unconnected})


@dataclass(frozen=True, slots=True)
class Rack:
    """The database, with verbs in words short enough for tests."""

    database: Database

    @contextmanager
    def tx(self) -> Iterator[Transaction]:
        with self.database.writing() as tx:
            yield tx

    # -- setting up ----------------------------------------------------------------------------------------------------

    def project(self, name: str, nodes: int = 10, networks: int = 10) -> None:
        with self.tx() as tx:
            rack.put_project(tx, PROVIDER, name=name, node_quota=nodes, network_quota=networks, expected_version=None)

    def switch(self, name: str) -> None:
        with self.tx() as tx:
            rack.put_switch(
                tx,
                PROVIDER,
                SEALER,
                DRIVERS,
                name=name,
                driver="fake",
                address={"host": name},
                credentials={"password": Secret(b"tell nobody")},
                expected_version=None,
            )

    def node(self, name: str, *ports: PortName | None, labels: Mapping[str, str] | None = None) -> Node:
        """Register a node in maintenance, with a NIC for each port given; None: a NIC without a cable."""
        number = zlib.crc32(name.encode()).to_bytes(4).hex(":")
        with self.tx() as tx:
            rack.put_node(
                tx,
                PROVIDER,
                SEALER,
                DRIVERS,
                name=name,
                labels=labels or {},
                hardware={"model": "iron"},
                identity=NO_IDENTITY,
                bmc_driver="fake",
                bmc_address={"host": f"{name}-bmc"},
                bmc_credentials={"password": Secret(b"tell nobody either")},
                expected_version=None,
            )
            for position, port in enumerate(ports):
                if port is not None:
                    rack.put_port(tx, PROVIDER, port=port)
                mac = MacAddress(f"02:{position:02x}:{number}")
                rack.put_nic(tx, PROVIDER, node=name, name=f"nic{position}", mac=mac, port=port)
            return store.load_node(tx.connection, name)

    def free(self, name: str, *ports: PortName | None, labels: Mapping[str, str] | None = None) -> None:
        """Register a node that is free."""
        self.node(name, *(ports or (PortName("s1", f"{name}-nic0"),)), labels=labels)
        self.put(tables.nodes, name, state=NodeState.FREE.value)
        self.read_back()

    def put(self, table: Table, name: str, **values: object) -> None:
        """Write a row as only a keeper would."""
        with self.tx() as tx:
            tx.connection.execute(update(table).where(table.c.name == name).values(**values))

    def network(
        self,
        name: str,
        owner: str | None,
        sharing: Sharing | None = None,
        *,
        caller: Caller = PROVIDER,
        vlan: Vlan | None = None,
        members: Members = Members.TOGETHER,
        admission: Admission | None = None,
        expected_version: int | None = None,
    ) -> Network:
        with self.tx() as tx:
            return networks.put_network(
                tx,
                caller,
                POOL,
                name=name,
                owner=owner,
                sharing=sharing or Private(),
                vlan=vlan,
                members=members,
                admission=admission or OpenAdmission(),
                expected_version=expected_version,
            )

    # -- asking --------------------------------------------------------------------------------------------------------

    def allocate(
        self, caller: Caller, project: str, count: int = 1, allocation: str = "a1", **labels: str
    ) -> tuple[str, ...]:
        with self.tx() as tx:
            nodes = operations.allocate(tx, caller, project=project, count=count, labels=labels, allocation=allocation)
            return tuple(node.name for node in nodes)

    def attach(
        self,
        caller: Caller,
        node: str,
        network: str,
        nic: str = "nic0",
        *,
        tagged: bool = False,
        verdict: str | None = None,
    ) -> Operation:
        with self.tx() as tx:
            return operations.attach(
                tx, caller, node=node, nic=nic, network=network, tagged=tagged, verdict=verdict, limit=LIMIT
            )

    def detach(self, caller: Caller, node: str, network: str, nic: str = "nic0") -> Operation:
        with self.tx() as tx:
            return operations.detach(tx, caller, node=node, nic=nic, network=network, limit=LIMIT)

    # -- what the keepers would do -------------------------------------------------------------------------------------

    def read_back(self) -> None:
        """Let every port be read to be as it is wanted, as if the switches had done all."""
        with self.tx() as tx:
            ports, rows = tables.ports, tables.attachments
            tx.connection.execute(update(ports).values(applied=ports.c.wanted, urgent=False))
            tx.connection.execute(delete(rows).where(rows.c.wanted.is_(False)))
            tx.connection.execute(update(rows).where(rows.c.applied_at.is_(None)).values(applied_at=tx.now))
            waiting = {row.operation for row in tx.connection.execute(select(tables.operation_ports))}
            for name in sorted(waiting):
                operation = store.load_operation(tx.connection, name)
                store.end_operation(tx, operation, OperationState.DONE, actor="keeper", progress="read back")

    # -- looking -------------------------------------------------------------------------------------------------------

    def state(self, name: str) -> NodeState:
        with self.database.reading() as connection:
            return store.load_node(connection, name).state

    def attachments(self, node: str) -> tuple[Attachment, ...]:
        with self.database.reading() as connection:
            return store.attachments_of(connection, node)

    def operation(self, operation: Operation) -> Operation:
        with self.database.reading() as connection:
            return store.load_operation(connection, operation.id)

    def port(self, switch: str, port: str) -> tuple[int, int, bool]:
        """Return how often what is wanted changed, which of these changes was read back, and whether it is a cut."""
        with self.database.reading() as connection:
            table = tables.ports
            row = connection.execute(select(table).where(store.is_port(table, PortName(switch, port)))).one()
            return row.wanted, row.applied, row.urgent

    def journal(self) -> list[tuple[str, str, str | None]]:
        """Return verb, subject and project of every entry."""
        with self.database.reading() as connection:
            rows = connection.execute(select(service.journal).order_by(service.journal.c.number))
            return [(row.verb, row.subject, row.project) for row in rows]


def make_rack(database: Database) -> Rack:
    """Return a rack with projects red and blue, switches s1 and s2, and no nodes."""
    filled(database, _furnish)
    return Rack(database)


def _furnish(database: Database) -> None:
    made = Rack(database)
    for project in ("red", "blue"):
        made.project(project)
    for switch in ("s1", "s2"):
        made.switch(switch)
