"""What may be asked of nodes: allocate, attach, power, quarantine, release. Load, decide by `rules.py`, store, record.

No verb here touches a device: each says what is wanted, and the keepers make it true. A verb that takes longer than an
answer returns an operation. Registering what there is: `rack.py`; networks: `networks.py`; serial lines: `consoles.py`.
"""

from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Final

from sqlalchemy import func, insert, select, update

from steelyard.isolation import admission, rules, store, tables
from steelyard.isolation.life import NodeEvent, NodeState, after
from steelyard.isolation.objects import Hold, Node, Operation, OperationState, PortName, ReleaseStep, Verb
from steelyard.isolation.ports import BootDevice
from steelyard.model.errors import AlreadyThere, NotAllowed, NotEnough, WrongState, WrongUse
from steelyard.model.limits import ALLOCATED_AT_ONCE
from steelyard.model.names import check_name
from steelyard.service.authority import Caller, Right, not_found
from steelyard.service.database import Transaction

_RIGHTS: Final = {Verb.ATTACH: Right.NETWORKS} | dict.fromkeys(rules.POWER_VERBS | {Verb.BOOT_DEVICE}, Right.POWER)
"""The kinds of operation that can be cancelled, and the right it takes."""


# -- who has which node ------------------------------------------------------------------------------------------------


def allocate(
    tx: Transaction,
    caller: Caller,
    *,
    project: str,
    count: int,
    labels: Mapping[str, str],
    allocation: str,
    names: Collection[str] | None = None,
) -> tuple[Node, ...]:
    """Give `count` free and healthy nodes to a project, all or none; return them, by name.

    labels      a node has to have all of these; the first by name are taken.
    allocation  the caller's name for this request; asked again, it returns the same nodes.
    names       these nodes and no others; `count` of them.

    Raises NotAllowed, NotFound, WrongUse, OverQuota, NotEnough, AlreadyThere (the name was used for something else).
    """
    doing = f"allocating {count} nodes to project {project}"
    caller.must_act_for(project, Right.NODES, doing)
    holder = store.load_project(tx.connection, project)
    check_name(allocation, "allocation")
    rules.check_words(labels, "label")
    if not 1 <= count <= ALLOCATED_AT_ONCE.most or (names is not None and len(set(names)) != count):
        expected = f"1 to {ALLOCATED_AT_ONCE.most} nodes, as many as are named"
        raise WrongUse(doing, expected=expected, found=f"{count}")
    table = tables.nodes
    held = tx.connection.execute(select(table).where(table.c.project == project).order_by(table.c.name)).all()
    if taken := [row.name for row in held if row.allocation == allocation]:
        if len(taken) != count or (names is not None and set(taken) != set(names)):
            raise AlreadyThere(doing, expected=f"allocation {allocation} not to be there", found=", ".join(taken))
        return tuple(store.load_node(tx.connection, name) for name in taken)
    rules.check_quota(holder, "nodes", holder.node_quota, len(held), count)
    conditions = [table.c.state == NodeState.FREE.value, table.c.trouble.is_(None), *store.labelled(labels)]
    if names is not None:
        conditions.append(table.c.name.in_(names))
    found = tx.connection.execute(select(table.c.name).where(*conditions).order_by(table.c.name).limit(count))
    chosen = [store.load_node(tx.connection, row.name) for row in found]
    if len(chosen) < count:
        wanted = " ".join(f"{name}={value}" for name, value in sorted(labels.items()))
        found_words = ", ".join(node.name for node in chosen) or "none"
        raise NotEnough(doing, expected=f"{count} free and healthy nodes {wanted}".strip(), found=found_words)
    return tuple(
        store.move_node(
            tx,
            node,
            NodeEvent.ALLOCATE,
            actor=caller.name,
            why=f"allocation {allocation}",
            project=project,
            allocation=allocation,
            allocated_at=tx.now,
        )
        for node in chosen
    )


def quarantine(tx: Transaction, caller: Caller, *, node: str, why: str, limit: timedelta) -> Operation:
    """Cut all of a node's ports, ahead of every queue; only release leads out. Asked again, it cuts again.

    Raises NotAllowed, NotFound, WrongState, WrongUse.
    """
    subject = _reach(tx, caller, node, Right.NODES, f"quarantining node {node}")
    moved = store.move_node(tx, subject, NodeEvent.QUARANTINE, actor=caller.name, why=rules.check_why(why))
    waits_for = store.order_shut(tx, moved, urgent=True)
    _end_pending(tx, caller, moved, "the node was quarantined")
    return store.begin_operation(
        tx,
        Verb.QUARANTINE,
        moved,
        actor=caller.name,
        limit=rules.check_limit(limit),
        parameters={"why": why},
        waits_for=waits_for,
    )


