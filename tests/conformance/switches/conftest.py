"""One switch of each kind for all tests of a module; each test finds it as a Bench should be found."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.conformance.switches.bench import Bench, FakeBench
from tests.conformance.switches.openvswitch_bench import PROGRAMS, OpenVSwitchBench
from tests.tpm import require_programs


@pytest.fixture(scope="module")
def standing_openvswitch() -> Iterator[OpenVSwitchBench]:
    require_programs(PROGRAMS)
    with TemporaryDirectory(prefix="ovs-") as folder:
        bench = OpenVSwitchBench(Path(folder))
        bench.start()
        yield bench
        bench.stop()


@pytest.fixture
def openvswitch(standing_openvswitch: OpenVSwitchBench) -> OpenVSwitchBench:
    standing_openvswitch.reset()
    return standing_openvswitch


@pytest.fixture(params=["fake", "openvswitch"])
def bench(request: pytest.FixtureRequest) -> Bench:
    if request.param == "fake":
        return FakeBench()
    openvswitch: OpenVSwitchBench = request.getfixturevalue("openvswitch")
    return openvswitch
