"""X.509 certificates as TPM makers ship them: read leniently, so that the strict checks have something to check.

Odd encodings seen: name parts in the wrong DER order (Nuvoton NPCT75x, EK certificates and their roots), keys marked
id-RSAES-OAEP (Infineon, TPM 1.2 generation and early 2.0), padding behind the certificate up to the size of the NV
index it was read from. What is mended is only how the fields are *read*: signatures are always verified over the bytes
as they were signed.
"""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from steelyard.evidence.reader import refuse_over
from steelyard.model.errors import CertificateRejected, MalformedCertificate
from steelyard.model.limits import CERTIFICATE_BYTES
from steelyard.model.text import printable

_DOING: Final = "reading a certificate"
_SET: Final = 0x31
_OCTET_STRING: Final = 0x04
_CONSTRUCTED: Final = 0x20
_DEPTH: Final = 16
"""Levels of nesting; certificates have 8."""
_OID_RSA: Final = bytes.fromhex("06092a864886f70d010101")
_OID_RSAES_OAEP: Final = bytes.fromhex("06092a864886f70d010107")
_OID_SUBJECT_ALTERNATIVE_NAME: Final = bytes.fromhex("0603551d11")
_NULL: Final = b"\x05\x00"
_PEM_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"
_PEM_END: Final = b"-----END CERTIFICATE-----"

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)

_BELIEVED_HASHES: Final = ("sha256", "sha384", "sha512")
_LEAST_RSA_BITS: Final = 2048
_LEAST_ECC_BITS: Final = 256

UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    UserWarning,
)
"""All that the library raises over hostile bytes. It also warns, of a serial number of 0 or a country of three letters:
such a certificate is read, and malformed only where warnings are turned into errors."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate, read; nothing about it is verified.

    fields     as read, possibly from a mended copy.
    encoded    the bytes as they came, without padding.
    signed     the TBSCertificate exactly as the issuer signed it.
    key        the subject's public key.
    oddities   what had to be mended, for people.
    """

    fields: x509.Certificate
    encoded: bytes
    signed: bytes
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
    oddities: tuple[str, ...]

    def subject(self) -> str:
        """Return the subject's name, fit to be shown."""
        return printable(self.fields.subject.rfc4514_string()) or "an empty name"

    def issuer(self) -> str:
        """Return the issuer's name, fit to be shown."""
        return printable(self.fields.issuer.rfc4514_string()) or "an empty name"

    def verify_issued_by(self, issuer: "Certificate", now: datetime) -> None:
        """Return when `issuer` is a valid certification authority whose key signed this certificate.

        A name alone proves nothing (attack 2): name, signature, authority to sign and time are all checked.
        Raises CertificateRejected.
        """
        doing = f"verifying that {issuer.subject()} issued {self.subject()}"
        if self.fields.issuer != issuer.fields.subject:
            raise CertificateRejected(doing, expected=f"issuer {self.issuer()}", found=issuer.subject())
        issuer.check_may_issue(doing, now)
        issuer.verify_signature(self.fields, self.signed, doing)

    def verify_signature(
        self, signed: x509.Certificate | x509.CertificateRevocationList, content: bytes, doing: str
    ) -> None:
        """Return when this certificate's key signed `content`, as `signed` says how and with what outcome.

        Raises CertificateRejected; for SHA-1 too, and a key that could be computed.
        """
        least = _LEAST_RSA_BITS if isinstance(self.key, rsa.RSAPublicKey) else _LEAST_ECC_BITS
        if self.key.key_size < least:
            raise CertificateRejected(
                doing, expected=f"an issuer's key of at least {least} bits", found=f"{self.key.key_size}"
            )
        algorithm, parameters = signed.signature_hash_algorithm, signed.signature_algorithm_parameters
        if algorithm is None or algorithm.name not in _BELIEVED_HASHES:
            raise CertificateRejected(
                doing, expected="a signature over SHA-256, -384 or -512", found=algorithm.name if algorithm else "none"
            )
        try:
            if isinstance(self.key, rsa.RSAPublicKey) and isinstance(parameters, (padding.PKCS1v15, padding.PSS)):
                self.key.verify(signed.signature, content, parameters, algorithm)
            elif isinstance(self.key, ec.EllipticCurvePublicKey) and isinstance(parameters, ec.ECDSA):
                self.key.verify(signed.signature, content, parameters)
            else:
                raise CertificateRejected(
                    doing, expected="a signature in a scheme of the issuer's key", found=type(parameters).__name__
                )
        except (InvalidSignature, UnsupportedAlgorithm) as error:
            raise CertificateRejected(
                doing, expected="a signature by the issuer's key", found="one that does not verify"
            ) from error

    def check_valid_at(self, now: datetime, doing: str) -> None:
        """Return when `now` is within the certificate's validity. Raises CertificateRejected."""
        start, end = self.fields.not_valid_before_utc, self.fields.not_valid_after_utc
        if not start <= now <= end:
            raise CertificateRejected(
                doing,
                expected=f"{self.subject()} to be valid at {now.isoformat()}",
                found=f"validity {start.isoformat()} to {end.isoformat()}",
            )

    def check_may_issue(self, doing: str, now: datetime) -> None:
        """Return when this is a certification authority's, valid at `now`. Raises CertificateRejected."""
        self.check_valid_at(now, doing)
        constraints = self.extension(x509.BasicConstraints)
        usage = self.extension(x509.KeyUsage)
        if constraints is None or not constraints.ca or (usage is not None and not usage.key_cert_sign):
            raise CertificateRejected(
                doing, expected=f"{self.subject()} to be a certification authority", found="a certificate that is not"
            )

    def path_length(self) -> int | None:
        """Return how many authorities may stand between this one and the leaf; None for any number."""
        constraints = self.extension(x509.BasicConstraints)
        return constraints.path_length if constraints else None

    def extension(self, kind: type[_Extension]) -> _Extension | None:
        """Return the extension of this kind, if there."""
        for extension in self.fields.extensions:
            if isinstance(extension.value, kind):
                return extension.value
        return None


