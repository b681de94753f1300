"""Who is to be heard on the airlock's network, from inside it: the services, and nobody else.

That a machine which nobody has weighed cannot be reached by another one is isolation's to enforce, at the switch. Here
is looked whether it is so: everything on the wire is listened to, and every address of the network is asked for.
"""

import errno
import socket
import struct
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fcntl import ioctl
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Final

from steelyard.model.errors import NodeFailed

LISTEN_SECONDS: Final = 1.0
"""After the last question; an answer takes milliseconds."""
_MOST_ASKED: Final = 1024
"""Addresses that are asked for; in a larger network the first ones, and whoever speaks unasked is heard anyway."""
_DOING: Final = "listening on the airlock's network"

_EVERY_PROTOCOL: Final = 0x0003
_ARP: Final = 0x0806
_BROADCAST: Final = b"\xff" * 6
_SIOCGIFADDR: Final = 0x8915
_SIOCGIFNETMASK: Final = 0x891B
_SOL_PACKET, _ADD_MEMBERSHIP, _PROMISCUOUS = 263, 1, 1
_OUTGOING: Final = 4
"""Source of these: packet(7), netdevice(7), include/uapi/linux/if_ether.h and if_packet.h."""
_BRIDGES: Final = bytes.fromhex("0180c2000000")
"""What switches say to each other goes to this address and the fifteen after it. Source: IEEE 802.1Q, table 8-1."""
_CARDS: Final = Path("/sys/class/net")
_NEIGHBOURS: Final = Path("/proc/net/arp")


@dataclass(frozen=True, slots=True)
class Card:
    """A network card that is up, with its addresses."""

    name: str
    hardware: bytes
    address: IPv4Interface


class Listener:
    """Hears every frame of the cards from when it is made."""

    def __init__(self, cards: Collection[Card]) -> None:
        """Begin. Raises NodeFailed."""
        try:
            self._ears = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERY_PROTOCOL))
            for card in cards:
                request = struct.pack("iHH8s", socket.if_nametoindex(card.name), _PROMISCUOUS, 0, b"")
                self._ears.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, request)
        except OSError as error:
            raise NodeFailed(_DOING, expected="to hear what is on the wire", found=str(error)) from error
        self._ears.settimeout(0)
        self._cards = {card.name: card for card in cards}
        self._quiet_from = time.monotonic()

    def ask_for_everybody(self) -> None:
        """Ask for every address, by ARP, and for all that know IPv6. Raises NodeFailed."""
        for card in self._cards.values():
            for question in arp_questions(card):
                try:
                    self._ears.sendto(question, (card.name, _ARP))
                except OSError as error:
                    if error.errno != errno.ENOBUFS:  # who is not asked may still be heard
                        raise NodeFailed(_DOING, expected="to ask who is there", found=str(error)) from error
            # A kernel without IPv6 asks nobody; one with it forms the question itself.
            with suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as voice:
                scope = socket.if_nametoindex(card.name)
                voice.sendto(struct.pack("!BBHHH", 128, 0, 0, 1, 1), ("ff02::1", 0, 0, scope))
        self._quiet_from = time.monotonic()

    def strangers(self, known: Collection[bytes]) -> list[str]:
        """Return the hardware addresses of all that were heard and are not known, when there was time to be heard."""
        time.sleep(max(0.0, self._quiet_from + LISTEN_SECONDS - time.monotonic()))
        own = {card.hardware for card in self._cards.values()}
        found = {source for frame in self._frames() if (source := stranger(frame, {*own, *known})) is not None}
        return sorted(source.hex(":") for source in found)

    def _frames(self) -> Iterator[bytes]:
        with suppress(BlockingIOError):
            while True:
                frame, (name, _, kind, *_) = self._ears.recvfrom(64)
                if name in self._cards and kind != _OUTGOING:
                    yield frame

    def close(self) -> None:
        """Hear no more."""
        self._ears.close()


def stranger(frame: bytes, known: Collection[bytes]) -> bytes | None:
    """Return who sent a frame if it is nobody that is known, and not what switches say to each other."""
    destination, source = frame[:6], frame[6:12]
    if len(source) < len(_BROADCAST) or source in known:
        return None
    return None if destination[:5] == _BRIDGES[:5] and destination[5] < 16 else source


def arp_questions(card: Card) -> Iterator[bytes]:
    """Yield a request for each other address of the card's network. Source: RFC 826."""
    network = card.address.network
    for number in range(1, min(network.num_addresses - 1, _MOST_ASKED + 1)):
        address = network[number]
        if address != card.address.ip:
            head = struct.pack("!6s6sHHHBBH", _BROADCAST, card.hardware, _ARP, 1, 0x0800, 6, 4, 1)
            yield head + card.hardware + card.address.ip.packed + bytes(6) + address.packed


def cards_up() -> list[Card]:
    """Return the cards that have an address. Raises NodeFailed when none has."""
    cards = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        for place in sorted(_CARDS.iterdir()):
            if (place / "device").exists():
                with suppress(OSError):
                    address, mask = (
                        socket.inet_ntoa(ioctl(wire, asked, struct.pack("256s", place.name.encode()))[20:24])
                        for asked in (_SIOCGIFADDR, _SIOCGIFNETMASK)
                    )
                    hardware = bytes.fromhex((place / "address").read_text().strip().replace(":", ""))
                    cards.append(Card(place.name, hardware, IPv4Interface(f"{address}/{mask}")))
    if not cards:
        raise NodeFailed(_DOING, expected="a card with an address", found="none")
    return cards


def known_here(hosts: Collection[str], table: Callable[[], str] = _NEIGHBOURS.read_text) -> set[bytes]:
    """Return the hardware addresses by which the kernel reaches hosts, and gateways where they are further away.

    table  the kernel's: /proc/net/arp, see arp(7).
    """
    addresses = set()
    for host in hosts:
        with suppress(OSError):
            addresses |= {str(found[4][0]) for found in socket.getaddrinfo(host, None, socket.AF_INET)}
    rows = [line.split() for line in table().splitlines()[1:]]
    return {bytes.fromhex(row[3].replace(":", "")) for row in rows if row[0] in addresses | gateways()}


def gateways(routes: Callable[[], str] = Path("/proc/net/route").read_text) -> set[str]:
    """Return the addresses of the gateways. Source: Linux, net/ipv4/fib_trie.c, fib_route_seq_show."""
    rows = [line.split() for line in routes().splitlines()[1:]]
    return {socket.inet_ntoa(struct.pack("<I", int(row[2], 16))) for row in rows if row[2] != "00000000"}
