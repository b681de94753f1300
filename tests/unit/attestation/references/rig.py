"""A reference authority in a database, signing keys, manifests of recorded boots, and callers of every kind."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from steelyard.attestation.references import dry_runs, manifests, policies, publication, signers
from steelyard.attestation.references.objects import (
    DEFAULT,
    Change,
    DryRun,
    NodeResult,
    Repository,
    RootKind,
    SignerSet,
    Standing,
    StoredPolicy,
    StoredReference,
)
from steelyard.attestation.references.trying import DryRuns
from steelyard.evidence.eventlog.parse import parse_event_log
from steelyard.evidence.reference.dsse import add_signature, sign
from steelyard.evidence.reference.manifest import PAYLOAD_TYPE, Manifest
from steelyard.evidence.reference.measurement import Measurement, Presence
from steelyard.evidence.reference.version import Version
from steelyard.model.secret import Secret
from steelyard.service.authority import Caller, Office, Right, Role
from steelyard.service.database import Database, Transaction
from steelyard.service.sealing import Sealer
from tests import recorded
from tests.fakes.evidence import FakeEvidence
from tests.unit.evidence import samples
from tests.unit.evidence.tpm import authorities

EVERY_RIGHT: Final = frozenset(Right)
PROVIDER: Final = Caller("pia", Office.PROVIDER, {}, EVERY_RIGHT)
AUDITOR: Final = Caller("aude", Office.AUDITOR, {}, EVERY_RIGHT)
ADMIN: Final = Caller("ann", None, {"red": Role.ADMIN}, EVERY_RIGHT)
RED: Final = Caller("rob", None, {"red": Role.MEMBER}, EVERY_RIGHT)
BLUE: Final = Caller("bea", None, {"blue": Role.ADMIN}, EVERY_RIGHT)
READER: Final = Caller("rita", None, {"red": Role.ADMIN}, EVERY_RIGHT - {Right.ATTEST})

SEALER: Final = Sealer({b"key1": Secret(bytes(32))})
LIMIT: Final = timedelta(minutes=5)
DAY: Final = timedelta(days=1)

RELEASE: Final = samples.KEY
"""The key that the recorded boots' policy names."""
SECOND, THIRD, STRANGER = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (2, 3, 4))


def raw(*keys: Ed25519PrivateKey) -> dict[str, bytes]:
    """Return keys as signers are named."""
    return {f"key{number}": key.public_key().public_bytes_raw() for number, key in enumerate(keys, 1)}


def signed(manifest: Manifest, *keys: Ed25519PrivateKey) -> bytes:
    """Return a manifest in its envelope."""
    first, *rest = keys or (RELEASE,)
    envelope = sign(manifest.to_bytes(), PAYLOAD_TYPE, first)
    for key in rest:
        envelope = add_signature(envelope, key)
    return envelope.to_bytes()


def ovmf(boot: str, **changes: Any) -> Manifest:
    """Return what the firmware measured of itself in a recorded boot."""
    log = parse_event_log((recorded.BOOTS / boot / "event_log.bin").read_bytes())
    measured = tuple(
        Measurement(
            log.events[number].pcr,
            f"event {number}",
            Presence.ALWAYS,
            {bank: digest for bank, digest in log.events[number].digests.items() if bank.believed},
        )
        for number in (1, 3)
    )
    return samples.manifest(*measured, component="ovmf", **changes)


def policy_bytes(name: str = "airlock", version: int = 1, **changes: Any) -> bytes:
    """Return the document of the policy of the recorded boots."""
    document = {**samples.policy_document(), **recorded.RULES, "name": name, "version": version, **changes}
    return json.dumps(document).encode()


def components(**least: str) -> list[dict[str, Any]]:
    """Return the components of that policy, some of them from another version on."""
    rules: list[dict[str, Any]] = recorded.RULES["components"]
    return [{**one, "least_version": least.get(one["component"], one["least_version"])} for one in rules]


def maker_certificate(subject: str = "Root") -> str:
    """Return the certificate of an authority that is valid now, PEM."""
    now = datetime.now(UTC)
    made = authorities.root(subject, start=now - DAY, end=now + 100 * DAY)
    return made.certificate.fields.public_bytes(Encoding.PEM).decode("ascii")


