import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from steelyard.service.database import Database
from tests.api import make_api
from tests.conformance.api.world import World


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Iterator[World]:
    path = tmp_path_factory.mktemp("world") / "steelyard.db"
    shutil.copyfile(sqlite_template, path)
    made = World(make_api(Database(f"sqlite:///{path}")), path)
    yield made
    made.close()
