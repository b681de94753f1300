"""One operation, from its row to its end: what the store, the shelf and the exports do for it, and in which order.

Every act states an end, so that one that was cut short is simply done again. What waits for somebody else is told by
InUse, and asked again later; every other error ends the operation, and what it was to make is taken back.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

import structlog
from sqlalchemy import select

from steelyard.imaging import catalogue, outcomes, quotas, rules
from steelyard.imaging.keeping.serving import Serving
from steelyard.imaging.objects import ImageContents, Opening, OpeningState, Operation, Quota, Verb
from steelyard.imaging.ports import ImageFormat, Store, Watch
from steelyard.imaging.shelf import Shelf
from steelyard.imaging.tables import images, uploads
from steelyard.model.errors import Cancelled, InUse, NotFound, SteelyardError, Unavailable, WrongState
from steelyard.service.database import Database, Transaction
from steelyard.service.sealing import Sealer

TELL_SECONDS: Final = 0.5
"""How often it is told how far long work is, and asked whether it is to go on."""

_CHANGES: Final = frozenset({Verb.RESIZE, Verb.ROLL_BACK, Verb.FLATTEN})
"""Work that leaves a volume another one than it was."""
_log = structlog.get_logger(__name__)


class Fetch(Protocol):
    """Fetches files from other places."""

    def __call__(self, url: str, target: Path, sha256: bytes | None, most_bytes: int, watch: Watch) -> None:
        """Write what is at `url` to a new file; see `fetching.Fetching`. Raises what the watch raises, too."""


class Stopping(Exception):
    """This process is to end. What it was doing is taken up by the next one."""


class Teller:
    """Tells how far an operation is, and ends it: by Cancelled when it is to be given up, by Stopping; a `Watch`."""

    def __init__(self, database: Database, stopping: threading.Event, operation: Operation, words: str) -> None:
        self._database, self._stopping, self._operation, self._words = database, stopping, operation, words
        self._told = 0.0

    def step(self, done_bytes: int, total_bytes: int) -> None:
        """See `Watch`."""
        if self._stopping.is_set():
            raise Stopping
        if time.monotonic() - self._told < TELL_SECONDS:
            return
        with self._database.writing() as tx:
            goes_on = outcomes.progress(tx, self._operation, self._words, done_bytes, total_bytes)
        self._told = time.monotonic()
        if not goes_on:
            raise Cancelled(self._words, expected="it to be wanted", found="that it is to be given up")


class Doer:
    """Does operations; any number of threads may at once, each another operation."""

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        store: Store,
        shelf: Shelf,
        serving: Serving,
        default_quota: Quota,
        fetch: Fetch,
    ) -> None:
        self._database, self._sealer, self._store, self._shelf = database, sealer, store, shelf
        self._serving, self._default_quota, self._fetch = serving, default_quota, fetch
        self._stopping = threading.Event()
        self._acts: Final[dict[Verb, Callable[[Operation], None]]] = {
            Verb.MAKE_IMAGE: self._make_image,
            Verb.MAKE_VOLUME: self._make_volume,
            Verb.RESIZE: self._resize,
            Verb.ROLL_BACK: self._roll_back,
            Verb.FLATTEN: self._flatten,
            Verb.OPEN: self._open,
            Verb.CLOSE: self._close,
            Verb.BOOT: self._boot,
            Verb.END_BOOT: self._end_boot,
        }

    def bring_to_end(self, operation: Operation) -> bool:
        """Bring an operation to its end; False: somebody else is at work on it, or we are to stop. Raises Unavailable.

        What it was on is as the store has it then, whether it was done or not.
        """
        with self._database.writing() as tx:
            found = outcomes.begin(tx, operation)
        if found is None:
            return True
        try:
            self._say(found, "begun")
            self._acts[found.verb](found)
        except (InUse, Stopping):
            return False
        except Cancelled:
            self._end(found, outcomes.given_up)
        except Unavailable:
            raise
        except SteelyardError as error:
            self.fail(found, error)
        return True

    def fail(self, operation: Operation, error: SteelyardError) -> None:
        """End an operation that cannot be done."""
        self._end(operation, lambda tx, failed: outcomes.failed(tx, failed, error))

    def _end(self, operation: Operation, end: Callable[[Transaction, Operation], None]) -> None:
        """End work that was not done, or was begun and cut short: for a volume, what it is now is looked up."""
        stored = self._stored(operation.target) if operation.verb in _CHANGES else None
        with self._database.writing() as tx:
            end(tx, operation)
            if stored is not None:
                outcomes.found(tx, operation.target, *stored)

    def _stored(self, volume: str) -> tuple[str | None, int] | None:
        """Return what a volume stands on, and its size; None: it is not there, or cannot be looked at."""
        try:
            return self._store.volumes()[volume], self._store.volume_occupancy(volume).apparent_bytes
        except (KeyError, SteelyardError):
            return None

    def discard(self, identity: str) -> bool:
        """Have what no row names any more forgotten; False: not now. Raises Unavailable."""
        try:
            match identity[0]:
                case "i":
                    self._store.delete_image(identity)
                    self._shelf.forget_image(identity)
                case "v":
                    self._serving.close(identity)
                    self._store.delete_volume(identity)
                case _:
                    self._shelf.forget_upload(identity)
        except SteelyardError as error:
            _log.info("imaging.not-discarded", id=identity, error=str(error))
            return False
        with self._database.writing() as tx:
            outcomes.gone(tx, identity)
        return True

    def stop(self) -> None:
        """Have long work end soon."""
        self._stopping.set()

    # -- images --------------------------------------------------------------------------------------------------------

    def _make_image(self, operation: Operation) -> None:
        image, parameters = operation.target, operation.parameters
        expected = bytes.fromhex(parameters["sha256"]) or None
        if parameters["from"] == "image":
            self._copy(operation, parameters["image"])
            return
        with self._source(operation, expected) as source:
            if source is None:
                facts = self._store.snapshot(parameters["volume"], image, self._teller(operation, "copying the volume"))
            else:
                form = ImageFormat(parameters["format"])
                watch = self._teller(operation, "taking the image in")
                facts = self._store.import_image(image, source, form, expected, self._most_bytes(operation), watch)
        self._say(operation, "looking what it boots")
        boot, trouble = self._shelf.keep_boot(image, self._store.image_disk(image))
        real = self._store.image_occupancy(image).real_bytes
        self._made(operation, ImageContents(facts.digest, facts.size_bytes, real, boot, trouble))

    def _copy(self, operation: Operation, source: str) -> None:
        facts = self._store.copy_image(source, operation.target)
        with self._database.reading() as connection:
            known = rules.ready(catalogue.load_image(connection, source), "copying an image")
        # It shares its blocks: a second name for them takes no room.
        self._made(operation, ImageContents(facts.digest, facts.size_bytes, 0, known.boot, known.boot_trouble))

    def _made(self, operation: Operation, contents: ImageContents) -> None:
        with self._database.writing() as tx:
            outcomes.image_made(tx, operation, contents, self._default_quota)

    @contextmanager
    def _source(self, operation: Operation, expected: bytes | None) -> Iterator[Path | None]:
        """Give the file that an image is made of; None: it is made of a volume."""
        parameters = operation.parameters
        match parameters["from"]:
            case "upload":
                with self._database.reading() as connection:
                    query = select(uploads.c.size_bytes).where(uploads.c.id == parameters["upload"])
                    size = connection.scalar(query)
                if size is None:
                    raise NotFound("making an image", expected="the upload that it is made of", found="none")
                with self._shelf.reading(parameters["upload"], size) as path:
                    yield path
            case "url":
                with self._shelf.fetching() as place:
                    path = place / "file"
                    watch = self._teller(operation, "fetching")
                    self._fetch(parameters["url"], path, expected, self._most_bytes(operation), watch)
                    yield path
            case _:
                yield None

    def _most_bytes(self, operation: Operation) -> int:
        """Return the largest disk that the project may still have. Nothing larger is unpacked, or fetched."""
        with self._database.reading() as connection:
            quota = quotas.load_quota(connection, self._default_quota, operation.project)
            held = quotas.held(connection, operation.project)
            own = connection.scalar(select(images.c.expected_bytes).where(images.c.id == operation.target)) or 0
            upload = operation.parameters.get("upload")
            if upload is not None:
                # Its room is the image's from then on.
                own += connection.scalar(select(uploads.c.size_bytes).where(uploads.c.id == upload)) or 0
        return max(0, quota.size_bytes - held.size_bytes + own)

    # -- volumes -------------------------------------------------------------------------------------------------------

    def _make_volume(self, operation: Operation) -> None:
        image, size = operation.parameters["image"], int(operation.parameters["size_bytes"])
        if image:
            self._store.clone(image, operation.target)
            self._store.resize(operation.target, size)
        else:
            self._store.create_volume(operation.target, size)
        with self._database.writing() as tx:
            outcomes.volume_made(tx, operation)

    def _resize(self, operation: Operation) -> None:
        self._store.resize(operation.target, int(operation.parameters["size_bytes"]))
        with self._database.writing() as tx:
            outcomes.resized(tx, operation)

    def _roll_back(self, operation: Operation) -> None:
        self._store.roll_back(operation.target, operation.parameters["image"])
        with self._database.writing() as tx:
            outcomes.rolled_back(tx, operation)

    def _flatten(self, operation: Operation) -> None:
        self._store.flatten(operation.target, self._teller(operation, "copying what it stands on"))
        with self._database.writing() as tx:
            outcomes.flattened(tx, operation)

    # -- openings and boots --------------------------------------------------------------------------------------------

    def _open(self, operation: Operation) -> None:
        with self._database.reading() as connection:
            opening = catalogue.find_opening(connection, operation.target)
        if opening is None or opening.state is OpeningState.CLOSING:
            raise WrongState("opening a volume", expected="that it is still wanted", found="that it is closed")
        self._serve(operation, opening)

    def _serve(self, operation: Operation, opening: Opening) -> None:
        access = self._serving.open(opening.volume, opening.network, opening.protocol, opening.address)
        sealed = catalogue.seal_access(self._sealer, opening.volume, access)
        with self._database.writing() as tx:
            still = outcomes.opened(tx, operation, opening.volume, sealed)
        if not still:
            self._serving.close(opening.volume)

    def _close(self, operation: Operation) -> None:
        self._serving.close(operation.target)
        with self._database.writing() as tx:
            outcomes.close_done(tx, operation)

    def _boot(self, operation: Operation) -> None:
        project, _, node = operation.target.partition("/")
        for opening in self._openings_for(project, node):
            if opening.state is OpeningState.CLOSING:
                self._serving.close(opening.volume)
                with self._database.writing() as tx:
                    outcomes.closed(tx, opening.volume)
            else:
                self._say(operation, "opening its volume")
                self._serve(operation, opening)
        self._say(operation, "preparing what it boots")
        failure = self._serving.settle().get((project, node))
        if failure is not None:
            raise failure
        with self._database.writing() as tx:
            outcomes.booted(tx, operation)

    def _end_boot(self, operation: Operation) -> None:
        project, _, node = operation.target.partition("/")
        self._serving.settle()  # it is not among those that boot any more
        for opening in self._openings_for(project, node):
            self._serving.close(opening.volume)
        with self._database.writing() as tx:
            outcomes.boot_ended(tx, operation)

    def _openings_for(self, project: str, node: str) -> list[Opening]:
        with self._database.reading() as connection:
            there = outcomes.opened_for(connection, project, node)
            found = [catalogue.find_opening(connection, volume) for volume in there]
        return [opening for opening in found if opening is not None]

    # -- saying --------------------------------------------------------------------------------------------------------

    def _teller(self, operation: Operation, words: str) -> Teller:
        return Teller(self._database, self._stopping, operation, words)

    def _say(self, operation: Operation, words: str) -> None:
        """Tell what is being done. Raises Cancelled when it is to be given up."""
        with self._database.writing() as tx:
            goes_on = outcomes.progress(tx, operation, words, None, None)
        if not goes_on:
            raise Cancelled(words, expected="it to be wanted", found="that it is to be given up")
