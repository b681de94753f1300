"""Two who want the same at the same time: exactly one has it, by threads and by processes."""

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Final

import pytest

from steelyard.isolation import operations
from steelyard.model.errors import AlreadyThere, NotEnough, OverQuota, SteelyardError
from steelyard.service.database import Database
from tests.unit.isolation.rig import BLUE, POOL, PROVIDER, RED, Rack

pytestmark = pytest.mark.both_databases

SECONDS: Final = 60


def race(*runners: Callable[[], object]) -> list[object]:
    """Let all run at once; return what each gave or raised."""
    results: list[object] = [None] * len(runners)
    start = threading.Barrier(len(runners))

    def run(position: int) -> None:
        start.wait(SECONDS)
        try:
            results[position] = runners[position]()
        except SteelyardError as error:
            results[position] = error

    threads = [threading.Thread(target=run, args=(position,)) for position in range(len(runners))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    return results


def split(results: Sequence[object], error: type[SteelyardError]) -> tuple[int, int]:
    """Return how many won, and how many lost with this error; nothing else may come."""
    lost = sum(isinstance(result, error) for result in results)
    won = sum(not isinstance(result, SteelyardError) and result is not None for result in results)
    assert won + lost == len(results), results
    return won, lost


def test_the_last_node_is_given_to_one_of_two_threads(rack: Rack) -> None:
    rack.free("n1")
    results = race(lambda: rack.allocate(RED, "red"), lambda: rack.allocate(BLUE, "blue"))
    assert split(results, NotEnough) == (1, 1)


def test_a_vlan_is_given_to_one_of_two_threads(rack: Rack) -> None:
    results = race(lambda: rack.network("a", None, vlan=POOL[0]), lambda: rack.network("b", None, vlan=POOL[0]))
    assert split(results, AlreadyThere) == (1, 1)


def test_the_last_of_a_quota_is_given_to_one_of_two_threads(rack: Rack) -> None:
    rack.project("red", nodes=1, networks=1)
    for name in ("n1", "n2"):
        rack.free(name)
    results = race(lambda: rack.allocate(RED, "red", allocation="a"), lambda: rack.allocate(RED, "red", allocation="b"))
    assert split(results, OverQuota) == (1, 1)
    results = race(lambda: rack.network("a", "red"), lambda: rack.network("b", "red"))
    assert split(results, OverQuota) == (1, 1)


def test_one_request_by_two_threads_is_one_allocation(rack: Rack) -> None:
    for name in ("n1", "n2"):
        rack.free(name)
    assert race(*[lambda: rack.allocate(RED, "red", allocation="same")] * 4) == [("n1",)] * 4


@pytest.mark.parametrize("what", ["node", *(pytest.param(what, marks=pytest.mark.slow) for what in ("vlan", "quota"))])
def test_the_last_of_anything_is_given_to_one_of_two_processes(rack: Rack, what: str) -> None:
    rack.project("red", nodes=1, networks=1)
    for name in ("n1", "n2") if what == "quota" else ("n1",):
        rack.free(name)
    url = rack.database.url.render_as_string(hide_password=False)
    racers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.unit.isolation.test_races", url, what, who],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for who in ("red", "blue")
    ]
    try:
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        said = sorted(racer.communicate(timeout=SECONDS)[0] for racer in racers)
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()
    lost = {"node": "not-enough", "vlan": "already-there", "quota": "over-quota"}[what]
    assert said == sorted(["won\n", f"{lost}\n"])


def main(url: str, what: str, who: str) -> None:
    """Race as one of two processes: say ready, wait for the word, try, say what came of it."""
    rack = Rack(Database(url))
    caller = RED if who == "red" else BLUE

    def allocate(project: str) -> None:
        with rack.tx() as tx:
            operations.allocate(
                tx, PROVIDER if what == "quota" else caller, project=project, count=1, labels={}, allocation=who
            )

    tries: dict[str, Callable[[], object]] = {
        "node": lambda: allocate(who),
        "vlan": lambda: rack.network(who, None, vlan=POOL[0]),
        "quota": lambda: allocate("red"),
    }
    with rack.database.reading():
        print("ready", flush=True)  # noqa: T201 (what the test waits for)
    sys.stdin.readline()
    try:
        tries[what]()
        print("won")  # noqa: T201 (what the test reads)
    except SteelyardError as error:
        print(error.code)  # noqa: T201 (what the test reads)
    rack.database.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
