"""OVSDB, as far as a switch driver needs it: one connection, transactions, and word of changes.

It knows JSON-RPC, TLS, limits and who is at fault; what the tables mean is the driver's.
Source: RFC 7047; JSON-RPC 1.0.
"""

import ipaddress
import json
import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from steelyard.isolation.ports import Access
from steelyard.model.errors import DeviceError, DeviceGarbled, DeviceRefused, DeviceUnreachable, WrongUse
from steelyard.model.limits import OVSDB_DEPTH, OVSDB_MESSAGE_BYTES

T = TypeVar("T")

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
Row = dict[str, Json]

DATABASE: Final = "Open_vSwitch"
CONNECT_SECONDS: Final = 3.0
"""A management network answers within milliseconds; TCP repeats a lost first packet after one second."""
SILENT_SECONDS: Final = 3
"""After that long without a sign from the other end, a connection counts as lost."""

_RECEIVED_BYTES: Final = 64 * 1024
_MARKS: Final = re.compile(rb'\\.|["{}\[\]]', re.DOTALL)
"""All that matters to where a JSON text ends: brackets, strings, and what is escaped in them."""


# -- where it is -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a database server listens: a path, or an address and a port; for TLS, how its certificate is checked.

    name  what the certificate must be for.
    """

    shown: str
    where: str | tuple[str, int]
    tls: ssl.SSLContext | None
    name: str


def parse_endpoint(access: Access) -> Endpoint:
    """Return the endpoint of an access; does not connect. Raises WrongUse.

    address      "endpoint": unix:/PATH, tcp:IP:PORT or ssl:IP:PORT, an IPv6 address in brackets.
                 For ssl: also "ca", PEM: who issues the switch's certificate; "certificate", PEM: ours;
                 and, unless it is for the IP address, "name": what the switch's certificate is for.
    credentials  For ssl: "key", PEM: that of our certificate, not encrypted.
    """
    doing = "reaching a switch's OVSDB"
    shown = access.address.get("endpoint", "")
    kind, _, rest = shown.partition(":")
    needed, allowed, keys = {"endpoint"}, {"endpoint"}, set[str]()
    if kind == "ssl":
        needed, keys = {"endpoint", "ca", "certificate"}, {"key"}
        allowed = needed | {"name"}
    given = set(access.address)
    if not needed <= given <= allowed or set(access.credentials) != keys:
        # No values: a key that was put in the wrong place would be shown.
        raise WrongUse(
            doing,
            expected=f"of the address {', '.join(sorted(allowed))}; of the credentials {', '.join(keys) or 'none'}",
            found=f"{', '.join(sorted(given)) or 'none'}; {', '.join(sorted(access.credentials)) or 'none'}",
        )
    if kind == "unix" and Path(rest).is_absolute():
        return Endpoint(shown, rest, None, "")
    host, _, port = rest.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        # No names: how long a resolver takes is not in our hands, nor what it says.
        address = ipaddress.ip_address(bare)
    except ValueError:
        address = None
    if (
        kind not in {"tcp", "ssl"}
        or address is None
        or (address.version == 6) == (host == bare)
        or not re.fullmatch("[0-9]{1,5}", port, re.ASCII)
        or not 0 < int(port) < 65536
    ):
        raise WrongUse(doing, expected="unix:/PATH, tcp:IP:PORT or ssl:IP:PORT", found=shown)
    return Endpoint(shown, (bare, int(port)), _tls(access) if kind == "ssl" else None, access.address.get("name", bare))


def _tls(access: Access) -> ssl.SSLContext:
    """Return TLS that shows our certificate, and takes one of the given authority and the right name alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # OpenSSL takes a key from a file only; this one has no name and is gone when it is closed.
    with os.fdopen(os.memfd_create("key"), "wb", buffering=0) as file:
        file.write(access.address["certificate"].encode() + b"\n" + access.credentials["key"].reveal())
        path = f"/proc/self/fd/{file.fileno()}"
        try:
            context.load_verify_locations(cadata=access.address["ca"])
            # Without a password it would ask for one at the terminal.
            context.load_cert_chain(path, password="")
        except (ssl.SSLError, ValueError) as cause:
            raise WrongUse(
                "reaching a switch's OVSDB by TLS",
                expected="an authority, a certificate and its key, in PEM, the key not encrypted",
                found=getattr(cause, "reason", None) or "another thing",
            ) from None
    return context


