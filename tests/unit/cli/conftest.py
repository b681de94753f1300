"""The command line, for tests, and a service that it speaks to."""

import os
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest

from steelyard.service.database import Database
from steelyard.service.logs import LogForm, set_up_logs
from tests.api import Api, listening, make_api
from tests.filling import filled
from tests.unit.cli.command import Command
from tests.unit.isolation.rig import Rack


@pytest.fixture
def steelyard(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


@pytest.fixture
def api(sqlite_database: Database) -> Api:
    api = make_api(sqlite_database)
    filled(sqlite_database, _have_nodes)
    return api


def _have_nodes(database: Database) -> None:
    for node in ("n1", "n2"):
        Rack(database).free(node, labels={"gpu": "yes" if node == "n1" else "no"})


@pytest.fixture
def home(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logs_as_before: None) -> Iterator[Path]:  # noqa: ARG001 (asked for what it does)
    """The home of somebody who may sign in as anyone; the service listens."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("STEELYARD_URL", "STEELYARD_CA", "STEELYARD_TOKEN_FILE", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    for name, token in api.tokens.items():
        path = tmp_path / f"{name}.token"
        path.touch(mode=0o600)
        path.write_text(token + "\n")
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)  # the computer's take long to read, and no test asks for them
    set_up_logs(LogForm.JSON, StringIO())  # the service's; they would be among what the commands print
    with listening(api.app) as url:
        (tmp_path / "url").write_text(url)
        yield tmp_path
