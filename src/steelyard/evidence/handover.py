"""The archive by which secrets reach a system that is about to start: they are in its memory, and nowhere else."""

from collections.abc import Mapping
from typing import Final

from steelyard.evidence.cpio import make_archive, padding
from steelyard.model.secret import Secret

FOLDER: Final = ".steelyard"
"""Where the system's first file system has the files."""

_FOR_ROOT_ALONE: Final = 0o400
_FOLDER_MODE: Final = 0o500


def secrets_archive(initramfs_bytes: int, files: Mapping[str, Secret]) -> bytes:
    """Return what is appended to an initramfs of this size, so that the next system finds `files` in /.steelyard.

    Without the padding before it the kernel takes the archive for garbage.
    """
    contents = {f"{FOLDER}/{name}": content.reveal() for name, content in files.items()}
    return padding(initramfs_bytes) + make_archive(contents, file_mode=_FOR_ROOT_ALONE, folder_mode=_FOLDER_MODE)
