"""Keys and file signatures as evmctl and the kernel have them, made from the kernel's structures."""

import hashlib
import struct
from datetime import UTC, datetime, timedelta
from enum import Enum

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

NOW = datetime(2030, 6, 1, tzinfo=UTC)
LATER = NOW + timedelta(days=365)

HASH_NUMBERS = {"sha1": 2, "sha256": 4, "sha384": 5, "sha512": 6}
_HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha1": hashes.SHA1(),  # noqa: S303  # to see it refused
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}


class Kind(Enum):
    """Type of the attribute and version of its signature."""

    FILE = (3, 2)
    FILE_ID = (3, 3)
    VERITY = (6, 3)
    OLDEST = (3, 1)
    VERITY_OVER_DIGEST = (6, 2)
    METADATA = (5, 2)
    FUTURE = (3, 4)


def public_der(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def key_id(key: PrivateKey) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        bits = key.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
    else:
        bits = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return hashlib.new("sha1", bits).digest()[-4:]  # noqa: S324  # an identifier, no proof


def sign(
    key: PrivateKey, content: bytes, algorithm: str = "sha256", kind: Kind = Kind.FILE, signed_as: Kind | None = None
) -> bytes:
    """Return the attribute's value for a file with `content`.

    signed_as  the kind whose data is signed, when it is not the kind that the header says.
    """
    digest = hashlib.new(algorithm, content).digest()
    attribute, version = (signed_as or kind).value
    if version == 3:
        digest = hashlib.new(algorithm, bytes([attribute, HASH_NUMBERS[algorithm]]) + digest).digest()
    prehashed = Prehashed(_HASHES[algorithm])
    if isinstance(key, rsa.RSAPrivateKey):
        value = key.sign(digest, padding.PKCS1v15(), prehashed)
    else:
        value = key.sign(digest, ec.ECDSA(prehashed))
    attribute, version = kind.value
    return struct.pack(">BBB4sH", attribute, version, HASH_NUMBERS[algorithm], key_id(key), len(value)) + value


def certificate(
    key: PrivateKey, not_after: datetime = LATER, identifier: bytes | None = None, not_before: datetime = NOW
) -> bytes:
    """Return a self-signed certificate, DER; without a key identifier unless one is given."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "file signing")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(not_before)
        .not_valid_after(not_after)
    )
    if identifier is not None:
        builder = builder.add_extension(x509.SubjectKeyIdentifier(identifier), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
