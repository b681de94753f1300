"""Steps of the agent that need no node."""

from pathlib import Path
from typing import Final

import pytest

from steelyard.agent import airlock
from steelyard.agent.console import Reporter
from steelyard.agent.files import read_file
from steelyard.agent.payload import LuksHeader
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import NodeFailed, TooLarge
from steelyard.model.limits import AIRLOCK_IMA_LIST_BYTES, EVENT_LOG_BYTES, Limit

BANKS: Final = frozenset({HashAlgorithm.SHA256, HashAlgorithm.SHA384})
HEADER: Final = b"LUKS\xba\xbe" + bytes(1000)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    file = tmp_path / "volume"
    file.write_bytes(HEADER + b"data")
    return file


def test_a_header_that_is_the_one_named_is_measured_whole(volume: Path) -> None:
    expected = LuksHeader(len(HEADER), HashAlgorithm.SHA256.digest(HEADER))
    digests = airlock._check_header(volume, expected, BANKS)
    assert digests == {bank: bank.digest(HEADER) for bank in BANKS}


@pytest.mark.parametrize("size", [len(HEADER) - 1, len(HEADER) + 1, len(HEADER) + 5])
def test_another_header_is_refused(volume: Path, size: int) -> None:
    with pytest.raises(NodeFailed):
        airlock._check_header(volume, LuksHeader(size, HashAlgorithm.SHA256.digest(HEADER)), BANKS)


@pytest.mark.parametrize("limit", [EVENT_LOG_BYTES, AIRLOCK_IMA_LIST_BYTES])
def test_a_log_or_list_of_any_size_is_not_sent(tmp_path: Path, limit: Limit) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        file.truncate(limit.most + 1)
    with pytest.raises(TooLarge):
        read_file(log, limit, "reading a log")


def test_a_machine_without_a_log_says_so(tmp_path: Path) -> None:
    with pytest.raises(NodeFailed, match="reading a log"):
        read_file(tmp_path / "none", EVENT_LOG_BYTES, "reading a log")


def test_a_step_that_a_bug_ends_is_told_as_failed_without_what_the_bug_had_in_hand(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(KeyError), Reporter().step("quoting"):
        raise KeyError("a secret")
    said = capsys.readouterr().out
    assert "quoting: begun" in said
    assert "quoting: failed KeyError" in said
    assert "a secret" not in said


def test_what_a_stranger_says_does_not_steer_the_console(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NodeFailed), Reporter().step("registering"):
        raise NodeFailed("asking", expected="a good answer", found="\x1b[2J\nairlock: all is well" + "!" * 2000)
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert len(said.splitlines()) == 2
    assert len(said) < 1200
