"""Files beside the store: uploads as they come in, what is being fetched, and the kernels that images boot by.

    uploads/ID          the parts of an upload that are here, from the beginning on without a gap
    fetched/            files that are being fetched: of a process that died, what `clear` takes away
    boot/IMAGE/         kernel and initramfs of an image, taken out of its disk
    work/               what is being taken out
    locks               who works on what

Names are ids of ours: no stranger's word reaches a path.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from steelyard.imaging.contents import Boot, DirectBoot, UnifiedBoot, find_boot
from steelyard.imaging.files import clear_workplaces, make_directory, move, needing_room, sync, workplace
from steelyard.imaging.locks import Hold, holding
from steelyard.imaging.objects import BootFile, BootFound, KernelAndInitramfs, UnifiedKernel
from steelyard.imaging.ports import ImageFile
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import MalformedImage, TooLarge, WrongState
from steelyard.model.names import check_name


@dataclass(frozen=True, slots=True)
class BootFiles:
    """What a node fetches to boot of an image; `initramfs` None: the image has none."""

    kernel: Path
    initramfs: Path | None


class Shelf:
    """The shelf in the directory `root`, which is made if it is not there."""

    def __init__(self, root: Path) -> None:
        root = root.absolute()
        self._uploads, self._fetched = root / "uploads", root / "fetched"
        self._boot, self._work, self._locks = root / "boot", root / "work", root / "locks"
        for directory in (root, self._uploads, self._fetched, self._boot, self._work):
            make_directory(directory)

    def clear(self) -> None:
        """Take away what work that was cut short has left behind; work that goes on is not disturbed."""
        clear_workplaces(self._fetched)
        clear_workplaces(self._work)

    # -- uploads -------------------------------------------------------------------------------------------------------

    @contextmanager
    def adding(self, upload: str) -> Iterator[Callable[[int, bytes], None]]:
        """Give what writes bytes at an offset of an upload, on the disk when it returns.

        Inside, nobody else, in whatever process, writes to the file or makes an image of it. Raises InUse.
        """
        path = self._upload(upload)
        doing = f"adding to upload {upload}"

        def write(offset: int, part: bytes) -> None:
            with needing_room(doing), path.open("r+b") as file:
                file.seek(offset)
                file.write(part)
                file.flush()
                os.fsync(file.fileno())

        with self._holding(upload, Hold.ALONE, doing):
            # What a part that was not noted left behind its offset is written over by the one that is.
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            yield write

    @contextmanager
    def reading(self, upload: str, size_bytes: int) -> Iterator[Path]:
        """Give the file of an upload, which stays as it is until done. Raises InUse, WrongState: it is not whole."""
        path = self._upload(upload)
        doing = f"reading upload {upload}"
        with self._holding(upload, Hold.SHARED, doing):
            found = path.stat().st_size if path.exists() else 0
            if found < size_bytes:
                raise WrongState(doing, expected=f"all {size_bytes} bytes", found=f"{found}")
            if found > size_bytes:
                os.truncate(path, size_bytes)
            yield path

    def forget_upload(self, upload: str) -> None:
        """See to it that there is no file of an upload. Raises InUse."""
        with self._holding(upload, Hold.ALONE, f"throwing upload {upload} away"):
            self._upload(upload).unlink(missing_ok=True)

    @contextmanager
    def fetching(self) -> Iterator[Path]:
        """Give a directory for a file that is being fetched, deleted in the end."""
        with needing_room("fetching a file"), workplace(self._fetched) as place:
            yield place

    # -- what images boot ----------------------------------------------------------------------------------------------

    def keep_boot(self, image: str, disk: ImageFile) -> tuple[BootFound | None, str | None]:
        """Return what boots of an image, or in words why nothing does although it seemed to; keep its kernel here.

        Raises InUse, StorageUnready.
        """
        there = self._boot / check_name(image, "image")
        doing = f"looking what image {image} boots"
        with self._holding(image, Hold.ALONE, doing), needing_room(doing), workplace(self._work) as place:
            try:
                boot = find_boot(disk, place)
            except (MalformedImage, TooLarge) as trouble:
                return None, str(trouble)
            found = None if boot is None else _found(boot)
            if isinstance(boot, DirectBoot) and not there.exists():
                _keep(boot, place / "boot", there)
            return found, None

    def boot_files(self, image: str, disk: ImageFile) -> BootFiles:
        """Return the kernel of an image that boots by one, taken out of its disk if it is not here.

        Raises WrongState: it boots by none; InUse, StorageUnready.
        """
        there = self._boot / check_name(image, "image")
        if not there.exists():
            _, trouble = self.keep_boot(image, disk)
            if not there.exists():
                doing = f"taking the kernel out of image {image}"
                raise WrongState(doing, expected="an image that boots by a kernel", found=trouble or "another")
        initramfs = there / "initramfs"
        return BootFiles(there / "kernel", initramfs if initramfs.exists() else None)

    def forget_image(self, image: str) -> None:
        """See to it that nothing of an image is here. Raises InUse."""
        with self._holding(image, Hold.ALONE, f"forgetting the kernel of image {image}"):
            there = self._boot / check_name(image, "image")
            if there.exists():
                # By one step first, so that nobody finds half of it.
                with workplace(self._work) as place:
                    there.rename(place / "boot")

    # -- what is left --------------------------------------------------------------------------------------------------

    def uploads(self) -> frozenset[str]:
        """Return the uploads of which a file is here."""
        return frozenset(path.name for path in self._uploads.iterdir())

    def _upload(self, upload: str) -> Path:
        return self._uploads / check_name(upload, "upload")

    @contextmanager
    def _holding(self, name: str, hold: Hold, doing: str) -> Iterator[None]:
        with holding(self._locks, name, hold, doing):
            yield


def _keep(boot: DirectBoot, made: Path, target: Path) -> None:
    made.mkdir(mode=0o700)
    for name, file in (("kernel", boot.kernel), ("initramfs", boot.initramfs)):
        if file is not None:
            file.rename(made / name)
            sync(made / name)
    sync(made)
    move(made, target)


def _found(boot: Boot) -> BootFound:
    match boot:
        case UnifiedBoot(image, measurements):
            return UnifiedKernel(_described(image), measurements)
        case DirectBoot(kernel, initramfs, command_line, measurements):
            own = None if initramfs is None else _described(initramfs)
            return KernelAndInitramfs(_described(kernel), own, command_line, measurements)


def _described(path: Path) -> BootFile:
    data = path.read_bytes()
    return BootFile(HashAlgorithm.SHA256.digest(data), len(data))
