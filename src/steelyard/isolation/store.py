"""Rows to objects and back, and the changes that several verbs and keepers make alike.

`load_` raises NotFound for what is not there, in the same words as for what may not be seen.
"""

import json
import secrets
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, Table, and_, delete, exists, func, insert, select, update

from steelyard.isolation import life, tables
from steelyard.isolation.life import NodeEvent, NodeState
from steelyard.isolation.objects import (
    Attachment,
    Hold,
    Identity,
    Members,
    Network,
    Nic,
    Node,
    OpenAdmission,
    Operation,
    OperationState,
    PortName,
    PortState,
    Private,
    Project,
    Public,
    Release,
    ReleaseStep,
    SharedWith,
    Sharing,
    Switch,
    Verb,
    VerdictAdmission,
)
from steelyard.isolation.ports import Power
from steelyard.isolation.rules import STARTING_VERBS
from steelyard.model.errors import SteelyardError
from steelyard.model.network import MacAddress, PortVlans, Vlan
from steelyard.model.secret import Secret
from steelyard.service import journal
from steelyard.service.authority import not_found
from steelyard.service.database import Transaction
from steelyard.service.journal import Detail
from steelyard.service.sealing import Sealer

AnyRow = Row[Any]

LIVE: Final = (OperationState.PENDING.value, OperationState.RUNNING.value)


# -- rows to objects ---------------------------------------------------------------------------------------------------


def project_of(row: AnyRow) -> Project:
    """Return a row of `projects`."""
    return Project(row.name, row.node_quota, row.network_quota, row.version)


def switch_of(row: AnyRow) -> Switch:
    """Return a row of `switches`."""
    return Switch(row.name, row.driver, row.address, row.trouble, row.version)


def port_of(row: AnyRow) -> PortState:
    """Return a row of `ports`."""
    carries = None if row.carries is None else vlans_of(row.carries)
    return PortState(PortName(row.switch, row.port), row.wanted, row.applied, carries, row.read_at, row.trouble)


def vlans_of(value: Mapping[str, Any]) -> PortVlans:
    """Return what the column `carries` says."""
    untagged = None if value["untagged"] is None else Vlan(value["untagged"])
    return PortVlans(untagged, frozenset(Vlan(number) for number in value["tagged"]), value["isolated"])


def encode_vlans(carries: PortVlans) -> dict[str, Any]:
    """Return it as the column `carries` has it."""
    return {
        "untagged": None if carries.untagged is None else carries.untagged.number,
        "tagged": sorted(vlan.number for vlan in carries.tagged),
        "isolated": carries.isolated,
    }


def nic_of(row: AnyRow) -> Nic:
    """Return a row of `nics`."""
    return Nic(row.name, MacAddress(row.mac), None if row.switch is None else PortName(row.switch, row.port))


def node_of(row: AnyRow, nics: tuple[Nic, ...]) -> Node:
    """Return a row of `nodes`."""
    state = NodeState(row.state)
    release = None
    if state is NodeState.RELEASING:
        release = Release(
            None if row.release_step is None else ReleaseStep(row.release_step),
            NodeState(row.release_to),
            frozenset(ReleaseStep(step) for step in row.release_waives or ()),
        )
    return Node(
        name=row.name,
        state=state,
        since=row.since,
        why=row.why,
        project=row.project,
        labels=row.labels,
        hardware=row.hardware,
        identity=Identity(
            row.identity["endorsement_certificates"],
            tuple(row.identity["endorsement_keys"]),
            tuple(row.identity["references"]),
        ),
        bmc_driver=row.bmc_driver,
        bmc_address=row.bmc_address,
        nics=nics,
        allocation=row.allocation,
        allocated_at=row.allocated_at,
        power=None if row.power is None else Power(row.power),
        trouble=row.trouble,
        version=row.version,
        release=release,
    )


