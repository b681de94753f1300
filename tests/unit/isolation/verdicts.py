"""Verdicts as a verifier signs them, and as an attacker would."""

import base64
import json
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from steelyard.evidence.verdict import PROFILE
from tests.unit.isolation.things import SIGNER


def claims(node: str, issued: datetime, **changes: Any) -> dict[str, Any]:
    """Return the claims of a passing verdict, with changes; None takes a claim out."""
    whole = {
        "eat_profile": PROFILE,
        "iat": int(issued.timestamp()),
        "ear.verifier-id": {"developer": "steelyard", "build": "1"},
        "submods": {node: {"ear.status": "affirming"}},
    } | changes
    return {name: value for name, value in whole.items() if value is not None}


def sign(
    body: dict[str, Any] | bytes, header: dict[str, Any] | bytes | None = None, key: Ed25519PrivateKey = SIGNER
) -> str:
    """Return a JWT: by hand, as what is to be refused no library makes."""
    parts = [
        part if isinstance(part, bytes) else json.dumps(part).encode()
        for part in ({"alg": "EdDSA", "typ": "JWT"} if header is None else header, body)
    ]
    signed = ".".join(encode(part) for part in parts)
    return f"{signed}.{encode(key.sign(signed.encode()))}"


def encode(part: bytes) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()
