"""The wait for what the tenant leaves for a node: it takes as long as a person may, and not for ever."""

import json
import socket
from collections.abc import Iterator

import pytest

from steelyard.agent.airlock import await_delivery
from steelyard.agent.protocol import Delivery
from steelyard.model.errors import ServiceRefused
from tests.airlock_service import WebServer

DELIVERY = {"share": "Yg==", "tag": "Yw==", "payload": "ZA=="}


class Clock:
    """Time that passes when somebody waits."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def pause(self, seconds: float) -> None:
        assert seconds > 0
        self.seconds += seconds


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer(socket.create_server(("127.0.0.1", 0))) as server:
        yield server


def test_a_delivery_is_asked_for_until_it_is_there(web: WebServer) -> None:
    not_yet = (404, bytes(100_000))
    answers = iter([not_yet, not_yet, (200, json.dumps(DELIVERY).encode())])
    web.routes["GET", "/delivery"] = lambda _: next(answers)
    clock = Clock()
    delivery = await_delivery(f"http://127.0.0.1:{web.port}/delivery", clock.now, clock.pause)
    assert delivery == Delivery(b"b", b"c", b"d")
    assert (len(web.requests), clock.seconds) == (3, 1.0)


def test_a_delivery_that_does_not_come_is_not_waited_for_any_longer(web: WebServer) -> None:
    clock = Clock()
    with pytest.raises(ServiceRefused, match="within 600 s"):
        await_delivery(f"http://127.0.0.1:{web.port}/delivery", clock.now, clock.pause)
    assert 600 <= clock.seconds <= 601


def test_a_server_that_answers_anything_else_ends_the_wait(web: WebServer) -> None:
    web.routes["GET", "/delivery"] = lambda _: (500, b"")
    clock = Clock()
    with pytest.raises(ServiceRefused, match="status 500"):
        await_delivery(f"http://127.0.0.1:{web.port}/delivery", clock.now, clock.pause)
    assert clock.seconds == 0
