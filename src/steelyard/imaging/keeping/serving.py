"""What nodes are served on each boot network: their volumes, by both protocols, and what they boot.

All of it follows from the tables: `settle` may be called at any time, and again, and leaves what they say.
"""

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from threading import Lock
from typing import Final, Protocol

import structlog
from sqlalchemy import Connection, select

from steelyard.imaging import catalogue, rules
from steelyard.imaging.exports.iscsi import iscsi_export
from steelyard.imaging.exports.nbd import nbd_export
from steelyard.imaging.netboot.plan import AirlockBoot, BootNetwork, DirectBoot, DiskBoot, IpxeBoot, NodeBoot
from steelyard.imaging.objects import (
    Boot,
    BootAirlock,
    BootDirect,
    BootDisk,
    BootIpxe,
    BootState,
    KernelAndInitramfs,
    OpeningState,
)
from steelyard.imaging.objects import Protocol as ExportProtocol
from steelyard.imaging.ports import Access, Export, IscsiAccess, Store
from steelyard.imaging.shelf import BootFiles, Shelf
from steelyard.imaging.tables import boots, openings
from steelyard.model.errors import SteelyardError, StorageUnready, WrongState
from steelyard.model.secret import Secret
from steelyard.service.database import Database
from steelyard.service.sealing import Sealer

Exports = Mapping[tuple[str, ExportProtocol], Export]
"""By boot network and protocol."""
ROOT_DOCUMENT: Final = "root.json"
"""Source: docs/formats.md, Payload."""

_log = structlog.get_logger(__name__)


class BootServer(Protocol):
    """Answers nodes on boot networks; see `netboot.Netboot`."""

    def serve(self, network: str, boots: Sequence[NodeBoot]) -> Mapping[str, SteelyardError]:
        """See to it that these nodes, and nobody else, are answered on that network; return why some are not."""


def make_exports(root: Path, networks: Mapping[str, BootNetwork], nbd: range, iscsi: range) -> Exports:
    """Return an export of each protocol for each network, at the address that we have there."""
    exports: dict[tuple[str, ExportProtocol], Export] = {}
    for name, network in networks.items():
        # Short, as the paths of sockets must be; addresses of ours are told apart by the network.
        place = root / f"{int(network.address.ip):08x}"
        exports[name, ExportProtocol.NBD] = nbd_export(place / "n", network.address.ip, nbd)
        exports[name, ExportProtocol.ISCSI] = iscsi_export(place / "i", network.address.ip, iscsi)
    return exports


