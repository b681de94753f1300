"""How long a node with trust `open` takes from power-on to its system, by stage, and how much of its image it reads.

By the clock, and by its QEMU's processor time: under emulation the second is what a stage costs on an idle machine.
"""

import re
import time
from pathlib import Path
from typing import Final

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from tests.bench.sizes import FULL
from tests.bench.test_airlock_bench import processor_seconds
from tests.conformance.imaging.test_service import servers
from tests.lab_rack.rack import bring_up, room_for_a_rack, wait_until
from tests.lab_rack.test_imaging import blue_on

pytestmark = [
    pytest.mark.rack,
    pytest.mark.benchmark(timer=time.perf_counter),
    pytest.mark.skipif(not FULL, reason="needs ./check bench: tests/lab_rack/test_imaging.py goes the same way"),
]

STAGES: Final = {
    "firmware looks for a network": ">>Start HTTP",
    "image loaded": "BdsDxe: starting",
    "network up": " network up",
    "volume open": " volume open",
    "root mounted": " root mounted",
}


def _bytes_read(process: int) -> int:
    """Return how much a program has read so far, from files: those of the image, and little else."""
    counters = dict(line.split(": ") for line in Path(f"/proc/{process}/io").read_text().splitlines())
    return int(counters["rchar"])


@pytest.mark.parametrize("protocol", ["nbd", "iscsi"])
def test_from_power_on_to_the_tenants_system(benchmark: BenchmarkFixture, protocol: str, tmp_path: Path) -> None:
    with room_for_a_rack() as place:
        rack = bring_up(place, "--nodes", "2")
        with blue_on(rack, tmp_path) as blue:

            def boot() -> None:
                console = len(rack.console("n1"))
                asked = time.monotonic()
                blue.boot("n1", protocol)
                begin = time.monotonic()
                benchmark.extra_info["volume cloned and open, switched on"] = f"{begin - asked:.1f} s"
                for stage, words in STAGES.items():
                    pattern = re.compile(re.escape(words))

                    def reached(pattern: re.Pattern[str] = pattern) -> bool:
                        return pattern.search(rack.console_since("n1", console)) is not None

                    wait_until(stage, reached, 300)
                    wall, processor = time.monotonic() - begin, processor_seconds(rack, "n1")
                    benchmark.extra_info[stage] = f"{wall:.1f} s, {processor:.1f} s of processor"
                blue.wait_for_sshd("n1")
                wall, processor = time.monotonic() - begin, processor_seconds(rack, "n1")
                benchmark.extra_info["sshd"] = f"{wall:.1f} s, {processor:.1f} s of processor"

            benchmark.pedantic(boot, rounds=1)  # type: ignore[no-untyped-call]  # the plugin's one gap
            read = sum(_bytes_read(process) for process in servers(blue.site.directory))
            benchmark.extra_info["read of the image"] = f"{read / 1e6:.0f} MB"
            blue.run("node", "power", "off", "n1")
            blue.run("boot", "end", "n1")
    for stage, figures in benchmark.extra_info.items():
        print(f"{stage:40} {figures}")  # noqa: T201
