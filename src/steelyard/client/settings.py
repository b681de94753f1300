"""Where the service is and where the token lies: from the environment, else from the file that `steelyard login` wrote.

The token itself is in neither: both name the file that holds it.
"""

import json
import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from steelyard.model.errors import WrongUse
from steelyard.model.limits import CLIENT_SETTINGS_BYTES, TOKEN_FILE_BYTES, Limit
from steelyard.model.secret import Secret

URL: Final = "STEELYARD_URL"
CA: Final = "STEELYARD_CA"
TOKEN_FILE: Final = "STEELYARD_TOKEN_FILE"  # noqa: S105 (the name of a variable)


@dataclass(frozen=True, slots=True)
class Settings:
    """A service, its certificate authorities (None: this computer's), and the file with the token."""

    url: str
    ca: Path | None
    token_file: Path


def settings_path(environment: Mapping[str, str]) -> Path:
    """Return where the settings are kept."""
    return _directory(environment, "XDG_CONFIG_HOME", ".config") / "client.toml"


def state_path(environment: Mapping[str, str]) -> Path:
    """Return where the client keeps what it has seen: the heads of audit logs."""
    return _directory(environment, "XDG_STATE_HOME", ".local/state") / "audit.json"


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Return what is to be used. Raises WrongUse."""
    path = settings_path(environment)
    kept = _read_kept(path)
    url, ca, token_file = (
        environment.get(variable) or kept.get(name)
        for variable, name in ((URL, "url"), (CA, "ca"), (TOKEN_FILE, "token_file"))
    )
    if url is None or token_file is None:
        missing = URL if url is None else TOKEN_FILE
        raise WrongUse("finding the service", expected=f"`steelyard login`, or {missing}", found=f"neither; no {path}")
    return Settings(url, None if ca is None else Path(ca), Path(token_file))


def write_settings(settings: Settings, environment: Mapping[str, str]) -> Path:
    """Write the settings for later commands; return where. Raises WrongUse."""
    path = settings_path(environment)
    lines = {"url": settings.url, "token_file": str(settings.token_file.absolute())}
    if settings.ca is not None:
        lines["ca"] = str(settings.ca.absolute())
    # A JSON string is a TOML string too.
    text = "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in lines.items())
    write_own_file(path, text.encode())
    return path


def read_token(path: Path) -> Secret:
    """Return the token in a file that nobody else can read. Raises WrongUse."""
    data = read_private_file(path, TOKEN_FILE_BYTES).strip()
    if not data or not data.isascii() or any(byte <= 0x20 or byte == 0x7F for byte in data):
        # Not shown: it may be a token with something behind it.
        raise WrongUse(f"reading {path}", expected="a token, alone in its file", found="something else")
    return Secret(data)


def read_own_file(path: Path) -> bytes | None:
    """Return what the client wrote there; None if nothing was. Raises WrongUse."""
    return read_private_file(path, CLIENT_SETTINGS_BYTES) if path.exists() else None


def read_private_file(path: Path, limit: Limit) -> bytes:
    """Return what is in a file that nobody else can read or write. Raises WrongUse."""
    doing = f"reading {path}"
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(limit.most + 1)
    except OSError as cause:
        raise WrongUse(doing, expected="a file that can be read", found=cause.strerror or str(cause)) from cause
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise WrongUse(doing, expected="a file for its owner alone (chmod 600)", found=stat.filemode(mode))
    if len(data) > limit.most:
        raise WrongUse(doing, expected=f"at most {limit.most} {limit.unit}", found="more")
    return data


def write_own_file(path: Path, data: bytes) -> None:
    """Write a file for its owner alone, whole or not at all. Raises WrongUse."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
        draft.replace(path)
    except OSError as cause:
        found = cause.strerror or str(cause)
        raise WrongUse(f"writing {path}", expected="a place that can be written", found=found) from cause


def _directory(environment: Mapping[str, str], variable: str, otherwise: str) -> Path:
    named = environment.get(variable)
    return (Path(named) if named else Path.home() / otherwise) / "steelyard"


def _read_kept(path: Path) -> dict[str, str]:
    data = read_own_file(path)
    if data is None:
        return {}
    try:
        document = tomllib.loads(data.decode())
    except ValueError as cause:  # TOMLDecodeError and UnicodeDecodeError are
        raise WrongUse(f"reading {path}", expected="what `steelyard login` wrote", found=str(cause)) from cause
    if not set(document) <= {"url", "ca", "token_file"} or not all(
        isinstance(value, str) for value in document.values()
    ):
        raise WrongUse(f"reading {path}", expected="url, ca, token_file: texts", found=", ".join(sorted(document)))
    return document
