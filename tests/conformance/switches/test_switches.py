"""What every switch driver holds to, and the fake with them."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations

import pytest

from steelyard.isolation.ports import Missing, Other, Switch
from steelyard.model.errors import DeviceError, DeviceGarbled, DeviceRefused, DeviceUnreachable, OutcomeUnknown
from steelyard.model.network import SHUT, PortVlans, Vlan
from tests.conformance.switches.bench import LIMIT_SECONDS, PORTS, Bench, Broken

A, B = Vlan(100), Vlan(200)
ON_A, ON_B = PortVlans(A), PortVlans(B)
STATES = {
    "shut": SHUT,
    "untagged": ON_A,
    "untagged, isolated": PortVlans(A, isolated=True),
    "tagged": PortVlans(tagged=frozenset({A, B})),
    "tagged, isolated": PortVlans(tagged=frozenset({A}), isolated=True),
    "both": PortVlans(A, frozenset({B, Vlan(2)})),
    "both, isolated": PortVlans(B, frozenset({A}), isolated=True),
    "the least VLAN": PortVlans(Vlan(2)),
    "the greatest VLAN": PortVlans(tagged=frozenset({Vlan(4094)})),
    "every VLAN": PortVlans(tagged=frozenset(map(Vlan, range(2, 4095)))),
}
ALL_SHUT = dict.fromkeys(PORTS, SHUT)


@pytest.fixture
def switch(bench: Bench) -> Iterator[Switch]:
    with bench.connect() as switch:
        yield switch


def _seconds_waited(switch: Switch, seconds: float) -> float:
    begin = time.monotonic()
    switch.wait_for_change(seconds)
    return time.monotonic() - begin


def _hear_all_that_was(switch: Switch) -> None:
    """Have the switch's connection made, and nothing left of what it said until now."""
    switch.read(PORTS)
    while _seconds_waited(switch, 0.05) < 0.05:
        pass


# -- what is carried ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_what_was_written_is_read(switch: Switch, state: PortVlans) -> None:
    switch.write({"p2": state}, fence=1)
    assert switch.read(["p2"]) == {"p2": state}


@pytest.mark.parametrize("former", STATES.values(), ids=STATES)
def test_nothing_is_left_of_what_a_port_carried_before(bench: Bench, switch: Switch, former: PortVlans) -> None:
    switch.write({"p1": PortVlans(tagged=frozenset({A, B})), "p2": former}, fence=1)
    switch.write({"p2": SHUT}, fence=1)
    assert switch.read(["p2"]) == {"p2": SHUT}
    assert not bench.reaches("p1", "p2")
    assert not bench.reaches("p2", "p1")


def test_ports_that_are_not_named_stay_as_they_are(switch: Switch) -> None:
    switch.write({"p1": ON_A, "p2": ON_B}, fence=1)
    switch.write({"p3": ON_A}, fence=1)
    assert switch.read(PORTS) == {"p1": ON_A, "p2": ON_B, "p3": ON_A, "p4": SHUT}


def test_what_is_asked_for_is_read_and_no_more(switch: Switch) -> None:
    assert switch.read({"p3", "p1"}) == {"p1": SHUT, "p3": SHUT}
    assert switch.read([]) == {}


def test_writing_the_same_again_is_harmless(switch: Switch) -> None:
    for _ in range(3):
        switch.write({"p1": ON_A, "p2": SHUT}, fence=1)
        assert switch.read(PORTS) == ALL_SHUT | {"p1": ON_A}


def test_a_port_that_is_shut_carries_nothing(bench: Bench, switch: Switch) -> None:
    switch.write(
        {"p1": SHUT, "p2": SHUT, "p3": PortVlans(A, frozenset({B})), "p4": PortVlans(tagged=frozenset({A, B}))}, fence=1
    )
    assert bench.reaches("p3", "p4")
    for speaker, listener in permutations(PORTS, 2):
        if {speaker, listener} & {"p1", "p2"}:
            assert not bench.reaches(speaker, listener)


