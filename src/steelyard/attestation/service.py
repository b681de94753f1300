"""Attestation as a service: its routes, its timers and its part of the configuration, put together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fastapi import APIRouter
from prometheus_client import CollectorRegistry

from steelyard.attestation.migrations import ATTESTATION
from steelyard.service.configuration import Configuration, read_table
from steelyard.service.database import Database
from steelyard.service.http import guarded_router
from steelyard.service.migrating import Schema


@dataclass(frozen=True, slots=True)
class AttestationSettings:
    """The table [attestation] of the configuration."""


class Attestation:
    """The service, in one process of those that run it."""

    schema: ClassVar[Schema] = ATTESTATION

    def __init__(self, database: Database, configuration: Configuration, _registry: CollectorRegistry) -> None:
        table = configuration.services["attestation"]
        self._settings = read_table(AttestationSettings, table, "attestation", configuration.directory)
        self._database = database

    def routers(self) -> Sequence[APIRouter]:
        """Return its routes."""
        return [guarded_router()]

    def start(self) -> None:
        """Begin."""

    def stop(self) -> None:
        """End."""

    def is_ready(self) -> bool:
        """Whether it works."""
        return True
