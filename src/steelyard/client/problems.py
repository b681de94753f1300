"""RFC 9457 problems, turned back into the errors that the service raised."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from steelyard.model.errors import MalformedAnswer, SteelyardError, Unavailable


def _kinds(kind: type[SteelyardError]) -> Iterator[type[SteelyardError]]:
    for child in kind.__subclasses__():
        yield child
        yield from _kinds(child)


BY_CODE: Final[Mapping[str, type[SteelyardError]]] = {kind.code: kind for kind in _kinds(SteelyardError)}


def error_of(status: int, body: bytes, doing: str) -> SteelyardError:
    """Return the error that an answer tells of; MalformedAnswer if it is not a problem of Steelyard's."""
    problem = _problem(body)
    kind = BY_CODE.get(str(problem.get("code")))
    if kind is None:
        # Somebody else answered: a proxy, or not a Steelyard at all.
        if status in (502, 503, 504):
            return Unavailable(doing, expected="an answer of the service", found=f"status {status}")
        return MalformedAnswer(doing, expected="an answer of a Steelyard service", found=f"status {status}")
    said = {name: str(problem.get(name, "")) for name in ("doing", "expected", "found")}
    return kind(said["doing"] or doing, expected=said["expected"], found=said["found"])


def _problem(body: bytes) -> dict[str, Any]:
    try:
        problem = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return problem if isinstance(problem, dict) else {}