# -- the connection ----------------------------------------------------------------------------------------------------


class Connection:
    """A connection to a database server. A method that has raised, but for TimeoutError, has left it of no use.

    on_update  called with what each `update` of the monitor holds, while any method waits: rows by UUID by table.
    """

    def __init__(self, endpoint: Endpoint, deadline: float, on_update: Callable[[Json], None]) -> None:
        """Connect. Raises DeviceUnreachable; DeviceRefused if TLS comes to nothing."""
        self._shown = endpoint.shown
        self._on_update = on_update
        self._received = Messages(endpoint.shown)
        self._asked = 0
        doing = f"connecting to {endpoint.shown}"
        try:
            self._socket = _connect(endpoint, min(deadline, time.monotonic() + CONNECT_SECONDS))
        except ssl.SSLError as cause:
            raise DeviceRefused(doing, expected="TLS as set up", found=cause.reason or str(cause)) from cause
        except OSError as cause:
            raise DeviceUnreachable(doing, expected="a connection", found=_reason(cause)) from cause

    def monitor(self, tables: Mapping[str, Sequence[str]], deadline: float) -> None:
        """Have `on_update` told of every change of these columns from now on; the first that is asked.

        Raises DeviceGarbled, DeviceRefused, DeviceUnreachable.
        """
        # What is there is not asked for: who wants to know reads it.
        wanted: Json = {
            table: {"columns": list(columns), "select": {"initial": False}} for table, columns in tables.items()
        }
        try:
            self._ask("monitor", [DATABASE, None, wanted], deadline, DeviceUnreachable)
        except DeviceUnreachable as error:
            if not isinstance(error.__cause__, ssl.SSLError):
                raise
            # With TLS 1.3 a server tells what it thinks of our certificate when the handshake is over.
            raise DeviceRefused(error.doing, expected="our certificate to be taken", found=error.found) from error

    def transact(
        self, operations: Sequence[Mapping[str, Json]], deadline: float, silence: type[DeviceError]
    ) -> "Results":
        """Return what each operation gave. Raises DeviceGarbled, DeviceRefused; `silence` if there was no answer."""
        # Whether the message left whole does not matter: half of it is never carried out, and we cannot know.
        answer = self._ask("transact", [DATABASE, *map(dict, operations)], deadline, silence)
        return Results(f"transaction at {self._shown}", answer, len(operations))

    def listen(self, deadline: float) -> None:
        """Return after a message; TimeoutError if there is none by then. Raises DeviceGarbled, DeviceUnreachable."""
        try:
            self._attend(self._receive(deadline))
        except TimeoutError:
            raise
        except OSError as cause:
            raise DeviceUnreachable(
                f"listening to {self._shown}", expected="word of changes", found=_reason(cause)
            ) from cause

    def close(self) -> None:
        """End it."""
        self._socket.close()

    def _ask(self, method: str, params: list[Json], deadline: float, silence: type[DeviceError]) -> Json:
        self._asked += 1
        doing = f"{method} at {self._shown}"
        try:
            self._send({"id": self._asked, "method": method, "params": params}, deadline)
            while True:
                message = self._receive(deadline)
                if "method" not in message:
                    break
                self._attend(message)
        except OSError as cause:
            raise silence(doing, expected="an answer", found=_reason(cause)) from cause
        if message.keys() != {"id", "result", "error"} or message["id"] != self._asked:
            raise DeviceGarbled(doing, expected="the answer to what was asked", found=_shown(message))
        if message["error"] is not None:
            raise DeviceRefused(doing, expected="it done", found=_shown(message["error"]))
        return message["result"]

    def _attend(self, message: dict[str, Json]) -> None:
        """Do what the server asks for: take an update, or show that we live."""
        match message:
            case {"method": "update", "params": [None, updates], "id": None, **rest} if not rest:
                self._on_update(updates)
            case {"method": "echo", "params": list(words), "id": id_, **rest} if not rest:
                try:
                    self._send({"id": id_, "result": words, "error": None}, time.monotonic() + SILENT_SECONDS)
                except TimeoutError as cause:
                    raise ConnectionResetError("it does not take what is sent") from cause
            case _:
                raise DeviceGarbled(
                    f"listening to {self._shown}", expected="an answer, an update or an echo", found=_shown(message)
                )

    def _send(self, message: dict[str, Json], deadline: float) -> None:
        self._socket.settimeout(_left(deadline))
        self._socket.sendall(json.dumps(message, separators=(",", ":")).encode())

    def _receive(self, deadline: float) -> dict[str, Json]:
        while (message := self._received.take()) is None:
            self._socket.settimeout(_left(deadline))
            data = self._socket.recv(_RECEIVED_BYTES)
            if not data:
                raise ConnectionResetError("the connection ended")
            self._received.add(data)
        return message


