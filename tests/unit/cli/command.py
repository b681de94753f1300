"""Runs the command line in this process."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from steelyard.cli.main import run


@dataclass(frozen=True)
class Outcome:
    """What a command ended with and printed."""

    exit_code: int
    output: str
    errors: str

    def json(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.output)
        return document


class Command:
    """The command `steelyard`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: object) -> Outcome:
        self._monkeypatch.setattr(sys, "argv", ["steelyard", *map(str, arguments)])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run()
        printed = self._capsys.readouterr()
        return Outcome(int(ended.value.code or 0), printed.out, printed.err)


def sign_in(steelyard: Command, home: Path, who: str) -> None:
    """Be one of the callers of a service that listens; see the fixture `home`."""
    url = (home / "url").read_text()
    assert steelyard("login", url, "--token-file", home / f"{who}.token").exit_code == 0
