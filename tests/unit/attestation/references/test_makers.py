"""Sets of TPM makers: whom a project believes, whom the provider offers, and what is in use."""

import pytest
from sqlalchemy import insert

from steelyard.attestation import store
from steelyard.attestation.objects import MakerSet
from steelyard.attestation.references import makers
from steelyard.attestation.tables import identities, nodes
from steelyard.evidence.tpm.endorsement import Demand
from steelyard.model.errors import Changed, InUse, MalformedCertificate, NotAllowed, NotFound, WrongUse
from steelyard.service.authority import Caller
from steelyard.service.database import Database, Transaction
from tests import recorded
from tests.unit.attestation.references.rig import ADMIN, AUDITOR, BLUE, PROVIDER, READER, RED, maker_certificate

ROOT = maker_certificate()


def put(
    database: Database,
    by: Caller,
    project: str | None = "red",
    certificates: tuple[str, ...] = (ROOT,),
    revocations: tuple[bytes, ...] = (),
    version: int | None = None,
) -> MakerSet:
    with database.writing() as tx:
        return makers.put_makers(
            tx,
            by,
            project=project,
            name="stm",
            certificates=certificates,
            revocations=revocations,
            demands=[Demand.TCG_USAGE],
            expected_version=version,
        )


def delete(database: Database, by: Caller, project: str | None = "red") -> None:
    with database.writing() as tx:
        makers.delete_makers(tx, by, project=project, name="stm", expected_version=None)


def test_a_set_is_what_was_put_last(database: Database) -> None:
    first = put(database, ADMIN)
    assert put(database, ADMIN) == first
    both = put(database, ADMIN, certificates=(ROOT, maker_certificate("Other")))
    assert (both.version, len(both.certificates)) == (2, 2)
    with pytest.raises(Changed):
        put(database, ADMIN, version=1)
    with database.reading() as connection:
        assert makers.get_makers(connection, RED, project="red", name="stm") == both
        assert makers.list_makers(connection, RED, project="red", after="", limit=9) == (both,)
        with pytest.raises(NotFound):
            makers.get_makers(connection, BLUE, project="red", name="stm")


def test_the_registrar_finds_the_projects_own_before_the_providers(database: Database) -> None:
    offered = put(database, PROVIDER, None, (maker_certificate("Offered"),))
    with database.reading() as connection:
        assert store.find_makers(connection, "red", "stm") == offered
    own = put(database, ADMIN)
    with database.reading() as connection:
        assert store.find_makers(connection, "red", "stm") == own
        assert store.find_makers(connection, "blue", "stm") == offered


def test_what_is_no_authority_is_refused(database: Database) -> None:
    leaf = (recorded.BOOTS.parent / "issuer.pem").read_text()
    for wrong in ("", "no certificate", leaf + leaf):
        with pytest.raises(MalformedCertificate):
            put(database, ADMIN, certificates=(wrong,))
    with pytest.raises(WrongUse):
        put(database, ADMIN, certificates=())
    with pytest.raises(MalformedCertificate):
        put(database, ADMIN, revocations=(b"no list",))


def test_whom_to_believe_is_said_by_admins_and_the_provider(database: Database) -> None:
    for caller in (RED, AUDITOR, READER):
        with pytest.raises(NotAllowed):
            put(database, caller)
    with pytest.raises(NotFound):
        put(database, BLUE)
    for caller in (RED, ADMIN, BLUE, AUDITOR):
        with pytest.raises(NotAllowed):
            put(database, caller, None)
    put(database, PROVIDER)
    put(database, PROVIDER, None)


def a_node(tx: Transaction, name: str, project: str) -> None:
    """Have a node whose enrolment names the set."""
    tx.connection.execute(
        insert(nodes).values(
            name=name,
            project=project,
            airlock_policy="airlock",
            interval_seconds=60,
            grace_seconds=60,
            expected_reboots=0,
            state="unknown",
            since=tx.now,
            why="",
            version=1,
        )
    )
    tx.connection.execute(insert(identities).values(node=name, certificates={}, key_digests=[], makers="stm"))


def test_a_set_that_a_node_names_stays(database: Database) -> None:
    put(database, ADMIN)
    put(database, PROVIDER, None)
    with database.writing() as tx:
        a_node(tx, "n1", "red")
    with pytest.raises(InUse):
        delete(database, ADMIN)
    delete(database, PROVIDER, None)  # red has one of its own
    put(database, PROVIDER, None)
    with database.writing() as tx:
        a_node(tx, "n2", "blue")
    with pytest.raises(InUse):
        delete(database, PROVIDER, None)
