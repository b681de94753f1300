"""Our foot on one boot network: a dnsmasq, and both servers of files, as long as the interface is there.

All of it lives in one event loop, and in the network namespace of its thread.
"""

import asyncio
import socket
from collections.abc import Collection
from contextlib import AsyncExitStack, suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from steelyard.imaging.netboot import http_server, tftp_server
from steelyard.imaging.netboot.answers import Answers, Content
from steelyard.imaging.netboot.dnsmasq import running
from steelyard.imaging.netboot.http_server import HttpServer
from steelyard.imaging.netboot.neighbours import tie, tied, untie
from steelyard.imaging.netboot.plan import BOOT_FILE, BootNetwork
from steelyard.imaging.netboot.tftp_server import TftpServer
from steelyard.model.errors import StorageFailed, StorageUnready

_LOOK_SECONDS: Final = 1.0
"""How often it is seen whether all is as it should be, and what was wrong is tried again."""


class Station:
    """What answers on `network`. `place` is a directory of its own."""

    def __init__(self, network: BootNetwork, place: Path) -> None:
        self.trouble: str | None = "it has not begun"
        self._network, self._place = network, place
        self._answers: Answers = {}
        self._changed = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []
        self._http = HttpServer(self.find, self._answers_to)
        self._tftp = TftpServer(self._find_boot_file, self._make_wire)

    def find(self, caller: IPv4Address, name: str) -> Content | None:
        """Return what the node at this address may fetch by that name; None also if the address is not its own."""
        answer = self._answers.get(caller)
        if answer is None or tied(self._network.interface).get(caller) != answer.mac.text:
            return None
        return answer.files.get(name)

    async def serve(self, answers: Answers) -> None:
        """Return when these nodes, and no others, are answered; or when it is known, as `trouble`, why not."""
        before, self._answers = self._answers, answers
        changed = {caller for caller in before if answers.get(caller) != before[caller]}
        await self._http.cut(changed)
        await self._tftp.cut(changed)
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self._changed.set()
        await done

    async def run(self) -> None:
        """Answer until cancelled."""
        try:
            while True:
                try:
                    await self._stand()
                except (OSError, StorageFailed, StorageUnready) as error:
                    self._settle(list(self._waiting), str(error))
                await self._pause()
        finally:
            self._settle(list(self._waiting), "it has ended")

    async def _stand(self) -> None:
        """Answer until something is wrong, which is raised."""
        index = self._look()
        async with AsyncExitStack() as leaving:
            leaving.push_async_callback(self._http.stop)
            await self._http.start(self._bound(socket.SOCK_STREAM, http_server.PORT))
            leaving.push_async_callback(self._tftp.stop)
            await self._tftp.start(self._bound(socket.SOCK_DGRAM, tftp_server.PORT))
            wire = leaving.enter_context(self._make_wire())
            leaving.callback(self._tie, wire, {})
            while True:
                async with running(self._place, self._network, self._changed.set) as dnsmasq:
                    while dnsmasq.can_be_told(self._answers):
                        waiting = list(self._waiting)
                        self._tie(wire, self._answers)
                        await dnsmasq.tell(self._answers)
                        self._settle(waiting, None)
                        await self._pause()
                        if self._look() != index:
                            raise self._unready("the one that was there")

    def _look(self) -> int:
        """Return the number of the interface. Raises StorageUnready: it, or our address, is not there."""
        try:
            index = socket.if_nametoindex(self._network.interface)
            self._make_wire().close()
        except OSError as error:
            raise self._unready(str(error)) from error
        return index

    def _unready(self, found: str) -> StorageUnready:
        network = self._network
        expected = f"{network.address.ip} at the interface {network.interface}"
        return StorageUnready(f"standing on the network {network.name}", expected=expected, found=found)

    def _tie(self, wire: socket.socket, answers: Answers) -> None:
        """See to it that these addresses, and no other of the nodes', are tied to their cards."""
        interface = self._network.interface
        there = {
            address: card
            for address, card in tied(interface).items()
            if self._network.first <= address <= self._network.last
        }
        for address in there.keys() - answers.keys():
            with suppress(OSError):
                untie(wire, interface, address)
        for address, answer in answers.items():
            if there.get(address) != answer.mac.text:
                tie(wire, interface, address, answer.mac)

    def _settle(self, waiting: Collection[asyncio.Future[None]], trouble: str | None) -> None:
        self.trouble = trouble
        for done in waiting:
            self._waiting.remove(done)
            if not done.done():
                done.set_result(None)

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_SECONDS):
                await self._changed.wait()
        self._changed.clear()

    def _answers_to(self, caller: IPv4Address) -> bool:
        return caller in self._answers

    def _find_boot_file(self, caller: IPv4Address, name: str) -> Content | None:
        return self.find(caller, name) if name == BOOT_FILE else None

    def _make_wire(self) -> socket.socket:
        return self._bound(socket.SOCK_DGRAM, 0)

    def _bound(self, kind: socket.SocketKind, port: int) -> socket.socket:
        """Return a socket of our address on that interface alone."""
        wire = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK)
        try:
            # Bound to the address alone it would answer what comes from other networks, too.
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self._network.interface.encode("ascii"))
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, kind is socket.SOCK_STREAM)
            wire.bind((str(self._network.address.ip), port))
        except OSError:
            wire.close()
            raise
        return wire
