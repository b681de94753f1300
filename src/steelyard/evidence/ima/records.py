"""The list as the kernel hashed it: one record per entry, from either of the two forms in which the kernel shows it.

Owns the two file formats and the check that each entry has the template hash listed with it. What an entry says is for
`parse`, what it does to PCR 10 for `replay`. What the kernel writes, and what follows from it:

- Binary, little-endian: PCR, template hash, sized template name, sized template data. The data is a row of sized
  fields and is what the kernel hashes. The oldest template, `ima`, has a digest of 20 bytes and a sized name instead,
  and is hashed as the digest and the name padded to 256 bytes.
- ASCII: a line of PCR, template hash, template name and the fields; digests and blobs in hex, names as they are. The
  template data is built again from it.
- Names: the kernel writes "_" for each space before it hashes or shows a name (" (deleted)" becomes "_(deleted)"), and
  changes and escapes nothing else. So a name may break a line, and yet no name can imitate an entry: only an entry has
  "10 " at the start of a line. Everything up to the next such line counts to the name.
- The template hash is SHA-1, or in the lists `..._sha256` and so on (Linux 6.10) what their name says.
- A violation has a template hash of zeros. Nothing that its entry says is covered by any hash.

Source: Documentation/security/IMA-templates.rst; security/integrity/ima/ima_fs.c, ima_template_lib.c (Linux 6.12).
"""

import hashlib
import re
import struct
from binascii import unhexlify
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from steelyard.evidence.reader import refuse_over
from steelyard.model.algorithms import Hash, HashAlgorithm
from steelyard.model.errors import LogRejected, MalformedImaList
from steelyard.model.limits import IMA_ENTRIES, IMA_ENTRY_BYTES, IMA_LIST_BYTES

IMA_PCR: Final = 10
"""CONFIG_IMA_MEASURE_PCR_IDX. An entry that a rule of the kernel's policy sends to another PCR is refused."""

Record = tuple[bytes | None, bytes, bytes]
"""Template hash as listed and found right, or None for a violation; template name; template data as it is hashed."""


HASHES: Final[dict[HashAlgorithm, Callable[[bytes], Hash]]] = {
    HashAlgorithm.SHA1: hashlib.sha1,
    HashAlgorithm.SHA256: hashlib.sha256,
    HashAlgorithm.SHA384: hashlib.sha384,
    HashAlgorithm.SHA512: hashlib.sha512,
}
"""The banks that a list is replayed in. By function, not by name: a replay is little else than calls of it."""

_HASH_BY_SIZE: Final = {algorithm.size: algorithm for algorithm in HASHES}


# -- templates ---------------------------------------------------------------------------------------------------------


class DigestKind(Enum):
    """What a digest was taken of."""

    IMA = b"ima"
    """The file's bytes."""
    VERITY = b"verity"
    """The file's fs-verity descriptor; only the v2 templates say so."""


DigestHeads = dict[bytes, tuple[DigestKind, HashAlgorithm]]
"""What stands before a digest, without its last colon, and what that says of the digest."""

_KERNEL_NAMES: Final = {
    b"sha1": HashAlgorithm.SHA1,
    b"sha256": HashAlgorithm.SHA256,
    b"sha384": HashAlgorithm.SHA384,
    b"sha512": HashAlgorithm.SHA512,
    b"sm3": HashAlgorithm.SM3_256,
    b"sm3-256": HashAlgorithm.SM3_256,
    b"sha3-256": HashAlgorithm.SHA3_256,
    b"sha3-384": HashAlgorithm.SHA3_384,
    b"sha3-512": HashAlgorithm.SHA3_512,
}
PLAIN_HEADS: Final[DigestHeads] = {name: (DigestKind.IMA, algorithm) for name, algorithm in _KERNEL_NAMES.items()}
TYPED_HEADS: Final[DigestHeads] = {
    kind.value + b":" + name: (kind, algorithm) for kind in DigestKind for name, algorithm in _KERNEL_NAMES.items()
}


@dataclass(frozen=True, slots=True)
class Template:
    """The fields of a template: a digest with one of `heads` before it, a name, then `blobs`, by the kernel's names."""

    heads: DigestHeads
    blobs: tuple[str, ...]


IMA: Final = b"ima"
IMA_DIGEST_BYTES: Final = 20
IMA_NAME_BYTES: Final = 256
"""IMA_EVENT_NAME_LEN_MAX and the NUL after it."""

TEMPLATES: Final = {
    IMA: Template({}, ()),
    b"ima-ng": Template(PLAIN_HEADS, ()),
    b"ima-ngv2": Template(TYPED_HEADS, ()),
    b"ima-sig": Template(PLAIN_HEADS, ("sig",)),
    b"ima-sigv2": Template(TYPED_HEADS, ("sig",)),
    b"ima-buf": Template(PLAIN_HEADS, ("buf",)),
    b"ima-modsig": Template(PLAIN_HEADS, ("sig", "d-modsig", "modsig")),
}

