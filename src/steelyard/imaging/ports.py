"""What imaging needs from the world: a store that keeps images and volumes, and an export that serves volumes to nodes.

Both are stated as ends, not moves: a verb that is asked for twice, or again after a crash, leaves things as one that
is asked for once. Who may ask is not their concern, but the service's, which names things and knows whose they are.
A driver raises, of Steelyard's errors, those that the verbs name, and StorageUnready and StorageFailed from any.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final, Protocol

from steelyard.model.secret import Secret

# -- the store ---------------------------------------------------------------------------------------------------------


class ImageFormat(StrEnum):
    """What a file to be taken in is said to be. It is never guessed: the one who made the file could choose for us."""

    RAW = "raw"
    QCOW2 = "qcow2"


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What holds for an image as long as it lives.

    digest      SHA-256 of the disk as a node sees it, whatever format it came in; 32 bytes.
    size_bytes  of that disk.
    """

    digest: bytes
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Occupancy:
    """How large something seems, and how much room it takes.

    What several share is counted for one of them, or shared out among them: the sum over all is what all take.
    """

    apparent_bytes: int
    real_bytes: int


@dataclass(frozen=True, slots=True)
class ImageFile:
    """The disk of an image: a file, byte for byte, to be read."""

    path: Path


@dataclass(frozen=True, slots=True)
class RawFile:
    """The disk of a volume that is a file, byte for byte."""

    path: Path


@dataclass(frozen=True, slots=True)
class Overlay:
    """The disk of a volume that is a qcow2 file: what differs from `base`, or all of it when there is none."""

    path: Path
    base: ImageFile | None


ImageDisk = ImageFile
"""Where the blocks of an image are."""
VolumeDisk = RawFile | Overlay
"""Where the blocks of a volume are. An image's is not one of these, so that none is served, and written to, by mistake.

A store elsewhere adds kinds of its own to both; exports go by these types alone.
"""


class Watch(Protocol):
    """Is told how far long work is, and may end it."""

    def step(self, done_bytes: int, total_bytes: int) -> None:
        """Hear that so much of the work is done: some times a second, by the thread that asked for it.

        What this raises, `Cancelled` if it is to be told, ends the work, which leaves nothing behind and raises it on.
        The total is of the work, not of the disk, of which parts are read more than once.
        """


class _Unwatched:
    def step(self, done_bytes: int, total_bytes: int) -> None:
        """Let it go on."""


UNWATCHED: Final[Watch] = _Unwatched()
"""For work that nobody asks about."""


