"""A configuration is read in full or not at all."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from steelyard.model.errors import ServiceUnready
from steelyard.service.configuration import FILE, Configuration, read_configuration, read_table
from steelyard.service.logs import LogForm

GOOD = """
[database]
url = "sqlite:///steelyard.db"
[http]
host = "127.0.0.1"
port = 8443
"""


def read(directory: Path, text: str, services: frozenset[str] = frozenset({"isolation"})) -> Configuration:
    directory.chmod(0o700)
    path = directory / FILE
    path.write_text(text)
    path.chmod(0o600)
    return read_configuration(directory, services)


def test_paths_are_meant_from_the_directory_and_services_get_their_tables(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        GOOD
        + 'certificate = "c.pem"\nkey = "/k.pem"\nproxies = ["192.0.2.1"]\n'
        + '[logs]\nform = "console"\n[isolation]\nx = 1\n'
        + '[openid]\nissuer = "https://id.example"\naudience = "a"\nname_claim = "n"\n',
    )
    assert found.database.url == f"sqlite:///{tmp_path}/steelyard.db"
    assert (found.http.certificate, found.http.key) == (tmp_path / "c.pem", Path("/k.pem"))
    assert found.http.proxies == ("192.0.2.1",)
    assert found.logs.form is LogForm.CONSOLE
    assert found.openid is not None
    assert found.openid.ca is None
    assert found.services == {"isolation": {"x": 1}}
    assert found.sealing_keys == tmp_path / "sealing.key"


def test_what_is_not_said_is_what_is_safe(tmp_path: Path) -> None:
    found = read(tmp_path, GOOD)
    assert found.openid is None
    assert found.logs.form is LogForm.JSON
    assert found.http.proxies == ()
    assert found.services == {"isolation": {}}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[database",
        "\x00",
        GOOD + "[other]\n",
        GOOD + "more = 1\n",
        GOOD + "port = 1\n",
        GOOD.replace("8443", "-1"),
        GOOD.replace("8443", "65536"),
        GOOD.replace("8443", '"8443"'),
        GOOD.replace("8443", "true"),
        GOOD.replace("8443", "8443.0"),
        GOOD.replace("127.0.0.1", "0.0.0.0"),  # noqa: S104 (which is what is refused)
        GOOD.replace("127.0.0.1", "steelyard.example"),
        GOOD + 'certificate = "c.pem"\n',
        GOOD + 'key = "c.pem"\n',
        GOOD + 'certificate = ""\nkey = ""\n',
        GOOD + "proxies = [1]\n",
        GOOD + 'proxies = "192.0.2.1"\n',
        GOOD.replace("sqlite:///steelyard.db", "mysql://hunter2@host/x"),
        GOOD.replace("sqlite:///steelyard.db", "hunter2"),
        GOOD.replace("sqlite:///steelyard.db", "sqlite://"),
        GOOD.replace("sqlite:///steelyard.db", "sqlite:///:memory:"),
        GOOD.replace("sqlite:///steelyard.db", "sqlite:///x?mode=ro"),
        GOOD.replace('"sqlite:///steelyard.db"', "1"),
        GOOD + "[logs]\nform = 'loud'\n",
        GOOD + "[logs]\nform = 1\n",
        GOOD + "[openid]\nissuer = 'https://id.example'\naudience = 'a'\n",
        "isolation = 1\n" + GOOD,
        "# " + "x" * 70_000 + GOOD,
    ],
    ids=range(29),
)
def test_what_is_not_right_is_refused_and_no_password_shown(tmp_path: Path, text: str) -> None:
    with pytest.raises(ServiceUnready) as refused:
        read(tmp_path, text)
    assert "hunter2" not in str(refused.value)


def test_plain_http_is_for_this_computer_alone(tmp_path: Path) -> None:
    for host in ("127.0.0.1", "127.0.0.2", "::1", "localhost"):
        assert read(tmp_path, GOOD.replace("127.0.0.1", host)).http.certificate is None


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701])
def test_a_directory_that_others_may_look_into_is_refused(tmp_path: Path, mode: int) -> None:
    read(tmp_path, GOOD)
    tmp_path.chmod(mode)
    with pytest.raises(ServiceUnready, match="mode 0700"):
        read_configuration(tmp_path, frozenset())


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    read(tmp_path, GOOD)
    (tmp_path / FILE).chmod(0o644)
    with pytest.raises(ServiceUnready, match="mode 0600"):
        read_configuration(tmp_path, frozenset())
    with pytest.raises(ServiceUnready):
        read_configuration(tmp_path / "nothing", frozenset())


@dataclass(frozen=True, slots=True)
class Settings:
    seconds: float
    words: tuple[str, ...]
    place: Path | None
    yes: bool = True


def test_a_table_is_its_dataclass_to_the_type(tmp_path: Path) -> None:
    found = read_table(Settings, {"seconds": 2, "words": ["a"]}, "x", tmp_path)
    assert found == Settings(2.0, ("a",), None)
    assert isinstance(found.seconds, float)
    wrongs: tuple[dict[str, object], ...] = (
        {"seconds": True, "words": []},
        {"seconds": 1, "words": [1]},
        {"seconds": 1, "words": "a"},
        {"seconds": 1, "words": [], "place": 1},
        {"seconds": 1, "words": [], "yes": 1},
        {"words": []},
    )
    for wrong in wrongs:
        with pytest.raises(ServiceUnready):
            read_table(Settings, wrong, "x", tmp_path)
