"""TPMT_SIGNATURE: a signature with the scheme that made it. Source: TPM 2.0 Library Part 2, section 11.3.4."""

from dataclasses import dataclass
from typing import Final

from steelyard.evidence.reader import BigEndianReader, refuse_over
from steelyard.evidence.tpm.attest import tpm2b
from steelyard.evidence.tpm.identifiers import TpmAlg, parse_hash_algorithm
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import MalformedTpmStructure
from steelyard.model.limits import TPM_STRUCTURE_BYTES

_DOING: Final = "reading TPMT_SIGNATURE"


@dataclass(frozen=True, slots=True)
class RsaSignature:
    """TPMS_SIGNATURE_RSASSA or _RSAPSS; `signature` is as long as the modulus."""

    scheme: TpmAlg
    hash_algorithm: HashAlgorithm
    signature: bytes

    def to_bytes(self) -> bytes:
        """Return the structure as the TPM marshals it."""
        return self.scheme.to_bytes(2) + self.hash_algorithm.tpm_id.to_bytes(2) + tpm2b(self.signature)


@dataclass(frozen=True, slots=True)
class EcdsaSignature:
    """TPMS_SIGNATURE_ECDSA; r and s big-endian as the TPM sent them, with or without leading zeros."""

    hash_algorithm: HashAlgorithm
    r: bytes
    s: bytes

    @property
    def scheme(self) -> TpmAlg:
        """The scheme's number, as the RSA kinds have it."""
        return TpmAlg.ECDSA

    def to_bytes(self) -> bytes:
        """Return the structure as the TPM marshals it."""
        return TpmAlg.ECDSA.to_bytes(2) + self.hash_algorithm.tpm_id.to_bytes(2) + tpm2b(self.r) + tpm2b(self.s)


TpmtSignature = RsaSignature | EcdsaSignature


def parse_tpmt_signature(data: bytes) -> TpmtSignature:
    """Return the signature that `data` is, whole. Raises MalformedTpmStructure, TooLarge."""
    refuse_over(TPM_STRUCTURE_BYTES, len(data), _DOING)
    reader = BigEndianReader(data, _DOING, MalformedTpmStructure)
    scheme = reader.u16("sigAlg")
    if scheme not in (TpmAlg.RSASSA, TpmAlg.RSAPSS, TpmAlg.ECDSA):
        raise reader.wrong("sigAlg RSASSA, RSAPSS or ECDSA", f"TPM_ALG_ID 0x{scheme:04x}")
    algorithm = parse_hash_algorithm(reader.u16("hash"), "hash", _DOING, MalformedTpmStructure)
    signature: TpmtSignature
    if scheme == TpmAlg.ECDSA:
        signature = EcdsaSignature(algorithm, reader.sized("signatureR"), reader.sized("signatureS"))
    else:
        signature = RsaSignature(TpmAlg(scheme), algorithm, reader.sized("sig"))
    reader.end()
    return signature
