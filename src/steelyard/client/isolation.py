"""Each call of the isolation service, said once. `Client.ask(attach("n1", "eth0", "lab"))` makes it.

What takes longer than an answer returns an Operation, to be waited for. `seconds` is how long an operation may take
before it fails; what it wanted of a switch stays wanted.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Final

from steelyard.client.call import Call, Page, deleting, given, listing, nothing, path, putting, reading, waiting
from steelyard.client.codec import Json
from steelyard.client.objects import (
    Allocation,
    Attachment,
    AuditEntry,
    AuditHead,
    ConsoleOutput,
    Device,
    Hold,
    Identity,
    Network,
    Nic,
    Node,
    Operation,
    Port,
    PortName,
    Project,
    Rack,
    Switch,
    VerdictAdmission,
)
from steelyard.model.secret import Secret

Credentials = Mapping[str, Secret]

SECONDS: Final = 300
"""How long an operation may take, if nothing else is said."""


# -- projects ----------------------------------------------------------------------------------------------------------


def list_projects() -> Call[Page[Project]]:
    """Ask for the projects that the caller sees."""
    return listing("listing projects", path("projects"), Project)


def read_project(name: str) -> Call[Project]:
    """Ask for a project."""
    doing = f"looking for project {name}"
    return Call(doing, "GET", path("projects", name), reading(Project, doing))


def put_project(name: str, *, node_quota: int, network_quota: int, version: int | None = None) -> Call[Project]:
    """Make a project, or change its quotas."""
    doing = f"writing project {name}"
    body: Json = {"node_quota": node_quota, "network_quota": network_quota}
    return putting(doing, path("projects", name), body, reading(Project, doing), version)


def delete_project(name: str) -> Call[None]:
    """Take a project away; it has no nodes and owns no networks."""
    return deleting(f"deleting project {name}", path("projects", name))


def allocate(
    project: str,
    name: str,
    count: int,
    *,
    labels: Mapping[str, str] | None = None,
    nodes: Sequence[str] | None = None,
) -> Call[Allocation]:
    """Take `count` free nodes that have these labels (or these nodes), all or none.

    name  the allocation's, chosen by the caller: the same again gives the same nodes.
    """
    doing = f"allocating {count} nodes to {project} as {name}"
    body: Json = {"count": count, "labels": dict(labels or {}), "nodes": None if nodes is None else list(nodes)}
    return putting(doing, path("projects", project, "allocations", name), body, reading(Allocation, doing))


def read_allocation(project: str, name: str) -> Call[Allocation]:
    """Ask which nodes an allocation still holds."""
    doing = f"looking for allocation {name} of {project}"
    return Call(doing, "GET", path("projects", project, "allocations", name), reading(Allocation, doing))


# -- nodes -------------------------------------------------------------------------------------------------------------


def list_nodes(
    *,
    state: str | None = None,
    project: str | None = None,
    labels: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> Call[Page[Node]]:
    """Ask for the nodes that the caller sees: all, or those in a state, of a project, with all of these labels."""
    wanted = tuple(("label", f"{name}={value}") for name, value in sorted((labels or {}).items()))
    return listing("listing nodes", path("nodes"), Node, given(state=state, project=project, limit=limit) + wanted)


def read_node(name: str) -> Call[Node]:
    """Ask for a node."""
    doing = f"looking for node {name}"
    return Call(doing, "GET", path("nodes", name), reading(Node, doing))


def put_node(
    name: str,
    *,
    bmc: Device,
    credentials: Credentials | None,
    labels: Mapping[str, str],
    hardware: Mapping[str, str],
    identity: Identity,
    version: int | None = None,
) -> Call[Node]:
    """Register a node, or change what is registered. `credentials` None keeps those that the service has."""
    doing = f"writing node {name}"
    body: Json = {
        "labels": dict(labels),
        "hardware": dict(hardware),
        "identity": asdict(identity),
        "bmc": {"driver": bmc.driver, "address": dict(bmc.address), "credentials": _revealed(credentials)},
    }
    return putting(doing, path("nodes", name), body, reading(Node, doing), version)


def delete_node(name: str) -> Call[None]:
    """Take a node out of the rack."""
    return deleting(f"deleting node {name}", path("nodes", name))


def put_nic(node: str, name: str, *, mac: str, port: PortName | None) -> Call[Nic]:
    """Register a NIC, and at which port its cable ends; None: at none."""
    doing = f"writing NIC {name} of node {node}"
    body: Json = {"mac": mac, "port": None if port is None else asdict(port)}
    return putting(doing, path("nodes", node, "nics", name), body, reading(Nic, doing))


def delete_nic(node: str, name: str) -> Call[None]:
    """Take a NIC out of a node."""
    return deleting(f"deleting NIC {name} of node {node}", path("nodes", node, "nics", name))


def list_attachments(*, node: str | None = None, network: str | None = None) -> Call[Page[Attachment]]:
    """Ask what is on which network: of a node, or on a network."""
    return listing("listing attachments", path("attachments"), Attachment, given(node=node, network=network))


def attach(
    node: str, nic: str, network: str, *, tagged: bool = False, verdict: str | None = None, seconds: int = SECONDS
) -> Call[Operation]:
    """Put a NIC on a network; the operation is done when the switch was read to carry it.

    verdict  the signed word that admits the node, where the network asks for one (a JWT).
    """
    doing = f"attaching {nic} of {node} to {network}"
    body: Json = {"tagged": tagged, "verdict": verdict, "seconds": seconds}
    return putting(doing, path("nodes", node, "nics", nic, "attachments", network), body, reading(Operation, doing))


def detach(node: str, nic: str, network: str, *, seconds: int = SECONDS) -> Call[Operation]:
    """Take a NIC off a network; done when the switch was read to be without it."""
    doing = f"detaching {nic} of {node} from {network}"
    where = path("nodes", node, "nics", nic, "attachments", network)
    return Call(doing, "DELETE", where, reading(Operation, doing), query=given(seconds=seconds))


def power(node: str, verb: str, *, seconds: int = SECONDS) -> Call[Operation]:
    """Switch a node "on" or "off", off and on again ("cycle"), ask it to go off ("soft"), or "read" its power."""
    doing = f"power {verb} of node {node}"
    body: Json = {"verb": verb, "seconds": seconds}
    # A cycle asked for twice would be two.
    return Call(doing, "PUT", path("nodes", node, "power"), reading(Operation, doing), body=body, repeatable=False)


def set_boot_device(node: str, device: str, *, once: bool = False, seconds: int = SECONDS) -> Call[Operation]:
    """Let a node start from "network", "disk" or its "default"; the next time only, or always."""
    doing = f"setting the boot device of node {node}"
    body: Json = {"device": device, "once": once, "seconds": seconds}
    return putting(doing, path("nodes", node, "boot-device"), body, reading(Operation, doing))


def quarantine(node: str, why: str, *, seconds: int = SECONDS) -> Call[Operation]:
    """Cut every port of a node now, ahead of every queue. Only a release leads out."""
    doing = f"quarantining node {node}"
    body: Json = {"why": why, "seconds": seconds}
    return putting(doing, path("nodes", node, "quarantine"), body, reading(Operation, doing))


def release(
    node: str, *, to: str = "free", why: str = "given back", waives: Sequence[str] = (), seconds: int = SECONDS
) -> Call[Operation]:
    """Give a node back: off, cut off, both read back, then free.

    to      "free"; the provider also "maintenance" or "rejected".
    waives  of the provider alone, what need not be confirmed: "power", "ports", "holds". Never to "free".
    """
    doing = f"releasing node {node}"
    body: Json = {"to": to, "why": why, "waives": list(waives), "seconds": seconds}
    return putting(doing, path("nodes", node, "release"), body, reading(Operation, doing))


def keep_for_maintenance(node: str, why: str) -> Call[Node]:
    """Take a free node out of what can be allocated."""
    doing = f"keeping node {node} for maintenance"
    return putting(doing, path("nodes", node, "maintenance"), {"why": why}, reading(Node, doing))


def reject_node(node: str, why: str) -> Call[Node]:
    """Take a node out for repair."""
    doing = f"rejecting node {node}"
    return putting(doing, path("nodes", node, "reject"), {"why": why}, reading(Node, doing))


def list_holds(node: str) -> Call[Page[Hold]]:
    """Ask what keeps a node from becoming free."""
    return listing(f"listing the holds of {node}", path("nodes", node, "holds"), Hold)


def place_hold(node: str, name: str, why: str) -> Call[Hold]:
    """Keep a node from becoming free until this is lifted: something of its holder is still with it."""
    doing = f"placing hold {name} on node {node}"
    return putting(doing, path("nodes", node, "holds", name), {"why": why}, reading(Hold, doing))


def lift_hold(node: str, name: str) -> Call[None]:
    """Take a hold off."""
    return deleting(f"lifting hold {name} of node {node}", path("nodes", node, "holds", name))


# -- consoles ----------------------------------------------------------------------------------------------------------


def open_console(node: str) -> Call[None]:
    """Have a node's serial line recorded, if it is not already."""
    return putting(f"opening the console of {node}", path("nodes", node, "console"), None, nothing)


