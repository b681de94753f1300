"""Bodies of the enclave service's requests and answers."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, StringConstraints

from steelyard.enclave import objects
from steelyard.enclave.life import State
from steelyard.enclave.objects import Trust
from steelyard.enclave.plan import Difference
from steelyard.enclave.steps import done_share
from steelyard.model.limits import ENCLAVE_FILE_BYTES
from steelyard.service.http import Input

PlaceId = Annotated[str, StringConstraints(pattern="^[0-9a-f]{22}$")]


class FileInput(Input):
    """An enclave file, as it was written."""

    file: Annotated[str, StringConstraints(max_length=ENCLAVE_FILE_BYTES.most)]


class PlaceInput(Input):
    """Which place; null: all."""

    place: PlaceId | None = None


class EnclaveBody(BaseModel):
    """An enclave. settled: nothing is under way; short: how many are wanted, and not tried for any more."""

    name: str
    project: str
    trust: Trust
    count: int
    image: str
    made_by: str
    since: datetime
    failures: int
    ending: bool
    gone: bool
    settled: bool
    short: int
    states: dict[str, int]
    version: int


def enclave_body(enclave: objects.Enclave, settled: tuple[bool, Mapping[State, int], int]) -> EnclaveBody:
    """Return an enclave as it is told."""
    done, counts, short = settled
    return EnclaveBody(
        name=enclave.name,
        project=enclave.project,
        trust=enclave.spec.trust,
        count=enclave.spec.count,
        image=enclave.spec.image,
        made_by=enclave.made_by,
        since=enclave.since,
        failures=enclave.failures,
        ending=enclave.ending,
        gone=enclave.gone,
        settled=done,
        short=short,
        states={state.value: counts[state] for state in State if counts.get(state)},
        version=enclave.version,
    )


class PlaceBody(BaseModel):
    """A place. percent: of the way to running; words: what it is doing or waiting for."""

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
    receipt: dict[str, Any] | None


def place_body(place: objects.Place) -> PlaceBody:
    """Return a place as it is told."""
    return PlaceBody(
        id=place.id,
        number=place.number,
        node=place.node,
        state=place.state.value,
        since=place.since,
        why=place.why,
        words=place.words,
        percent=int(100 * done_share(place)),
        deadline=place.deadline,
        failed=place.failed,
        receipt=None if place.receipt is None else dict(place.receipt),
    )


class PlanBody(BaseModel):
    """What applying a file would change; places by their ids."""

    grow: int
    shrink: list[str]
    replace: list[str]
    held: list[str]
    stay: int


def plan_body(difference: Difference) -> PlanBody:
    """Return a plan as it is told."""
    return PlanBody(
        grow=difference.grow,
        shrink=list(difference.shrink),
        replace=list(difference.replace),
        held=list(difference.held),
        stay=difference.stay,
    )
