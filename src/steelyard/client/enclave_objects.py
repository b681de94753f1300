"""What the enclave service tells, as its client sees it: immutable facts of one moment."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Enclave:
    """An enclave.

    trust     "open", "attested" or "sealed".
    failures  places that failed since the file was applied.
    settled   nothing is under way.
    short     how many machines are wanted and not tried for any more, as too many failed.
    states    how many places are in each.
    """

    name: str
    project: str
    trust: str
    count: int
    image: str
    made_by: str
    since: datetime
    failures: int
    ending: bool
    gone: bool
    settled: bool
    short: int
    states: Mapping[str, int]
    version: int


@dataclass(frozen=True, slots=True)
class Place:
    """What an enclave has for one machine that it wants.

    percent  of the way to running.
    words    what it is doing or waiting for.
    receipt  what was confirmed when the machine was given back; None: it was not yet.
    """

    id: str
    number: int
    node: str | None
    state: str
    since: datetime
    why: str
    words: str
    percent: int
    deadline: datetime | None
    failed: bool
    receipt: Mapping[str, object] | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What applying a file would change; places by their ids. held: those that wait to be looked at."""

    grow: int
    shrink: tuple[str, ...]
    replace: tuple[str, ...]
    held: tuple[str, ...]
    stay: int
