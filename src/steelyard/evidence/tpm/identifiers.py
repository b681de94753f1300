"""Numbers that the TPM specification gives to algorithms, curves, structures and attributes.

Source: TCG Algorithm Registry 1.34; TPM 2.0 Library Part 2 revision 1.59, sections 6.3, 6.9, 8.3.
"""

from enum import IntEnum, IntFlag
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from steelyard.model.algorithms import HASH_BY_TPM_ID, HashAlgorithm
from steelyard.model.errors import Malformed

TPM_GENERATED_VALUE: Final = 0xFF544347
"""Heads every structure that a TPM attests to; a restricted key signs nothing from outside that begins so."""


class TpmSt(IntEnum):
    """TPM_ST: what kind of structure an attestation is."""

    ATTEST_CERTIFY = 0x8017
    ATTEST_QUOTE = 0x8018


class TpmAlg(IntEnum):
    """TPM_ALG_ID of what is not a hash."""

    RSA = 0x0001
    AES = 0x0006
    NULL = 0x0010
    RSASSA = 0x0014
    RSAES = 0x0015
    RSAPSS = 0x0016
    OAEP = 0x0017
    ECDSA = 0x0018
    ECDH = 0x0019
    ECC = 0x0023
    CFB = 0x0043


class TpmaObject(IntFlag):
    """TPMA_OBJECT: what a key may do and where it may live."""

    FIXED_TPM = 1 << 1
    ST_CLEAR = 1 << 2
    FIXED_PARENT = 1 << 4
    SENSITIVE_DATA_ORIGIN = 1 << 5
    USER_WITH_AUTH = 1 << 6
    ADMIN_WITH_POLICY = 1 << 7
    FIRMWARE_LIMITED = 1 << 8
    SVN_LIMITED = 1 << 9
    NO_DA = 1 << 10
    ENCRYPTED_DUPLICATION = 1 << 11
    RESTRICTED = 1 << 16
    DECRYPT = 1 << 17
    SIGN_ENCRYPT = 1 << 18
    X509_SIGN = 1 << 19


TPMA_OBJECT_KNOWN: Final = sum(TpmaObject)
"""All bits that have a meaning; the others must be clear."""

CURVE_BY_TPM_ID: Final[dict[int, type[ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1]]] = {
    0x0003: ec.SECP256R1,
    0x0004: ec.SECP384R1,
    0x0005: ec.SECP521R1,
}

COORDINATE_BYTES: Final = {0x0003: 32, 0x0004: 48, 0x0005: 66}
"""Of a point on the curve, per coordinate."""


def parse_hash_algorithm(number: int, what: str, doing: str, error: type[Malformed]) -> HashAlgorithm:
    """Return the hash that `number` names; raises `error` for one that is not known."""
    algorithm = HASH_BY_TPM_ID.get(number)
    if algorithm is None:
        raise error(doing, expected=f"a known hash as {what}", found=f"TPM_ALG_ID 0x{number:04x}")
    return algorithm
