"""A turn at a node's BMC: which one is due (`begin`), and what follows from how it went (`came_of`).

A release confirms power, ports, holds, in this order: a disk over the network is cut off only from a node that is off,
and nothing is taken for confirmed that came undone since.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final

from sqlalchemy import select, update

from steelyard.isolation.confirmed import disturb
from steelyard.isolation.due import BMC_VERBS, KEEPER, release_waits
from steelyard.isolation.life import NodeEvent, NodeState
from steelyard.isolation.objects import Node, OpenAdmission, Operation, OperationState, Release, ReleaseStep, Verb
from steelyard.isolation.ports import BootDevice, Power
from steelyard.isolation.rules import STARTING_VERBS
from steelyard.isolation.store import (
    attachments_of,
    end_operation,
    find,
    live_operations,
    load_node,
    move_node,
    networks_of,
    order_shut,
    record,
)
from steelyard.isolation.tables import nodes, operations
from steelyard.model.errors import DeviceError, DeviceRefused, NotFound, SteelyardError, WrongState
from steelyard.service.database import Transaction


@dataclass(frozen=True, slots=True)
class SetPower:
    """Ask for power on or off."""

    wanted: Power


@dataclass(frozen=True, slots=True)
class ShutDown:
    """Ask the node's system to go off by itself."""


@dataclass(frozen=True, slots=True)
class SetBootDevice:
    """Choose what the node starts from."""

    device: BootDevice
    once: bool


Ask = SetPower | ShutDown | SetBootDevice


class Purpose(Enum):
    """What a turn is for."""

    LOOK = "look"
    """Is this free node off?"""
    OPERATION = "operation"
    """Somebody wants something of the BMC."""
    RELEASE = "release"
    """To be off."""
    LAST_LOOK = "last look"
    """Is it still off, now that all else is confirmed?"""


@dataclass(frozen=True, slots=True)
class Job:
    """What to do at a BMC in one turn.

    ask     what to ask for; None: nothing. key: of what is asked; the same is not asked again at once.
    reads   whether the power is read then. wanted: what it must be; None: whatever it is.
    """

    node: str
    purpose: Purpose
    operation: Operation | None = None
    ask: Ask | None = None
    key: str = ""
    reads: bool = True
    wanted: Power | None = None


@dataclass(frozen=True, slots=True)
class Came:
    """How a turn went. power: as read; None: it was not. error: what stopped it."""

    power: Power | None
    error: SteelyardError | None


class Next(Enum):
    """When a node's next turn is."""

    NOW = "now"
    """If there is anything left to do."""
    SOON = "soon"
    """When what was asked for may have come true."""
    LATER = "later"
    """After a failure."""


_PHASES: Final[dict[tuple[Verb, str], tuple[Ask | None, Power | None]]] = {
    (Verb.POWER_ON, ""): (SetPower(Power.ON), Power.ON),
    (Verb.POWER_OFF, ""): (SetPower(Power.OFF), Power.OFF),
    (Verb.POWER_CYCLE, ""): (SetPower(Power.OFF), Power.OFF),
    (Verb.POWER_CYCLE, "off"): (SetPower(Power.ON), Power.ON),
    (Verb.POWER_SOFT, ""): (ShutDown(), Power.OFF),
    (Verb.POWER_READ, ""): (None, None),
}
"""What each verb asks for and then must be read, by the operation's `step`."""
_FOLLOWING: Final = {(Verb.POWER_CYCLE, ""): "off"}
_CONFIRMED: Final = {
    NodeState.FREE: NodeEvent.CONFIRMED_FREE,
    NodeState.MAINTENANCE: NodeEvent.CONFIRMED_MAINTENANCE,
    NodeState.REJECTED: NodeEvent.CONFIRMED_REJECTED,
}


# -- beginning ---------------------------------------------------------------------------------------------------------


