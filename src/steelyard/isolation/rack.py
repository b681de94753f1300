"""What the provider registers: projects, switches, ports, nodes, their cables. Every verb here is the provider's.

`expected_version` everywhere: 0, it must not be there yet (AlreadyThere); None, whatever it is; else the version that
the caller last saw (Changed). What is put as it is already changes nothing.
"""

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import ColumnElement, Table, delete, exists, insert, select, update

from steelyard.isolation import networks, rules, store, tables
from steelyard.isolation.life import NodeState
from steelyard.isolation.objects import Identity, Nic, Node, PortName, PortState, Project, Switch
from steelyard.isolation.ports import Access, Drivers
from steelyard.model import inventory as rack
from steelyard.model.errors import AlreadyThere, InUse, ServiceUnready, WrongState, WrongUse
from steelyard.model.limits import DEVICE_SETTING_BYTES, DEVICE_SETTINGS, QUOTA
from steelyard.model.names import check_name, check_port_name
from steelyard.model.network import MacAddress
from steelyard.model.secret import Secret
from steelyard.service import accounts
from steelyard.service.authority import Caller
from steelyard.service.database import Transaction
from steelyard.service.sealing import Sealer

NEW: Final = "new: to be released before anyone gets it"
"""Why a node that was just registered is in maintenance."""


# -- projects ----------------------------------------------------------------------------------------------------------


def put_project(
    tx: Transaction, caller: Caller, *, name: str, node_quota: int, network_quota: int, expected_version: int | None
) -> Project:
    """Make a project, or change its quotas. Raises NotAllowed, WrongUse, TooLarge, AlreadyThere, Changed."""
    caller.must_provide(f"registering project {check_name(name, 'project')}")
    row = store.find(tx.connection, tables.projects, name)
    before = None if row is None else store.project_of(row)
    rules.check_version(f"project {name}", before.version if before else None, expected_version)
    for quota in (node_quota, network_quota):
        if not 0 <= quota <= QUOTA.most:
            raise WrongUse(f"registering project {name}", expected=f"quotas of 0 to {QUOTA.most}", found=f"{quota}")
    values = {"node_quota": node_quota, "network_quota": network_quota}
    if before is None or (before.node_quota, before.network_quota) != (node_quota, network_quota):
        store.put(tx, tables.projects, name, values)
        store.record(tx, caller.name, "project.registered", f"project/{name}", name, **values)
    return store.load_project(tx.connection, name)


def delete_project(tx: Transaction, caller: Caller, *, name: str, expected_version: int | None) -> None:
    """Forget a project without nodes and networks, and all that was given to it.

    Raises NotAllowed, NotFound, Changed, InUse.
    """
    caller.must_provide(f"deleting project {name}")
    project = store.load_project(tx.connection, name)
    rules.check_version(f"project {name}", project.version, expected_version)
    _refuse(tx, f"project {name}", "nodes", tables.nodes, tables.nodes.c.project == name)
    _refuse(tx, f"project {name}", "networks", tables.networks, tables.networks.c.owner == name)
    networks.forget_project(tx, caller, name)
    accounts.forget_project(tx, name)
    tx.connection.execute(delete(tables.projects).where(tables.projects.c.name == name))
    store.record(tx, caller.name, "project.deleted", f"project/{name}", name)


# -- switches and ports ------------------------------------------------------------------------------------------------


def put_switch(
    tx: Transaction,
    caller: Caller,
    sealer: Sealer,
    drivers: Drivers,
    *,
    name: str,
    driver: str,
    address: Mapping[str, str],
    credentials: Mapping[str, Secret] | None,
    expected_version: int | None,
) -> Switch:
    """Register a switch, or change how it is reached. `credentials` None: as they are.

    Raises NotAllowed, WrongUse, TooLarge, AlreadyThere, Changed.
    """
    context = f"switch/{check_name(name, 'switch')}"
    caller.must_provide(f"registering switch {name}")
    row = store.find(tx.connection, tables.switches, name)
    rules.check_version(f"switch {name}", None if row is None else row.version, expected_version)
    known = _open(sealer, context, None if row is None else row.sealed)
    access = Access(dict(address), known or {} if credentials is None else credentials)
    _check_access(access, driver, drivers.switches, context)
    if row is None or (row.driver, row.address) != (driver, access.address) or known != access.credentials:
        sealed = store.seal(sealer, context, access.credentials)
        values = {"driver": driver, "address": access.address, "sealed": sealed, "trouble": None}
        store.put(tx, tables.switches, name, values)
        # It may be another device that is reached now.
        ports = tx.connection.execute(select(tables.ports.c.port).where(tables.ports.c.switch == name)).scalars()
        store.bump_ports(tx, [PortName(name, port) for port in ports], urgent=False)
        store.record(tx, caller.name, "switch.registered", context, None, driver=driver, address=_shown(address))
        tx.wake(context)
        tx.wake("switches")
    return store.load_switch(tx.connection, name)


