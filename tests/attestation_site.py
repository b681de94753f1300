"""An attestation service with an owner and machines that are not there, all in this process, on any database.

Time stands still until a test says otherwise. Requests go through the whole application, as over a wire.
"""

import asyncio
import hashlib
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final

import httpx
from prometheus_client import CollectorRegistry
from sqlalchemy import Connection, insert

from steelyard.attestation import enrolling, store
from steelyard.attestation.api import Means, attestation_router
from steelyard.attestation.keeping import Keeping, Retention
from steelyard.attestation.life import State
from steelyard.attestation.objects import (
    DemandedMakers,
    Endorsements,
    ExactParameters,
    Node,
    Terms,
)
from steelyard.attestation.ports import PolicyInForce
from steelyard.attestation.service import AttestationSettings, make_means
from steelyard.attestation.tables import maker_sets
from steelyard.attestation.throttle import Buckets, Rate
from steelyard.attestation.verdicts import Signer
from steelyard.evidence.policy import parse_policy
from steelyard.model.secret import Secret
from steelyard.service import accounts
from steelyard.service.api import shared_router
from steelyard.service.authority import Caller, Office, Right, Role, not_found
from steelyard.service.database import Database
from steelyard.service.gate import Gate
from steelyard.service.http import Edge, Front
from steelyard.service.sealing import Sealer
from tests import simulated_references as references
from tests.applications import WEIGHING, Own, answering, make_shared
from tests.simulated_boots import BootLog, recorded_boot
from tests.simulated_nodes import SimulatedNode
from tests.simulated_tpm import Endorsement, NodeTpm, make_tpm, maker

EVERY_RIGHT: Final = frozenset(Right)
PROVIDER: Final = Caller("pia", Office.PROVIDER, {}, EVERY_RIGHT)
AUDITOR: Final = Caller("aude", Office.AUDITOR, {}, EVERY_RIGHT)
RED: Final = Caller("rob", None, {"red": Role.MEMBER}, EVERY_RIGHT)
BLUE: Final = Caller("bea", None, {"blue": Role.ADMIN}, EVERY_RIGHT)

SEALER: Final = Sealer({b"key1": Secret(bytes(32))})
INTERVAL: Final = timedelta(seconds=60)
GRACE: Final = timedelta(seconds=30)
FILES: Final = 200
FREE: Final = Rate(burst=1_000_000, seconds=0.001)


