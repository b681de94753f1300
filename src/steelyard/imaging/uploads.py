"""Uploads: files that come in parts. Here is how far each is; the bytes are in files beside the store."""

from datetime import datetime
from typing import Final

from sqlalchemy import Connection, delete, insert, select, update

from steelyard.imaging import catalogue, quotas, rules
from steelyard.imaging.objects import Name, Quota, Upload
from steelyard.imaging.tables import uploads
from steelyard.model.errors import AlreadyThere, InUse, TooLarge, WrongState, WrongUse
from steelyard.model.limits import IMAGE_BYTES
from steelyard.model.names import check_name
from steelyard.service.authority import Caller, not_found
from steelyard.service.database import Transaction

_SHA256_BYTES: Final = 32


def put_upload(
    tx: Transaction, caller: Caller, default_quota: Quota, *, name: Name, size_bytes: int, sha256: bytes
) -> Upload:
    """Begin an upload, or find out how far it is. Raises NotAllowed, NotFound, WrongUse, OverQuota, AlreadyThere."""
    doing = f"beginning upload {name}"
    check_name(name.name, "upload")
    rules.check_change(caller, name, "upload", doing)
    if size_bytes <= 0 or len(sha256) != _SHA256_BYTES:
        raise WrongUse(doing, expected="a file that is not empty, and its SHA-256", found=f"{size_bytes} bytes")
    if size_bytes > IMAGE_BYTES.most:
        raise TooLarge(doing, expected=f"at most {IMAGE_BYTES.most} bytes", found=f"{size_bytes}")
    before = catalogue.find_upload(tx.connection, name)
    if before is not None:
        if (before.size_bytes, before.sha256) != (size_bytes, sha256):
            raise AlreadyThere(doing, expected="a name that is not taken", found="an upload of another file")
        return before
    quotas.take(tx, default_quota, name.project, size_bytes=size_bytes)
    upload = Upload(catalogue.new_id("u"), name, size_bytes, sha256, 0, caller.name, tx.now)
    tx.connection.execute(
        insert(uploads).values(
            id=upload.id,
            project=name.project,
            name=name.name,
            size_bytes=size_bytes,
            sha256=sha256,
            received_bytes=0,
            made_by=caller.name,
            used_at=tx.now,
        )
    )
    catalogue.record(tx, caller.name, "upload.begun", f"upload/{name.name}", name.project, size_bytes=size_bytes)
    return upload


def check_part(connection: Connection, caller: Caller, *, name: Name, offset: int, length: int) -> Upload:
    """Return the upload that a part is the next of. Raises NotFound, NotAllowed, WrongState, TooLarge."""
    doing = f"adding to upload {name}"
    upload = _load_own(connection, caller, name, doing)
    if offset != upload.received_bytes:
        raise WrongState(doing, expected=f"the part from byte {upload.received_bytes} on", found=f"from {offset} on")
    if offset + length > upload.size_bytes:
        raise TooLarge(doing, expected=f"{upload.size_bytes} bytes in all", found=f"{offset + length}")
    return upload


def note_received(tx: Transaction, upload: Upload, received_bytes: int) -> Upload:
    """Write that this much of an upload is there, safely. Raises WrongState: another part came first; NotFound."""
    here = (uploads.c.id == upload.id, uploads.c.received_bytes == upload.received_bytes)
    values = {"received_bytes": received_bytes, "used_at": tx.now}
    if tx.connection.execute(update(uploads).where(*here).values(values)).rowcount == 0:
        expected = "no other part on its way"
        raise WrongState(f"adding to upload {upload.name}", expected=expected, found="one that came first")
    found = catalogue.find_upload(tx.connection, upload.name)
    if found is None:
        raise not_found(f"upload {upload.name}")
    return found


def delete_upload(tx: Transaction, caller: Caller, *, name: Name) -> None:
    """Throw an upload away. Raises NotFound, NotAllowed, InUse."""
    doing = f"deleting upload {name}"
    upload = _load_own(tx.connection, caller, name, doing)
    if upload.id in _in_use(tx.connection):
        raise InUse(doing, expected="no image being made of it", found="one")
    _forget(tx, upload.id)
    catalogue.record(tx, caller.name, "upload.deleted", f"upload/{name.name}", name.project)


def use_up(tx: Transaction, identity: str) -> None:
    """Throw an upload away that became an image, unless it is to become another too."""
    if identity not in _in_use(tx.connection):
        _forget(tx, identity)


def _in_use(connection: Connection) -> frozenset[str]:
    """Return the ids of the uploads that images are being made of."""
    live = catalogue.live_operations(connection)
    return frozenset(operation.parameters["upload"] for operation in live if "upload" in operation.parameters)


def _forget(tx: Transaction, identity: str) -> None:
    """Take an upload's row away; the file goes after it."""
    if tx.connection.execute(delete(uploads).where(uploads.c.id == identity)).rowcount:
        catalogue.discard(tx, identity)


def expire(tx: Transaction, before: datetime) -> None:
    """Throw away the uploads that nobody has added to since then, and nothing is being made of."""
    used = _in_use(tx.connection)
    for row in tx.connection.execute(select(uploads).where(uploads.c.used_at < before)).all():
        if row.id not in used:
            _forget(tx, row.id)
            catalogue.record(tx, "imaging", "upload.expired", f"upload/{row.name}", row.project)


def get_upload(connection: Connection, caller: Caller, name: Name) -> Upload:
    """Return an upload. Raises NotFound."""
    upload = catalogue.find_upload(connection, name)
    if upload is None or not caller.sees(name.project):
        raise not_found(f"upload {name}")
    return upload


def list_uploads(connection: Connection, caller: Caller, *, project: str, after: str, limit: int) -> tuple[Upload, ...]:
    """Return a project's uploads, by name. Raises NotFound."""
    caller.must_see(project, f"project {project}")
    query = select(uploads).where(uploads.c.project == project, uploads.c.name > after).order_by(uploads.c.name)
    return tuple(catalogue.upload_of(row) for row in connection.execute(query.limit(rules.check_rows(limit))))


def _load_own(connection: Connection, caller: Caller, name: Name, doing: str) -> Upload:
    upload = get_upload(connection, caller, name)
    rules.check_change(caller, name, "upload", doing)
    return upload
