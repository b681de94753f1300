"""A node's serial line on this terminal."""

import asyncio
import os
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from steelyard.cli.service import chosen_service
from steelyard.client import isolation
from steelyard.client.connection import AsyncClient, Client
from steelyard.model.errors import WrongUse

LEAVE_KEY: Final = b"\x1d"
"""Ctrl-], as in telnet and virsh."""
WAIT_SECONDS: Final = 20
"""How long one request waits for the node to say something."""
RECALLED_BYTES: Final = 2000
"""What a screen holds: shown at the start, so that one knows where the node is."""
KEYS_BYTES: Final = 1024


def dump(client: Client, node: str) -> None:
    """Print what was recorded; on a terminal without what it would obey: a node may say anything."""
    screen = sys.stdout.buffer
    shown = _shown if sys.stdout.isatty() else bytes
    offset = 0
    while True:
        output = client.ask(isolation.read_console(node, offset))
        if not output.said:
            return
        screen.write(shown(output.said))
        screen.flush()
        offset = output.following


def interact(node: str) -> None:
    """Sit at the line until the leave key. Raises WrongUse where there is no terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise WrongUse("opening a console", expected="a terminal, or --dump", found="a file or a pipe")
    with _raw(sys.stdin.fileno()):
        asyncio.run(_sit(node, sys.stdin.fileno(), sys.stdout.fileno()))


async def _sit(node: str, keyboard: int, screen: int) -> None:
    async with AsyncClient(chosen_service()) as client:
        await client.ask(isolation.open_console(node))
        listening = asyncio.create_task(_show(client, node, screen))
        typing = asyncio.create_task(_type(client, node, keyboard))
        done, others = await asyncio.wait({listening, typing}, return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for task in done:
            task.result()


async def _show(client: AsyncClient, node: str, screen: int) -> None:
    """Write what the node says, until told to end."""
    now = await client.ask(isolation.read_console(node, 0))
    offset = max(now.begins, now.ends - RECALLED_BYTES)
    trouble = None
    while True:
        output = await client.ask(isolation.read_console(node, offset, wait_seconds=WAIT_SECONDS))
        offset = output.following
        _write(screen, output.said)
        if output.trouble != trouble:
            trouble = output.trouble
            _write(screen, f"\r\n[{trouble or 'the line is back'}]\r\n".encode("ascii", "backslashreplace"))


async def _type(client: AsyncClient, node: str, keyboard: int) -> None:
    """Send what is typed, until the leave key."""
    loop = asyncio.get_running_loop()
    pressed: asyncio.Queue[bytes] = asyncio.Queue()
    loop.add_reader(keyboard, lambda: pressed.put_nowait(os.read(keyboard, KEYS_BYTES)))
    try:
        while True:
            keys = await pressed.get()
            while not pressed.empty():  # what was typed while the last keys were on their way goes in one
                keys += pressed.get_nowait()
            before, leave, _ = keys.partition(LEAVE_KEY)
            if before:
                await client.ask(isolation.write_console(node, before))
            if leave or not keys:
                return
    finally:
        loop.remove_reader(keyboard)


def _write(screen: int, said: bytes) -> None:
    while said:
        said = said[os.write(screen, said) :]


@contextmanager
def _raw(keyboard: int) -> Iterator[None]:
    before = termios.tcgetattr(keyboard)
    tty.setraw(keyboard)
    try:
        yield
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def _shown(said: bytes) -> bytes:
    return bytes(byte if byte in b"\n\t" or 0x20 <= byte < 0x7F else ord("?") for byte in said if byte != ord("\r"))
