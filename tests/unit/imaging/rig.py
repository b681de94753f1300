"""Imaging's rows in a database, callers of every kind, and the worker's part of each operation, done in words alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Interface
from typing import Final

from sqlalchemy import Table, func, select

from steelyard.evidence.reference.measurement import Measurement, Presence
from steelyard.imaging import boots, catalogue, images, operations, outcomes, tables, uploads, volumes
from steelyard.imaging.netboot.plan import BootNetwork
from steelyard.imaging.objects import (
    BootAirlock,
    BootDirect,
    BootFile,
    BootWhat,
    FromUrl,
    Image,
    ImageContents,
    Keeping,
    KernelAndInitramfs,
    Name,
    Operation,
    Private,
    Protocol,
    Quota,
    Source,
    Upload,
    Verb,
    Visibility,
    Volume,
)
from steelyard.imaging.ports import ImageFormat, IscsiAccess, NbdAccess
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import StorageFailed
from steelyard.model.network import MacAddress
from steelyard.model.secret import Secret
from steelyard.service.authority import Caller, Office, Right, Role
from steelyard.service.database import Database, Transaction
from steelyard.service.sealing import Sealer

EVERY_RIGHT: Final = frozenset(Right)
PROVIDER: Final = Caller("pia", Office.PROVIDER, {}, EVERY_RIGHT)
AUDITOR: Final = Caller("aude", Office.AUDITOR, {}, EVERY_RIGHT)
RED: Final = Caller("rob", None, {"red": Role.MEMBER}, EVERY_RIGHT)
BLUE: Final = Caller("bea", None, {"blue": Role.ADMIN}, EVERY_RIGHT)
BOTH: Final = Caller("bob", None, {"red": Role.MEMBER, "blue": Role.MEMBER}, EVERY_RIGHT)
STRANGER: Final = Caller("sam", None, {}, EVERY_RIGHT)
READER: Final = Caller("rita", None, {"red": Role.ADMIN}, EVERY_RIGHT - {Right.IMAGES})

SEALER: Final = Sealer({b"key1": Secret(bytes(32))})
LIMIT: Final = timedelta(minutes=5)
MIB: Final = 1 << 20
QUOTA: Final = Quota(images=5, volumes=5, size_bytes=100 * MIB, version=0)
KERNEL: Final = KernelAndInitramfs(
    BootFile(b"k" * 32, 7),
    BootFile(b"i" * 32, 9),
    "root=/dev/nbd0",
    (Measurement(13, "kernel", Presence.ALWAYS, {HashAlgorithm.SHA256: b"m" * 32}),),
)
NETWORKS: Final = {
    name: BootNetwork(name, project, "svc0", IPv4Interface(f"{net}.1/24"), *map(IPv4Address, (f"{net}.100", last)))
    for name, project, net, last in (
        ("red-net", "red", "10.8.0", "10.8.0.102"),
        ("red-more", "red", "10.8.1", "10.8.1.102"),
        ("blue-net", "blue", "10.9.0", "10.9.0.102"),
    )
}
NODE: Final = IPv4Address("10.8.0.50")
MAC: Final = MacAddress("02:00:00:00:00:01")
OTHER_MAC: Final = MacAddress("02:00:00:00:00:02")
NBD: Final = NbdAccess(IPv4Address("10.8.0.1"), 20000, "v", b"authority", b"certificate", Secret(b"key"))
ISCSI: Final = IscsiAccess(
    IPv4Address("10.8.0.1"), 20500, "iqn.x:y", 1, "user", Secret(b"password"), "target", Secret(b"other password")
)
BROKEN: Final = StorageFailed("working", expected="a disk", found="smoke")


def red(name: str) -> Name:
    """Return a name in project red."""
    return Name("red", name)


def contents(size_bytes: int = 10 * MIB, boot: KernelAndInitramfs | None = KERNEL) -> ImageContents:
    """Return what is in an image."""
    return ImageContents(b"d" * 32, size_bytes, size_bytes // 2, boot, None)


@dataclass(frozen=True, slots=True)
class World:
    """The database, with verbs in words short enough for tests."""

    database: Database

    @contextmanager
    def tx(self) -> Iterator[Transaction]:
        with self.database.writing() as tx:
            yield tx

    # -- asking --------------------------------------------------------------------------------------------------------

    def ask_image(
        self,
        name: Name,
        source: Source | None = None,
        *,
        caller: Caller = PROVIDER,
        visibility: Visibility | None = None,
        sha256: bytes | None = None,
        signed_by: str | None = None,
        quota: Quota = QUOTA,
    ) -> Operation:
        with self.tx() as tx:
            return images.make_image(
                tx,
                caller,
                quota,
                name=name,
                source=source or FromUrl("https://example.org/disk", ImageFormat.RAW),
                sha256=sha256,
                signed_by=signed_by,
                visibility=visibility or Private(),
                limit=LIMIT,
            )

    def ask_volume(
        self,
        name: Name,
        image: Name | None = None,
        *,
        caller: Caller = PROVIDER,
        size_bytes: int | None = None,
        keeping: Keeping = Keeping.KEPT,
        quota: Quota = QUOTA,
    ) -> Operation:
        with self.tx() as tx:
            return volumes.make_volume(
                tx, caller, quota, name=name, image=image, keeping=keeping, size_bytes=size_bytes, limit=LIMIT
            )

    def ask_open(
        self,
        name: Name,
        *,
        caller: Caller = PROVIDER,
        network: str = "red-net",
        protocol: Protocol = Protocol.NBD,
        address: IPv4Address = NODE,
    ) -> Operation:
        with self.tx() as tx:
            return volumes.open_volume(
                tx, caller, NETWORKS, name=name, network=network, protocol=protocol, address=address, limit=LIMIT
            )

    def ask_close(self, name: Name, caller: Caller = PROVIDER) -> Operation:
        with self.tx() as tx:
            return volumes.close_volume(tx, caller, name=name, limit=LIMIT)

    def ask_boot(
        self,
        node: str,
        what: BootWhat | None = None,
        *,
        caller: Caller = PROVIDER,
        project: str = "red",
        network: str = "red-net",
        mac: MacAddress = MAC,
    ) -> Operation:
        with self.tx() as tx:
            return boots.put_boot(
                tx,
                caller,
                NETWORKS,
                project=project,
                node=node,
                network=network,
                mac=mac,
                what=what or BootAirlock("as told", None),
                limit=LIMIT,
            )

    def ask_end_boot(self, node: str, caller: Caller = PROVIDER) -> Operation:
        with self.tx() as tx:
            return boots.end_boot(tx, caller, project="red", node=node, limit=LIMIT)

    def cancel(self, operation: Operation, caller: Caller = PROVIDER) -> Operation:
        with self.tx() as tx:
            return operations.cancel(tx, caller, operation=operation.id)

    # -- the worker's part ---------------------------------------------------------------------------------------------

    def begin(self, operation: Operation) -> Operation | None:
        with self.tx() as tx:
            return outcomes.begin(tx, operation)

    def do(self, operation: Operation, made: ImageContents | None = None) -> Operation:
        """Do what an operation asks for as a worker whose store and exports do all that they are told to."""
        with self.tx() as tx:
            now = outcomes.begin(tx, operation)
        if now is not None:
            with self.tx() as tx:
                self._note(tx, now, made or contents())
        return self.operation(operation)

    def _note(self, tx: Transaction, operation: Operation, made: ImageContents) -> None:
        match operation.verb:
            case Verb.MAKE_IMAGE:
                outcomes.image_made(tx, operation, made, QUOTA)
            case Verb.MAKE_VOLUME:
                outcomes.volume_made(tx, operation)
            case Verb.RESIZE:
                outcomes.resized(tx, operation)
            case Verb.ROLL_BACK:
                outcomes.rolled_back(tx, operation)
            case Verb.FLATTEN:
                outcomes.flattened(tx, operation)
            case Verb.OPEN:
                sealed = catalogue.seal_access(SEALER, operation.target, NBD)
                assert outcomes.opened(tx, operation, operation.target, sealed)
            case Verb.CLOSE:
                outcomes.close_done(tx, operation)
            case Verb.BOOT:
                project, _, node = operation.target.partition("/")
                for volume in outcomes.opened_for(tx.connection, project, node):
                    sealed = catalogue.seal_access(SEALER, volume, NBD)
                    if not outcomes.opened(tx, operation, volume, sealed):
                        outcomes.closed(tx, volume)
                outcomes.booted(tx, operation)
            case Verb.END_BOOT:
                outcomes.boot_ended(tx, operation)

    def fail(self, operation: Operation) -> Operation:
        with self.tx() as tx:
            outcomes.failed(tx, operation, BROKEN)
        return self.operation(operation)

    def do_all(self) -> None:
        """Work until nothing is left to do."""
        while left := self.live():
            for operation in left:
                self.do(operation)

    # -- what is there -------------------------------------------------------------------------------------------------

    def image(self, name: Name, made: ImageContents | None = None, visibility: Visibility | None = None) -> Image:
        self.do(self.ask_image(name, visibility=visibility), made)
        return self.image_now(name)

    def volume(self, name: Name, image: Name | None = None, keeping: Keeping = Keeping.KEPT) -> Volume:
        self.do(self.ask_volume(name, image, keeping=keeping, size_bytes=None if image else MIB))
        return self.volume_now(name)

    def begin_upload(self, name: Name, size_bytes: int = MIB, sha256: bytes = b"u" * 32) -> Upload:
        """Return an upload of which nothing is there yet."""
        with self.tx() as tx:
            return uploads.put_upload(tx, PROVIDER, QUOTA, name=name, size_bytes=size_bytes, sha256=sha256)

    def upload(self, name: Name, size_bytes: int = MIB, sha256: bytes = b"u" * 32) -> Upload:
        """Return an upload that is complete."""
        begun = self.begin_upload(name, size_bytes, sha256)
        with self.tx() as tx:
            return uploads.note_received(tx, begun, size_bytes)

    def open(self, name: Name) -> None:
        self.do(self.ask_open(name))

    def boot(self, node: str, volume: str) -> None:
        """Boot a node directly of a volume of red's."""
        self.do(self.ask_boot(node, BootDirect(volume, Protocol.NBD, None, {})))

    def operation(self, operation: Operation) -> Operation:
        with self.database.reading() as connection:
            return catalogue.load_operation(connection, operation.id)

    def live(self) -> tuple[Operation, ...]:
        with self.database.reading() as connection:
            return outcomes.live(connection)

    def image_now(self, name: Name) -> Image:
        with self.database.reading() as connection:
            return images.get_image(connection, PROVIDER, name)

    def volume_now(self, name: Name) -> Volume:
        with self.database.reading() as connection:
            return volumes.get_volume(connection, PROVIDER, name)

    def count(self, table: Table) -> int:
        with self.database.reading() as connection:
            return connection.scalar(select(func.count()).select_from(table)) or 0

    def discarded(self) -> frozenset[str]:
        with self.database.reading() as connection:
            return frozenset(connection.execute(select(tables.discarded.c.id)).scalars())
