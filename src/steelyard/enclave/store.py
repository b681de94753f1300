"""Rows to objects and back, and the one way in which a place changes."""

import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Row, func, insert, select, update

from steelyard.enclave import keys
from steelyard.enclave.file import spec_of
from steelyard.enclave.life import LEAVING, Event, State, after
from steelyard.enclave.objects import Enclave, Facts, Place, Spec
from steelyard.enclave.plan import Making, Seen
from steelyard.enclave.tables import enclaves, places
from steelyard.service import journal
from steelyard.service.database import Transaction
from steelyard.service.sealing import Sealer

WORK: Final = "enclave-work"
"""The topic that wakes the keeper."""
KEEPER: Final = "enclave"
"""Who the journal says it was, where nobody asked."""
JOINED: Final = (State.ADMITTED, State.RUNNING)
"""The states in which a place is one of its neighbours' peers."""
WORDS_CHARACTERS: Final = 400


def topic_of(enclave: str) -> str:
    """Return the topic that wakes who waits for an enclave."""
    return f"enclave/{enclave}"


def fresh_id() -> str:
    """Return an id that rises with time, for rows, and that fits into every name."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(5)}"


# -- enclaves ----------------------------------------------------------------------------------------------------------


def enclave_of(row: Row[Any]) -> Enclave:
    """Return a row as an enclave."""
    return Enclave(
        id=row.id,
        project=row.project,
        name=row.name,
        spec=spec_of(row.file),
        made_by=row.made_by,
        since=row.since,
        failures=row.failures,
        ending=row.ending,
        gone=row.gone,
        version=row.version,
    )


def find_enclave(connection: Connection, project: str, name: str) -> Enclave | None:
    """Return the enclave that has this name now, or had it last; None: there never was one."""
    columns = enclaves.c
    query = select(enclaves).where(columns.project == project, columns.name == name).order_by(columns.id.desc())
    row = connection.execute(query.limit(1)).one_or_none()
    return None if row is None else enclave_of(row)


def load_enclave(connection: Connection, enclave: str) -> Enclave:
    """Return an enclave."""
    return enclave_of(connection.execute(select(enclaves).where(enclaves.c.id == enclave)).one())


def make_enclave(
    tx: Transaction, sealer: Sealer, actor: str, project: str, name: str, document: Mapping[str, Any]
) -> Enclave:
    """Make an enclave, as yet without places."""
    identity = fresh_id()
    tx.connection.execute(
        insert(enclaves).values(
            id=identity,
            project=project,
            name=name,
            file=dict(document),
            made_by=actor,
            since=tx.now,
            failures=0,
            ending=False,
            gone=False,
            sealed=keys.make_signing_key(sealer, identity),
            peers_serial=0,
            version=1,
        )
    )
    return load_enclave(tx.connection, identity)


def change_enclave(tx: Transaction, enclave: Enclave, **values: Any) -> Enclave:
    """Write what changed of an enclave; wake the keeper, and who waits."""
    tx.connection.execute(
        update(enclaves).where(enclaves.c.id == enclave.id).values(version=enclave.version + 1, **values)
    )
    tx.wake(WORK)
    tx.wake(topic_of(enclave.id))
    return load_enclave(tx.connection, enclave.id)


def note_enclave(
    tx: Transaction, enclave: Enclave, verb: str, actor: str, detail: Mapping[str, str | int | bool | None]
) -> None:
    """Write into the journal what was done with an enclave."""
    subject = f"enclave/{enclave.name}"
    journal.record(
        tx, actor=actor, verb=f"enclave.{verb}", subject=subject, project=enclave.project, detail=dict(detail)
    )


def count_failure(tx: Transaction, enclave: str) -> None:
    """Count a place that failed."""
    tx.connection.execute(update(enclaves).where(enclaves.c.id == enclave).values(failures=enclaves.c.failures + 1))


# -- places ------------------------------------------------------------------------------------------------------------


PLACE: Final = select(*(column for column in places.c if column.name not in ("delivery", "delivery_path")))
"""All of a place but its delivery, which may be large, and which nobody but its machine asks for."""


def place_of(row: Row[Any]) -> Place:
    """Return a row as a place."""
    return Place(
        id=row.id,
        enclave=row.enclave,
        project=row.project,
        number=row.number,
        spec=spec_of(row.file),
        makeup=row.makeup,
        node=row.node,
        avoid=tuple(row.avoid),
        state=State(row.state),
        since=row.since,
        why=row.why,
        step=row.step,
        words=row.words,
        deadline=row.deadline,
        due=row.due,
        facts=Facts.of(row.facts),
        sealed=row.sealed,
        receipt=row.receipt,
        failed=row.failed,
        version=row.version,
    )


def find_place(connection: Connection, place: str) -> Place | None:
    """Return a place; None: there is none."""
    row = connection.execute(PLACE.where(places.c.id == place)).one_or_none()
    return None if row is None else place_of(row)


def load_places(connection: Connection, ids: Sequence[str]) -> list[Place]:
    """Return these places."""
    return [place_of(row) for row in connection.execute(PLACE.where(places.c.id.in_(ids)))]


def seen_places(connection: Connection, enclave: str) -> list[Seen]:
    """Return an enclave's places that are not over, as far as plans need them, by number."""
    columns = places.c
    query = (
        select(columns.id, columns.number, columns.state, columns.makeup, columns.node, columns.avoid)
        .where(columns.enclave == enclave, columns.state != State.RELEASED.value)
        .order_by(columns.number, columns.id)
    )
    return [
        Seen(row.id, row.number, State(row.state), row.makeup, row.node, tuple(row.avoid))
        for row in connection.execute(query)
    ]


