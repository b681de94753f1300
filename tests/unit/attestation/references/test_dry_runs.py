"""Dry runs: a change is judged against what was kept, and nothing that judges moves before somebody says so."""

from dataclasses import replace
from datetime import timedelta

import pytest

from steelyard.attestation.references import dry_runs, store
from steelyard.attestation.references.objects import Change, DryRun, Outcome, RunState, Standing, StoredReference
from steelyard.evidence.reference.version import Version
from steelyard.model.errors import NotAllowed, NotFound, WrongState, WrongUse
from steelyard.service import leases
from steelyard.service.authority import Caller
from steelyard.service.database import Database
from tests import recorded
from tests.unit.attestation.references.rig import (
    AUDITOR,
    BLUE,
    LIMIT,
    READER,
    RED,
    SECOND,
    Authority,
    components,
    ovmf,
    policy_bytes,
    raw,
)


@pytest.fixture
def authority(database: Database) -> Authority:
    made = Authority(database)
    made.boots()
    made.evidence.put("airlock", "n1", recorded.bundle("first"))
    made.evidence.put("airlock", "n2", recorded.bundle("second"))
    return made


def supposing(
    number: int | None = None, accept: frozenset[bytes] = frozenset(), revoke: frozenset[bytes] = frozenset()
) -> Change:
    return Change("airlock", number, accept, revoke)


def counted(run: DryRun) -> tuple[int, int, int, int]:
    return run.done, run.passing, run.failing, run.already


def test_what_is_in_force_passes_what_passed(authority: Authority) -> None:
    run = authority.dry_run(supposing())
    assert run.state is RunState.DONE
    assert counted(run) == (2, 2, 0, 0)
    assert run.total == 2


def test_a_firmware_update_is_a_change_of_policy_and_no_outage(authority: Authority) -> None:
    updated = authority.fresh(ovmf("changed-firmware"), version=Version("2.0"), serial=2)

    # One machine was updated already, and fails: the policy knows only the old firmware.
    authority.evidence.put("airlock", "n2", recorded.bundle("changed-firmware"))
    run = authority.dry_run(supposing())
    assert counted(run) == (2, 1, 1, 1)
    results = authority.results(run)
    assert not results["n2"].breaks
    assert {finding["code"] for finding in results["n2"].findings} == {"unknown-event", "missing-measurement"}
    assert any("ovmf" in finding["subject"] for finding in results["n2"].findings)

    # The new firmware's reference is proposed: with it, both would pass; without it, nothing has changed.
    proposed = authority.add(updated, standing=Standing.PROPOSED)
    assert counted(authority.dry_run(supposing(accept=frozenset({proposed.id})))) == (2, 2, 0, 0)
    assert counted(authority.dry_run(supposing())) == (2, 1, 1, 1)

    # It is accepted; the old firmware passes beside the new.
    authority.accept(proposed.id)
    assert counted(authority.dry_run(supposing())) == (2, 2, 0, 0)

    # A policy that wants the new one alone would cut off the machine that still has the old: shown before it is live.
    authority.put_policy(policy_bytes(version=2, components=components(ovmf="2.0")))
    run = authority.dry_run(supposing(2))
    assert counted(run) == (2, 1, 1, 0)
    broken = authority.results(run)["n1"]
    assert broken.breaks
    assert "revoked-component" in {finding["code"] for finding in broken.findings}
    assert authority.judges()[0] == policy_bytes()

    # Once that is updated too, nobody fails, and the policy is made live.
    authority.evidence.put("airlock", "n1", recorded.bundle("changed-firmware"))
    assert counted(authority.dry_run(supposing(2))) == (2, 2, 0, 0)
    authority.make_live(2)
    assert counted(authority.dry_run(supposing())) == (2, 2, 0, 0)


