import pytest

from steelyard.service.database import Database
from tests.unit.imaging.rig import World


@pytest.fixture
def world(database: Database) -> World:
    """Imaging's tables in a fresh database of each kind."""
    return World(database)
