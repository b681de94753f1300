"""Dry runs as they are asked for: begin, list, look, cancel. `DryRuns` in `trying.py` does them."""

import secrets
from collections.abc import Collection
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, and_, insert, select, update

from steelyard.attestation.references import rules, store, tables
from steelyard.attestation.references.objects import Change, DryRun, NodeResult, Outcome, RunState
from steelyard.evidence.reader import refuse_over
from steelyard.model.errors import SteelyardError, WrongUse
from steelyard.model.limits import DRY_RUN_CHANGES, OPERATION_SECONDS
from steelyard.service.authority import Caller, not_found
from steelyard.service.database import Transaction

WORK: Final = "dry-runs"
"""The topic that wakes who does them."""
LIVE: Final = (RunState.PENDING.value, RunState.RUNNING.value)


def begin(
    tx: Transaction, caller: Caller, *, project: str, change: Change, evidence: str | None, limit: timedelta
) -> DryRun:
    """Begin to judge a change.

    evidence  the policy whose nodes' evidence it is judged against; None: the same policy's.

    Raises NotFound, NotAllowed, WrongState (what is to be accepted was revoked), WrongUse, TooLarge.
    """
    doing = f"beginning a dry run of policy {change.policy}"
    store.must_change(caller, project, doing)
    policy = store.load_policy(tx.connection, project, change.policy)
    number = policy.live if change.number is None else change.number
    if number is None:
        raise WrongUse(doing, expected="a version, as none is live", found="none")
    store.load_version(tx.connection, project, change.policy, number)
    if evidence is not None:
        store.load_policy(tx.connection, project, evidence)
    refuse_over(DRY_RUN_CHANGES, len(change.accept) + len(change.revoke), doing)
    for reference in change.accept | change.revoke:
        store.load_reference(tx.connection, project, reference.hex())
    rules.suppose(store.load_references(tx.connection, project, None), change)
    if not timedelta(seconds=1) <= limit <= timedelta(seconds=OPERATION_SECONDS.most):
        raise WrongUse(doing, expected=f"1 to {OPERATION_SECONDS.most} seconds", found=f"{limit.total_seconds():.0f}")
    identity = f"{int(tx.now.timestamp() * 1000):012x}{secrets.token_hex(8)}"
    tx.connection.execute(
        insert(tables.dry_runs).values(
            id=identity,
            project=project,
            policy=change.policy,
            number=number,
            accept=sorted(one.hex() for one in change.accept),
            revoke=sorted(one.hex() for one in change.revoke),
            evidence=change.policy if evidence is None else evidence,
            actor=caller.name,
            state=RunState.PENDING.value,
            created=tx.now,
            deadline=tx.now + limit,
            done=0,
            total=0,
            passing=0,
            failing=0,
            already=0,
            cancelling=False,
        )
    )
    store.record(
        tx, caller.name, "dry-run.wanted", f"policy/{change.policy}", project, dry_run=identity, version=number
    )
    tx.wake(WORK)
    return load(tx.connection, identity)


def get_dry_run(connection: Connection, caller: Caller, *, project: str, dry_run: str) -> DryRun:
    """Return a dry run. Raises NotFound."""
    store.must_see(caller, project)
    found = load(connection, dry_run)
    if found.project != project:
        raise not_found(f"dry run {dry_run}")
    return found


def list_dry_runs(
    connection: Connection, caller: Caller, *, project: str, policy: str | None, after: str, limit: int
) -> tuple[DryRun, ...]:
    """Return a project's dry runs, the oldest first. Raises NotFound."""
    store.must_see(caller, project)
    columns = tables.dry_runs.c
    query: Select[Any] = select(tables.dry_runs).where(columns.project == project, columns.id > after)
    if policy is not None:
        query = query.where(columns.policy == policy)
    return tuple(map(_dry_run_of, connection.execute(query.order_by(columns.id).limit(limit))))


def list_results(
    connection: Connection,
    caller: Caller,
    *,
    project: str,
    dry_run: str,
    outcome: Outcome | None,
    after: str,
    limit: int,
) -> tuple[NodeResult, ...]:
    """Return what a dry run came to for each node so far, by node. Raises NotFound."""
    get_dry_run(connection, caller, project=project, dry_run=dry_run)
    columns = tables.dry_run_results.c
    query: Select[Any] = select(tables.dry_run_results).where(columns.run == dry_run, columns.node > after)
    if outcome is not None:
        query = query.where(columns.outcome == outcome.value)
    return tuple(map(_result_of, connection.execute(query.order_by(columns.node).limit(limit))))


