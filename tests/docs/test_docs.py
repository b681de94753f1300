"""The documents are true: their commands run, their examples are read, their links lead somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from steelyard.evidence.policy import parse_policy
from steelyard.evidence.tpm.nonce import NonceWithKeys
from steelyard.service.database import Database
from tests.attesting import attestation_service
from tests.enclave.site import site_on
from tests.lab.recording import record_machines
from tests.lab_rack.rack import require_rack
from tests.reference_service import reference_service

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
_BLOCK = re.compile(r"^```console( machine| rack| service| nodes)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
_POLICY = re.compile(r"^```json policy\n(.*?)^```", re.MULTILINE | re.DOTALL)
_CUT = "-- next command --"
_LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _pages(marker: str) -> list[Path]:
    return [page for page in PAGES if any(found[0] == marker for found in _BLOCK.findall(page.read_text()))]


def _slower(page: Path) -> object:
    """Return the page, marked if it starts services."""
    starts = "steelyard serve" in page.read_text()
    return pytest.param(page, marks=pytest.mark.slow if starts else [], id=_name(page))


@pytest.mark.parametrize("page", [_slower(page) for page in _pages("")])
def test_the_commands_of_a_page_do_what_it_shows(page: Path, tmp_path: Path) -> None:
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    _run(page, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", _pages(" service"), ids=_name)
def test_the_commands_of_a_page_about_a_service_do_what_it_shows_on_one(page: Path, tmp_path: Path) -> None:
    with reference_service(tmp_path):
        _run(page, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", _pages(" nodes"), ids=_name)
def test_the_commands_of_a_page_about_nodes_do_what_it_shows_with_some(page: Path, tmp_path: Path) -> None:
    with attestation_service(tmp_path):
        _run(page, tmp_path)


@pytest.mark.slow
def test_the_program_of_the_client_librarys_page_prints_what_it_shows(
    sqlite_database: Database, tmp_path: Path
) -> None:
    page = (ROOT / "docs" / "howto" / "use-the-client-library.md").read_text()
    program = "".join(re.findall(r"^```python enclave\n(.*?)^```", page, re.MULTILINE | re.DOTALL))
    [shown] = re.findall(r"^```text enclave\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    token = tmp_path / "token"
    with site_on(sqlite_database) as site:
        token.write_text(site.api.tokens["member"])
        environment = {**os.environ, "STEELYARD_URL": site.url, "STEELYARD_TOKEN_FILE": str(token)}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 0, done.stderr
    pattern = ".*".join(re.escape(part) for part in shown.split("..."))
    assert re.fullmatch(pattern, done.stdout), done.stdout


@pytest.mark.rack
@pytest.mark.parametrize("page", _pages(" machine"), ids=_name)
def test_the_commands_of_a_page_about_machines_do_what_it_shows_on_real_ones(page: Path, tmp_path: Path) -> None:
    record_machines(tmp_path)
    _run(page, tmp_path)


@pytest.mark.rack
@pytest.mark.parametrize("page", _pages(" rack"), ids=_name)
def test_the_commands_of_a_page_about_the_rack_do_what_it_shows_on_one(page: Path, tmp_path: Path) -> None:
    require_rack()
    _run(page, tmp_path)


def _run(page: Path, directory: Path) -> None:
    """Run the commands of a page in their order, in one shell, and compare what they print.

    A line that begins with "$ " is a command, "> " goes on with it; the lines after it, if any, are what it prints,
    "..." standing for anything. A command must end with 0.
    """
    commands: list[str] = []
    expected: list[str] = []
    for _, block in _BLOCK.findall(page.read_text()):
        for line in re.sub(r"\\\n *(?!>)", "", block).splitlines():
            if line.startswith("$ "):
                commands.append(line[2:])
                expected.append("")
            elif line.startswith("> "):
                commands[-1] += "\n" + line[2:]
            else:
                expected[-1] += line + "\n"
    script = "set -eu -o pipefail\n" + "".join(f"echo '{_CUT}'\n{command}\n" for command in commands)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(directory)}
    done = subprocess.run(
        ["bash", "-c", script], cwd=directory, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    printed = done.stdout.split(_CUT + "\n")[1:]
    assert len(printed) == len(commands)
    for command, wanted, got in zip(commands, expected, printed, strict=True):
        if wanted:
            pattern = re.escape(wanted.rstrip()).replace(re.escape("..."), r"[\s\S]*?")
            assert re.fullmatch(pattern, got.rstrip()), f"{command}\nexpected:\n{wanted}\nprinted:\n{got}"


def test_the_policies_in_the_documents_are_read() -> None:
    examples = [example for page in PAGES for example in _POLICY.findall(page.read_text())]
    assert examples
    for example in examples:
        parse_policy(example.encode())


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    for target in _LINK.findall(page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_documented_example_of_qualifying_data_is_what_the_code_computes() -> None:
    page = (ROOT / "docs" / "formats.md").read_text()
    row = dict(re.findall(r"^\| ([^|]+?) \| `([^`]+)` \|$", page, re.MULTILINE))
    nonce, transport, wireguard = (bytes.fromhex(row[name]) for name in ("nonce", "transport key", "WireGuard key"))
    whole = NonceWithKeys(nonce, transport, wireguard, row["parameters"].encode())
    assert whole.qualifying_data().hex() == row["extraData"]
    least = NonceWithKeys(nonce, transport, None, None)
    assert least.qualifying_data().hex() == row["extraData without WireGuard key and parameters"]
