"""Imaging whose every step can be looked at, and broken off: what random histories of it are made of.

The store, the exports and the network boot are here as they are after a kill: what was done is done. Safety is judged
by what they have and serve, compared with what the rows say. The worker is the plainest that keeps the rules: it reads
back before it says that work failed, and closes what it finds open under no row.
"""

import atexit
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from sqlalchemy import select

from steelyard.imaging import catalogue, outcomes, quotas, tables
from steelyard.imaging.objects import (
    Boot,
    BootState,
    Image,
    ImageContents,
    Opening,
    OpeningState,
    Operation,
    Protocol,
    Quota,
    Upload,
    Verb,
    Volume,
)
from steelyard.model.errors import NotFound, OverQuota, StorageFailed, StorageUnready
from steelyard.model.network import MacAddress
from steelyard.service.database import Database
from tests.databases import make_tables
from tests.machines.histories import BreakableDatabase, Unsafe
from tests.unit.imaging.rig import NBD, NETWORKS, PROVIDER, SEALER, contents
from tests.unit.isolation.keeping.rig import Clock

BLOCK: Final = 512
DEFAULT: Final = Quota(images=3, volumes=3, size_bytes=40 * BLOCK, version=0)
PROJECTS: Final = ("red", "blue")
ROUNDS: Final = 40
"""So often all work is tried, when nothing fails any more, before it counts as work that does not end."""

Place = tuple[str, Protocol]
"""An export: its network and protocol."""


