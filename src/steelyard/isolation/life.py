"""The life of a node, as isolation sees it: one table of legal transitions. What is not in it is refused.

`docs/states.md` is drawn from this table.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Final

from steelyard.model.errors import WrongState


class _Meant(Enum):
    """A word, with what it means."""

    meaning: str

    # The default is for mypy alone, which takes finding a member by its word, NodeState("free"), for making one.
    def __new__(cls, word: str, meaning: str = "") -> "_Meant":
        member = object.__new__(cls)
        member._value_ = word
        member.meaning = meaning
        return member


class NodeState(_Meant):
    """Where a node is. Only an allocated one may have networks, and only a free one can be allocated."""

    MAINTENANCE = ("maintenance", "the provider's, being worked on; where every node begins")
    FREE = ("free", "nobody's: off, its ports shut and read back")
    ALLOCATED = ("allocated", "a project's")
    QUARANTINED = ("quarantined", "a project's, and cut off; only the provider may touch its power")
    RELEASING = ("releasing", "on its way out: switched off, cut off, and looked at until both are certain")
    REJECTED = ("rejected", "the provider's: it failed a weighing, or could not be released cleanly; to be repaired")


class NodeEvent(_Meant):
    """What moves a node."""

    ALLOCATE = ("allocate", "a project takes it")
    QUARANTINE = ("quarantine", "its project or the provider cuts it off")
    RELEASE = ("release", "whoever holds it gives it back")
    DISTURBED = ("disturbed", "free, it was found switched on, or with a port that is not shut")
    HOLD = ("hold", "the provider takes it for maintenance")
    REJECT = ("reject", "the provider takes it out for repair")
    CONFIRMED_FREE = ("confirmed-free", "off and cut off, as read back")
    CONFIRMED_MAINTENANCE = ("confirmed-maintenance", "the same, and it was to go to maintenance")
    CONFIRMED_REJECTED = ("confirmed-rejected", "the same, and it was to be rejected")


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
        expected = f"a node that is {' or '.join(legal)}"
        raise WrongState(f"{event.value} of node {node}", expected=expected, found=state.value)
    return following
