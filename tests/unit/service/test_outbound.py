"""What strangers have called cannot be what stands beside the service, however they name it."""

import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import httpcore
import pytest

from steelyard.model.errors import AddressRefused, ServiceUnready, Unavailable, WrongUse
from steelyard.model.limits import URL_CHARACTERS
from steelyard.service.database import local_seconds
from steelyard.service.outbound import (
    PIECE_BYTES,
    Address,
    Outbound,
    Patience,
    Plain,
    Reach,
    Resolver,
    _Stream,
    parse_networks,
    parse_redirect,
    parse_target,
    resolve,
    verification,
)
from tests.fakes.receiver import Receiver, Sent, answer, make_tls, receiving

PATIENCE: Final = Patience(5, 5, 10)
LOOPBACK: Final = parse_networks(["127.0.0.0/8"], "test")
NOWHERE: Final = Reach((), (), Plain.ANYWHERE)
HERE: Final = Reach(LOOPBACK, (), Plain.LOOPBACK)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


def names(**hosts: Sequence[str]) -> Resolver:
    """Return a name server that knows these."""
    return lambda host, _seconds: [ip_address(text) for text in hosts[host.partition(".")[0]]]


def outbound(reach: Reach, resolver: Resolver = resolve, authority: Path | None = None) -> Outbound:
    return Outbound(reach, verification(authority), resolver=resolver)


def call(caller: Outbound, url: str, patience: Patience = PATIENCE) -> tuple[int, bytes]:
    target = parse_target(url, "a test")
    with caller.calling("POST", target, headers={"X": "y"}, content=b"body", patience=patience) as answered:
        return answered.status, b"".join(answered.pieces)


# -- URLs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "authority", "port", "path"),
    [
        ("https://Example.ORG", "example.org", 443, "/"),
        ("https://example.org:443/a?b=c", "example.org", 443, "/a?b=c"),
        ("http://example.org:8080?x", "example.org:8080", 8080, "/?x"),
        ("https://[2001:DB8:0::1]:9/x", "[2001:db8::1]:9", 9, "/x"),
        ("http://127.1/", "127.1", 80, "/"),
    ],
)
def test_a_url_is_read_once_into_what_is_connected_to_and_what_is_sent(
    url: str, authority: str, port: int, path: str
) -> None:
    target = parse_target(url, "a test")
    assert (target.authority, target.port, target.path) == (authority, port, path)
    assert parse_target(target.url, "a test") == target


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.org",
        "//example.org",
        "ftp://example.org",
        "file:///etc/passwd",
        "gopher://example.org",
        "https://",
        "https://user@example.org",
        "https://user:secret@example.org",
        "https://example.org@127.0.0.1",
        "https://example.org#@127.0.0.1",
        "https://example.org\\@127.0.0.1",
        "https://example.org/#a",
        "https://exa mple.org",
        "https://example.org/a b",
        "https://example.org/\r\nHost: x",
        "https://ex\tample.org",
        "https://b\u00fccher.example",
        "https://example.org:0",
        "https://example.org:65536",
        "https://example.org:x",
        "https://[fe80::1%eth0]",
        "https://[fe80::1%25eth0]",
        "https://%31%32%37.0.0.1",
        "https://[::1",
        "https://[127.0.0.1]",
        "https://-.org-",
        "https://example.org/" + "x" * URL_CHARACTERS.most,
    ],
)
def test_a_url_that_two_readers_take_differently_is_none_and_is_not_shown(url: str) -> None:
    with pytest.raises(WrongUse) as refused:
        parse_target(url, "a test")
    assert "secret" not in str(refused.value)


# -- addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",  # noqa: S104 (which is what is refused)
        "10.1.2.3",
        "100.64.0.1",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.192",
        "192.168.1.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::10.0.0.1",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:db8::1",
        "2002:7f00:1::1",
        "fc00::1",
        "fd12:3456::1",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
        "2600::1%eth0",
    ],
)
def test_an_address_that_is_not_of_the_open_internet_is_not_called(address: str) -> None:
    assert not NOWHERE.has(ip_address(address))


@pytest.mark.parametrize("address", ["1.1.1.1", "172.32.0.1", "192.167.0.1", "2600::1", "2a00:1450::1"])
def test_an_address_of_the_open_internet_is_called_unless_it_is_the_providers_own(address: str) -> None:
    assert NOWHERE.has(ip_address(address))
    everything = parse_networks(["0.0.0.0/0", "::/0"], "test")
    assert not Reach(everything, everything, Plain.ANYWHERE).has(ip_address(address))


