"""Rows to objects and back, and the changes that several verbs make alike.

`load_` raises NotFound for what is not there, in the same words as for what may not be seen.
"""

import json
import secrets
from collections.abc import Collection, Mapping
from dataclasses import fields
from datetime import timedelta
from ipaddress import IPv4Address, ip_address
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, Table, and_, delete, insert, select, update

from steelyard.evidence.reference.measurement import Measurement, Presence
from steelyard.imaging.objects import (
    Boot,
    BootAirlock,
    BootDirect,
    BootDisk,
    BootFile,
    BootFound,
    BootIpxe,
    BootState,
    BootWhat,
    Image,
    ImageContents,
    Keeping,
    KernelAndInitramfs,
    Making,
    Name,
    Opening,
    OpeningState,
    Operation,
    OperationState,
    Private,
    Protocol,
    Public,
    SharedWith,
    UnifiedKernel,
    Upload,
    Verb,
    Visibility,
    Volume,
)
from steelyard.imaging.ports import Access, IscsiAccess, NbdAccess
from steelyard.imaging.tables import (
    boots,
    discarded,
    image_shares,
    images,
    openings,
    operations,
    uploads,
    volumes,
)
from steelyard.model.algorithms import HASH_BY_NAME
from steelyard.model.errors import ServiceUnready, SteelyardError
from steelyard.model.network import MacAddress
from steelyard.model.secret import Secret
from steelyard.service import journal
from steelyard.service.authority import not_found
from steelyard.service.database import Transaction
from steelyard.service.journal import Detail
from steelyard.service.sealing import Sealer

AnyRow = Row[Any]

LIVE: Final = (OperationState.PENDING.value, OperationState.RUNNING.value)
WORK: Final = "imaging"
"""The topic that wakes the worker."""


# -- rows to objects ---------------------------------------------------------------------------------------------------


def image_of(row: AnyRow, shares: Collection[str]) -> Image:
    """Return a row of `images`, and whom it is shared with."""
    contents: ImageContents | Making = Making()
    if row.digest is not None:
        boot = None if row.boot is None else _boot_found(row.boot)
        contents = ImageContents(row.digest, row.size_bytes, row.real_bytes, boot, row.boot_trouble)
    return Image(
        id=row.id,
        name=Name(row.project, row.name),
        visibility=_visibility(row.visibility, shares),
        contents=contents,
        source=row.source,
        signed_by=row.signed_by,
        made_by=row.made_by,
        made_at=row.made_at,
        version=row.version,
    )


def _visibility(word: str, shares: Collection[str]) -> Visibility:
    match word:
        case "private":
            return Private()
        case "shared":
            return SharedWith(frozenset(shares))
        case "public":
            return Public()
        case _:
            raise ValueError(f"an image that is {word}")


def visibility_word(visibility: Visibility) -> str:
    """Return what the column `visibility` says."""
    match visibility:
        case Private():
            return "private"
        case SharedWith():
            return "shared"
        case Public():
            return "public"


def _boot_found(value: Mapping[str, Any]) -> BootFound:
    measurements = tuple(
        Measurement(
            each["pcr"],
            each["what"],
            Presence(each["presence"]),
            {HASH_BY_NAME[bank]: bytes.fromhex(digest) for bank, digest in each["digests"].items()},
        )
        for each in value["measurements"]
    )
    if "unified" in value:
        return UnifiedKernel(_boot_file(value["unified"]), measurements)
    initramfs = None if value["initramfs"] is None else _boot_file(value["initramfs"])
    return KernelAndInitramfs(_boot_file(value["kernel"]), initramfs, value["command_line"], measurements)


def _boot_file(value: Mapping[str, Any]) -> BootFile:
    return BootFile(bytes.fromhex(value["sha256"]), value["size_bytes"])


def encode_boot_found(boot: BootFound) -> dict[str, Any]:
    """Return it as the column `boot` has it."""
    measurements = [
        {
            "pcr": each.pcr,
            "what": each.what,
            "presence": each.presence.value,
            "digests": {bank.label: digest.hex() for bank, digest in each.digests.items()},
        }
        for each in boot.measurements
    ]
    match boot:
        case UnifiedKernel(image):
            return {"unified": _encode_file(image), "measurements": measurements}
        case KernelAndInitramfs(kernel, initramfs, command_line):
            return {
                "kernel": _encode_file(kernel),
                "initramfs": None if initramfs is None else _encode_file(initramfs),
                "command_line": command_line,
                "measurements": measurements,
            }


