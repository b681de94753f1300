"""What imaging's API takes and tells, as JSON: Pydantic's, and nothing behind the edge knows of it.

What is taken is bounded here in size and shape; what it means is judged by the verbs.
"""

from datetime import datetime
from ipaddress import IPv4Address
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, StringConstraints

from steelyard.imaging import objects
from steelyard.imaging.netboot.plan import BootNetwork
from steelyard.imaging.objects import (
    BootAirlock,
    BootDirect,
    BootDisk,
    BootFound,
    BootIpxe,
    BootState,
    BootWhat,
    FromImage,
    FromUpload,
    FromUrl,
    FromVolume,
    ImageContents,
    Keeping,
    KernelAndInitramfs,
    Name,
    OpeningState,
    OperationState,
    Private,
    Protocol,
    Public,
    SharedWith,
    Source,
    UnifiedKernel,
    Verb,
    Visibility,
)
from steelyard.imaging.ports import ImageFormat, Occupancy
from steelyard.imaging.signature import SignedFile, verify_image_signature
from steelyard.imaging.views import ImageView, VolumeView
from steelyard.model.errors import WrongUse
from steelyard.model.limits import (
    COMMAND_LINE_BYTES,
    IMAGE_BYTES,
    MANIFEST_BYTES,
    OPERATION_SECONDS,
    PARAMETERS_BYTES,
    PUBLIC_KEY_BYTES,
    QUOTA,
    SEED_BYTES,
    SHARED_PROJECTS,
    URL_CHARACTERS,
)
from steelyard.service.http import Input

SECONDS: Final = 300
"""How long quick work may take, if nothing else is said."""
LONG_SECONDS: Final = 4 * 3600
"""How long work that reads or writes a whole disk may take, if nothing else is said."""
SHA256_PATTERN: Final = r"^[0-9a-f]{64}$"

Word = Annotated[str, StringConstraints(min_length=1, max_length=63)]
Reference = Annotated[str, StringConstraints(min_length=1, max_length=127)]
"""PROJECT/NAME, or NAME of the project that the path names."""
Sha256 = Annotated[str, StringConstraints(pattern=SHA256_PATTERN)]
Size = Annotated[int, Field(strict=True, ge=1, le=IMAGE_BYTES.most)]
Count = Annotated[int, Field(strict=True, ge=0, le=QUOTA.most)]
Bytes = Annotated[int, Field(strict=True, ge=0, le=2**62)]
Seconds = Annotated[int, Field(strict=True, ge=1, le=OPERATION_SECONDS.most)]
VisibilityWord = Literal["private", "shared", "public"]
Projects = Annotated[list[Word], Field(max_length=SHARED_PROJECTS.most)]
SeedText = Annotated[str, StringConstraints(max_length=SEED_BYTES.most)]


def name_of(reference: str, project: str) -> Name:
    """Return what a reference names; NAME alone is of `project`."""
    owner, slash, name = reference.rpartition("/")
    return Name(owner if slash else project, name)


# -- uploads -----------------------------------------------------------------------------------------------------------


class UploadInput(Input):
    """A file that is to come in parts."""

    size_bytes: Size
    sha256: Sha256


class UploadBody(BaseModel):
    """A file that comes in parts: the next one begins at `received_bytes`."""

    name: str
    project: str
    size_bytes: int
    sha256: str
    received_bytes: int


# -- images ------------------------------------------------------------------------------------------------------------


class UploadSource(Input):
    """A file that was uploaded."""

    kind: Literal["upload"]
    upload: Word
    format: ImageFormat


class UrlSource(Input):
    """A file that the service fetches: http or https, no user or password in it."""

    kind: Literal["url"]
    url: Annotated[str, StringConstraints(min_length=1, max_length=URL_CHARACTERS.most)]
    format: ImageFormat


class VolumeSource(Input):
    """What is on a volume that is not open."""

    kind: Literal["volume"]
    volume: Reference


class ImageSource(Input):
    """Another image that the caller may use."""

    kind: Literal["image"]
    image: Reference


