"""Runs services in this process until it is told to end: database, keepers, HTTP, in this order, and back."""

import asyncio
import fcntl
import os
import resource
import signal
import socket
import ssl
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Final, Protocol

import structlog
import uvicorn
import uvloop
from fastapi import APIRouter
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from steelyard.model.errors import ServiceUnready
from steelyard.model.limits import SIGNING_KEY_BYTES
from steelyard.service import leases
from steelyard.service.api import shared_router
from steelyard.service.bounded_http import BoundedHttp
from steelyard.service.configuration import Configuration, HttpSettings, read_configuration
from steelyard.service.database import Database
from steelyard.service.delivering import Deliveries
from steelyard.service.files import read_private
from steelyard.service.gate import Gate
from steelyard.service.http import Front, make_app
from steelyard.service.listening import Listener
from steelyard.service.logs import set_up_logs
from steelyard.service.migrating import SERVICE, Schema, migrate
from steelyard.service.openid import Issuer
from steelyard.service.outbound import Outbound, verification
from steelyard.service.sealing import Sealer, read_sealer
from steelyard.service.webhooks import WebhookSettings
from steelyard.service.webhooks_api import webhooks_router

LOCK_FILE: Final = "serving.lock"
GRACE_SECONDS: Final = 10
"""How long requests that are being answered may take once the service is to end."""

_log = structlog.get_logger()


class Worker(Protocol):
    """Something that works by itself, beside the requests."""

    def start(self) -> None:
        """Begin."""

    def stop(self) -> None:
        """End; return when it has."""


class Service(Worker, Protocol):
    """One of the services, in a process that runs it."""

    def routers(self) -> Sequence[APIRouter]:
        """Return its routes."""

    def is_ready(self) -> bool:
        """Whether it works."""


class MakesService(Protocol):
    """Makes a service of what all share and its own part of the configuration."""

    @property
    def schema(self) -> Schema:
        """Its tables."""

    def __call__(self, database: Database, configuration: Configuration, registry: CollectorRegistry, /) -> Service:
        """Return it, not yet begun. Raises ServiceUnready."""


def serve(directory: Path, known: Mapping[str, MakesService], wanted: Sequence[str]) -> None:
    """Run the services of an installation until SIGTERM or SIGINT. Raises ServiceUnready."""
    os.umask(0o077)
    configuration = read_configuration(directory, frozenset(known))
    set_up_logs(configuration.logs.form)
    _allow_many_connections()
    makers = [known[name] for name in wanted]
    registry = CollectorRegistry()
    with ExitStack() as ending:
        listening = ending.enter_context(_listen(configuration.http))
        database = _open_database(configuration)
        ending.callback(database.close)
        if database.embedded:
            ending.enter_context(_alone(configuration.directory))
        migrate(database, SERVICE, *(maker.schema for maker in makers))
        if database.embedded:
            # Those of a process that was killed: nobody else is there to hold any.
            with database.writing() as transaction:
                leases.end_all(transaction)
        issuer = None if configuration.openid is None else Issuer(configuration.openid)
        if issuer is not None:
            ending.callback(issuer.close)
        services = [maker(database, configuration, registry) for maker in makers]
        sealer = read_sealer(configuration.sealing_keys)
        workers: list[Worker] = [
            Listener(database),
            _deliveries(database, configuration.webhooks, sealer, registry),
            *services,
        ]
        for worker in workers:
            worker.start()
            ending.callback(worker.stop)
        front = Front(
            database, Gate(database, issuer), registry, lambda: all(service.is_ready() for service in services)
        )
        # The services' own first: theirs are asked for most, and paths are tried one after the other.
        routers = [router for service in services for router in service.routers()]
        routers += [webhooks_router(sealer, configuration.webhooks), shared_router()]
        app = make_app(front, routers, metadata.version("steelyard"))
        _log.info("serving", services=list(wanted), address=_address(configuration.http, listening))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
            loop.run(_answer(app, front, configuration.http, listening))
        _log.info("ending")


def _deliveries(
    database: Database, settings: WebhookSettings, sealer: Sealer, registry: CollectorRegistry
) -> Deliveries:
    return Deliveries(database, Outbound(settings.reach(), verification(settings.ca)), sealer, settings, registry)


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Be the only process that serves from this directory. Raises ServiceUnready."""
    with os.fdopen(os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as cause:
            expected = "no other process on it; with PostgreSQL, several share the work"
            raise ServiceUnready(f"serving from {directory}", expected=expected, found="one that serves") from cause
        yield


class _Server(uvicorn.Server):
    """Uvicorn, that tells who waits when it is to end, and then returns rather than die of the signal."""

    def __init__(self, config: uvicorn.Config, stop: Callable[[], object]) -> None:
        super().__init__(config)
        self._stop = stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 (the name is uvicorn's)
        """End in order; at a second Ctrl-C, at once."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True
        self._stop()


async def _answer(app: ASGIApp, front: Front, settings: HttpSettings, listening: socket.socket) -> None:
    config = uvicorn.Config(
        app,
        http=BoundedHttp,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.proxies),
        forwarded_allow_ips=list(settings.proxies),
        timeout_graceful_shutdown=GRACE_SECONDS,
        ssl_context_factory=None if settings.key is None else lambda _config, _default: _tls(settings),
    )
    loop = asyncio.get_running_loop()
    server = _Server(config, lambda: loop.call_soon_threadsafe(front.stop))
    await server.serve(sockets=[listening])


def _tls(settings: HttpSettings) -> ssl.SSLContext:
    if settings.certificate is None or settings.key is None:
        raise ValueError("no certificate")
    read_private(settings.key, SIGNING_KEY_BYTES)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.certificate, settings.key)
    except OSError as cause:  # SSLError is one
        found = cause.strerror or str(cause)
        raise ServiceUnready("reading the certificate", expected="it and its key, PEM", found=found) from cause
    return context


def _listen(settings: HttpSettings) -> socket.socket:
    doing = f"listening on {settings.host} port {settings.port}"
    try:
        [family, *_], *_ = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
        return socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as cause:
        raise ServiceUnready(doing, expected="a free port", found=cause.strerror or str(cause)) from cause


def _address(settings: HttpSettings, listening: socket.socket) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{'http' if settings.key is None else 'https'}://{host}:{listening.getsockname()[1]}"


def _open_database(configuration: Configuration) -> Database:
    database = Database(configuration.database.url)
    if database.embedded and database.url.database is not None:
        path = Path(database.url.database)
        doing = f"opening {path}"
        try:
            status = path.lstat()
        except OSError as cause:
            expected = "the database that `steelyard init` makes"
            raise ServiceUnready(doing, expected=expected, found=cause.strerror or str(cause)) from cause
        if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
            raise ServiceUnready(doing, expected="a file, mode 0600", found=stat.filemode(status.st_mode))
    return database


def _allow_many_connections() -> None:
    """Let this process have as many descriptors as it may: each client that waits is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
