"""Reads JSON documents strictly: no duplicate or unknown field, no NaN, every field of its one type.

A codec asks `Fields` for what it needs and calls `end`; what was not asked for is refused, so that a misspelt rule
never silently means nothing.
"""

import base64
import binascii
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NoReturn

from steelyard.evidence.reader import refuse_over
from steelyard.model.errors import Malformed, WrongUse
from steelyard.model.limits import Limit


def parse_document(data: bytes, limit: Limit, doing: str, error: type[Malformed]) -> "Fields":
    """Return the top object of a JSON document in UTF-8. Raises `error`, TooLarge."""
    refuse_over(limit, len(data), doing)

    def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) != len(pairs):
            twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
            raise error(doing, expected="each field once", found=f"field {twice!r} twice")
        return fields

    def refuse_constant(constant: str) -> NoReturn:
        raise error(doing, expected="JSON numbers", found=constant)

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=object_of, parse_constant=refuse_constant)
    except RecursionError as cause:
        raise error(doing, expected="a document nested a few levels deep", found="one nested far deeper") from cause
    except ValueError as cause:  # not UTF-8, not JSON, or a number of thousands of digits
        raise error(doing, expected="a JSON document in UTF-8", found=str(cause)) from cause
    return Fields(value, "", doing, error)


class Fields:
    """The fields of one JSON object, each taken once and by type; `where` is the path to it, for errors."""

    def __init__(self, value: object, where: str, doing: str, error: type[Malformed]) -> None:
        self._where = where
        self._doing = doing
        self._error = error
        if not isinstance(value, dict):
            raise self.wrong("", "an object", value)
        self._left: dict[str, Any] = dict(value)

    def wrong(self, name: str, expected: str, found: object) -> Malformed:
        """Return the error to raise for the field `name`."""
        place = ".".join(part for part in (self._where, name) if part)
        shown = found if isinstance(found, str) else json.dumps(found, default=repr)[:80]
        return self._error(self._doing, expected=f"{place or 'the document'} to be {expected}", found=shown)

    def _take(self, name: str, kind: type, expected: str) -> Any:
        if name not in self._left:
            raise self.wrong(name, f"present, as {expected}", "no such field")
        value = self._left.pop(name)
        # bool is an int to Python, and not to us; no document of ours has one.
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.wrong(name, expected, value)
        return value

    def has(self, name: str) -> bool:
        """Return whether an optional field is there."""
        return name in self._left

    def null(self, name: str) -> bool:
        """Return whether the field is there and null, and take it if so."""
        if name in self._left and self._left[name] is None:
            del self._left[name]
            return True
        return False

    def text(self, name: str) -> str:
        """Return a text that is not empty."""
        value: str = self._take(name, str, "a text")
        if not value:
            raise self.wrong(name, "a text that is not empty", value)
        return value

    def words(self, name: str) -> str:
        """Return a text for people, that may be empty."""
        value: str = self._take(name, str, "a text")
        return value

    def choice(self, name: str, legal: Mapping[str, Any]) -> Any:
        """Return what `legal` has for the text given."""
        value = self.text(name)
        if value not in legal:
            raise self.wrong(name, "one of " + ", ".join(sorted(legal)), value)
        return legal[value]

    def integer(self, name: str, least: int, most: int) -> int:
        """Return a whole number within bounds."""
        value: int = self._take(name, int, f"a whole number from {least} to {most}")
        if not least <= value <= most:
            raise self.wrong(name, f"a whole number from {least} to {most}", value)
        return value

    def hexadecimal(self, name: str) -> bytes:
        """Return bytes written in lower-case hexadecimal."""
        value = self._take(name, str, "bytes in hexadecimal")
        try:
            decoded = bytes.fromhex(value)
        except ValueError:
            decoded = b""
        if decoded.hex() != value:
            raise self.wrong(name, "bytes in lower-case hexadecimal", value)
        return decoded

    def base64(self, name: str) -> bytes:
        """Return bytes written in standard base64 with padding."""
        value: str = self._take(name, str, "bytes in base64")
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError) as cause:
            raise self.wrong(name, "bytes in base64", value) from cause

    def time(self, name: str) -> datetime:
        """Return a time in UTC, as "2026-11-24T12:00:00Z"."""
        value = self.text(name)
        try:
            return parse_time(value)
        except WrongUse as cause:
            raise self.wrong(name, cause.expected, value) from cause

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list of texts, possibly empty."""
        values = self._take(name, list, "a list of texts")
        for value in values:
            if not isinstance(value, str) or not value:
                raise self.wrong(name, "a list of texts that are not empty", value)
        return tuple(values)

    def integers(self, name: str, least: int, most: int) -> tuple[int, ...]:
        """Return a list of whole numbers within bounds, possibly empty."""
        values = self._take(name, list, "a list of whole numbers")
        for value in values:
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise self.wrong(name, f"a list of whole numbers from {least} to {most}", value)
        return tuple(values)

    def mapping(self, name: str) -> dict[str, Any]:
        """Return an object whose field names are data."""
        value: dict[str, Any] = self._take(name, dict, "an object")
        return value

    def fields(self, name: str) -> "Fields":
        """Return an object with fields of its own."""
        value = self._take(name, dict, "an object")
        return Fields(value, f"{self._where}.{name}".lstrip("."), self._doing, self._error)

    def list_of_fields(self, name: str, limit: Limit) -> Iterator["Fields"]:
        """Yield the objects of a list, at most `limit` of them."""
        values = self._take(name, list, "a list of objects")
        refuse_over(limit, len(values), self._doing)
        for position, value in enumerate(values):
            yield Fields(value, f"{self._where}.{name}[{position}]".lstrip("."), self._doing, self._error)

    def schema(self, legal: str) -> None:
        """Take the field that says what kind and version of document this is."""
        found = self.text("schema")
        if found != legal:
            raise self.wrong("schema", legal, found)

    def end(self) -> None:
        """Raise when a field is left that nobody asked for."""
        if self._left:
            raise self.wrong("", "without unknown fields", "field " + ", ".join(sorted(self._left)))


def parse_time(text: str) -> datetime:
    """Return a time in UTC, as "2026-11-24T12:00:00Z". Raises WrongUse."""
    try:
        moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        moment = None
    if moment is None or format_time(moment) != text:  # "2026-1-2T3:4:5Z" is another way to write one
        raise WrongUse("reading a time", expected="a time such as 2026-11-24T12:00:00Z", found=text)
    return moment


def format_time(moment: datetime) -> str:
    """Return a time as documents carry it: UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