def _encode_file(file: BootFile) -> dict[str, Any]:
    return {"sha256": file.sha256.hex(), "size_bytes": file.size_bytes}


def volume_of(row: AnyRow) -> Volume:
    """Return a row of `volumes`."""
    return Volume(
        id=row.id,
        name=Name(row.project, row.name),
        keeping=Keeping(row.keeping),
        image=row.image,
        size_bytes=row.size_bytes,
        ready=row.ready,
        made_by=row.made_by,
        made_at=row.made_at,
        version=row.version,
    )


def opening_of(row: AnyRow) -> Opening:
    """Return a row of `openings`."""
    return Opening(
        row.volume, row.network, Protocol(row.protocol), IPv4Address(row.address), row.node, OpeningState(row.state)
    )


def boot_of(row: AnyRow) -> Boot:
    """Return a row of `boots`."""
    return Boot(
        project=row.project,
        node=row.node,
        network=row.network,
        mac=MacAddress(row.mac),
        address=IPv4Address(row.address),
        what=_boot_what(row.what),
        state=BootState(row.state),
        version=row.version,
    )


def _boot_what(value: Mapping[str, Any]) -> BootWhat:
    match value["kind"]:
        case "airlock":
            return BootAirlock(value["parameters"], value["image"])
        case "direct":
            return BootDirect(value["volume"], Protocol(value["protocol"]), value["command_line"], value["seed"])
        case "ipxe":
            return BootIpxe(value["volume"])
        case "disk":
            return BootDisk()
        case other:
            raise ValueError(f"a boot of kind {other}")


def encode_boot_what(what: BootWhat) -> dict[str, Any]:
    """Return it as the column `what` has it."""
    match what:
        case BootAirlock(parameters, image):
            return {"kind": "airlock", "parameters": parameters, "image": image}
        case BootDirect(volume, protocol, command_line, seed):
            return {
                "kind": "direct",
                "volume": volume,
                "protocol": protocol.value,
                "command_line": command_line,
                "seed": dict(seed),
            }
        case BootIpxe(volume):
            return {"kind": "ipxe", "volume": volume}
        case BootDisk():
            return {"kind": "disk"}


def upload_of(row: AnyRow) -> Upload:
    """Return a row of `uploads`."""
    return Upload(
        row.id, Name(row.project, row.name), row.size_bytes, row.sha256, row.received_bytes, row.made_by, row.used_at
    )


def operation_of(row: AnyRow) -> Operation:
    """Return a row of `imaging_operations`."""
    values = {field.name: getattr(row, field.name) for field in fields(Operation)}
    return Operation(**values | {"verb": Verb(row.verb), "state": OperationState(row.state)})


# -- loading -----------------------------------------------------------------------------------------------------------


def find_image(connection: Connection, name: Name) -> Image | None:
    """Return the image of this name; None: there is none."""
    found = load_images(connection, images.c.project == name.project, images.c.name == name.name)
    return found[0] if found else None


def load_image(connection: Connection, identity: str) -> Image:
    """Return an image by its id."""
    found = load_images(connection, images.c.id == identity)
    if not found:
        raise not_found(f"image {identity}")
    return found[0]


def load_images(connection: Connection, *where: ColumnElement[bool], limit: int | None = None) -> tuple[Image, ...]:
    """Return images by project and name."""
    rows = connection.execute(select(images).where(*where).order_by(images.c.project, images.c.name).limit(limit)).all()
    shares: dict[str, list[str]] = {}
    shared = select(image_shares).where(image_shares.c.image.in_([row.id for row in rows]))
    for share in connection.execute(shared):
        shares.setdefault(share.image, []).append(share.project)
    return tuple(image_of(row, shares.get(row.id, ())) for row in rows)


def find_volume(connection: Connection, name: Name) -> Volume | None:
    """Return the volume of this name; None: there is none."""
    where = and_(volumes.c.project == name.project, volumes.c.name == name.name)
    row = connection.execute(select(volumes).where(where)).one_or_none()
    return None if row is None else volume_of(row)


def load_volume(connection: Connection, identity: str) -> Volume:
    """Return a volume by its id."""
    row = connection.execute(select(volumes).where(volumes.c.id == identity)).one_or_none()
    if row is None:
        raise not_found(f"volume {identity}")
    return volume_of(row)


def find_opening(connection: Connection, volume: str) -> Opening | None:
    """Return whom a volume is open for, by its id; None: for nobody."""
    row = connection.execute(select(openings).where(openings.c.volume == volume)).one_or_none()
    return None if row is None else opening_of(row)


