"""Verdicts of others: a signed attestation result, checked from its bytes on by whoever relies on it.

A verdict is an EAT attestation result (EAR) as a JWT in compact form, signed with Ed25519; docs/formats.md has its
claims. Who relies on one names the key; nothing in the verdict chooses it.
Source: RFC 7515, sections 5.2 and 7.1; RFC 8037, section 3.1; draft-ietf-rats-ear-01; RFC 9711, section 4.2.18.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from steelyard.evidence.document import Fields, parse_document
from steelyard.model.errors import MalformedKey, MalformedVerdict, NotAdmitted
from steelyard.model.limits import PUBLIC_KEY_BYTES, VERDICT_BYTES

PROFILE: Final = "tag:github.com,2023:veraison/ear"
SKEW: Final = timedelta(seconds=60)
"""How far the clock of who signs may be ahead of ours."""
ALGORITHMS: Final = {"EdDSA": Ed25519PublicKey, "Ed25519": Ed25519PublicKey}
"""Two names of one thing: RFC 8037's and RFC 9864's, which takes its place."""
AFFIRMING: Final = range(2, 32)
"""The tier "affirming" as a number. Source: draft-ietf-rats-ar4si-08, section 3.2."""

_DOING: Final = "reading a verdict"
_LATEST: Final = 253402300799
"""The end of year 9999, the last that Python knows."""
_PART: Final = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Affirmed:
    """What a verdict says that was checked: this one node is what it should be.

    ends       until when it holds; None: it does not say.
    appraisal  the claims about the node, for whoever knows them: a stranger's words until each is checked.
    """

    node: str
    issued: datetime
    ends: datetime | None
    appraisal: Mapping[str, Any]


def parse_key(pem: str, doing: str = "reading the key of verdicts") -> Ed25519PublicKey:
    """Return the key that is relied on: an Ed25519 public key, PEM and nothing else. Raises MalformedKey."""
    key = None
    if len(pem) <= PUBLIC_KEY_BYTES.most:
        with suppress(ValueError, UnsupportedAlgorithm):
            key = load_pem_public_key(pem.encode())
    if (
        not isinstance(key, Ed25519PublicKey)
        or key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode().strip() != pem.strip()
    ):
        # Not shown: it may be the private one.
        raise MalformedKey(doing, expected="an Ed25519 public key, PEM, alone", found="something else")
    return key


def verify_verdict(verdict: str, key: Ed25519PublicKey, node: str, doing: str, now: datetime) -> Affirmed:
    """Return what a verdict says of the node, by the key's holder. Raises NotAdmitted, MalformedVerdict."""
    return _appraised(_verified_claims(verdict, key, doing), node, doing, now)


def _verified_claims(verdict: str, key: Ed25519PublicKey, doing: str) -> Fields:
    """Return what the key's holder signed. The key says how it was signed; the header may only agree."""
    if len(verdict) > VERDICT_BYTES.most:
        raise MalformedVerdict(_DOING, expected=f"at most {VERDICT_BYTES.most} bytes", found=f"{len(verdict)}")
    parts = verdict.split(".")
    if len(parts) != 3:
        raise MalformedVerdict(_DOING, expected="three parts, with a dot between each two", found=f"{len(parts)}")
    header, claims, signature = (_decode(part) for part in parts)
    fields = parse_document(header, VERDICT_BYTES, _DOING, MalformedVerdict)
    fields.choice("alg", ALGORITHMS)
    for name in ("typ", "kid"):
        if fields.has(name):
            fields.text(name)
    fields.end()  # "crit", "jwk", "x5u", "b64": whatever would change what is verified, or by which key
    try:
        key.verify(signature, ".".join(parts[:2]).encode("ascii"))
    except InvalidSignature as cause:
        raise NotAdmitted(doing, expected="a verdict signed by the key that is relied on", found="another's") from cause
    return parse_document(claims, VERDICT_BYTES, _DOING, MalformedVerdict)


def _decode(part: str) -> bytes:
    if not _PART.fullmatch(part):
        raise MalformedVerdict(_DOING, expected="base64url without padding", found=part)
    try:
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except binascii.Error as cause:
        raise MalformedVerdict(_DOING, expected="base64url without padding", found=part) from cause


def _appraised(claims: Fields, node: str, doing: str, now: datetime) -> Affirmed:
    """Return what these claims say, if it is that this one node is what it should be. Others are ignored."""
    claims.choice("eat_profile", {PROFILE: PROFILE})
    issued = _moment(claims, "iat")
    if issued > now + SKEW:
        raise NotAdmitted(doing, expected=f"a verdict from before {now}", found=f"one of {issued}")
    ends = _moment(claims, "exp") if claims.has("exp") else None
    if ends is not None and ends <= now:
        raise NotAdmitted(doing, expected="a verdict that holds", found=f"one that ended {ends}")
    if claims.has("nbf") and (begins := _moment(claims, "nbf")) > now + SKEW:
        raise NotAdmitted(doing, expected="a verdict that holds", found=f"one that begins {begins}")
    appraisals = claims.mapping("submods")
    subjects = [*appraisals, *([claims.text("sub")] if claims.has("sub") else [])]
    if appraisals.keys() != {node} or set(subjects) != {node}:
        raise NotAdmitted(doing, expected="a verdict on this node alone", found=", ".join(subjects) or "one on none")
    appraisal = appraisals[node]
    status = appraisal.get("ear.status") if isinstance(appraisal, dict) else None
    if status != "affirming" and not (type(status) is int and status in AFFIRMING):
        raise NotAdmitted(doing, expected="the status affirming", found=str(status))
    return Affirmed(node, issued, ends, appraisal if isinstance(appraisal, dict) else {})


def _moment(claims: Fields, name: str) -> datetime:
    return datetime.fromtimestamp(claims.integer(name, 0, _LATEST), UTC)
