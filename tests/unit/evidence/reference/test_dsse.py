"""Envelopes: what is signed, by whom, how many."""

import base64
import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope as OtherEnvelope
from securesystemslib.signer._key import SSlibKey

from steelyard.evidence.reference.dsse import (
    Envelope,
    Signature,
    Signers,
    add_signature,
    key_id,
    parse_envelope,
    sign,
    verify,
)
from steelyard.model.errors import Malformed, MalformedReference, ReferenceRejected, WrongUse

TYPE = "application/vnd.test+json"
ANN, BEN, EVE = (Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32) for seed in (1, 2, 3))
BOTH = Signers({"ann": ANN.public_key(), "ben": BEN.public_key()}, 2)


def test_another_implementation_verifies_our_signature() -> None:
    envelope = sign(b'{"a": 1}', TYPE, ANN)
    key = SSlibKey.from_crypto(ANN.public_key(), keyid=key_id(ANN.public_key()))
    verified = OtherEnvelope.from_dict(json.loads(envelope.to_bytes())).verify([key], 1)
    assert list(verified) == [key.keyid]


def test_we_verify_the_signature_over_another_implementations_encoding() -> None:
    other = OtherEnvelope(b"payload", TYPE, {})
    signature = Signature(key_id(ANN.public_key()), ANN.sign(other.pae()))
    envelope = Envelope(TYPE, b"payload", (signature,))
    assert verify(envelope, TYPE, Signers({"ann": ANN.public_key()}, 1)) == {"ann"}


def test_enough_signers_are_named() -> None:
    assert verify(add_signature(sign(b"x", TYPE, ANN), BEN), TYPE, BOTH) == {"ann", "ben"}


def test_too_few_signers_are_refused() -> None:
    with pytest.raises(ReferenceRejected, match="2 good signatures"):
        verify(add_signature(sign(b"x", TYPE, ANN), EVE), TYPE, BOTH)


def test_one_signer_twice_counts_once() -> None:
    envelope = sign(b"x", TYPE, ANN)
    twice = replace(envelope, signatures=envelope.signatures * 2)
    with pytest.raises(ReferenceRejected):
        verify(twice, TYPE, BOTH)


def test_signing_again_replaces_the_signature() -> None:
    envelope = sign(b"x", TYPE, ANN)
    assert add_signature(envelope, ANN) == envelope


@pytest.mark.parametrize("payload", [b"y", b"x ", b""])
def test_a_changed_payload_is_refused(payload: bytes) -> None:
    envelope = replace(add_signature(sign(b"x", TYPE, ANN), BEN), payload=payload)
    with pytest.raises(ReferenceRejected):
        verify(envelope, TYPE, BOTH)


def test_a_payload_of_another_type_is_refused() -> None:
    with pytest.raises(ReferenceRejected, match="payload of type"):
        verify(add_signature(sign(b"x", "text/plain", ANN), BEN), TYPE, BOTH)


def test_a_signature_for_one_type_does_not_hold_for_another() -> None:
    envelope = replace(add_signature(sign(b"x", "text/plain", ANN), BEN), payload_type=TYPE)
    with pytest.raises(ReferenceRejected):
        verify(envelope, TYPE, BOTH)


def test_a_key_id_alone_proves_nothing() -> None:
    forged = Envelope(
        TYPE, b"x", (Signature(key_id(ANN.public_key()), bytes(64)), Signature(key_id(BEN.public_key()), b""))
    )
    with pytest.raises(ReferenceRejected):
        verify(forged, TYPE, BOTH)


@pytest.mark.parametrize("threshold", [0, -1, 3])
def test_a_threshold_out_of_reach_is_refused(threshold: int) -> None:
    with pytest.raises(WrongUse, match="threshold"):
        Signers(BOTH.keys, threshold)


def test_one_key_under_two_names_is_refused() -> None:
    with pytest.raises(WrongUse, match="each key once"):
        Signers({"ann": ANN.public_key(), "ann-again": ANN.public_key()}, 1)


def test_an_envelope_survives_being_written_and_read() -> None:
    envelope = add_signature(sign(bytes(range(256)), TYPE, ANN), BEN)
    assert parse_envelope(envelope.to_bytes()) == envelope


@pytest.mark.parametrize("change", [{"extra": 1}, {"payload": "@"}, {"payloadType": 1}, {"signatures": {}}])
def test_an_envelope_with_a_wrong_field_is_malformed(change: dict[str, object]) -> None:
    document = {"payloadType": TYPE, "payload": base64.b64encode(b"x").decode(), "signatures": [], **change}
    with pytest.raises(MalformedReference):
        parse_envelope(json.dumps(document).encode())


@given(st.binary(max_size=300))
def test_any_bytes_are_an_envelope_or_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse_envelope(data)
