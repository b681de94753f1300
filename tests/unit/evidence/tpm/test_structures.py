"""Every structure is written as it was read, and nothing but the structure is read: strict both ways."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.evidence.reader import BigEndianReader
from steelyard.evidence.tpm.activation import CredentialBlob, parse_credential_file
from steelyard.evidence.tpm.attest import (
    TpmsAttest,
    TpmsCertifyInfo,
    TpmsClockInfo,
    TpmsQuoteInfo,
    parse_tpms_attest,
)
from steelyard.evidence.tpm.identifiers import COORDINATE_BYTES, TPMA_OBJECT_KNOWN, TpmAlg, TpmaObject
from steelyard.evidence.tpm.public import (
    RSA_BITS,
    EccParameters,
    RsaParameters,
    Scheme,
    SymmetricDefinition,
    TpmtPublic,
    parse_tpm2b_public,
    parse_tpmt_public,
)
from steelyard.evidence.tpm.selection import TpmlPcrSelection, TpmsPcrSelection, marshal_selection, read_pcr_selections
from steelyard.evidence.tpm.signature import EcdsaSignature, RsaSignature, parse_tpmt_signature
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import KeyRejected, Malformed, MalformedTpmStructure, TooLarge
from steelyard.model.limits import TPM_STRUCTURE_BYTES
from steelyard.model.pcrs import PcrSelection
from tests.tpm import EndorsementKind, SigningKind, SoftwareTpm
from tests.unit.evidence.tpm.keypairs import (
    ATTESTATION,
    P256,
    P521,
    SHA256,
    SHA512,
    Signer,
    ecc_key,
    ecdsa,
    endorsement_area,
    rsa_key,
)
from tests.vectors_dir import shared_vectors

ATTEST: Final = TpmsAttest(
    b"\x00\x0b" + bytes(32),
    b"nonce",
    TpmsClockInfo(1, 2, 3, safe=True),
    4,
    TpmsQuoteInfo(TpmlPcrSelection((TpmsPcrSelection(SHA256, b"\x01\x02\x03"),)), bytes(32)),
)
CERTIFY: Final = replace(ATTEST, attested=TpmsCertifyInfo(b"name", b"qualified name"))
PUBLIC: Final = Signer(ecc_key(), TpmAlg.ECDSA).public()

hashes = st.sampled_from(HashAlgorithm)
short = st.binary(max_size=80)


def u(bits: int) -> st.SearchStrategy[int]:
    return st.integers(0, (1 << bits) - 1)


selections = st.builds(
    TpmlPcrSelection,
    st.lists(st.builds(TpmsPcrSelection, hashes, st.binary(max_size=4)), max_size=16).map(tuple),
)
attests = st.builds(
    TpmsAttest,
    short,
    short,
    st.builds(TpmsClockInfo, u(64), u(32), u(32), st.booleans()),
    u(64),
    st.builds(TpmsQuoteInfo, selections, short) | st.builds(TpmsCertifyInfo, short, short),
)
signatures = st.builds(
    RsaSignature, st.sampled_from((TpmAlg.RSASSA, TpmAlg.RSAPSS)), hashes, st.binary(max_size=512)
) | st.builds(EcdsaSignature, hashes, short, short)
symmetrics = st.none() | st.builds(SymmetricDefinition, st.sampled_from((128, 192, 256)))


def schemes(*with_hash: TpmAlg) -> st.SearchStrategy[Scheme | None]:
    return st.none() | st.builds(Scheme, st.sampled_from(with_hash), hashes)


rsa_parameters = st.sampled_from(RSA_BITS).flatmap(
    lambda bits: st.builds(
        RsaParameters,
        symmetrics,
        schemes(TpmAlg.RSASSA, TpmAlg.RSAPSS, TpmAlg.OAEP) | st.just(Scheme(TpmAlg.RSAES, None)),
        st.just(bits),
        u(32),
        st.binary(min_size=bits // 8, max_size=bits // 8),
    )
)
ecc_parameters = st.sampled_from(sorted(COORDINATE_BYTES)).flatmap(
    lambda curve_id: st.builds(
        EccParameters,
        symmetrics,
        schemes(TpmAlg.ECDSA, TpmAlg.ECDH),
        st.just(curve_id),
        st.binary(max_size=COORDINATE_BYTES[curve_id]),
        st.binary(max_size=COORDINATE_BYTES[curve_id]),
    )
)


@st.composite
def publics(draw: st.DrawFn) -> TpmtPublic:
    name_algorithm = draw(hashes)
    return TpmtPublic(
        name_algorithm,
        TpmaObject(draw(u(32)) & TPMA_OBJECT_KNOWN),
        draw(st.sampled_from((b"", bytes(range(name_algorithm.size))))),
        draw(rsa_parameters | ecc_parameters),
    )


# -- what was built is read back as it was -----------------------------------------------------------------------------


@given(attests)
def test_an_attestation_is_read_as_it_was_written(attest: TpmsAttest) -> None:
    assert parse_tpms_attest(attest.to_bytes()) == attest


@given(signatures)
def test_a_signature_is_read_as_it_was_written(signature: RsaSignature | EcdsaSignature) -> None:
    assert parse_tpmt_signature(signature.to_bytes()) == signature


@given(publics())
def test_a_public_area_is_read_as_it_was_written(public: TpmtPublic) -> None:
    area = public.to_bytes()
    assert parse_tpmt_public(area) == public
    assert parse_tpm2b_public(len(area).to_bytes(2) + area) == public


@given(st.builds(CredentialBlob, short, short, st.binary(max_size=512)))
def test_a_credential_is_read_as_it_was_written(credential: CredentialBlob) -> None:
    assert parse_credential_file(credential.to_bytes()) == credential


@given(selections)
def test_a_selection_is_read_as_it_was_written(selection: TpmlPcrSelection) -> None:
    reader = BigEndianReader(selection.to_bytes(), "reading", MalformedTpmStructure)
    assert read_pcr_selections(reader) == selection
    reader.end()


@given(st.sampled_from(HashAlgorithm), st.frozensets(st.integers(0, 23), min_size=1))
def test_a_marshalled_selection_selects_what_was_asked(bank: HashAlgorithm, indices: frozenset[int]) -> None:
    reader = BigEndianReader(marshal_selection(PcrSelection(bank, indices)), "reading", MalformedTpmStructure)
    (part,) = read_pcr_selections(reader).selections
    assert (part.hash_algorithm, part.indices(), len(part.select)) == (bank, indices, 3)


# -- real ones ---------------------------------------------------------------------------------------------------------


def test_every_real_key_is_written_as_it_was_read_and_has_the_name_its_tpm_gives_it(tpm: SoftwareTpm) -> None:
    keys = [tpm.create_endorsement_key(kind) for kind in EndorsementKind]
    keys += [tpm.create_attestation_key(keys[0], kind) for kind in SigningKind]
    for key in keys:
        public = parse_tpm2b_public(key.public)
        assert public.to_bytes() == key.public[2:]
        assert public.name() == key.name
        public.parameters.public_key()
        for wrong in _other_lengths(key.public):
            with pytest.raises(Malformed):
                parse_tpm2b_public(wrong)
        for wrong in _other_lengths(key.public[2:]):
            with pytest.raises(Malformed):
                parse_tpmt_public(wrong)


def test_the_recorded_keys_are_written_as_they_were_read() -> None:
    folder = shared_vectors("quotes") / "tpm2-tools-emulator"
    for name in ("ak.pub", "ek.pub"):
        data = (folder / name).read_bytes()
        assert parse_tpm2b_public(data).to_bytes() == data[2:]
    data = (folder / "quote.out").read_bytes()
    assert parse_tpms_attest(data).to_bytes() == data
    data = (folder / "quotesig.out").read_bytes()
    assert parse_tpmt_signature(data).to_bytes() == data
    data = (folder / "mkcred.out").read_bytes()
    assert parse_credential_file(data).to_bytes() == data


def test_p521_coordinates_take_66_bytes() -> None:
    public = endorsement_area(ecc_key(P521), 256, SHA512)
    parameters = parse_tpmt_public(public.to_bytes()).parameters
    assert isinstance(parameters, EccParameters)
    assert (len(parameters.x), len(parameters.y)) == (66, 66)
    assert parameters.public_key().public_numbers() == ecc_key(P521).public_key().public_numbers()


def test_coordinates_without_their_leading_zeros_are_the_same_point() -> None:
    private = next(
        key
        for key in (ecc_key(P256, number) for number in range(5000))
        if key.public_key().public_numbers().x < 1 << 248
    )
    parameters = endorsement_area(private).parameters
    assert isinstance(parameters, EccParameters)
    stripped = replace(parameters, x=parameters.x.lstrip(b"\x00"))
    assert stripped.to_bytes() != parameters.to_bytes()
    assert stripped.public_key().public_numbers() == parameters.public_key().public_numbers()


# -- everything else is refused ----------------------------------------------------------------------------------------

PARSERS: Final[list[tuple[Callable[[bytes], Any], bytes]]] = [
    (parse_tpms_attest, ATTEST.to_bytes()),
    (parse_tpms_attest, CERTIFY.to_bytes()),
    (parse_tpmt_signature, ecdsa().sign(b"message")),
    (parse_tpmt_signature, Signer(rsa_key(), TpmAlg.RSASSA).sign(b"message")),
    (parse_tpmt_public, PUBLIC.to_bytes()),
    (parse_tpmt_public, endorsement_area(rsa_key()).to_bytes()),
    (parse_credential_file, CredentialBlob(bytes(32), bytes(34), bytes(256)).to_bytes()),
]


@pytest.mark.parametrize(("parse", "data"), PARSERS)
def test_a_structure_cut_anywhere_or_followed_by_anything_is_refused(
    parse: Callable[[bytes], Any], data: bytes
) -> None:
    parse(data)
    for wrong in _other_lengths(data):
        with pytest.raises(Malformed):
            parse(wrong)


@pytest.mark.parametrize("parse", [parse for parse, _ in PARSERS] + [parse_tpm2b_public])
def test_more_bytes_than_a_tpm_sends_are_refused_unread(parse: Callable[[bytes], Any]) -> None:
    with pytest.raises(TooLarge):
        parse(bytes(TPM_STRUCTURE_BYTES.most + 1))


def _other_lengths(data: bytes) -> list[bytes]:
    return [data[:end] for end in range(len(data))] + [data + more for more in (b"\x00", b"\xff", data)]


def _with(data: bytes, place: int, value: bytes) -> bytes:
    return data[:place] + value + data[place + len(value) :]


def test_a_clock_is_safe_or_not_and_nothing_else() -> None:
    data = ATTEST.to_bytes()
    place = 6 + 2 + 34 + 2 + 5 + 16
    assert data[place] == 1
    assert parse_tpms_attest(_with(data, place, b"\x00")).clock_info.safe is False
    for value in (2, 0x80, 0xFF):
        with pytest.raises(MalformedTpmStructure, match="safe"):
            parse_tpms_attest(_with(data, place, bytes([value])))


def test_another_magic_or_kind_of_attestation_is_refused() -> None:
    data = ATTEST.to_bytes()
    with pytest.raises(MalformedTpmStructure, match="magic"):
        parse_tpms_attest(b"\xff\x54\x43\x48" + data[4:])
    with pytest.raises(MalformedTpmStructure, match="type"):
        parse_tpms_attest(_with(data, 4, b"\x80\x14"))


def test_more_banks_than_any_tpm_has_are_refused_before_they_are_read() -> None:
    with pytest.raises(TooLarge):
        read_pcr_selections(BigEndianReader((17).to_bytes(4), "reading", MalformedTpmStructure))
    with pytest.raises(TooLarge):
        read_pcr_selections(
            BigEndianReader(b"\x00\x00\x00\x01\x00\x0b\x05" + bytes(5), "reading", MalformedTpmStructure)
        )


def test_a_selection_of_an_unknown_bank_is_refused() -> None:
    with pytest.raises(MalformedTpmStructure, match="bank"):
        read_pcr_selections(
            BigEndianReader(b"\x00\x00\x00\x01\x00\x0a\x03" + bytes(3), "reading", MalformedTpmStructure)
        )


@pytest.mark.parametrize("scheme", [TpmAlg.NULL, TpmAlg.ECDH, TpmAlg.OAEP, 0x001A, 0x0005])
def test_a_signature_in_a_scheme_that_no_attestation_key_has_is_refused(scheme: int) -> None:
    with pytest.raises(MalformedTpmStructure, match="sigAlg"):
        parse_tpmt_signature(_with(ecdsa().sign(b""), 0, scheme.to_bytes(2)))


def test_a_signature_over_an_unknown_hash_is_refused() -> None:
    with pytest.raises(MalformedTpmStructure, match="hash"):
        parse_tpmt_signature(_with(ecdsa().sign(b""), 2, b"\x00\x10"))


PUBLIC_BYTES: Final = PUBLIC.to_bytes()
"""type 0, nameAlg 2, attributes 4, authPolicy 8, symmetric 10, scheme 12 and 14, curveID 16, kdf 18, x 20."""


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, b"\x00\x08", "type"),
        (0, b"\x00\x25", "type"),
        (2, b"\x00\x10", "nameAlg"),
        (2, b"\x00\x99", "nameAlg"),
        (4, b"\x80", "reserved bits"),
        (7, bytes([PUBLIC_BYTES[7] | 1]), "reserved bits"),
        (10, b"\x00\x0a\x00\x80\x00\x43", "symmetric"),
        (12, b"\x00\x14", "scheme"),
        (12, b"\x00\x1a", "scheme"),
        (14, b"\x00\x99", "scheme hash"),
        (16, b"\x00\x01", "curve"),
        (16, b"\x00\x10", "curve"),
        (18, b"\x00\x20", "kdf"),
    ],
)
def test_a_public_area_with_an_illegal_field_is_refused(place: int, value: bytes, message: str) -> None:
    with pytest.raises(MalformedTpmStructure, match=message):
        parse_tpmt_public(_with(PUBLIC_BYTES, place, value))


@pytest.mark.parametrize(
    "symmetric", [b"\x00\x06\x00\x80\x00\x44", b"\x00\x06\x00\x40\x00\x43", b"\x00\x26\x00\x80\x00\x43"]
)
def test_a_public_area_whose_inner_cipher_is_not_aes_in_cfb_is_refused(symmetric: bytes) -> None:
    data = endorsement_area(ecc_key()).to_bytes()
    with pytest.raises(MalformedTpmStructure, match="symmetric"):
        parse_tpmt_public(_with(data, 10, symmetric))


def test_an_auth_policy_is_a_digest_of_the_name_algorithm_or_absent() -> None:
    for policy in (b"\x01", bytes(20), bytes(31), bytes(48)):
        with pytest.raises(MalformedTpmStructure, match="authPolicy"):
            parse_tpmt_public(replace(PUBLIC, auth_policy=policy).to_bytes())


@pytest.mark.parametrize(("bits", "size"), [(1024, 128), (2048, 255), (2048, 257), (3072, 256), (8192, 1024), (0, 0)])
def test_an_rsa_key_of_another_size_than_it_says_or_than_is_sound_is_refused(bits: int, size: int) -> None:
    parameters = RsaParameters(None, None, bits, 0, b"\xff" * size)
    with pytest.raises(MalformedTpmStructure, match="RSA"):
        parse_tpmt_public(TpmtPublic(SHA256, ATTESTATION, b"", parameters).to_bytes())


def test_a_coordinate_longer_than_its_curve_is_refused() -> None:
    for x, y in ((33, 32), (32, 33)):
        parameters = EccParameters(None, None, P256, bytes(x), bytes(y))
        with pytest.raises(MalformedTpmStructure, match="coordinates"):
            parse_tpmt_public(TpmtPublic(SHA256, ATTESTATION, b"", parameters).to_bytes())


def test_a_credential_file_of_another_version_or_kind_is_refused() -> None:
    data = CredentialBlob(bytes(32), bytes(34), bytes(256)).to_bytes()
    for place in (0, 3, 7):
        with pytest.raises(MalformedTpmStructure, match="magic"):
            parse_credential_file(_with(data, place, b"\x02"))


def test_a_name_by_a_hash_that_cannot_be_computed_is_refused() -> None:
    with pytest.raises(KeyRejected):
        replace(PUBLIC, name_algorithm=HashAlgorithm.SM3_256).name()
