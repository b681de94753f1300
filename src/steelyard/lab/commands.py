"""Run another program to its end, and say what it said if it failed."""

import asyncio
import subprocess
from collections.abc import Sequence
from typing import Final

from steelyard.model.errors import LabFailed

LIMIT_SECONDS: Final = 60
"""Each program here is done in a second or two; a busy computer may make it thirty."""


def run(doing: str, command: Sequence[str], standard_input: str = "") -> str:
    """Return what `command` printed. Raises LabFailed with its last words when it fails or does not end."""
    try:
        done = subprocess.run(  # noqa: S603  programs of the rack, arguments of the plan
            command, input=standard_input, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as cause:
        raise LabFailed(doing, expected=f"{command[0]} to end", found=f"nothing in {LIMIT_SECONDS} s") from cause
    if done.returncode != 0:
        raise LabFailed(doing, expected=f"{command[0]} to succeed", found=_last_words(done.stderr or done.stdout))
    return done.stdout


async def run_beside(doing: str, command: Sequence[str], standard_input: str = "") -> str:
    """Do as `run`, without holding up what else is going on."""
    return await asyncio.to_thread(run, doing, command, standard_input)


def _last_words(text: str) -> str:
    return " / ".join(text.strip().splitlines()[-3:]) or "it said nothing"