def encode_identity(identity: Identity) -> dict[str, Any]:
    """Return it as the column `identity` has it."""
    return {
        "endorsement_certificates": dict(identity.endorsement_certificates),
        "endorsement_keys": list(identity.endorsement_keys),
        "references": list(identity.references),
    }


def network_of(row: AnyRow, shares: Collection[str]) -> Network:
    """Return a row of `networks`, with the projects of `network_shares`."""
    sharing: Sharing
    match row.sharing:
        case "public":
            sharing = Public()
        case "shared":
            sharing = SharedWith(frozenset(shares))
        case "private":
            sharing = Private()
        case other:
            raise ValueError(other)
    return Network(
        name=row.name,
        owner=row.owner,
        sharing=sharing,
        vlan=Vlan(row.vlan),
        members=Members(row.members),
        admission=OpenAdmission()
        if row.admission_key is None
        else VerdictAdmission(row.admission_key, timedelta(seconds=row.admission_age_seconds)),
        version=row.version,
    )


def attachment_of(row: AnyRow) -> Attachment:
    """Return a row of `attachments`."""
    return Attachment(*(getattr(row, field.name) for field in fields(Attachment)))


def hold_of(row: AnyRow) -> Hold:
    """Return a row of `holds`."""
    return Hold(row.node, row.name, row.placed_by, row.placed_at, row.why)


def operation_of(row: AnyRow) -> Operation:
    """Return a row of `operations`."""
    return Operation(
        id=row.id,
        verb=Verb(row.verb),
        node=row.node,
        project=row.project,
        actor=row.actor,
        state=OperationState(row.state),
        created=row.created,
        deadline=row.deadline,
        ended=row.ended,
        parameters=row.parameters,
        progress=row.progress,
        failure=row.failure,
    )


# -- loading -----------------------------------------------------------------------------------------------------------


def find(connection: Connection, table: Table, name: str) -> AnyRow | None:
    """Return the row of a table whose key is a name; None: there is none."""
    return connection.execute(select(table).where(table.c.name == name)).one_or_none()


def load_project(connection: Connection, name: str) -> Project:
    """Return a project. Raises NotFound."""
    return project_of(_found(find(connection, tables.projects, name), f"project {name}"))


def load_switch(connection: Connection, name: str) -> Switch:
    """Return a switch. Raises NotFound."""
    return switch_of(_found(find(connection, tables.switches, name), f"switch {name}"))


def load_port(connection: Connection, port: PortName) -> PortState:
    """Return a port. Raises NotFound."""
    row = connection.execute(select(tables.ports).where(is_port(tables.ports, port))).one_or_none()
    return port_of(_found(row, f"port {port.port} of switch {port.switch}"))


def load_node(connection: Connection, name: str) -> Node:
    """Return a node, with its NICs. Raises NotFound."""
    row = _found(find(connection, tables.nodes, name), f"node {name}")
    return node_of(row, nics_of(connection, (name,)).get(name, ()))


def load_network(connection: Connection, name: str) -> Network:
    """Return a network. Raises NotFound."""
    found = load_networks(connection, tables.networks.c.name == name)
    if not found:
        raise not_found(f"network {name}")
    return found[0]


def load_networks(connection: Connection, *where: ColumnElement[bool], limit: int | None = None) -> tuple[Network, ...]:
    """Return the networks of which this holds, by name, with whom each is shared."""
    rows = connection.execute(select(tables.networks).where(*where).order_by(tables.networks.c.name).limit(limit)).all()
    shares = defaultdict[str, list[str]](list)
    for share in connection.execute(
        select(tables.network_shares).where(tables.network_shares.c.network.in_([row.name for row in rows]))
    ):
        shares[share.network].append(share.project)
    return tuple(network_of(row, shares[row.name]) for row in rows)


def load_operation(connection: Connection, id: str) -> Operation:  # noqa: A002 (the operation's field)
    """Return an operation. Raises NotFound."""
    row = connection.execute(select(tables.operations).where(tables.operations.c.id == id)).one_or_none()
    return operation_of(_found(row, f"operation {id}"))


