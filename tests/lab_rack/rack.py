"""A rack that runs, and the tools of a data centre to handle it with: ipmitool, sushy, OVSDB, frames on a wire."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fcntl import ioctl
from pathlib import Path
from struct import pack
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import Final, TypeVar

import pytest
import sushy
from sushy.resources.system.system import System

from steelyard.lab.namespace import NAMESPACES, inside
from steelyard.lab.plan import Machines
from steelyard.lab.preflight import look_at_computer, problems
from steelyard.lab.rack import STANDARD_SHAPE
from steelyard.model.inventory import Inventory, Node, decode_inventory
from tests.namespaces import within
from tests.tpm import require_programs

T = TypeVar("T")

_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
_TEST_PROTOCOL: Final = b"\x88\xb5"
"""An EtherType for experiments. Source: IEEE 802, section 9.2.4."""

CLIENTS: Final = {"ipmitool": "ipmitool", "dnsmasq": "dnsmasq-base", "ovs-vsctl": "openvswitch-switch"}


def require_rack() -> None:
    """Skip the test, saying what is missing, where a rack cannot be had."""
    require_programs(CLIENTS)
    if missing := problems(look_at_computer(STANDARD_SHAPE), STANDARD_SHAPE):
        pytest.skip(f"needs a computer that can hold a rack: {'; '.join(missing)}")


@contextmanager
def room_for_a_rack() -> Iterator[Path]:
    """Give a directory's name short enough for the sockets in it; whatever runs there in the end is ended."""
    require_rack()
    with TemporaryDirectory(prefix="rack-") as folder:
        root = Path(folder).resolve() / "r"
        yield root
        if root.exists():
            lab(root, "down", check=False)


