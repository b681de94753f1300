"""What the keepers read of ports, written down: which are as wanted, what that ends, what has drifted.

Called by a keeper whose tenure was confirmed in the same transaction. Only what was read back from the device counts;
what was written, or answered, does not.
"""

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import BindParameter, and_, bindparam, delete, exists, select, update

from steelyard.isolation.due import KEEPER, PORT_VERBS, PortPlan
from steelyard.isolation.life import NodeEvent, NodeState
from steelyard.isolation.objects import OperationState, Verb
from steelyard.isolation.ports import Missing, Other, PortReading
from steelyard.isolation.store import (
    LIVE,
    bump_ports,
    encode_vlans,
    end_operation,
    end_operations_on,
    find,
    is_port,
    load_node,
    move_node,
    operation_of,
    record,
)
from steelyard.isolation.tables import attachments, networks, nics, nodes, operation_ports, operations, ports, switches
from steelyard.model.errors import NotAdmitted, OutOfTime
from steelyard.model.network import PortVlans
from steelyard.service.database import Transaction


def describe(reading: PortReading) -> str:
    """Return in words what a port carries."""
    match reading:
        case Missing():
            return "no such port"
        case Other(description):
            return description
        case PortVlans(untagged, tagged, isolated):
            words = [] if untagged is None else [f"{untagged} untagged"]
            words += [f"{vlan} tagged" for vlan in sorted(tagged)]
            return ", ".join(words + ["isolated"] * isolated) or "nothing"


def settle_ports(
    tx: Transaction, switch: str, planned: Sequence[PortPlan], readings: Mapping[str, PortReading]
) -> frozenset[str]:
    """Compare what was read with what was planned; return the ports that differ.

    A port that reads as planned is up to date as of its plan, which ends what waited for it. One that was up to date
    and reads otherwise has drifted: it is due again, and a free node behind it is released anew.
    """
    rows = tx.connection.execute(select(ports).where(ports.c.switch == switch))
    now = {row.port: row for row in rows}
    compared = [(plan, readings.get(plan.port, Missing())) for plan in planned if plan.port in now]
    true = [plan for plan, reading in compared if reading == plan.carry]
    wrong = [(plan, reading) for plan, reading in compared if reading != plan.carry]
    fresh = {plan.port: plan for plan in true if now[plan.port].applied < plan.wanted}
    _write_true(tx, switch, true)
    _settle_attachments(tx, switch, fresh)
    _end_operations(tx, switch, fresh)
    for port, plan in fresh.items():
        record(
            tx,
            KEEPER,
            "port.applied",
            f"port/{switch}/{port}",
            plan.due.project,
            carries=describe(plan.carry),
            node=plan.node,
        )
        if plan.state is NodeState.RELEASING:
            tx.wake("nodes")
    for plan, reading in wrong:
        _write_difference(tx, plan, reading)
        if now[plan.port].applied == now[plan.port].wanted == plan.wanted:
            _note_drift(tx, plan, reading)
    return frozenset(plan.port for plan, _ in wrong)


def _write_true(tx: Transaction, switch: str, true: Sequence[PortPlan]) -> None:
    if not true:
        return
    this = and_(ports.c.switch == switch, ports.c.port == bindparam("its_port"))
    count: BindParameter[int] = bindparam("its_wanted")
    rows = [
        {"its_port": plan.port, "its_wanted": plan.wanted, "its_carries": encode_vlans(plan.carry)} for plan in true
    ]
    tx.connection.execute(
        update(ports).where(this).values(carries=bindparam("its_carries"), read_at=tx.now, trouble=None), rows
    )
    # What was asked for after the plan was made stays due, and a cut among it stays ahead of the queue.
    tx.connection.execute(
        update(ports)
        .where(this, ports.c.applied < count)
        .values(applied=count, urgent=and_(ports.c.urgent, ports.c.wanted > count)),
        rows,
    )


def _settle_attachments(tx: Transaction, switch: str, fresh: Mapping[str, PortPlan]) -> None:
    """Write which attachments came true, and delete those that are proven gone."""
    found = tx.connection.execute(
        select(attachments, nics.c.port, networks.c.vlan)
        .join(nics, and_(nics.c.node == attachments.c.node, nics.c.name == attachments.c.nic))
        .join(networks, networks.c.name == attachments.c.network)
        .where(nics.c.switch == switch, nics.c.port.in_(fresh))
    ).all()
    gone, came = [], []
    for row in found:
        plan = fresh[row.port]
        key = {"its_node": row.node, "its_nic": row.nic, "its_network": row.network}
        if not row.wanted and row.vlan not in {vlan.number for vlan in plan.carry.vlans}:
            gone.append(key)
        elif row.applied_at is None and any(
            (wish.attachment.network, wish.attachment.since) == (row.network, row.since)
            for wish in plan.wishes
            if wish.network.vlan in plan.carry.vlans
        ):
            came.append(key)
    this = and_(
        attachments.c.node == bindparam("its_node"),
        attachments.c.nic == bindparam("its_nic"),
        attachments.c.network == bindparam("its_network"),
    )
    if gone:
        tx.connection.execute(delete(attachments).where(this), gone)
    if came:
        tx.connection.execute(update(attachments).where(this).values(applied_at=tx.now), came)


