"""Credential activation: what we seal, real TPMs open; and what does not prove an activation is refused (attack 3)."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from hypothesis import given
from hypothesis import strategies as st

from steelyard.evidence.tpm.activation import CredentialBlob, activation_proof, parse_credential_file
from steelyard.evidence.tpm.credential import (
    EccEntropy,
    PendingActivation,
    RsaEntropy,
    kdf_a,
    kdf_e,
    make_credential,
    verify_activation,
)
from steelyard.evidence.tpm.keys import ActivatedBy, EndorsementKey, check_attestation_key, check_endorsement_key
from steelyard.evidence.tpm.public import parse_tpm2b_public
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import BindingRejected, MalformedTpmStructure, WrongUse
from steelyard.model.secret import Secret
from tests.tpm import AttestationKey, EndorsementKind, Key, SigningKind, SoftwareTpm, ToolFailed
from tests.unit.evidence.tpm.keypairs import (
    P256,
    P384,
    P521,
    SHA256,
    SHA384,
    SHA512,
    PrivateKey,
    ecc_key,
    ecdsa,
    endorsement_area,
    kbkdf,
    open_credential,
    rsa_key,
)
from tests.vectors_dir import shared_vectors

SECRET: Final = Secret(b"a secret of 32 bytes, not longer")
NOW: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SESSION: Final = b"this registration"

_HASHES: Final[dict[HashAlgorithm, hashes.HashAlgorithm]] = {
    SHA256: hashes.SHA256(),
    SHA384: hashes.SHA384(),
    SHA512: hashes.SHA512(),
}


@pytest.fixture(scope="module")
def keys(tpm: SoftwareTpm) -> dict[EndorsementKind, tuple[Key, AttestationKey]]:
    """Each kind of endorsement key with an attestation key under it."""
    made = {}
    for kind in EndorsementKind:
        endorsement = tpm.create_endorsement_key(kind)
        made[kind] = endorsement, tpm.create_attestation_key(endorsement, SigningKind.ECC_P256_ECDSA_SHA256)
    return made


def entropy_for(key: EndorsementKey, number: int = 0) -> RsaEntropy | EccEntropy:
    if isinstance(key.key, rsa.RSAPublicKey):
        return RsaEntropy(Secret(bytes([number]) * key.public.name_algorithm.size))
    return EccEntropy(ec.generate_private_key(key.key.curve))


def sealed(key: Key, name: bytes, secret: Secret = SECRET) -> bytes:
    endorsement = check_endorsement_key(parse_tpm2b_public(key.public))
    return make_credential(endorsement, name, secret, entropy_for(endorsement)).to_bytes()


# -- a real TPM opens what we seal -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EndorsementKind)
def test_a_real_tpm_opens_our_credential_for_the_key_it_names(
    tpm: SoftwareTpm, keys: dict[EndorsementKind, tuple[Key, AttestationKey]], kind: EndorsementKind
) -> None:
    endorsement, attestation = keys[kind]
    for secret in (b"s", SECRET.reveal()):
        credential = sealed(endorsement, attestation.name, Secret(secret))
        assert tpm.activate_credential(attestation, endorsement, credential) == secret


@pytest.mark.parametrize("kind", EndorsementKind)
def test_a_real_tpm_does_not_open_our_credential_for_another_key_or_changed(
    tpm: SoftwareTpm, keys: dict[EndorsementKind, tuple[Key, AttestationKey]], kind: EndorsementKind
) -> None:
    endorsement, attestation = keys[kind]
    name_of_another = ecdsa().key().name
    credential = sealed(endorsement, attestation.name)
    for wrong in (
        sealed(endorsement, name_of_another),
        credential[:12] + bytes([credential[12] ^ 1]) + credential[13:],
        credential[:-1] + bytes([credential[-1] ^ 1]),
    ):
        with pytest.raises(ToolFailed):
            tpm.activate_credential(attestation, endorsement, wrong)


@pytest.mark.parametrize("kind", [EndorsementKind.ECC_P256, EndorsementKind.ECC_P384])
def test_a_real_tpm_agrees_on_numbers_that_begin_with_zeros(
    tpm: SoftwareTpm, keys: dict[EndorsementKind, tuple[Key, AttestationKey]], kind: EndorsementKind
) -> None:
    """One key in 256 has a coordinate, one exchange in 256 a secret, a byte shorter than the curve."""
    endorsement, attestation = keys[kind]
    public = check_endorsement_key(parse_tpm2b_public(endorsement.public))
    assert isinstance(public.key, ec.EllipticCurvePublicKey)
    coordinate, curve = 8 * (public.key.key_size // 8 - 1), public.key.curve
    candidates = (ec.generate_private_key(curve) for _ in range(20_000))
    short_x = next(key for key in candidates if key.public_key().public_numbers().x.bit_length() <= coordinate)
    short_y = next(key for key in candidates if key.public_key().public_numbers().y.bit_length() <= coordinate)
    short_secret = next(key for key in candidates if key.exchange(ec.ECDH(), public.key)[0] == 0)
    for ephemeral in (short_x, short_y, short_secret):
        credential = make_credential(public, attestation.name, SECRET, EccEntropy(ephemeral)).to_bytes()
        assert tpm.activate_credential(attestation, endorsement, credential) == SECRET.reveal()


# -- and we agree with the tools on what is sealed ---------------------------------------------------------------------


KEYS: Final[list[tuple[PrivateKey, int, HashAlgorithm]]] = [
    (rsa_key(), 128, SHA256),
    (rsa_key(2048), 256, SHA384),
    (rsa_key(3072), 256, SHA384),
    (ecc_key(P256), 128, SHA256),
    (ecc_key(P384), 256, SHA384),
    (ecc_key(P521), 256, SHA512),
    (rsa_key(4096), 256, SHA512),
    (ecc_key(P256), 192, SHA256),
]
LOADED_BY_SWTPM: Final = KEYS[:-2]


@pytest.mark.parametrize(("private", "key_bits", "algorithm"), KEYS)
def test_a_second_construction_opens_our_credential_for_every_kind_of_key(
    private: PrivateKey, key_bits: int, algorithm: HashAlgorithm
) -> None:
    key = check_endorsement_key(endorsement_area(private, key_bits, algorithm))
    name = ecdsa().key().name
    credential = make_credential(key, name, SECRET, entropy_for(key))
    assert open_credential(private, key, name, credential) == SECRET.reveal()
    assert SECRET.reveal() not in credential.to_bytes()


@pytest.mark.parametrize(("private", "key_bits", "algorithm"), LOADED_BY_SWTPM)
def test_the_tools_credential_is_read_and_opened_by_the_same_construction(
    tpm: SoftwareTpm, private: PrivateKey, key_bits: int, algorithm: HashAlgorithm
) -> None:
    area = endorsement_area(private, key_bits, algorithm)
    key = check_endorsement_key(area)
    name = ecdsa().key().name
    written = tpm.make_credential(len(area.to_bytes()).to_bytes(2) + area.to_bytes(), name, SECRET.reveal())
    credential = parse_credential_file(written)
    assert credential.to_bytes() == written
    assert open_credential(private, key, name, credential) == SECRET.reveal()


def test_the_recorded_credential_is_read() -> None:
    folder = shared_vectors("quotes") / "tpm2-tools-emulator"
    data = (folder / "mkcred.out").read_bytes()
    credential = parse_credential_file(data)
    assert credential.to_bytes() == data
    assert (len(credential.integrity_hmac), len(credential.encrypted_secret)) == (32, 256)
    assert len(credential.encrypted_identity) == 2 + len((folder / "secret.data").read_bytes())


@given(
    st.sampled_from((SHA256, SHA384, SHA512)),
    st.binary(min_size=1, max_size=64),
    st.binary(max_size=40).filter(lambda label: b"\x00" not in label),
    st.binary(max_size=40),
    st.binary(max_size=40),
    st.integers(1, 200),
)
def test_kdf_a_is_the_counter_mode_of_sp_800_108(
    algorithm: HashAlgorithm, key: bytes, label: bytes, context_u: bytes, context_v: bytes, size: int
) -> None:
    expected = kbkdf(algorithm, label, context_u + context_v, size).derive(key)
    assert kdf_a(algorithm, key, label, context_u, context_v, size * 8) == expected


@given(st.sampled_from((SHA256, SHA384, SHA512)), st.binary(min_size=1, max_size=66), st.binary(), st.binary())
def test_kdf_e_is_the_concatenation_kdf_of_sp_800_56a(
    algorithm: HashAlgorithm, shared_x: bytes, party_u: bytes, party_v: bytes
) -> None:
    other = b"IDENTITY\x00" + party_u + party_v
    expected = ConcatKDFHash(_HASHES[algorithm], algorithm.size, other).derive(shared_x)
    assert kdf_e(algorithm, shared_x, b"IDENTITY", party_u, party_v) == expected


# -- what does not fit is refused before anything is sealed ------------------------------------------------------------


def test_a_secret_that_no_tpm_gives_back_is_refused() -> None:
    key = check_endorsement_key(endorsement_area(ecc_key()))
    for secret in (b"", bytes(33)):
        with pytest.raises(WrongUse):
            make_credential(key, ecdsa().key().name, Secret(secret), entropy_for(key))


def test_entropy_of_another_kind_or_size_than_the_key_is_refused() -> None:
    ecc, of_rsa = check_endorsement_key(endorsement_area(ecc_key())), check_endorsement_key(endorsement_area(rsa_key()))
    for key, entropy in (
        (ecc, RsaEntropy(Secret(bytes(32)))),
        (ecc, EccEntropy(ecc_key(P384))),
        (of_rsa, EccEntropy(ecc_key())),
        (of_rsa, RsaEntropy(Secret(bytes(31)))),
        (of_rsa, RsaEntropy(Secret(b""))),
    ):
        with pytest.raises(WrongUse):
            make_credential(key, ecdsa().key().name, SECRET, entropy)


def test_a_credential_whose_inner_size_lies_is_refused() -> None:
    data = CredentialBlob(bytes(32), bytes(34), bytes(64)).to_bytes()
    for place, lie in ((8, 67), (8, 69), (8, 0xFFFF), (10, 67), (10, 0xFFFF)):
        with pytest.raises(MalformedTpmStructure):
            parse_credential_file(data[:place] + lie.to_bytes(2) + data[place + 2 :])


# -- attack 3: what proves an activation -------------------------------------------------------------------------------


PENDING: Final = PendingActivation(
    SESSION, check_attestation_key(ecdsa().public()), b"name of the EK", SECRET, NOW + timedelta(minutes=5)
)
PROOF: Final = activation_proof(SECRET, SESSION, PENDING.attestation_key.name)


def test_the_right_proof_in_time_binds_the_key_to_the_endorsement_key() -> None:
    bound = verify_activation(PENDING, SESSION, PROOF, NOW)
    assert bound.binding == ActivatedBy(b"name of the EK")
    assert bound.signing == PENDING.attestation_key.signing


def test_a_proof_is_a_hash_that_depends_on_secret_session_and_key() -> None:
    assert len(PROOF) == 32
    name = PENDING.attestation_key.name
    for other in (
        activation_proof(Secret(SECRET.reveal()[::-1]), SESSION, name),
        activation_proof(SECRET, SESSION + b"\x00", name),
        activation_proof(SECRET, SESSION, name[:-1]),
        activation_proof(SECRET, SESSION, ecdsa(1).key().name),
    ):
        assert other != PROOF


def test_attack_3_an_answer_to_another_registration_is_refused() -> None:
    for session in (b"", b"another registration", SESSION + b"\x00"):
        for proof in (PROOF, activation_proof(SECRET, session, PENDING.attestation_key.name)):
            with pytest.raises(BindingRejected, match="this registration"):
                verify_activation(PENDING, session, proof, NOW)


def test_attack_3_an_answer_of_another_registration_replayed_under_this_one_is_refused() -> None:
    replayed = activation_proof(SECRET, b"another registration", PENDING.attestation_key.name)
    with pytest.raises(BindingRejected):
        verify_activation(PENDING, SESSION, replayed, NOW)


def test_attack_3_an_answer_for_another_key_is_refused() -> None:
    with pytest.raises(BindingRejected):
        verify_activation(PENDING, SESSION, activation_proof(SECRET, SESSION, ecdsa(1).key().name), NOW)
    other_key = replace(PENDING, attestation_key=ecdsa(1).key())
    with pytest.raises(BindingRejected):
        verify_activation(other_key, SESSION, PROOF, NOW)


@pytest.mark.parametrize("proof", [b"", PROOF[:-1], PROOF + b"\x00", bytes(32), SECRET.reveal(), PROOF[::-1]])
def test_attack_3_a_wrong_answer_is_refused_without_a_word_of_the_right_one(proof: bytes) -> None:
    with pytest.raises(BindingRejected) as refusal:
        verify_activation(PENDING, SESSION, proof, NOW)
    told = f"{refusal.value} {refusal.value!r} {refusal.value.args}"
    assert PROOF.hex() not in told
    assert SECRET.reveal().decode() not in told
    assert repr(PENDING).count(repr(SECRET)) == 1


@pytest.mark.parametrize("late", [timedelta(0), timedelta(seconds=1), timedelta(days=400)])
def test_attack_3_an_answer_after_expiry_is_refused(late: timedelta) -> None:
    with pytest.raises(BindingRejected, match="before"):
        verify_activation(PENDING, SESSION, PROOF, PENDING.expires + late)
    verify_activation(PENDING, SESSION, PROOF, PENDING.expires - timedelta(microseconds=1))
