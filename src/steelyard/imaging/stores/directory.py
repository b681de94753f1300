"""A store that is a directory: images as plain files, volumes as qcow2 files that hold what differs from their image.

An image is kept raw and sparse, not as the qcow2 that it may have come as: what a stranger made of a complicated format
is read once, confined, and never again by what serves volumes; and what is handed out is what was digested.

    images/NAME/disk.raw, facts.json    published by one rename, never written again
    volumes/NAME.qcow2                  names its image relative to itself: the directory may be moved
    work/                               what is being made; of a process that died, what `collect` takes away
    locks                               who works on what

Several processes of one computer may use the directory at once; a network file system without locks would lose volumes.
"""

import errno
import hashlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from steelyard.imaging.files import clear_workplaces, make_directory, move, needing_room, sync, workplace, write_file
from steelyard.imaging.locks import Hold, holding, keeping_away, keeping_still
from steelyard.imaging.partitions import HEAD_BYTES, parse_partitions
from steelyard.imaging.ports import ImageFacts, ImageFile, ImageFormat, Occupancy, Overlay
from steelyard.imaging.qcow2 import MAGIC, Qcow2Head, parse_qcow2_head
from steelyard.imaging.tools import Outcome, parse_json, read_output, run, run_confined
from steelyard.model.errors import (
    AlreadyThere,
    InUse,
    MalformedImage,
    NotFound,
    StorageFailed,
    StorageUnready,
    TooLarge,
    WrongDigest,
    WrongUse,
)
from steelyard.model.limits import IMAGE_BYTES, QCOW2_HEADER_BYTES, TOOL_OUTPUT_BYTES
from steelyard.model.names import check_name

_QUICK_SECONDS: Final = 30
"""For what takes some ten milliseconds."""
_COPY_SECONDS: Final = 6 * 3600
"""For what reads all of a disk: 1 TiB at 50 MB/s."""
_CHUNK_BYTES: Final = 1024 * 1024
_ZEROS: Final = bytes(_CHUNK_BYTES)

_OTHER_FORMATS: Final = {
    MAGIC: "a qcow2 file",
    b"\x1f\x8b": "a gzip file",
    b"\xfd7zXZ\0": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"BZh": "a bzip2 file",
    b"PK\x03\x04": "a zip file",
    b"KDMV": "a VMDK file",
    b"vhdxfile": "a VHDX file",
    b"<": "a page of HTML or XML",
}
"""How files begin that are taken for raw disks by mistake: no boot sector begins so."""


