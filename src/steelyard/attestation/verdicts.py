"""Verdicts as others read them: an EAT attestation result (EAR), a JWT signed with a key of this service's.

Keys are made here, are sealed at rest, and change places: the old one signs no more, and is published until the last
verdict that it signed has expired. docs/formats.md has the claims; `steelyard.isolation.admission` verifies them.
Source: draft-ietf-rats-ear; draft-ietf-rats-ar4si, section 2.3; RFC 7519; RFC 8037; RFC 9864.
"""

import base64
import hashlib
import json
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from sqlalchemy import Connection, delete, insert, or_, select, update

from steelyard.attestation.objects import Purpose
from steelyard.attestation.tables import verdict_keys
from steelyard.evidence.policy import PolicyId
from steelyard.evidence.tpm.nonce import NonceWithKeys
from steelyard.model.secret import Secret
from steelyard.service import journal
from steelyard.service.database import Database, Transaction
from steelyard.service.sealing import Sealer

PROFILE: Final = "tag:github.com,2023:veraison/ear"
VERIFIER: Final = {"developer": "steelyard", "build": "attestation"}
_CONTEXT: Final = "verdict-key"


@dataclass(frozen=True, slots=True)
class VerdictKey:
    """A key that verdicts are, or were, signed with. `published_until` None: it signs."""

    id: str
    public: bytes
    made: datetime
    published_until: datetime | None

    def pem(self) -> str:
        """Return it as a network's admission takes it."""
        key = Ed25519PublicKey.from_public_bytes(self.public)
        return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def jwk(self) -> dict[str, str]:
        """Return it as a JSON Web Key. Source: RFC 8037, section 2."""
        return {
            "kty": "OKP",
            "crv": "Ed25519",
            "use": "sig",
            "alg": "EdDSA",
            "kid": self.id,
            "x": _encoded(self.public),
        }


@dataclass(frozen=True, slots=True)
class Statement:
    """What a verdict says: this node, judged at this time by this policy, is what it should be."""

    node: str
    policy: PolicyId
    policy_sha256: bytes
    purpose: Purpose
    boot: bytes
    bound: NonceWithKeys
    chained: bool
    at: datetime
    expires: datetime

    def claims(self) -> dict[str, Any]:
        """Return it in the words of EAR."""
        bound = self.bound
        # Source of the values: AR4SI, section 2.3.4: 2 is "as it should be"; executables 3: of the boot, 2: of all.
        vector = {"instance-identity": 2, "configuration": 2, "executables": 2 if self._runs() else 3}
        if self.chained:
            vector["hardware"] = 2
        appraisal: dict[str, Any] = {
            "ear.status": "affirming",
            "ear.trustworthiness-vector": vector,
            "ear.appraisal-policy-id": f"{self.policy.name}/{self.policy.version}/{self.policy_sha256.hex()}",
            "steelyard.purpose": self.purpose.value,
            "steelyard.boot": self.boot.hex(),
            "steelyard.transport-key": bound.transport_key.hex(),
            "steelyard.wireguard-key": None if bound.wireguard_key is None else bound.wireguard_key.hex(),
            "steelyard.parameters-sha256": None
            if bound.parameters is None
            else hashlib.sha256(bound.parameters).hexdigest(),
        }
        return {
            "eat_profile": PROFILE,
            "ear.verifier-id": VERIFIER,
            "eat_nonce": _encoded(bound.nonce),
            "iat": int(self.at.timestamp()),
            "exp": int(self.expires.timestamp()),
            "sub": self.node,
            "submods": {self.node: appraisal},
        }

    def _runs(self) -> bool:
        return self.purpose is Purpose.RUNTIME


class Signer:
    """Signs verdicts. Threads share it; keys never change, so that those opened are kept."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer
        self._lock = threading.Lock()
        self._open: dict[str, Ed25519PrivateKey] = {}

    def ensure_key(self) -> None:
        """Make the first key, if there is none."""
        with self._database.writing() as tx:
            if tx.connection.execute(select(verdict_keys.c.id)).first() is None:
                _make_key(tx, self._sealer, actor="attestation")

    def sign(self, key: str, statement: Statement) -> str:
        """Return a verdict, a JWT in compact form. Raises ServiceUnready when the key does not open."""
        private = self._open.get(key) or self._load(key)
        header = _encoded(json.dumps({"alg": "Ed25519", "typ": "JWT", "kid": key}, separators=(",", ":")).encode())
        claims = _encoded(json.dumps(statement.claims(), separators=(",", ":")).encode())
        signature = private.sign(f"{header}.{claims}".encode("ascii"))
        return f"{header}.{claims}.{_encoded(signature)}"

    def _load(self, key: str) -> Ed25519PrivateKey:
        with self._lock:
            with self._database.reading() as connection:
                sealed = connection.execute(select(verdict_keys.c.sealed).where(verdict_keys.c.id == key)).scalar_one()
            private = Ed25519PrivateKey.from_private_bytes(self._sealer.open(f"{_CONTEXT}/{key}", sealed).reveal())
            self._open = {key: private}
            return private


def rotate(tx: Transaction, sealer: Sealer, *, actor: str, longest: timedelta) -> VerdictKey:
    """Make a new key, that signs from now on; the one before is published until its last verdict has expired.

    longest  that a verdict holds.
    """
    columns = verdict_keys.c
    tx.connection.execute(
        update(verdict_keys).where(columns.published_until.is_(None)).values(published_until=tx.now + longest)
    )
    return _make_key(tx, sealer, actor=actor)


def published(connection: Connection, now: datetime) -> tuple[VerdictKey, ...]:
    """Return the keys with which a verdict that still holds may be signed, the newest first."""
    columns = verdict_keys.c
    query = (
        select(columns.id, columns.public, columns.made, columns.published_until)
        .where(or_(columns.published_until.is_(None), columns.published_until > now))
        .order_by(columns.published_until.is_not(None), columns.made.desc())
    )
    return tuple(VerdictKey(row.id, row.public, row.made, row.published_until) for row in connection.execute(query))


def forget_old(tx: Transaction) -> None:
    """Forget keys whose last verdict has expired."""
    tx.connection.execute(delete(verdict_keys).where(verdict_keys.c.published_until <= tx.now))


def seal_anew(tx: Transaction, sealer: Sealer) -> None:
    """Let all keys be sealed by the first key of the key file. Raises ServiceUnready for one that does not open."""
    for row in tx.connection.execute(select(verdict_keys.c.id, verdict_keys.c.sealed)).all():
        if not sealer.is_current(row.sealed):
            context = f"{_CONTEXT}/{row.id}"
            sealed = sealer.seal(context, sealer.open(context, row.sealed))
            tx.connection.execute(update(verdict_keys).where(verdict_keys.c.id == row.id).values(sealed=sealed))


def _make_key(tx: Transaction, sealer: Sealer, *, actor: str) -> VerdictKey:
    private = Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    # By itself, so that two services never call two keys the same.
    key = VerdictKey(hashlib.sha256(public).hexdigest()[:16], public, tx.now, None)
    secret = Secret(private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()))
    sealed = sealer.seal(f"{_CONTEXT}/{key.id}", secret)
    tx.connection.execute(
        insert(verdict_keys).values(id=key.id, public=public, sealed=sealed, made=tx.now, published_until=None)
    )
    journal.record(
        tx,
        actor=actor,
        verb="attestation.key-made",
        subject=f"verdict-key/{key.id}",
        project=None,
        detail={"public": public.hex()},
    )
    return key


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