def test_what_the_configuration_allows_is_called_however_it_is_written() -> None:
    assert HERE.has(ip_address("127.0.0.1"))
    assert HERE.has(ip_address("::ffff:127.0.0.1"))
    assert not HERE.has(ip_address("10.0.0.1"))
    assert not HERE.has(ip_address("::1"))
    for wrong in ("10.0.0.1/8", "10.0.0.0/33", "x", ""):
        with pytest.raises(ServiceUnready, match=r"webhooks\.allow"):
            parse_networks([wrong], "webhooks.allow")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "[::ffff:127.0.0.1]"])
def test_this_computer_is_refused_by_whatever_name_before_anything_is_sent(receiver: Receiver, host: str) -> None:
    try:
        with pytest.raises(AddressRefused) as refused:
            call(outbound(NOWHERE), f"http://{host}:{receiver.port}/")
    except Unavailable:
        pytest.skip(f"this computer's resolver does not know {host}")
    assert "found another" in str(refused.value), "which address a name has is told"
    assert receiver.sent == []


def test_a_name_with_one_private_address_is_refused_whole(receiver: Receiver) -> None:
    mixed = names(mixed=["1.1.1.1", "127.0.0.1"])
    with pytest.raises(AddressRefused):
        call(outbound(NOWHERE, mixed), f"http://mixed:{receiver.port}/")
    assert receiver.sent == []


def test_the_address_that_was_checked_is_the_one_that_is_called(receiver: Receiver) -> None:
    """A name server that gives another answer the second time (DNS rebinding) is not asked a second time."""
    asked: list[str] = []

    def rebinding(host: str, _seconds: float) -> Sequence[Address]:
        asked.append(host)
        return [ip_address("127.0.0.1" if len(asked) == 1 else "127.0.0.2")]

    assert call(outbound(HERE, rebinding), f"http://name.example:{receiver.port}/x?y")[0] == 204
    assert asked == ["name.example"]
    [sent] = receiver.sent
    assert (sent.method, sent.path, sent.body) == ("POST", "/x?y", b"body")
    assert sent.headers["host"] == f"name.example:{receiver.port}"
    assert sent.headers["x"] == "y"


def test_the_next_address_is_tried_when_one_does_not_take_a_connection(receiver: Receiver) -> None:
    two = names(two=["127.0.0.9", "127.0.0.1"])  # where nobody listens
    assert call(outbound(HERE, two), f"http://two:{receiver.port}/")[0] == 204


def test_plain_http_is_spoken_with_this_computer_alone_unless_a_digest_guards_what_comes() -> None:
    private = parse_networks(["192.0.2.0/24", "127.0.0.0/8"], "test")
    there = names(there=["192.0.2.1"])
    with pytest.raises(AddressRefused, match="https"):
        call(outbound(Reach(private, (), Plain.LOOPBACK), there), "http://there/")
    target = parse_target("http://there/", "a test")
    Reach(private, (), Plain.ANYWHERE).must_have(target, [ip_address("192.0.2.1")], "testing")


def test_a_name_that_is_none_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        call(outbound(NOWHERE), "https://no-such-host.invalid/", Patience(0.5, 5, 10))
    with pytest.raises(Unavailable):
        call(outbound(NOWHERE, names(none=[])), "https://none/")


def test_a_name_server_that_does_not_answer_takes_no_longer_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def silent(*_: object, **__: object) -> None:
        ended.wait(30)
        raise OSError("at last")

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    with pytest.raises(Unavailable, match="in time"):
        resolve("slow.example", 0.05)
    ended.set()


# -- TLS ---------------------------------------------------------------------------------------------------------------


def test_the_certificate_must_be_of_the_name_and_of_a_known_authority(tmp_path: Path) -> None:
    tls, authority = make_tls(tmp_path, "good.example", "127.0.0.1")
    shown: list[str | None] = []
    tls.sni_callback = lambda _socket, name, _context: shown.append(name)
    resolver = names(good=["127.0.0.1"], other=["127.0.0.1"])
    with receiving(tls) as receiver:
        caller = outbound(HERE, resolver, authority)
        assert call(caller, f"https://good.example:{receiver.port}/")[0] == 204
        assert call(caller, f"https://127.0.0.1:{receiver.port}/")[0] == 204
        assert shown == ["good.example", None]
        for refused, url in (
            (caller, f"https://other.example:{receiver.port}/"),
            (outbound(HERE, resolver), f"https://good.example:{receiver.port}/"),
        ):
            with pytest.raises(Unavailable, match="TLS"):
                call(refused, url)
        assert len(receiver.sent) == 2


def test_an_authority_that_is_none_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    for path in (tmp_path / "ca.pem", tmp_path / "none.pem"):
        with pytest.raises(ServiceUnready):
            verification(path)


# -- answers -----------------------------------------------------------------------------------------------------------


