"""What is to change, so that an enclave has what its file wants. Pure: a spec and places in, what to do out.

`difference` says all of it, for people; `moves` what is to be begun now, for the keeper, who asks again after each.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from steelyard.enclave.life import LEAVING, ON_THE_WAY, State
from steelyard.enclave.objects import OnRejection, Spec

_APART: Final = 4
"""Of so many machines, one is replaced at a time, and one in any case."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A place, as far as it matters here."""

    id: str
    number: int
    state: State
    makeup: str
    node: str | None
    avoid: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """What would change. held: places that stay as they are until somebody says `retry` or deletes them."""

    grow: int
    shrink: tuple[str, ...]
    replace: tuple[str, ...]
    held: tuple[str, ...]
    stay: int

    @property
    def nothing(self) -> bool:
        """Whether all is as it is to be."""
        return not (self.grow or self.shrink or self.replace)


@dataclass(frozen=True, slots=True)
class Making:
    """A place to be made."""

    number: int
    avoid: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Moves:
    """What is to be begun now.

    release  id and why.
    short    how many machines are wanted and not tried for any more, as too many failed.
    """

    make: tuple[Making, ...]
    release: tuple[tuple[str, str], ...]
    short: int


def difference(spec: Spec, places: Iterable[Seen]) -> Difference:
    """Return all that would change."""
    makeup = spec.makeup()
    wanted = [place for place in places if _occupies(place, spec)]
    shrink = _surplus(wanted, spec, makeup)
    gone = {place.id for place in shrink}
    left = [place for place in wanted if place.id not in gone]
    outdated = tuple(place.id for place in left if _outdated(place, makeup))
    held = tuple(place.id for place in left if place.state is State.HELD)
    return Difference(
        grow=max(0, spec.count - len(left)),
        shrink=tuple(place.id for place in shrink),
        replace=outdated,
        held=held,
        stay=len(left) - len(outdated) - len(held),
    )


def moves(spec: Spec, places: Sequence[Seen], failures: int, *, ending: bool) -> Moves:
    """Return what to begin now. It ends: each failure takes one from what may still be tried."""
    makeup = spec.makeup()
    if ending:
        there = [place.id for place in places if place.state not in LEAVING]
        return Moves((), tuple((place, "the enclave is deleted") for place in there), 0)
    wanted = [place for place in places if _occupies(place, spec)]
    shrink = _surplus(wanted, spec, makeup)
    gone = {place.id for place in shrink}
    left = [place for place in wanted if place.id not in gone]
    missing = max(0, spec.count - len(left))
    grow = min(missing, max(0, spec.attempts * max(1, spec.count) - failures))
    release = [(place.id, "fewer machines are wanted") for place in shrink]
    release += _replaced(left, missing, spec, makeup)
    release += _given_up(places, left, grow, spec)
    return Moves(_making(places, grow, spec), tuple(release), missing - grow)


def _occupies(place: Seen, spec: Spec) -> bool:
    """Whether a place counts as one of those that are wanted."""
    if place.state is State.REJECTED:
        return spec.on_rejection is OnRejection.HOLD
    return place.state not in LEAVING


def _surplus(wanted: Sequence[Seen], spec: Spec, makeup: str) -> list[Seen]:
    """Return what is too many: first what is made by another file, then what is furthest from running."""
    ranks = {State.RUNNING: -1, **{state: -2 - index for index, state in enumerate(reversed(ON_THE_WAY))}}
    order = sorted(wanted, key=lambda place: (place.makeup == makeup, ranks.get(place.state, -9), -place.number))
    return order[: max(0, len(wanted) - spec.count)]


def _outdated(place: Seen, makeup: str) -> bool:
    return place.makeup != makeup and (place.state is State.RUNNING or place.state in ON_THE_WAY)


def _replaced(left: Sequence[Seen], missing: int, spec: Spec, makeup: str) -> list[tuple[str, str]]:
    """Return which outdated places go now: so that most machines run at any time."""
    under_way = missing + sum(place.makeup == makeup and place.state in ON_THE_WAY for place in left)
    outdated = [place for place in left if _outdated(place, makeup)]
    # One that does not run is no loss.
    idle = [place for place in outdated if place.state is not State.RUNNING]
    running = [place for place in outdated if place.state is State.RUNNING]
    room = max(0, max(1, spec.count // _APART) - under_way - len(idle))
    return [(place.id, "it is made by an older file") for place in idle + running[:room]]


def _given_up(places: Sequence[Seen], left: Sequence[Seen], grow: int, spec: Spec) -> list[tuple[str, str]]:
    """Return the rejected that go now: once others have taken their places, so that none of these is one of them."""
    if spec.on_rejection is OnRejection.HOLD or grow or any(place.state is State.WANTED for place in left):
        return []
    return [(place.id, "it was rejected") for place in places if place.state is State.REJECTED]


def _making(places: Sequence[Seen], grow: int, spec: Spec) -> tuple[Making, ...]:
    if not grow:
        return ()
    taken = {place.number for place in places if place.state is not State.RELEASED}
    numbers = [number for number in range(1, grow + len(taken) + 1) if number not in taken][:grow]
    rejected = [place for place in places if place.state is State.REJECTED and spec.on_rejection is OnRejection.RETRY]
    avoid = {place.node for place in rejected if place.node} | {node for place in rejected for node in place.avoid}
    return tuple(Making(number, tuple(sorted(avoid))) for number in numbers)
