"""JSON and the client's objects: read by their declared types, so that what a service answers is what it promised.

A field more than expected is left out (a newer service says more); one that is missing, or of another type, is
MalformedAnswer.
"""

from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from steelyard.model.errors import MalformedAnswer
from steelyard.model.secret import Secret

T = TypeVar("T")

Json = str | int | bool | None | list[Any] | dict[str, Any]


def decode(kind: type[T], value: Json, doing: str) -> T:
    """Return `value` as `kind`, a dataclass.

    Its fields may be text, numbers, times, bytes (base64), dataclasses, and these in tuples, mappings and options.
    Raises MalformedAnswer.
    """
    decoded: T = _decode(kind, value, _Place(doing, "answer"))
    return decoded


def decode_items(kind: type[T], value: Json, doing: str) -> tuple[T, ...]:
    """Return the items of a list, each as `kind`. Raises MalformedAnswer."""
    decoded: tuple[T, ...] = _decode(tuple[kind, ...], value, _Place(doing, "items"))  # type: ignore[valid-type]  # a type at run time
    return decoded


def encode(value: object) -> Json:
    """Return one of the client's objects as JSON; the opposite of `decode`."""
    if isinstance(value, Secret):
        raise TypeError("nothing prints a secret")
    if is_dataclass(value) and not isinstance(value, type):
        return {entry.name: encode(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return b64encode(value).decode("ascii")
    if isinstance(value, Mapping):
        return {str(key): encode(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [encode(inner) for inner in value]
    if value is None or isinstance(value, str | int):
        return value
    raise TypeError(type(value).__name__)


class _Place:
    """Where in the answer a value stands, for the error's words."""

    def __init__(self, doing: str, path: str) -> None:
        self._doing = doing
        self._path = path

    def inside(self, name: str | int) -> "_Place":
        return _Place(self._doing, f"{self._path}.{name}")

    def wrong(self, expected: str, found: Json) -> MalformedAnswer:
        return MalformedAnswer(self._doing, expected=f"{expected} as {self._path}", found=type(found).__name__)


def _decode(kind: Any, value: Json, place: _Place) -> Any:
    if kind in (str, int, bool):
        return _decode_plain(kind, value, place)
    if kind is object:
        return value
    if kind is datetime:
        return _decode_time(value, place)
    if kind is bytes:
        return _decode_bytes(value, place)
    if kind is Secret:
        return Secret(_decode_plain(str, value, place).encode())
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        (inner,) = [argument for argument in arguments if argument is not NoneType]
        return None if value is None else _decode(inner, value, place)
    if origin is tuple:
        if not isinstance(value, list):
            raise place.wrong("a list", value)
        return tuple(_decode(arguments[0], item, place.inside(index)) for index, item in enumerate(value))
    if not isinstance(value, dict):
        raise place.wrong("an object", value)
    if origin is Mapping:
        return {key: _decode(arguments[1], item, place.inside(key)) for key, item in value.items()}
    return kind(**{name: _decode(of, value.get(name), place.inside(name)) for name, of in _hints(kind).items()})


@cache
def _hints(kind: type) -> Mapping[str, Any]:
    return get_type_hints(kind)


def _decode_plain(kind: type, value: Json, place: _Place) -> Any:
    # A bool is an int to Python; in a document it is not.
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise place.wrong({str: "text", int: "a whole number", bool: "true or false"}[kind], value)


def _decode_time(value: Json, place: _Place) -> datetime:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise place.wrong("a time with its zone", value)
    return moment


def _decode_bytes(value: Json, place: _Place) -> bytes:
    try:
        if isinstance(value, str):
            return b64decode(value, validate=True)
    except ValueError:
        pass
    raise place.wrong("base64", value)
