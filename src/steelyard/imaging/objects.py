"""What imaging keeps in its tables: images, volumes, what is open and for whom, what nodes boot, and work under way.

An id is ours: "i" or "v" and 16 hexadecimal digits, the thing's name in the store. A name is its owner's, one of its
kind in a project, and can be changed; no name reaches a path.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from ipaddress import IPv4Address

from steelyard.evidence.reference.measurement import Measurement
from steelyard.imaging.ports import ImageFormat
from steelyard.model.errors import WrongUse
from steelyard.model.network import MacAddress


@dataclass(frozen=True, slots=True)
class Name:
    """What users call a thing: its project and its name in it, each a `model.names` name."""

    project: str
    name: str

    def __str__(self) -> str:
        return f"{self.project}/{self.name}"


# -- images ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Private:
    """For the project that owns it alone."""


@dataclass(frozen=True, slots=True)
class SharedWith:
    """For its owner and these projects; at least one, or it would be private. Raises WrongUse."""

    projects: frozenset[str]

    def __post_init__(self) -> None:
        if not self.projects:
            raise WrongUse("sharing an image", expected="the projects to share it with, or private", found="none")


@dataclass(frozen=True, slots=True)
class Public:
    """For every project. Written out: never an empty list."""


Visibility = Private | SharedWith | Public


@dataclass(frozen=True, slots=True)
class FromUpload:
    """A file that was uploaded."""

    upload: str
    form: ImageFormat


@dataclass(frozen=True, slots=True)
class FromUrl:
    """A file that the service fetches: http or https, no user or password in it."""

    url: str
    form: ImageFormat


@dataclass(frozen=True, slots=True)
class FromVolume:
    """What is on a volume, that is not open, when the work is done."""

    volume: Name


@dataclass(frozen=True, slots=True)
class FromImage:
    """Another image that the maker may use: the same disk under another name, of an owner of its own."""

    image: Name


Source = FromUpload | FromUrl | FromVolume | FromImage


@dataclass(frozen=True, slots=True)
class BootFile:
    """A file that was found in an image: what is in it, and how long it is."""

    sha256: bytes
    size_bytes: int


@dataclass(frozen=True, slots=True)
class UnifiedKernel:
    """The image boots by a unified kernel image; `measurements` are of its boot by firmware."""

    image: BootFile
    measurements: tuple[Measurement, ...]


@dataclass(frozen=True, slots=True)
class KernelAndInitramfs:
    """The image boots by a kernel; `measurements` are of its boot by the airlock (PCR 13).

    initramfs     None if it has none.
    command_line  None if nothing in the image says what it should be.
    """

    kernel: BootFile
    initramfs: BootFile | None
    command_line: str | None
    measurements: tuple[Measurement, ...]


BootFound = UnifiedKernel | KernelAndInitramfs


@dataclass(frozen=True, slots=True)
class Making:
    """It is being made; nothing can be done with it but wait, or give up."""


@dataclass(frozen=True, slots=True)
class ImageContents:
    """What is in an image that is ready.

    digest      SHA-256 of the disk as a node sees it, 32 bytes.
    size_bytes  of that disk.
    real_bytes  the room that it took when it was made.
    boot        None: nothing that is known boots of it; `boot_trouble` says why if it seemed to.
    """

    digest: bytes
    size_bytes: int
    real_bytes: int
    boot: BootFound | None
    boot_trouble: str | None


@dataclass(frozen=True, slots=True)
class Image:
    """A golden image: it never changes.

    contents   what is in it, once it is ready.
    source     in words, where it is from.
    signed_by  SHA-256 of the public key (32 bytes) whose signature over the file was checked; None: none was asked for.
    """

    id: str
    name: Name
    visibility: Visibility
    contents: ImageContents | Making
    source: str
    signed_by: str | None
    made_by: str
    made_at: datetime
    version: int


# -- volumes -----------------------------------------------------------------------------------------------------------


class Keeping(Enum):
    """How long a volume stays."""

    EPHEMERAL = "ephemeral"
    """Until its boot or opening ends: then it is thrown away."""
    KEPT = "kept"
    """Until it is deleted."""


@dataclass(frozen=True, slots=True)
class Volume:
    """A disk for a node.

    image  the one that it stands on, by id; None: blank, or flattened.
    """

    id: str
    name: Name
    keeping: Keeping
    image: str | None
    size_bytes: int
    ready: bool
    made_by: str
    made_at: datetime
    version: int


class Protocol(Enum):
    """How a volume is served."""

    NBD = "nbd"
    ISCSI = "iscsi"


class OpeningState(Enum):
    """How far an opening is."""

    OPENING = "opening"
    OPEN = "open"
    CLOSING = "closing"


@dataclass(frozen=True, slots=True)
class Opening:
    """A volume that is served, or about to be, to one address of one network. Its credential is in the table, sealed.

    node  whose boot it was opened for; None: it was asked for by itself.
    """

    volume: str
    network: str
    protocol: Protocol
    address: IPv4Address
    node: str | None
    state: OpeningState


# -- what nodes boot ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BootAirlock:
    """The airlock image, with these parameters, to the byte; `image` is what the node may fetch the kernel of."""

    parameters: str
    image: str | None


@dataclass(frozen=True, slots=True)
class BootDirect:
    """The kernel of the image that a volume stands on, with the volume as its root: no word of it is proven.

    command_line  None: as found in the image.
    seed          NoCloud: "meta-data", "user-data" -> text. Not secret: it goes over the network in the clear.
    """

    volume: str
    protocol: Protocol
    command_line: str | None
    seed: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class BootIpxe:
    """What a volume's own boot loader boots, read by iPXE over iSCSI."""

    volume: str


