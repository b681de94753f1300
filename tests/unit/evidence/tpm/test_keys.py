"""Attack 1: keys that do not carry the trust they are meant for, one property wrong at a time."""

from dataclasses import replace
from functools import cache
from typing import Final

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from steelyard.evidence.tpm.identifiers import TpmAlg, TpmaObject
from steelyard.evidence.tpm.keys import (
    check_attestation_key,
    check_endorsement_key,
    default_scheme_of_pem,
    make_signing_key,
    parse_signing_key_pem,
)
from steelyard.evidence.tpm.public import (
    EccParameters,
    RsaParameters,
    Scheme,
    SymmetricDefinition,
    parse_tpm2b_public,
)
from steelyard.evidence.tpm.signature import EcdsaSignature, RsaSignature
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import BadSignature, KeyRejected, MalformedKey, TooLarge
from tests.tpm import EndorsementKind, SigningKind, SoftwareTpm
from tests.unit.evidence.tpm.keypairs import (
    ATTESTATION,
    ENDORSEMENT,
    P256,
    P384,
    P521,
    SHA1,
    SHA256,
    SHA384,
    SHA512,
    PrivateKey,
    Signer,
    ecc_key,
    ecdsa,
    endorsement_area,
    public_area,
    rsa_key,
    rsassa,
)

SIGNING: Final = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign|restricted"
NEEDED: Final = (
    TpmaObject.FIXED_TPM,
    TpmaObject.FIXED_PARENT,
    TpmaObject.SENSITIVE_DATA_ORIGIN,
    TpmaObject.RESTRICTED,
)
HARMLESS: Final = (
    TpmaObject.ST_CLEAR,
    TpmaObject.USER_WITH_AUTH,
    TpmaObject.ADMIN_WITH_POLICY,
    TpmaObject.NO_DA,
    TpmaObject.FIRMWARE_LIMITED,
    TpmaObject.SVN_LIMITED,
)


def pem(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@cache
def rsa_of(bits: int, exponent: int) -> rsa.RSAPublicKey:
    """Return a public key of these numbers; that nobody has its private part does not matter to the check."""
    modulus = rsa_key(2048).public_key().public_numbers().n
    wanted = modulus << (bits - 2048) | 1 if bits >= 2048 else modulus >> (2048 - bits) | 1
    return rsa.RSAPublicNumbers(exponent, wanted).public_key()


# -- attestation keys --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "signer", [rsassa(), ecdsa(), Signer(rsa_key(), TpmAlg.RSAPSS), Signer(ecc_key(P521), TpmAlg.ECDSA, SHA512)]
)
def test_a_restricted_signing_key_made_inside_its_tpm_is_an_attestation_key(signer: Signer) -> None:
    key = check_attestation_key(signer.public())
    assert (key.signing.scheme, key.signing.hash_algorithm) == (signer.scheme, signer.hash_algorithm)
    assert key.name == signer.public().name()


@pytest.mark.parametrize("missing", [*NEEDED, TpmaObject.SIGN_ENCRYPT], ids=lambda flag: flag.name)
def test_attack_1_an_attestation_key_without_one_needed_attribute_is_refused(missing: TpmaObject) -> None:
    with pytest.raises(KeyRejected, match=f"missing {str(missing.name).lower()}, wrong none"):
        check_attestation_key(ecdsa().public(ATTESTATION & ~missing))


@pytest.mark.parametrize(
    "added",
    [TpmaObject.DECRYPT, TpmaObject.ENCRYPTED_DUPLICATION, TpmaObject.X509_SIGN],
    ids=lambda flag: flag.name,
)
def test_attack_1_an_attestation_key_with_one_wrong_attribute_is_refused(added: TpmaObject) -> None:
    with pytest.raises(KeyRejected, match=f"missing none, wrong {str(added.name).lower()}"):
        check_attestation_key(ecdsa().public(ATTESTATION | added))


@pytest.mark.parametrize("flag", HARMLESS, ids=lambda flag: flag.name)
def test_attributes_that_say_who_may_use_a_key_do_not_matter(flag: TpmaObject) -> None:
    check_attestation_key(ecdsa().public(ATTESTATION ^ flag))
    check_endorsement_key(replace(endorsement_area(ecc_key()), attributes=ENDORSEMENT ^ flag))


