"""Services as they run, in processes of their own, and simulated nodes enrolled there that speak to them by TLS.

What a service spends is read from /proc: the nodes' own work, which is as much again, is not in it.
"""

import itertools
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.client import HTTPSConnection
from pathlib import Path
from typing import Final

from steelyard.attestation import enrolling
from steelyard.attestation.objects import AnyParameters, DemandedMakers, Terms
from steelyard.attestation.references import makers, manifests, policies, signers
from steelyard.attestation.references.objects import DEFAULT, Standing
from steelyard.attestation.service import Attestation
from steelyard.evidence.tpm.endorsement import Demand
from steelyard.service.authority import Caller, Role
from steelyard.service.configuration import FILE, read_configuration
from steelyard.service.database import Database
from steelyard.service.init import Wish, initialise
from steelyard.service.migrating import SERVICE
from steelyard.service.sealing import read_sealer
from tests import simulated_references as references
from tests.attestation_site import EVERY_RIGHT, endorsements
from tests.simulated_nodes import SimulatedNode
from tests.simulated_tpm import maker

ADMIN: Final = Caller("ann", None, {"red": Role.ADMIN}, EVERY_RIGHT)
START_SECONDS: Final = 60
NODES_PER_ADDRESS: Final = 20
"""Which register from one address of this computer: a service lets each ask but so often."""
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_numbers, _addresses = itertools.count(), itertools.count()
_running: list["Process"] = []


def service_seconds() -> float:
    """Return the CPU time of all services that run: a timer."""
    return sum(process.seconds() for process in _running)


class Wire:
    """A connection that a node asks through, kept open; from an address of this computer of its own."""

    def __init__(self, port: int, context: ssl.SSLContext, source: str = "127.0.0.1") -> None:
        self._turn = threading.Lock()
        self._connection = HTTPSConnection("127.0.0.1", port, context=context, source_address=(source, 0), timeout=60)

    def __call__(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Ask."""
        with self._turn:  # a few nodes share it, and two threads may have some of them each
            self._connection.request(method, path, body, dict(headers))
            answer = self._connection.getresponse()
            return answer.status, answer.read()

    def close(self) -> None:
        """Let it go."""
        self._connection.close()


@dataclass
class Process:
    """A service in a process."""

    directory: Path
    port: int
    process: "subprocess.Popen[bytes]"

    @property
    def context(self) -> ssl.SSLContext:
        """What clients verify it with."""
        return ssl.create_default_context(cafile=str(self.directory / "authority.pem"))

    def seconds(self) -> float:
        """Return its CPU time so far."""
        words = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / _TICKS

    def resident_bytes(self) -> int:
        """Return the memory that it holds."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * _PAGE_BYTES


@dataclass
class Fleet:
    """Services on one database, and nodes."""

    database: Database
    processes: Sequence[Process]
    nodes: list[SimulatedNode] = field(default_factory=list)

    def enrol(self, count: int) -> list[SimulatedNode]:
        """Return so many new nodes, enrolled."""
        made = [SimulatedNode(f"n{next(_numbers):06}", _nowhere, template="ima-ng") for _ in range(count)]
        with self.database.writing() as tx:
            for node in made:
                terms = Terms(
                    endorsements=endorsements(node.tpm),
                    makers=DemandedMakers("makers"),
                    airlock="airlock",
                    runtime="runtime",
                    parameters=AnyParameters(),
                    interval=timedelta(hours=1),
                    grace=timedelta(hours=1),
                )
                enrolling.enrol(tx, ADMIN, name=node.name, project="red", terms=terms, expected_version=None)
        self.nodes += made
        return made

    @contextmanager
    def wires(self, nodes: Sequence[SimulatedNode]) -> Iterator[None]:
        """Let nodes speak to the services in turn, few of them by each connection and from each address."""
        with ExitStack() as stack:
            for number, begin in enumerate(range(0, len(nodes), NODES_PER_ADDRESS)):
                process, address = self.processes[number % len(self.processes)], next(_addresses)
                source = f"127.{1 + address // 62_500}.{address // 250 % 250}.{address % 250 + 1}"
                wire = stack.enter_context(closing(Wire(process.port, process.context, source)))
                for node in nodes[begin : begin + NODES_PER_ADDRESS]:
                    node.call = wire
            yield


def _nowhere(*_: object) -> tuple[int, bytes]:
    return 500, b""


@contextmanager
def fleet(directory: Path, url: str, count: int, files: int) -> Iterator[Fleet]:
    """Give so many services on a database without tables: with policies, the second of so many files."""
    directory.chmod(0o700)
    with ExitStack() as stack:
        ports = [_free_port() for _ in range(count)]
        home = directory / "service-0"
        initialise(
            home, Wish(url, "127.0.0.1", ports[0], ()), frozenset({"attestation"}), [SERVICE, Attestation.schema]
        )
        database = stack.enter_context(
            closing(Database(read_configuration(home, frozenset({"attestation"})).database.url))
        )
        _fill(database, home, files)
        processes = [
            stack.enter_context(_process(_copy(home, number, ports), ports[number])) for number in range(count)
        ]
        yield Fleet(database, processes)


def _copy(home: Path, number: int, ports: Sequence[int]) -> Path:
    if number == 0:
        return home
    other = home.with_name(f"service-{number}")
    shutil.copytree(home, other)
    text = (other / FILE).read_text()
    (other / FILE).write_text(text.replace(f"port = {ports[0]}", f"port = {ports[number]}"))
    return other


@contextmanager
def _process(directory: Path, port: int) -> Iterator[Process]:
    with (directory / "log").open("wb") as log:
        begun = subprocess.Popen(
            [Path(sys.executable).with_name("steelyard"), "serve", "attestation", "--directory", directory],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    made = Process(directory, port, begun)
    deadline = time.monotonic() + START_SECONDS
    while True:
        assert begun.poll() is None, (directory / "log").read_text()
        assert time.monotonic() < deadline, (directory / "log").read_text()
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    _running.append(made)
    try:
        yield made
    finally:
        _running.remove(made)
        begun.terminate()
        begun.wait(START_SECONDS)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    return port


def _fill(database: Database, home: Path, files: int) -> None:
    """Put makers, signers, references and policies in."""
    sealer = read_sealer(read_configuration(home, frozenset({"attestation"})).sealing_keys)
    now = datetime.now(UTC)
    with database.writing() as tx:
        makers.put_makers(
            tx,
            ADMIN,
            project="red",
            name="makers",
            certificates=maker().anchors_pem(),
            revocations=(),
            demands=frozenset(Demand),
            expected_version=None,
        )
        key = references.SIGNING_KEY.public_key().public_bytes_raw()
        signers.put_signers(
            tx,
            ADMIN,
            sealer,
            project="red",
            component=DEFAULT,
            keys={"release": key},
            threshold=1,
            expected_version=None,
        )
    for component, envelope in references.signed_references(files, now).items():
        manifests.add_reference(
            database,
            ADMIN,
            sealer,
            project="red",
            component=component,
            content=envelope,
            standing=Standing.ACCEPTED,
        )
    for name, document in (("airlock", references.airlock_policy()), ("runtime", references.runtime_policy())):
        with database.writing() as tx:
            policies.put_policy(tx, ADMIN, project="red", name=name, document=document, expected_version=None)
        with database.writing() as tx:
            policies.make_live(tx, ADMIN, sealer, project="red", name=name, number=1, expected_version=None)
