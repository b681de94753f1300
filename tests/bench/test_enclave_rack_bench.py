"""How long machines of a rack take from the free pool into the tenant's system, by trust, stage and number at once.

By the clock: firmware and kernels are emulated on this computer's cores, so that several at once share them. What is
Steelyard's own is in the stages `allocated`, `weighed`, and in the difference between the levels of trust.
"""

import time
from collections.abc import Iterator
from typing import Final

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from steelyard.lab.demo.story import Story
from tests.bench.sizes import FULL
from tests.lab_rack.enclaves import Enclave, story_begun

pytestmark = [
    pytest.mark.rack,
    pytest.mark.benchmark(timer=time.perf_counter),
    pytest.mark.skipif(not FULL, reason="needs ./check bench: tests/lab_rack/test_story.py goes the same way"),
]

MOST: Final = 4


@pytest.fixture(scope="module")
def story() -> Iterator[Story]:
    with story_begun(MOST) as story:
        yield story


@pytest.mark.parametrize("count", [1, 2, MOST])
@pytest.mark.parametrize("trust", ["open", "attested", "sealed"])
def test_from_the_free_pool_into_the_tenants_system(
    benchmark: BenchmarkFixture, story: Story, trust: str, count: int
) -> None:
    enclave = Enclave(story, trust)

    def come_up() -> None:
        enclave.apply(count)
        enclave.wait_for(*["running"] * count)

    benchmark.pedantic(come_up, rounds=1)  # type: ignore[no-untyped-call]  # the plugin's one gap
    stages = story.stages()
    for place in enclave.places():
        benchmark.extra_info[place["node"]] = {state: round(spent, 1) for state, spent in stages[place["id"]].items()}
    enclave.delete()
    print(f"{trust:9} {count} at once: {benchmark.extra_info}")  # noqa: T201