class SignatureInput(Input):
    """Who vouches for the file: a DSSE envelope, as text, and the key that must have signed it (Ed25519, PEM)."""

    envelope: Annotated[str, StringConstraints(max_length=MANIFEST_BYTES.most)]
    key: Annotated[str, StringConstraints(max_length=PUBLIC_KEY_BYTES.most)]


class VisibilityInput(Input):
    """For whom an image is."""

    visibility: VisibilityWord
    shared_with: Projects = Field(default_factory=list)

    def visibility_of(self) -> Visibility:
        """Return it as the verbs take it. Raises WrongUse."""
        if self.visibility == "shared":
            return SharedWith(frozenset(self.shared_with))
        if self.shared_with:
            expected = f"no projects beside {self.visibility!r}"
            raise WrongUse("sharing an image", expected=expected, found=", ".join(self.shared_with))
        return Private() if self.visibility == "private" else Public()


class ImageInput(VisibilityInput):
    """An image, and what it is to be made of. `sha256` and `signature` are of a file, as it is sent or fetched."""

    source: Annotated[UploadSource | UrlSource | VolumeSource | ImageSource, Field(discriminator="kind")]
    sha256: Sha256 | None = None
    signature: SignatureInput | None = None
    visibility: VisibilityWord = "private"
    seconds: Seconds = LONG_SECONDS

    def source_of(self, project: str) -> Source:
        """Return it as the verbs take it. Raises WrongUse."""
        match self.source:
            case UploadSource() as source:
                return FromUpload(source.upload, source.format)
            case UrlSource() as source:
                return FromUrl(_checked_url(source.url), source.format)
            case VolumeSource() as source:
                self._check_no_file("a volume")
                return FromVolume(name_of(source.volume, project))
            case ImageSource() as source:
                self._check_no_file("an image")
                return FromImage(name_of(source.image, project))

    def signed(self) -> SignedFile | None:
        """Return what was vouched for. Raises MalformedReference, MalformedKey, ReferenceRejected."""
        if self.signature is None:
            return None
        return verify_image_signature(self.signature.envelope.encode(), self.signature.key.encode())

    def _check_no_file(self, what: str) -> None:
        if self.sha256 is not None or self.signature is not None:
            expected = f"no digest or signature, as {what} is no file"
            raise WrongUse("announcing an image", expected=expected, found="one")


def _checked_url(url: str) -> str:
    """Return an address that can be fetched, and shown: whoever sees the image sees it. Raises WrongUse."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    # What urlsplit would drop or split elsewhere than another reader of addresses.
    good = good and url.isascii() and url.isprintable() and not set(url) & set(" \\#")
    if not good or "@" in urlsplit(url).netloc:
        expected = "http:// or https://, a host, no user, password or fragment"
        raise WrongUse("reading the address of an image", expected=expected, found="another")
    return url


class BootFileBody(BaseModel):
    """A file that was found in an image."""

    sha256: str
    size_bytes: int


class MeasurementBody(BaseModel):
    """What booting it extends a PCR with: bank -> digest, hexadecimal."""

    pcr: int
    what: str
    presence: str
    digests: dict[str, str]


class BootFoundBody(BaseModel):
    """What boots of an image: a unified kernel image, or a kernel (null: not that), and what it measures to."""

    unified: BootFileBody | None
    kernel: BootFileBody | None
    initramfs: BootFileBody | None
    command_line: str | None
    measurements: list[MeasurementBody]


class ImageBody(BaseModel):
    """A golden image. What is not known before it is ready is null.

    source: null for other projects than its own; shared_with: those of them that the caller may know of.
    """

    name: str
    project: str
    state: Literal["making", "ready"]
    visibility: VisibilityWord
    shared_with: list[str]
    sha256: str | None
    size_bytes: int | None
    boot: BootFoundBody | None
    boot_trouble: str | None
    source: str | None
    signed_by: str | None
    made_by: str
    made_at: datetime
    version: int


class NameInput(Input):
    """A new name in the same project."""

    name: Word


class UseBody(BaseModel):
    """Room that something takes."""

    name: str
    apparent_bytes: int
    real_bytes: int


class DensityBody(BaseModel):
    """Room that an image takes, and each of the project's volumes that stand on it takes beside it."""

    apparent_bytes: int
    real_bytes: int
    volumes: list[UseBody]


