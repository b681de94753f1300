"""The enclave service killed at every moment of a machine's life, and everything else that can go wrong at each step.

A moment is before and after each effect on another service, and before and after each write to the database. What must
never be is looked for at every one of them, in the world; what must come of it in the end, after the restart.
"""

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from steelyard.enclave.life import State
from steelyard.model.errors import OutOfTime, Unavailable, WrongState
from steelyard.service.database import Database
from tests.databases import MEMORY
from tests.fakes.enclave_world import unreachable
from tests.unit.enclave.rig import Rig, make_rig, text

TRUSTS: Final = ("open", "attested", "sealed")
SAMPLE: Final = 61
"""In ./check fast, one moment of so many at most; a prime, so that it is not always the same kind."""
STEPS_EVERYWHERE: Final = pytest.mark.parametrize(
    "every", [SAMPLE, pytest.param(1, marks=pytest.mark.slow)], ids=["sampled", "exhaustive"]
)


@contextmanager
def fresh(template: Path, *, nodes: int) -> Iterator[Rig]:
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="enclave-") as folder:
        path = Path(folder) / "steelyard.db"
        shutil.copyfile(template, path)
        database = Database(f"sqlite:///{path}")
        try:
            yield make_rig(database, nodes=nodes)
        finally:
            database.close()


def up(rig: Rig, trust: str, count: int = 1) -> None:
    rig.apply(text(trust, count))
    rig.run(lambda: rig.settled() and rig.states() == [State.RUNNING] * count)


def ended(rig: Rig) -> None:
    """Look whether everything comes to its end, and leaves nothing."""
    rig.kill_at = None
    rig.delete()
    rig.run(rig.gone)
    assert rig.world.is_as_at_the_start()
    assert all(place.receipt is not None for place in rig.places(over=True))


def moments_of(template: Path, trust: str) -> int:
    with fresh(template, nodes=2) as rig:
        up(rig, trust)
        rig.delete()
        rig.run(rig.gone)
        return rig.moments


@STEPS_EVERYWHERE
@pytest.mark.parametrize("trust", TRUSTS)
def test_killed_at_any_moment_it_goes_on_and_leaves_nothing(sqlite_template: Path, trust: str, every: int) -> None:
    for moment in range(1, moments_of(sqlite_template, trust) + 1, every):
        with fresh(sqlite_template, nodes=2) as rig:
            rig.kill_at = moment
            up(rig, trust)
            rig.delete()
            rig.run(rig.gone)
            assert rig.moments >= moment
            assert rig.world.is_as_at_the_start(), moment
            assert rig.world.keys_given == ([] if trust == "open" else ["n1"]), moment


