"""The verbs on nodes, on each kind of database: what they leave behind, and that a refusal leaves nothing."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from steelyard.isolation import operations, store, tables
from steelyard.isolation.life import NodeState
from steelyard.isolation.objects import (
    Members,
    Operation,
    OperationState,
    PortName,
    Public,
    Release,
    ReleaseStep,
    SharedWith,
    Verb,
)
from steelyard.isolation.ports import BootDevice
from steelyard.model.errors import (
    AlreadyThere,
    NotAdmitted,
    NotAllowed,
    NotEnough,
    NotFound,
    OverQuota,
    TooMany,
    WrongState,
    WrongUse,
)
from steelyard.service.authority import Caller, Right, Role
from tests.unit.isolation.rig import AUDITOR, BLUE, LIMIT, PROVIDER, RED, STRANGER, Rack
from tests.unit.isolation.things import WEIGHED
from tests.unit.isolation.verdicts import claims, sign

FREE, REJECTED, MAINTENANCE = NodeState.FREE, NodeState.REJECTED, NodeState.MAINTENANCE
DONE, PENDING, CANCELLED = OperationState.DONE, OperationState.PENDING, OperationState.CANCELLED


def power(rack: Rack, caller: Caller, node: str, verb: Verb = Verb.POWER_ON) -> Operation:
    with rack.tx() as tx:
        return operations.power(tx, caller, node=node, verb=verb, limit=LIMIT)


def quarantine(rack: Rack, caller: Caller, node: str) -> Operation:
    with rack.tx() as tx:
        return operations.quarantine(tx, caller, node=node, why="it failed", limit=LIMIT)


def release(
    rack: Rack,
    caller: Caller,
    node: str,
    to: NodeState = FREE,
    waives: frozenset[ReleaseStep] = frozenset(),
) -> Operation:
    with rack.tx() as tx:
        return operations.release(tx, caller, node=node, to=to, why="done with it", waives=waives, limit=LIMIT)


def cancel(rack: Rack, caller: Caller, operation: Operation) -> Operation:
    with rack.tx() as tx:
        return operations.cancel(tx, caller, operation=operation.id)


def verdict(rack: Rack, node: str) -> str:
    return sign(claims(node, rack.database.clock()))


@pytest.fixture
def used(rack: Rack) -> Rack:
    """A rack in which red has n1, with two NICs on switch s1, and a network."""
    rack.free("n1", PortName("s1", "p0"), PortName("s1", "p1"))
    rack.allocate(RED, "red")
    rack.network("net", "red")
    rack.network("other", "red")
    return rack


# -- allocate ----------------------------------------------------------------------------------------------------------


def test_the_first_free_nodes_by_name_with_the_labels_are_given(rack: Rack) -> None:
    for name, room in (("n3", "a"), ("n1", "b"), ("n2", "a"), ("n4", "a")):
        rack.free(name, labels={"room": room, "kind.of": "x"})
    assert rack.allocate(RED, "red", 2, "a1", **{"room": "a", "kind.of": "x"}) == ("n2", "n3")
    with rack.database.reading() as connection:
        node = store.load_node(connection, "n2")
    assert (node.state, node.project, node.allocation) == (NodeState.ALLOCATED, "red", "a1")
    assert node.allocated_at == node.since
    assert ("node.allocated", "node/n2", "red") in rack.journal()


def test_labels_match_whole_and_as_texts(rack: Rack) -> None:
    rack.free("n1", labels={"room": "10"})
    for wrong in ("1", "100", "1%", "true"):
        with pytest.raises(NotEnough):
            rack.allocate(RED, "red", room=wrong)
    assert rack.allocate(RED, "red", room="10") == ("n1",)


def test_all_or_none_are_given(rack: Rack) -> None:
    rack.free("n1")
    with pytest.raises(NotEnough, match="found n1"):
        rack.allocate(RED, "red", 2)
    assert rack.state("n1") is FREE


@pytest.mark.parametrize(
    "values", [{"state": s.value} for s in NodeState if s is not FREE] + [{"trouble": "no answer"}]
)
def test_what_is_not_free_and_healthy_is_not_given(rack: Rack, values: dict[str, str]) -> None:
    rack.free("n1")
    rack.put(tables.nodes, "n1", **({"release_to": "free"} if values.get("state") == "releasing" else {}), **values)
    with pytest.raises(NotEnough):
        rack.allocate(RED, "red")


def test_a_request_asked_again_gives_the_same_nodes(rack: Rack) -> None:
    for name in ("n1", "n2", "n3"):
        rack.free(name)
    assert rack.allocate(RED, "red", 2, "mine") == rack.allocate(RED, "red", 2, "mine") == ("n1", "n2")
    with pytest.raises(AlreadyThere):
        rack.allocate(RED, "red", 1, "mine")
    assert rack.allocate(BLUE, "blue", 1, "mine") == ("n3",)


def test_named_nodes_are_given_and_no_others(rack: Rack) -> None:
    for name in ("n1", "n2", "n3"):
        rack.free(name)

    def ask(count: int, *names: str) -> tuple[str, ...]:
        with rack.tx() as tx:
            nodes = operations.allocate(tx, RED, project="red", count=count, labels={}, allocation="a", names=names)
            return tuple(node.name for node in nodes)

    with pytest.raises(WrongUse):
        ask(2, "n3")
    with pytest.raises(WrongUse):
        ask(2, "n3", "n3")
    with pytest.raises(NotEnough):
        ask(2, "n3", "n9")
    assert ask(2, "n3", "n1") == ask(2, "n1", "n3") == ("n1", "n3")
    with pytest.raises(AlreadyThere):
        ask(2, "n1", "n2")


def test_a_project_has_no_more_nodes_than_its_quota(rack: Rack) -> None:
    rack.project("red", nodes=2)
    for name in ("n1", "n2", "n3"):
        rack.free(name)
    rack.allocate(RED, "red", 2)
    with pytest.raises(OverQuota):
        rack.allocate(RED, "red", 1, "a2")
    release(rack, RED, "n1")
    with pytest.raises(OverQuota):  # it is the project's until it is free
        rack.allocate(RED, "red", 1, "a2")


@pytest.mark.parametrize("count", [-1, 0, 1001])
def test_some_nodes_are_asked_for(rack: Rack, count: int) -> None:
    with pytest.raises(WrongUse):
        rack.allocate(RED, "red", count)


@pytest.mark.parametrize(
    "caller", [BLUE, STRANGER, AUDITOR, Caller("rob", None, {"red": Role.ADMIN}, frozenset({Right.READ}))]
)
def test_nobody_takes_nodes_for_anothers_project(rack: Rack, caller: Caller) -> None:
    rack.free("n1")
    with pytest.raises(NotAllowed):
        rack.allocate(caller, "red")


# -- attach and detach -------------------------------------------------------------------------------------------------


def test_an_attachment_is_done_when_its_port_was_read_back(used: Rack) -> None:
    operation = used.attach(RED, "n1", "net")
    assert operation.state is PENDING
    assert "s1/p0" in operation.progress
    used.read_back()
    assert used.operation(operation).state is DONE
    (row,) = used.attachments("n1")
    assert (row.nic, row.network, row.wanted, row.tagged) == ("nic0", "net", True, False)
    assert ("attachment.wanted", "node/n1", "red") in used.journal()
    assert ("operation.done", f"operation/{operation.id}", "red") in used.journal()


def test_what_is_asked_again_waits_for_the_same(used: Rack) -> None:
    first, second = used.attach(RED, "n1", "net"), used.attach(RED, "n1", "net")
    assert used.port("s1", "p0")[0] == 3  # registered, plugged in, attached once
    used.read_back()
    assert [used.operation(operation).state for operation in (first, second)] == [DONE, DONE]
    assert used.attach(RED, "n1", "net").state is DONE
    gone, again = used.detach(RED, "n1", "net"), used.detach(RED, "n1", "net")
    assert (gone.state, again.state) == (PENDING, PENDING)
    used.read_back()
    assert [used.operation(operation).state for operation in (gone, again)] == [DONE, DONE]
    assert used.detach(RED, "n1", "net").state is DONE


def test_a_row_stays_until_its_port_was_read_without_it(used: Rack) -> None:
    used.attach(RED, "n1", "net")
    used.read_back()
    used.detach(RED, "n1", "net")
    assert [row.wanted for row in used.attachments("n1")] == [False]
    used.read_back()
    assert used.attachments("n1") == ()


def test_detaching_ends_what_waits_for_the_attachment_and_the_other_way_round(used: Rack) -> None:
    first = used.attach(RED, "n1", "net")
    other = used.attach(RED, "n1", "other", "nic1")
    off = used.detach(RED, "n1", "net")
    assert used.operation(first).state is CANCELLED
    assert used.operation(other).state is PENDING
    again = used.attach(RED, "n1", "net", tagged=True)
    assert used.operation(off).state is CANCELLED
    used.read_back()
    assert used.operation(again).state is DONE
    assert [(row.network, row.tagged) for row in used.attachments("n1")] == [("net", True), ("other", False)]


def test_a_nic_moves_between_networks_in_one_write(used: Rack) -> None:
    used.network("airlock", "red", members=Members.ISOLATED)
    used.attach(RED, "n1", "airlock")
    used.read_back()
    used.detach(RED, "n1", "airlock")
    used.attach(RED, "n1", "net")
    assert {(row.network, row.wanted) for row in used.attachments("n1")} == {("airlock", False), ("net", True)}


def test_members_of_an_isolated_network_sit_on_one_switch(used: Rack) -> None:
    used.network("airlock", "red", members=Members.ISOLATED)
    used.free("n2", PortName("s2", "p0"))
    used.free("n3", PortName("s1", "p9"))
    used.allocate(RED, "red", 2, "a2")
    used.attach(RED, "n1", "airlock")
    used.attach(RED, "n3", "airlock")
    with pytest.raises(WrongState, match="all on switch s2"):
        used.attach(RED, "n2", "airlock")
    for node in ("n1", "n3"):
        used.detach(RED, node, "airlock")
    with pytest.raises(WrongState):  # not yet read to be gone
        used.attach(RED, "n2", "airlock")
    used.read_back()
    used.attach(RED, "n2", "airlock")


@pytest.mark.parametrize("caller", [BLUE, STRANGER])
def test_another_projects_node_looks_as_if_it_were_not_there(used: Rack, caller: Caller) -> None:
    for verb in (used.attach, used.detach):
        with pytest.raises(NotFound):
            verb(caller, "n1", "net")
    for node in ("n1", "n9"):
        with pytest.raises(NotFound, match=f"node {node}"):
            power(used, caller, node)
        with pytest.raises(NotFound, match=f"node {node}"):
            quarantine(used, caller, node)
        with pytest.raises(NotFound, match=f"node {node}"):
            release(used, caller, node)


def test_a_network_is_used_by_the_nodes_project_not_by_the_callers(used: Rack) -> None:
    used.network("blues", "blue")
    both = Caller("ron", None, {"red": Role.MEMBER, "blue": Role.MEMBER}, frozenset(Right))
    with pytest.raises(NotAllowed):
        used.attach(both, "n1", "blues")
    with pytest.raises(NotAllowed):
        used.attach(PROVIDER, "n1", "blues")
    with pytest.raises(NotFound):
        used.attach(RED, "n1", "blues")
    with pytest.raises(NotFound):
        used.detach(RED, "n1", "blues")
    used.network("blues", "blue", SharedWith(frozenset({"red"})))
    used.attach(RED, "n1", "blues")


def test_a_public_network_is_used_by_every_project(used: Rack) -> None:
    used.network("world", None, Public())
    assert used.attach(RED, "n1", "world").state is PENDING


def test_a_nic_without_a_cable_is_refused_and_detached_at_once(rack: Rack) -> None:
    rack.free("n1", None)
    rack.allocate(RED, "red")
    rack.network("net", "red")
    with pytest.raises(WrongState, match="plugged into"):
        rack.attach(RED, "n1", "net")
    assert rack.detach(RED, "n1", "net").state is DONE


def test_a_refused_verb_leaves_nothing(used: Rack) -> None:
    before = used.journal()
    used.network("net", "red")
    with pytest.raises(NotFound):
        used.attach(RED, "n1", "nowhere")
    with pytest.raises(WrongUse), used.tx() as tx:
        operations.attach(tx, RED, node="n1", nic="nic0", network="net", tagged=False, verdict=None, limit=timedelta(0))
    assert used.journal() == before
    assert used.attachments("n1") == ()


# -- verdicts ----------------------------------------------------------------------------------------------------------


def test_only_a_verdict_lets_a_node_onto_a_network_that_demands_one(used: Rack) -> None:
    used.network("enclave", "red", admission=WEIGHED)
    for bad in (None, verdict(used, "n2")):
        with pytest.raises(NotAdmitted):
            used.attach(RED, "n1", "enclave", verdict=bad)
    with pytest.raises(NotAdmitted):
        used.attach(PROVIDER, "n1", "enclave")
    used.attach(RED, "n1", "enclave", verdict=verdict(used, "n1"))
    assert used.attachments("n1")[0].verdict_at is not None


def test_a_fresher_verdict_lets_an_attachment_wait_longer(used: Rack) -> None:
    used.network("enclave", "red", admission=WEIGHED)
    used.attach(RED, "n1", "enclave", verdict=verdict(used, "n1"))
    with used.tx() as tx:
        tx.connection.execute(update(tables.attachments).values(verdict_at=tx.now - timedelta(minutes=9)))
    used.attach(RED, "n1", "enclave", verdict=verdict(used, "n1"))
    (row,) = used.attachments("n1")
    assert row.verdict_at is not None
    assert used.database.clock() - row.verdict_at < timedelta(minutes=1)


def test_a_verdict_from_before_the_node_was_started_anew_does_not_admit(used: Rack) -> None:
    used.network("enclave", "red", admission=WEIGHED)
    old = verdict(used, "n1")
    operation = power(used, RED, "n1", Verb.POWER_CYCLE)
    with pytest.raises(WrongState, match="being started"):
        used.attach(RED, "n1", "enclave", verdict=old)
    with used.tx() as tx:
        tx.connection.execute(
            update(tables.operations)
            .where(tables.operations.c.id == operation.id)
            .values(state="done", ended=tx.now + timedelta(seconds=2))
        )
    with pytest.raises(NotAdmitted, match="what runs since"):
        used.attach(RED, "n1", "enclave", verdict=old)


def test_a_node_is_not_started_on_a_network_that_demands_a_verdict(used: Rack) -> None:
    used.network("enclave", "red", admission=WEIGHED)
    used.attach(RED, "n1", "enclave", verdict=verdict(used, "n1"))
    for verb in (Verb.POWER_ON, Verb.POWER_CYCLE):
        with pytest.raises(WrongState, match="detach it first"):
            power(used, RED, "n1", verb)
    power(used, RED, "n1", Verb.POWER_OFF)
    used.detach(RED, "n1", "enclave")
    with pytest.raises(WrongState):  # the port may carry it still
        power(used, RED, "n1")
    used.read_back()
    power(used, RED, "n1")


# -- power -------------------------------------------------------------------------------------------------------------


def test_power_is_wanted_and_left_to_the_keeper(used: Rack) -> None:
    operation = power(used, RED, "n1")
    assert (operation.state, operation.verb, operation.project) == (PENDING, Verb.POWER_ON, "red")
    with used.tx() as tx:
        boot = operations.set_boot_device(tx, RED, node="n1", device=BootDevice.NETWORK, once=True, limit=LIMIT)
    assert boot.parameters == {"device": "network", "once": "yes"}
    with pytest.raises(WrongUse):
        power(used, RED, "n1", Verb.RELEASE)


def test_a_free_node_is_nobodys_to_switch_on(rack: Rack) -> None:
    rack.free("n1")
    with pytest.raises(NotAllowed):
        power(rack, RED, "n1")
    with pytest.raises(WrongState):
        power(rack, PROVIDER, "n1")


def test_a_node_has_a_limited_number_of_operations_under_way(used: Rack) -> None:
    for _ in range(64):
        power(used, RED, "n1", Verb.POWER_READ)
    with pytest.raises(TooMany):
        power(used, RED, "n1", Verb.POWER_READ)
    with pytest.raises(TooMany):
        used.attach(RED, "n1", "net")
    quarantine(used, RED, "n1")
    release(used, RED, "n1")


# -- quarantine --------------------------------------------------------------------------------------------------------


def test_quarantine_cuts_every_port_ahead_of_the_queue(used: Rack) -> None:
    used.attach(RED, "n1", "net")
    used.read_back()
    operation = quarantine(used, RED, "n1")
    assert used.state("n1") is NodeState.QUARANTINED
    assert [row.wanted for row in used.attachments("n1")] == [False]
    for port in ("p0", "p1"):  # the one that carries nothing too
        wanted, applied, urgent = used.port("s1", port)
        assert (wanted - applied, urgent) == (1, True)
    assert operation.state is PENDING
    used.read_back()
    assert used.operation(operation).state is DONE


def test_quarantine_ends_what_waits_and_lets_nothing_begin(used: Rack) -> None:
    waiting = [power(used, RED, "n1"), used.attach(RED, "n1", "net")]
    quarantine(used, RED, "n1")
    assert [used.operation(operation).state for operation in waiting] == [CANCELLED, CANCELLED]
    with pytest.raises(WrongState):
        power(used, RED, "n1", Verb.POWER_OFF)
    with pytest.raises(WrongState):
        used.attach(RED, "n1", "net")
    assert used.detach(RED, "n1", "net").state is PENDING
    assert power(used, PROVIDER, "n1", Verb.POWER_OFF).state is PENDING


def test_quarantine_cuts_again_when_asked_again(used: Rack) -> None:
    quarantine(used, RED, "n1")
    used.read_back()
    again = quarantine(used, PROVIDER, "n1")
    assert again.state is PENDING
    assert used.port("s1", "p0")[2]


def test_a_free_node_is_not_quarantined(rack: Rack) -> None:
    rack.free("n1")
    with pytest.raises(NotAllowed):
        quarantine(rack, RED, "n1")
    with pytest.raises(WrongState):
        quarantine(rack, PROVIDER, "n1")


# -- release -----------------------------------------------------------------------------------------------------------


def test_a_release_leaves_the_ports_until_the_node_is_off(used: Rack) -> None:
    used.attach(RED, "n1", "net")
    used.read_back()
    before = used.port("s1", "p0")
    operation = release(used, RED, "n1")
    assert (operation.state, operation.verb) == (PENDING, Verb.RELEASE)
    assert used.port("s1", "p0") == before
    assert [row.wanted for row in used.attachments("n1")] == [True]
    with used.database.reading() as connection:
        node = store.load_node(connection, "n1")
    assert (node.state, node.project) == (NodeState.RELEASING, "red")
    assert node.release == Release(None, FREE, frozenset())


def test_a_release_ends_what_waits_and_closes_the_console(used: Rack) -> None:
    waiting = [power(used, RED, "n1"), used.attach(RED, "n1", "net")]
    release(used, RED, "n1")
    assert [used.operation(operation).state for operation in waiting] == [CANCELLED, CANCELLED]
    for verb in (Verb.POWER_ON, Verb.POWER_READ):
        with pytest.raises(WrongState):
            power(used, PROVIDER, "n1", verb)


def test_a_release_is_resumed_where_it_was(used: Rack) -> None:
    release(used, RED, "n1")
    used.put(tables.nodes, "n1", release_step="power")
    with used.database.reading() as connection:
        since = store.load_node(connection, "n1").since
    release(used, RED, "n1", REJECTED)
    with used.database.reading() as connection:
        node = store.load_node(connection, "n1")
    assert node.release == Release(ReleaseStep.POWER, FREE, frozenset())
    assert node.since == since


def test_only_the_provider_waives_a_step_and_never_on_the_way_to_free(used: Rack) -> None:
    waives = frozenset({ReleaseStep.PORTS})
    with pytest.raises(NotAllowed):
        release(used, RED, "n1", REJECTED, waives)
    with pytest.raises(WrongUse):
        release(used, PROVIDER, "n1", FREE, waives)
    release(used, PROVIDER, "n1", REJECTED, waives)
    with used.database.reading() as connection:
        assert store.load_node(connection, "n1").release == Release(None, REJECTED, waives)


def test_a_free_node_is_not_released(rack: Rack) -> None:
    rack.free("n1")
    with pytest.raises(WrongState):
        release(rack, PROVIDER, "n1")


def test_the_provider_sets_nodes_aside_and_brings_them_back(rack: Rack) -> None:
    rack.free("n1")
    with rack.tx() as tx:
        assert operations.hold_node(tx, PROVIDER, node="n1", why="a fan").state is MAINTENANCE
        assert operations.reject_node(tx, PROVIDER, node="n1", why="its board").state is REJECTED
        assert operations.hold_node(tx, PROVIDER, node="n1", why="a new board").state is MAINTENANCE
    release(rack, PROVIDER, "n1")
    assert rack.state("n1") is NodeState.RELEASING
    for verb in (operations.hold_node, operations.reject_node):
        with pytest.raises(NotAllowed), rack.tx() as tx:
            verb(tx, RED, node="n1", why="mine")
        with pytest.raises(WrongState), rack.tx() as tx:
            verb(tx, PROVIDER, node="n1", why="not now")


# -- holds -------------------------------------------------------------------------------------------------------------


def test_a_hold_is_placed_once_and_lifted(used: Rack) -> None:
    with used.tx() as tx:
        first = operations.place_hold(tx, RED, node="n1", name="volume-1", why="its root disk")
    with used.tx() as tx:
        assert operations.place_hold(tx, RED, node="n1", name="volume-1", why="again") == first
    release(used, RED, "n1")
    with used.tx() as tx:
        assert operations.place_hold(tx, RED, node="n1", name="volume-1", why="again") == first
    with pytest.raises(WrongState), used.tx() as tx:
        operations.place_hold(tx, RED, node="n1", name="volume-2", why="too late")
    with pytest.raises(NotFound), used.tx() as tx:
        operations.lift_hold(tx, BLUE, node="n1", name="volume-1")
    with used.tx() as tx:
        operations.lift_hold(tx, PROVIDER, node="n1", name="volume-1")
        operations.lift_hold(tx, RED, node="n1", name="volume-1")
        assert "node/n1" in tx.topics
    verbs = [verb for verb, _, _ in used.journal()]
    assert (verbs.count("hold.placed"), verbs.count("hold.lifted")) == (1, 1)


# -- cancel ------------------------------------------------------------------------------------------------------------


def test_a_cancelled_attachment_is_taken_off(used: Rack) -> None:
    first, second = used.attach(RED, "n1", "net"), used.attach(RED, "n1", "net")
    wanted = used.port("s1", "p0")[0]
    assert cancel(used, RED, first).state is CANCELLED
    assert used.operation(second).state is CANCELLED  # it would wait for what does not come
    assert [row.wanted for row in used.attachments("n1")] == [False]
    assert used.port("s1", "p0")[0] == wanted + 1
    assert cancel(used, RED, first).state is CANCELLED
    with used.database.reading() as connection:
        assert connection.scalar(select(func.count()).select_from(tables.operation_ports)) == 0


def test_cancelled_power_does_not_begin(used: Rack) -> None:
    assert cancel(used, RED, power(used, RED, "n1")).state is CANCELLED


def test_what_has_ended_or_must_end_by_itself_is_not_cancelled(used: Rack) -> None:
    attached = used.attach(RED, "n1", "net")
    used.read_back()
    for operation in (attached, used.detach(RED, "n1", "net"), quarantine(used, RED, "n1"), release(used, RED, "n1")):
        with pytest.raises(WrongState):
            cancel(used, PROVIDER, operation)


def test_what_has_ended_does_not_end_otherwise(used: Rack) -> None:
    operation = cancel(used, RED, power(used, RED, "n1"))
    before = used.journal()
    with used.tx() as tx:
        assert not store.end_operation(tx, operation, DONE, actor="keeper", progress="done")
    assert used.operation(operation) == operation
    assert used.journal() == before


def test_anothers_operation_is_not_cancelled(used: Rack) -> None:
    operation = power(used, RED, "n1")
    with pytest.raises(NotFound):
        cancel(used, BLUE, operation)
    for caller in (AUDITOR, Caller("rob", None, {"red": Role.ADMIN}, frozenset({Right.READ, Right.NODES}))):
        with pytest.raises(NotAllowed):
            cancel(used, caller, operation)


# -- rights ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("right", list(Right))
def test_a_token_gives_what_it_is_for(used: Rack, right: Right) -> None:
    caller = Caller("rob", None, {"red": Role.ADMIN}, frozenset({right}))
    verbs: dict[Right, list[Callable[[], object]]] = {
        Right.NETWORKS: [lambda: used.attach(caller, "n1", "net"), lambda: used.detach(caller, "n1", "net")],
        Right.POWER: [lambda: power(used, caller, "n1")],
        Right.NODES: [lambda: quarantine(used, caller, "n1"), lambda: release(used, caller, "n1")],
    }
    for needed, calls in verbs.items():
        for call in calls:
            if needed is right:
                call()
            else:
                with pytest.raises(NotAllowed):
                    call()