def test_a_revocation_is_tried_before_it_is_made(authority: Authority) -> None:
    [firmware] = [one for one in _references(authority) if one.component == "ovmf"]
    run = authority.dry_run(supposing(revoke=frozenset({firmware.id})))
    assert counted(run) == (2, 0, 2, 0)
    assert all(result.breaks for result in authority.results(run).values())
    assert "revoked-component" in {one["code"] for one in authority.results(run)["n1"].findings}
    assert counted(authority.dry_run(supposing())) == (2, 2, 0, 0)
    authority.revoke(firmware.id)
    assert counted(authority.dry_run(supposing())) == (2, 0, 2, 2)


def _references(authority: Authority) -> tuple[StoredReference, ...]:
    with authority.database.reading() as connection:
        return store.load_references(connection, "red", None)


def test_another_machine_class_has_no_reference(authority: Authority) -> None:
    authority.put_policy(policy_bytes(version=2, machine_class="other"))
    run = authority.dry_run(supposing(2))
    assert counted(run) == (2, 0, 2, 0)
    assert "no-reference" in {one["code"] for one in authority.results(run)["n1"].findings}


def test_a_policy_that_other_keys_must_sign_takes_nothing(authority: Authority) -> None:
    key = {"name": "other", "ed25519": "3n5GkUAWtDxWCMQAlsvmbHDDjM6Hbqk0j6BEgoDiQj8="}
    authority.put_policy(policy_bytes(version=2, signers={"threshold": 1, "keys": [key]}))
    assert counted(authority.dry_run(supposing(2))) == (2, 0, 2, 0)


def test_signers_that_were_taken_out_show_in_a_dry_run(authority: Authority) -> None:
    authority.signers(raw(SECOND))
    assert counted(authority.dry_run(supposing())) == (2, 0, 2, 2)


def test_a_new_policy_is_tried_against_another_ones_evidence(authority: Authority) -> None:
    authority.put_policy(policy_bytes("strict"), "strict")
    change = Change("strict", 1, frozenset(), frozenset())
    assert authority.dry_run(change).total == 0
    run = authority.dry_run(change, evidence="airlock")
    assert counted(run) == (2, 2, 0, 0)


def test_evidence_that_is_kept_no_longer_is_told_and_not_counted(authority: Authority) -> None:
    authority.evidence.gone.add("airlock/n1")
    run = authority.dry_run(supposing())
    assert counted(run) == (2, 1, 0, 0)
    assert authority.results(run)["n1"].outcome is Outcome.UNJUDGED


def test_evidence_that_cannot_be_read_fails(authority: Authority) -> None:
    good = recorded.bundle("first")
    authority.evidence.put("airlock", "n1", replace(good, evidence=replace(good.evidence, event_log=b"no log")))
    run = authority.dry_run(supposing())
    assert counted(run) == (2, 1, 1, 1)
    assert authority.results(run)["n1"].findings[0]["code"] == "malformed-event-log"


def begin(authority: Authority, change: Change | None = None, limit: timedelta = LIMIT, by: Caller = RED) -> DryRun:
    with authority.tx() as tx:
        return dry_runs.begin(tx, by, project="red", change=change or supposing(), evidence=None, limit=limit)


def test_what_cannot_be_supposed_is_refused_at_once(authority: Authority) -> None:
    [firmware] = [one for one in _references(authority) if one.component == "ovmf"]
    authority.revoke(firmware.id)
    for error, change in (
        (WrongState, supposing(accept=frozenset({firmware.id}))),
        (NotFound, supposing(accept=frozenset({bytes(32)}))),
        (NotFound, supposing(9)),
        (NotFound, Change("none", None, frozenset(), frozenset())),
    ):
        with pytest.raises(error):
            begin(authority, change)
    authority.put_policy(policy_bytes("strict"), "strict")
    with pytest.raises(WrongUse, match="none is live"):
        begin(authority, Change("strict", None, frozenset(), frozenset()))


def test_a_dry_run_that_waits_is_cancelled_at_once(authority: Authority) -> None:
    run = begin(authority)
    with authority.tx() as tx:
        assert dry_runs.cancel(tx, RED, project="red", dry_run=run.id).state is RunState.CANCELLED
    authority.runner().do_due()
    assert authority.run(run.id).state is RunState.CANCELLED


