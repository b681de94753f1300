"""What may be asked of references: bring one in, accept, revoke. Load, decide by `rules.py`, store, record.

Manifests are never taken away: what was seen once is what a roll-back is told by.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select, update

from steelyard.attestation.references import publication, rules, store, tables
from steelyard.attestation.references.objects import RevokedRelease, SignerSet, Standing, StoredReference
from steelyard.evidence.reference.dsse import Envelope, Signature, parse_envelope
from steelyard.evidence.reference.manifest import Reference, parse_manifest
from steelyard.evidence.reference.version import Version
from steelyard.model.errors import Changed, ReferenceRejected, WrongState
from steelyard.model.names import check_name
from steelyard.service.authority import Caller, not_found
from steelyard.service.database import Database, Transaction
from steelyard.service.sealing import Sealer


@dataclass(frozen=True, slots=True)
class _Read:
    """An envelope whose signatures were checked against the project's signers of one moment."""

    envelope: Envelope
    reference: Reference
    key_ids: frozenset[str]
    sets: dict[str, SignerSet]
    data: bytes
    compressed: bytes


def add_reference(
    database: Database,
    caller: Caller,
    sealer: Sealer,
    *,
    project: str,
    component: str,
    content: bytes,
    standing: Standing,
) -> StoredReference:
    """Bring in a signed manifest; the same once more adds its new signatures.

    content   a DSSE envelope.
    standing  PROPOSED: only dry runs that ask for it take it. ACCEPTED: it counts.

    The signatures are checked before the transaction begins, as a large manifest takes its time; a change of signers
    meanwhile is noticed. Raises NotFound, NotAllowed, WrongState (no signers, or it is revoked), WrongUse,
    ReferenceRejected (attack 36), MalformedReference, TooLarge, Changed.
    """
    doing = f"taking a manifest of {component}"
    store.must_change(caller, project, doing)
    check_name(component, "component")
    read = _read(database, project, component, content)
    with database.writing() as tx:
        if store.load_signers(tx.connection, project) != read.sets:
            raise Changed(doing, expected="the signers that it was checked with", found="others, set meanwhile")
        seen = store.load_references(tx.connection, project, [component])
        its_id = rules.manifest_id(read.envelope.payload)
        before = next((one for one in seen if one.id == its_id), None)
        if before is None:
            rules.check_serial(read.reference.manifest, its_id, seen, doing)
            return _insert(tx, caller, sealer, project, read, standing)
        if before.standing is Standing.REVOKED:
            raise WrongState(doing, expected="a manifest that was not revoked", found=f"one revoked: {before.why}")
        if read.key_ids - before.key_ids:
            _resign(tx, caller, sealer, before, read)
        if standing is Standing.ACCEPTED and before.standing is Standing.PROPOSED:
            return accept_reference(tx, caller, sealer, project=project, reference=its_id.hex())
        return store.load_reference(tx.connection, project, its_id.hex())


def _read(database: Database, project: str, component: str, content: bytes) -> _Read:
    envelope = parse_envelope(content)
    with database.reading() as connection:
        sets = store.load_signers(connection, project)
        seen = store.load_references(connection, project, [component])
    signers = rules.signers_for(component, sets)
    its_id = rules.manifest_id(envelope.payload)
    known = next((one for one in seen if one.id == its_id), None)
    if known is not None:
        # Signatures that came before count along: of two signers, each may bring in their own.
        with database.reading() as connection:
            envelope = _joined(envelope, parse_envelope(store.read_content(connection, known.envelope)))
        seen = tuple(one for one in seen if one.id != its_id)
    reference = rules.admit(envelope, component, signers, [] if known else seen, database.clock())
    data = envelope.to_bytes()
    return _Read(envelope, reference, rules.good_key_ids(envelope, sets.values()), sets, data, store.packed(data))


