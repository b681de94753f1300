"""What a port is to carry, and whose turn it is."""

from collections.abc import Sequence
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.isolation.life import NodeState
from steelyard.isolation.objects import Members, PortName, ReleaseStep
from steelyard.isolation.wanted import Batch, DuePort, Wish, next_batch, wanted_port
from steelyard.model.network import SHUT, PortVlans, Vlan
from tests.unit.isolation.rig import NOW
from tests.unit.isolation.things import WEIGHED, a_network, an_attachment

PLAIN = Wish(an_attachment(), a_network())
TAGGED = Wish(an_attachment("other", tagged=True), a_network("other", 200))
ALONE = Wish(an_attachment("alone"), a_network("alone", 300, members=Members.ISOLATED))


@pytest.mark.parametrize(
    ("wishes", "carries"),
    [
        ([], SHUT),
        ([PLAIN], PortVlans(Vlan(100))),
        ([TAGGED], PortVlans(None, frozenset({Vlan(200)}))),
        ([PLAIN, TAGGED], PortVlans(Vlan(100), frozenset({Vlan(200)}))),
        ([ALONE], PortVlans(Vlan(300), isolated=True)),
    ],
)
def test_a_port_carries_what_its_nic_is_attached_to(wishes: Sequence[Wish], carries: PortVlans) -> None:
    assert wanted_port(NodeState.ALLOCATED, None, wishes, NOW) == carries


def test_what_is_being_taken_off_is_not_carried() -> None:
    going = Wish(an_attachment(wanted=False, applied_at=NOW), a_network())
    assert wanted_port(NodeState.ALLOCATED, None, [going], NOW) == SHUT
    assert wanted_port(NodeState.ALLOCATED, None, [going, TAGGED], NOW) == PortVlans(None, frozenset({Vlan(200)}))


@pytest.mark.parametrize("state", [None, *NodeState])
def test_only_a_node_in_use_carries_anything(state: NodeState | None) -> None:
    carries = wanted_port(state, ReleaseStep.POWER, [PLAIN], NOW)
    assert carries == (PortVlans(Vlan(100)) if state is NodeState.ALLOCATED else SHUT)


def test_a_released_node_keeps_its_networks_until_it_is_off() -> None:
    assert wanted_port(NodeState.RELEASING, None, [PLAIN], NOW) == PortVlans(Vlan(100))
    for step in ReleaseStep:
        assert wanted_port(NodeState.RELEASING, step, [PLAIN], NOW) == SHUT


@pytest.mark.parametrize(
    "wishes", [[PLAIN, Wish(an_attachment("other"), a_network("other", 200))], [ALONE, TAGGED], [TAGGED, ALONE]]
)
def test_attachments_that_contradict_each_other_carry_nothing(wishes: Sequence[Wish]) -> None:
    assert wanted_port(NodeState.ALLOCATED, None, wishes, NOW) == SHUT


def test_an_attachment_that_waited_longer_than_its_verdict_is_good_for_is_not_carried() -> None:
    network = a_network(admission=WEIGHED)
    fresh = Wish(an_attachment(verdict_at=NOW - WEIGHED.most_age), network)
    assert wanted_port(NodeState.ALLOCATED, None, [fresh], NOW) == PortVlans(Vlan(100))
    assert wanted_port(NodeState.ALLOCATED, None, [fresh], NOW + timedelta(seconds=1)) == SHUT


def test_an_attachment_without_a_verdict_is_not_carried_by_a_network_that_demands_one() -> None:
    assert wanted_port(NodeState.ALLOCATED, None, [Wish(an_attachment(), a_network(admission=WEIGHED))], NOW) == SHUT


def test_what_was_carried_once_stays_however_old_its_verdict_is() -> None:
    wish = Wish(an_attachment(applied_at=NOW, verdict_at=NOW - timedelta(minutes=1)), a_network(admission=WEIGHED))
    assert wanted_port(NodeState.ALLOCATED, None, [wish], NOW + timedelta(days=1)) == PortVlans(Vlan(100))


# -- turns -------------------------------------------------------------------------------------------------------------


def due(*words: str) -> list[DuePort]:
    """Return due ports out of "red1" or "red1!", which is a cut; "-1" is the provider's."""
    ports = []
    for word in words:
        project = word.rstrip("!0123456789")
        ports.append(DuePort(PortName("s1", word.rstrip("!")), None if project == "-" else project, word.endswith("!")))
    return ports


def names(batch: Batch) -> str:
    return " ".join(port.port for port in batch.ports)


def test_projects_take_turns_within_a_batch() -> None:
    ports = due("red1", "red2", "red3", "blue1", "blue2")
    assert names(next_batch(ports, None, 4)) == "blue1 red1 blue2 red2"


def test_the_project_after_the_last_turn_begins() -> None:
    first = next_batch(due("a1", "a2", "b1", "c1"), None, 2)
    assert (names(first), first.turn) == ("a1 b1", "b")
    assert names(next_batch(due("a2", "a3", "c1"), first.turn, 2)) == "c1 a2"


def test_a_project_with_a_thousand_ports_delays_another_by_one_turn() -> None:
    batch = next_batch(due(*(f"red{number}" for number in range(1000)), "blue1"), "blue")
    assert "blue1" in names(batch).split()[:2]


def test_a_cut_goes_alone_and_first() -> None:
    batch = next_batch(due("red1", "blue1!", "red2", "red3!"), "red")
    assert (names(batch), batch.turn) == ("blue1 red3", "red")


def test_the_providers_ports_have_a_turn_too() -> None:
    assert names(next_batch(due("-1", "red1", "-2"), None, 3)) == "red1 -1 -2"


def test_nothing_due_is_no_batch() -> None:
    assert next_batch([], "red").ports == ()


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), st.booleans()), max_size=40),
    st.sampled_from(["a", "b", "c", None]),
    st.integers(1, 9),
)
def test_every_port_is_served_in_the_end_and_nobody_waits_for_more_than_a_turn_of_each(
    kinds: list[tuple[str | None, bool]], turn: str | None, limit: int
) -> None:
    left = [DuePort(PortName("s1", f"p{number:02}"), *kind) for number, kind in enumerate(kinds)]
    while left:
        batch = next_batch(left, turn, limit)
        urgent = [port for port in left if port.urgent]
        served = [port for name in batch.ports for port in left if port.name == name]
        assert len(served) == len(batch.ports) == min(limit, len(urgent or left))
        if urgent:
            assert all(port.urgent for port in served)
        else:
            counts = [sum(port.project == project for port in served) for project in {port.project for port in left}]
            full = [
                count
                for count, project in zip(counts, {port.project for port in left}, strict=True)
                if count < sum(port.project == project for port in left)
            ]
            assert not full or max(counts) - min(full) <= 1
        left = [port for port in left if port not in served]
        turn = batch.turn
