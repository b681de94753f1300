"""Processes are told apart for good: no stranger is ever signalled."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from steelyard.lab.processes import ProcessIdentity, boot_identity, end_processes, identify, lives


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def _identity(process: subprocess.Popen[bytes]) -> ProcessIdentity:
    identity = identify("sleeper", process.pid)
    assert identity is not None
    return identity


def test_a_process_is_ended(sleeper: subprocess.Popen[bytes]) -> None:
    identity = _identity(sleeper)
    assert lives(identity)
    end_processes([identity])
    assert not lives(identity)
    assert sleeper.wait() == -15


def test_a_process_that_will_not_end_is_made_to() -> None:
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        end_processes([_identity(process)], grace_seconds=0.1)
        assert process.wait() == -9


def test_a_stranger_with_a_recycled_number_is_spared(sleeper: subprocess.Popen[bytes]) -> None:
    before = replace(_identity(sleeper), started=_identity(sleeper).started - 1)
    assert not lives(before)
    end_processes([before], grace_seconds=0.1)
    assert sleeper.poll() is None


def test_a_process_that_has_ended_does_not_live_though_nobody_has_reaped_it(sleeper: subprocess.Popen[bytes]) -> None:
    identity = _identity(sleeper)
    end_processes([identity])
    assert sleeper.returncode is None
    assert identify("sleeper", sleeper.pid) is None


def test_a_number_that_nobody_has_is_nobody() -> None:
    with subprocess.Popen(["true"]) as process:
        pass
    assert identify("true", process.pid) is None
    end_processes([ProcessIdentity("true", process.pid, 1)])


def test_a_name_that_looks_like_the_fields_after_it_does_not_mislead(tmp_path_factory: pytest.TempPathFactory) -> None:
    program = tmp_path_factory.mktemp("x") / ") Z 1 (x"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "60"]) as process:
        assert lives(_identity(process))
        process.kill()


def test_a_boot_has_a_name() -> None:
    assert boot_identity() == boot_identity() != ""
