"""Fetches the files of images from where users say, without letting them reach what stands beside the service.

What breaks off is taken up where it was, if the other side says that it is the same file still.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO, Final

from steelyard.imaging.files import needing_room
from steelyard.imaging.ports import Watch
from steelyard.model.errors import StorageFailed, TooLarge, Unavailable
from steelyard.service.outbound import (
    Answer,
    Outbound,
    Patience,
    Plain,
    Reach,
    parse_networks,
    parse_redirect,
    parse_target,
    verification,
)

MOST_REDIRECTS: Final = 5
TRIES: Final = 5
"""How often a file is asked for again without a byte more."""
PAUSE_SECONDS: Final = 1.0
PATIENCE: Final = Patience(connect_seconds=10, silence_seconds=30, total_seconds=6 * 3600)

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


class Fetching:
    """See `keeping.doing.Fetch`. Plain http only for what has a digest that was announced."""

    def __init__(self, checked: Outbound, unchecked: Outbound, pause: Callable[[float], None]) -> None:
        self._checked, self._unchecked, self._pause = checked, unchecked, pause

    def __call__(self, url: str, target: Path, sha256: bytes | None, most_bytes: int, watch: Watch) -> None:
        """Write what is at `url` to a new file. Raises AddressRefused, WrongUse, StorageFailed, TooLarge.

        sha256  what it is to have, which is checked by whoever takes it in; None: nobody said.
        """
        download = _Download(self._unchecked if sha256 is None else self._checked, url, most_bytes, watch)
        with needing_room(download.doing), target.open("xb") as file:
            tries = 0
            while not download.whole:
                before = file.tell()
                try:
                    download.go_on(file)
                except Unavailable as error:
                    tries = 0 if file.tell() > before else tries + 1
                    if tries == TRIES:
                        raise StorageFailed(download.doing, expected=error.expected, found=error.found) from error
                    watch.step(file.tell(), download.total_bytes or file.tell())
                    self._pause(PAUSE_SECONDS)


class _Download:
    """One file, as far as it has come."""

    def __init__(self, outbound: Outbound, url: str, most_bytes: int, watch: Watch) -> None:
        self._outbound, self._most_bytes, self._watch = outbound, most_bytes, watch
        self._first = parse_target(url, "an image")
        self._mark: str | None = None
        self.doing = f"fetching an image from {self._first.origin}"
        self.total_bytes: int | None = None
        self.whole = False

    def go_on(self, file: BinaryIO) -> None:
        """Fetch what is missing of it. Raises Unavailable where it breaks off."""
        target = self._first
        for _ in range(MOST_REDIRECTS):
            with self._outbound.calling(
                "GET", target, headers=self._headers(file.tell()), content=b"", patience=PATIENCE
            ) as answer:
                if answer.status not in _REDIRECTS:
                    self._take(answer, file)
                    return
                target = parse_redirect(target, answer.headers.get("location", ""), "an image")
        raise StorageFailed(self.doing, expected=f"at most {MOST_REDIRECTS} redirects", found="more")

    def _headers(self, offset: int) -> Mapping[str, str]:
        if offset == 0 or self._mark is None:
            return {}
        return {"Range": f"bytes={offset}-", "If-Range": self._mark}

    def _take(self, answer: Answer, file: BinaryIO) -> None:
        if answer.status == HTTPStatus.OK:
            file.seek(0)  # from the beginning, also where a part was asked for
            file.truncate()
        elif answer.status != HTTPStatus.PARTIAL_CONTENT or not self._goes_on(answer, file.tell()):
            raise StorageFailed(self.doing, expected="the file", found=f"status {answer.status}")
        etag = answer.headers.get("etag")
        # A weak one does not promise the same bytes. Source: RFC 9110, section 13.1.5.
        self._mark = etag if etag is not None and not etag.startswith("W/") else None
        length = answer.headers.get("content-length", "")
        if length.isdecimal() and len(length) < 20:
            self.total_bytes = file.tell() + int(length)
            self._check_size(self.total_bytes)
        for piece in answer.pieces:
            file.write(piece)
            self._check_size(file.tell())
            self._watch.step(file.tell(), self.total_bytes or file.tell())
        if self.total_bytes is not None and file.tell() != self.total_bytes:
            raise Unavailable(self.doing, expected=f"{self.total_bytes} bytes", found=f"{file.tell()}")
        self.whole = True

    def _goes_on(self, answer: Answer, offset: int) -> bool:
        return offset > 0 and answer.headers.get("content-range", "").startswith(f"bytes {offset}-")

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._most_bytes:
            expected = f"at most {self._most_bytes} bytes, what the project may still have"
            raise TooLarge(self.doing, expected=expected, found=f"{size_bytes}")


def fetch_from(networks: Sequence[str]) -> Fetching:
    """Return what fetches from the open internet, and from these private networks. Raises ServiceUnready."""
    allowed = parse_networks(networks, "imaging.fetch_from")
    believed = verification(None)
    checked, unchecked = (Outbound(Reach(allowed, (), plain), believed) for plain in (Plain.ANYWHERE, Plain.LOOPBACK))
    return Fetching(checked, unchecked, time.sleep)
