"""What a caller may see: one thing by name, or a page of them in order of their names.

What belongs to other projects looks as if it did not exist. A page takes the names after `after`, at most `limit`; its
last name is the next `after`. Nothing here asks the database once per row.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Table, and_, false, or_, select, true, tuple_

from steelyard.isolation import rules, store, tables
from steelyard.isolation.life import NodeState
from steelyard.isolation.objects import (
    Attachment,
    Hold,
    Identity,
    Network,
    Nic,
    Node,
    Operation,
    OperationState,
    PortState,
    Project,
    Release,
    SharedWith,
    Switch,
    Verb,
)
from steelyard.isolation.ports import Power
from steelyard.model.errors import WrongUse
from steelyard.model.limits import PAGE_ROWS
from steelyard.service.authority import Caller, Right, not_found


@dataclass(frozen=True, slots=True)
class BmcView:
    """How a BMC is reached; its credentials are never told."""

    driver: str
    address: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node as one caller may see it. Of a free node a tenant sees what it needs to choose; the rest is empty.

    bmc  None: not for this caller.
    """

    name: str
    state: NodeState
    since: datetime
    why: str
    project: str | None
    labels: Mapping[str, str]
    hardware: Mapping[str, str]
    identity: Identity
    nics: tuple[Nic, ...]
    allocation: str | None
    allocated_at: datetime | None
    power: Power | None
    trouble: str | None
    release: Release | None
    version: int
    bmc: BmcView | None


# -- projects ----------------------------------------------------------------------------------------------------------


def get_project(connection: Connection, caller: Caller, name: str) -> Project:
    """Return a project the caller has a role in. Raises NotFound."""
    caller.must_see(name, f"project {name}")
    return store.load_project(connection, name)


def list_projects(connection: Connection, caller: Caller, *, after: str | None, limit: int) -> tuple[Project, ...]:
    """Return a page of the projects the caller has a role in. Raises WrongUse."""
    table = tables.projects
    rows = connection.execute(_page(table, after, limit).where(_of(caller, table.c.name)))
    return tuple(store.project_of(row) for row in rows)


# -- nodes -------------------------------------------------------------------------------------------------------------


def get_node(connection: Connection, caller: Caller, name: str) -> NodeView:
    """Return a node: a free one, or one of the caller's projects'. Raises NotFound."""
    node = store.load_node(connection, name)
    if node.state is not NodeState.FREE or Right.READ not in caller.rights:
        caller.must_see(node.project, f"node {name}")
    return view_of(node, caller)


def list_nodes(
    connection: Connection,
    caller: Caller,
    *,
    state: NodeState | None,
    project: str | None,
    labels: Mapping[str, str],
    after: str | None,
    limit: int,
) -> tuple[NodeView, ...]:
    """Return a page of nodes that are in `state`, of `project`, and have all `labels`; None: any. Raises WrongUse."""
    table = tables.nodes
    rules.check_words(labels, "label")
    free = table.c.state == NodeState.FREE.value if Right.READ in caller.rights else false()
    statement = _page(table, after, limit).where(or_(_of(caller, table.c.project), free), *store.labelled(labels))
    if state is not None:
        statement = statement.where(table.c.state == state.value)
    if project is not None:
        statement = statement.where(table.c.project == project)
    rows = connection.execute(statement).all()
    nics = store.nics_of(connection, [row.name for row in rows])
    return tuple(view_of(store.node_of(row, nics.get(row.name, ())), caller) for row in rows)


def get_allocation(connection: Connection, caller: Caller, project: str, allocation: str) -> tuple[NodeView, ...]:
    """Return the nodes that a project still has of an allocation, by name. Raises NotFound."""
    caller.must_see(project, f"project {project}")
    table = tables.nodes
    rows = connection.execute(
        select(table).where(table.c.project == project, table.c.allocation == allocation).order_by(table.c.name)
    ).all()
    if not rows:
        raise not_found(f"allocation {allocation} of project {project}")
    nics = store.nics_of(connection, [row.name for row in rows])
    return tuple(view_of(store.node_of(row, nics.get(row.name, ())), caller) for row in rows)


def list_holds(connection: Connection, caller: Caller, *, node: str) -> tuple[Hold, ...]:
    """Return what a release of this node would wait for. Raises NotFound."""
    caller.must_see(store.load_node(connection, node).project, f"node {node}")
    rows = connection.execute(select(tables.holds).where(tables.holds.c.node == node).order_by(tables.holds.c.name))
    return tuple(store.hold_of(row) for row in rows)


def view_of(node: Node, caller: Caller) -> NodeView:
    """Return what the caller may see of a node that it may know of."""
    ours = caller.sees(node.project)
    return NodeView(
        name=node.name,
        state=node.state,
        since=node.since,
        why=node.why if ours else "",
        project=node.project,
        labels=node.labels,
        hardware=node.hardware,
        identity=node.identity,
        nics=node.nics if ours else (),
        allocation=node.allocation,
        allocated_at=node.allocated_at,
        power=node.power if ours else None,
        trouble=node.trouble if ours else None,
        release=node.release,
        version=node.version,
        bmc=BmcView(node.bmc_driver, node.bmc_address) if caller.sees_all() else None,
    )


# -- switches and ports ------------------------------------------------------------------------------------------------


def get_switch(connection: Connection, caller: Caller, name: str) -> Switch:
    """Return a switch; for providers and auditors. Raises NotFound."""
    caller.must_see(None, f"switch {name}")
    return store.load_switch(connection, name)


