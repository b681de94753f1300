"""Calls to addresses that strangers chose, none of which can reach what stands beside the service.

A URL is read once, here, and by nobody else. Its host is resolved once for each call, every address that it has is
checked, and the connection goes to just those addresses: a name that means something else a moment later (DNS
rebinding) changes nothing. TLS and the Host header keep the name. No redirect is followed and no proxy is used; who
wants to follow a redirect calls again, and is checked again. Each call has an end, however slowly the other side
speaks.
"""

import ipaddress
import queue
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

import httpcore

from steelyard.model.errors import AddressRefused, ServiceUnready, Unavailable, WrongUse
from steelyard.model.limits import URL_CHARACTERS
from steelyard.service.database import local_seconds

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolver = Callable[[str, float], Sequence[Address]]

MOST_ADDRESSES: Final = 8
"""How many addresses of one name are tried."""
PIECE_BYTES: Final = 16 * 1024
"""How much is sent before the time is looked at."""

_HOST: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?", re.ASCII)
_PORTS: Final = {"http": 80, "https": 443}
# All that is for no host of the open internet.
# Source: IANA IPv4 and IPv6 Special-Purpose Address Registries; RFC 5771 (multicast); RFC 4291, section 2.4.
_NOT_GLOBAL_4: Final = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.31.196.0/24",
            "192.52.193.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "192.175.48.0/24",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/3",
        ),
    )
)
# Within 2000::/3; nothing outside of it is global. 2001::/23 has Teredo in it, 2002::/16 is 6to4: both lead to IPv4.
_GLOBAL_6: Final = IPv6Network("2000::/3")
_NOT_GLOBAL_6: Final = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))


# -- where ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """A URL, read: what is connected to, and what is asked for there. Made by `parse_target`.

    host  a name, or an address without brackets.
    path  with the query, as it is sent. It may be somebody's secret, so that errors and logs have the origin alone.
    """

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Return the value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """Return it without the path."""
        return f"{self.scheme}://{self.authority}"

    @property
    def url(self) -> str:
        """Return it whole."""
        return self.origin + self.path


def parse_target(url: str, what: str) -> Target:
    """Return where a URL leads, `what` it is the address of being named in errors. Raises WrongUse.

    http or https, a host, no user, password or fragment; printable ASCII without what two readers take differently.
    """
    # The URL is not shown, as there may be a secret in it.
    wrong = WrongUse(
        f"reading the address of {what}",
        expected=f"http:// or https://, a host, no user, password or fragment, at most {URL_CHARACTERS.most} letters",
        found="another",
    )
    if len(url) > URL_CHARACTERS.most or not url.isascii() or not url.isprintable() or set(url) & set(' \\#"<>'):
        raise wrong
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as cause:
        raise wrong from cause
    if parts.scheme not in _PORTS or not host or port == 0 or "@" in parts.netloc or "%" in parts.netloc:
        raise wrong
    if ":" in host:
        try:
            host = str(IPv6Address(host))
        except ValueError as cause:
            raise wrong from cause
    elif not _HOST.fullmatch(host):
        raise wrong
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port or _PORTS[parts.scheme], path)


def parse_redirect(target: Target, location: str, what: str) -> Target:
    """Return where an answer sends whoever asked. Raises WrongUse: also when it leads from https to http."""
    try:
        following = parse_target(urljoin(target.url, location).partition("#")[0], what)
    except ValueError as cause:
        raise WrongUse(f"following a redirect of {target.origin}", expected="a URL", found="none") from cause
    if target.scheme == "https" and following.scheme != "https":
        doing = f"following a redirect of {target.origin}"
        raise WrongUse(doing, expected="https, as before", found=following.scheme)
    return following


# -- which addresses --------------------------------------------------------------------------------------------------


class Plain(Enum):
    """Where plain http may be spoken."""

    LOOPBACK = "loopback"
    """With this computer alone, if it may be called at all."""
    ANYWHERE = "anywhere"
    """For what is checked by a digest that was known before."""


@dataclass(frozen=True, slots=True)
class Reach:
    """Which addresses may be called: those of the open internet, and what was named beside.

    allowed  called although they are private.
    refused  not called, whatever else says so: the provider's own, where they are public.
    """

    allowed: tuple[Network, ...]
    refused: tuple[Network, ...]
    plain: Plain

    def has(self, address: Address) -> bool:
        """Whether an address may be called."""
        address = _itself(address)
        if _is_in(address, self.refused):
            return False
        return _is_global(address) or _is_in(address, self.allowed)

    def must_have(self, target: Target, addresses: Sequence[Address], doing: str) -> None:
        """Pass if all of the target's addresses may be called, in its scheme. Raises AddressRefused."""
        # Which one it is, is not told: a stranger would read the provider's own name server by it.
        if not all(map(self.has, addresses)):
            expected = "an address of the open internet, or one that the configuration allows"
            raise AddressRefused(doing, expected=expected, found="another")
        here = all(_itself(address).is_loopback for address in addresses)
        if target.scheme == "http" and self.plain is Plain.LOOPBACK and not here:
            raise AddressRefused(doing, expected="https", found="http")


