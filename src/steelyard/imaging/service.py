"""Imaging as a service: its routes, its keeper and its part of the configuration, put together."""

import fcntl
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import AddressValueError, IPv4Address, IPv4Interface, NetmaskValueError
from pathlib import Path
from typing import ClassVar, Final

import structlog
from fastapi import APIRouter
from prometheus_client import CollectorRegistry
from sqlalchemy import insert, select

from steelyard.imaging import catalogue
from steelyard.imaging.api import Means, imaging_router
from steelyard.imaging.fetching import fetch_from
from steelyard.imaging.files import make_directory
from steelyard.imaging.keeping.doing import Doer
from steelyard.imaging.keeping.keeper import Keeper, KeeperSettings
from steelyard.imaging.keeping.serving import Serving, make_exports
from steelyard.imaging.migrations import IMAGING
from steelyard.imaging.netboot.netboot import Netboot
from steelyard.imaging.netboot.plan import BootNetwork
from steelyard.imaging.objects import Quota
from steelyard.imaging.shelf import Shelf
from steelyard.imaging.stores.directory import DirectoryStore
from steelyard.imaging.tables import stores
from steelyard.model.errors import ServiceUnready, WrongUse
from steelyard.model.limits import STORE_ID_BYTES
from steelyard.service.configuration import Configuration, read_table
from steelyard.service.database import Database
from steelyard.service.files import read_private, write_private
from steelyard.service.migrating import Schema
from steelyard.service.sealing import read_sealer

STOP_SECONDS: Final = 25.0
"""How long what is under way may take to end: a daemon's answer, twice."""
GIB: Final = 1 << 30

_PORTS: Final = re.compile(r"([0-9]{1,5})-([0-9]{1,5})", re.ASCII)
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """A table [[imaging.networks]]: a network on which nodes boot.

    interface  of this computer on that network.
    address    ours there, with the length of the network: "10.8.0.1/24".
    nodes      the addresses that nodes are given: "10.8.0.100-10.8.0.199".
    """

    name: str
    project: str
    interface: str
    address: str
    nodes: str

    def network(self) -> BootNetwork:
        """Return it, checked. Raises ServiceUnready."""
        first, _, last = self.nodes.partition("-")
        doing = f"reading the boot network {self.name}"
        try:
            addresses = (IPv4Interface(self.address), IPv4Address(first.strip()), IPv4Address(last.strip()))
            return BootNetwork(self.name, self.project, self.interface, *addresses)
        except (AddressValueError, NetmaskValueError) as cause:
            expected = 'address = "10.8.0.1/24", nodes = "10.8.0.100-10.8.0.199"'
            raise ServiceUnready(doing, expected=expected, found=f"{self.address}, {self.nodes}") from cause
        except WrongUse as cause:
            raise ServiceUnready(doing, expected=cause.expected, found=cause.found) from cause


@dataclass(frozen=True, slots=True)
class ImagingSettings:
    """The table [imaging] of the configuration.

    store              the directory of images and volumes; of this service alone.
    airlock            the directory that `steelyard airlock build` wrote; without it no node boots the airlock.
    networks           on which nodes boot.
    nbd_ports,         of our address on each boot network, nobody else's: one for each volume that is open.
    iscsi_ports
    images, volumes,   what a project may have for which nobody said anything.
    gibibytes
    upload_days        after which an upload that nobody adds to is thrown away.
    quick_threads      how many operations are worked at at a time.
    copy_threads       how many of those that copy disks.
    fetch_from         networks of which images are fetched although they are nobody else's to see: "10.0.0.0/8".
    """

    store: Path = Path("imaging")
    airlock: Path | None = None
    networks: tuple[NetworkSettings, ...] = ()
    nbd_ports: str = "24000-24999"
    iscsi_ports: str = "25000-25999"
    images: int = 100
    volumes: int = 1000
    gibibytes: int = 4096
    upload_days: float = 7.0
    quick_threads: int = 16
    copy_threads: int = 2
    fetch_from: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, least, most in (
            ("images", 0, 10**6),
            ("volumes", 0, 10**6),
            ("gibibytes", 0, 10**6),
            ("upload_days", 0.01, 3650),
            ("quick_threads", 2, 256),
            ("copy_threads", 1, 64),
        ):
            if not least <= (value := getattr(self, name)) <= most:
                raise ServiceUnready(f"reading imaging.{name}", expected=f"{least} to {most}", found=str(value))

    def ports(self, name: str) -> range:
        """Return `nbd_ports` or `iscsi_ports`. Raises ServiceUnready."""
        matched = _PORTS.fullmatch(getattr(self, name))
        found = range(int(matched[1]), int(matched[2]) + 1) if matched else range(0)
        if not found or not 1 <= found[0] <= found[-1] <= 65535:
            raise ServiceUnready(
                f"reading imaging.{name}", expected='ports, as "24000-24999"', found=getattr(self, name)
            )
        return found

    def boot_networks(self) -> Mapping[str, BootNetwork]:
        """Return the boot networks, by name. Raises ServiceUnready."""
        found = {settings.name: settings.network() for settings in self.networks}
        if len(found) != len(self.networks):
            raise ServiceUnready("reading imaging.networks", expected="a name for each", found="two of one name")
        return found

    def quota(self) -> Quota:
        """Return what a project may have for which nobody said anything."""
        return Quota(self.images, self.volumes, self.gibibytes * GIB, 0)