def test_a_redirect_is_an_answer_and_is_followed_by_hand_alone(receiver: Receiver) -> None:
    receiver.answering = answer(302, Location="http://169.254.169.254/latest")
    target = parse_target(f"http://127.0.0.1:{receiver.port}/a/b", "a test")
    with outbound(HERE).calling("GET", target, headers={}, content=b"", patience=PATIENCE) as answered:
        assert answered.status == 302
        following = parse_redirect(target, answered.headers["location"], "a test")
    assert len(receiver.sent) == 1
    with (
        pytest.raises(AddressRefused),
        outbound(HERE).calling("GET", following, headers={}, content=b"", patience=PATIENCE),
    ):
        pass
    assert parse_redirect(target, "../c?d#e", "a test").path == "/c?d"
    secure = parse_target("https://example.org/a", "a test")
    assert parse_redirect(secure, "//other.example/b", "a test").url == "https://other.example/b"
    for wrong in ("http://example.org/", "file:///etc/passwd", "https://x@y/", "https://[::1", ""):
        if wrong:
            with pytest.raises(WrongUse):
                parse_redirect(secure, wrong, "a test")


def test_a_large_answer_comes_in_pieces_and_may_be_left(receiver: Receiver) -> None:
    size, told = 64 << 20, threading.Event()

    def endless(_sent: Sent, connection: socket.socket) -> bytes:
        connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
        try:
            for _ in range(size >> 16):
                connection.sendall(bytes(1 << 16))
        except OSError:
            told.set()
        return b""

    receiver.answering = endless
    target = parse_target(f"http://127.0.0.1:{receiver.port}/", "a test")
    with outbound(HERE).calling("GET", target, headers={}, content=b"", patience=PATIENCE) as answered:
        assert answered.headers["content-length"] == str(size)
        assert len(next(answered.pieces)) <= 1 << 16
    assert told.wait(10), "the connection is still open"
    with outbound(HERE).calling("GET", target, headers={}, content=b"", patience=PATIENCE) as answered:
        assert sum(map(len, answered.pieces)) == size


def test_who_speaks_slowly_enough_to_be_never_silent_is_cut_off_at_the_end(receiver: Receiver) -> None:
    ended = threading.Event()

    def dripping(_sent: Sent, connection: socket.socket) -> bytes:
        for letter in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10_000:
            connection.sendall(bytes([letter]))
            if ended.wait(0.02):
                break
        return b""

    receiver.answering = dripping
    with pytest.raises(Unavailable, match=r"0\.3 s"):
        call(outbound(HERE), f"http://127.0.0.1:{receiver.port}/", Patience(5, 5, 0.3))
    ended.set()


class Recorded(httpcore.NetworkStream):
    """A connection that keeps for how long it was to wait."""

    def __init__(self) -> None:
        self.seconds: list[float | None] = []

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self.seconds.append(timeout)
        return bytes(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002 (the name is httpcore's)
        self.seconds.append(timeout)


def test_no_part_of_a_call_waits_longer_than_what_is_left_of_all_of_it() -> None:
    beneath = Recorded()
    stream = _Stream(beneath, local_seconds() + 20)
    stream.read(1, 5)
    stream.read(1, 30)
    stream.write(bytes(PIECE_BYTES + 1), 30)
    five, *others = [seconds or 0 for seconds in beneath.seconds]
    assert five == 5
    assert len(others) == 3
    assert all(0 < seconds <= 20 for seconds in others)
    late = _Stream(beneath, local_seconds())
    with pytest.raises(httpcore.ReadTimeout):
        late.read(1, 5)
    with pytest.raises(httpcore.WriteTimeout):
        late.write(b"x", 5)


def test_who_says_nothing_is_not_waited_for(receiver: Receiver) -> None:
    ended = threading.Event()

    def silent(_sent: Sent, _connection: socket.socket) -> bytes:
        ended.wait(30)
        return b""

    receiver.answering = silent
    with pytest.raises(Unavailable):
        call(outbound(HERE), f"http://127.0.0.1:{receiver.port}/", Patience(5, 0.1, 10))
    ended.set()


@pytest.mark.parametrize("said", [b"", b"no HTTP\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000])
def test_what_is_no_answer_is_unavailable(receiver: Receiver, said: bytes) -> None:
    receiver.answering = lambda _sent, _connection: said
    with pytest.raises(Unavailable):
        call(outbound(HERE), f"http://127.0.0.1:{receiver.port}/")


def test_no_proxy_of_the_environment_is_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert call(outbound(HERE), f"http://127.0.0.1:{receiver.port}/")[0] == 204


def test_neither_the_path_nor_the_query_is_in_an_error() -> None:
    with pytest.raises(Unavailable) as refused:
        call(outbound(HERE), "https://127.0.0.1:1/tell-nobody?token=tell-nobody")
    assert "tell-nobody" not in str(refused.value)
    assert isinstance(verification(None), ssl.SSLContext)
