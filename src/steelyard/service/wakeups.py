"""Tells who waits that there is something to do, so that nobody polls. Losing a call costs time, never truth.

Who waits always gives a limit, after which it looks at the database anyway.
"""

import asyncio
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol, Self


class Bell(Protocol):
    """Somebody who waits."""

    topics: tuple[str, ...]

    def ring(self) -> None:
        """Let the waiter go on; from any thread."""


class Wakeups:
    """Who waits for which topic, in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bells: dict[str, set[Bell]] = {}

    def subscribe(self, *topics: str) -> "Alarm":
        """Return an alarm that rings when one of the topics does; close it when done."""
        alarm = Alarm(self, topics)
        self._add(alarm)
        return alarm

    def subscribe_async(self, *topics: str) -> "AsyncAlarm":
        """Return an alarm for a task of the running event loop, so that thousands wait without a thread each."""
        alarm = AsyncAlarm(self, topics)
        self._add(alarm)
        return alarm

    def unsubscribe(self, bell: Bell) -> None:
        """Forget somebody."""
        with self._lock:
            for topic in bell.topics:
                waiting = self._bells.get(topic, set())
                waiting.discard(bell)
                if not waiting:
                    self._bells.pop(topic, None)

    def ring(self, topics: Iterable[str]) -> None:
        """Wake everybody who waits for one of these topics."""
        with self._lock:
            ringing = {bell for topic in topics for bell in self._bells.get(topic, ())}
        for bell in ringing:
            bell.ring()

    def ring_all(self) -> None:
        """Wake everybody: calls may have been lost."""
        with self._lock:
            topics = list(self._bells)
        self.ring(topics)

    def _add(self, bell: Bell) -> None:
        with self._lock:
            for topic in bell.topics:
                self._bells.setdefault(topic, set()).add(bell)


class Alarm:
    """One thread's bell. What rings while nobody waits is not lost: the next wait returns at once."""

    def __init__(self, wakeups: Wakeups, topics: tuple[str, ...]) -> None:
        self.topics = topics
        self._wakeups = wakeups
        self._rung = threading.Event()

    def wait(self, seconds: float) -> bool:
        """Return when it rang, or after `seconds`; whether it rang."""
        rung = self._rung.wait(seconds)
        self._rung.clear()
        return rung

    def ring(self) -> None:
        """Let the waiter go on."""
        self._rung.set()

    def close(self) -> None:
        """Stop listening."""
        self._wakeups.unsubscribe(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncAlarm:
    """One task's bell, made in its event loop; it rings like an Alarm."""

    def __init__(self, wakeups: Wakeups, topics: tuple[str, ...]) -> None:
        self.topics = topics
        self._wakeups = wakeups
        self._loop = asyncio.get_running_loop()
        self._rung = asyncio.Event()

    async def wait(self, seconds: float) -> bool:
        """Return when it rang, or after `seconds`; whether it rang."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._rung.wait()
        rung = self._rung.is_set()
        self._rung.clear()
        return rung

    def ring(self) -> None:
        """Let the waiter go on."""
        with suppress(RuntimeError):  # the loop has ended, and with it whoever waited
            self._loop.call_soon_threadsafe(self._rung.set)

    def close(self) -> None:
        """Stop listening."""
        self._wakeups.unsubscribe(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