@dataclass(slots=True)
class World:
    """What there is outside the database. It outlives every process."""

    tell: Callable[[str], None]
    images: dict[str, int] = field(default_factory=dict)
    """In the store: size by id."""
    volumes: dict[str, tuple[str | None, int]] = field(default_factory=dict)
    """In the store: the image that it stands on, and its size, by id."""
    files: dict[str, int] = field(default_factory=dict)
    """Of uploads: what is in them decides how large the image is."""
    served: dict[Place, dict[str, IPv4Address]] = field(default_factory=dict)
    """For whom each export has which volumes open."""
    booting: dict[str, tuple[str, MacAddress, IPv4Address]] = field(default_factory=dict)
    """What network boot answers: by PROJECT/NODE, the network, the card, and its address."""

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Let something happen before and after, a kill or a failure too."""
        self.tell(f"before {what}")
        yield
        self.tell(f"after {what}")

    def is_served(self, volume: str) -> bool:
        return any(volume in opened for opened in self.served.values())

    def must_rest(self, volume: str) -> None:
        if self.is_served(volume):
            raise Unsafe(f"work on {volume} while a node has it open")

    def make_image(self, image: str, size_bytes: int) -> None:
        with self.doing("import"):
            self.images.setdefault(image, size_bytes)

    def make_volume(self, volume: str, image: str | None, size_bytes: int) -> None:
        with self.doing("clone"):
            if image is not None and image not in self.images:
                raise Unsafe(f"{volume} was to stand on {image}, which is gone")
            self.volumes.setdefault(volume, (image, size_bytes))

    def change_volume(self, volume: str, image: str | None, size_bytes: int) -> None:
        self.must_rest(volume)
        with self.doing("change"):
            if image is not None and image not in self.images:
                raise Unsafe(f"{volume} was to stand on {image}, which is gone")
            self.volumes[volume] = (image, size_bytes)

    def delete(self, identity: str) -> None:
        self.must_rest(identity)
        with self.doing("delete"):
            if identity in [image for image, _ in self.volumes.values()]:
                raise Unsafe(f"{identity} was to go, and a volume stands on it")
            self.images.pop(identity, None)
            self.volumes.pop(identity, None)
            self.files.pop(identity, None)

    def open(self, place: Place, volume: str, address: IPv4Address) -> None:
        if volume not in self.volumes:
            raise Unsafe(f"{volume} was to be opened, and is not there")
        for other, opened in self.served.items():
            if other != place and volume in opened:
                raise Unsafe(f"{volume} was to be open at two places")
        with self.doing("open"):
            self.served.setdefault(place, {})[volume] = address

    def close(self, volume: str) -> None:
        with self.doing("close"):
            for opened in self.served.values():
                opened.pop(volume, None)

    def serve(self, boots: dict[str, tuple[str, MacAddress, IPv4Address]]) -> None:
        with self.doing("serve"):
            self.booting = dict(boots)


@dataclass(frozen=True, slots=True)
class Rows:
    """What the database says."""

    images: tuple[Image, ...]
    volumes: tuple[Volume, ...]
    openings: tuple[Opening, ...]
    boots: tuple[Boot, ...]
    uploads: tuple[Upload, ...]
    operations: tuple[Operation, ...]
    discarded: frozenset[str]
    quotas: dict[str, tuple[Quota, Quota]]
    """What each project may have, and what it has."""
    booted_images: frozenset[str]


class Imaging:
    """The rows, the world, and one worker that is killed and started again; time is the test's."""

    def __init__(self, url: str) -> None:
        self._armed: tuple[int, Callable[[str], None]] | None = None
        self.clock = Clock()
        self.database: Database = BreakableDatabase(url, self.clock, self._event)
        self.world = World(self._event)
        self._held = dict.fromkeys(PROJECTS, DEFAULT)

    # -- breaking off --

    def arm(self, count: int, what: Callable[[str], None]) -> None:
        """Have `what` happen at the event after `count` others."""
        self._armed = (count, what)

    def _event(self, name: str) -> None:
        if self._armed is None:
            return
        count, what = self._armed
        if count > 0:
            self._armed = (count - 1, what)
            return
        self._armed = None
        what(name)

    # -- the worker --

    def start(self) -> None:
        """Begin as a process that knows nothing: end what nobody is to have any more."""
        with self.database.reading() as connection:
            openings = {
                row.volume: catalogue.opening_of(row) for row in connection.execute(select(tables.openings)).all()
            }
        for place, opened in list(self.world.served.items()):
            for volume, address in list(opened.items()):
                row = openings.get(volume)
                if row is None or ((row.network, row.protocol), row.address) != (place, address):
                    self.world.close(volume)
        self._serve()
        self.sweep()

    def sweep(self) -> None:
        """Have the store forget what no row names."""
        with self.database.reading() as connection:
            discarded = connection.execute(select(tables.discarded.c.id)).scalars().all()
        for identity in sorted(discarded, reverse=True):  # volumes before the images that they stand on
            self.world.delete(identity)
            with self.database.writing() as tx:
                outcomes.gone(tx, identity)

    def round(self) -> None:
        """Do what is due without having been asked for."""
        with self.database.writing() as tx:
            outcomes.end_overdue(tx)
            outcomes.take_up_endings(tx)
        self.sweep()

    def live(self) -> tuple[Operation, ...]:
        with self.database.reading() as connection:
            return outcomes.live(connection)

    def do_all(self) -> None:
        """Try all that there is to do, once."""
        for operation in self.live():
            self.work(operation)
        self.round()

    def work(self, operation: Operation) -> None:
        """Try to bring an operation to its end."""
        with self.database.writing() as tx:
            now = outcomes.begin(tx, operation)
        if now is None:
            return
        try:
            if now.cancelling and now.verb not in (Verb.CLOSE, Verb.END_BOOT):
                self._give_up(now)
            else:
                self._do(now)
        except StorageUnready:
            if now.deadline <= self.clock.now:
                self._give_up(now)
        except StorageFailed as error:
            if not self._was_done(now):
                with self.database.writing() as tx:
                    outcomes.failed(tx, now, error)
        except NotFound:
            raise Unsafe(f"{now.verb.value} of {now.subject} lost its rows") from None

    def _give_up(self, operation: Operation) -> None:
        if not self._was_done(operation):
            with self.database.writing() as tx:
                outcomes.given_up(tx, operation)

    def _was_done(self, operation: Operation) -> bool:
        """Look whether the store did it all the same; write so if it did."""
        has = self.world.volumes.get(operation.target)
        wanted = self._wanted(operation)
        if has is None or wanted is None or has != wanted:
            return False
        self._write_change(operation)
        return True

    def _wanted(self, operation: Operation) -> tuple[str | None, int] | None:
        """Return what work on a volume is to make of it; None: it is other work."""
        image, size = self.world.volumes.get(operation.target, (None, 0))
        match operation.verb:
            case Verb.RESIZE:
                return image, int(operation.parameters["size_bytes"])
            case Verb.ROLL_BACK:
                return operation.parameters["image"], int(operation.parameters["size_bytes"])
            case Verb.FLATTEN:
                return None, size
            case _:
                return None

    def _write_change(self, operation: Operation) -> None:
        write = {
            Verb.RESIZE: outcomes.resized,
            Verb.ROLL_BACK: outcomes.rolled_back,
            Verb.FLATTEN: outcomes.flattened,
        }
        with self.database.writing() as tx:
            write[operation.verb](tx, operation)

    def _do(self, operation: Operation) -> None:
        match operation.verb:
            case Verb.MAKE_IMAGE:
                self._make_image(operation)
            case Verb.MAKE_VOLUME:
                asked = operation.parameters
                self.world.make_volume(operation.target, asked["image"] or None, int(asked["size_bytes"]))
                with self.database.writing() as tx:
                    outcomes.volume_made(tx, operation)
            case Verb.RESIZE | Verb.ROLL_BACK | Verb.FLATTEN:
                wanted = self._wanted(operation)
                assert wanted is not None
                self.world.change_volume(operation.target, *wanted)
                self._write_change(operation)
            case Verb.OPEN:
                self._open(operation, operation.target)
            case Verb.CLOSE:
                self.world.close(operation.target)
                with self.database.writing() as tx:
                    outcomes.close_done(tx, operation)
            case Verb.BOOT:
                self._boot(operation)
            case Verb.END_BOOT:
                self._serve()
                for volume in self._opened_for(operation):
                    self.world.close(volume)
                with self.database.writing() as tx:
                    outcomes.boot_ended(tx, operation)

    def _make_image(self, operation: Operation) -> None:
        asked = operation.parameters
        size = 2 * BLOCK
        match asked["from"]:
            case "upload":
                if asked["upload"] not in self.world.files:
                    raise Unsafe(f"{operation.subject} lost its upload")
                size = self.world.files[asked["upload"]]
            case "volume":
                self.world.must_rest(asked["volume"])
                size = self.world.volumes[asked["volume"]][1]
            case "image":
                size = self.world.images[asked["image"]]
        with self.database.writing() as tx:
            goes_on = outcomes.progress(tx, operation, "reading", 0, size)
        if not goes_on:
            self._give_up(operation)
            return
        self.world.make_image(operation.target, size)
        try:
            with self.database.writing() as tx:
                outcomes.image_made(tx, operation, contents(size), DEFAULT)
        except OverQuota as error:
            with self.database.writing() as tx:
                outcomes.failed(tx, operation, error)

    def _open(self, operation: Operation, volume: str) -> None:
        with self.database.reading() as connection:
            row = catalogue.find_opening(connection, volume)
        if row is None or row.state is OpeningState.CLOSING:
            return
        self.world.close(volume)  # wherever it was: the row has the new place alone
        self.world.open((row.network, row.protocol), volume, row.address)
        with self.database.writing() as tx:
            sealed = catalogue.seal_access(SEALER, volume, NBD)
            still = outcomes.opened(tx, operation, volume, sealed)
        if not still:
            self.world.close(volume)

    def _boot(self, operation: Operation) -> None:
        for volume in self._opened_for(operation):
            with self.database.reading() as connection:
                row = catalogue.find_opening(connection, volume)
            if row is not None and row.state is OpeningState.CLOSING:
                self.world.close(volume)
                with self.database.writing() as tx:
                    outcomes.closed(tx, volume)
            else:
                self._open(operation, volume)
        self._serve()
        with self.database.writing() as tx:
            outcomes.booted(tx, operation)

    def _opened_for(self, operation: Operation) -> tuple[str, ...]:
        project, _, node = operation.target.partition("/")
        with self.database.reading() as connection:
            return outcomes.opened_for(connection, project, node)

    def _serve(self) -> None:
        found = [boot for boot in self._rows().boots if boot.state is not BootState.ENDING]
        self.world.serve({f"{boot.project}/{boot.node}": (boot.network, boot.mac, boot.address) for boot in found})

    def forget_files_without_rows(self) -> None:
        """Take away the files of uploads whose beginning was never committed, as a part comes after it was."""
        named = {upload.id for upload in self._rows().uploads} | self._rows().discarded
        self.world.files = {identity: size for identity, size in self.world.files.items() if identity in named}

    # -- judging --

    def _rows(self) -> Rows:
        with self.database.reading() as connection:
            every = {
                table: connection.execute(select(table)).all()
                for table in (
                    tables.volumes,
                    tables.openings,
                    tables.boots,
                    tables.uploads,
                    tables.discarded,
                    tables.operations,
                )
            }
            return Rows(
                catalogue.load_images(connection),
                tuple(map(catalogue.volume_of, every[tables.volumes])),
                tuple(map(catalogue.opening_of, every[tables.openings])),
                tuple(map(catalogue.boot_of, every[tables.boots])),
                tuple(map(catalogue.upload_of, every[tables.uploads])),
                tuple(map(catalogue.operation_of, every[tables.operations])),
                frozenset(row.id for row in every[tables.discarded]),
                {project: quotas.get_quota(connection, PROVIDER, DEFAULT, project) for project in PROJECTS},
                frozenset(row.image for row in every[tables.boots] if row.image is not None),
            )

    def check(self) -> None:
        """Compare the world with what may be. Raises Unsafe."""
        rows = self._rows()
        busy = {operation.target for operation in rows.operations if not operation.state.ended}
        self._check_openings(rows)
        self._check_store(rows, busy)
        self._check_boots(rows)
        for project, (quota, held) in rows.quotas.items():
            before = self._held[project]
            for what in ("images", "volumes", "size_bytes"):
                now = getattr(held, what)
                _must(now <= max(getattr(quota, what), getattr(before, what)), f"{project} has {now} {what}")
            self._held[project] = held
        for operation in rows.operations:
            _must((operation.ended is not None) is operation.state.ended, f"{operation.id} has an end and has none")

    def _check_openings(self, rows: Rows) -> None:
        openings = {opening.volume: opening for opening in rows.openings}
        owners = {volume.id: volume.name.project for volume in rows.volumes}
        places: dict[str, list[tuple[Place, IPv4Address]]] = {}
        for place, opened in self.world.served.items():
            for volume, address in opened.items():
                places.setdefault(volume, []).append((place, address))
        for volume, where in places.items():
            _must(len(where) == 1, f"{volume} is open at {where}")
            _must(volume in openings, f"{volume} is open, and no row says so")
            _must(NETWORKS[where[0][0][0]].project == owners[volume], f"{volume} is open on another's network")
        for volume, opening in openings.items():
            if opening.state is OpeningState.OPEN:
                expected = [((opening.network, opening.protocol), opening.address)]
                _must(places.get(volume) == expected, f"{volume} is said to be open and is not so")

    def _check_store(self, rows: Rows, busy: set[str]) -> None:
        used = {volume.image for volume in rows.volumes} | rows.booted_images
        named = {image.id for image in rows.images} | {volume.id for volume in rows.volumes}
        named |= {upload.id for upload in rows.uploads}
        _must(not rows.discarded & (used | named), "what is in use was discarded")
        for image in rows.images:
            _must(
                image.id in self.world.images or not isinstance(image.contents, ImageContents),
                f"image {image.name} is not there",
            )
        for volume in rows.volumes:
            has = self.world.volumes.get(volume.id)
            if volume.ready and volume.id not in busy:
                _must(has == (volume.image, volume.size_bytes), f"volume {volume.name} is {has}")
            for image_id in {volume.image, has and has[0]} - {None}:
                _must(image_id in self.world.images, f"what {volume.name} stands on is gone")

    def _check_boots(self, rows: Rows) -> None:
        for boot in rows.boots:
            _must(NETWORKS[boot.network].project == boot.project, f"{boot.node} is on another's network")
        served = list(self.world.booting.values())
        for which in (1, 2):
            seen = [(each[0], each[which]) for each in served]
            _must(len(seen) == len(set(seen)), "two nodes have one card or address")
        ready = {f"{boot.project}/{boot.node}": boot for boot in rows.boots if boot.state is BootState.READY}
        for key, boot in ready.items():
            place = (boot.network, boot.mac, boot.address)
            _must(self.world.booting.get(key) == place, f"{key} is said to be served and is not")

    def settle(self) -> None:
        """Let all trouble end: then everything comes to its end, and nothing is left over. Raises Unsafe."""
        self._armed = None
        self.start()
        for _ in range(ROUNDS):
            if not self.live():
                break
            self.do_all()
            self.check()
        self.round()
        self.check()
        rows = self._rows()
        _must(not self.live(), "work does not end")
        _must(all(operation.state.ended for operation in rows.operations), "work was forgotten")
        _must(all(opening.state is OpeningState.OPEN for opening in rows.openings), "an opening is half done")
        _must(all(boot.state is BootState.READY for boot in rows.boots), "a boot is half done")
        _must(all(volume.ready for volume in rows.volumes), "a volume is half made")
        _must(not rows.discarded, "something is left over")
        _must(set(self.world.images) == {image.id for image in rows.images}, "images are left over")
        _must(set(self.world.volumes) == {volume.id for volume in rows.volumes}, "volumes are left over")
        _must(set(self.world.files) == {upload.id for upload in rows.uploads}, "uploads are left over")
        opened = {volume for opened in self.world.served.values() for volume in opened}
        _must(opened == {opening.volume for opening in rows.openings}, "openings are left over")
        _must(set(self.world.booting) == {f"{boot.project}/{boot.node}" for boot in rows.boots}, "boots are left over")


def _must(holds: bool, what: str) -> None:  # noqa: FBT001 (it reads as a sentence)
    if not holds:
        raise Unsafe(what)


@cache
def _template() -> Path:
    """Return a database with every table, made once in a process."""
    path = Path(tempfile.mkdtemp(prefix="imaging-histories-")) / "template.db"
    atexit.register(shutil.rmtree, path.parent)
    database = Database(f"sqlite:///{path}")
    make_tables(database)
    database.close()
    return path


@contextmanager
def an_imaging() -> Iterator[Imaging]:
    """Give an imaging that has nothing yet."""
    with tempfile.TemporaryDirectory() as directory:
        path = shutil.copyfile(_template(), Path(directory) / "steelyard.db")
        imaging = Imaging(f"sqlite:///{path}")
        try:
            yield imaging
        finally:
            imaging.database.close()
