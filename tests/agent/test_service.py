"""HTTP as the node speaks it, to servers that answer what they like."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from steelyard.agent.service import Server
from steelyard.model.errors import ServiceRefused, TooLarge
from steelyard.model.limits import MESSAGE_BYTES
from tests.airlock_service import WebServer


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer(socket.create_server(("127.0.0.1", 0))) as server:
        yield server


@pytest.fixture
def server(web: WebServer) -> Iterator[Server]:
    with closing(Server(f"http://127.0.0.1:{web.port}", None)) as server:
        yield server


@pytest.mark.parametrize("status", [200, 500])
def test_an_answer_of_any_size_is_not_read(web: WebServer, server: Server, status: int) -> None:
    web.routes["GET", "/"] = lambda _: (status, bytes(MESSAGE_BYTES.most + 1))
    with pytest.raises(TooLarge):
        server.get("/", MESSAGE_BYTES)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"title": "no", "detail": "not now"}', "status 503, no, not now"),
        (b'{"title": 7}', "status 503"),
        (b"[]", "status 503"),
        (b"<html>", "status 503"),
    ],
)
def test_a_refusal_is_told_with_what_its_problem_document_says(
    web: WebServer, server: Server, body: bytes, said: str
) -> None:
    web.routes["POST", "/"] = lambda _: (503, body)
    with pytest.raises(ServiceRefused) as refused:
        server.post("/", b"{}", 200, MESSAGE_BYTES)
    assert refused.value.found == said


def test_a_good_answer_to_another_question_is_none(web: WebServer, server: Server) -> None:
    web.routes["POST", "/"] = lambda _: (200, b"")
    with pytest.raises(ServiceRefused, match="status 200"):
        server.post("/", b"{}", 201, MESSAGE_BYTES)


def test_what_comes_with_an_error_is_no_file(web: WebServer, server: Server) -> None:
    web.routes["GET", "/kernel"] = lambda _: (404, b"kernel")
    with pytest.raises(ServiceRefused, match="status 404"):
        list(server.pieces("/kernel", len(b"kernel")))


def test_of_a_file_that_is_too_long_nothing_is_kept(web: WebServer, server: Server) -> None:
    web.routes["GET", "/kernel"] = lambda _: (200, b"kernel")
    kept: list[bytes] = []
    with pytest.raises(ServiceRefused, match="not of 4 bytes"):
        kept.extend(server.pieces("/kernel", 4))
    assert kept == []


def test_an_answer_that_is_no_http_is_refused_and_the_next_question_is_asked_anew() -> None:
    answers = [b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole"]

    def answer(listening: socket.socket) -> None:
        for words in answers:
            wire, _ = listening.accept()
            with wire:
                wire.recv(1 << 16)
                wire.sendall(words)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(30)
        thread = threading.Thread(target=answer, args=(listening,))
        thread.start()
        with closing(Server(f"http://127.0.0.1:{listening.getsockname()[1]}", None)) as server:
            with pytest.raises(ServiceRefused):
                server.get("/", MESSAGE_BYTES)
            assert server.get("/", MESSAGE_BYTES) == b"whole"
        thread.join()


def test_a_server_that_is_not_there_is_told_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with closing(Server(f"http://127.0.0.1:{port}", None)) as server, pytest.raises(ServiceRefused, match="refused"):
        server.get("/", MESSAGE_BYTES)
