"""One look at a place: take its next step, write what came of it. And one at an enclave: begin what its file wants.

Nothing is kept here but how long to wait: whoever looks next, after a crash too, reads the tables. A result is written
only if the place is as it was when the step was begun; otherwise somebody has decided something else meanwhile, and the
step, which states an end, is as if it had not been taken.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog
from sqlalchemy import select

from steelyard.enclave import store
from steelyard.enclave.life import LEAVING, Event, State
from steelyard.enclave.objects import Facts, Place
from steelyard.enclave.plan import moves
from steelyard.enclave.ports import Services
from steelyard.enclave.steps import Move, Next, Rest, Result, Wait, Work, steps_of, take_step
from steelyard.enclave.tables import enclaves
from steelyard.service.database import Database, Transaction
from steelyard.service.sealing import Sealer

FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 2.0
"""What is waited for is asked about after the first of these, then after longer and longer."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step of a place came to. pause_seconds: when to look again; None: not before something happens."""

    place: Place
    result: Result


class Worker:
    """Takes steps and writes down what came of them. Threads may take steps at once, each of another place."""

    def __init__(self, database: Database, sealer: Sealer, services: Services) -> None:
        self._database, self._sealer, self._services = database, sealer, services
        self._pauses: dict[str, float] = {}

    def take(self, place: Place) -> Outcome:
        """Take a place's next step, or end a state that took too long. Whatever happens, something is to be written."""
        now = self._database.clock()
        if place.deadline is not None and now >= place.deadline:
            why = f"{place.state.value} for longer than it may be; {place.words or 'nothing was heard'}"
            return Outcome(place, Move(Event.RELEASE, why, failed=True))
        work = Work(place, place.spec.name, self._services, self._sealer, now, lambda: self._peers_key(place))
        try:
            return Outcome(place, take_step(work))
        except Exception:
            # It fails closed: the place stays as it is, until its limit.
            log.exception("taking a step", place=place.id, state=place.state.value, step=place.step)
            return Outcome(place, Wait("a fault of this service; see its log"))

    def _peers_key(self, place: Place) -> str:
        with self._database.reading() as connection:
            return store.peers_key(connection, self._sealer, place.enclave)

    def settle(self, outcomes: Sequence[Outcome]) -> tuple[dict[str, float | None], set[str]]:
        """Write outcomes, as `write`; where there is nothing to write, nobody is kept from writing meanwhile."""
        if all(says_nothing_new(outcome) for outcome in outcomes):
            return {outcome.place.id: self._wait(outcome.place, outcome.result) for outcome in outcomes}, set()
        with self._database.writing() as tx:
            return self.write(tx, outcomes)

    def write(self, tx: Transaction, outcomes: Sequence[Outcome]) -> tuple[dict[str, float | None], set[str]]:
        """Write outcomes; return when to look at each place again, in seconds, and which enclaves to look at."""
        pauses: dict[str, float | None] = {}
        enclaves_touched: set[str] = set()
        # What waits as it did before is not worth a look at its row: if that has changed, it is looked at by that.
        quiet = [each for each in outcomes if says_nothing_new(each)]
        for outcome in quiet:
            pauses[outcome.place.id] = self._wait(outcome.place, outcome.result)
        told = [each for each in outcomes if each.place.id not in pauses]
        if not told:
            return pauses, enclaves_touched
        now = {place.id: place for place in store.load_places(tx.connection, [each.place.id for each in told])}
        for outcome in told:
            current = now.get(outcome.place.id)
            if current is None or current.version != outcome.place.version:
                pauses[outcome.place.id] = 0.0
                continue
            pauses[current.id], moved = self._write(tx, current, outcome.result)
            if moved:
                enclaves_touched.add(current.enclave)
        return pauses, enclaves_touched

    def _write(self, tx: Transaction, place: Place, result: Result) -> tuple[float | None, bool]:
        match result:
            case Move(event, why, failed, facts, receipt):
                return self._move(tx, place, event, why, failed=failed, facts=facts, receipt=receipt)
            case Next() as done:
                return self._next(tx, place, done)
            case Rest(words):
                store.change_place(tx, place, {"words": words, "due": None})
                return None, False
            case Wait(words, asked, _):
                words = words[: store.WORDS_CHARACTERS]
                if words != place.words or asked != place.facts.asked:
                    facts = replace(place.facts, asked=asked)
                    store.change_place(tx, place, {"words": words, "facts": facts.document()})
                return self._wait(place, result), False

    def _wait(self, place: Place, result: Result) -> float:
        """Return when to look again at a place that waits."""
        seconds = result.seconds if isinstance(result, Wait) else None
        return self._pause(place) if seconds is None else seconds

    def _pause(self, place: Place) -> float:
        pause = self._pauses.get(place.id, FIRST_PAUSE_SECONDS)
        self._pauses[place.id] = min(2 * pause, LONGEST_PAUSE_SECONDS)
        return pause

    def _next(self, tx: Transaction, place: Place, done: Next) -> tuple[float | None, bool]:
        self._pauses.pop(place.id, None)
        steps, event = steps_of(place.state, weighs=place.spec.trust.weighs)
        facts = replace(place.facts if done.facts is None else done.facts, asked=None)
        values: dict[str, Any] = {"facts": facts.document(), **_found(done, facts)}
        if place.step + 1 >= len(steps) and event is not None:
            why = f"{steps[-1].words}: done" if event is not Event.HOLD else place.why
            store.move(tx, place, event, actor=store.KEEPER, why=why, failed=False, values=values)
            return 0.0, True
        words = steps[place.step + 1].words
        store.change_place(tx, place, {**values, "step": place.step + 1, "words": words})
        return 0.0, False

    def _move(
        self,
        tx: Transaction,
        place: Place,
        event: Event,
        why: str,
        *,
        failed: bool,
        facts: Facts | None,
        receipt: Any,
    ) -> tuple[float | None, bool]:
        self._pauses.pop(place.id, None)
        values: dict[str, Any] = {} if facts is None else {"facts": replace(facts, asked=None).document()}
        if receipt is not None:
            values["receipt"] = dict(receipt)
        following = store.move(tx, place, event, actor=store.KEEPER, why=why, failed=failed, values=values)
        return (None if following is State.RELEASED else 0.0), True

    def look_at_enclave(self, tx: Transaction, enclave_id: str) -> None:
        """Begin what an enclave's file wants now; when it is to end and has, let its name go."""
        row = tx.connection.execute(select(enclaves).where(enclaves.c.id == enclave_id)).one()
        enclave = store.enclave_of(row)
        if enclave.gone:
            return
        places = store.seen_places(tx.connection, enclave.id)
        wanted = moves(enclave.spec, places, enclave.failures, ending=enclave.ending)
        store.release_places(tx, wanted.release, store.KEEPER)
        store.make_places(tx, enclave, row.file, wanted.make)
        if enclave.ending and not any(place.state not in LEAVING or place.state is State.RELEASING for place in places):
            store.change_enclave(tx, enclave, gone=True)
            store.note_enclave(tx, enclave, "gone", store.KEEPER, {})

    def living(self) -> Mapping[str, int]:
        """Return the enclaves that are not gone, and the version of each."""
        query = select(enclaves.c.id, enclaves.c.version).where(enclaves.c.gone.is_(False))
        with self._database.reading() as connection:
            return {row.id: row.version for row in connection.execute(query)}


def says_nothing_new(outcome: Outcome) -> bool:
    """Whether a place waits as it did before, so that there is nothing to write."""
    place, result = outcome.place, outcome.result
    return isinstance(result, Wait) and (result.words[: store.WORDS_CHARACTERS], result.asked) == (
        place.words,
        place.facts.asked,
    )


def _found(done: Next, facts: Facts) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in ("node", "sealed", "delivery"):
        value = getattr(done, name)
        if value is not None:
            values[name] = value
    if facts.delivery is not None:
        values["delivery_path"] = facts.delivery
    return values