@STEPS_EVERYWHERE
@pytest.mark.parametrize("trust", TRUSTS)
def test_cancelled_at_any_turn_it_hands_everything_back(sqlite_template: Path, trust: str, every: int) -> None:
    for turns in itertools.count(0, max(1, every // 8)):
        with fresh(sqlite_template, nodes=2) as rig:
            rig.apply(text(trust, 1))
            for _ in range(turns):
                rig.turn()
            if rig.states() == [State.RUNNING]:
                return
            rig.cancel()
            rig.run(rig.settled)
            assert rig.states() == []
            assert rig.world.is_as_at_the_start(), turns
            ended(rig)


@STEPS_EVERYWHERE
def test_killed_while_it_is_cancelled_it_hands_everything_back(sqlite_template: Path, every: int) -> None:
    """Killed at each moment after a cancellation at each turn: the worst of both."""
    for turns in range(1, 24, max(1, every // 10)):
        for after in range(1, 60, max(7, every // 2)):
            with fresh(sqlite_template, nodes=2) as rig:
                rig.apply(text("sealed", 1))
                for _ in range(turns):
                    rig.turn()
                if rig.states() == [State.RUNNING]:
                    return
                rig.cancel()
                rig.kill_at = rig.moments + after
                rig.run(rig.settled)
                assert rig.world.is_as_at_the_start(), (turns, after)


@pytest.mark.parametrize("error", [Unavailable, WrongState, OutOfTime])
@STEPS_EVERYWHERE
def test_a_service_that_fails_once_at_any_call_changes_nothing_in_the_end(
    sqlite_template: Path, every: int, error: type[Unavailable | WrongState | OutOfTime]
) -> None:
    for call in range(1, 400, every):
        with fresh(sqlite_template, nodes=2) as rig:

            def fail(verb: str, rig: Rig = rig, call: int = call) -> None:
                if rig.world.calls == call:
                    raise error(verb, expected="an answer", found="none")

            rig.world.fault = fail
            up(rig, "sealed")
            rig.delete()
            rig.run(rig.gone)
            assert rig.world.is_as_at_the_start(), call
            if rig.world.calls < call:
                return


VERBS: Final = (
    "take", "taken", "look", "hold", "power", "powered", "attach", "attaching", "boot-device", "make-volume",
    "made-volume", "boot", "booting", "end-boot", "ended-boot", "end-volume", "ended-volume", "enrol", "enrolled",
    "leave-share",
    "left-share", "weigh", "forget", "release", "releasing", "lift", "lifted", "open-volume", "access", "system",
)  # fmt: skip
VERBS_SAMPLED: Final = pytest.mark.parametrize(
    "verb", [verb if n % 6 == 0 else pytest.param(verb, marks=pytest.mark.slow) for n, verb in enumerate(VERBS)]
)


@VERBS_SAMPLED
def test_a_service_that_is_down_for_a_while_is_waited_for(sqlite_template: Path, verb: str) -> None:
    with fresh(sqlite_template, nodes=2) as rig:

        def fail(called: str) -> None:
            if called == verb and rig.turns % 60 < 40:
                raise unreachable(verb)

        rig.world.fault = fail
        up(rig, "sealed")
        rig.delete()
        rig.run(rig.gone)
        assert rig.world.is_as_at_the_start()


@VERBS_SAMPLED
def test_a_service_that_stays_down_stops_nobody_from_ending_and_nothing_is_given_away(
    sqlite_template: Path, verb: str
) -> None:
    """Each stage has its limit; what cannot be given back is tried until it can, and is never called released."""
    limits = {"wanted": 20, "allocated": 20, "airlock": 20, "weighed": 20, "admitted": 20}
    with fresh(sqlite_template, nodes=2) as rig:
        down = True

        def fail(called: str) -> None:
            if called == verb and down:
                raise unreachable(verb)

        rig.world.fault = fail
        rig.apply(text("sealed", 1, limits=limits, rejected={"then": "hold", "attempts": 1}))
        for _ in range(90):
            rig.turn()
        assert all(state in (State.RELEASING, State.RUNNING, State.HELD) for state in rig.states())
        down = False
        ended(rig)


@STEPS_EVERYWHERE
def test_a_machine_that_is_not_what_it_should_be_gets_nothing_whenever_the_service_is_killed(
    sqlite_template: Path, every: int
) -> None:
    for moment in range(1, 160, max(3, every)):
        with fresh(sqlite_template, nodes=2) as rig:
            rig.world.nodes["n1"].good = False
            rig.kill_at = moment
            rig.apply(text("sealed", 1))
            rig.run(rig.settled)
            assert rig.states() == [State.HELD]
            assert rig.world.keys_given == []
            ended(rig)


def test_a_machine_that_isolation_takes_away_is_let_go(sqlite_template: Path) -> None:
    with fresh(sqlite_template, nodes=1) as rig:
        up(rig, "sealed")
        rig.world.nodes["n1"].leaving = True
        rig.run(lambda: len(rig.places(over=True)) == 1)
        rig.run(lambda: rig.states() == [State.RUNNING])
        ended(rig)
