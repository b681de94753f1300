"""The versions of imaging's tables."""

from pathlib import Path
from typing import Final

from steelyard.imaging.tables import metadata
from steelyard.service.migrating import Schema

IMAGING: Final = Schema("imaging", metadata, Path(__file__).parent)