def test_a_dry_run_that_is_under_way_ends_when_it_hears_of_it(authority: Authority) -> None:
    run = begin(authority)
    with authority.tx() as tx:
        dry_runs.change(tx, run, state=RunState.RUNNING.value)
        assert dry_runs.cancel(tx, RED, project="red", dry_run=run.id).cancelling
    authority.runner().do_due()
    assert authority.run(run.id).state is RunState.CANCELLED


def test_a_dry_run_ends_by_its_deadline(authority: Authority) -> None:
    run = begin(authority, limit=timedelta(seconds=1))
    with authority.tx() as tx:
        dry_runs.change(tx, run, deadline=tx.now)
    authority.runner().do_due()
    ended = authority.run(run.id)
    assert ended.state is RunState.FAILED
    assert ended.failure is not None
    assert ended.failure["code"] == "out-of-time"


def test_a_dry_run_whose_process_died_is_done_again_from_the_start(authority: Authority) -> None:
    run = begin(authority)
    with authority.tx() as tx:
        lease = leases.acquire(tx, f"dry-run/{run.id}", "dead", timedelta(minutes=1))
        assert lease is not None
        dry_runs.change(tx, run, state=RunState.RUNNING.value, done=1, passing=1)
    authority.runner().do_due()
    assert authority.run(run.id).state is RunState.RUNNING  # another has it
    with authority.tx() as tx:
        leases.give_up(tx, lease)
    authority.runner().do_due()
    done = authority.run(run.id)
    assert done.state is RunState.DONE
    assert counted(done) == (2, 2, 0, 0)


def test_a_policy_that_shows_its_fault_only_in_use_fails_the_run(authority: Authority) -> None:
    rules = {"exclude": [{"path": "no/root", "reason": "x"}], "tolerate_violations": [], "signers": [], "buffers": []}
    authority.put_policy(policy_bytes(version=2, runtime=rules))
    run = authority.dry_run(supposing(2))
    assert run.state is RunState.FAILED
    assert run.failure is not None
    assert run.failure["code"] == "malformed-policy"


def test_dry_runs_are_begun_by_members_with_the_right_and_seen_by_who_sees_the_project(authority: Authority) -> None:
    for caller in (AUDITOR, READER):
        with pytest.raises(NotAllowed):
            begin(authority, by=caller)
    with pytest.raises(NotFound):
        begin(authority, by=BLUE)
    run = begin(authority)
    with authority.database.reading() as connection:
        assert dry_runs.get_dry_run(connection, AUDITOR, project="red", dry_run=run.id) == run
        with pytest.raises(NotFound):
            dry_runs.get_dry_run(connection, BLUE, project="red", dry_run=run.id)
        with pytest.raises(NotFound):  # by way of another project
            dry_runs.get_dry_run(connection, BLUE, project="blue", dry_run=run.id)


def test_the_worker_does_what_is_begun_while_it_runs(authority: Authority) -> None:
    runner = authority.runner()
    runner.start()
    try:
        run = begin(authority)
        with authority.database.wakeups.subscribe(dry_runs.topic_of(run.id)) as alarm:
            for _ in range(100):
                if authority.run(run.id).state.ended:
                    break
                alarm.wait(0.2)
    finally:
        runner.stop(20)
    assert authority.run(run.id).state is RunState.DONE


def test_a_bug_in_judging_ends_that_run_and_no_other(authority: Authority) -> None:
    broken = begin(authority)
    authority.put_policy(policy_bytes("other"), "other")
    authority.make_live(1, "other")
    authority.evidence.put("other", "n1", recorded.bundle("first"))
    authority.evidence.kept["airlock"]["n1"] = None  # type: ignore[assignment]  # what no archive gives
    fine = begin(authority, Change("other", None, frozenset(), frozenset()))
    authority.runner().do_due()
    assert authority.run(broken.id).state is RunState.FAILED
    assert authority.run(fine.id).state is RunState.DONE
