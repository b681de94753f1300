"""Programs that go on serving whatever becomes of who started them. Each is known by the socket that it listens at.

No process number is kept, as the kernel may give it to another one: who listens at a socket, the kernel tells. Whether
there is one, before it listens and after, is told by a lock beside the socket: it is given to it at birth, and the
kernel frees it when the last process of it has ended.
"""

import fcntl
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from struct import calcsize, unpack
from types import TracebackType
from typing import BinaryIO, Final, Self

from steelyard.model.errors import StorageFailed

ANSWER_SECONDS: Final = 10.0
"""Within which a daemon starts, answers, and ends; most of it is for a busy machine."""
_LOOK_SECONDS: Final = 0.005
_CREDENTIALS: Final = "3i"
"""struct ucred. Source: unix(7)."""


class Daemon:
    """The process that listens at a socket, held so that no other can come to be meant; a context manager."""

    def __init__(self, wire: socket.socket, pid: int, handle: int) -> None:
        self.wire = wire
        """A connection to it, nothing said so far."""
        self.pid = pid
        self._handle = handle

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wire.close()
        os.close(self._handle)

    def kill(self, doing: str) -> None:
        """Return when it has ended. Raises StorageFailed."""
        signal.pidfd_send_signal(self._handle, signal.SIGKILL)
        if not self.ends():
            raise StorageFailed(doing, expected="a killed process to end", found=f"process {self.pid} did not")

    def ends(self) -> bool:
        """Say whether it ends, within the time that is given to it."""
        return bool(_readable(self._handle, ANSWER_SECONDS))


def find_daemon(socket_path: Path) -> Daemon | None:
    """Return who listens there; None if nobody does."""
    with ExitStack() as cleanup:
        wire = cleanup.enter_context(socket.socket(socket.AF_UNIX))
        wire.settimeout(ANSWER_SECONDS)
        try:
            wire.connect(os.fspath(socket_path))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        credentials = wire.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, calcsize(_CREDENTIALS))
        pid = int(unpack(_CREDENTIALS, credentials)[0])
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return None
        cleanup.callback(os.close, handle)
        # It lived after the handle was made, if the connection still does: then the handle is its.
        if _readable(wire.fileno(), 0) & (select.POLLHUP | select.POLLERR):
            return None
        cleanup.pop_all()
        return Daemon(wire, pid, handle)


def start_daemon(doing: str, command: Sequence[str], socket_path: Path, log: Path, wires: Sequence[int] = ()) -> Daemon:
    """Start a program that lives on without us; return it when it listens at its socket. Raises StorageFailed.

    It inherits `wires`; what it says goes to `log`. Nobody listens at the socket so far.
    """
    log.touch(mode=0o600)
    with log.open("wb") as output, _life(socket_path) as life:
        fcntl.flock(life, fcntl.LOCK_EX | fcntl.LOCK_NB)
        subprocess.run(  # noqa: S603 (no shell; paths absolute, names checked)
            # It is nobody's child, so that nobody has to wait for it to end.
            ["/usr/bin/setsid", "--fork", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
            cwd="/",
            pass_fds=(*wires, life.fileno()),
            umask=0o077,
            check=True,
        )
    limit = time.monotonic() + ANSWER_SECONDS
    while lives(socket_path) and time.monotonic() < limit:
        if (found := find_daemon(socket_path)) is not None:
            return found
        time.sleep(_LOOK_SECONDS)
    said = log.read_bytes()[-400:].decode("utf-8", "backslashreplace").strip().splitlines()
    raise StorageFailed(doing, expected=f"{Path(command[0]).name} to start", found=said[-1] if said else "it did not")


def end_daemon(doing: str, socket_path: Path, ask: Callable[[Daemon], None]) -> None:
    """Return when nothing is left of the daemon of that socket: asked to end, then made to. Raises StorageFailed."""
    limit = time.monotonic() + 3 * ANSWER_SECONDS
    while lives(socket_path):
        if time.monotonic() > limit:
            raise StorageFailed(doing, expected="it to end", found="it did not")
        daemon = find_daemon(socket_path)
        if daemon is None:
            # It has just been started by one who has died since, or is about to be gone.
            time.sleep(_LOOK_SECONDS)
            continue
        with daemon:
            ask(daemon)
            if not daemon.ends():
                daemon.kill(doing)


def _life(socket_path: Path) -> BinaryIO:
    """Return the open lock of the daemon."""
    path = socket_path.with_name(f"{socket_path.name}.life")
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "rb")


def lives(socket_path: Path) -> bool:
    """Say whether the daemon of that socket runs. It hears nothing of that: tgtd never forgets who says nothing."""
    with _life(socket_path) as life:
        try:
            fcntl.flock(life, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _readable(descriptor: int, seconds: float) -> int:
    """Return what poll(2) says of it, after `seconds` at most."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    events = poll.poll(seconds * 1000)
    return events[0][1] if events else 0