class Store(Protocol):
    """Images, which never change, and volumes, each of which began as one.

    Names are `model.names` names. Work on one volume excludes other work on it: whoever comes second gets InUse.
    A volume that an export serves, wherever it runs, is in use; every verb that would pull it from under a node
    refuses with InUse. Reading while it is served is refused as well: it would be of no moment in particular.
    """

    def import_image(
        self, image: str, source: Path, form: ImageFormat, expected: bytes | None, most_bytes: int, watch: Watch
    ) -> ImageFacts:
        """Keep the disk that is in the file `source` as `image`, read-only; nothing of it if anything is wrong.

        expected    SHA-256 of the file as it is, 32 bytes; None if none was announced.
        most_bytes  the largest disk that is taken.

        Asked again for the same disk, returns what is there.

        Raises MalformedImage, WrongDigest, TooLarge, AlreadyThere.
        """

    def copy_image(self, image: str, copy: str) -> ImageFacts:
        """See to it that `copy` is an image of the same disk, in a time that does not grow with its size; return it.

        The two share their blocks as long as both are there, and either outlives the other.

        Raises NotFound, AlreadyThere if it is another disk, InUse.
        """

    def delete_image(self, image: str) -> None:
        """See to it that there is no `image`. Raises InUse while a volume stands on it."""

    def clone(self, image: str, volume: str) -> None:
        """See to it that there is a `volume` that began as `image`, in a time that does not grow with its size.

        One that is there already is left as it is. Raises NotFound, AlreadyThere if it began as something else, InUse.
        """

    def create_volume(self, volume: str, size_bytes: int) -> None:
        """See to it that there is a `volume` that began with this size, a multiple of 512, all of it zeros.

        One of that size that stands on no image is left as it is. Raises AlreadyThere if it is another; WrongUse,
        TooLarge, InUse.
        """

    def snapshot(self, volume: str, image: str, watch: Watch) -> ImageFacts:
        """Keep what is on the `volume` now as an `image` that shares nothing with it, and return it.

        An image of that name that is there already is returned as it is, as what was asked for the first time.
        Raises NotFound, InUse.
        """

    def roll_back(self, volume: str, image: str) -> None:
        """See to it that the `volume` is what `image` is, whatever it was before. Raises NotFound, InUse."""

    def flatten(self, volume: str, watch: Watch) -> None:
        """See to it that the `volume` shares nothing with an image. Raises NotFound, InUse."""

    def resize(self, volume: str, size_bytes: int) -> None:
        """See to it that the `volume` has this size, a multiple of 512. Raises WrongUse if it is larger now: what is
        beyond would be lost; NotFound, InUse, TooLarge.
        """

    def delete_volume(self, volume: str) -> None:
        """See to it that there is no `volume`. Raises InUse."""

    def images(self) -> Mapping[str, ImageFacts]:
        """Return what there is, by name."""

    def volumes(self) -> Mapping[str, str | None]:
        """Return the image that each volume stands on, by the volume's name; None for one that stands on none."""

    def image_occupancy(self, image: str) -> Occupancy:
        """Return the room that `image` takes. Raises NotFound."""

    def volume_occupancy(self, volume: str) -> Occupancy:
        """Return the room that `volume` takes. Raises NotFound."""

    def image_disk(self, image: str) -> ImageDisk:
        """Return where the blocks of `image` are, to be read. Raises NotFound."""

    def volume_disk(self, volume: str) -> VolumeDisk:
        """Return where the blocks of `volume` are, to be served. Raises NotFound."""

    def collect(self) -> None:
        """Take away what work that was cut short has left behind; work that goes on is not disturbed."""


# -- the export --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NbdAccess:
    """All that a node needs to open its volume by NBD over TLS.

    authority    certificate of the authority that signed this export's server and this one client, PEM.
    certificate  the client's, PEM.
    key          of that certificate, PEM.
    """

    address: IPv4Address | IPv6Address
    port: int
    export: str
    authority: bytes
    certificate: bytes
    key: Secret


@dataclass(frozen=True, slots=True)
class IscsiAccess:
    """All that a node needs to open its volume by iSCSI: CHAP with MD5, both ways.

    target            unguessable iSCSI qualified name, new with each opening.
    password          the node proves that it knows it; printable ASCII.
    target_password   the target proves to the node that it knows it.
    """

    address: IPv4Address | IPv6Address
    port: int
    target: str
    lun: int
    user: str
    password: Secret
    target_user: str
    target_password: Secret


Access = NbdAccess | IscsiAccess


@dataclass(frozen=True, slots=True)
class Opening:
    """A volume that is open for a node; `served` is False when its server has died, until the next `restore`."""

    disk: VolumeDisk
    node: IPv4Address | IPv6Address
    served: bool


class Export(Protocol):
    """Serves volumes to nodes, one opening per name.

    What serves an opening lives on when the process that asked for it dies: nodes keep their disks.
    """

    def open(self, name: str, disk: VolumeDisk, node: IPv4Address | IPv6Address) -> Access:
        """Open `disk` for the one that gets what is returned, and return it.

        Each opening has a credential of its own. One of the same name ends first, with its sessions: what a node that
        was killed has left half open never stands in the way of its next boot.

        Raises InUse when the disk is open under another name, or work is done on it.
        """

    def close(self, name: str) -> None:
        """See to it that nothing is open under `name`, sessions that were open cut, and the credential worthless."""

    def openings(self) -> Mapping[str, Opening]:
        """Return what is open, by name."""

    def restore(self) -> None:
        """Serve again what is open and not served, same place, same credential; end what was closing."""
