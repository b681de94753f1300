"""Credential activation: a secret that only the TPM with a given endorsement key can open, and only for a given key.

The registrar makes the credential without a TPM of its own; whoever brings the secret back has the attestation key and
the endorsement key in one TPM. Source: TPM 2.0 Library Part 1, section 24 (credential protection), B.4 (RSA secret
sharing), C.6.4 (ECC secret sharing), 11.4.10 (KDFa and KDFe); Part 3, TPM2_MakeCredential.
"""

import hmac
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from steelyard.evidence.tpm.activation import CredentialBlob, activation_proof
from steelyard.evidence.tpm.attest import tpm2b
from steelyard.evidence.tpm.keys import ActivatedBy, AttestationKey, BoundKey, EndorsementKey
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import BindingRejected, WrongUse
from steelyard.model.secret import Secret

_OAEP_HASHES: Final[dict[HashAlgorithm, hashes.HashAlgorithm]] = {
    HashAlgorithm.SHA256: hashes.SHA256(),
    HashAlgorithm.SHA384: hashes.SHA384(),
    HashAlgorithm.SHA512: hashes.SHA512(),
}


@dataclass(frozen=True, slots=True)
class RsaEntropy:
    """For an RSA endorsement key: the seed, as many random bytes as its Name hash has."""

    seed: Secret


@dataclass(frozen=True, slots=True)
class EccEntropy:
    """For an ECC endorsement key: a key pair on its curve, made for this one credential."""

    ephemeral: ec.EllipticCurvePrivateKey


def make_credential(
    endorsement_key: EndorsementKey, name: bytes, secret: Secret, entropy: RsaEntropy | EccEntropy
) -> CredentialBlob:
    """Return `secret` sealed so that only the TPM with `endorsement_key` opens it, and only for the key named `name`.

    name     of the attestation key: nameAlg and digest, as `AttestationKey.name` has it.
    secret   at most as many bytes as the endorsement key's Name hash has.
    entropy  fresh for each credential; OAEP's own padding is random besides, from the operating system.

    Raises WrongUse for a secret or entropy that does not fit the key.
    """
    algorithm = endorsement_key.public.name_algorithm
    if not 1 <= len(secret.reveal()) <= algorithm.size:
        raise WrongUse(
            "making a credential", expected=f"a secret of 1 to {algorithm.size} bytes", found=f"{len(secret.reveal())}"
        )
    seed, encrypted_secret = _share_seed(endorsement_key, entropy)
    symmetric_key = kdf_a(algorithm, seed, b"STORAGE", name, b"", endorsement_key.symmetric_key_bits)
    # A zero IV is what the specification says; the key is used for this one message.
    encryptor = Cipher(AES(symmetric_key), CFB(bytes(16))).encryptor()
    encrypted_identity = encryptor.update(tpm2b(secret.reveal())) + encryptor.finalize()
    hmac_key = kdf_a(algorithm, seed, b"INTEGRITY", b"", b"", algorithm.size * 8)
    integrity_hmac = hmac.digest(hmac_key, encrypted_identity + name, algorithm.label)
    return CredentialBlob(integrity_hmac, encrypted_identity, encrypted_secret)


def _share_seed(endorsement_key: EndorsementKey, entropy: RsaEntropy | EccEntropy) -> tuple[bytes, bytes]:
    """Return the seed and its TPM2B_ENCRYPTED_SECRET content."""
    key, algorithm = endorsement_key.key, endorsement_key.public.name_algorithm
    if isinstance(key, rsa.RSAPublicKey) and isinstance(entropy, RsaEntropy):
        seed = entropy.seed.reveal()
        if len(seed) != algorithm.size:
            raise WrongUse("making a credential", expected=f"a seed of {algorithm.size} bytes", found=f"{len(seed)}")
        hash_function = _OAEP_HASHES[algorithm]
        return seed, key.encrypt(seed, padding.OAEP(padding.MGF1(hash_function), hash_function, b"IDENTITY\x00"))
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(entropy, EccEntropy):
        if entropy.ephemeral.curve.name != key.curve.name:
            raise WrongUse("making a credential", expected=key.curve.name, found=entropy.ephemeral.curve.name)
        size = (key.key_size + 7) // 8
        ours, theirs = entropy.ephemeral.public_key().public_numbers(), key.public_numbers()
        shared = entropy.ephemeral.exchange(ec.ECDH(), key)
        seed = kdf_e(algorithm, shared, b"IDENTITY", ours.x.to_bytes(size), theirs.x.to_bytes(size))
        return seed, tpm2b(ours.x.to_bytes(size)) + tpm2b(ours.y.to_bytes(size))
    raise WrongUse("making a credential", expected="entropy of the key's kind", found=type(entropy).__name__)


def kdf_a(algorithm: HashAlgorithm, key: bytes, label: bytes, context_u: bytes, context_v: bytes, bits: int) -> bytes:
    """Return `bits` (a multiple of 8) from an HMAC in counter mode. Source: Part 1, section 11.4.10.2."""
    fixed = label + b"\x00" + context_u + context_v + bits.to_bytes(4)
    blocks = -(-bits // (algorithm.size * 8))
    stream = b"".join([hmac.digest(key, i.to_bytes(4) + fixed, algorithm.label) for i in range(1, blocks + 1)])
    return stream[: bits // 8]


def kdf_e(algorithm: HashAlgorithm, shared_x: bytes, label: bytes, party_u_x: bytes, party_v_x: bytes) -> bytes:
    """Return one digest's worth of key from an ECDH secret. Source: Part 1, section 11.4.10.3."""
    return algorithm.digest((1).to_bytes(4) + shared_x + label + b"\x00" + party_u_x + party_v_x)


@dataclass(frozen=True, slots=True)
class PendingActivation:
    """A credential that was sent out and not yet answered.

    session  tells this registration from every other; the proof is made over it.
    secret   what is inside the credential.
    expires  after it the answer is too late.
    """

    session: bytes
    attestation_key: AttestationKey
    endorsement_key_name: bytes
    secret: Secret
    expires: datetime


def verify_activation(pending: PendingActivation, session: bytes, proof: bytes, now: datetime) -> BoundKey:
    """Return the attestation key, now known to live in the endorsement key's TPM.

    Compares in constant time and says nothing of the right answer (attack 3). To let an answer count once is up to the
    caller, who takes the pending activation out of its store in the same step.

    Raises BindingRejected.
    """
    doing = "checking a credential activation"
    if now >= pending.expires:
        raise BindingRejected(doing, expected=f"an answer before {pending.expires.isoformat()}", found=now.isoformat())
    if not hmac.compare_digest(session, pending.session):
        raise BindingRejected(doing, expected="an answer to this registration", found="one to another")
    right = activation_proof(pending.secret, pending.session, pending.attestation_key.name)
    if not hmac.compare_digest(proof, right):
        raise BindingRejected(doing, expected="the proof that the credential was opened", found="another value")
    return BoundKey(pending.attestation_key.signing, ActivatedBy(pending.endorsement_key_name))
