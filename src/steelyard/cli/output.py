"""Shows results: a table or a few lines for people, one JSON document for programs."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from steelyard.model.errors import SteelyardError, WrongUse


def show_json(document: dict[str, Any]) -> None:
    """Print one JSON document."""
    with _printing():
        _write(sys.stdout, json.dumps(document, indent=2) + "\n")


def show_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; folded to a terminal's width, each row on one line where there is no terminal."""
    table = Table(box=box.SIMPLE, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*[Text(_harmless(cell)) for cell in row])
    console = Console(highlight=False)
    with _printing():
        if console.is_terminal:
            _write(sys.stdout, _rendered(console, table))
            return
        # A file or a pipe has no width: nothing is folded, cut or filled up.
        wide = Console(highlight=False, width=100_000)
        _write(sys.stdout, "".join(line.rstrip() + "\n" for line in _rendered(wide, table).splitlines()))


def show_lines(*lines: str) -> None:
    """Print lines."""
    with _printing():
        _write(sys.stdout, "".join(_harmless(line) + "\n" for line in lines))


def show_good(line: str) -> None:
    """Print the line that says that all is well, in green where there is colour."""
    _show_line(Text(_harmless(line), style="bold green"))


def show_bad(line: str) -> None:
    """Print the line that says that it is not, in red where there is colour."""
    _show_line(Text(_harmless(line), style="bold red"))


def _show_line(line: Text) -> None:
    with _printing():
        _write(sys.stdout, _rendered(Console(highlight=False, soft_wrap=True), line))


def error_document(error: SteelyardError) -> dict[str, Any]:
    """Return an error as programs read it."""
    return {
        "error": {
            "code": error.code,
            "doing": error.doing,
            "expected": error.expected,
            "found": error.found,
            "remedy": error.remedy,
        }
    }


def show_error(error: SteelyardError) -> None:
    """Print an error for people, on standard error. Where that is closed, the exit code has to do."""
    lines = (
        Text.assemble(("error", "bold red"), f" ({error.code}) while {error.doing}"),
        Text(f"  expected  {error.expected}"),
        Text(f"  found     {error.found}"),
        Text(f"  next      {error.remedy}"),
    )
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with suppress(OSError):
        _write(sys.stderr, _rendered(console, *lines))


def _harmless(text: str) -> str:
    """Return `text` with what a terminal would obey escaped: file names and reasons may hold anything."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "backslashreplace").decode("ascii")
        for letter in text
    )


def _rendered(console: Console, *shown: Table | Text) -> str:
    with console.capture() as capture:
        console.print(*shown, sep="\n")
    return capture.get()


@contextmanager
def _printing() -> Iterator[None]:
    """Write to standard output within. Raises WrongUse.

    A reader that went away, as `head` does, is no error, and takes nothing from the exit code: what was rejected stays
    rejected.
    """
    try:
        yield
    except BrokenPipeError:
        pass
    except OSError as error:
        found = error.strerror or str(error)
        raise WrongUse("printing", expected="a standard output that can be written", found=found) from error


def _write(stream: TextIO | None, text: str) -> None:
    if stream is None:
        raise OSError("it is closed")
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        # What is left in the buffer would fail again, with a code of its own, when the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise
