"""The verbs: apply a file, delete, cancel, try again, look, and say what would change."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select, select, update

from steelyard.enclave import keys, store
from steelyard.enclave.file import parse_file, spec_of
from steelyard.enclave.life import LEAVING, ON_THE_WAY, State
from steelyard.enclave.objects import Enclave, Place
from steelyard.enclave.plan import Difference, difference, moves
from steelyard.enclave.tables import enclaves, places
from steelyard.model.errors import Changed, WrongState, WrongUse
from steelyard.model.names import check_name
from steelyard.service.authority import Caller, Right, not_found
from steelyard.service.database import Transaction
from steelyard.service.sealing import Sealer


def apply(
    tx: Transaction,
    sealer: Sealer,
    caller: Caller,
    *,
    project: str,
    name: str,
    text: str,
    services: frozenset[str],
    expected_version: int | None,
) -> Enclave:
    """Have an enclave be as a file says; applied again, nothing changes but that what failed is tried again.

    services  the attestation services that a file may name.

    Raises NotAllowed, MalformedEnclave, WrongUse, WrongState (it is being deleted), Changed.
    """
    doing = f"applying enclave {project}/{name}"
    _must_act(caller, project, name, doing)
    spec, document = _read(name, text)
    if spec.weighing is not None and spec.weighing.service not in services:
        known = ", ".join(sorted(services)) or "none is set up"
        raise WrongUse(doing, expected=f"an attestation service: {known}", found=spec.weighing.service)
    found = store.find_enclave(tx.connection, project, name)
    if found is None or found.gone:
        _check_version(name, 0, expected_version)
        enclave = store.make_enclave(tx, sealer, caller.name, project, name, document)
    else:
        _check_version(name, found.version, expected_version)
        if found.ending:
            raise WrongState(doing, expected="an enclave that is not being deleted", found="one that is")
        enclave = store.change_enclave(tx, found, file=document, failures=0)
    detail = {"trust": spec.trust.value, "count": spec.count, "image": spec.image}
    store.note_enclave(tx, enclave, "applied", caller.name, detail)
    tx.wake(store.WORK)
    return enclave


def _must_act(caller: Caller, project: str, name: str, doing: str) -> None:
    check_name(project, "project")
    check_name(name, "enclave")
    caller.must_see(project, f"project {project}")
    caller.must_act_for(project, Right.ENCLAVES, doing)


def _read(name: str, text: str) -> tuple[Any, dict[str, Any]]:
    spec, document = parse_file(text)
    if spec.name != name:
        raise WrongUse("applying an enclave file", expected=f"the file of enclave {name}", found=spec.name)
    return spec, document


def _check_version(name: str, version: int, expected: int | None) -> None:
    if expected is not None and expected != version:
        raise Changed(f"changing enclave {name}", expected=f"version {expected}", found=f"version {version}")


def plan(connection: Connection, caller: Caller, *, project: str, name: str, text: str) -> Difference:
    """Return what applying a file would change. Raises NotFound, MalformedEnclave, WrongUse."""
    caller.must_see(project, f"project {project}")
    spec, _document = _read(name, text)
    found = store.find_enclave(connection, project, name)
    seen = [] if found is None or found.gone else store.seen_places(connection, found.id)
    return difference(spec, seen)


def delete(tx: Transaction, caller: Caller, *, project: str, name: str, expected_version: int | None) -> Enclave:
    """Have every machine of an enclave given back; asked again, nothing. Raises NotFound, NotAllowed, Changed."""
    enclave = _changing(tx, caller, project, name, f"deleting enclave {project}/{name}")
    if enclave.ending:
        return enclave
    _check_version(name, enclave.version, expected_version)
    store.note_enclave(tx, enclave, "deleted", caller.name, {})
    return store.change_enclave(tx, enclave, ending=True)


def cancel(tx: Transaction, caller: Caller, *, project: str, name: str, place: str | None) -> Enclave:
    """Give up what is on its way: all of it, or one place; that many fewer are wanted from now on.

    Raises NotFound, NotAllowed, WrongState.
    """
    doing = f"cancelling enclave {project}/{name}"
    enclave = _changing(tx, caller, project, name, doing)
    seen = store.seen_places(tx.connection, enclave.id)
    chosen = [each for each in seen if each.state in ON_THE_WAY and place in (None, each.id)]
    if place is not None and not chosen:
        raise WrongState(doing, expected="a place that is on its way", found=place)
    stays = [each for each in seen if each.state not in LEAVING and each not in chosen]
    count = len(stays) if place is None else max(0, enclave.spec.count - len(chosen))
    _resize(tx, enclave, count)
    store.release_places(tx, [(each.id, f"{caller.name} cancelled it") for each in chosen], caller.name)
    store.note_enclave(tx, enclave, "cancelled", caller.name, {"places": len(chosen), "count": count})
    return store.load_enclave(tx.connection, enclave.id)


def _resize(tx: Transaction, enclave: Enclave, count: int) -> None:
    document = tx.connection.execute(select(enclaves.c.file).where(enclaves.c.id == enclave.id)).scalar_one()
    changed = {**document, "nodes": {**document["nodes"], "count": min(count, enclave.spec.count)}}
    spec_of(changed)
    store.change_enclave(tx, enclave, file=changed)


def retry(tx: Transaction, caller: Caller, *, project: str, name: str, place: str | None) -> Enclave:
    """Try again what failed: held machines are given back, all or one, and others are taken in their places.

    Raises NotFound, NotAllowed, WrongState.
    """
    doing = f"trying enclave {project}/{name} again"
    enclave = _changing(tx, caller, project, name, doing)
    if enclave.ending:
        raise WrongState(doing, expected="an enclave that is not being deleted", found="one that is")
    seen = store.seen_places(tx.connection, enclave.id)
    held = [each for each in seen if each.state is State.HELD and place in (None, each.id)]
    if place is not None and not held:
        raise WrongState(doing, expected="a place that is held", found=place)
    store.release_places(tx, [(each.id, f"{caller.name} has another tried") for each in held], caller.name)
    store.note_enclave(tx, enclave, "retried", caller.name, {"places": len(held)})
    return store.change_enclave(tx, enclave, failures=0)


def _changing(tx: Transaction, caller: Caller, project: str, name: str, doing: str) -> Enclave:
    _must_act(caller, project, name, doing)
    enclave = store.find_enclave(tx.connection, project, name)
    if enclave is None:
        raise not_found(f"enclave {project}/{name}")
    return enclave


# -- looking -----------------------------------------------------------------------------------------------------------


def get_enclave(connection: Connection, caller: Caller, project: str, name: str) -> Enclave:
    """Return an enclave, also one that is gone. Raises NotFound."""
    found = store.find_enclave(connection, project, name)
    if found is None or not caller.sees(project):
        raise not_found(f"enclave {project}/{name}")
    return found


def list_enclaves(
    connection: Connection, caller: Caller, *, project: str | None, after: str, limit: int
) -> Sequence[Enclave]:
    """Return the enclaves that the caller may know of and that are not gone, the oldest first."""
    columns = enclaves.c
    query: Select[Any] = select(enclaves).where(columns.id > after, columns.gone.is_(False)).order_by(columns.id)
    if project is not None:
        query = query.where(columns.project == project)
    if not caller.sees_all():
        query = query.where(columns.project.in_([each for each in caller.roles if caller.sees(each)]))
    return [store.enclave_of(row) for row in connection.execute(query.limit(limit))]


def list_places(connection: Connection, enclave: Enclave, *, over: bool, after: str, limit: int) -> Sequence[Place]:
    """Return an enclave's places by age, the oldest first; over: those that are over, with their receipts."""
    columns = places.c
    query = store.PLACE.where(columns.enclave == enclave.id, columns.id > after).order_by(columns.id).limit(limit)
    is_over = columns.state == State.RELEASED.value
    return [store.place_of(row) for row in connection.execute(query.where(is_over if over else ~is_over))]


