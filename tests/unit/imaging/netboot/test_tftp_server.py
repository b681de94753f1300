"""TFTP, packet by packet: what a client that loses some, or means harm, comes to see."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path
from struct import pack, unpack

import pytest

from steelyard.imaging.netboot import tftp_server
from steelyard.imaging.netboot.tftp_server import ReadRequest, TftpServer, parse_read_request
from steelyard.model.errors import MalformedDatagram

Address = tuple[str, int]
HERE = "127.0.0.1"


def request(name: str = "boot.efi", *options: str, mode: str = "octet") -> bytes:
    return pack("!H", 1) + b"".join(word.encode() + b"\0" for word in (name, mode, *options))


def test_a_request_is_read_and_what_makes_no_sense_left_out() -> None:
    assert parse_read_request(request()) == ReadRequest("boot.efi", None, None, wants_size=False)
    options = ("BlkSize", "1468", "tsize", "0", "windowsize", "4", "other", "x")
    assert parse_read_request(request("f", *options, mode="OCTET")) == ReadRequest("f", 1468, 4, wants_size=True)
    assert parse_read_request(request("f", "blksize", "65464", "windowsize", "64")) == ReadRequest(
        "f", 1468, 16, wants_size=False
    )
    for nonsense in ("7", "0", "-1", "x", "", "1" * 9):
        assert parse_read_request(request("f", "blksize", nonsense)).block_bytes is None


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\0\1",
        b"\0\1\0",
        pack("!H", 2) + request()[2:],
        request()[:-1],
        request(mode="netascii"),
        request("f", "blksize"),
        request("n" * 600),
        request("bööt"),
    ],
)
def test_what_is_no_request_is_dropped(packet: bytes) -> None:
    with pytest.raises(MalformedDatagram):
        parse_read_request(packet)


class Client:
    """A client that does each step when the test says so."""

    def __init__(self, server: Address) -> None:
        self.server = server
        self.wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.wire.bind((HERE, 0))
        self.transfer: Address = server

    async def say(self, packet: bytes, to: Address | None = None) -> None:
        await asyncio.get_running_loop().sock_sendto(self.wire, packet, to or self.transfer)

    async def hear(self, seconds: float = 5) -> tuple[int, int, bytes]:
        """Return the next packet: its kind, its number, and the rest."""
        async with asyncio.timeout(seconds):
            packet, self.transfer = await asyncio.get_running_loop().sock_recvfrom(self.wire, 2048)
        code, number = unpack("!HH", packet[:4])
        return code, number, packet[4:]

    async def acknowledge(self, block: int) -> None:
        await self.say(pack("!HH", 4, block))

    async def hears_nothing(self) -> bool:
        try:
            await self.hear(0.2)
        except TimeoutError:
            return True
        return False


@asynccontextmanager
async def serving(path: Path | None) -> AsyncIterator[Callable[[], Client]]:
    clients: list[Client] = []

    def make_wire() -> socket.socket:
        wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        wire.bind((HERE, 0))
        return wire

    def find(caller: IPv4Address, name: str) -> Path | None:
        assert caller == IPv4Address(HERE)
        return path if name == "boot.efi" else None

    def client() -> Client:
        clients.append(Client(address))
        return clients[-1]

    server = TftpServer(find, make_wire)
    wire = make_wire()
    address: Address = wire.getsockname()
    await server.start(wire)
    try:
        yield client
    finally:
        await server.stop()
        for each in clients:
            each.wire.close()


def play(path: Path | None, story: Callable[[Callable[[], Client]], Coroutine[None, None, None]]) -> None:
    async def run() -> None:
        async with serving(path) as client:
            await story(client)

    asyncio.run(run())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(1500))
    return path


def test_a_file_comes_in_blocks_until_one_is_short(file: Path) -> None:
    async def story(client: Callable[[], Client]) -> None:
        node = client()
        await node.say(request())
        received = b""
        for block in (1, 2, 3):
            code, number, data = await node.hear()
            assert (code, number) == (3, block)
            received += data
            await node.acknowledge(block)
        assert received == file.read_bytes()
        assert await node.hears_nothing()

    play(file, story)


def test_a_file_of_whole_blocks_ends_with_an_empty_one(tmp_path: Path) -> None:
    async def story(client: Callable[[], Client]) -> None:
        node = client()
        await node.say(request())
        assert len((await node.hear())[2]) == 512
        await node.acknowledge(1)
        assert await node.hear() == (3, 2, b"")

    path = tmp_path / "whole"
    path.write_bytes(bytes(512))
    play(path, story)


def test_options_are_told_before_the_first_block(file: Path) -> None:
    async def story(client: Callable[[], Client]) -> None:
        node = client()
        await node.say(request("boot.efi", "tsize", "0", "blksize", "1024"))
        code, _, _ = await node.hear()
        assert code == 6
        await node.acknowledge(0)
        assert await node.hear() == (3, 1, file.read_bytes()[:1024])

    play(file, story)


def test_a_window_goes_on_from_what_was_acknowledged(file: Path) -> None:
    async def story(client: Callable[[], Client]) -> None:
        node = client()
        await node.say(request("boot.efi", "blksize", "100", "windowsize", "4"))
        await node.hear()
        await node.acknowledge(0)
        assert [(await node.hear())[1] for _ in range(4)] == [1, 2, 3, 4]
        await node.acknowledge(2)  # the third was lost
        assert [(await node.hear())[1] for _ in range(4)] == [3, 4, 5, 6]

    play(file, story)


def test_what_was_lost_is_sent_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(client: Callable[[], Client]) -> None:
        node = client()
        await node.say(request())
        first = await node.hear()
        assert await node.hear() == first
        await node.acknowledge(1)
        assert (await node.hear())[1] == 2

    monkeypatch.setattr(tftp_server, "_WAIT_SECONDS", 0.05)
    play(file, story)


def test_an_acknowledgement_that_comes_twice_has_nothing_sent_twice(file: Path) -> None:
    async def story(client: Callable[[], Client]) -> None:
        node = client()
        await node.say(request())
        await node.hear()
        await node.acknowledge(1)
        await node.acknowledge(1)
        assert (await node.hear())[1] == 2
        assert await node.hears_nothing()
        await node.acknowledge(2)
        assert (await node.hear())[1] == 3

    play(file, story)


def test_a_client_that_is_silent_is_given_up(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(client: Callable[[], Client]) -> None:
        node = client()
        await node.say(request())
        for _ in range(8):
            assert (await node.hear())[1] == 1
        assert await node.hears_nothing()

    monkeypatch.setattr(tftp_server, "_WAIT_SECONDS", 0.02)
    play(file, story)


def test_an_error_of_the_clients_ends_its_transfer(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(client: Callable[[], Client]) -> None:
        node = client()
        await node.say(request())
        await node.hear()
        await node.say(pack("!HH", 5, 0) + b"enough\0")
        assert await node.hears_nothing()

    monkeypatch.setattr(tftp_server, "_WAIT_SECONDS", 0.05)
    play(file, story)


def test_the_same_request_twice_is_one_transfer_and_a_third_at_once_is_refused(file: Path) -> None:
    async def story(client: Callable[[], Client]) -> None:
        one, two, three = client(), client(), client()
        await one.say(request())
        await one.say(request())
        assert (await one.hear())[:2] == (3, 1)
        assert await one.hears_nothing()
        await two.say(request())
        assert (await two.hear())[:2] == (3, 1)
        await three.say(request())
        assert (await three.hear())[:2] == (5, 1)

    play(file, story)


@pytest.mark.parametrize("name", ["", "other", "../boot.efi", "/boot.efi"])
def test_what_is_not_there_is_an_error_of_one_kind(file: Path, name: str) -> None:
    async def story(client: Callable[[], Client]) -> None:
        node = client()
        await node.say(request(name))
        assert await node.hear() == (5, 1, b"no such file\0")

    play(file, story)


def test_a_stranger_does_not_take_part_in_a_transfer(file: Path) -> None:
    async def story(client: Callable[[], Client]) -> None:
        node, stranger = client(), client()
        await node.say(request())
        await node.hear()
        await stranger.say(pack("!HH", 4, 1), node.transfer)
        assert await node.hears_nothing()
        await node.acknowledge(1)
        assert (await node.hear())[1] == 2

    play(file, story)


def test_a_file_of_more_blocks_than_there_are_numbers_comes_whole(tmp_path: Path) -> None:
    async def story(client: Callable[[], Client]) -> None:
        node = client()
        await node.say(request("boot.efi", "blksize", "8", "windowsize", "16"))
        await node.hear()
        await node.acknowledge(0)
        received, block = 0, 0
        while received < size:
            for _ in range(16):
                _, number, data = await node.hear()
                block += 1
                received += len(data)
                assert number == block & 0xFFFF
                if received >= size:
                    break
            await node.acknowledge(block & 0xFFFF)
        assert received == size

    size = 8 * 2**16 + 20
    path = tmp_path / "long"
    path.write_bytes(bytes(size))
    play(path, story)
