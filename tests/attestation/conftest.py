from collections.abc import Iterator

import pytest

from steelyard.service.database import Database
from tests.attestation_site import Site, site_on
from tests.unit.cli.command import Command


@pytest.fixture
def site(sqlite_database: Database) -> Iterator[Site]:
    with site_on(sqlite_database) as made:
        yield made


@pytest.fixture
def steelyard(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)