def begin(tx: Transaction, name: str, look_before: datetime) -> Job | None:
    """Return the turn that is due at this node; None: none is.

    look_before  a free node's power is to have been read since then.
    """
    row = find(tx.connection, nodes, name)
    if row is None:
        return None
    node = load_node(tx.connection, name)
    if node.release is not None:
        step = _reconsider(tx, node, node.release)
        if step is None:
            # Also if it is off already: what a BMC says may be wrong, and a command to be off does no harm.
            return Job(name, Purpose.RELEASE, ask=SetPower(Power.OFF), key=f"release since {node.since}")
        return Job(name, Purpose.LAST_LOOK) if step is ReleaseStep.HOLDS else None
    for operation in live_operations(tx.connection, name, BMC_VERBS):
        job = _begin_operation(tx, node, operation)
        if job is not None:
            return job
    if node.state is NodeState.FREE and (row.power_read_at is None or row.power_read_at < look_before):
        return Job(name, Purpose.LOOK)
    return None


def _begin_operation(tx: Transaction, node: Node, operation: Operation) -> Job | None:
    """Return its turn; None, and it has ended, if it must not be done any more although it was allowed once."""
    obstacle = _obstacle(tx, node, operation)
    if obstacle is not None:
        end_operation(
            tx, operation, OperationState.FAILED, actor=KEEPER, progress="not done any more", failure=obstacle
        )
        return None
    if operation.deadline <= tx.now:
        # It is ended with all those whose time is up.
        return None
    row = tx.connection.execute(select(operations.c.step).where(operations.c.id == operation.id)).one()
    if operation.state is OperationState.PENDING:
        _progress(tx, operation, "begun")
    if operation.verb is Verb.BOOT_DEVICE:
        device, once = BootDevice(operation.parameters["device"]), operation.parameters["once"] == "yes"
        return Job(node.name, Purpose.OPERATION, operation, SetBootDevice(device, once), reads=False)
    ask, wanted = _PHASES[operation.verb, row.step]
    return Job(node.name, Purpose.OPERATION, operation, ask, f"{operation.id} {row.step}", wanted=wanted)


def _obstacle(tx: Transaction, node: Node, operation: Operation) -> SteelyardError | None:
    doing = f"{operation.verb.value} of node {node.name}"
    if node.since > operation.created:
        expected = "the node as it was when this was asked for"
        return WrongState(doing, expected=expected, found=f"{node.state.value} since {node.since}")
    if operation.verb in STARTING_VERBS:
        for network in networks_of(tx.connection, attachments_of(tx.connection, node.name)).values():
            if not isinstance(network.admission, OpenAdmission):
                # It would come up there, and nobody has weighed it.
                expected = "a node on no network that demands a verdict"
                return WrongState(doing, expected=expected, found=f"on {network.name}")
    return None


def _reconsider(tx: Transaction, node: Node, release: Release) -> ReleaseStep | None:
    """Return how much of a release is confirmed, as things are now."""
    if release.confirmed is None:
        return None
    waits = release_waits(tx.connection, node.name)
    if (waits.ports or waits.attachments) and ReleaseStep.PORTS not in release.waives:
        step = ReleaseStep.POWER
    elif waits.holds and ReleaseStep.HOLDS not in release.waives:
        step = ReleaseStep.PORTS
        _explain(tx, node, f"waiting until it is let go by {', '.join(waits.holds)}")
    else:
        step = ReleaseStep.HOLDS
    _set_step(tx, node, step)
    return step


# -- what came of it ---------------------------------------------------------------------------------------------------


def came_of(tx: Transaction, job: Job, came: Came) -> Next:
    """Write down how a turn went, and return when the next one is."""
    try:
        node = load_node(tx.connection, job.node)
    except NotFound:
        return Next.NOW
    if job.reads:
        _note_power(tx, node, came)
    if job.operation is not None:
        return _came_of_operation(tx, job, job.operation, came)
    if job.purpose is Purpose.LOOK:
        if came.power is Power.ON:
            disturb(tx, job.node, "free, and found switched on")
        return Next.LATER if came.error else Next.NOW
    if node.release is None:
        return Next.NOW
    is_off = came.power is Power.OFF or ReleaseStep.POWER in node.release.waives
    if not is_off and came.error is not None:
        _explain(tx, node, f"waiting until it is off: {came.error}")
        return Next.LATER
    if job.purpose is Purpose.RELEASE:
        if not is_off:
            _explain(tx, node, "waiting until it is off: it is still on")
            return Next.SOON
        _set_step(tx, node, ReleaseStep.POWER)
        order_shut(tx, node, urgent=False)
        _explain(tx, node, "waiting until its ports are shut")
    elif not is_off:
        # Somebody switched it on meanwhile: all over again.
        _set_step(tx, node, None)
    elif _reconsider(tx, node, node.release) is ReleaseStep.HOLDS:
        _finish_release(tx, node, node.release)
    return Next.NOW


