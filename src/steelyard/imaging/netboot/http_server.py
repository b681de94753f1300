"""Serves files over plain HTTP: GET and HEAD of exact names, to who may have them.

All else is answered by the same 404: what is not there, what is another node's, another method, another way to write
the name. What cannot be read as a request is not answered.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Collection
from io import BytesIO
from ipaddress import IPv4Address
from typing import BinaryIO, Final, cast

import h11

from steelyard.imaging.netboot.answers import Content
from steelyard.model.limits import BOOT_REQUEST_BYTES
from steelyard.model.secret import Secret

PORT: Final = 80
Find = Callable[[IPv4Address, str], Content | None]
"""Returns what the node at an address may have by that name."""

_CONNECTIONS: Final = 8
"""Of one caller: firmware and wget have one, iPXE two. Strangers have as many together."""
_REQUEST_SECONDS: Final = 10.0
"""Within which a request is there, whole; also the next one over the same connection."""
_ANSWER_SECONDS: Final = 900.0
"""For the largest file and the slowest card: 1 GiB at 10 Mbit/s."""


class HttpServer:
    """Serves at one socket what `find` finds. `knows` tells nodes from strangers."""

    def __init__(self, find: Find, knows: Callable[[IPv4Address], bool]) -> None:
        self._find, self._knows = find, knows
        self._callers: dict[asyncio.Task[None], IPv4Address] = {}
        self._server: asyncio.Server | None = None

    async def start(self, listener: socket.socket) -> None:
        """Serve at a socket that is bound."""
        self._server = await asyncio.start_server(self._accept, sock=listener)

    async def stop(self) -> None:
        """Return when nothing is served any more."""
        if self._server is not None:
            self._server.close()
        await self.cut(set(self._callers.values()))

    async def cut(self, callers: Collection[IPv4Address]) -> None:
        """End the connections of these."""
        tasks = [task for task, caller in self._callers.items() if caller in callers]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        caller = IPv4Address(peer[0]) if peer else None
        if caller is None or self._connections_beside(caller) >= _CONNECTIONS:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._converse(caller, reader, writer))
        self._callers[task] = caller
        task.add_done_callback(self._callers.pop)

    def _connections_beside(self, caller: IPv4Address) -> int:
        if self._knows(caller):
            return sum(other == caller for other in self._callers.values())
        return sum(not self._knows(other) for other in self._callers.values())

    async def _converse(self, caller: IPv4Address, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=BOOT_REQUEST_BYTES.most)
        try:
            while (request := await _hear(connection, reader)) is not None:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    await self._answer(connection, request, caller, writer)
                if connection.our_state is not h11.DONE:
                    break
                connection.start_next_cycle()
            writer.close()
            await writer.wait_closed()
        except (OSError, TimeoutError, h11.ProtocolError):
            pass  # the caller's, and so the caller's to try again
        finally:
            writer.transport.abort()

    async def _answer(
        self, connection: h11.Connection, request: h11.Request, caller: IPv4Address, writer: asyncio.StreamWriter
    ) -> None:
        content = None
        if request.method in {b"GET", b"HEAD"} and request.target.startswith(b"/"):
            content = _open(self._find(caller, request.target[1:].decode("ascii")))
        status, file = (404, BytesIO()) if content is None else (200, content)
        with file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            headers = [("Content-Length", str(size)), ("Content-Type", "application/octet-stream")]
            writer.write(connection.send(h11.Response(status_code=status, headers=headers)) or b"")
            if size and request.method == b"GET":
                # h11 is told of it, and the kernel sends it.
                unsent = cast("bytes", _Unsent(size))
                connection.send_with_data_passthrough(h11.Data(data=unsent))
                await asyncio.get_running_loop().sendfile(writer.transport, file)
            connection.send(h11.EndOfMessage())
            await writer.drain()


class _Unsent:
    """Stands for bytes that h11 is to count, and not to see."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size


def _open(content: Content | None) -> BinaryIO | None:
    if isinstance(content, Secret):
        return BytesIO(content.reveal())
    try:
        return None if content is None else content.open("rb")
    except FileNotFoundError:
        return None


async def _hear(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    """Return the next request; None if there is none, or more to it than a file's name. Raises TimeoutError."""
    request: h11.Request | None = None
    async with asyncio.timeout(_REQUEST_SECONDS):
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(BOOT_REQUEST_BYTES.most))
            elif isinstance(event, h11.Request):
                request = event
            else:
                return request if isinstance(event, h11.EndOfMessage) else None
