"""What the keepers have to do, as the database says: ports that are not as wanted, nodes with work, consoles to hold.

What they found out is written by `confirmed.py`.
"""

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Connection, and_, exists, func, literal, or_, select, true

from steelyard.isolation.life import NodeState
from steelyard.isolation.objects import PortName, ReleaseStep, Verb
from steelyard.isolation.store import LIVE, AnyRow, attachment_of, networks_of
from steelyard.isolation.tables import attachments, consoles, holds, nics, nodes, operations, ports, switches
from steelyard.isolation.wanted import DuePort, Wish, wanted_port
from steelyard.model.network import PortVlans
from steelyard.service.columns import UtcTime

KEEPER: Final = "keeper"
"""Who the journal says it was."""
PORT_VERBS: Final = frozenset({Verb.ATTACH, Verb.DETACH, Verb.QUARANTINE})
"""Operations that are done when their ports are."""
BMC_VERBS: Final = frozenset(Verb) - PORT_VERBS - {Verb.RELEASE}
"""Operations that are done at a node's BMC, one after another."""

_EVER: Final = datetime(1970, 1, 1, tzinfo=UTC)
_BMC_WORDS: Final = [verb.value for verb in BMC_VERBS]


# -- switches ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PortPlan:
    """What a port is to carry, as of one moment.

    due      the port, whose turn it takes, and whether it is a cut.
    wanted   the count of changes at that moment: reading the port back proves this one, and none after it.
    carry    what it is to carry.
    wishes   what is wanted of it, expired ones too. expired: attached too long ago for its verdict, to be taken off.
    node     at the other end of the cable, if there is one; and its state.
    """

    due: DuePort
    wanted: int
    applied: int
    carry: PortVlans
    wishes: tuple[Wish, ...]
    expired: tuple[Wish, ...]
    node: str | None
    state: NodeState | None

    @property
    def port(self) -> str:
        """The port's name at its switch."""
        return self.due.name.port


def switch_names(connection: Connection) -> frozenset[str]:
    """Return the names of all switches."""
    return frozenset(connection.execute(select(switches.c.name)).scalars())


def plan_ports(connection: Connection, switch: str, now: datetime) -> tuple[PortPlan, ...]:
    """Return the plan of every port of a switch, by name."""
    return tuple(_plan(connection, switch, now, due_alone=False))


def plan_due_ports(connection: Connection, switch: str, now: datetime) -> tuple[PortPlan, ...]:
    """Return the plan of each port that was not yet read as it should be."""
    return tuple(_plan(connection, switch, now, due_alone=True))


def _plan(connection: Connection, switch: str, now: datetime, *, due_alone: bool) -> list[PortPlan]:
    its = and_(ports.c.switch == switch, ports.c.applied < ports.c.wanted if due_alone else true())
    cable = and_(nics.c.switch == ports.c.switch, nics.c.port == ports.c.port)
    rows = connection.execute(
        select(ports, nics.c.node, nodes.c.state, nodes.c.project, nodes.c.release_step)
        .select_from(ports.outerjoin(nics, cable).outerjoin(nodes, nodes.c.name == nics.c.node))
        .where(its)
        .order_by(ports.c.port)
    ).all()
    found = connection.execute(
        select(attachments, nics.c.port)
        .join(nics, and_(nics.c.node == attachments.c.node, nics.c.name == attachments.c.nic))
        .join(ports, cable)
        .where(its, attachments.c.wanted)
        .order_by(attachments.c.network)
    ).all()
    attached = [(row.port, attachment_of(row)) for row in found]
    networks = networks_of(connection, [attachment for _, attachment in attached])
    wishes = defaultdict[str, list[Wish]](list)
    for port, attachment in attached:
        wishes[port].append(Wish(attachment, networks[attachment.network]))
    return [_plan_of(row, tuple(wishes[row.port]), now) for row in rows]