def delete_switch(tx: Transaction, caller: Caller, *, name: str, expected_version: int | None) -> None:
    """Forget a switch without ports. Raises NotAllowed, NotFound, Changed, InUse."""
    caller.must_provide(f"deleting switch {name}")
    switch = store.load_switch(tx.connection, name)
    rules.check_version(f"switch {name}", switch.version, expected_version)
    _refuse(tx, f"switch {name}", "ports", tables.ports, tables.ports.c.switch == name)
    tx.connection.execute(delete(tables.switches).where(tables.switches.c.name == name))
    store.record(tx, caller.name, "switch.deleted", f"switch/{name}", None)
    tx.wake(f"switch/{name}")
    tx.wake("switches")


def put_port(tx: Transaction, caller: Caller, *, port: PortName) -> PortState:
    """Register a port; from then on it is shut unless something is wanted of it.

    Raises NotAllowed, NotFound, WrongUse.
    """
    caller.must_provide(f"registering port {check_port_name(port.port)} of switch {port.switch}")
    store.load_switch(tx.connection, port.switch)
    table = tables.ports
    if tx.connection.execute(select(table).where(store.is_port(table, port))).one_or_none() is None:
        # One change, none applied: it is shut and read back before anything else.
        values = {"switch": port.switch, "port": port.port, "wanted": 1, "applied": 0, "urgent": False}
        tx.connection.execute(insert(table).values(values))
        store.record(tx, caller.name, "port.registered", f"port/{port.switch}/{port.port}", None)
        tx.wake(f"switch/{port.switch}")
    return store.load_port(tx.connection, port)


def delete_port(tx: Transaction, caller: Caller, *, port: PortName) -> None:
    """Forget a port without a NIC; the switch's port stays as it is. Raises NotAllowed, NotFound, InUse."""
    caller.must_provide(f"deleting port {port.port} of switch {port.switch}")
    store.load_port(tx.connection, port)
    _refuse(tx, f"port {port.port}", "a NIC", tables.nics, store.is_port(tables.nics, port))
    tx.connection.execute(delete(tables.ports).where(store.is_port(tables.ports, port)))
    store.record(tx, caller.name, "port.deleted", f"port/{port.switch}/{port.port}", None)


# -- nodes and their cables --------------------------------------------------------------------------------------------


def put_node(
    tx: Transaction,
    caller: Caller,
    sealer: Sealer,
    drivers: Drivers,
    *,
    name: str,
    labels: Mapping[str, str],
    hardware: Mapping[str, str],
    identity: Identity,
    bmc_driver: str,
    bmc_address: Mapping[str, str],
    bmc_credentials: Mapping[str, Secret] | None,
    expected_version: int | None,
) -> Node:
    """Register a node, in maintenance, or change what is known of it. `bmc_credentials` None: as they are.

    Raises NotAllowed, WrongUse, AlreadyThere, Changed, MalformedCertificate, TooLarge.
    """
    context = f"node/{check_name(name, 'node')}"
    caller.must_provide(f"registering node {name}")
    row = store.find(tx.connection, tables.nodes, name)
    rules.check_version(f"node {name}", None if row is None else row.version, expected_version)
    known = _open(sealer, context, None if row is None else row.bmc_sealed)
    access = Access(dict(bmc_address), known or {} if bmc_credentials is None else bmc_credentials)
    _check_access(access, bmc_driver, drivers.bmcs, context)
    values: dict[str, Any] = {
        "labels": rules.check_words(labels, "label"),
        "hardware": rules.check_words(hardware, "word of hardware"),
        "identity": store.encode_identity(rules.check_identity(identity)),
        "bmc_driver": bmc_driver,
        "bmc_address": access.address,
    }
    changed = sorted(column for column in values if row is None or getattr(row, column) != values[column])
    if changed or known != access.credentials:
        values["bmc_sealed"] = store.seal(sealer, context, access.credentials)
        if row is None:
            values |= {"state": NodeState.MAINTENANCE.value, "since": tx.now, "why": NEW}
        elif (row.bmc_driver, row.bmc_address) != (bmc_driver, access.address):
            values |= {"power": None, "power_read_at": None}  # of another machine, perhaps
        store.put(tx, tables.nodes, name, values)
        project = None if row is None else row.project
        store.record(tx, caller.name, "node.registered", context, project, changed=changed)
        tx.wake(context)
        tx.wake("nodes")
    return store.load_node(tx.connection, name)