# -- volumes -----------------------------------------------------------------------------------------------------------


class VolumeInput(Input):
    """A volume. `image` null: blank, of `size_bytes`; `size_bytes` null: the image's."""

    image: Reference | None
    keeping: Keeping = Keeping.KEPT
    size_bytes: Size | None = None
    seconds: Seconds = SECONDS

    def image_name(self, project: str) -> Name | None:
        """Return it as the verbs take it."""
        return None if self.image is None else name_of(self.image, project)


class SizeInput(Input):
    """How large a volume is to be."""

    size_bytes: Size
    seconds: Seconds = SECONDS


class RollBackInput(Input):
    """What a volume is to be again; null: the image that it stands on."""

    image: Reference | None = None
    seconds: Seconds = SECONDS

    def image_name(self, project: str) -> Name | None:
        """Return it as the verbs take it."""
        return None if self.image is None else name_of(self.image, project)


class FlattenInput(Input):
    """How long it may take."""

    seconds: Seconds = LONG_SECONDS


class KeepingInput(Input):
    """How long a volume stays."""

    keeping: Keeping


class OpeningInput(Input):
    """Whom a volume is to be served to, and how."""

    network: Word
    protocol: Protocol
    address: IPv4Address
    seconds: Seconds = SECONDS


class OpeningBody(BaseModel):
    """A volume that is served to one address, or about to be."""

    network: str
    protocol: Protocol
    address: str
    node: str | None
    state: OpeningState


class VolumeBody(BaseModel):
    """A disk for a node. `image`: PROJECT/NAME; its id, if it is not the caller's to know of any more."""

    name: str
    project: str
    state: Literal["making", "ready"]
    keeping: Keeping
    image: str | None
    size_bytes: int
    opening: OpeningBody | None
    made_by: str
    made_at: datetime
    version: int


class NbdAccessBody(BaseModel):
    """All that opens a volume by NBD over TLS; PEM. The form is root.json's in docs/formats.md."""

    protocol: Literal["nbd"]
    address: str
    port: int
    export: str
    authority: str
    certificate: str
    key: str


class IscsiAccessBody(BaseModel):
    """All that opens a volume by iSCSI, with CHAP both ways. The form is root.json's in docs/formats.md."""

    protocol: Literal["iscsi"]
    address: str
    port: int
    target: str
    lun: int
    user: str
    password: str
    target_user: str
    target_password: str


AccessBody = Annotated[NbdAccessBody | IscsiAccessBody, Field(discriminator="protocol")]


# -- what nodes boot ---------------------------------------------------------------------------------------------------


class AirlockInput(Input):
    """The airlock image with these parameters; `image`: what the node may fetch kernel and initramfs of."""

    kind: Literal["airlock"]
    parameters: Annotated[str, StringConstraints(max_length=PARAMETERS_BYTES.most)]
    image: Reference | None = None


class SeedInput(Input):
    """A NoCloud seed. It goes over the network in the clear."""

    meta_data: SeedText | None = Field(default=None, alias="meta-data")
    user_data: SeedText | None = Field(default=None, alias="user-data")


class DirectInput(Input):
    """The kernel of the image that a volume stands on, the volume as its root. `command_line` null: the image's."""

    kind: Literal["direct"]
    volume: Word
    protocol: Protocol = Protocol.NBD
    command_line: Annotated[str, StringConstraints(max_length=COMMAND_LINE_BYTES.most)] | None = None
    seed: SeedInput = Field(default_factory=SeedInput)


class IpxeInput(Input):
    """What a volume's own boot loader boots, over iSCSI."""

    kind: Literal["ipxe"]
    volume: Word


class DiskInput(Input):
    """The node's own disk."""

    kind: Literal["disk"]


