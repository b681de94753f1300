"""Isolation as a service: its routes, its keepers and its part of the configuration, put together."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar, Final

import structlog
from fastapi import APIRouter
from prometheus_client import CollectorRegistry
from sqlalchemy import select, update

from steelyard.isolation.api import Means, isolation_router
from steelyard.isolation.bmcs import ipmi, redfish
from steelyard.isolation.keeping.keepers import Keepers
from steelyard.isolation.keeping.tenure import Settings
from steelyard.isolation.migrations import ISOLATION
from steelyard.isolation.ports import Drivers
from steelyard.isolation.switches.openvswitch import open_vswitch
from steelyard.isolation.tables import nodes, switches
from steelyard.model.errors import ServiceUnready, WrongUse
from steelyard.model.network import Vlan
from steelyard.service.configuration import Configuration, read_table
from steelyard.service.database import Database
from steelyard.service.migrating import Schema
from steelyard.service.sealing import Sealer, read_sealer

DRIVERS: Final = Drivers(
    switches={"openvswitch": open_vswitch}, bmcs={"ipmi": ipmi.connect, "redfish": redfish.connect}
)
STOP_SECONDS: Final = 25.0
"""How long a call to a device that is under way may take to end: a little more than any takes."""

_RANGE: Final = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", re.ASCII)

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class IsolationSettings:
    """The table [isolation] of the configuration.

    vlan_pool            VLANs for networks: "100-199,300"; nothing else on the switches uses them.
    check_seconds        how often every port of a switch is read, also if nothing happened.
    power_check_seconds  how often a free node's power is read.
    batch_ports          how many ports one write to a switch changes.
    node_threads         how many BMCs are talked to at a time.
    console_kept_bytes   how much of what a node said is kept.
    """

    vlan_pool: str = "100-999"
    check_seconds: float = 10.0
    power_check_seconds: float = 300.0
    batch_ports: int = 64
    node_threads: int = 16
    console_kept_bytes: int = 1024 * 1024

    def __post_init__(self) -> None:
        for name, least, most in (
            ("check_seconds", 1, 3600),
            ("power_check_seconds", 1, 86400),
            ("batch_ports", 1, 1000),
            ("node_threads", 2, 256),
            ("console_kept_bytes", 4096, 1024**3),
        ):
            if not least <= (value := getattr(self, name)) <= most:
                raise ServiceUnready(f"reading isolation.{name}", expected=f"{least} to {most}", found=str(value))

    def pool(self) -> tuple[Vlan, ...]:
        """Return the VLANs of the pool. Raises ServiceUnready."""
        found: set[Vlan] = set()
        for part in self.vlan_pool.split(","):
            matched = _RANGE.fullmatch(part.strip())
            first = int(matched[1]) if matched else 1
            last = int(matched[2]) if matched and matched[2] else first
            try:
                found |= {Vlan(number) for number in range(first, last + 1)}
            except WrongUse as cause:
                raise self._no_pool(part) from cause
            if last < first:
                raise self._no_pool(part)
        return tuple(sorted(found))

    def _no_pool(self, part: str) -> ServiceUnready:
        return ServiceUnready("reading isolation.vlan_pool", expected='VLANs 2 to 4094, as "100-199,300"', found=part)

    def keeping(self) -> Settings:
        """Return how the keepers are to work."""
        return Settings(
            check=timedelta(seconds=self.check_seconds),
            look=timedelta(seconds=self.power_check_seconds),
            batch_ports=self.batch_ports,
            node_threads=self.node_threads,
            console_bytes=self.console_kept_bytes,
        )


class Isolation:
    """The service, in one process of those that run it."""

    schema: ClassVar[Schema] = ISOLATION

    def __init__(self, database: Database, configuration: Configuration, _registry: CollectorRegistry) -> None:
        table = configuration.services["isolation"]
        settings = read_table(IsolationSettings, table, "isolation", configuration.directory)
        self._database = database
        self._sealer = read_sealer(configuration.sealing_keys)
        self._means = Means(self._sealer, DRIVERS, settings.pool())
        self._keepers = Keepers(database, DRIVERS, self._sealer, settings.keeping())

    def routers(self) -> Sequence[APIRouter]:
        """Return its routes."""
        return [isolation_router(self._means)]

    def start(self) -> None:
        """Seal with the newest key what an older one sealed, and begin to make true what is wanted."""
        seal_anew(self._database, self._sealer)
        self._keepers.start()

    def stop(self) -> None:
        """End the keepers; what they leave undone is done by the next process."""
        self._keepers.stop(STOP_SECONDS)

    def is_ready(self) -> bool:
        """Whether it works: devices that fail are told of where they are shown, and make it no less ready."""
        return True


def seal_anew(database: Database, sealer: Sealer) -> None:
    """Let all credentials be sealed by the first key, so that the others can be taken out of the key file."""
    with database.writing() as transaction:
        connection = transaction.connection
        for table, column, kind in (
            (switches, switches.c.sealed, "switch"),
            (nodes, nodes.c.bmc_sealed, "node"),
        ):
            for name, sealed in connection.execute(select(table.c.name, column)).all():
                if sealer.is_current(sealed):
                    continue
                context = f"{kind}/{name}"
                try:
                    anew = sealer.seal(context, sealer.open(context, sealed))
                except ServiceUnready as lost:
                    _log.error("credentials.lost", subject=context, error=str(lost))
                    continue
                connection.execute(update(table).where(table.c.name == name).values({column: anew}))
