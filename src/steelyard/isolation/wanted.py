"""What a port is to carry, and which ports are written next. Pure: from rows that were read, to what a switch is told.

The last line of defence: whatever went wrong before it, a node that nobody holds gets nothing here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from steelyard.isolation.life import NodeState
from steelyard.isolation.objects import Attachment, Members, Network, PortName, ReleaseStep, VerdictAdmission
from steelyard.model.network import SHUT, PortVlans

BATCH_PORTS: Final = 64
"""The most that is written at once, so that nobody waits long for a turn that others take."""


@dataclass(frozen=True, slots=True)
class Wish:
    """An attachment and the network that it is to."""

    attachment: Attachment
    network: Network

    def expired(self, now: datetime) -> bool:
        """Whether it waited longer than the verdict that admitted it is good for: then it is not carried any more."""
        admission, attachment = self.network.admission, self.attachment
        if not isinstance(admission, VerdictAdmission) or attachment.applied_at is not None:
            return False
        return attachment.verdict_at is None or now - attachment.verdict_at > admission.most_age


def wanted_port(
    state: NodeState | None, confirmed: ReleaseStep | None, wishes: Iterable[Wish], now: datetime
) -> PortVlans:
    """Return what a port is to carry.

    state      of the node at the other end of its cable; None: there is none.
    confirmed  how far the node's release is, when it is RELEASING.
    wishes     every attachment of the NIC there.

    Attachments that contradict each other carry nothing.
    """
    if state is not NodeState.ALLOCATED and not (state is NodeState.RELEASING and confirmed is None):
        return SHUT
    carried = [wish for wish in wishes if wish.attachment.wanted and not wish.expired(now)]
    untagged = [wish.network.vlan for wish in carried if not wish.attachment.tagged]
    isolated = any(wish.network.members is Members.ISOLATED for wish in carried)
    if not carried or len(untagged) > 1 or (isolated and len(carried) > 1):
        return SHUT
    tagged = frozenset(wish.network.vlan for wish in carried if wish.attachment.tagged)
    return PortVlans(untagged[0] if untagged else None, tagged, isolated)


# -- turns -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DuePort:
    """A port that is not yet as it should be. `project` is whose turn it takes; None: the provider's."""

    name: PortName
    project: str | None
    urgent: bool


@dataclass(frozen=True, slots=True)
class Batch:
    """Ports to write at once, and whose turn was the last."""

    ports: tuple[PortName, ...]
    turn: str | None


def next_batch(due: Sequence[DuePort], turn: str | None, limit: int = BATCH_PORTS) -> Batch:
    """Return the next ports to write, at most `limit`: cuts alone and first, else a port of each project in turn.

    due   in the order in which each project's ports are to be served.
    turn  of the batch before; the project after it, by name, begins.
    """
    if urgent := [port.name for port in due if port.urgent]:
        return Batch(tuple(urgent[:limit]), turn)
    queues: dict[str, list[PortName]] = {}
    for port in due:
        queues.setdefault(port.project or "", []).append(port.name)
    last = turn or ""
    order = sorted(queues, key=lambda project: (project <= last, project))
    batch: list[PortName] = []
    position = 0
    while order and len(batch) < limit:
        project = order[position % len(order)]
        batch.append(queues[project].pop(0))
        last = project
        if queues[project]:
            position += 1
        else:
            position %= len(order)
            order.remove(project)
    return Batch(tuple(batch), last or None)
