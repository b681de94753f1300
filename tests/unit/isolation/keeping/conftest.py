from collections.abc import Iterator

import pytest

from steelyard.service.database import Database
from tests.unit.isolation.keeping.rig import World, a_world


@pytest.fixture
def empty(database: Database) -> Iterator[World]:
    """Two switches, two projects, no nodes."""
    with a_world(database.url.render_as_string(hide_password=False)) as world:
        for project in ("red", "blue"):
            world.project(project)
        for switch in ("s1", "s2"):
            world.switch(switch, [f"p{number}" for number in range(1, 9)])
        yield world


@pytest.fixture
def world(empty: World) -> World:
    """Nodes n1 and n2, each red's, with a NIC at s1; networks wine and sherry, red's, on VLANs 100 and 101."""
    for number in (1, 2):
        empty.node(f"n{number}", ("s1", f"p{number}"))
    empty.network("wine", "red", 100)
    empty.network("sherry", "red", 101)
    empty.free("n1", "n2")
    for name in ("n1", "n2"):
        empty.allocate(name, "red")
    return empty
