"""A switch in memory. The device outlives connections to it, and fails as it is told to.

`FakeSwitches` is the driver: it finds a device by the address {"host": NAME}. `FakeSwitch` is the device, for a test to
look at and to break. What a test sets on it holds for every connection, at once.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeVar

from steelyard.isolation.ports import Access, Missing, Other, PortReading, Switch
from steelyard.model.errors import (
    DeviceGarbled,
    DeviceRefused,
    DeviceUnreachable,
    OutcomeUnknown,
    WrongUse,
)
from steelyard.model.network import SHUT, PortVlans

T = TypeVar("T")

OPEN: Final = Other("carries every VLAN")
"""What a port is on a switch that was told nothing."""


class Fault(Enum):
    """What a fake can have. The first two are those of the lab's switch."""

    UNREACHABLE = "unreachable"
    """Nothing is sent: DeviceUnreachable."""
    DEAF = "deaf"
    """It takes every change and applies none: OutcomeUnknown; reading then, DeviceGarbled, until the fault is over."""
    REFUSING = "refusing"
    """It answers no and does nothing: DeviceRefused."""
    GARBLED = "garbled"
    """It does what it is told and answers nonsense: DeviceGarbled."""
    LOST_BEFORE = "lost before"
    """No answer, and nothing was done: OutcomeUnknown for a write, DeviceUnreachable for a read."""
    LOST_AFTER = "lost after"
    """No answer, and it was done: OutcomeUnknown for a write, DeviceUnreachable for a read."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call that was made. wanted: of a write. fence: of a write, or 0."""

    verb: str
    ports: frozenset[str]
    wanted: Mapping[str, PortVlans]
    fence: int


def _nothing(_call: Call) -> None:
    """What a hook does if it is not set."""


class FakeSwitch:
    """The device.

    faults         hold until taken away.
    next_faults    one for each call to come, from the left, on top of `faults`; None: none for that call.
    latency        seconds that each call takes.
    may_answer     a call waits for it, up to `limit` seconds; then its answer is lost, and it was not done.
    before, after  called with the call before and after the device acts; what they raise, the caller gets: the place to
                   be killed at, or to look at the world.
    ports          what each port is now. history: every state that each port ever was in, from the first on.
    fence          the highest that the device has seen; None: none.
    calls          every call of `read` and `write`, also those that failed. round_trips: how many reached the device.
    """

    def __init__(self, name: str, ports: Iterable[str] = ()) -> None:
        self.name = name
        self.faults: set[Fault] = set()
        self.next_faults: deque[Fault | None] = deque()
        self.latency = 0.0
        self.limit = 10.0
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.before: Callable[[Call], None] = _nothing
        self.after: Callable[[Call], None] = _nothing
        self.ports: dict[str, PortReading] = dict.fromkeys(ports, SHUT)
        self.history: dict[str, list[PortReading]] = {port: [SHUT] for port in self.ports}
        self.fence: int | None = None
        self.calls: list[Call] = []
        self.round_trips = 0
        self._behind = False
        self._changed = threading.Condition()
        self._writers: list[object] = []

    def set_port(self, port: str, reading: PortReading) -> None:
        """Have a port be this as if by somebody else's hand; one that was not there is added, Missing takes it away."""
        self._become({port: reading}, None)

    def forget(self) -> None:
        """Lose the configuration, as in a power cut: every port carries every VLAN, no fence is known."""
        self.fence = None
        self._become({port: OPEN for port, reading in self.ports.items() if reading != Missing()}, None)

    def hang_up(self) -> None:
        """End every connection: who waits for a change goes on."""
        with self._changed:
            self._writers.append(None)
            self._changed.notify_all()

    def reaches(self, speaker: str, listener: str) -> bool:
        """Say whether any frame sent at one port comes out of another."""
        ends = [self.ports[port] for port in (speaker, listener)]
        carried = [end for end in ends if isinstance(end, PortVlans)]
        if len(carried) < len(ends):
            # A port in an unknown state reaches whatever is not shut.
            return Missing() not in ends and SHUT not in ends
        return bool(carried[0].vlans & carried[1].vlans) and not (carried[0].isolated and carried[1].isolated)

    def connect(self) -> Switch:
        """Return a new connection."""
        return _Connection(self)

    # -- for connections --

    def carry_out(self, call: Call, act: Callable[[], T]) -> T | None:
        """Be asked for something; return what `act` did, None if the device is deaf. Raises DeviceError."""
        self.calls.append(call)
        self.before(call)
        faults = self._faults_of_this_call()
        doing = f"{call.verb} of {self.name}"
        if Fault.UNREACHABLE in faults:
            raise DeviceUnreachable(doing, expected="a connection", found="none")
        self.round_trips += 1
        no_answer = OutcomeUnknown if call.verb == "write" else DeviceUnreachable
        time.sleep(self.latency)
        if not self.may_answer.wait(self.limit) or Fault.LOST_BEFORE in faults:
            raise no_answer(doing, expected="an answer", found="none")
        if Fault.REFUSING in faults:
            raise DeviceRefused(doing, expected="it done", found="no")
        if Fault.DEAF not in faults:
            self._behind = False
            done = act()
        elif call.verb == "write":
            self._behind = True
            done = None
        else:
            done = None if self._behind else act()
        self.after(call)
        if Fault.LOST_AFTER in faults:
            raise no_answer(doing, expected="an answer", found="none")
        if Fault.GARBLED in faults:
            raise DeviceGarbled(doing, expected="an answer that makes sense", found="another")
        return done

    def take(self, wanted: Mapping[str, PortVlans], fence: int, writer: object) -> None:
        """Carry these, all or none. Raises DeviceRefused."""
        doing = f"write of {self.name}"
        with self._changed:
            if missing := [port for port in wanted if self.now(port) == Missing()]:
                raise DeviceRefused(doing, expected="ports that it has", found=", ".join(missing))
            if self.fence is not None and fence < self.fence:
                raise DeviceRefused(doing, expected=f"fence {self.fence} or higher", found=str(fence))
            self.fence = fence
            self._become(wanted, writer)

    def now(self, port: str) -> PortReading:
        """Return what a port is."""
        return self.ports.get(port, Missing())

    @property
    def changes(self) -> int:
        """How often something changed."""
        return len(self._writers)

    def wait_for_change(self, since: int, listener: object, seconds: float) -> int:
        """Return `changes` when there is one after `since` that is not the listener's own; else after `seconds`."""

        def somebody_else_changed_it() -> bool:
            return any(writer is not listener for writer in self._writers[since:])

        with self._changed:
            self._changed.wait_for(somebody_else_changed_it, seconds)
            return self.changes

    def _become(self, readings: Mapping[str, PortReading], writer: object) -> None:
        with self._changed:
            for port, reading in readings.items():
                if reading == self.now(port):
                    continue
                self.ports[port] = reading
                self.history.setdefault(port, []).append(reading)
                self._writers.append(writer)
            self._changed.notify_all()

    def _faults_of_this_call(self) -> frozenset[Fault]:
        scripted = self.next_faults.popleft() if self.next_faults else None
        return frozenset(self.faults) if scripted is None else frozenset({*self.faults, scripted})


