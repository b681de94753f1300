"""A store with volumes, and a short place for exports."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from steelyard.imaging.ports import UNWATCHED, ImageFormat, Overlay
from steelyard.imaging.stores.directory import DirectoryStore
from tests.conformance.imaging.exports import serving
from tests.disks import raw_disk

PROGRAMS = {
    "bwrap": "bubblewrap",
    "debugfs": "e2fsprogs",
    "iscsi-ls": "libiscsi-bin",
    "mcopy": "mtools",
    "mkfs.vfat": "dosfstools",
    "nbd-client": "nbd-client",
    "nbdinfo": "libnbd-bin",
    "qemu-img": "qemu-utils",
    "qemu-storage-daemon": "qemu-system-common",
    "sfdisk": "fdisk",
    "strace": "strace",
    "tgtd": "tgt",
}


@pytest.fixture(autouse=True)
def _programs() -> None:
    missing = sorted(package for program, package in PROGRAMS.items() if shutil.which(program) is None)
    if missing:
        pytest.skip(f"needs the Debian packages {', '.join(missing)}")


@pytest.fixture
def root() -> Iterator[Path]:
    """Where an export keeps its records: of a short path, as sockets need."""
    path = Path(tempfile.mkdtemp(prefix="export-"))
    yield path
    for pid in serving(path):
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(path)


@pytest.fixture
def volumes(tmp_path: Path) -> DirectoryStore:
    """A store with the image `golden`, and volumes of it, `one` and `two`."""
    raw_disk(tmp_path / "raw", {0: "a", 5: "b"})
    store = DirectoryStore(tmp_path / "store")
    store.import_image("golden", tmp_path / "raw", ImageFormat.RAW, None, 2**40, UNWATCHED)
    store.clone("golden", "one")
    store.clone("golden", "two")
    return store


@pytest.fixture
def one(volumes: DirectoryStore) -> Overlay:
    return volumes.volume_disk("one")


@pytest.fixture
def two(volumes: DirectoryStore) -> Overlay:
    return volumes.volume_disk("two")
