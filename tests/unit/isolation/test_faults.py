"""The faults of the system that did this job before, as far as rules and records go; each is a test.

Those of device keepers (3, 4, 5, 12, 13) are in `keeping/` and the conformance suites, sign-in (10) in `service/`, the
boot device (14) with the drivers of BMCs.
"""

import pytest
from sqlalchemy import select

from steelyard.isolation import networks, operations, store, tables, views
from steelyard.isolation import rack as registrations
from steelyard.isolation.life import NodeState
from steelyard.isolation.objects import OperationState, PortName, Private, Public, SharedWith, Verb
from steelyard.isolation.wanted import Wish, wanted_port
from steelyard.model.errors import AlreadyThere, InUse, NotEnough, NotFound, WrongState, WrongUse
from steelyard.model.network import SHUT, MacAddress, Vlan
from tests.unit.isolation.rig import BLUE, LIMIT, POOL, PROVIDER, RED, STRANGER, Rack

WITH_BLUE = SharedWith(frozenset({"blue"}))


def test_fault_1_revoking_the_last_project_leaves_a_network_private(rack: Rack) -> None:
    rack.network("net", "red", WITH_BLUE)
    rack.network("net", "red", Private())
    with rack.database.reading() as connection:
        assert store.load_network(connection, "net").sharing == Private()
        with pytest.raises(NotFound):
            views.get_network(connection, BLUE, "net")
    with pytest.raises(WrongUse):
        SharedWith(frozenset())


def test_fault_1_deleting_the_last_project_leaves_a_network_private(rack: Rack) -> None:
    rack.network("net", "red", WITH_BLUE)
    with rack.tx() as tx:
        registrations.delete_project(tx, PROVIDER, name="blue", expected_version=None)
        assert store.load_network(tx.connection, "net").sharing == Private()


def test_fault_1_a_project_with_nodes_on_a_network_cannot_be_revoked_nor_its_owner(rack: Rack) -> None:
    for name in ("n1", "n2"):
        rack.free(name)
    rack.allocate(BLUE, "blue")
    rack.allocate(RED, "red")
    rack.network("net", "red", WITH_BLUE)
    rack.attach(BLUE, "n1", "net")
    with pytest.raises(InUse, match="nodes of blue"):
        rack.network("net", "red", Private())
    rack.network("net", "red", Public())
    with pytest.raises(InUse):
        rack.network("net", "red", Private())
    rack.detach(BLUE, "n1", "net")
    with pytest.raises(InUse):  # its port may carry it still
        rack.network("net", "red", Private())
    rack.read_back()
    rack.network("net", "red", Private())
    rack.attach(RED, "n2", "net")


def test_fault_2_a_nic_on_a_network_does_not_lose_its_port(rack: Rack) -> None:
    rack.free("n1", PortName("s1", "p0"))
    rack.allocate(RED, "red")
    rack.network("net", "red")
    operation = rack.attach(RED, "n1", "net")
    with rack.database.reading() as connection:
        mac = store.load_node(connection, "n1").nics[0].mac
    for state in NodeState:
        rack.put(tables.nodes, "n1", state=state.value, release_to="free")
        for unplug in (
            lambda tx: registrations.put_nic(tx, PROVIDER, node="n1", name="nic0", mac=mac, port=None),
            lambda tx: registrations.delete_nic(tx, PROVIDER, node="n1", name="nic0"),
            lambda tx: registrations.delete_port(tx, PROVIDER, port=PortName("s1", "p0")),
        ):
            with pytest.raises((InUse, WrongState)), rack.tx() as tx:
                unplug(tx)
    rack.read_back()
    assert rack.operation(operation).state is OperationState.DONE


def test_fault_2_no_operation_waits_for_a_port_that_is_not_wanted_so(rack: Rack) -> None:
    rack.free("n1", PortName("s1", "p0"))
    rack.allocate(RED, "red")
    rack.network("net", "red")
    for _ in range(3):
        rack.attach(RED, "n1", "net")
        rack.detach(RED, "n1", "net")
    with rack.database.reading() as connection:
        live = store.live_operations(connection, "n1")
        rows = connection.execute(select(tables.operation_ports)).all()
    assert [operation.verb for operation in live] == [Verb.DETACH]
    assert {row.operation for row in rows} == {live[0].id}
    rack.read_back()
    with rack.database.reading() as connection:
        assert store.live_operations(connection, "n1") == ()


