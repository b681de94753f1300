"""The threads: one for each switch and one that watches it, a few for all BMCs, two for each open console.

Here alone is anything scheduled. A device that fails, or a fault in how one is handled, costs its own keeper time and
no other's.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Final

import structlog
from sqlalchemy import update

from steelyard.isolation.confirmed import end_overdue
from steelyard.isolation.due import (
    next_deadline,
    nodes_to_look_at,
    nodes_with_work,
    open_consoles,
    switch_names,
)
from steelyard.isolation.keeping.consoles import ConsoleKeeper
from steelyard.isolation.keeping.nodes import OFTENER, NodeKeeper
from steelyard.isolation.keeping.switches import SwitchKeeper, reach_switch
from steelyard.isolation.keeping.tenure import Settings
from steelyard.isolation.ports import Drivers, Switch
from steelyard.isolation.store import find
from steelyard.isolation.tables import nodes, switches
from steelyard.model.errors import SteelyardError, Unavailable
from steelyard.service.database import Database, local_seconds
from steelyard.service.sealing import Sealer
from steelyard.service.wakeups import Alarm

SLICE_SECONDS: Final = 1.0
"""How long a thread waits for a device without asking whether it is to end; and how often new switches are found."""

log = structlog.get_logger(__name__)


class Keepers:
    """All keepers of one process. Several processes share the devices by leases."""

    def __init__(self, database: Database, drivers: Drivers, sealer: Sealer, settings: Settings) -> None:
        self._database = database
        self._drivers = drivers
        self._sealer = sealer
        self._settings = settings
        self._stopping = threading.Event()
        self._alarm = database.wakeups.subscribe("nodes", "consoles", "switches")
        self._nodes = NodeKeeper(database, drivers, sealer, settings)
        self._pool = ThreadPoolExecutor(settings.node_threads, thread_name_prefix="node")
        self._working: dict[str, Future[None]] = {}
        self._not_before: dict[str, float] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._dispatcher = threading.Thread(target=self._dispatch, name="keepers", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._dispatcher.start()

    def stop(self, limit: float) -> None:
        """End all threads; return when they have, or after `limit` seconds: a call under way is not broken off."""
        end = local_seconds() + limit
        self._stopping.set()
        self._database.wakeups.ring_all()
        self._dispatcher.join(limit)
        self._pool.shutdown(wait=False, cancel_futures=True)
        wait(list(self._working.values()), max(0, end - local_seconds()))
        for thread in self._threads.values():
            thread.join(max(0, end - local_seconds()))
        self._alarm.close()

    # -- the dispatcher --

    def _dispatch(self) -> None:
        while not self._stopping.is_set():
            wait_seconds = SLICE_SECONDS
            try:
                wait_seconds = self._dispatch_once()
            except Exception:
                log.exception("dispatching")
            self._alarm.wait(wait_seconds)

    def _dispatch_once(self) -> float:
        """Start what is to run and does not; return the seconds until there may be more."""
        with self._database.reading() as connection:
            now = self._database.clock()
            look = self._settings.look
            most = self._settings.node_threads
            work = nodes_with_work(connection)
            looks = nodes_to_look_at(connection, now - look, now - look / OFTENER, most)
            deadline = next_deadline(connection)
            switches_there, consoles_wanted = switch_names(connection), open_consoles(connection)
        if deadline is not None and deadline <= now:
            with self._database.writing() as tx:
                end_overdue(tx)
        self._threads = {key: thread for key, thread in self._threads.items() if thread.is_alive()}
        for name in sorted(switches_there):
            self._run(f"switch/{name}", name, self._keep_switch)
        for name in sorted(consoles_wanted):
            self._run(f"console/{name}", name, self._keep_console)
        for name in (*sorted(work, key=self._nodes.failures), *looks):
            self._submit(name)
        until = SLICE_SECONDS if deadline is None else (deadline - now).total_seconds()
        soonest = min(self._not_before.values(), default=until + local_seconds()) - local_seconds()
        return max(0.01, min(SLICE_SECONDS, until, soonest))

    def _run(self, key: str, name: str, keep: Callable[[str], None]) -> None:
        if key not in self._threads and not self._stopping.is_set():
            thread = threading.Thread(target=keep, args=(name,), name=key, daemon=True)
            self._threads[key] = thread
            thread.start()

    def _submit(self, node: str) -> None:
        """Have a thread work at a node, unless one does, it is too early, or all threads are taken.

        Half of the threads are kept from nodes that failed: a rack of dead BMCs would take all of them.
        """
        for name in [name for name, future in self._working.items() if future.done()]:
            del self._working[name]
        room = self._settings.node_threads
        busy = len(self._working)
        if self._nodes.failures(node):
            room //= 2
            busy = sum(1 for name in self._working if self._nodes.failures(name))
        if busy < room and node not in self._working and self._not_before.get(node, 0) <= local_seconds():
            self._not_before.pop(node, None)
            self._working[node] = self._pool.submit(self._work, node)

    def _work(self, node: str) -> None:
        wait_seconds: float | None = self._settings.patience.most
        try:
            wait_seconds = self._nodes.work(node)
        except Exception:
            log.exception("working at a node", node=node)
            self._note_fault(node)
        if wait_seconds:
            self._not_before[node] = local_seconds() + wait_seconds
        self._alarm.ring()

    def _note_fault(self, node: str) -> None:
        with suppress(Unavailable), self._database.writing() as tx:
            tx.connection.execute(update(nodes).where(nodes.c.name == node).values(trouble="a fault of this service"))

    # -- switches --

    def _keep_switch(self, name: str) -> None:
        keeper = SwitchKeeper(name, self._database, self._drivers, self._sealer, self._settings)
        ended = threading.Event()
        with self._database.wakeups.subscribe(f"switch/{name}") as alarm:
            watcher = threading.Thread(target=self._watch_switch, args=(keeper, alarm, ended), daemon=True)
            watcher.start()
            try:
                while not self._stopping.is_set() and (seconds := keeper.pass_once()) is not None:
                    if seconds > 0:
                        alarm.wait(seconds)
            finally:
                ended.set()
                watcher.join()
        with suppress(Unavailable):
            keeper.close()

    def _watch_switch(self, keeper: SwitchKeeper, alarm: Alarm, ended: threading.Event) -> None:
        """Have the switch read when it says that something changed, by a connection that waits for nothing else."""
        switch: Switch | None = None
        failures = 0
        while not ended.is_set() and not self._stopping.is_set():
            try:
                if switch is None:
                    with self._database.reading() as connection:
                        row = find(connection, switches, keeper.name)
                    if row is None:
                        return
                    switch = reach_switch(row, self._drivers, self._sealer)
                began = local_seconds()
                switch.wait_for_change(SLICE_SECONDS)
                failures = 0
                if local_seconds() < began + SLICE_SECONDS:
                    keeper.expect_change()
                    alarm.ring()
                    # Our own writes are such changes too: under load, one look a second is enough.
                    ended.wait(SLICE_SECONDS)
            except SteelyardError:
                # The keeper says what is wrong. The next connection is made anew, with what may be other credentials.
                failures += 1
            except Exception:
                log.exception("watching a switch", switch=keeper.name)
                failures += 1
            if failures:
                self._give_up(switch)
                switch = None
                ended.wait(self._settings.patience.after(failures))
        self._give_up(switch)

    def _give_up(self, switch: Switch | None) -> None:
        if switch is not None:
            with suppress(SteelyardError):
                switch.close()

    # -- consoles --

    def _keep_console(self, node: str) -> None:
        keeper = ConsoleKeeper(node, self._database, self._drivers, self._sealer, self._settings)
        ended = threading.Event()
        typist = threading.Thread(target=self._type, args=(keeper, ended), daemon=True)
        typist.start()
        try:
            while not self._stopping.is_set() and (seconds := keeper.hear_once(SLICE_SECONDS)) is not None:
                self._stopping.wait(seconds)
        finally:
            ended.set()
            self._database.wakeups.ring(["consoles"])
            typist.join()
        with suppress(Unavailable):
            keeper.close()

    def _type(self, keeper: ConsoleKeeper, ended: threading.Event) -> None:
        with self._database.wakeups.subscribe("consoles") as alarm:
            while not ended.is_set():
                try:
                    keeper.type_once()
                except Exception:
                    log.exception("typing at a console", node=keeper.node)
                alarm.wait(SLICE_SECONDS)