def cancel(tx: Transaction, caller: Caller, *, project: str, dry_run: str) -> DryRun:
    """Give a dry run up; one that is over stays as it is. Raises NotFound, NotAllowed."""
    store.must_change(caller, project, f"cancelling dry run {dry_run}")
    found = get_dry_run(tx.connection, caller, project=project, dry_run=dry_run)
    if found.state is RunState.PENDING:
        end(tx, found, RunState.CANCELLED, actor=caller.name)
    elif not found.state.ended:
        change(tx, found, cancelling=True)
    return load(tx.connection, dry_run)


# -- for who does them -------------------------------------------------------------------------------------------------


def waiting(connection: Connection) -> tuple[DryRun, ...]:
    """Return the dry runs that are not over, the oldest first."""
    columns = tables.dry_runs.c
    rows = connection.execute(select(tables.dry_runs).where(columns.state.in_(LIVE)).order_by(columns.id))
    return tuple(map(_dry_run_of, rows))


def change(tx: Transaction, run: DryRun, **values: Any) -> bool:
    """Change a dry run that is not over; return whether it was not."""
    changed = tx.connection.execute(update(tables.dry_runs).where(_live(run)).values(values))
    tx.wake(topic_of(run.id))
    return changed.rowcount == 1


def end(tx: Transaction, run: DryRun, state: RunState, *, actor: str, failure: SteelyardError | None = None) -> None:
    """End a dry run; nothing, if it is over."""
    told = None
    if failure is not None:
        told = {"code": failure.code, "doing": failure.doing, "expected": failure.expected, "found": failure.found}
    if not change(tx, run, state=state.value, ended=tx.now, failure=told):
        return
    now = load(tx.connection, run.id)
    store.record(
        tx,
        actor,
        f"dry-run.{state.value}",
        f"policy/{run.change.policy}",
        run.project,
        dry_run=run.id,
        nodes=now.done,
        passing=now.passing,
        failing=now.failing,
        already=now.already,
    )


def write_results(tx: Transaction, run: DryRun, results: Collection[NodeResult]) -> None:
    """Write what came of some nodes."""
    if not results:
        return
    rows = [
        {
            "run": run.id,
            "node": one.node,
            "appraisal": one.appraisal,
            "outcome": one.outcome.value,
            "today": one.today.value,
            "findings": list(map(dict, one.findings)),
            "more": one.more,
        }
        for one in results
    ]
    tx.connection.execute(insert(tables.dry_run_results), rows)


def load(connection: Connection, dry_run: str) -> DryRun:
    """Return a dry run. Raises NotFound."""
    row = connection.execute(select(tables.dry_runs).where(tables.dry_runs.c.id == dry_run)).one_or_none()
    if row is None:
        raise not_found(f"dry run {dry_run}")
    return _dry_run_of(row)


def topic_of(dry_run: str) -> str:
    """Return what whoever waits for a dry run listens to."""
    return f"dry-run/{dry_run}"


def _live(run: DryRun) -> ColumnElement[bool]:
    columns = tables.dry_runs.c
    return and_(columns.id == run.id, columns.state.in_(LIVE))


def _dry_run_of(row: store.AnyRow) -> DryRun:
    accept, revoke = (frozenset(map(bytes.fromhex, named)) for named in (row.accept, row.revoke))
    return DryRun(
        id=row.id,
        project=row.project,
        change=Change(row.policy, row.number, accept, revoke),
        evidence=row.evidence,
        actor=row.actor,
        state=RunState(row.state),
        created=row.created,
        deadline=row.deadline,
        ended=row.ended,
        done=row.done,
        total=row.total,
        passing=row.passing,
        failing=row.failing,
        already=row.already,
        cancelling=row.cancelling,
        failure=row.failure,
    )


def _result_of(row: store.AnyRow) -> NodeResult:
    return NodeResult(row.node, row.appraisal, Outcome(row.outcome), Outcome(row.today), tuple(row.findings), row.more)
