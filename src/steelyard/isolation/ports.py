"""What isolation needs from devices. A driver is one file that implements one and passes its conformance suite.

Every method may raise a DeviceError (unreachable, refused, garbled, outcome unknown) and nothing else, and returns
within SWITCH_CALL_SECONDS or BMC_CALL_SECONDS. Methods state ends, so that doing one twice is harmless.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from steelyard.model.network import PortVlans
from steelyard.model.secret import Secret

SWITCH_CALL_SECONDS: Final = 15.0
BMC_CALL_SECONDS: Final = 30.0
"""The longest that a call takes: a keeper begins none that its lease would not outlast."""


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach a device.

    address      what its driver needs to find it, by name: "host", "url", "bridge", "ca" (PEM) ...
    credentials  what must not be seen, by name: "username", "password", "key" ...
    """

    address: Mapping[str, str]
    credentials: Mapping[str, Secret]


@dataclass(frozen=True, slots=True)
class Other:
    """What a port carries, when PortVlans cannot say it: every VLAN, VLAN 1, another port's frames by a mirror.

    Never what was wanted: a caller sees drift, and ends it by writing.
    """

    description: str


@dataclass(frozen=True, slots=True)
class Missing:
    """The device has no such port. There is nothing to write to; what is plugged into it is not on this device."""


PortReading = PortVlans | Other | Missing


class Switch(Protocol):
    """One switch, as isolation sees it. Used by one thread at a time."""

    def read(self, ports: Collection[str]) -> Mapping[str, PortReading]:
        """Return the state of each port, asked of the device now, never remembered; those asked for and no more.

        What is told is in force, as far as the device can tell: one that has yet to apply what it accepted is Garbled.
        No answer is Unreachable: nothing was changed.
        """

    def write(self, wanted: Mapping[str, PortVlans], fence: int) -> None:
        """Let these ports carry exactly these, all or none; others stay as they are.

        When it returns, no frame passes that should not. In as few round trips as the device allows, their number
        not growing with the ports'.

        fence  1 or more; rises with each new holder of the switch's lease. A device that can, remembers the highest and
               refuses a writer with a lower one (a process that slept through its lease). One that has lost its
               configuration knows none, and takes any.

        Raises DeviceRefused, and nothing has changed, if a port is Missing, or the fence is lower than the device's.
        Raises OutcomeUnknown if it was sent and no answer came, or if the device took it and did not apply it in time.
        """

    def wait_for_change(self, seconds: float) -> None:
        """Return when `read` may give something new that `write` did not make; at the latest after `seconds`.

        At once when the connection is lost, or had to be made anew: what happened meanwhile is not known. It may return
        for nothing. Raises DeviceUnreachable if there is no connection to be had.
        """

    def close(self) -> None:
        """Give up the connection. The next call makes a new one."""


class SwitchDriver(Protocol):
    """Makes a Switch of how it is reached; checks the access, does not connect. Raises WrongUse."""

    def __call__(self, access: Access) -> Switch:
        """Return the device, not yet connected."""


class Power(Enum):
    """Whether a node has power."""

    ON = "on"
    OFF = "off"


class BootDevice(Enum):
    """From what a node's firmware starts."""

    NETWORK = "network"
    DISK = "disk"
    DEFAULT = "default"
    """As its firmware is set up."""


class Bmc(Protocol):
    """One node's BMC. Used by one thread at a time."""

    def read_power(self) -> Power:
        """Return whether the node has power, asked now. No answer is Unreachable: nothing was changed."""

    def set_power(self, wanted: Power) -> None:
        """Ask for power on or off, at once. Not believed until `read_power` says so."""

    def shut_down(self) -> None:
        """Ask the node's system to go off by itself (soft off)."""

    def set_boot_device(self, device: BootDevice, *, once: bool) -> None:
        """Let the next start (or every start) be from there, by UEFI; read back where the BMC can."""

    def open_console(self) -> "Console":
        """Take the node's serial line."""

    def close(self) -> None:
        """Give up the session."""


class Console(Protocol):
    """A node's serial line. `read` and `write` may be called from two threads."""

    def read(self, seconds: float) -> bytes:
        """Return what the node said, at most 64 KiB; empty if nothing for `seconds`. DeviceError when it ended."""

    def write(self, keys: bytes) -> None:
        """Send keys to the node."""

    def close(self) -> None:
        """Give the line back; ends a `read` that waits."""


class BmcDriver(Protocol):
    """Makes a Bmc of how it is reached; checks the access, does not connect. Raises WrongUse."""

    def __call__(self, access: Access) -> Bmc:
        """Return the device, not yet connected."""


@dataclass(frozen=True, slots=True)
class Drivers:
    """The drivers there are, by the name that registrations give."""

    switches: Mapping[str, SwitchDriver]
    bmcs: Mapping[str, BmcDriver]
