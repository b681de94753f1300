"""Delivers notices: in order for each webhook, at least once, by whichever process has the webhook's lease.

A pass is a plain method that waits for nothing but the receiver (`Deliverer.work`); `Deliveries` calls it from threads.
What was dealt with is written down after it was done, so that a process that dies has it done again by the next, and
the receiver knows the notice by its id. A receiver that is dead or slow costs its own webhook time and no other's: half
of the threads are kept from such, and three quarters from any one project.
"""

import random
import secrets
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter
from sqlalchemy import Connection

from steelyard.model.errors import AddressRefused, SteelyardError, Unavailable
from steelyard.model.notices import CONTENT_TYPE, ID, SIGNATURE, TIMESTAMP, sign_notice
from steelyard.service import journal, leases, webhooks
from steelyard.service.database import Database, local_seconds
from steelyard.service.leases import Lease
from steelyard.service.outbound import Outbound, Patience, parse_target
from steelyard.service.sealing import Sealer
from steelyard.service.webhooks import CaughtUp, Due, Gone, Later, Outcome, Webhook, WebhookSettings, context_of

LEAST_PAUSE_SECONDS: Final = 5.0
MOST_PAUSE_SECONDS: Final = 3600.0
TURN_SECONDS: Final = 5.0
"""How long a thread goes on with one webhook before it asks whether another waits."""
SLOW_SECONDS: Final = 2.0
"""From when on a receiver counts as slow."""
TAKE_OVER_SECONDS: Final = 2.0
"""How long is left to another process that is at a webhook before it is looked at again."""
FAULT_SECONDS: Final = 60.0
LOOK_SECONDS: Final = 5.0
"""How often is looked at what is due, also if nothing rang."""
SCANNED_AT_ONCE: Final = 1000
DELIVERED: Final = range(200, 300)

log = structlog.get_logger(__name__)


def pause_after(failures: int, spread: float) -> float:
    """Return the seconds to wait after so many failures in a row: doubling, of it a half to all of it.

    spread  0 to 1, at random: or all receivers of a network that was away would be called at the same moment.
    """
    longest = min(MOST_PAUSE_SECONDS, LEAST_PAUSE_SECONDS * 2.0 ** min(failures - 1, 32))
    return longest * (0.5 + spread / 2)


@dataclass(frozen=True, slots=True)
class Done:
    """What a pass came to.

    number   everything up to this entry was dealt with; None: that is not known.
    seconds  when to look again.
    slow     whether the receiver took long, or too long.
    """

    number: int | None
    seconds: float
    slow: bool


