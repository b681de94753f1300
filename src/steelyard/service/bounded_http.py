"""HTTP/1.1 on a connection: uvicorn's protocol over httptools, with the bounds that these two do not have.

Both keep whatever comes until a request's head is whole, however long that takes. Here a head has so many bytes and
seconds, and so have the trailers behind a body in chunks; the body itself is for who reads it (`http`).
"""

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES: Final = 32 * 1024
"""Of a request's line and headers. A token has a few kilobytes at the most."""
HEAD_SECONDS: Final = 20.0
"""How long a head may take; on a connection that was just made, from then on."""


class BoundedHttp(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        # Bytes of this request's line and headers, and bytes since the parser last told of anything.
        self._head_bytes = self._untold_bytes = 0
        self._waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin, with a time for the first head."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._wait_no_more()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came; close the connection when it is more than there can be between two things to tell of."""
        self._untold_bytes += len(data)
        super().data_received(data)
        if self._untold_bytes > HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The head of the request is too long.")

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._head_bytes = 0
        if self._waiting is None:
            self._wait()

    def on_url(self, url: bytes) -> None:
        """Take a part of the line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or a trailer."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._untold_bytes = 0
        self._wait_no_more()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._untold_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._untold_bytes = 0
        super().on_message_complete()

    def _count(self, size_bytes: int) -> None:
        self._untold_bytes = 0
        self._head_bytes += size_bytes
        if self._head_bytes > HEAD_BYTES:
            raise ValueError("the head is too long")  # which the parser answers as it does every bad request

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _wait_no_more(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self) -> None:
        self._waiting = None
        if not self.transport.is_closing():
            self.transport.close()
