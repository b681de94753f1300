"""The documents are true: their commands run, their examples are read, their links lead somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from steelyard.evidence.policy import parse_policy

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
_BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
_POLICY = re.compile(r"^```json policy\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [page for page in PAGES if _BLOCK.search(page.read_text())], ids=_name)
def test_the_commands_of_a_page_do_what_it_shows(page: Path, tmp_path: Path) -> None:
    """Commands run in the order of the page, in one shell from a copy of nothing but the checkout's own vectors.

    A line that begins with "$ " is a command; the lines after it, if any, are what it prints, "..." standing for any
    lines. A command ends with 0 unless the page says otherwise by "; echo $?" in it.
    """
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    script = "set -eu -o pipefail\n"
    expected: list[str] = []
    for block in _BLOCK.findall(page.read_text()):
        script += "cd " + str(tmp_path) + "\n"
        for line in re.sub(r"\\\n", "", block).splitlines():
            if line.startswith("$ "):
                script += f"echo {len(expected)}'>>>'\n{line[2:]}\n"
                expected.append("")
            else:
                expected[-1] += line + "\n"
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    printed = re.split(r"^\d+>>>\n", done.stdout, flags=re.MULTILINE)[1:]
    assert len(printed) == len(expected)
    for wanted, got in zip(expected, printed, strict=True):
        if wanted:
            pattern = re.escape(wanted.rstrip()).replace(re.escape("..."), r"[\s\S]*?")
            assert re.fullmatch(pattern, got.rstrip()), f"expected:\n{wanted}\nprinted:\n{got}"


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
