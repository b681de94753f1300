"""How the command line asks a running rack for what has no wire in a data centre: faults, legs, status.

There is no word for power in it: that is the BMC's. One request, one answer, each a line of JSON.
"""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from steelyard.model.errors import LabFailed, LabUnready, SteelyardError, WrongUse

LINE_BYTES: Final = 1024 * 1024
LIMIT_SECONDS: Final = 60.0

Verb = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]

_KINDS: Final = {kind.code: kind for kind in (LabFailed, LabUnready, WrongUse)}


def encode_error(error: SteelyardError) -> dict[str, str]:
    """Return the error for the other side to raise."""
    return {"code": error.code, "doing": error.doing, "expected": error.expected, "found": error.found}


def decode_error(document: Mapping[str, str]) -> SteelyardError:
    """Return the error that the other side met."""
    kind = _KINDS.get(document["code"], LabFailed)
    return kind(document["doing"], expected=document["expected"], found=document["found"])


async def serve(path: Path, verbs: Mapping[str, Verb]) -> asyncio.Server:
    """Answer requests at the socket `path`."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await reader.readline()
            try:
                response: Mapping[str, Any] = {"answer": await _carry_out(line, verbs)}
            except SteelyardError as refused:
                response = {"error": encode_error(refused)}
            writer.write(json.dumps(response).encode() + b"\n")
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    path.unlink(missing_ok=True)
    return await asyncio.start_unix_server(answer, path, limit=LINE_BYTES)


async def _carry_out(line: bytes, verbs: Mapping[str, Verb]) -> Mapping[str, Any]:
    try:
        request = json.loads(line)
        verb = verbs[request["verb"]]
    except (ValueError, KeyError, TypeError) as cause:
        raise WrongUse("asking the rack", expected=f"one of {', '.join(verbs)}", found=repr(cause)) from cause
    return await verb(request)


def ask(path: Path, verb: str, **arguments: object) -> Mapping[str, Any]:
    """Return the rack's answer. Raises LabFailed if it is not there, and what it raised itself."""
    doing = "asking the rack"
    try:
        with socket.socket(socket.AF_UNIX) as wire:
            wire.settimeout(LIMIT_SECONDS)
            wire.connect(str(path))
            wire.sendall(json.dumps({"verb": verb, **arguments}).encode() + b"\n")
            with wire.makefile("rb") as answers:
                line = answers.readline(LINE_BYTES)
    except OSError as cause:
        raise LabFailed(doing, expected=f"a rack that runs, at {path}", found=str(cause)) from cause
    if not line:
        raise LabFailed(doing, expected="an answer", found="none: the rack stopped")
    response = json.loads(line)
    if "error" in response:
        raise decode_error(response["error"])
    answer: Mapping[str, Any] = response["answer"]
    return answer