def nics_of(connection: Connection, nodes: Collection[str]) -> Mapping[str, tuple[Nic, ...]]:
    """Return the NICs of these nodes, each node's by name."""
    nics = defaultdict[str, tuple[Nic, ...]](tuple)
    table = tables.nics
    for row in connection.execute(select(table).where(table.c.node.in_(nodes)).order_by(table.c.node, table.c.name)):
        nics[row.node] += (nic_of(row),)
    return nics


def attachments_of(connection: Connection, node: str) -> tuple[Attachment, ...]:
    """Return every row of a node, those that are being taken off too."""
    table = tables.attachments
    rows = connection.execute(select(table).where(table.c.node == node).order_by(table.c.nic, table.c.network))
    return tuple(attachment_of(row) for row in rows)


def networks_of(connection: Connection, attachments: Iterable[Attachment]) -> Mapping[str, Network]:
    """Return the networks of these attachments, by name."""
    names = {attachment.network for attachment in attachments}
    return {network.name: network for network in load_networks(connection, tables.networks.c.name.in_(names))}


def live_operations(connection: Connection, node: str, verbs: Collection[Verb] = tuple(Verb)) -> tuple[Operation, ...]:
    """Return a node's operations of these kinds that have not ended, in order of their creation."""
    table = tables.operations
    rows = connection.execute(
        select(table)
        .where(table.c.node == node, table.c.state.in_(LIVE), table.c.verb.in_([verb.value for verb in verbs]))
        .order_by(table.c.created, table.c.id)
    )
    return tuple(operation_of(row) for row in rows)


def switches_of(connection: Connection, network: str) -> frozenset[str]:
    """Return the switches on which members of a network sit, wanted or on their way out."""
    nics, rows = tables.nics, tables.attachments
    found = connection.execute(
        select(nics.c.switch)
        .join(rows, and_(rows.c.node == nics.c.node, rows.c.nic == nics.c.name))
        .where(rows.c.network == network, nics.c.switch.is_not(None))
    )
    return frozenset(found.scalars())


def projects_on(connection: Connection, network: str) -> tuple[str | None, ...]:
    """Return the project of each attachment's node, wanted or on its way out."""
    nodes, rows = tables.nodes, tables.attachments
    statement = select(nodes.c.project).join(rows, rows.c.node == nodes.c.name).where(rows.c.network == network)
    return tuple(connection.execute(statement).scalars())


def shared_with(projects: Collection[str]) -> ColumnElement[bool]:
    """Return the condition that a network is shared with one of these, by name."""
    shares = tables.network_shares
    return exists().where(shares.c.network == tables.networks.c.name, shares.c.project.in_(projects))


def labelled(labels: Mapping[str, str]) -> list[ColumnElement[bool]]:
    """Return the conditions that a node has these labels."""
    return [tables.nodes.c.labels[name].as_string() == value for name, value in labels.items()]


def last_start(connection: Connection, node: str) -> datetime | None:
    """Return when an operation that may have started the node anew ended last; None: never."""
    table = tables.operations
    statement = select(func.max(table.c.ended)).where(
        table.c.node == node, table.c.verb.in_([verb.value for verb in STARTING_VERBS])
    )
    moment: datetime | None = connection.execute(statement).scalar_one()
    return moment


def is_port(table: Table, port: PortName) -> ColumnElement[bool]:
    """Return the condition that a row is about this port."""
    return and_(table.c.switch == port.switch, table.c.port == port.port)


def _found(row: AnyRow | None, what: str) -> AnyRow:
    if row is None:
        raise not_found(what)
    return row


# -- changes -----------------------------------------------------------------------------------------------------------


def put(tx: Transaction, table: Table, name: str, values: Mapping[str, Any]) -> int:
    """Write a row whose key is a name, new or not; return its version, which goes up by one."""
    row = find(tx.connection, table, name)
    if row is None:
        tx.connection.execute(insert(table).values(name=name, version=1, **values))
        return 1
    tx.connection.execute(update(table).where(table.c.name == name).values(version=row.version + 1, **values))
    return int(row.version) + 1


