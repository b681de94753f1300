"""Every attack on a quote, made with a key that signs whatever the attack needs."""

from dataclasses import replace
from typing import Final

import pytest

from steelyard.evidence.tpm.attest import TpmsAttest, TpmsCertifyInfo, TpmsClockInfo, TpmsQuoteInfo, tpm2b
from steelyard.evidence.tpm.identifiers import TpmAlg
from steelyard.evidence.tpm.nonce import Challenge, NonceWithKeys, PlainNonce
from steelyard.evidence.tpm.quote import (
    QuotedPcrs,
    Rebooted,
    SameBoot,
    SignedQuote,
    compare_clock,
    describe_selection,
    verify_quote,
)
from steelyard.evidence.tpm.selection import TpmlPcrSelection, TpmsPcrSelection, marshal_selection
from steelyard.evidence.tpm.signature import RsaSignature
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import (
    BadSignature,
    ClockWentBack,
    Malformed,
    NotAQuote,
    PcrMismatch,
    QuoteRejected,
    TooLarge,
    WrongNonce,
    WrongSelection,
)
from steelyard.model.limits import TPM_STRUCTURE_BYTES
from steelyard.model.pcrs import PcrSelection, PcrValues
from tests.unit.evidence.tpm.keypairs import P384, SHA1, SHA256, SHA384, Signer, ecc_key, ecdsa, rsa_key, rsassa

NONCE: Final = bytes(range(32))
CLOCK: Final = TpmsClockInfo(clock=100_000, reset_count=5, restart_count=2, safe=True)
TRANSPORT: Final = b"t" * 32
WIREGUARD: Final = b"w" * 32


def values(bank: HashAlgorithm = SHA256, *indices: int) -> PcrValues:
    return PcrValues(bank, {index: bytes([index]) * bank.size for index in indices or (0, 7, 10)})


def selection(*parts: tuple[HashAlgorithm, tuple[int, ...], int]) -> TpmlPcrSelection:
    return TpmlPcrSelection(
        tuple(
            TpmsPcrSelection(bank, sum(1 << index for index in indices).to_bytes(size, "little"))
            for bank, indices, size in parts
        )
    )


def attest(
    pcrs: PcrValues,
    *,
    extra_data: bytes = NONCE,
    signed_selection: TpmlPcrSelection | None = None,
    hash_algorithm: HashAlgorithm = SHA256,
    clock: TpmsClockInfo = CLOCK,
) -> TpmsAttest:
    return TpmsAttest(
        qualified_signer=b"\x00\x0b" + bytes(32),
        extra_data=extra_data,
        clock_info=clock,
        firmware_version=7,
        attested=TpmsQuoteInfo(
            selection((pcrs.bank, tuple(pcrs.values), 3)) if signed_selection is None else signed_selection,
            hash_algorithm.digest(pcrs.of(pcrs.values)),
        ),
    )


def verify(
    quote: SignedQuote,
    signer: Signer,
    pcrs: PcrValues,
    *,
    challenge: Challenge | None = None,
    asked: PcrSelection | None = None,
) -> QuotedPcrs:
    wanted = PcrSelection(pcrs.bank, frozenset(pcrs.values)) if asked is None else asked
    return verify_quote(quote, signer.bound(), challenge or PlainNonce(NONCE), wanted, pcrs)


def quoted(clock: TpmsClockInfo, signer: Signer | None = None) -> QuotedPcrs:
    by = signer or ecdsa()
    return verify(by.quote(attest(values(), clock=clock).to_bytes()), by, values())


@pytest.mark.parametrize(
    "signer",
    [
        rsassa(),
        Signer(rsa_key(), TpmAlg.RSAPSS),
        Signer(rsa_key(3072), TpmAlg.RSASSA, SHA384),
        ecdsa(),
        Signer(ecc_key(P384), TpmAlg.ECDSA, SHA384),
        Signer(ecc_key(5), TpmAlg.ECDSA, HashAlgorithm.SHA512),
    ],
    ids=lambda signer: f"{signer.scheme.name}-{signer.hash_algorithm.label}",
)
def test_a_good_quote_gives_its_values_clock_firmware_and_key(signer: Signer) -> None:
    made = attest(values(), hash_algorithm=signer.hash_algorithm)
    result = verify(signer.quote(made.to_bytes()), signer, values())
    assert result.pcrs == values()
    assert (result.clock, result.firmware_version) == (CLOCK, 7)
    assert result.key.signing.fingerprint == signer.key().signing.fingerprint


