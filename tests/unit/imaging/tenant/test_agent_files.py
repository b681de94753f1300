"""The agent in a tenant's image: there when asked for, told what to do, and whole enough for Debian's own Python."""

import io
import subprocess
import tarfile
from pathlib import Path
from typing import Final

import pytest

from steelyard.imaging.tenant import debian
from steelyard.imaging.tenant.debian import OnRejection, Recipe
from tests.tpm import require_programs

FOLDER: Final = "usr/lib/steelyard/python/steelyard"
UNIT: Final = "etc/systemd/system/steelyard-agent.service"


def recipe(agent: OnRejection | None) -> Recipe:
    return Recipe("bookworm", "linux-image-cloud-amd64", (), 1 << 30, agent)


def unpacked(agent: OnRejection | None, folder: Path) -> Path:
    with tarfile.open(fileobj=io.BytesIO(debian._our_files(agent))) as archive:
        archive.extractall(folder, filter="data")
    return folder


def test_an_image_has_the_agent_only_when_asked_for(tmp_path: Path) -> None:
    without, with_it = unpacked(None, tmp_path / "without"), unpacked(OnRejection.STOP, tmp_path / "with")
    assert not (without / UNIT).exists()
    assert not (without / FOLDER).exists()
    assert (with_it / UNIT).exists()
    assert sorted(path.name for path in (with_it / FOLDER).iterdir()) == ["__init__.py", "agent", "evidence", "model"]


@pytest.mark.parametrize("agent", OnRejection)
def test_what_it_does_with_a_rejected_machine_is_written_down_where_the_tenant_finds_it(
    tmp_path: Path, agent: OnRejection
) -> None:
    assert (unpacked(agent, tmp_path) / "etc/steelyard/agent.conf").read_text() == f"ON_REJECTION={agent}\n"


def test_its_kernel_measures_and_another_is_told_nothing_of_it() -> None:
    assert "ima_policy=tcb" in recipe(OnRejection.STOP).command_line.split()
    assert "ima_policy" not in recipe(None).command_line


def test_systemd_has_nothing_to_say_against_its_unit(tmp_path: Path) -> None:
    require_programs({"systemd-analyze": "systemd"})
    unit = unpacked(OnRejection.STOP, tmp_path) / UNIT
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert "steelyard-agent" not in done.stderr


@pytest.mark.slow
def test_debians_python_runs_it_as_the_unit_says_to_the_lack_of_a_session(tmp_path: Path) -> None:
    require_programs({"/usr/lib/python3/dist-packages/tpm2_pytss/ESAPI.py": "python3-tpm2-pytss"})
    root = unpacked(OnRejection.STOP, tmp_path / "root")
    unit = (root / UNIT).read_text().replace("\\\n", "")
    (line,) = [line.removeprefix("ExecStart=") for line in unit.splitlines() if line.startswith("ExecStart=")]
    words = line.replace("${ON_REJECTION}", "stop").replace("/run/steelyard", str(tmp_path)).split()
    done = subprocess.run(
        words,
        env={"PYTHONPATH": str(root / FOLDER).removesuffix("/steelyard")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4
    assert "there is no session" in done.stderr
    assert "RestartPreventExitStatus=3 4" in unit
