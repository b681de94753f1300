"""A file signature counts when a key that may sign made it over this very digest, and never else (attack 28)."""

import struct
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from steelyard.evidence.ima.parse import FileDigest
from steelyard.evidence.ima.records import DigestKind
from steelyard.evidence.ima.signatures import FileSigningKey, file_signing_key, verify_file_signature
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import FileSignatureRejected, KeyRejected, MalformedKey, MalformedPolicy, TooLarge
from tests.unit.evidence.ima.signing import LATER, NOW, Kind, PrivateKey, certificate, key_id, public_der, sign

RSA = rsa.generate_private_key(65537, 2048)
ECC = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
CONTENT = b"content"
PATH = b"/usr/bin/tool"


def trusted(key: PrivateKey, *, revoked: bool = False, path: str = "/**") -> FileSigningKey:
    return file_signing_key("the key", public_der(key), not_after=LATER, revoked=revoked, paths=[path])


def digest(algorithm: str = "sha256", kind: DigestKind = DigestKind.IMA) -> FileDigest:
    by_name = {"sha1": HashAlgorithm.SHA1, "sha256": HashAlgorithm.SHA256, "sha512": HashAlgorithm.SHA512}
    return FileDigest(kind, by_name[algorithm], by_name[algorithm].digest(CONTENT))


def verified(signature: bytes, file: FileDigest, *keys: FileSigningKey, path: bytes = PATH) -> FileSigningKey:
    by_id: dict[bytes, tuple[FileSigningKey, ...]] = {}
    for key in keys:
        by_id[key.key_id] = (*by_id.get(key.key_id, ()), key)
    return verify_file_signature(signature, file, path, by_id, NOW)


def refused(signature: bytes, file: FileDigest, *keys: FileSigningKey, path: bytes = PATH) -> str:
    with pytest.raises(FileSignatureRejected) as caught:
        verified(signature, file, *keys, path=path)
    return caught.value.found


