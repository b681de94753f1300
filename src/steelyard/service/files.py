"""Files that nobody else may read: keys, tokens, the configuration.

A secret in a file that others can read is not one; it is refused rather than used.
"""

import os
import stat
from pathlib import Path

from steelyard.model.errors import ServiceUnready
from steelyard.model.limits import Limit


def read_private(path: Path, limit: Limit) -> bytes:
    """Return what is in a file that is ours, and that nobody else may read or write. Raises ServiceUnready."""
    doing = f"reading {path}"
    try:
        with open(path, "rb", buffering=0, opener=_open) as file:
            status = os.fstat(file.fileno())
            content = file.read(limit.most + 1)
    except OSError as cause:
        found = cause.strerror or str(cause)
        raise ServiceUnready(doing, expected="a file that can be read, no link", found=found) from cause
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise ServiceUnready(
            doing,
            expected=f"a file of user {os.geteuid()}, mode 0600",
            found=f"{stat.filemode(status.st_mode)}, user {status.st_uid}",
        )
    if len(content) > limit.most:
        raise ServiceUnready(doing, expected=f"at most {limit.most} {limit.unit}", found="more")
    return content


def write_private(path: Path, content: bytes) -> None:
    """Make a file, mode 0600, complete and on the disk when it appears. Raises ServiceUnready if it is there."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            path.hardlink_to(draft)  # which, unlike a renaming, never replaces what is there
        finally:
            draft.unlink()
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as cause:
        found = cause.strerror or str(cause)
        raise ServiceUnready(f"writing {path}", expected="a new file", found=found) from cause


def _open(path: str, flags: int) -> int:
    # Not waiting, as it would for a pipe put in the file's place.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
