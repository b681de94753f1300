"""`steelyard enclave`, against a service that listens; nothing keeps the enclaves, so that they stay as they begin."""

import json
from pathlib import Path

import pytest

from tests.unit.cli.command import Command, sign_in
from tests.unit.enclave.rig import text


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "enclave.yaml"
    path.write_text(text("open", 2))
    return path


def test_an_enclave_is_applied_shown_listed_cancelled_and_deleted(steelyard: Command, home: Path, file: Path) -> None:
    sign_in(steelyard, home, "member")
    planned = steelyard("enclave", "plan", "-f", file, "--json")
    assert (planned.exit_code, planned.json()["grow"]) == (0, 2)
    applied = steelyard("enclave", "apply", "-f", file, "--no-wait", "--json")
    assert applied.exit_code == 0, applied.errors
    assert applied.json()["enclave"]["count"] == 2
    assert "red/lab" in steelyard("enclave", "list").output
    assert "no machines" in steelyard("enclave", "show", "red/lab").output
    assert steelyard("enclave", "retry", "lab", "--no-wait").exit_code == 0
    cancelled = steelyard("enclave", "cancel", "lab", "--json")
    assert cancelled.json()["enclave"]["count"] == 0
    assert steelyard("enclave", "delete", "lab", "--no-wait").exit_code == 0
    assert steelyard("enclave", "apply", "-f", file).exit_code == 7


def test_a_file_that_is_wrong_is_refused_here_with_its_line(steelyard: Command, home: Path, tmp_path: Path) -> None:
    sign_in(steelyard, home, "member")
    path = tmp_path / "wrong.yaml"
    path.write_text(text("open", 2) + "colour: blue\n")
    ended = steelyard("enclave", "apply", "-f", path)
    assert ended.exit_code == 3
    assert "line" in ended.errors
    assert "colour" in ended.errors


def test_what_is_another_projects_is_not_there(steelyard: Command, home: Path, file: Path) -> None:
    sign_in(steelyard, home, "member")
    steelyard("enclave", "apply", "-f", file, "--no-wait")
    sign_in(steelyard, home, "stranger")
    assert "lab" not in steelyard("enclave", "list").output
    for act in ("show", "delete", "cancel", "retry"):
        assert steelyard("enclave", act, "red/lab").exit_code == 7, act


def test_the_schema_is_printed(steelyard: Command) -> None:
    assert json.loads(steelyard("enclave", "schema").output)["required"][0] == "name"