@pytest.mark.parametrize("key", [RSA, ECC], ids=["rsa", "ecc"])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("kind", [Kind.FILE, Kind.FILE_ID, Kind.VERITY])
def test_a_signature_of_each_kind_is_verified(key: PrivateKey, algorithm: str, kind: Kind) -> None:
    of = DigestKind.VERITY if kind is Kind.VERITY else DigestKind.IMA
    assert verified(sign(key, CONTENT, algorithm, kind), digest(algorithm, of), trusted(key)).name == "the key"


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()])
def test_larger_curves_sign_too(curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    assert verified(sign(key, CONTENT), digest(), trusted(key)).key_id == key_id(key)


def test_a_signature_over_another_file_is_refused() -> None:
    assert "over something else" in refused(sign(RSA, b"other"), digest(), trusted(RSA))


def test_a_signature_by_a_key_that_is_not_known_is_refused() -> None:
    assert "which no key has" in refused(sign(OTHER, CONTENT), digest(), trusted(ECC))


def test_a_signature_that_names_another_key_is_refused() -> None:
    signature = sign(OTHER, CONTENT)
    relabelled = signature[:3] + key_id(ECC) + signature[7:]
    assert "over something else" in refused(relabelled, digest(), trusted(ECC))


def test_keys_that_share_a_key_id_are_told_apart() -> None:
    shared = bytes(16) + key_id(OTHER)
    impostor = file_signing_key(
        "shares the id", certificate(ECC, identifier=shared), not_after=LATER, revoked=False, paths=["/**"]
    )
    assert impostor.key_id == key_id(OTHER)
    assert verified(sign(OTHER, CONTENT), digest(), impostor, trusted(OTHER)).name == "the key"


def test_a_revoked_key_signs_nothing_even_when_it_comes_again_in_force() -> None:
    signature = sign(ECC, CONTENT)
    assert "the key" in refused(signature, digest(), trusted(ECC, revoked=True))
    assert "the key" in refused(signature, digest(), trusted(ECC), trusted(ECC, revoked=True))


def test_a_key_signs_until_its_end_and_no_longer() -> None:
    signature, by_id = sign(ECC, CONTENT), {key_id(ECC): (trusted(ECC),)}
    verify_file_signature(signature, digest(), PATH, by_id, LATER - timedelta(seconds=1))
    with pytest.raises(FileSignatureRejected, match="in force"):
        verify_file_signature(signature, digest(), PATH, by_id, LATER)


def test_a_certificate_limits_its_key_at_both_ends() -> None:
    soon = NOW + timedelta(days=1)
    key = file_signing_key("k", certificate(ECC, not_after=soon), not_after=LATER, revoked=False, paths=["/**"])
    assert (key.not_before, key.not_after) == (NOW, soon)
    assert not key.may_sign(PATH, NOW - timedelta(seconds=1))
    assert key.may_sign(PATH, NOW)
    assert not key.may_sign(PATH, soon)
    shortened = file_signing_key("k", certificate(ECC), not_after=soon, revoked=False, paths=["/**"])
    assert shortened.not_after == soon


def test_an_expired_certificate_does_not_stop_its_successor() -> None:
    expired = file_signing_key(
        "old",
        certificate(ECC, not_after=NOW, not_before=NOW - timedelta(days=9)),
        not_after=LATER,
        revoked=False,
        paths=["/**"],
    )
    assert verified(sign(ECC, CONTENT), digest(), expired, trusted(ECC)).name == "the key"


def test_a_key_signs_for_its_paths_only() -> None:
    key = trusted(ECC, path="/usr/**")
    verified(sign(ECC, CONTENT), digest(), key)
    assert "/usr/**" in refused(sign(ECC, CONTENT), digest(), key, path=b"/opt/tool")
    assert "/usr/**" in refused(sign(ECC, CONTENT), digest(), key, path=b"/usr/../opt/tool")


@pytest.mark.parametrize(
    ("kind", "signed_as", "of"),
    [
        (Kind.FILE, Kind.FILE_ID, DigestKind.IMA),
        (Kind.FILE_ID, Kind.FILE, DigestKind.IMA),
        (Kind.VERITY, Kind.FILE_ID, DigestKind.VERITY),
        (Kind.FILE_ID, Kind.VERITY, DigestKind.IMA),
        (Kind.FILE, Kind.FILE, DigestKind.VERITY),
        (Kind.FILE_ID, Kind.FILE_ID, DigestKind.VERITY),
        (Kind.VERITY, Kind.VERITY, DigestKind.IMA),
        (Kind.VERITY_OVER_DIGEST, Kind.VERITY_OVER_DIGEST, DigestKind.VERITY),
        (Kind.VERITY_OVER_DIGEST, Kind.FILE, DigestKind.IMA),
        (Kind.OLDEST, Kind.FILE, DigestKind.IMA),
        (Kind.METADATA, Kind.METADATA, DigestKind.IMA),
        (Kind.FUTURE, Kind.FILE, DigestKind.IMA),
    ],
)
def test_a_signature_of_one_kind_never_passes_for_another(kind: Kind, signed_as: Kind, of: DigestKind) -> None:
    refused(sign(ECC, CONTENT, kind=kind, signed_as=signed_as), digest(kind=of), trusted(ECC))


def test_the_right_key_over_a_digest_of_another_hash_is_refused() -> None:
    assert "hash number 6" in refused(sign(ECC, CONTENT, "sha512"), digest("sha256"), trusted(ECC))
    relabelled = bytearray(sign(ECC, CONTENT, "sha512"))
    relabelled[2] = 4
    assert "over something else" in refused(bytes(relabelled), digest("sha256"), trusted(ECC))


def test_a_signature_over_sha1_is_never_believed() -> None:
    assert "hash number 2" in refused(sign(ECC, CONTENT, "sha1"), digest("sha1"), trusted(ECC))


@pytest.mark.parametrize("key", [RSA, ECC], ids=["rsa", "ecc"])
def test_every_cut_and_every_changed_byte_is_refused(key: PrivateKey) -> None:
    signature, known = sign(key, CONTENT), trusted(key)
    for end in range(len(signature)):
        refused(signature[:end], digest(), known)
    for position in range(len(signature)):
        changed = signature[:position] + bytes([signature[position] ^ 1]) + signature[position + 1 :]
        refused(changed, digest(), known)
    refused(signature + b"\0", digest(), known)
    longer = signature[:7] + struct.pack(">H", len(signature) - 8) + signature[9:] + b"\0"
    refused(longer, digest(), known)


@given(st.binary(max_size=600))
def test_no_bytes_but_a_signature_pass_or_raise_anything_else(signature: bytes) -> None:
    refused(signature, digest(), trusted(ECC))
    refused(b"\3\2\4" + key_id(ECC) + struct.pack(">H", len(signature)) + signature, digest(), trusted(ECC))
    refused(b"\3\2\4" + key_id(RSA) + struct.pack(">H", len(signature)) + signature, digest(), trusted(RSA))


@pytest.mark.parametrize("key", [RSA, ECC], ids=["rsa", "ecc"])
def test_a_key_without_a_certificate_or_identifier_is_known_by_its_own_hash(key: PrivateKey) -> None:
    for der in (public_der(key), certificate(key)):
        assert file_signing_key("k", der, not_after=LATER, revoked=False, paths=["/**"]).key_id == key_id(key)


def test_a_certificate_says_what_its_key_is_known_by() -> None:
    der = certificate(ECC, identifier=b"0123456789abcdef")
    assert file_signing_key("k", der, not_after=LATER, revoked=False, paths=["/**"]).key_id == b"cdef"


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 1024),  # noqa: S505  # to see it refused
        rsa.generate_private_key(3, 2048),
        ec.generate_private_key(ec.SECP192R1()),
        ec.generate_private_key(ec.SECP256K1()),
        ed25519.Ed25519PrivateKey.generate(),
    ],
)
def test_a_key_that_proves_little_is_refused(key: PrivateKey | ed25519.Ed25519PrivateKey) -> None:
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(KeyRejected, match="the key"):
        file_signing_key("the key", der, not_after=LATER, revoked=False, paths=["/**"])


@pytest.mark.parametrize("der", [b"", b"\x30\x00", b"-----BEGIN CERTIFICATE-----", certificate(ECC)[:-1]])
def test_what_is_no_key_is_refused(der: bytes) -> None:
    with pytest.raises(MalformedKey):
        file_signing_key("k", der, not_after=LATER, revoked=False, paths=["/**"])


def test_a_certificate_over_its_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(TooLarge):
        file_signing_key("k", bytes(16 * 1024 + 1), not_after=LATER, revoked=False, paths=["/**"])


def test_a_key_without_paths_is_refused() -> None:
    with pytest.raises(MalformedPolicy, match="at least one path"):
        file_signing_key("k", public_der(ECC), not_after=LATER, revoked=False, paths=[])
