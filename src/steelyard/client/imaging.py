"""Each call of the imaging service, said once. `Client.ask(make_volume("blue", "root", image="debian"))` makes it.

What takes longer than an answer returns an operation, to be waited for. A reference to an image is PROJECT/NAME, or the
NAME alone of one of the project that asks. `seconds` is how long an operation may take before it fails; nothing of it
is left then.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from steelyard.client.call import (
    Answer,
    Call,
    Page,
    deleting,
    given,
    listing,
    nothing,
    path,
    putting,
    reading,
    waiting,
)
from steelyard.client.codec import Json
from steelyard.client.imaging_objects import (
    Boot,
    BootNetwork,
    Density,
    Image,
    ImagingOperation,
    Opening,
    Storage,
    Upload,
    Volume,
)
from steelyard.model.errors import MalformedAnswer
from steelyard.model.secret import Secret

SECONDS: Final = 300
"""How long quick work may take, if nothing else is said."""
LONG_SECONDS: Final = 4 * 3600
"""How long work that reads or writes a whole disk may take, if nothing else is said."""


# -- what an image is made of, and what a node boots -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UploadSource:
    """A file that was uploaded; form: "raw" or "qcow2"."""

    upload: str
    form: str


@dataclass(frozen=True, slots=True)
class UrlSource:
    """A file that the service fetches."""

    url: str
    form: str


@dataclass(frozen=True, slots=True)
class VolumeSource:
    """What is on a volume that is not open."""

    volume: str


@dataclass(frozen=True, slots=True)
class ImageSource:
    """Another image."""

    image: str


Source = UploadSource | UrlSource | VolumeSource | ImageSource


@dataclass(frozen=True, slots=True)
class FileSignature:
    """Who vouches for a file: a DSSE envelope (JSON), and the Ed25519 key that must have signed it (PEM)."""

    envelope: str
    key: str


@dataclass(frozen=True, slots=True)
class AirlockBoot:
    """The airlock image with these parameters; image: what the node may fetch kernel and initramfs of."""

    parameters: str
    image: str | None


@dataclass(frozen=True, slots=True)
class DirectBoot:
    """The kernel of the image that a volume stands on, the volume as its root.

    protocol      "nbd" or "iscsi".
    command_line  None: the image's.
    seed          "meta-data", "user-data" -> text; it goes over the network in the clear.
    """

    volume: str
    protocol: str
    command_line: str | None
    seed: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class IpxeBoot:
    """What a volume's own boot loader boots, over iSCSI."""

    volume: str


@dataclass(frozen=True, slots=True)
class DiskBoot:
    """The node's own disk."""


WhatToBoot = AirlockBoot | DirectBoot | IpxeBoot | DiskBoot


# -- uploads -----------------------------------------------------------------------------------------------------------


def list_uploads(project: str) -> Call[Page[Upload]]:
    """Ask for a project's uploads that no image was made of yet."""
    return listing(f"listing the uploads of {project}", path("projects", project, "uploads"), Upload)


def read_upload(project: str, name: str) -> Call[Upload]:
    """Ask how far an upload is."""
    doing = f"looking for upload {name}"
    return Call(doing, "GET", _upload(project, name), reading(Upload, doing))


def put_upload(project: str, name: str, *, size_bytes: int, sha256: str) -> Call[Upload]:
    """Begin to upload a file, or find out how far it is."""
    doing = f"beginning upload {name}"
    body: Json = {"size_bytes": size_bytes, "sha256": sha256}
    return putting(doing, _upload(project, name), body, reading(Upload, doing))


def add_part(project: str, name: str, offset: int, part: bytes) -> Call[Upload]:
    """Send the part of a file that begins at `offset`, which is what was received; at most 8 MiB."""
    doing = f"adding to upload {name}"
    where = path("projects", project, "uploads", name, "content")
    # When the answer is lost, the part may be there: look before sending it again.
    return Call(doing, "PUT", where, reading(Upload, doing), query=given(offset=offset), content=part, repeatable=False)


def delete_upload(project: str, name: str) -> Call[None]:
    """Throw an upload away."""
    return deleting(f"deleting upload {name}", _upload(project, name))


