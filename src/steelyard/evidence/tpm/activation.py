"""What a credential looks like, and what a node answers when its TPM has opened one: the node's half of activation.

The registrar's half is `credential.py`. This one needs no cryptography but HMAC, as the agent is kept small.
Source: TPM 2.0 Library Part 3, TPM2_ActivateCredential.
"""

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

from steelyard.evidence.reader import BigEndianReader, refuse_over
from steelyard.evidence.tpm.attest import tpm2b
from steelyard.model.errors import MalformedTpmStructure
from steelyard.model.limits import TPM_STRUCTURE_BYTES
from steelyard.model.secret import Secret

_DOING: Final = "reading a credential blob"
_FILE_MAGIC: Final = 0xBADCC0DE
"""Heads the files of tpm2_makecredential, followed by version 1."""


@dataclass(frozen=True, slots=True)
class CredentialBlob:
    """What TPM2_ActivateCredential takes: TPMS_ID_OBJECT (integrity and encrypted identity) and the encrypted seed."""

    integrity_hmac: bytes
    encrypted_identity: bytes
    encrypted_secret: bytes

    def id_object(self) -> bytes:
        """Return the TPM2B_ID_OBJECT."""
        return tpm2b(tpm2b(self.integrity_hmac) + self.encrypted_identity)

    def to_bytes(self) -> bytes:
        """Return the file that tpm2_activatecredential takes: magic, version, TPM2B_ID_OBJECT, encrypted secret."""
        return _FILE_MAGIC.to_bytes(4) + (1).to_bytes(4) + self.id_object() + tpm2b(self.encrypted_secret)


def parse_credential_file(data: bytes) -> CredentialBlob:
    """Return the credential in a file of tpm2_makecredential. Raises MalformedTpmStructure, TooLarge."""
    refuse_over(TPM_STRUCTURE_BYTES, len(data), _DOING)
    reader = BigEndianReader(data, _DOING, MalformedTpmStructure)
    magic, version = reader.u32("magic"), reader.u32("version")
    if (magic, version) != (_FILE_MAGIC, 1):
        raise reader.wrong(f"magic 0x{_FILE_MAGIC:08x} and version 1", f"0x{magic:08x} and {version}")
    id_object = BigEndianReader(reader.sized("TPM2B_ID_OBJECT"), _DOING, MalformedTpmStructure)
    integrity_hmac, encrypted_identity = id_object.sized("integrityHMAC"), id_object.rest()
    encrypted_secret = reader.sized("TPM2B_ENCRYPTED_SECRET")
    reader.end()
    return CredentialBlob(integrity_hmac, encrypted_identity, encrypted_secret)


def activation_proof(secret: Secret, session: bytes, attestation_key_name: bytes) -> bytes:
    """Return what a node answers: HMAC-SHA-256 over the registration, keyed with the secret it opened. 32 bytes.

    The secret itself never travels, so that neither a log nor an error text can give it away.
    """
    message = b"steelyard activation 1\x00" + hashlib.sha256(session).digest() + attestation_key_name
    return hmac.digest(secret.reveal(), message, "sha256")
