"""What may be asked of images: make, share, rename, delete. Load, decide by `rules.py`, store, record.

What takes long is an operation for the worker. An image that is not ready is nothing yet but a name that is taken.
"""

from datetime import timedelta

from sqlalchemy import Connection, and_, insert, or_, select, tuple_

from steelyard.imaging import catalogue, quotas, rules
from steelyard.imaging.objects import (
    FromImage,
    FromUpload,
    FromUrl,
    FromVolume,
    Image,
    ImageContents,
    Name,
    Operation,
    Public,
    Quota,
    Source,
    Verb,
    Visibility,
)
from steelyard.imaging.tables import boots, image_shares, images, volumes
from steelyard.model.errors import AlreadyThere, InUse, WrongDigest, WrongState
from steelyard.model.names import check_name
from steelyard.service.authority import Caller, Right, not_found
from steelyard.service.database import Transaction


def make_image(
    tx: Transaction,
    caller: Caller,
    default_quota: Quota,
    *,
    name: Name,
    source: Source,
    sha256: bytes | None,
    signed_by: str | None,
    visibility: Visibility,
    limit: timedelta,
) -> Operation:
    """Make an image; asked again for the same one, return the same operation.

    sha256     of the file that is fetched or was uploaded, 32 bytes; None if none was announced.
    signed_by  whose signature over it was checked; `sha256` is what was signed, then.

    Raises NotAllowed, NotFound, WrongState, WrongUse, WrongDigest, TooLarge, OverQuota, AlreadyThere, InUse.
    """
    doing = f"making image {name}"
    check_name(name.name, "image")
    rules.check_change(caller, name, "image", doing)
    asked = _asked(source)
    before = catalogue.find_image(tx.connection, name)
    if before is not None:
        # First of all: what it was made of may be gone by now, or in use.
        made = catalogue.making_of(tx.connection, Verb.MAKE_IMAGE, before.id)
        now = _identity(tx.connection, caller, name, source)
        if (
            not asked.items() <= made.parameters.items()
            or now not in (None, made.parameters[asked["from"]])
            or (sha256 is not None and sha256.hex() != made.parameters["sha256"])
            or (before.signed_by, before.visibility) != (signed_by, visibility)
        ):
            raise AlreadyThere(doing, expected="a name that is not taken", found=f"an image from {before.source}")
        return made
    rules.check_visibility(caller, visibility, doing)
    there, size, digest = _look_at(tx, caller, name, source, sha256, doing)
    parameters = asked | there | {"sha256": "" if digest is None else digest.hex()}
    quotas.take(tx, default_quota, name.project, images=1, size_bytes=size)
    identity = catalogue.new_id("i")
    tx.connection.execute(
        insert(images).values(
            id=identity,
            project=name.project,
            name=name.name,
            visibility=catalogue.visibility_word(visibility),
            source=f"{asked['from']} {asked['named']}",
            expected_bytes=size,
            signed_by=signed_by,
            made_by=caller.name,
            made_at=tx.now,
            version=1,
        )
    )
    catalogue.set_shares(tx, identity, visibility)
    return catalogue.begin_operation(
        tx,
        Verb.MAKE_IMAGE,
        project=name.project,
        subject=f"image/{name.name}",
        target=identity,
        actor=caller.name,
        limit=rules.check_limit(limit),
        parameters=parameters,
    )


def _asked(source: Source) -> dict[str, str]:
    """Return the source as it is asked for, which can be compared when the thing itself is gone."""
    match source:
        case FromUpload(upload, form):
            return {"from": "upload", "named": upload, "format": form.value}
        case FromUrl(url, form):
            return {"from": "url", "named": url, "format": form.value}
        case FromVolume(volume):
            return {"from": "volume", "named": str(volume)}
        case FromImage(image):
            return {"from": "image", "named": str(image)}


def _identity(connection: Connection, caller: Caller, name: Name, source: Source) -> str | None:
    """Return the id of what the source names now, as far as the caller may know of it."""
    match source:
        case FromUpload(upload, _):
            there = catalogue.find_upload(connection, Name(name.project, upload))
            return None if there is None else there.id
        case FromUrl(url, _):
            return url
        case FromVolume(volume_name):
            volume = catalogue.find_volume(connection, volume_name)
            return volume.id if volume is not None and caller.sees(volume_name.project) else None
        case FromImage(image_name):
            image = catalogue.find_image(connection, image_name)
            return image.id if image is not None and may_see(caller, image) else None


def _look_at(
    tx: Transaction, caller: Caller, name: Name, source: Source, sha256: bytes | None, doing: str
) -> tuple[dict[str, str], int, bytes | None]:
    """Return what the source is, how large the disk in it, and the digest of the file; as far as that is known."""
    match source:
        case FromUpload(upload, _):
            there = catalogue.find_upload(tx.connection, Name(name.project, upload))
            if there is None:
                raise not_found(f"upload {upload}")
            if there.received_bytes < there.size_bytes:
                found = f"{there.received_bytes} of {there.size_bytes} bytes"
                raise WrongState(doing, expected="an upload that is complete", found=found)
            if sha256 not in (None, there.sha256):
                raise WrongDigest(doing, expected="the SHA-256 that the upload was begun with", found="another")
            # Its room is the upload's, until that goes for it.
            return {"upload": there.id}, 0, there.sha256
        case FromUrl(url, _):
            return {"url": url}, 0, sha256
        case FromVolume(volume_name):
            rules.check_no_file(sha256, "a volume", doing)
            volume = catalogue.find_volume(tx.connection, volume_name)
            if volume is None or not caller.sees(volume_name.project):
                raise not_found(f"volume {volume_name}")
            rules.check_change(caller, volume_name, "volume", doing)
            opening = catalogue.find_opening(tx.connection, volume.id)
            rules.check_at_rest(volume, opening, catalogue.work_with(tx.connection, volume.id), doing)
            return {"volume": volume.id}, volume.size_bytes, None
        case FromImage(image_name):
            rules.check_no_file(sha256, "an image", doing)
            image = find_usable(tx.connection, caller, image_name)
            return {"image": image.id}, rules.ready(image, doing).size_bytes, None


