"""The versions of attestation's tables."""

from pathlib import Path
from typing import Final

from steelyard.attestation.tables import metadata
from steelyard.service.migrating import Schema

ATTESTATION: Final = Schema("attestation", metadata, Path(__file__).parent)
