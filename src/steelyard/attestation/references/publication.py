"""Publishes a project's references as a TUF repository, for mirrors that trust neither the network nor this service.

The keys of the online roles are kept sealed; what a thief of them could publish is still only what the references'
own signers signed, as a mirror's verifier checks those too.
"""

import json
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Connection, delete, func, insert, select, update
from tuf.api.metadata import Root, Snapshot, Targets, Timestamp

from steelyard.attestation.references import repository, rules, store, tables
from steelyard.attestation.references.objects import Repository, RootKind, Standing
from steelyard.attestation.references.repository import LASTS, ONLINE_ROLES, Target
from steelyard.model.errors import ServiceUnready, WrongState
from steelyard.model.secret import Secret
from steelyard.service.authority import Caller, not_found
from steelyard.service.database import Transaction
from steelyard.service.sealing import Sealer

REVOCATIONS: Final = "revocations.json"
"""The target that says what was taken back."""
RETRY: Final = timedelta(hours=1)
"""How long after it could not be published for want of its keys it is tried again."""
_KEPT: Final = 8
"""How many snapshots and targets stay, for mirrors that are at it."""
_METADATA_FILE: Final = re.compile(r"(?:([1-9][0-9]{0,8})\.)?(root|targets|snapshot|timestamp)\.json", re.ASCII)

Keys = Mapping[str, Ed25519PrivateKey]

_log = structlog.get_logger()


# -- verbs -------------------------------------------------------------------------------------------------------------


def get_repository(connection: Connection, caller: Caller, project: str) -> Repository:
    """Return what is published. Raises NotFound."""
    store.must_see(caller, project)
    return load_repository(connection, project)


def put_repository(
    tx: Transaction, caller: Caller, sealer: Sealer, *, project: str, root: RootKind, public: bool
) -> Repository:
    """Publish a project's references from now on; asked again, say for whom.

    With an offline root nothing is served until root metadata came that names the keys told here.
    Raises NotFound, NotAllowed, WrongState (another kind of root, which would be another repository).
    """
    doing = f"publishing the references of {project}"
    store.must_rule(caller, project, doing)
    table = tables.repositories
    row = tx.connection.execute(select(table).where(table.c.project == project)).one_or_none()
    if row is None:
        roles = ONLINE_ROLES if root is RootKind.OFFLINE else (Root.type, *ONLINE_ROLES)
        keys = {role: Ed25519PrivateKey.generate() for role in roles}
        tx.connection.execute(
            insert(table).values(
                project=project,
                root=root.value,
                public=public,
                role_keys={role: repository.key_of(key.public_key()).keyid for role, key in keys.items()},
                sealed=_seal(sealer, project, keys),
                root_version=0,
                timestamp_version=0,
                version=1,
            )
        )
        if root is RootKind.ONLINE:
            _sign_root(tx, project, keys, 1)
        publish(tx, sealer, project)
    else:
        if row.root != root.value:
            raise WrongState(doing, expected=f"a root that is {row.root}, as it was made", found=root.value)
        if row.public == public:
            return load_repository(tx.connection, project)
        _change(tx, project, public=public)
    store.record(tx, caller.name, "references.published", f"project/{project}", project, root=root.value, public=public)
    return load_repository(tx.connection, project)


def put_root(tx: Transaction, caller: Caller, sealer: Sealer, *, project: str, content: bytes) -> Repository:
    """Take root metadata that was signed outside; the same once more changes nothing.

    Raises NotFound, NotAllowed, WrongState, MalformedReference, ReferenceRejected, TooLarge.
    """
    doing = f"taking root metadata of {project}"
    store.must_rule(caller, project, doing)
    row = _row(tx.connection, project)
    if row.root != RootKind.OFFLINE.value:
        raise WrongState(doing, expected="a repository with an offline root", found="one with an online root")
    before = None
    if row.root_version:
        before = read_metadata(tx.connection, project, f"{row.root_version}.root.json")
        if before == content:
            return load_repository(tx.connection, project)
    keys = _open(sealer, row)
    online = {role: key.public_key() for role, key in keys.items()}
    facts = repository.check_root(content, before, online, tx.now)
    _put_metadata(tx, project, Root.type, facts.version, content)
    _change(tx, project, root_version=facts.version, root_expires=facts.expires)
    store.record(tx, caller.name, "references.root", f"project/{project}", project, version=facts.version)
    publish(tx, sealer, project)
    return load_repository(tx.connection, project)


def public_keys(connection: Connection, caller: Caller, sealer: Sealer, project: str) -> dict[str, bytes]:
    """Return role -> Ed25519 public key, 32 bytes, of what is signed here: what an offline root must name.

    Raises NotFound, ServiceUnready.
    """
    store.must_see(caller, project)
    keys = _open(sealer, _row(connection, project))
    return {role: key.public_key().public_bytes_raw() for role, key in keys.items()}


