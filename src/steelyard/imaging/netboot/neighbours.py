"""Ties addresses to cards in the kernel's neighbour table, so that what goes to an address goes to that card.

A node that takes another one's address gets none of what is sent to it, and so never as far as a request over TCP,
or a second block of TFTP. What it would need is the other one's hardware address: that is the switch's to prevent.

Source: arp(7).
"""

import socket
import struct
from collections.abc import Mapping
from fcntl import ioctl
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from steelyard.model.network import MacAddress

_SET: Final = 0x8955
_DELETE: Final = 0x8953
_COMPLETE: Final = 0x02
_PERMANENT: Final = 0x04
_ETHERNET: Final = 1
_REQUEST: Final = struct.Struct("=HH4s8xH14si16x16s")
"""struct arpreq: protocol address, hardware address, flags, netmask, device."""
_TABLE: Final = Path("/proc/thread-self/net/arp")
"""Of this thread's network namespace."""


def tied(interface: str) -> Mapping[IPv4Address, str]:
    """Return the addresses that are tied to a card there, and to which."""
    rows = (line.split() for line in _TABLE.read_text().splitlines()[1:])
    return {
        IPv4Address(address): card
        for address, _, flags, card, _, device in rows
        if device == interface and int(flags, 16) & _PERMANENT
    }


def tie(wire: socket.socket, interface: str, address: IPv4Address, card: MacAddress) -> None:
    """See to it that what goes to `address` goes to `card`. Raises OSError."""
    hardware = bytes.fromhex(card.text.replace(":", ""))
    ioctl(wire, _SET, _pack(interface, address, hardware, _COMPLETE | _PERMANENT))


def untie(wire: socket.socket, interface: str, address: IPv4Address) -> None:
    """See to it that nothing is known of `address`. Raises OSError."""
    ioctl(wire, _DELETE, _pack(interface, address, b"", 0))


def _pack(interface: str, address: IPv4Address, hardware: bytes, flags: int) -> bytes:
    return _REQUEST.pack(socket.AF_INET, 0, address.packed, _ETHERNET, hardware, flags, interface.encode("ascii"))
