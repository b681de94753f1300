"""What the imaging service tells, as its client sees it: immutable facts of one moment. Digests are hexadecimal."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from steelyard.client.objects import ENDED


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that comes in parts: the next one begins at `received_bytes`."""

    name: str
    project: str
    size_bytes: int
    sha256: str
    received_bytes: int


@dataclass(frozen=True, slots=True)
class BootFile:
    """A file that was found in an image."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ExpectedMeasurement:
    """What booting an image extends a PCR with; digests: bank -> hexadecimal."""

    pcr: int
    what: str
    presence: str
    digests: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class BootFound:
    """What boots of an image: a unified kernel image, or else a kernel."""

    unified: BootFile | None
    kernel: BootFile | None
    initramfs: BootFile | None
    command_line: str | None
    measurements: tuple[ExpectedMeasurement, ...]


@dataclass(frozen=True, slots=True)
class Image:
    """A golden image; what is not known before it is ready is None.

    state        "making" or "ready".
    visibility   "private", "shared" or "public"; shared_with: with these projects.
    sha256       of the disk as a node sees it.
    boot_trouble why nothing was found to boot, where there seemed to be something.
    source       None for other projects than its own.
    signed_by    SHA-256 of the public key that vouched for the file.
    """

    name: str
    project: str
    state: str
    visibility: str
    shared_with: tuple[str, ...]
    sha256: str | None
    size_bytes: int | None
    boot: BootFound | None
    boot_trouble: str | None
    source: str | None
    signed_by: str | None
    made_by: str
    made_at: datetime
    version: int


@dataclass(frozen=True, slots=True)
class Use:
    """Room that something seems to take, and takes."""

    name: str
    apparent_bytes: int
    real_bytes: int


@dataclass(frozen=True, slots=True)
class Density:
    """Room that an image takes, and each of its project's volumes beside it."""

    apparent_bytes: int
    real_bytes: int
    volumes: tuple[Use, ...]


@dataclass(frozen=True, slots=True)
class Opening:
    """A volume that is served to one address of a network; state: "opening", "open", "closing"."""

    network: str
    protocol: str
    address: str
    node: str | None
    state: str


@dataclass(frozen=True, slots=True)
class Volume:
    """A disk for a node.

    state    "making" or "ready".
    keeping  "kept" or "ephemeral".
    image    the one that it stands on, PROJECT/NAME; its id, if one may not know of it any more; None: none.
    """

    name: str
    project: str
    state: str
    keeping: str
    image: str | None
    size_bytes: int
    opening: Opening | None
    made_by: str
    made_at: datetime
    version: int


@dataclass(frozen=True, slots=True)
class BootWhat:
    """What a node boots: kind "airlock", "direct", "ipxe" or "disk"; what a kind does not have is None."""

    kind: str
    parameters: str | None
    image: str | None
    volume: str | None
    protocol: str | None
    command_line: str | None
    seed: Mapping[str, str] | None


@dataclass(frozen=True, slots=True)
class Boot:
    """What a node is given when it asks the network; state: "preparing", "ready", "ending"."""

    node: str
    project: str
    network: str
    mac: str
    address: str
    boot: BootWhat
    state: str
    version: int


@dataclass(frozen=True, slots=True)
class BootNetwork:
    """A network on which nodes are given what they boot.

    address      the service's, with the length of its prefix.
    first, last  the nodes'.
    trouble      what is wrong there.
    """

    name: str
    project: str
    address: str
    first: str
    last: str
    trouble: str | None


@dataclass(frozen=True, slots=True)
class Amount:
    """How many images and volumes, and how large they are together as nodes see them, uploads included."""

    images: int
    volumes: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Storage:
    """What a project may have, what it has, and the room that it seems to take, and takes."""

    project: str
    quota: Amount
    used: Amount
    apparent_bytes: int
    real_bytes: int
    version: int


@dataclass(frozen=True, slots=True)
class ImagingOperation:
    """Work of the imaging service that takes longer than an answer.

    subject     "image/NAME", "volume/NAME", "boot/NODE".
    progress    what it is doing or waiting for, in words; done_bytes of total_bytes, where that can be said.
    cancelling  it was given up, and ends as soon as it hears of that.
    failure     code, expected and found of the error that ended it.
    """

    id: str
    verb: str
    project: str
    subject: str
    actor: str
    state: str
    created: datetime
    deadline: datetime
    ended: datetime | None
    parameters: Mapping[str, str]
    progress: str
    done_bytes: int | None
    total_bytes: int | None
    cancelling: bool
    failure: Mapping[str, str] | None

    @property
    def over(self) -> bool:
        """Whether nothing more comes."""
        return self.state in ENDED

    @property
    def about(self) -> str:
        """What it is done to, in words."""
        return self.subject.replace("/", " ", 1)

    @property
    def place(self) -> tuple[str, ...]:
        """Where it is asked for again, below /v1."""
        return ("imaging", "operations", self.id)