def to_be_looked_at(connection: Connection) -> Mapping[str, int]:
    """Return the places with which there is something to be done, and the version of each."""
    query = select(places.c.id, places.c.version).where(places.c.due.is_not(None))
    return {row.id: row.version for row in connection.execute(query)}


def make_places(tx: Transaction, enclave: Enclave, document: Mapping[str, Any], making: Iterable[Making]) -> None:
    """Make places that want machines."""
    spec = enclave.spec
    rows = [
        {
            "id": fresh_id(),
            "enclave": enclave.id,
            "project": enclave.project,
            "number": each.number,
            "makeup": spec.makeup(),
            "file": dict(document),
            "node": None,
            "avoid": list(each.avoid),
            "state": State.WANTED.value,
            "since": tx.now,
            "why": "it is wanted",
            "step": 0,
            "words": "",
            "deadline": _deadline(spec, State.WANTED, tx),
            "due": tx.now,
            "facts": {},
            "failed": False,
            "version": 1,
        }
        for each in making
    ]
    if rows:
        tx.connection.execute(insert(places), rows)
        tx.wake(WORK)
        tx.wake(topic_of(enclave.id))


def change_place(tx: Transaction, place: Place, values: Mapping[str, Any]) -> None:
    """Write what changed of a place in its state, if it is still as it was seen."""
    tx.connection.execute(
        update(places)
        .where(places.c.id == place.id, places.c.version == place.version)
        .values(version=place.version + 1, **values)
    )
    tx.wake(topic_of(place.enclave))


