"""Shows results: a table or a few lines for people, one JSON document for programs."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from steelyard.model.errors import SteelyardError


def show_json(document: dict[str, Any]) -> None:
    """Print one JSON document."""
    json.dump(document, sys.stdout, indent=2)
    sys.stdout.write("\n")


def show_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; folded to a terminal's width, each row on one line where there is no terminal."""
    table = Table(box=box.SIMPLE, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*[Text(cell) for cell in row])
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(table)
        return
    # A file or a pipe has no width: nothing is folded, cut or filled up.
    wide = Console(highlight=False, width=100_000)
    with wide.capture() as capture:
        wide.print(table)
    show_lines(*[line.rstrip() for line in capture.get().splitlines()])


def show_lines(*lines: str) -> None:
    """Print lines as they are."""
    for line in lines:
        sys.stdout.write(line + "\n")


def show_good(line: str) -> None:
    """Print the line that says that all is well, in green where there is colour."""
    Console(highlight=False, soft_wrap=True).print(Text(line, style="bold green"))


def show_bad(line: str) -> None:
    """Print the line that says that it is not, in red where there is colour."""
    Console(highlight=False, soft_wrap=True).print(Text(line, style="bold red"))


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
    """Print an error for people, on standard error."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text.assemble(("error", "bold red"), f" ({error.code}) while {error.doing}"))
    console.print(Text(f"  expected  {error.expected}"))
    console.print(Text(f"  found     {error.found}"))
    console.print(Text(f"  next      {error.remedy}"))
