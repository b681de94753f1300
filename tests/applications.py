"""Applications that all services of the tests with the same routes share, as FastAPI takes long to make one.

What a service has of its own, the routes of a shared application find by who is answering.
"""

from collections.abc import Callable, Sequence
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final, TypeVar, cast

from fastapi import APIRouter
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp, Receive, Scope, Send

from steelyard.attestation import api as attestation
from steelyard.service.http import Edge, Front, make_app
from tests.fakes.storage import FakeStorage

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Own:
    """What a service has of its own."""

    front: Front
    weighing: attestation.Means
    storage: FakeStorage | None = None


_OWN: Final = ContextVar[Own]("own")
"""What the service has that answers."""


class _Asked:
    """Something of whichever service answers."""

    def __init__(self, find: Callable[[Own], object]) -> None:
        object.__setattr__(self, "_find", find)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._find(_OWN.get()), name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._find(_OWN.get()), name, value)


class _AskedMeans(_Asked):
    async def _run(self, who: str, size_bytes: int, work: Callable[[], T]) -> T:
        context = copy_context()  # or the threads that judge would not know who answers
        return await _OWN.get().weighing.appraising.run(who, size_bytes, lambda: context.run(work))

    async def _answer(self, work: Callable[[], T]) -> T:
        context = copy_context()
        return await _OWN.get().weighing.appraising.answer(lambda: context.run(work))

    @property
    def appraising(self) -> object:
        return SimpleNamespace(run=self._run, answer=self._answer)


WEIGHING: Final = cast("attestation.Means", _AskedMeans(lambda own: own.weighing))
STORAGE: Final = cast("FakeStorage", _Asked(lambda own: own.storage))


def make_shared(routers: Sequence[APIRouter]) -> Edge:
    """Return an application of these routers, made with WEIGHING and STORAGE, for `answering`."""
    edge = cast("Edge", make_app(cast("Front", SimpleNamespace(registry=CollectorRegistry())), routers, "0"))
    edge.app.state.front = _Asked(lambda own: own.front)
    return edge


def answering(shared: Edge, own: Own) -> ASGIApp:
    """Return the application of one service."""
    edge = Edge(shared.app, own.front.registry, shared._direct)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        _OWN.set(own)
        await edge(scope, receive, send)

    return answer
