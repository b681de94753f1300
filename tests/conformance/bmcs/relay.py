"""A wire that can be cut: carries UDP or TCP to a port of loopback, and loses answers from a moment on."""

import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

_CHUNK: Final = 65536


class Relay:
    """Carries everything to `port`, and back while `cut` says no; what comes back later is lost."""

    def __init__(self, kind: socket.SocketKind, port: int, cut: Callable[[], bool]) -> None:
        self._kind = kind
        self._target = ("127.0.0.1", port)
        self._cut = cut
        self._selector = selectors.DefaultSelector()
        self._end, ended = socket.socketpair()
        self._listener = socket.socket(socket.AF_INET, kind)
        self._listener.bind(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._stopped = False
        self._peer: tuple[str, int] | None = None
        self._watch(ended, self._stop)
        if kind is socket.SOCK_STREAM:
            self._listener.listen()
            self._watch(self._listener, self._accept)
        else:
            far = socket.socket(socket.AF_INET, kind)
            far.connect(self._target)
            self._watch(self._listener, lambda: self._ask(far))
            self._watch(far, lambda: self._answer(far))
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _watch(self, end: socket.socket, act: Callable[[], None]) -> None:
        self._selector.register(end, selectors.EVENT_READ, act)

    def _run(self) -> None:
        while not self._stopped:
            for key, _ in self._selector.select():
                end = key.fileobj
                assert isinstance(end, socket.socket)
                # One that was ready along with it may have closed it.
                if end.fileno() >= 0:
                    key.data()

    def _stop(self) -> None:
        self._stopped = True

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        far = socket.create_connection(self._target)
        self._watch(near, lambda: self._carry(near, far, lossy=False))
        self._watch(far, lambda: self._carry(far, near, lossy=True))

    def _carry(self, source: socket.socket, target: socket.socket, *, lossy: bool) -> None:
        with suppress(ConnectionError):
            said = source.recv(_CHUNK)
            if said and not (lossy and self._cut()):
                target.sendall(said)
                return
        for end in (source, target):
            self._selector.unregister(end)
            end.close()

    def _ask(self, far: socket.socket) -> None:
        said, self._peer = self._listener.recvfrom(_CHUNK)
        far.send(said)

    def _answer(self, far: socket.socket) -> None:
        said = far.recv(_CHUNK)
        if self._peer is not None and not self._cut():
            self._listener.sendto(said, self._peer)

    def close(self) -> None:
        """End it."""
        self._end.send(b".")
        self._thread.join()
        for key in tuple(self._selector.get_map().values()):
            end = key.fileobj
            assert isinstance(end, socket.socket)
            self._selector.unregister(end)
            end.close()
        self._selector.close()
        self._end.close()


@contextmanager
def relay(kind: socket.SocketKind, port: int, cut: Callable[[], bool]) -> Iterator[int]:
    """Give the port of a relay to `port`."""
    wire = Relay(kind, port, cut)
    try:
        yield wire.port
    finally:
        wire.close()
