"""The subjects, each with a node of its own; and a look at what is left when a test is over."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from steelyard.isolation.bmcs import ipmi
from steelyard.isolation.ports import Bmc
from tests.conformance.bmcs.rig import SimulatedBmc, simulated_bmc
from tests.conformance.bmcs.subjects import SUBJECTS, Subject, children
from tests.tpm import require_programs


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """See that a test, and so a driver, leaves no process and no open file."""
    open_before = _open_files()
    yield
    assert children() == []
    # Of earlier tests, some may have been closed meanwhile.
    assert _open_files() <= open_before


def _open_files() -> set[tuple[str, str]]:
    found = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        with suppress(FileNotFoundError):  # the directory itself, open while it was listed
            found.add((name, os.readlink(f"/proc/self/fd/{name}")))  # noqa: PTH115
    return found


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost on loopback but what a test loses: ipmitool asks once, and gives up after 2 s."""
    monkeypatch.setattr(ipmi, "_TRIES", "1")


@pytest.fixture(params=SUBJECTS)
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    with SUBJECTS[request.param](tmp_path) as found:
        yield found


@pytest.fixture
def bmc(subject: Subject) -> Iterator[Bmc]:
    """The driver's, as the suite uses it."""
    found = subject.driver(subject.access)
    yield found
    found.close()


@pytest.fixture
def simulated(tmp_path: Path) -> Iterator[SimulatedBmc]:
    """A node of the lab's for the tests of one driver."""
    require_programs({"ipmitool": "ipmitool"})
    with simulated_bmc(tmp_path) as found:
        yield found
