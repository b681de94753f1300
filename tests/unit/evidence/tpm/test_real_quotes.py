"""Quotes by a real TPM, each also judged by tpm2_checkquote or by the TPM itself, whole and damaged at every byte."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from steelyard.evidence.tpm.attest import TpmsQuoteInfo, parse_tpms_attest
from steelyard.evidence.tpm.identifiers import TpmAlg
from steelyard.evidence.tpm.keys import (
    ActivatedBy,
    AssertedByOperator,
    BoundKey,
    check_attestation_key,
    parse_signing_key_pem,
)
from steelyard.evidence.tpm.nonce import PlainNonce
from steelyard.evidence.tpm.pcr_file import parse_pcr_file
from steelyard.evidence.tpm.public import parse_tpm2b_public
from steelyard.evidence.tpm.quote import QuotedPcrs, Rebooted, SameBoot, SignedQuote, compare_clock, verify_quote
from steelyard.evidence.tpm.selection import marshal_selection
from steelyard.evidence.tpm.signature import parse_tpmt_signature
from steelyard.model.algorithms import HASH_BY_NAME, HashAlgorithm
from steelyard.model.errors import (
    BadSignature,
    ClockWentBack,
    KeyRejected,
    Malformed,
    QuoteRejected,
    WrongNonce,
    WrongSelection,
)
from steelyard.model.pcrs import PcrSelection, PcrValues
from tests.tpm import AttestationKey, EndorsementKind, Quote, SigningKind, SoftwareTpm, ToolFailed
from tests.vectors_dir import shared_vectors

NONCE: Final = bytes(range(32))
PCRS: Final = "sha256:0,1,2,3,4,5,6,7,8,9,10,16"
UNRESTRICTED: Final = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign"
ENDORSEMENT: Final = {
    SigningKind.RSA_2048_RSASSA_SHA256: EndorsementKind.RSA_2048,
    SigningKind.RSA_2048_RSAPSS_SHA256: EndorsementKind.RSA_2048,
    SigningKind.ECC_P256_ECDSA_SHA256: EndorsementKind.ECC_P256,
    SigningKind.ECC_P384_ECDSA_SHA384: EndorsementKind.ECC_P384,
}


@dataclass(frozen=True, slots=True)
class Recorded:
    """A quote and all that is needed to verify it."""

    attestation: AttestationKey
    quote: Quote
    key: BoundKey
    claimed: PcrValues

    @property
    def signed(self) -> SignedQuote:
        return SignedQuote(self.quote.message, self.quote.signature)

    def verify(self, signed: SignedQuote | None = None, claimed: PcrValues | None = None) -> QuotedPcrs:
        asked = PcrSelection(self.claimed.bank, frozenset(self.claimed.values))
        return verify_quote(signed or self.signed, self.key, PlainNonce(NONCE), asked, claimed or self.claimed)


def bound(attestation: AttestationKey) -> BoundKey:
    key = check_attestation_key(parse_tpm2b_public(attestation.public))
    return BoundKey(key.signing, ActivatedBy(b"test"))


def take(tpm: SoftwareTpm, attestation: AttestationKey, pcrs: str = PCRS) -> Recorded:
    quote = tpm.quote(attestation, pcrs, NONCE)
    (claimed,) = parse_pcr_file(quote.pcrs)
    return Recorded(attestation, quote, bound(attestation), claimed)


@pytest.fixture(scope="module")
def recorded(tpm: SoftwareTpm) -> dict[SigningKind, Recorded]:
    """One quote by each kind of key, over PCRs of which no two are equal."""
    for index in range(11):
        tpm.extend(index, "sha256", bytes([index + 1]) * 32)
    endorsement = {kind: tpm.create_endorsement_key(kind) for kind in EndorsementKind}
    return {kind: take(tpm, tpm.create_attestation_key(endorsement[ENDORSEMENT[kind]], kind)) for kind in SigningKind}


def refused(recorded: Recorded, signed: SignedQuote | None = None, claimed: PcrValues | None = None) -> None:
    with pytest.raises((QuoteRejected, Malformed)):
        recorded.verify(signed, claimed)


@pytest.mark.parametrize("kind", SigningKind)
def test_a_real_quote_is_verified_and_a_second_verifier_agrees(
    tpm: SoftwareTpm, recorded: dict[SigningKind, Recorded], kind: SigningKind
) -> None:
    mine = recorded[kind]
    result = mine.verify()
    assert len(result.pcrs.values) == 12
    assert result.pcrs.values[16] == bytes(32)
    tpm.verify_signature(mine.attestation, mine.quote.message, mine.quote.signature)
    if kind is not SigningKind.RSA_2048_RSAPSS_SHA256:
        tpm.check_quote(mine.attestation, mine.quote, NONCE)


@pytest.mark.parametrize("kind", SigningKind)
def test_a_real_quote_is_written_as_it_was_read(recorded: dict[SigningKind, Recorded], kind: SigningKind) -> None:
    mine = recorded[kind]
    attest = parse_tpms_attest(mine.quote.message)
    assert attest.to_bytes() == mine.quote.message
    assert parse_tpmt_signature(mine.quote.signature).to_bytes() == mine.quote.signature
    assert isinstance(attest.attested, TpmsQuoteInfo)
    assert attest.attested.pcr_select.to_bytes() == marshal_selection(
        PcrSelection(mine.claimed.bank, frozenset(mine.claimed.values))
    )


@pytest.mark.parametrize("kind", SigningKind)
def test_a_real_quote_with_any_byte_changed_is_refused(
    recorded: dict[SigningKind, Recorded], kind: SigningKind
) -> None:
    mine = recorded[kind]
    for damaged in every_changed_byte(mine.quote.message):
        refused(mine, SignedQuote(damaged, mine.quote.signature))


@pytest.mark.parametrize("kind", SigningKind)
def test_a_real_signature_with_any_byte_changed_is_refused(
    recorded: dict[SigningKind, Recorded], kind: SigningKind
) -> None:
    mine = recorded[kind]
    for damaged in every_changed_byte(mine.quote.signature):
        refused(mine, SignedQuote(mine.quote.message, damaged))


@pytest.mark.parametrize("kind", SigningKind)
def test_a_real_quote_or_signature_cut_anywhere_or_followed_by_anything_is_refused(
    recorded: dict[SigningKind, Recorded], kind: SigningKind
) -> None:
    mine = recorded[kind]
    for wrong in every_other_length(mine.quote.message):
        refused(mine, SignedQuote(wrong, mine.quote.signature))
        with pytest.raises(Malformed):
            parse_tpms_attest(wrong)
    for wrong in every_other_length(mine.quote.signature):
        refused(mine, SignedQuote(mine.quote.message, wrong))
        with pytest.raises(Malformed):
            parse_tpmt_signature(wrong)


def test_a_claimed_value_with_any_byte_changed_is_refused(recorded: dict[SigningKind, Recorded]) -> None:
    """CVE-2023-3674: a verifier that looked at signature and nonce alone let changed values pass."""
    mine = recorded[SigningKind.ECC_P256_ECDSA_SHA256]
    for index, value in mine.claimed.values.items():
        for damaged in every_changed_byte(value):
            refused(mine, claimed=PcrValues(mine.claimed.bank, {**mine.claimed.values, index: damaged}))


def test_a_pcr_file_with_any_byte_changed_is_refused(recorded: dict[SigningKind, Recorded]) -> None:
    mine = recorded[SigningKind.ECC_P256_ECDSA_SHA256]
    for damaged in every_changed_byte(mine.quote.pcrs):
        with pytest.raises((QuoteRejected, Malformed)):
            _verify_file(mine, damaged)


def _verify_file(mine: Recorded, pcr_file: bytes) -> None:
    for claimed in parse_pcr_file(pcr_file):
        mine.verify(claimed=claimed)


def every_changed_byte(data: bytes) -> list[bytes]:
    return [
        data[:place] + bytes([data[place] ^ change]) + data[place + 1 :]
        for place in range(len(data))
        for change in (0x01, 0x80, 0xFF)
    ]


def every_other_length(data: bytes) -> list[bytes]:
    return [data[:end] for end in range(len(data))] + [data + more for more in (b"\x00", b"\xff", data)]


def test_the_recorded_quote_of_another_tpm_is_verified() -> None:
    folder = shared_vectors("quotes") / "tpm2-tools-emulator"
    key = check_attestation_key(parse_tpm2b_public((folder / "ak.pub").read_bytes()))
    assert key.name == (folder / "ak.name").read_bytes()
    signed = SignedQuote((folder / "quote.out").read_bytes(), (folder / "quotesig.out").read_bytes())
    (claimed,) = parse_pcr_file((folder / "quotepcr.out").read_bytes())
    nonce = PlainNonce((folder / "rand.out").read_bytes())
    asked = PcrSelection(HashAlgorithm.SHA256, frozenset({15, 16, 22}))
    pem = parse_signing_key_pem((folder / "akpub.pem").read_bytes(), TpmAlg.RSASSA, HashAlgorithm.SHA256)
    assert pem == key.signing
    for signing in (key.signing, pem):
        result = verify_quote(signed, BoundKey(signing, AssertedByOperator()), nonce, asked, claimed)
        assert result.pcrs.values[15] == bytes(32)
        assert result.pcrs.values[16].hex().startswith("9dbb2238")
        assert result.pcrs.values[22] == b"\xff" * 32


# -- attacks with a real TPM -------------------------------------------------------------------------------------------


def test_attack_7_a_real_quote_for_another_nonce_is_refused_here_and_by_checkquote(
    tpm: SoftwareTpm, recorded: dict[SigningKind, Recorded]
) -> None:
    mine = recorded[SigningKind.RSA_2048_RSASSA_SHA256]
    asked = PcrSelection(mine.claimed.bank, frozenset(mine.claimed.values))
    with pytest.raises(WrongNonce):
        verify_quote(mine.signed, mine.key, PlainNonce(NONCE[::-1]), asked, mine.claimed)
    with pytest.raises(ToolFailed):
        tpm.check_quote(mine.attestation, mine.quote, NONCE[::-1])


def test_attack_8_the_same_tpms_other_key_is_refused(recorded: dict[SigningKind, Recorded]) -> None:
    rsassa, ecdsa = recorded[SigningKind.RSA_2048_RSASSA_SHA256], recorded[SigningKind.ECC_P256_ECDSA_SHA256]
    with pytest.raises(BadSignature):
        rsassa.verify(ecdsa.signed)


def test_attack_8_an_unrestricted_key_signs_a_made_up_quote_and_is_refused_as_a_key(
    tpm: SoftwareTpm, recorded: dict[SigningKind, Recorded]
) -> None:
    mine = recorded[SigningKind.ECC_P256_ECDSA_SHA256]
    liar = tpm.create_signing_key(SigningKind.ECC_P256_ECDSA_SHA256, UNRESTRICTED)
    lies = PcrValues(mine.claimed.bank, dict.fromkeys(mine.claimed.values, b"\x11" * 32))
    digest = HashAlgorithm.SHA256.digest(lies.of(lies.values))
    message = mine.quote.message[:-32] + digest
    signature = tpm.sign(liar, message)
    tpm.verify_signature(liar, message, signature)
    public = parse_tpm2b_public(liar.public)
    pem = public.parameters.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    as_pem = BoundKey(parse_signing_key_pem(pem, TpmAlg.ECDSA, HashAlgorithm.SHA256), AssertedByOperator())
    asked = PcrSelection(lies.bank, frozenset(lies.values))
    believed = verify_quote(SignedQuote(message, signature), as_pem, PlainNonce(NONCE), asked, lies)
    assert believed.pcrs == lies, "only the check of the key stands between this lie and a verdict"
    with pytest.raises(KeyRejected, match="missing restricted"):
        check_attestation_key(public)


def test_attack_9_a_real_quote_over_fewer_pcrs_than_asked_is_refused(
    tpm: SoftwareTpm, recorded: dict[SigningKind, Recorded]
) -> None:
    mine = recorded[SigningKind.ECC_P256_ECDSA_SHA256]
    short = take(tpm, mine.attestation, "sha256:16")
    short.verify()
    with pytest.raises(WrongSelection):
        mine.verify(short.signed, short.claimed)


@pytest.mark.parametrize("pcrs", ["sha256:0+sha256:7", "sha256:0,7+sha384:0", "sha1:0,7", "sha384:0,7"])
def test_attack_10_a_real_quote_over_another_selection_than_asked_is_refused(
    tpm: SoftwareTpm, recorded: dict[SigningKind, Recorded], pcrs: str
) -> None:
    attestation = recorded[SigningKind.ECC_P256_ECDSA_SHA256].attestation
    quote = tpm.quote(attestation, pcrs, NONCE)
    asked = PcrSelection(HashAlgorithm.SHA256, frozenset({0, 7}))
    every = tpm.read_pcrs("sha256")
    claimed = PcrValues(HashAlgorithm.SHA256, {index: every[index] for index in asked.indices})
    with pytest.raises(WrongSelection):
        verify_quote(SignedQuote(quote.message, quote.signature), bound(attestation), PlainNonce(NONCE), asked, claimed)


def test_the_wider_bank_is_quoted_too(tpm: SoftwareTpm, recorded: dict[SigningKind, Recorded]) -> None:
    for kind in (SigningKind.ECC_P256_ECDSA_SHA256, SigningKind.ECC_P384_ECDSA_SHA384):
        mine = take(tpm, recorded[kind].attestation, "sha384:0,1,2,3,4,5,6,7,8,9,10")
        assert mine.verify().pcrs.bank is HASH_BY_NAME["sha384"]


# -- attack 13: real clocks --------------------------------------------------------------------------------------------


def test_attack_13_real_restarts_are_told_from_resumes_and_no_old_quote_comes_after_a_new_one(
    tpm: SoftwareTpm, recorded: dict[SigningKind, Recorded]
) -> None:
    attestation = recorded[SigningKind.ECC_P256_ECDSA_SHA256].attestation
    story = [take(tpm, attestation, "sha256:16").verify() for _ in range(2)]
    for happen in (tpm.resume, tpm.restart, tpm.resume, tpm.cut_power, tpm.restart):
        happen()
        story.append(take(tpm, attestation, "sha256:16").verify())
    assert [compare_clock(before, after) for before, after in pairwise(story)] == [
        SameBoot(),
        SameBoot(),
        Rebooted(1),
        SameBoot(),
        Rebooted(1),
        Rebooted(1),
    ]
    assert compare_clock(story[0], story[-1]) == Rebooted(3)
    for later in range(1, len(story)):
        for earlier in range(later):
            with pytest.raises(ClockWentBack):
                compare_clock(story[later], story[earlier])


def test_a_power_cut_is_noted_and_does_not_condemn_the_node(
    tpm: SoftwareTpm, recorded: dict[SigningKind, Recorded]
) -> None:
    attestation = recorded[SigningKind.ECC_P256_ECDSA_SHA256].attestation
    before = take(tpm, attestation, "sha256:16").verify()
    tpm.cut_power()
    after = take(tpm, attestation, "sha256:16").verify()
    assert not after.clock.safe
    assert compare_clock(before, after) == Rebooted(1)


def test_the_counters_of_an_owners_key_are_shifted_and_tell_reboots_all_the_same(tpm: SoftwareTpm) -> None:
    """Outside the endorsement hierarchy a TPM adds a constant to its counters, so that two keys cannot be matched."""
    owners = tpm.create_signing_key(SigningKind.ECC_P256_ECDSA_SHA256, f"{UNRESTRICTED}|restricted")
    before = take(tpm, owners, "sha256:16").verify()
    tpm.restart()
    after = take(tpm, owners, "sha256:16").verify()
    assert before.clock.reset_count > 1000
    assert compare_clock(before, after) == Rebooted(1)
    assert after.firmware_version == before.firmware_version


def test_the_digest_is_over_the_values_in_ascending_order(recorded: dict[SigningKind, Recorded]) -> None:
    mine = recorded[SigningKind.RSA_2048_RSASSA_SHA256]
    digest = hashes.Hash(hashes.SHA256())
    for index in sorted(mine.claimed.values):
        digest.update(mine.claimed.values[index])
    assert mine.quote.message.endswith(digest.finalize())