def parse_certificate(data: bytes) -> Certificate:
    """Return the certificate in `data`: DER or PEM, padded or not. Raises MalformedCertificate, TooLarge."""
    refuse_over(CERTIFICATE_BYTES, len(data), _DOING)
    oddities = []
    if data.lstrip().startswith(_PEM_BEGIN):
        data = _pem_content(data)
    encoded = _without_padding(data)
    if len(encoded) < len(data):
        oddities.append(f"{len(data) - len(encoded)} bytes of padding")
    signed = _signed_content(encoded)
    try:
        fields, key = _read_fields(encoded)
    except UNREADABLE as error:
        oddities.append(printable(str(error)))
        fields, key = _read_mended(encoded)
    if not isinstance(key, (rsa.RSAPublicKey, ec.EllipticCurvePublicKey)):
        raise MalformedCertificate(_DOING, expected="an RSA or ECC key", found=type(key).__name__)
    return Certificate(fields, encoded, signed, key, tuple(oddities))


def _read_mended(encoded: bytes) -> tuple[x509.Certificate, CertificatePublicKeyTypes]:
    try:
        return _read_fields(_mend(encoded, 0))
    except UNREADABLE as error:
        raise MalformedCertificate(_DOING, expected="an X.509 certificate", found=str(error)) from error


def _read_fields(encoded: bytes) -> tuple[x509.Certificate, CertificatePublicKeyTypes]:
    """Read now what the library reads when first asked, so that nothing malformed is met later."""
    fields = x509.load_der_x509_certificate(encoded)
    _ = (fields.subject, fields.issuer, fields.extensions, fields.not_valid_before_utc, fields.not_valid_after_utc)
    _ = (fields.signature_hash_algorithm, fields.signature_algorithm_parameters)
    return fields, fields.public_key()


