"""Where a machine fetches its delivery, and who its peers are: plain HTTP on the airlock's network, GET of exact names.

Nothing that is served is a secret: it is sealed to one boot of one machine, or signed. What is not there, not there
yet, not there any more, or asked for otherwise is the same 404. What cannot be read as a request is not answered.
"""

import asyncio
import re
import socket
import threading
from collections.abc import Callable
from typing import Final

import h11
import structlog

from steelyard.model.errors import SteelyardError
from steelyard.model.limits import DELIVERY_REQUEST_BYTES

Find = Callable[[str, str], bytes | None]
"""Returns what is at a name of a kind ("delivery", "peers"); None: nothing."""

_CONNECTIONS: Final = 512
_CONNECTIONS_EACH: Final = 8
"""Of one address."""
_REQUEST_SECONDS: Final = 10.0
_ANSWER_SECONDS: Final = 120.0
_PATH: Final = re.compile(rb"/(delivery|peers)/([0-9a-f]{32})")

log = structlog.get_logger(__name__)


class DeliveryServer:
    """Serves at one address what `find` finds, in a thread of its own."""

    def __init__(self, host: str, port: int, find: Find) -> None:
        self._host, self._port, self._find = host, port, find
        self._thread: threading.Thread | None = None
        self._server: asyncio.Server | None = None
        self._callers: dict[asyncio.Task[None], str] = {}
        self.port = port

    def start(self) -> None:
        """Begin. Raises OSError when the address is not to be had."""
        listener = socket.create_server((self._host, self._port), backlog=512)
        self.port = listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="deliveries")
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(listener), self._loop).result()

    async def _listen(self, listener: socket.socket) -> None:
        self._server = await asyncio.start_server(self._accept, sock=listener)

    def stop(self) -> None:
        """End; return when it has."""
        if self._thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._callers):
            task.cancel()
        await asyncio.gather(*self._callers, return_exceptions=True)
        await self._loop.shutdown_default_executor()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        caller = str(peer[0]) if peer else ""
        beside = sum(other == caller for other in self._callers.values())
        if len(self._callers) >= _CONNECTIONS or beside >= _CONNECTIONS_EACH:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._converse(reader, writer))
        self._callers[task] = caller
        task.add_done_callback(self._callers.pop)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=DELIVERY_REQUEST_BYTES.most)
        try:
            while (request := await _hear(connection, reader)) is not None:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    await self._answer(connection, request, writer)
                if connection.our_state is not h11.DONE:
                    break
                connection.start_next_cycle()
            writer.close()
            await writer.wait_closed()
        except (OSError, TimeoutError, h11.ProtocolError):
            pass  # the caller's, and so the caller's to try again
        finally:
            writer.transport.abort()

    async def _answer(self, connection: h11.Connection, request: h11.Request, writer: asyncio.StreamWriter) -> None:
        matched = _PATH.fullmatch(request.target)
        status, content = 404, b""
        if request.method == b"GET" and matched is not None:
            kind, name = matched[1].decode(), matched[2].decode()
            try:
                found = await self._loop.run_in_executor(None, self._find, kind, name)
            except SteelyardError as error:
                log.warning("delivery.no-database", error=str(error))
                status, found = 503, None
            if found is not None:
                status, content = 200, found
        headers = [("Content-Length", str(len(content))), ("Content-Type", "application/json")]
        writer.write(connection.send(h11.Response(status_code=status, headers=headers)) or b"")
        if content:
            writer.write(connection.send(h11.Data(data=content)) or b"")
        connection.send(h11.EndOfMessage())
        await writer.drain()


async def _hear(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    """Return the next request; None if there is none, or more to it than a name. Raises TimeoutError."""
    request: h11.Request | None = None
    async with asyncio.timeout(_REQUEST_SECONDS):
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(DELIVERY_REQUEST_BYTES.most))
            elif isinstance(event, h11.Request):
                request = event
            else:
                return request if isinstance(event, h11.EndOfMessage) else None