def lab(root: Path, verb: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run `steelyard lab`."""
    return subprocess.run(
        [Path(sys.executable).with_name("steelyard"), "lab", verb, "--dir", root, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=check,
    )


def wait_until(what: str, condition: Callable[[], bool], seconds: float = 30) -> None:
    """Return when `condition` holds; fail the test if it does not within `seconds`."""
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            pytest.fail(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)


@dataclass(frozen=True)
class Rack:
    """A rack that runs."""

    root: Path
    inventory: Inventory

    @property
    def namespace(self) -> str:
        assert self.inventory.namespace is not None
        return self.inventory.namespace

    def node(self, name: str) -> Node:
        """Return a node of the inventory."""
        return next(node for node in self.inventory.nodes if node.name == name)

    def lab(self, verb: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `steelyard lab` for this rack."""
        return lab(self.root, verb, *arguments, check=check)

    def run(
        self, command: Sequence[str], *, password: str = "", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the rack's namespace."""
        return subprocess.run(
            inside(self.namespace, command),
            env={**os.environ, "IPMI_PASSWORD": password},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=check,
        )

    def within(self, act: Callable[[], T]) -> T:
        """Return what `act` does in the rack's namespace: sockets that it opens are there, and stay so."""
        return within(self.namespace, act)

    # -- IPMI and Redfish --

    def ipmi(
        self, name: str, *command: str, password: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run ipmitool."""
        bmc = self.node(name).bmc
        right = bmc.password.reveal().decode()
        return self.run(
            ["ipmitool", "-I", "lanplus", "-H", bmc.address, "-U", bmc.username, "-E", *command],
            password=right if password is None else password,
            check=check,
        )

    def ipmi_power(self, name: str) -> str:
        """Return "on" or "off", as IPMI says it."""
        return self.ipmi(name, "power", "status").stdout.split()[-1]

    def true_power(self, name: str) -> str:
        """Return "on" if a machine of this rack runs as that node, by the kernel's own list of processes."""
        kernel_list = subprocess.run(["pgrep", "-f", f"qemu-system.*-name {name} .*{self.root}/"], capture_output=True)
        return "on" if kernel_list.returncode == 0 else "off"

    def redfish(self, name: str, act: Callable[[System], T], password: str | None = None) -> T:
        """Return what `act` does with sushy's system, in the namespace, TLS verified."""
        bmc = self.node(name).bmc
        right = bmc.password.reveal().decode()

        def connect() -> T:
            with NamedTemporaryFile("w", suffix=".pem") as authority:
                authority.write(bmc.ca_certificate)
                authority.flush()
                connection = sushy.Sushy(
                    bmc.redfish_url,
                    username=bmc.username,
                    password=right if password is None else password,
                    verify=authority.name,
                )
                return act(connection.get_system("/redfish/v1/Systems/1"))

        return self.within(connect)

    # -- the switch --

    def set_port(self, name: str, **columns: str) -> None:
        """Set a node's first port over OVSDB, by TCP as a switch's manager does."""
        port = self.node(name).nics[0].port
        self.ovs_vsctl("set", "port", port, *(f"{column}={value}" for column, value in columns.items()))

    def ovs_vsctl(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run ovs-vsctl against the switch's management address."""
        endpoint = self.inventory.switch.ovsdb[0]
        return self.run(["ovs-vsctl", f"--db={endpoint}", "--timeout=5", *command], check=check)

    def put_on(self, vlan: int, *names: str) -> None:
        """Make the nodes' ports access ports of a VLAN."""
        for name in names:
            self.set_port(name, vlan_mode="access", tag=str(vlan), trunks="[]", protected="false")

    def shut(self, *names: str) -> None:
        """Make the nodes' ports carry nothing, as they came."""
        for name in names:
            self.set_port(name, vlan_mode="trunk", tag="[]", trunks="4095", protected="true")

    # -- the console --

    def console(self, name: str) -> str:
        """Return what the node ever said on its serial line."""
        record = self.root / "nodes" / name / "console.log"
        return record.read_text("utf-8", "replace")

    def console_since(self, name: str, begin: int) -> str:
        """Return what it said since it had said `begin` characters."""
        return self.console(name)[begin:]

    def open_console(self, name: str) -> socket.socket:
        """Return a connection as `lab console` has it."""
        wire = socket.socket(socket.AF_UNIX)
        wire.connect(str(self.root / "nodes" / name / "console.sock"))
        return wire


def bring_up(root: Path, *arguments: str) -> Rack:
    """Return a rack that was brought up by the command line."""
    return Rack(root, decode_inventory(lab(root, "up", "--json", *arguments).stdout))


class Wire:
    """The cable of a node that is off: the test sends and receives frames as the node's card would."""

    def __init__(self, rack: Rack, name: str) -> None:
        self.mac = bytes.fromhex(rack.node(name).nics[0].mac.replace(":", ""))
        self._tap = rack.within(lambda: self._open(rack.node(name).nics[0].port))

    @staticmethod
    def _open(port: str) -> int:
        tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        ioctl(tap, _TUNSETIFF, pack("16sH22x", port.encode(), _IFF_TAP | _IFF_NO_PI))
        return tap

    def send(self, words: bytes, tag: int | None = None) -> None:
        """Send a frame to everyone, with a VLAN tag or without."""
        header = b"\xff" * 6 + self.mac + (b"" if tag is None else pack("!HH", 0x8100, tag)) + _TEST_PROTOCOL
        os.write(self._tap, header + words.ljust(46, b"\0"))

    def send_frame(self, frame: bytes) -> None:
        """Send a frame as it is."""
        os.write(self._tap, frame)

    def hear(self) -> bytes:
        """Return the next frame; empty if none has come."""
        try:
            return os.read(self._tap, 2048)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        os.close(self._tap)


def who_hears(sender: Wire, others: Collection[Wire], tag: int | None = None) -> set[int]:
    """Return the indices of the `others` that hear what `sender` says, within a fifth of a second."""
    words = f"test {time.monotonic_ns()}".encode()
    sender.send(words, tag)
    heard: set[int] = set()
    limit = time.monotonic() + 0.2
    while time.monotonic() < limit and len(heard) < len(others):
        heard |= {index for index, wire in enumerate(others) if words in wire.hear()}
    return heard


def leftovers(root: Path, namespace: str) -> list[str]:
    """Return what is still there of a rack that should be gone: processes, namespace, held files."""
    left = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if f"{root}/" in words or words.endswith(f" {root} "):
                left.append(words)
            left += [str(file) for file in (process / "fd").iterdir() if str(file.readlink()).startswith(f"{root}/")]
    if (NAMESPACES / namespace).exists():
        left.append(f"namespace {namespace}")
    return left


SIMULATED: Final = ("--machines", Machines.SIMULATED.value)