class DirectoryStore:
    """The `Store` in the directory `root`, which is made if it is not there."""

    def __init__(self, root: Path) -> None:
        root = root.absolute()
        self._images, self._volumes = root / "images", root / "volumes"
        self._work, self._locks = root / "work", root / "locks"
        for directory in (root, self._images, self._volumes, self._work):
            make_directory(directory)

    # -- images --------------------------------------------------------------------------------------------------------

    def import_image(
        self, image: str, source: Path, form: ImageFormat, expected: bytes | None, most_bytes: int
    ) -> ImageFacts:
        """See `Store`."""
        doing = f"taking in the image {check_name(image, 'image')}"
        with self._holding("image", image, Hold.ALONE, doing), workplace(self._work) as place:
            _check_source(doing, source, expected)
            size = _check_format(doing, source, form)
            if size > min(most_bytes, IMAGE_BYTES.most):
                raise TooLarge(doing, expected=f"a disk of at most {most_bytes} bytes", found=f"{size}")
            made = place / "image"
            made.mkdir(mode=0o700)
            _unpack(doing, source, form, made, size)
            return self._publish(doing, image, made, size)

    def snapshot(self, volume: str, image: str) -> ImageFacts:
        """See `Store`."""
        doing = f"making an image {check_name(image, 'image')} of the volume {check_name(volume, 'volume')}"
        with (
            self._holding("volume", volume, Hold.ALONE, doing),
            self._holding("image", image, Hold.ALONE, doing),
            workplace(self._work) as place,
        ):
            if (there := self._facts(image)) is not None:
                return there
            size = self._head(volume, doing).size_bytes
            made = place / "image"
            made.mkdir(mode=0o700)
            with keeping_still(self._volume(volume), doing):
                _convert(doing, self._volume(volume), "raw", made / "disk.raw")
            return self._publish(doing, image, made, size)

    def _publish(self, doing: str, image: str, made: Path, size: int) -> ImageFacts:
        """Make what is in `made` the image, whole or not at all."""
        disk = made / "disk.raw"
        disk.chmod(0o400)
        if disk.stat().st_size != size:
            raise StorageFailed(doing, expected=f"a disk of {size} bytes", found=f"{disk.stat().st_size}")
        with disk.open("rb") as file:
            parse_partitions(file.read(HEAD_BYTES), size)
        facts = ImageFacts(_digest(disk), size)
        write_file(made / "facts.json", _facts_to_bytes(facts))
        sync(disk)
        sync(made)
        there = self._facts(image)
        if there is None:
            move(made, self._images / image)
        elif there != facts:
            raise AlreadyThere(doing, expected="no image of that name, or the same one", found=f"{there.digest.hex()}")
        return facts

    def delete_image(self, image: str) -> None:
        """See `Store`."""
        doing = f"deleting the image {check_name(image, 'image')}"
        with self._holding("image", image, Hold.ALONE, doing), workplace(self._work) as place:
            if self._facts(image) is None:
                return
            users = [volume for volume, base in self.volumes().items() if base == image]
            if users:
                raise InUse(doing, expected="no volume that stands on it", found=f"{len(users)}, {min(users)} is one")
            with keeping_away(self._image(image).path, doing):
                move(self._images / image, place / "image")
                sync(self._images)

    def images(self) -> Mapping[str, ImageFacts]:
        """See `Store`."""
        found = {path.name: self._facts(path.name) for path in self._images.iterdir()}
        return {name: facts for name, facts in found.items() if facts is not None}

    def image_occupancy(self, image: str) -> Occupancy:
        """See `Store`."""
        size = self._image_facts(image, "measuring an image").size_bytes
        return self._occupancy(self._image(image).path, size)

    def image_disk(self, image: str) -> ImageFile:
        """See `Store`."""
        self._image_facts(image, "looking for an image")
        return self._image(image)

    # -- volumes -------------------------------------------------------------------------------------------------------

    def clone(self, image: str, volume: str) -> None:
        """See `Store`."""
        doing = f"making a volume {check_name(volume, 'volume')} of the image {check_name(image, 'image')}"
        with self._making(image, volume, doing) as made:
            if not self._volume(volume).exists():
                move(made, self._volume(volume))
            elif self._base(self._head(volume, doing)) != image:
                raise AlreadyThere(doing, expected="no volume of that name, or a clone of that image", found="another")

    def roll_back(self, volume: str, image: str) -> None:
        """See `Store`."""
        doing = f"rolling the volume {check_name(volume, 'volume')} back to {check_name(image, 'image')}"
        with self._making(image, volume, doing) as made, keeping_away(self._volume(volume), doing):
            move(made, self._volume(volume))

    @contextmanager
    def _making(self, image: str, volume: str, doing: str) -> Iterator[Path]:
        """Make a clone of the `image`, for the caller to put in its place; both are held until done."""
        with (
            self._holding("volume", volume, Hold.ALONE, doing),
            self._holding("image", image, Hold.SHARED, doing),
            workplace(self._work) as place,
        ):
            size = self._image_facts(image, doing).size_bytes
            made = place / "volume.qcow2"
            # QEMU need not open the base (-u), as its format and size are known.
            create = ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-F", "raw", "-b", _base_name(image)]
            run(doing, [*create, str(made), str(size)], _QUICK_SECONDS)
            made.chmod(0o600)
            sync(made)
            yield made

    def flatten(self, volume: str) -> None:
        """See `Store`."""
        doing = f"flattening the volume {check_name(volume, 'volume')}"
        with self._holding("volume", volume, Hold.ALONE, doing), workplace(self._work) as place:
            if self._head(volume, doing).backing_file is None:
                return
            made = place / "volume.qcow2"
            # Nobody writes to the old file until the new one is in its place.
            with keeping_still(self._volume(volume), doing):
                _convert(doing, self._volume(volume), "qcow2", made)
                made.chmod(0o600)
                sync(made)
                move(made, self._volume(volume))

    def resize(self, volume: str, size_bytes: int) -> None:
        """See `Store`."""
        doing = f"resizing the volume {check_name(volume, 'volume')}"
        if size_bytes % 512:
            raise WrongUse(doing, expected="a multiple of 512 bytes", found=f"{size_bytes}")
        if size_bytes > IMAGE_BYTES.most:
            raise TooLarge(doing, expected=f"at most {IMAGE_BYTES.most} bytes", found=f"{size_bytes}")
        with self._holding("volume", volume, Hold.ALONE, doing):
            now = self._head(volume, doing).size_bytes
            if size_bytes < now:
                raise WrongUse(doing, expected=f"at least the {now} bytes that it has", found=f"{size_bytes}")
            with keeping_away(self._volume(volume), doing):
                pass  # and what comes in between now and QEMU's own look is refused by QEMU, in its words
            path = str(self._volume(volume))
            run(doing, ["qemu-img", "resize", "-q", "-f", "qcow2", path, str(size_bytes)], _QUICK_SECONDS)
            sync(self._volume(volume))

    def delete_volume(self, volume: str) -> None:
        """See `Store`."""
        doing = f"deleting the volume {check_name(volume, 'volume')}"
        with self._holding("volume", volume, Hold.ALONE, doing):
            if not self._volume(volume).exists():
                return
            with keeping_away(self._volume(volume), doing):
                self._volume(volume).unlink()
                sync(self._volumes)

    def volumes(self) -> Mapping[str, str | None]:
        """See `Store`."""
        found = {}
        for path in self._volumes.iterdir():
            try:
                head = self._head(path.stem, "listing the volumes")
            except NotFound:
                continue
            found[path.stem] = self._base(head)
        return found

    def volume_occupancy(self, volume: str) -> Occupancy:
        """See `Store`."""
        size = self._head(check_name(volume, "volume"), "measuring a volume").size_bytes
        return self._occupancy(self._volume(volume), size)

    def volume_disk(self, volume: str) -> Overlay:
        """See `Store`."""
        base = self._base(self._head(check_name(volume, "volume"), "looking for a volume"))
        return Overlay(self._volume(volume), None if base is None else self._image(base))

    # -- both ----------------------------------------------------------------------------------------------------------

    def collect(self) -> None:
        """See `Store`."""
        clear_workplaces(self._work)

    @contextmanager
    def _holding(self, what: str, name: str, hold: Hold, doing: str) -> Iterator[None]:
        with holding(self._locks, f"{what} {name}", hold, doing), needing_room(doing):
            yield

    def _image(self, image: str) -> ImageFile:
        return ImageFile(self._images / image / "disk.raw")

    def _volume(self, volume: str) -> Path:
        return self._volumes / f"{volume}.qcow2"

    def _facts(self, image: str) -> ImageFacts | None:
        try:
            return _facts_from_bytes((self._images / check_name(image, "image") / "facts.json").read_bytes())
        except FileNotFoundError:
            return None

    def _image_facts(self, image: str, doing: str) -> ImageFacts:
        facts = self._facts(image)
        if facts is None:
            raise NotFound(doing, expected=f"an image {image}", found="none of that name")
        return facts

    def _head(self, volume: str, doing: str) -> Qcow2Head:
        try:
            with self._volume(volume).open("rb") as file:
                return parse_qcow2_head(file.read(QCOW2_HEADER_BYTES.most), os.fstat(file.fileno()).st_size)
        except FileNotFoundError as error:
            raise NotFound(doing, expected=f"a volume {volume}", found="none of that name") from error

    @staticmethod
    def _base(head: Qcow2Head) -> str | None:
        if head.backing_file is None:
            return None
        match = _BASE_NAME.fullmatch(head.backing_file)
        if match is None:
            raise StorageFailed("reading a volume", expected="an image as its base", found=f"{head.backing_file!r}")
        return match[1].decode("ascii")

    @staticmethod
    def _occupancy(path: Path, size: int) -> Occupancy:
        return Occupancy(apparent_bytes=size, real_bytes=path.stat().st_blocks * 512)


