"""Lists as a kernel writes them, built from its documentation and from nothing of the product."""

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Form(StrEnum):
    ASCII = "ascii"
    BINARY = "binary"


@dataclass(frozen=True)
class Digest:
    """A d-ng or d-ngv2 field."""

    value: bytes
    head: str = "sha256"

    def data(self) -> bytes:
        return self.head.encode() + b":\0" + self.value

    def text(self) -> bytes:
        return self.head.encode() + b":" + self.value.hex().encode()


@dataclass(frozen=True)
class Blob:
    """A sig, buf or modsig field."""

    value: bytes

    def data(self) -> bytes:
        return self.value

    def text(self) -> bytes:
        return self.value.hex().encode()


@dataclass(frozen=True)
class Entry:
    template: str
    digest: Digest
    name: bytes
    blobs: Sequence[Digest | Blob] = ()
    violation: bool = False
    pcr: int = 10
    listed: bytes | None = None
    """Instead of the right template hash."""

    def data(self) -> bytes:
        """What the kernel hashes."""
        if self.template == "ima":
            return self.digest.value + self.name + bytes(256 - len(self.name))
        fields = [self.digest.data(), self.name + b"\0", *(blob.data() for blob in self.blobs)]
        return b"".join(struct.pack("<I", len(each)) + each for each in fields)

    def listed_hash(self, algorithm: str) -> bytes:
        if self.listed is not None:
            return self.listed
        right = hashlib.new(algorithm, self.data()).digest()
        return bytes(len(right)) if self.violation else right

    def binary(self, algorithm: str) -> bytes:
        head = struct.pack("<I", self.pcr) + self.listed_hash(algorithm)
        head += struct.pack("<I", len(self.template)) + self.template.encode()
        if self.template == "ima":
            return head + self.digest.value + struct.pack("<I", len(self.name)) + self.name
        return head + struct.pack("<I", len(self.data())) + self.data()

    def ascii(self, algorithm: str) -> bytes:
        digest = self.digest.value.hex().encode() if self.template == "ima" else self.digest.text()
        words = [
            b"%2d" % self.pcr,
            self.listed_hash(algorithm).hex().encode(),
            self.template.encode(),
            digest,
            self.name,
            *(blob.text() for blob in self.blobs),
        ]
        return b" ".join(words) + b"\n"


def write(entries: Iterable[Entry], form: Form = Form.BINARY, listed: str = "sha1") -> bytes:
    """Return the list in a form, with template hashes of an algorithm, as the kernel shows it."""
    shown = [entry.ascii(listed) if form is Form.ASCII else entry.binary(listed) for entry in entries]
    return b"".join(shown)


def pcr10(entries: Iterable[Entry], bank: str = "sha256", start: bytes | None = None) -> bytes:
    """Return what a TPM holds after the kernel extended it by `entries`."""
    size = hashlib.new(bank).digest_size
    value = bytes(size) if start is None else start
    for entry in entries:
        extended = b"\xff" * size if entry.violation else hashlib.new(bank, entry.data()).digest()
        value = hashlib.new(bank, value + extended).digest()
    return value


def digest_of(content: bytes, algorithm: str = "sha256", kind: str = "") -> Digest:
    return Digest(hashlib.new(algorithm, content).digest(), kind + algorithm)


def ng(path: bytes, content: bytes = b"content", algorithm: str = "sha256") -> Entry:
    return Entry("ima-ng", digest_of(content, algorithm), path)


def sig(path: bytes, content: bytes = b"content", signature: bytes = b"", algorithm: str = "sha256") -> Entry:
    return Entry("ima-sig", digest_of(content, algorithm), path, (Blob(signature),))


def buf(name: bytes, content: bytes) -> Entry:
    return Entry("ima-buf", digest_of(content), name, (Blob(content),))


def modsig(path: bytes, content: bytes, signature: bytes, appended: bytes) -> Entry:
    unsigned = digest_of(content + b"without") if appended else Blob(b"")
    return Entry("ima-modsig", digest_of(content), path, (Blob(signature), unsigned, Blob(appended)))


def violation(path: bytes, template: str = "ima-ng", digest: Digest | None = None) -> Entry:
    blobs = (Blob(b""),) if template.startswith("ima-sig") else ()
    return Entry(template, digest or Digest(bytes(32)), path, blobs, violation=True)


BOOT_PCRS = {index: bytes([index]) * 32 for index in range(10)}


def boot_aggregate(pcrs: dict[int, bytes] = BOOT_PCRS) -> Entry:
    return Entry("ima-ng", digest_of(b"".join(pcrs[index] for index in range(10))), b"boot_aggregate")


def one_of_each() -> list[Entry]:
    """An entry of every template, as kernels make them."""
    return [
        boot_aggregate(),
        Entry("ima", digest_of(b"old", "sha1"), b"/bin/old"),
        ng(b"/bin/ng"),
        ng(b"/bin/ng384", algorithm="sha384"),
        Entry("ima-ngv2", digest_of(b"x", "sha256", "ima:"), b"/bin/ngv2"),
        Entry("ima-ngv2", digest_of(b"x", "sha512", "verity:"), b"/bin/verity"),
        sig(b"/bin/unsigned"),
        sig(b"/bin/signed", signature=b"\x03\x02\x04" + bytes(range(80))),
        Entry("ima-sigv2", digest_of(b"x", "sha256", "ima:"), b"/bin/sigv2", (Blob(b"\x03\x02"),)),
        buf(b".ima", b"a certificate"),
        modsig(b"/bin/module", b"module", b"", b"PKCS #7"),
        modsig(b"/bin/plain", b"plain", b"\x03\x02", b""),
        violation(b"/bin/busy"),
        violation(b"/bin/older", digest=Digest(bytes(20))),
        violation(b"/bin/signed", "ima-sig"),
    ]
