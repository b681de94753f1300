"""Who may sign a project's references: named keys and how many of them it takes, by component or for the rest."""

from collections.abc import Mapping

from sqlalchemy import Connection, delete, insert, select, update

from steelyard.attestation.references import publication, rules, store, tables
from steelyard.attestation.references.objects import SignerSet
from steelyard.service.authority import Caller, not_found
from steelyard.service.database import Transaction
from steelyard.service.sealing import Sealer


def list_signers(connection: Connection, caller: Caller, *, project: str) -> tuple[SignerSet, ...]:
    """Return a project's signers, by component; they are few. Raises NotFound."""
    store.must_see(caller, project)
    return tuple(store.load_signers(connection, project).values())


def get_signers(connection: Connection, caller: Caller, *, project: str, component: str) -> SignerSet:
    """Return the signers that were named for a component, or for the rest (`_default`). Raises NotFound."""
    store.must_see(caller, project)
    return _load(connection, project, component)


def put_signers(
    tx: Transaction,
    caller: Caller,
    sealer: Sealer,
    *,
    project: str,
    component: str,
    keys: Mapping[str, bytes],
    threshold: int,
    expected_version: int | None,
) -> SignerSet:
    """Say who signs (the project's admins and the provider). What others signed stops counting at once.

    Raises NotFound, NotAllowed, WrongUse, TooLarge, Changed.
    """
    store.must_rule(caller, project, f"naming the signers of {component}")
    rules.check_signers(component, keys, threshold)
    before = store.load_signers(tx.connection, project).get(component)
    version = 0 if before is None else before.version
    rules.check_version(f"the signers of {component}", version, expected_version)
    if before is not None and (before.keys, before.threshold) == (dict(keys), threshold):
        return before
    values = {
        "public_keys": {name: key.hex() for name, key in keys.items()},
        "threshold": threshold,
        "version": version + 1,
    }
    columns = tables.signers.c
    if before is None:
        tx.connection.execute(insert(tables.signers).values(project=project, component=component, **values))
    else:
        its = (columns.project == project, columns.component == component)
        tx.connection.execute(update(tables.signers).where(*its).values(values))
    store.record(
        tx,
        caller.name,
        "signers.set",
        f"component/{component}",
        project,
        keys=[f"{name} {key.hex()}" for name, key in sorted(keys.items())],
        threshold=threshold,
    )
    publication.settle(tx, sealer, caller.name, project)
    return _load(tx.connection, project, component)


def delete_signers(
    tx: Transaction, caller: Caller, sealer: Sealer, *, project: str, component: str, expected_version: int | None
) -> None:
    """Have a component signed by the default signers; without those, nothing of it counts.

    Raises NotFound, NotAllowed, Changed.
    """
    store.must_rule(caller, project, f"forgetting the signers of {component}")
    before = _load(tx.connection, project, component)
    rules.check_version(f"the signers of {component}", before.version, expected_version)
    columns = tables.signers.c
    tx.connection.execute(delete(tables.signers).where(columns.project == project, columns.component == component))
    store.record(tx, caller.name, "signers.deleted", f"component/{component}", project)
    publication.settle(tx, sealer, caller.name, project)


def _load(connection: Connection, project: str, component: str) -> SignerSet:
    columns = tables.signers.c
    query = select(tables.signers).where(columns.project == project, columns.component == component)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise not_found(f"signers of {component}")
    return store.signers_of(row)