def _plan_of(row: AnyRow, wishes: tuple[Wish, ...], now: datetime) -> PortPlan:
    state = None if row.state is None else NodeState(row.state)
    confirmed = None if row.release_step is None else ReleaseStep(row.release_step)
    return PortPlan(
        due=DuePort(PortName(row.switch, row.port), row.project, row.urgent),
        wanted=row.wanted,
        applied=row.applied,
        carry=wanted_port(state, confirmed, wishes, now),
        wishes=wishes,
        expired=tuple(wish for wish in wishes if wish.expired(now)),
        node=row.node,
        state=state,
    )


# -- nodes -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Waits:
    """What a node's release waits for that is not its BMC: empty, nothing."""

    ports: tuple[str, ...]
    attachments: tuple[str, ...]
    holds: tuple[str, ...]


_UNTRUE_PORT: Final = exists().where(
    nics.c.node == nodes.c.name,
    nics.c.switch == ports.c.switch,
    nics.c.port == ports.c.port,
    ports.c.applied < ports.c.wanted,
)
_ATTACHMENT: Final = exists().where(attachments.c.node == nodes.c.name)
_HOLD: Final = exists().where(holds.c.node == nodes.c.name)


def nodes_with_work(connection: Connection) -> tuple[str, ...]:
    """Return the nodes with work at their BMC, or whose release can go on; none that just wait."""
    busy = connection.execute(
        select(operations.c.node).where(operations.c.state.in_(LIVE), operations.c.verb.in_(_BMC_WORDS)).distinct()
    ).scalars()
    releasing = connection.execute(
        select(
            nodes.c.name,
            nodes.c.release_step,
            nodes.c.release_waives,
            or_(_UNTRUE_PORT, _ATTACHMENT).label("cutting"),
            _HOLD.label("held"),
        ).where(nodes.c.state == NodeState.RELEASING.value)
    )
    ready = (
        row.name
        for row in releasing
        if not (
            (row.release_step == "power" and row.cutting and "ports" not in row.release_waives)
            or (row.release_step == "ports" and row.held and "holds" not in row.release_waives)
        )
    )
    return tuple(sorted({*busy, *ready}))


def nodes_to_look_at(connection: Connection, before: datetime, in_trouble: datetime, most: int) -> tuple[str, ...]:
    """Return free nodes that nobody looked at since `before`, or since `in_trouble` those whose BMC failed."""
    looked = func.coalesce(nodes.c.power_read_at, literal(_EVER, UtcTime))
    return tuple(
        connection.execute(
            select(nodes.c.name)
            .where(
                nodes.c.state == NodeState.FREE.value,
                or_(looked < before, and_(looked < in_trouble, nodes.c.trouble.is_not(None))),
            )
            .order_by(looked, nodes.c.name)
            .limit(most)
        ).scalars()
    )


def next_deadline(connection: Connection) -> datetime | None:
    """Return when the next operation's time is up; None: none is under way."""
    table = operations
    moment: datetime | None = connection.execute(
        select(func.min(table.c.deadline)).where(table.c.state.in_(LIVE))
    ).scalar_one()
    return moment


def release_waits(connection: Connection, node: str) -> Waits:
    """Return what stands between a node, switched off, and the end of its release."""
    untrue = connection.execute(
        select(ports.c.switch, ports.c.port)
        .join(nics, and_(nics.c.switch == ports.c.switch, nics.c.port == ports.c.port))
        .where(nics.c.node == node, ports.c.applied < ports.c.wanted)
        .order_by(ports.c.switch, ports.c.port)
    )
    attached = connection.execute(
        select(attachments.c.network).where(attachments.c.node == node).order_by(attachments.c.network)
    )
    held = connection.execute(select(holds.c.name).where(holds.c.node == node).order_by(holds.c.name))
    return Waits(tuple(f"{row.switch}/{row.port}" for row in untrue), tuple(attached.scalars()), tuple(held.scalars()))


# -- consoles ----------------------------------------------------------------------------------------------------------


def open_consoles(connection: Connection) -> frozenset[str]:
    """Return the nodes whose serial line is to be held."""
    return frozenset(connection.execute(select(consoles.c.node)).scalars())
