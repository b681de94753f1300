"""Files fetched from a real server over HTTP, that is whole, breaks off, or tells lies."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final

import pytest

from steelyard.imaging.fetching import TRIES, Fetching, fetch_from
from steelyard.imaging.ports import UNWATCHED
from steelyard.model.errors import AddressRefused, Cancelled, SteelyardError, StorageFailed, TooLarge, WrongUse
from steelyard.service.outbound import Outbound, Plain, Reach, verification

FILE: Final = bytes(range(256)) * 4096
DIGEST: Final = b"d" * 32
"""That one was announced is all that counts here."""
MOST: Final = 1 << 30


@dataclass
class Site:
    """A server of one file; `play` answers instead of it where it says so."""

    url: str = ""
    asked: list[str | None] = field(default_factory=list)
    etag: str = '"one"'
    play: Callable[["Handler", int], bool] = lambda _handler, _time: False


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        self.site.asked.append(asked)
        if self.site.play(self, len(self.site.asked)):
            return
        same = self.headers["If-Range"] == self.site.etag
        offset = int(asked.removeprefix("bytes=").rstrip("-")) if asked and same else 0
        self.answer(206 if offset else 200, FILE[offset:], offset=offset)

    def answer(self, status: int, body: bytes, *, offset: int = 0, length: int | None = None) -> bool:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.send_header("ETag", self.site.etag)
        if status == 206:
            self.send_header("Content-Range", f"bytes {offset}-{len(FILE) - 1}/{len(FILE)}")
        self.end_headers()
        self.wfile.write(body)
        return True

    def redirect(self, location: str) -> bool:
        self.send_response(302)
        self.send_header("Location", location)
        self.send_header("Content-Length", "0")
        self.end_headers()
        return True

    def break_off(self, offset: int, until: int) -> bool:
        """Promise all that is left of the file, and end in the midst of it."""
        self.answer(206 if offset else 200, FILE[offset:until], offset=offset, length=len(FILE) - offset)
        self.close_connection = True
        return True

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Pass over clients that have gone."""


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        yield site


@contextmanager
def serving() -> Iterator[Site]:
    site = Site()
    handler = type("Handler", (Handler,), {"site": site})
    with Server(("127.0.0.1", 0), handler) as server:
        site.url = f"http://127.0.0.1:{server.server_address[1]}/disk.raw"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield site
        server.shutdown()
        thread.join()


@pytest.fixture
def fetch() -> Fetching:
    """Give what may fetch from this computer, and does not pause."""
    outbound = Outbound(Reach((IPv4Network("127.0.0.0/8"),), (), Plain.ANYWHERE), verification(None))
    return Fetching(outbound, outbound, lambda _seconds: None)


def test_a_file_is_fetched(site: Site, fetch: Fetching, tmp_path: Path) -> None:
    fetch(site.url, tmp_path / "file", DIGEST, MOST, UNWATCHED)
    assert (tmp_path / "file").read_bytes() == FILE
    assert site.asked == [None]


def test_one_that_breaks_off_goes_on_where_it_was(site: Site, fetch: Fetching, tmp_path: Path) -> None:
    def play(handler: Handler, time: int) -> bool:
        if time == 1:
            handler.break_off(0, 100_000)
        elif time == 2:
            handler.break_off(100_000, 700_000)
        return time < 3

    site.play = play
    fetch(site.url, tmp_path / "file", DIGEST, MOST, UNWATCHED)
    assert (tmp_path / "file").read_bytes() == FILE
    assert site.asked == [None, "bytes=100000-", "bytes=700000-"]


def test_one_that_has_changed_meanwhile_begins_anew(site: Site, fetch: Fetching, tmp_path: Path) -> None:
    def play(handler: Handler, time: int) -> bool:
        if time == 1:
            handler.break_off(0, 100_000)
            site.etag = '"two"'
        return time == 1

    site.play = play
    fetch(site.url, tmp_path / "file", DIGEST, MOST, UNWATCHED)
    assert (tmp_path / "file").read_bytes() == FILE


def test_one_that_promises_no_sameness_begins_anew(site: Site, fetch: Fetching, tmp_path: Path) -> None:
    site.etag = 'W/"weak"'
    site.play = lambda handler, time: time == 1 and handler.break_off(0, 100_000)
    fetch(site.url, tmp_path / "file", DIGEST, MOST, UNWATCHED)
    assert site.asked == [None, None]
    assert (tmp_path / "file").read_bytes() == FILE


