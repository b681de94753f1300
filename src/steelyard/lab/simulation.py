"""A machine that is nothing but its power state, for BMCs by the thousand."""

from collections.abc import Callable

from steelyard.lab.plan import BootDevice


class SimulatedMachine:
    """It obeys its BMC at once and does nothing else."""

    def __init__(self) -> None:
        self.running = False

    async def start(self, order: tuple[BootDevice, ...], on_reset: Callable[[], None]) -> None:  # noqa: ARG002
        """Be on."""
        self.running = True

    async def kill(self) -> None:
        """Be off."""
        self.running = False

    async def press_power_button(self) -> None:
        """Be off, as a system that listens to its power button is soon after."""
        self.running = False
