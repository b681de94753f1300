"""A store that is a directory: images as plain files, volumes as qcow2 files that hold what differs from their image.

An image is kept raw and sparse, not as the qcow2 that it may have come as: what a stranger made of a complicated format
is read once, confined, and never again by what serves volumes; and what is handed out is what was digested.

    images/NAME/disk.raw, facts.json    published by one rename, never written again; copies are links to one file
    volumes/NAME/disk.qcow2             names its image relative to itself: the directory may be moved
    volumes/NAME/bases.json             the images that it may name
    work/                               what is being made; of a process that died, what `collect` takes away
    locks                               who works on what

A volume is written to by what serves it. Whoever breaks that has the file, its head included, and could have it name
any file: so what it names is believed only as far as bases.json goes, which nothing that serves it can reach.

Several processes of one computer may use the directory at once; a network file system without locks would lose volumes.
"""

import errno
import hashlib
import json
import math
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Final

from steelyard.imaging.files import clear_workplaces, make_directory, move, needing_room, sync, workplace, write_file
from steelyard.imaging.locks import Hold, holding, keeping_away, keeping_still
from steelyard.imaging.partitions import HEAD_BYTES, parse_partitions
from steelyard.imaging.ports import ImageFacts, ImageFile, ImageFormat, Occupancy, Overlay, Watch
from steelyard.imaging.qcow2 import MAGIC, parse_qcow2_head
from steelyard.imaging.tools import Outcome, parse_json, read_output, run_confined
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
_TELL_SECONDS: Final = 0.2
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
        self, image: str, source: Path, form: ImageFormat, expected: bytes | None, most_bytes: int, watch: Watch
    ) -> ImageFacts:
        """See `Store`."""
        doing = f"taking in the image {check_name(image, 'image')}"
        with self._holding("image", image, Hold.ALONE, doing), workplace(self._work) as place:
            file_bytes = _check_plain(doing, source)
            size = _check_format(doing, source, form)
            if size > min(most_bytes, IMAGE_BYTES.most):
                raise TooLarge(doing, expected=f"a disk of at most {most_bytes} bytes", found=f"{size}")
            work = _Work(watch, (0 if expected is None else file_bytes) + 2 * size)
            if expected is not None and (found := _digest(source, work)) != expected:
                raise WrongDigest(doing, expected=f"SHA-256 {expected.hex()}", found=found.hex())
            made = place / "image"
            made.mkdir(mode=0o700)
            _unpack(doing, source, form, made, size, work)
            return self._publish(doing, image, made, size, work)

    def snapshot(self, volume: str, image: str, watch: Watch) -> ImageFacts:
        """See `Store`."""
        doing = f"making an image {check_name(image, 'image')} of the volume {check_name(volume, 'volume')}"
        with (
            self._holding("volume", volume, Hold.ALONE, doing),
            self._holding("image", image, Hold.ALONE, doing),
            workplace(self._work) as place,
        ):
            if (there := self._facts(image)) is not None:
                return there
            size = self._look(volume, doing).size_bytes
            work = _Work(watch, 2 * size)
            made = place / "image"
            made.mkdir(mode=0o700)
            with keeping_still(self._disk(volume), doing):
                self._convert(doing, volume, "raw", made, "disk.raw", size, work)
            return self._publish(doing, image, made, size, work)

    def _publish(self, doing: str, image: str, made: Path, size: int, work: "_Work") -> ImageFacts:
        """Make what is in `made` the image, whole or not at all."""
        disk = made / "disk.raw"
        disk.chmod(0o400)
        if disk.stat().st_size != size:
            raise StorageFailed(doing, expected=f"a disk of {size} bytes", found=f"{disk.stat().st_size}")
        with disk.open("rb") as file:
            parse_partitions(file.read(HEAD_BYTES), size)
        facts = ImageFacts(_digest(disk, work), size)
        sync(disk)
        return self._place(doing, image, made, facts)

    def copy_image(self, image: str, copy: str) -> ImageFacts:
        """See `Store`."""
        doing = f"copying the image {check_name(image, 'image')} to {check_name(copy, 'image')}"
        with (
            self._holding("image", image, Hold.SHARED, doing),
            self._holding("image", copy, Hold.ALONE, doing),
            workplace(self._work) as place,
        ):
            facts = self._image_facts(image, doing)
            made = place / "image"
            made.mkdir(mode=0o700)
            os.link(self._image(image).path, made / "disk.raw")
            return self._place(doing, copy, made, facts)

    def _place(self, doing: str, image: str, made: Path, facts: ImageFacts) -> ImageFacts:
        there = self._facts(image)
        if there is None:
            write_file(made / "facts.json", _facts_to_bytes(facts))
            sync(made)
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
            # Whoever reads it now goes on to read it.
            move(self._images / image, place / "image")
            sync(self._images)

    def images(self) -> Mapping[str, ImageFacts]:
        """See `Store`."""
        found = {path.name: self._facts(path.name) for path in self._images.iterdir()}
        return {name: facts for name, facts in found.items() if facts is not None}

    def image_occupancy(self, image: str) -> Occupancy:
        """See `Store`."""
        size = self._image_facts(image, "measuring an image").size_bytes
        return _occupancy(self._image(image).path, size)

    def image_disk(self, image: str) -> ImageFile:
        """See `Store`."""
        self._image_facts(image, "looking for an image")
        return self._image(image)

    # -- volumes -------------------------------------------------------------------------------------------------------

    def clone(self, image: str, volume: str) -> None:
        """See `Store`."""
        doing = f"making a volume {check_name(volume, 'volume')} of the image {check_name(image, 'image')}"
        with (
            self._holding("volume", volume, Hold.ALONE, doing),
            self._holding("image", image, Hold.SHARED, doing),
            workplace(self._work) as place,
        ):
            size = self._image_facts(image, doing).size_bytes
            if not self._disk(volume).exists():
                move(self._make(doing, place, size, image), self._volumes / volume)
            elif self._look(volume, doing).base != image:
                raise AlreadyThere(doing, expected="no volume of that name, or a clone of that image", found="another")

    def create_volume(self, volume: str, size_bytes: int) -> None:
        """See `Store`."""
        doing = f"making a volume {check_name(volume, 'volume')}"
        _check_size(doing, size_bytes)
        with self._holding("volume", volume, Hold.ALONE, doing), workplace(self._work) as place:
            if not self._disk(volume).exists():
                move(self._make(doing, place, size_bytes, None), self._volumes / volume)
            elif self._look(volume, doing) != _Seen(size_bytes, None):
                raise AlreadyThere(doing, expected="no volume of that name, or one as this", found="another")

    def roll_back(self, volume: str, image: str) -> None:
        """See `Store`."""
        doing = f"rolling the volume {check_name(volume, 'volume')} back to {check_name(image, 'image')}"
        with (
            self._holding("volume", volume, Hold.ALONE, doing),
            self._holding("image", image, Hold.SHARED, doing),
            workplace(self._work) as place,
        ):
            size = self._image_facts(image, doing).size_bytes
            made = self._make(doing, place, size, image)
            with keeping_away(self._disk(volume), doing):
                self._allow(volume, self._bases(volume) | {image}, place)
                move(made / "disk.qcow2", self._disk(volume))
                self._allow(volume, {image}, place)

    def flatten(self, volume: str, watch: Watch) -> None:
        """See `Store`."""
        doing = f"flattening the volume {check_name(volume, 'volume')}"
        with self._holding("volume", volume, Hold.ALONE, doing), workplace(self._work) as place:
            seen = self._look(volume, doing)
            if seen.base is not None:
                # Nobody writes to the old file until the new one is in its place.
                with keeping_still(self._disk(volume), doing):
                    work = _Work(watch, seen.size_bytes)
                    self._convert(doing, volume, "qcow2", place, "disk.qcow2", seen.size_bytes, work)
                    made = place / "disk.qcow2"
                    made.chmod(0o600)
                    sync(made)
                    move(made, self._disk(volume))
            self._allow(volume, frozenset(), place)

    def resize(self, volume: str, size_bytes: int) -> None:
        """See `Store`."""
        doing = f"resizing the volume {check_name(volume, 'volume')}"
        _check_size(doing, size_bytes)
        with self._holding("volume", volume, Hold.ALONE, doing):
            now = self._look(volume, doing).size_bytes
            if size_bytes < now:
                raise WrongUse(doing, expected=f"at least the {now} bytes that it has", found=f"{size_bytes}")
            with keeping_away(self._disk(volume), doing):
                pass  # and what comes in between now and QEMU's own look is refused by QEMU, in its words
            inside = _inside(self._disk(volume), "volumes", volume)
            command = ["qemu-img", "resize", "-q", "-f", "qcow2", inside, str(size_bytes)]
            most = _most_qcow2_bytes(size_bytes)
            _do(doing, command, self._reads_bases(volume), {inside: self._disk(volume)}, most, _QUICK_SECONDS, _go_on)
            sync(self._disk(volume))

    def delete_volume(self, volume: str) -> None:
        """See `Store`."""
        doing = f"deleting the volume {check_name(volume, 'volume')}"
        with self._holding("volume", volume, Hold.ALONE, doing), workplace(self._work) as place:
            if not self._disk(volume).exists():
                return
            with keeping_away(self._disk(volume), doing):
                move(self._volumes / volume, place / "volume")
                sync(self._volumes)

    def volumes(self) -> Mapping[str, str | None]:
        """See `Store`. One whose disk is damaged is listed as what it began as: it can be deleted, or rolled back."""
        found = {}
        for path in self._volumes.iterdir():
            with suppress(NotFound):
                try:
                    found[path.name] = self._look(path.name, "listing the volumes").base
                except StorageFailed:
                    found[path.name] = min(self._bases(path.name), default=None)
        return found

    def volume_occupancy(self, volume: str) -> Occupancy:
        """See `Store`."""
        size = self._look(check_name(volume, "volume"), "measuring a volume").size_bytes
        return _occupancy(self._disk(volume), size)

    def volume_disk(self, volume: str) -> Overlay:
        """See `Store`."""
        base = self._look(check_name(volume, "volume"), "looking for a volume").base
        return Overlay(self._disk(volume), None if base is None else self._image(base))

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

    def _disk(self, volume: str) -> Path:
        return self._volumes / volume / "disk.qcow2"

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

    def _make(self, doing: str, place: Path, size: int, base: str | None) -> Path:
        """Make a volume that is its base, or zeros when it has none."""
        made = place / "volume"
        made.mkdir(mode=0o700)
        # QEMU need not open the base (-u), as its format and size are known.
        backing = [] if base is None else ["-u", "-F", "raw", "-b", _base_name(base)]
        command = ["qemu-img", "create", "-q", "-f", "qcow2", *backing, "/made/disk.qcow2", str(size)]
        _do(doing, command, {}, {"/made": made}, _most_qcow2_bytes(size), _QUICK_SECONDS, _go_on)
        disk = made / "disk.qcow2"
        disk.chmod(0o600)
        sync(disk)
        write_file(made / "bases.json", _bases_to_bytes(frozenset() if base is None else {base}))
        sync(made)
        return made

    def _convert(self, doing: str, volume: str, form: str, made: Path, name: str, size: int, work: "_Work") -> None:
        """Write the volume's disk to `made`/`name`, holes where it has zeros."""
        inside = _inside(self._disk(volume), "volumes", volume)
        reads = {inside: self._disk(volume), **self._reads_bases(volume)}
        command = ["qemu-img", "convert", "-p", "-f", "qcow2", "-O", form, "-S", "4k", inside, f"/made/{name}"]
        beat = partial(work.step_of, size)
        with work.part(size):
            _do(doing, command, reads, {"/made": made}, _most_qcow2_bytes(size), _COPY_SECONDS, beat)

    def _reads_bases(self, volume: str) -> dict[str, Path]:
        """Return the images that QEMU may read when it opens the volume, where it looks for them."""
        images = [self._image(base).path for base in self._bases(volume)]
        return {_inside(path, "images", path.parent.name): path for path in images if path.exists()}

    def _look(self, volume: str, doing: str) -> "_Seen":
        """Return what is in the volume's file, as far as it may be believed. Raises NotFound, StorageFailed."""
        try:
            with self._disk(volume).open("rb") as file:
                head = parse_qcow2_head(file.read(QCOW2_HEADER_BYTES.most), os.fstat(file.fileno()).st_size)
        except FileNotFoundError as error:
            raise NotFound(doing, expected=f"a volume {volume}", found="none of that name") from error
        except (MalformedImage, TooLarge) as error:
            raise StorageFailed(doing, expected=f"the volume {volume} to be whole", found=str(error)) from error
        if head.backing_file is None:
            return _Seen(head.size_bytes, None)
        for base in self._bases(volume):
            if head.backing_file == _base_name(base).encode():
                return _Seen(head.size_bytes, base)
        raise StorageFailed(doing, expected=f"the volume {volume} on its image", found=f"on {head.backing_file!r}")

    def _bases(self, volume: str) -> Set[str]:
        try:
            return _bases_from_bytes((self._disk(volume).with_name("bases.json")).read_bytes())
        except FileNotFoundError as error:
            raise NotFound("reading a volume", expected=f"a volume {volume}", found="none of that name") from error

    def _allow(self, volume: str, bases: Set[str], place: Path) -> None:
        """Let the volume name these images, and no other."""
        write_file(place / "bases.json", _bases_to_bytes(bases))
        move(place / "bases.json", self._disk(volume).with_name("bases.json"))


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is in a volume's file."""

    size_bytes: int
    base: str | None


