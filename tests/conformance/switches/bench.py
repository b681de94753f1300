"""What the suite needs of a switch besides its driver: somebody else's hand on it, its frames, its failures."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from enum import Enum
from typing import Final, Protocol

from steelyard.isolation.ports import Missing, Switch
from tests.fakes.switch import OPEN, FakeSwitch, Fault

PORTS: Final = ("p1", "p2", "p3", "p4")
LIMIT_SECONDS: Final = 1.0
"""What a call on a broken switch may take; what is broken on purpose is not worth waiting for."""


class Broken(Enum):
    """What may be at the other end instead of a switch."""

    DEAD = "nothing listens"
    HANGS_UP = "it ends every connection"
    SILENT = "it takes every connection and says nothing"
    GARBAGE = "it speaks another protocol"
    ENDLESS = "it sends one message without end"


class Bench(Protocol):
    """A switch with the ports PORTS, all shut, without a fence when a test begins."""

    def connect(self) -> AbstractContextManager[Switch]:
        """Give a new connection; several at once are as several processes."""

    def impatient(self) -> AbstractContextManager[Switch]:
        """Give a new connection whose calls end within LIMIT_SECONDS."""

    def reaches(self, speaker: str, listener: str) -> bool:
        """Say whether any broadcast sent at one port, with whatever tag, comes out of another."""

    def open(self, port: str) -> None:
        """By somebody else's hand, let a port carry every VLAN."""

    def remove(self, port: str) -> None:
        """By somebody else's hand, take a port away."""

    def lose_configuration(self) -> None:
        """Cut its power; it comes back knowing nothing, and every port carries every VLAN."""

    def stop_applying(self) -> None:
        """Have it take changes and not apply them."""

    def apply_again(self) -> None:
        """Have it apply changes again."""

    def hang_up(self) -> None:
        """Have it end every connection."""

    def broken(self, how: Broken) -> AbstractContextManager[Switch]:
        """Give a connection to what is not a switch."""

    def losing(self, *, done: bool) -> AbstractContextManager[Switch]:
        """Give a connection on which the answer to the first change is lost, and what was asked done or not."""


class FakeBench:
    """The fake."""

    def __init__(self) -> None:
        self.device = FakeSwitch("fake", PORTS)

    @contextmanager
    def connect(self) -> Iterator[Switch]:
        yield self.device.connect()

    def impatient(self) -> AbstractContextManager[Switch]:
        return self.connect()

    def reaches(self, speaker: str, listener: str) -> bool:
        return self.device.reaches(speaker, listener)

    def open(self, port: str) -> None:
        self.device.set_port(port, OPEN)

    def remove(self, port: str) -> None:
        self.device.set_port(port, Missing())

    def lose_configuration(self) -> None:
        self.device.forget()
        self.device.hang_up()

    def stop_applying(self) -> None:
        self.device.faults.add(Fault.DEAF)

    def apply_again(self) -> None:
        self.device.faults.remove(Fault.DEAF)

    def hang_up(self) -> None:
        self.device.hang_up()

    @contextmanager
    def broken(self, how: Broken) -> Iterator[Switch]:
        device = FakeSwitch("broken", PORTS)
        device.limit = LIMIT_SECONDS
        match how:
            case Broken.DEAD | Broken.HANGS_UP:
                device.faults.add(Fault.UNREACHABLE)
            case Broken.SILENT:
                device.may_answer.clear()
            case Broken.GARBAGE | Broken.ENDLESS:
                device.faults.add(Fault.GARBLED)
        yield device.connect()

    @contextmanager
    def losing(self, *, done: bool) -> Iterator[Switch]:
        self.device.next_faults.append(Fault.LOST_AFTER if done else Fault.LOST_BEFORE)
        yield self.device.connect()
