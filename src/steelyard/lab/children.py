"""Programs that the supervisor runs: they are on record, and they never outlive it."""

import asyncio
from collections.abc import Collection, Sequence
from pathlib import Path

from steelyard.lab.processes import ProcessIdentity, identify
from steelyard.lab.state import RackDirectory


class Children:
    """The supervisor's own processes, and itself, kept on record in the rack's directory."""

    def __init__(self, directory: RackDirectory, supervisor: ProcessIdentity) -> None:
        self._directory = directory
        self._living = [supervisor]
        directory.write_running(self._living)

    @property
    def living(self) -> Sequence[ProcessIdentity]:
        """The supervisor first, then its children."""
        return tuple(self._living)

    async def start(self, role: str, command: Sequence[str], log: Path, wires: Collection[int]) -> "Child":
        """Start `command`; it inherits `wires` and writes to `log`."""
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                # The kernel kills it when the supervisor dies, however that came about.
                *("setpriv", "--pdeathsig", "KILL", "--", *command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=tuple(wires),
                # A Ctrl-C at the terminal that `lab up` ran in is not for them.
                start_new_session=True,
            )
        identity = identify(role, process.pid)
        if identity is not None:
            self._living.append(identity)
            self._directory.write_running(self._living)
        return Child(process, identity, self)

    def forget(self, identity: ProcessIdentity) -> None:
        """Take a process that has ended off the record."""
        self._living.remove(identity)
        self._directory.write_running(self._living)


class Child:
    """One process."""

    def __init__(
        self, process: asyncio.subprocess.Process, identity: ProcessIdentity | None, children: Children
    ) -> None:
        self._process = process
        self._children = children
        self._end = asyncio.create_task(self._wait(identity))

    @property
    def ended(self) -> bool:
        """Whether it has ended and is off the record."""
        return self._end.done()

    async def _wait(self, identity: ProcessIdentity | None) -> None:
        await self._process.wait()
        if identity is not None:
            self._children.forget(identity)

    async def wait(self) -> None:
        """Return when it has ended."""
        await asyncio.shield(self._end)

    async def kill(self) -> None:
        """End it; return when it has ended."""
        if self._process.returncode is None:
            self._process.kill()
        await self.wait()

    async def terminate(self) -> None:
        """Ask it to end; return when it has."""
        if self._process.returncode is None:
            self._process.terminate()
        await self.wait()