def record(tx: Transaction, actor: str, verb: str, subject: str, project: str | None, **detail: Any) -> None:
    """Write the journal."""
    entry: Detail = detail
    journal.record(tx, actor=actor, verb=verb, subject=subject, project=project, detail=entry)


def bump_ports(tx: Transaction, ports: Iterable[PortName], *, urgent: bool) -> Mapping[PortName, int]:
    """Say that what these ports are to carry has changed; return the count that each has to reach."""
    table = tables.ports
    wanted = {}
    for port in sorted(set(ports)):
        statement = update(table).where(is_port(table, port)).values(wanted=table.c.wanted + 1)
        if urgent:
            statement = statement.values(urgent=True)
        wanted[port] = int(tx.connection.execute(statement.returning(table.c.wanted)).scalar_one())
        tx.wake(f"switch/{port.switch}")
    return wanted


def unconfirmed(connection: Connection, port: PortName) -> Mapping[PortName, int]:
    """Return the count that a port has to reach; empty if it was read back as it is wanted."""
    state = load_port(connection, port)
    return {port: state.wanted} if state.applied < state.wanted else {}


def unwant(tx: Transaction, attachment: Attachment, port: PortName) -> Mapping[PortName, int]:
    """Want an attachment no more; return the count that its port has to reach, after which the row goes."""
    table = tables.attachments
    tx.connection.execute(
        update(table)
        .where(
            table.c.node == attachment.node,
            table.c.nic == attachment.nic,
            table.c.network == attachment.network,
        )
        .values(wanted=False, since=tx.now)
    )
    return bump_ports(tx, (port,), urgent=False)


def order_shut(tx: Transaction, node: Node, *, urgent: bool) -> Mapping[PortName, int]:
    """Want nothing any more of every port of a node, shut already or not; return the count each has to reach.

    Its rows stay until the ports were read to be without them.
    """
    table = tables.attachments
    tx.connection.execute(
        update(table).where(table.c.node == node.name, table.c.wanted).values(wanted=False, since=tx.now)
    )
    return bump_ports(tx, (nic.port for nic in node.nics if nic.port is not None), urgent=urgent)


def move_node(tx: Transaction, node: Node, event: NodeEvent, *, actor: str, why: str, **values: Any) -> Node:
    """Take a node to the state that follows, with other columns as given; return it. Raises WrongState."""
    state = life.after(node.state, event, node.name)
    if state is not NodeState.RELEASING:
        values |= {"release_step": None, "release_to": None, "release_waives": None}
    since = node.since if state is node.state else tx.now
    table = tables.nodes
    tx.connection.execute(
        update(table)
        .where(table.c.name == node.name)
        .values(state=state.value, since=since, why=why, version=table.c.version + 1, **values)
    )
    project = values.get("project") or node.project
    record(tx, actor, f"node.{state.value}", f"node/{node.name}", project, before=node.state.value, why=why)
    tx.wake(f"node/{node.name}")
    tx.wake("nodes")
    return load_node(tx.connection, node.name)


def forget_console(tx: Transaction, node: str) -> None:
    """Close a node's serial line, and forget what was said on it."""
    for table in (tables.console_input, tables.console_output, tables.consoles):
        tx.connection.execute(delete(table).where(table.c.node == node))
    tx.wake("consoles")


# -- operations --------------------------------------------------------------------------------------------------------