# -- images ------------------------------------------------------------------------------------------------------------


def list_images(*, project: str | None = None) -> Call[Page[Image]]:
    """Ask for the images that the caller may use: all, or a project's."""
    return listing("listing images", path("images"), Image, given(project=project))


def read_image(project: str, name: str) -> Call[Image]:
    """Ask for an image."""
    doing = f"looking for image {project}/{name}"
    return Call(doing, "GET", _image(project, name), reading(Image, doing))


def make_image(
    project: str,
    name: str,
    *,
    source: Source,
    sha256: str | None = None,
    signature: FileSignature | None = None,
    visibility: str = "private",
    shared_with: Sequence[str] = (),
    seconds: int = LONG_SECONDS,
) -> Call[ImagingOperation]:
    """Make an image; asked again for the same one, it is the same operation.

    sha256  of the file that it is made of, where it is a file; another one is refused.
    """
    doing = f"making image {project}/{name}"
    body: Json = {
        "source": _source(source),
        "sha256": sha256,
        "signature": None if signature is None else {"envelope": signature.envelope, "key": signature.key},
        "visibility": visibility,
        "shared_with": list(shared_with),
        "seconds": seconds,
    }
    return putting(doing, _image(project, name), body, reading(ImagingOperation, doing))


def set_visibility(
    project: str, name: str, visibility: str, *, shared_with: Sequence[str] = (), version: int | None = None
) -> Call[Image]:
    """Say for whom an image is: "private", "shared", "public"."""
    doing = f"sharing image {project}/{name}"
    body: Json = {"visibility": visibility, "shared_with": list(shared_with)}
    return putting(doing, path("projects", project, "images", name, "visibility"), body, reading(Image, doing), version)


def rename_image(project: str, name: str, new_name: str) -> Call[Image]:
    """Give an image another name."""
    doing = f"renaming image {project}/{name}"
    where = path("projects", project, "images", name, "name")
    # Asked for again, the old name would be "not found".
    return Call(doing, "PUT", where, reading(Image, doing), body={"name": new_name}, repeatable=False)


def delete_image(project: str, name: str) -> Call[None]:
    """Delete an image that nothing stands on."""
    return deleting(f"deleting image {project}/{name}", _image(project, name))


def read_content(project: str, name: str, *, first_byte: int = 0) -> Call[None]:
    """Ask for the disk of an image, from a byte on; for `Client.pieces`."""
    where = path("projects", project, "images", name, "content")
    return Call(f"reading the disk of image {project}/{name}", "GET", where, nothing, first_byte=first_byte)


def read_density(project: str, name: str) -> Call[Density]:
    """Ask for the room that an image and its project's volumes on it take."""
    doing = f"measuring image {project}/{name}"
    return Call(doing, "GET", path("projects", project, "images", name, "density"), reading(Density, doing))


# -- volumes -----------------------------------------------------------------------------------------------------------


def list_volumes(*, project: str | None = None) -> Call[Page[Volume]]:
    """Ask for the volumes of the caller's projects, or of one."""
    return listing("listing volumes", path("volumes"), Volume, given(project=project))


def read_volume(project: str, name: str) -> Call[Volume]:
    """Ask for a volume."""
    doing = f"looking for volume {project}/{name}"
    return Call(doing, "GET", _volume(project, name), reading(Volume, doing))


def make_volume(
    project: str,
    name: str,
    *,
    image: str | None,
    keeping: str = "kept",
    size_bytes: int | None = None,
    seconds: int = SECONDS,
) -> Call[ImagingOperation]:
    """Make a volume, of an image or, with None, blank; asked again for the same one, it is the same operation.

    keeping     "kept", or "ephemeral": until its boot or opening ends.
    size_bytes  None: the image's.
    """
    doing = f"making volume {project}/{name}"
    body: Json = {"image": image, "keeping": keeping, "size_bytes": size_bytes, "seconds": seconds}
    return putting(doing, _volume(project, name), body, reading(ImagingOperation, doing))


