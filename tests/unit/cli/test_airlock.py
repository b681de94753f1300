from pathlib import Path

import pytest

from steelyard.model.errors import ExitCode
from tests.unit.cli.command import Command

EDITION = ("--serial", "1", "--valid-days", "1")


@pytest.mark.parametrize("wrong", ["--driver=../module", "--kernel=-o=x", "--issued=yesterday"])
def test_a_build_of_what_has_no_such_name_is_not_begun(steelyard: Command, wrong: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    done = steelyard("airlock", "build", "--output", output, *EDITION, wrong)
    assert done.exit_code == ExitCode.WRONG_USE
    assert not output.exists()


def test_a_place_that_cannot_be_written_is_told(steelyard: Command, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = steelyard("airlock", "build", "--output", tmp_path / "file", *EDITION)
    assert done.exit_code == ExitCode.WRONG_USE
