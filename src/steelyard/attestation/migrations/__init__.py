"""The versions of attestation's tables."""

from pathlib import Path
from typing import Final

from steelyard.attestation.references import tables
from steelyard.service.migrating import Schema

ATTESTATION: Final = Schema("attestation", tables.metadata, Path(__file__).parent)