def _base_name(image: str) -> str:
    """Return what a volume calls its image: where it is from the volume's directory."""
    return f"../../images/{image}/disk.raw"


def _inside(path: Path, kind: str, name: str) -> str:
    """Return what a confined program calls a disk of the store, so that volumes find their images."""
    return f"/store/{kind}/{name}/{path.name}"


def _occupancy(path: Path, size: int) -> Occupancy:
    seen = path.stat()
    return Occupancy(apparent_bytes=size, real_bytes=seen.st_blocks * 512 // seen.st_nlink)


def _most_qcow2_bytes(size: int) -> int:
    """Return what a file of such a disk may have: its tables take a four-thousandth, and 0.3 MiB when it is empty."""
    return size + size // 64 + TOOL_OUTPUT_BYTES.most


def _check_size(doing: str, size_bytes: int) -> None:
    if size_bytes <= 0 or size_bytes % 512:
        raise WrongUse(doing, expected="a multiple of 512 bytes", found=f"{size_bytes}")
    if size_bytes > IMAGE_BYTES.most:
        raise TooLarge(doing, expected=f"at most {IMAGE_BYTES.most} bytes", found=f"{size_bytes}")


def _bases_to_bytes(bases: Set[str]) -> bytes:
    return json.dumps({"bases": sorted(bases)}).encode()


def _bases_from_bytes(data: bytes) -> Set[str]:
    doing = "reading what a volume may stand on"
    document = parse_json(doing, data)
    match document:
        case {"bases": list(bases), **rest} if not rest and all(isinstance(base, str) for base in bases):
            return frozenset(bases)
    raise StorageFailed(doing, expected="the names of images", found=f"{data[:100]!r}")


def _facts_to_bytes(facts: ImageFacts) -> bytes:
    return json.dumps({"digest": facts.digest.hex(), "size_bytes": facts.size_bytes}).encode()


def _facts_from_bytes(data: bytes) -> ImageFacts:
    document = parse_json("reading what holds for an image", data)
    match document:
        case {"digest": str(digest), "size_bytes": int(size), **rest} if not rest and len(digest) == 64:
            return ImageFacts(bytes.fromhex(digest), size)
    raise StorageFailed("reading what holds for an image", expected="a digest and a size", found=f"{data[:100]!r}")


# -- taking in a stranger's file ---------------------------------------------------------------------------------------


def _check_plain(doing: str, source: Path) -> int:
    """Return how long the file is."""
    try:
        seen = source.lstat()
    except OSError as error:
        raise WrongUse(doing, expected="a file that can be read", found=f"{source}: {error.strerror}") from error
    if not stat.S_ISREG(seen.st_mode):
        raise WrongUse(doing, expected="a plain file", found=f"{source}, a {stat.filemode(seen.st_mode)}")
    return seen.st_size


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


def _unpack(doing: str, source: Path, form: ImageFormat, made: Path, size: int, work: "_Work") -> None:
    """Write the disk in the file to `made`/disk.raw, holes where it has zeros."""
    reads = {"/source": source}
    with tempfile.TemporaryFile() as output:
        if form is ImageFormat.QCOW2:
            # QEMU reads zeros where a file has been cut off; only this check sees that data is not there.
            check = ["qemu-img", "check", "-f", "qcow2", "--output=json", "/source"]
            most = TOOL_OUTPUT_BYTES.most
            outcome = run_confined(doing, check, reads, {}, output, most, _COPY_SECONDS, partial(work.step, 0))
            _check_sound(doing, outcome, read_output(output))
    copy = ["qemu-img", "convert", "-p", "-f", form.value, "-O", "raw", "-S", "4k", "/source", "/made/disk.raw"]
    with tempfile.TemporaryFile() as output, work.part(size):
        most = max(size, TOOL_OUTPUT_BYTES.most)
        beat = partial(work.step_of, size, output)
        outcome = run_confined(doing, copy, reads, {"/made": made}, output, most, _COPY_SECONDS, beat)
    _check_room(doing, outcome)
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


# -- both --------------------------------------------------------------------------------------------------------------


def _do(
    doing: str,
    command: Sequence[str],
    reads: Mapping[str, Path],
    writes: Mapping[str, Path],
    most_bytes: int,
    seconds: int,
    beat: Callable[[IO[bytes]], None],
) -> None:
    """Run a program over the disk of a volume; `beat` is given what it prints. Raises StorageUnready, StorageFailed."""
    with tempfile.TemporaryFile() as output:
        outcome = run_confined(doing, command, reads, writes, output, most_bytes, seconds, partial(beat, output))
    _check_room(doing, outcome)
    outcome.check(doing)


def _check_room(doing: str, outcome: Outcome) -> None:
    if os.strerror(errno.ENOSPC) in outcome.complaint:
        raise StorageUnready(doing, expected="room to write", found=outcome.complaint)


class _Work:
    """Long work in parts, of which a watch is told: at the beginning of each, and then some times a second."""

    def __init__(self, watch: Watch, total_bytes: int) -> None:
        self._watch, self._total = watch, total_bytes
        self._ended = 0
        self._told = -math.inf

    @contextmanager
    def part(self, size: int) -> Iterator[None]:
        """Do a part that is so large."""
        self._told = -math.inf
        self.step(0)
        yield
        self._ended += size

    def step(self, done_bytes: int) -> None:
        """Tell how much of this part is done, unless that was done just now."""
        if (now := time.monotonic()) - self._told >= _TELL_SECONDS:
            self._told = now
            self._watch.step(self._ended + done_bytes, self._total)

    def step_of(self, size: int, output: IO[bytes]) -> None:
        """Tell what a program of QEMU has last printed of how much is done."""
        end = os.fstat(output.fileno()).st_size
        shares = _SHARE.findall(os.pread(output.fileno(), _SHARE_BYTES, max(0, end - _SHARE_BYTES)))
        self.step(int(size * min(float(shares[-1]), 100.0) / 100.0) if shares else 0)


_SHARE: Final = re.compile(rb"\((\d{1,3}\.\d\d)/100%\)")
_SHARE_BYTES: Final = 64


def _go_on(output: IO[bytes]) -> None:
    """Let it go on: nobody gives up what takes so little time."""


def _digest(path: Path, work: _Work) -> bytes:
    """Return the SHA-256 of the file. Its holes are hashed, as the zeros they are, and not read."""
    state = hashlib.sha256()
    with path.open("rb") as file, work.part(end := os.fstat(file.fileno()).st_size):
        at = 0
        while at < end:
            data = _next_data(file.fileno(), at, end)
            for start in range(at, data, _CHUNK_BYTES):
                work.step(start)
                state.update(_ZEROS[: data - start])
            at = data
            if at < end:
                work.step(at)
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
