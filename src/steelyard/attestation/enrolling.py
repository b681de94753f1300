"""Verbs of a node's owner: enrol, change the terms, let it try again, have it known by another TPM; what was judged."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, case, delete, func, insert, select, update

from steelyard.attestation import rules, store
from steelyard.attestation.life import Event, State
from steelyard.attestation.objects import DemandedMakers, Node, Terms
from steelyard.attestation.tables import appraisals, boots, identities, nodes, registrations, shares
from steelyard.model.names import check_name
from steelyard.service.authority import Caller, not_found
from steelyard.service.database import Transaction


def get_node(connection: Connection, caller: Caller, name: str) -> Node:
    """Return a node. Raises NotFound, also for what the caller may not know of."""
    node = store.find_node(connection, name)
    caller.must_see(None if node is None else node.project, f"node {name}")
    if node is None:
        raise not_found(f"node {name}")
    return node


def list_nodes(
    connection: Connection,
    caller: Caller,
    *,
    project: str | None,
    state: State | None,
    now: datetime,
    after: str,
    limit: int,
) -> tuple[Node, ...]:
    """Return the nodes that the caller may know of, by name; `state` is what they are shown as."""
    query: Select[Any] = (
        select(*nodes.c, *store.IDENTITY)
        .join(identities, identities.c.node == nodes.c.name)
        .where(nodes.c.name > after)
        .order_by(nodes.c.name)
        .limit(limit)
    )
    if project is not None:
        query = query.where(nodes.c.project == project)
    if state is not None:
        lapsed = (nodes.c.state == State.PASSED.value) & (nodes.c.expires <= now)
        match state:
            case State.PASSED:
                query = query.where(nodes.c.state == state.value, nodes.c.expires > now)
            case State.OVERDUE:
                query = query.where((nodes.c.state == state.value) | lapsed)
            case _:
                query = query.where(nodes.c.state == state.value)
    if not caller.sees_all():
        query = query.where(nodes.c.project.in_([each for each in caller.roles if caller.sees(each)]))
    return tuple(map(store.node_of, connection.execute(query)))


def count_nodes(connection: Connection, now: datetime) -> Mapping[State, int]:
    """Return how many nodes are shown to be in each state, at this moment, whoever's they are."""
    in_time = func.count(case((nodes.c.expires > now, 1)))
    counts = dict.fromkeys(State, 0)
    for state, count, valid in connection.execute(select(nodes.c.state, func.count(), in_time).group_by(nodes.c.state)):
        lapsed = count - valid if state == State.PASSED.value else 0
        counts[State(state)] += count - lapsed
        counts[State.OVERDUE] += lapsed
    return counts


def enrol(
    tx: Transaction, caller: Caller, *, name: str, project: str, terms: Terms, expected_version: int | None
) -> Node:
    """Enrol a node, or change its terms. On other terms of who it is, or of its boot, it is known anew.

    Raises NotFound (a name that another project has looks as if there were none), NotAllowed, WrongUse, Changed.
    """
    doing = f"enrolling node {name}"
    check_name(name, "node")
    check_name(project, "project")
    rules.check_change(caller, project, f"project {project}", doing)
    rules.check_terms(terms)
    if isinstance(terms.makers, DemandedMakers) and not store.find_makers(tx.connection, project, terms.makers.name):
        raise not_found(f"set of makers {terms.makers.name}")
    before = store.find_node(tx.connection, name)
    if before is None:
        return _enrol_new(tx, caller, name, project, terms)
    if before.project != project:
        raise not_found(f"node {name}")
    rules.check_version(f"node {name}", before.version, expected_version)
    if before.terms == terms:
        return before
    tx.connection.execute(
        update(nodes).where(nodes.c.name == name).values(**store.terms_values(terms), version=before.version + 1)
    )
    tx.connection.execute(update(identities).where(identities.c.node == name).values(**store.identity_values(terms)))
    changed = store.load_node(tx.connection, name)
    store.note(tx, changed, "enrolled", actor=caller.name, detail=_told(terms))
    if rules.ends_the_boot(before.terms, terms):
        _know_anew(tx, changed, Event.REPLACE, caller, "it was enrolled on other terms")
    return store.load_node(tx.connection, name)


def _enrol_new(tx: Transaction, caller: Caller, name: str, project: str, terms: Terms) -> Node:
    tx.connection.execute(
        insert(nodes).values(
            name=name,
            project=project,
            **store.terms_values(terms),
            expected_reboots=0,
            state=State.UNKNOWN.value,
            since=tx.now,
            why="enrolled",
            version=1,
        )
    )
    tx.connection.execute(insert(identities).values(node=name, **store.identity_values(terms)))
    node = store.load_node(tx.connection, name)
    store.note(tx, node, "enrolled", actor=caller.name, detail=_told(terms))
    return node


