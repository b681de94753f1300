"""What each caller may see, and that a page of ten thousand costs few questions."""

import time
from dataclasses import fields
from typing import Any

import pytest
from sqlalchemy import event, insert

from steelyard.isolation import operations, store, tables, views
from steelyard.isolation.life import NodeState
from steelyard.isolation.objects import Operation, OperationState, PortName, Public, SharedWith, Verb
from steelyard.isolation.views import BmcView, NodeView
from steelyard.model.errors import NotFound, WrongUse
from steelyard.service.authority import Caller, Office, Right, Role
from steelyard.service.database import Database
from tests.unit.isolation.rig import AUDITOR, BLUE, LIMIT, PROVIDER, RED, STRANGER, Rack

ALL: dict[str, Any] = {"state": None, "project": None, "labels": {}, "after": None, "limit": 1000}
EVERY_OPERATION: dict[str, Any] = {
    "node": None,
    "project": None,
    "verb": None,
    "state": None,
    "after": None,
    "limit": 1000,
}
BLIND = Caller("rob", None, {"red": Role.ADMIN}, frozenset(Right) - {Right.READ})
BLIND_PROVIDER = Caller("pia", Office.PROVIDER, {}, frozenset(Right) - {Right.READ})


@pytest.fixture
def full(rack: Rack) -> Rack:
    """Red has n1, blue has n2, n3 is free, n4 in maintenance; networks of each, and one for everybody."""
    for name in ("n1", "n2", "n3"):
        rack.free(name, PortName("s1", f"{name}-0"), PortName("s1", f"{name}-1"), labels={"room": "a"})
    rack.node("n4")
    rack.allocate(RED, "red")
    rack.allocate(BLUE, "blue")
    rack.network("reds", "red")
    rack.network("blues", "blue", SharedWith(frozenset({"red"})))
    rack.network("own", None)
    rack.network("world", None, Public())
    return rack


def names(full: Rack, caller: Caller, **changes: Any) -> str:
    with full.database.reading() as connection:
        return " ".join(node.name for node in views.list_nodes(connection, caller, **ALL | changes))


def node(full: Rack, caller: Caller, name: str) -> NodeView:
    with full.database.reading() as connection:
        return views.get_node(connection, caller, name)


@pytest.mark.parametrize(
    ("caller", "seen"),
    [
        (PROVIDER, "n1 n2 n3 n4"),
        (AUDITOR, "n1 n2 n3 n4"),
        (RED, "n1 n3"),
        (BLUE, "n2 n3"),
        (STRANGER, "n3"),
        (BLIND, ""),
        (BLIND_PROVIDER, ""),
    ],
)
def test_who_sees_which_nodes(full: Rack, caller: Caller, seen: str) -> None:
    assert names(full, caller) == seen
    for name in ("n1", "n2", "n3", "n4", "n9"):
        if name in seen:
            assert node(full, caller, name).name == name
        else:
            with pytest.raises(NotFound, match=f"looking for node {name}: expected one that exists and is yours"):
                node(full, caller, name)


def test_of_a_free_node_a_tenant_sees_what_it_needs_to_choose(full: Rack) -> None:
    full.put(tables.nodes, "n3", trouble="10.0.0.7 does not answer", why="a secret")
    seen = node(full, RED, "n3")
    assert (seen.labels, seen.hardware, seen.state) == ({"room": "a"}, {"model": "iron"}, NodeState.FREE)
    assert (seen.nics, seen.why, seen.trouble, seen.power, seen.bmc) == ((), "", None, None, None)


def test_of_its_own_node_a_tenant_sees_all_but_the_bmc(full: Rack) -> None:
    seen = node(full, RED, "n1")
    assert len(seen.nics) == 2
    assert (seen.allocation, seen.bmc) == ("a1", None)


@pytest.mark.parametrize("caller", [PROVIDER, AUDITOR])
def test_credentials_are_told_to_nobody(full: Rack, caller: Caller) -> None:
    seen = node(full, caller, "n1")
    assert seen.bmc == BmcView("fake", {"host": "n1-bmc"})
    assert "tell nobody" not in repr(seen)
    assert not any("seal" in field.name or "credential" in field.name for field in fields(NodeView))


