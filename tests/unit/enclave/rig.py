"""An enclave service without its threads and its edge: files, callers, a clock, and one turn after another."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import yaml

from steelyard.enclave import operations, store
from steelyard.enclave.life import State
from steelyard.enclave.objects import Enclave, Place
from steelyard.enclave.worker import Worker
from steelyard.model.secret import Secret
from steelyard.service.accounts import ALL_RIGHTS
from steelyard.service.authority import Caller, Role
from steelyard.service.database import Database
from steelyard.service.sealing import Sealer
from tests.fakes.enclave_world import AIRLOCK, ENCLAVE, IMAGE_SHA256, Killed, World

SEALER: Final = Sealer({b"\x01\x02\x03\x04": Secret(bytes(32))})
MEMBER: Final = Caller("alice", None, {"blue": Role.MEMBER}, ALL_RIGHTS)
STRANGER: Final = Caller("mallory", None, {"red": Role.ADMIN}, ALL_RIGHTS)
SEAL: Final = {
    "kernel": IMAGE_SHA256,
    "initramfs": IMAGE_SHA256,
    "command_line": "quiet",
    "root_hash": "ab" * 32,
    "data_bytes": 1 << 20,
    "image_bytes": 2 << 20,
}
START: Final = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
TURN: Final = timedelta(seconds=1)


def document(trust: str = "open", count: int = 2, **changed: Any) -> dict[str, Any]:
    """Return an enclave file as a document."""
    file: dict[str, Any] = {
        "name": "lab",
        "trust": trust,
        "nodes": {"count": count},
        "image": "debian",
        "networks": {"boot": AIRLOCK, "enclave": AIRLOCK if trust == "open" else ENCLAVE},
        "disk": {"after": "destroy"},
    }
    if trust != "open":
        file["attestation"] = {"service": "own", "airlock_policy": "airlock"}
    if trust == "sealed":
        file["networks"]["addresses"] = "10.60.0.0/16"
        file["attestation"]["runtime_policy"] = "runtime"
        file["wireguard"] = {"port": 51820, "addresses": "10.77.0.0/16"}
        file["seal"] = dict(SEAL)
    return {**file, **changed}


def text(trust: str = "open", count: int = 2, **changed: Any) -> str:
    """Return an enclave file."""
    return str(yaml.safe_dump(document(trust, count, **changed), sort_keys=False))


@dataclass
class Clock:
    """Time that passes when it is told to."""

    now: datetime = START

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Rig:
    """The service and its world. kill_at: at which moment it is killed, counted from 0; None: never."""

    database: Database
    world: World
    clock: Clock
    kill_at: int | None = None
    moments: int = 0
    turns: int = 0
    worker: Worker = field(init=False)

    def __post_init__(self) -> None:
        self.world.fault = lambda _verb: self._moment()
        self.world.fetch = self._fetch
        self.start()

    def start(self) -> None:
        """Start the service anew, with nothing in its memory."""
        self.worker = Worker(self.database, SEALER, self.world.services())

    def _fetch(self, path: str) -> bytes | None:
        with self.database.reading() as connection:
            return store.find_delivery(connection, path)

    def _moment(self) -> None:
        self.moments += 1
        if self.kill_at is not None and self.moments == self.kill_at:
            raise Killed

    # -- verbs ---------------------------------------------------------------------------------------------------------

    def apply(self, file: str) -> Enclave:
        with self.database.writing() as tx:
            return operations.apply(
                tx,
                SEALER,
                MEMBER,
                project="blue",
                name="lab",
                text=file,
                services=frozenset({"own"}),
                expected_version=None,
            )

    def delete(self) -> None:
        with self.database.writing() as tx:
            operations.delete(tx, MEMBER, project="blue", name="lab", expected_version=None)

    def cancel(self, place: str | None = None) -> None:
        with self.database.writing() as tx:
            operations.cancel(tx, MEMBER, project="blue", name="lab", place=place)

    def retry(self, place: str | None = None) -> None:
        with self.database.writing() as tx:
            operations.retry(tx, MEMBER, project="blue", name="lab", place=place)

    # -- looking -------------------------------------------------------------------------------------------------------

    def enclave(self) -> Enclave:
        with self.database.reading() as connection:
            found = store.find_enclave(connection, "blue", "lab")
        assert found is not None
        return found

    def places(self, *, over: bool = False) -> list[Place]:
        with self.database.reading() as connection:
            return list(operations.list_places(connection, self.enclave(), over=over, after="", limit=1000))

    def states(self) -> list[State]:
        return [place.state for place in self.places()]

    def settled(self) -> bool:
        with self.database.reading() as connection:
            return operations.settled(connection, self.enclave())[0]

    def gone(self) -> bool:
        return self.enclave().gone

    # -- time passes ---------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Look once at every enclave and at every place with which there is something to do."""
        self.turns += 1
        self.clock.now += TURN
        try:
            self.world.tick()
            self._look()
        except Killed:
            self.start()

    def _look(self) -> None:
        for enclave in self.worker.living():
            self._moment()
            with self.database.writing() as tx:
                self.worker.look_at_enclave(tx, enclave)
            self._moment()
        with self.database.reading() as connection:
            due = store.load_places(connection, list(store.to_be_looked_at(connection)))
        for place in due:
            outcome = self.worker.take(place)
            self._moment()
            with self.database.writing() as tx:
                self.worker.write(tx, [outcome])
            self._moment()

    def run(self, until: Callable[[], bool], most: int = 300) -> None:
        """Let time pass until something is so."""
        for _ in range(most):
            if until():
                return
            self.turn()
        shown = [(each.node, each.state.value, each.step, each.words, each.why) for each in self.places()]
        raise AssertionError(f"not so after {most} turns: {shown}")


def make_rig(database: Database, *, nodes: int = 4, laziness: int = 1, demands: bool = True) -> Rig:
    """Return a service with nothing to do in a world of so many machines."""
    clock = Clock()
    database._clock = clock
    world = World(clock, nodes, laziness=laziness)
    world.demands = demands
    return Rig(database, world, clock)
