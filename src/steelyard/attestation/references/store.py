"""Rows to objects and back, and the changes that several verbs make alike."""

import hashlib
import re
import zlib
from collections.abc import Collection, Mapping
from typing import Any, Final

from sqlalchemy import Connection, Row, bindparam, insert, select, update

from steelyard.attestation.references import rules, tables
from steelyard.attestation.references.objects import (
    PolicyVersion,
    RevokedRelease,
    SignerSet,
    Standing,
    StoredPolicy,
    StoredReference,
)
from steelyard.model.errors import NotAllowed
from steelyard.service import journal
from steelyard.service.authority import Caller, Right, Role, not_found
from steelyard.service.authority import Office as ServiceOffice
from steelyard.service.database import Transaction
from steelyard.service.journal import Detail

AnyRow = Row[Any]

_COMPRESSION: Final = 6
_ID: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


# -- who may -----------------------------------------------------------------------------------------------------------


def must_see(caller: Caller, project: str) -> None:
    """Let pass who may know of the project. Raises NotFound."""
    caller.must_see(project, f"project {project}")


def must_change(caller: Caller, project: str, doing: str) -> None:
    """Let pass who may change what the project's nodes are judged by. Raises NotFound, NotAllowed."""
    must_see(caller, project)
    caller.must_act_for(project, Right.ATTEST, doing)


def must_rule(caller: Caller, project: str, doing: str) -> None:
    """Let pass who may say whom the project believes: its admins and the provider. Raises NotFound, NotAllowed."""
    must_change(caller, project, doing)
    if caller.office is not ServiceOffice.PROVIDER and caller.roles.get(project) is not Role.ADMIN:
        raise NotAllowed(doing, expected=f"an admin of project {project}", found=f"{caller.name}, who is not")


def record(tx: Transaction, actor: str, verb: str, subject: str, project: str | None, **detail: Any) -> None:
    """Write the journal."""
    entry: Detail = detail
    journal.record(tx, actor=actor, verb=verb, subject=subject, project=project, detail=entry)


# -- contents ----------------------------------------------------------------------------------------------------------


def packed(data: bytes) -> bytes:
    """Return what the column `compressed` has; large documents are packed before a transaction begins."""
    return zlib.compress(data, _COMPRESSION)


def keep(tx: Transaction, data: bytes, compressed: bytes | None = None) -> bytes:
    """Keep a document, once; return its SHA-256."""
    digest = hashlib.sha256(data).digest()
    known = select(tables.contents.c.sha256).where(tables.contents.c.sha256 == digest)
    if tx.connection.execute(known).one_or_none() is None:
        values = {"sha256": digest, "compressed": compressed or packed(data), "size_bytes": len(data)}
        tx.connection.execute(insert(tables.contents).values(values))
    return digest


def read_content(connection: Connection, sha256: bytes) -> bytes:
    """Return a document. Raises NotFound."""
    query = select(tables.contents.c.compressed).where(tables.contents.c.sha256 == sha256)
    compressed = connection.execute(query).scalar_one_or_none()
    if compressed is None:
        raise not_found(f"document {sha256.hex()}")
    return zlib.decompress(compressed)  # what we packed ourselves


# -- signers -----------------------------------------------------------------------------------------------------------


def signers_of(row: AnyRow) -> SignerSet:
    """Return a row of `reference_signers`."""
    keys = {name: bytes.fromhex(key) for name, key in row.public_keys.items()}
    return SignerSet(row.project, row.component, keys, row.threshold, row.version)


def load_signers(connection: Connection, project: str) -> dict[str, SignerSet]:
    """Return a project's signers, by component."""
    columns = tables.signers.c
    query = select(tables.signers).where(columns.project == project).order_by(columns.component)
    return {row.component: signers_of(row) for row in connection.execute(query)}


# -- references --------------------------------------------------------------------------------------------------------


def reference_of(row: AnyRow) -> StoredReference:
    """Return a row of `reference_manifests`."""
    return StoredReference(
        project=row.project,
        id=row.id,
        component=row.component,
        release=row.release,
        serial=row.serial,
        machine_class=row.machine_class,
        origin=row.origin,
        artefact=row.artefact,
        issued=row.issued,
        expires=row.expires,
        standing=Standing(row.standing),
        key_ids=frozenset(row.key_ids),
        envelope=row.envelope,
        size_bytes=row.size_bytes,
        added_by=row.added_by,
        added_at=row.added_at,
        why=row.why,
    )


