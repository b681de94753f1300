"""The life of a node, as attestation sees it: one table of legal transitions. What is not in it is refused.

`docs/states.md` is drawn from this table. What a node is shown to be is less than its state where time has run out:
see `rules.shown_state`.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Final

from steelyard.model.errors import WrongState


class _Meant(Enum):
    """A word, with what it means."""

    meaning: str

    # The default is for mypy alone, which takes finding a member by its word, State("passed"), for making one.
    def __new__(cls, word: str, meaning: str = "") -> "_Meant":
        member = object.__new__(cls)
        member._value_ = word
        member.meaning = meaning
        return member


class State(_Meant):
    """How much is known of a node. Only a passed one is what it should be, and only until its verdict expires."""

    UNKNOWN = ("unknown", "enrolled; nobody proved to be it")
    REGISTERED = ("registered", "its TPM proved to be the one that was published for it; nothing was judged yet")
    CHALLENGED = ("challenged", "it was asked for evidence of this boot, and has not answered well")
    PASSED = ("passed", "its evidence was good, and is recent enough")
    OVERDUE = ("overdue", "it passed, and did not report in time")
    FAILED = (
        "failed",
        "its evidence was not good, or it was silent too long; it stays so until somebody says otherwise",
    )


class Event(_Meant):
    """What moves a node."""

    ACTIVATE = ("activate", "a TPM proves to be the node's: a new boot begins, and what was judged before is over")
    CHALLENGE = ("challenge", "it asks for a challenge")
    PASS = ("pass", "its evidence is good")
    FAIL = ("fail", "its evidence is not good, or could not be judged")
    LAPSE = ("lapse", "its verdict expires")
    GIVE_UP = ("give-up", "it stays silent")
    RETRY = ("retry", "its owner or the provider lets it try again")
    REPLACE = ("replace", "its owner or the provider has it known anew: by another TPM, or on other terms")


TRANSITIONS: Final[Mapping[tuple[State, Event], State]] = {
    (State.UNKNOWN, Event.ACTIVATE): State.REGISTERED,
    (State.REGISTERED, Event.ACTIVATE): State.REGISTERED,
    (State.CHALLENGED, Event.ACTIVATE): State.REGISTERED,
    (State.PASSED, Event.ACTIVATE): State.REGISTERED,
    (State.OVERDUE, Event.ACTIVATE): State.REGISTERED,
    (State.REGISTERED, Event.CHALLENGE): State.CHALLENGED,
    (State.CHALLENGED, Event.CHALLENGE): State.CHALLENGED,
    # The pass that it has goes on until it expires, or nobody would ever see a node that reports as passed.
    (State.PASSED, Event.CHALLENGE): State.PASSED,
    (State.OVERDUE, Event.CHALLENGE): State.OVERDUE,
    (State.CHALLENGED, Event.PASS): State.PASSED,
    (State.PASSED, Event.PASS): State.PASSED,
    (State.OVERDUE, Event.PASS): State.PASSED,
    (State.CHALLENGED, Event.FAIL): State.FAILED,
    (State.PASSED, Event.FAIL): State.FAILED,
    (State.OVERDUE, Event.FAIL): State.FAILED,
    (State.PASSED, Event.LAPSE): State.OVERDUE,
    (State.OVERDUE, Event.GIVE_UP): State.FAILED,
    (State.FAILED, Event.RETRY): State.UNKNOWN,
    **{(state, Event.REPLACE): State.UNKNOWN for state in State},
}


def after(state: State, event: Event, node: str) -> State:
    """Return the state that follows. Raises WrongState."""
    following = TRANSITIONS.get((state, event))
    if following is None:
        legal = sorted(before.value for before, legal_event in TRANSITIONS if legal_event is event)
        raise WrongState(
            f"{event.value} of node {node}", expected=f"a node that is {' or '.join(legal)}", found=state.value
        )
    return following