def test_every_attribute_is_needed_forbidden_or_harmless() -> None:
    decided = {*NEEDED, *HARMLESS, TpmaObject.SIGN_ENCRYPT, TpmaObject.DECRYPT}
    assert decided | {TpmaObject.ENCRYPTED_DUPLICATION, TpmaObject.X509_SIGN} == set(TpmaObject)


@pytest.mark.parametrize(
    "scheme",
    [None, Scheme(TpmAlg.ECDH, SHA256), Scheme(TpmAlg.ECDSA, SHA1), Scheme(TpmAlg.ECDSA, HashAlgorithm.SM3_256)],
)
def test_attack_1_an_ecc_attestation_key_without_one_believed_signing_scheme_is_refused(scheme: Scheme | None) -> None:
    with pytest.raises(KeyRejected):
        check_attestation_key(public_area(ecc_key(), ATTESTATION, scheme))


@pytest.mark.parametrize(
    "scheme", [None, Scheme(TpmAlg.RSAES, None), Scheme(TpmAlg.OAEP, SHA256), Scheme(TpmAlg.RSASSA, SHA1)]
)
def test_attack_1_an_rsa_attestation_key_without_one_believed_signing_scheme_is_refused(scheme: Scheme | None) -> None:
    with pytest.raises(KeyRejected):
        check_attestation_key(public_area(rsa_key(), ATTESTATION, scheme))


@pytest.mark.parametrize("algorithm", [SHA1, HashAlgorithm.SM3_256, HashAlgorithm.SHA3_256], ids=lambda a: a.label)
def test_attack_1_a_name_algorithm_weaker_than_sha256_is_refused(algorithm: HashAlgorithm) -> None:
    with pytest.raises(KeyRejected, match="Name algorithm"):
        check_attestation_key(replace(ecdsa().public(), name_algorithm=algorithm))
    with pytest.raises(KeyRejected, match="Name algorithm"):
        check_endorsement_key(endorsement_area(ecc_key(), 128, algorithm))


@pytest.mark.parametrize("exponent", [1, 3, 5, 65535, 65538])
def test_attack_1_a_small_or_even_exponent_is_refused(exponent: int) -> None:
    for area, check in (
        (rsassa().public(), check_attestation_key),
        (endorsement_area(rsa_key()), check_endorsement_key),
    ):
        assert isinstance(area.parameters, RsaParameters)
        with pytest.raises(KeyRejected, match="exponent"):
            check(replace(area, parameters=replace(area.parameters, exponent=exponent)))


def test_an_exponent_of_zero_stands_for_65537() -> None:
    area = rsassa().public()
    assert isinstance(area.parameters, RsaParameters)
    named = replace(area, parameters=replace(area.parameters, exponent=65537))
    assert check_attestation_key(area).signing == check_attestation_key(named).signing
    assert check_attestation_key(area).name != check_attestation_key(named).name


def test_attack_1_a_modulus_shorter_than_it_looks_is_refused() -> None:
    area = rsassa().public()
    assert isinstance(area.parameters, RsaParameters)
    for modulus in (bytes(128) + area.parameters.modulus[:128], bytes(256), b"\x7f" + area.parameters.modulus[1:]):
        with pytest.raises(KeyRejected, match="modulus"):
            check_attestation_key(replace(area, parameters=replace(area.parameters, modulus=modulus)))


@pytest.mark.parametrize("curve_id", [P256, P384, P521])
def test_attack_1_a_point_off_the_curve_is_refused(curve_id: int) -> None:
    for area, check in (
        (Signer(ecc_key(curve_id), TpmAlg.ECDSA).public(), check_attestation_key),
        (endorsement_area(ecc_key(curve_id)), check_endorsement_key),
    ):
        parameters = area.parameters
        assert isinstance(parameters, EccParameters)
        off = (
            replace(parameters, y=parameters.y[:-1] + bytes([parameters.y[-1] ^ 1])),
            replace(parameters, x=b"", y=b""),
            replace(parameters, x=b"\xff" * len(parameters.x)),
            replace(parameters, curve_id=P384 if curve_id == P521 else P521),
        )
        for wrong in off:
            with pytest.raises(KeyRejected, match="point"):
                check(replace(area, parameters=wrong))


