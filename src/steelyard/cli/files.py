"""Reads and writes files for commands, within limits."""

import os
import secrets
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
            with os.fdopen(0, "rb", closefd=False) as file:
                data = file.read(limit.most + 1)
        else:
            with path.open("rb") as file:
                data = file.read(limit.most + 1)
    except OSError as error:
        raise WrongUse(doing, expected="a file that can be read", found=error.strerror or str(error)) from error
    if len(data) > limit.most:
        raise TooLarge(doing, expected=f"at most {limit.most} {limit.unit} ({limit.reason})", found="more")
    return data


def write_file(path: Path, data: bytes) -> None:
    """Write the file whole or not at all; `-` is standard output. Raises WrongUse.

    A link is followed; a device or a pipe is written to, never replaced.
    """
    try:
        if str(path) == "-":
            with os.fdopen(1, "wb", closefd=False) as file:
                file.write(data)
        elif path.exists() and not path.is_file():
            with path.open("wb") as file:
                file.write(data)
        else:
            _replace(path.resolve(), data)
    except OSError as error:
        raise _unwritable(path, error) from error


def write_secret_file(path: Path, data: bytes) -> None:
    """Write a file that did not exist, for its owner's eyes alone. Raises WrongUse."""
    if str(path) == "-":
        raise WrongUse("writing a secret", expected="a file", found="standard output")
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except FileExistsError as error:
        raise WrongUse(
            f"writing {path}", expected="a new file: keys are not overwritten", found="one that exists"
        ) from error
    except OSError as error:
        raise _unwritable(path, error) from error


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # less what the umask takes away
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _unwritable(path: Path, error: OSError) -> WrongUse:
    return WrongUse(f"writing {path}", expected="a place that can be written", found=error.strerror or str(error))


def list_directory(path: Path) -> list[Path]:
    """Return the regular files directly in a directory, in order of name. Raises WrongUse."""
    try:
        return sorted(entry for entry in path.iterdir() if entry.is_file() and not entry.name.startswith("."))
    except OSError as error:
        raise WrongUse(
            f"reading the directory {path}", expected="a directory that can be read", found=error.strerror or str(error)
        ) from error
