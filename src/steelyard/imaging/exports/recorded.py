"""What all exports have in common: what is open is on record before it is served, and off it before it is closed.

    open/ID/     an opening: record.json, what its server needs, its sockets; ID is made of its name
    ended/ID.*   one that was closed: its server is ended, then this is deleted
    making/      openings that are being put down

So a crash leaves what is to be served in one place and what is to be ended in the other, and `restore` does both.
"""

import errno
import fcntl
import hashlib
import json
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final, Protocol

from steelyard.imaging.files import (
    clear_workplaces,
    locked,
    make_directory,
    move,
    needing_room,
    sync,
    workplace,
    write_file,
)
from steelyard.imaging.locks import Hold, holding, is_open, keeping_away
from steelyard.imaging.ports import Access, ImageFile, Opening, Overlay, RawFile, VolumeDisk
from steelyard.imaging.tools import parse_json
from steelyard.model.errors import InUse, SteelyardError, StorageFailed, StorageUnready, WrongUse
from steelyard.model.names import check_name

LONGEST_ROOT: Final = 60
"""Sockets in it have names of up to 40 characters more, and the kernel takes 107. Source: unix(7)."""


@dataclass(frozen=True, slots=True)
class Record:
    """An opening: all but its credential. `address` and `port` are where it is served, `node` whom it is served to."""

    name: str
    disk: VolumeDisk
    node: IPv4Address | IPv6Address
    address: IPv4Address | IPv6Address
    port: int


class Server(Protocol):
    """Serves one opening by one protocol. `place` is the opening's directory."""

    def issue(self, record: Record) -> tuple[Mapping[str, bytes], Access]:
        """Return a new credential: the files that the server needs of it, by name, and what the node gets."""

    def start(self, place: Path, record: Record) -> None:
        """Serve it; nothing of that place is served so far. Raises StorageFailed, StorageUnready."""

    def serves(self, place: Path) -> bool:
        """Say whether it is served."""

    def end(self, place: Path) -> None:
        """Return when nothing of that place is served, sessions cut. Raises StorageFailed."""


