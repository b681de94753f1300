"""The files of a Debian package or root tree: the digests by which the kernel's run-time list (IMA) will know them.

Only regular files are measured, under the path the kernel resolves, without symbolic links. A tree that is walked
without following links has those paths already; a package's are put where a merged /usr has them.
"""

import hashlib
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from steelyard.evidence.reader import refuse_over
from steelyard.model.errors import MalformedArtefact
from steelyard.model.limits import (
    FILE_PATH_BYTES,
    MANIFEST_FILES,
    PACKAGE_BYTES,
    PACKAGE_MEMBERS,
    PACKAGE_UNPACKED_BYTES,
    PACKAGE_UNPACKING_BYTES,
)
from steelyard.model.text import printable

_DOING_TREE: Final = "listing the files of a root tree"
_DOING: Final = "reading a Debian package"

_CHUNK_BYTES: Final = 64 * 1024
_BLOCK_BYTES: Final = 512
_MERGED_INTO_USR: Final = frozenset({b"bin", b"sbin", b"lib", b"lib32", b"lib64", b"libx32"})

_REGULAR: Final = frozenset({b"0", b"\0"})
_HARD_LINK: Final = b"1"
_SYMBOLIC_LINK: Final = b"2"
_UNMEASURED: Final = frozenset({b"3", b"4", b"5", b"6"})
"""Devices, directories, pipes."""
_LONG_NAME: Final = b"L"
_LONG_TARGET: Final = b"K"


def files_of_tree(files: Iterable[tuple[bytes, Iterable[bytes]]]) -> Mapping[bytes, bytes]:
    """Return the SHA-256 of each file by its path.

    files  path as the kernel will resolve it, absolute, and the content in pieces; each is read once, in order.

    Raises MalformedArtefact, TooLarge.
    """
    digests: dict[bytes, bytes] = {}
    for path, pieces in files:
        refuse_over(MANIFEST_FILES, len(digests) + 1, _DOING_TREE)
        refuse_over(FILE_PATH_BYTES, len(path), _DOING_TREE)
        if not path.startswith(b"/") or b"\0" in path or {b"", b".", b".."} & set(path[1:].split(b"/")):
            raise MalformedArtefact(
                _DOING_TREE, expected="an absolute path without empty parts, . and ..", found=printable(path)
            )
        if path in digests:
            raise MalformedArtefact(_DOING_TREE, expected="every path once", found=printable(path))
        state = hashlib.sha256()
        for piece in pieces:
            state.update(piece)
        digests[path] = state.digest()
    return digests


def files_of_package(package: bytes) -> Mapping[bytes, bytes]:
    """Return the SHA-256 of each regular file in a .deb, by the path at which it will be run.

    package  an ar archive whose data.tar is plain or compressed with xz or gzip, as Debian's own are.

    Raises MalformedArtefact, TooLarge.
    Source: deb(5); tar(5), the ustar and GNU formats.
    """
    refuse_over(PACKAGE_BYTES, len(package), _DOING)
    name, data = _data_archive(memoryview(package))
    unpack = _UNPACKERS.get(name)
    if unpack is None:
        raise MalformedArtefact(
            _DOING,
            expected="files in " + ", ".join(known.decode("ascii") for known in _UNPACKERS),
            found=printable(name) + " (unpack it and list the tree instead)",
        )
    hard_links: dict[bytes, bytes] = {}
    digests = dict(files_of_tree(_regular_files(_Tape(_limited(unpack(data))), hard_links)))
    for path, target in hard_links.items():
        if path in digests or target not in digests:
            raise _wrong("hard links to files before them", f"{printable(path)} to {printable(target)}")
        digests[path] = digests[target]
    return digests


# -- the ar archive ----------------------------------------------------------------------------------------------------


def _data_archive(package: memoryview) -> tuple[bytes, memoryview]:
    """Return name and content of the last member, the files; before it are the format's version and the scripts."""
    if (magic := bytes(package[:8])) != b"!<arch>\n":
        raise _wrong("an ar archive", printable(magic))
    version_name, version, at = _ar_member(package, 8)
    control_name, _, at = _ar_member(package, at)
    name, data, at = _ar_member(package, at)
    if version_name != b"debian-binary" or not control_name.startswith(b"control.tar") or at != len(package):
        names = b", ".join((version_name, control_name, name))
        raise _wrong(
            "the members debian-binary, control.tar and data.tar", f"{printable(names)}, {len(package) - at} bytes more"
        )
    if (format_version := bytes(version[:16])) != b"2.0\n":
        raise _wrong("a package of format 2.0", printable(format_version))
    return name, data


def _ar_member(package: memoryview, at: int) -> tuple[bytes, memoryview, int]:
    """Return name and content of the member at an offset, and where the next one is."""
    header = bytes(package[at : at + 60])
    digits = header[48:58].rstrip(b" ")
    if header[58:] != b"`\n" or not digits.isdigit():
        raise _wrong("the header of an ar member", printable(header))
    start, size = at + 60, int(digits)
    if size > len(package) - start:
        raise _wrong(f"a member in the {len(package) - start} bytes left", f"{size} bytes")
    name = header[:16].rstrip(b" ").removesuffix(b"/")
    return name, package[start : start + size], min(start + size + size % 2, len(package))


# -- compression -------------------------------------------------------------------------------------------------------


def _stored(data: memoryview) -> Iterator[bytes]:
    for at in range(0, len(data), _CHUNK_BYTES):
        yield bytes(data[at : at + _CHUNK_BYTES])