def test_attack_1_a_real_key_without_restriction_is_refused_and_with_it_accepted(tpm: SoftwareTpm) -> None:
    kind = SigningKind.ECC_P256_ECDSA_SHA256
    restricted = tpm.create_signing_key(kind, SIGNING)
    check_attestation_key(parse_tpm2b_public(restricted.public))
    for missing in ("|restricted", "fixedtpm|fixedparent|"):
        with pytest.raises(KeyRejected):
            check_attestation_key(parse_tpm2b_public(tpm.create_signing_key(kind, SIGNING.replace(missing, "")).public))


# -- endorsement keys --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("private", "key_bits", "algorithm"),
    [(rsa_key(), 128, SHA256), (rsa_key(3072), 256, SHA384), (ecc_key(), 128, SHA256), (ecc_key(P521), 256, SHA512)],
)
def test_a_restricted_decryption_key_made_inside_its_tpm_is_an_endorsement_key(
    private: PrivateKey, key_bits: int, algorithm: HashAlgorithm
) -> None:
    key = check_endorsement_key(endorsement_area(private, key_bits, algorithm))
    assert key.symmetric_key_bits == key_bits
    assert key.key.public_numbers() == private.public_key().public_numbers()


@pytest.mark.parametrize("missing", [*NEEDED, TpmaObject.DECRYPT], ids=lambda flag: flag.name)
def test_attack_1_an_endorsement_key_without_one_needed_attribute_is_refused(missing: TpmaObject) -> None:
    with pytest.raises(KeyRejected, match=f"missing {str(missing.name).lower()}, wrong none"):
        check_endorsement_key(replace(endorsement_area(ecc_key()), attributes=ENDORSEMENT & ~missing))


@pytest.mark.parametrize(
    "added", [TpmaObject.SIGN_ENCRYPT, TpmaObject.ENCRYPTED_DUPLICATION], ids=lambda flag: flag.name
)
def test_attack_1_an_endorsement_key_with_one_wrong_attribute_is_refused(added: TpmaObject) -> None:
    with pytest.raises(KeyRejected, match=f"missing none, wrong {str(added.name).lower()}"):
        check_endorsement_key(replace(endorsement_area(ecc_key()), attributes=ENDORSEMENT | added))


@pytest.mark.parametrize(
    ("scheme", "symmetric"),
    [
        (None, None),
        (Scheme(TpmAlg.ECDH, SHA256), SymmetricDefinition(128)),
        (Scheme(TpmAlg.ECDSA, SHA256), SymmetricDefinition(128)),
    ],
)
def test_attack_1_an_endorsement_key_that_is_no_storage_key_is_refused(
    scheme: Scheme | None, symmetric: SymmetricDefinition | None
) -> None:
    with pytest.raises(KeyRejected, match="scheme NULL"):
        check_endorsement_key(public_area(ecc_key(), ENDORSEMENT, scheme, symmetric))


def test_every_real_endorsement_key_is_one_and_no_attestation_key_and_the_reverse(tpm: SoftwareTpm) -> None:
    endorsement = [tpm.create_endorsement_key(kind) for kind in EndorsementKind]
    attestation = tpm.create_attestation_key(endorsement[0], SigningKind.ECC_P384_ECDSA_SHA384)
    for key in endorsement:
        checked = check_endorsement_key(parse_tpm2b_public(key.public))
        assert checked.name == key.name
        with pytest.raises(KeyRejected):
            check_attestation_key(parse_tpm2b_public(key.public))
    assert check_attestation_key(parse_tpm2b_public(attestation.public)).name == attestation.name
    with pytest.raises(KeyRejected):
        check_endorsement_key(parse_tpm2b_public(attestation.public))


# -- signing keys ------------------------------------------------------------------------------------------------------


def test_a_fingerprint_tells_one_key_from_another_and_is_the_same_from_pem() -> None:
    key = ecdsa().key().signing
    assert key.fingerprint != ecdsa(1).key().signing.fingerprint
    assert parse_signing_key_pem(pem(ecc_key().public_key()), TpmAlg.ECDSA, SHA256) == key