def test_ports_reach_each_other_on_a_common_vlan_alone(bench: Bench, switch: Switch) -> None:
    switch.write({"p1": ON_A, "p2": ON_A, "p3": ON_B, "p4": PortVlans(tagged=frozenset({B}))}, fence=1)
    for speaker, listener in permutations(PORTS, 2):
        assert bench.reaches(speaker, listener) == ({speaker, listener} in ({"p1", "p2"}, {"p3", "p4"}))


def test_isolated_ports_reach_all_but_each_other(bench: Bench, switch: Switch) -> None:
    alone = PortVlans(A, isolated=True)
    switch.write({"p1": alone, "p2": alone, "p3": ON_A}, fence=1)
    for speaker, listener in permutations(("p1", "p2", "p3"), 2):
        assert bench.reaches(speaker, listener) == ("p3" in {speaker, listener})


# -- ports that are not there, or not as they should be ----------------------------------------------------------------


def test_a_port_that_is_not_there_is_missing_and_the_others_are_read(bench: Bench, switch: Switch) -> None:
    switch.write({"p1": ON_A, "p2": ON_A}, fence=1)
    bench.remove("p2")
    assert switch.read(["p1", "p2", "never"]) == {"p1": ON_A, "p2": Missing(), "never": Missing()}


def test_a_write_to_a_port_that_is_not_there_is_refused_and_changes_nothing(switch: Switch) -> None:
    switch.write({"p1": ON_A}, fence=1)
    with pytest.raises(DeviceRefused, match="never"):
        switch.write({"p1": SHUT, "never": ON_B, "p3": ON_A}, fence=2)
    assert switch.read(PORTS) == ALL_SHUT | {"p1": ON_A}
    switch.write({"p1": ON_B}, fence=1)  # nor did it leave its fence


def test_a_port_that_somebody_opened_is_seen_and_shut_again(bench: Bench, switch: Switch) -> None:
    switch.write({"p1": ON_A}, fence=1)
    bench.open("p2")
    assert isinstance(switch.read(PORTS)["p2"], Other)
    assert bench.reaches("p1", "p2")
    switch.write({"p2": SHUT}, fence=1)
    assert switch.read(PORTS) == ALL_SHUT | {"p1": ON_A}
    assert not bench.reaches("p1", "p2")


def test_a_switch_that_lost_its_configuration_is_seen_and_set_right_by_whoever_comes(
    bench: Bench, switch: Switch
) -> None:
    switch.write({"p1": ON_A, "p2": ON_A}, fence=9)
    bench.lose_configuration()
    assert all(isinstance(reading, Other) for reading in switch.read(PORTS).values())
    switch.write({**ALL_SHUT, "p1": ON_B}, fence=4)
    assert switch.read(PORTS) == ALL_SHUT | {"p1": ON_B}


# -- one writer --------------------------------------------------------------------------------------------------------


def test_a_writer_with_a_lower_fence_is_refused_and_changes_nothing(bench: Bench, switch: Switch) -> None:
    switch.write({"p1": ON_A}, fence=5)
    with bench.connect() as sleeper, pytest.raises(DeviceRefused, match="fence"):
        sleeper.write({"p1": ON_B, "p2": ON_B}, fence=4)
    assert switch.read(PORTS) == ALL_SHUT | {"p1": ON_A}


def test_a_writer_with_a_higher_fence_takes_over(bench: Bench, switch: Switch) -> None:
    switch.write({"p1": ON_A}, fence=9)
    with bench.connect() as next_one:
        next_one.write({"p1": ON_B}, fence=10)  # greater as a number, less as a text
    with pytest.raises(DeviceRefused, match="fence"):
        switch.write({"p1": ON_A}, fence=9)
    assert switch.read(["p1"]) == {"p1": ON_B}


def test_of_writers_at_once_the_highest_fence_wins_and_no_write_is_lost(bench: Bench) -> None:
    def write(fence: int) -> None:
        with bench.connect() as switch:
            try:
                switch.write({"p1": PortVlans(Vlan(100 + fence)), f"p{fence % 3 + 2}": ON_A}, fence)
            except DeviceRefused:
                assert fence < 8

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(1, 9)))
    with bench.connect() as switch:
        assert switch.read(["p1", "p4"]) == {"p1": PortVlans(Vlan(108)), "p4": ON_A}