def release(
    tx: Transaction,
    caller: Caller,
    *,
    node: str,
    to: NodeState,
    why: str,
    waives: frozenset[ReleaseStep],
    limit: timedelta,
) -> Operation:
    """Take a node out of everything: off, then cut off, each confirmed; then it goes `to` FREE or REJECTED.

    A release that ended without being confirmed is resumed by asking again; the node goes on meanwhile.

    to      MAINTENANCE too, for the provider.
    waives  POWER, PORTS or HOLDS that the provider, and nobody else, answers for unconfirmed; not on the way to FREE.

    Raises NotAllowed, NotFound, WrongState, WrongUse.
    """
    subject = _reach(tx, caller, node, Right.NODES, f"releasing node {node}")
    rules.check_why(why)
    after(subject.state, NodeEvent.RELEASE, node)
    plan = rules.plan_release(caller, subject, to, waives)
    moved = store.move_node(
        tx,
        subject,
        NodeEvent.RELEASE,
        actor=caller.name,
        why=why,
        release_step=plan.confirmed and plan.confirmed.value,
        release_to=plan.to.value,
        release_waives=sorted(step.value for step in plan.waives),
    )
    _end_pending(tx, caller, moved, "the node is being released")
    store.forget_console(tx, node)
    parameters = {"to": plan.to.value, "why": why, "waives": " ".join(sorted(step.value for step in plan.waives))}
    return store.begin_operation(
        tx, Verb.RELEASE, moved, actor=caller.name, limit=rules.check_limit(limit), parameters=parameters
    )


def hold_node(tx: Transaction, caller: Caller, *, node: str, why: str) -> Node:
    """Take a free or rejected node into maintenance (provider). Raises NotAllowed, NotFound, WrongState."""
    return _set_aside(tx, caller, node, NodeEvent.HOLD, why)


def reject_node(tx: Transaction, caller: Caller, *, node: str, why: str) -> Node:
    """Put a node that is nobody's among the rejected (provider). Raises NotAllowed, NotFound, WrongState."""
    return _set_aside(tx, caller, node, NodeEvent.REJECT, why)


def _set_aside(tx: Transaction, caller: Caller, node: str, event: NodeEvent, why: str) -> Node:
    caller.must_provide(f"{event.value} of node {node}")
    subject = store.load_node(tx.connection, node)
    return store.move_node(tx, subject, event, actor=caller.name, why=rules.check_why(why))


# -- holds: what a release waits for -----------------------------------------------------------------------------------


def place_hold(tx: Transaction, caller: Caller, *, node: str, name: str, why: str) -> Hold:
    """Let a later release of the node wait until this is lifted. Raises NotAllowed, NotFound, WrongState, WrongUse."""
    doing = f"placing hold {name} on node {node}"
    subject = _reach(tx, caller, node, Right.NODES, doing)
    hold = Hold(node, check_name(name, "hold"), caller.name, tx.now, rules.check_why(why))
    table = tables.holds
    before = tx.connection.execute(select(table).where(table.c.node == node, table.c.name == name)).one_or_none()
    if before is not None:
        return store.hold_of(before)
    if subject.state not in (NodeState.ALLOCATED, NodeState.QUARANTINED):
        # On its way out, nothing new may stand in it.
        raise WrongState(doing, expected="a node that is allocated or quarantined", found=subject.state.value)
    rules.check_holds(subject, tx.connection.scalar(select(func.count()).where(table.c.node == node)) or 0)
    tx.connection.execute(
        insert(table).values(node=node, name=name, placed_by=hold.placed_by, placed_at=hold.placed_at, why=why)
    )
    store.record(tx, caller.name, "hold.placed", f"node/{node}", subject.project, hold=name, why=why)
    return hold


def lift_hold(tx: Transaction, caller: Caller, *, node: str, name: str) -> None:
    """Stop waiting for it; nothing if there is no such hold. Raises NotAllowed, NotFound."""
    subject = _reach(tx, caller, node, Right.NODES, f"lifting hold {name} of node {node}")
    table = tables.holds
    if tx.connection.execute(table.delete().where(table.c.node == node, table.c.name == name)).rowcount:
        store.record(tx, caller.name, "hold.lifted", f"node/{node}", subject.project, hold=name)
        tx.wake(f"node/{node}")
        tx.wake("nodes")


# -- networks ----------------------------------------------------------------------------------------------------------