def test_nodes_are_found_by_state_project_and_label(full: Rack) -> None:
    assert names(full, PROVIDER, state=NodeState.ALLOCATED) == "n1 n2"
    assert names(full, PROVIDER, project="blue") == "n2"
    assert names(full, RED, project="blue") == ""
    assert names(full, PROVIDER, labels={"room": "a"}, state=NodeState.FREE) == "n3"
    assert names(full, PROVIDER, labels={"room": "b"}) == ""
    with pytest.raises(WrongUse):
        names(full, PROVIDER, labels={"room') = 'a' or ('1": "1"})


def test_pages_follow_one_another(full: Rack) -> None:
    assert [names(full, PROVIDER, after=after, limit=2) for after in (None, "n2", "n4")] == ["n1 n2", "n3 n4", ""]
    for limit in (-1, 0, 1001):
        with pytest.raises(WrongUse):
            names(full, PROVIDER, limit=limit)


# -- everything else ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caller", "projects", "networks"),
    [
        (PROVIDER, "blue red", "blues own reds world"),
        (AUDITOR, "blue red", "blues own reds world"),
        (RED, "red", "blues reds world"),
        (BLUE, "blue", "blues world"),
        (STRANGER, "", "world"),
        (BLIND, "", ""),
    ],
)
def test_who_sees_which_projects_and_networks(full: Rack, caller: Caller, projects: str, networks: str) -> None:
    with full.database.reading() as connection:
        page: dict[str, Any] = {"after": None, "limit": 10}
        assert " ".join(one.name for one in views.list_projects(connection, caller, **page)) == projects
        assert " ".join(one.name for one in views.list_networks(connection, caller, owner=None, **page)) == networks
        for name in ("blue", "red", "green"):
            if name in projects.split():
                assert views.get_project(connection, caller, name).name == name
            else:
                with pytest.raises(NotFound):
                    views.get_project(connection, caller, name)
        for name in ("blues", "own", "reds", "world", "none"):
            if name in networks.split():
                assert views.get_network(connection, caller, name).name == name
            else:
                with pytest.raises(NotFound):
                    views.get_network(connection, caller, name)


def test_with_whom_else_a_network_is_shared_is_told_to_its_owner_alone(full: Rack) -> None:
    full.project("green")
    full.network("blues", "blue", SharedWith(frozenset({"red", "green"})))
    with full.database.reading() as connection:
        assert views.get_network(connection, RED, "blues").sharing == SharedWith(frozenset({"red"}))
        assert views.get_network(connection, BLUE, "blues").sharing == SharedWith(frozenset({"red", "green"}))
        (listed,) = views.list_networks(connection, RED, owner="blue", after=None, limit=9)
        assert listed.sharing == SharedWith(frozenset({"red"}))


def test_switches_and_ports_are_the_providers(full: Rack) -> None:
    with full.database.reading() as connection:
        for caller in (PROVIDER, AUDITOR):
            assert [one.name for one in views.list_switches(connection, caller, after=None, limit=9)] == ["s1", "s2"]
            assert views.get_switch(connection, caller, "s1").address == {"host": "s1"}
            ports = views.list_ports(connection, caller, switch="s1", after="n1-0", limit=2)
            assert [port.name.port for port in ports] == ["n1-1", "n2-0"]
        for caller in (RED, STRANGER, BLIND_PROVIDER):
            assert views.list_switches(connection, caller, after=None, limit=9) == ()
            with pytest.raises(NotFound):
                views.get_switch(connection, caller, "s1")
            with pytest.raises(NotFound):
                views.list_ports(connection, caller, switch="s1", after=None, limit=9)


