"""What a connection may keep of this service: so many bytes and seconds until a request's head is whole."""

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import uvicorn
import uvloop
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from steelyard.service import bounded_http, serving
from steelyard.service.bounded_http import HEAD_BYTES, BoundedHttp
from steelyard.service.configuration import HttpSettings
from tests.fakes.receiver import make_tls

WAIT_SECONDS: Final = 20
SHORT_SECONDS: Final = 0.3


async def _count(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with how many bytes the body has."""
    body = await Request(scope, receive).body()
    await PlainTextResponse(f"{len(body)} bytes")(scope, receive, send)


@contextmanager
def _served(listening: socket.socket, **settings: Any) -> Iterator[None]:
    config = uvicorn.Config(_count, http=BoundedHttp, ws="none", lifespan="off", log_config=None, **settings)
    server = uvicorn.Server(config)

    def run() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
            loop.run(server.serve(sockets=[listening]))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(WAIT_SECONDS)
        assert not thread.is_alive()


@pytest.fixture
def port() -> Iterator[int]:
    """A service's."""
    listening = serving._listen(HttpSettings("127.0.0.1", 0, None, None, ()))
    with _served(listening):
        yield listening.getsockname()[1]


def _connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS)


def _rest(connection: socket.socket) -> bytes:
    """Return all that comes until the service closes the connection."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass  # it closed with something of ours unread
    return b"".join(parts)


def _send_without_end(connection: socket.socket, part: bytes) -> int:
    """Send until the service takes no more; return how many bytes that were."""
    sent = 0
    try:
        while sent < 100 * HEAD_BYTES:
            connection.sendall(part)
            sent += len(part)
            time.sleep(0.001)
    except OSError:
        pass
    return sent


def test_a_connection_serves_many_requests(port: int) -> None:
    with _connected(port) as connection:
        for body in (b"", b"12345"):
            connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            assert b"%d bytes" % len(body) in connection.recv(65536)
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"0 bytes" in _rest(connection)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"x" * HEAD_BYTES + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * HEAD_BYTES + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: 1234\r\n" * (HEAD_BYTES // 5 + 1) + b"\r\n",
    ],
    ids=["line", "header", "many headers"],
)
def test_a_head_that_is_too_long_is_refused(port: int, head: bytes) -> None:
    with _connected(port) as connection:
        connection.sendall(head)
        assert _rest(connection).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "begin",
    [
        b"GET /",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: ",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-Long: ",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;",
    ],
    ids=["line", "header", "trailer", "chunk's extension"],
)
def test_what_never_ends_is_not_kept(port: int, begin: bytes) -> None:
    with _connected(port) as connection:
        connection.sendall(begin)
        assert _send_without_end(connection, b"x" * 4096) < 100 * HEAD_BYTES
    with _connected(port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"0 bytes" in _rest(connection)


@pytest.mark.parametrize("begin", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n"], ids=["nothing", "half a head"])
def test_a_head_that_does_not_come_ends_the_connection(
    port: int, begin: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_http, "HEAD_SECONDS", SHORT_SECONDS)
    with _connected(port) as connection:
        connection.sendall(begin)
        assert _rest(connection) == b""


def test_a_second_head_has_its_time_too(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_http, "HEAD_SECONDS", SHORT_SECONDS)
    with _connected(port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"0 bytes" in connection.recv(65536)
        connection.sendall(b"GET / HTT")
        assert _rest(connection) == b""


def test_a_body_may_take_longer_than_a_head(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_http, "HEAD_SECONDS", SHORT_SECONDS)
    with _connected(port) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\n")
        connection.settimeout(2 * SHORT_SECONDS)
        with pytest.raises(TimeoutError):  # nothing comes, and it is not closed
            connection.recv(1)
        connection.settimeout(WAIT_SECONDS)
        connection.sendall(b"12345")
        assert b"5 bytes" in _rest(connection)


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length : 5\r\n",
        b"X: a\nY: b\r\n",
        b"X: a\0b\r\n",
    ],
)
def test_a_request_that_can_be_read_in_two_ways_is_refused(port: int, headers: bytes) -> None:
    with _connected(port) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n12345")
        assert _rest(connection).startswith(b"HTTP/1.1 400 ")


def test_answers_are_sent_at_once(port: int) -> None:
    """Head and body go out one after the other: without TCP_NODELAY the second would wait 40 ms for the client."""
    with _connected(port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.recv(65536)
        quickest = WAIT_SECONDS * 1.0
        for _ in range(10):
            begin = time.monotonic()
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while b"0 bytes" not in answer:
                answer += connection.recv(65536)
            quickest = min(quickest, time.monotonic() - begin)
    assert quickest < 0.03


def test_who_never_finishes_a_tls_handshake_holds_up_nobody(tmp_path: Path) -> None:
    context, authority = make_tls(tmp_path, "127.0.0.1")
    listening = serving._listen(HttpSettings("127.0.0.1", 0, None, None, ()))
    port = listening.getsockname()[1]
    with _served(listening, ssl_context_factory=lambda *_: context), ExitStack() as stack:
        for begin in (b"", b"\x16\x03\x01"):  # nothing, and the begin of a first record
            for _ in range(20):
                stack.enter_context(_connected(port)).sendall(begin)
        trust = ssl.create_default_context(cafile=str(authority))
        with trust.wrap_socket(_connected(port), server_hostname="127.0.0.1") as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert b"0 bytes" in _rest(connection)
