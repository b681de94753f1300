"""A node and its BMC in memory. The device outlives connections to it, and fails as it is told to.

`FakeBmcs` is the driver: it finds a device by the address {"host": NAME}. `FakeBmc` is the device, for a test to look
at and to break. What a test sets on it holds for every connection, at once.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from steelyard.isolation.ports import Access, Bmc, BootDevice, Console, Power
from steelyard.model.errors import (
    DeviceGarbled,
    DeviceRefused,
    DeviceUnreachable,
    OutcomeUnknown,
    WrongUse,
)

READ_BYTES: Final = 64 * 1024


class Fault(Enum):
    """What a fake can have. The first three and DEAF and LYING are those of the lab's BMCs."""

    UNREACHABLE = "unreachable"
    """Nothing is sent: DeviceUnreachable."""
    DEAF = "deaf"
    """It says yes to every command and does none."""
    LYING = "lying"
    """It says on when the node is off, and off when it is on."""
    REFUSING = "refusing"
    """It answers no and does nothing: DeviceRefused."""
    GARBLED = "garbled"
    """It does what it is told and answers nonsense: DeviceGarbled."""
    LOST_BEFORE = "lost before"
    """No answer, and nothing was done: OutcomeUnknown; for a read, DeviceUnreachable."""
    LOST_AFTER = "lost after"
    """No answer, and it was done: likewise."""


@dataclass(frozen=True, slots=True)
class Override:
    """From what the next start is, or every start."""

    device: BootDevice
    once: bool


_NO_OVERRIDE: Final = Override(BootDevice.DEFAULT, once=False)


def _nothing(_verb: str) -> None:
    """What a hook does if it is not set."""


class FakeBmc:
    """The device.

    faults         hold until taken away.
    next_faults    one for each call to come, from the left, on top of `faults`; None: none for that call.
    latency        seconds that each call takes.
    may_answer     a call waits for it, up to `limit` seconds; then it is an OutcomeUnknown and was not done.
    before, after  called with the verb's name before and after the device acts; what they raise, the caller gets: the
                   place to be killed at, or to look at the world.
    obeys_button   whether the node's system goes off when it is asked to.
    history        every power state of the node, from the first on. calls: the verbs that were asked for.
    starts         from what each start was. override: what the BMC holds for starts to come.
    typed          what consoles wrote to the node.
    """

    def __init__(self, name: str, power: Power = Power.OFF) -> None:
        self.name = name
        self.faults: set[Fault] = set()
        self.next_faults: deque[Fault | None] = deque()
        self.latency = 0.0
        self.limit = 10.0
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.before: Callable[[str], None] = _nothing
        self.after: Callable[[str], None] = _nothing
        self.obeys_button = True
        self.history = [power]
        self.calls: list[str] = []
        self.starts: list[BootDevice] = []
        self.override = _NO_OVERRIDE
        self.typed = bytearray()
        self._lock = threading.Lock()
        self._console: FakeConsole | None = None

    @property
    def power(self) -> Power:
        """Whether the node truly has power."""
        return self.history[-1]

    def be(self, power: Power) -> None:
        """Have the node go on or off as if someone stood before it."""
        with self._lock:
            if power is self.power:
                return
            if power is Power.ON:
                self.starts.append(self.override.device)
                if self.override.once:
                    self.override = _NO_OVERRIDE
            self.history.append(power)

    def say(self, words: bytes) -> None:
        """Have the node say something on its serial line; nobody hears it unless a console is open."""
        with self._lock:
            console = self._console
        if console is not None:
            console.hear(words)

    def restart_bmc(self) -> None:
        """Have the BMC forget its sessions: an open console ends. The node goes on."""
        self.give_console(None)

    def give_console(self, console: "FakeConsole | None") -> None:
        """Give the line to `console`; who had it before loses it."""
        with self._lock:
            former, self._console = self._console, console
        if former is not None and former is not console:
            former.end()

    def take_console(self, console: "FakeConsole") -> None:
        """Have `console` no longer hold the line, if it does."""
        with self._lock:
            if self._console is console:
                self._console = None

    def connect(self) -> Bmc:
        """Return a new connection."""
        return _Connection(self)

    def carry_out(self, verb: str, act: Callable[[], None]) -> frozenset[Fault]:
        """Be asked for something; return the faults that its answer has. Raises DeviceError."""
        self.calls.append(verb)
        self.before(verb)
        faults = self._faults_of_this_call()
        doing = f"{verb} of {self.name}"
        if Fault.UNREACHABLE in faults:
            raise DeviceUnreachable(doing, expected="a connection", found="none")
        time.sleep(self.latency)
        if not self.may_answer.wait(self.limit) or Fault.LOST_BEFORE in faults:
            raise OutcomeUnknown(doing, expected="an answer", found="none")
        if Fault.REFUSING in faults:
            raise DeviceRefused(doing, expected="it done", found="no")
        if Fault.DEAF not in faults:
            act()
        self.after(verb)
        if Fault.LOST_AFTER in faults:
            raise OutcomeUnknown(doing, expected="an answer", found="none")
        if Fault.GARBLED in faults:
            raise DeviceGarbled(doing, expected="an answer that makes sense", found="another")
        return faults

    def _faults_of_this_call(self) -> frozenset[Fault]:
        scripted = self.next_faults.popleft() if self.next_faults else None
        return frozenset(self.faults) if scripted is None else frozenset({*self.faults, scripted})