class Clock:
    """A clock that a test turns; it begins at the true time, as certificates are made by that."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC).replace(microsecond=0)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, span: timedelta) -> None:
        """Let time pass."""
        self.now += span


@dataclass(slots=True)
class FakePolicies:
    """A reference authority in memory: the policies of project red."""

    documents: dict[str, bytes] = field(default_factory=dict)
    envelopes: tuple[bytes, ...] = ()

    def in_force(self, _connection: Connection, project: str, name: str) -> PolicyInForce:
        """See `Policies`."""
        document = self.documents.get(name)
        if document is None or project != "red":
            raise not_found(f"policy {name}")
        digests = sorted(hashlib.sha256(each).digest() for each in self.envelopes)
        return PolicyInForce(parse_policy(document).id, hashlib.sha256(document).digest(), tuple(digests))

    def content(self, _connection: Connection, sha256: bytes) -> bytes:
        """See `Policies`."""
        return {hashlib.sha256(each).digest(): each for each in (*self.documents.values(), *self.envelopes)}[sha256]


@cache
def _shared() -> Edge:
    return make_shared([shared_router(), attestation_router(WEIGHING)])


class Site:
    """The service. `unlimited`: with no limit on how often somebody may ask, as many tests ask more often."""

    def __init__(self, database: Database, clock: Clock, policies: FakePolicies, settings: AttestationSettings) -> None:
        self.database, self.clock, self.policies = database, clock, policies
        self.means: Means = make_means(database, SEALER, settings, policies)
        self.means.sources = Buckets(FREE)
        self.means.registrar._nodes = Buckets(FREE)
        self.means.verifier._steps = Buckets(FREE)
        Signer(database, SEALER).ensure_key()
        registry = CollectorRegistry()
        self.keeping = Keeping(
            database, Retention(timedelta(days=30), timedelta(hours=1)), timedelta(seconds=1), registry
        )
        self.front = Front(database, Gate(database, None), registry, lambda: True)
        self.app = answering(_shared(), Own(self.front, self.means))
        self._loop = asyncio.Runner()
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, raise_app_exceptions=False), base_url="http://attestation"
        )
        self.requests: list[str] = []

    def send(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Return the answer to a request, as httpx takes one."""
        self.requests.append(f"{method} {path}")
        return self._loop.run(self._client.request(method, path, **request))

    def call(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Answer a simulated node."""
        answer = self.send(method, path, content=body, headers=dict(headers))
        return answer.status_code, answer.content

    def close(self) -> None:
        """End it."""
        self._loop.run(self._client.aclose())
        self._loop.close()
        self.means.appraising.stop()

    # -- its owner ---------------------------------------------------------------------------------------------------

    def terms(self, node: SimulatedNode, **changes: Any) -> Terms:
        """Return the terms on which an honest node passes."""
        whole: dict[str, Any] = {
            "endorsements": endorsements(node.tpm),
            "makers": DemandedMakers("makers"),
            "airlock": "airlock",
            "runtime": "runtime",
            "parameters": ExactParameters(hashlib.sha256(node.parameters).digest()),
            "interval": INTERVAL,
            "grace": GRACE,
            **changes,
        }
        return Terms(**whole)

    def enrol(self, node: SimulatedNode, **changes: Any) -> Node:
        """Enrol a node, and let it speak to this service."""
        node.call = self.call
        with self.database.writing() as tx:
            return enrolling.enrol(
                tx, RED, name=node.name, project="red", terms=self.terms(node, **changes), expected_version=None
            )

    def enrolled(
        self,
        name: str = "n1",
        kind: Endorsement = Endorsement.P256,
        boot: BootLog | None = None,
        **changes: Any,
    ) -> SimulatedNode:
        """Return a fresh node that is enrolled."""
        node = SimulatedNode(name, self.call, make_tpm(kind), boot=boot or recorded_boot("first"))
        self.enrol(node, **changes)
        return node

    def node(self, name: str = "n1") -> Node:
        """Return what is known of a node."""
        with self.database.reading() as connection:
            return store.load_node(connection, name)

    def shown(self, name: str = "n1") -> State:
        """Return what a node is shown to be."""
        with self.database.reading() as connection:
            now = self.clock()
            [state] = [
                each
                for each in State
                if any(
                    found.name == name
                    for found in enrolling.list_nodes(
                        connection, PROVIDER, project=None, state=each, now=now, after="", limit=1000
                    )
                )
            ]
        return state

    def appraisals(self, name: str = "n1") -> tuple[store.KeptAppraisal, ...]:
        """Return what was judged of a node."""
        with self.database.reading() as connection:
            return enrolling.list_appraisals(connection, RED, node=name, after="", limit=1000)

    def journal(self, name: str = "n1") -> list[str]:
        """Return what the journal says of a node: the verbs."""
        from_all = self._entries()
        return [verb for subject, verb in from_all if subject == f"node/{name}"]

    def _entries(self) -> list[tuple[str, str]]:
        with self.database.reading() as connection:
            rows = connection.exec_driver_sql("SELECT subject, verb FROM journal ORDER BY number")
            return [(row[0], row[1]) for row in rows]

    def token(self, name: str = "rob", project: str | None = "red", office: Office | None = None) -> str:
        """Return a token of somebody's."""
        with self.database.writing() as tx:
            if not hasattr(self, "_boss"):
                _, secret = accounts.make_first_token(tx, "boss", "test")
                self._boss = secret.reveal().decode()
            boss = accounts.sign_in(tx.connection, self._boss, tx.now)
            accounts.put_account(tx, boss, name, accounts.Kind.USER, office, None)
            if project is not None:
                accounts.put_member(tx, boss, project, name, Role.MEMBER)
            _, token = accounts.make_token(
                tx,
                boss,
                name,
                rights=EVERY_RIGHT,
                office=office,
                project=None,
                lasts=timedelta(hours=1),
                words="for a test",
            )
        return token.reveal().decode()


def endorsements(tpm: NodeTpm) -> Endorsements:
    """Return what a provider publishes of a TPM."""
    [certificate, *_] = tpm.keys().endorsement_certificates
    return Endorsements({"one": pem(certificate)}, ())


def pem(certificate: bytes) -> str:
    """Return a certificate in DER as PEM."""
    return ssl.DER_cert_to_PEM_cert(certificate)


def open_site(database: Database, **settings: Any) -> Site:
    """Return a service on a database: with policies, and the makers' set of project red."""
    clock = Clock()
    database._clock = clock
    documents = {"airlock": references.airlock_policy(), "runtime": references.runtime_policy()}
    policies = FakePolicies(documents, tuple(references.signed_references(FILES, clock()).values()))
    with database.writing() as tx:
        tx.connection.execute(
            insert(maker_sets).values(
                project="red",
                name="makers",
                certificates=list(maker().anchors_pem()),
                revocations=[],
                demands=["usage", "names"],
                version=1,
            )
        )
    return Site(database, clock, policies, AttestationSettings(**settings))


@contextmanager
def site_on(database: Database, **settings: Any) -> Iterator[Site]:
    """Give a service on a database."""
    site = open_site(database, **settings)
    yield site
    site.close()
