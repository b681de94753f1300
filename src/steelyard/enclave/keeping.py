"""The threads: one that knows when to look at which place, and writes; a pool that takes the steps.

What came of several steps is written in one transaction, so that a thousand machines at once are no thousand writes.
One process at a time keeps (a lease); another goes on where it left off, as all that matters is in the tables.
"""

import heapq
import queue
import secrets
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from typing import Final

import structlog

from steelyard.enclave import store
from steelyard.enclave.objects import Place
from steelyard.enclave.worker import Outcome, Worker, says_nothing_new
from steelyard.model.errors import SteelyardError
from steelyard.service import leases
from steelyard.service.database import Database, local_seconds
from steelyard.service.leases import Lease

LOOK_SECONDS: Final = 1.0
"""How often the tables are looked at for what others have changed, if nobody rings."""
ENCLAVE_SECONDS: Final = 0.3
"""How long what happened to places is gathered before their enclave is looked at."""
LEASE: Final = timedelta(seconds=15)
MOST_AT_ONCE: Final = 200
"""Outcomes that are written in one transaction, and places that are loaded at once."""

log = structlog.get_logger(__name__)


class Keeper:
    """Keeps enclaves as their files say, in one process of those that run the service."""

    def __init__(self, database: Database, worker: Worker, threads: int) -> None:
        self._database, self._worker, self._threads = database, worker, threads
        self._stopping = threading.Event()
        self._alarm = database.wakeups.subscribe(store.WORK)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="enclave")
        self._outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._busy: set[str] = set()
        self._seen: dict[str, int] = {}
        self._heap: list[tuple[float, str]] = []
        self._when: dict[str, float] = {}
        self._enclaves: dict[str, float] = {}
        self._versions: Mapping[str, int] = {}
        self._looked = float("-inf")
        self._lease: Lease | None = None
        self._holder = f"enclave/{secrets.token_hex(8)}"
        self._dispatcher = threading.Thread(target=self._dispatch, name="enclave-keeper", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._dispatcher.start()

    def stop(self, limit_seconds: float) -> None:
        """Begin nothing more; return when what was begun has ended, or after the limit. Nothing is lost by that."""
        self._stopping.set()
        self._alarm.ring()
        self._dispatcher.join(limit_seconds)
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._lease is not None:
            with suppress(SteelyardError), self._database.writing() as tx:
                leases.give_up(tx, self._lease)
        self._alarm.close()

    # -- the dispatcher ------------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        while not self._stopping.is_set():
            try:
                if self._keeps():
                    self._turn()
            except SteelyardError as error:
                log.warning("enclave.no-database", error=str(error))
                self._stopping.wait(LOOK_SECONDS)
            except Exception:
                log.exception("keeping enclaves")
                self._stopping.wait(LOOK_SECONDS)
            self._alarm.wait(self._pause())

    def _pause(self) -> float:
        if not self._outcomes.empty():
            return 0.0
        soonest = min([self._looked + LOOK_SECONDS, *self._enclaves.values(), *(when for when, _ in self._heap[:1])])
        return min(LOOK_SECONDS, max(0.0, soonest - local_seconds()))

    def _keeps(self) -> bool:
        """Whether this process is the one that keeps; it becomes it when no other is."""
        lease = self._lease
        if lease is not None and lease.seconds_left() > LEASE.total_seconds() / 2:
            return True
        with self._database.writing() as tx:
            held = None if lease is None else leases.renew(tx, lease, LEASE)
            if held is None:
                held = leases.acquire(tx, "enclave/keeper", self._holder, LEASE)
        if held is None or lease is None or held.fence != lease.fence:
            # Whatever was known is from before somebody else kept.
            self._seen.clear()
            self._versions = {}
            self._looked = float("-inf")
        self._lease = held
        return held is not None

    def _turn(self) -> None:
        self._write()
        now = local_seconds()
        if self._looked + LOOK_SECONDS <= now:
            self._look(now)
        self._look_at_enclaves(now)
        self._submit(now)

    def _look(self, now: float) -> None:
        """Find out what others have changed."""
        self._looked = now
        with self._database.reading() as connection:
            found = store.to_be_looked_at(connection)
        for place, version in found.items():
            if self._seen.get(place) != version and place not in self._busy:
                self._seen[place] = version
                self._at(place, now)
        for place in [place for place in self._seen if place not in found]:
            del self._seen[place]
            self._when.pop(place, None)
        living = self._worker.living()
        for enclave, version in living.items():
            if self._versions.get(enclave) != version:
                self._enclaves[enclave] = now
        self._versions = living

    def _at(self, place: str, when: float) -> None:
        self._when[place] = when
        heapq.heappush(self._heap, (when, place))

    def _write(self) -> None:
        """Write what came of steps, many at once."""
        outcomes: list[Outcome] = []
        with suppress(queue.Empty):
            while len(outcomes) < MOST_AT_ONCE:
                outcomes.append(self._outcomes.get_nowait())
        if not outcomes:
            return
        now = local_seconds()
        try:
            pauses, touched = self._worker.settle(outcomes)
        except BaseException:
            # Not written: the steps are taken again.
            pauses, touched = {outcome.place.id: LOOK_SECONDS for outcome in outcomes}, set()
            raise
        finally:
            for outcome in outcomes:
                self._busy.discard(outcome.place.id)
                # What was written has another version, which is found out at the next look.
                self._seen[outcome.place.id] = outcome.place.version if says_nothing_new(outcome) else -1
                pause = pauses.get(outcome.place.id, LOOK_SECONDS)
                if pause is not None:
                    self._at(outcome.place.id, now + pause)
                else:
                    self._when.pop(outcome.place.id, None)
            for enclave in touched:
                self._enclaves.setdefault(enclave, now + ENCLAVE_SECONDS)

    def _look_at_enclaves(self, now: float) -> None:
        due = [enclave for enclave, when in self._enclaves.items() if when <= now]
        for enclave in due:
            with self._database.writing() as tx:
                self._worker.look_at_enclave(tx, enclave)
            del self._enclaves[enclave]
            # What was made is looked at at once.
            self._looked = float("-inf")

    def _submit(self, now: float) -> None:
        """Have steps taken whose time has come, no more than are soon taken."""
        room = 2 * self._threads - len(self._busy)
        chosen: list[str] = []
        while self._heap and self._heap[0][0] <= now and len(chosen) < room:
            when, place = heapq.heappop(self._heap)
            if self._when.get(place) == when and place not in self._busy:
                del self._when[place]
                chosen.append(place)
        if not chosen:
            return
        with self._database.reading() as connection:
            places = store.load_places(connection, chosen)
        for due in places:
            if due.due is not None:
                self._seen[due.id] = due.version
                self._busy.add(due.id)
                self._pool.submit(self._take, due)

    def _take(self, place: Place) -> None:
        self._outcomes.put(self._worker.take(place))
        self._alarm.ring()
