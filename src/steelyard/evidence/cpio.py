"""cpio archives in the format "newc", from which Linux makes its first file system.

Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from collections.abc import Mapping
from itertools import accumulate
from stat import S_IFDIR, S_IFREG
from typing import Final


def padding(size: int) -> bytes:
    """Return the zeros after `size` bytes up to the next boundary of four: where an entry or another archive begins."""
    return b"\0" * (-size % 4)


def archive_entry(path: bytes, mode: int, content: bytes | memoryview, *, inode: int = 0) -> bytes:
    """Return one entry, padded to where the next may begin: root's, from time 0.

    mode   type and permissions, as in st_mode.
    inode  tells nothing to Linux, as no entry has a second link.
    """
    owner = group = time = device = 0
    fields = (inode, mode, owner, group, 1, time, len(content), device, device, device, device, len(path) + 1, 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + path + b"\0"
    return head + padding(len(head)) + content + padding(len(content))


ARCHIVE_END: Final = archive_entry(b"TRAILER!!!", 0, b"")


def make_archive(files: Mapping[str, bytes], *, file_mode: int, folder_mode: int) -> bytes:
    """Return an archive of files and the folders they lie in, in order of path: the same bytes for the same files.

    files                   relative path -> content.
    file_mode, folder_mode  permissions of every file and of every folder.
    """
    entries = [
        archive_entry(path.encode(), S_IFREG | file_mode, files[path])
        if path in files
        else archive_entry(path.encode(), S_IFDIR | folder_mode, b"")
        for path in sorted({*files, *(folder for path in files for folder in _folders(path))})
    ]
    return b"".join(entries) + ARCHIVE_END


def _folders(path: str) -> list[str]:
    """Return the folders above a file: "a" and "a/b" for "a/b/c"."""
    return list(accumulate(path.split("/")[:-1], lambda above, name: f"{above}/{name}"))
