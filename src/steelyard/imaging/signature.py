"""Who vouches for the file of an image: a DSSE envelope that says its SHA-256 and its size.

Ed25519 alone, as reference manifests have it. What was signed is checked when the file is taken in, as any digest is.
"""

import json
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from steelyard.evidence.document import parse_document
from steelyard.evidence.reference import dsse
from steelyard.evidence.reference.dsse import Envelope, Signers
from steelyard.model.errors import MalformedKey, MalformedReference, WrongUse
from steelyard.model.limits import IMAGE_BYTES, MANIFEST_BYTES, PUBLIC_KEY_BYTES

PAYLOAD_TYPE: Final = "application/vnd.steelyard.image+json"
SHA256_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class SignedFile:
    """What a key vouched for.

    sha256     of the file as it is, whatever format it has; 32 bytes.
    signed_by  SHA-256 of the 32-byte public key, in hexadecimal.
    """

    sha256: bytes
    size_bytes: int
    signed_by: str


def sign_image(sha256: bytes, size_bytes: int, key: Ed25519PrivateKey) -> Envelope:
    """Return the envelope that vouches for a file."""
    payload = json.dumps({"sha256": sha256.hex(), "size_bytes": size_bytes}, sort_keys=True).encode()
    return dsse.sign(payload, PAYLOAD_TYPE, key)


def verify_image_signature(envelope: bytes, key: bytes) -> SignedFile:
    """Return what `key` (PEM) vouched for in `envelope` (JSON).

    Raises MalformedReference, MalformedKey, ReferenceRejected, TooLarge.
    """
    public = _parse_key(key)
    signed = dsse.parse_envelope(envelope)
    dsse.verify(signed, PAYLOAD_TYPE, Signers({"the key that was named": public}, 1))
    doing = "reading what was signed of an image"
    fields = parse_document(signed.payload, MANIFEST_BYTES, doing, MalformedReference)
    digest, size = fields.hexadecimal("sha256"), fields.integer("size_bytes", 1, IMAGE_BYTES.most)
    fields.end()
    if len(digest) != SHA256_BYTES:
        raise MalformedReference(doing, expected="a SHA-256", found=f"{len(digest)} bytes")
    return SignedFile(digest, size, dsse.key_id(public))


def agreed_digest(announced: bytes | None, signed: SignedFile | None) -> bytes | None:
    """Return what the file must have, by what was announced and what was signed. Raises WrongUse if they differ."""
    if signed is None:
        return announced
    if announced is not None and announced != signed.sha256:
        expected = f"the digest that was signed: {signed.sha256.hex()}"
        raise WrongUse("announcing an image", expected=expected, found=announced.hex())
    return signed.sha256


def _parse_key(key: bytes) -> Ed25519PublicKey:
    doing = "reading the key that signed an image"
    if len(key) > PUBLIC_KEY_BYTES.most:
        raise MalformedKey(doing, expected=f"at most {PUBLIC_KEY_BYTES.most} bytes", found=f"{len(key)}")
    try:
        public = load_pem_public_key(key)
    except (ValueError, UnsupportedAlgorithm) as cause:
        raise MalformedKey(doing, expected="a public key, PEM", found="something else") from cause
    if not isinstance(public, Ed25519PublicKey):
        raise MalformedKey(doing, expected="an Ed25519 key", found=type(public).__name__)
    return public