def load_references(
    connection: Connection, project: str, components: Collection[str] | None
) -> tuple[StoredReference, ...]:
    """Return a project's references of these components (None: of all), whatever their standing, by component."""
    columns = tables.manifests.c
    query = select(tables.manifests).where(columns.project == project)
    if components is not None:
        query = query.where(columns.component.in_(components))
    rows = connection.execute(query.order_by(columns.component, columns.serial, columns.id))
    return tuple(map(reference_of, rows))


def load_reference(connection: Connection, project: str, reference: str) -> StoredReference:
    """Return a reference, by its id in hexadecimal. Raises NotFound."""
    row = None
    if _ID.fullmatch(reference):
        columns = tables.manifests.c
        query = select(tables.manifests).where(columns.project == project, columns.id == bytes.fromhex(reference))
        row = connection.execute(query).one_or_none()
    if row is None:
        raise not_found(f"reference {reference}")
    return reference_of(row)


def load_revoked(connection: Connection, project: str) -> tuple[RevokedRelease, ...]:
    """Return the versions that a project has revoked, by component and version."""
    columns = tables.revoked_releases.c
    query = select(tables.revoked_releases).where(columns.project == project)
    rows = connection.execute(query.order_by(columns.component, columns.release))
    return tuple(RevokedRelease(row.project, row.component, row.release, row.why, row.by, row.at) for row in rows)


# -- policies ----------------------------------------------------------------------------------------------------------


def policy_of(row: AnyRow) -> StoredPolicy:
    """Return a row of `appraisal_policies`."""
    references = tuple(bytes.fromhex(text) for text in row.references)
    return StoredPolicy(row.project, row.name, row.latest, row.live, row.document, references, row.version)


def version_of(row: AnyRow) -> PolicyVersion:
    """Return a row of `appraisal_policy_versions`."""
    return PolicyVersion(
        row.project,
        row.name,
        row.number,
        row.sha256,
        tuple(row.components),
        row.made_by,
        row.made_at,
        row.live_since,
    )


# Made once, as every challenge asks it.
_ONE_POLICY: Final = select(tables.policies).where(
    tables.policies.c.project == bindparam("project"), tables.policies.c.name == bindparam("name")
)


def find_policy(connection: Connection, project: str, name: str) -> StoredPolicy | None:
    """Return a policy, if it is there."""
    row = connection.execute(_ONE_POLICY, {"project": project, "name": name}).one_or_none()
    return None if row is None else policy_of(row)


def load_policy(connection: Connection, project: str, name: str) -> StoredPolicy:
    """Return a policy. Raises NotFound."""
    found = find_policy(connection, project, name)
    if found is None:
        raise not_found(f"policy {name}")
    return found


def load_version(connection: Connection, project: str, name: str, number: int) -> PolicyVersion:
    """Return a version of a policy. Raises NotFound."""
    columns = tables.policy_versions.c
    query = select(tables.policy_versions).where(
        columns.project == project, columns.name == name, columns.number == number
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        raise not_found(f"version {number} of policy {name}")
    return version_of(row)


# -- what judges -------------------------------------------------------------------------------------------------------


def taken_by(connection: Connection, version: PolicyVersion, references: Collection[StoredReference]) -> rules.Taken:
    """Return what this version would judge by, if these were the references."""
    revoked = {(one.component, one.release) for one in load_revoked(connection, version.project)}
    document = read_content(connection, version.sha256)
    return rules.take(document, version.components, references, revoked, load_signers(connection, version.project))


def renew(tx: Transaction, project: str) -> tuple[str, ...]:
    """Write anew what judges, after a change of policies, references or signers; return the policies that changed.

    To be called by every verb that changes one of them, in the same transaction: what is read with every challenge is
    never older than what was decided.
    """
    columns = tables.policies.c
    changed = []
    live = tx.connection.execute(
        select(tables.policies).where(columns.project == project, columns.live.is_not(None)).order_by(columns.name)
    ).all()
    for policy in map(policy_of, live):
        version = load_version(tx.connection, project, policy.name, policy.live or 0)
        taken = taken_by(tx.connection, version, load_references(tx.connection, project, version.components))
        document = keep(tx, taken.document)
        if (document, taken.references) == (policy.document, policy.references):
            continue
        values: Mapping[str, Any] = {
            "document": document,
            "references": [one.hex() for one in taken.references],
            "version": policy.version + 1,
        }
        tx.connection.execute(
            update(tables.policies).where(columns.project == project, columns.name == policy.name).values(values)
        )
        changed.append(policy.name)
    return tuple(changed)
