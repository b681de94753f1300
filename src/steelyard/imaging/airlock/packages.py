"""Debian packages: got by apt, which checks Debian's signatures, and read without being installed.

Nothing of a package is run here: its maintainer scripts are not, and its files are only looked at.
"""

import hashlib
import re
import subprocess
import tarfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final
from urllib.parse import quote

from steelyard.model.errors import BuildFailed

_DOING: Final = "getting Debian packages"
_PLANNED: Final = re.compile(
    r"Inst (?P<name>[a-z0-9.+-]+) \((?P<version>[A-Za-z0-9.+:~-]+) .*\[(?P<architecture>amd64|all)\]\).*"
)
"""A line of `apt-get --simulate`."""
_USR_MERGED: Final = ("bin", "lib", "lib64", "sbin")
"""Folders of the root that are links to those of the same name below usr, as in every Debian since 12."""


@dataclass(frozen=True, slots=True)
class Package:
    """One version of a Debian package, and its file.

    sha256  of the .deb, in hexadecimal.
    """

    name: str
    version: str
    architecture: str
    file: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class RegularFile:
    """A file of a package, at `path` below the directory it was unpacked to."""

    path: Path
    executable: bool
    package: Package


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link of a package."""

    target: str
    package: Package


Files = Mapping[str, RegularFile | Link]
"""By path in the system they belong to, relative to its root, folders of the root by their names below usr."""


def get_packages(names: Collection[str], cache: Path) -> list[Package]:
    """Return these packages and all that they depend on, as this computer's apt sources have them now, by name.

    cache  directory of downloads; what is there already is not fetched again. apt checks every file that it uses.

    Raises BuildFailed.
    """
    (cache / "partial").mkdir(parents=True, exist_ok=True)
    # As if nothing were installed, so that nothing is left out; as ourselves, who own the cache.
    settings = (
        *("Dir::State::status=/dev/null", f"Dir::Cache::archives={cache}", "Debug::NoLocking=1"),
        *("APT::Install-Recommends=false", "APT::Sandbox::User=", "APT::Architecture=amd64"),
    )
    wanted = ["install", "--", *sorted(names)]
    command = ["apt-get", "--yes", "--quiet", *(f"--option={setting}" for setting in settings)]
    plan = run([*command, "--simulate", *wanted], _DOING).decode()
    run([*command, "--download-only", *wanted], _DOING)
    return sorted(
        (
            _package(match["name"], match["version"], match["architecture"], cache)
            for line in plan.splitlines()
            if (match := _PLANNED.fullmatch(line))
        ),
        key=lambda package: package.name,
    )


def _package(name: str, version: str, architecture: str, cache: Path) -> Package:
    file = cache / f"{name}_{quote(version, safe='+~')}_{architecture}.deb".replace("%3A", "%3a")
    if not file.is_file():
        raise BuildFailed(_DOING, expected=f"apt to leave {file.name}", found="no such file")
    return Package(name, version, architecture, file, hashlib.sha256(file.read_bytes()).hexdigest())


def unpack(package: Package, directory: Path, wanted: re.Pattern[str]) -> dict[str, RegularFile | Link]:
    """Return the files of a package whose path matches `wanted`, unpacked below `directory`. Raises BuildFailed."""
    found: dict[str, RegularFile | Link] = {}
    command = ["dpkg-deb", "--fsys-tarfile", str(package.file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as unpacked:  # noqa: S603  (no shell, a path of ours)
        assert unpacked.stdout is not None  # noqa: S101  (it was asked for)
        with tarfile.open(fileobj=unpacked.stdout, mode="r|") as archive:
            for member in archive:
                path = _merged(member.name)
                if not wanted.match(path):
                    continue
                if member.issym():
                    found[path] = Link(member.linkname, package)
                elif member.islnk():
                    found[path] = found[_merged(member.linkname)]
                elif (content := archive.extractfile(member)) is not None:
                    place = directory / path
                    _write(place, content)
                    found[path] = RegularFile(place, bool(member.mode & 0o100), package)
    if unpacked.returncode != 0:
        raise BuildFailed(f"unpacking {package.file}", expected="a Debian package", found="dpkg-deb cannot read it")
    return found


def _merged(name: str) -> str:
    """Return a path of a package, relative to the root, as it is where bin, lib and sbin are in usr."""
    path = name.removeprefix("./")
    return f"usr/{path}" if path.partition("/")[0] in _USR_MERGED else path


def _write(place: Path, content: IO[bytes]) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("wb") as file:
        while piece := content.read(1 << 20):
            file.write(piece)


def run(command: list[str], doing: str, environment: Mapping[str, str] | None = None) -> bytes:
    """Return what a program of the build printed. Raises BuildFailed with the end of what it said instead."""
    try:
        done = subprocess.run(  # noqa: S603  (no shell, and names that begin no option)
            command, stdin=subprocess.DEVNULL, capture_output=True, check=False, env=environment
        )
    except FileNotFoundError as error:
        raise BuildFailed(doing, expected=f"the program {command[0]}", found="it is not installed") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()[-300:]
        raise BuildFailed(doing, expected=f"{command[0]} to succeed", found=f"it ended with {done.returncode}: {said}")
    return done.stdout
