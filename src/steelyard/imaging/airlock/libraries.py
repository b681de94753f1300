"""Which shared libraries programs need, by what is written in them."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from steelyard.imaging.airlock.packages import Files, Link, RegularFile, run
from steelyard.model.errors import BuildFailed

_DOING: Final = "finding the libraries of programs"
LIBRARIES: Final = "usr/lib/x86_64-linux-gnu"
_NEEDED: Final = re.compile(r" \(NEEDED\) +Shared library: \[([A-Za-z0-9._+-]+)\]")
_INTERPRETER: Final = "usr/lib64/ld-linux-x86-64.so.2"


def with_links(path: str, files: Files) -> list[str]:
    """Return a path and all that it leads to by links. Raises BuildFailed for one that no package has."""
    paths = [path]
    while isinstance(found := files.get(paths[-1]), Link):
        target = found.target if found.target.startswith("/") else f"/{Path(paths[-1]).parent}/{found.target}"
        relative = target.lstrip("/")
        paths.append(f"usr/{relative}" if relative.startswith("lib") else relative)
    if found is None:
        raise BuildFailed(_DOING, expected=f"{paths[-1]} in one of the packages", found="no such file")
    return paths


def with_libraries(paths: Iterable[str], files: Files) -> set[str]:
    """Return paths with what they link to and every library that these programs and libraries load at their start."""
    chosen: set[str] = set()
    waiting = {found for path in (*paths, _INTERPRETER) for found in with_links(path, files)}
    while waiting:
        chosen |= waiting
        needed = {name for path in waiting for name in _needed(files[path])}
        waiting = {found for name in needed for found in with_links(f"{LIBRARIES}/{name}", files)} - chosen
    return chosen


def _needed(file: RegularFile | Link) -> list[str]:
    if isinstance(file, Link):
        return []
    with file.path.open("rb") as content:
        if content.read(4) != b"\x7fELF":
            return []
    return _NEEDED.findall(run(["readelf", "--dynamic", "--wide", str(file.path)], _DOING).decode())