def _from_xz(data: memoryview) -> Iterator[bytes]:
    # An xz header may ask for 4 GiB of memory.
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=PACKAGE_UNPACKING_BYTES.most)
    try:
        for packed in _stored(data):
            yield decompressor.decompress(packed, _CHUNK_BYTES)
            while not decompressor.needs_input and not decompressor.eof:
                yield decompressor.decompress(b"", _CHUNK_BYTES)
    except (lzma.LZMAError, EOFError) as error:
        raise _wrong("files compressed with xz, in one stream", str(error)) from error
    if not decompressor.eof or decompressor.unused_data:
        raise _wrong("one xz stream that ends with the member", "another end")


def _from_gzip(data: memoryview) -> Iterator[bytes]:
    decompressor = zlib.decompressobj(zlib.MAX_WBITS | 16)
    rest = _stored(data)
    try:
        for packed in rest:
            yield decompressor.decompress(packed, _CHUNK_BYTES)
            while decompressor.unconsumed_tail:
                yield decompressor.decompress(decompressor.unconsumed_tail, _CHUNK_BYTES)
            if decompressor.eof:
                break
    except zlib.error as error:
        raise _wrong("files compressed with gzip", str(error)) from error
    if not decompressor.eof or decompressor.unused_data or next(rest, None) is not None:
        raise _wrong("one gzip stream that ends with the member", "another end")


_UNPACKERS: Final[Mapping[bytes, Callable[[memoryview], Iterator[bytes]]]] = {
    b"data.tar.xz": _from_xz,
    b"data.tar.gz": _from_gzip,
    b"data.tar": _stored,
}


def _limited(pieces: Iterable[bytes]) -> Iterator[bytes]:
    total = 0
    for piece in pieces:
        total += len(piece)
        refuse_over(PACKAGE_UNPACKED_BYTES, total, _DOING)
        yield piece


# -- the tar archive ---------------------------------------------------------------------------------------------------


class _Tape:
    """Bytes that come in pieces and are read once, from front to back, without ever being all in memory."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = b""
        self._at = 0

    def read(self, size: int) -> Iterator[bytes]:
        """Yield the next `size` bytes in pieces. Raises MalformedArtefact when there are not as many."""
        while size:
            if self._at == len(self._piece):
                following = next(self._pieces, None)
                if following is None:
                    raise _wrong(f"{size} more bytes of the tar archive", "its end")
                self._piece, self._at = following, 0
            piece = self._piece[self._at : self._at + size]
            self._at += len(piece)
            size -= len(piece)
            yield piece

    def block(self) -> bytes:
        """Return the next block."""
        return b"".join(self.read(_BLOCK_BYTES))

    def skip(self, size: int) -> None:
        """Read over bytes that do not matter."""
        for _ in self.read(size):
            pass

    def expect_zeros(self) -> None:
        """Read to the end. Raises MalformedArtefact for anything but zeros."""
        rest = [self._piece[self._at :]]
        self._piece, self._at = b"", 0
        for piece in (*rest, *self._pieces):
            if piece.strip(b"\0"):
                raise _wrong("nothing after the end of the tar archive", "more bytes")


def _regular_files(tape: _Tape, hard_links: dict[bytes, bytes]) -> Iterator[tuple[bytes, Iterator[bytes]]]:
    """Yield path and content of each regular file, to be read before the next; note links to them in `hard_links`."""
    long_name = long_target = None
    members = 0
    while (header := tape.block()).strip(b"\0"):
        members += 1
        refuse_over(PACKAGE_MEMBERS, members, _DOING)
        _check_header(header)
        kind = header[156:157]
        size = _number(header[124:136])
        if kind in {_LONG_NAME, _LONG_TARGET}:
            refuse_over(FILE_PATH_BYTES, size, _DOING)
            text = b"".join(tape.read(size)).removesuffix(b"\0")
            long_name, long_target = (text, long_target) if kind == _LONG_NAME else (long_name, text)
        else:
            path = _merged(_name_of(header) if long_name is None else long_name)
            if kind in _REGULAR:
                yield path, tape.read(size)
            elif kind == _HARD_LINK:
                hard_links[path] = _merged(_text(header[157:257]) if long_target is None else long_target)
            elif kind not in {_SYMBOLIC_LINK, *_UNMEASURED}:
                raise _wrong("files, directories, links, devices and long names", f"a member of type {kind!r}")
            if kind not in _REGULAR and size:
                raise _wrong("content in regular files only", f"{size} bytes in {printable(path)}")
            long_name = long_target = None
        tape.skip(-size % _BLOCK_BYTES)
    tape.expect_zeros()


def _check_header(header: bytes) -> None:
    if header[257:262] != b"ustar":
        raise _wrong("a tar archive in the ustar or GNU format", printable(header[257:265]))
    if _number(header[148:156]) != sum(header[:148] + b" " * 8 + header[156:]):
        raise _wrong("a tar header that its checksum fits", "another sum")


def _name_of(header: bytes) -> bytes:
    name, prefix = _text(header[:100]), _text(header[345:500])
    # The GNU format has other things where ustar has the prefix.
    return prefix + b"/" + name if prefix and header[262:263] == b"\0" else name


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes) -> int:
    """Return a size or checksum: octal digits, or the GNU format's binary for what they cannot hold."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:])
    digits = field.strip(b" \0")
    if not digits or digits.strip(b"01234567"):
        raise _wrong("a number in octal digits", printable(field))
    return int(digits, 8)


def _merged(name: bytes) -> bytes:
    """Return the path at which a member is found once unpacked, where /bin and its like are links into /usr."""
    relative = name.removeprefix(b"./")
    first, slash, _ = relative.partition(b"/")
    return b"/usr/" + relative if slash and first in _MERGED_INTO_USR else b"/" + relative


def _wrong(expected: str, found: str) -> MalformedArtefact:
    return MalformedArtefact(_DOING, expected=expected, found=found)
