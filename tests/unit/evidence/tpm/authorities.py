"""Certification authorities and certificates of endorsement keys, good and bad, made for one test each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, ObjectIdentifier

from steelyard.evidence.tpm.certificate import Certificate, parse_certificate
from steelyard.evidence.tpm.revocation import RevocationList, parse_revocation_list
from tests.unit.evidence.tpm.keypairs import P384, PrivateKey, ecc_key, rsa_key

NOW: Final = datetime(2026, 6, 1, tzinfo=UTC)
DAY: Final = timedelta(days=1)
YEAR: Final = timedelta(days=365)

EK_USAGE: Final = ObjectIdentifier("2.23.133.8.1")
MANUFACTURER: Final = ObjectIdentifier("2.23.133.2.1")
MODEL: Final = ObjectIdentifier("2.23.133.2.2")
FIRMWARE: Final = ObjectIdentifier("2.23.133.2.3")

Extensions = Sequence[tuple[x509.ExtensionType, bool]]
"""Each with whether it is critical."""


def name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])


def key_usage(
    *, encipher: bool = False, agree: bool = False, sign: bool = False, issue: bool = False, revoke: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=sign,
        content_commitment=False,
        key_encipherment=encipher,
        data_encipherment=False,
        key_agreement=agree,
        key_cert_sign=issue,
        crl_sign=revoke,
        encipher_only=False,
        decipher_only=False,
    )


def tpm_names(manufacturer: str = "id:53544D20", model: str = "ST33", version: str = "id:00490004") -> x509.Name:
    pairs = ((MANUFACTURER, manufacturer), (MODEL, model), (FIRMWARE, version))
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in pairs if value])


AUTHORITY: Final[Extensions] = (
    (x509.BasicConstraints(ca=True, path_length=None), True),
    (key_usage(issue=True, revoke=True), True),
)
LEAF: Final[Extensions] = (
    (x509.BasicConstraints(ca=False, path_length=None), True),
    (key_usage(agree=True), True),
    (x509.ExtendedKeyUsage([EK_USAGE]), False),
    (x509.SubjectAlternativeName([x509.DirectoryName(tpm_names())]), True),
)


@dataclass(frozen=True, slots=True)
class Authority:
    """Somebody who signs certificates in a name with a key, rightly or not."""

    name: str
    private: PrivateKey
    certificate: Certificate

    def issue(
        self,
        subject: str,
        private: PrivateKey,
        extensions: Extensions,
        *,
        start: datetime = NOW - YEAR,
        end: datetime = NOW + YEAR,
        serial: int = 1234,
    ) -> Certificate:
        return parse_certificate(
            encoded(_build(subject, private, self.name, extensions, start, end, serial), self.private)
        )

    def authority(
        self, subject: str, private: PrivateKey, extensions: Extensions = AUTHORITY, *, serial: int = 77
    ) -> "Authority":
        return Authority(subject, private, self.issue(subject, private, extensions, serial=serial))

    def revoke(
        self,
        *serials: int,
        start: datetime = NOW - DAY,
        end: datetime = NOW + DAY,
        extensions: Extensions = (),
        private: PrivateKey | None = None,
    ) -> RevocationList:
        """Return a list in this authority's name."""
        builder = x509.CertificateRevocationListBuilder(name(self.name), start, end)
        for serial in serials:
            builder = builder.add_revoked_certificate(x509.RevokedCertificateBuilder(serial, NOW - DAY).build())
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        made = builder.sign(private or self.private, hashes.SHA256())
        return parse_revocation_list(made.public_bytes(Encoding.DER))


def root(
    subject: str = "Root", private: PrivateKey | None = None, extensions: Extensions = AUTHORITY, **times: datetime
) -> Authority:
    """Return an authority that signed its own certificate."""
    own = private or ecc_key(P384)
    start, end = times.get("start", NOW - YEAR), times.get("end", NOW + YEAR)
    made = encoded(_build(subject, own, subject, extensions, start, end, 1), own)
    return Authority(subject, own, parse_certificate(made))


def without(extensions: Extensions, kind: type[x509.ExtensionType]) -> Extensions:
    return [(extension, critical) for extension, critical in extensions if not isinstance(extension, kind)]


def having(extensions: Extensions, added: x509.ExtensionType, *, critical: bool = True) -> Extensions:
    """Return the extensions with one in place of that of its kind."""
    return [*without(extensions, type(added)), (added, critical)]


def _build(
    subject: str,
    private: PrivateKey,
    issuer: str,
    extensions: Extensions,
    start: datetime,
    end: datetime,
    serial: int,
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder(name(issuer), name(subject), private.public_key(), serial, start, end)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder


def encoded(builder: x509.CertificateBuilder, private: PrivateKey) -> bytes:
    return builder.sign(private, hashes.SHA256()).public_bytes(Encoding.DER)


# -- certificates that no library makes --------------------------------------------------------------------------------


def element(tag: int, content: bytes) -> bytes:
    """Return a DER element."""
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(length)]) + length + content


def elements(content: bytes) -> list[bytes]:
    """Return the DER elements that `content` is made of."""
    found = []
    while content:
        size, start = content[1], 2
        if size >= 0x80:
            start += size & 0x7F
            size = int.from_bytes(content[2:start])
        found.append(content[: start + size])
        content = content[start + size :]
    return found


def children(whole: bytes) -> list[bytes]:
    """Return the DER elements inside one."""
    return elements(whole[2 + (whole[1] & 0x7F if whole[1] >= 0x80 else 0) :])


def resigned(
    certificate: Certificate,
    private: PrivateKey,
    change: Callable[[list[bytes]], list[bytes]],
    algorithm: hashes.HashAlgorithm | None = None,
) -> bytes:
    """Return the certificate with other fields (version, serial number, algorithm, issuer, ...), signed again."""
    fields = change(children(certificate.signed))
    content = element(0x30, b"".join(fields))
    return element(0x30, content + fields[2] + element(0x03, b"\x00" + sign(private, content, algorithm)))


def sign(private: PrivateKey, content: bytes, algorithm: hashes.HashAlgorithm | None = None) -> bytes:
    """Return the signature of a certificate or list over its content."""
    chosen = algorithm or hashes.SHA256()
    if isinstance(private, rsa.RSAPrivateKey):
        return private.sign(content, padding.PKCS1v15(), chosen)
    return private.sign(content, ec.ECDSA(chosen))


def rsa_root(bits: int = 2048) -> Authority:
    return root("RSA root", rsa_key(bits))
