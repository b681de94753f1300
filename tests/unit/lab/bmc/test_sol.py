"""Serial over LAN: what is said arrives once and in order, though datagrams are lost or come twice."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from steelyard.lab.bmc.sol import CHUNK_BYTES, SerialOverLan
from steelyard.lab.console import Console


class Line(Console):
    """A console whose machine is the test."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "record")
        self.typed = b""

    def say(self, words: bytes) -> None:
        self._pass_on(words)

    def type(self, keys: bytes) -> None:
        self.typed += keys


def _run(folder: Path, story: Callable[[Line, SerialOverLan, list[bytes]], Awaitable[None]]) -> None:
    async def play() -> None:
        line, sent = Line(folder), list[bytes]()
        sol = SerialOverLan(line, sent.append)
        await story(line, sol, sent)
        sol.close()
        line.close()

    asyncio.run(play())


def test_the_next_packet_waits_for_the_acknowledgement_of_the_last(tmp_path: Path) -> None:
    async def story(line: Line, sol: SerialOverLan, sent: list[bytes]) -> None:
        line.say(b"one")
        line.say(b"two")
        assert sent == [b"\x01\0\0\0one"]
        sol.receive(b"\0\x01\x03\0")
        assert sent[1:] == [b"\x02\0\0\0two"]

    _run(tmp_path, story)


def test_what_was_not_accepted_comes_again(tmp_path: Path) -> None:
    async def story(line: Line, sol: SerialOverLan, sent: list[bytes]) -> None:
        line.say(b"character")
        sol.receive(b"\0\x01\x04\0")
        assert sent[1:] == [b"\x02\0\0\0acter"]

    _run(tmp_path, story)


def test_an_acknowledgement_of_another_packet_is_nothing(tmp_path: Path) -> None:
    async def story(line: Line, sol: SerialOverLan, sent: list[bytes]) -> None:
        line.say(b"one")
        line.say(b"two")
        sol.receive(b"\0\x07\x03\0")
        assert len(sent) == 1

    _run(tmp_path, story)


def test_a_packet_that_is_lost_is_sent_again(tmp_path: Path) -> None:
    async def story(line: Line, sol: SerialOverLan, sent: list[bytes]) -> None:  # noqa: ARG001
        line.say(b"one")
        async with asyncio.timeout(10):
            while len(sent) < 3:
                await asyncio.sleep(0.01)
        assert set(sent) == {b"\x01\0\0\0one"}

    _run(tmp_path, story)


def test_keys_that_come_twice_are_typed_once_and_acknowledged_twice(tmp_path: Path) -> None:
    async def story(line: Line, sol: SerialOverLan, sent: list[bytes]) -> None:
        sol.receive(b"\x05\0\0\0ls")
        sol.receive(b"\x05\0\0\0ls")
        assert line.typed == b"ls"
        assert sent == [b"\0\x05\x02\0"] * 2

    _run(tmp_path, story)


def test_much_goes_in_chunks_with_sequence_numbers_from_1_to_15(tmp_path: Path) -> None:
    async def story(line: Line, sol: SerialOverLan, sent: list[bytes]) -> None:
        words = bytes(range(250)) * 16
        line.say(words)
        for _ in range(len(words) // CHUNK_BYTES + 1):
            sol.receive(bytes([0, sent[-1][0], len(sent[-1]) - 4, 0]))
        assert b"".join(packet[4:] for packet in sent) == words
        assert {packet[0] for packet in sent} == set(range(1, 16))
        assert all(len(packet) <= 4 + CHUNK_BYTES for packet in sent)

    _run(tmp_path, story)


def test_a_packet_that_is_none_is_ignored(tmp_path: Path) -> None:
    async def story(line: Line, sol: SerialOverLan, sent: list[bytes]) -> None:
        sol.receive(b"\x01\0")
        assert (line.typed, sent) == (b"", [])

    _run(tmp_path, story)