# -- making ------------------------------------------------------------------------------------------------------------


def settle(tx: Transaction, sealer: Sealer, actor: str, project: str) -> None:
    """Let a change of references or signers reach what judges, and what is published; in one transaction with it."""
    for policy in store.renew(tx, project):
        store.record(tx, actor, "policy.grounds", f"policy/{policy}", project)
    _publish_if_possible(tx, sealer, project)


def publish(tx: Transaction, sealer: Sealer, project: str) -> None:
    """Make metadata of what is there now, where it differs from what is published or gets old."""
    table = tables.repositories
    row = tx.connection.execute(select(table).where(table.c.project == project)).one_or_none()
    if row is None or not row.root_version:
        return
    keys = _open(sealer, row)
    root = read_metadata(tx.connection, project, f"{row.root_version}.root.json")
    if Root.type in keys and repository.stale(root, Root.type, tx.now):
        _sign_root(tx, project, keys, row.root_version + 1)
    targets = _targets(tx, project)
    files = {f"{target.sha256.hex()}.{name}": target for name, target in targets.items()}
    served = tables.repository_targets
    rows = tx.connection.execute(select(served.c.file).where(served.c.project == project)).scalars()
    changed = set(rows) != set(files)
    number, old = _newest(tx.connection, project, Targets.type)
    snapshot_number, snapshot = _newest(tx.connection, project, Snapshot.type)
    if changed or old is None or repository.stale(old, Targets.type, tx.now):
        number += 1
        old = repository.make_targets(number, targets, tx.now + LASTS[Targets.type], keys[Targets.type])
        _put_metadata(tx, project, Targets.type, number, old)
        tx.connection.execute(delete(served).where(served.c.project == project))
        values = [
            {"project": project, "file": file, "sha256": target.sha256, "size_bytes": target.size_bytes}
            for file, target in files.items()
        ]
        tx.connection.execute(insert(served), values)
        snapshot = None
    if snapshot is None or repository.stale(snapshot, Snapshot.type, tx.now):
        snapshot_number += 1
        ends = tx.now + LASTS[Snapshot.type]
        snapshot = repository.make_snapshot(snapshot_number, number, old, ends, keys[Snapshot.type])
        _put_metadata(tx, project, Snapshot.type, snapshot_number, snapshot)
    ends = tx.now + LASTS[Timestamp.type]
    stamp = row.timestamp_version + 1
    made = repository.make_timestamp(stamp, snapshot_number, snapshot, ends, keys[Timestamp.type])
    _put_metadata(tx, project, Timestamp.type, stamp, made)
    _change(
        tx,
        project,
        timestamp_version=stamp,
        timestamp_expires=ends,
        refresh=tx.now + LASTS[Timestamp.type] * repository.FRESH,
    )


def refresh_due(tx: Transaction, sealer: Sealer) -> int:
    """Sign anew what gets old, of all projects; return of how many. Any process may do it, at any time."""
    columns = tables.repositories.c
    due = tx.connection.execute(select(columns.project).where(columns.refresh <= tx.now)).scalars().all()
    for project in due:
        _publish_if_possible(tx, sealer, project)
    return len(due)


def _publish_if_possible(tx: Transaction, sealer: Sealer, project: str) -> None:
    """Publish; without its keys, leave what is published to end by itself, which mirrors notice.

    A revocation must not fail because nobody can be told of it.
    """
    try:
        publish(tx, sealer, project)
    except ServiceUnready as lost:
        _log.error("references.unpublished", project=project, error=str(lost))
        _change(tx, project, refresh=tx.now + RETRY)


def seal_anew(tx: Transaction, sealer: Sealer) -> None:
    """Let the keys be sealed by the first sealing key."""
    table = tables.repositories
    for row in tx.connection.execute(select(table)).all():
        if sealer.is_current(row.sealed):
            continue
        try:
            keys = _open(sealer, row)
        except ServiceUnready as lost:
            _log.error("references.keys-lost", project=row.project, error=str(lost))
            continue
        _change(tx, row.project, sealed=_seal(sealer, row.project, keys))


def _targets(tx: Transaction, project: str) -> dict[str, Target]:
    """Return what is to be published: what counts, is in force, and is vouched for by the signers of now."""
    sets = store.load_signers(tx.connection, project)
    references = store.load_references(tx.connection, project, None)
    targets = {
        f"{one.component}.{one.serial}.{one.id.hex()[:16]}.json": Target(one.size_bytes, one.envelope)
        for one in references
        if one.standing is Standing.ACCEPTED and one.expires > tx.now and rules.vouched(one, sets)
    }
    revoked: dict[str, Any] = {
        "schema": "steelyard.revocations/1",
        "project": project,
        "versions": [
            {"component": one.component, "version": one.release, "why": one.why}
            for one in store.load_revoked(tx.connection, project)
        ],
        "manifests": [
            {
                "component": one.component,
                "version": one.release,
                "serial": one.serial,
                "sha256": one.id.hex(),
                "why": one.why,
            }
            for one in references
            if one.standing is Standing.REVOKED
        ],
    }
    document = json.dumps(revoked, indent=1).encode() + b"\n"
    return {**targets, REVOCATIONS: Target(len(document), store.keep(tx, document))}


