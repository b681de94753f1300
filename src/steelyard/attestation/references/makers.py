"""TPM makers that a project trusts, in named sets: certificates to end a chain in, lists of what was revoked.

A node names the set that its endorsement certificate must chain to. The provider's own sets are there for every project
to name; a set of the project's with the same name comes first.
"""

from collections.abc import Collection, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Select, delete, insert, select, update

from steelyard.attestation.objects import MakerSet
from steelyard.attestation.references import rules, store
from steelyard.attestation.tables import identities, maker_sets, nodes
from steelyard.evidence.reader import refuse_over
from steelyard.evidence.tpm.certificate import parse_certificate
from steelyard.evidence.tpm.endorsement import Demand
from steelyard.evidence.tpm.revocation import parse_revocation_list
from steelyard.model.errors import CertificateRejected, InUse, WrongUse
from steelyard.model.limits import MAKER_CERTIFICATES
from steelyard.model.names import check_name
from steelyard.service.authority import Caller, Right, not_found
from steelyard.service.database import Transaction

PROVIDER: Final = ""
"""What the provider's sets have for a project."""


def list_makers(
    connection: Connection, caller: Caller, *, project: str | None, after: str, limit: int
) -> tuple[MakerSet, ...]:
    """Return the sets of a project, or (None) the provider's, by name. Raises NotFound."""
    _must_see(caller, project)
    columns = maker_sets.c
    query = select(maker_sets).where(columns.project == (project or PROVIDER), columns.name > after)
    return tuple(map(_set_of, connection.execute(query.order_by(columns.name).limit(limit))))


def get_makers(connection: Connection, caller: Caller, *, project: str | None, name: str) -> MakerSet:
    """Return a set. Raises NotFound."""
    _must_see(caller, project)
    found = _find(connection, project or PROVIDER, name)
    if found is None:
        raise not_found(f"maker set {name}")
    return found


def put_makers(
    tx: Transaction,
    caller: Caller,
    *,
    project: str | None,
    name: str,
    certificates: Sequence[str],
    revocations: Sequence[bytes],
    demands: Collection[Demand],
    expected_version: int | None,
) -> MakerSet:
    """Say whom to believe about TPMs: the project's admins for a project, the provider for all.

    certificates  PEM, of certification authorities.
    revocations   lists, DER.

    Raises NotFound, NotAllowed, WrongUse, MalformedCertificate, CertificateRejected, TooLarge, Changed.
    """
    doing = f"trusting the TPM makers {name}"
    _must_rule(caller, project, doing)
    check_name(name, "maker set")
    if not certificates:
        raise WrongUse(doing, expected="at least one certificate", found="none")
    refuse_over(MAKER_CERTIFICATES, len(certificates), doing)
    parsed = [parse_certificate(one.encode()) for one in certificates]
    for one in parsed:
        try:
            one.check_may_issue(doing, tx.now)
        except CertificateRejected as error:
            raise WrongUse(doing, expected=error.expected, found=error.found) from error
    for listed in revocations:
        parse_revocation_list(listed)
    owner = project or PROVIDER
    before = _find(tx.connection, owner, name)
    version = 0 if before is None else before.version
    rules.check_version(f"maker set {name}", version, expected_version)
    made = MakerSet(
        owner,
        name,
        tuple(dict.fromkeys(map(str.strip, certificates))),
        tuple(revocations),
        frozenset(one.value for one in demands),
        version + 1,
    )
    if before is not None and (before.certificates, before.revocations, before.demands) == (
        made.certificates,
        made.revocations,
        made.demands,
    ):
        return before
    values = {
        "certificates": list(made.certificates),
        "revocations": [one.hex() for one in made.revocations],
        "demands": sorted(made.demands),
        "version": made.version,
    }
    if before is None:
        tx.connection.execute(insert(maker_sets).values(project=owner, name=name, **values))
    else:
        columns = maker_sets.c
        tx.connection.execute(update(maker_sets).where(columns.project == owner, columns.name == name).values(values))
    store.record(
        tx,
        caller.name,
        "makers.set",
        f"makers/{name}",
        project,
        certificates=sorted(one.subject() for one in parsed),
        demands=sorted(made.demands),
    )
    return made


def delete_makers(
    tx: Transaction, caller: Caller, *, project: str | None, name: str, expected_version: int | None
) -> None:
    """Forget a set that no node names. Raises NotFound, NotAllowed, InUse, Changed."""
    doing = f"forgetting the TPM makers {name}"
    _must_rule(caller, project, doing)
    found = get_makers(tx.connection, caller, project=project, name=name)
    rules.check_version(f"maker set {name}", found.version, expected_version)
    used = _users(tx.connection, project, name)
    if used:
        raise InUse(doing, expected="no node that names it", found=f"{used} nodes")
    columns = maker_sets.c
    owner = project or PROVIDER
    tx.connection.execute(delete(maker_sets).where(columns.project == owner, columns.name == name))
    store.record(tx, caller.name, "makers.deleted", f"makers/{name}", project)


def _users(connection: Connection, project: str | None, name: str) -> int:
    """Return how many nodes name a set: of its project, or of those that have none of that name themselves."""
    query: Select[Any] = (
        select(nodes.c.name)
        .join(identities, identities.c.node == nodes.c.name)
        .outerjoin(maker_sets, (maker_sets.c.project == nodes.c.project) & (maker_sets.c.name == name))
        .where(identities.c.makers == name)
    )
    # Of a project's own set, where the provider has one too, a node would go over to that: others would be trusted, and
    # nobody had said so.
    its = maker_sets.c.name.is_(None) if project is None else nodes.c.project == project
    return len(connection.execute(query.where(its)).all())


def _find(connection: Connection, owner: str, name: str) -> MakerSet | None:
    columns = maker_sets.c
    row = connection.execute(select(maker_sets).where(columns.project == owner, columns.name == name)).one_or_none()
    return None if row is None else _set_of(row)


def _set_of(row: store.AnyRow) -> MakerSet:
    return MakerSet(
        row.project,
        row.name,
        tuple(row.certificates),
        tuple(map(bytes.fromhex, row.revocations)),
        frozenset(row.demands),
        row.version,
    )


def _must_see(caller: Caller, project: str | None) -> None:
    if project is not None:
        store.must_see(caller, project)


def _must_rule(caller: Caller, project: str | None, doing: str) -> None:
    if project is not None:
        store.must_rule(caller, project, doing)
        return
    caller.must_act_for(None, Right.ATTEST, doing)