def _connect(endpoint: Endpoint, deadline: float) -> socket.socket:
    if isinstance(endpoint.where, str):
        plain = socket.socket(socket.AF_UNIX)
        try:
            plain.settimeout(_left(deadline))
            plain.connect(endpoint.where)
        except BaseException:
            plain.close()
            raise
        return plain
    plain = socket.create_connection(endpoint.where, _left(deadline))
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A switch that lost its power says no good-bye.
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_SECONDS * 1000)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENT_SECONDS)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
        if endpoint.tls is None:
            return plain
        plain.settimeout(_left(deadline))
        return endpoint.tls.wrap_socket(plain, server_hostname=endpoint.name)
    except BaseException:
        plain.close()
        raise


def _left(deadline: float) -> float:
    """Return the seconds left. Raises TimeoutError."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _reason(cause: OSError) -> str:
    return "nothing in time" if isinstance(cause, TimeoutError) else str(cause)


def _shown(value: Json) -> str:
    return json.dumps(value)[:400]


# -- its messages ------------------------------------------------------------------------------------------------------


class Messages:
    """Cuts what arrives into JSON objects, which stand one after another with nothing between.

    Linear in time, bounded in memory, whatever arrives.
    """

    def __init__(self, shown: str) -> None:
        self._doing = f"reading what {shown} sends"
        self._bytes = bytearray()
        self._looked_at = 0
        self._depth = 0
        self._in_string = False

    def add(self, data: bytes) -> None:
        """Take bytes that arrived."""
        self._bytes += data

    def take(self) -> dict[str, Json] | None:
        """Return the next message, None as long as it is not there whole. Raises DeviceGarbled."""
        end = self._find_end()
        if (end or len(self._bytes)) > OVSDB_MESSAGE_BYTES.most:
            raise self._garbled(f"at most {OVSDB_MESSAGE_BYTES.most} bytes", "more")
        if end is None:
            return None
        text = bytes(self._bytes[:end])
        del self._bytes[:end]
        self._looked_at = 0
        try:
            message: Json = json.loads(
                text.decode("utf-8"), object_pairs_hook=self._object_of, parse_constant=self._refuse_constant
            )
        except ValueError as cause:  # not UTF-8, not JSON, or a number of thousands of digits
            raise self._garbled("JSON in UTF-8", str(cause)) from cause
        if not isinstance(message, dict):
            raise self._garbled("an object", _shown(message))
        return message

    def _find_end(self) -> int | None:
        if self._depth == 0:
            self._bytes = self._bytes.lstrip(b" \t\r\n")
            if self._bytes and not self._bytes.startswith(b"{"):
                raise self._garbled("an object", self._bytes[:100].decode("utf-8", "backslashreplace"))
        while mark := _MARKS.search(self._bytes, self._looked_at):
            self._looked_at = mark.end()
            match mark[0]:
                case b'"':
                    self._in_string = not self._in_string
                case b"{" | b"[" if not self._in_string:
                    self._depth += 1
                    if self._depth > OVSDB_DEPTH.most:
                        raise self._garbled(f"at most {OVSDB_DEPTH.most} levels", "more")
                case b"}" | b"]" if not self._in_string:
                    self._depth -= 1
                    if self._depth == 0:
                        return self._looked_at
        # A backslash at the end waits for what it escapes, unless it is itself escaped.
        self._looked_at = max(self._looked_at, len(self._bytes) - self._bytes.endswith(b"\\"))
        return None

    def _object_of(self, pairs: list[tuple[str, Json]]) -> dict[str, Json]:
        fields = dict(pairs)
        if len(fields) != len(pairs):
            raise self._garbled("each field once", "one twice")
        return fields

    def _refuse_constant(self, constant: str) -> Json:
        raise self._garbled("JSON numbers", constant)

    def _garbled(self, expected: str, found: str) -> DeviceGarbled:
        return DeviceGarbled(self._doing, expected=expected, found=found)


# -- what is in them ---------------------------------------------------------------------------------------------------


class Results:
    """What the operations of a transaction gave. Raises DeviceGarbled for what cannot be one's result."""

    def __init__(self, doing: str, answer: Json, operations: int) -> None:
        """Raises DeviceRefused if one of them failed, and with it all; `timed_out` tells of a `wait`."""
        self._doing = doing
        # One more tells of a failure at the commit.
        if not isinstance(answer, list) or not operations <= len(answer) <= operations + 1:
            raise self._garbled(f"{operations} results", answer)
        self._results = answer
        self.timed_out = False
        for result in answer:
            match result:
                case {"error": "timed out"}:
                    self.timed_out = True
                    return
                case {"error": str()}:
                    raise DeviceRefused(doing, expected="it done", found=_shown(result))
                case None | dict():
                    pass
                case _:
                    raise self._garbled("objects", result)
        if len(answer) != operations or None in answer:
            raise self._garbled(f"{operations} results", answer)

    def rows(self, index: int) -> Sequence[Row]:
        """Return the rows that a `select` found."""
        match self._results[index]:
            case {"rows": list(rows)}:
                objects = [row for row in rows if isinstance(row, dict)]
                if len(objects) == len(rows):
                    return objects
        raise self._garbled("rows", self._results[index])

    def row(self, index: int) -> Row:
        """Return the one row that a `select` found."""
        rows = self.rows(index)
        if len(rows) != 1:
            raise self._garbled("one row", self._results[index])
        return rows[0]

    def check_count(self, index: int, count: int) -> None:
        """Return if an `update` or a `mutate` met as many rows."""
        if self._results[index] != {"count": count}:
            raise self._garbled(f"{count} rows changed", self._results[index])

    def _garbled(self, expected: str, found: Json) -> DeviceGarbled:
        return DeviceGarbled(self._doing, expected=expected, found=_shown(found))


