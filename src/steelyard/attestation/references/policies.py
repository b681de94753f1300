"""What may be asked of policies: keep a new version, make one live. A version never changes once it is kept."""

from typing import Any

from sqlalchemy import Connection, insert, select, update

from steelyard.attestation.ports import PolicyInForce
from steelyard.attestation.references import publication, rules, store, tables
from steelyard.attestation.references.objects import PolicyVersion, StoredPolicy
from steelyard.evidence.compiled_policy import compile_policy
from steelyard.evidence.policy import PolicyId
from steelyard.model.names import check_name
from steelyard.service.authority import Caller, not_found
from steelyard.service.database import Transaction
from steelyard.service.sealing import Sealer


def list_policies(
    connection: Connection, caller: Caller, *, project: str, after: str, limit: int
) -> tuple[StoredPolicy, ...]:
    """Return a project's policies, by name. Raises NotFound."""
    store.must_see(caller, project)
    columns = tables.policies.c
    query = select(tables.policies).where(columns.project == project, columns.name > after)
    return tuple(map(store.policy_of, connection.execute(query.order_by(columns.name).limit(limit))))


def get_policy(connection: Connection, caller: Caller, *, project: str, name: str) -> StoredPolicy:
    """Return a policy. Raises NotFound."""
    store.must_see(caller, project)
    return store.load_policy(connection, project, name)


def list_versions(
    connection: Connection, caller: Caller, *, project: str, name: str, after: int, limit: int
) -> tuple[PolicyVersion, ...]:
    """Return the versions of a policy, the oldest first. Raises NotFound."""
    get_policy(connection, caller, project=project, name=name)
    columns = tables.policy_versions.c
    query = select(tables.policy_versions).where(
        columns.project == project, columns.name == name, columns.number > after
    )
    return tuple(map(store.version_of, connection.execute(query.order_by(columns.number).limit(limit))))


def get_document(connection: Connection, caller: Caller, *, project: str, name: str, number: int | None) -> bytes:
    """Return a version as it was put; None: what judges, with what was revoked since in it. Raises NotFound."""
    policy = get_policy(connection, caller, project=project, name=name)
    if number is not None:
        return store.read_content(connection, store.load_version(connection, project, name, number).sha256)
    if policy.live is None:
        raise not_found(f"a live version of policy {name}")
    return store.read_content(connection, policy.document)


def put_policy(
    tx: Transaction, caller: Caller, *, project: str, name: str, document: bytes, expected_version: int | None
) -> StoredPolicy:
    """Keep a new version; nothing is judged by it yet. The newest version once more changes nothing.

    Its number is the document's own, above those of all before it: a verdict names it, and whoever reads the verdict
    must find one document by it. Raises NotFound, NotAllowed, MalformedPolicy, WrongUse, TooLarge, Changed;
    MalformedKey, KeyRejected for a key of files' signers that is none.
    """
    store.must_change(caller, project, f"keeping a version of policy {name}")
    check_name(name, "policy")
    before = store.find_policy(tx.connection, project, name)
    if before is not None:
        newest = store.load_version(tx.connection, project, name, before.latest)
        if store.read_content(tx.connection, newest.sha256) == document:
            return before
    rules.check_version(f"policy {name}", 0 if before is None else before.version, expected_version)
    policy = rules.check_policy(document, name, 0 if before is None else before.latest)
    compile_policy(policy, (), tx.now)  # raises what shows only when it is used
    number = policy.id.version
    columns = tables.policies.c
    if before is None:
        values: dict[str, Any] = {"live": None, "document": b"", "references": [], "version": 1}
        tx.connection.execute(insert(tables.policies).values(project=project, name=name, latest=number, **values))
    else:
        its = (columns.project == project, columns.name == name)
        tx.connection.execute(update(tables.policies).where(*its).values(latest=number, version=columns.version + 1))
    tx.connection.execute(
        insert(tables.policy_versions).values(
            project=project,
            name=name,
            number=number,
            sha256=store.keep(tx, document),
            components=sorted(policy.components),
            made_by=caller.name,
            made_at=tx.now,
        )
    )
    store.record(tx, caller.name, "policy.kept", f"policy/{name}", project, version=number)
    return store.load_policy(tx.connection, project, name)


def make_live(
    tx: Transaction,
    caller: Caller,
    sealer: Sealer,
    *,
    project: str,
    name: str,
    number: int,
    expected_version: int | None,
) -> StoredPolicy:
    """Have nodes judged by this version from now on; an older one is gone back to in the same way.

    Raises NotFound, NotAllowed, Changed.
    """
    store.must_change(caller, project, f"making version {number} of policy {name} live")
    policy = store.load_policy(tx.connection, project, name)
    store.load_version(tx.connection, project, name, number)
    rules.check_version(f"policy {name}", policy.version, expected_version)
    if policy.live == number:
        return policy
    versions, columns = tables.policy_versions.c, tables.policies.c
    its = (versions.project == project, versions.name == name)
    tx.connection.execute(update(tables.policy_versions).where(*its).values(live_since=None))
    tx.connection.execute(
        update(tables.policy_versions).where(*its, versions.number == number).values(live_since=tx.now)
    )
    tx.connection.execute(
        update(tables.policies)
        .where(columns.project == project, columns.name == name)
        .values(live=number, version=columns.version + 1)
    )
    store.record(tx, caller.name, "policy.live", f"policy/{name}", project, version=number, before=policy.live)
    publication.settle(tx, sealer, caller.name, project)
    return store.load_policy(tx.connection, project, name)


class StoredPolicies:
    """The port by which the verifier asks for what is in force."""

    def in_force(self, connection: Connection, project: str, name: str) -> PolicyInForce:
        """Return what is in force: one row, by its key. Raises NotFound."""
        policy = store.load_policy(connection, project, name)
        if policy.live is None:
            raise not_found(f"a live version of policy {name}")
        return PolicyInForce(PolicyId(name, policy.live), policy.document, policy.references)

    def content(self, connection: Connection, sha256: bytes) -> bytes:
        """Return a policy's or an envelope's bytes that `in_force` named. Raises NotFound."""
        return store.read_content(connection, sha256)