def _joined(new: Envelope, old: Envelope) -> Envelope:
    named = {signature.key_id for signature in new.signatures}
    more: tuple[Signature, ...] = tuple(one for one in old.signatures if one.key_id not in named)
    return Envelope(new.payload_type, new.payload, (*new.signatures, *more))


def _insert(
    tx: Transaction, caller: Caller, sealer: Sealer, project: str, read: _Read, standing: Standing
) -> StoredReference:
    manifest = read.reference.manifest
    its_id = rules.manifest_id(read.envelope.payload)
    tx.connection.execute(
        insert(tables.manifests).values(
            project=project,
            id=its_id,
            component=manifest.component,
            release=manifest.version.text,
            serial=manifest.serial,
            machine_class=manifest.machine_class,
            origin=manifest.origin.value,
            artefact=manifest.artefact,
            issued=manifest.issued,
            expires=manifest.expires,
            standing=standing.value,
            key_ids=sorted(read.key_ids),
            envelope=store.keep(tx, read.data, read.compressed),
            size_bytes=len(read.data),
            added_by=caller.name,
            added_at=tx.now,
            why="",
        )
    )
    stored = store.load_reference(tx.connection, project, its_id.hex())
    _record(tx, caller, standing.value, stored, signed_by=sorted(read.reference.signed_by))
    publication.settle(tx, sealer, caller.name, project)
    return stored


def _resign(tx: Transaction, caller: Caller, sealer: Sealer, before: StoredReference, read: _Read) -> None:
    values = {
        "key_ids": sorted(read.key_ids | before.key_ids),
        "envelope": store.keep(tx, read.data, read.compressed),
        "size_bytes": len(read.data),
    }
    _update(tx, before, values)
    _record(tx, caller, "signed", before, signed_by=sorted(read.reference.signed_by))
    publication.settle(tx, sealer, caller.name, before.project)


def accept_reference(
    tx: Transaction, caller: Caller, sealer: Sealer, *, project: str, reference: str
) -> StoredReference:
    """Let a proposed manifest count, if it still may; an accepted one stays so.

    Raises NotFound, NotAllowed, WrongState (revoked), ReferenceRejected (later ones were seen, it ended, or its signers
    are none any more).
    """
    doing = f"accepting reference {reference}"
    store.must_change(caller, project, doing)
    found = store.load_reference(tx.connection, project, reference)
    if found.standing is Standing.ACCEPTED:
        return found
    if found.standing is Standing.REVOKED:
        raise WrongState(doing, expected="a manifest that was not revoked", found=f"one revoked: {found.why}")
    if not rules.vouched(found, store.load_signers(tx.connection, project)):
        raise ReferenceRejected(doing, expected="enough signatures of the signers of now", found="fewer")
    if found.expires <= tx.now:
        raise ReferenceRejected(doing, expected="one that is in force", found=f"one to {found.expires.isoformat()}")
    seen = store.load_references(tx.connection, project, [found.component])
    envelope = parse_envelope(store.read_content(tx.connection, found.envelope))
    rules.check_serial(parse_manifest(envelope.payload), found.id, seen, doing)
    _update(tx, found, {"standing": Standing.ACCEPTED.value})
    _record(tx, caller, "accepted", found)
    publication.settle(tx, sealer, caller.name, project)
    return store.load_reference(tx.connection, project, reference)


def revoke_reference(
    tx: Transaction, caller: Caller, sealer: Sealer, *, project: str, reference: str, why: str
) -> StoredReference:
    """Take a manifest's word back, for good. Raises NotFound, NotAllowed."""
    store.must_change(caller, project, f"revoking reference {reference}")
    found = store.load_reference(tx.connection, project, reference)
    if found.standing is Standing.REVOKED:
        return found
    _update(tx, found, {"standing": Standing.REVOKED.value, "why": why})
    _record(tx, caller, "revoked", found, why=why)
    publication.settle(tx, sealer, caller.name, project)
    return store.load_reference(tx.connection, project, reference)