def test_fault_6_a_node_is_given_once(rack: Rack) -> None:
    rack.free("n1")
    rack.allocate(RED, "red")
    with pytest.raises(NotEnough):
        rack.allocate(BLUE, "blue")


def test_fault_6_a_vlan_is_given_once(rack: Rack) -> None:
    assert rack.network("a", "red").vlan != rack.network("b", "blue").vlan
    with pytest.raises(AlreadyThere):
        rack.network("c", None, vlan=POOL[0])


def test_fault_7_and_8_a_release_is_off_first_then_cut_off_and_closes_the_console(rack: Rack) -> None:
    rack.free("n1", PortName("s1", "p0"))
    rack.allocate(RED, "red")
    network = rack.network("net", "red")
    rack.attach(RED, "n1", "net")
    rack.read_back()
    with rack.tx() as tx:
        operations.release(tx, RED, node="n1", to=NodeState.FREE, why="done", waives=frozenset(), limit=LIMIT)
        node = store.load_node(tx.connection, "n1")
        wishes = [Wish(row, network) for row in store.attachments_of(tx.connection, "n1")]
        assert node.state is NodeState.RELEASING
        assert node.release is not None
        assert wanted_port(node.state, node.release.confirmed, wishes, tx.now).vlans == {network.vlan}
        tx.connection.execute(tables.nodes.update().values(release_step="power"))
        node = store.load_node(tx.connection, "n1")
        assert node.release is not None
        assert wanted_port(node.state, node.release.confirmed, wishes, tx.now) == SHUT


def test_fault_9_no_row_and_no_entry_has_a_password(rack: Rack) -> None:
    rack.free("n1")
    with rack.database.reading() as connection:
        for table in (tables.switches, tables.nodes):
            assert "tell nobody" not in str(connection.execute(select(table)).all())
    assert "tell nobody" not in str(rack.journal())


def test_fault_10_nobody_without_a_role_sees_anything_but_what_is_free_or_public(rack: Rack) -> None:
    rack.free("n1")
    rack.allocate(RED, "red")
    with rack.database.reading() as connection:
        assert views.list_nodes(connection, STRANGER, state=None, project=None, labels={}, after=None, limit=9) == ()


def test_fault_11_every_nic_on_a_network_is_listed(rack: Rack) -> None:
    rack.free("n1", PortName("s1", "p0"), PortName("s1", "p1"))
    rack.allocate(RED, "red")
    rack.network("net", "red")
    for nic in ("nic0", "nic1"):
        rack.attach(RED, "n1", "net", nic)
    with rack.database.reading() as connection:
        found = views.list_attachments(connection, RED, node=None, network="net", after=None, limit=9)
    assert [row.nic for row in found] == ["nic0", "nic1"]


def test_fault_11_what_has_ended_is_not_pending(rack: Rack) -> None:
    rack.free("n1")
    rack.allocate(RED, "red")
    rack.network("net", "red")
    rack.attach(RED, "n1", "net")
    rack.read_back()
    with rack.tx() as tx:
        networks_of_node = store.networks_of(tx.connection, store.attachments_of(tx.connection, "n1"))
        assert store.live_operations(tx.connection, "n1") == ()
        assert list(networks_of_node) == ["net"]
        with pytest.raises(InUse):  # it is on it, though nothing is pending
            networks.delete_network(tx, RED, name="net", expected_version=None)


@pytest.mark.parametrize("number", [-1, 0, 1, 4095, 4096])
def test_fault_11_a_vlan_that_is_none_is_refused(number: int) -> None:
    with pytest.raises(WrongUse):
        Vlan(number)


def test_fault_12_a_busy_nic_takes_the_next_wish_at_once(rack: Rack) -> None:
    rack.free("n1", PortName("s1", "p0"))
    rack.allocate(RED, "red")
    for name in ("a", "b", "c"):
        rack.network(name, "red")
    waiting = [rack.attach(RED, "n1", name, tagged=True) for name in ("a", "b", "c")]
    rack.read_back()
    assert {rack.operation(operation).state for operation in waiting} == {OperationState.DONE}


def test_an_address_of_a_group_is_no_cards() -> None:
    with pytest.raises(WrongUse):
        MacAddress("01:00:00:00:00:01")
