"""Good policies, manifests and signers, for tests to spoil one thing of."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from steelyard.evidence.policy import Policy, parse_policy
from steelyard.evidence.reference.dsse import Signers, sign
from steelyard.evidence.reference.manifest import PAYLOAD_TYPE, Manifest, Origin, Reference, verify_manifest
from steelyard.evidence.reference.measurement import Measurement, Presence
from steelyard.evidence.reference.version import Version
from steelyard.model.algorithms import HashAlgorithm

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SIGNERS = Signers({"release": KEY.public_key()}, 1)


def digests(seed: bytes) -> dict[HashAlgorithm, bytes]:
    return {bank: bank.digest(seed) for bank in (HashAlgorithm.SHA256, HashAlgorithm.SHA384)}


def measurement(pcr: int, seed: bytes, presence: Presence = Presence.ALWAYS) -> Measurement:
    return Measurement(pcr, seed.decode(), presence, digests(seed))


def manifest(*measurements: Measurement, **changes: Any) -> Manifest:
    good = Manifest(
        component="firmware",
        version=Version("1.0"),
        serial=1,
        issued=datetime(2026, 1, 1, tzinfo=UTC),
        expires=datetime(2027, 1, 1, tzinfo=UTC),
        machine_class=None,
        origin=Origin.FIRMWARE,
        artefact="firmware.fd",
        artefact_sha256=bytes(32),
        measurements=measurements or (measurement(0, b"volume"),),
        files={},
    )
    return replace(good, **changes)


def reference(made: Manifest) -> Reference:
    return verify_manifest(sign(made.to_bytes(), PAYLOAD_TYPE, KEY), SIGNERS)


def component(name: str = "firmware", **changes: Any) -> dict[str, Any]:
    good = {
        "component": name,
        "presence": "required",
        "least_version": "1.0",
        "revoked": [],
        "least_serial": 1,
        "origins": ["from-firmware"],
        "at_most": 1,
    }
    return {**good, **changes}


def policy_document(**changes: Any) -> dict[str, Any]:
    good = {
        "schema": "steelyard.policy/1",
        "name": "sample",
        "version": 1,
        "bank": "sha256",
        "pcrs": [0, 1, 4, 5],
        "machine_class": None,
        "signers": {
            "threshold": 1,
            "keys": [{"name": "release", "ed25519": "A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg="}],
        },
        "components": [component()],
        "varying": [],
        "runtime": None,
    }
    return {**good, **changes}


def policy(**changes: Any) -> Policy:
    return parse_policy(encode(policy_document(**changes)))


def encode(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document).encode()