_BASE_NAME: Final = re.compile(rb"\.\./images/([a-z0-9._-]+)/disk\.raw")


def _base_name(image: str) -> str:
    return f"../images/{image}/disk.raw"


def _facts_to_bytes(facts: ImageFacts) -> bytes:
    return json.dumps({"digest": facts.digest.hex(), "size_bytes": facts.size_bytes}).encode()


def _facts_from_bytes(data: bytes) -> ImageFacts:
    document = parse_json("reading what holds for an image", data)
    match document:
        case {"digest": str(digest), "size_bytes": int(size), **rest} if not rest and len(digest) == 64:
            return ImageFacts(bytes.fromhex(digest), size)
    raise StorageFailed("reading what holds for an image", expected="a digest and a size", found=f"{data[:100]!r}")


# -- taking in a stranger's file ---------------------------------------------------------------------------------------


def _check_source(doing: str, source: Path, expected: bytes | None) -> None:
    try:
        kind = source.lstat().st_mode
    except OSError as error:
        raise WrongUse(doing, expected="a file that can be read", found=f"{source}: {error.strerror}") from error
    if not stat.S_ISREG(kind):
        raise WrongUse(doing, expected="a plain file", found=f"{source}, a {stat.filemode(kind)}")
    if expected is not None and (found := _digest(source)) != expected:
        raise WrongDigest(doing, expected=f"SHA-256 {expected.hex()}", found=found.hex())