@dataclass(frozen=True, slots=True)
class Uuid:
    """What a row is known by, and pointed at with."""

    text: str

    @property
    def json(self) -> Json:
        """As it stands in a message."""
        return ["uuid", self.text]


class Columns:
    """The columns of a row, by type. Each method raises DeviceGarbled."""

    def __init__(self, doing: str, row: Json) -> None:
        self._doing = doing
        if not isinstance(row, dict):
            raise self._garbled("a row", "an object", row)
        self._row = row

    def one(self, name: str, kind: type[T]) -> T:
        """Return a column that always has a value."""
        value = self.optional(name, kind)
        if value is None:
            raise self._garbled(name, "a value", None)
        return value

    def optional(self, name: str, kind: type[T]) -> T | None:
        """Return a column that may be empty."""
        values = self.several(name, kind)
        if len(values) > 1:
            raise self._garbled(name, "one value at most", self._row.get(name))
        return next(iter(values), None)

    def several(self, name: str, kind: type[T]) -> frozenset[T]:
        """Return a column that is a set."""
        match self._row.get(name):
            case ["set", list(atoms)]:
                pass
            case atom:  # a set of one stands without its braces
                atoms = [atom]
        values = [self._atom(name, atom, kind) for atom in atoms]
        if len(set(values)) != len(values):
            raise self._garbled(name, "each value once", self._row.get(name))
        return frozenset(values)

    def strings(self, name: str) -> Mapping[str, str]:
        """Return a column that is a map of strings."""
        found: dict[str, str] = {}
        match self._row.get(name):
            case ["map", list(pairs)]:
                pass
            case other:
                raise self._garbled(name, "a map", other)
        for pair in pairs:
            match pair:
                case [str(key), str(value)] if key not in found:
                    found[key] = value
                case _:
                    raise self._garbled(name, "pairs of strings", pair)
        return found

    def _atom(self, name: str, atom: Json, kind: type[T]) -> T:
        value: object = atom
        match atom:
            case ["uuid", str(text)]:
                value = Uuid(text)
        # Exactly: to Python, true is a number.
        if type(value) is not kind:
            raise self._garbled(name, f"of type {kind.__name__}", atom)
        return value

    def _garbled(self, name: str, expected: str, found: Json) -> DeviceGarbled:
        return DeviceGarbled(self._doing, expected=f"{name} to be {expected}", found=_shown(found))


def set_json(values: Iterable[Json]) -> Json:
    """Return a set as it stands in a message."""
    return ["set", list(values)]


def map_json(pairs: Mapping[str, str]) -> Json:
    """Return a map as it stands in a message."""
    return ["map", [[key, value] for key, value in pairs.items()]]
