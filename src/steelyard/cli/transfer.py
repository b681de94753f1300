"""Large files to the service and back, in parts: what broke off goes on where it was, by itself or by the same command.

A file is read once for its digest and once to be sent, and must be the same both times. What is fetched lies beside its
place under another name until its digest was checked.
"""

import hashlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from steelyard.cli.sizes import size_words
from steelyard.client import imaging
from steelyard.client.connection import Client
from steelyard.client.imaging_objects import Image, Upload
from steelyard.model.errors import MalformedAnswer, Unavailable, WrongDigest, WrongState, WrongUse
from steelyard.model.limits import UPLOAD_PART_BYTES

READ_BYTES: Final = 1024 * 1024
FIRST_PART_BYTES: Final = 1024 * 1024
LEAST_PART_BYTES: Final = 64 * 1024
QUICK_SECONDS: Final = 2.0
"""A part that took less makes room for one twice as large; the service takes none that needs more than 30."""
SLOW_SECONDS: Final = 10.0
MOST_FAILURES: Final = 10
"""How often in a row nothing gets through before it is given up: each attempt has waited some seconds itself."""
MOST_PAUSE_SECONDS: Final = 16
UPLOAD_NAME_LETTERS: Final = 32
"""Of the file's digest: the same file is the same upload, whoever of the project sends it."""


class Bar:
    """Says on standard error how far work with bytes is: a bar with its rate on a terminal, some lines elsewhere."""

    def __init__(self, what: str, total_bytes: int) -> None:
        self._what = what
        self._total = total_bytes
        self._console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
        self._tenths = -1
        self._progress: Progress | None = None
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
            self._progress = Progress(
                *columns, TransferSpeedColumn(), TimeRemainingColumn(compact=True), console=self._console
            )
            self._task = self._progress.add_task(what, total=total_bytes)

    def show(self, done_bytes: int) -> None:
        """Say that so much is done."""
        if self._progress is not None:
            self._progress.update(self._task, completed=done_bytes)
            return
        tenths = 10 * done_bytes // self._total if self._total else 10
        if tenths > self._tenths:
            self._tenths = tenths
            self._console.print(
                f"{self._what}: {size_words(done_bytes)} of {size_words(self._total)} ({tenths * 10} %)"
            )

    def __enter__(self) -> "Bar":
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()


# -- to the service ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file that stays open, and what it was when it was read; sha256 in hexadecimal."""

    path: Path
    file: BinaryIO
    size_bytes: int
    changed_ns: int
    sha256: str

    def read(self, offset: int, length: int) -> bytes:
        """Return a part of what was read before. Raises WrongUse if it is not the same any more."""
        try:
            part = os.pread(self.file.fileno(), min(length, self.size_bytes - offset), offset)
        except OSError as error:
            raise _unreadable(self.path, error) from error
        status = os.fstat(self.file.fileno())
        if not part or (status.st_size, status.st_mtime_ns) != (self.size_bytes, self.changed_ns):
            expected = "the same file as when it was first read"
            raise WrongUse(f"reading {self.path}", expected=expected, found="one that was changed since")
        return part