def test_values_of_a_wider_bank_are_hashed_with_the_hash_of_the_signature() -> None:
    wide = values(SHA384)
    assert verify(ecdsa().quote(attest(wide).to_bytes()), ecdsa(), wide).pcrs == wide


def test_the_order_in_which_values_are_claimed_does_not_matter() -> None:
    backwards = PcrValues(SHA256, dict(sorted(values().values.items(), reverse=True)))
    assert verify(ecdsa().quote(attest(values()).to_bytes()), ecdsa(), backwards).pcrs.values == values().values


# -- attack 7: freshness -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "extra_data", [b"", bytes(32), NONCE[:31], NONCE + b"\x00", NONCE[::-1]], ids=lambda data: data.hex() or "none"
)
def test_attack_7_a_quote_for_another_nonce_is_refused(extra_data: bytes) -> None:
    with pytest.raises(WrongNonce):
        verify(ecdsa().quote(attest(values(), extra_data=extra_data).to_bytes()), ecdsa(), values())


# -- attack 8: by whom -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mine", "other"), [(ecdsa(), ecdsa(1)), (rsassa(), Signer(rsa_key(2048, 1), TpmAlg.RSASSA))])
def test_attack_8_a_quote_by_another_nodes_key_is_refused(mine: Signer, other: Signer) -> None:
    with pytest.raises(BadSignature):
        verify(other.quote(attest(values()).to_bytes()), mine, values())


def test_attack_8_a_quote_by_a_key_of_another_kind_is_refused() -> None:
    with pytest.raises(BadSignature):
        verify(rsassa().quote(attest(values()).to_bytes()), ecdsa(), values())


def test_attack_8_a_good_signature_over_other_bytes_is_refused() -> None:
    good, other = attest(values()), replace(attest(values()), firmware_version=8)
    with pytest.raises(BadSignature):
        verify(SignedQuote(other.to_bytes(), ecdsa().sign(good.to_bytes())), ecdsa(), values())


# -- attacks 9 and 10: which PCRs --------------------------------------------------------------------------------------


def test_attack_9_a_wanted_pcr_left_out_of_the_signed_selection_is_refused() -> None:
    asked = PcrSelection(SHA256, frozenset({0, 1, 2, 3, 4, 5, 6, 7, 10}))
    signed = values(SHA256, 16)
    for claimed in (signed, values(SHA256, *asked.indices)):
        with pytest.raises(WrongSelection):
            verify(ecdsa().quote(attest(signed).to_bytes()), ecdsa(), claimed, asked=asked)


def test_attack_9_a_wanted_value_left_out_of_the_claim_is_refused() -> None:
    asked = PcrSelection(SHA256, frozenset({0, 7, 10}))
    claimed = PcrValues(SHA256, {0: bytes(32), 7: bytes(32)})
    with pytest.raises(WrongSelection):
        verify(ecdsa().quote(attest(values()).to_bytes()), ecdsa(), claimed, asked=asked)


def test_attack_10_values_presented_under_other_numbers_are_refused() -> None:
    signed = values(SHA256, 16, 23)
    relabelled = PcrValues(SHA256, {10: signed.values[16], 16: signed.values[23]})
    with pytest.raises(WrongSelection):
        verify(ecdsa().quote(attest(signed).to_bytes()), ecdsa(), relabelled)