class BootInput(Input):
    """What a node boots, and by which of its cards."""

    network: Word
    mac: Word
    boot: Annotated[AirlockInput | DirectInput | IpxeInput | DiskInput, Field(discriminator="kind")]
    seconds: Seconds = SECONDS

    def what(self) -> BootWhat:
        """Return it as the verbs take it: with names."""
        match self.boot:
            case AirlockInput() as boot:
                return BootAirlock(boot.parameters, boot.image)
            case DirectInput() as boot:
                seed = boot.seed.model_dump(by_alias=True, exclude_none=True)
                return BootDirect(boot.volume, boot.protocol, boot.command_line, seed)
            case IpxeInput() as boot:
                return BootIpxe(boot.volume)
            case DiskInput():
                return BootDisk()


class BootWhatBody(BaseModel):
    """What a node boots; what a kind does not have is null."""

    kind: Literal["airlock", "direct", "ipxe", "disk"]
    parameters: str | None = None
    image: str | None = None
    volume: str | None = None
    protocol: Protocol | None = None
    command_line: str | None = None
    seed: dict[str, str] | None = None


class BootBody(BaseModel):
    """What a node is given when it asks the network, and the address that is its own as long as this stands."""

    node: str
    project: str
    network: str
    mac: str
    address: str
    boot: BootWhatBody
    state: BootState
    version: int


class BootNetworkBody(BaseModel):
    """A network on which nodes are given what they boot; `trouble`: what is wrong with the service's foot on it."""

    name: str
    project: str
    address: str
    first: str
    last: str
    trouble: str | None


# -- quotas and operations ---------------------------------------------------------------------------------------------


class QuotaInput(Input):
    """The most that a project may have."""

    images: Count
    volumes: Count
    size_bytes: Bytes


class QuotaBody(BaseModel):
    """How many images and volumes, and how large they are together as nodes see them, uploads included."""

    images: int
    volumes: int
    size_bytes: int


class StorageBody(BaseModel):
    """What a project may have, what it has, and the room that its images and volumes take."""

    project: str
    quota: QuotaBody
    used: QuotaBody
    apparent_bytes: int
    real_bytes: int
    version: int


class OperationBody(BaseModel):
    """Work that takes longer than an answer. done_bytes of total_bytes: how far it is, where that can be said."""

    id: str
    verb: Verb
    project: str
    subject: str
    actor: str
    state: OperationState
    created: datetime
    deadline: datetime
    ended: datetime | None
    parameters: dict[str, str]
    progress: str
    done_bytes: int | None
    total_bytes: int | None
    cancelling: bool
    failure: dict[str, str] | None


# -- objects, as they are told -----------------------------------------------------------------------------------------


def upload_body(upload: objects.Upload) -> UploadBody:
    """Return an upload as it is told."""
    return UploadBody(
        name=upload.name.name,
        project=upload.name.project,
        size_bytes=upload.size_bytes,
        sha256=upload.sha256.hex(),
        received_bytes=upload.received_bytes,
    )


def image_body(view: ImageView) -> ImageBody:
    """Return an image as it is told."""
    image = view.image
    word, shared_with = _visibility_words(view.visibility)
    contents = image.contents if isinstance(image.contents, ImageContents) else None
    return ImageBody(
        name=image.name.name,
        project=image.name.project,
        state="making" if contents is None else "ready",
        visibility=word,
        shared_with=shared_with,
        sha256=None if contents is None else contents.digest.hex(),
        size_bytes=None if contents is None else contents.size_bytes,
        boot=None if contents is None or contents.boot is None else _boot_found(contents.boot),
        boot_trouble=None if contents is None else contents.boot_trouble,
        source=view.source,
        signed_by=image.signed_by,
        made_by=image.made_by,
        made_at=image.made_at,
        version=image.version,
    )


def _visibility_words(visibility: Visibility) -> tuple[VisibilityWord, list[str]]:
    match visibility:
        case Private():
            return "private", []
        case SharedWith(projects):
            return "shared", sorted(projects)
        case Public():
            return "public", []