def revoke_release(
    tx: Transaction, caller: Caller, sealer: Sealer, *, project: str, component: str, release: str, why: str
) -> RevokedRelease:
    """Say that a version of a component is bad, by whomever it was signed or will be. Raises NotFound, NotAllowed,
    WrongUse.
    """
    store.must_change(caller, project, f"revoking version {release} of {component}")
    check_name(component, "component")
    Version(release)
    known = _find_revoked(tx.connection, project, component, release)
    if known is not None:
        return known
    made = RevokedRelease(project, component, release, why, caller.name, tx.now)
    values = {"project": project, "component": component, "release": release, "why": why, "by": made.by, "at": made.at}
    tx.connection.execute(insert(tables.revoked_releases).values(values))
    store.record(tx, caller.name, "release.revoked", f"component/{component}", project, version=release, why=why)
    publication.settle(tx, sealer, caller.name, project)
    return made


def restore_release(
    tx: Transaction, caller: Caller, sealer: Sealer, *, project: str, component: str, release: str
) -> None:
    """Take a revocation back (the project's admins and the provider). Raises NotFound, NotAllowed."""
    store.must_rule(caller, project, f"restoring version {release} of {component}")
    if _find_revoked(tx.connection, project, component, release) is None:
        raise not_found(f"revoked version {release} of {component}")
    columns = tables.revoked_releases.c
    its = (columns.project == project, columns.component == component, columns.release == release)
    tx.connection.execute(delete(tables.revoked_releases).where(*its))
    store.record(tx, caller.name, "release.restored", f"component/{component}", project, version=release)
    publication.settle(tx, sealer, caller.name, project)


def _find_revoked(connection: Connection, project: str, component: str, release: str) -> RevokedRelease | None:
    found = store.load_revoked(connection, project)
    return next((one for one in found if (one.component, one.release) == (component, release)), None)


# -- asking ------------------------------------------------------------------------------------------------------------


def list_references(
    connection: Connection,
    caller: Caller,
    *,
    project: str,
    component: str | None,
    standing: Standing | None,
    after: bytes,
    limit: int,
) -> tuple[StoredReference, ...]:
    """Return references by their ids. Raises NotFound."""
    store.must_see(caller, project)
    columns = tables.manifests.c
    query = select(tables.manifests).where(columns.project == project, columns.id > after)
    if component is not None:
        query = query.where(columns.component == component)
    if standing is not None:
        query = query.where(columns.standing == standing.value)
    rows = connection.execute(query.order_by(columns.id).limit(limit))
    return tuple(map(store.reference_of, rows))


def get_reference(connection: Connection, caller: Caller, *, project: str, reference: str) -> StoredReference:
    """Return a reference. Raises NotFound."""
    store.must_see(caller, project)
    return store.load_reference(connection, project, reference)


def get_envelope(connection: Connection, caller: Caller, *, project: str, reference: str) -> bytes:
    """Return a reference's envelope. Raises NotFound."""
    return store.read_content(
        connection, get_reference(connection, caller, project=project, reference=reference).envelope
    )


def list_revoked(connection: Connection, caller: Caller, *, project: str) -> tuple[RevokedRelease, ...]:
    """Return the versions that were revoked. Raises NotFound."""
    store.must_see(caller, project)
    return store.load_revoked(connection, project)


# -- rows --------------------------------------------------------------------------------------------------------------


def _update(tx: Transaction, reference: StoredReference, values: dict[str, object]) -> None:
    columns = tables.manifests.c
    its = (columns.project == reference.project, columns.id == reference.id)
    tx.connection.execute(update(tables.manifests).where(*its).values(values))


def _record(tx: Transaction, caller: Caller, verb: str, reference: StoredReference, **detail: object) -> None:
    store.record(
        tx,
        caller.name,
        f"reference.{verb}",
        f"reference/{reference.id.hex()}",
        reference.project,
        component=reference.component,
        version=reference.release,
        serial=reference.serial,
        **detail,
    )