class Imaging:
    """The service, in one process for each store."""

    schema: ClassVar[Schema] = IMAGING

    def __init__(self, database: Database, configuration: Configuration, _registry: CollectorRegistry) -> None:
        table = configuration.services["imaging"]
        settings = read_table(ImagingSettings, table, "imaging", configuration.directory)
        root = configuration.directory / settings.store
        networks = settings.boot_networks()
        self._database, self._root = database, root
        self._sealer = read_sealer(configuration.sealing_keys)
        self._ending = ExitStack()
        try:
            self._put_together(settings, networks)
        except WrongUse as cause:
            raise ServiceUnready("setting imaging up", expected=cause.expected, found=cause.found) from cause

    def _put_together(self, settings: ImagingSettings, networks: Mapping[str, BootNetwork]) -> None:
        store, shelf = DirectoryStore(self._root / "store"), Shelf(self._root / "shelf")
        ports = settings.ports("nbd_ports"), settings.ports("iscsi_ports")
        self._netboot = Netboot(self._root / "netboot", list(networks.values()), settings.airlock)
        exports = make_exports(self._root / "open", networks, *ports)
        serving = Serving(self._database, self._sealer, store, shelf, exports, self._netboot, networks)
        fetch = fetch_from(settings.fetch_from)
        doer = Doer(self._database, self._sealer, store, shelf, serving, settings.quota(), fetch)
        keeping = KeeperSettings(settings.quick_threads, settings.copy_threads, timedelta(days=settings.upload_days))
        self._keeper = Keeper(self._database, store, shelf, serving, doer, keeping)
        self._means = Means(self._sealer, networks, settings.quota(), store, shelf, self._netboot.trouble)

    def routers(self) -> Sequence[APIRouter]:
        """Return its routes."""
        return [imaging_router(self._means)]

    def start(self) -> None:
        """Take up what the last process left, and begin to make true what is wanted. Raises ServiceUnready."""
        self._ending.enter_context(_alone(self._root))
        check_store(self._database, self._root)
        with self._database.writing() as tx:
            for volume in catalogue.seal_anew(tx, self._sealer):
                _log.error("credentials.lost", subject=f"volume/{volume}")
        self._netboot.start()
        self._ending.callback(self._netboot.stop)
        self._keeper.start()
        self._ending.callback(self._keeper.stop, STOP_SECONDS)

    def stop(self) -> None:
        """End; nodes keep their volumes. What is left undone is done by the next process."""
        self._ending.close()

    def is_ready(self) -> bool:
        """Whether it works: a boot network that fails is told of where it is shown, and makes it no less ready."""
        return True


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Be the only process that has this store. Raises ServiceUnready."""
    make_directory(root)
    with os.fdopen(os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as cause:
            raise ServiceUnready(
                f"serving the store {root}", expected="no other process", found="one that serves it"
            ) from cause
        yield


def check_store(database: Database, root: Path) -> None:
    """Let pass the store that this database's images and volumes are in; a new one is that from now on.

    With another's rows, everything that is in this store would seem to be nobody's. Raises ServiceUnready.
    """
    path = root / "id"
    if not path.exists():
        write_private(path, secrets.token_hex(16).encode("ascii"))
    here = read_private(path, STORE_ID_BYTES).decode("ascii", "replace")
    with database.writing() as tx:
        there = tx.connection.scalar(select(stores.c.id))
        if there is None:
            tx.connection.execute(insert(stores).values(id=here))
        elif there != here:
            doing = f"serving the store {root}"
            raise ServiceUnready(doing, expected=f"the store {there}, which this database is about", found=here)
