"""What callers are shown of volumes and boots: names in place of ids, each as far as the caller may know it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from steelyard.imaging import catalogue, images, quotas, tables
from steelyard.imaging.objects import (
    Boot,
    BootAirlock,
    BootDirect,
    BootDisk,
    BootIpxe,
    BootWhat,
    Image,
    Opening,
    Private,
    Public,
    Quota,
    SharedWith,
    Visibility,
    Volume,
)
from steelyard.service.authority import Caller


@dataclass(frozen=True, slots=True)
class VolumeView:
    """A volume.

    image    the one that it stands on: PROJECT/NAME, or its id if it is not the caller's to know of any more.
    opening  whom it is open for, if it is.
    """

    volume: Volume
    image: str | None
    opening: Opening | None


@dataclass(frozen=True, slots=True)
class ImageView:
    """An image; to other projects, nothing of whose else it is, and where it is from.

    visibility  names, of the projects that it is shared with, those that the caller may know of.
    source      None: not the caller's to know.
    """

    image: Image
    visibility: Visibility
    source: str | None


def view_image(image: Image, caller: Caller) -> ImageView:
    """Return what the caller may know of an image that it may see."""
    if caller.sees(image.name.project):
        return ImageView(image, image.visibility, image.source)
    match image.visibility:
        case SharedWith(projects):
            return ImageView(image, SharedWith(projects & set(caller.roles)), None)
        case Private() | Public():
            return ImageView(image, image.visibility, None)


def view_volumes(connection: Connection, caller: Caller, volumes: Sequence[Volume]) -> tuple[VolumeView, ...]:
    """Return volumes that the caller may see as they are shown."""
    names = _image_names(connection, caller, {volume.image for volume in volumes if volume.image is not None})
    query = select(tables.openings).where(tables.openings.c.volume.in_([volume.id for volume in volumes]))
    openings = {opening.volume: opening for opening in map(catalogue.opening_of, connection.execute(query))}
    return tuple(
        VolumeView(volume, None if volume.image is None else names[volume.image], openings.get(volume.id))
        for volume in volumes
    )


def view_boots(connection: Connection, caller: Caller, boots: Sequence[Boot]) -> tuple[BootWhat, ...]:
    """Return what each of these boots is, with names in place of ids: a volume's without its project."""
    names = _image_names(connection, caller, _ids(_image_id(boot.what) for boot in boots))
    query = select(tables.volumes).where(tables.volumes.c.id.in_(_ids(_volume_id(boot.what) for boot in boots)))
    volumes = {volume.id: volume.name.name for volume in map(catalogue.volume_of, connection.execute(query))}
    return tuple(_named(boot.what, names, volumes) for boot in boots)


@dataclass(frozen=True, slots=True)
class Held:
    """What a project may have, what it has, and the ids of what takes room in the store."""

    project: str
    quota: Quota
    used: Quota
    images: tuple[str, ...]
    volumes: tuple[str, ...]


def view_held(connection: Connection, caller: Caller, default_quota: Quota, project: str) -> Held:
    """Return how much a project has. Raises NotFound."""
    quota, used = quotas.get_quota(connection, caller, default_quota, project)
    kinds = (tables.images, tables.volumes)
    found = [connection.execute(select(kind.c.id).where(kind.c.project == project)).scalars().all() for kind in kinds]
    return Held(project, quota, used, tuple(found[0]), tuple(found[1]))


def standing_on(connection: Connection, project: str, image: str) -> tuple[Volume, ...]:
    """Return the project's own volumes that stand on an image, by name."""
    columns = tables.volumes.c
    query = select(tables.volumes).where(columns.image == image, columns.project == project).order_by(columns.name)
    return tuple(map(catalogue.volume_of, connection.execute(query)))


def _named(what: BootWhat, images_: Mapping[str, str], volumes: Mapping[str, str]) -> BootWhat:
    match what:
        case BootAirlock(parameters, image):
            return BootAirlock(parameters, None if image is None else images_[image])
        case BootDirect(volume, protocol, command_line, seed):
            return BootDirect(volumes[volume], protocol, command_line, seed)
        case BootIpxe(volume):
            return BootIpxe(volumes[volume])
        case BootDisk():
            return what


def _image_id(what: BootWhat) -> str | None:
    return what.image if isinstance(what, BootAirlock) else None


def _volume_id(what: BootWhat) -> str | None:
    return what.volume if isinstance(what, BootDirect | BootIpxe) else None


def _ids(found: Iterable[str | None]) -> set[str]:
    return {identity for identity in found if identity is not None}


def _image_names(connection: Connection, caller: Caller, identities: Collection[str]) -> Mapping[str, str]:
    """Return what the caller calls these images; those that it may not know of any more, by their ids."""
    found = catalogue.load_images(connection, tables.images.c.id.in_(identities))
    return {image.id: str(image.name) if images.may_see(caller, image) else image.id for image in found}
