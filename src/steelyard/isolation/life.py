"""The life of a node, as isolation sees it: one table of legal transitions. What is not in it is refused.

`docs/states.md` is drawn from this table.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Final

from steelyard.model.errors import WrongState


class NodeState(Enum):
    """Where a node is. Only ALLOCATED may have networks, and only FREE can be allocated."""

    MAINTENANCE = "maintenance"
    """The provider's, being worked on; where every node begins."""
    FREE = "free"
    """Nobody's: off, its ports shut, read back."""
    ALLOCATED = "allocated"
    """A project's."""
    QUARANTINED = "quarantined"
    """A project's, and cut off; only the provider may touch its power."""
    RELEASING = "releasing"
    """On its way out: being switched off, cut off, and looked at until both are certain."""
    REJECTED = "rejected"
    """The provider's: it failed a weighing, or could not be released cleanly; to be repaired."""


class NodeEvent(Enum):
    """What moves a node."""

    ALLOCATE = "allocate"
    QUARANTINE = "quarantine"
    RELEASE = "release"
    DISTURBED = "disturbed"
    """A free node was found switched on, or with an open port."""
    HOLD = "hold"
    REJECT = "reject"
    CONFIRMED_FREE = "confirmed-free"
    CONFIRMED_MAINTENANCE = "confirmed-maintenance"
    CONFIRMED_REJECTED = "confirmed-rejected"


TRANSITIONS: Final[Mapping[tuple[NodeState, NodeEvent], NodeState]] = {
    (NodeState.FREE, NodeEvent.ALLOCATE): NodeState.ALLOCATED,
    (NodeState.ALLOCATED, NodeEvent.QUARANTINE): NodeState.QUARANTINED,
    (NodeState.QUARANTINED, NodeEvent.QUARANTINE): NodeState.QUARANTINED,
    (NodeState.ALLOCATED, NodeEvent.RELEASE): NodeState.RELEASING,
    (NodeState.QUARANTINED, NodeEvent.RELEASE): NodeState.RELEASING,
    (NodeState.RELEASING, NodeEvent.RELEASE): NodeState.RELEASING,
    (NodeState.MAINTENANCE, NodeEvent.RELEASE): NodeState.RELEASING,
    (NodeState.REJECTED, NodeEvent.RELEASE): NodeState.RELEASING,
    (NodeState.FREE, NodeEvent.DISTURBED): NodeState.RELEASING,
    (NodeState.RELEASING, NodeEvent.CONFIRMED_FREE): NodeState.FREE,
    (NodeState.RELEASING, NodeEvent.CONFIRMED_MAINTENANCE): NodeState.MAINTENANCE,
    (NodeState.RELEASING, NodeEvent.CONFIRMED_REJECTED): NodeState.REJECTED,
    (NodeState.FREE, NodeEvent.HOLD): NodeState.MAINTENANCE,
    (NodeState.FREE, NodeEvent.REJECT): NodeState.REJECTED,
    (NodeState.MAINTENANCE, NodeEvent.REJECT): NodeState.REJECTED,
    (NodeState.REJECTED, NodeEvent.HOLD): NodeState.MAINTENANCE,
}


def after(state: NodeState, event: NodeEvent, node: str) -> NodeState:
    """Return the state that follows. Raises WrongState."""
    following = TRANSITIONS.get((state, event))
    if following is None:
        legal = sorted(before.value for before, legal_event in TRANSITIONS if legal_event is event)
        raise WrongState(
            f"{event.value} of node {node}", expected=f"a node that is {' or '.join(legal)}", found=state.value
        )
    return following
