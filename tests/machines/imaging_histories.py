"""Imaging whose every step can be looked at, and broken off: what random histories of it are made of.

The store, the exports and the network boot are fakes that are as they are after a kill: what was done is done. Safety
is judged by what they have and serve, compared with what the rows say. What does the work is the service's own.
"""

import atexit
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final

from sqlalchemy import select

from steelyard.imaging import catalogue, outcomes, quotas, tables
from steelyard.imaging.keeping.doing import Doer
from steelyard.imaging.keeping.serving import Exports, Serving
from steelyard.imaging.netboot.plan import NodeBoot
from steelyard.imaging.objects import (
    Boot,
    BootFound,
    BootState,
    Image,
    ImageContents,
    Opening,
    OpeningState,
    Operation,
    Protocol,
    Quota,
    Upload,
    Volume,
)
from steelyard.imaging.ports import (
    Access,
    ImageFacts,
    ImageFile,
    ImageFormat,
    Occupancy,
    RawFile,
    VolumeDisk,
    Watch,
)
from steelyard.imaging.ports import Opening as ServedOpening
from steelyard.imaging.shelf import BootFiles, Shelf
from steelyard.model.errors import SteelyardError, TooLarge, WrongUse
from steelyard.model.network import MacAddress
from steelyard.service.database import Database
from tests.databases import MEMORY, make_tables
from tests.machines.histories import BreakableDatabase, Unsafe
from tests.unit.imaging.rig import ISCSI, KERNEL, NBD, NETWORKS, PROVIDER, SEALER
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

    def serve(self, network: str, boots: dict[str, tuple[str, MacAddress, IPv4Address]]) -> None:
        with self.doing("serve"):
            others = {node: boot for node, boot in self.booting.items() if boot[0] != network}
            self.booting = others | boots


class FakeStore:
    """The store of a world: a `Store`, as far as imaging's own work goes."""

    def __init__(self, world: World) -> None:
        self._world = world

    def import_image(
        self, image: str, source: Path, form: ImageFormat, expected: bytes | None, most_bytes: int, watch: Watch
    ) -> ImageFacts:
        assert (form, expected) in ((ImageFormat.RAW, None), (ImageFormat.RAW, bytes(32)))
        size = source.stat().st_size
        watch.step(0, size)
        if size > most_bytes:
            raise TooLarge("importing", expected=f"{most_bytes} bytes", found=f"{size}")
        return self._image(image, size)

    def _image(self, image: str, size_bytes: int) -> ImageFacts:
        self._world.make_image(image, size_bytes)
        return ImageFacts(bytes(32), size_bytes)

    def copy_image(self, image: str, copy: str) -> ImageFacts:
        if image not in self._world.images:
            raise Unsafe(f"{copy} was to be {image}, which is gone")
        return self._image(copy, self._world.images[image])

    def snapshot(self, volume: str, image: str, watch: Watch) -> ImageFacts:
        self._world.must_rest(volume)
        size = self._world.volumes[volume][1]
        watch.step(0, size)
        return self._image(image, size)

    def delete_image(self, image: str) -> None:
        self._world.delete(image)

    def clone(self, image: str, volume: str) -> None:
        self._world.make_volume(volume, image, self._world.images.get(image, 0))

    def create_volume(self, volume: str, size_bytes: int) -> None:
        self._world.make_volume(volume, None, size_bytes)

    def roll_back(self, volume: str, image: str) -> None:
        self._world.change_volume(volume, image, self._world.images.get(image, 0))

    def flatten(self, volume: str, watch: Watch) -> None:
        size = self._world.volumes[volume][1]
        watch.step(0, size)
        self._world.change_volume(volume, None, size)

    def resize(self, volume: str, size_bytes: int) -> None:
        image, before = self._world.volumes[volume]
        if size_bytes < before:
            raise WrongUse("resizing", expected=f"at least {before}", found=f"{size_bytes}")
        if size_bytes != before:
            self._world.change_volume(volume, image, size_bytes)

    def delete_volume(self, volume: str) -> None:
        self._world.delete(volume)

    def images(self) -> Mapping[str, ImageFacts]:
        return {image: ImageFacts(bytes(32), size) for image, size in self._world.images.items()}

    def volumes(self) -> Mapping[str, str | None]:
        return {volume: image for volume, (image, _) in self._world.volumes.items()}

    def image_occupancy(self, image: str) -> Occupancy:
        return Occupancy(self._world.images[image], 0)

    def volume_occupancy(self, volume: str) -> Occupancy:
        return Occupancy(self._world.volumes[volume][1], 0)

    def image_disk(self, image: str) -> ImageFile:
        return ImageFile(Path(image))

    def volume_disk(self, volume: str) -> RawFile:
        return RawFile(Path(volume))

    def collect(self) -> None:
        """Nothing is left over that is not in `volumes` or `images`."""