def delete_node(tx: Transaction, caller: Caller, *, name: str, expected_version: int | None) -> None:
    """Forget a node that is nobody's. Raises NotAllowed, NotFound, Changed, WrongState, InUse."""
    caller.must_provide(f"deleting node {name}")
    node = store.load_node(tx.connection, name)
    rules.check_version(f"node {name}", node.version, expected_version)
    if node.state not in rules.IDLE:
        raise WrongState(f"deleting node {name}", expected="a node that is nobody's", found=node.state.value)
    _refuse(tx, f"node {name}", "attachments", tables.attachments, tables.attachments.c.node == name)
    _refuse(tx, f"node {name}", "holds", tables.holds, tables.holds.c.node == name)
    store.forget_console(tx, name)
    for operation in store.live_operations(tx.connection, name):
        store.cancel_operation(tx, operation, actor=caller.name, why="the node was deleted")
    tx.connection.execute(delete(tables.nics).where(tables.nics.c.node == name))
    tx.connection.execute(delete(tables.nodes).where(tables.nodes.c.name == name))
    store.record(tx, caller.name, "node.deleted", f"node/{name}", None)


def put_nic(tx: Transaction, caller: Caller, *, node: str, name: str, mac: MacAddress, port: PortName | None) -> Nic:
    """Register a NIC, or where its cable goes. `port` None: nowhere.

    Raises NotAllowed, NotFound, WrongUse, WrongState (plugging in: of a node in maintenance or rejected, whose release
    then reads every port; pulling out: of a node that is nobody's), AlreadyThere (the address, or the port), InUse.
    """
    doing = f"registering {check_name(name, 'NIC')} of node {node}"
    caller.must_provide(doing)
    subject = store.load_node(tx.connection, node)
    before = next((nic for nic in subject.nics if nic.name == name), None)
    nic = Nic(name, mac, port)
    if before == nic:
        return nic
    table = tables.nics
    rules.check_cable(subject, name, before, nic, store.attachments_of(tx.connection, node))
    others = (table.c.node != node) | (table.c.name != name)
    if row := tx.connection.execute(select(table).where(others, table.c.mac == mac.text)).one_or_none():
        raise AlreadyThere(doing, expected=f"no other NIC with {mac}", found=f"{row.name} of node {row.node}")
    if port is not None:
        store.load_port(tx.connection, port)
        if row := tx.connection.execute(select(table).where(others, store.is_port(table, port))).one_or_none():
            found = f"{row.name} of node {row.node}"
            raise AlreadyThere(doing, expected=f"no other NIC plugged into {port.switch}/{port.port}", found=found)
    values = {"mac": mac.text, "switch": port and port.switch, "port": port and port.port}
    if before is None:
        tx.connection.execute(insert(table).values(node=node, name=name, **values))
    else:
        tx.connection.execute(update(table).where(table.c.node == node, table.c.name == name).values(**values))
    _record_cable(tx, caller, subject, name, before, nic)
    return nic


def delete_nic(tx: Transaction, caller: Caller, *, node: str, name: str) -> None:
    """Forget a NIC of a node that is nobody's. Raises NotAllowed, NotFound, WrongState, InUse."""
    caller.must_provide(f"deleting {name} of node {node}")
    subject = store.load_node(tx.connection, node)
    before = rules.find_nic(subject, name)
    rules.check_cable(subject, name, before, None, store.attachments_of(tx.connection, node))
    tx.connection.execute(delete(tables.nics).where(tables.nics.c.node == node, tables.nics.c.name == name))
    _record_cable(tx, caller, subject, name, before, None)


