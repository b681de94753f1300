"""The threads: one that looks what there is to do, and pools that do it.

Here alone is anything scheduled. What cuts a node off, or is quick, never waits behind what copies disks.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Final

import structlog
from sqlalchemy import select

from steelyard.imaging import catalogue, outcomes, uploads
from steelyard.imaging.keeping.doing import Doer
from steelyard.imaging.keeping.serving import Serving
from steelyard.imaging.objects import Operation, Verb
from steelyard.imaging.ports import Store
from steelyard.imaging.shelf import Shelf
from steelyard.imaging.tables import discarded
from steelyard.imaging.tables import uploads as uploads_table
from steelyard.model.errors import StorageFailed, Unavailable
from steelyard.service.database import Database, local_seconds

LOOK_SECONDS: Final = 1.0
"""How often it is looked what there is to do, if nobody rings."""
RESTORE_SECONDS: Final = 2.0
"""How long a volume may be away whose server has died."""
ENDINGS_SECONDS: Final = 10.0
"""After which what could not be ended is tried again."""
TIDY_SECONDS: Final = 60.0
FIRST_PAUSE_SECONDS: Final = 0.2
LONGEST_PAUSE_SECONDS: Final = 10.0
"""What somebody else is at work on is asked for again after the first of these, then after longer and longer."""

LONG: Final = frozenset({Verb.MAKE_IMAGE, Verb.FLATTEN})
"""Work that takes a time that grows with a disk."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class KeeperSettings:
    """quick, long: how many operations of each kind are worked at at a time; upload_age: of one that nobody adds to."""

    quick: int
    long: int
    upload_age: timedelta


class Keeper:
    """Works at what the tables say, in one process for each store."""

    def __init__(
        self, database: Database, store: Store, shelf: Shelf, serving: Serving, doer: Doer, settings: KeeperSettings
    ) -> None:
        self._database, self._store, self._shelf = database, store, shelf
        self._serving, self._doer, self._settings = serving, doer, settings
        self._stopping = threading.Event()
        self._alarm = database.wakeups.subscribe(catalogue.WORK)
        self._quick = ThreadPoolExecutor(settings.quick, thread_name_prefix="imaging")
        self._long = ThreadPoolExecutor(settings.long, thread_name_prefix="imaging-long")
        self._working: dict[str, Future[None]] = {}
        self._not_before: dict[str, float] = {}
        self._pauses: dict[str, float] = {}
        self._chores: dict[str, tuple[float, float, Callable[[], None]]] = {
            "restore": (RESTORE_SECONDS, 0, serving.restore),
            "endings": (ENDINGS_SECONDS, 0, self._take_up_endings),
            "tidy": (TIDY_SECONDS, 0, self._tidy),
        }
        self._dispatcher = threading.Thread(target=self._dispatch, name="imaging-keeper", daemon=True)

    def start(self) -> None:
        """Make true what the tables say of what is served; then begin to work."""
        self._serving.close_strays()
        self._serving.restore()
        self._serving.settle()
        self._dispatcher.start()

    def stop(self, limit_seconds: float) -> None:
        """Begin nothing more; return when what was begun has ended, or after the limit."""
        end = local_seconds() + limit_seconds
        self._stopping.set()
        self._doer.stop()
        self._alarm.ring()
        self._dispatcher.join(limit_seconds)
        for pool in (self._quick, self._long):
            pool.shutdown(wait=False, cancel_futures=True)
        wait(list(self._working.values()), max(0, end - local_seconds()))
        self._alarm.close()

    # -- the dispatcher ------------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        while not self._stopping.is_set():
            try:
                self._dispatch_once()
            except Unavailable as error:
                log.warning("imaging.no-database", error=str(error))
            except Exception:
                log.exception("dispatching")
            soonest = min(self._not_before.values(), default=local_seconds() + LOOK_SECONDS)
            self._alarm.wait(max(0.01, min(LOOK_SECONDS, soonest - local_seconds())))

    def _dispatch_once(self) -> None:
        with self._database.reading() as connection:
            now = self._database.clock()
            work = outcomes.live(connection)
            gone = connection.execute(select(discarded.c.id)).scalars().all()
        if any(operation.deadline <= now for operation in work):
            with self._database.writing() as tx:
                outcomes.end_overdue(tx)
        for name in [name for name, future in self._working.items() if future.done()]:
            del self._working[name]
        for operation in work:
            pool = self._long if operation.verb in LONG else self._quick
            self._submit(operation.id, pool, partial(self._work, operation))
        for identity in gone:
            self._submit(identity, self._quick, partial(self._doer.discard, identity))
        for name, (seconds, due, chore) in self._chores.items():
            if due <= local_seconds():
                self._chores[name] = (seconds, local_seconds() + seconds, chore)
                self._submit(name, self._quick, partial(_do, chore))

    def _submit(self, name: str, pool: ThreadPoolExecutor, act: Callable[[], bool]) -> None:
        if name in self._working or self._not_before.get(name, 0) > local_seconds() or self._stopping.is_set():
            return
        self._working[name] = pool.submit(self._try, name, act)

    def _try(self, name: str, act: Callable[[], bool]) -> None:
        """Do it; have it done again after a while if it could not be."""
        done = False
        try:
            done = act()
        except Unavailable as error:
            log.warning("imaging.no-database", error=str(error))
        except Exception:
            log.exception("working", at=name)
        if done:
            self._pauses.pop(name, None)
            self._not_before.pop(name, None)
        else:
            pause = self._pauses.get(name, FIRST_PAUSE_SECONDS)
            self._pauses[name] = min(2 * pause, LONGEST_PAUSE_SECONDS)
            self._not_before[name] = local_seconds() + pause
        self._alarm.ring()

    # -- what is done --------------------------------------------------------------------------------------------------

    def _work(self, operation: Operation) -> bool:
        try:
            return self._doer.bring_to_end(operation)
        except Unavailable:
            raise
        except Exception:
            log.exception("doing an operation", operation=operation.id, verb=operation.verb.value)
            doing = f"{operation.verb.value} of {operation.subject}"
            self._doer.fail(operation, StorageFailed(doing, expected="it to be done", found="a fault of this service"))
        return True

    def _take_up_endings(self) -> None:
        with self._database.writing() as tx:
            outcomes.take_up_endings(tx)

    def _tidy(self) -> None:
        """Take away what is too old, and files that nothing names."""
        files = self._shelf.uploads()
        with self._database.writing() as tx:
            uploads.expire(tx, tx.now - self._settings.upload_age)
            named = set(tx.connection.execute(select(uploads_table.c.id)).scalars())
        for upload in files - named:
            self._shelf.forget_upload(upload)
        self._shelf.clear()
        self._store.collect()


def _do(chore: Callable[[], None]) -> bool:
    chore()
    return True