class FakeShelf(Shelf):
    """The shelf of a world: of uploads it has the size, and every image boots by a kernel."""

    def __init__(self, world: World) -> None:
        self._world = world

    @contextmanager
    def reading(self, upload: str, size_bytes: int) -> Iterator[Path]:
        if self._world.files.get(upload) != size_bytes:
            raise Unsafe(f"{upload} is lost")
        with _file(size_bytes) as path:
            yield path

    @contextmanager
    def fetching(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)

    def keep_boot(self, image: str, disk: ImageFile) -> tuple[BootFound | None, str | None]:
        assert disk.path.name == image
        return KERNEL, None

    def boot_files(self, image: str, disk: ImageFile) -> BootFiles:
        if disk.path.name not in self._world.images:
            raise Unsafe(f"{image} is booted, and gone")
        return BootFiles(Path("kernel"), Path("initramfs"))

    def forget_image(self, image: str) -> None:
        """It has nothing of any image."""

    def forget_upload(self, upload: str) -> None:
        self._world.delete(upload)


@contextmanager
def _file(size_bytes: int) -> Iterator[Path]:
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(size_bytes)
        yield Path(file.name)


def fetch(url: str, target: Path, sha256: bytes | None, most_bytes: int, watch: Watch) -> None:
    """Fetch two blocks, wherever from."""
    assert (url, sha256) == ("https://example.org/disk", None)
    watch.step(0, most_bytes)
    target.write_bytes(bytes(2 * BLOCK))


class FakeExport:
    """One export of a world; an `Export`."""

    def __init__(self, world: World, place: Place) -> None:
        self._world, self._place = world, place

    def open(self, name: str, disk: VolumeDisk, node: IPv4Address | IPv6Address) -> Access:
        assert isinstance(node, IPv4Address)
        assert disk.path.name == name
        self._world.open(self._place, name, node)
        return NBD if self._place[1] is Protocol.NBD else ISCSI

    def close(self, name: str) -> None:
        if name in self._world.served.get(self._place, {}):
            with self._world.doing("close"):
                del self._world.served[self._place][name]

    def openings(self) -> Mapping[str, ServedOpening]:
        opened = self._world.served.get(self._place, {})
        return {name: ServedOpening(RawFile(Path(name)), node, served=True) for name, node in opened.items()}

    def restore(self) -> None:
        """What is served lives on when its process dies."""


class FakeBootServer:
    """The network boot of a world; a `BootServer`."""

    def __init__(self, world: World) -> None:
        self._world = world

    def serve(self, network: str, boots: Sequence[NodeBoot]) -> Mapping[str, SteelyardError]:
        project = NETWORKS[network].project
        self._world.serve(network, {f"{project}/{boot.node}": (network, boot.mac, boot.address) for boot in boots})
        return {}


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
        store, shelf = FakeStore(self.world), FakeShelf(self.world)
        exports: Exports = {
            (network, protocol): FakeExport(self.world, (network, protocol))
            for network in NETWORKS
            for protocol in Protocol
        }
        boot_server = FakeBootServer(self.world)
        self._serving = Serving(self.database, SEALER, store, shelf, exports, boot_server, NETWORKS)
        self._doer = Doer(self.database, SEALER, store, shelf, self._serving, DEFAULT, fetch)

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
        self._serving.close_strays()
        self._serving.settle()
        self.sweep()

    def sweep(self) -> None:
        """Have the store forget what no row names."""
        with self.database.reading() as connection:
            discarded = connection.execute(select(tables.discarded.c.id)).scalars().all()
        for identity in sorted(discarded, reverse=True):  # volumes before the images that they stand on
            self._doer.discard(identity)

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
        self._doer.bring_to_end(operation)

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
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="history-") as directory:
        path = shutil.copyfile(_template(), Path(directory) / "steelyard.db")
        imaging = Imaging(f"sqlite:///{path}")
        try:
            yield imaging
        finally:
            imaging.database.close()
