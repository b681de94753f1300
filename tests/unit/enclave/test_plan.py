"""Plans: what would change, what is begun first, and that it comes to an end."""

import time

from hypothesis import given
from hypothesis import strategies as st

from steelyard.enclave.file import parse_file
from steelyard.enclave.life import LEAVING, State
from steelyard.enclave.plan import Seen, difference, moves
from tests.unit.enclave.rig import text

SPEC = parse_file(text("attested", 4, rejected={"then": "retry", "attempts": 2}))[0]
MAKEUP = SPEC.makeup()


def seen(number: int, state: State, makeup: str = MAKEUP) -> Seen:
    return Seen(f"{number:022x}", number, state, makeup, f"n{number}")


def test_what_is_furthest_from_running_goes_first() -> None:
    places = [seen(n, state) for n, state in enumerate([State.RUNNING] * 4 + [State.WANTED, State.AIRLOCK], 1)]
    assert [place for place, _ in moves(SPEC, places, 0, ending=False).release] == [places[4].id, places[5].id]


def test_what_is_made_by_an_older_file_goes_before_what_is_not() -> None:
    places = [seen(n, State.RUNNING, "old" if n == 2 else MAKEUP) for n in range(1, 6)]
    assert difference(SPEC, places).shrink == (places[1].id,)


def test_numbers_of_those_on_their_way_out_are_not_given_again() -> None:
    places = [seen(1, State.RELEASING), seen(2, State.RUNNING)]
    assert [making.number for making in moves(SPEC, places, 0, ending=False).make] == [3, 4, 5]


def test_a_rejected_machine_is_kept_from_its_own_place() -> None:
    places = [seen(1, State.REJECTED), *(seen(n, State.RUNNING) for n in (2, 3, 4))]
    made = moves(SPEC, places, 1, ending=False)
    assert [making.avoid for making in made.make] == [("n1",)]
    assert made.release == ()


def test_after_too_many_failures_it_is_left_at_that() -> None:
    made = moves(SPEC, [seen(1, State.REJECTED)], 8, ending=False)
    assert (made.make, made.short) == ((), 4)
    assert len(made.release) == 1


places_of = st.lists(
    st.tuples(st.sampled_from([s for s in State if s is not State.RELEASED]), st.sampled_from([MAKEUP, "old"])),
    max_size=12,
)


@given(places_of, st.integers(0, 20))
def test_nothing_is_released_twice_or_made_too_much(found: list[tuple[State, str]], failures: int) -> None:
    places = [seen(n, state, makeup) for n, (state, makeup) in enumerate(found, 1)]
    made = moves(SPEC, places, failures, ending=False)
    released = [place for place, _ in made.release]
    assert len(set(released)) == len(released)
    states = {place.id: place.state for place in places}
    assert not any(states[place] in LEAVING for place in released)
    left = [p for p in places if p.state not in LEAVING and p.id not in released and p.state is not State.REJECTED]
    assert len(left) + len(made.make) <= SPEC.count
    assert not {making.number for making in made.make} & {place.number for place in places}


def test_a_plan_of_10000_machines_takes_no_time() -> None:
    spec = parse_file(text("attested", 10_000))[0]
    places = [seen(n, State.RUNNING, "old" if n % 3 else spec.makeup()) for n in range(1, 9_001)]
    begin = time.process_time()
    found = difference(spec, places)
    moves(spec, places, 0, ending=False)
    assert time.process_time() - begin < 1
    assert (found.grow, len(found.replace)) == (1000, 6000)
