"""How long a node takes from power-on to each stage of the airlock: by the clock, and by its QEMU's processor time.

Under emulation the second is what a stage costs on an idle machine, but for waits: 4 s in which firmware collects DHCP
offers, and what is on its way over the network.
"""

import os
import re
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from tests.lab_rack.airlock import accept, build_image, site
from tests.lab_rack.rack import Rack, bring_up, room_for_a_rack, wait_until

pytestmark = [pytest.mark.rack, pytest.mark.benchmark(timer=time.perf_counter)]

STAGES: Final = {
    "firmware looks for a network": ">>Start HTTP",
    "image loaded": "BdsDxe: starting",
    "first stage": " first stage",
    "network up": " network up",
    "second stage fetched": " second stage fetched",
    "second stage checked": " second stage checked",
    "agent": " reading parameters: begun",
    "quoted": " quoting: done",
    "passed": " being judged: done",
    "kernel loaded": " loading the tenant's system: done",
    "tenant": "tenant: ",
}


def processor_seconds(rack: Rack, node: str) -> float:
    """Return the user and system time of the node's QEMU so far."""
    listed = subprocess.run(
        ["pgrep", "-f", f"qemu-system.*-name {node} .*{rack.root}/"], capture_output=True, text=True
    )
    times = Path(f"/proc/{listed.stdout.split()[0]}/stat").read_text().rpartition(")")[2].split()
    return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")


def test_from_power_on_through_the_airlock(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    image = build_image()
    with room_for_a_rack() as place:
        rack = bring_up(place, "--nodes", "1")

        def boot() -> None:
            with site(rack, "n1", image, accept, tmp_path) as found, found.dhcp():
                console = found.start("n1")
                begin, processor = time.monotonic(), 0.0
                for stage, words in STAGES.items():
                    pattern = re.compile(re.escape(words))

                    def reached(pattern: re.Pattern[str] = pattern) -> bool:
                        return pattern.search(rack.console_since("n1", console)) is not None

                    wait_until(stage, reached, 240)
                    wall = time.monotonic() - begin
                    with suppress(IndexError, FileNotFoundError):  # the last stage switches the node off
                        processor = processor_seconds(rack, "n1")
                    benchmark.extra_info[stage] = f"{wall:.1f} s, {processor:.1f} s of processor"

        benchmark.pedantic(boot, rounds=1)  # type: ignore[no-untyped-call]  # the plugin's one gap
    for stage, figures in benchmark.extra_info.items():
        print(f"{stage:30} {figures}")  # noqa: T201