# -- word of changes ---------------------------------------------------------------------------------------------------


def test_a_change_by_somebody_else_ends_the_wait(bench: Bench, switch: Switch) -> None:
    _hear_all_that_was(switch)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(_seconds_waited, switch, 10.0)
        bench.open("p3")
        assert waiting.result() < 5


def test_a_change_before_the_wait_is_not_lost(bench: Bench, switch: Switch) -> None:
    _hear_all_that_was(switch)
    bench.open("p3")
    assert _seconds_waited(switch, 10.0) < 5


def test_a_change_by_somebody_else_is_not_lost_in_ones_own(bench: Bench, switch: Switch) -> None:
    _hear_all_that_was(switch)
    bench.open("p3")
    switch.write({"p1": ON_A}, fence=1)
    assert _seconds_waited(switch, 10.0) < 5


def test_ones_own_change_does_not_end_the_wait(switch: Switch) -> None:
    _hear_all_that_was(switch)
    switch.write({"p1": ON_A, "p2": ON_B}, fence=1)
    assert _seconds_waited(switch, 0.2) >= 0.2


def test_a_lost_connection_ends_the_wait(bench: Bench, switch: Switch) -> None:
    _hear_all_that_was(switch)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(_seconds_waited, switch, 10.0)
        bench.hang_up()
        assert waiting.result() < 5


def test_a_change_while_there_was_no_connection_ends_the_wait(bench: Bench, switch: Switch) -> None:
    _hear_all_that_was(switch)
    bench.hang_up()
    bench.open("p3")
    switch.read(["p1"])
    assert _seconds_waited(switch, 10.0) < 5


def test_a_connection_that_was_lost_is_made_anew(bench: Bench, switch: Switch) -> None:
    switch.write({"p1": ON_A}, fence=1)
    bench.hang_up()
    assert switch.read(["p1"]) == {"p1": ON_A}
    bench.hang_up()
    switch.write({"p1": ON_B}, fence=1)
    switch.close()
    assert switch.read(["p1"]) == {"p1": ON_B}


# -- what can go wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", Broken)
def test_what_is_no_switch_is_a_device_error_within_the_limit(bench: Bench, how: Broken) -> None:
    expected: tuple[type[DeviceError], ...] = (DeviceUnreachable,)
    match how:
        case Broken.SILENT:
            expected = (DeviceUnreachable, OutcomeUnknown)
        case Broken.GARBAGE | Broken.ENDLESS:
            expected = (DeviceGarbled,)
    with bench.broken(how) as switch:
        for call in (lambda: switch.read(PORTS), lambda: switch.write(ALL_SHUT, fence=1)):
            begin = time.monotonic()
            with pytest.raises(expected):
                call()
            assert time.monotonic() - begin < (LIMIT_SECONDS + 1 if how is Broken.SILENT else LIMIT_SECONDS)


@pytest.mark.parametrize("done", [False, True])
def test_a_write_without_an_answer_is_of_unknown_outcome_and_reading_tells(bench: Bench, *, done: bool) -> None:
    with bench.losing(done=done) as switch:
        with pytest.raises(OutcomeUnknown):
            switch.write({"p1": ON_A, "p2": ON_B}, fence=1)
        expected = ALL_SHUT | ({"p1": ON_A, "p2": ON_B} if done else {})
        assert switch.read(PORTS) == expected
        switch.write({"p1": ON_A, "p2": ON_B}, fence=1)
        assert switch.read(PORTS) == ALL_SHUT | {"p1": ON_A, "p2": ON_B}


def test_a_switch_that_takes_a_change_and_does_not_apply_it_has_not_done_it(bench: Bench, switch: Switch) -> None:
    with bench.impatient() as impatient:
        bench.stop_applying()
        try:
            with pytest.raises(OutcomeUnknown):
                impatient.write({"p1": ON_A}, fence=1)
            with pytest.raises(DeviceGarbled):
                impatient.read(["p1"])
        finally:
            bench.apply_again()
    switch.write({"p1": ON_A}, fence=1)
    assert switch.read(["p1"]) == {"p1": ON_A}