@pytest.mark.parametrize(
    "signed",
    [
        selection((SHA256, (0, 7, 10, 11), 3)),
        selection((SHA256, (), 3)),
        selection(),
        selection((SHA256, (0, 7, 10), 3), (SHA256, (0, 7, 10), 3)),
        selection((SHA256, (0, 7), 3), (SHA256, (10,), 3)),
        selection((SHA256, (0, 7, 10), 3), (SHA256, (), 3)),
        selection((SHA256, (0, 7, 10), 3), (SHA384, (0,), 3)),
        selection((SHA256, (0, 7, 10), 2)),
        selection((SHA256, (0, 7, 10), 4)),
        selection((SHA384, (0, 7, 10), 3)),
        selection((SHA1, (0, 7, 10), 3)),
    ],
    ids=describe_selection,
)
def test_attack_10_a_signed_selection_other_than_exactly_the_one_asked_is_refused(signed: TpmlPcrSelection) -> None:
    quote = ecdsa().quote(attest(values(), signed_selection=signed).to_bytes())
    with pytest.raises(WrongSelection):
        verify(quote, ecdsa(), values())


def test_attack_10_an_extra_claimed_value_is_refused() -> None:
    asked = PcrSelection(SHA256, frozenset({0, 7, 10}))
    with pytest.raises(WrongSelection):
        verify(ecdsa().quote(attest(values()).to_bytes()), ecdsa(), values(SHA256, 0, 7, 10, 11), asked=asked)


# -- attack 11: weaker algorithms --------------------------------------------------------------------------------------


def test_attack_11_values_of_another_bank_than_asked_are_refused() -> None:
    claimed = values(SHA384)
    asked = PcrSelection(SHA256, frozenset(claimed.values))
    for signed in (values(SHA256), values(SHA384)):
        with pytest.raises(WrongSelection):
            verify(ecdsa().quote(attest(signed).to_bytes()), ecdsa(), claimed, asked=asked)


@pytest.mark.parametrize("bank", [SHA1, HashAlgorithm.SM3_256, HashAlgorithm.SHA3_256], ids=lambda bank: bank.label)
def test_attack_11_a_bank_that_is_not_believed_is_refused_even_when_asked_for(bank: HashAlgorithm) -> None:
    weak = values(bank)
    with pytest.raises(WrongSelection):
        verify(ecdsa().quote(attest(weak).to_bytes()), ecdsa(), weak)


def test_attack_11_a_digest_by_another_hash_than_the_signatures_is_refused() -> None:
    quote = ecdsa().quote(attest(values(), hash_algorithm=SHA384).to_bytes())
    with pytest.raises(PcrMismatch):
        verify(quote, ecdsa(), values())


@pytest.mark.parametrize(
    ("scheme", "hash_algorithm"), [(TpmAlg.RSAPSS, SHA256), (TpmAlg.RSASSA, SHA1), (TpmAlg.RSASSA, SHA384)]
)
def test_attack_11_a_scheme_or_hash_other_than_the_keys_is_refused_though_its_signature_is_good(
    scheme: TpmAlg, hash_algorithm: HashAlgorithm
) -> None:
    claiming = Signer(rsa_key(), scheme, hash_algorithm)
    with pytest.raises(BadSignature, match="as the key has it"):
        verify(claiming.quote(attest(values()).to_bytes()), rsassa(), values())


def test_attack_11_a_signature_relabelled_as_the_keys_scheme_is_refused() -> None:
    message = attest(values()).to_bytes()
    weak = Signer(rsa_key(), TpmAlg.RSASSA, SHA1).sign(message)
    relabelled = RsaSignature(TpmAlg.RSASSA, SHA256, weak[6:]).to_bytes()
    with pytest.raises(BadSignature):
        verify(SignedQuote(message, relabelled), rsassa(), values())


# -- attack 12: signed by the right key, and not a quote ---------------------------------------------------------------


def test_attack_12_another_magic_under_a_good_signature_is_not_a_quote() -> None:
    message = attest(values()).to_bytes()
    for magic in (b"\x00\x00\x00\x00", b"\xff\x54\x43\x46", message[:4][::-1]):
        with pytest.raises(NotAQuote):
            verify(ecdsa().quote(magic + message[4:]), ecdsa(), values())