def attach(
    tx: Transaction,
    caller: Caller,
    *,
    node: str,
    nic: str,
    network: str,
    tagged: bool,
    verdict: str | None,
    limit: timedelta,
) -> Operation:
    """Put a NIC on a network; the operation is done when the port was read to carry it.

    tagged   frames carry the VLAN's tag.
    verdict  for a network that demands one: a signed attestation result, docs/formats.md.
    limit    how long until the operation fails; what is wanted stays wanted.

    Asked again, it waits for the same. Raises NotAllowed, NotFound, WrongState, NotAdmitted, MalformedVerdict,
    WrongUse, TooMany.
    """
    doing = f"attaching {nic} of node {node} to network {network}"
    subject = _reach(tx, caller, node, Right.NETWORKS, doing)
    target = store.load_network(tx.connection, network)
    if not rules.may_use(target, subject.project):
        if not rules.may_know(caller, target):
            raise not_found(f"network {network}")
        raise NotAllowed(doing, expected=f"a network for project {subject.project}", found=f"network {network}")
    attached = store.attachments_of(tx.connection, node)
    starting = bool(store.live_operations(tx.connection, node, rules.STARTING_VERBS))
    networks = store.networks_of(tx.connection, attached)
    switches = store.switches_of(tx.connection, network)
    place = rules.plan_attach(rules.Site(subject, nic, target, attached, networks, switches, starting), tagged=tagged)
    not_before = max(filter(None, (subject.allocated_at, store.last_start(tx.connection, node))))
    verdict_at = admission.admit(target, subject, verdict, not_before, tx.now)
    _check_queue(tx, subject, doing)

    row = {"tagged": tagged, "wanted": True, "verdict_at": verdict_at}
    table = tables.attachments
    here = (table.c.node == node, table.c.nic == nic, table.c.network == network)
    if place.before is not None and place.before.wanted:
        if place.before.applied_at is None:  # a fresher verdict lets it wait longer
            tx.connection.execute(update(table).where(*here).values(verdict_at=verdict_at))
        waits_for = store.unconfirmed(tx.connection, place.port)
    else:
        if place.before is None:
            tx.connection.execute(insert(table).values(node=node, nic=nic, network=network, since=tx.now, **row))
        else:
            tx.connection.execute(update(table).where(*here).values(since=tx.now, applied_at=None, **row))
        waits_for = store.bump_ports(tx, (place.port,), urgent=False)
        _overtake(tx, caller, (node, nic, network), Verb.DETACH, "attached again")
    operation = store.begin_operation(
        tx,
        Verb.ATTACH,
        subject,
        actor=caller.name,
        limit=rules.check_limit(limit),
        parameters={"nic": nic, "network": network, "tagged": "yes" if tagged else "no"},
        waits_for=waits_for,
    )
    _record(tx, caller, "attachment.wanted", operation)
    return operation


def detach(tx: Transaction, caller: Caller, *, node: str, nic: str, network: str, limit: timedelta) -> Operation:
    """Take a NIC off a network; the operation is done when the port was read to be without it.

    Asked again, it waits for the same; of a NIC that is not on it, it is done. Raises NotAllowed, NotFound, WrongState,
    WrongUse, TooMany.
    """
    doing = f"detaching {nic} of node {node} from network {network}"
    subject = _reach(tx, caller, node, Right.NETWORKS, doing)
    attached = store.attachments_of(tx.connection, node)
    on_it = any(row.network == network for row in attached)
    if not on_it and not rules.may_use(store.load_network(tx.connection, network), subject.project):
        raise not_found(f"network {network}")
    row = rules.plan_detach(subject, nic, network, attached)
    _check_queue(tx, subject, doing)
    port = rules.find_nic(subject, nic).port
    if port is None:
        waits_for: Mapping[PortName, int] = {}
    elif row is None:
        waits_for = store.unconfirmed(tx.connection, port)
    else:
        waits_for = store.unwant(tx, row, port)
        _overtake(tx, caller, (node, nic, network), Verb.ATTACH, "detached again")
    operation = store.begin_operation(
        tx,
        Verb.DETACH,
        subject,
        actor=caller.name,
        limit=rules.check_limit(limit),
        parameters={"nic": nic, "network": network},
        waits_for=waits_for,
    )
    _record(tx, caller, "attachment.unwanted", operation)
    return operation


# -- power -------------------------------------------------------------------------------------------------------------