class RecordedExport:
    """The `Export` by a `server`, of volumes of this computer, at one `address` and a port of `ports` for each.

    The ports are ours alone: best outside the range that the system gives out by itself.
    """

    def __init__(self, root: Path, address: IPv4Address | IPv6Address, ports: range, server: Server) -> None:
        root = root.absolute()
        if len(str(root)) > LONGEST_ROOT or "," in str(root):
            expected = f"a path of at most {LONGEST_ROOT} characters, without a comma"
            raise WrongUse("choosing a directory for exports", expected=expected, found=str(root))
        self._address, self._ports, self._server = address, ports, server
        self._open, self._ended = root / "open", root / "ended"
        self._making, self._locks = root / "making", root / "locks"
        for directory in (root, self._open, self._ended, self._making):
            make_directory(directory)

    def open(self, name: str, disk: VolumeDisk, node: IPv4Address | IPv6Address) -> Access:
        """See `Export`."""
        doing = f"opening the disk {check_name(name, 'opening')}"
        with self._changing(_id(name), doing):
            self._retire(_id(name))
            with keeping_away(disk.path, doing):
                pass  # and what comes in between now and the server's own look is refused by the server
            record, access = self._put_down(doing, name, disk, node)
            try:
                self._start(self._open / _id(name), record)
            except SteelyardError:
                self._retire(_id(name))
                raise
            return access

    def close(self, name: str) -> None:
        """See `Export`."""
        with self._changing(_id(check_name(name, "opening")), f"closing the disk {name}"):
            self._retire(_id(name))

    def openings(self) -> Mapping[str, Opening]:
        """See `Export`."""
        return {
            record.name: Opening(record.disk, record.node, self._serves(place)) for place, record in self._records()
        }

    def restore(self) -> None:
        """See `Export`. One that cannot be served does not keep others from it: its error is raised in the end."""
        clear_workplaces(self._making)
        failed: list[SteelyardError] = []
        for place in sorted(self._ended.iterdir()):
            identity = place.name.partition(".")[0]
            self._try(failed, identity, partial(self._finish, identity))
        for place, record in list(self._records()):
            self._try(failed, place.name, partial(self._serve, place, record))
        if failed:
            raise failed[0]

    def _try(self, failed: list[SteelyardError], identity: str, work: Callable[[], None]) -> None:
        try:
            with self._changing(identity, "restoring what is open"):
                work()
        except InUse:
            return  # whoever is at work on it leaves it right
        except SteelyardError as error:
            failed.append(error)

    def _serve(self, place: Path, record: Record) -> None:
        # It may have been closed, or opened anew, since it was listed.
        if _read(place) == record and not self._serves(place):
            self._server.end(place)
            self._start(place, record)

    def _start(self, place: Path, record: Record) -> None:
        # A server that was begun and not told all by one who died is running, and not serving.
        (place / "told").unlink(missing_ok=True)
        self._server.start(place, record)
        # It was told the file's name, and may have looked before that came to mean another file: rolled back, deleted.
        if not is_open(record.disk.path):
            self._server.end(place)
            raise InUse("serving a disk", expected="nobody else at work on it", found="it has just been replaced")
        write_file(place / "told", b"")

    def _serves(self, place: Path) -> bool:
        return (place / "told").exists() and self._server.serves(place)

    @contextmanager
    def _changing(self, identity: str, doing: str) -> Iterator[None]:
        with holding(self._locks, identity, Hold.ALONE, doing), needing_room(doing):
            yield

    def _put_down(
        self, doing: str, name: str, disk: VolumeDisk, node: IPv4Address | IPv6Address
    ) -> tuple[Record, Access]:
        """Write an opening down, with a credential and a port of its own."""
        with workplace(self._making) as place:
            made = place / "opening"
            made.mkdir(mode=0o700)
            # Alone, so that no two choose one port.
            with locked(self._open, fcntl.LOCK_EX):
                record = Record(name, disk, node, self._address, self._free_port(doing))
                files, access = self._server.issue(record)
                for file, data in {**files, "record.json": _to_bytes(record)}.items():
                    write_file(made / file, data)
                sync(made)
                move(made, self._open / _id(name))
        return record, access

    def _free_port(self, doing: str) -> int:
        taken = {record.port for _, record in self._records()}
        for port in self._ports:
            if port not in taken and _can_listen(doing, self._address, port):
                return port
        raise StorageUnready(doing, expected=f"a free port from {self._ports[0]} to {self._ports[-1]}", found="none")

    def _retire(self, identity: str) -> None:
        """See to it that the opening is neither on record nor served."""
        if (self._open / identity).exists():
            # First the record, so that nothing but the end is left to do from here on, whatever happens to us.
            move(self._open / identity, self._ended / f"{identity}.{secrets.token_hex(4)}")
            sync(self._open)
        self._finish(identity)

    def _finish(self, identity: str) -> None:
        for place in self._ended.glob(f"{identity}.*"):
            self._server.end(place)
            shutil.rmtree(place)

    def _records(self) -> Iterator[tuple[Path, Record]]:
        for place in sorted(self._open.iterdir()):
            record = _read(place)
            if record is not None:
                yield place, record


def _can_listen(doing: str, address: IPv4Address | IPv6Address, port: int) -> bool:
    """Say whether the port is free to listen at. Raises StorageUnready: no port of that address is."""
    try:
        listen(address, port).close()
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise StorageUnready(doing, expected=f"to listen at {address}", found=str(error)) from error
        return False
    return True


def listen(address: IPv4Address | IPv6Address, port: int) -> socket.socket:
    """Return a socket that listens there. Raises OSError."""
    listener = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(address), port))
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


def _id(name: str) -> str:
    """Return what the opening's directory is called: short, as the paths of sockets must be."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def _to_bytes(record: Record) -> bytes:
    disk = record.disk
    base = disk.base if isinstance(disk, Overlay) else None
    return json.dumps(
        {
            "name": record.name,
            "format": "qcow2" if isinstance(disk, Overlay) else "raw",
            "path": str(disk.path),
            "base": None if base is None else str(base.path),
            "node": str(record.node),
            "address": str(record.address),
            "port": record.port,
        }
    ).encode()


def _read(place: Path) -> Record | None:
    """Return the record in `place`; None if it has been closed."""
    doing = "reading the record of an opening"
    try:
        document = parse_json(doing, (place / "record.json").read_bytes())
    except FileNotFoundError:
        return None
    disk: VolumeDisk
    match document:
        case {
            "name": str(name),
            "format": "qcow2" | "raw" as form,
            "path": str(path),
            "base": str() | None as base,
            "node": str(node),
            "address": str(address),
            "port": int(port),
            **rest,
        } if not rest:
            image = None if base is None else ImageFile(Path(base))
            disk = RawFile(Path(path)) if form == "raw" else Overlay(Path(path), image)
            return Record(name, disk, ip_address(node), ip_address(address), port)
    raise StorageFailed(doing, expected="a record", found=str(place))