class Serving:
    """Exports and network boot, made to be what the tables say."""

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        store: Store,
        shelf: Shelf,
        exports: Exports,
        netboot: BootServer,
        networks: Mapping[str, BootNetwork],
    ) -> None:
        self._database, self._sealer, self._store, self._shelf = database, sealer, store, shelf
        self._exports, self._netboot, self._networks = exports, netboot, networks
        self._settling = Lock()

    # -- volumes -------------------------------------------------------------------------------------------------------

    def open(self, volume: str, network: str, protocol: ExportProtocol, address: IPv4Address) -> Access:
        """Serve a volume there, and nowhere else, with a credential of its own. Raises StorageUnready, InUse."""
        export = self._exports.get((network, protocol))
        if export is None:
            doing = f"opening volume {volume}"
            raise StorageUnready(doing, expected=f"a boot network {network}", found="none in the configuration")
        self._close_but(volume, export)
        return export.open(volume, self._store.volume_disk(volume), address)

    def close(self, volume: str) -> None:
        """Serve a volume nowhere, sessions cut."""
        self._close_but(volume, None)

    def _close_but(self, volume: str, kept: Export | None) -> None:
        for export in self._exports.values():
            if export is not kept:
                export.close(volume)

    def close_strays(self) -> None:
        """Close what no table names. For a time when nobody opens anything: a volume is open before that is noted."""
        with self._database.reading() as connection:
            named = {
                row.volume: (row.network, ExportProtocol(row.protocol))
                for row in connection.execute(select(openings).where(openings.c.state != OpeningState.CLOSING.value))
            }
        for place, export in self._exports.items():
            for volume in export.openings():
                if named.get(volume) != place:
                    export.close(volume)

    def restore(self) -> None:
        """Serve again what is open and whose server has died; what cannot be is told in the log, and tried again."""
        for (network, protocol), export in self._exports.items():
            try:
                if not all(opening.served for opening in export.openings().values()):
                    export.restore()
            except SteelyardError as error:
                _log.warning("export.not-restored", network=network, protocol=protocol.value, error=str(error))

    # -- what nodes boot -----------------------------------------------------------------------------------------------

    def settle(self) -> Mapping[tuple[str, str], SteelyardError]:
        """Answer the nodes that boot, and no others; return why some are not: project and node -> error."""
        failures: dict[tuple[str, str], SteelyardError] = {}
        with self._settling:
            for name, network in self._networks.items():
                with self._database.reading() as connection:
                    served = self._plan(connection, network, failures)
                trouble = self._netboot.serve(name, served)
                failures |= {(network.project, node): error for node, error in trouble.items()}
        return failures

    def _plan(
        self, connection: Connection, network: BootNetwork, failures: dict[tuple[str, str], SteelyardError]
    ) -> list[NodeBoot]:
        states = (BootState.PREPARING.value, BootState.READY.value)
        query = select(boots).where(
            boots.c.network == network.name, boots.c.project == network.project, boots.c.state.in_(states)
        )
        served = []
        for row in connection.execute(query).all():
            boot = catalogue.boot_of(row)
            try:
                what = self._what(connection, boot)
            except SteelyardError as error:
                failures[boot.project, boot.node] = error
                continue
            if what is not None:
                served.append(NodeBoot(boot.node, network.name, boot.mac, boot.address, what))
        return served

    def _what(self, connection: Connection, boot: Boot) -> AirlockBoot | DirectBoot | IpxeBoot | DiskBoot | None:
        """Return what a node is given; None: its volume is not open yet, and who opens it settles again."""
        match boot.what:
            case BootAirlock(parameters, image):
                files = {} if image is None else _by_name(self._boot_files(image))
                return AirlockBoot(parameters.encode(), files)
            case BootDirect(volume, _, command_line, seed):
                access = self._access(connection, volume, boot.node)
                return None if access is None else self._direct(connection, volume, access, command_line, seed)
            case BootIpxe(volume):
                access = self._access(connection, volume, boot.node)
                return IpxeBoot(access) if isinstance(access, IscsiAccess) else None
            case BootDisk():
                return DiskBoot()

    def _direct(
        self, connection: Connection, volume: str, access: Access, command_line: str | None, seed: Mapping[str, str]
    ) -> DirectBoot:
        doing = "preparing a direct boot"
        image = catalogue.load_volume(connection, volume).image
        if image is None:
            raise WrongState(doing, expected="a volume that stands on an image", found="one that stands on none")
        found = rules.ready(catalogue.load_image(connection, image), doing).boot
        line = command_line
        if line is None and isinstance(found, KernelAndInitramfs):
            line = found.command_line
        if line is None:
            raise WrongState(doing, expected="a command line", found="none, in the image either")
        files = self._boot_files(image)
        handover = {name: Secret(text.encode()) for name, text in seed.items()}
        handover[ROOT_DOCUMENT] = catalogue.root_document(access)
        return DirectBoot(files.kernel, files.initramfs, line, handover)

    def _boot_files(self, image: str) -> BootFiles:
        return self._shelf.boot_files(image, self._store.image_disk(image))

    def _access(self, connection: Connection, volume: str, node: str) -> Access | None:
        row = connection.execute(select(openings).where(openings.c.volume == volume)).one_or_none()
        if row is None or row.node != node or row.state != OpeningState.OPEN.value or row.sealed is None:
            return None
        return catalogue.open_access(self._sealer, volume, row.sealed)


def _by_name(files: BootFiles) -> dict[str, Path]:
    return {"kernel": files.kernel} | ({} if files.initramfs is None else {"initramfs": files.initramfs})
