"""Where machines fetch what is for them: that and no more, whatever is asked, and however."""

import http.client
import socket
import time
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from steelyard.enclave.delivery import DeliveryServer
from steelyard.model.errors import Unavailable

NAME = "0123456789abcdef" * 2


@pytest.fixture
def server() -> Iterator[DeliveryServer]:
    there = {("delivery", NAME): b"sealed", ("peers", NAME): b"signed"}

    def find(kind: str, name: str) -> bytes | None:
        if name == "f" * 32:
            raise Unavailable("looking", expected="a database", found="none")
        return there.get((kind, name))

    server = DeliveryServer("127.0.0.1", 0, find)
    server.start()
    yield server
    server.stop()


def ask(server: DeliveryServer, method: str, path: str) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()


def test_what_is_there_is_given_by_its_exact_name(server: DeliveryServer) -> None:
    assert ask(server, "GET", f"/delivery/{NAME}") == (200, b"sealed")
    assert ask(server, "GET", f"/peers/{NAME}") == (200, b"signed")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/delivery",
        f"/delivery/{NAME}/",
        f"/delivery/{NAME}?a",
        f"/other/{NAME}",
        f"/delivery/{'0' * 32}",
        f"//delivery/{NAME}",
        f"/delivery/{NAME.upper()}",
        f"/delivery/../peers/{NAME}",
        f"/delivery/%30{NAME[1:]}",
    ],
)
def test_all_else_is_not_there(server: DeliveryServer, path: str) -> None:
    assert ask(server, "GET", path) == (404, b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_is_done_but_given(server: DeliveryServer, method: str) -> None:
    assert ask(server, method, f"/delivery/{NAME}") == (404, b"")


def test_a_database_that_does_not_answer_is_no_answer(server: DeliveryServer) -> None:
    assert ask(server, "GET", "/delivery/" + "f" * 32)[0] == 503


@pytest.mark.parametrize(
    "sent", [b"\0" * 100, b"GET / HTTP/1.1\r\n" + b"a" * 10_000, b"GET /\r\n\r\n", b"\x16\x03\x01"]
)
def test_what_is_no_request_is_not_answered_and_keeps_nobody_waiting(server: DeliveryServer, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(10)
        with suppress(ConnectionResetError):
            assert connection.recv(100) == b""
    assert ask(server, "GET", f"/delivery/{NAME}")[0] == 200


def test_who_holds_connections_open_keeps_no_other_out_for_ever(server: DeliveryServer) -> None:
    held = [socket.create_connection(("127.0.0.1", server.port), 10) for _ in range(20)]
    for each in held:
        each.close()
    end = time.monotonic() + 10
    answered = None
    while answered is None:
        assert time.monotonic() < end
        with suppress(ConnectionError, http.client.HTTPException):
            answered = ask(server, "GET", f"/delivery/{NAME}")
    assert answered[0] == 200
