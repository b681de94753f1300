"""The kinds of TPM keys that carry trust, each a type that only a public area with the right properties becomes.

`AttestationKey` is a key that signs only what its TPM made; `EndorsementKey` one that only decrypts; neither says yet
*which* TPM it lives in. `BoundKey` does: `credential.py` and `certify.py` make it, from proof.
Source: TPM 2.0 Library Part 1, sections 27 (restricted keys) and 25 (object attributes).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from steelyard.evidence.reader import refuse_over
from steelyard.evidence.tpm.identifiers import TpmAlg, TpmaObject
from steelyard.evidence.tpm.public import DEFAULT_EXPONENT, RSA_BITS, Scheme, TpmtPublic
from steelyard.evidence.tpm.signature import EcdsaSignature, TpmtSignature, parse_tpmt_signature
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import BadSignature, KeyRejected, MalformedKey
from steelyard.model.limits import TPM_STRUCTURE_BYTES

_HASHES: Final[dict[HashAlgorithm, hashes.HashAlgorithm]] = {
    HashAlgorithm.SHA256: hashes.SHA256(),
    HashAlgorithm.SHA384: hashes.SHA384(),
    HashAlgorithm.SHA512: hashes.SHA512(),
}
_PKCS1V15: Final = padding.PKCS1v15()

_MADE_IN_THIS_TPM: Final = TpmaObject.FIXED_TPM | TpmaObject.FIXED_PARENT | TpmaObject.SENSITIVE_DATA_ORIGIN
"""The private part was made inside, never was outside, and cannot be moved."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A public key with the one scheme and hash it signs with; ready to verify, made once and kept.

    What a message claims about scheme or hash never decides how it is verified (attack 11).

    fingerprint  SHA-256 of the public key (SubjectPublicKeyInfo, DER).
    """

    scheme: TpmAlg
    hash_algorithm: HashAlgorithm
    fingerprint: bytes
    _verify: Callable[[bytes, bytes], None] = field(repr=False, compare=False)
    """Takes signature and data; raises InvalidSignature."""

    def verify(self, signature: bytes, data: bytes, doing: str) -> None:
        """Return when `signature` (TPMT_SIGNATURE) is this key's over exactly `data`.

        Raises MalformedTpmStructure; BadSignature.
        """
        parsed = parse_tpmt_signature(signature)
        if parsed.scheme is not self.scheme or parsed.hash_algorithm is not self.hash_algorithm:
            raise BadSignature(
                doing,
                expected=f"{self.scheme.name} with {self.hash_algorithm.label}, as the key has it",
                found=f"{parsed.scheme.name} with {parsed.hash_algorithm.label}",
            )
        try:
            self._verify(_encoded(parsed), data)
        except InvalidSignature as error:
            raise BadSignature(
                doing, expected="a signature by this key over these bytes", found="one that does not verify"
            ) from error


def _encoded(signature: TpmtSignature) -> bytes:
    if isinstance(signature, EcdsaSignature):
        return encode_dss_signature(int.from_bytes(signature.r), int.from_bytes(signature.s))
    return signature.signature


def make_signing_key(
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey, scheme: TpmAlg, hash_algorithm: HashAlgorithm
) -> SigningKey:
    """Return `key` ready to verify `scheme` with `hash_algorithm`.

    Raises KeyRejected when the hash is not believed (SHA-1) or the scheme is not one of the key's kind.
    """
    hash_function = _HASHES.get(hash_algorithm)
    if hash_function is None:
        raise KeyRejected(
            "taking a signing key", expected="a signing hash of SHA-256 or better", found=hash_algorithm.label
        )
    return SigningKey(scheme, hash_algorithm, _fingerprint(key), _make_verify(key, scheme, hash_function))


def _make_verify(
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey, scheme: TpmAlg, hash_function: hashes.HashAlgorithm
) -> Callable[[bytes, bytes], None]:
    if isinstance(key, ec.EllipticCurvePublicKey):
        if scheme is not TpmAlg.ECDSA:
            raise KeyRejected("taking a signing key", expected="ECDSA for an ECC key", found=scheme.name)
        ecdsa = ec.ECDSA(hash_function)
        return lambda signature, data: key.verify(signature, data, ecdsa)
    if scheme is TpmAlg.RSASSA:
        return lambda signature, data: key.verify(signature, data, _PKCS1V15, hash_function)
    if scheme is TpmAlg.RSAPSS:
        # The salt is as long as the digest, or in older firmware as long as fits.
        pss = padding.PSS(padding.MGF1(hash_function), padding.PSS.AUTO)
        return lambda signature, data: key.verify(signature, data, pss, hash_function)
    raise KeyRejected("taking a signing key", expected="RSASSA or RSAPSS for an RSA key", found=scheme.name)


def _fingerprint(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> bytes:
    encoded = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(encoded).digest()


@dataclass(frozen=True, slots=True)
class AttestationKey:
    """A restricted signing key: its signature under TPMS_ATTEST means that the TPM it lives in said so.

    public  the area that was checked; its Name is what activation and certification vouch for.
    """

    public: TpmtPublic
    name: bytes
    signing: SigningKey


@dataclass(frozen=True, slots=True)
class EndorsementKey:
    """A restricted decryption key: only the TPM it lives in can open what is sealed to it."""

    public: TpmtPublic
    name: bytes
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
    symmetric_key_bits: int


@dataclass(frozen=True, slots=True)
class ActivatedBy:
    """The key opened a credential that only the TPM with this endorsement key could open."""

    endorsement_key_name: bytes


@dataclass(frozen=True, slots=True)
class CertifiedBy:
    """Another attestation key of the same TPM, trusted already, attested to the key."""

    certifying_key_name: bytes


@dataclass(frozen=True, slots=True)
class AssertedByOperator:
    """Nobody proved anything: a person named this key on a command line and answers for it."""


@dataclass(frozen=True, slots=True)
class BoundKey:
    """A signing key known to live in one TPM, and how that is known. Quotes are verified with nothing less."""

    signing: SigningKey
    binding: ActivatedBy | CertifiedBy | AssertedByOperator


def check_attestation_key(public: TpmtPublic) -> AttestationKey:
    """Return the key when it can sign nothing but what its TPM made. Raises KeyRejected (attack 1)."""
    doing = "checking an attestation key"
    _check_attributes(
        public,
        doing,
        needed=_MADE_IN_THIS_TPM | TpmaObject.RESTRICTED | TpmaObject.SIGN_ENCRYPT,
        forbidden=TpmaObject.DECRYPT | TpmaObject.ENCRYPTED_DUPLICATION | TpmaObject.X509_SIGN,
    )
    scheme = public.parameters.scheme
    if scheme is None or scheme.hash_algorithm is None:
        raise KeyRejected(doing, expected="one signing scheme with its hash", found=_scheme_name(scheme))
    signing = make_signing_key(public.parameters.public_key(), scheme.algorithm, scheme.hash_algorithm)
    return AttestationKey(public, public.name(), signing)


def check_endorsement_key(public: TpmtPublic) -> EndorsementKey:
    """Return the key when what is sealed to it can be opened only inside its TPM. Raises KeyRejected (attack 1).

    Source: TCG EK Credential Profile 2.5, appendix B (templates L-1 to H-4).
    """
    doing = "checking an endorsement key"
    _check_attributes(
        public,
        doing,
        needed=_MADE_IN_THIS_TPM | TpmaObject.RESTRICTED | TpmaObject.DECRYPT,
        forbidden=TpmaObject.SIGN_ENCRYPT | TpmaObject.ENCRYPTED_DUPLICATION,
    )
    symmetric = public.parameters.symmetric
    if symmetric is None or public.parameters.scheme is not None:
        raise KeyRejected(
            doing, expected="AES for the inner encryption and scheme NULL", found=_scheme_name(public.parameters.scheme)
        )
    return EndorsementKey(public, public.name(), public.parameters.public_key(), symmetric.key_bits)


def parse_signing_key_pem(data: bytes, scheme: TpmAlg, hash_algorithm: HashAlgorithm) -> SigningKey:
    """Return the public key in a PEM file, for `scheme` and `hash_algorithm`, which a PEM does not tell.

    Raises MalformedKey; KeyRejected for a weak key or a kind that does not fit the scheme.
    """
    doing = "reading a public key in PEM"
    key = _load_pem(data)
    if isinstance(key, rsa.RSAPublicKey):
        exponent = key.public_numbers().e
        if key.key_size not in RSA_BITS or not DEFAULT_EXPONENT <= exponent < 1 << 32:
            raise KeyRejected(
                doing,
                expected=f"RSA of {RSA_BITS} bits with an exponent of 65537 or more, 32 bits at most",
                found=f"{key.key_size} bits, exponent {exponent}",
            )
    elif not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(
        key.curve, (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
    ):
        raise KeyRejected(doing, expected="RSA, or ECC on P-256, P-384 or P-521", found=type(key).__name__)
    return make_signing_key(key, scheme, hash_algorithm)


def default_scheme_of_pem(data: bytes) -> TpmAlg:
    """Return the scheme that a PEM key most likely has: RSASSA or ECDSA. Raises MalformedKey."""
    return TpmAlg.ECDSA if isinstance(_load_pem(data), ec.EllipticCurvePublicKey) else TpmAlg.RSASSA


def _load_pem(data: bytes) -> PublicKeyTypes:
    doing = "reading a public key in PEM"
    refuse_over(TPM_STRUCTURE_BYTES, len(data), doing)
    try:
        return serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedKey(doing, expected="a PEM public key", found=str(error)) from error


def _check_attributes(public: TpmtPublic, doing: str, needed: TpmaObject, forbidden: TpmaObject) -> None:
    missing, wrong = needed & ~public.attributes, forbidden & public.attributes
    if missing or wrong:
        raise KeyRejected(
            doing,
            expected=f"attributes {_names(needed)} and none of {_names(forbidden)}",
            found=f"missing {_names(missing) or 'none'}, wrong {_names(wrong) or 'none'}",
        )
    if not public.name_algorithm.believed:
        raise KeyRejected(doing, expected="a Name algorithm of SHA-256 or better", found=public.name_algorithm.label)


def _names(attributes: TpmaObject) -> str:
    return " ".join(flag.name.lower() for flag in attributes if flag.name)


def _scheme_name(scheme: Scheme | None) -> str:
    return "scheme NULL" if scheme is None else f"scheme {scheme.algorithm.name}"
