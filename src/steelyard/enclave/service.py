"""The enclave service: routes, keeper, deliveries and its part of the configuration, put together."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from fastapi import APIRouter
from prometheus_client import CollectorRegistry

from steelyard.client.connection import Client
from steelyard.client.connection import Service as Remote
from steelyard.enclave import operations, store
from steelyard.enclave.api import Means, enclave_router
from steelyard.enclave.delivery import DeliveryServer, Find
from steelyard.enclave.keeping import Keeper
from steelyard.enclave.migrations import ENCLAVE
from steelyard.enclave.ports import ScalesAt, Services
from steelyard.enclave.services.attestation import OverAttestation
from steelyard.enclave.services.imaging import OverImaging
from steelyard.enclave.services.isolation import OverIsolation
from steelyard.enclave.worker import Worker
from steelyard.evidence.verdict import parse_key
from steelyard.model.errors import ServiceUnready, SteelyardError
from steelyard.model.limits import CERTIFICATE_BYTES, PUBLIC_KEY_BYTES, TOKEN_FILE_BYTES, Limit
from steelyard.model.secret import Secret
from steelyard.service.configuration import Configuration, read_table
from steelyard.service.database import Database
from steelyard.service.files import read_private
from steelyard.service.migrating import Schema
from steelyard.service.sealing import Sealer, read_sealer

STOP_SECONDS: Final = 25.0


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """A table [enclave.isolation] or [enclave.imaging]: where that service is, and the token of this one there.

    ca  None: who this computer trusts.
    """

    url: str
    token_file: Path
    ca: Path | None = None


@dataclass(frozen=True, slots=True)
class ScalesSettings:
    """A table [[enclave.attestation]]: an attestation service that enclave files may name.

    address       where machines in the airlock reach it: https://HOST:PORT.
    authority     the certificate, PEM, that it must show them.
    verdict_keys  whose verdicts count here, PEM: pinned, never asked for.
    """

    name: str
    url: str
    token_file: Path
    address: str
    authority: Path
    verdict_keys: tuple[Path, ...]
    ca: Path | None = None


@dataclass(frozen=True, slots=True)
class EnclaveSettings:
    """The table [enclave] of the configuration. Without `isolation` and `imaging`, files are kept and nothing is done.

    deliveries      where machines fetch what is for them: the address here on the airlock's network, "10.9.0.1".
    deliveries_port of it.
    threads         how many steps are taken at a time.
    """

    isolation: ServiceSettings | None = None
    imaging: ServiceSettings | None = None
    attestation: tuple[ScalesSettings, ...] = ()
    deliveries: str = "127.0.0.1"
    deliveries_port: int = 8090
    threads: int = 16

    def __post_init__(self) -> None:
        for name, least, most in (("deliveries_port", 0, 65535), ("threads", 1, 256)):
            if not least <= (value := getattr(self, name)) <= most:
                raise ServiceUnready(f"reading enclave.{name}", expected=f"{least} to {most}", found=str(value))
        if (self.isolation is None) != (self.imaging is None):
            expected = "[enclave.isolation] and [enclave.imaging], or neither"
            raise ServiceUnready("reading [enclave]", expected=expected, found="one of them")
        names = [each.name for each in self.attestation]
        if len(set(names)) != len(names):
            raise ServiceUnready("reading enclave.attestation", expected="a name for each", found="two of one name")


class EnclaveService:
    """The service, in one process of those that run it."""

    schema: ClassVar[Schema] = ENCLAVE

    def __init__(self, database: Database, configuration: Configuration, _registry: CollectorRegistry) -> None:
        table = configuration.services["enclave"]
        self._settings = read_table(EnclaveSettings, table, "enclave", configuration.directory)
        self._database, self._sealer = database, read_sealer(configuration.sealing_keys)
        self._ending = ExitStack()
        self.deliveries_port = self._settings.deliveries_port
        self._means = Means(self._sealer, frozenset(each.name for each in self._settings.attestation))

    def routers(self) -> Sequence[APIRouter]:
        """Return its routes."""
        return [enclave_router(self._means)]

    def start(self) -> None:
        """Seal with the newest key what an older one sealed, and begin to keep enclaves. Raises ServiceUnready."""
        with self._database.writing() as tx:
            operations.seal_anew(tx, self._sealer)
        settings = self._settings
        if settings.isolation is None or settings.imaging is None:
            return
        try:
            self._begin(settings.isolation, settings.imaging)
        except BaseException:
            self._ending.close()
            raise

    def _begin(self, isolation: ServiceSettings, imaging: ServiceSettings) -> None:
        settings = self._settings
        deliveries = DeliveryServer(
            settings.deliveries, settings.deliveries_port, find_in(self._database, self._sealer)
        )
        try:
            deliveries.start()
        except OSError as cause:
            doing = f"listening on {settings.deliveries} port {settings.deliveries_port}"
            raise ServiceUnready(doing, expected="a free port", found=cause.strerror or str(cause)) from cause
        self._ending.callback(deliveries.stop)
        self.deliveries_port = deliveries.port
        services = Services(
            OverIsolation(self._client(isolation)),
            OverImaging(self._client(imaging)),
            self._scales(),
            f"http://{settings.deliveries}:{deliveries.port}",
        )
        keeper = Keeper(self._database, Worker(self._database, self._sealer, services), settings.threads)
        keeper.start()
        self._ending.callback(keeper.stop, STOP_SECONDS)

    def _client(self, settings: ServiceSettings | ScalesSettings) -> Client:
        token = Secret(read_private(settings.token_file, TOKEN_FILE_BYTES).strip())
        try:
            client = Client(Remote(settings.url, settings.ca, token))
        except SteelyardError as cause:
            raise ServiceUnready("reading [enclave]", expected=cause.expected, found=cause.found) from cause
        self._ending.callback(client.close)
        return client

    def _scales(self) -> Mapping[str, ScalesAt]:
        found = {}
        for each in self._settings.attestation:
            keys = tuple(_read(path, PUBLIC_KEY_BYTES) for path in each.verdict_keys)
            if not keys:
                doing = f"reading enclave.attestation {each.name}"
                raise ServiceUnready(doing, expected="at least one of verdict_keys", found="none")
            for key in keys:
                try:
                    parse_key(key)
                except SteelyardError as cause:
                    doing = f"reading enclave.attestation {each.name}"
                    raise ServiceUnready(doing, expected=cause.expected, found=cause.found) from cause
            authority = _read(each.authority, CERTIFICATE_BYTES)
            found[each.name] = ScalesAt(OverAttestation(self._client(each)), each.address, authority, keys)
        return found

    def stop(self) -> None:
        """End; what is under way is taken up by the next process."""
        self._ending.close()

    def is_ready(self) -> bool:
        """Whether it works."""
        return True


def _read(path: Path, limit: Limit) -> str:
    doing = f"reading {path}"
    try:
        with path.open("rb") as file:
            data = file.read(limit.most + 1)
    except OSError as cause:
        raise ServiceUnready(doing, expected="a file", found=cause.strerror or str(cause)) from cause
    if len(data) > limit.most or not data.isascii():
        raise ServiceUnready(doing, expected=f"at most {limit.most} bytes of ASCII", found="something else")
    return data.decode("ascii")


def find_in(database: Database, sealer: Sealer) -> Find:
    """Return what finds deliveries and lists of peers in the database."""

    def find(kind: str, name: str) -> bytes | None:
        with database.reading() as connection:
            if kind == "delivery":
                return store.find_delivery(connection, name)
            enclave = store.find_enclave_of_delivery(connection, name)
            return None if enclave is None else store.signed_peers(connection, sealer, enclave)

    return find
