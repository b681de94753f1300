"""Enclaves from the file to the receipts, on simulated services: every trust, every change, every end."""

import pytest

from steelyard.enclave import store
from steelyard.enclave.life import State
from steelyard.enclave.ports import Standing
from steelyard.service.database import Database
from tests.fakes.enclave_world import AIRLOCK, ENCLAVE
from tests.unit.enclave.rig import SEAL, Rig, make_rig, text

TRUSTS = ("open", "attested", "sealed")


def running(rig: Rig, count: int) -> bool:
    return rig.settled() and rig.states() == [State.RUNNING] * count


@pytest.mark.parametrize("trust", TRUSTS)
def test_machines_are_taken_started_and_handed_back_clean(database: Database, trust: str) -> None:
    rig = make_rig(database)
    rig.apply(text(trust))
    rig.run(lambda: running(rig, 2))
    wanted = {AIRLOCK} if trust == "open" else {AIRLOCK, ENCLAVE}
    for place in rig.places():
        assert place.node is not None
        assert rig.world.nodes[place.node].networks == wanted
        assert rig.world.nodes[place.node].power == "on"
    assert sorted(rig.world.keys_given) == ([] if trust == "open" else ["n1", "n2"])
    rig.delete()
    rig.run(rig.gone)
    assert rig.world.is_as_at_the_start()
    receipts = [place.receipt for place in rig.places(over=True)]
    assert [receipt and receipt["power"] for receipt in receipts] == ["off, as read by isolation"] * 2


@pytest.mark.parametrize("trust", TRUSTS)
def test_an_enclave_grows_and_shrinks_and_what_runs_is_left_alone(database: Database, trust: str) -> None:
    rig = make_rig(database)
    rig.apply(text(trust, 1))
    rig.run(lambda: running(rig, 1))
    [first] = rig.places()
    rig.apply(text(trust, 3))
    rig.run(lambda: running(rig, 3))
    rig.apply(text(trust, 1))
    rig.run(lambda: running(rig, 1))
    assert [place.id for place in rig.places()] == [first.id]
    assert len(rig.places(over=True)) == 2


def test_a_file_that_is_applied_again_changes_nothing(database: Database) -> None:
    rig = make_rig(database)
    rig.apply(text())
    rig.run(lambda: running(rig, 2))
    before = [(place.id, place.state) for place in rig.places()]
    rig.apply(text())
    for _ in range(5):
        rig.turn()
    assert [(place.id, place.state) for place in rig.places()] == before


def test_another_image_replaces_machines_one_after_another(database: Database) -> None:
    rig = make_rig(database, nodes=6)
    rig.apply(text("attested", 3))
    rig.run(lambda: running(rig, 3))
    old = {place.id for place in rig.places()}
    rig.apply(text("attested", 3, image="debian-2"))

    def replaced() -> bool:
        assert sum(state is State.RUNNING for state in rig.states()) >= 2
        return running(rig, 3) and not old & {place.id for place in rig.places()}

    rig.run(replaced)


@pytest.mark.parametrize("trust", ["attested", "sealed"])
def test_a_machine_that_does_not_pass_is_held_with_the_reason(database: Database, trust: str) -> None:
    rig = make_rig(database)
    rig.world.nodes["n1"].good = False
    rig.apply(text(trust))
    rig.run(rig.settled)
    held, other = sorted(rig.places(), key=lambda place: place.node or "")
    assert (held.state, other.state) == (State.HELD, State.RUNNING)
    assert "PCR 0: firmware is another" in held.why
    assert rig.world.nodes["n1"].networks == set()
    assert rig.world.nodes["n1"].power == "off"
    assert rig.world.keys_given == ["n2"]


def test_a_machine_that_hears_a_neighbour_in_its_airlock_is_rejected(database: Database) -> None:
    rig = make_rig(database)
    rig.world.nodes["n1"].neighbours = "02:00:00:00:00:09"
    rig.apply(text("sealed"))
    rig.run(rig.settled)
    held, other = sorted(rig.places(), key=lambda place: place.node or "")
    assert (held.state, other.state) == (State.HELD, State.RUNNING)
    assert "02:00:00:00:00:09" in held.why
    assert rig.world.keys_given == ["n2"]


