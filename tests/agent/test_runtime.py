"""The run-time agent's decisions: when it reports, what it sends, what it makes of each answer. Time is the test's."""

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from steelyard.agent.measurements import MeasurementList
from steelyard.agent.parameters import OnFailure, Parameters
from steelyard.agent.protocol import NodeKeys
from steelyard.agent.runtime import Clock, Rejected, Runtime, SessionOver, pause_after
from steelyard.agent.service import Server
from steelyard.agent.session import Session
from steelyard.agent.tpm import Quoted
from steelyard.evidence.compiled_policy import CompiledPolicy
from steelyard.evidence.keysplit import raw_public_key
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import NodeFailed
from steelyard.model.pcrs import PcrSelection
from steelyard.model.secret import Secret
from tests import simulated_references as references
from tests.airlock_service import WebServer
from tests.simulated_boots import file_entry, file_paths
from tests.simulated_nodes import SimulatedNode
from tests.simulated_tpm import maker
from tests.small_verifier import SmallVerifier

SAVED: Final = b"what brings the key back"
PATHS: Final = file_paths(50)
INTERVAL: Final = 60


@cache
def policies() -> tuple[CompiledPolicy, CompiledPolicy]:
    now = datetime.now(UTC)
    envelopes = references.signed_references(len(PATHS), now)
    airlock, runtime = references.airlock_policy(), references.runtime_policy()
    return references.compiled(airlock, envelopes, now), references.compiled(runtime, envelopes, now)


@dataclass
class LoadedTpm:
    """A node's TPM as the agent opens it at run time."""

    node: SimulatedNode
    loaded: bool = False
    closed: bool = False

    def make_keys(self) -> NodeKeys:
        raise AssertionError("keys are made in the airlock")

    def save_signing_key(self) -> bytes:
        raise AssertionError("the key is saved in the airlock")

    def load_signing_key(self, saved: bytes) -> None:
        assert saved == SAVED
        self.loaded = True

    def activate(self, credential: bytes) -> Secret:  # noqa: ARG002  (of the protocol)
        raise AssertionError("the session was begun in the airlock")

    def quote(self, qualifying_data: bytes, selection: PcrSelection) -> Quoted:
        assert self.loaded
        return self.node.tpm.quote(qualifying_data, selection)

    def banks(self) -> frozenset[HashAlgorithm]:
        raise AssertionError("nothing is measured at run time")

    def extend(self, index: int, digests: object) -> None:  # noqa: ARG002  (as above)
        raise AssertionError("nothing is measured at run time")

    def close(self) -> None:
        self.closed = True


@dataclass
class Time:
    """Time that passes when somebody waits; what is to happen then happens."""

    seconds: float = 0.0
    plans: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    def now(self) -> float:
        return self.seconds

    def wait(self, seconds: float) -> None:
        assert seconds > 0
        self.waits.append(seconds)
        self.seconds += seconds
        while self.plans and self.plans[0][0] <= self.seconds:
            self.plans.pop(0)[1]()

    def at(self, seconds: float, happens: Callable[[], None]) -> None:
        self.plans.append((seconds, happens))


class Over(Exception):
    """Ends a test's run."""


@dataclass
class Rig:
    """A node that has passed the airlock, and its agent."""

    node: SimulatedNode
    verifier: SmallVerifier
    runtime: Runtime
    time: Time
    said: list[str]
    folder: Path
    tpms: list[LoadedTpm]

    def run_files(self, *paths: str) -> None:
        self.node.run_files(paths)
        self.show()

    def show(self) -> None:
        (self.folder / "binary_runtime_measurements").write_bytes(self.node.measurements.after(0))
        (self.folder / "runtime_measurements_count").write_text(f"{len(self.node.measurements)}\n")

    def run_until(self, seconds: float) -> None:
        """Let the agent run until the time comes."""

        def end() -> None:
            raise Over

        self.time.at(seconds, end)
        with pytest.raises(Over):
            self.runtime.keep_reporting()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    node = SimulatedNode("n1", lambda *_: (500, b""))
    verifier = SmallVerifier(
        "n1", node.tpm.keys().endorsement_key, (maker().root, maker().issuer), *policies(), interval=INTERVAL
    )
    node.call = verifier
    node.pass_airlock()
    session = session_of(node)
    with WebServer(socket.create_server(("127.0.0.1", 0))) as web:
        web.otherwise = verifier
        server = Server(f"http://127.0.0.1:{web.port}", None)
        server.token = session.token
        time, said, tpms = Time(), list[str](), list[LoadedTpm]()

        def open_tpm() -> LoadedTpm:
            tpms.append(LoadedTpm(node))
            return tpms[-1]

        measurements = MeasurementList(tmp_path, session.ima_list)
        runtime = Runtime(session, server, measurements, open_tpm, Clock(time.now, time.wait), said.append)
        rig = Rig(node, verifier, runtime, time, said, tmp_path, tpms)
        rig.show()
        yield rig
        assert all(tpm.closed for tpm in tpms)


