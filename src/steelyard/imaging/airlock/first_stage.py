"""The first stage: busybox, a script, and the kernel modules for network cards and the second stage's file system."""

import gzip
from collections.abc import Collection, Iterable
from importlib import resources
from pathlib import Path
from typing import Final

from steelyard.evidence.cpio import make_archive
from steelyard.imaging.airlock.modules import Modules

_FILE_SYSTEM: Final = ("loop", "squashfs")


def make_first_stage(busybox: Path, modules: Modules, drivers: Collection[str]) -> bytes:
    """Return the initramfs, gzip-compressed: the same bytes for the same input.

    drivers  kernel modules of network cards, each loaded with what it depends on.
    """
    scripts = resources.files("steelyard.imaging.airlock")
    order = modules.in_order([*sorted(drivers), *_FILE_SYSTEM])
    files = {
        "bin/busybox": busybox.read_bytes(),
        "init": (scripts / "first_stage.sh").read_bytes(),
        "lease": (scripts / "lease.sh").read_bytes(),
        "modules/order": _lines(file.name for file in order),
        **{f"modules/{file.name}": file.read_bytes() for file in order},
    }
    return gzip.compress(make_archive(files, file_mode=0o755, folder_mode=0o755), mtime=0)


def _lines(words: Iterable[str]) -> bytes:
    return "".join(f"{word}\n" for word in words).encode()