def test_a_machine_of_trust_sealed_runs_the_image_that_its_file_seals_and_no_other(database: Database) -> None:
    rig = make_rig(database, nodes=1)
    changed = {**SEAL, "initramfs": "0b" * 32}
    rig.apply(text("sealed", 1, seal=changed, rejected={"then": "hold", "attempts": 1}))
    rig.run(rig.settled)
    [over] = rig.places(over=True)
    assert "comparing the image with its seal: expected initramfs 0b0b" in over.why
    assert rig.world.keys_given == []


def test_another_machine_is_tried_in_place_of_one_that_does_not_pass(database: Database) -> None:
    rig = make_rig(database)
    rig.world.nodes["n1"].good = False
    rig.apply(text("attested", rejected={"then": "retry"}))
    rig.run(lambda: running(rig, 2))
    assert sorted(place.node or "" for place in rig.places()) == ["n2", "n3"]
    rig.run(lambda: rig.world.nodes["n1"].allocation is None)


def test_machines_that_never_pass_are_not_tried_for_ever(database: Database) -> None:
    rig = make_rig(database, nodes=2)
    for node in rig.world.nodes.values():
        node.good = False
    limits = {"wanted": 30, "airlock": 60}
    rig.apply(text("attested", 2, rejected={"then": "retry", "attempts": 2}, limits=limits))
    rig.run(rig.settled, most=2000)
    assert rig.states() == []
    assert rig.world.is_as_at_the_start()
    assert rig.enclave().failures >= 4
    for node in rig.world.nodes.values():
        node.good = True
    rig.retry()
    rig.run(lambda: running(rig, 2))


def test_a_machine_that_never_boots_is_given_back_at_its_limit(database: Database) -> None:
    rig = make_rig(database, nodes=1)
    rig.world.nodes["n1"].dead = True
    rejected = {"then": "hold", "attempts": 1}
    rig.apply(text("attested", 1, limits={"airlock": 30}, rejected=rejected))
    rig.run(rig.settled)
    assert rig.states() == []
    [over] = rig.places(over=True)
    assert over.why.startswith("airlock for longer than it may be")
    assert rig.world.is_as_at_the_start()


def test_an_image_that_is_none_gives_the_machine_back_at_once(database: Database) -> None:
    rig = make_rig(database, nodes=1)
    rig.apply(text("open", 1, image="absent", rejected={"then": "hold", "attempts": 1}))
    rig.run(rig.settled)
    [over] = rig.places(over=True)
    assert over.failed
    assert "making its disk" in over.why
    assert rig.world.is_as_at_the_start()


def test_a_network_that_does_not_demand_verdicts_is_no_enclaves(database: Database) -> None:
    rig = make_rig(database, nodes=1, demands=False)
    rig.apply(text("attested", 1, limits={"allocated": 30}, rejected={"then": "hold", "attempts": 1}))
    rig.run(rig.settled)
    assert "demands verdicts" in rig.places(over=True)[0].why
    assert rig.world.keys_given == []


def test_a_machine_that_falls_is_cut_off_and_its_peers_drop_it(database: Database) -> None:
    rig = make_rig(database)
    enclave = rig.apply(text("sealed"))
    rig.run(lambda: running(rig, 2))
    with database.reading() as connection:
        before = store.signed_peers(connection, rig.worker._sealer, enclave.id)
    node = rig.places()[0].node
    assert node is not None
    rig.world.frozen = True
    rig.world.nodes[node].standing = Standing.FAILED
    rig.run(lambda: State.HELD in rig.states())
    found = rig.world.nodes[node]
    assert found.cut
    assert found.networks == set()
    assert found.served is None
    with database.reading() as connection:
        after = store.signed_peers(connection, rig.worker._sealer, enclave.id)
        held = next(place for place in rig.places() if place.state is State.HELD)
        assert store.find_delivery(connection, held.facts.delivery or "") is None
    assert before != after


def test_a_disk_is_kept_where_that_was_asked(database: Database) -> None:
    rig = make_rig(database)
    rig.apply(text("open", 1, disk={"after": "keep"}))
    rig.run(lambda: running(rig, 1))
    rig.delete()
    rig.run(rig.gone)
    [place] = rig.places(over=True)
    assert place.receipt is not None
    assert place.receipt["volume"] == f"kept: {place.volume}"
    assert list(rig.world.volumes) == [place.volume]


def test_too_few_machines_are_waited_for_and_then_it_is_left_at_that(database: Database) -> None:
    rig = make_rig(database, nodes=1)
    rig.apply(text("open", 2, limits={"wanted": 20}, rejected={"then": "hold", "attempts": 1}))
    rig.run(rig.settled)
    assert rig.states() == [State.RUNNING]
