import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import event

from steelyard.service.database import Database
from tests.api import make_api
from tests.conformance.api.world import World
from tests.databases import be_quick


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Iterator[World]:
    path = tmp_path_factory.mktemp("world") / "steelyard.db"
    shutil.copyfile(sqlite_template, path)
    database = Database(f"sqlite:///{path}")
    event.listen(database.engine, "connect", be_quick)
    made = World(make_api(database), path)
    yield made
    made.close()
