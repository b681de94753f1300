"""Where the service is and where the token lies; what others could read or write is not used."""

import stat
from pathlib import Path

import pytest

from steelyard.client.connection import Service
from steelyard.client.settings import (
    Settings,
    read_settings,
    read_token,
    settings_path,
    write_own_file,
    write_settings,
)
from steelyard.model.errors import WrongUse
from steelyard.model.secret import Secret

TOKEN = b"sy_0123456789abcdef_secret"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CONFIG_HOME": str(tmp_path / "config")}


def token_file(path: Path, content: bytes = TOKEN, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_what_is_written_is_read_again(environment: dict[str, str], tmp_path: Path) -> None:
    settings = Settings("https://here:8443", tmp_path / 'a "CA" \\ ü.pem', tmp_path / "token")
    path = write_settings(settings, environment)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert read_settings(environment) == settings
    write_settings(Settings("https://there:8443", None, tmp_path / "token"), environment)
    assert read_settings(environment).ca is None


def test_the_environment_is_stronger(environment: dict[str, str], tmp_path: Path) -> None:
    write_settings(Settings("https://here", tmp_path / "ca", tmp_path / "token"), environment)
    more = {"STEELYARD_URL": "https://there", "STEELYARD_CA": "/ca", "STEELYARD_TOKEN_FILE": "/token"}
    assert read_settings({**environment, **more}) == Settings("https://there", Path("/ca"), Path("/token"))


@pytest.mark.parametrize("given", [{}, {"STEELYARD_URL": "https://here"}, {"STEELYARD_TOKEN_FILE": "/token"}])
def test_without_a_service_or_a_token_it_says_what_to_do(environment: dict[str, str], given: dict[str, str]) -> None:
    with pytest.raises(WrongUse, match="steelyard login"):
        read_settings({**environment, **given})


@pytest.mark.parametrize("text", ["url = 5", "uri = 'x'", "url", "url = 'x'\nurl = 'y'", "\xff"])
def test_settings_that_are_none_are_refused(environment: dict[str, str], text: str) -> None:
    write_own_file(settings_path(environment), text.encode("latin-1"))
    with pytest.raises(WrongUse):
        read_settings(environment)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o602, 0o644, 0o610])
def test_a_token_that_others_could_read_is_none(tmp_path: Path, mode: int) -> None:
    with pytest.raises(WrongUse, match="chmod 600"):
        read_token(token_file(tmp_path / "token", mode=mode))


def test_a_token_is_read_and_not_shown(tmp_path: Path) -> None:
    assert read_token(token_file(tmp_path / "token", TOKEN + b"\n")) == Secret(TOKEN)
    for wrong in (b"", b"\n", TOKEN + b" " + TOKEN, TOKEN + b"\nX: y", TOKEN + b"\x00", b"\xff", TOKEN * 1000):
        with pytest.raises(WrongUse) as refused:
            read_token(token_file(tmp_path / "token", wrong))
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "here",
        "ftp://here",
        "https://",
        "https://user:password@here",
        "https://here?x=y",
        "https://here#x",
        "https://here:port",
        "http://here",
        "http://10.0.0.1",
        "http://127.0.0.1.evil.example",
        "https://[::1",
    ],
)
def test_a_token_is_not_sent_where_it_could_be_read(url: str) -> None:
    with pytest.raises(WrongUse):
        Service(url, None, Secret(TOKEN))


@pytest.mark.parametrize("url", ["https://here", "https://here:8443", "http://127.0.0.1:8080", "http://[::1]:80"])
def test_tls_or_this_computer_will_do(url: str) -> None:
    Service(url, None, Secret(TOKEN))


def test_a_ca_that_is_none_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", token_file(tmp_path / "garbage", b"garbage")):
        with pytest.raises(WrongUse):
            Service("https://here", path, None).verification()