class Deliverer:
    """Makes tries for one process; safe to share among threads that work at different webhooks."""

    def __init__(
        self,
        database: Database,
        outbound: Outbound,
        sealer: Sealer,
        settings: WebhookSettings,
        registry: CollectorRegistry,
    ) -> None:
        self._database = database
        self._outbound = outbound
        self._sealer = sealer
        self._settings = settings
        self._origin: str | None = None
        self._patience = Patience(settings.seconds / 2, settings.seconds, settings.seconds)
        # Two tries, and some time to write down what came of the first.
        self._term = timedelta(seconds=2.5 * settings.seconds)
        self._tries = Counter("steelyard_webhook_tries", "Tries to deliver a notice.", ["outcome"], registry=registry)
        self._dead = Counter("steelyard_webhook_dead_letters", "Notices that were given up.", registry=registry)

    def work(self, identifier: str) -> Done:
        """Deliver what is due for a webhook, in order, until it is done, fails, or others should have their turn."""
        until = local_seconds() + TURN_SECONDS
        lease: Lease | None = None
        slow = False
        while True:
            with self._database.reading() as connection:
                due = webhooks.read_due(connection, identifier, self._database.clock())
            if not isinstance(due, Due) or local_seconds() >= until:
                self._give_up(lease)
                return Done(self._caught_up(due, identifier), 0, slow)
            held = self._take(due, lease)
            if held is None:
                return Done(None, TAKE_OVER_SECONDS, slow)
            lease, still = held
            if not still:
                continue
            began = local_seconds()
            outcome = self._try(due)
            slow = slow or local_seconds() - began > SLOW_SECONDS
            last = not outcome.delivered or local_seconds() >= until or not self._is_more(due)
            lease = self._write_down(due, outcome, lease, last=last)
            if lease is None:
                return Done(None, TAKE_OVER_SECONDS, slow)
            if last:
                done = outcome.delivered and not due.letter
                return Done(due.entry.number if done else None, 0, slow)

    def _caught_up(self, due: Due | CaughtUp | Later | Gone, identifier: str) -> int | None:
        """Return up to where all is done; far from where that was written down last, it is written down anew."""
        if not isinstance(due, CaughtUp):
            return None
        if due.number - due.position > webhooks.FAR_BEHIND:
            with self._database.writing() as transaction:
                webhooks.move_on(transaction, due, identifier)
        return due.number

    def _is_more(self, due: Due) -> bool:
        """Whether there is more to deliver after this, so that the lease is not given up in between."""
        if due.letter:
            return True
        with self._database.reading() as connection:
            return webhooks.next_wanted(connection, due.webhook, due.entry.number) is not None

    def _take(self, due: Due, lease: Lease | None) -> tuple[Lease, bool] | None:
        """Return the lease, good for a try, and whether nobody did this meanwhile; None: another has it."""
        name = context_of(due.webhook.id)
        if lease is not None and lease.seconds_left() > 1.5 * self._settings.seconds:
            return lease, True
        with self._database.writing() as transaction:
            if lease is None:
                lease = leases.acquire(transaction, name, secrets.token_hex(16), self._term)
            else:
                lease = leases.renew(transaction, lease, self._term)
            if lease is None:
                return None
            return lease, webhooks.is_due(transaction.connection, due)

    def _try(self, due: Due) -> Outcome:
        began = local_seconds()
        try:
            outcome = self._call(due)
        except AddressRefused:
            outcome = Outcome(delivered=False, words="its address is not called from here", retry_seconds=0)
        except Unavailable as failure:
            outcome = Outcome(delivered=False, words=f"no answer: {failure.found}", retry_seconds=0)
        except SteelyardError as failure:
            outcome = Outcome(delivered=False, words=f"not sent: {failure.code}", retry_seconds=0)
        self._tries.labels("delivered" if outcome.delivered else "failed").inc()
        log.info(
            "webhook.tried",
            webhook=due.webhook.id,
            entry=due.entry.number,
            delivered=outcome.delivered,
            outcome=outcome.words,
            milliseconds=round((local_seconds() - began) * 1000, 1),
        )
        return outcome

    def _call(self, due: Due) -> Outcome:
        with self._database.reading() as connection:
            if self._origin is None:
                self._origin = journal.read_origin(connection)
            sealed = webhooks.read_sealed(connection, due.webhook.id)
        if sealed is None:
            return Outcome(delivered=False, words="deleted", retry_seconds=0)
        secret = self._sealer.open(context_of(due.webhook.id), sealed)
        identifier, body = webhooks.notice_of(due.entry, self._origin)
        timestamp = int(self._database.clock().timestamp())
        headers = {
            "Content-Type": CONTENT_TYPE,
            ID: identifier,
            TIMESTAMP: str(timestamp),
            SIGNATURE: sign_notice(secret, identifier, timestamp, body),
        }
        target = parse_target(due.webhook.url, "a webhook")
        with self._outbound.calling("POST", target, headers=headers, content=body, patience=self._patience) as answer:
            # What it says beside the status is not read: neither its size nor its slowness is ours to bear.
            asked = answer.headers.get("retry-after", "")
            seconds = min(float(asked), MOST_PAUSE_SECONDS) if asked.isdecimal() and len(asked) < 8 else 0.0
            return Outcome(answer.status in DELIVERED, f"status {answer.status}", seconds)

    def _write_down(self, due: Due, outcome: Outcome, lease: Lease, *, last: bool) -> Lease | None:
        """Write down what came of a try, and return the lease, longer, or given up after the last.

        None: the webhook may be another's by now, who does it again.
        """
        seconds = pause_after(due.webhook.failures + 1, random.random())  # noqa: S311 (it keeps nobody's secret)
        pause = timedelta(seconds=max(seconds, outcome.retry_seconds))
        with self._database.writing() as transaction:
            renewed = leases.renew(transaction, lease, self._term)
            if renewed is None:
                return None
            dead = webhooks.tried(transaction, due, outcome, self._settings, pause)
            if last:
                leases.give_up(transaction, renewed)
        if dead is not None:
            self._dead.inc()
            log.warning("webhook.given-up", webhook=due.webhook.id, entry=due.entry.number, tries=dead.tries)
        return renewed

    def _give_up(self, lease: Lease | None) -> None:
        if lease is not None:
            with self._database.writing() as transaction:
                leases.give_up(transaction, lease)