def list_switches(connection: Connection, caller: Caller, *, after: str | None, limit: int) -> tuple[Switch, ...]:
    """Return a page of switches; for providers and auditors, empty for others. Raises WrongUse."""
    rows = connection.execute(_page(tables.switches, after, limit)) if caller.sees(None) else ()
    return tuple(store.switch_of(row) for row in rows)


def list_ports(
    connection: Connection, caller: Caller, *, switch: str, after: str | None, limit: int
) -> tuple[PortState, ...]:
    """Return a page of a switch's ports; for providers and auditors. Raises NotFound, WrongUse."""
    get_switch(connection, caller, switch)
    table = tables.ports
    statement = select(table).where(table.c.switch == switch, table.c.port > (after or ""))
    return tuple(store.port_of(row) for row in connection.execute(statement.order_by(table.c.port).limit(_rows(limit))))


# -- networks ----------------------------------------------------------------------------------------------------------


def get_network(connection: Connection, caller: Caller, name: str) -> Network:
    """Return a network that one of the caller's projects may use. Raises NotFound."""
    found = store.load_networks(connection, tables.networks.c.name == name, _usable(caller))
    if not found:
        raise not_found(f"network {name}")
    return _shown(found[0], caller)


def list_networks(
    connection: Connection, caller: Caller, *, owner: str | None, after: str | None, limit: int
) -> tuple[Network, ...]:
    """Return a page of networks that the caller's projects may use, of one owner; None: any. Raises WrongUse."""
    table = tables.networks
    of_owner = true() if owner is None else table.c.owner == owner
    where = (_usable(caller), of_owner, table.c.name > (after or ""))
    return tuple(_shown(network, caller) for network in store.load_networks(connection, *where, limit=_rows(limit)))


def list_attachments(
    connection: Connection,
    caller: Caller,
    *,
    node: str | None,
    network: str | None,
    after: tuple[str, str, str] | None,
    limit: int,
) -> tuple[Attachment, ...]:
    """Return a page of attachments, every NIC of every node, in order of (node, nic, network).

    Those of nodes of the caller's projects, and for the owner of a network all on it. `wanted` False: being taken off.
    Raises WrongUse.
    """
    table, nodes, networks = tables.attachments, tables.nodes, tables.networks
    key = (table.c.node, table.c.nic, table.c.network)
    statement = (
        select(table)
        .join(nodes, nodes.c.name == table.c.node)
        .join(networks, networks.c.name == table.c.network)
        .where(or_(_of(caller, nodes.c.project), _of(caller, networks.c.owner)))
    )
    if node is not None:
        statement = statement.where(table.c.node == node)
    if network is not None:
        statement = statement.where(table.c.network == network)
    if after is not None:
        statement = statement.where(tuple_(*key) > tuple_(*after))
    return tuple(store.attachment_of(row) for row in connection.execute(statement.order_by(*key).limit(_rows(limit))))


def _usable(caller: Caller) -> ColumnElement[bool]:
    table = tables.networks
    if Right.READ not in caller.rights:
        return false()
    public = table.c.sharing == "public"
    return or_(
        _of(caller, table.c.owner), public, and_(table.c.sharing == "shared", store.shared_with(list(caller.roles)))
    )


def _shown(network: Network, caller: Caller) -> Network:
    """Tell those with whom it is shared nothing of the others with whom it is."""
    if caller.sees(network.owner) or not isinstance(network.sharing, SharedWith):
        return network
    return replace(network, sharing=SharedWith(network.sharing.projects & caller.roles.keys()))


# -- operations --------------------------------------------------------------------------------------------------------


def get_operation(connection: Connection, caller: Caller, id: str) -> Operation:  # noqa: A002 (the operation's field)
    """Return an operation of one of the caller's projects. Raises NotFound."""
    operation = store.load_operation(connection, id)
    caller.must_see(operation.project, f"operation {id}")
    return operation


def list_operations(
    connection: Connection,
    caller: Caller,
    *,
    node: str | None,
    project: str | None,
    verb: Verb | None,
    state: OperationState | None,
    after: str | None,
    limit: int,
) -> tuple[Operation, ...]:
    """Return a page of operations, oldest first; None: any. Raises WrongUse."""
    table = tables.operations
    wanted = {"node": node, "project": project, "verb": verb and verb.value, "state": state and state.value}
    where = [table.c[column] == value for column, value in wanted.items() if value is not None]
    statement = select(table).where(_of(caller, table.c.project), table.c.id > (after or ""), *where)
    return tuple(
        store.operation_of(row) for row in connection.execute(statement.order_by(table.c.id).limit(_rows(limit)))
    )


# -- what these have in common -----------------------------------------------------------------------------------------


def _of(caller: Caller, project: ColumnElement[str | None]) -> ColumnElement[bool]:
    """Return the condition that something belongs to a project that the caller sees."""
    if caller.sees_all():
        return true()
    return project.in_(list(caller.roles)) if Right.READ in caller.rights else false()


def _page(table: Table, after: str | None, limit: int) -> Select[Any]:
    return select(table).where(table.c.name > (after or "")).order_by(table.c.name).limit(_rows(limit))


def _rows(limit: int) -> int:
    if not 1 <= limit <= PAGE_ROWS.most:
        raise WrongUse("asking for a page", expected=f"1 to {PAGE_ROWS.most} rows", found=f"{limit}")
    return limit
