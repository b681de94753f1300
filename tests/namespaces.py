"""Network namespaces: doing things in one, and a layer-2 network of several."""

import ctypes
import itertools
import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, TypeVar

from steelyard.lab.namespace import NAMESPACES, inside

T = TypeVar("T")

_CLONE_NEWNET: Final = 0x40000000
_COUNT: Final = itertools.count()


def within(name: str, act: Callable[[], T]) -> T:
    """Return what `act` does in a namespace: sockets and threads that it begins are there, and stay so."""
    with threads_within(name, 1) as thread:
        return thread.submit(act).result()


def threads_within(name: str, most: int) -> ThreadPoolExecutor:
    """Return threads that live in a namespace."""
    return ThreadPoolExecutor(most, initializer=_enter, initargs=(name,))


def _enter(name: str) -> None:
    handle = os.open(NAMESPACES / name, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(handle, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(handle)


def run_inside(name: str, *command: str, seconds: float = 30, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command in a namespace."""
    return subprocess.run(
        inside(name, command), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=check
    )


@contextmanager
def namespaces(*roles: str) -> Iterator[dict[str, str]]:
    """Give a new namespace for each role: role -> name. Whatever runs in one in the end keeps what it has there."""
    names = {role: f"sy-{os.getpid()}-{next(_COUNT)}" for role in roles}
    made: list[str] = []
    try:
        for name in names.values():
            subprocess.run(["ip", "netns", "add", name], check=True)
            made.append(name)
            ip(name, "link set lo up")
        yield names
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=True)


def ip(name: str, *lines: str) -> None:
    """Have iproute2 do some things in a namespace."""
    batch = "".join(f"{line}\n" for line in lines)
    subprocess.run(inside(name, ["ip", "-batch", "-"]), input=batch, text=True, check=True)


def join(service: str, bridge: str, node: str, card: str, mac: str) -> None:
    """Lay a cable from a node's card to a bridge of another namespace."""
    ip(service, f"link add {card} type veth peer name {card} netns {node}", f"link set {card} master {bridge} up")
    ip(node, f"link set {card} address {mac} up")