def test_attack_12_every_other_kind_of_attestation_is_not_a_quote() -> None:
    message = attest(values()).to_bytes()
    for kind in range(0x8014, 0x801F):
        if kind != 0x8018:
            with pytest.raises(NotAQuote):
                verify(ecdsa().quote(message[:4] + kind.to_bytes(2) + message[6:]), ecdsa(), values())


def test_attack_12_the_certification_of_a_key_is_not_a_quote() -> None:
    certification = replace(attest(values()), attested=TpmsCertifyInfo(b"name", b"qualified name"))
    with pytest.raises(NotAQuote):
        verify(ecdsa().quote(certification.to_bytes()), ecdsa(), values())


def test_attack_12_a_quote_cut_anywhere_is_not_a_quote_though_signed() -> None:
    message = attest(values()).to_bytes()
    for end in range(len(message)):
        with pytest.raises(NotAQuote):
            verify(ecdsa().quote(message[:end]), ecdsa(), values())


def test_attack_12_bytes_behind_a_quote_are_refused_though_signed() -> None:
    message = attest(values()).to_bytes()
    for more in (b"\x00", b"\xff", message):
        with pytest.raises(NotAQuote):
            verify(ecdsa().quote(message + more), ecdsa(), values())


def test_attack_12_every_size_that_lies_is_refused_though_signed() -> None:
    made = attest(values())
    message = made.to_bytes()
    extra_data = 6 + len(tpm2b(made.qualified_signer))
    selections = extra_data + len(tpm2b(NONCE)) + 17 + 8
    places = {
        "qualifiedSigner": (6, 2),
        "extraData": (extra_data, 2),
        "count of selections": (selections, 4),
        "sizeofSelect": (selections + 6, 1),
        "pcrDigest": (selections + len(marshal_selection(PcrSelection(SHA256, frozenset({0})))), 2),
    }
    for place, size in places.values():
        true = int.from_bytes(message[place : place + size])
        for lie in {0, 1, true - 1, true + 1, (1 << 8 * size) - 1} - {true}:
            lying = message[:place] + lie.to_bytes(size) + message[place + size :]
            with pytest.raises(QuoteRejected):
                verify(ecdsa().quote(lying), ecdsa(), values())


def test_more_bytes_than_a_tpm_sends_are_refused_before_anything_else() -> None:
    huge = bytes(TPM_STRUCTURE_BYTES.most + 1)
    with pytest.raises(TooLarge):
        verify(SignedQuote(huge, ecdsa().sign(huge)), ecdsa(), values())
    with pytest.raises(TooLarge):
        verify(SignedQuote(attest(values()).to_bytes(), huge), ecdsa(), values())


@pytest.mark.parametrize("index", [0, 7, 10])
def test_a_pcr_value_that_was_not_signed_is_refused(index: int) -> None:
    claimed = PcrValues(SHA256, {**values().values, index: bytes(32 - 1) + b"!"})
    with pytest.raises(PcrMismatch):
        verify(ecdsa().quote(attest(values()).to_bytes()), ecdsa(), claimed)


def test_two_pcr_values_that_change_places_are_refused() -> None:
    claimed = PcrValues(SHA256, {**values().values, 0: values().values[7], 7: values().values[0]})
    with pytest.raises(PcrMismatch):
        verify(ecdsa().quote(attest(values()).to_bytes()), ecdsa(), claimed)


@pytest.mark.parametrize("digest", [b"", bytes(32), bytes(20)], ids=["none", "zeros", "short"])
def test_a_signed_digest_of_something_else_is_refused(digest: bytes) -> None:
    made = attest(values())
    assert isinstance(made.attested, TpmsQuoteInfo)
    wrong = replace(made, attested=replace(made.attested, pcr_digest=digest))
    with pytest.raises(PcrMismatch):
        verify(ecdsa().quote(wrong.to_bytes()), ecdsa(), values())


# -- attack 13: the clock ----------------------------------------------------------------------------------------------