class Deliveries:
    """The threads that deliver, in one process of those that share the work."""

    def __init__(
        self,
        database: Database,
        outbound: Outbound,
        sealer: Sealer,
        settings: WebhookSettings,
        registry: CollectorRegistry,
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._settings = settings
        self._deliverer = Deliverer(database, outbound, sealer, settings, registry)
        self._stopping = threading.Event()
        self._alarm = database.wakeups.subscribe(webhooks.TOPIC)
        self._pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="webhook")
        self._dispatcher = threading.Thread(target=self._dispatch, name="webhooks", daemon=True)
        self._scanned = 0
        # By webhook: as it was read last, up to which entry it may want some, who is at it, up to which entry all was
        # dealt with, when by `local_seconds` it is next looked at, until when its receiver is left alone, and whether
        # that was slow.
        self._hooks: dict[str, Webhook] = {}
        self._wanted: dict[str, int] = {}
        self._working: dict[str, _Working] = {}
        self._caught: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        self._pauses: dict[str, float] = {}
        self._slow: set[str] = set()

    def start(self) -> None:
        """Seal with the newest key what an older one sealed, and begin."""
        with self._database.writing() as transaction:
            for lost in webhooks.seal_anew(transaction, self._sealer):
                log.error("credentials.lost", subject=context_of(lost))
        self._dispatcher.start()

    def stop(self) -> None:
        """End; return when tries under way have, which takes as long as one may."""
        self._stopping.set()
        self._alarm.ring()
        self._dispatcher.join()
        self._pool.shutdown(wait=False, cancel_futures=True)
        wait([working.future for working in self._working.values()], 1.5 * self._settings.seconds)
        self._alarm.close()

    def _dispatch(self) -> None:
        while not self._stopping.is_set():
            seconds = LOOK_SECONDS
            try:
                seconds = self._dispatch_once()
            except SteelyardError as failure:
                log.warning("webhooks.dispatching", error=str(failure))
            except Exception:
                log.exception("webhooks.dispatching")
            if not self._listens_anew():
                self._alarm.wait(seconds)

    def _listens_anew(self) -> bool:
        """Listen to the journal while there is somebody to tell, and else not; whether that changed.

        What was written meanwhile rang for nobody, and is to be looked for. Where nobody is told of anything, to be
        woken for each entry would be a good part of what a busy service does.
        """
        topics = (journal.TOPIC, webhooks.TOPIC) if self._hooks else (webhooks.TOPIC,)
        if topics == self._alarm.topics:
            return False
        before, self._alarm = self._alarm, self._database.wakeups.subscribe(*topics)
        before.close()
        return True

    def _dispatch_once(self) -> float:
        """Have done what is due and not being done; return the seconds until there may be more.

        What is read of each webhook at each entry of the journal is its id alone: there may be thousands.
        """
        for identifier in [identifier for identifier, working in self._working.items() if working.future.done()]:
            del self._working[identifier]
        with self._database.reading() as connection:
            now = self._database.clock()
            more = self._scan(connection) if self._hooks else False
            self._know(connection)
            letters = webhooks.read_wanted_letters(connection) & self._hooks.keys() if self._hooks else set()
            behind = {identifier for identifier, number in self._wanted.items() if self._caught[identifier] < number}
            waits = {
                identifier: max(
                    self._not_before.get(identifier, 0.0),
                    0.0 if identifier in letters else self._pauses.get(identifier, 0.0),
                )
                for identifier in (behind | letters) - self._working.keys()
            }
            ready = sorted((each for each, until in waits.items() if until <= local_seconds()), key=self._turn)
            chosen = dict.fromkeys(self._choose(ready))
            found = {hook.id: hook for hook in webhooks.read_some(connection, chosen)} if chosen else {}
        for identifier in chosen:
            if (hook := found.get(identifier)) is None:
                continue  # deleted by now
            self._hooks[identifier] = hook
            pause = 0.0 if hook.not_before is None else (hook.not_before - now).total_seconds()
            self._pauses[identifier] = local_seconds() + pause
            if pause <= 0 or identifier in letters:
                self._submit(hook)
            else:
                more = True  # its place is another's
        soonest = min((until for until in waits.values() if until > local_seconds()), default=float("inf"))
        # Who is ready and found no place has it when somebody ends, which rings.
        return 0.0 if more else min(LOOK_SECONDS, max(0.0, soonest - local_seconds()))

    def _choose(self, ready: Sequence[str]) -> Iterator[str]:
        """Give those who are to be worked at now: a quarter of the threads for one project, half for who is slow."""
        working = [(each.project, each.slow) for each in self._working.values()]
        most = self._settings.threads
        for identifier in ready:
            project, slow = self._hooks[identifier].project, self._is_slow(identifier)
            if len(working) >= most:
                return
            if sum(whose == project for whose, _ in working) >= max(1, most // 4):
                continue
            if slow and sum(is_slow for _, is_slow in working) >= most // 2:
                continue
            working.append((project, slow))
            yield identifier

    def _know(self, connection: Connection) -> None:
        """Find out which webhooks are new, and forget who is gone."""
        there = webhooks.read_ids(connection)
        if there - self._hooks.keys():
            head = journal.read_head(connection).number
            if not self._hooks:
                self._scanned = head
            for hook in webhooks.read_all(connection):
                if hook.id not in self._hooks:
                    self._hooks[hook.id] = hook
                    self._caught[hook.id], self._wanted[hook.id] = hook.position, head
        for identifier in self._hooks.keys() - there - self._working.keys():
            del self._hooks[identifier], self._wanted[identifier], self._caught[identifier]
            for known in (self._not_before, self._pauses):
                known.pop(identifier, None)
            self._slow.discard(identifier)

    def _scan(self, connection: Connection) -> bool:
        """Find out which webhooks want one of the newest entries; whether there are more of these."""
        headings = journal.read_headings(connection, project=None, after=self._scanned, limit=SCANNED_AT_ONCE)
        for heading in headings:
            for hook in self._hooks.values():
                if hook.tells_of(heading):
                    self._wanted[hook.id] = heading.number
            self._scanned = heading.number
        return len(headings) == SCANNED_AT_ONCE

    def _turn(self, identifier: str) -> tuple[bool, float]:
        """Return the order in which webhooks have their turns: who failed or was slow comes after the others."""
        return self._is_slow(identifier), self._not_before.get(identifier, 0.0)

    def _is_slow(self, identifier: str) -> bool:
        return identifier in self._slow or self._hooks[identifier].failures > 0

    def _submit(self, hook: Webhook) -> None:
        """Have a thread work at a webhook."""
        future = self._pool.submit(self._work, hook.id)
        self._working[hook.id] = _Working(hook.project, self._is_slow(hook.id), future)
        future.add_done_callback(lambda _: self._alarm.ring())

    def _work(self, identifier: str) -> None:
        done = Done(None, FAULT_SECONDS, slow=True)
        try:
            done = self._deliverer.work(identifier)
        except Unavailable as failure:
            log.warning("webhook.working", webhook=identifier, error=str(failure))
            done = Done(None, TAKE_OVER_SECONDS, slow=False)
        except Exception:
            log.exception("webhook.working", webhook=identifier)
        if done.number is not None:
            self._caught[identifier] = max(self._caught[identifier], done.number)
        self._not_before[identifier] = local_seconds() + done.seconds
        (self._slow.add if done.slow else self._slow.discard)(identifier)


@dataclass(frozen=True, slots=True)
class _Working:
    """A thread at a webhook."""

    project: str | None
    slow: bool
    future: "Future[None]"
