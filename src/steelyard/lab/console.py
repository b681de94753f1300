"""A node's serial line: recorded for good, and shared by everyone who listens.

One reader does not push another out; what any of them types reaches the machine.
"""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

CHUNK_BYTES: Final = 4096
KEPT_BYTES: Final = 16 * 1024
"""Shown to who comes late: a screen or two."""
BEHIND_BYTES: Final = 1024 * 1024
"""A listener who is this far behind is dropped: a stuck terminal must not fill the memory."""

Listener = Callable[[bytes], None]


class Console:
    """The line's near end. It outlives the machine: a listener stays through power cycles."""

    def __init__(self, record: Path) -> None:
        # Unbuffered: the record is whole up to the moment of any crash.
        self._record = record.open("ab", buffering=0)
        self._kept = b""
        self._listeners: dict[Listener, None] = {}
        self._to_machine: asyncio.StreamWriter | None = None

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Hand everything that the machine says to `listener` from now on; return what ends that."""
        self._listeners[listener] = None

        def stop() -> None:
            self._listeners.pop(listener, None)

        return stop

    def type(self, keys: bytes) -> None:
        """Send `keys` to the machine; without power they are lost, as on a real line."""
        if self._to_machine is not None:
            self._to_machine.write(keys)

    async def carry(self, wire: socket.socket) -> None:
        """Pass on what the machine at the other end of `wire` says, until it ends."""
        reader, self._to_machine = await asyncio.open_unix_connection(sock=wire)
        try:
            while said := await reader.read(CHUNK_BYTES):
                self._pass_on(said)
        except ConnectionResetError:
            pass
        finally:
            self._to_machine.close()
            self._to_machine = None

    def _pass_on(self, said: bytes) -> None:
        self._record.write(said)
        self._kept = (self._kept + said)[-KEPT_BYTES:]
        for listener in tuple(self._listeners):
            listener(said)

    async def serve(self, path: Path) -> asyncio.Server:
        """Let `lab console` listen in and type at the socket `path`."""
        path.unlink(missing_ok=True)
        return await asyncio.start_unix_server(self._serve_one, path)

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def show(said: bytes) -> None:
            if writer.transport.get_write_buffer_size() > BEHIND_BYTES:
                writer.transport.abort()
            elif not writer.is_closing():
                writer.write(said)

        show(self._kept)
        stop = self.listen(show)
        try:
            while keys := await reader.read(CHUNK_BYTES):
                self.type(keys)
        except ConnectionResetError:
            pass
        finally:
            stop()
            writer.close()

    def close(self) -> None:
        """Close the record."""
        self._record.close()
