"""The threads that work for nodes, beside those that answer people: few, with short queues, fair between nodes.

Of evidence, what is small does not wait for what is large, a node has one thing judged at a time, and what does not fit
in the queue is refused: the node asks again. What else nodes ask has threads of its own.
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
ANSWERING: Final = 8
"""How much else of what nodes ask is answered at a time."""


class Appraising:
    """Queues with threads of their own: for small evidence, for large, and for what else is asked."""

    def __init__(self, threads: int) -> None:
        self._answering = ThreadPoolExecutor(ANSWERING, thread_name_prefix="answering")
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

    async def answer(self, work: Callable[[], T]) -> T:
        """Return what `work`, which may wait for the database, returns."""
        return await asyncio.get_running_loop().run_in_executor(self._answering, work)

    def stop(self) -> None:
        """End; what waits is given up, and the nodes ask again."""
        for pool in (self._answering, self._small, self._large):
            pool.shutdown(wait=True, cancel_futures=True)
