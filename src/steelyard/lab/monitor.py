"""QEMU's machine protocol, as far as a BMC's wires go: run, stop, the power button, and why the machine ended.

Source: QEMU Machine Protocol Specification; QEMU QMP Reference Manual 7.2.
"""

import asyncio
import json
import socket
from typing import Any, Final

from steelyard.model.errors import LabFailed

LIMIT_SECONDS: Final = 30
LINE_BYTES: Final = 1024 * 1024


class Monitor:
    """One machine's monitor. Commands are answered in order; events are kept as far as they are of use."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._listening = asyncio.create_task(self._listen())
        self.end_reason: str | None = None
        """Why the machine ended, in QEMU's words: "guest-reset", "guest-shutdown", ...; None while it has not."""

    @classmethod
    async def connect(cls, wire: socket.socket) -> "Monitor":
        """Return the monitor at the other end of `wire`, ready for commands. Raises LabFailed."""
        reader, writer = await asyncio.open_unix_connection(sock=wire, limit=LINE_BYTES)
        monitor = cls(reader, writer)
        await monitor._answer("greeting QEMU")
        await monitor.execute("qmp_capabilities")
        return monitor

    async def execute(self, command: str) -> None:
        """Have the machine do `command`. Raises LabFailed."""
        doing = f"telling QEMU {command}"
        self._writer.write(json.dumps({"execute": command}).encode() + b"\n")
        answer = await self._answer(doing)
        if "error" in answer:
            raise LabFailed(doing, expected="it to be done", found=str(answer["error"].get("desc")))

    async def _answer(self, doing: str) -> dict[str, Any]:
        try:
            answer = await asyncio.wait_for(self._answers.get(), LIMIT_SECONDS)
        except TimeoutError as cause:
            raise LabFailed(doing, expected="an answer", found=f"none in {LIMIT_SECONDS} s") from cause
        if not answer:
            raise LabFailed(doing, expected="an answer", found="the machine has ended; its log says why")
        return answer

    async def _listen(self) -> None:
        try:
            async for line in self._reader:
                message = json.loads(line)
                if message.get("event") == "SHUTDOWN":
                    self.end_reason = message["data"]["reason"]
                elif "event" not in message:
                    self._answers.put_nowait(message)
        except ConnectionResetError:
            pass
        # An empty answer ends every wait: nothing more will come.
        self._answers.put_nowait({})

    async def close(self) -> None:
        """Return when all that the machine said was heard; it has ended."""
        await self._listening
        self._writer.close()
