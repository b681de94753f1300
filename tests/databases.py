"""Databases to test on: SQLite in a file and a real PostgreSQL, each test with a fresh one that has every table.

./check fast has SQLite alone, but for the tests marked `both_databases`: those of what is done for each in its own way.

The PostgreSQL is the tests' own: one cluster per process of tests, on a socket in a directory of its own, run by a user
without rights, and ended with the process.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
import sqlalchemy
from sqlalchemy import URL, Dialect, Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection

from steelyard.attestation.migrations import ATTESTATION
from steelyard.enclave.migrations import ENCLAVE
from steelyard.imaging.migrations import IMAGING
from steelyard.isolation.migrations import ISOLATION
from steelyard.service.database import Database
from steelyard.service.migrating import SERVICE, migrate
from tests.filling import note_fresh

PROGRAMS: Final = Path("/usr/lib/postgresql")
TEMPLATE: Final = "steelyard_template"
START_SECONDS: Final = 30
MEMORY: Final = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())  # noqa: S108
"""For SQLite's files: whoever opens one waits for no disk at each commit."""


def make_tables(database: Database) -> None:
    """Bring an empty database to what the services expect."""
    migrate(database, SERVICE, ISOLATION, IMAGING, ATTESTATION, ENCLAVE)


class Cluster:
    """A PostgreSQL server."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._user = "postgres" if os.geteuid() == 0 else None  # initdb refuses root
        self.directory = Path(tempfile.mkdtemp(prefix="steelyard-pg-"))
        if self._user is not None:
            os.chown(self.directory, pwd.getpwnam(self._user).pw_uid, -1)
        initdb = ["initdb", "--auth=trust", "--username=steelyard", "--encoding=UTF8", "--no-locale", "--no-sync"]
        assert self._start(initdb).wait(START_SECONDS) == 0, self.log
        settings = ("listen_addresses=", "fsync=off", "full_page_writes=off", "max_connections=200")
        options = [word for setting in settings for word in ("-c", setting)]
        self._server = self._start(["postgres", "-k", str(self.directory), *options])
        self._wait()
        self.execute(f"CREATE DATABASE {TEMPLATE}")
        template = Database(self.url(TEMPLATE))
        make_tables(template)
        template.close()

    @property
    def log(self) -> str:
        """What the server said."""
        return (self.directory / "log").read_text("utf-8", "replace")

    def url(self, name: str) -> str:
        """Return how to reach one of its databases."""
        return f"postgresql://steelyard@/{name}?host={self.directory}"

    def execute(self, statement: str) -> None:
        """Do what is for no database in particular."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())

    def end(self) -> None:
        """End the server and forget its data."""
        self._server.send_signal(signal.SIGINT)
        try:
            self._server.wait(START_SECONDS)
        finally:
            self._server.kill()
            self._server.wait()
            shutil.rmtree(self.directory)

    def _start(self, command: list[str]) -> "subprocess.Popen[bytes]":
        program, *arguments = command
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen(
                # The kernel ends it with this process, however that comes about.
                ["setpriv", "--pdeathsig", "KILL", "--", self._programs / program, "-D", "data", *arguments],
                cwd=self.directory,
                user=self._user,
                group=self._user,
                extra_groups=None if self._user is None else [],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _wait(self) -> None:
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=5).close()
            except psycopg.OperationalError:
                assert self._server.poll() is None, self.log
                assert time.monotonic() < end, self.log
                time.sleep(0.02)
            else:
                return


@pytest.fixture(scope="session", autouse=True)
def statements_are_compiled_once() -> Iterator[None]:
    """Share what SQLAlchemy compiled for one database with all others of its kind; half of a short test's time is that.

    What is compiled is kept by the engine and belongs to its dialect, which is ready once a connection was made.
    """
    compiled: dict[str, tuple[Dialect, Any]] = {}

    def create_engine(url: URL, **more: Any) -> Engine:
        engine = sqlalchemy.create_engine(url, **more)
        kind = engine.dialect.name
        if kind in compiled:
            engine.dialect, engine._compiled_cache = compiled[kind]
        else:
            own = engine.dialect, engine._compiled_cache
            event.listen(engine, "connect", lambda *_: compiled.setdefault(kind, own))
        return engine

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("steelyard.service.database.create_engine", create_engine)
        yield


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Cluster]:
    """The session's PostgreSQL server."""
    found = sorted(PROGRAMS.glob("*/bin/postgres"), key=lambda program: int(program.parts[-3]))
    if not found:
        pytest.skip("needs PostgreSQL: apt install postgresql")
    cluster = Cluster(found[-1].parent)
    yield cluster
    cluster.end()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with every table."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    database = Database(f"sqlite:///{path}")
    make_tables(database)
    database.close()
    return path


@pytest.fixture
def sqlite_database(sqlite_template: Path) -> Iterator[Database]:
    """A fresh SQLite database with every table, for tests to which the kind makes no difference."""
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="sqlite-") as folder:
        path = Path(folder) / "steelyard.db"
        shutil.copyfile(sqlite_template, path)
        for database in _opened(f"sqlite:///{path}"):
            note_fresh(database)
            yield database


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what asks for `database` on each kind."""
    if "database" in metafunc.fixturenames:
        slow = [] if metafunc.definition.get_closest_marker("both_databases") else [pytest.mark.slow]
        metafunc.parametrize("database", ["sqlite", pytest.param("postgresql", marks=slow)], indirect=True)


@pytest.fixture
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A fresh database with every table, of each kind. Another process reaches it by its `url`."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_database")
    else:
        yield from _fresh(request.getfixturevalue("postgresql"), TEMPLATE)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database without any table, of each kind."""
    if request.param == "sqlite":
        yield from _opened(f"sqlite:///{tmp_path}/empty.db")
    else:
        yield from _fresh(request.getfixturevalue("postgresql"), "template0")


def _fresh(cluster: Cluster, template: str) -> Iterator[Database]:
    name = f"test_{uuid.uuid4().hex}"
    cluster.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield from _opened(cluster.url(name))
    cluster.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _opened(url: str) -> Iterator[Database]:
    database = Database(url)
    if database.embedded:
        event.listen(database.engine, "connect", be_quick)
    yield database
    database.close()


def be_quick(connection: DBAPIConnection, _record: object) -> None:
    """Have SQLite not wait for the disk: no computer is switched off here."""
    connection.cursor().execute("PRAGMA synchronous=OFF")