@dataclass(slots=True)
class Authority:
    """The reference authority of one database; nothing is there until a test puts it there."""

    database: Database
    evidence: FakeEvidence = field(default_factory=FakeEvidence)

    @contextmanager
    def tx(self) -> Iterator[Transaction]:
        """Give a write transaction."""
        with self.database.writing() as transaction:
            yield transaction

    def fresh(self, manifest: Manifest, **changes: Any) -> Manifest:
        """Return a manifest that is in force now."""
        now = self.database.clock().replace(microsecond=0)
        return replace(manifest, **{"issued": now - DAY, "expires": now + 100 * DAY, **changes})

    def sample(self, component: str = "firmware", **changes: Any) -> Manifest:
        """Return a manifest of no recorded boot."""
        if isinstance(changes.get("version"), str):
            changes["version"] = Version(changes["version"])
        return self.fresh(samples.manifest(component=component), **changes)

    def signers(
        self,
        keys: Mapping[str, bytes] | None = None,
        threshold: int = 1,
        component: str = DEFAULT,
        by: Caller = ADMIN,
    ) -> SignerSet:
        """Name who signs."""
        with self.tx() as tx:
            return signers.put_signers(
                tx,
                by,
                SEALER,
                project="red",
                component=component,
                keys=raw(RELEASE) if keys is None else keys,
                threshold=threshold,
                expected_version=None,
            )

    def add(
        self,
        manifest: Manifest,
        *keys: Ed25519PrivateKey,
        component: str | None = None,
        standing: Standing = Standing.ACCEPTED,
        by: Caller = RED,
    ) -> StoredReference:
        """Bring in a manifest."""
        return manifests.add_reference(
            self.database,
            by,
            SEALER,
            project="red",
            component=component or manifest.component,
            content=signed(manifest, *keys),
            standing=standing,
        )

    def accept(self, reference: bytes, by: Caller = RED) -> StoredReference:
        """Let a proposed one count."""
        with self.tx() as tx:
            return manifests.accept_reference(tx, by, SEALER, project="red", reference=reference.hex())

    def revoke(self, reference: bytes, why: str = "a test", by: Caller = RED) -> StoredReference:
        """Take one back."""
        with self.tx() as tx:
            return manifests.revoke_reference(tx, by, SEALER, project="red", reference=reference.hex(), why=why)

    def revoke_release(self, component: str, release: str, by: Caller = RED) -> None:
        """Say that a version is bad."""
        with self.tx() as tx:
            manifests.revoke_release(tx, by, SEALER, project="red", component=component, release=release, why="a test")

    def put_policy(self, document: bytes | None = None, name: str = "airlock", by: Caller = RED) -> StoredPolicy:
        """Keep a version."""
        with self.tx() as tx:
            return policies.put_policy(
                tx,
                by,
                project="red",
                name=name,
                document=policy_bytes(name) if document is None else document,
                expected_version=None,
            )

    def make_live(self, number: int = 1, name: str = "airlock", by: Caller = RED) -> StoredPolicy:
        """Have it judge."""
        with self.tx() as tx:
            return policies.make_live(tx, by, SEALER, project="red", name=name, number=number, expected_version=None)

    def judges(self, name: str = "airlock") -> tuple[bytes, list[bytes]]:
        """Return the document and the envelopes that judge."""
        port = policies.StoredPolicies()
        with self.database.reading() as connection:
            found = port.in_force(connection, "red", name)
            document = port.content(connection, found.sha256)
            return document, [port.content(connection, one) for one in found.references]

    def boots(self) -> None:
        """Have signers, references for all components of the first recorded boot, and a live policy."""
        self.signers()
        for manifest in recorded.manifests().values():
            self.add(self.fresh(manifest))
        self.put_policy()
        self.make_live()

    def runner(self) -> DryRuns:
        """Return what does dry runs."""
        return DryRuns(self.database, self.evidence, SEALER)

    def dry_run(self, change: Change, evidence: str | None = None, by: Caller = RED) -> DryRun:
        """Have a dry run done."""
        with self.tx() as tx:
            begun = dry_runs.begin(tx, by, project="red", change=change, evidence=evidence, limit=LIMIT)
        self.runner().do_due()
        return self.run(begun.id)

    def run(self, dry_run: str) -> DryRun:
        """Return a dry run as it is now."""
        with self.database.reading() as connection:
            return dry_runs.load(connection, dry_run)

    def results(self, run: DryRun) -> dict[str, NodeResult]:
        """Return what a dry run came to, by node."""
        with self.database.reading() as connection:
            found = dry_runs.list_results(
                connection, RED, project="red", dry_run=run.id, outcome=None, after="", limit=100
            )
        return {one.node: one for one in found}

    def publish(self, root: RootKind = RootKind.ONLINE, *, public: bool = False, by: Caller = ADMIN) -> Repository:
        """Publish."""
        with self.tx() as tx:
            return publication.put_repository(tx, by, SEALER, project="red", root=root, public=public)

    def metadata(self, file: str) -> bytes:
        """Return published metadata."""
        with self.database.reading() as connection:
            return publication.read_metadata(connection, "red", file)

    def target(self, file: str) -> bytes:
        """Return a published target."""
        with self.database.reading() as connection:
            return publication.read_target(connection, "red", file)
