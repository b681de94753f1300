"""Asking a rack: answers and errors come across as they are."""

import asyncio
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from steelyard.lab import control
from steelyard.model.errors import LabFailed, WrongUse


async def _echo(request: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"heard": request["words"]}


async def _refuse(_: Mapping[str, Any]) -> Mapping[str, Any]:
    raise WrongUse("asking", expected="sense", found="none")


def _ask(path: Path, verb: str, **arguments: object) -> Mapping[str, Any]:
    async def play() -> Mapping[str, Any]:
        async with await control.serve(path, {"echo": _echo, "refuse": _refuse}):
            return await asyncio.to_thread(control.ask, path, verb, **arguments)

    return asyncio.run(play())


def test_an_answer_comes_across(tmp_path: Path) -> None:
    assert _ask(tmp_path / "s", "echo", words="hello") == {"heard": "hello"}


def test_an_error_comes_across_as_it_was_raised(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="asking: expected sense; found none"):
        _ask(tmp_path / "s", "refuse")


def test_a_word_that_the_rack_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="echo, refuse"):
        _ask(tmp_path / "s", "power")


def test_a_rack_that_is_not_there_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(LabFailed, match="a rack that runs"):
        control.ask(tmp_path / "nobody", "echo")


def test_a_question_that_is_not_json_ends_the_connection_alone(tmp_path: Path) -> None:
    def ask_nonsense() -> bytes:
        with socket.socket(socket.AF_UNIX) as wire:
            wire.connect(str(tmp_path / "s"))
            wire.sendall(b"nonsense\n")
            return wire.recv(4096)

    async def play() -> bytes:
        async with await control.serve(tmp_path / "s", {"echo": _echo}):
            return await asyncio.to_thread(ask_nonsense)

    assert json.loads(asyncio.run(play()))["error"]["code"] == "wrong-use"
