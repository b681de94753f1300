"""Server-sent events, from bytes as they arrive. Source: HTML Living Standard, 9.2.6 (interpreting an event stream)."""

import json
from collections.abc import Iterator
from typing import Final

from steelyard.client.codec import decode
from steelyard.client.objects import Event
from steelyard.model.errors import MalformedAnswer
from steelyard.model.limits import EVENT_LINE_BYTES

DOING: Final = "following events"


class EventReader:
    """Puts an event stream's lines together; comments, the service's signs of life, are dropped."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, part: bytes) -> Iterator[Event]:
        """Give the events that are complete with these bytes. Raises MalformedAnswer."""
        *lines, self._rest = (self._rest + part).split(b"\n")
        if len(self._rest) + sum(map(len, self._data)) > EVENT_LINE_BYTES.most:
            raise MalformedAnswer(DOING, expected=f"an event of at most {EVENT_LINE_BYTES.most} bytes", found="more")
        for line in lines:
            name, _, value = line.removesuffix(b"\r").partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" "))
            elif not line.strip() and self._data:
                yield _event(b"\n".join(self._data))
                self._data = []


def _event(data: bytes) -> Event:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as cause:
        raise MalformedAnswer(DOING, expected="JSON", found=repr(data[:40])) from cause
    return decode(Event, document, DOING)