def _check_format(doing: str, source: Path, form: ImageFormat) -> int:
    """Return the size of the disk that is in the file. Raises MalformedImage."""
    file_bytes = source.stat().st_size
    with source.open("rb") as file:
        head = file.read(QCOW2_HEADER_BYTES.most)
    if form is ImageFormat.QCOW2:
        parsed = parse_qcow2_head(head, file_bytes)
        if parsed.backing_file is not None:
            raise MalformedImage(
                doing, expected="a disk that is whole in itself", found=f"one on {parsed.backing_file!r}"
            )
        return parsed.size_bytes
    for magic, what in _OTHER_FORMATS.items():
        if head.startswith(magic):
            raise MalformedImage(doing, expected="a raw disk, as was said", found=what)
    if file_bytes == 0 or file_bytes % 512:
        raise MalformedImage(doing, expected="whole blocks of 512 bytes, at least one", found=f"{file_bytes} bytes")
    return file_bytes


def _unpack(doing: str, source: Path, form: ImageFormat, made: Path, size: int) -> None:
    """Write the disk in the file to `made`/disk.raw, holes where it has zeros."""
    reads = {"/source": source}
    with tempfile.TemporaryFile() as output:
        if form is ImageFormat.QCOW2:
            # QEMU reads zeros where a file has been cut off; only this check sees that data is not there.
            check = ["qemu-img", "check", "-f", "qcow2", "--output=json", "/source"]
            outcome = run_confined(doing, check, reads, {}, output, TOOL_OUTPUT_BYTES.most, _COPY_SECONDS)
            _check_sound(doing, outcome, read_output(output))
        copy = ["qemu-img", "convert", "-f", form.value, "-O", "raw", "-S", "4k", "/source", "/made/disk.raw"]
        most = max(size, TOOL_OUTPUT_BYTES.most)
        outcome = run_confined(doing, copy, reads, {"/made": made}, output, most, _COPY_SECONDS)
    if os.strerror(errno.ENOSPC) in outcome.complaint:
        raise StorageUnready(doing, expected="room for the image", found=outcome.complaint)
    if outcome.status != 0:
        raise MalformedImage(doing, expected=f"a disk in the format {form.value}", found=outcome.complaint)


_SOUND: Final = frozenset({0, 3})
"""How `qemu-img check` ends: all well, and clusters that nothing refers to. Source: qemu-img(1)."""


def _check_sound(doing: str, outcome: Outcome, answer: bytes) -> None:
    if outcome.status in _SOUND:
        return
    found = outcome.complaint
    if answer:
        report = parse_json(doing, answer)
        found = f"{report.get('corruptions', 0)} references to what is not there"
    raise MalformedImage(doing, expected="a whole qcow2 file; is it cut off?", found=found)


# -- over files of our own ---------------------------------------------------------------------------------------------


def _convert(doing: str, volume: Path, form: str, made: Path) -> None:
    run(doing, ["qemu-img", "convert", "-f", "qcow2", "-O", form, "-S", "4k", str(volume), str(made)], _COPY_SECONDS)


def _digest(path: Path) -> bytes:
    """Return the SHA-256 of the file. Its holes are hashed, as the zeros they are, and not read."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        end = os.fstat(file.fileno()).st_size
        at = 0
        while at < end:
            data = _next_data(file.fileno(), at, end)
            for start in range(at, data, _CHUNK_BYTES):
                state.update(_ZEROS[: data - start])
            at = data
            if at < end:
                chunk = os.pread(file.fileno(), _CHUNK_BYTES, at)
                if not chunk:
                    break
                state.update(chunk)
                at += len(chunk)
    return state.digest()


def _next_data(descriptor: int, at: int, end: int) -> int:
    try:
        return min(end, os.lseek(descriptor, at, os.SEEK_DATA))
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return end