def _end_operations(tx: Transaction, switch: str, fresh: Mapping[str, PortPlan]) -> None:
    """Strike what waited for these counts, and end the operations that wait for nothing else."""
    waiting = tx.connection.execute(
        select(operation_ports).where(operation_ports.c.switch == switch, operation_ports.c.port.in_(fresh))
    ).all()
    struck = [
        {"its_operation": row.operation, "its_port": row.port}
        for row in waiting
        if row.wanted <= fresh[row.port].wanted
    ]
    if not struck:
        return
    tx.connection.execute(
        delete(operation_ports).where(
            operation_ports.c.operation == bindparam("its_operation"),
            operation_ports.c.switch == switch,
            operation_ports.c.port == bindparam("its_port"),
        ),
        struck,
    )
    done = tx.connection.execute(
        select(operations).where(
            operations.c.id.in_({row["its_operation"] for row in struck}),
            operations.c.verb.in_([verb.value for verb in PORT_VERBS]),
            ~exists().where(operation_ports.c.operation == operations.c.id),
        )
    ).all()
    for row in done:
        end_operation(tx, operation_of(row), OperationState.DONE, actor=KEEPER, progress="done")


def _write_difference(tx: Transaction, plan: PortPlan, reading: PortReading) -> None:
    tx.connection.execute(
        update(ports)
        .where(is_port(ports, plan.due.name))
        .values(
            carries=encode_vlans(reading) if isinstance(reading, PortVlans) else None,
            read_at=tx.now,
            trouble=f"is to carry {describe(plan.carry)}, was read: {describe(reading)}",
        )
    )


def _note_drift(tx: Transaction, plan: PortPlan, reading: PortReading) -> None:
    expected, found = describe(plan.carry), describe(reading)
    subject = f"port/{plan.due.name.switch}/{plan.port}"
    record(tx, KEEPER, "port.drift", subject, plan.due.project, expected=expected, found=found, node=plan.node)
    bump_ports(tx, [plan.due.name], urgent=False)
    if plan.node is not None:
        disturb(tx, plan.node, f"its {subject} was found to carry {found}")


def disturb(tx: Transaction, name: str, why: str) -> None:
    """Release a node anew if it is free, as it is not as a free node should be."""
    node = load_node(tx.connection, name)
    if node.state is NodeState.FREE:
        values = {"release_step": None, "release_to": NodeState.FREE.value, "release_waives": []}
        move_node(tx, node, NodeEvent.DISTURBED, actor=KEEPER, why=why, **values)


def drop_expired(tx: Transaction, plans: Sequence[PortPlan]) -> None:
    """Take off what waited longer than its verdict is good for, and fail the operations that wanted it on."""
    for plan in plans:
        for wish in plan.expired:
            its = (wish.attachment.node, wish.attachment.nic, wish.attachment.network)
            dropped = tx.connection.execute(
                update(attachments)
                .where(
                    and_(attachments.c.node == its[0], attachments.c.nic == its[1], attachments.c.network == its[2]),
                    # Not if it was admitted anew since, or has come true.
                    attachments.c.since == wish.attachment.since,
                    attachments.c.verdict_at == wish.attachment.verdict_at,
                    attachments.c.applied_at.is_(None),
                )
                .values(wanted=False, since=tx.now)
            )
            if dropped.rowcount == 0:
                continue
            bump_ports(tx, [plan.due.name], urgent=False)
            error = NotAdmitted(
                f"attaching {its[0]}/{its[1]} to {its[2]}",
                expected="a verdict still fresh when the port is set",
                found="one that has become too old",
            )
            record(tx, KEEPER, "attachment.expired", f"node/{its[0]}", plan.due.project, nic=its[1], network=its[2])
            end_operations_on(
                tx, its, Verb.ATTACH, OperationState.FAILED, actor=KEEPER, progress=str(error), failure=error
            )


# -- trouble -----------------------------------------------------------------------------------------------------------


def doubt_ports(tx: Transaction, switch: str, doubted: Collection[str], trouble: str) -> None:
    """Write that nobody knows what these ports carry, and why."""
    tx.connection.execute(
        update(ports).where(ports.c.switch == switch, ports.c.port.in_(doubted)).values(carries=None, trouble=trouble)
    )


def note_switch(tx: Transaction, switch: str, trouble: str | None) -> None:
    """Write what is wrong with a switch, or None: it answered. The journal is told when that changes."""
    row = tx.connection.execute(select(switches.c.trouble).where(switches.c.name == switch)).one_or_none()
    if row is None or row.trouble == trouble:
        return
    tx.connection.execute(update(switches).where(switches.c.name == switch).values(trouble=trouble))
    if (row.trouble is None) is not (trouble is None):
        verb = "switch.trouble" if trouble else "switch.answers"
        record(tx, KEEPER, verb, f"switch/{switch}", None, trouble=trouble)


# -- time --------------------------------------------------------------------------------------------------------------


def end_overdue(tx: Transaction) -> None:
    """Fail the operations whose time is up, with what they waited for; what is wanted stays wanted."""
    overdue = tx.connection.execute(
        select(operations).where(operations.c.state.in_(LIVE), operations.c.deadline <= tx.now)
    ).all()
    for operation in map(operation_of, overdue):
        node = find(tx.connection, nodes, operation.node)
        waits = node.why if node is not None and operation.verb is Verb.RELEASE else operation.progress
        failure = OutOfTime(
            f"{operation.verb.value} of node {operation.node}",
            expected=f"it done by {operation.deadline.isoformat(timespec='seconds')}",
            found=waits,
        )
        end_operation(tx, operation, OperationState.FAILED, actor=KEEPER, progress=waits, failure=failure)
