"""Where images and uploads are, for tests of what is said about them: files in a directory that goes with it."""

import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from steelyard.imaging.ports import ImageFile, Occupancy
from steelyard.model.errors import NotFound


class FakeStorage:
    """Disks of images, as they are put here, and files of uploads. Volumes take 512 bytes each."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="storage-"))
        weakref.finalize(self, shutil.rmtree, self._directory)
        self._lock = threading.Lock()
        self.uploads: dict[str, bytearray] = {}
        self.before_writing: Callable[[], None] = lambda: None

    def put_image(self, image: str, disk: bytes) -> None:
        """Have the disk of an image."""
        self._path(image).write_bytes(disk)

    def image_occupancy(self, image: str) -> Occupancy:
        path = self.image_disk(image).path
        if not path.exists():
            raise NotFound("measuring an image", expected="one", found="none")
        return Occupancy(path.stat().st_size, path.stat().st_size // 2)

    def volume_occupancy(self, volume: str) -> Occupancy:
        assert volume
        return Occupancy(1024, 512)

    def image_disk(self, image: str) -> ImageFile:
        return ImageFile(self._path(image))

    @contextmanager
    def adding(self, upload: str) -> Iterator[Callable[[int, bytes], None]]:
        def write(offset: int, part: bytes) -> None:
            file = self.uploads.setdefault(upload, bytearray())
            file[offset : offset + len(part)] = part

        self.before_writing()
        with self._lock:
            yield write

    def _path(self, image: str) -> Path:
        return self._directory / image