@contextmanager
def reading_file(path: Path) -> Iterator[LocalFile]:
    """Give a file with its digest, which is read once for that. Raises WrongUse."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from error
    with file:
        status = os.fstat(file.fileno())
        if not path.is_file() or not status.st_size:
            raise WrongUse(f"reading {path}", expected="a file that is not empty", found="another")
        with Bar(f"reading {path.name}", status.st_size) as bar:
            try:
                digest = _digest(file, bar)
            except OSError as error:
                raise _unreadable(path, error) from error
        local = LocalFile(path, file, status.st_size, status.st_mtime_ns, digest)
        local.read(0, 1)
        yield local


def _digest(file: BinaryIO, bar: Bar) -> str:
    digest, done = hashlib.sha256(), 0
    while part := file.read(READ_BYTES):
        digest.update(part)
        done += len(part)
        bar.show(done)
    return digest.hexdigest()


def upload(client: Client, project: str, local: LocalFile) -> Upload:
    """Return the upload of a file when all of it is there, going on with what was sent before.

    Raises what the service raises; Unavailable when nothing gets through any more.
    """
    name = local.sha256[:UPLOAD_NAME_LETTERS]
    begun = client.ask(imaging.put_upload(project, name, size_bytes=local.size_bytes, sha256=local.sha256))
    with Bar(f"sending {local.path.name}", local.size_bytes) as bar:
        bar.show(begun.received_bytes)
        try:
            return _send(client, begun, local, bar)
        except KeyboardInterrupt:
            sys.stderr.write("\nNothing is lost: the same command goes on from here, within 7 days.\n")
            raise


def _send(client: Client, now: Upload, local: LocalFile, bar: Bar) -> Upload:
    length, failures = FIRST_PART_BYTES, 0
    while now.received_bytes < now.size_bytes:
        begin = time.monotonic()
        try:
            if failures:
                now = client.ask(imaging.read_upload(now.project, now.name))
            # None is missing if it was only the last answer that was lost.
            if now.received_bytes < now.size_bytes:
                part = local.read(now.received_bytes, length)
                now = client.ask(imaging.add_part(now.project, now.name, now.received_bytes, part))
        except (Unavailable, WrongState):
            # Lost on its way, or somebody else sends the same file: the service knows how far it is.
            failures += 1
            if failures == MOST_FAILURES:
                raise
            length = max(length // 2, LEAST_PART_BYTES)
            continue
        failures = 0
        length = next_length(length, time.monotonic() - begin)
        bar.show(now.received_bytes)
    return now


def next_length(length: int, seconds: float) -> int:
    """Return how long the next part should be, after one that took so long: neither many parts, nor slow ones."""
    if seconds < QUICK_SECONDS:
        return min(2 * length, UPLOAD_PART_BYTES.most)
    return max(length // 2, LEAST_PART_BYTES) if seconds > SLOW_SECONDS else length


# -- and back ----------------------------------------------------------------------------------------------------------


def download(client: Client, image: Image, path: Path) -> None:
    """Write the disk of an image to a new file, going on with what was fetched before; holes stay holes.

    Raises WrongState, WrongUse, WrongDigest; Unavailable when nothing gets through any more.
    """
    doing = f"writing {path}"
    if image.sha256 is None or image.size_bytes is None:
        raise WrongState(f"reading image {image.project}/{image.name}", expected="one that is ready", found=image.state)
    if path.exists():
        raise WrongUse(doing, expected="a new file: nothing is overwritten", found="one that exists")
    partial = path.with_name(f".{path.name}.{image.sha256[:16]}.part")
    try:
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        with (
            os.fdopen(descriptor, "r+b") as file,
            Bar(f"fetching {image.project}/{image.name}", image.size_bytes) as bar,
        ):
            found = _fetch(client, image, file, image.size_bytes, bar)
        if found != image.sha256:
            partial.unlink()
            raise WrongDigest(doing, expected=f"SHA-256 {image.sha256}", found=found)
        partial.rename(path)
    except OSError as error:
        expected = "a place that can be written, with room"
        raise WrongUse(doing, expected=expected, found=error.strerror or str(error)) from error


def _fetch(client: Client, image: Image, file: BinaryIO, size_bytes: int, bar: Bar) -> str:
    """Return the digest of what is in the file when all of it is there, in hexadecimal."""
    digest, done, failures = hashlib.sha256(), 0, 0
    while part := file.read(READ_BYTES):
        digest.update(part)
        done += len(part)
    try:
        while done < size_bytes:
            before = done
            try:
                with client.pieces(imaging.read_content(image.project, image.name, first_byte=done)) as pieces:
                    for piece in pieces:
                        if done + len(piece) > size_bytes:
                            raise MalformedAnswer("reading an image", expected=f"{size_bytes} bytes", found="more")
                        digest.update(piece)
                        # Nothing but zeros is a hole: an image has mostly those.
                        if piece.count(0) != len(piece):
                            file.seek(done)
                            file.write(piece)
                        done += len(piece)
                        bar.show(done)
            except Unavailable:
                failures = 0 if done > before else failures + 1
                if failures == MOST_FAILURES:
                    raise
                time.sleep(min(2**failures, MOST_PAUSE_SECONDS) / 4)
    finally:
        file.truncate(done)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _unreadable(path: Path, error: OSError) -> WrongUse:
    return WrongUse(f"reading {path}", expected="a file that can be read", found=error.strerror or str(error))
