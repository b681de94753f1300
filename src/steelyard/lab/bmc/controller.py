"""The logic of a BMC that both protocols drive: power, boot device, console, and its faults."""

import asyncio
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

from steelyard.lab.bmc.boot import FACTORY_SETTINGS, BootSettings, decode_settings, encode_settings, start_with
from steelyard.lab.console import Console
from steelyard.lab.faults import BmcFault
from steelyard.lab.plan import BootDevice, NodePlan
from steelyard.lab.state import write_private

SLOWNESS_SECONDS: Final = 5.0


class Power(StrEnum):
    """Whether a machine has power."""

    ON = "on"
    OFF = "off"


class NotNow(Exception):
    """The machine is in a state in which this cannot be done: both protocols have an answer of their own for it."""


class Machine(Protocol):
    """What a BMC's wires lead to. Started and killed by its controller alone, one call at a time."""

    @property
    def running(self) -> bool:
        """Whether it has power."""
        ...

    async def start(self, order: tuple[BootDevice, ...], on_reset: Callable[[], None]) -> None:
        """Give it power; return when it runs. `on_reset` is called when it ended because it asked for a reset."""
        ...

    async def kill(self) -> None:
        """Take its power away; return when it has ended. Harmless when it has none."""
        ...

    async def press_power_button(self) -> None:
        """Ask its system to shut down."""
        ...


class SettingsStore(Protocol):
    """The BMC's own memory, that needs no power."""

    def read(self) -> BootSettings:
        """Return what was written last; the factory's settings at first."""
        ...

    def write(self, settings: BootSettings) -> None:
        """Remember `settings`."""
        ...


class FileStore:
    """Settings kept in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> BootSettings:
        """Return what was written last; the factory's settings at first."""
        try:
            return decode_settings(self._path.read_text("utf-8"))
        except FileNotFoundError:
            return FACTORY_SETTINGS

    def write(self, settings: BootSettings) -> None:
        """Remember `settings`."""
        write_private(self._path, encode_settings(settings))


class Controller:
    """One node's BMC. Commands are carried out one after the other, whichever protocol they came by."""

    def __init__(self, node: NodePlan, machine: Machine, console: Console | None, store: SettingsStore) -> None:
        self.node = node
        self.console = console
        self.faults: set[BmcFault] = set()
        self._machine = machine
        self._store = store
        self._busy = asyncio.Lock()
        self._wanted = Power.OFF
        self._resets: set[asyncio.Task[None]] = set()

    @property
    def true_power(self) -> Power:
        """Whether the machine has power. For those who stand before the rack; the wires get `power`."""
        return Power.ON if self._machine.running else Power.OFF

    @property
    def power(self) -> Power:
        """What the BMC says about the machine's power."""
        if BmcFault.LYING in self.faults:
            return Power.OFF if self._machine.running else Power.ON
        return self.true_power

    @property
    def boot(self) -> BootSettings:
        """What the next start will go by."""
        return self._store.read()

    def set_boot(self, settings: BootSettings) -> None:
        """Have the next start go by `settings`."""
        if BmcFault.DEAF not in self.faults:
            self._store.write(settings)

    async def power_on(self) -> None:
        """Start the machine; one that runs goes on."""
        async with self._busy:
            if BmcFault.DEAF not in self.faults and not self._machine.running:
                await self._start()

    async def power_off(self) -> None:
        """End the machine, whatever it is doing."""
        async with self._busy:
            if BmcFault.DEAF not in self.faults:
                self._wanted = Power.OFF
                await self._machine.kill()

    async def restart(self) -> None:
        """End the machine and start it. Raises NotNow if it is off: that is no way to switch one on."""
        async with self._busy:
            if BmcFault.DEAF in self.faults:
                return
            if not self._machine.running:
                raise NotNow
            await self._machine.kill()
            await self._start()

    async def shut_down(self) -> None:
        """Press the power button, and leave the rest to the machine's system. Raises NotNow if it is off."""
        async with self._busy:
            if BmcFault.DEAF in self.faults:
                return
            if not self._machine.running:
                raise NotNow
            await self._machine.press_power_button()

    async def close(self) -> None:
        """End the machine for good, also under a BMC that does not act: the rack is being taken down."""
        async with self._busy:
            self._wanted = Power.OFF
            await self._machine.kill()

    async def _start(self) -> None:
        order, after = start_with(self._store.read())
        self._wanted = Power.ON
        await self._machine.start(order, self._on_reset)
        # After the start: a machine that could not be started has not used up what was to hold once.
        self._store.write(after)

    def _on_reset(self) -> None:
        task = asyncio.get_running_loop().create_task(self._start_again())
        self._resets.add(task)
        task.add_done_callback(self._resets.discard)

    async def _start_again(self) -> None:
        async with self._busy:
            # A command may have come in between: it has the last word.
            if self._wanted is Power.ON and not self._machine.running:
                await self._start()