NO_DIGEST: Final = bytes(20)
"""The digest in a violation before Linux 5.19, whatever the algorithm named there."""

_U32: Final = struct.Struct("<I")
_size_at: Final = _U32.unpack_from
size_bytes: Final = _U32.pack
"""The 4 bytes, little-endian, before a field in template data."""


def file_claim(template: bytes, data: bytes) -> bytes:
    """Return which digest an entry claims for which file: digest and name, byte for byte as `ima-ng` has them.

    Five templates make such claims, so that one set of bytes answers for all. As the fields carry their sizes, data
    that is not well formed makes no claim that equals one made from a digest and a path. Entries that claim something
    else (a buffer, an fs-verity digest, a digest without algorithm) give nothing here.
    """
    if template == b"ima-ng":
        return data
    if template not in _FILE_TEMPLATES:
        return b""
    layout = TEMPLATES[template]
    try:
        (digest_size,) = _size_at(data)
        (name_size,) = _size_at(data, 4 + digest_size)
        end = position = 8 + digest_size + name_size
        for _ in layout.blobs:
            position += 4 + _size_at(data, position)[0]
    except struct.error:
        return b""
    if position != len(data):
        return b""
    if layout.heads is PLAIN_HEADS:
        return data[:end]
    return size_bytes(digest_size - 4) + data[8:end] if data[4:8] == b"ima:" else b""


_FILE_TEMPLATES: Final = frozenset({b"ima-ngv2", b"ima-sig", b"ima-sigv2", b"ima-modsig"})


# -- the list ----------------------------------------------------------------------------------------------------------

_RawRecord = tuple[bytes, bytes, bytes]
"""Template hash as listed, template name, template data."""


def read_records(data: bytes, first: int) -> Iterator[Record]:
    """Yield the records of `data`, of which the first is entry number `first` + 1 of its list.

    Raises TooLarge; MalformedImaList naming the entry; LogRejected for an entry that does not have the template hash
    listed with it. No PCR is ever extended with the listed hash: the comparison costs a fifth of a replay, and is made
    so that the entry that is wrong gets named.
    """
    refuse_over(IMA_LIST_BYTES, len(data), "reading an IMA list")
    if not data:
        return
    # The PCR comes first, as a number in 4 bytes or as its digits; no text has a NUL there.
    width, records = _binary(data, first) if data[1:4] == bytes(3) else _ascii(data, first)
    listed_hash = HASHES[_HASH_BY_SIZE[width]]
    violation = bytes(width)
    for count, (listed, template, template_data) in enumerate(records, 1):
        if count > IMA_ENTRIES.most:
            refuse_over(IMA_ENTRIES, count, "reading an IMA list")
        computed = listed_hash(template_data).digest()
        if listed == computed:
            yield listed, template, template_data
        elif listed == violation:
            yield None, template, template_data
        else:
            raise LogRejected(
                f"checking IMA entry {first + count}",
                expected=f"template hash {computed.hex()}",
                found=listed.hex(),
            )


def cut_binary(data: bytes, first: int, start: int, end: int) -> bytes:
    """Return the bytes of the entries from number `start` + 1 to number `end` of a binary list.

    data   whose first entry has the number `first` + 1; `first` is at most `start`.

    Raises MalformedImaList for entries that are not there.
    """
    if start == end:
        return b""
    width, _ = _binary(data, first)
    position, begin = 0, 0
    for number in range(first, end):
        if number == start:
            begin = position
        try:
            (name_size,) = _size_at(data, position + 4 + width)
            name = position + 8 + width
            position = name + name_size
            if data[name:position] == IMA:
                position += IMA_DIGEST_BYTES
            position += 4 + _size_at(data, position)[0]
        except struct.error:
            position = len(data) + 1
        if position > len(data):
            raise _wrong(number + 1, "a whole entry", b"the end of the list")
    return data[begin:position]


def _wrong(number: int, expected: str, found: bytes) -> MalformedImaList:
    return MalformedImaList(f"reading IMA entry {number}", expected=expected, found=found[:200].decode("latin-1"))


# -- binary ------------------------------------------------------------------------------------------------------------


def _binary(data: bytes, first: int) -> tuple[int, Iterator[_RawRecord]]:
    """Return the size of the template hash, found by a template's name after it, and the records."""
    for width in _HASH_BY_SIZE:
        name = 8 + width
        if len(data) > name and data[name : name + _size_at(data, name - 4)[0]] in TEMPLATES:
            return width, _binary_records(data, first, width)
    raise _wrong(first + 1, "PCR, template hash of 20, 32, 48 or 64 bytes, name of a known template", data)