def _pem_content(data: bytes) -> bytes:
    """Return the DER in a PEM file; a second certificate in it would be passed over, and is refused instead."""
    body, end, rest = data.lstrip().removeprefix(_PEM_BEGIN).partition(_PEM_END)
    if not end or rest.strip():
        raise MalformedCertificate(
            _DOING, expected="one certificate in PEM", found="more behind it" if end else "no line that ends it"
        )
    try:
        return base64.b64decode(b"".join(body.split()), validate=True)
    except ValueError as error:
        raise MalformedCertificate(_DOING, expected="base64 in PEM", found=str(error)) from error


def _header(data: bytes, at: int) -> tuple[int, int, int]:
    """Return tag, start of content and end of the element at `at`. Raises MalformedCertificate.

    Lengths must be definite and shortest, as DER has them. An end behind `data` is for the caller to notice.
    """
    if at + 2 > len(data):
        raise _not_der(at)
    length, start = data[at + 1], at + 2
    if length >= 0x80:
        size = length & 0x7F
        length, start = int.from_bytes(data[start : start + size]), start + size
        if length < 0x80 or length < 1 << 8 * (size - 1):
            raise _not_der(at)
    return data[at], start, start + length


def _not_der(at: int) -> MalformedCertificate:
    return MalformedCertificate(_DOING, expected="DER", found=f"an element that is not, at offset {at}")


def _without_padding(data: bytes) -> bytes:
    _, _, end = _header(data, 0)
    padding_bytes = data[end:]
    if padding_bytes.strip(b"\x00") and padding_bytes.strip(b"\xff"):
        raise MalformedCertificate(
            _DOING, expected="one certificate, then at most padding", found=f"{len(padding_bytes)} bytes after it"
        )
    return data[:end]


def _signed_content(encoded: bytes) -> bytes:
    """Return the TBSCertificate as the issuer signed it.

    The algorithm that stands beside the signature, where anyone can change it, must be the one inside.
    Source: RFC 5280, section 4.1.1.2.
    """
    parts = list(_children(encoded))
    if len(parts) != 3:
        raise MalformedCertificate(_DOING, expected="content, algorithm, signature", found=f"{len(parts)} parts")
    content, algorithm, _ = parts
    # Behind the serial number, which a version may precede.
    if algorithm not in list(_children(content))[1:3]:
        raise MalformedCertificate(_DOING, expected="the same algorithm beside and under the signature", found="two")
    return content


def _children(element: bytes) -> Iterator[bytes]:
    """Yield what is inside an element that ends where the bytes end."""
    _, start, end = _header(element, 0)
    while start < end:
        _, _, stop = _header(element, start)
        yield element[start:stop]
        start = stop


def _mend(element: bytes, depth: int) -> bytes:
    """Return the element as strict DER would have it: members of sets in order, OAEP keys named as RSA keys.

    Nothing else is mended: an element that ends elsewhere than it says would be read as it was not signed.
    """
    tag, _, end = _header(element, 0)
    if end != len(element):
        raise _not_der(end)
    if not tag & _CONSTRUCTED:
        return element
    if depth > _DEPTH:
        raise MalformedCertificate(_DOING, expected=f"at most {_DEPTH} levels", found="deeper nesting")
    children = [_mend(child, depth + 1) for child in _children(element)]
    if tag == _SET:
        children.sort()
    if children[:1] == [_OID_RSAES_OAEP]:
        children = [_OID_RSA, _NULL]
    elif children[:1] == [_OID_SUBJECT_ALTERNATIVE_NAME]:
        # The one extension that holds a name; its value is DER inside an octet string.
        _, inside, _ = _header(children[-1], 0)
        children[-1] = _element(_OCTET_STRING, _mend(children[-1][inside:], depth + 1))
    return _element(tag, b"".join(children))


def _element(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(length)]) + length + content
