"""DSSE envelopes: a payload and the signatures over it and its type, Ed25519 only.

Source: DSSE 1.0 (protocol and envelope).
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from steelyard.evidence.document import parse_document
from steelyard.model.errors import MalformedReference, ReferenceRejected, WrongUse
from steelyard.model.limits import MANIFEST_BYTES, SIGNATURES

_DOING: Final = "reading a signed envelope"


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature of an envelope. `key_id` is a hint where to look, and proves nothing."""

    key_id: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload nobody has vouched for yet; `verify` gives the bytes that were."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]

    def to_bytes(self) -> bytes:
        """Return the envelope as JSON."""
        document = {
            "payloadType": self.payload_type,
            "payload": base64.b64encode(self.payload).decode("ascii"),
            "signatures": [
                {"keyid": signature.key_id, "sig": base64.b64encode(signature.value).decode("ascii")}
                for signature in self.signatures
            ],
        }
        return json.dumps(document, indent=1).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Signers:
    """Who may sign, by a name for people, and how many of them must. Raises WrongUse for a threshold out of reach."""

    keys: Mapping[str, Ed25519PublicKey]
    threshold: int

    def __post_init__(self) -> None:
        different = {key.public_bytes_raw() for key in self.keys.values()}
        if not 1 <= self.threshold <= len(different) or len(different) != len(self.keys):
            raise WrongUse(
                "naming signers",
                expected="a threshold from 1 to the number of keys, each key once",
                found=f"threshold {self.threshold} of {len(different)} different keys under {len(self.keys)} names",
            )


def key_id(key: Ed25519PublicKey) -> str:
    """Return the SHA-256 of the 32-byte public key, in hexadecimal."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()


def sign(payload: bytes, payload_type: str, key: Ed25519PrivateKey) -> Envelope:
    """Return `payload` in an envelope with one signature."""
    return add_signature(Envelope(payload_type, payload, ()), key)


def add_signature(envelope: Envelope, key: Ed25519PrivateKey) -> Envelope:
    """Return the envelope with this key's signature too; one that the key made before is replaced."""
    made = Signature(key_id(key.public_key()), key.sign(_encoded(envelope)))
    others = tuple(signature for signature in envelope.signatures if signature.key_id != made.key_id)
    return Envelope(envelope.payload_type, envelope.payload, (*others, made))


def parse_envelope(data: bytes) -> Envelope:
    """Return the envelope that `data` is. Raises MalformedReference, TooLarge."""
    fields = parse_document(data, MANIFEST_BYTES, _DOING, MalformedReference)
    payload_type, payload = fields.text("payloadType"), fields.base64("payload")
    signatures = []
    for entry in fields.list_of_fields("signatures", SIGNATURES):
        signatures.append(Signature(entry.text("keyid"), entry.base64("sig")))
        entry.end()
    fields.end()
    return Envelope(payload_type, payload, tuple(signatures))


def verify(envelope: Envelope, payload_type: str, signers: Signers) -> frozenset[str]:
    """Return the names of those who signed, at least as many as the threshold asks for.

    A key counts once, however many signatures it gave (attack 36). Raises ReferenceRejected.
    """
    doing = "verifying a signed reference"
    if envelope.payload_type != payload_type:
        raise ReferenceRejected(doing, expected=f"a payload of type {payload_type}", found=envelope.payload_type)
    encoded = _encoded(envelope)
    by_id = {key_id(key): (name, key) for name, key in signers.keys.items()}
    signed_by = set()
    for signature in envelope.signatures:
        if signature.key_id not in by_id:
            continue
        name, key = by_id[signature.key_id]
        try:
            key.verify(signature.value, encoded)
        except InvalidSignature:
            continue
        signed_by.add(name)
    if len(signed_by) < signers.threshold:
        raise ReferenceRejected(
            doing,
            expected=f"{signers.threshold} good signatures of {', '.join(sorted(signers.keys))}",
            found=f"{len(signed_by)} ({', '.join(sorted(signed_by)) or 'none'})",
        )
    return frozenset(signed_by)


def _encoded(envelope: Envelope) -> bytes:
    """Return the pre-authentication encoding: what is signed. Source: DSSE protocol, section PAE."""
    kind = envelope.payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(envelope.payload), envelope.payload)
