"""What the operations of all services have in common: they are asked for again until they are over."""

from collections.abc import Mapping
from typing import Protocol, TypeVar

from steelyard.client.call import Call, given, path, reading, waiting
from steelyard.client.problems import BY_CODE
from steelyard.model.errors import DeviceError, WrongState


class Work(Protocol):
    """Work that takes longer than an answer, as it is at one moment."""

    @property
    def id(self) -> str:
        """Its name."""

    @property
    def verb(self) -> str:
        """What is done."""

    @property
    def about(self) -> str:
        """What it is done to, in words."""

    @property
    def project(self) -> str | None:
        """Whose it is."""

    @property
    def state(self) -> str:
        """How far it is: "pending", "running", "done", "failed", "cancelled"."""

    @property
    def progress(self) -> str:
        """What it is doing or waiting for, in words."""

    @property
    def failure(self) -> Mapping[str, str] | None:
        """Code, expected and found of the error that ended it."""

    @property
    def over(self) -> bool:
        """Whether nothing more comes."""

    @property
    def place(self) -> tuple[str, ...]:
        """Where it is asked for again, below /v1."""


AnyWork = TypeVar("AnyWork", bound=Work)


def read_again(work: AnyWork, *, wait_seconds: int = 0) -> Call[AnyWork]:
    """Ask how far it is now; wait for its end as long as given."""
    doing = f"looking for operation {work.id}"
    query = given(wait=waiting(wait_seconds))
    return Call(doing, "GET", path(*work.place), reading(type(work), doing), query=query, wait_seconds=wait_seconds)


def must_be_done(work: AnyWork) -> AnyWork:
    """Return an operation that did what it should. Raises the error that ended it; WrongState if it was cancelled."""
    doing = f"{work.verb} of {work.about} (operation {work.id})"
    if work.state == "failed":
        failure = work.failure or {}
        kind = BY_CODE.get(failure.get("code", ""), DeviceError)
        raise kind(doing, expected=failure.get("expected", "it done"), found=failure.get("found", work.progress))
    if work.state != "done":
        raise WrongState(doing, expected="an operation that is done", found=work.state)
    return work