def begin_operation(
    tx: Transaction,
    verb: Verb,
    node: Node,
    *,
    actor: str,
    limit: timedelta,
    parameters: Mapping[str, str],
    waits_for: Mapping[PortName, int] | None = None,
) -> Operation:
    """Write down work to be done; return it.

    waits_for  what an operation on ports waits for; done at once when it is nothing. None: it is work for the BMC.
    """
    done = waits_for is not None and not waits_for
    operation = Operation(
        # Names sort as they were created, to the millisecond.
        id=f"{int(tx.now.timestamp() * 1000):012x}{secrets.token_hex(8)}",
        verb=verb,
        node=node.name,
        project=node.project,
        actor=actor,
        state=OperationState.DONE if done else OperationState.PENDING,
        created=tx.now,
        deadline=tx.now + limit,
        ended=tx.now if done else None,
        parameters=dict(parameters),
        progress="done" if done else _waiting(waits_for or {}),
    )
    values = {field.name: getattr(operation, field.name) for field in fields(operation)}
    values |= {"verb": verb.value, "state": operation.state.value, "step": ""}
    tx.connection.execute(insert(tables.operations).values(values))
    if waits_for:
        rows = [
            {"operation": operation.id, "switch": port.switch, "port": port.port, "wanted": wanted}
            for port, wanted in waits_for.items()
        ]
        tx.connection.execute(insert(tables.operation_ports), rows)
    if waits_for is None:
        tx.wake(f"node/{node.name}")
        tx.wake("nodes")
    return operation


def end_operation(
    tx: Transaction,
    operation: Operation,
    state: OperationState,
    *,
    actor: str,
    progress: str,
    failure: SteelyardError | None = None,
) -> bool:
    """End an operation; return whether it had not ended before, in which case nothing is changed."""
    table = tables.operations
    told = None
    if failure is not None:
        told = {"code": failure.code, "doing": failure.doing, "expected": failure.expected, "found": failure.found}
    ended = tx.connection.execute(
        update(table)
        .where(table.c.id == operation.id, table.c.state.in_(LIVE))
        .values(state=state.value, ended=tx.now, progress=progress, failure=told)
    )
    if ended.rowcount == 0:
        return False
    tx.connection.execute(delete(tables.operation_ports).where(tables.operation_ports.c.operation == operation.id))
    subject = f"operation/{operation.id}"
    detail = {"verb": operation.verb.value, "node": operation.node, "progress": progress, **(told or {})}
    journal.record(
        tx, actor=actor, verb=f"operation.{state.value}", subject=subject, project=operation.project, detail=detail
    )
    tx.wake(subject)
    return True


def cancel_operation(tx: Transaction, operation: Operation, *, actor: str, why: str) -> None:
    """End an operation that is not to go on; one that has ended stays as it is."""
    end_operation(tx, operation, OperationState.CANCELLED, actor=actor, progress=why)


def end_operations_on(
    tx: Transaction,
    attachment: tuple[str, str, str],
    verb: Verb,
    state: OperationState,
    *,
    actor: str,
    progress: str,
    failure: SteelyardError | None = None,
) -> None:
    """End every live ATTACH or DETACH of one (node, nic, network): what it waits for will not come about."""
    node, nic, network = attachment
    for operation in live_operations(tx.connection, node, (verb,)):
        if (operation.parameters["nic"], operation.parameters["network"]) == (nic, network):
            end_operation(tx, operation, state, actor=actor, progress=progress, failure=failure)


def _waiting(waits_for: Mapping[PortName, int]) -> str:
    ports = ", ".join(f"{port.switch}/{port.port}" for port in sorted(waits_for))
    return f"waiting for port {ports}" if ports else "waiting for its turn"


# -- credentials -------------------------------------------------------------------------------------------------------


def seal(sealer: Sealer, context: str, credentials: Mapping[str, Secret]) -> bytes:
    """Return a device's credentials as they are stored; `context` is "switch/NAME" or "node/NAME"."""
    clear = {name: secret.reveal().decode() for name, secret in credentials.items()}
    return sealer.seal(context, Secret(json.dumps(clear, sort_keys=True).encode()))


def unseal(sealer: Sealer, context: str, sealed: bytes) -> Mapping[str, Secret]:
    """Return a device's credentials. Raises ServiceUnready when no key opens them."""
    clear: dict[str, str] = json.loads(sealer.open(context, sealed).reveal())
    return {name: Secret(value.encode()) for name, value in clear.items()}
