"""The life of a place in an enclave: one table of legal transitions. What is not in it is refused.

A place is what an enclave has for each machine that it wants; it has one machine at most, and is over with it.
`docs/states.md` is drawn from this table.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Final

from steelyard.model.errors import WrongState


class _Meant(Enum):
    """A word, with what it means."""

    meaning: str

    # The default is for mypy alone, which takes finding a member by its word, State("held"), for making one.
    def __new__(cls, word: str, meaning: str = "") -> "_Meant":
        member = object.__new__(cls)
        member._value_ = word
        member.meaning = meaning
        return member


class State(_Meant):
    """How far a place is. Only a weighed machine, or one that nobody wants weighed, is on the enclave's network."""

    WANTED = ("wanted", "it has no machine yet")
    ALLOCATED = ("allocated", "it has a machine, off, whose disk and boot are being prepared")
    AIRLOCK = ("airlock", "the machine runs the airlock image, alone, and is weighed")
    WEIGHED = ("weighed", "its verdict was checked here; it is being let onto the enclave's network")
    ADMITTED = ("admitted", "it is on the enclave's network, and is given what it is to run")
    RUNNING = ("running", "it runs the tenant's system")
    REJECTED = ("rejected", "it was weighed and is not what it should be: off, on no network")
    QUARANTINED = ("quarantined", "it is not any more what it was admitted as, and is being cut off")
    HELD = ("held", "it is kept, off or cut off, until somebody has looked at it")
    RELEASING = ("releasing", "the machine is being given back, and asked about until that is certain")
    RELEASED = ("released", "nothing of it is left with the enclave; it has a receipt")


class Event(_Meant):
    """What moves a place."""

    TAKE = ("take", "a machine was allocated")
    WEIGH = ("weigh", "all is prepared for the airlock")
    PASS = ("pass", "its verdict is good, by our own check")
    JOIN = ("join", "it was read to be on the enclave's network")
    START = ("start", "the tenant's system runs, as far as can be known")
    REJECT = ("reject", "it did not pass, or its verdict is none")
    FALL = ("fall", "it does not pass any more, or was cut off by somebody")
    HOLD = ("hold", "it is off or cut off, as read back, and is to be looked at")
    RELEASE = ("release", "it is not wanted any more, took too long, or another is to be tried")
    CONFIRM = ("confirm", "isolation has read it to be off and on no network, and nothing of ours is left")


TRANSITIONS: Final[Mapping[tuple[State, Event], State]] = {
    (State.WANTED, Event.TAKE): State.ALLOCATED,
    (State.ALLOCATED, Event.WEIGH): State.AIRLOCK,
    (State.ALLOCATED, Event.JOIN): State.ADMITTED,  # `trust: open` alone
    (State.AIRLOCK, Event.PASS): State.WEIGHED,
    (State.AIRLOCK, Event.REJECT): State.REJECTED,
    (State.WEIGHED, Event.JOIN): State.ADMITTED,
    (State.WEIGHED, Event.REJECT): State.REJECTED,
    (State.ADMITTED, Event.START): State.RUNNING,
    (State.WEIGHED, Event.FALL): State.QUARANTINED,
    (State.ADMITTED, Event.FALL): State.QUARANTINED,
    (State.RUNNING, Event.FALL): State.QUARANTINED,
    (State.REJECTED, Event.HOLD): State.HELD,
    (State.QUARANTINED, Event.HOLD): State.HELD,
    **{(state, Event.RELEASE): State.RELEASING for state in State if state not in (State.RELEASING, State.RELEASED)},
    (State.RELEASING, Event.CONFIRM): State.RELEASED,
}

LEAVING: Final = frozenset({State.RELEASING, State.RELEASED})
ON_THE_WAY: Final = (State.WANTED, State.ALLOCATED, State.AIRLOCK, State.WEIGHED, State.ADMITTED)
"""In this order; each has a limit of time."""


def after(state: State, event: Event, place: str) -> State:
    """Return the state that follows. Raises WrongState."""
    following = TRANSITIONS.get((state, event))
    if following is None:
        legal = sorted(before.value for before, legal_event in TRANSITIONS if legal_event is event)
        raise WrongState(
            f"{event.value} of place {place}", expected=f"a place that is {' or '.join(legal)}", found=state.value
        )
    return following
