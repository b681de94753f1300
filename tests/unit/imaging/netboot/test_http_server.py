"""The file server's limits and answers, byte by byte."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from steelyard.imaging.netboot import http_server
from steelyard.imaging.netboot.answers import Content
from steelyard.imaging.netboot.http_server import HttpServer
from steelyard.model.limits import BOOT_REQUEST_BYTES
from steelyard.model.secret import Secret

NODE, OTHER, STRANGER, ANOTHER_STRANGER = "127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"
Connect = Callable[[str], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
Story = Callable[[Connect, HttpServer], Coroutine[None, None, None]]


@asynccontextmanager
async def serving(files: Mapping[str, Content]) -> AsyncIterator[tuple[Connect, HttpServer]]:
    writers: list[asyncio.StreamWriter] = []

    def find(caller: IPv4Address, name: str) -> Content | None:
        return files.get(name) if caller == IPv4Address(NODE) else None

    async def connect(caller: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*address, local_addr=(caller, 0))
        writers.append(writer)
        return reader, writer

    server = HttpServer(find, lambda caller: str(caller) in {NODE, OTHER})
    listener = socket.socket()
    listener.bind((NODE, 0))
    address = listener.getsockname()
    await server.start(listener)
    try:
        yield connect, server
    finally:
        await server.stop()
        for writer in writers:
            writer.transport.abort()


def play(story: Story, files: Mapping[str, Content]) -> None:
    async def run() -> None:
        async with asyncio.timeout(20), serving(files) as (connect, server):
            await story(connect, server)

    asyncio.run(run())


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: str) -> tuple[str, bytes]:
    """Return the status line and the body."""
    writer.write(f"{request}\r\nHost: boot\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
    [length] = [int(line.partition(":")[2]) for line in head if line.startswith("content-length:")]
    return head[0], b"" if request.startswith("HEAD") else await reader.readexactly(length)


async def is_ended(reader: asyncio.StreamReader) -> bool:
    """Return whether the other side ends the connection, without a word, and not for want of time."""
    try:
        async with asyncio.timeout(3):
            return await reader.read(1) == b""
    except ConnectionResetError:
        return True


def test_files_and_bytes_are_served_one_after_the_other_over_one_connection(tmp_path: Path) -> None:
    async def story(connect: Connect, _: HttpServer) -> None:
        wire = await connect(NODE)
        assert await ask(*wire, "HEAD /boot.efi HTTP/1.1") == ("http/1.1 200 ", b"")
        assert await ask(*wire, "GET /boot.efi HTTP/1.1") == ("http/1.1 200 ", b"image" * 10**6)
        assert await ask(*wire, "GET /parameters HTTP/1.1") == ("http/1.1 200 ", b"parameters")
        assert await ask(*wire, "GET /nothing HTTP/1.1") == ("http/1.1 404 ", b"")
        assert await ask(*wire, "GET /deleted HTTP/1.1") == ("http/1.1 404 ", b"")
        assert await ask(*wire, "GET /empty HTTP/1.0") == ("http/1.1 200 ", b"")
        assert await is_ended(wire[0])

    (tmp_path / "image").write_bytes(b"image" * 10**6)
    files: dict[str, Content] = {
        "boot.efi": tmp_path / "image",
        "parameters": Secret(b"parameters"),
        "deleted": tmp_path / "deleted",
        "empty": Secret(b""),
    }
    play(story, files)


def test_all_that_is_not_there_or_not_for_the_caller_looks_the_same() -> None:
    async def story(connect: Connect, _: HttpServer) -> None:
        answers = set()
        for caller in (NODE, OTHER, STRANGER):
            for request in ("GET /file", "HEAD /file", "GET /none", "POST /file", "PUT /file", "GET file", "OPTIONS *"):
                reader, writer = await connect(caller)
                if (caller, request) not in {(NODE, "GET /file"), (NODE, "HEAD /file")}:
                    writer.write(f"{request} HTTP/1.0\r\n\r\n".encode())
                    answers.add(await reader.read())
                writer.transport.abort()
        assert len(answers) == 1
        assert answers.pop().startswith(b"HTTP/1.1 404 ")

    play(story, {"file": Secret(b"content")})


@pytest.mark.parametrize(
    "words",
    [
        b"nonsense\r\n\r\n",
        b"GET /file HTTP/1.1\r\nHost: boot\r\nX: " + b"x" * BOOT_REQUEST_BYTES.most,
        b"GET /" + b"x" * BOOT_REQUEST_BYTES.most,
        b"GET /file HTTP/1.1\r\nHost: boot\r\nContent-Length: 5\r\n\r\nwords",
        b"GET /file HTTP/1.1\r\nHost: boot\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        b"GET /file HTTP/1.1\r\n\r\n",
    ],
    ids=["nonsense", "long head", "long name", "body", "chunked body", "no host"],
)
def test_what_is_no_request_for_a_file_is_not_answered(words: bytes) -> None:
    async def story(connect: Connect, _: HttpServer) -> None:
        reader, writer = await connect(NODE)
        writer.write(words)
        assert await is_ended(reader)

    play(story, {"file": Secret(b"content")})


def test_who_takes_too_long_to_ask_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(connect: Connect, _: HttpServer) -> None:
        silent, slow = await connect(NODE), await connect(NODE)
        slow[1].write(b"GET /file HTTP/1.1\r\n")
        assert await is_ended(silent[0])
        assert await is_ended(slow[0])

    monkeypatch.setattr(http_server, "_REQUEST_SECONDS", 0.1)
    play(story, {"file": Secret(b"content")})


def test_who_does_not_take_what_was_asked_for_is_cut_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def story(connect: Connect, _: HttpServer) -> None:
        reader, writer = await connect(NODE)
        writer.write(b"GET /large HTTP/1.1\r\nHost: boot\r\n\r\n")
        received = 0
        with suppress(ConnectionResetError):
            while more := await reader.read(2**16):
                received += len(more)
                await asyncio.sleep(0.01)
        assert received < size

    size = 2**28
    with (tmp_path / "large").open("wb") as file:
        file.truncate(size)
    monkeypatch.setattr(http_server, "_ANSWER_SECONDS", 0.2)
    play(story, {"large": tmp_path / "large"})


def test_nobody_has_more_connections_than_their_share_and_strangers_share_one() -> None:
    async def story(connect: Connect, _: HttpServer) -> None:
        for caller in (NODE, STRANGER):
            for _number in range(8):
                await connect(caller)
        for caller in (NODE, STRANGER, ANOTHER_STRANGER):
            assert await is_ended((await connect(caller))[0])
        assert await ask(*(await connect(OTHER)), "GET /file HTTP/1.1") == ("http/1.1 404 ", b"")

    play(story, {})


def test_connections_are_cut_by_caller() -> None:
    async def story(connect: Connect, server: HttpServer) -> None:
        node, other = await connect(NODE), await connect(OTHER)
        assert await ask(*node, "GET /file HTTP/1.1") == ("http/1.1 200 ", b"content")
        assert await ask(*other, "GET /file HTTP/1.1") == ("http/1.1 404 ", b"")
        await server.cut({IPv4Address(NODE)})
        assert await is_ended(node[0])
        assert await ask(*other, "GET /file HTTP/1.1") == ("http/1.1 404 ", b"")

    play(story, {"file": Secret(b"content")})
