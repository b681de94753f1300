"""The command as a process: its streams, its signals, and what it ends with."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.recorded import BOOTS
from tests.unit.cli.command import Command

STEELYARD = str(Path(sys.executable).parent / "steelyard")
LOG = str(BOOTS / "first" / "event_log.bin")
LIST = str(BOOTS / "first" / "ima.ascii")


def reader_gone() -> int:
    """Return the writing end of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("more", [[], pytest.param(["--json"], marks=pytest.mark.slow)])
@pytest.mark.parametrize(("file", "exit_code"), [(LIST, 0), (LOG, 3), ("/nonexistent", 2)])
def test_a_reader_that_goes_away_takes_nothing_from_the_exit_code(file: str, exit_code: int, more: list[str]) -> None:
    done = subprocess.run([STEELYARD, "evidence", "ima", file, *more], stdout=reader_gone(), stderr=reader_gone())
    assert done.returncode == exit_code


@pytest.mark.parametrize("more", ["", pytest.param("--json", marks=pytest.mark.slow)])
@pytest.mark.parametrize("to", [">&-", ">/dev/full"])
def test_an_answer_that_cannot_be_printed_is_wrong_use(to: str, more: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f"exec {STEELYARD} evidence ima {LIST} {more} {to}"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "while printing" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_closed_standard_input_is_wrong_use() -> None:
    command = ["sh", "-c", f"exec {STEELYARD} evidence ima - <&-"]
    assert subprocess.run(command, capture_output=True).returncode == 2


def test_standard_input_and_output_take_the_place_of_files(tmp_path: Path) -> None:
    with Path(LIST).open("rb") as file:
        assert (
            b"4 ima-sig" in subprocess.run([STEELYARD, "evidence", "ima", "-"], stdin=file, capture_output=True).stdout
        )
    (tmp_path / "tool").write_bytes(b"a tool")
    about = ["--component", "x", "--version", "1", "--serial", "1", "--valid-days", "1", "--out", "-"]
    made = subprocess.run([STEELYARD, "reference", "from-rootfs", tmp_path, *about], capture_output=True)
    assert b'"/tool"' in made.stdout


def test_an_interrupt_ends_it_without_a_trace() -> None:
    with subprocess.Popen(
        [STEELYARD, "evidence", "ima", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        # More than a pipe holds: when it is written, the command has begun to read.
        process.stdin.write(bytes(1 << 20))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 130
        assert b"Traceback" not in errors


def test_letters_that_the_encoding_does_not_have_are_escaped(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    path = os.fsencode(tmp_path) + "/ü".encode()
    done = subprocess.run([STEELYARD, "evidence", "ima", path], env=environment, capture_output=True)
    assert done.returncode == 2
    assert rb"\xfc" in done.stderr


def test_the_version_is_told(steelyard: Command) -> None:
    outcome = steelyard("--version")
    assert outcome.exit_code == 0
    assert outcome.output.startswith("steelyard 0.")


@pytest.mark.parametrize("words", [[], ["bogus"], ["evidence", "ima"], ["evidence", "ima", "a", "b"], ["--bogus"]])
def test_a_command_that_makes_no_sense_is_wrong_use(steelyard: Command, words: list[str]) -> None:
    assert steelyard(*words).exit_code == 2