@dataclass(frozen=True, slots=True)
class BootDisk:
    """The node's own disk: it gets an address, and nothing to boot."""


BootWhat = BootAirlock | BootDirect | BootIpxe | BootDisk


class BootState(Enum):
    """How far a boot is."""

    PREPARING = "preparing"
    READY = "ready"
    ENDING = "ending"


@dataclass(frozen=True, slots=True)
class Boot:
    """What a node of a project is given when it asks the network.

    address  the node's, as long as this stands.
    """

    project: str
    node: str
    network: str
    mac: MacAddress
    address: IPv4Address
    what: BootWhat
    state: BootState
    version: int


# -- uploads -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that comes in parts, and can go on where it broke off, until it is used or too old.

    sha256          of the whole file, 32 bytes: said at first, checked when it is used.
    received_bytes  what is there, from the beginning on without a gap.
    """

    id: str
    name: Name
    size_bytes: int
    sha256: bytes
    received_bytes: int
    made_by: str
    used_at: datetime


@dataclass(frozen=True, slots=True)
class Quota:
    """What a project may have: sizes are those that nodes see, of images and volumes and uploads together."""

    images: int
    volumes: int
    size_bytes: int
    version: int


# -- operations --------------------------------------------------------------------------------------------------------


class OperationState(Enum):
    """How far an operation is. The last three are ends."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing more comes."""
        return self in (OperationState.DONE, OperationState.FAILED, OperationState.CANCELLED)


class Verb(Enum):
    """What an operation does; the subject is the image, volume or node."""

    MAKE_IMAGE = "make-image"
    MAKE_VOLUME = "make-volume"
    RESIZE = "resize"
    ROLL_BACK = "roll-back"
    FLATTEN = "flatten"
    OPEN = "open"
    CLOSE = "close"
    BOOT = "boot"
    END_BOOT = "end-boot"


@dataclass(frozen=True, slots=True)
class Operation:
    """Work that takes longer than an answer.

    subject   "image/NAME", "volume/NAME", "boot/NODE", as it was called when the work was asked for.
    target    the id of the image or volume, or the node: what the work is on.
    progress  what it is doing or waiting for, in words; done_bytes of total_bytes, where that can be said.
    failure   code, expected and found of the error that ended it.
    """

    id: str
    verb: Verb
    project: str
    subject: str
    target: str
    actor: str
    state: OperationState
    created: datetime
    deadline: datetime
    ended: datetime | None
    parameters: Mapping[str, str]
    progress: str
    done_bytes: int | None
    total_bytes: int | None
    cancelling: bool
    failure: Mapping[str, str] | None = field(default=None)