def set_visibility(
    tx: Transaction, caller: Caller, *, name: Name, visibility: Visibility, expected_version: int | None
) -> Image:
    """Say who else may use an image. Volumes that stand on it stay.

    Raises NotAllowed, NotFound, WrongUse, Changed, TooLarge.
    """
    doing = f"sharing image {name}"
    image = load_own(tx.connection, caller, name, doing)
    rules.check_version(f"image {name}", image.version, expected_version)
    if image.visibility == visibility:
        return image
    rules.check_visibility(caller, visibility, doing)
    word = catalogue.visibility_word(visibility)
    catalogue.bump(tx, images, image.id, visibility=word)
    catalogue.set_shares(tx, image.id, visibility)
    changed = catalogue.load_image(tx.connection, image.id)
    shares = sorted(getattr(visibility, "projects", ()))
    catalogue.record(
        tx, caller.name, "image.shared", f"image/{name.name}", name.project, visibility=word, shares=shares
    )
    return changed


def rename_image(tx: Transaction, caller: Caller, *, name: Name, new_name: str, expected_version: int | None) -> Image:
    """Give an image another name in its project. Raises NotAllowed, NotFound, Changed, AlreadyThere."""
    doing = f"renaming image {name}"
    image = load_own(tx.connection, caller, name, doing)
    rules.check_version(f"image {name}", image.version, expected_version)
    wanted = Name(name.project, check_name(new_name, "image"))
    if wanted == name:
        return image
    rules.check_name_free(catalogue.find_image(tx.connection, wanted), wanted, "image")
    catalogue.bump(tx, images, image.id, name=new_name)
    catalogue.record(tx, caller.name, "image.renamed", f"image/{name.name}", name.project, to=new_name)
    return catalogue.load_image(tx.connection, image.id)


def delete_image(tx: Transaction, caller: Caller, *, name: Name, expected_version: int | None) -> None:
    """Forget an image that nothing stands on. Raises NotAllowed, NotFound, Changed, InUse."""
    doing = f"deleting image {name}"
    image = load_own(tx.connection, caller, name, doing)
    rules.check_version(f"image {name}", image.version, expected_version)
    rules.check_free(catalogue.live_on(tx.connection, image.id), doing)
    users = users_of(tx.connection, image.id)
    if users:
        # Whose they are is told as a number alone: another project's volumes are not this caller's to know of.
        raise InUse(doing, expected="nothing that stands on it", found=f"{len(users)} volumes or boots")
    for operation in catalogue.live_operations(tx.connection):
        if image.id in operation.parameters.values():
            raise InUse(doing, expected="nothing under way with it", found=f"operation {operation.id}")
    catalogue.forget_image(tx, image.id)
    catalogue.record(tx, caller.name, "image.deleted", f"image/{name.name}", name.project)


def users_of(connection: Connection, image: str) -> tuple[Name, ...]:
    """Return the volumes that stand on an image, and the boots that name it."""
    found = [connection.execute(select(volumes.c.project, volumes.c.name).where(volumes.c.image == image)).all()]
    found.append(connection.execute(select(boots.c.project, boots.c.node).where(boots.c.image == image)).all())
    return tuple(Name(project, name) for rows in found for project, name in rows)


def load_own(connection: Connection, caller: Caller, name: Name, doing: str) -> Image:
    """Return an image that the caller may change. Raises NotFound, NotAllowed."""
    image = catalogue.find_image(connection, name)
    if image is None or not may_see(caller, image):
        raise not_found(f"image {name}")
    caller.must_act_for(name.project, Right.IMAGES, doing)
    return image


def may_see(caller: Caller, image: Image) -> bool:
    """Whether this caller may know of an image: who may use it does; of one in the making, its owner alone."""
    return caller.sees(image.name.project) or (
        rules.may_use(caller, image) and isinstance(image.contents, ImageContents)
    )


def find_usable(connection: Connection, caller: Caller, name: Name) -> Image:
    """Return an image that the caller may make volumes of. Raises NotFound."""
    image = catalogue.find_image(connection, name)
    if image is None or not may_see(caller, image):
        raise not_found(f"image {name}")
    return image


def get_image(connection: Connection, caller: Caller, name: Name) -> Image:
    """Return an image. Raises NotFound."""
    return find_usable(connection, caller, name)


def list_images(
    connection: Connection, caller: Caller, *, project: str | None, after: Name | None, limit: int
) -> tuple[Image, ...]:
    """Return the images that the caller may know of, by project and name: all, or one project's."""
    where = [] if project is None else [images.c.project == project]
    if after is not None:
        where.append(tuple_(images.c.project, images.c.name) > (after.project, after.name))
    if not caller.sees_all():
        seen = [each for each in caller.roles if caller.sees(each)]
        shared = select(image_shares.c.image).where(image_shares.c.project.in_(seen))
        others = or_(images.c.visibility == catalogue.visibility_word(Public()), images.c.id.in_(shared))
        where.append(or_(images.c.project.in_(seen), and_(images.c.digest.is_not(None), others)))
        if Right.READ not in caller.rights:
            return ()
    return catalogue.load_images(connection, *where, limit=rules.check_rows(limit))
