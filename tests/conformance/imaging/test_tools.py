"""What a program that reads a stranger's file can do, and what it cannot."""

import itertools
import os
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from steelyard.imaging.tools import Outcome, run_confined
from steelyard.model.errors import StorageFailed, StorageUnready

MIB = 2**20


def confined(
    script: str, reads: dict[str, Path] | None = None, writes: dict[str, Path] | None = None, seconds: int = 20
) -> tuple[Outcome, bytes]:
    with tempfile.TemporaryFile() as output:
        outcome = run_confined(
            "trying", ["sh", "-c", script], reads or {}, writes or {}, output, MIB, seconds, lambda: None
        )
        output.seek(0)
        return outcome, output.read()


def test_it_sees_what_it_is_given_and_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "given").write_bytes(b"data")
    outcome, output = confined("cat /given; ls /", {"/given": tmp_path / "given"})
    assert outcome == Outcome(0, "")
    assert output.split() == [b"data" + b"bin", b"dev", b"given", b"lib", b"lib64", b"sbin", b"usr"]


def test_it_writes_where_it_may_alone(tmp_path: Path) -> None:
    (tmp_path / "given").write_bytes(b"data")
    (tmp_path / "place").mkdir()
    reads, writes = {"/given": tmp_path / "given"}, {"/place": tmp_path / "place"}
    outcome, _ = confined("echo x > /place/new; echo x > /given; echo x > /usr/new", reads, writes)
    assert outcome.status != 0
    assert (tmp_path / "place" / "new").read_bytes() == b"x\n"
    assert (tmp_path / "given").read_bytes() == b"data"
    assert not Path("/usr/new").exists()


def test_it_reaches_no_other_process() -> None:
    assert confined(f"kill -0 {os.getpid()}")[0].status != 0


def test_it_has_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        probe = f"import socket; socket.create_connection(('{host}', {port}))"
        outcome, _ = confined(f'python3 -c "{probe}"')
    assert outcome.status != 0
    assert "ConnectionRefused" in outcome.complaint or "unreachable" in outcome.complaint


def test_it_has_no_environment() -> None:
    os.environ["STEELYARD_TEST_SECRET"] = "secret"  # noqa: S105 (one to look for)
    try:
        assert b"STEELYARD" not in confined("env")[1]
    finally:
        del os.environ["STEELYARD_TEST_SECRET"]


def test_it_writes_no_more_than_it_may() -> None:
    outcome, output = confined("head -c 2000000 /dev/zero")
    assert outcome.status != 0
    assert len(output) == MIB


def test_its_words_are_read_as_far_as_is_reasonable() -> None:
    outcome, _ = confined("head -c 500000 /dev/zero >&2; exit 3")
    assert outcome.status == 3
    assert len(outcome.complaint) <= 4096


def test_it_ends_when_its_time_is_over() -> None:
    with pytest.raises(StorageFailed):
        confined("sleep 60", seconds=1)


def test_it_computes_no_longer_than_it_may() -> None:
    # More processor time than that is not to be had in the time that one may take.
    outcome, output = confined("ulimit -t", seconds=7)
    assert (outcome.status, output) == (0, b"7\n")


def test_it_has_no_more_memory_than_it_may() -> None:
    assert confined('python3 -c "bytearray(3 * 2**30)"')[0].status != 0


def test_a_program_that_is_not_installed_is_told() -> None:
    with pytest.raises(StorageUnready, match="no-such-program"), tempfile.TemporaryFile() as output:
        run_confined("trying", ["no-such-program"], {}, {}, output, MIB, 1, lambda: None)


def test_a_program_that_fails_is_told_in_its_words() -> None:
    outcome, _ = confined("cat /no/such/file")
    with pytest.raises(StorageFailed, match="no/such/file"):
        outcome.check("trying")


def test_a_place_that_cannot_be_made_for_it_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageUnready, match="nothing"):
        confined("true", {"/given": tmp_path / "nothing"})


class GiveUp(Exception):
    """What whoever waits for a program may raise."""


def test_it_is_gone_before_it_is_told_that_it_was_given_up(tmp_path: Path) -> None:
    beats = itertools.count()

    def give_up() -> None:
        if (tmp_path / "begun").exists() and next(beats):
            raise GiveUp

    # Of a process that goes on in the background too.
    script = "(while :; do echo x >> /place/growing; done) & touch /place/begun; sleep 60"
    with pytest.raises(GiveUp), tempfile.TemporaryFile() as output:
        run_confined("trying", ["sh", "-c", script], {}, {"/place": tmp_path}, output, 2**30, 20, give_up)
    length = (tmp_path / "growing").stat().st_size
    assert length
    assert not is_open(tmp_path / "growing")
    assert (tmp_path / "growing").stat().st_size == length


def is_open(path: Path) -> bool:
    """Say whether any process has the directory of this file in its root, or the file open."""
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            if process.name.isdecimal() and any(
                str(path.parent) in line for line in (process / "mountinfo").read_text().splitlines()
            ):
                return True
    return False