def find_boot(connection: Connection, project: str, node: str) -> Boot | None:
    """Return what a project says that a node boots; None: nothing."""
    row = connection.execute(select(boots).where(boots.c.project == project, boots.c.node == node)).one_or_none()
    return None if row is None else boot_of(row)


def find_upload(connection: Connection, name: Name) -> Upload | None:
    """Return the upload of this name; None: there is none."""
    where = and_(uploads.c.project == name.project, uploads.c.name == name.name)
    row = connection.execute(select(uploads).where(where)).one_or_none()
    return None if row is None else upload_of(row)


def load_operation(connection: Connection, identity: str) -> Operation:
    """Return an operation."""
    row = connection.execute(select(operations).where(operations.c.id == identity)).one_or_none()
    if row is None:
        raise not_found(f"operation {identity}")
    return operation_of(row)


def live_operations(connection: Connection, *where: ColumnElement[bool]) -> tuple[Operation, ...]:
    """Return the operations that have not ended, the oldest first."""
    query = select(operations).where(operations.c.state.in_(LIVE), *where).order_by(operations.c.id)
    return tuple(operation_of(row) for row in connection.execute(query))


def live_on(connection: Connection, target: str) -> Operation | None:
    """Return the work under way on an image, a volume or a boot; there is one at most."""
    found = live_operations(connection, operations.c.target == target)
    return found[0] if found else None


def making_of(connection: Connection, verb: Verb, target: str) -> Operation:
    """Return the operation that makes, or made, what is there: it has one, or would not be there any more."""
    query = select(operations).where(operations.c.target == target, operations.c.verb == verb.value)
    return operation_of(connection.execute(query).one())


def work_with(connection: Connection, volume: str) -> Operation | None:
    """Return the work under way on a volume, or with it: an image that is being made of it."""
    for operation in live_operations(connection):
        if volume in (operation.target, operation.parameters.get("volume")):
            return operation
    return None


def boot_target(project: str, node: str) -> str:
    """Return what operations on a boot have as their target."""
    return f"{project}/{node}"


# -- changes -----------------------------------------------------------------------------------------------------------


def new_id(kind: str) -> str:
    """Return an id for an image ("i") or a volume ("v"), or an upload ("u")."""
    return kind + secrets.token_hex(8)


def record(tx: Transaction, actor: str, verb: str, subject: str, project: str, **detail: Any) -> None:
    """Write the journal."""
    entry: Detail = detail
    journal.record(tx, actor=actor, verb=verb, subject=subject, project=project, detail=entry)


def discard(tx: Transaction, identity: str) -> None:
    """Have the store forget something that no row names any more."""
    tx.connection.execute(insert(discarded).values(id=identity, since=tx.now))
    tx.wake(WORK)


def forget_image(tx: Transaction, image: str) -> None:
    """Take an image's row away; nothing stands on it."""
    tx.connection.execute(delete(image_shares).where(image_shares.c.image == image))
    tx.connection.execute(delete(images).where(images.c.id == image))
    discard(tx, image)


def forget_volume(tx: Transaction, volume: str) -> None:
    """Take a volume's row away; it is not open."""
    tx.connection.execute(delete(volumes).where(volumes.c.id == volume))
    discard(tx, volume)


def set_shares(tx: Transaction, image: str, visibility: Visibility) -> None:
    """Write whom an image is shared with."""
    tx.connection.execute(delete(image_shares).where(image_shares.c.image == image))
    if isinstance(visibility, SharedWith):
        rows = [{"image": image, "project": project} for project in sorted(visibility.projects)]
        tx.connection.execute(insert(image_shares), rows)


def begin_operation(
    tx: Transaction,
    verb: Verb,
    *,
    project: str,
    subject: str,
    target: str,
    actor: str,
    limit: timedelta,
    parameters: Mapping[str, str],
    done: bool = False,
) -> Operation:
    """Write down work for the worker; return it. `done`: there is nothing to do, as it has been done before."""
    operation = Operation(
        # Names sort as they were created, to the millisecond.
        id=f"{int(tx.now.timestamp() * 1000):012x}{secrets.token_hex(8)}",
        verb=verb,
        project=project,
        subject=subject,
        target=target,
        actor=actor,
        state=OperationState.DONE if done else OperationState.PENDING,
        created=tx.now,
        deadline=tx.now + limit,
        ended=tx.now if done else None,
        parameters=dict(parameters),
        progress="done" if done else "waiting for its turn",
        done_bytes=None,
        total_bytes=None,
        cancelling=False,
    )
    values = {field.name: getattr(operation, field.name) for field in fields(operation)}
    tx.connection.execute(insert(operations).values(values | {"verb": verb.value, "state": operation.state.value}))
    detail = {"operation": operation.id, **parameters}
    if not done:
        record(tx, actor, f"{verb.value}.wanted", subject, project, **detail)
        tx.wake(WORK)
    return operation


