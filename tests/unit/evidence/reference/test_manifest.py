"""Manifests: what a publisher may say, and who must have said it."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from steelyard.evidence.reference.dsse import sign
from steelyard.evidence.reference.manifest import PAYLOAD_TYPE, Origin, parse_manifest, verify_manifest
from steelyard.evidence.reference.measurement import Presence
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import Malformed, MalformedReference, ReferenceRejected, WrongUse
from tests.unit.evidence.samples import KEY, SIGNERS, encode, manifest, measurement

FULL = manifest(
    measurement(0, b"volume"),
    measurement(4, b"loader", Presence.SOMETIMES),
    machine_class="q35",
    origin=Origin.REFERENCE_BOOT,
    files={HashAlgorithm.SHA256: {"/usr/bin/true": "00" * 32, "/odd\udcff": "11" * 32}},
)


def document() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(FULL.to_bytes())
    return read


def test_a_manifest_survives_being_written_and_read() -> None:
    assert parse_manifest(FULL.to_bytes()) == FULL


def test_nothing_is_read_before_enough_keys_signed_it() -> None:
    stranger = Ed25519PrivateKey.from_private_bytes(bytes([9]) * 32)
    with pytest.raises(ReferenceRejected):
        verify_manifest(sign(b"not even a manifest", PAYLOAD_TYPE, stranger), SIGNERS)


def test_a_signed_manifest_names_who_signed() -> None:
    verified = verify_manifest(sign(FULL.to_bytes(), PAYLOAD_TYPE, KEY), SIGNERS)
    assert verified.manifest == FULL
    assert verified.signed_by == {"release"}


def test_a_signed_payload_that_is_no_manifest_is_malformed() -> None:
    with pytest.raises(MalformedReference):
        verify_manifest(sign(b"{}", PAYLOAD_TYPE, KEY), SIGNERS)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema", "steelyard.reference/2"),
        ("component", "../etc"),
        ("component", "UPPER"),
        ("component", ""),
        ("version", "1 0"),
        ("serial", 0),
        ("serial", True),
        ("serial", 1.5),
        ("issued", "yesterday"),
        ("expires", "2025-01-01T00:00:00Z"),
        ("machine_class", "a/b"),
        ("machine_class", None),
        ("origin", "from-hearsay"),
        ("artefact_sha256", "zz"),
        ("measurements", {}),
        ("measurements", [{"pcr": 24, "what": "x", "presence": "always", "digests": {"sha256": "00" * 32}}]),
        ("measurements", [{"pcr": 0, "what": "x", "presence": "never", "digests": {"sha256": "00" * 32}}]),
        ("measurements", [{"pcr": 0, "what": "x", "presence": "always", "digests": {}}]),
        ("measurements", [{"pcr": 0, "what": "x", "presence": "always", "digests": {"sha256": "00" * 31}}]),
        ("measurements", [{"pcr": 0, "what": "x", "presence": "always", "digests": {"sha1": "00" * 20}}]),
        ("measurements", [{"pcr": 0, "what": "x", "presence": "always", "digests": {"sha256": "00" * 32}, "y": 1}]),
        ("files", {"sha1": {"/a": "00" * 20}}),
        ("files", {"sha256": {"/a": 1}}),
        ("files", {"sha256": []}),
        ("surprise", 1),
    ],
)
def test_a_manifest_with_a_wrong_field_is_malformed(field: str, value: object) -> None:
    with pytest.raises(MalformedReference):
        parse_manifest(encode({**document(), field: value}))


@pytest.mark.parametrize("field", list(json.loads(FULL.to_bytes())))
def test_a_manifest_without_one_of_its_fields_is_malformed(field: str) -> None:
    spoilt = document()
    del spoilt[field]
    with pytest.raises(MalformedReference):
        parse_manifest(encode(spoilt))


def test_values_from_a_reference_boot_are_always_of_a_machine_class() -> None:
    with pytest.raises(WrongUse, match="machine class"):
        manifest(origin=Origin.REFERENCE_BOOT)


def test_a_manifest_that_says_nothing_is_refused() -> None:
    with pytest.raises(WrongUse, match="at least one"):
        manifest(measurements=(), files={HashAlgorithm.SHA256: {}})


def test_a_manifest_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(WrongUse, match="end after"):
        manifest(expires=datetime(2025, 1, 1, tzinfo=UTC))


@given(st.binary(max_size=400))
def test_any_bytes_are_a_manifest_or_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse_manifest(data)
