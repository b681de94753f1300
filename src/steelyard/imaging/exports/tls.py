"""A certification authority for one opening: it signs one server and one client, and is forgotten.

So that whoever shows a certificate of it is the one that the opening was made for, and none can be made later.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from steelyard.model.secret import Secret

_BEGIN: Final = datetime(1970, 1, 1, tzinfo=UTC)
_END: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""They are good as long as they are served, even on a node whose clock has lost its battery. The end says that there is
none. Source: RFC 5280, section 4.1.2.5."""


@dataclass(frozen=True, slots=True)
class Certified:
    """A certificate and its key, PEM."""

    certificate: bytes
    key: Secret


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the two ends of one opening know each other by."""

    authority: bytes
    server: Certified
    client: Certified


def issue_credentials(name: str, address: IPv4Address | IPv6Address) -> Credentials:
    """Return fresh credentials for the opening `name`, which the server also goes by, beside its address."""
    key = generate_private_key(SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} authority")])
    names = x509.SubjectAlternativeName([x509.IPAddress(address), x509.DNSName(name)])
    authority = (
        _certificate(issuer, issuer, key, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, SHA256())
    )
    return Credentials(
        authority.public_bytes(Encoding.PEM),
        _issue(f"{name} server", issuer, key, ExtendedKeyUsageOID.SERVER_AUTH, names),
        _issue(f"{name} node", issuer, key, ExtendedKeyUsageOID.CLIENT_AUTH, None),
    )


def _issue(
    name: str,
    issuer: x509.Name,
    issuer_key: EllipticCurvePrivateKey,
    purpose: x509.ObjectIdentifier,
    names: x509.SubjectAlternativeName | None,
) -> Certified:
    key = generate_private_key(SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        _certificate(subject, issuer, key, issuer_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    )
    if names is not None:
        certificate = certificate.add_extension(names, critical=False)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Certified(certificate.sign(issuer_key, SHA256()).public_bytes(Encoding.PEM), Secret(pem))


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, issuer_key: EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_BEGIN)
        .not_valid_after(_END)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