def end_operation(
    tx: Transaction,
    operation: Operation,
    state: OperationState,
    *,
    actor: str,
    progress: str,
    failure: SteelyardError | None = None,
) -> bool:
    """End an operation; return whether it had not ended before, in which case nothing is changed."""
    told = None
    if failure is not None:
        told = {"code": failure.code, "doing": failure.doing, "expected": failure.expected, "found": failure.found}
    ended = tx.connection.execute(
        update(operations)
        .where(operations.c.id == operation.id, operations.c.state.in_(LIVE))
        .values(state=state.value, ended=tx.now, progress=progress, failure=told)
    )
    if ended.rowcount == 0:
        return False
    detail = {"operation": operation.id, "progress": progress, **(told or {})}
    record(tx, actor, f"{operation.verb.value}.{state.value}", operation.subject, operation.project, **detail)
    tx.wake(topic_of(operation.id))
    return True


def cancel(tx: Transaction, operation: Operation, *, actor: str, why: str) -> None:
    """Give work up for other work on the same thing, which leaves it right."""
    end_operation(tx, operation, OperationState.CANCELLED, actor=actor, progress=why)


def topic_of(operation: str) -> str:
    """Return what whoever waits for an operation listens to."""
    return f"imaging-operation/{operation}"


def bump(tx: Transaction, table: Table, identity: str, **values: Any) -> None:
    """Change an image or a volume."""
    tx.connection.execute(update(table).where(table.c.id == identity).values(version=table.c.version + 1, **values))


# -- what a node needs to open a volume --------------------------------------------------------------------------------


def access_document(access: Access) -> dict[str, Any]:
    """Return what the next system of a node is told of its root volume. Source: docs/formats.md, root.json."""
    place = {"address": str(access.address), "port": access.port}
    match access:
        case NbdAccess():
            return {
                "protocol": "nbd",
                **place,
                "export": access.export,
                "authority": access.authority.decode("ascii"),
                "certificate": access.certificate.decode("ascii"),
                "key": access.key.reveal().decode("ascii"),
            }
        case IscsiAccess():
            return {
                "protocol": "iscsi",
                **place,
                "target": access.target,
                "lun": access.lun,
                "user": access.user,
                "password": access.password.reveal().decode("ascii"),
                "target_user": access.target_user,
                "target_password": access.target_password.reveal().decode("ascii"),
            }


def root_document(access: Access) -> Secret:
    """Return root.json for a volume that need not begin with a LUKS header."""
    return Secret(json.dumps(access_document(access) | {"luks_header": None}).encode())


def seal_access(sealer: Sealer, volume: str, access: Access) -> bytes:
    """Return it as the column `sealed` has it."""
    return sealer.seal(f"volume/{volume}", Secret(json.dumps(access_document(access)).encode()))


def seal_anew(tx: Transaction, sealer: Sealer) -> Collection[str]:
    """Let what opens volumes be sealed by the first key; return the ids of volumes whose access no key opens."""
    lost = []
    for row in tx.connection.execute(select(openings).where(openings.c.sealed.is_not(None))).all():
        if sealer.is_current(row.sealed):
            continue
        try:
            sealed = seal_access(sealer, row.volume, open_access(sealer, row.volume, row.sealed))
        except ServiceUnready:
            lost.append(row.volume)
            continue
        tx.connection.execute(update(openings).where(openings.c.volume == row.volume).values(sealed=sealed))
    return lost


def open_access(sealer: Sealer, volume: str, sealed: bytes) -> Access:
    """Return what the column `sealed` says. Raises ServiceUnready."""
    document = json.loads(sealer.open(f"volume/{volume}", sealed).reveal())
    address, port = ip_address(document["address"]), document["port"]
    if document["protocol"] == "nbd":
        return NbdAccess(
            address,
            port,
            document["export"],
            document["authority"].encode("ascii"),
            document["certificate"].encode("ascii"),
            Secret(document["key"].encode("ascii")),
        )
    return IscsiAccess(
        address,
        port,
        document["target"],
        document["lun"],
        document["user"],
        Secret(document["password"].encode("ascii")),
        document["target_user"],
        Secret(document["target_password"].encode("ascii")),
    )