def test_who_sees_which_attachments(full: Rack) -> None:
    full.attach(RED, "n1", "reds")
    full.attach(RED, "n1", "blues", tagged=True)
    full.attach(BLUE, "n2", "blues")

    def seen(caller: Caller, **changes: Any) -> list[tuple[str, str]]:
        whole: dict[str, Any] = {"node": None, "network": None, "after": None, "limit": 9}
        with full.database.reading() as connection:
            found = views.list_attachments(connection, caller, **whole | changes)
            return [(one.node, one.network) for one in found]

    everything = [("n1", "blues"), ("n1", "reds"), ("n2", "blues")]
    assert seen(PROVIDER) == seen(AUDITOR) == everything
    assert seen(RED) == everything[:2]
    assert seen(BLUE) == [everything[0], everything[2]]  # on its network
    assert seen(STRANGER) == seen(BLIND) == []
    assert seen(PROVIDER, node="n1", network="blues") == everything[:1]
    assert seen(PROVIDER, after=("n1", "nic0", "blues"), limit=1) == [everything[1]]


def test_who_sees_which_operations_and_holds(full: Rack) -> None:
    with full.tx() as tx:
        mine = operations.power(tx, RED, node="n1", verb=Verb.POWER_ON, limit=LIMIT)
        theirs = operations.power(tx, BLUE, node="n2", verb=Verb.POWER_OFF, limit=LIMIT)
        hold = operations.place_hold(tx, RED, node="n1", name="volume", why="its disk")

    with full.database.reading() as connection:

        def seen(caller: Caller, **changes: Any) -> list[Operation]:
            return list(views.list_operations(connection, caller, **EVERY_OPERATION | changes))

        assert sorted(seen(PROVIDER), key=lambda one: one.node) == [mine, theirs]
        assert (seen(RED), seen(BLUE), seen(STRANGER), seen(BLIND)) == ([mine], [theirs], [], [])
        assert (
            seen(PROVIDER, node="n1") == seen(PROVIDER, project="red") == seen(PROVIDER, verb=Verb.POWER_ON) == [mine]
        )
        assert seen(PROVIDER, state=OperationState.DONE) == []
        assert len(seen(PROVIDER, after=min(mine.id, theirs.id))) == 1
        assert views.get_operation(connection, RED, mine.id) == mine
        assert views.list_holds(connection, RED, node="n1") == (hold,)
        for caller in (BLUE, STRANGER, BLIND):
            with pytest.raises(NotFound):
                views.get_operation(connection, caller, mine.id)
            with pytest.raises(NotFound):
                views.list_holds(connection, caller, node="n1")


def test_a_page_of_ten_thousand_nodes_costs_two_questions_and_little_time(database: Database) -> None:
    with database.writing() as tx:
        tx.connection.execute(insert(tables.projects).values(name="red", node_quota=1, network_quota=1, version=1))
        row = {
            "state": "allocated",
            "since": tx.now,
            "why": "",
            "project": "red",
            "labels": {"room": "a"},
            "hardware": {},
            "identity": {"endorsement_certificates": {}, "endorsement_keys": [], "references": []},
            "bmc_driver": "fake",
            "bmc_address": {},
            "bmc_sealed": b"",
            "version": 1,
        }
        many = [f"n{number:05}" for number in range(10_000)]
        tx.connection.execute(insert(tables.nodes), [row | {"name": name} for name in many])
        nic = [
            {"node": name, "name": "nic0", "mac": f"02:00:00:00:{at // 256:02x}:{at % 256:02x}"}
            for at, name in enumerate(many)
        ]
        tx.connection.execute(insert(tables.nics), nic)
    asked: list[str] = []
    with database.reading() as connection:
        event.listen(connection, "before_cursor_execute", lambda *arguments: asked.append(arguments[2]))
        begin = time.perf_counter()
        page = views.list_nodes(connection, RED, **ALL | {"after": "n08999", "labels": {"room": "a"}})
        seconds = time.perf_counter() - begin
    assert (len(page), page[0].name, len(page[-1].nics)) == (1000, "n09000", 1)
    assert sum(statement.startswith("SELECT") for statement in asked) == 2
    assert seconds < 2


def test_what_a_port_carries_is_written_and_read() -> None:
    for value in (
        {"untagged": 10, "tagged": [], "isolated": True},
        {"untagged": None, "tagged": [11, 12], "isolated": False},
    ):
        assert store.encode_vlans(store.vlans_of(value)) == value