def close_console(node: str) -> Call[None]:
    """End the recording, and delete it."""
    return deleting(f"closing the console of {node}", path("nodes", node, "console"))


def read_console(node: str, offset: int, *, wait_seconds: int = 0) -> Call[ConsoleOutput]:
    """Ask what a node said from an offset on; wait for something new if there is nothing."""
    doing = f"reading the console of {node}"
    query = given(offset=offset, wait=waiting(wait_seconds))
    where = path("nodes", node, "console")
    return Call(doing, "GET", where, reading(ConsoleOutput, doing), query=query, wait_seconds=wait_seconds)


def write_console(node: str, keys: bytes) -> Call[None]:
    """Press keys at a node's serial line."""
    body: Json = {"keys": base64.b64encode(keys).decode("ascii")}
    where = path("nodes", node, "console", "keys")
    return Call(f"writing to the console of {node}", "POST", where, nothing, body=body, repeatable=False)


# -- switches and ports ------------------------------------------------------------------------------------------------


def list_switches() -> Call[Page[Switch]]:
    """Ask for the switches."""
    return listing("listing switches", path("switches"), Switch)


def read_switch(name: str) -> Call[Switch]:
    """Ask for a switch."""
    doing = f"looking for switch {name}"
    return Call(doing, "GET", path("switches", name), reading(Switch, doing))


