"""What the conformance suite is run against: a driver, and a node that can be looked at and broken past it.

A new driver has a subject here, and its name in `SUBJECTS`; the suite is then its to pass.
"""

import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import Final, Protocol

from steelyard.isolation.bmcs import ipmi, redfish
from steelyard.isolation.ports import Access, BmcDriver, BootDevice, Power
from steelyard.lab.bmc.controller import Power as LabPower
from steelyard.lab.faults import BmcFault
from steelyard.lab.plan import BootDevice as LabBootDevice
from steelyard.model.secret import Secret
from tests.conformance.bmcs.relay import relay
from tests.conformance.bmcs.rig import PASSWORD, SimulatedBmc, simulated_bmc
from tests.fakes.bmc import FakeBmcs, Fault
from tests.tpm import require_programs


class Trouble(Enum):
    """What a BMC can have: the lab's faults, and a password that is not the one given."""

    UNREACHABLE = "unreachable"
    DEAF = "deaf"
    LYING = "lying"
    SLOW = "slow"
    STRANGER = "stranger"


class Subject(Protocol):
    """A driver with a node. The node is off at first, and starts from the network unless it is told otherwise."""

    driver: BmcDriver
    access: Access

    @property
    def power(self) -> Power:
        """The node's true power."""
        ...

    @property
    def starts(self) -> list[BootDevice]:
        """From what each start was; a start from the network that nobody asked for is one from DEFAULT."""
        ...

    def switch(self, power: Power) -> None:
        """Switch the node by hand."""
        ...

    def trouble(self, *troubles: Trouble) -> None:
        """Have exactly these troubles."""
        ...

    def losing_answers(self) -> AbstractContextManager[Access]:
        """Give an access by which every answer is lost from the moment on at which the node is on."""
        ...

    def say(self, words: bytes) -> None:
        """Have the node say something on its serial line."""
        ...

    def hear(self, size: int) -> bytes:
        """Return the next keys that reach the node."""
        ...

    def end_console(self) -> None:
        """Have an open console end from the other side."""
        ...


class FakeSubject:
    """The fake, which others build on: it must be like the real ones."""

    def __init__(self) -> None:
        fakes = FakeBmcs(["n1"])
        self.driver: BmcDriver = fakes
        self._device = fakes["n1"]
        self.access = Access({"host": "n1"}, {})
        self._heard = 0

    @property
    def power(self) -> Power:
        return self._device.power

    @property
    def starts(self) -> list[BootDevice]:
        return self._device.starts

    def switch(self, power: Power) -> None:
        self._device.be(power)

    def trouble(self, *troubles: Trouble) -> None:
        faults = {
            Trouble.UNREACHABLE: Fault.UNREACHABLE,
            Trouble.DEAF: Fault.DEAF,
            Trouble.LYING: Fault.LYING,
            Trouble.STRANGER: Fault.REFUSING,
        }
        self._device.latency = 0.05 if Trouble.SLOW in troubles else 0.0
        self._device.faults = {faults[trouble] for trouble in troubles if trouble is not Trouble.SLOW}

    @contextmanager
    def losing_answers(self) -> Iterator[Access]:
        self._device.faults = {Fault.LOST_AFTER}
        yield self.access
        self._device.faults = set()

    def say(self, words: bytes) -> None:
        self._device.say(words)

    def hear(self, size: int) -> bytes:
        heard = bytes(self._device.typed[self._heard : self._heard + size])
        self._heard += size
        return heard

    def end_console(self) -> None:
        self._device.restart_bmc()


class LabSubject:
    """A driver and the lab's BMC."""

    def __init__(self, bmc: SimulatedBmc, driver: BmcDriver, kind: socket.SocketKind, port: int) -> None:
        self.bmc = bmc
        self.driver = driver
        self._kind, self._port = kind, port
        self.access = self._access(port)

    def _access(self, port: int, password: Secret = PASSWORD) -> Access:
        if self._kind is socket.SOCK_DGRAM:
            return self.bmc.ipmi_access(password, port=str(port))
        return self.bmc.redfish_access(password, url=f"https://127.0.0.1:{port}")

    @property
    def power(self) -> Power:
        return Power(self.bmc.controller.true_power.value)

    @property
    def starts(self) -> list[BootDevice]:
        names = {LabBootDevice.NETWORK: BootDevice.DEFAULT, LabBootDevice.DISK: BootDevice.DISK}
        return [names[device] for device in self.bmc.machine.starts]

    def switch(self, power: Power) -> None:
        self.bmc.switch(LabPower(power.value))

    def trouble(self, *troubles: Trouble) -> None:
        password = Secret(b"another's") if Trouble.STRANGER in troubles else PASSWORD
        self.access = self._access(self._port, password)
        self.bmc.fail(*(BmcFault(trouble.value) for trouble in troubles if trouble is not Trouble.STRANGER))

    @contextmanager
    def losing_answers(self) -> Iterator[Access]:
        with relay(self._kind, self._port, lambda: self.bmc.machine.running) as port:
            yield self._access(port)

    def say(self, words: bytes) -> None:
        self.bmc.say(words)

    def hear(self, size: int) -> bytes:
        return self.bmc.hear(size)

    def end_console(self) -> None:
        for process in children():
            os.kill(process, signal.SIGKILL)


def children() -> list[int]:
    """Return the runs of ipmitool that this process started and has not yet seen the end of.

    No others: the database server of other tests may run beside it.
    """
    found: list[int] = []
    for thread in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # it ended meanwhile; another has its children now
            found += map(int, (thread / "children").read_text().split())
    return [process for process in found if _name(process) == "ipmitool"]


def _name(process: int) -> str:
    with suppress(FileNotFoundError):  # it is over
        return Path(f"/proc/{process}/comm").read_text().strip()
    return ""


@contextmanager
def fake(_folder: Path) -> Iterator[Subject]:
    """Give the fake."""
    yield FakeSubject()


@contextmanager
def by_ipmi(folder: Path) -> Iterator[Subject]:
    """Give the IPMI driver."""
    require_programs({"ipmitool": "ipmitool"})
    with simulated_bmc(folder) as bmc:
        yield LabSubject(bmc, ipmi.connect, socket.SOCK_DGRAM, bmc.ipmi_port)


@contextmanager
def by_redfish(folder: Path) -> Iterator[Subject]:
    """Give the Redfish driver."""
    require_programs({"ipmitool": "ipmitool"})
    with simulated_bmc(folder) as bmc:
        yield LabSubject(bmc, redfish.connect, socket.SOCK_STREAM, bmc.redfish_port)


SUBJECTS: Final[Mapping[str, Callable[[Path], AbstractContextManager[Subject]]]] = {
    "fake": fake,
    "ipmi": by_ipmi,
    "redfish": by_redfish,
}