def _boot_found(boot: BootFound) -> BootFoundBody:
    measurements = [
        MeasurementBody(
            pcr=each.pcr,
            what=each.what,
            presence=each.presence.value,
            digests={bank.label: digest.hex() for bank, digest in each.digests.items()},
        )
        for each in boot.measurements
    ]
    match boot:
        case UnifiedKernel(image):
            return BootFoundBody(
                unified=_boot_file(image), kernel=None, initramfs=None, command_line=None, measurements=measurements
            )
        case KernelAndInitramfs(kernel, initramfs, command_line):
            return BootFoundBody(
                unified=None,
                kernel=_boot_file(kernel),
                initramfs=None if initramfs is None else _boot_file(initramfs),
                command_line=command_line,
                measurements=measurements,
            )


def _boot_file(file: objects.BootFile) -> BootFileBody:
    return BootFileBody(sha256=file.sha256.hex(), size_bytes=file.size_bytes)


def use_body(name: str, occupancy: Occupancy) -> UseBody:
    """Return the room that something takes as it is told."""
    return UseBody(name=name, apparent_bytes=occupancy.apparent_bytes, real_bytes=occupancy.real_bytes)


def volume_body(view: VolumeView) -> VolumeBody:
    """Return a volume as it is told."""
    volume = view.volume
    return VolumeBody(
        name=volume.name.name,
        project=volume.name.project,
        state="ready" if volume.ready else "making",
        keeping=volume.keeping,
        image=view.image,
        size_bytes=volume.size_bytes,
        opening=None if view.opening is None else opening_body(view.opening),
        made_by=volume.made_by,
        made_at=volume.made_at,
        version=volume.version,
    )


def opening_body(opening: objects.Opening) -> OpeningBody:
    """Return an opening as it is told: never with its credential."""
    return OpeningBody(
        network=opening.network,
        protocol=opening.protocol,
        address=str(opening.address),
        node=opening.node,
        state=opening.state,
    )


def boot_body(boot: objects.Boot, what: BootWhat) -> BootBody:
    """Return a boot as it is told; `what` with names."""
    return BootBody(
        node=boot.node,
        project=boot.project,
        network=boot.network,
        mac=boot.mac.text,
        address=str(boot.address),
        boot=_boot_what(what),
        state=boot.state,
        version=boot.version,
    )


def _boot_what(what: BootWhat) -> BootWhatBody:
    match what:
        case BootAirlock(parameters, image):
            return BootWhatBody(kind="airlock", parameters=parameters, image=image)
        case BootDirect(volume, protocol, command_line, seed):
            return BootWhatBody(
                kind="direct", volume=volume, protocol=protocol, command_line=command_line, seed=dict(seed)
            )
        case BootIpxe(volume):
            return BootWhatBody(kind="ipxe", volume=volume, protocol=Protocol.ISCSI)
        case BootDisk():
            return BootWhatBody(kind="disk")


def boot_network_body(network: BootNetwork, trouble: str | None) -> BootNetworkBody:
    """Return a boot network as it is told."""
    return BootNetworkBody(
        name=network.name,
        project=network.project,
        address=str(network.address),
        first=str(network.first),
        last=str(network.last),
        trouble=trouble,
    )


def quota_body(quota: objects.Quota) -> QuotaBody:
    """Return how much as it is told."""
    return QuotaBody(images=quota.images, volumes=quota.volumes, size_bytes=quota.size_bytes)


def operation_body(operation: objects.Operation) -> OperationBody:
    """Return an operation as it is told."""
    return OperationBody(
        id=operation.id,
        verb=operation.verb,
        project=operation.project,
        subject=operation.subject,
        actor=operation.actor,
        state=operation.state,
        created=operation.created,
        deadline=operation.deadline,
        ended=operation.ended,
        parameters=dict(operation.parameters),
        progress=operation.progress,
        done_bytes=operation.done_bytes,
        total_bytes=operation.total_bytes,
        cancelling=operation.cancelling,
        failure=None if operation.failure is None else dict(operation.failure),
    )
