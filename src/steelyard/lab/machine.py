"""A node's machine: QEMU with its firmware, and a TPM that lives and dies with each start."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from steelyard.lab.children import Child, Children
from steelyard.lab.console import Console, Listener
from steelyard.lab.faults import NodeFault
from steelyard.lab.monitor import Monitor
from steelyard.lab.plan import (
    BootDevice,
    MachineStart,
    NodePlan,
    Wires,
    qemu_arguments,
    swtpm_arguments,
)
from steelyard.lab.state import Rack, RackDirectory

_LOADING: Final = b"BdsDxe: loading Boot"
"""What OVMF says on the serial line before it loads an image. Seen in edk2-stable202211."""


class EmulatedMachine:
    """One machine. Its programs are tied together by socket pairs that nobody else can reach."""

    def __init__(
        self, node: NodePlan, rack: Rack, directory: RackDirectory, children: Children, console: Console
    ) -> None:
        self.faults: set[NodeFault] = set()
        self._node = node
        self._rack = rack
        self._directory = directory
        self._files = directory.node(node.name)
        self._children = children
        self._console = console
        self._qemu: Child | None = None
        self._monitor: Monitor | None = None
        self._life: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._stop_listening: Callable[[], None] = lambda: None

    @property
    def running(self) -> bool:
        """Whether it has power."""
        return self._life is not None

    async def start(self, order: tuple[BootDevice, ...], on_reset: Callable[[], None]) -> None:
        """Give it power; return when QEMU has let its processor go. Raises LabFailed."""
        with ExitStack() as far_ends:
            near, wires = _lay_wires(far_ends)
            tpm_state = self._files.other_tpm if NodeFault.OTHER_TPM in self.faults else self._files.tpm
            tpm_near, tpm_far = (far_ends.enter_context(end) for end in socket.socketpair())
            swtpm = await self._children.start(
                f"{self._node.name} swtpm",
                swtpm_arguments(tpm_state, self._files.log, tpm_far.fileno()),
                self._files.log,
                [tpm_far.fileno()],
            )
            command = qemu_arguments(
                self._node,
                self._files,
                self._rack.shape,
                self._rack.accelerator,
                self._plan_start(order),
                Wires(wires["console"], wires["monitor"], tpm_near.fileno()),
            )
            qemu = await self._children.start(
                f"{self._node.name} qemu",
                command,
                self._files.log,
                [*wires.values(), tpm_near.fileno()],
            )
        carrying = asyncio.create_task(self._console.carry(near["console"]))
        try:
            monitor = await Monitor.connect(near["monitor"])
        except BaseException:
            await qemu.kill()
            await swtpm.kill()
            await carrying
            raise
        self._qemu, self._monitor = qemu, monitor
        if NodeFault.HANGS in self.faults:
            self._stop_listening = self._console.listen(self._hang_at(_LOADING, monitor))
        self._life = asyncio.create_task(self._live(qemu, swtpm, monitor, carrying, on_reset))

    def _plan_start(self, order: tuple[BootDevice, ...]) -> MachineStart:
        modified = NodeFault.MODIFIED_FIRMWARE in self.faults
        return MachineStart(
            firmware=self._directory.modified_firmware if modified else self._directory.firmware,
            variables=self._files.variables,
            boot_order=order,
            held=NodeFault.NEVER_BOOTS in self.faults,
            image_forced=self._files.other_image if NodeFault.OTHER_IMAGE in self.faults else None,
        )

    def _hang_at(self, words: bytes, monitor: Monitor) -> Listener:
        """Return a listener that stops the processor, once, when the console has said `words`."""
        heard = b""

        def hear(said: bytes) -> None:
            nonlocal heard
            heard = heard[-len(words) :] + said
            if words in heard and self._stopping is None:
                self._stopping = asyncio.create_task(monitor.execute("stop"))

        return hear

    async def _live(
        self,
        qemu: Child,
        swtpm: Child,
        monitor: Monitor,
        carrying: asyncio.Task[None],
        on_reset: Callable[[], None],
    ) -> None:
        """See the machine through to its end, and clear up after it."""
        await qemu.wait()
        await monitor.close()
        await carrying
        # It ends with its machine; until then it holds the TPM's state.
        await swtpm.wait()
        self._stop_listening()
        self._qemu = self._monitor = self._life = self._stopping = None
        if monitor.end_reason == "guest-reset":
            on_reset()

    async def kill(self) -> None:
        """Take its power away; return when it has ended. Harmless when it has none."""
        if self._qemu is not None and self._life is not None:
            life = self._life
            await self._qemu.kill()
            await life

    async def press_power_button(self) -> None:
        """Ask its system to shut down. Raises LabFailed."""
        if self._monitor is not None:
            await self._monitor.execute("system_powerdown")


def _lay_wires(far_ends: ExitStack) -> tuple[dict[str, socket.socket], dict[str, int]]:
    """Return the near ends of the console's and the monitor's wires, and the numbers of the far ends."""
    near, far = {}, {}
    for wire in ("console", "monitor"):
        near[wire], end = socket.socketpair()
        far[wire] = far_ends.enter_context(end).fileno()
    return near, far