def power(tx: Transaction, caller: Caller, *, node: str, verb: Verb, limit: timedelta) -> Operation:
    """Switch a node on or off, or read whether it is on (`verb` is one of POWER_*); done when read back.

    Raises NotAllowed, NotFound, WrongState, WrongUse, TooMany.
    """
    doing = f"{verb.value} of node {node}"
    if verb not in rules.POWER_VERBS:
        raise WrongUse(doing, expected="a verb of power", found=verb.value)
    return _ask_bmc(tx, caller, node, verb, {}, limit)


def set_boot_device(
    tx: Transaction, caller: Caller, *, node: str, device: BootDevice, once: bool, limit: timedelta
) -> Operation:
    """Let the node's next start, or every start, be from there. Raises as `power`."""
    parameters = {"device": device.value, "once": "yes" if once else "no"}
    return _ask_bmc(tx, caller, node, Verb.BOOT_DEVICE, parameters, limit)


def _ask_bmc(
    tx: Transaction, caller: Caller, node: str, verb: Verb, parameters: Mapping[str, str], limit: timedelta
) -> Operation:
    doing = f"{verb.value} of node {node}"
    subject = _reach(tx, caller, node, Right.POWER, doing)
    rules.check_bmc(caller, subject, doing)
    if verb in rules.STARTING_VERBS:
        networks = store.networks_of(tx.connection, store.attachments_of(tx.connection, node))
        rules.check_start(subject, networks.values(), doing)
    _check_queue(tx, subject, doing)
    operation = store.begin_operation(
        tx, verb, subject, actor=caller.name, limit=rules.check_limit(limit), parameters=parameters
    )
    _record(tx, caller, f"{verb.value}.wanted", operation)
    return operation


# -- operations --------------------------------------------------------------------------------------------------------


def cancel(tx: Transaction, caller: Caller, *, operation: str) -> Operation:
    """End an operation early: a pending attach is detached, power work not begun any more. Once more: nothing.

    Raises NotAllowed, NotFound, WrongState (it ended otherwise, or is of a kind that must run to its end).
    """
    found = store.load_operation(tx.connection, operation)
    rules.check_reach(caller, found.project, f"operation {operation}")
    doing = f"cancelling the {found.verb.value} of node {found.node}"
    right = _RIGHTS.get(found.verb)
    caller.must_act_for(found.project, right or Right.NODES, doing)
    if found.state is OperationState.CANCELLED:
        return found
    if right is None or found.state.ended:
        kind = "one that can be cancelled: attach, power, boot device"
        expected = kind if right is None else "one that has not ended"
        raise WrongState(doing, expected=expected, found=f"{found.verb.value}, {found.state.value}")
    if found.verb is Verb.ATTACH:
        nic, network = found.parameters["nic"], found.parameters["network"]
        port = rules.find_nic(store.load_node(tx.connection, found.node), nic).port
        for row in store.attachments_of(tx.connection, found.node):
            if (row.nic, row.network, row.wanted) == (nic, network, True) and port is not None:
                store.unwant(tx, row, port)
        _overtake(tx, caller, (found.node, nic, network), Verb.ATTACH, f"cancelled by {caller.name}")
    else:
        why = f"cancelled by {caller.name}; a call to the BMC that was on its way may still have been heard"
        store.cancel_operation(tx, found, actor=caller.name, why=why)
        tx.wake(f"node/{found.node}")
    return store.load_operation(tx.connection, operation)


def _reach(tx: Transaction, caller: Caller, node: str, right: Right, doing: str) -> Node:
    subject = store.load_node(tx.connection, node)
    if subject.state is not NodeState.FREE:
        rules.check_reach(caller, subject.project, f"node {node}")
    caller.must_act_for(subject.project, right, doing)
    return subject


def _check_queue(tx: Transaction, node: Node, doing: str) -> None:
    rules.check_queue(node, len(store.live_operations(tx.connection, node.name)), doing)


def _end_pending(tx: Transaction, caller: Caller, node: Node, why: str) -> None:
    """Begin nothing any more that the node's new state does not allow."""
    for operation in store.live_operations(tx.connection, node.name, _RIGHTS):
        store.cancel_operation(tx, operation, actor=caller.name, why=why)


def _overtake(tx: Transaction, caller: Caller, attachment: tuple[str, str, str], verb: Verb, why: str) -> None:
    """End what waits for what is no longer wanted; else it would be done once the port carries what is."""
    store.end_operations_on(tx, attachment, verb, OperationState.CANCELLED, actor=caller.name, progress=why)


def _record(tx: Transaction, caller: Caller, verb: str, operation: Operation) -> None:
    detail = {"operation": operation.id, **operation.parameters}
    store.record(tx, caller.name, verb, f"node/{operation.node}", operation.project, **detail)
