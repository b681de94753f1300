"""Keys with their private part, which sign and open what no real TPM would."""

import hmac
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from steelyard.evidence.tpm.activation import CredentialBlob
from steelyard.evidence.tpm.identifiers import CURVE_BY_TPM_ID, TpmAlg, TpmaObject
from steelyard.evidence.tpm.keys import (
    AssertedByOperator,
    AttestationKey,
    BoundKey,
    EndorsementKey,
    check_attestation_key,
)
from steelyard.evidence.tpm.public import EccParameters, RsaParameters, Scheme, SymmetricDefinition, TpmtPublic
from steelyard.evidence.tpm.quote import SignedQuote
from steelyard.evidence.tpm.signature import EcdsaSignature, RsaSignature
from steelyard.model.algorithms import HashAlgorithm

SHA1: Final = HashAlgorithm.SHA1
SHA256: Final = HashAlgorithm.SHA256
SHA384: Final = HashAlgorithm.SHA384
SHA512: Final = HashAlgorithm.SHA512
P256: Final = 0x0003
P384: Final = 0x0004
P521: Final = 0x0005

MADE_INSIDE: Final = TpmaObject.FIXED_TPM | TpmaObject.FIXED_PARENT | TpmaObject.SENSITIVE_DATA_ORIGIN
ATTESTATION: Final = MADE_INSIDE | TpmaObject.RESTRICTED | TpmaObject.SIGN_ENCRYPT | TpmaObject.USER_WITH_AUTH
ENDORSEMENT: Final = MADE_INSIDE | TpmaObject.RESTRICTED | TpmaObject.DECRYPT | TpmaObject.ADMIN_WITH_POLICY

_HASHES: Final[dict[HashAlgorithm, hashes.HashAlgorithm]] = {
    SHA1: hashes.SHA1(),  # noqa: S303  signs what must be refused
    SHA256: hashes.SHA256(),
    SHA384: hashes.SHA384(),
    SHA512: hashes.SHA512(),
}

_KEPT: Final = Path(__file__).parents[4] / ".cache" / "rsa-keys"

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def rsa_key(bits: int = 2048, number: int = 0) -> rsa.RSAPrivateKey:
    """Return a key, the same one for the same arguments.

    RSA keys take long to make: they are kept for the next process.
    """
    return _rsa_key(bits, number)


