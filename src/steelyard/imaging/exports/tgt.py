"""Speaks to a tgtd at its management socket.

Not by tgtadm, which takes passwords as arguments, where all who can list processes read them; nor by tgt-admin, which
runs tgtadm. Both speak as this does: one request per connection, a fixed head in the machine's own byte order, then
parameters as text, "key=value" with commas between.

Source: tgt 1.0.85, usr/tgtadm.h and usr/mgmt.c; seen of its tgtadm, byte for byte, by the tests.
"""

import socket
import struct
from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path
from typing import Final

from steelyard.imaging.exports.daemons import Daemon, find_daemon
from steelyard.model.errors import StorageFailed
from steelyard.model.limits import TOOL_OUTPUT_BYTES

TARGET: Final = 1
"""The one target of each tgtd, by its number."""
LUN: Final = 1
"""Of the disk; LUN 0 is the controller."""

_HEAD: Final = struct.Struct("=II64sIiQQIIIII4x")
"""mode, operation, driver, length of all, target, session, LUN, connection, host, device type, direction, force."""
_ANSWER: Final = struct.Struct("=II")
"""Error, length of all."""
_NO_LUN: Final = 2**64 - 1
_DRIVER: Final = b"iscsi"


class Mode(IntEnum):
    """What an operation is about."""

    TARGET = 1
    DEVICE = 2
    PORTAL = 3
    ACCOUNT = 7


class Operation(IntEnum):
    """What is to be done about it."""

    NEW = 0
    SHOW = 2
    BIND = 3
    UPDATE = 5


class Direction(IntEnum):
    """Whose proof an account is: the initiator's to the target, or the other way round."""

    INCOMING = 0
    OUTGOING = 1


def pack_request(
    mode: Mode,
    operation: Operation,
    parameters: Mapping[str, str],
    *,
    lun: int = _NO_LUN,
    direction: Direction = Direction.INCOMING,
) -> bytes:
    """Return a request about the one target. A parameter may hold no comma and no NUL: they would begin another one."""
    text = ",".join(f"{key}={value}" for key, value in parameters.items())
    if text.count(",") != max(len(parameters) - 1, 0) or "\0" in text:
        raise ValueError("a parameter with a separator in it")
    data = text.encode("ascii") + b"\0" if parameters else b""
    return _HEAD.pack(mode, operation, _DRIVER, _HEAD.size + len(data), TARGET, 0, lun, 0, 0, 0, direction, 0) + data


def ask(place: Path, doing: str, request: bytes) -> bytes:
    """Return what the tgtd that listens at `place` answers to a request. Raises StorageFailed."""
    daemon = find_daemon(place)
    if daemon is None:
        raise StorageFailed(doing, expected="tgtd to listen", found="it has ended")
    with daemon:
        return ask_daemon(daemon, doing, request)


def ask_daemon(daemon: Daemon, doing: str, request: bytes) -> bytes:
    """Return what a tgtd answers to the one request that it takes by a connection. Raises StorageFailed.

    One that says nothing before it ends it would keep, and look at again and again, with all of its processor.
    """
    try:
        daemon.wire.sendall(request)
        error, length = _ANSWER.unpack(_receive(daemon.wire, _ANSWER.size))
        if length > TOOL_OUTPUT_BYTES.most:
            raise StorageFailed(doing, expected="a short answer", found=f"{length} bytes")
        text = _receive(daemon.wire, max(length - _ANSWER.size, 0))
    except (OSError, struct.error) as failure:
        raise StorageFailed(doing, expected="an answer of tgtd", found=str(failure)) from failure
    if error:
        raise StorageFailed(doing, expected="tgtd to do it", found=f"its error {error}")
    return text


def _receive(wire: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := wire.recv(size - len(data))):
        data += more
    return data
