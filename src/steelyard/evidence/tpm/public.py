"""TPMT_PUBLIC: the public area of a key, and the Name that stands for all of it.

Source: TPM 2.0 Library Part 2, sections 12.2.3 and 12.2.4; Part 1, section 16 (Names).
"""

from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from steelyard.evidence.reader import BigEndianReader, refuse_over
from steelyard.evidence.tpm.attest import tpm2b
from steelyard.evidence.tpm.identifiers import (
    COORDINATE_BYTES,
    CURVE_BY_TPM_ID,
    TPMA_OBJECT_KNOWN,
    TpmAlg,
    TpmaObject,
    parse_hash_algorithm,
)
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import KeyRejected, MalformedTpmStructure
from steelyard.model.limits import TPM_STRUCTURE_BYTES

_DOING: Final = "reading TPMT_PUBLIC"
RSA_BITS: Final = (2048, 3072, 4096)
DEFAULT_EXPONENT: Final = 65537
"""What exponent 0 stands for. Source: section 12.2.3.5."""

_SCHEMES_WITH_HASH: Final = (TpmAlg.RSASSA, TpmAlg.RSAPSS, TpmAlg.OAEP, TpmAlg.ECDSA, TpmAlg.ECDH)


@dataclass(frozen=True, slots=True)
class SymmetricDefinition:
    """TPMT_SYM_DEF_OBJECT of a storage key: AES in CFB mode, with the key's size in bits."""

    key_bits: int

    def to_bytes(self) -> bytes:
        """Return the structure as the TPM marshals it."""
        return TpmAlg.AES.to_bytes(2) + self.key_bits.to_bytes(2) + TpmAlg.CFB.to_bytes(2)


@dataclass(frozen=True, slots=True)
class Scheme:
    """TPMT_RSA_SCHEME or TPMT_ECC_SCHEME that is not NULL; RSAES alone has no hash."""

    algorithm: TpmAlg
    hash_algorithm: HashAlgorithm | None

    def to_bytes(self) -> bytes:
        """Return the structure as the TPM marshals it."""
        return self.algorithm.to_bytes(2) + (self.hash_algorithm.tpm_id.to_bytes(2) if self.hash_algorithm else b"")


_NULL: Final = TpmAlg.NULL.to_bytes(2)


@dataclass(frozen=True, slots=True)
class RsaParameters:
    """TPMS_RSA_PARMS and the modulus; exponent as marshalled, 0 for 65537."""

    symmetric: SymmetricDefinition | None
    scheme: Scheme | None
    key_bits: int
    exponent: int
    modulus: bytes

    def public_key(self) -> rsa.RSAPublicKey:
        """Return the key for use. Raises KeyRejected for a modulus or exponent that no sound key has."""
        exponent = self.exponent or DEFAULT_EXPONENT
        modulus = int.from_bytes(self.modulus)
        if exponent < DEFAULT_EXPONENT or exponent % 2 == 0 or modulus.bit_length() != self.key_bits:
            raise KeyRejected(
                "taking an RSA key",
                expected=f"a {self.key_bits}-bit modulus and an odd exponent of at least {DEFAULT_EXPONENT}",
                found=f"{modulus.bit_length()} bits, exponent {exponent}",
            )
        try:
            return rsa.RSAPublicNumbers(exponent, modulus).public_key()
        except ValueError as error:
            raise KeyRejected("taking an RSA key", expected="a sound RSA key", found=str(error)) from error

    def to_bytes(self) -> bytes:
        """Return parameters and unique field as the TPM marshals them."""
        return (
            (self.symmetric.to_bytes() if self.symmetric else _NULL)
            + (self.scheme.to_bytes() if self.scheme else _NULL)
            + self.key_bits.to_bytes(2)
            + self.exponent.to_bytes(4)
            + tpm2b(self.modulus)
        )


@dataclass(frozen=True, slots=True)
class EccParameters:
    """TPMS_ECC_PARMS (its kdf is always NULL) and the point; coordinates big-endian as marshalled."""

    symmetric: SymmetricDefinition | None
    scheme: Scheme | None
    curve_id: int
    x: bytes
    y: bytes

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """Return the key for use. Raises KeyRejected for a point that is not on its curve."""
        numbers = ec.EllipticCurvePublicNumbers(
            int.from_bytes(self.x), int.from_bytes(self.y), CURVE_BY_TPM_ID[self.curve_id]()
        )
        try:
            return numbers.public_key()
        except ValueError as error:
            raise KeyRejected("taking an ECC key", expected="a point on its curve", found=str(error)) from error

    def to_bytes(self) -> bytes:
        """Return parameters and unique field as the TPM marshals them."""
        return (
            (self.symmetric.to_bytes() if self.symmetric else _NULL)
            + (self.scheme.to_bytes() if self.scheme else _NULL)
            + self.curve_id.to_bytes(2)
            + _NULL
            + tpm2b(self.x)
            + tpm2b(self.y)
        )


@dataclass(frozen=True, slots=True)
class TpmtPublic:
    """The public area of an asymmetric key."""

    name_algorithm: HashAlgorithm
    attributes: TpmaObject
    auth_policy: bytes
    parameters: RsaParameters | EccParameters

    def to_bytes(self) -> bytes:
        """Return TPMT_PUBLIC as the TPM marshals it."""
        kind = TpmAlg.RSA if isinstance(self.parameters, RsaParameters) else TpmAlg.ECC
        return (
            kind.to_bytes(2)
            + self.name_algorithm.tpm_id.to_bytes(2)
            + self.attributes.to_bytes(4)
            + tpm2b(self.auth_policy)
            + self.parameters.to_bytes()
        )

    def name(self) -> bytes:
        """Return the Name: nameAlg (2 bytes, big-endian) and the hash of the whole public area.

        Raises KeyRejected where the hash cannot be computed (SM3).
        """
        if not self.name_algorithm.computable:
            raise KeyRejected("computing a Name", expected="a hash of the SHA family", found=self.name_algorithm.label)
        return self.name_algorithm.tpm_id.to_bytes(2) + self.name_algorithm.digest(self.to_bytes())


