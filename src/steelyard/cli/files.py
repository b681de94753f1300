"""Reads and writes files for commands, within limits."""

import os
import sys
import tempfile
from pathlib import Path

from steelyard.model.errors import TooLarge, WrongUse
from steelyard.model.limits import Limit


def read_file(path: Path, limit: Limit) -> bytes:
    """Return the file's bytes, `-` being standard input. Raises WrongUse, TooLarge.

    Reads one byte more than the limit at most, so that a device or a growing file does not fill the memory; files of
    /sys tell no size beforehand.
    """
    doing = f"reading {path}"
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(limit.most + 1)
        else:
            with path.open("rb") as file:
                data = file.read(limit.most + 1)
    except OSError as error:
        raise WrongUse(doing, expected="a file that can be read", found=error.strerror or str(error)) from error
    if len(data) > limit.most:
        raise TooLarge(doing, expected=f"at most {limit.most} {limit.unit} ({limit.reason})", found="more")
    return data


def write_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write the file whole or not at all; `-` is standard output. Raises WrongUse."""
    if str(path) == "-":
        sys.stdout.buffer.write(data)
        return
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise WrongUse(
            f"writing {path}", expected="a place that can be written", found=error.strerror or str(error)
        ) from error


def list_directory(path: Path) -> list[Path]:
    """Return the regular files directly in a directory, in order of name. Raises WrongUse."""
    try:
        return sorted(entry for entry in path.iterdir() if entry.is_file() and not entry.name.startswith("."))
    except OSError as error:
        raise WrongUse(
            f"reading the directory {path}", expected="a directory that can be read", found=error.strerror or str(error)
        ) from error
