"""What an installation is set up by: one TOML file in its directory, every key known, every value in its range.

`steelyard init` writes it. Paths in it are meant from the directory.
"""

import ipaddress
import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, TypeVar, get_args, get_origin, get_type_hints

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from steelyard.model.errors import ServiceUnready
from steelyard.model.limits import CONFIGURATION_BYTES
from steelyard.service.files import read_private
from steelyard.service.logs import LogForm
from steelyard.service.openid import LOOPBACK, OpenIdSettings
from steelyard.service.webhooks import WebhookSettings

FILE: Final = "steelyard.toml"
DIRECTORY: Final = Path("/var/lib/steelyard")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """url  "sqlite:///FILE", or "postgresql://USER:PASSWORD@HOST/NAME"."""

    url: str

    def __post_init__(self) -> None:
        try:
            kind = make_url(self.url).get_backend_name()
        except ArgumentError:
            kind = "no URL"
        if kind not in ("sqlite", "postgresql"):
            # The URL is not shown, as it may hold a password.
            raise ServiceUnready("reading database.url", expected="sqlite:///... or postgresql://...", found=kind)


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """Where the service listens.

    certificate, key  PEM; both, or neither, for plain HTTP to this computer alone.
    proxies           addresses whose word is taken for where a request came from.
    """

    host: str
    port: int
    certificate: Path | None = None
    key: Path | None = None
    proxies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ServiceUnready("reading http.port", expected="0 to 65535", found=str(self.port))
        if (self.certificate is None) != (self.key is None):
            found = "one of them"
            raise ServiceUnready("reading [http]", expected="certificate and key, or neither", found=found)
        if self.certificate is None and not _is_here(self.host):
            expected = "a certificate and its key, as tokens are secret; without them, 127.0.0.1, ::1 or localhost"
            raise ServiceUnready("reading [http]", expected=expected, found=self.host)


@dataclass(frozen=True, slots=True)
class LogSettings:
    """form  "json" for machines, "console" for people."""

    form: LogForm = LogForm.JSON


@dataclass(frozen=True, slots=True)
class Configuration:
    """All of it. `services`: each one's own table, which it reads with `read_table`."""

    directory: Path
    database: DatabaseSettings
    http: HttpSettings
    logs: LogSettings
    openid: OpenIdSettings | None
    webhooks: WebhookSettings
    sealing_keys: Path
    services: Mapping[str, Mapping[str, object]]


def read_configuration(directory: Path, services: frozenset[str]) -> Configuration:
    """Return how an installation is set up; tables of other things than these services are refused.

    Raises ServiceUnready.
    """
    directory = directory.resolve()
    check_directory(directory)
    path = directory / FILE
    try:
        document = tomllib.loads(read_private(path, CONFIGURATION_BYTES).decode())
    except ValueError as cause:  # TOMLDecodeError and UnicodeDecodeError are; not shown, as a password may be near
        raise ServiceUnready(f"reading {path}", expected="TOML", found="something else") from cause
    tables = {name: _table(name, value) for name, value in document.items()}
    unknown = set(tables) - {"database", "http", "logs", "openid", "webhooks"} - services
    if unknown:
        raise ServiceUnready(f"reading {path}", expected="known tables", found=", ".join(sorted(unknown)))
    openid = tables.get("openid")
    return Configuration(
        directory=directory,
        database=_placed(read_table(DatabaseSettings, tables.get("database", {}), "database", directory), directory),
        http=read_table(HttpSettings, tables.get("http", {}), "http", directory),
        logs=read_table(LogSettings, tables.get("logs", {}), "logs", directory),
        openid=None if openid is None else read_table(OpenIdSettings, openid, "openid", directory),
        webhooks=read_table(WebhookSettings, tables.get("webhooks", {}), "webhooks", directory),
        sealing_keys=directory / "sealing.key",
        services={name: tables.get(name, {}) for name in services},
    )


def check_directory(directory: Path) -> None:
    """Pass a directory that nobody but us can look or write into. Raises ServiceUnready."""
    doing = f"opening {directory}"
    try:
        status = directory.stat()
    except OSError as cause:
        raise ServiceUnready(doing, expected="a directory", found=cause.strerror or str(cause)) from cause
    if not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o077 or status.st_uid != os.geteuid():
        raise ServiceUnready(
            doing,
            expected=f"a directory of user {os.geteuid()}, mode 0700",
            found=f"{stat.filemode(status.st_mode)}, user {status.st_uid}",
        )


def read_table(kind: type[T], table: Mapping[str, object], where: str, directory: Path) -> T:
    """Return a table as a dataclass: its fields and no others, each of its type. Raises ServiceUnready."""
    types = get_type_hints(kind)
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]  # typing has no word for dataclasses
    if unknown := sorted(set(table) - set(known)):
        raise ServiceUnready(f"reading [{where}]", expected=f"{', '.join(known)}", found=", ".join(unknown))
    values = {name: _value(types[name], value, f"{where}.{name}", directory) for name, value in table.items()}
    for name, field in known.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            if NoneType not in get_args(types[name]):
                raise ServiceUnready(f"reading [{where}]", expected=name, found="nothing of that name")
            values[name] = None
    return kind(**values)


def _value(kind: Any, value: object, where: str, directory: Path) -> Any:
    if isinstance(kind, UnionType):
        [kind] = [option for option in get_args(kind) if option is not NoneType]
    if get_origin(kind) is tuple and isinstance(value, list):
        return tuple(_value(get_args(kind)[0], one, where, directory) for one in value)
    if is_dataclass(kind) and isinstance(kind, type) and isinstance(value, dict):
        return read_table(kind, value, where, directory)
    if kind is Path and isinstance(value, str) and value:
        return directory / value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and issubclass(kind, Enum) and value in [option.value for option in kind]:
        return kind(value)
    # Exactly, as a bool is an int to Python.
    if kind in (str, int, float, bool) and type(value) is kind:
        return value
    raise ServiceUnready(f"reading {where}", expected=_in_words(kind), found=type(value).__name__)


def _in_words(kind: Any) -> str:
    if isinstance(kind, type) and issubclass(kind, Enum):
        return " or ".join(str(option.value) for option in kind)
    return {str: "a text", int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}.get(
        kind, "a list"
    )


def _table(name: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise ServiceUnready(f"reading {name}", expected=f"a table: [{name}]", found=type(value).__name__)
    return value


def _placed(settings: DatabaseSettings, directory: Path) -> DatabaseSettings:
    url = make_url(settings.url)
    if url.get_backend_name() != "sqlite":
        return settings
    if not url.database or url.database == ":memory:" or url.query:
        raise ServiceUnready("reading database.url", expected="sqlite:///FILE", found="no file, or more")
    return DatabaseSettings(str(url.set(database=str(directory / url.database))))


def _is_here(host: str) -> bool:
    try:
        return host in LOOPBACK or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
