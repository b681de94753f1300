"""A boot network of three cards on a bridge, each in a namespace of its own, and Debian's own clients on them."""

import http.client
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from struct import pack, unpack
from typing import Final

import pytest

from steelyard.imaging.netboot.netboot import Netboot
from steelyard.imaging.netboot.plan import AirlockBoot, BootNetwork, DirectBoot, DiskBoot, IpxeBoot, NodeBoot
from steelyard.lab.namespace import inside
from steelyard.model.network import MacAddress
from tests.namespaces import ip, join, namespaces, run_inside, within

SERVICE: Final = "10.8.0.1"
NETWORK: Final = BootNetwork(
    "blue-airlock",
    "blue",
    "svc0",
    IPv4Interface(f"{SERVICE}/24"),
    IPv4Address("10.8.0.100"),
    IPv4Address("10.8.0.199"),
)
HTTP_BOOT: Final = ("-V", "HTTPClient:Arch:00016:UNDI:003001", "-x", "0x5d:0010")
PXE: Final = ("-V", "PXEClient:Arch:00007:UNDI:003000", "-x", "0x5d:0007")
PXE_9: Final = ("-V", "PXEClient:Arch:00009:UNDI:003000", "-x", "0x5d:0009")
IPXE: Final = (*PXE, "-x", f"0x4d:{b'iPXE'.hex()}")

_TOLD: Final = """#!/bin/sh
[ "$1" = bound ] && env >{0}
exit 0
"""
_PATIENCE_SECONDS: Final = 10
_SHORT_SECONDS: Final = 1.5
"""For what is not to come; the same comes in milliseconds when it may."""