class _Connection:
    """A `Bmc`."""

    def __init__(self, device: FakeBmc) -> None:
        self._device = device

    def read_power(self) -> Power:
        seen: list[Power] = []
        try:
            # Taken when the device acts: what a hook does after it is not in the answer.
            faults = self._device.carry_out("read_power", lambda: seen.append(self._device.power))
        except OutcomeUnknown as cause:
            raise DeviceUnreachable(cause.doing, expected=cause.expected, found=cause.found) from cause
        power = seen[0] if seen else self._device.power
        if Fault.LYING in faults:
            return Power.OFF if power is Power.ON else Power.ON
        return power

    def set_power(self, wanted: Power) -> None:
        self._device.carry_out("set_power", lambda: self._device.be(wanted))

    def shut_down(self) -> None:
        def press() -> None:
            if self._device.obeys_button:
                self._device.be(Power.OFF)

        self._device.carry_out("shut_down", press)

    def set_boot_device(self, device: BootDevice, *, once: bool) -> None:
        wanted = _NO_OVERRIDE if device is BootDevice.DEFAULT else Override(device, once)

        def remember() -> None:
            self._device.override = wanted

        self._device.carry_out("set_boot_device", remember)
        if self._device.override != wanted:
            raise DeviceGarbled(f"set_boot_device of {self._device.name}", expected=str(wanted), found="another")

    def open_console(self) -> Console:
        console = FakeConsole(self._device)
        self._device.carry_out("open_console", lambda: self._device.give_console(console))
        return console

    def close(self) -> None:
        pass


class FakeConsole:
    """A `Console` in memory."""

    def __init__(self, device: FakeBmc) -> None:
        self._device = device
        self._changed = threading.Condition()
        self._heard = bytearray()
        self._ended = False

    def hear(self, words: bytes) -> None:
        """Take what the node says."""
        with self._changed:
            self._heard += words
            self._changed.notify_all()

    def end(self) -> None:
        """Lose the line."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def read(self, seconds: float) -> bytes:
        """Return what the node said since; what came before the end is still read. Raises DeviceUnreachable."""
        with self._changed:
            self._changed.wait_for(lambda: self._heard or self._ended, seconds)
            said = bytes(self._heard[:READ_BYTES])
            del self._heard[:READ_BYTES]
            if not said:
                self._check_alive()
            return said

    def write(self, keys: bytes) -> None:
        """Send keys to the node; without power they are lost. Raises DeviceUnreachable."""
        with self._changed:
            self._check_alive()
        if self._device.power is Power.ON:
            self._device.typed += keys

    def _check_alive(self) -> None:
        if self._ended:
            raise DeviceUnreachable(f"console of {self._device.name}", expected="an open line", found="one that ended")

    def close(self) -> None:
        """Give the line back."""
        self._device.take_console(self)
        self.end()


class FakeBmcs:
    """The driver of fakes: a `BmcDriver` that reaches the devices by name."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.devices = {name: FakeBmc(name) for name in names}

    def __getitem__(self, name: str) -> FakeBmc:
        return self.devices[name]

    def add(self, name: str, power: Power = Power.OFF) -> FakeBmc:
        """Return a new device, reached by {"host": name}."""
        self.devices[name] = FakeBmc(name, power)
        return self.devices[name]

    def __call__(self, access: Access) -> Bmc:
        """Return a connection. Raises WrongUse for an address that is none of these."""
        if set(access.address) != {"host"} or access.address["host"] not in self.devices:
            raise WrongUse("reaching a fake BMC", expected='{"host": its name}', found=str(dict(access.address)))
        return self.devices[access.address["host"]].connect()
