"""Serves one file to each node by TFTP, for firmware that has nothing better: reading, whole files, in octets.

Source: RFC 1350; RFC 2347, 2348, 2349 and 7440 for the options blksize, tsize and windowsize.
"""

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import BinaryIO, Final

from steelyard.imaging.netboot.http_server import Find
from steelyard.model.errors import MalformedDatagram

PORT: Final = 69

_READ, _DATA, _ACKNOWLEDGE, _ERROR, _OPTIONS = 1, 3, 4, 5, 6
_NO_SUCH_FILE: Final = struct.pack("!HH", _ERROR, 1) + b"no such file\0"
_NUMBER: Final = struct.Struct("!HH")
_LONGEST_PACKET: Final = 512
"""Of all but data. Source: RFC 2347."""
_BLOCK_BYTES: Final = 512
_BLOCKS: Final = range(8, 1469)
"""The largest goes into a frame of Ethernet; who asks for more is given this."""
_WINDOWS: Final = range(1, 17)
_TRANSFERS: Final = 2
"""To one node: one, and one that it has given up."""
_WAIT_SECONDS: Final = 1.0
_TRIES: Final = 8


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """What is asked for; an option is None when it is not asked for."""

    name: str
    block_bytes: int | None
    window: int | None
    wants_size: bool


def parse_read_request(packet: bytes) -> ReadRequest:
    """Return a request for a file, options that are not known or make no sense left out. Raises MalformedDatagram."""
    doing = "reading a TFTP request"
    if len(packet) > _LONGEST_PACKET or packet[:2] != struct.pack("!H", _READ) or not packet.endswith(b"\0"):
        raise MalformedDatagram(doing, expected="a read request", found=f"{len(packet)} bytes")
    words = packet[2:-1].split(b"\0")
    if len(words) < 2 or len(words) % 2 or not packet.isascii() or words[1].lower() != b"octet":
        raise MalformedDatagram(doing, expected="a name, the mode octet, and options", found=f"{len(words)} words")
    options = {name.lower(): value for name, value in zip(words[2::2], words[3::2], strict=True)}
    return ReadRequest(
        words[0].decode("ascii"),
        _number(options.get(b"blksize"), _BLOCKS),
        _number(options.get(b"windowsize"), _WINDOWS),
        b"tsize" in options,
    )


def _number(value: bytes | None, allowed: range) -> int | None:
    if value is None or not value.isdigit() or len(value) > 5 or int(value) < allowed[0]:
        return None
    return min(int(value), allowed[-1])


class TftpServer(asyncio.DatagramProtocol):
    """Serves what `find` finds that is a file. `make_wire` makes a socket of our own address for each transfer."""

    def __init__(self, find: Find, make_wire: Callable[[], socket.socket]) -> None:
        self._find, self._make_wire = find, make_wire
        self._transfers: dict[asyncio.Task[None], tuple[str, int]] = {}
        self._transport: asyncio.DatagramTransport | None = None

    async def start(self, wire: socket.socket) -> None:
        """Serve at a socket that is bound."""
        self._transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, sock=wire)

    async def stop(self) -> None:
        """Return when nothing is served any more."""
        if self._transport is not None:
            self._transport.abort()
        await self.cut({IPv4Address(host) for host, _ in self._transfers.values()})

    async def cut(self, callers: Collection[IPv4Address]) -> None:
        """End the transfers to these."""
        tasks = [task for task, (host, _) in self._transfers.items() if IPv4Address(host) in callers]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def datagram_received(self, data: bytes, addr: tuple[str | int, int]) -> None:
        """See `asyncio.DatagramProtocol`."""
        peer = (str(addr[0]), addr[1])
        # The same request again: its answer is on the way.
        if self._transport is None or peer in self._transfers.values():
            return
        with suppress(MalformedDatagram):
            request = parse_read_request(data)
            file = self._open(IPv4Address(peer[0]), request.name)
            if file is None:
                self._transport.sendto(_NO_SUCH_FILE, peer)
                return
            task = asyncio.create_task(self._transfer(file, request, peer))
            self._transfers[task] = peer
            task.add_done_callback(self._transfers.pop)

    def _open(self, caller: IPv4Address, name: str) -> BinaryIO | None:
        path = self._find(caller, name)
        if not isinstance(path, Path) or sum(host == str(caller) for host, _ in self._transfers.values()) >= _TRANSFERS:
            return None
        try:
            return path.open("rb")
        except FileNotFoundError:
            return None

    async def _transfer(self, file: BinaryIO, request: ReadRequest, peer: tuple[str, int]) -> None:
        # A caller that has gone away is told by an error of the socket.
        with file, suppress(OSError), self._make_wire() as wire:
            wire.connect(peer)
            await _send_file(_Wire(wire), file.fileno(), request)


async def _send_file(wire: "_Wire", file: int, request: ReadRequest) -> None:
    size = os.fstat(file).st_size
    options = _accepted(request, size)
    if options and await wire.exchange([options], 0) is None:
        return
    block_bytes, window = request.block_bytes or _BLOCK_BYTES, request.window or 1
    last = size // block_bytes + 1  # a block that is not full, if only for being empty, is the end
    done = 0
    while done < last:
        blocks = range(done + 1, min(done + window, last) + 1)
        packets = [_data(block, os.pread(file, block_bytes, (block - 1) * block_bytes)) for block in blocks]
        heard = await wire.exchange(packets, blocks[0])
        if heard is None:
            return
        done = heard


def _accepted(request: ReadRequest, size: int) -> bytes:
    """Return the packet that says which options are taken; empty if none was asked for."""
    options = {b"blksize": request.block_bytes, b"windowsize": request.window}
    if request.wants_size:
        options[b"tsize"] = size
    words = b"".join(b"%b\0%d\0" % (name, value) for name, value in options.items() if value is not None)
    return struct.pack("!H", _OPTIONS) + words if words else b""


def _data(block: int, content: bytes) -> bytes:
    return _NUMBER.pack(_DATA, block & 0xFFFF) + content


class _Wire:
    """The socket of one transfer."""

    def __init__(self, wire: socket.socket) -> None:
        self._wire = wire

    async def exchange(self, packets: Sequence[bytes], first: int) -> int | None:
        """Send packets, as often as it takes; return up to which block all has come; None if nobody is there.

        first  block of these; the packet of options is acknowledged as block 0.
        """
        for _ in range(_TRIES):
            for packet in packets:
                await asyncio.get_running_loop().sock_sendall(self._wire, packet)
            with suppress(TimeoutError):
                async with asyncio.timeout(_WAIT_SECONDS):
                    return await self._hear(first, len(packets))
        return None

    async def _hear(self, first: int, count: int) -> int | None:
        """Return which of these blocks is acknowledged; None if the transfer is given up."""
        while True:
            heard = await asyncio.get_running_loop().sock_recv(self._wire, _LONGEST_PACKET)
            if len(heard) < _NUMBER.size:
                return None
            code, number = _NUMBER.unpack_from(heard)
            if code != _ACKNOWLEDGE:
                return None
            beyond: int = (number - first) & 0xFFFF
            # One that was acknowledged before has nothing sent again: each would double what comes after.
            if beyond < count:
                return first + beyond
