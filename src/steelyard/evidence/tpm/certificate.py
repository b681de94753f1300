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
from cryptography.hazmat.primitives.serialization import Encoding

from steelyard.evidence.reader import refuse_over
from steelyard.model.errors import CertificateRejected, MalformedCertificate
from steelyard.model.limits import CERTIFICATE_BYTES
from steelyard.model.text import printable

_DOING: Final = "reading a certificate"
_SEQUENCE: Final = 0x30
_SET: Final = 0x31
_OCTET_STRING: Final = 0x04
_CONSTRUCTED: Final = 0x20
_DEPTH: Final = 16
"""Levels of nesting; certificates have 8."""
_OID_RSA: Final = bytes.fromhex("06092a864886f70d010101")
_OID_RSAES_OAEP: Final = bytes.fromhex("06092a864886f70d010107")
_OID_SUBJECT_ALTERNATIVE_NAME: Final = bytes.fromhex("0603551d11")
_NULL: Final = b"\x05\x00"

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)

_WEAK_HASHES: Final = ("md5", "sha1", "sha224")


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
        algorithm = self.fields.signature_hash_algorithm
        if algorithm is None or algorithm.name in _WEAK_HASHES:
            raise CertificateRejected(
                doing, expected="a signature over SHA-256 or better", found=algorithm.name if algorithm else "none"
            )
        parameters = self.fields.signature_algorithm_parameters
        try:
            if isinstance(issuer.key, rsa.RSAPublicKey) and isinstance(parameters, (padding.PKCS1v15, padding.PSS)):
                issuer.key.verify(self.fields.signature, self.signed, parameters, algorithm)
            elif isinstance(issuer.key, ec.EllipticCurvePublicKey) and isinstance(parameters, ec.ECDSA):
                issuer.key.verify(self.fields.signature, self.signed, parameters)
            else:
                raise CertificateRejected(
                    doing, expected="a signature in a scheme of the issuer's key", found=type(parameters).__name__
                )
        except InvalidSignature as error:
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
    if data.lstrip().startswith(b"-----BEGIN"):
        try:
            data = x509.load_pem_x509_certificate(data).public_bytes(Encoding.DER)
        except ValueError:
            data = _pem_content(data)
    encoded = _without_padding(data)
    if len(encoded) < len(data):
        oddities.append(f"{len(data) - len(encoded)} bytes of padding")
    try:
        fields = x509.load_der_x509_certificate(encoded)
        key = fields.public_key()
        _read_all(fields)
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        oddities.append(printable(str(error)))
        fields, key = _parse_mended(encoded)
    if not isinstance(key, (rsa.RSAPublicKey, ec.EllipticCurvePublicKey)):
        raise MalformedCertificate(_DOING, expected="an RSA or ECC key", found=type(key).__name__)
    return Certificate(fields, encoded, _first_element(encoded), key, tuple(oddities))


def _parse_mended(encoded: bytes) -> tuple[x509.Certificate, CertificatePublicKeyTypes]:
    try:
        fields = x509.load_der_x509_certificate(_mend(encoded, 0))
        _read_all(fields)
        return fields, fields.public_key()
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise MalformedCertificate(_DOING, expected="an X.509 certificate", found=str(error)) from error


def _read_all(fields: x509.Certificate) -> None:
    """Read now what the library reads when first asked, so that nothing malformed is met later."""
    _ = (fields.subject, fields.issuer, fields.extensions, fields.not_valid_before_utc, fields.not_valid_after_utc)
    _ = (fields.signature_hash_algorithm, fields.signature_algorithm_parameters)


def _pem_content(data: bytes) -> bytes:
    """Return the DER of the first certificate in a PEM whose content the library finds odd."""
    try:
        body = data.split(b"-----BEGIN CERTIFICATE-----", 1)[1].split(b"-----END CERTIFICATE-----", 1)[0]
        return base64.b64decode(b"".join(body.split()), validate=True)
    except (IndexError, ValueError) as error:
        raise MalformedCertificate(_DOING, expected="a PEM certificate", found=str(error)) from error


def _header(data: bytes, at: int) -> tuple[int, int, int]:
    """Return tag, start of content and end of the element at `at`. Raises MalformedCertificate.

    Lengths must be definite and shortest (DER); tags above 30 do not occur in certificates.
    """
    wrong = MalformedCertificate(_DOING, expected="DER", found=f"an element that is not, at offset {at}")
    if at + 2 > len(data) or data[at] & 0x1F == 0x1F:
        raise wrong
    length, start = data[at + 1], at + 2
    if length >= 0x80:
        size = length & 0x7F
        length, start = int.from_bytes(data[start : start + size]), start + size
        if not 1 <= size <= 3 or length < 0x80 or length < 1 << 8 * (size - 1):
            raise wrong
    if start + length > len(data):
        raise wrong
    return data[at], start, start + length


def _without_padding(data: bytes) -> bytes:
    tag, _, end = _header(data, 0)
    padding_bytes = data[end:]
    if tag != _SEQUENCE or (padding_bytes.strip(b"\x00") and padding_bytes.strip(b"\xff")):
        raise MalformedCertificate(
            _DOING, expected="one certificate, then at most padding", found=f"{len(padding_bytes)} bytes after it"
        )
    return data[:end]


def _first_element(encoded: bytes) -> bytes:
    """Return the TBSCertificate, the first element of the certificate's sequence."""
    _, start, _ = _header(encoded, 0)
    _, _, end = _header(encoded, start)
    return encoded[start:end]


def _children(data: bytes, start: int, end: int) -> Iterator[bytes]:
    while start < end:
        _, _, stop = _header(data, start)
        if stop > end:
            raise MalformedCertificate(_DOING, expected="an element inside its parent", found="one that runs past it")
        yield data[start:stop]
        start = stop


def _mend(element: bytes, depth: int) -> bytes:
    """Return the element as strict DER would have it: members of sets in order, OAEP keys named as RSA keys."""
    tag, start, end = _header(element, 0)
    if not tag & _CONSTRUCTED:
        return element
    if depth > _DEPTH:
        raise MalformedCertificate(_DOING, expected=f"at most {_DEPTH} levels", found="deeper nesting")
    children = [_mend(child, depth + 1) for child in _children(element, start, end)]
    if tag == _SET:
        children.sort()
    if tag == _SEQUENCE and children:
        if children[0] == _OID_RSAES_OAEP:
            children = [_OID_RSA, _NULL]
        elif children[0] == _OID_SUBJECT_ALTERNATIVE_NAME:
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