def test_one_that_never_comes_is_given_up(site: Site, fetch: Fetching, tmp_path: Path) -> None:
    site.play = lambda handler, _time: handler.break_off(0, 0)
    with pytest.raises(StorageFailed):
        fetch(site.url, tmp_path / "file", DIGEST, MOST, UNWATCHED)
    assert len(site.asked) == TRIES


def test_redirects_are_followed_and_not_for_ever(site: Site, fetch: Fetching, tmp_path: Path) -> None:
    site.play = lambda handler, time: time == 1 and handler.redirect("/elsewhere")
    fetch(site.url, tmp_path / "file", DIGEST, MOST, UNWATCHED)
    assert (tmp_path / "file").read_bytes() == FILE
    site.play = lambda handler, _time: handler.redirect("/elsewhere")
    with pytest.raises(StorageFailed, match="redirects"):
        fetch(site.url, tmp_path / "other", DIGEST, MOST, UNWATCHED)


@pytest.mark.parametrize(
    ("play", "error"),
    [
        (lambda handler, _time: handler.answer(404, b""), StorageFailed),
        (lambda handler, _time: handler.answer(206, FILE, offset=0), StorageFailed),
        (lambda handler, _time: handler.redirect(""), StorageFailed),
        (lambda handler, _time: handler.redirect("http://10.0.0.1/"), AddressRefused),
        (lambda handler, _time: handler.redirect("file:///etc/passwd"), WrongUse),
    ],
    ids=["not there", "a part that was not asked for", "redirect to itself", "redirect inside", "redirect to a file"],
)
def test_an_answer_that_is_no_file_is_an_error(
    site: Site,
    fetch: Fetching,
    play: Callable[[Handler, int], bool],
    error: type[SteelyardError],
    tmp_path: Path,
) -> None:
    site.play = play
    with pytest.raises(error):
        fetch(site.url, tmp_path / "file", DIGEST, MOST, UNWATCHED)


@pytest.mark.parametrize("length", [len(FILE), None], ids=["said", "not said"])
def test_more_than_the_project_may_have_is_not_taken(
    site: Site, fetch: Fetching, length: int | None, tmp_path: Path
) -> None:
    def play(handler: Handler, _time: int) -> bool:
        if length is None:
            handler.send_response(200)
            handler.end_headers()
            handler.wfile.write(FILE)
            handler.close_connection = True
        return length is None

    site.play = play
    with pytest.raises(TooLarge):
        fetch(site.url, tmp_path / "file", DIGEST, len(FILE) - 1, UNWATCHED)
    assert (tmp_path / "file").stat().st_size <= len(FILE)


def test_it_ends_when_it_is_told_to(site: Site, fetch: Fetching, tmp_path: Path) -> None:
    class Impatient:
        def step(self, done_bytes: int, total_bytes: int) -> None:
            assert 0 < done_bytes <= total_bytes == len(FILE)
            raise Cancelled("fetching", expected="it to be wanted", found="it is not")

    with pytest.raises(Cancelled):
        fetch(site.url, tmp_path / "file", DIGEST, MOST, Impatient())


def test_what_stands_beside_the_service_is_not_fetched_from(site: Site, tmp_path: Path) -> None:
    with pytest.raises(AddressRefused):
        fetch_from(())(site.url, tmp_path / "file", DIGEST, MOST, UNWATCHED)
    assert site.asked == []


def test_a_private_network_is_fetched_from_if_the_provider_says_so(site: Site, tmp_path: Path) -> None:
    fetch_from(("127.0.0.0/8",))(site.url, tmp_path / "file", DIGEST, MOST, UNWATCHED)
    assert (tmp_path / "file").read_bytes() == FILE


def test_what_nobody_can_check_is_not_fetched_in_the_clear(site: Site, tmp_path: Path) -> None:
    checked, unchecked = (
        Outbound(Reach((IPv4Network("127.0.0.0/8"),), (), plain), verification(None), resolver=resolver)
        for plain, resolver in ((Plain.ANYWHERE, _public), (Plain.LOOPBACK, _public))
    )
    fetching = Fetching(checked, unchecked, lambda _seconds: None)
    with pytest.raises(AddressRefused, match="https"):
        fetching("http://images.example/disk.raw", tmp_path / "file", None, MOST, UNWATCHED)
    assert site.asked == []


def _public(_host: str, _seconds: float) -> list[IPv4Address]:
    return [IPv4Address("93.184.215.14")]
