"""The rack's directory: for its owner alone, whole writes, and a record that a reboot makes void."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from steelyard.lab.plan import Accelerator
from steelyard.lab.processes import ProcessIdentity
from steelyard.lab.rack import STANDARD_SHAPE
from steelyard.lab.state import LONGEST_DIRECTORY, Rack, RackDirectory, write_private
from steelyard.model.errors import WrongUse

PROCESS = ProcessIdentity("switch", 4711, 99)


@pytest.fixture
def directory(tmp_path: Path) -> RackDirectory:
    directory = RackDirectory(tmp_path / "r")
    directory.prepare()
    return directory


def test_it_is_made_for_its_owner_alone(directory: RackDirectory) -> None:
    assert stat.S_IMODE(directory.root.stat().st_mode) == 0o700


def test_one_that_others_may_enter_is_refused(directory: RackDirectory) -> None:
    directory.root.chmod(0o755)
    with pytest.raises(WrongUse, match="mode 0700"):
        directory.prepare()


def test_one_that_holds_something_else_is_refused(directory: RackDirectory) -> None:
    (directory.root / "letters").touch()
    with pytest.raises(WrongUse, match="letters"):
        directory.prepare()


def test_one_that_holds_a_rack_is_taken(directory: RackDirectory) -> None:
    directory.write_rack(Rack(STANDARD_SHAPE, Accelerator.TCG))
    (directory.root / "letters").touch()
    directory.prepare()


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WrongUse, match="a directory"):
        RackDirectory(tmp_path / "file").prepare()


def test_a_path_in_which_sockets_have_no_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="bytes"):
        RackDirectory(tmp_path / ("x" * LONGEST_DIRECTORY)).prepare()


def test_the_longest_socket_name_fits(directory: RackDirectory) -> None:
    root = Path("/" + "x" * (LONGEST_DIRECTORY - 1))
    longest = RackDirectory(root)
    for path in (
        longest.node("n4000").console_socket,
        longest.switch / "forwarder-control.sock",
        longest.switch / "management.sock",
        longest.control_socket,
    ):
        assert len(str(path).encode()) <= 107
    assert directory.root.is_dir()


def test_two_directories_have_two_namespaces() -> None:
    assert RackDirectory(Path("/a")).namespace != RackDirectory(Path("/b")).namespace


def test_what_was_decided_is_read_back(directory: RackDirectory) -> None:
    rack = Rack(STANDARD_SHAPE, Accelerator.KVM)
    assert directory.read_rack() is None
    directory.write_rack(rack)
    assert directory.read_rack() == rack


def test_what_runs_is_read_back_and_forgotten(directory: RackDirectory) -> None:
    assert directory.read_running() is None
    directory.write_running([PROCESS])
    running = directory.read_running()
    assert running is not None
    assert running.processes == (PROCESS,)
    assert running.namespace == directory.namespace
    directory.forget_running()
    assert directory.read_running() is None


def test_after_a_reboot_no_recorded_process_is_believed(directory: RackDirectory) -> None:
    directory.write_running([PROCESS])
    record = directory.root / "running.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "boot": "another"}))
    running = directory.read_running()
    assert running is not None
    assert running.processes == ()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"boot": 1}'])
def test_a_broken_record_is_refused(directory: RackDirectory, text: str) -> None:
    (directory.root / "running.json").write_text(text)
    with pytest.raises(WrongUse):
        directory.read_running()
    (directory.root / "rack.json").write_text(text)
    with pytest.raises(WrongUse):
        directory.read_rack()


def test_a_private_file_is_private_also_over_one_that_was_not(tmp_path: Path) -> None:
    file = tmp_path / "secrets"
    file.touch(mode=0o644)
    write_private(file, "password")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text() == "password"
    assert list(tmp_path.iterdir()) == [file]


def test_the_lock_keeps_others_out_and_dies_with_its_holder(directory: RackDirectory) -> None:
    holder = (
        "import sys; from pathlib import Path; from steelyard.lab.state import RackDirectory\n"
        "with RackDirectory(Path(sys.argv[1])).locked(): print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, directory.root], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        taken = subprocess.run(["flock", "--nonblock", directory.root / "lock", "true"], check=False)
        assert taken.returncode != 0
        process.kill()
    with directory.locked():
        assert os.getpid() != process.pid