def _sign_root(tx: Transaction, project: str, keys: Keys, version: int) -> None:
    ends = tx.now + LASTS[Root.type]
    public = {role: key.public_key() for role, key in keys.items()}
    _put_metadata(tx, project, Root.type, version, repository.make_root(version, public, ends, keys[Root.type]))
    _change(tx, project, root_version=version, root_expires=ends)


# -- what is served ----------------------------------------------------------------------------------------------------


def check_public(connection: Connection, project: str) -> None:
    """Let pass a repository that is served to everybody. Raises NotFound."""
    columns = tables.repositories.c
    if not connection.execute(select(columns.public).where(columns.project == project)).scalar():
        raise not_found(f"the references of project {project}")


def read_metadata(connection: Connection, project: str, file: str) -> bytes:
    """Return metadata by the name that a client asks for: "3.root.json", "timestamp.json". Raises NotFound."""
    matched = _METADATA_FILE.fullmatch(file)
    table = tables.repository_metadata
    if matched is None or (matched[1] is None) != (matched[2] == Timestamp.type):
        raise not_found(f"metadata {file}")
    query = select(table.c.content).where(table.c.project == project, table.c.role == matched[2])
    if matched[1] is not None:
        query = query.where(table.c.number == int(matched[1]))
    content: bytes | None = connection.execute(query).scalar_one_or_none()
    if content is None:
        raise not_found(f"metadata {file}")
    return content


def read_target(connection: Connection, project: str, file: str) -> bytes:
    """Return a target by the name that a client asks for: its SHA-256, a dot, its path. Raises NotFound."""
    columns = tables.repository_targets.c
    query = select(columns.sha256).where(columns.project == project, columns.file == file)
    sha256 = connection.execute(query).scalar_one_or_none()
    if sha256 is None:
        raise not_found(f"target {file}")
    return store.read_content(connection, sha256)


def load_repository(connection: Connection, project: str) -> Repository:
    """Return what is published. Raises NotFound."""
    row = _row(connection, project)
    served = tables.repository_targets.c
    count = connection.execute(select(func.count()).where(served.project == project)).scalar_one()
    return Repository(
        project=project,
        root=RootKind(row.root),
        public=row.public,
        keys=row.role_keys,
        root_version=row.root_version,
        root_expires=row.root_expires,
        timestamp_version=row.timestamp_version,
        timestamp_expires=row.timestamp_expires,
        references=max(0, count - 1),
        version=row.version,
    )


# -- rows --------------------------------------------------------------------------------------------------------------


def _row(connection: Connection, project: str) -> store.AnyRow:
    table = tables.repositories
    row = connection.execute(select(table).where(table.c.project == project)).one_or_none()
    if row is None:
        raise not_found(f"the references of project {project}")
    return row


def _change(tx: Transaction, project: str, **values: Any) -> None:
    table = tables.repositories
    tx.connection.execute(update(table).where(table.c.project == project).values(version=table.c.version + 1, **values))


def _put_metadata(tx: Transaction, project: str, role: str, number: int, content: bytes) -> None:
    table = tables.repository_metadata
    tx.connection.execute(insert(table).values(project=project, role=role, number=number, content=content))
    if role != Root.type:  # of which a mirror needs every one since its own
        kept = 1 if role == Timestamp.type else _KEPT
        its = (table.c.project == project, table.c.role == role, table.c.number <= number - kept)
        tx.connection.execute(delete(table).where(*its))


def _newest(connection: Connection, project: str, role: str) -> tuple[int, bytes | None]:
    table = tables.repository_metadata
    query = select(table).where(table.c.project == project, table.c.role == role)
    row = connection.execute(query.order_by(table.c.number.desc()).limit(1)).one_or_none()
    return (0, None) if row is None else (row.number, row.content)


def _seal(sealer: Sealer, project: str, keys: Keys) -> bytes:
    document = {role: key.private_bytes_raw().hex() for role, key in keys.items()}
    return sealer.seal(f"reference-repository/{project}", Secret(json.dumps(document).encode()))


def _open(sealer: Sealer, row: store.AnyRow) -> Keys:
    opened = json.loads(sealer.open(f"reference-repository/{row.project}", row.sealed).reveal())
    return {role: Ed25519PrivateKey.from_private_bytes(bytes.fromhex(key)) for role, key in opened.items()}
