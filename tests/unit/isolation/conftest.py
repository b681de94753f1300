import pytest

from steelyard.service.database import Database
from tests.unit.isolation.rig import Rack, make_rack


@pytest.fixture
def rack(database: Database) -> Rack:
    """A rack in a fresh database of each kind."""
    return make_rack(database)