def clock(reset: int, restart: int, milliseconds: int, *, safe: bool = True) -> TpmsClockInfo:
    return TpmsClockInfo(milliseconds, reset, restart, safe)


@pytest.mark.parametrize(
    ("now", "outcome"),
    [
        (clock(5, 2, 100_000), SameBoot()),
        (clock(5, 2, 100_001), SameBoot()),
        (clock(5, 3, 100_001), SameBoot()),
        (clock(5, 3, 100_001, safe=False), SameBoot()),
        (clock(5, 3, 90_000, safe=False), SameBoot()),
        (clock(6, 0, 100_001), Rebooted(1)),
        (clock(6, 3, 100_001), Rebooted(1)),
        (clock(9, 0, 100_001), Rebooted(4)),
        (clock(6, 0, 90_000, safe=False), Rebooted(1)),
    ],
)
def test_time_that_goes_on_tells_whether_the_node_was_rebooted(
    now: TpmsClockInfo, outcome: SameBoot | Rebooted
) -> None:
    assert compare_clock(quoted(CLOCK), quoted(now)) == outcome


@pytest.mark.parametrize(
    "now",
    [
        clock(5, 2, 99_999),
        clock(5, 2, 99_999, safe=False),
        clock(5, 1, 100_001),
        clock(5, 1, 90_000, safe=False),
        clock(4, 9, 100_001),
        clock(4, 9, 90_000, safe=False),
        clock(5, 3, 99_999),
        clock(6, 0, 99_999),
        clock(0, 0, 1),
    ],
)
def test_attack_13_a_quote_from_before_one_already_accepted_is_refused(now: TpmsClockInfo) -> None:
    with pytest.raises(ClockWentBack):
        compare_clock(quoted(CLOCK), quoted(now))


def test_attack_13_clocks_of_two_keys_are_not_compared() -> None:
    with pytest.raises(ClockWentBack):
        compare_clock(quoted(CLOCK, ecdsa()), quoted(CLOCK, ecdsa(1)))


# -- attack 14: the keys that the quote vouches for --------------------------------------------------------------------


def test_a_quote_vouches_for_the_keys_in_its_challenge() -> None:
    bound = NonceWithKeys(NONCE, TRANSPORT, WIREGUARD, b"parameters")
    quote = ecdsa().quote(attest(values(), extra_data=bound.qualifying_data()).to_bytes())
    assert verify(quote, ecdsa(), values(), challenge=bound).pcrs == values()


@pytest.mark.parametrize(
    "claimed",
    [
        NonceWithKeys(NONCE, b"T" + TRANSPORT[1:], WIREGUARD, b"parameters"),
        NonceWithKeys(NONCE, TRANSPORT, b"W" + WIREGUARD[1:], b"parameters"),
        NonceWithKeys(NONCE, TRANSPORT, None, b"parameters"),
        NonceWithKeys(NONCE, TRANSPORT, WIREGUARD, b"other parameters"),
        NonceWithKeys(NONCE, TRANSPORT, WIREGUARD, None),
        NonceWithKeys(NONCE, WIREGUARD, TRANSPORT, b"parameters"),
        NonceWithKeys(NONCE[::-1], TRANSPORT, WIREGUARD, b"parameters"),
        PlainNonce(NONCE),
    ],
)
def test_attack_14_a_quote_that_vouches_for_other_keys_is_refused(claimed: Challenge) -> None:
    vouched = NonceWithKeys(NONCE, TRANSPORT, WIREGUARD, b"parameters")
    quote = ecdsa().quote(attest(values(), extra_data=vouched.qualifying_data()).to_bytes())
    with pytest.raises(WrongNonce):
        verify(quote, ecdsa(), values(), challenge=claimed)


def test_a_signature_cut_short_or_followed_by_more_is_malformed() -> None:
    message = attest(values()).to_bytes()
    for signature in (b"", ecdsa().sign(message)[:-1], ecdsa().sign(message) + b"\x00"):
        with pytest.raises(Malformed):
            verify(SignedQuote(message, signature), ecdsa(), values())
