"""The threads that judge evidence, beside those that answer requests: few, with short queues, fair between nodes.

What is small does not wait for what is large, a node has one thing judged at a time, and what does not fit in the queue
is refused: the node asks again.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from steelyard.model.errors import TooMany
from steelyard.model.limits import SMALL_EVIDENCE_BYTES

T = TypeVar("T")

WAITING: Final = 256
"""Evidence that waits for its turn, in each of the two queues."""


class Appraising:
    """Two queues with threads of their own: for small evidence, and for large."""

    def __init__(self, threads: int) -> None:
        self._small = ThreadPoolExecutor(threads, thread_name_prefix="appraising")
        self._large = ThreadPoolExecutor(max(1, threads // 2), thread_name_prefix="appraising-large")
        self._lock = threading.Lock()
        self._busy: set[str] = set()

    async def run(self, who: str, size_bytes: int, work: Callable[[], T]) -> T:
        """Return what `work` returns. Raises TooMany when somebody has more judged at a time than their turn."""
        small = size_bytes <= SMALL_EVIDENCE_BYTES.most
        doing = "taking evidence"
        with self._lock:
            if who in self._busy:
                raise TooMany(doing, expected="one at a time from each node", found="another that is being judged")
            if len(self._busy) >= WAITING:
                raise TooMany(doing, expected="room in the queue", found=f"{WAITING} that wait")
            self._busy.add(who)
        try:
            return await asyncio.wrap_future((self._small if small else self._large).submit(work))
        finally:
            with self._lock:
                self._busy.discard(who)

    def stop(self) -> None:
        """End; what waits is given up, and the nodes ask again."""
        for pool in (self._small, self._large):
            pool.shutdown(wait=True, cancel_futures=True)