@cache
def _rsa_key(bits: int, number: int) -> rsa.RSAPrivateKey:
    path = _KEPT / f"{bits}-{number}.der"
    try:
        kept = path.read_bytes()
    except FileNotFoundError:
        made = rsa.generate_private_key(65537, bits)
        _keep(path, made.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))
        return made
    key = load_der_private_key(kept, None, unsafe_skip_rsa_key_validation=True)  # it is our own
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def _keep(path: Path, content: bytes) -> None:
    """Write a file whole, whoever else does so at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    Path(file.name).rename(path)


def ecc_key(curve_id: int = P256, number: int = 0) -> ec.EllipticCurvePrivateKey:
    """Return a key, the same one for the same arguments."""
    return _ecc_key(curve_id, number)


@cache
def _ecc_key(curve_id: int, number: int) -> ec.EllipticCurvePrivateKey:
    del number
    return ec.generate_private_key(CURVE_BY_TPM_ID[curve_id]())


def public_area(
    private: PrivateKey,
    attributes: TpmaObject,
    scheme: Scheme | None,
    symmetric: SymmetricDefinition | None = None,
    name_algorithm: HashAlgorithm = SHA256,
    auth_policy: bytes = b"",
) -> TpmtPublic:
    """Return the public area that a TPM would give this key."""
    parameters: RsaParameters | EccParameters
    if isinstance(private, rsa.RSAPrivateKey):
        modulus = private.public_key().public_numbers().n.to_bytes(private.key_size // 8)
        parameters = RsaParameters(symmetric, scheme, private.key_size, 0, modulus)
    else:
        numbers = private.public_key().public_numbers()
        size = (private.key_size + 7) // 8
        curve_id = next(number for number, curve in CURVE_BY_TPM_ID.items() if curve.name == private.curve.name)
        parameters = EccParameters(symmetric, scheme, curve_id, numbers.x.to_bytes(size), numbers.y.to_bytes(size))
    return TpmtPublic(name_algorithm, attributes, auth_policy, parameters)


def endorsement_area(private: PrivateKey, key_bits: int = 128, name_algorithm: HashAlgorithm = SHA256) -> TpmtPublic:
    """Return the public area of an endorsement key."""
    return public_area(private, ENDORSEMENT, None, SymmetricDefinition(key_bits), name_algorithm)


@dataclass(frozen=True, slots=True)
class Signer:
    """A signing key that signs anything."""

    private: PrivateKey
    scheme: TpmAlg
    hash_algorithm: HashAlgorithm = SHA256

    def public(self, attributes: TpmaObject = ATTESTATION) -> TpmtPublic:
        return public_area(self.private, attributes, Scheme(self.scheme, self.hash_algorithm))

    def key(self) -> AttestationKey:
        return check_attestation_key(self.public())

    def bound(self) -> BoundKey:
        return BoundKey(self.key().signing, AssertedByOperator())

    def quote(self, attest: bytes) -> SignedQuote:
        return SignedQuote(attest, self.sign(attest))

    def sign(self, message: bytes) -> bytes:
        """Return the TPMT_SIGNATURE."""
        algorithm = _HASHES[self.hash_algorithm]
        if isinstance(self.private, ec.EllipticCurvePrivateKey):
            size = (self.private.key_size + 7) // 8
            r, s = decode_dss_signature(self.private.sign(message, ec.ECDSA(algorithm)))
            return EcdsaSignature(self.hash_algorithm, r.to_bytes(size), s.to_bytes(size)).to_bytes()
        how = (
            padding.PKCS1v15()
            if self.scheme is TpmAlg.RSASSA
            else padding.PSS(padding.MGF1(algorithm), padding.PSS.DIGEST_LENGTH)
        )
        return RsaSignature(self.scheme, self.hash_algorithm, self.private.sign(message, how, algorithm)).to_bytes()


def rsassa(number: int = 0) -> Signer:
    return Signer(rsa_key(number=number), TpmAlg.RSASSA)


def ecdsa(number: int = 0) -> Signer:
    return Signer(ecc_key(number=number), TpmAlg.ECDSA)


def open_credential(private: PrivateKey, key: EndorsementKey, name: bytes, credential: CredentialBlob) -> bytes:
    """Open a credential as a TPM does, built from other parts than the code under test."""
    algorithm = _HASHES[key.public.name_algorithm]
    encrypted_secret = credential.encrypted_secret
    if isinstance(private, rsa.RSAPrivateKey):
        oaep = padding.OAEP(padding.MGF1(algorithm), algorithm, b"IDENTITY\x00")
        seed = private.decrypt(encrypted_secret, oaep)
    else:
        size = (private.key_size + 7) // 8
        assert len(encrypted_secret) == 2 * (2 + size)
        theirs_x, theirs_y = encrypted_secret[2 : 2 + size], encrypted_secret[4 + size :]
        theirs = ec.EllipticCurvePublicNumbers(
            int.from_bytes(theirs_x), int.from_bytes(theirs_y), private.curve
        ).public_key()
        own_x = private.public_key().public_numbers().x.to_bytes(size)
        seed = ConcatKDFHash(algorithm, algorithm.digest_size, b"IDENTITY\x00" + theirs_x + own_x).derive(
            private.exchange(ec.ECDH(), theirs)
        )
    integrity_key = kbkdf(key.public.name_algorithm, b"INTEGRITY", b"", algorithm.digest_size).derive(seed)
    expected = hmac.digest(integrity_key, credential.encrypted_identity + name, algorithm.name)
    assert credential.integrity_hmac == expected
    storage_key = kbkdf(key.public.name_algorithm, b"STORAGE", name, key.symmetric_key_bits // 8).derive(seed)
    decryptor = Cipher(AES(storage_key), CFB(bytes(16))).decryptor()
    identity = decryptor.update(credential.encrypted_identity) + decryptor.finalize()
    assert int.from_bytes(identity[:2]) == len(identity) - 2
    return identity[2:]


def kbkdf(algorithm: HashAlgorithm, label: bytes, context: bytes, size: int) -> KBKDFHMAC:
    return KBKDFHMAC(
        _HASHES[algorithm], Mode.CounterMode, size, 4, 4, CounterLocation.BeforeFixed, label, context, None
    )