def resize_volume(project: str, name: str, size_bytes: int, *, seconds: int = SECONDS) -> Call[ImagingOperation]:
    """Let a volume grow."""
    return _work(f"resizing volume {project}/{name}", project, name, "size", size_bytes=size_bytes, seconds=seconds)


def roll_back_volume(project: str, name: str, image: str | None, *, seconds: int = SECONDS) -> Call[ImagingOperation]:
    """Make a volume what an image is; None: the one that it stands on."""
    return _work(f"rolling back volume {project}/{name}", project, name, "roll-back", image=image, seconds=seconds)


def flatten_volume(project: str, name: str, *, seconds: int = LONG_SECONDS) -> Call[ImagingOperation]:
    """Let a volume stand on no image."""
    return _work(f"flattening volume {project}/{name}", project, name, "flatten", seconds=seconds)


def rename_volume(project: str, name: str, new_name: str) -> Call[Volume]:
    """Give a volume another name."""
    doing = f"renaming volume {project}/{name}"
    where = path("projects", project, "volumes", name, "name")
    return Call(doing, "PUT", where, reading(Volume, doing), body={"name": new_name}, repeatable=False)


def set_keeping(project: str, name: str, keeping: str) -> Call[Volume]:
    """Say how long a volume stays: "kept" or "ephemeral"."""
    doing = f"changing volume {project}/{name}"
    where = path("projects", project, "volumes", name, "keeping")
    return putting(doing, where, {"keeping": keeping}, reading(Volume, doing))


def delete_volume(project: str, name: str) -> Call[None]:
    """Delete a volume that nobody uses."""
    return deleting(f"deleting volume {project}/{name}", _volume(project, name))


def read_opening(project: str, name: str) -> Call[Opening]:
    """Ask whom a volume is open for."""
    doing = f"looking for whom volume {project}/{name} is open"
    return Call(doing, "GET", path("projects", project, "volumes", name, "opening"), reading(Opening, doing))


def open_volume(
    project: str, name: str, *, network: str, protocol: str, address: str, seconds: int = SECONDS
) -> Call[ImagingOperation]:
    """Serve a volume to one address of a boot network; protocol: "nbd" or "iscsi"."""
    doing = f"opening volume {project}/{name}"
    return _work(doing, project, name, "opening", network=network, protocol=protocol, address=address, seconds=seconds)


def close_volume(project: str, name: str, *, seconds: int = SECONDS) -> Call[ImagingOperation]:
    """Serve a volume to nobody any more."""
    doing = f"closing volume {project}/{name}"
    where = path("projects", project, "volumes", name, "opening")
    return Call(doing, "DELETE", where, reading(ImagingOperation, doing), query=given(seconds=seconds))


def read_access(project: str, name: str) -> Call[Secret]:
    """Ask for what opens a volume: a document of the form of root.json (docs/formats.md), as the service wrote it."""
    doing = f"reading the access to volume {project}/{name}"

    def read(answer: Answer) -> Secret:
        document = answer.document(doing)
        if not isinstance(document, dict) or document.get("protocol") not in ("nbd", "iscsi"):
            raise MalformedAnswer(doing, expected="access by NBD or iSCSI", found="something else")
        return Secret(answer.body)

    return Call(doing, "GET", path("projects", project, "volumes", name, "access"), read)


# -- what nodes boot ---------------------------------------------------------------------------------------------------


def list_boots(*, project: str | None = None) -> Call[Page[Boot]]:
    """Ask what the nodes of the caller's projects boot, or of one."""
    return listing("listing what nodes boot", path("boots"), Boot, given(project=project))


def read_boot(project: str, node: str) -> Call[Boot]:
    """Ask what a node boots."""
    doing = f"looking for what node {node} boots"
    return Call(doing, "GET", path("projects", project, "boots", node), reading(Boot, doing))


def put_boot(
    project: str, node: str, *, network: str, mac: str, what: WhatToBoot, seconds: int = SECONDS
) -> Call[ImagingOperation]:
    """Say what a node boots from now on. Said again it is another boot: what the last one had open is cut."""
    doing = f"saying what node {node} boots"
    body: Json = {"network": network, "mac": mac, "boot": _boot(what), "seconds": seconds}
    where = path("projects", project, "boots", node)
    # Twice would be two boots, the second of which takes the disk from the first.
    return Call(doing, "PUT", where, reading(ImagingOperation, doing), body=body, repeatable=False)