@pytest.mark.parametrize("salt", [0, 20, 32, 222])
def test_rsapss_of_any_salt_length_is_verified(salt: int) -> None:
    how = padding.PSS(padding.MGF1(hashes.SHA256()), salt)
    signature = RsaSignature(TpmAlg.RSAPSS, SHA256, rsa_key().sign(b"message", how, hashes.SHA256())).to_bytes()
    key = Signer(rsa_key(), TpmAlg.RSAPSS).key().signing
    key.verify(signature, b"message", "verifying")
    with pytest.raises(BadSignature):
        key.verify(signature, b"massage", "verifying")


def test_numbers_that_are_no_signature_are_refused() -> None:
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    key = ecdsa().key().signing
    for r, s in ((0, 0), (0, 1), (1, 0), (order, order), (1 << 4000, 1), (1, (1 << 256) - 1)):
        numbers = [number.to_bytes((number.bit_length() + 7) // 8) for number in (r, s)]
        with pytest.raises(BadSignature):
            key.verify(EcdsaSignature(SHA256, numbers[0], numbers[1]).to_bytes(), b"message", "verifying")


def test_an_rsa_signature_of_another_length_than_the_modulus_is_refused() -> None:
    key = rsassa().key().signing
    good = rsassa().sign(b"message")[6:]
    for wrong in (b"", good[1:], b"\x00" + good, good + b"\x00", bytes(256), b"\xff" * 256):
        with pytest.raises(BadSignature):
            key.verify(RsaSignature(TpmAlg.RSASSA, SHA256, wrong).to_bytes(), b"message", "verifying")


@pytest.mark.parametrize(
    ("private", "scheme"),
    [
        (rsa_key(), TpmAlg.ECDSA),
        (ecc_key(), TpmAlg.RSASSA),
        (ecc_key(), TpmAlg.RSAPSS),
        (rsa_key(), TpmAlg.OAEP),
        (rsa_key(), TpmAlg.NULL),
    ],
)
def test_a_scheme_of_another_kind_of_key_is_refused(private: PrivateKey, scheme: TpmAlg) -> None:
    with pytest.raises(KeyRejected):
        make_signing_key(private.public_key(), scheme, SHA256)


@pytest.mark.parametrize(
    "key",
    [
        rsa_of(1024, 65537),
        rsa_of(2047, 65537),
        rsa_of(8192, 65537),
        rsa_of(2048, 3),
        rsa_of(2048, (1 << 32) + 15),
        ec.generate_private_key(ec.SECP256K1()).public_key(),
        ec.generate_private_key(ec.SECP192R1()).public_key(),
        ed25519.Ed25519PrivateKey.generate().public_key(),
    ],
)
def test_attack_1_a_pem_key_that_is_weak_or_of_no_tpm_is_refused(
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey,
) -> None:
    with pytest.raises(KeyRejected):
        parse_signing_key_pem(pem(key), TpmAlg.RSASSA if isinstance(key, rsa.RSAPublicKey) else TpmAlg.ECDSA, SHA256)


def test_a_pem_key_over_sha1_is_refused() -> None:
    with pytest.raises(KeyRejected):
        parse_signing_key_pem(pem(ecc_key().public_key()), TpmAlg.ECDSA, SHA1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"-----BEGIN PUBLIC KEY-----\n",
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
    ],
)
def test_what_is_no_pem_key_is_malformed(data: bytes) -> None:
    for read in (lambda: parse_signing_key_pem(data, TpmAlg.RSASSA, SHA256), lambda: default_scheme_of_pem(data)):
        with pytest.raises(MalformedKey):
            read()


def test_a_huge_pem_is_refused_unread() -> None:
    with pytest.raises(TooLarge):
        parse_signing_key_pem(bytes(5000), TpmAlg.RSASSA, SHA256)


def test_the_likely_scheme_of_a_pem_key_is_that_of_its_kind() -> None:
    assert default_scheme_of_pem(pem(rsa_key().public_key())) is TpmAlg.RSASSA
    assert default_scheme_of_pem(pem(ecc_key().public_key())) is TpmAlg.ECDSA


def test_the_name_stands_for_the_whole_public_area() -> None:
    area = ecdsa().public()
    assert check_attestation_key(area).name != check_attestation_key(replace(area, auth_policy=bytes(32))).name
