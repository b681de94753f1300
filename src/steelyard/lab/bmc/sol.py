"""Serial over LAN: a node's console in an IPMI session. Source: IPMI 2.0 revision 1.1, chapter 15."""

import asyncio
from collections.abc import Callable
from typing import Final

from steelyard.lab.console import Console

CHUNK_BYTES: Final = 200
HEADER_BYTES: Final = 4
_BEHIND_BYTES: Final = 64 * 1024
"""A serial line that is not read loses characters; so does this one, the oldest first."""
_RETRY_SECONDS: Final = 0.5
_NACK: Final = 0x40


class SerialOverLan:
    """One active console. `send` takes an SOL payload to the other side, and may lose it.

    A payload: sequence 1 to 15 (0: only an acknowledgement), sequence acknowledged, characters accepted, status or
    operation, characters. One packet is under way at a time in each direction.
    Source: section 15.9.
    """

    def __init__(self, console: Console, send: Callable[[bytes], None]) -> None:
        self._console = console
        self._send = send
        self._waiting = b""
        self._under_way = b""
        self._sequence = 0
        self._last_heard = 0
        self._retry: asyncio.TimerHandle | None = None
        self._stop_listening = console.listen(self._hear)

    def _hear(self, said: bytes) -> None:
        self._waiting = (self._waiting + said)[-_BEHIND_BYTES:]
        if not self._under_way:
            self._send_next()

    def _send_next(self) -> None:
        self._under_way, self._waiting = self._waiting[:CHUNK_BYTES], self._waiting[CHUNK_BYTES:]
        if self._under_way:
            self._sequence = self._sequence % 15 + 1
            self._transmit()

    def _transmit(self) -> None:
        self._send(bytes([self._sequence, 0, 0, 0]) + self._under_way)
        self._retry = asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._transmit)

    def receive(self, payload: bytes) -> None:
        """Take a payload from the other side."""
        if len(payload) < HEADER_BYTES:
            return
        sequence, acknowledged, accepted, operation = payload[:HEADER_BYTES]
        if self._under_way and acknowledged & 0x0F == self._sequence:
            self._acknowledge(accepted, refused=operation & _NACK != 0)
        if sequence & 0x0F:
            keys = payload[HEADER_BYTES:]
            if sequence != self._last_heard:
                self._last_heard = sequence
                self._console.type(keys)
            self._send(bytes([0, sequence, len(keys), 0]))

    def _acknowledge(self, accepted: int, *, refused: bool) -> None:
        if self._retry is not None:
            self._retry.cancel()
        if refused:
            # It takes no more for now: what it did not take goes first when the retry is due.
            self._under_way = self._under_way[accepted:]
            self._retry = asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._send_rest)
            return
        self._waiting = self._under_way[accepted:] + self._waiting
        self._under_way = b""
        self._send_next()

    def _send_rest(self) -> None:
        self._waiting, self._under_way = self._under_way + self._waiting, b""
        self._send_next()

    def close(self) -> None:
        """End it."""
        self._stop_listening()
        if self._retry is not None:
            self._retry.cancel()