def end_boot(project: str, node: str, *, seconds: int = SECONDS) -> Call[ImagingOperation]:
    """Give a node nothing any more."""
    doing = f"ending the boot of node {node}"
    where = path("projects", project, "boots", node)
    return Call(
        doing, "DELETE", where, reading(ImagingOperation, doing), query=given(seconds=seconds), repeatable=False
    )


def list_boot_networks() -> Call[Page[BootNetwork]]:
    """Ask on which networks nodes are given what they boot."""
    return listing("listing boot networks", path("boot-networks"), BootNetwork)


# -- quotas and operations ---------------------------------------------------------------------------------------------


def read_storage(project: str) -> Call[Storage]:
    """Ask what a project may have, what it has, and the room that it takes."""
    doing = f"measuring the storage of {project}"
    return Call(doing, "GET", path("projects", project, "storage"), reading(Storage, doing))


def put_storage_quota(project: str, *, images: int, volumes: int, size_bytes: int, version: int) -> Call[Storage]:
    """Say what a project may have; what it has already stays."""
    doing = f"setting the storage quota of {project}"
    body: Json = {"images": images, "volumes": volumes, "size_bytes": size_bytes}
    return putting(doing, path("projects", project, "storage-quota"), body, reading(Storage, doing), version)


def list_operations(
    *, project: str | None = None, verb: str | None = None, state: str | None = None
) -> Call[Page[ImagingOperation]]:
    """Ask for imaging's operations, the oldest first."""
    query = given(project=project, verb=verb, state=state)
    return listing("listing operations", path("imaging", "operations"), ImagingOperation, query)


def read_operation(identifier: str, *, wait_seconds: int = 0) -> Call[ImagingOperation]:
    """Ask how far an operation is; wait for its end as long as given."""
    doing = f"looking for operation {identifier}"
    where = path("imaging", "operations", identifier)
    query = given(wait=waiting(wait_seconds))
    return Call(doing, "GET", where, reading(ImagingOperation, doing), query=query, wait_seconds=wait_seconds)


def cancel_operation(identifier: str) -> Call[ImagingOperation]:
    """Give an operation up, where that is possible."""
    doing = f"cancelling operation {identifier}"
    return Call(doing, "DELETE", path("imaging", "operations", identifier), reading(ImagingOperation, doing))


# -- parts of calls ----------------------------------------------------------------------------------------------------


def _upload(project: str, name: str) -> str:
    return path("projects", project, "uploads", name)


def _image(project: str, name: str) -> str:
    return path("projects", project, "images", name)


def _volume(project: str, name: str) -> str:
    return path("projects", project, "volumes", name)


def _work(doing: str, project: str, name: str, what: str, **body: str | int | None) -> Call[ImagingOperation]:
    where = path("projects", project, "volumes", name, what)
    # While the first is under way, asked for again it would be "in use".
    return Call(doing, "PUT", where, reading(ImagingOperation, doing), body=body, repeatable=False)


def _source(source: Source) -> Json:
    match source:
        case UploadSource(upload, form):
            return {"kind": "upload", "upload": upload, "format": form}
        case UrlSource(url, form):
            return {"kind": "url", "url": url, "format": form}
        case VolumeSource(volume):
            return {"kind": "volume", "volume": volume}
        case ImageSource(image):
            return {"kind": "image", "image": image}


def _boot(what: WhatToBoot) -> Json:
    match what:
        case AirlockBoot(parameters, image):
            return {"kind": "airlock", "parameters": parameters, "image": image}
        case DirectBoot(volume, protocol, command_line, seed):
            return {
                "kind": "direct",
                "volume": volume,
                "protocol": protocol,
                "command_line": command_line,
                "seed": dict(seed),
            }
        case IpxeBoot(volume):
            return {"kind": "ipxe", "volume": volume}
        case DiskBoot():
            return {"kind": "disk"}