def put_switch(
    name: str,
    *,
    driver: str,
    address: Mapping[str, str],
    credentials: Credentials | None,
    version: int | None = None,
) -> Call[Switch]:
    """Register a switch, or change how it is reached. `credentials` None keeps those that the service has."""
    doing = f"writing switch {name}"
    body: Json = {"driver": driver, "address": dict(address), "credentials": _revealed(credentials)}
    return putting(doing, path("switches", name), body, reading(Switch, doing), version)


def delete_switch(name: str) -> Call[None]:
    """Take a switch out; it has no ports left."""
    return deleting(f"deleting switch {name}", path("switches", name))


def list_ports(switch: str) -> Call[Page[Port]]:
    """Ask for a switch's ports, and what each was last read to carry."""
    return listing(f"listing the ports of {switch}", path("switches", switch, "ports"), Port)


def put_port(switch: str, port: str) -> Call[Port]:
    """Take charge of a port: it is shut, and read back."""
    doing = f"writing port {port} of {switch}"
    return putting(doing, path("switches", switch, "ports", port), None, reading(Port, doing))


def delete_port(switch: str, port: str) -> Call[None]:
    """Leave a port alone from now on; no NIC is plugged into it."""
    return deleting(f"deleting port {port} of {switch}", path("switches", switch, "ports", port))


