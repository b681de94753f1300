"""A machine for tests that notes what is done to it, and a BMC's memory in memory."""

from collections.abc import Callable

from steelyard.lab.bmc.boot import FACTORY_SETTINGS, BootSettings
from steelyard.lab.bmc.controller import Controller
from steelyard.lab.console import Console
from steelyard.lab.plan import BootDevice, plan_nodes
from steelyard.lab.rack import STANDARD_SHAPE
from steelyard.model.errors import LabFailed


class NotedMachine:
    """It does as it is told at once, and keeps a list."""

    def __init__(self) -> None:
        self.running = False
        self.broken = False
        self.notes: list[str] = []
        self.reset: Callable[[], None] = lambda: None

    async def start(self, order: tuple[BootDevice, ...], on_reset: Callable[[], None]) -> None:
        if self.broken:
            raise LabFailed("starting a machine", expected="it to start", found="smoke")
        self.running, self.reset = True, on_reset
        self.notes.append(f"start {order[0]}")

    async def kill(self) -> None:
        if self.running:
            self.notes.append("kill")
        self.running = False

    async def press_power_button(self) -> None:
        self.notes.append("button")

    def reset_itself(self) -> None:
        """End as a machine does that asks for a reset."""
        self.running = False
        self.reset()


class Memory:
    """Boot settings, kept."""

    def __init__(self) -> None:
        self.settings = FACTORY_SETTINGS

    def read(self) -> BootSettings:
        return self.settings

    def write(self, settings: BootSettings) -> None:
        self.settings = settings


def controller_of(machine: NotedMachine, console: Console | None = None) -> Controller:
    return Controller(plan_nodes(STANDARD_SHAPE)[0], machine, console, Memory())
