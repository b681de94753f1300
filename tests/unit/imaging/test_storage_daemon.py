"""The monitor of a storage daemon that is spoken to while it still sets itself up; its real one has its own tests."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from steelyard.imaging.exports.daemons import Daemon
from steelyard.imaging.exports.storage_daemon import Monitor
from steelyard.model.errors import StorageFailed

_GREETING: Final = {"QMP": {"version": {}, "capabilities": ["oob"]}}


class Qemu:
    """The other end of the wire."""

    def __init__(self, wire: socket.socket) -> None:
        self._wire, self._lines = wire, wire.makefile("rb")
        self.done: list[str] = []

    def say(self, **answer: object) -> None:
        self._wire.sendall(json.dumps(answer).encode() + b"\n")

    def hear(self) -> dict[str, object]:
        command: dict[str, object] = json.loads(self._lines.readline())
        return command

    def obey(self) -> None:
        command = self.hear()
        self.done.append(str(command["execute"]))
        self.say(**{"return": {}, "id": command["id"]})

    def refuse(self, kind: str) -> None:
        self.say(error={"class": kind, "desc": kind}, id=self.hear()["id"])


@contextmanager
def qemu(plays: Callable[[Qemu], None]) -> Iterator[tuple[Monitor, Qemu]]:
    """Give a monitor of one that plays a part once it has been greeted."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        other = Qemu(theirs)

        def play() -> None:
            other.say(**_GREETING)
            other.obey()
            plays(other)

        thread = threading.Thread(target=play)
        thread.start()
        with Daemon(ours, 0, ours.dup().detach()) as daemon:
            try:
                yield Monitor(daemon), other
            finally:
                thread.join()


def test_a_command_of_which_a_part_was_lost_is_said_again() -> None:
    def play(other: Qemu) -> None:
        other.hear()
        other.say(**_GREETING)
        other.say(error={"class": "GenericError", "desc": "JSON parse error, expected separator in dict"})
        other.obey()
        other.obey()

    with qemu(play) as (monitor, other):
        monitor.execute("blockdev-add", {})
    assert other.done == ["qmp_capabilities", "qmp_capabilities", "blockdev-add"]


def test_a_command_that_came_too_early_is_said_again() -> None:
    def play(other: Qemu) -> None:
        other.say(**_GREETING)
        other.refuse("CommandNotFound")
        other.obey()
        other.obey()

    with qemu(play) as (monitor, other):
        monitor.execute("blockdev-add", {})
    assert other.done == ["qmp_capabilities", "qmp_capabilities", "blockdev-add"]


def test_a_command_that_was_done_before_the_second_greeting_is_not_said_again() -> None:
    def play(other: Qemu) -> None:
        number = other.hear()["id"]
        other.say(**_GREETING)
        other.say(**{"return": {}, "id": number})
        other.obey()

    with qemu(play) as (monitor, other):
        monitor.execute("blockdev-add", {})
    assert other.done == ["qmp_capabilities", "qmp_capabilities"]


def test_a_command_that_is_refused_is_told_so() -> None:
    with (
        qemu(lambda other: other.refuse("GenericError")) as (monitor, _),
        pytest.raises(StorageFailed, match="telling QEMU blockdev-add"),
    ):
        monitor.execute("blockdev-add", {})
