"""What `init` makes is complete, for its owner alone, made once, and enough to serve."""

import ssl
import threading
from pathlib import Path

import pytest
from sqlalchemy import select

from steelyard.model.errors import ServiceUnready
from steelyard.service.accounts import ALL_RIGHTS, sign_in
from steelyard.service.authority import Office
from steelyard.service.database import Database
from steelyard.service.init import Wish, initialise
from steelyard.service.sealing import read_sealer
from steelyard.service.tables import tokens

WISH = Wish("sqlite:///steelyard.db", "127.0.0.1", 8443, ("steelyard.example", "192.0.2.7"))
FILES = {
    "steelyard.toml",
    "sealing.key",
    "authority.key",
    "authority.pem",
    "certificate.key",
    "certificate.pem",
    "steelyard.db",
    "provider.token",
}


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def init(directory: Path, wish: Wish = WISH) -> set[str]:
    return set(initialise(directory, wish, frozenset(), []))


def test_everything_is_made_for_its_owner_alone_and_only_once(tmp_path: Path) -> None:
    place = tmp_path / "a" / "steelyard"
    assert init(place) == FILES | {str(place)}
    assert place.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in place.iterdir()} == FILES
    assert {path.stat().st_mode & 0o777 for path in place.iterdir()} == {0o600}
    before = content(place)
    assert init(place) == set()
    assert content(place) == before
    read_sealer(place / "sealing.key")


@pytest.mark.parametrize("missing", sorted(FILES - {"steelyard.db"}))
def test_what_is_missing_is_made_and_nothing_else_touched(tmp_path: Path, missing: str) -> None:
    place = tmp_path / "steelyard"
    init(place)
    before = content(place)
    (place / missing).unlink()
    assert init(place) == {missing}
    after = content(place)
    assert {name for name in FILES - {"steelyard.db"} if before[name] != after[name]} <= {missing}


def test_the_first_token_is_a_providers_with_every_right(tmp_path: Path) -> None:
    place = tmp_path / "steelyard"
    init(place)
    database = Database(f"sqlite:///{place}/steelyard.db")
    bearer = (place / "provider.token").read_text().strip()
    with database.reading() as connection:
        session = sign_in(connection, bearer, database.clock())
    assert (session.office, session.rights, session.project) == (Office.PROVIDER, ALL_RIGHTS, None)
    database.close()


def test_two_that_begin_at_once_make_one_installation(tmp_path: Path) -> None:
    place = tmp_path / "steelyard"
    place.mkdir(mode=0o700)
    made: list[set[str]] = []
    threads = [threading.Thread(target=lambda: made.append(init(place))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(len, made)) == [0, 0, len(FILES)]
    database = Database(f"sqlite:///{place}/steelyard.db")
    with database.reading() as connection:
        assert len(connection.execute(select(tokens)).all()) == 1
    database.close()


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1", "steelyard.example", "192.0.2.7", "other.example"])
def test_a_client_that_trusts_the_authority_believes_the_names_that_were_given(tmp_path: Path, name: str) -> None:
    """TLS itself is the judge, by memory."""
    place = tmp_path / "steelyard"
    init(place)
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(place / "certificate.pem", place / "certificate.key")
    client_context = ssl.create_default_context(cafile=place / "authority.pem")
    client_context.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(to_client, to_server, server_hostname=name)

    def shake() -> None:
        for _ in range(4):
            for side in (client, server):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    continue

    if name == "other.example":
        with pytest.raises(ssl.SSLCertVerificationError):
            shake()
    else:
        shake()
        assert client.version() == "TLSv1.3"


def test_a_directory_of_others_or_a_wish_that_breaks_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "open").chmod(0o755)
    with pytest.raises(ServiceUnready):
        init(tmp_path / "open")
    for url in ('sqlite:///x"\n[http]', "mysql://x", "sqlite:///x\\"):
        with pytest.raises(ServiceUnready):
            init(tmp_path / "steelyard", Wish(url, "127.0.0.1", 8443, ()))
        for left in (tmp_path / "steelyard").iterdir():
            left.unlink()


def test_a_database_that_is_away_leaves_no_token_behind(tmp_path: Path) -> None:
    place = tmp_path / "steelyard"
    with pytest.raises(Exception, match="database"):
        init(place, Wish(f"postgresql://nobody@/none?host={tmp_path}", "127.0.0.1", 8443, ()))
    assert not (place / "provider.token").exists()
