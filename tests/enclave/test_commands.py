"""`steelyard enclave`, as a tenant's evening goes: up, looked at, one rejected, down with receipts."""

from pathlib import Path

import pytest

from steelyard.service.database import Database
from tests.enclave.site import site_on
from tests.simulated_nodes import Lie
from tests.unit.cli.command import Command

pytestmark = pytest.mark.slow


@pytest.fixture
def steelyard(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    monkeypatch.setenv("HOME", str(tmp_path))
    return Command(monkeypatch, capsys)


def test_apply_waits_shows_and_ends_as_the_enclave_did(
    steelyard: Command, sqlite_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site_on(sqlite_database, nodes=2) as site:
        token = tmp_path / "token"
        token.touch(mode=0o600)
        token.write_text(site.api.tokens["member"])
        monkeypatch.setenv("STEELYARD_URL", site.url)
        monkeypatch.setenv("STEELYARD_TOKEN_FILE", str(token))
        file = tmp_path / "enclave.yaml"
        file.write_text(site.file("attested", 2))
        site.lies["n1"] = Lie.CHANGED_FIRMWARE
        applied = steelyard("enclave", "apply", "-f", file, "--project", "red")
        assert applied.exit_code == 4, applied.errors
        assert "held" in applied.output
        assert "running" in applied.output
        del site.lies["n1"]
        assert steelyard("enclave", "retry", "red/lab").exit_code == 0
        assert "2 running" in steelyard("enclave", "show", "red/lab").output
        deleted = steelyard("enclave", "delete", "red/lab")
        assert deleted.exit_code == 0, deleted.errors
        assert deleted.output.count("power: off, as read by isolation") == 3
        assert "deleted" in deleted.output