def _told(terms: Terms) -> dict[str, str | int | bool | list[str] | None]:
    return {
        **{name: value for name, value in store.terms_values(terms).items() if name != "parameters"},
        "parameters": parameters.hex() if (parameters := store.terms_values(terms)["parameters"]) else None,
        "makers": terms.makers.name if isinstance(terms.makers, DemandedMakers) else None,
        "endorsement_certificates": sorted(terms.endorsements.certificates),
        "endorsement_keys": [key.hex() for key in terms.endorsements.keys],
    }


def delete_node(tx: Transaction, caller: Caller, *, name: str, expected_version: int | None) -> None:
    """Forget a node: nobody can register as it any more. What was judged of it is kept as long as anything is.

    Raises NotFound, NotAllowed, Changed.
    """
    node = get_node(tx.connection, caller, name)
    rules.check_change(caller, node.project, f"node {name}", f"deleting node {name}")
    rules.check_version(f"node {name}", node.version, expected_version)
    for table in (registrations, shares, identities):
        tx.connection.execute(delete(table).where(table.c.node == name))
    tx.connection.execute(delete(nodes).where(nodes.c.name == name))
    store.note(tx, node, "deleted", actor=caller.name, detail={"state": node.state.value})


def retry(tx: Transaction, caller: Caller, *, name: str, why: str) -> Node:
    """Let a failed node register again, and go through the airlock (attack 37).

    Raises NotFound, NotAllowed, WrongUse, WrongState.
    """
    return _act(tx, caller, name, Event.RETRY, why, f"letting node {name} try again")


def replace_tpm(tx: Transaction, caller: Caller, *, name: str, why: str) -> Node:
    """Let a node be known by another TPM than before, of those that are published for it.

    Raises NotFound, NotAllowed, WrongUse.
    """
    return _act(tx, caller, name, Event.REPLACE, why, f"replacing the TPM of node {name}")


def _act(tx: Transaction, caller: Caller, name: str, event: Event, why: str, doing: str) -> Node:
    node = get_node(tx.connection, caller, name)
    rules.check_change(caller, node.project, f"node {name}", doing)
    rules.check_why(why)
    _know_anew(tx, node, event, caller, why)
    return store.load_node(tx.connection, name)


def _know_anew(tx: Transaction, node: Node, event: Event, caller: Caller, why: str) -> None:
    """End a node's boot and whatever else it has; on REPLACE, also that it is known by its endorsement key."""
    values = {"boot": None, "expires": None, "fails": None}
    if event is Event.REPLACE:
        values["endorsement_key"] = None
    store.move(tx, node, event, actor=caller.name, why=why, values=values, detail={})
    for table in (registrations, shares):
        tx.connection.execute(delete(table).where(table.c.node == node.name))


def expect_reboots(tx: Transaction, caller: Caller, *, name: str, count: int) -> Node:
    """Say how many times a node may be reset from now on without failing for it.

    Raises NotFound, NotAllowed, WrongUse.
    """
    node = get_node(tx.connection, caller, name)
    rules.check_change(caller, node.project, f"node {name}", f"expecting reboots of node {name}")
    rules.check_reboots(count)
    tx.connection.execute(
        update(nodes).where(nodes.c.name == name).values(expected_reboots=count, version=node.version + 1)
    )
    store.note(tx, node, "reboots-expected", actor=caller.name, detail={"count": count})
    return store.load_node(tx.connection, name)


# -- what was judged ---------------------------------------------------------------------------------------------------


def list_appraisals(
    connection: Connection, caller: Caller, *, node: str, after: str, limit: int
) -> tuple[store.KeptAppraisal, ...]:
    """Return what was judged of a node, the oldest first. Raises NotFound."""
    found = get_node(connection, caller, node)
    columns = appraisals.c
    query = select(appraisals).where(columns.node == node, columns.project == found.project, columns.id > after)
    return tuple(map(store.appraisal_of, connection.execute(query.order_by(columns.id).limit(limit))))


def get_appraisal(connection: Connection, caller: Caller, *, node: str, appraisal: str) -> store.KeptAppraisal:
    """Return an appraisal. Raises NotFound."""
    found = get_node(connection, caller, node)
    row = connection.execute(select(appraisals).where(appraisals.c.id == appraisal)).one_or_none()
    if row is None or (row.node, row.project) != (node, found.project):
        raise not_found(f"appraisal {appraisal}")
    return store.appraisal_of(row)


def get_verdict(connection: Connection, caller: Caller, *, node: str, now: datetime) -> str:
    """Return the signed verdict of a node that has passed, and of no other. Raises NotFound."""
    found = get_node(connection, caller, node)
    if found.boot is not None and rules.shown_state(found, now) is State.PASSED:
        verdict = connection.execute(select(boots.c.verdict).where(boots.c.id == found.boot)).scalar_one_or_none()
        if verdict is not None:
            return str(verdict)
    raise not_found(f"verdict on node {node}")
