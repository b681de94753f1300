"""What the provider registers, and what of it can be changed when."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import func, insert, select

from steelyard.isolation import operations, rack, store, tables
from steelyard.isolation.life import NodeState
from steelyard.isolation.objects import Identity, Nic, Node, PortName, Switch, Verb
from steelyard.isolation.ports import Drivers, Power
from steelyard.model.errors import (
    AlreadyThere,
    Changed,
    InUse,
    MalformedCertificate,
    NotAllowed,
    NotFound,
    SteelyardError,
    TooLarge,
    WrongState,
    WrongUse,
)
from steelyard.model.inventory import BmcAccess, Inventory
from steelyard.model.inventory import Nic as InventoryNic
from steelyard.model.inventory import Node as InventoryNode
from steelyard.model.inventory import Switch as InventorySwitch
from steelyard.model.network import MacAddress
from steelyard.model.secret import Secret
from steelyard.service import tables as service
from steelyard.service.authority import Caller, Office, Right
from steelyard.service.database import Transaction
from steelyard.service.sealing import Sealer
from tests.unit.isolation.rig import AUDITOR, DRIVERS, LIMIT, NO_IDENTITY, PROVIDER, RED, SEALER, STRANGER, Rack

P0 = PortName("s1", "p0")
MAC = MacAddress("02:00:00:00:00:01")
PASSWORD = {"password": Secret(b"tell nobody")}


def put_switch(made: Rack, sealer: Sealer = SEALER, **changes: Any) -> Switch:
    whole: dict[str, Any] = {
        "name": "s1",
        "driver": "fake",
        "address": {"host": "s1"},
        "credentials": PASSWORD,
        "expected_version": None,
    }
    with made.tx() as tx:
        return rack.put_switch(tx, PROVIDER, sealer, DRIVERS, **whole | changes)


def put_node(made: Rack, sealer: Sealer = SEALER, **changes: Any) -> Node:
    whole: dict[str, Any] = {
        "name": "n1",
        "labels": {},
        "hardware": {},
        "identity": NO_IDENTITY,
        "bmc_driver": "fake",
        "bmc_address": {"host": "n1-bmc"},
        "bmc_credentials": PASSWORD,
        "expected_version": None,
    }
    with made.tx() as tx:
        return rack.put_node(tx, PROVIDER, sealer, DRIVERS, **whole | changes)


def put_nic(made: Rack, node: str, name: str, mac: MacAddress, port: PortName | None) -> Nic:
    with made.tx() as tx:
        if port is not None:
            rack.put_port(tx, PROVIDER, port=port)
        return rack.put_nic(tx, PROVIDER, node=node, name=name, mac=mac, port=port)


def sealed(made: Rack, table: Any, column: str) -> bytes:
    with made.database.reading() as connection:
        value: bytes = connection.execute(select(table.c[column]).order_by(table.c.name)).scalars().first() or b""
        return value


# -- whose these verbs are ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "caller", [AUDITOR, RED, STRANGER, Caller("pia", Office.PROVIDER, {}, frozenset(Right) - {Right.RACK})]
)
def test_everything_here_is_the_providers(rack_: Rack, caller: Caller) -> None:
    inventory = Inventory(None, InventorySwitch("s1", "br0", (), "up"), (), ())
    put_node(rack_)
    calls: list[Callable[[Transaction], object]] = [
        lambda tx: rack.put_project(tx, caller, name="p", node_quota=1, network_quota=1, expected_version=None),
        lambda tx: rack.delete_project(tx, caller, name="red", expected_version=None),
        lambda tx: rack.delete_switch(tx, caller, name="s1", expected_version=None),
        lambda tx: rack.put_port(tx, caller, port=P0),
        lambda tx: rack.delete_port(tx, caller, port=P0),
        lambda tx: rack.delete_node(tx, caller, name="n1", expected_version=None),
        lambda tx: rack.put_nic(tx, caller, node="n1", name="nic0", mac=MAC, port=None),
        lambda tx: rack.delete_nic(tx, caller, node="n1", name="nic0"),
        lambda tx: rack.import_rack(tx, caller, SEALER, DRIVERS, inventory=inventory),
        lambda tx: rack.put_switch(
            tx,
            caller,
            SEALER,
            DRIVERS,
            name="s1",
            driver="fake",
            address={"host": "evil"},
            credentials=None,
            expected_version=None,
        ),
        lambda tx: rack.put_node(
            tx,
            caller,
            SEALER,
            DRIVERS,
            name="n1",
            labels={},
            hardware={},
            identity=NO_IDENTITY,
            bmc_driver="fake",
            bmc_address={"host": "evil"},
            bmc_credentials=None,
            expected_version=None,
        ),
    ]
    before = rack_.journal()
    for call in calls:
        with pytest.raises(NotAllowed), rack_.tx() as tx:
            call(tx)
    assert rack_.journal() == before


@pytest.fixture
def rack_(rack: Rack) -> Rack:
    """The rack, by a name that leaves `rack` to the module."""
    return rack


# -- projects ----------------------------------------------------------------------------------------------------------


def test_a_project_is_made_changed_and_deleted(rack_: Rack) -> None:
    def put(nodes: int, expected_version: int | None) -> int:
        with rack_.tx() as tx:
            return rack.put_project(
                tx, PROVIDER, name="green", node_quota=nodes, network_quota=1, expected_version=expected_version
            ).version

    assert (put(1, 0), put(1, 1), put(2, 1), put(2, None)) == (1, 1, 2, 2)
    with pytest.raises(AlreadyThere):
        put(3, 0)
    with pytest.raises(Changed):
        put(3, 1)
    for quota in (-1, 1_000_001):
        with pytest.raises(WrongUse):
            put(quota, None)
    with rack_.tx() as tx:
        rack.delete_project(tx, PROVIDER, name="green", expected_version=2)
    with pytest.raises(NotFound), rack_.tx() as tx:
        rack.delete_project(tx, PROVIDER, name="green", expected_version=None)


def test_a_project_with_nodes_or_networks_stays(rack_: Rack) -> None:
    rack_.free("n1")
    rack_.allocate(RED, "red")
    rack_.network("net", "blue")
    for name in ("red", "blue"):
        with pytest.raises(InUse), rack_.tx() as tx:
            rack.delete_project(tx, PROVIDER, name=name, expected_version=None)


def test_the_next_project_of_a_name_has_none_of_the_lasts_members(rack_: Rack) -> None:
    with rack_.tx() as tx:
        tx.connection.execute(insert(service.accounts).values(name="rob", kind="user", created=tx.now))
        tx.connection.execute(insert(service.memberships).values(project="red", account="rob", role="admin"))
        rack.delete_project(tx, PROVIDER, name="red", expected_version=None)
    rack_.project("red")
    with rack_.database.reading() as connection:
        assert connection.scalar(select(func.count()).select_from(service.memberships)) == 0


# -- switches and ports ------------------------------------------------------------------------------------------------


def test_a_switch_is_registered_once_however_often_it_is_put(rack_: Rack) -> None:
    first = put_switch(rack_)
    assert (first.version, put_switch(rack_).version, put_switch(rack_, credentials=None).version) == (1, 1, 1)
    assert put_switch(rack_, address={"host": "other"}).version == 2
    assert put_switch(rack_, address={"host": "other"}, credentials={"password": Secret(b"new")}).version == 3


def test_credentials_are_stored_sealed_and_kept_when_none_are_given(rack_: Rack) -> None:
    put_switch(rack_)
    box = sealed(rack_, tables.switches, "sealed")
    assert b"tell nobody" not in box
    put_switch(rack_, address={"host": "other"}, credentials=None)
    assert store.unseal(SEALER, "switch/s1", sealed(rack_, tables.switches, "sealed")) == PASSWORD
    assert not any("tell" in str(entry) for entry in rack_.journal())


def test_credentials_whose_key_was_lost_can_be_entered_again(rack_: Rack) -> None:
    put_switch(rack_)
    other = Sealer({b"key2": Secret(bytes(32))})
    put_switch(rack_, sealer=other)
    assert store.unseal(other, "switch/s1", sealed(rack_, tables.switches, "sealed")) == PASSWORD


def test_a_switch_reached_otherwise_has_all_its_ports_read_again(rack_: Rack) -> None:
    rack_.node("n1", P0)
    rack_.read_back()
    put_switch(rack_, address={"host": "other"})
    wanted, applied, _ = rack_.port("s1", "p0")
    assert wanted == applied + 1


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"driver": "telepathy"}, WrongUse),
        ({"address": {"hots": "s1"}}, WrongUse),
        ({"address": {"host": "s" * 16385}}, TooLarge),
        ({"address": {f"k{number}": "" for number in range(17)}}, TooLarge),
        ({"credentials": {"password": Secret(bytes(16385))}}, TooLarge),
        ({"name": "S1"}, WrongUse),
        ({"name": "../s1"}, WrongUse),
        ({"expected_version": 0}, AlreadyThere),
        ({"expected_version": 7}, Changed),
    ],
)
def test_a_switch_that_cannot_be_reached_as_said_is_refused(
    rack_: Rack, changes: dict[str, Any], refused: type[SteelyardError]
) -> None:
    with pytest.raises(refused):
        put_switch(rack_, **changes)


def test_what_something_stands_on_is_not_deleted(rack_: Rack) -> None:
    rack_.node("n1", P0)
    with pytest.raises(InUse), rack_.tx() as tx:
        rack.delete_switch(tx, PROVIDER, name="s1", expected_version=None)
    with pytest.raises(InUse), rack_.tx() as tx:
        rack.delete_port(tx, PROVIDER, port=P0)
    with rack_.tx() as tx:
        rack.delete_nic(tx, PROVIDER, node="n1", name="nic0")
        rack.delete_port(tx, PROVIDER, port=P0)
        rack.delete_switch(tx, PROVIDER, name="s1", expected_version=None)
        rack.delete_node(tx, PROVIDER, name="n1", expected_version=None)
    with pytest.raises(NotFound), rack_.tx() as tx:
        rack.delete_port(tx, PROVIDER, port=P0)


def test_a_port_that_was_just_registered_is_to_be_shut(rack_: Rack) -> None:
    with rack_.tx() as tx:
        port = rack.put_port(tx, PROVIDER, port=P0)
        assert (port.wanted, port.applied, port.carries) == (1, 0, None)
        assert rack.put_port(tx, PROVIDER, port=P0) == port
        assert "switch/s1" in tx.topics


@pytest.mark.parametrize("name", ["", "-x", "a b", "a\n", "a" * 64, "\u0430"])
def test_a_port_has_a_name_that_is_safe_to_show(rack_: Rack, name: str) -> None:
    with pytest.raises(WrongUse), rack_.tx() as tx:
        rack.put_port(tx, PROVIDER, port=PortName("s1", name))


def test_a_port_is_of_a_switch_that_is_there(rack_: Rack) -> None:
    with pytest.raises(NotFound), rack_.tx() as tx:
        rack.put_port(tx, PROVIDER, port=PortName("s9", "Ethernet1/1"))


# -- nodes -------------------------------------------------------------------------------------------------------------


def test_a_node_begins_in_maintenance_and_keeps_its_state_when_put_again(rack_: Rack) -> None:
    first = put_node(rack_)
    assert (first.state, first.version, first.project) == (NodeState.MAINTENANCE, 1, None)
    assert put_node(rack_, bmc_credentials=None) == first
    rack_.put(tables.nodes, "n1", state="free", power="off")
    changed = put_node(rack_, labels={"room": "a"})
    assert (changed.state, changed.version, changed.power) == (NodeState.FREE, 2, Power.OFF)
    assert put_node(rack_, labels={"room": "a"}, bmc_address={"host": "other"}).power is None
    assert sum(verb == "node.registered" for verb, _, _ in rack_.journal()) == 3


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"name": "N1"}, WrongUse),
        ({"labels": {"Room": "a"}}, WrongUse),
        ({"hardware": {"cpu": "\x00"}}, WrongUse),
        ({"identity": Identity({"rsa2048": "PEM"}, (), ())}, MalformedCertificate),
        ({"bmc_driver": "telepathy"}, WrongUse),
        ({"bmc_address": {}}, WrongUse),
        ({"expected_version": 1}, Changed),
    ],
)
def test_a_node_that_makes_no_sense_is_refused(
    rack_: Rack, changes: dict[str, Any], refused: type[SteelyardError]
) -> None:
    with pytest.raises(refused):
        put_node(rack_, **changes)


def test_one_devices_password_is_of_no_use_for_another(rack_: Rack) -> None:
    put_node(rack_)
    with pytest.raises(SteelyardError):
        store.unseal(SEALER, "node/n2", sealed(rack_, tables.nodes, "bmc_sealed"))


@pytest.mark.parametrize("state", list(NodeState))
def test_only_a_node_that_is_nobodys_is_deleted(rack_: Rack, state: NodeState) -> None:
    rack_.node("n1", P0)
    rack_.put(tables.nodes, "n1", state=state.value, release_to="free")
    if state in (NodeState.FREE, NodeState.MAINTENANCE, NodeState.REJECTED):
        with rack_.tx() as tx:
            rack.delete_node(tx, PROVIDER, name="n1", expected_version=None)
    else:
        with pytest.raises(WrongState), rack_.tx() as tx:
            rack.delete_node(tx, PROVIDER, name="n1", expected_version=None)


def test_a_node_whose_ports_were_not_read_to_be_shut_stays(rack_: Rack) -> None:
    rack_.free("n1")
    rack_.allocate(RED, "red")
    rack_.network("net", "red")
    rack_.attach(RED, "n1", "net")
    rack_.put(tables.nodes, "n1", state="rejected", project=None)  # as a release with a waiver leaves it
    with pytest.raises(InUse), rack_.tx() as tx:
        rack.delete_node(tx, PROVIDER, name="n1", expected_version=None)


def test_a_deleted_node_leaves_no_operation_pending(rack_: Rack) -> None:
    rack_.node("n1", P0)
    with rack_.tx() as tx:
        operation = operations.power(tx, PROVIDER, node="n1", verb=Verb.POWER_OFF, limit=LIMIT)
        rack.delete_node(tx, PROVIDER, name="n1", expected_version=None)
    assert rack_.operation(operation).state.ended


# -- cables ------------------------------------------------------------------------------------------------------------


def test_a_port_and_an_address_are_of_one_nic(rack_: Rack) -> None:
    rack_.node("n1")
    rack_.node("n2")
    put_nic(rack_, "n1", "nic0", MAC, P0)
    assert put_nic(rack_, "n1", "nic0", MAC, P0) == Nic("nic0", MAC, P0)
    with pytest.raises(AlreadyThere, match="plugged into"):
        put_nic(rack_, "n2", "nic0", MacAddress("02:00:00:00:00:02"), P0)
    with pytest.raises(AlreadyThere, match="no other NIC with"):
        put_nic(rack_, "n2", "nic0", MAC, None)
    with pytest.raises(NotFound), rack_.tx() as tx:
        rack.put_nic(
            tx, PROVIDER, node="n2", name="nic0", mac=MacAddress("02:00:00:00:00:02"), port=PortName("s1", "p9")
        )


def test_both_ends_of_a_moved_cable_are_read_again(rack_: Rack) -> None:
    rack_.node("n1", P0)
    put_nic(rack_, "n1", "nic1", MAC, PortName("s1", "p1"))
    rack_.read_back()
    put_nic(rack_, "n1", "nic1", MAC, PortName("s1", "p2"))
    assert [rack_.port("s1", port)[0] > rack_.port("s1", port)[1] for port in ("p0", "p1", "p2")] == [False, True, True]


def test_a_nic_is_not_plugged_into_a_node_that_may_be_given_away(rack_: Rack) -> None:
    rack_.free("n1", P0)
    with pytest.raises(WrongState):
        put_nic(rack_, "n1", "nic1", MAC, PortName("s1", "p1"))
    put_nic(rack_, "n1", "nic0", load_nic(rack_).mac, None)
    rack_.allocate(RED, "red")
    with pytest.raises(WrongState):
        put_nic(rack_, "n1", "nic0", load_nic(rack_).mac, P0)
    with pytest.raises(WrongState), rack_.tx() as tx:
        rack.delete_nic(tx, PROVIDER, node="n1", name="nic0")


def load_nic(made: Rack) -> Nic:
    with made.database.reading() as connection:
        return store.load_node(connection, "n1").nics[0]


# -- import ------------------------------------------------------------------------------------------------------------


def inventory(*nodes: str, bridge: str = "rack") -> Inventory:
    return Inventory(
        "steelyard-1",
        InventorySwitch("switch", bridge, ("tcp:127.77.0.2:6640",), "services"),
        (),
        tuple(
            InventoryNode(
                name,
                f"uuid of {name}",
                BmcAccess("127.77.1.1", 623, "https://127.77.1.1:443", "admin", Secret(b"tell nobody"), "PEM"),
                (InventoryNic("nic0", f"02:73:79:00:{number:02x}:00", "switch", f"{name}-nic0"),),
                {},
            )
            for number, name in enumerate(nodes)
        ),
    )


REAL = Drivers({"openvswitch": DRIVERS.switches["fake"]}, {"redfish": DRIVERS.bmcs["fake"]})


def import_(made: Rack, what: Inventory) -> tuple[Node, ...]:
    anything = Drivers(dict.fromkeys(REAL.switches, _any), dict.fromkeys(REAL.bmcs, _any))
    with made.tx() as tx:
        return rack.import_rack(tx, PROVIDER, SEALER, anything, inventory=what)


def _any(access: Any) -> Any:
    return access


def test_a_rack_is_imported_once_however_often_it_is(rack_: Rack) -> None:
    nodes = import_(rack_, inventory("n1", "n2"))
    assert [(node.name, node.state, node.nics[0].port) for node in nodes] == [
        ("n1", NodeState.MAINTENANCE, PortName("switch", "n1-nic0")),
        ("n2", NodeState.MAINTENANCE, PortName("switch", "n2-nic0")),
    ]
    before = rack_.journal()
    assert import_(rack_, inventory("n1", "n2")) == nodes
    assert rack_.journal() == before
    assert len(import_(rack_, inventory("n1", "n2", "n3"))) == 3


def test_importing_again_keeps_labels_and_references(rack_: Rack) -> None:
    import_(rack_, inventory("n1"))
    labelled = put_like(rack_, labels={"room": "a"}, identity=Identity({}, ("sha256:" + "0" * 64,), ("ovmf",)))
    assert import_(rack_, inventory("n1")) == (labelled,)


def put_like(made: Rack, **changes: Any) -> Node:
    with made.tx() as tx:
        node = store.load_node(tx.connection, "n1")
        wanted = replace(node, **changes)
        return rack.put_node(
            tx,
            PROVIDER,
            SEALER,
            Drivers({}, {"redfish": _any}),
            name="n1",
            labels=wanted.labels,
            hardware=wanted.hardware,
            identity=wanted.identity,
            bmc_driver=wanted.bmc_driver,
            bmc_address=wanted.bmc_address,
            bmc_credentials=None,
            expected_version=None,
        )


def test_an_import_that_cannot_be_whole_changes_nothing(rack_: Rack) -> None:
    import_(rack_, inventory("n1"))
    before = rack_.journal()
    with pytest.raises(AlreadyThere):
        import_(rack_, inventory("n0", "n1", bridge="other"))  # n0 would have the card of n1
    assert rack_.journal() == before
