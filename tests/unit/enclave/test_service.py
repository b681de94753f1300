"""The service as its configuration says: what is wrong in it is told at the start, and nothing is begun."""

from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from steelyard.enclave.service import EnclaveService
from steelyard.model.errors import ServiceUnready
from steelyard.service.configuration import Configuration, DatabaseSettings, HttpSettings, LogSettings
from steelyard.service.database import Database
from steelyard.service.sealing import make_key_file
from steelyard.service.webhooks import WebhookSettings
from tests.fakes.enclave_world import AUTHORITY, World
from tests.unit.enclave.rig import Clock


def table(**changed: Any) -> dict[str, Any]:
    remote = {"url": "http://127.0.0.1:9", "token_file": "token"}
    own = {
        **remote,
        "name": "own",
        "address": "https://10.9.0.1",
        "authority": "authority.pem",
        "verdict_keys": ["verdict.pem"],
    }
    return {"isolation": remote, "imaging": remote, "attestation": [own], "deliveries_port": 0, **changed}


def make(database: Database, directory: Path, settings: dict[str, Any]) -> EnclaveService:
    make_key_file(directory / "sealing.key")
    (directory / "token").touch(mode=0o600)
    (directory / "token").write_text("sy_1_2\n")
    (directory / "authority.pem").write_text(AUTHORITY)
    (directory / "verdict.pem").write_text(World(Clock(), 0).verdict_key)
    configuration = Configuration(
        directory=directory,
        database=DatabaseSettings("sqlite:///x"),
        http=HttpSettings("127.0.0.1", 0),
        logs=LogSettings(),
        openid=None,
        webhooks=WebhookSettings(),
        sealing_keys=directory / "sealing.key",
        services={"enclave": settings},
    )
    return EnclaveService(database, configuration, CollectorRegistry())


def test_it_starts_serves_deliveries_and_ends(sqlite_database: Database, tmp_path: Path) -> None:
    service = make(sqlite_database, tmp_path, table())
    service.start()
    try:
        assert service.is_ready()
        with closing(HTTPConnection("127.0.0.1", service.deliveries_port, timeout=10)) as connection:
            connection.request("GET", "/delivery/" + "0" * 32)
            assert connection.getresponse().status == 404
    finally:
        service.stop()


def test_without_services_it_keeps_files_alone(sqlite_database: Database, tmp_path: Path) -> None:
    service = make(sqlite_database, tmp_path, {})
    service.start()
    service.stop()


@pytest.mark.parametrize(
    "changed",
    [
        {"imaging": None},
        {"threads": 0},
        {"deliveries_port": -1},
        {"deliveries": "192.0.2.1"},
        {"attestation": table()["attestation"] * 2},
        {"attestation": [{**table()["attestation"][0], "verdict_keys": []}]},
        {"attestation": [{**table()["attestation"][0], "verdict_keys": ["authority.pem"]}]},
        {"attestation": [{**table()["attestation"][0], "authority": "absent"}]},
        {"isolation": {"url": "ftp://127.0.0.1", "token_file": "token"}},
        {"isolation": {"url": "http://192.0.2.1", "token_file": "token"}},
        {"isolation": {"url": "http://127.0.0.1:9", "token_file": "absent"}},
        {"isolation": {"url": "http://127.0.0.1:9"}},
        {"colour": "blue"},
    ],
    ids=str,
)
def test_what_is_wrong_is_told_at_the_start(sqlite_database: Database, tmp_path: Path, changed: dict[str, Any]) -> None:
    wrong = {name: value for name, value in table(**changed).items() if value is not None}
    with pytest.raises(ServiceUnready):
        make(sqlite_database, tmp_path, wrong).start()
