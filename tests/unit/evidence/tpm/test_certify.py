"""One key of a TPM vouches for another, and what does not amount to that is refused (attack 6)."""

from dataclasses import replace
from typing import Final

import pytest

from steelyard.evidence.tpm.attest import TpmsAttest, TpmsCertifyInfo, TpmsClockInfo, TpmsQuoteInfo, parse_tpms_attest
from steelyard.evidence.tpm.certify import verify_certify
from steelyard.evidence.tpm.keys import BoundKey, CertifiedBy, check_attestation_key
from steelyard.evidence.tpm.nonce import Challenge, PlainNonce
from steelyard.evidence.tpm.public import parse_tpm2b_public
from steelyard.evidence.tpm.selection import TpmlPcrSelection
from steelyard.model.errors import BadSignature, BindingRejected, EvidenceRejected, KeyRejected, Malformed, TooLarge
from steelyard.model.limits import TPM_STRUCTURE_BYTES
from tests.tpm import EndorsementKind, SigningKind, SoftwareTpm
from tests.unit.evidence.tpm.keypairs import Signer, ecdsa, rsassa

NONCE: Final = bytes(range(32))
TOOLS_NONCE: Final = PlainNonce(bytes.fromhex("00ff55aa"))
"""What tpm2_certify always puts in."""
IAK: Final = rsassa()
INSTALLED: Final = ecdsa()
RESTRICTED: Final = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign|restricted"


def certification(name: bytes = INSTALLED.key().name, extra_data: bytes = NONCE) -> TpmsAttest:
    return TpmsAttest(
        b"\x00\x0b" + bytes(32),
        extra_data,
        TpmsClockInfo(1, 2, 3, safe=True),
        4,
        TpmsCertifyInfo(name, b"\x00\x0b" + bytes(32)),
    )


def verify(message: bytes, signer: Signer = IAK, challenge: Challenge | None = None) -> BoundKey:
    return verify_certify(message, signer.sign(message), IAK.key(), INSTALLED.key(), challenge or PlainNonce(NONCE))


def test_a_certification_binds_the_certified_key_to_the_certifying_one() -> None:
    bound = verify(certification().to_bytes())
    assert bound.signing == INSTALLED.key().signing
    assert bound.binding == CertifiedBy(IAK.key().name)


@pytest.mark.parametrize("subject_kind", SigningKind)
@pytest.mark.parametrize(
    "signer_kind",
    [pytest.param(SigningKind.RSA_2048_RSAPSS_SHA256, marks=pytest.mark.slow), SigningKind.ECC_P384_ECDSA_SHA384],
)
def test_a_real_certification_is_verified_and_the_tpm_agrees(
    tpm: SoftwareTpm, subject_kind: SigningKind, signer_kind: SigningKind
) -> None:
    subject = tpm.create_attestation_key(tpm.create_endorsement_key(EndorsementKind.ECC_P256), subject_kind)
    signer = tpm.create_signing_key(signer_kind, RESTRICTED)
    message, signature = tpm.certify(subject, signer)
    tpm.verify_signature(signer, message, signature)
    assert parse_tpms_attest(message).to_bytes() == message
    iak = check_attestation_key(parse_tpm2b_public(signer.public))
    key = check_attestation_key(parse_tpm2b_public(subject.public))
    assert verify_certify(message, signature, iak, key, TOOLS_NONCE).binding == CertifiedBy(iak.name)
    with pytest.raises(BindingRejected, match="Name"):
        verify_certify(message, signature, iak, iak, TOOLS_NONCE)
    for place in range(len(message)):
        damaged = message[:place] + bytes([message[place] ^ 1]) + message[place + 1 :]
        with pytest.raises(EvidenceRejected):
            verify_certify(damaged, signature, iak, key, TOOLS_NONCE)


def test_attack_6_a_certification_of_another_key_is_refused() -> None:
    for name in (ecdsa(1).key().name, b"", INSTALLED.key().name[:-1], INSTALLED.key().name + b"\x00"):
        with pytest.raises(BindingRejected, match="Name"):
            verify(certification(name).to_bytes())


def test_attack_6_a_certification_for_another_node_or_time_is_refused() -> None:
    for extra_data in (b"", bytes(32), NONCE[::-1], NONCE + b"\x00"):
        with pytest.raises(BindingRejected, match="qualifying data"):
            verify(certification(extra_data=extra_data).to_bytes())


def test_attack_6_a_certification_by_another_tpms_key_is_refused() -> None:
    with pytest.raises(BadSignature):
        verify(certification().to_bytes(), ecdsa(1))
    with pytest.raises(BadSignature):
        verify(certification().to_bytes(), INSTALLED)


def test_attack_6_an_iak_that_could_sign_a_made_up_certification_is_no_attestation_key(tpm: SoftwareTpm) -> None:
    free = tpm.create_signing_key(SigningKind.ECC_P256_ECDSA_SHA256, RESTRICTED.removesuffix("|restricted"))
    message = certification().to_bytes()
    tpm.verify_signature(free, message, tpm.sign(free, message))
    with pytest.raises(KeyRejected):
        check_attestation_key(parse_tpm2b_public(free.public))


def test_a_quote_is_no_certification() -> None:
    quote = replace(certification(), attested=TpmsQuoteInfo(TpmlPcrSelection(()), INSTALLED.key().name))
    with pytest.raises(BindingRejected, match="of a key"):
        verify(quote.to_bytes())


def test_signed_bytes_that_are_no_certification_are_refused() -> None:
    message = certification().to_bytes()
    for wrong in [message[:end] for end in range(len(message))] + [message + b"\x00", b"\x00" + message[1:]]:
        with pytest.raises(BindingRejected):
            verify(wrong)


def test_more_bytes_than_a_tpm_sends_are_refused_unread() -> None:
    with pytest.raises(TooLarge):
        verify(bytes(TPM_STRUCTURE_BYTES.most + 1))


def test_a_signature_that_is_none_is_malformed() -> None:
    with pytest.raises(Malformed):
        verify_certify(certification().to_bytes(), b"", IAK.key(), INSTALLED.key(), PlainNonce(NONCE))
