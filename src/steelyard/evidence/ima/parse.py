"""What the entries of an IMA list say: files and their digests, measured buffers, violations.

Owns the meaning of template data. Whether it is what the kernel hashed is `replay`'s to prove, whether it is allowed
`judge`'s to say.
"""

from dataclasses import dataclass
from typing import Final

from steelyard.evidence.ima.records import (
    IMA,
    IMA_DIGEST_BYTES,
    PLAIN_HEADS,
    TEMPLATES,
    DigestHeads,
    DigestKind,
    Record,
    read_records,
)
from steelyard.evidence.reader import LittleEndianReader
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import MalformedImaList

BOOT_AGGREGATE: Final = b"boot_aggregate"
"""The name of the entry that a kernel makes first: it holds the boot PCRs as that kernel read them."""


@dataclass(frozen=True, slots=True)
class FileDigest:
    """A digest as an entry gives it, of its algorithm's size."""

    kind: DigestKind
    algorithm: HashAlgorithm
    value: bytes

    def __str__(self) -> str:
        kind = "verity:" if self.kind is DigestKind.VERITY else ""
        return f"{kind}{self.algorithm.label}:{self.value.hex()}"


@dataclass(frozen=True, slots=True)
class MeasuredFile:
    """A file that was run, mapped or read; or the boot_aggregate, which is no file but looks like one.

    number         of the entry in its list, from 1.
    template_data  as the kernel hashes it.
    path           as the kernel saw it, "_" for each space; a bare name where the kernel found no path.
    signature      security.ima or security.evm as the file had it, unchecked.
    modsig         PKCS #7 that was appended to the file, unchecked.
    """

    number: int
    template: str
    template_data: bytes
    digest: FileDigest
    path: bytes
    signature: bytes | None
    modsig: bytes | None


@dataclass(frozen=True, slots=True)
class MeasuredBuffer:
    """Bytes that the kernel measured itself: a key put on a keyring, a kexec command line, critical data.

    name     what the kernel calls it: for a key its keyring, as ".ima".
    content  the bytes, which the digest is taken of.
    """

    number: int
    template: str
    template_data: bytes
    digest: FileDigest
    name: bytes
    content: bytes


@dataclass(frozen=True, slots=True)
class Violation:
    """A file that changed while it was measured, or was open for writing.

    The kernel extends all ones for it, whatever the file: the path is the sender's claim and nothing more.
    """

    number: int
    template: str
    template_data: bytes
    path: bytes


ImaEntry = MeasuredFile | MeasuredBuffer | Violation


@dataclass(frozen=True, slots=True)
class ImaList:
    """A whole list, well formed; not replayed to any PCR."""

    entries: tuple[ImaEntry, ...]


def parse_ima_list(data: bytes) -> ImaList:
    """Return what a list says, from its first entry on, in ASCII or binary; no bytes are a list of no entries.

    Raises TooLarge; MalformedImaList; LogRejected where an entry does not have the template hash listed with it.
    """
    return ImaList(tuple(decode_record(number, record) for number, record in enumerate(read_records(data, 0), 1)))


def decode_record(number: int, record: Record) -> ImaEntry:
    """Return what entry `number` says. Raises MalformedImaList."""
    template_hash, template_name, data = record
    template = TEMPLATES[template_name]
    name = template_name.decode("ascii")
    doing = f"reading IMA entry {number} of template {name}"
    reader = LittleEndianReader(data, doing, MalformedImaList)
    if template_name == IMA:
        digest = FileDigest(DigestKind.IMA, HashAlgorithm.SHA1, reader.take(IMA_DIGEST_BYTES, "digest"))
        path = _path(reader.rest().rstrip(b"\0") + b"\0", doing)
        if template_hash is None:
            return Violation(number, name, data, path)
        return MeasuredFile(number, name, data, digest, path, signature=None, modsig=None)

    def field(what: str) -> bytes:
        return reader.take(reader.u32(f"size of {what}"), what)

    digest_field = field("digest")
    path = _path(field("name"), doing)
    blobs = {blob: field(blob) for blob in template.blobs}
    reader.end()
    if blobs.get("d-modsig"):
        _digest(blobs["d-modsig"], PLAIN_HEADS, doing)
    if template_hash is None:
        if digest_field.partition(b"\0")[2].strip(b"\0"):
            raise reader.wrong("a violation's digest of zeros", digest_field.hex())
        return Violation(number, name, data, path)
    digest = _digest(digest_field, template.heads, doing)
    if "buf" in blobs:
        return MeasuredBuffer(number, name, data, digest, path, blobs["buf"])
    return MeasuredFile(number, name, data, digest, path, blobs.get("sig") or None, blobs.get("modsig") or None)


def _path(field: bytes, doing: str) -> bytes:
    """Return a name without its NUL, which ends it and is nowhere else in it (a NUL would hide what follows)."""
    if field.find(b"\0") != len(field) - 1 or len(field) < 2:
        raise MalformedImaList(doing, expected="a name with one NUL, at its end", found=repr(field[:200]))
    return field[:-1]


def _digest(field: bytes, heads: DigestHeads, doing: str) -> FileDigest:
    head, _, value = field.partition(b":\0")
    known = heads.get(head)
    if known is None or len(value) != known[1].size:
        raise MalformedImaList(doing, expected="a digest as long as its known algorithm's", found=repr(field[:100]))
    return FileDigest(*known, value)
