"""Lists that are asked for all the time, believed for a moment: what decides anything is asked for anew."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final, Generic, TypeVar

T = TypeVar("T")

FRESH_SECONDS: Final = 0.5
"""How long a list is believed at least."""
OLDEST_SECONDS: Final = 5.0
"""And at most."""
_SHARE: Final = 10
"""Between the two, as many times as long as it took to be read: a long list is not to be read all the time."""


class Fresh(Generic[T]):
    """What `read` gives for a key, read again when it is not fresh any more; who wants it meanwhile waits for it."""

    def __init__(self, read: Callable[[str], Mapping[str, T]], clock: Callable[[], float] = time.monotonic) -> None:
        self._read, self._clock = read, clock
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, Mapping[str, T]]] = {}

    def get(self, key: str) -> Mapping[str, T]:
        """Return it. Raises what reading it raises."""
        with self._lock:
            until, known = self._known.get(key, (float("-inf"), {}))
            begun = self._clock()
            if begun > until:
                known = self._read(key)
                now = self._clock()
                self._known[key] = (now + min(max(FRESH_SECONDS, _SHARE * (now - begun)), OLDEST_SECONDS), known)
            return known

    def forget(self) -> None:
        """Believe nothing from before now: something was changed."""
        with self._lock:
            self._known.clear()
