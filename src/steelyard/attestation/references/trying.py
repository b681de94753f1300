"""Does dry runs, in a thread of each process, one at a time; and keeps what is published from getting old.

A process that dies in the middle leaves a lease that ends; another begins the run again from the start. Nothing that
judges is ever changed by it.
"""

import secrets
import threading
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog
from sqlalchemy import delete

from steelyard.attestation.references import dry_runs, publication, rules, store, tables
from steelyard.attestation.references.objects import DryRun, NodeResult, Outcome, RunState
from steelyard.attestation.references.ports import StoredEvidence
from steelyard.attestation.references.trial import compile_taken, judge_node, lost
from steelyard.evidence.compiled_policy import CompiledPolicy
from steelyard.model.errors import NotFound, OutOfTime, SteelyardError
from steelyard.service import leases
from steelyard.service.database import Database
from steelyard.service.leases import Lease
from steelyard.service.sealing import Sealer

LEASE: Final = timedelta(seconds=60)
WRITE_SECONDS: Final = 1.0
"""How often what was found is written down, and asked whether to go on."""
LOOK_SECONDS: Final = 30.0
"""How long nothing is looked for, if nobody calls."""
WORKER: Final = "dry-runs"
"""Who the journal says it was."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Judges:
    """What a run judges by, and whom."""

    supposed: CompiledPolicy
    today: CompiledPolicy | None
    evidence: tuple[tuple[str, str], ...]
    at: datetime


class DryRuns:
    """What does dry runs in one process."""

    def __init__(self, database: Database, evidence: StoredEvidence, sealer: Sealer) -> None:
        self._database = database
        self._evidence = evidence
        self._sealer = sealer
        self._holder = f"dry-runs-{secrets.token_hex(8)}"
        self._stopping = threading.Event()
        self._alarm = database.wakeups.subscribe(dry_runs.WORK)
        self._thread = threading.Thread(target=self._work, name="dry-runs")

    def start(self) -> None:
        """Begin."""
        with self._database.writing() as tx:
            publication.seal_anew(tx, self._sealer)
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """End it; a run that is under way is begun again by whoever is next."""
        self._stopping.set()
        self._alarm.ring()
        self._thread.join(seconds)
        self._alarm.close()

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                self.do_due()
            except SteelyardError as error:
                _log.warning("dry-run.held-up", error=str(error))
            self._alarm.wait(LOOK_SECONDS)

    def do_due(self) -> None:
        """Sign anew what gets old, and do every dry run that nobody else is at."""
        with self._database.writing() as tx:
            publication.refresh_due(tx, self._sealer)
        with self._database.reading() as connection:
            waiting = dry_runs.waiting(connection)
        for run in waiting:
            if self._stopping.is_set():
                return
            with self._database.writing() as tx:
                lease = leases.acquire(tx, f"dry-run/{run.id}", self._holder, LEASE)
                if lease is None:
                    continue
                columns = tables.dry_run_results.c
                tx.connection.execute(delete(tables.dry_run_results).where(columns.run == run.id))
                fresh = {"done": 0, "passing": 0, "failing": 0, "already": 0}
                if not dry_runs.change(tx, run, state=RunState.RUNNING.value, **fresh):
                    leases.give_up(tx, lease)
                    continue
            self._do(run, lease)

    def _do(self, run: DryRun, lease: Lease) -> None:
        failure: SteelyardError | None = None
        try:
            ended = self._judge_all(run, lease)
        except SteelyardError as error:
            ended, failure = RunState.FAILED, error
        except Exception:
            # A bug in judging must not be met again and again, nor end what keeps the published references fresh.
            _log.exception("dry-run.bug", dry_run=run.id)
            ended = RunState.FAILED
        if ended is None:
            return
        with self._database.writing() as tx:
            dry_runs.end(tx, run, ended, actor=WORKER, failure=failure)
            leases.give_up(tx, lease)

    def _judge_all(self, run: DryRun, lease: Lease) -> RunState | None:
        """Return how a run ended; None: it did not, and is another's now. Raises SteelyardError."""
        judges = self._prepare(run)
        pile: list[NodeResult] = []
        counted = _Counted()
        state = self._write(run, lease, pile, counted, len(judges.evidence))
        if state is not RunState.RUNNING:
            return state
        written = time.monotonic()
        for node, appraisal in judges.evidence:
            result = self._judge(node, appraisal, judges)
            pile.append(result)
            counted.add(result)
            if time.monotonic() - written >= WRITE_SECONDS:
                state = self._write(run, lease, pile, counted, len(judges.evidence))
                if state is not RunState.RUNNING:
                    return state
                pile, written = [], time.monotonic()
            if self._stopping.is_set():
                with self._database.writing() as tx:
                    leases.give_up(tx, lease)
                return None
        state = self._write(run, lease, pile, counted, len(judges.evidence))
        return RunState.DONE if state is RunState.RUNNING else state

    def _prepare(self, run: DryRun) -> _Judges:
        change = run.change
        at = self._database.clock()
        with self._database.reading() as connection:
            version = store.load_version(connection, run.project, change.policy, change.number or 0)
            known = store.load_references(connection, run.project, version.components)
            taken = store.taken_by(connection, version, rules.suppose(known, change))
            envelopes = [store.read_content(connection, one) for one in taken.references]
            supposed = compile_taken(taken.document, envelopes, at)
            policy = store.load_policy(connection, run.project, run.evidence)
            today = None
            if policy.live is not None:
                envelopes = [store.read_content(connection, one) for one in policy.references]
                today = compile_taken(store.read_content(connection, policy.document), envelopes, at)
            evidence = tuple(self._evidence.newest(connection, run.project, run.evidence))
        return _Judges(supposed, today, evidence, at)

    def _judge(self, node: str, appraisal: str, judges: _Judges) -> NodeResult:
        try:
            with self._database.reading() as connection:
                bundle = self._evidence.bundle(connection, appraisal)
        except NotFound as gone:  # it was kept no longer, meanwhile
            return lost(node, appraisal, gone)
        return judge_node(node, appraisal, bundle, judges.supposed, judges.today, judges.at)

    def _write(
        self, run: DryRun, lease: Lease, pile: list[NodeResult], counted: "_Counted", total: int
    ) -> RunState | None:
        """Write what was found; return RUNNING when to go on, None when another has it. Raises OutOfTime."""
        with self._database.writing() as tx:
            if leases.renew(tx, lease, LEASE) is None:
                return None
            now = dry_runs.load(tx.connection, run.id)
            if now.state.ended:
                return None
            if now.cancelling:
                return RunState.CANCELLED
            if tx.now >= now.deadline:
                found = f"{counted.done} of {total} nodes"
                raise OutOfTime("judging a dry run", expected=f"all by {now.deadline.isoformat()}", found=found)
            dry_runs.write_results(tx, run, pile)
            dry_runs.change(
                tx,
                run,
                total=total,
                done=counted.done,
                passing=counted.passing,
                failing=counted.failing,
                already=counted.already,
            )
        return RunState.RUNNING


@dataclass(slots=True)
class _Counted:
    """How many nodes came to what."""

    done: int = 0
    passing: int = 0
    failing: int = 0
    already: int = 0

    def add(self, result: NodeResult) -> None:
        """Count a node."""
        self.done += 1
        self.passing += result.outcome is Outcome.PASS
        self.failing += result.outcome is Outcome.FAIL
        self.already += result.outcome is Outcome.FAIL and result.today is Outcome.FAIL
