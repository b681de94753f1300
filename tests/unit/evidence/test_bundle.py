"""Bundles: read as they were written, and nothing else."""

import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from steelyard.evidence.bundle import Binding, Bundle, PemKey, bound_key, parse_bundle
from steelyard.evidence.tpm.identifiers import TpmAlg
from steelyard.evidence.tpm.keys import ActivatedBy, AssertedByOperator, CertifiedBy
from steelyard.evidence.tpm.nonce import Challenge, NonceWithKeys, PlainNonce
from steelyard.evidence.tpm.public import TpmtPublic
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import KeyRejected, Malformed, MalformedBundle, WrongUse
from tests.recorded import bundle
from tests.unit.evidence.samples import encode

FIRST = bundle("first")


def pem() -> bytes:
    assert isinstance(FIRST.attestation_key, TpmtPublic)
    key = FIRST.attestation_key.parameters.public_key()
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def document() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(FIRST.to_bytes())
    return read


@pytest.mark.parametrize("binding", [ActivatedBy(b"a name"), CertifiedBy(b"another"), AssertedByOperator()])
def test_how_a_key_was_bound_survives(binding: Binding) -> None:
    made = replace(FIRST, binding=binding)
    assert parse_bundle(made.to_bytes()) == made


@pytest.mark.parametrize(
    "challenge",
    [
        PlainNonce(b"n"),
        NonceWithKeys(bytes(32), bytes([1]) * 32, bytes([2]) * 32, b"parameters"),
        NonceWithKeys(bytes(32), bytes([1]) * 32, None, None),
    ],
)
def test_a_challenge_survives(challenge: Challenge) -> None:
    made = replace(FIRST, challenge=challenge)
    assert parse_bundle(made.to_bytes()) == made


def test_a_key_in_pem_and_missing_logs_survive() -> None:
    evidence = replace(FIRST.evidence, event_log=None, ima_list=None)
    made = replace(FIRST, attestation_key=PemKey(pem(), TpmAlg.ECDSA, HashAlgorithm.SHA256), evidence=evidence)
    assert parse_bundle(made.to_bytes()) == made


def test_an_empty_log_is_not_a_missing_one() -> None:
    made = replace(FIRST, evidence=replace(FIRST.evidence, event_log=b""))
    assert parse_bundle(made.to_bytes()).evidence.event_log == b""


@pytest.mark.parametrize(
    "place",
    [
        (),
        ("verifier",),
        ("verifier", "attestation_key"),
        ("verifier", "binding"),
        ("verifier", "challenge"),
        ("evidence",),
        ("evidence", "pcrs"),
        ("evidence", "ima_list"),
    ],
)
def test_no_object_has_fields_that_are_not_known_or_may_lack_one(place: tuple[str, ...]) -> None:
    for change in ("surprise", "lack"):
        spoilt = document()
        inner = spoilt
        for name in place:
            inner = inner[name]
        if change == "surprise":
            inner["surprise"] = 1
        elif place == ("evidence", "pcrs"):
            continue  # which PCRs it must have is for the policy to say
        else:
            del inner[next(iter(inner))]
        with pytest.raises(MalformedBundle):
            parse_bundle(encode(spoilt))


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        (None, "schema", "steelyard.bundle/2"),
        (None, "node", "../x"),
        (None, "received", "now"),
        ("evidence", "bank", "md5"),
        ("evidence", "pcrs", {"0": "00"}),
        ("evidence", "pcrs", {"24": "00" * 32}),
        ("evidence", "pcrs", {"00": "00" * 32}),
        ("evidence", "ima_list", {"first": -1, "data": ""}),
        ("verifier", "challenge", {"nonce": ""}),
        ("verifier", "challenge", {"nonce": "00" * 65}),
        ("verifier", "binding", {"how": "guessed"}),
        ("verifier", "attestation_key", {"pem": "", "scheme": "rsassa", "hash": "sha1"}),
        ("verifier", "attestation_key", {"pem": "", "scheme": "hmac", "hash": "sha256"}),
        ("verifier", "attestation_key", {"tpmt_public": ""}),
    ],
)
def test_a_bundle_with_a_wrong_field_is_malformed(part: str | None, field: str, value: object) -> None:
    spoilt = document()
    (spoilt if part is None else spoilt[part])[field] = value
    with pytest.raises(Malformed):
        parse_bundle(encode(spoilt))


def test_a_bundle_is_of_a_node_with_a_name() -> None:
    with pytest.raises(WrongUse, match="naming a node"):
        replace(FIRST, node="a/b")


def test_a_key_that_may_sign_anything_is_not_bound() -> None:
    """Attack 8: an unrestricted key would sign a hand-made quote."""
    assert isinstance(FIRST.attestation_key, TpmtPublic)
    loose = replace(FIRST.attestation_key, attributes=FIRST.attestation_key.attributes & ~0x00010000)
    with pytest.raises(KeyRejected):
        bound_key(loose, FIRST.binding)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_bundle_or_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse_bundle(data)


def test_a_bundle_holds_what_was_sent_byte_for_byte() -> None:
    read: Bundle = parse_bundle(FIRST.to_bytes())
    assert read.evidence == FIRST.evidence
