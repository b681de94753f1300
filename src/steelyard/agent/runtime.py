"""The agent in the tenant's system: `python3 -m steelyard.agent.runtime HANDED TPM LIST ON-REJECTION`.

HANDED is the file that the airlock left (`session.py`), TPM is named as tpm2-tools do, such as device:/dev/tpmrm0, LIST
is the kernel's folder of the measurement list, ON-REJECTION is `stop` or `power-off`. It reports at once, whenever the
list grew, and at the interval that the verifier names; what is new travels, and nothing else. It says of each report
how it went. It ends with

0  when the verifier wants to hear no more,
3  when the verifier rejected the node: nothing that it could report makes that good,
4  when the session ended, or there is none: only the airlock begins one,

and goes on trying as long as there is no answer. With 1 it was a bug that ended it: whoever started it starts it again.
"""

import secrets
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from typing import Final

from steelyard.agent.files import read_file
from steelyard.agent.measurements import MeasurementList
from steelyard.agent.programs import run
from steelyard.agent.protocol import (
    Asked,
    Judged,
    RuntimeEvidence,
    parse_challenge,
    parse_judged,
    runtime_challenge_request,
    runtime_evidence_request,
)
from steelyard.agent.service import Answer, Server
from steelyard.agent.session import Session, parse_session_file
from steelyard.agent.tpm import Quoted, Tpm
from steelyard.evidence.ima.records import IMA_PCR
from steelyard.model.errors import NodeFailed, ServiceRefused, SteelyardError
from steelyard.model.limits import HANDOVER_BYTES, MESSAGE_BYTES
from steelyard.model.secret import Secret
from steelyard.model.text import printable

_API: Final = "/v1/attestation"
_LOOK_SECONDS: Final = 0.1
"""Between two looks at whether the list grew: a violation is reported as soon, for some 0.2 % of one processor."""
_LEAST_GAP_SECONDS: Final = 1.0
"""Between two reports of a list that goes on growing, as it does while a system starts."""
_LONGEST_PAUSE_SECONDS: Final = 60.0
_DOUBLINGS: Final = 6
_SESSION_OVER: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
"""Answers to a request for a challenge: they say nothing of the node, but that this session has no more say for it."""


_REJECTED: Final = 3
_NO_SESSION: Final = 4
_NOT_PASSED: Final = "not-passed"
"""The code of the one problem that says something of the node. A message of it may be refused with that status too."""


class OnRejection(StrEnum):
    """What the system does that the verifier rejected, besides to report no more."""

    STOP = "stop"
    POWER_OFF = "power-off"


class Rejected(Exception):
    """The verifier judged what was reported, and it is not good."""


class SessionOver(Exception):
    """The service does not know the session any more."""


@dataclass(frozen=True, slots=True)
class Clock:
    """Time that passes: seconds since some moment, and a wait of so many."""

    now: Callable[[], float]
    wait: Callable[[float], None]


@dataclass(slots=True)
class Runtime:
    """What reports: a session, and the means to collect evidence.

    open_tpm  gives the TPM, for one report each: another program's key or a lost connection hinders no later one.
    """

    session: Session
    server: Server
    measurements: MeasurementList
    open_tpm: Callable[[], Tpm]
    clock: Clock
    say: Callable[[str], None]
    next: Asked | None = None
    settled: bool = False

    def keep_reporting(self) -> None:
        """Report until the verifier wants no more. Raises Rejected, SessionOver."""
        failures = 0
        reported = 0
        while True:
            begun = self.clock.now()
            try:
                entries, judged = self.report()
            except SteelyardError as error:
                pause = pause_after(failures, secrets.SystemRandom().random())
                failures += 1
                self.say(f"no report: {error}; again in {pause:.0f} s")
                self.clock.wait(pause)
                continue
            failures = 0
            self.say(f"passed with {entries} entries, {entries - reported} of them new")
            reported = entries
            if judged.seconds_to_next is None:
                return
            self._wait(begun, judged.seconds_to_next, entries)

    def report(self) -> tuple[int, Judged]:
        """Report once; return how many entries the list has, and the answer.

        A challenge that came along may be used up or too old: then another is asked for, once.
        Raises Rejected, SessionOver; SteelyardError for what may go better later.
        """
        asked, self.next = self.next, None
        with closing(self.server):
            if asked is not None:
                answer, entries = self._answer(asked)
                if answer.status == HTTPStatus.OK:
                    return entries, self._judged(answer)
            answer, entries = self._answer(self._ask_challenge())
            return entries, self._judged(answer)

    def _ask_challenge(self) -> Asked:
        path = f"{_API}/nodes/{self.session.parameters.node}/challenges"
        answer = self.server.ask(path, runtime_challenge_request(self.measurements.count()), MESSAGE_BYTES)
        if answer.status in _SESSION_OVER:
            raise SessionOver(answer.told)
        if answer.status != HTTPStatus.CREATED:
            raise ServiceRefused("asking for a challenge", expected="a challenge", found=answer.told)
        return parse_challenge(answer.body)

    def _answer(self, asked: Asked) -> tuple[Answer, int]:
        """Answer a challenge; return what is said to that, and how many entries were there. Raises Rejected."""
        entries = self.measurements.count()  # what comes while this goes on is seen as growth
        quoted = self._quote(asked)
        if not self.settled and IMA_PCR in quoted.pcrs:
            self.measurements.settle(asked.selection.bank, quoted.pcrs[IMA_PCR])
            self.settled = True
            entries = min(entries, self.measurements.count())
        # The list is read after the quote: it then has all that the quote is over, and what is more waits.
        new = self.measurements.after(asked.from_entry)
        log = self.session.event_log if asked.from_entry == 0 else None
        evidence = RuntimeEvidence(quoted.attest, quoted.signature, quoted.pcrs, log, asked.from_entry, new)
        path = f"{_API}/challenges/{asked.challenge}/evidence"
        answer = self.server.ask(path, runtime_evidence_request(evidence), MESSAGE_BYTES)
        if answer.status == HTTPStatus.UNPROCESSABLE_ENTITY and answer.code == _NOT_PASSED:
            raise Rejected(answer.told)
        return answer, entries

    def _quote(self, asked: Asked) -> Quoted:
        tpm = self.open_tpm()
        try:
            tpm.load_signing_key(self.session.attestation_key)
            return tpm.quote(self.session.bound(asked.nonce).qualifying_data(), asked.selection)
        finally:
            with suppress(NodeFailed):  # what was quoted is good, and the TPM's driver cleans up
                tpm.close()

    def _judged(self, answer: Answer) -> Judged:
        if answer.status != HTTPStatus.OK:
            raise ServiceRefused("being judged", expected="a verdict", found=answer.told)
        judged = parse_judged(answer.body)
        self.next = judged.next
        return judged

    def _wait(self, begun: float, seconds: int, entries: int) -> None:
        """Wait until the next report is due, or the list has more than so many entries."""
        due, soonest = begun + seconds, begun + _LEAST_GAP_SECONDS
        while (now := self.clock.now()) < due and not (now >= soonest and self._grew(entries)):
            self.clock.wait(min(_LOOK_SECONDS, due - now))

    def _grew(self, entries: int) -> bool:
        try:
            return self.measurements.count() > entries
        except NodeFailed:
            return True  # the report says what is wrong


def pause_after(failures: int, share: float) -> float:
    """Return how many seconds to wait after so many failures before this one: twice as long each time, up to a minute.

    share  between 0 and 1, at random: nodes that lost their service together shall not come back together.
    """
    longest = min(2.0 ** min(failures, _DOUBLINGS), _LONGEST_PAUSE_SECONDS)
    return longest * (0.5 + share / 2)


def main(handed: Path, open_tpm: Callable[[], Tpm], folder: Path, on_rejection: OnRejection) -> int:
    """Report until it is over; return the process's exit code."""
    try:
        session = parse_session_file(Secret(read_file(handed, HANDOVER_BYTES, "reading what the airlock handed over")))
        measurements = MeasurementList(folder, session.ima_list)
    except SteelyardError as error:
        _say(f"there is no session: {error}")
        return _NO_SESSION
    server = Server(session.parameters.attestation, session.parameters.authority)
    server.token = session.token
    clock = Clock(time.monotonic, time.sleep)
    runtime = Runtime(session, server, measurements, open_tpm, clock, _say)
    _say(f"reporting to {session.parameters.attestation} as {session.parameters.node}")
    try:
        runtime.keep_reporting()
    except Rejected as rejected:
        _say(f"rejected: {rejected}; {on_rejection}")
        if on_rejection is OnRejection.POWER_OFF:
            run(["systemctl", "poweroff", "--force"])
        return _REJECTED
    except SessionOver as over:
        _say(f"the session is over: {over}; only the airlock begins another")
        return _NO_SESSION
    _say("the verifier wants to hear no more")
    return 0


def _say(text: str) -> None:
    print(f"attestation: {printable(text, 1000)}", file=sys.stderr, flush=True)  # noqa: T201  (the journal has it)


if __name__ == "__main__":
    from steelyard.agent.tss import TssTpm

    HANDED, TPM, LIST, ON_REJECTION = sys.argv[1:]
    sys.exit(main(Path(HANDED), lambda: TssTpm(TPM), Path(LIST), OnRejection(ON_REJECTION)))