def settled(connection: Connection, enclave: Enclave) -> tuple[bool, Mapping[State, int], int]:
    """Return whether nothing is under way, how many places are in each state, and how many are short."""
    counts = store.count_states(connection, enclave.id)
    seen = store.seen_places(connection, enclave.id)
    wanted = moves(enclave.spec, seen, enclave.failures, ending=enclave.ending)
    resting = all(each.state in (State.RUNNING, State.HELD) for each in seen)
    done = resting and not wanted.make and not wanted.release and (enclave.gone or not enclave.ending)
    return done, counts, 0 if enclave.ending else wanted.short


def seal_anew(tx: Transaction, sealer: Sealer) -> None:
    """Let all that is sealed be sealed by the newest key. Raises ServiceUnready for what does not open."""
    for row in tx.connection.execute(select(places.c.id, places.c.sealed).where(places.c.sealed.is_not(None))).all():
        if not sealer.is_current(row.sealed):
            sealed = keys.seal_anew(sealer, row.id, row.sealed)
            tx.connection.execute(update(places).where(places.c.id == row.id).values(sealed=sealed))
    for row in tx.connection.execute(select(enclaves.c.id, enclaves.c.sealed)).all():
        if not sealer.is_current(row.sealed):
            context = f"enclave/{row.id}"
            sealed = sealer.seal(context, sealer.open(context, row.sealed))
            tx.connection.execute(update(enclaves).where(enclaves.c.id == row.id).values(sealed=sealed))
