"""A request of a service and the meaning of its answer, as data. What sends it is `connection.py`."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar
from urllib.parse import quote

from steelyard.client.codec import Json, decode, decode_items
from steelyard.client.problems import error_of
from steelyard.model.errors import MalformedAnswer

T = TypeVar("T")

Query = tuple[tuple[str, str], ...]

SUCCESS: Final = range(200, 300)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service answered; names of headers in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def document(self, doing: str) -> Json:
        """Return the body's JSON. Raises MalformedAnswer."""
        try:
            document: Json = json.loads(self.body)
        except (ValueError, RecursionError) as cause:
            raise MalformedAnswer(doing, expected="JSON", found=repr(self.body[:40])) from cause
        return document


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request, and how to read its answer.

    doing         for errors: what the caller wants.
    path          below the service's URL, as `path` makes it.
    version       only if the thing still has it; 0: only if it is not there yet. None: whatever it is.
    content       bytes to be sent as they are, in place of `body`.
    first_byte    the first one of a long answer that is wanted.
    repeatable    whether asking twice does no more than asking once, so that a lost answer is asked for again.
    wait_seconds  for how long the service may think before it answers.
    """

    doing: str
    method: str
    path: str
    read: Callable[[Answer], T]
    query: Query = ()
    body: Json = None
    content: bytes | None = None
    first_byte: int = 0
    version: int | None = None
    repeatable: bool = True
    wait_seconds: int = 0

    def headers(self) -> dict[str, str]:
        """Return the headers that belong to the request itself."""
        headers = {} if self.version is None else {"If-Match": f'"{self.version}"'}
        if self.content is not None:
            headers["Content-Type"] = "application/octet-stream"
        if self.first_byte:
            headers["Range"] = f"bytes={self.first_byte}-"
        return headers

    def result(self, answer: Answer) -> T:
        """Return what was answered. Raises the error that the service raised, or MalformedAnswer."""
        if answer.status not in SUCCESS:
            raise error_of(answer.status, answer.body, self.doing)
        return self.read(answer)


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list; `following` asks for the next part, None if this was the last."""

    items: tuple[T, ...]
    following: "Call[Page[T]] | None"


def path(*parts: str) -> str:
    """Return a path below /v1 of names that may hold any letter, a slash too."""
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


def reading(kind: type[T], doing: str) -> Callable[[Answer], T]:
    """Return the reader of an answer that is one object."""
    return lambda answer: decode(kind, answer.document(doing), doing)


def nothing(_answer: Answer) -> None:
    """Read an answer that says only that it is done."""


def listing(doing: str, where: str, kind: type[T], query: Query = ()) -> Call[Page[T]]:
    """Return the call for the first part of a list."""

    def read(answer: Answer) -> Page[T]:
        document = answer.document(doing)
        if not isinstance(document, dict) or not isinstance(document.get("next"), str | None):
            raise MalformedAnswer(doing, expected="a page of a list", found=repr(answer.body[:40]))
        items = decode_items(kind, document.get("items"), doing)
        after = document.get("next")
        if after is None:
            return Page(items, None)
        rest = tuple(parameter for parameter in query if parameter[0] != "after")
        return Page(items, replace(call, query=(*rest, ("after", after))))

    call = Call(doing, "GET", where, read, query=query)
    return call


def given(**parameters: str | int | None) -> Query:
    """Return the parameters that are not None, as a query."""
    return tuple((name, str(value)) for name, value in parameters.items() if value is not None)


def putting(doing: str, where: str, body: Json, read: Callable[[Answer], T], version: int | None = None) -> Call[T]:
    """Return the call that has something be as `body` says."""
    # With If-Match, an answer that was lost and asked for again would be "changed" instead.
    return Call(doing, "PUT", where, read, body=body, version=version, repeatable=version is None)


def deleting(doing: str, where: str, version: int | None = None) -> Call[None]:
    """Return the call that takes something away."""
    # Asked for again, it would be "not found".
    return Call(doing, "DELETE", where, nothing, version=version, repeatable=False)


def waiting(seconds: int) -> str | None:
    """Return how `wait` says for how long the service may think."""
    return f"{seconds}s" if seconds else None