# -- networks ----------------------------------------------------------------------------------------------------------


def list_networks(*, owner: str | None = None) -> Call[Page[Network]]:
    """Ask for the networks that the caller may use."""
    return listing("listing networks", path("networks"), Network, given(owner=owner))


def read_network(name: str) -> Call[Network]:
    """Ask for a network."""
    doing = f"looking for network {name}"
    return Call(doing, "GET", path("networks", name), reading(Network, doing))


def put_network(
    name: str,
    *,
    owner: str | None,
    sharing: str = "private",
    shared_with: Sequence[str] = (),
    vlan: int | None = None,
    members: str = "together",
    admission: VerdictAdmission | None = None,
    version: int | None = None,
) -> Call[Network]:
    """Make a network, or change whom it is shared with.

    owner  a project; None: the provider's.
    vlan   None: one of the pool, or the one that it has.
    """
    doing = f"writing network {name}"
    body: Json = {
        "owner": owner,
        "sharing": sharing,
        "shared_with": list(shared_with),
        "vlan": vlan,
        "members": members,
        "admission": None if admission is None else asdict(admission),
    }
    return putting(doing, path("networks", name), body, reading(Network, doing), version)


def delete_network(name: str) -> Call[None]:
    """Take a network away; nothing is attached, or still being taken off."""
    return deleting(f"deleting network {name}", path("networks", name))


# -- operations --------------------------------------------------------------------------------------------------------


def list_operations(
    *, node: str | None = None, project: str | None = None, verb: str | None = None, state: str | None = None
) -> Call[Page[Operation]]:
    """Ask for operations, the oldest first."""
    query = given(node=node, project=project, verb=verb, state=state)
    return listing("listing operations", path("operations"), Operation, query)


def read_operation(identifier: str, *, wait_seconds: int = 0) -> Call[Operation]:
    """Ask how far an operation is; wait for its end as long as given."""
    doing = f"looking for operation {identifier}"
    where = path("operations", identifier)
    query = given(wait=waiting(wait_seconds))
    return Call(doing, "GET", where, reading(Operation, doing), query=query, wait_seconds=wait_seconds)


def cancel_operation(identifier: str) -> Call[Operation]:
    """Give an operation up, where that is possible."""
    doing = f"cancelling operation {identifier}"
    return Call(doing, "DELETE", path("operations", identifier), reading(Operation, doing))


# -- audit, events, the rack -------------------------------------------------------------------------------------------


def list_audit(*, after: int = 0, limit: int | None = None) -> Call[Page[AuditEntry]]:
    """Ask for the audit log after an entry, the oldest first; of what the caller may not see, the digests."""
    return listing("reading the audit log", path("audit"), AuditEntry, given(after=after, limit=limit))


def read_audit_head() -> Call[AuditHead]:
    """Ask for the last entry's number and the chain's value after it."""
    doing = "reading the head of the audit log"
    return Call(doing, "GET", path("audit", "head"), reading(AuditHead, doing))


def follow_events(after: int | None) -> Call[None]:
    """Ask for the event stream, after an entry, or from now on."""
    return Call("following events", "GET", path("events"), nothing, query=given(after=after))


def import_inventory(document: Json) -> Call[Rack]:
    """Register a whole rack: what is in the file that `steelyard lab up` writes. Twice is as good as once."""
    doing = "importing an inventory"
    return putting(doing, path("inventory"), document, reading(Rack, doing))


def read_health() -> Call[None]:
    """Ask whether the service works; needs no token."""
    return Call("asking for the service's health", "GET", path("health"), nothing)


# -- parts of calls ----------------------------------------------------------------------------------------------------


def _revealed(credentials: Credentials | None) -> Json:
    if credentials is None:
        return None
    return {name: secret.reveal().decode() for name, secret in credentials.items()}
