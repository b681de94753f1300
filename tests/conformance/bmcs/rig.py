"""A node with the lab's BMC in this process: real IPMI and Redfish at free ports of loopback, and a serial line.

What the tests do to a node itself (say something on its line, break its BMC, count its starts) they do here, past the
drivers.
"""

import asyncio
import ipaddress
import socket
import threading
import uuid
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from steelyard.isolation.ports import Access
from steelyard.lab.bmc.boot import FACTORY_SETTINGS, BootSettings
from steelyard.lab.bmc.controller import Controller
from steelyard.lab.bmc.controller import Power as LabPower
from steelyard.lab.bmc.ipmi import IpmiEndpoint
from steelyard.lab.bmc.redfish import RedfishService
from steelyard.lab.build import issue_bmc_certificates
from steelyard.lab.console import Console
from steelyard.lab.faults import BmcFault
from steelyard.lab.plan import BootDevice, NodePlan
from steelyard.model.secret import Secret

T = TypeVar("T")

ADDRESS: Final = "127.0.0.1"
USER: Final = "admin"
PASSWORD: Final = Secret(b"correct horse")
LIMIT_SECONDS: Final = 30


class WiredMachine:
    """A machine that is its power state and a serial line; its system goes off when it is asked to."""

    def __init__(self, console: Console) -> None:
        self.starts: list[BootDevice] = []
        self._console = console
        self._wire: socket.socket | None = None
        self._carrying: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        return self._wire is not None

    @property
    def wire(self) -> socket.socket:
        """The machine's end of its serial line."""
        assert self._wire is not None, "the machine has no power"
        return self._wire

    async def start(self, order: tuple[BootDevice, ...], _on_reset: Callable[[], None]) -> None:
        self.starts.append(order[0])
        near, self._wire = socket.socketpair()
        self._wire.settimeout(LIMIT_SECONDS)
        self._carrying = asyncio.create_task(self._console.carry(near))

    async def kill(self) -> None:
        if self._wire is not None and self._carrying is not None:
            self._wire.close()
            self._wire = None
            await self._carrying

    async def press_power_button(self) -> None:
        await self.kill()


class MemoryStore:
    """A BMC's settings."""

    def __init__(self) -> None:
        self._settings = FACTORY_SETTINGS

    def read(self) -> BootSettings:
        return self._settings

    def write(self, settings: BootSettings) -> None:
        self._settings = settings


class SimulatedBmc:
    """One node; its BMC's two protocols are served by a thread until `close`."""

    def __init__(self, folder: Path) -> None:
        self.ca, pairs = issue_bmc_certificates({"n1": ipaddress.IPv4Address(ADDRESS)})
        self._keys = folder / "bmc.pem"
        self._keys.write_text(pairs["n1"])
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._console = Console(folder / "console.log")
        self.machine = WiredMachine(self._console)
        plan = NodePlan("n1", uuid.UUID(int=1), ipaddress.IPv4Address(ADDRESS), ())
        self.controller = Controller(plan, self.machine, self._console, MemoryStore())
        self._ipmi = IpmiEndpoint(self.controller, USER, PASSWORD)
        self._redfish = RedfishService(self.controller, USER, PASSWORD)
        self.ipmi_port = self._do(self._open_ipmi())
        with socket.socket() as probe:
            probe.bind((ADDRESS, 0))
            self.redfish_port = int(probe.getsockname()[1])
        self._do(self._redfish.start(ADDRESS, self.redfish_port, self._keys))

    async def _open_ipmi(self) -> int:
        transport, _ = await self._loop.create_datagram_endpoint(lambda: self._ipmi, local_addr=(ADDRESS, 0))
        return int(transport.get_extra_info("sockname")[1])

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(LIMIT_SECONDS)

    def fail(self, *faults: BmcFault) -> None:
        """Have exactly these faults."""
        if BmcFault.UNREACHABLE in faults:
            self._do(self._redfish.close())
        elif BmcFault.UNREACHABLE in self.controller.faults:
            self._do(self._redfish.start(ADDRESS, self.redfish_port, self._keys))
        self.controller.faults = set(faults)

    def switch(self, power: LabPower) -> None:
        """Switch the node as if one stood before it."""
        self._do(self.controller.power_on() if power is LabPower.ON else self.controller.power_off())

    def say(self, words: bytes) -> None:
        """Have the node say something."""
        self.machine.wire.sendall(words)

    def hear(self, size: int) -> bytes:
        """Return the next `size` keys that reached the node."""
        heard = b""
        while len(heard) < size:
            heard += self.machine.wire.recv(size - len(heard))
        return heard

    @property
    def console_is_taken(self) -> bool:
        """Whether the BMC holds a console active."""
        return self._ipmi._console is not None

    def ipmi_access(self, password: Secret = PASSWORD, **address: str) -> Access:
        """Return how the IPMI driver reaches it."""
        return Access(
            {"host": ADDRESS, "port": str(self.ipmi_port), **address},
            {"username": Secret(USER.encode()), "password": password},
        )

    def redfish_access(self, password: Secret = PASSWORD, **address: str) -> Access:
        """Return how the Redfish driver reaches it."""
        known = {"url": f"https://{ADDRESS}:{self.redfish_port}", "ca": self.ca}
        console = {"sol_host": ADDRESS, "sol_port": str(self.ipmi_port)}
        return Access({**known, **console, **address}, {"username": Secret(USER.encode()), "password": password})

    def close(self) -> None:
        """End it all."""
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._console.close()

    async def _stop(self) -> None:
        self._ipmi.close()
        await self._redfish.close()
        await self.controller.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*others, return_exceptions=True)


@contextmanager
def simulated_bmc(folder: Path) -> Iterator[SimulatedBmc]:
    """Give a node that is off."""
    bmc = SimulatedBmc(folder)
    try:
        yield bmc
    finally:
        bmc.close()