class _Connection:
    """A `Switch`."""

    def __init__(self, device: FakeSwitch) -> None:
        self._device = device
        self._seen = device.changes

    def read(self, ports: Collection[str]) -> Mapping[str, PortReading]:
        asked = frozenset(ports)
        # Taken when the device acts: what a hook does after it is not in the answer.
        readings = self._device.carry_out(
            Call("read", asked, {}, 0), lambda: {port: self._device.now(port) for port in asked}
        )
        if readings is None:
            raise DeviceGarbled(
                f"read of {self._device.name}", expected="that it has applied what it took", found="that it has not"
            )
        return readings

    def write(self, wanted: Mapping[str, PortVlans], fence: int) -> None:
        done = self._device.carry_out(
            Call("write", frozenset(wanted), dict(wanted), fence), lambda: self._taken(wanted, fence)
        )
        if done is None:
            raise OutcomeUnknown(f"write of {self._device.name}", expected="that it is applied", found="that it is not")

    def _taken(self, wanted: Mapping[str, PortVlans], fence: int) -> bool:
        self._device.take(wanted, fence, self)
        return True

    def wait_for_change(self, seconds: float) -> None:
        if Fault.UNREACHABLE in self._device.faults:
            raise DeviceUnreachable(f"watching {self._device.name}", expected="a connection", found="none")
        self._seen = self._device.wait_for_change(self._seen, self, seconds)

    def close(self) -> None:
        pass


class FakeSwitches:
    """The driver of fakes: a `SwitchDriver` that reaches the devices by name."""

    def __init__(self, ports: Mapping[str, Iterable[str]] | None = None) -> None:
        self.devices = {name: FakeSwitch(name, its_ports) for name, its_ports in (ports or {}).items()}

    def __getitem__(self, name: str) -> FakeSwitch:
        return self.devices[name]

    def add(self, name: str, ports: Iterable[str] = ()) -> FakeSwitch:
        """Return a new device with these ports, shut; reached by {"host": name}."""
        self.devices[name] = FakeSwitch(name, ports)
        return self.devices[name]

    def __call__(self, access: Access) -> Switch:
        """Return a connection. Raises WrongUse for an address that is none of these."""
        if set(access.address) != {"host"} or access.address["host"] not in self.devices:
            raise WrongUse("reaching a fake switch", expected='{"host": its name}', found=str(dict(access.address)))
        return self.devices[access.address["host"]].connect()