def parse_tpm2b_public(data: bytes) -> TpmtPublic:
    """Return the key in a TPM2B_PUBLIC, as tpm2_readpublic and tpm2_createak write it.

    Raises MalformedTpmStructure, TooLarge.
    """
    refuse_over(TPM_STRUCTURE_BYTES, len(data), _DOING)
    reader = BigEndianReader(data, "reading TPM2B_PUBLIC", MalformedTpmStructure)
    area = reader.sized("publicArea")
    reader.end()
    return parse_tpmt_public(area)


def parse_tpmt_public(data: bytes) -> TpmtPublic:
    """Return the public area that `data` is, whole. Raises MalformedTpmStructure, TooLarge.

    RSA of 2048, 3072 and 4096 bits and ECC on P-256, P-384 and P-521; hash and storage keys are another matter.
    """
    refuse_over(TPM_STRUCTURE_BYTES, len(data), _DOING)
    reader = BigEndianReader(data, _DOING, MalformedTpmStructure)
    kind = reader.u16("type")
    name_algorithm = parse_hash_algorithm(reader.u16("nameAlg"), "nameAlg", _DOING, MalformedTpmStructure)
    attributes = reader.u32("objectAttributes")
    if attributes & ~TPMA_OBJECT_KNOWN:
        raise reader.wrong("the reserved bits of objectAttributes to be clear", f"0x{attributes:08x}")
    auth_policy = reader.sized("authPolicy")
    if len(auth_policy) not in (0, name_algorithm.size):
        raise reader.wrong(f"an authPolicy of 0 or {name_algorithm.size} bytes", f"{len(auth_policy)}")
    parameters: RsaParameters | EccParameters
    if kind == TpmAlg.RSA:
        parameters = _read_rsa(reader)
    elif kind == TpmAlg.ECC:
        parameters = _read_ecc(reader)
    else:
        raise reader.wrong("type TPM_ALG_RSA or TPM_ALG_ECC", f"TPM_ALG_ID 0x{kind:04x}")
    reader.end()
    return TpmtPublic(name_algorithm, TpmaObject(attributes), auth_policy, parameters)


def _read_symmetric(reader: BigEndianReader) -> SymmetricDefinition | None:
    algorithm = reader.u16("symmetric")
    if algorithm == TpmAlg.NULL:
        return None
    key_bits, mode = reader.u16("symmetric keyBits"), reader.u16("symmetric mode")
    if algorithm != TpmAlg.AES or key_bits not in (128, 192, 256) or mode != TpmAlg.CFB:
        raise reader.wrong(
            "symmetric AES-128, -192 or -256 in CFB, or NULL", f"0x{algorithm:04x} {key_bits} 0x{mode:04x}"
        )
    return SymmetricDefinition(key_bits)


def _read_scheme(reader: BigEndianReader, legal: tuple[TpmAlg, ...]) -> Scheme | None:
    algorithm = reader.u16("scheme")
    if algorithm == TpmAlg.NULL:
        return None
    if algorithm not in legal:
        raise reader.wrong("scheme " + ", ".join(alg.name for alg in legal) + " or NULL", f"0x{algorithm:04x}")
    if algorithm not in _SCHEMES_WITH_HASH:
        return Scheme(TpmAlg(algorithm), None)
    hash_algorithm = parse_hash_algorithm(reader.u16("scheme hash"), "scheme hash", _DOING, MalformedTpmStructure)
    return Scheme(TpmAlg(algorithm), hash_algorithm)


def _read_rsa(reader: BigEndianReader) -> RsaParameters:
    symmetric = _read_symmetric(reader)
    scheme = _read_scheme(reader, (TpmAlg.RSASSA, TpmAlg.RSAPSS, TpmAlg.RSAES, TpmAlg.OAEP))
    key_bits, exponent = reader.u16("keyBits"), reader.u32("exponent")
    modulus = reader.sized("unique")
    if key_bits not in RSA_BITS or len(modulus) != key_bits // 8:
        raise reader.wrong(f"RSA of {RSA_BITS} bits with a modulus as long", f"{key_bits} bits, {len(modulus)} bytes")
    return RsaParameters(symmetric, scheme, key_bits, exponent, modulus)


def _read_ecc(reader: BigEndianReader) -> EccParameters:
    symmetric = _read_symmetric(reader)
    scheme = _read_scheme(reader, (TpmAlg.ECDSA, TpmAlg.ECDH))
    curve_id, kdf = reader.u16("curveID"), reader.u16("kdf")
    if curve_id not in CURVE_BY_TPM_ID or kdf != TpmAlg.NULL:
        raise reader.wrong("curve P-256, P-384 or P-521 and kdf NULL", f"0x{curve_id:04x}, kdf 0x{kdf:04x}")
    x, y = reader.sized("unique x"), reader.sized("unique y")
    size = COORDINATE_BYTES[curve_id]
    if len(x) > size or len(y) > size:
        raise reader.wrong(f"coordinates of at most {size} bytes", f"{len(x)} and {len(y)}")
    return EccParameters(symmetric, scheme, curve_id, x, y)
