"""Tells threads that there is something to do, so that nobody polls. Losing a call costs time, never truth.

Who waits always gives a limit, after which it looks at the database anyway.
"""

import threading
from collections.abc import Iterable


class Wakeups:
    """Who waits for which topic, in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._alarms: dict[str, set[Alarm]] = {}

    def subscribe(self, *topics: str) -> "Alarm":
        """Return an alarm that rings when one of the topics does; close it when done."""
        alarm = Alarm(self, topics)
        with self._lock:
            for topic in topics:
                self._alarms.setdefault(topic, set()).add(alarm)
        return alarm

    def unsubscribe(self, alarm: "Alarm") -> None:
        """Forget an alarm."""
        with self._lock:
            for topic in alarm.topics:
                waiting = self._alarms.get(topic, set())
                waiting.discard(alarm)
                if not waiting:
                    self._alarms.pop(topic, None)

    def ring(self, topics: Iterable[str]) -> None:
        """Ring every alarm of these topics."""
        with self._lock:
            ringing = {alarm for topic in topics for alarm in self._alarms.get(topic, ())}
        for alarm in ringing:
            alarm.ring()


class Alarm:
    """One waiter's bell. What rings while nobody waits is not lost: the next wait returns at once."""

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

    def __enter__(self) -> "Alarm":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
