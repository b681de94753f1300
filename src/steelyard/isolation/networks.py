"""Networks: who may use them, on which VLAN, who hears whom, and what admits a node."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from sqlalchemy import delete, func, insert, select

from steelyard.isolation import rules, store, tables
from steelyard.isolation.objects import Admission, Members, Network, OpenAdmission, Private, SharedWith, Sharing
from steelyard.model.errors import AlreadyThere, InUse
from steelyard.model.names import check_name
from steelyard.model.network import Vlan
from steelyard.service.authority import Caller, Right, not_found
from steelyard.service.database import Transaction


def put_network(
    tx: Transaction,
    caller: Caller,
    pool: Collection[Vlan],
    *,
    name: str,
    owner: str | None,
    sharing: Sharing,
    vlan: Vlan | None,
    members: Members,
    admission: Admission,
    expected_version: int | None,
) -> Network:
    """Make a network, or change it; return it.

    pool              VLANs to take from when none is named.
    owner             None: the provider's. It stays.
    vlan              the provider's choice; None: as it is, or the lowest of the pool that is not taken.
    expected_version  0: it must not be there yet; None: whatever it is.

    Raises NotAllowed, NotFound, WrongUse, MalformedKey, Changed, AlreadyThere, OverQuota, NotEnough, InUse.
    """
    doing = f"making network {check_name(name, 'network')}"
    before = _find(tx, name)
    if before is not None and not rules.may_know(caller, before):
        # That the name is taken cannot be hidden; nothing else is told.
        raise AlreadyThere(doing, expected="a name that is not taken", found=name)
    caller.must_act_for(owner if before is None else before.owner, Right.NETWORKS, doing)
    rules.check_version(f"network {name}", before.version if before else None, expected_version)
    rules.check_publication(caller, before, sharing, vlan)
    rules.check_admission(admission)
    if isinstance(sharing, SharedWith):
        for other in sorted(sharing.projects):
            store.load_project(tx.connection, other)
    if before is None:
        if owner is not None:
            project = store.load_project(tx.connection, owner)
            held = tx.connection.scalar(select(func.count()).where(tables.networks.c.owner == owner)) or 0
            rules.check_quota(project, "networks", project.network_quota, held, 1)
        number = _choose_vlan(tx, pool, vlan, doing)
        wanted = Network(name, owner, sharing, number, members, admission, 0)
    else:
        number = before.vlan if vlan in (None, before.vlan) else _choose_vlan(tx, pool, vlan, doing)
        wanted = Network(name, owner, sharing, number, members, admission, before.version)
        if wanted == before:
            return before
        rules.check_change(before, wanted, store.projects_on(tx.connection, name))
    return _write(tx, caller, wanted, "network.made" if before is None else "network.changed")


def delete_network(tx: Transaction, caller: Caller, *, name: str, expected_version: int | None) -> None:
    """Forget a network that no port carries. Raises NotAllowed, NotFound, Changed, InUse."""
    doing = f"deleting network {name}"
    network = store.load_network(tx.connection, name)
    if not rules.may_know(caller, network):
        raise not_found(f"network {name}")
    caller.must_act_for(network.owner, Right.NETWORKS, doing)
    rules.check_version(f"network {name}", network.version, expected_version)
    if on_it := store.projects_on(tx.connection, name):
        # A row stays until its port was read to be without the VLAN, which another network may have after this.
        raise InUse(doing, expected="no attachment, wanted or not yet gone", found=f"{len(on_it)}")
    tx.connection.execute(delete(tables.network_shares).where(tables.network_shares.c.network == name))
    tx.connection.execute(delete(tables.networks).where(tables.networks.c.name == name))
    store.record(tx, caller.name, "network.deleted", f"network/{name}", network.owner, vlan=network.vlan.number)


def forget_project(tx: Transaction, caller: Caller, project: str) -> None:
    """Share nothing with a project any more; what was shared with it alone is private, never public."""
    for network in store.load_networks(tx.connection, store.shared_with((project,))):
        if isinstance(network.sharing, SharedWith):
            left = network.sharing.projects - {project}
            _write(tx, caller, replace(network, sharing=SharedWith(left) if left else Private()), "network.changed")


def _find(tx: Transaction, name: str) -> Network | None:
    found = store.load_networks(tx.connection, tables.networks.c.name == name)
    return found[0] if found else None


def _choose_vlan(tx: Transaction, pool: Collection[Vlan], vlan: Vlan | None, doing: str) -> Vlan:
    taken = {Vlan(row.vlan): row.name for row in tx.connection.execute(select(tables.networks))}
    if vlan is None:
        return rules.pick_vlan(pool, taken)
    if vlan in taken:
        raise AlreadyThere(doing, expected="a VLAN that is not taken", found=f"{vlan}, of network {taken[vlan]}")
    return vlan


def _write(tx: Transaction, caller: Caller, network: Network, verb: str) -> Network:
    shares = sorted(network.sharing.projects) if isinstance(network.sharing, SharedWith) else []
    values: dict[str, Any] = {
        "owner": network.owner,
        "sharing": "shared" if shares else type(network.sharing).__name__.lower(),
        "vlan": network.vlan.number,
        "members": network.members.value,
        "admission_key": None,
        "admission_age_seconds": None,
    }
    if not isinstance(network.admission, OpenAdmission):
        values["admission_key"] = network.admission.key
        values["admission_age_seconds"] = int(network.admission.most_age.total_seconds())
    version = store.put(tx, tables.networks, network.name, values)
    tx.connection.execute(delete(tables.network_shares).where(tables.network_shares.c.network == network.name))
    if shares:
        rows = [{"network": network.name, "project": project} for project in shares]
        tx.connection.execute(insert(tables.network_shares), rows)
    detail = {name: value for name, value in values.items() if name != "owner"}
    store.record(tx, caller.name, verb, f"network/{network.name}", network.owner, **detail, shares=shares)
    return replace(network, version=version)
