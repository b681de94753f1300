"""Attestation as a service: its routes, its timers and its part of the configuration, put together."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar, Final

from fastapi import APIRouter
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import select, update

from steelyard.attestation import archive, enrolling, verdicts
from steelyard.attestation.api import Means, attestation_router
from steelyard.attestation.appraising import Appraising
from steelyard.attestation.keeping import Keeping, Retention
from steelyard.attestation.migrations import ATTESTATION
from steelyard.attestation.ports import Policies
from steelyard.attestation.references.api import Means as ReferenceMeans
from steelyard.attestation.references.api import references_router
from steelyard.attestation.references.policies import StoredPolicies
from steelyard.attestation.references.trying import DryRuns
from steelyard.attestation.registrar import Registrar
from steelyard.attestation.tables import nodes, shares
from steelyard.attestation.verdicts import Signer
from steelyard.attestation.verifier import Times, Verifier
from steelyard.model.errors import ServiceUnready
from steelyard.model.limits import REPORT_SECONDS
from steelyard.service.configuration import Configuration, read_table
from steelyard.service.database import Database
from steelyard.service.migrating import Schema
from steelyard.service.sealing import Sealer, read_sealer

STOP_SECONDS: Final = 25.0
"""How long a dry run that is judging may take to end; the next process goes on with it."""


@dataclass(frozen=True, slots=True)
class AttestationSettings:
    """The table [attestation] of the configuration.

    session_seconds       how long a node may take from its registration until it has passed.
    challenge_seconds     how long an answer to a challenge may take.
    first_report_seconds  how long a pass of the airlock holds: until a node that is to report must have done so once.
    check_seconds         how often is looked for nodes that are silent.
    kept_days             how long what was judged is kept.
    threads               how much evidence is judged at a time.
    """

    session_seconds: int = 900
    challenge_seconds: int = 120
    first_report_seconds: int = 900
    check_seconds: float = 1.0
    kept_days: float = 30.0
    threads: int = 2

    def __post_init__(self) -> None:
        for name, least, most in (
            ("session_seconds", 10, REPORT_SECONDS.most),
            ("challenge_seconds", 5, 3600),
            ("first_report_seconds", 10, REPORT_SECONDS.most),
            ("check_seconds", 0.05, 60),
            ("kept_days", 0.01, 36500),
            ("threads", 1, 64),
        ):
            if not least <= (value := getattr(self, name)) <= most:
                raise ServiceUnready(f"reading attestation.{name}", expected=f"{least} to {most}", found=str(value))

    @property
    def longest(self) -> timedelta:
        """The longest that a verdict holds, and a little."""
        first = timedelta(seconds=self.first_report_seconds)
        return max(first, 2 * timedelta(seconds=REPORT_SECONDS.most)) + timedelta(minutes=5)


class NodeFigures(Collector):
    """How many nodes are in each state, counted when it is asked: the same in each process on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def collect(self) -> Iterable[Metric]:
        """Return the figures. Raises Unavailable."""
        with self._database.reading() as connection:
            counts = enrolling.count_nodes(connection, self._database.clock())
        figures = GaugeMetricFamily(
            "steelyard_attestation_nodes", "Nodes by what they are shown to be.", labels=["state"]
        )
        for state, count in counts.items():
            figures.add_metric([state.value], count)
        return [figures]


def make_means(database: Database, sealer: Sealer, settings: AttestationSettings, policies: Policies) -> Means:
    """Return what the routes need. The first signing key is made, where there is none."""
    signer = Signer(database, sealer)
    times = Times(timedelta(seconds=settings.challenge_seconds), timedelta(seconds=settings.first_report_seconds))
    return Means(
        registrar=Registrar(database, session=timedelta(seconds=settings.session_seconds)),
        verifier=Verifier(database, policies, signer, times),
        appraising=Appraising(settings.threads),
        sealer=sealer,
        longest=settings.longest,
    )


class Attestation:
    """The service, in one process of those that run it."""

    schema: ClassVar[Schema] = ATTESTATION

    def __init__(self, database: Database, configuration: Configuration, registry: CollectorRegistry) -> None:
        table = configuration.services["attestation"]
        settings = read_table(AttestationSettings, table, "attestation", configuration.directory)
        self._database = database
        self._sealer = read_sealer(configuration.sealing_keys)
        self._means = make_means(database, self._sealer, settings, StoredPolicies())
        retention = Retention(timedelta(days=settings.kept_days), timedelta(minutes=10))
        self._dry_runs = DryRuns(database, archive.Archive(), self._sealer)
        self._keeping = Keeping(database, retention, timedelta(seconds=settings.check_seconds), registry)
        registry.register(NodeFigures(database))

    def routers(self) -> Sequence[APIRouter]:
        """Return its routes."""
        return [attestation_router(self._means), references_router(ReferenceMeans(self._sealer))]

    def start(self) -> None:
        """Seal with the newest key what an older one sealed, have a key to sign with, and begin to look after nodes."""
        seal_anew(self._database, self._sealer)
        Signer(self._database, self._sealer).ensure_key()
        self._keeping.start()
        self._dry_runs.start()

    def stop(self) -> None:
        """End; what is being judged ends first."""
        self._dry_runs.stop(STOP_SECONDS)
        self._keeping.stop()
        self._means.appraising.stop()

    def is_ready(self) -> bool:
        """Whether it works."""
        return True


def seal_anew(database: Database, sealer: Sealer) -> None:
    """Let all that is sealed be sealed by the first key, so that the others can be taken out of the key file."""
    with database.writing() as tx:
        verdicts.seal_anew(tx, sealer)
        query = select(shares.c.node, shares.c.sealed, nodes.c.project).join(nodes, nodes.c.name == shares.c.node)
        for row in tx.connection.execute(query).all():
            if not sealer.is_current(row.sealed):
                context = f"share/{row.project}/{row.node}"
                sealed = sealer.seal(context, sealer.open(context, row.sealed))
                tx.connection.execute(update(shares).where(shares.c.node == row.node).values(sealed=sealed))