def _came_of_operation(tx: Transaction, job: Job, operation: Operation, came: Came) -> Next:
    if came.error is not None and isinstance(came.error, DeviceError) and not isinstance(came.error, DeviceRefused):
        _progress(tx, operation, str(came.error))
        return Next.LATER
    if came.error is not None:
        failure = came.error
        end_operation(tx, operation, OperationState.FAILED, actor=KEEPER, progress=str(failure), failure=failure)
    elif job.wanted is not None and came.power is not job.wanted:
        _progress(tx, operation, f"waiting until it is {job.wanted.value}")
        return Next.SOON
    else:
        step = select(operations.c.step).where(operations.c.id == operation.id)
        following = _FOLLOWING.get((operation.verb, tx.connection.execute(step).scalar_one()))
        if following is None:
            said = f"done; it is {came.power.value}" if came.power else "done"
            end_operation(tx, operation, OperationState.DONE, actor=KEEPER, progress=said)
        else:
            tx.connection.execute(update(operations).where(operations.c.id == operation.id).values(step=following))
    return Next.NOW


def _finish_release(tx: Transaction, node: Node, release: Release) -> None:
    unconfirmed = ", ".join(sorted(step.value for step in release.waives))
    # Nobody is given a node of which something is unconfirmed.
    to = NodeState.MAINTENANCE if unconfirmed and release.to is NodeState.FREE else release.to
    why = f"released with {unconfirmed} unconfirmed" if unconfirmed else "released: off, cut off, let go by all"
    move_node(tx, node, _CONFIRMED[to], actor=KEEPER, why=why, project=None, allocation=None, allocated_at=None)
    for operation in live_operations(tx.connection, node.name, (Verb.RELEASE,)):
        end_operation(tx, operation, OperationState.DONE, actor=KEEPER, progress=why)


def _note_power(tx: Transaction, node: Node, came: Came) -> None:
    trouble = None if came.error is None else f"its BMC: {came.error}"
    tx.connection.execute(
        update(nodes)
        .where(nodes.c.name == node.name)
        .values(power=came.power and came.power.value, power_read_at=tx.now, trouble=trouble)
    )
    if came.power is not node.power:
        power = came.power.value if came.power else "in doubt"
        record(tx, KEEPER, "node.power", f"node/{node.name}", node.project, power=power, trouble=trouble)
        tx.wake(f"node/{node.name}")


def _progress(tx: Transaction, operation: Operation, progress: str) -> None:
    its = (operations.c.id == operation.id, operations.c.ended.is_(None), operations.c.progress != progress)
    values = {"state": OperationState.RUNNING.value, "progress": progress}
    if tx.connection.execute(update(operations).where(*its).values(**values)).rowcount:
        subject = f"operation/{operation.id}"
        record(tx, KEEPER, "operation.progress", subject, operation.project, node=operation.node, progress=progress)
        tx.wake(subject)


def _set_step(tx: Transaction, node: Node, step: ReleaseStep | None) -> None:
    tx.connection.execute(update(nodes).where(nodes.c.name == node.name).values(release_step=step and step.value))


def _explain(tx: Transaction, node: Node, waits: str) -> None:
    """Write what a release waits for, and since when."""
    why = tx.connection.execute(select(nodes.c.why).where(nodes.c.name == node.name)).scalar_one()
    if not why.startswith(f"{waits}, since "):
        since = tx.now.isoformat(sep=" ", timespec="seconds")
        tx.connection.execute(update(nodes).where(nodes.c.name == node.name).values(why=f"{waits}, since {since}"))
        record(tx, KEEPER, "node.waiting", f"node/{node.name}", node.project, why=waits)
        tx.wake(f"node/{node.name}")