def parse_networks(texts: Iterable[str], where: str) -> tuple[Network, ...]:
    """Return networks ("10.0.0.0/8") of the configuration's key `where`. Raises ServiceUnready."""
    networks = []
    for text in texts:
        try:
            networks.append(ipaddress.ip_network(text))
        except ValueError as cause:
            raise ServiceUnready(f"reading {where}", expected='networks, as "10.0.0.0/8"', found=text) from cause
    return tuple(networks)


def _itself(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 socket calls by a mapped one."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


def _is_global(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return not _is_in(address, _NOT_GLOBAL_4)
    # The zone, which says which of this computer's networks is meant.
    return address.scope_id is None and address in _GLOBAL_6 and not _is_in(address, _NOT_GLOBAL_6)


def _is_in(address: Address, networks: Iterable[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def resolve(host: str, seconds: float) -> Sequence[Address]:
    """Return the addresses of a host, by this computer's resolver. Raises Unavailable.

    The resolver cannot be told how long it may take; one that takes longer is left to itself.
    """
    answers: queue.SimpleQueue[Sequence[Address] | OSError | UnicodeError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            answers.put(list(dict.fromkeys(ipaddress.ip_address(each[4][0]) for each in found)))
        except (OSError, UnicodeError) as failure:
            answers.put(failure)

    doing = f"looking for the address of {host}"
    threading.Thread(target=ask, name="resolver", daemon=True).start()
    try:
        answer = answers.get(timeout=max(0.0, seconds))
    except queue.Empty as cause:
        raise Unavailable(doing, expected="an answer in time", found="none") from cause
    if isinstance(answer, Exception):
        raise Unavailable(doing, expected="an address", found="none") from answer
    return answer


# -- the call ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Patience:
    """How long is waited: for a connection, for the next piece of what is sent or comes, and for all of it."""

    connect_seconds: float
    silence_seconds: float
    total_seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What the other side answers; names of headers in lower case, of several of one name the last.

    pieces  the body, as it comes, not decoded. Raises Unavailable. It may be left unread.
    """

    status: int
    headers: Mapping[str, str]
    pieces: Iterator[bytes]


class Outbound:
    """Calls strangers' addresses. Safe to share among threads.

    verification  whom to believe to be a host that is called by https (`verification`).
    """

    def __init__(self, reach: Reach, verification: ssl.SSLContext, *, resolver: Resolver = resolve) -> None:
        self._reach = reach
        self._verification = verification
        self._resolver = resolver

    @contextmanager
    def calling(
        self, method: str, target: Target, *, headers: Mapping[str, str], content: bytes, patience: Patience
    ) -> Iterator[Answer]:
        """Give the answer, for as long as the context is open. Headers beside Host and Content-Length are the caller's.

        A redirect is an answer: `parse_redirect` says where to, and calling that is checked as this was.
        Raises AddressRefused, before anything is sent; Unavailable.
        """
        doing = f"calling {target.origin}"
        deadline = local_seconds() + patience.total_seconds
        addresses = self._look_up(target, min(patience.connect_seconds, patience.total_seconds))
        if not addresses:
            raise Unavailable(doing, expected="an address", found="none")
        self._reach.must_have(target, addresses, doing)
        wire = _Wire(addresses[:MOST_ADDRESSES], patience.connect_seconds, deadline)
        sent = {"Host": target.authority, "Accept-Encoding": "identity", "User-Agent": "steelyard", **headers}
        if content or method not in ("GET", "HEAD"):
            sent["Content-Length"] = str(len(content))
        # A pool of its own for each call: a connection that is kept would be one to an address checked long ago.
        with (
            _told_as_ours(doing, target, patience),
            httpcore.ConnectionPool(
                ssl_context=self._verification, max_keepalive_connections=0, network_backend=wire
            ) as pool,
            pool.stream(
                method,
                httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path),
                headers=list(sent.items()),
                content=content,
                extensions={
                    "timeout": {
                        "connect": patience.connect_seconds,
                        "read": patience.silence_seconds,
                        "write": patience.silence_seconds,
                    }
                },
            ) as response,
        ):
            told = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
            yield Answer(response.status, told, response.iter_stream())

    def _look_up(self, target: Target, seconds: float) -> Sequence[Address]:
        try:
            return [ipaddress.ip_address(target.host)]
        except ValueError:
            return self._resolver(target.host, seconds)


def verification(authority: Path | None) -> ssl.SSLContext:
    """Return whom to believe: the authorities of this computer, or those in a PEM file alone. Raises ServiceUnready."""
    try:
        context = ssl.create_default_context(cafile=authority)
    except OSError as cause:  # SSLError is one
        found = f"{authority}: {cause.strerror or cause}"
        raise ServiceUnready("reading an authority", expected="certificates in PEM", found=found) from cause
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


@contextmanager
def _told_as_ours(doing: str, target: Target, patience: Patience) -> Iterator[None]:
    try:
        yield
    except httpcore.TimeoutException as cause:
        found = f"none within its {patience.connect_seconds:g}, {patience.silence_seconds:g} or"
        raise Unavailable(doing, expected="an answer", found=f"{found} {patience.total_seconds:g} s") from cause
    except (httpcore.NetworkError, httpcore.ProtocolError) as cause:
        found = "no TLS that can be believed" if _is_of_tls(cause) else "no connection, or one that broke off"
        raise Unavailable(doing, expected=f"an answer of {target.host}", found=found) from cause


def _is_of_tls(failure: BaseException | None) -> bool:
    while failure is not None:
        if isinstance(failure, ssl.SSLError):
            return True
        failure = failure.__cause__ or failure.__context__
    return False


class _Wire(httpcore.NetworkBackend):
    """Connects to the given addresses in turn, whatever name is asked for, and ends by the deadline."""

    def __init__(self, addresses: Sequence[Address], connect_seconds: float, deadline: float) -> None:
        self._addresses = addresses
        self._connect_seconds = connect_seconds
        self._deadline = deadline
        self._backend = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,  # noqa: ARG002 (the name is httpcore's)
        port: int,
        timeout: float | None = None,  # noqa: ARG002 (the name is httpcore's)
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Return a connection to the first address that takes one."""
        end = min(self._deadline, local_seconds() + self._connect_seconds)
        failure: httpcore.ConnectError | httpcore.ConnectTimeout | None = None
        for position, address in enumerate(self._addresses):
            # Each gets its part of the time, so that a dead one does not take that of the others.
            seconds = (end - local_seconds()) / (len(self._addresses) - position)
            try:
                stream = self._backend.connect_tcp(
                    str(address), port, max(0.001, seconds), local_address, socket_options
                )
                return _Stream(stream, self._deadline)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as cause:
                failure = cause
        raise failure or httpcore.ConnectError("no address")


class _Stream(httpcore.NetworkStream):
    """A connection that ends by the deadline."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return what comes."""
        return self._stream.read(max_bytes, self._within(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send."""
        for begin in range(0, len(buffer), PIECE_BYTES):
            piece = buffer[begin : begin + PIECE_BYTES]
            self._stream.write(piece, self._within(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        """End it."""
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """Return the connection, encrypted."""
        seconds = self._within(timeout, httpcore.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, seconds), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        """Tell of the connection."""
        return self._stream.get_extra_info(info)

    def _within(self, timeout: float | None, late: type[httpcore.TimeoutException]) -> float:
        left = self._deadline - local_seconds()
        if left <= 0:
            raise late("the end of the call")
        return left if timeout is None else min(left, timeout)
