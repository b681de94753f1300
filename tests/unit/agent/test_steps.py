"""Steps of the agent that need no node."""

from pathlib import Path
from typing import Final

import pytest

from steelyard.agent import airlock
from steelyard.agent.payload import LuksHeader
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import NodeFailed, TooLarge
from steelyard.model.limits import EVENT_LOG_BYTES

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


def test_an_event_log_of_any_size_is_not_sent(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        file.truncate(EVENT_LOG_BYTES.most + 1)
    with pytest.raises(TooLarge):
        airlock._read_event_log(log)


def test_a_machine_without_an_event_log_says_so(tmp_path: Path) -> None:
    with pytest.raises(NodeFailed, match="event log"):
        airlock._read_event_log(tmp_path / "none")
