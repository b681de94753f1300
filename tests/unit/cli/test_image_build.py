"""`steelyard image build`: what it refuses before anything is built. That it builds, tests/lab_rack shows."""

from pathlib import Path

import pytest

from tests.unit.cli.command import Command


@pytest.mark.parametrize(
    ("output", "words"),
    [("disk.vmdk", ()), ("away/disk.raw", ()), ("disk.raw", ("--size", "lots")), ("disk.raw", ("--package", "a;b"))],
)
def test_what_cannot_be_built_is_refused_and_nothing_is_left(
    steelyard: Command, tmp_path: Path, output: str, words: tuple[str, ...]
) -> None:
    done = steelyard("image", "build", "debian", "--output", tmp_path / output, *words)
    assert done.exit_code == 2
    assert not (tmp_path / output).exists()