def _record_cable(tx: Transaction, caller: Caller, node: Node, name: str, before: Nic | None, now: Nic | None) -> None:
    table = tables.nodes
    tx.connection.execute(update(table).where(table.c.name == node.name).values(version=table.c.version + 1))
    ports = [nic.port if nic is not None else None for nic in (before, now)]
    # Whatever a port is left with, it is to be read without it.
    store.bump_ports(tx, filter(None, ports), urgent=False)
    pulled, plugged = (None if port is None else f"{port.switch}/{port.port}" for port in ports)
    verb = "nic.registered" if now is not None else "nic.deleted"
    store.record(tx, caller.name, verb, f"node/{node.name}", node.project, nic=name, pulled=pulled, plugged=plugged)


# -- a whole rack ------------------------------------------------------------------------------------------------------


def import_rack(
    tx: Transaction, caller: Caller, sealer: Sealer, drivers: Drivers, *, inventory: rack.Inventory
) -> tuple[Node, ...]:
    """Register everything in a rack's inventory; return its nodes. Doing it again changes nothing.

    What a node is labelled with and referred to by meanwhile stays. Raises as the other verbs do; then nothing was
    registered.
    """
    switch = inventory.switch
    put_switch(
        tx,
        caller,
        sealer,
        drivers,
        name=switch.name,
        driver="openvswitch",
        address={"endpoint": switch.ovsdb[0] if switch.ovsdb else "", "bridge": switch.bridge},
        credentials={},
        expected_version=None,
    )
    return tuple(_import_node(tx, caller, sealer, drivers, node) for node in inventory.nodes)


def _import_node(tx: Transaction, caller: Caller, sealer: Sealer, drivers: Drivers, node: rack.Node) -> Node:
    row = store.find(tx.connection, tables.nodes, node.name)
    before = None if row is None else store.node_of(row, ())
    bmc = node.bmc
    put_node(
        tx,
        caller,
        sealer,
        drivers,
        name=node.name,
        labels=before.labels if before else {},
        hardware={**(before.hardware if before else {}), "uuid": node.uuid},
        identity=Identity(
            node.endorsement_certificates,
            before.identity.endorsement_keys if before else (),
            before.identity.references if before else (),
        ),
        bmc_driver="redfish",
        bmc_address={
            "url": bmc.redfish_url,
            "ca": bmc.ca_certificate,
            "sol_host": bmc.address,
            "sol_port": str(bmc.ipmi_port),
        },
        bmc_credentials={"username": Secret(bmc.username.encode()), "password": bmc.password},
        expected_version=None,
    )
    for nic in node.nics:
        port = PortName(nic.switch, nic.port)
        put_port(tx, caller, port=port)
        put_nic(tx, caller, node=node.name, name=nic.name, mac=MacAddress(nic.mac), port=port)
    return store.load_node(tx.connection, node.name)


# -- what these have in common -----------------------------------------------------------------------------------------


def _check_access(access: Access, driver: str, drivers: Mapping[str, Any], context: str) -> None:
    """Let pass what the driver can use. Raises WrongUse, TooLarge."""
    doing = f"registering {context}"
    if driver not in drivers:
        raise WrongUse(doing, expected=f"a driver: {', '.join(sorted(drivers))}", found=driver)
    sizes = [len(text) for text in access.address.values()]
    sizes += [len(secret.reveal()) for secret in access.credentials.values()]
    rules.check_count(DEVICE_SETTINGS, len(sizes), doing)
    rules.check_count(DEVICE_SETTING_BYTES, max(sizes, default=0), doing)
    drivers[driver](access)


def _open(sealer: Sealer, context: str, sealed: bytes | None) -> Mapping[str, Secret] | None:
    """Return the credentials that are stored; None when there are none, or no key opens them."""
    if sealed is None:
        return None
    try:
        return store.unseal(sealer, context, sealed)
    except ServiceUnready:
        return None  # whoever lost the key has to be able to enter them again


def _shown(address: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(address.items()))[:400]


def _refuse(tx: Transaction, what: str, things: str, table: Table, which: ColumnElement[bool]) -> None:
    if tx.connection.scalar(select(exists().select_from(table).where(which))):
        raise InUse(f"deleting {what}", expected=f"none of {things} on it", found=things)