@dataclass(frozen=True)
class Card:
    """A node's card, and the namespace that is its node."""

    namespace: str
    name: str
    mac: str

    def boot(self, address: str, what: AirlockBoot | DirectBoot | IpxeBoot | DiskBoot) -> NodeBoot:
        """Return a boot of this node."""
        return NodeBoot(self.name, NETWORK.name, MacAddress(self.mac), IPv4Address(address), what)

    def ask_dhcp(self, *options: str, tries: int = 8) -> Mapping[str, str]:
        """Return what a DHCP client is told; nothing if it is told nothing."""
        with tempfile.TemporaryDirectory() as folder:
            told, script = Path(folder) / "told", Path(folder) / "script"
            script.write_text(_TOLD.format(told))
            script.chmod(0o755)
            client = ["busybox", "udhcpc", "-i", self.name, "-f", "-n", "-q", "-C", "-T", "1", "-t", str(tries)]
            command = inside(self.namespace, [*client, "-s", str(script), *options])
            bare = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
            subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, env=bare)
            lines = told.read_text().splitlines() if told.exists() else []
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def demand(self, address: str) -> str | None:
        """Return what is said to this card, which says that it has this address: "ack", "nak", or nothing."""
        identity = os.urandom(4)
        card = bytes.fromhex(self.mac.replace(":", ""))
        message = pack("!4B4s20x16s192x", 1, 1, 6, 0, identity, card)
        options = b"\x63\x82\x53\x63\x35\x01\x03\x32\x04" + IPv4Address(address).packed + b"\xff"
        datagram = pack("!4H", 68, 67, 8 + len(message + options), 0) + message + options
        header = pack("!BBHIBBHII", 0x45, 0, 20 + len(datagram), 0, 64, 17, 0, 0, 2**32 - 1)
        total = sum(unpack("!10H", header))
        checksum = ~(total + (total >> 16)) & 0xFFFF
        header = header[:10] + pack("!H", checksum) + header[12:]
        with self.listen() as wire:
            wire.send(b"\xff" * 6 + card + b"\x08\0" + header + datagram)
            wire.settimeout(_SHORT_SECONDS)
            with suppress(TimeoutError):
                while True:
                    heard = wire.recv(2048)
                    if heard[23] == socket.IPPROTO_UDP and heard[42] == 2 and heard[46:50] == identity:
                        return {5: "ack", 6: "nak"}[heard[284]]
        return None

    def take(self, address: str) -> None:
        """Use this address from now on, and no other, whoever it is of."""
        ip(self.namespace, f"address flush dev {self.name}", f"address add {address}/24 dev {self.name}")

    def fetch(self, name: str, method: str = "GET", seconds: float = _PATIENCE_SECONDS) -> tuple[int, bytes]:
        """Return the answer of the file server; TimeoutError if there is none."""

        def ask() -> tuple[int, bytes]:
            connection = http.client.HTTPConnection(SERVICE, 80, timeout=seconds)
            connection.request(method, f"/{name}")
            answer = connection.getresponse()
            with answer:
                body = answer.read()
            connection.close()
            return answer.status, body

        return within(self.namespace, ask)

    def connect(self) -> socket.socket:
        """Return a connection to the file server."""
        return within(self.namespace, lambda: socket.create_connection((SERVICE, 80), _PATIENCE_SECONDS))

    def is_answered(self, name: str) -> bool:
        """Tell whether anything at all comes back over HTTP."""
        try:
            self.fetch(name, seconds=_SHORT_SECONDS)
        except OSError:
            return False
        return True

    def fetch_by_tftp(self, name: str, *options: str, seconds: float = _PATIENCE_SECONDS) -> bytes | None:
        """Return the file; None if there is none, or nobody answers."""
        with tempfile.TemporaryDirectory() as folder:
            got = Path(folder) / "got"
            try:
                done = run_inside(
                    *(self.namespace, "busybox", "tftp", "-g", "-r", name, "-l", str(got), *options, SERVICE),
                    seconds=seconds,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                return None
            return got.read_bytes() if done.returncode == 0 else None

    def listen(self) -> socket.socket:
        """Return a socket that has every frame that comes to the card."""

        def begin() -> socket.socket:
            wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
            wire.bind((self.name, 0))
            wire.settimeout(0)
            return wire

        return within(self.namespace, begin)


def wait_until(what: str, condition: Callable[[], bool]) -> None:
    """Return when `condition` holds; fail the test if it does not in time."""
    limit = time.monotonic() + 2 * _PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > limit:
            pytest.fail(f"not in time: {what}")
        time.sleep(0.02)


def datagrams(wire: socket.socket) -> list[bytes]:
    """Return the UDP packets that have come; what the kernel says of groups is not of a service."""
    frames: list[bytes] = []
    with suppress(BlockingIOError):
        while True:
            frames.append(wire.recv(2048))
    return [frame for frame in frames if frame[23] == socket.IPPROTO_UDP]


@dataclass(frozen=True)
class BootSite:
    """The service's side, in a namespace, and the cards of nodes."""

    namespace: str
    cards: tuple[Card, ...]
    root: Path
    airlock: Path

    @contextmanager
    def netboot(self) -> Iterator[Netboot]:
        """Give a network boot that runs."""
        netboot = Netboot(self.root, [NETWORK], self.airlock)
        within(self.namespace, netboot.start)
        try:
            yield netboot
        finally:
            netboot.stop()

    def servers(self) -> list[int]:
        """Return the processes that listen for DHCP."""
        listing = run_inside(self.namespace, "ss", "-H", "-lunp", "sport", "=", "67").stdout
        # One that is dying has a socket for a moment yet, and is no process any more.
        return [int(line.partition("pid=")[2].partition(",")[0]) for line in listing.splitlines() if "pid=" in line]


def add_foot(namespace: str) -> None:
    """Make the service's interface of the boot network."""
    ip(namespace, f"link add {NETWORK.interface} type bridge", f"link set {NETWORK.interface} up")
    ip(namespace, f"address add {NETWORK.address} dev {NETWORK.interface}")


@contextmanager
def boot_site(folder: Path) -> Iterator[BootSite]:
    """Give a boot network with three cards."""
    airlock = folder / "airlock"
    airlock.mkdir()
    (airlock / "airlock.efi").write_bytes(bytes(range(256)) * 100)
    (airlock / "airlock.squashfs").write_bytes(b"second stage")
    with namespaces("service", "n1", "n2", "n3") as names:
        add_foot(names["service"])
        cards = []
        for number in (1, 2, 3):
            card = Card(names[f"n{number}"], f"n{number}", f"02:00:00:00:00:0{number}")
            join(names["service"], NETWORK.interface, card.namespace, card.name, card.mac)
            cards.append(card)
        yield BootSite(names["service"], tuple(cards), folder / "netboot", airlock)


def airlock_boot(**files: Path) -> AirlockBoot:
    """Return a boot of the airlock image."""
    return AirlockBoot(b"parameters of this node", files)
