"""The versions of isolation's tables."""

from pathlib import Path
from typing import Final

from steelyard.isolation.tables import metadata
from steelyard.service.migrating import Schema

ISOLATION: Final = Schema("isolation", metadata, Path(__file__).parent)
