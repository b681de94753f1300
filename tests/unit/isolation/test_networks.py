"""Making, sharing and deleting networks."""

from typing import Any

import pytest

from steelyard.isolation import networks, rack, store
from steelyard.isolation.objects import Members, Network, OpenAdmission, Private, Public, SharedWith, VerdictAdmission
from steelyard.model.errors import (
    AlreadyThere,
    Changed,
    InUse,
    MalformedKey,
    NotAllowed,
    NotEnough,
    NotFound,
    OverQuota,
    WrongUse,
)
from steelyard.model.network import Vlan
from steelyard.service.authority import Caller, Right, Role
from tests.unit.isolation.rig import AUDITOR, BLUE, POOL, PROVIDER, RED, STRANGER, Rack
from tests.unit.isolation.things import WEIGHED

WITH_BLUE = SharedWith(frozenset({"blue"}))


def delete(rack_: Rack, caller: Caller, name: str, expected_version: int | None = None) -> None:
    with rack_.tx() as tx:
        networks.delete_network(tx, caller, name=name, expected_version=expected_version)


def load(rack_: Rack, name: str) -> Network:
    with rack_.database.reading() as connection:
        return store.load_network(connection, name)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sharing": WITH_BLUE},
        {"sharing": Public()},
        {"members": Members.ISOLATED},
        {"admission": WEIGHED},
        {"vlan": Vlan(4094)},
    ],
)
def test_a_network_is_read_as_it_was_made(rack: Rack, changes: dict[str, Any]) -> None:
    made = rack.network("net", "red", **changes)
    assert load(rack, "net") == made
    assert made.version == 1
    assert rack.network("net", "red", **changes) == made  # once more changes nothing
    assert [verb for verb, subject, _ in rack.journal() if subject == "network/net"] == ["network.made"]


def test_networks_take_the_lowest_vlans_and_give_them_back(rack: Rack) -> None:
    assert [rack.network(name, "red", caller=RED).vlan for name in "abc"] == list(POOL[:3])
    delete(rack, RED, "b")
    assert rack.network("d", "blue", caller=BLUE).vlan == POOL[1]


def test_a_vlan_is_of_one_network(rack: Rack) -> None:
    rack.network("a", None, vlan=POOL[0])
    assert rack.network("b", "red").vlan == POOL[1]
    for name in ("c", "b"):
        with pytest.raises(AlreadyThere, match="of network a"):
            rack.network(name, "red", vlan=POOL[0])


def test_when_the_pool_is_empty_there_is_no_network(rack: Rack) -> None:
    rack.project("red", networks=100)
    for number in range(len(POOL)):
        rack.network(f"net{number}", "red")
    with pytest.raises(NotEnough):
        rack.network("more", "red")


def test_a_project_has_no_more_networks_than_its_quota(rack: Rack) -> None:
    rack.project("red", networks=1)
    rack.network("a", "red", caller=RED)
    rack.network("a", "red", WITH_BLUE, caller=RED)
    with pytest.raises(OverQuota):
        rack.network("b", "red", caller=RED)
    rack.network("b", None)


@pytest.mark.parametrize(
    "caller", [BLUE, STRANGER, AUDITOR, Caller("rob", None, {"red": Role.ADMIN}, frozenset({Right.READ}))]
)
def test_nobody_makes_or_changes_anothers_network(rack: Rack, caller: Caller) -> None:
    with pytest.raises(NotAllowed):
        rack.network("net", "red", caller=caller)
    made = rack.network("net", "red")
    hidden = caller in (BLUE, STRANGER)
    with pytest.raises(AlreadyThere if hidden else NotAllowed):
        rack.network("net", "red", WITH_BLUE, caller=caller)
    with pytest.raises(NotFound if hidden else NotAllowed):
        delete(rack, caller, "net")
    assert load(rack, "net") == made


def test_those_it_is_shared_with_do_not_change_a_network(rack: Rack) -> None:
    rack.network("net", "red", WITH_BLUE)
    with pytest.raises(NotAllowed):
        rack.network("net", "blue", caller=BLUE)
    with pytest.raises(NotAllowed):
        delete(rack, BLUE, "net")
    with pytest.raises(WrongUse):
        rack.network("net", "blue")


def test_a_tenant_neither_publishes_a_network_nor_chooses_its_vlan(rack: Rack) -> None:
    with pytest.raises(NotAllowed):
        rack.network("net", "red", Public(), caller=RED)
    with pytest.raises(NotAllowed):
        rack.network("net", "red", caller=RED, vlan=POOL[5])
    with pytest.raises(NotAllowed):
        rack.network("net", None, caller=RED)


def test_a_network_is_shared_with_projects_that_are_there(rack: Rack) -> None:
    with pytest.raises(NotFound):
        rack.network("net", "red", SharedWith(frozenset({"green"})))


def test_a_network_whose_admission_nobody_can_satisfy_is_not_made(rack: Rack) -> None:
    with pytest.raises(MalformedKey):
        rack.network("net", "red", admission=VerdictAdmission("no key", WEIGHED.most_age))
    with pytest.raises(NotFound):
        load(rack, "net")


def test_versions_guard_changes(rack: Rack) -> None:
    rack.network("net", "red", expected_version=0)
    with pytest.raises(AlreadyThere):
        rack.network("net", "red", expected_version=0)
    assert rack.network("net", "red", WITH_BLUE, expected_version=1).version == 2
    with pytest.raises(Changed):
        rack.network("net", "red", Private(), expected_version=1)
    with pytest.raises(Changed):
        delete(rack, RED, "net", expected_version=1)
    delete(rack, RED, "net", expected_version=2)


def test_a_network_with_a_row_is_not_deleted_nor_its_vlan_reused(rack: Rack) -> None:
    rack.free("n1")
    rack.allocate(RED, "red")
    rack.network("net", "red")
    rack.attach(RED, "n1", "net")
    with pytest.raises(InUse):
        delete(rack, RED, "net")
    rack.read_back()
    rack.detach(RED, "n1", "net")
    with pytest.raises(InUse):
        delete(rack, RED, "net")
    rack.read_back()
    delete(rack, RED, "net")


def test_a_deleted_project_is_forgotten_by_what_was_shared_with_it(rack: Rack) -> None:
    rack.project("green")
    rack.network("both", "red", SharedWith(frozenset({"blue", "green"})))
    rack.network("one", "red", WITH_BLUE)
    forget_blue(rack)
    assert load(rack, "both").sharing == SharedWith(frozenset({"green"}))
    assert load(rack, "one").sharing == Private()
    assert load(rack, "one").admission == OpenAdmission()


def forget_blue(rack_: Rack) -> None:
    with rack_.tx() as tx:
        rack.delete_project(tx, PROVIDER, name="blue", expected_version=None)
