"""The reference authority and the verifier together: what judges, and dry runs against evidence that nodes sent."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import insert

from steelyard.attestation.archive import Archive
from steelyard.attestation.life import State
from steelyard.attestation.references import dry_runs, manifests, policies, signers
from steelyard.attestation.references.objects import DEFAULT, Change, DryRun, NodeResult, Standing
from steelyard.attestation.references.trying import DryRuns
from steelyard.attestation.service import AttestationSettings
from steelyard.attestation.tables import maker_sets
from steelyard.evidence.policy import parse_policy
from steelyard.evidence.reference.dsse import parse_envelope
from steelyard.evidence.reference.manifest import parse_manifest
from steelyard.service.authority import Caller, Office, Right
from steelyard.service.database import Database
from tests import recorded
from tests import simulated_references as references
from tests.attestation_site import FILES, SEALER, Clock, Site
from tests.simulated_nodes import Refused, SimulatedNode
from tests.simulated_tpm import maker
from tests.unit.evidence import samples

PROVIDER = Caller("pia", Office.PROVIDER, {}, frozenset(Right))


@pytest.fixture
def site(database: Database) -> Iterator[Site]:
    """A service whose verifier asks the real reference authority."""
    clock = Clock()
    database._clock = clock
    with database.writing() as tx:
        makers = {"certificates": list(maker().anchors_pem()), "revocations": [], "demands": ["usage", "names"]}
        tx.connection.execute(insert(maker_sets).values(project="red", name="makers", version=1, **makers))
        signers.put_signers(
            tx,
            PROVIDER,
            SEALER,
            project="red",
            component=DEFAULT,
            keys={"release": samples.KEY.public_key().public_bytes_raw()},
            threshold=1,
            expected_version=None,
        )
    for envelope in references.signed_references(FILES, clock()).values():
        component = parse_manifest(parse_envelope(envelope).payload).component
        manifests.add_reference(
            database,
            PROVIDER,
            SEALER,
            project="red",
            component=component,
            content=envelope,
            standing=Standing.ACCEPTED,
        )
    made = Site(database, clock, policies.StoredPolicies(), AttestationSettings())  # type: ignore[arg-type]  # the real one
    put(made, references.airlock_policy())
    put(made, references.runtime_policy())
    make_live(made, "airlock", 1)
    make_live(made, "runtime", 1)
    yield made
    made.close()


def put(site: Site, document: bytes) -> None:
    name = parse_policy(document).id.name
    with site.database.writing() as tx:
        policies.put_policy(tx, PROVIDER, project="red", name=name, document=document, expected_version=None)


def make_live(site: Site, name: str, number: int) -> None:
    with site.database.writing() as tx:
        policies.make_live(tx, PROVIDER, SEALER, project="red", name=name, number=number, expected_version=None)


def dry_run(site: Site, name: str, number: int | None = None) -> tuple[DryRun, dict[str, NodeResult]]:
    change = Change(name, number, frozenset(), frozenset())
    with site.database.writing() as tx:
        run = dry_runs.begin(tx, PROVIDER, project="red", change=change, evidence=None, limit=timedelta(minutes=5))
    DryRuns(site.database, Archive(), SEALER).do_due()
    with site.database.reading() as connection:
        found = dry_runs.list_results(
            connection, PROVIDER, project="red", dry_run=run.id, outcome=None, after="", limit=99
        )
        return dry_runs.load(connection, run.id), {one.node: one for one in found}


def test_what_nodes_sent_is_judged_again_whole_though_only_increments_travelled(site: Site) -> None:
    for name in ("n1", "n2"):
        node = site.enrolled(name)
        node.join()
        node.pass_airlock()
        node.report()
        node.run_more(5)
        node.report()
    for policy in ("airlock", "runtime"):
        run, results = dry_run(site, policy)
        assert (run.done, run.passing, run.failing) == (2, 2, 0), results
    put(site, references.runtime_policy(version=2, components=[*recorded.RULES["components"]]))
    run, results = dry_run(site, "runtime", 2)
    assert (run.failing, run.already) == (2, 0)
    assert {finding["code"] for finding in results["n1"].findings} == {"unknown-file"}


def test_a_new_version_judges_the_next_report_and_is_named_in_it(site: Site) -> None:
    node = site.enrolled()
    node.join()
    node.pass_airlock()
    node.report()
    put(site, references.runtime_policy(version=2))
    make_live(site, "runtime", 2)
    node.report()
    node.report()
    assert site.shown() is State.PASSED
    with site.database.reading() as connection:
        in_force = policies.StoredPolicies().in_force(connection, "red", "runtime")
    assert in_force.id.version == 2


def test_a_revoked_version_fails_a_node_at_its_next_report(site: Site) -> None:
    node = site.enrolled()
    node.join()
    node.pass_airlock()
    node.report()
    with site.database.writing() as tx:
        manifests.revoke_release(tx, PROVIDER, SEALER, project="red", component="airlock", release="1.0", why="a test")
    with pytest.raises(Refused) as refused:
        _report_twice(node)
    assert refused.value.status == 422
    assert site.shown() is State.FAILED


def _report_twice(node: SimulatedNode) -> None:
    """Report until what was asked before the change is answered too: a node is judged by what it was asked by."""
    node.report()
    node.report()
