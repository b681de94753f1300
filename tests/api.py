"""A service with the APIs of all services, in this process or listening on a port, and callers of every kind.

No keeper or worker runs: what is wanted stays wanted until a test has it done.
"""

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Final

import uvicorn
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from steelyard.attestation import api as attestation
from steelyard.attestation.references import api as references
from steelyard.attestation.references.policies import StoredPolicies
from steelyard.attestation.service import AttestationSettings, make_means
from steelyard.attestation.throttle import Buckets, Rate
from steelyard.client.connection import Client, Service
from steelyard.enclave import api as enclave
from steelyard.imaging import api as imaging
from steelyard.isolation.api import Means, isolation_router
from steelyard.isolation.ports import Drivers
from steelyard.model.secret import Secret
from steelyard.service import accounts
from steelyard.service.accounts import ALL_RIGHTS, Kind
from steelyard.service.api import shared_router
from steelyard.service.authority import Office, Right, Role
from steelyard.service.database import Database
from steelyard.service.gate import Gate
from steelyard.service.http import Edge, Front
from steelyard.service.sealing import Sealer
from steelyard.service.webhooks import WebhookSettings
from steelyard.service.webhooks_api import webhooks_router
from tests.applications import STORAGE, WEIGHING, Own, answering, make_shared
from tests.fakes.storage import FakeStorage
from tests.filling import filled
from tests.unit.attestation.references import rig as references_rig
from tests.unit.imaging import rig as imaging_rig
from tests.unit.isolation import rig
from tests.unit.isolation.rig import POOL, SEALER, Rack, make_rack

START_SECONDS: Final = 20
ENCLAVE_SEALER: Final = Sealer({b"key1": Secret(bytes(range(32)))})
HOOKS: Final = WebhookSettings(allow=("127.0.0.0/8",), seconds=5)
"""Receivers of tests are on this computer."""


@dataclass(frozen=True, slots=True)
class Api:
    """The service: its rack, its images and volumes, its front, and a token of each caller by name."""

    rack: Rack
    imaging: imaging_rig.World
    storage: FakeStorage
    front: Front
    app: ASGIApp
    tokens: Mapping[str, str]

    @property
    def database(self) -> Database:
        """What it remembers."""
        return self.rack.database


def make_api(database: Database, drivers: Drivers = rig.DRIVERS) -> Api:
    """Return a service with projects red and blue, switches s1 and s2, no nodes, and these callers.

    provider, auditor; admin, member: of red; stranger: a member of blue; nobody: in no project.
    """
    rack = make_rack(database)
    front = Front(database, Gate(database, None), CollectorRegistry(), lambda: True)
    storage = FakeStorage()
    weighing = make_means(database, references_rig.SEALER, AttestationSettings(), StoredPolicies())
    weighing.sources = Buckets(Rate(burst=1_000_000, seconds=0.001))  # tests ask more often than a rack
    shared = _shared() if drivers is rig.DRIVERS else _make_shared(drivers)
    app = answering(shared, Own(front, weighing, storage))
    return Api(rack, imaging_rig.World(database), storage, front, app, filled(database, _make_callers))


@cache
def _shared() -> Edge:
    return _make_shared(rig.DRIVERS)


def _make_shared(drivers: Drivers) -> Edge:
    trouble = {"red-net": "no cable"}
    storing = imaging.Means(
        imaging_rig.SEALER, imaging_rig.NETWORKS, imaging_rig.QUOTA, STORAGE, STORAGE, lambda: trouble
    )
    return make_shared(
        [
            shared_router(),
            webhooks_router(SEALER, HOOKS),
            isolation_router(Means(SEALER, drivers, POOL)),
            imaging.imaging_router(storing),
            references.references_router(references.Means(references_rig.SEALER)),
            enclave.enclave_router(enclave.Means(ENCLAVE_SEALER, frozenset({"own"}))),
            attestation.attestation_router(WEIGHING),
        ]
    )


def _make_callers(database: Database) -> dict[str, str]:
    people: tuple[tuple[str, Office | None, str | None, Role], ...] = (
        ("auditor", Office.AUDITOR, None, Role.MEMBER),
        ("admin", None, "red", Role.ADMIN),
        ("member", None, "red", Role.MEMBER),
        ("stranger", None, "blue", Role.MEMBER),
        ("nobody", None, None, Role.MEMBER),
    )
    with database.writing() as tx:
        _, secret = accounts.make_first_token(tx, "provider", "test")
        tokens = {"provider": secret.reveal().decode()}
    for name, office, project, role in people:
        with database.writing() as tx:
            provider = accounts.sign_in(tx.connection, tokens["provider"], tx.now)
            accounts.put_account(tx, provider, name, Kind.USER, office, None)
            if project is not None:
                accounts.put_member(tx, provider, project, name, role)
        tokens[name] = make_token(database, tokens["provider"], name, office=office)
    return tokens


def make_token(
    database: Database,
    maker: str,
    account: str,
    *,
    rights: frozenset[Right] = ALL_RIGHTS,
    office: Office | None = None,
    project: str | None = None,
) -> str:
    """Return a token, made by whoever has `maker`."""
    with database.writing() as tx:
        _, secret = accounts.make_token(
            tx,
            accounts.sign_in(tx.connection, maker, tx.now),
            account,
            project=project,
            rights=rights,
            office=office,
            lasts=timedelta(days=1),
            words="for a test",
        )
    return secret.reveal().decode()


class _Server(uvicorn.Server):
    """A server that ends when it is told, not when it next looks."""

    async def main_loop(self) -> None:
        self.loop, self.told = asyncio.get_running_loop(), asyncio.Event()
        await self.on_tick(0)
        self.up.set()
        await self.told.wait()

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="off"))
        self.up = threading.Event()


@contextmanager
def listening(app: ASGIApp) -> Iterator[str]:
    """Let it listen on a free port of this computer; give its URL."""
    server = _Server(app)
    thread = threading.Thread(target=server.run, name="api")
    thread.start()
    try:
        assert server.up.wait(START_SECONDS)
        host, port = server.servers[0].sockets[0].getsockname()
        yield f"http://{host}:{port}"
    finally:
        if server.up.is_set():
            server.loop.call_soon_threadsafe(server.told.set)
        thread.join()


def client_of(url: str, token: str | None) -> Client:
    """Return the client of whoever has this token."""
    return Client(Service(url, None, None if token is None else Secret(token.encode())))