def _binary_records(data: bytes, first: int, width: int) -> Iterator[_RawRecord]:
    head = struct.Struct(f"<I{width}sI")
    number = first
    end = 0
    while end < len(data):
        number += 1
        try:
            pcr, listed, name_size = head.unpack_from(data, end)
            start = end + head.size + name_size
            template = data[start - name_size : start]
            if pcr != IMA_PCR or template not in TEMPLATES:
                raise _wrong(number, f"PCR {IMA_PCR} and a known template", b"PCR %d, %b" % (pcr, template))
            digest_end = start + IMA_DIGEST_BYTES if template == IMA else start
            (size,) = _size_at(data, digest_end)
        except struct.error:
            raise _wrong(number, "a whole entry", b"the end of the list") from None
        end = digest_end + 4 + size
        if size > IMA_ENTRY_BYTES.most or end > len(data):
            raise _wrong(number, f"at most {IMA_ENTRY_BYTES.most} bytes of data, all there", b"%d bytes" % size)
        template_data = data[digest_end + 4 : end]
        if template == IMA:
            template_data = _ima_data(number, data[start:digest_end], template_data)
        yield listed, template, template_data


def _ima_data(number: int, digest: bytes, name: bytes) -> bytes:
    """Return what the kernel hashes for the template `ima`."""
    if len(digest) != IMA_DIGEST_BYTES or len(name) >= IMA_NAME_BYTES:
        found = b"%d and %d bytes" % (len(digest), len(name))
        raise _wrong(number, f"a digest of {IMA_DIGEST_BYTES} bytes, a name of less than {IMA_NAME_BYTES}", found)
    return digest + name.ljust(IMA_NAME_BYTES, b"\0")


# -- ASCII -------------------------------------------------------------------------------------------------------------

_ENTRY: Final = b"10 "
_OTHER_PCR: Final = re.compile(rb"\n(?!10 ) *[0-9]+ [0-9a-f]{40}")
"""A line like the start of an entry in another PCR, which else would count to the name before it."""


def _ascii(data: bytes, first: int) -> tuple[int, Iterator[_RawRecord]]:
    """Return the size of the template hash, and the records."""
    if not data.startswith(_ENTRY):
        raise _wrong(first + 1, f"PCR {IMA_PCR} and a space", data)
    if not data.endswith(b"\n"):
        raise _wrong(first + 1 + data.count(b"\n" + _ENTRY), "a newline at the end", data[-200:])
    other = _OTHER_PCR.search(data)
    if other:
        number = first + 2 + data.count(b"\n" + _ENTRY, 0, other.start())
        raise _wrong(number, f"PCR {IMA_PCR}", other.group())
    width = (data.find(b" ", len(_ENTRY)) - len(_ENTRY)) // 2
    if width not in _HASH_BY_SIZE:
        raise _wrong(first + 1, "a template hash of 20, 32, 48 or 64 bytes in hex", data)
    return width, _ascii_records(data, first, width)


def _ascii_records(data: bytes, first: int, width: int) -> Iterator[_RawRecord]:
    for number, line in enumerate(data[len(_ENTRY) : -1].split(b"\n" + _ENTRY), first + 1):
        try:
            listed, template, fields = line.split(b" ", 2)
            template_hash = unhexlify(listed)
            template_data = _ascii_data(number, template, fields)
        except KeyError as unknown:
            raise _wrong(number, "a known template and digest algorithm", unknown.args[0]) from None
        except ValueError:
            raise _wrong(number, "hash, template, digest, name and what else it has, in hex", line) from None
        if len(template_hash) != width or len(template_data) > IMA_ENTRY_BYTES.most:
            raise _wrong(number, f"a hash of {width} bytes, at most {IMA_ENTRY_BYTES.most} bytes of data", line)
        yield template_hash, template, template_data


def _ascii_data(number: int, template: bytes, fields: bytes) -> bytes:
    """Return the template data that the kernel shows as `fields`. Raises KeyError and ValueError."""
    layout = TEMPLATES[template]
    digest, name = fields.split(b" ", 1)
    if template == IMA:
        return _ima_data(number, unhexlify(digest), name)
    blobs = b""
    # From the right: what follows the name has no space in it, whatever a name that somebody made up may have.
    for blob in reversed(layout.blobs):
        name, text = name.rsplit(b" ", 1)
        field = _ascii_digest(PLAIN_HEADS, text) if text and blob == "d-modsig" else unhexlify(text)
        blobs = size_bytes(len(field)) + field + blobs
    digest_field = _ascii_digest(layout.heads, digest)
    return b"%b%b%b%b\0%b" % (size_bytes(len(digest_field)), digest_field, size_bytes(len(name) + 1), name, blobs)


def _ascii_digest(heads: DigestHeads, text: bytes) -> bytes:
    """Return a digest field: what stands before the digest, a colon and a NUL, the digest."""
    head, _, value = text.rpartition(b":")
    digest = unhexlify(value)
    if len(digest) != heads[head][1].size and digest != NO_DIGEST:
        raise ValueError("not as long as its algorithm's digests are")
    return head + b":\0" + digest