def session_of(node: SimulatedNode) -> Session:
    parameters = Parameters(node.parameters, node.name, "https://127.0.0.1", "", "", OnFailure.WAIT)
    assert node.token is not None
    keys = raw_public_key(node.transport), raw_public_key(node.wireguard)
    return Session(parameters, node.token, SAVED, *keys, node.booted.to_bytes(), b"")


def test_it_reports_at_once_and_then_at_the_interval(rig: Rig) -> None:
    rig.run_until(2.5 * INTERVAL)
    assert rig.verifier.passed == ["airlock", "runtime", "runtime", "runtime"]
    assert [sent for _, sent, _ in rig.verifier.reports[1:]] == [0, 0]
    assert rig.said[-1] == "passed with 1 entries, 0 of them new"
    assert max(rig.time.waits) <= 0.1 + 1e-9


def test_growth_is_reported_at_the_next_look_and_only_what_is_new_is_sent(rig: Rig) -> None:
    rig.time.at(20, lambda: rig.run_files(*PATHS[:3]))
    rig.time.at(20.15, lambda: rig.verifier.await_reports(2))
    rig.run_until(30)
    assert rig.verifier.reports[1] == (1, len(rig.node.measurements.after(1)), False)


def test_a_list_that_goes_on_growing_is_reported_once_a_second(rig: Rig) -> None:
    for number, path in enumerate(PATHS):
        rig.time.at(10 + number / 10, lambda path=path: rig.run_files(path))  # type: ignore[misc]  # bound now
    rig.run_until(16)
    assert 5 <= rig.verifier.passed.count("runtime") <= 8
    assert rig.verifier.entries == 1 + len(PATHS)


def test_what_grows_while_it_reports_is_reported_next(rig: Rig) -> None:
    class Busy(LoadedTpm):
        def close(self) -> None:
            super().close()
            if len(rig.tpms) == 1:
                rig.run_files(PATHS[0])

    def open_busy() -> LoadedTpm:
        rig.tpms.append(Busy(rig.node))
        return rig.tpms[-1]

    rig.runtime.open_tpm = open_busy
    rig.run_until(5)
    assert rig.verifier.passed.count("runtime") == 2
    assert rig.verifier.entries == 2


def test_a_service_that_is_away_is_asked_again_ever_more_slowly_and_for_ever(rig: Rig) -> None:
    rig.verifier.away = True
    rig.run_until(3600)
    assert rig.verifier.refused == len([words for words in rig.said if words.startswith("no report")])
    assert 60 <= rig.verifier.refused <= 140
    assert rig.time.waits[0] <= 1
    assert max(rig.time.waits) <= 60
    rig.verifier.away = False
    rig.run_until(3700)
    assert rig.verifier.passed[1:2] == ["runtime"]