def move(
    tx: Transaction,
    place: Place,
    event: Event,
    *,
    actor: str,
    why: str,
    failed: bool,
    values: Mapping[str, Any],
) -> State:
    """Move a place on. Raises WrongState.

    What it may fetch is gone with what it may not be any more; a peer that comes or goes is a new list of peers.
    """
    following = after(place.state, event, place.id)
    written = {
        "state": following.value,
        "since": tx.now,
        "why": why[:WORDS_CHARACTERS],
        "step": 0,
        "words": "",
        "deadline": _deadline(place.spec, following, tx),
        "due": None if following is State.RELEASED else tx.now,
        "facts": {**place.facts.document(), "asked": None},
        "failed": place.failed or failed,
        **values,
    }
    written["facts"] = {
        name: value for name, value in written["facts"].items() if value is not None and name != "asked"
    }
    if following not in (State.ADMITTED, State.RUNNING):
        written["delivery"] = None
    tx.connection.execute(update(places).where(places.c.id == place.id).values(version=place.version + 1, **written))
    if (place.state in JOINED) != (following in JOINED) or State.ADMITTED in (place.state, following):
        columns = enclaves.c
        tx.connection.execute(
            update(enclaves).where(columns.id == place.enclave).values(peers_serial=columns.peers_serial + 1)
        )
    if failed and not place.failed:
        count_failure(tx, place.enclave)
    journal.record(
        tx,
        actor=actor,
        verb=f"enclave.place-{following.value}",
        subject=f"enclave-place/{place.id}",
        project=place.project,
        detail={
            "enclave": place.enclave,
            "number": place.number,
            "node": written.get("node", place.node),
            "from": place.state.value,
            "why": written["why"],
        },
    )
    tx.wake(WORK)
    tx.wake(topic_of(place.enclave))
    return following


def release_places(tx: Transaction, ids: Iterable[tuple[str, str]], actor: str) -> None:
    """Begin to release places, each with why; those that are on their way out already stay on it."""
    reasons = dict(ids)
    for place in load_places(tx.connection, list(reasons)):
        if place.state not in LEAVING:
            move(tx, place, Event.RELEASE, actor=actor, why=reasons[place.id], failed=False, values={})


def _deadline(spec: Spec, state: State, tx: Transaction) -> Any:
    limit = spec.limits.of(state)
    return None if limit is None else tx.now + limit


def count_states(connection: Connection, enclave: str) -> Mapping[State, int]:
    """Return how many places an enclave has in each state."""
    columns = places.c
    query = select(columns.state, func.count()).where(columns.enclave == enclave).group_by(columns.state)
    return {State(state): count for state, count in connection.execute(query)}


# -- peers -------------------------------------------------------------------------------------------------------------


def peers_key(connection: Connection, sealer: Sealer, enclave: str) -> str:
    """Return by which key, PEM, an enclave's peers are signed."""
    sealed = connection.execute(select(enclaves.c.sealed).where(enclaves.c.id == enclave)).scalar_one()
    return keys.public_pem(keys.open_signing_key(sealer, enclave, sealed))


def signed_peers(connection: Connection, sealer: Sealer, enclave: str) -> bytes:
    """Return who an enclave's peers are now, signed: those that passed."""
    row = connection.execute(select(enclaves).where(enclaves.c.id == enclave)).one()
    spec = spec_of(row.file)
    columns = places.c
    query = (
        select(columns.number, columns.node, columns.facts)
        .where(columns.enclave == enclave, columns.state.in_([state.value for state in JOINED]))
        .order_by(columns.number)
    )
    listed = []
    for place in connection.execute(query):
        wireguard = place.facts.get("wireguard")
        if wireguard is not None and spec.wireguard is not None and spec.addresses is not None:
            endpoint = f"{spec.addresses[place.number]}:{spec.wireguard.port}"
            address = str(spec.wireguard.address(place.number))
            listed.append({"node": place.node, "key": wireguard, "endpoint": endpoint, "address": address})
    key = keys.open_signing_key(sealer, enclave, row.sealed)
    document = {
        "schema": "steelyard.peers/1",
        "enclave": row.name,
        "project": row.project,
        "serial": row.peers_serial,
        "peers": listed,
    }
    return keys.sign_peers(key, document)


def find_delivery(connection: Connection, path: str) -> bytes | None:
    """Return what is to be fetched there; None: nothing is there, or not yet, or not any more."""
    query = select(places.c.delivery).where(places.c.delivery_path == path)
    found = connection.execute(query).scalar_one_or_none()
    return None if found is None else bytes(found)


def find_enclave_of_delivery(connection: Connection, path: str) -> str | None:
    """Return the enclave of the place that fetches its peers there, while it is one of them."""
    query = select(places.c.enclave).where(
        places.c.delivery_path == path, places.c.state.in_([state.value for state in JOINED])
    )
    return connection.execute(query).scalar_one_or_none()
