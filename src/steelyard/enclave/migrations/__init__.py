"""The versions of the enclave service's tables."""

from pathlib import Path
from typing import Final

from steelyard.enclave.tables import metadata
from steelyard.service.migrating import Schema

ENCLAVE: Final = Schema("enclave", metadata, Path(__file__).parent)