def test_a_service_that_answers_nothing_is_asked_again(rig: Rig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    server, rig.runtime.server = rig.runtime.server, Server(f"http://127.0.0.1:{port}", None)

    def back() -> None:
        rig.runtime.server = server

    rig.time.at(1, back)
    rig.run_until(30)
    assert rig.verifier.passed.count("runtime") == 1
    assert "refused" in rig.said[0]


def test_pauses_double_up_to_a_minute_and_differ_between_nodes() -> None:
    assert [pause_after(failures, 1.0) for failures in (0, 1, 2, 5, 6, 100, 2000)] == [1, 2, 4, 32, 60, 60, 60]
    assert pause_after(6, 0.0) == 30


def test_a_challenge_that_came_along_is_used_and_one_that_is_gone_is_replaced_at_once(rig: Rig) -> None:
    rig.time.at(INTERVAL + 1, rig.verifier.forget_challenges)
    rig.run_until(2.5 * INTERVAL)
    asked = [request for request in rig.verifier.requests if request.endswith("/challenges")]
    assert len(asked) == 1 + 1 + 1, "in the airlock, at first, and in place of the one that was gone"
    assert rig.verifier.passed.count("runtime") == 3
    assert not [words for words in rig.said if words.startswith("no report")]


def test_without_challenges_that_come_along_it_asks_for_each(rig: Rig) -> None:
    rig.verifier.gives_next = False
    rig.run_until(2.5 * INTERVAL)
    assert len([request for request in rig.verifier.requests if request.endswith("/challenges")]) == 1 + 3


def test_another_policy_has_the_whole_boot_judged_again(rig: Rig) -> None:
    now = datetime.now(UTC)
    another = references.compiled(
        references.runtime_policy(version=2), references.signed_references(len(PATHS), now), now
    )

    def change() -> None:
        rig.verifier.forget_challenges()
        rig.verifier.runtime = another

    rig.time.at(10, lambda: rig.run_files(*PATHS[:5]))
    rig.time.at(20, change)
    rig.run_until(1.5 * INTERVAL)
    assert [(first, log) for first, _, log in rig.verifier.reports] == [(0, True), (1, False), (0, True)]
    assert rig.verifier.passed.count("runtime") == 3


def test_a_rejection_ends_it(rig: Rig) -> None:
    rig.time.at(10, lambda: rig.run_files("/usr/local/bin/unknown"))
    with pytest.raises(Rejected, match="/usr/local/bin/unknown"):
        rig.runtime.keep_reporting()


def test_a_message_that_is_refused_says_nothing_of_the_node(rig: Rig) -> None:
    verifier, good = rig.verifier, rig.verifier._evidence

    def refuse(*_: object) -> tuple[int, bytes]:
        verifier._evidence = good  # type: ignore[method-assign]  # of another mind later
        return 422, b'{"title": "Malformed", "code": "malformed-message", "detail": "what?"}'

    verifier._evidence = refuse  # type: ignore[method-assign, assignment]  # as above
    rig.run_until(10)
    assert "what?" in rig.said[0]
    assert verifier.passed.count("runtime") == 1


def test_a_session_that_is_over_ends_it(rig: Rig) -> None:
    rig.time.at(10, rig.verifier.end_session)
    with pytest.raises(SessionOver, match="401"):
        rig.runtime.keep_reporting()


def test_a_verifier_that_wants_no_more_ends_it(rig: Rig) -> None:
    rig.verifier.interval = None
    rig.runtime.keep_reporting()
    assert rig.verifier.passed.count("runtime") == 1


def test_a_tpm_that_fails_is_tried_again(rig: Rig) -> None:
    good = rig.runtime.open_tpm

    def fail() -> LoadedTpm:
        rig.runtime.open_tpm = good
        raise NodeFailed("opening the TPM", expected="the TPM to do it", found="busy")

    rig.runtime.open_tpm = fail
    rig.run_until(10)
    assert rig.said[0].startswith("no report: opening the TPM")
    assert rig.verifier.passed.count("runtime") == 1


def test_a_list_that_cannot_be_read_is_told_and_tried_again(rig: Rig) -> None:
    def remove() -> None:
        (rig.folder / "runtime_measurements_count").unlink()

    rig.time.at(10, remove)
    rig.time.at(30, rig.show)
    rig.run_until(INTERVAL + 40)
    assert any("runtime_measurements_count" in words for words in rig.said)
    assert rig.verifier.passed.count("runtime") >= 2


@pytest.mark.parametrize("carried_over", [True, False])
def test_the_airlocks_list_counts_where_the_kernel_began_a_new_one(rig: Rig, *, carried_over: bool) -> None:
    began = rig.node.measurements.after(0)
    if not carried_over:
        rig.node.tpm.extend(10, rig.node.measurements.began)
    rig.runtime.session = replace(rig.runtime.session, ima_list=began)
    rig.runtime.measurements = MeasurementList(rig.folder, began)
    rig.time.at(10, lambda: rig.run_files(PATHS[0]))
    rig.run_until(20)
    assert rig.verifier.passed.count("runtime") == 2
    assert rig.verifier.entries == (2 if carried_over else 3)
    assert rig.verifier.reports[-1] == (rig.verifier.entries - 1, len(file_entry(PATHS[0]).binary("sha1")), False)
