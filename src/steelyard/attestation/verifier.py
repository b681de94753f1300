"""Is this node what it should be: challenge, evidence, verdict. Nothing but a `Passed` of the evidence core passes one.

The order is what makes a dead process harmless. The challenge is used up first, then the evidence is judged, then one
transaction writes result and state, and only then is anything given out. Who dies in between leaves a node that has not
passed, and a nonce that nobody can use; the node asks for another. The little that a steady report brings is judged in
the transaction that uses its challenge up: all of it happens, or nothing does.
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final, TypeVar

import structlog
from sqlalchemy import Connection

from steelyard.attestation import archive, rules, store
from steelyard.attestation.archive import Parcel, parcel
from steelyard.attestation.compiling import CompiledPolicies
from steelyard.attestation.life import Event
from steelyard.attestation.messages import Claimed
from steelyard.attestation.objects import AppraisalRecord, Asked, Node, Purpose, Step
from steelyard.attestation.ports import Policies, PolicyInForce
from steelyard.attestation.store import Boot, LastGood
from steelyard.attestation.throttle import Buckets, Rate
from steelyard.attestation.verdicts import Signer, Statement
from steelyard.evidence.appraisal import Accepted, Passed, Rejected, appraise, reject_malformed
from steelyard.evidence.bundle import Evidence, bound_key
from steelyard.evidence.compiled_policy import CompiledPolicy, Grounds
from steelyard.evidence.findings import Finding, Reason
from steelyard.evidence.ima.records import cut_binary
from steelyard.evidence.ima.replay import ImaExcerpt
from steelyard.evidence.policy import Policy, PolicyId
from steelyard.evidence.tpm.attest import parse_tpms_attest
from steelyard.evidence.tpm.keys import ActivatedBy, BoundKey
from steelyard.evidence.tpm.nonce import NONCE_BYTES, NonceWithKeys
from steelyard.evidence.tpm.public import parse_tpmt_public
from steelyard.evidence.tpm.quote import QuotedPcrs
from steelyard.model.errors import (
    Malformed,
    MalformedMessage,
    NotFound,
    NotPassed,
    ServiceUnready,
    SteelyardError,
    Unavailable,
    WrongState,
    WrongUse,
)
from steelyard.model.limits import SMALL_EVIDENCE_BYTES
from steelyard.model.pcrs import PcrValues
from steelyard.service.accounts import not_signed_in
from steelyard.service.authority import not_found
from steelyard.service.database import Database, Transaction

KEYS: Final = 20_000
"""Attestation keys that are kept ready to verify with, some 2 KiB each."""

STEP_RATE: Final = Rate(burst=60, seconds=2.0)

_Following = tuple[int | None, Asked | None]
"""In how many seconds the next report is due, and the challenge for it."""
_NOTHING: Final[_Following] = (None, None)

_OTHER: Final = Grounds(PolicyId("other", 0), frozenset())
"""Grounds that equal no policy's: for what was accepted on others than these."""

_log = structlog.get_logger()

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NodeSession:
    """A node that showed the token of its boot."""

    node: str
    boot: str


@dataclass(frozen=True, slots=True)
class Times:
    """How long things hold.

    challenge     how long an answer may take.
    first_report  how long a pass of the airlock holds: until the first report of what runs, or for good.
    """

    challenge: timedelta
    first_report: timedelta


@dataclass(frozen=True, slots=True)
class Judged:
    """What a node that passed hears."""

    verdict: str
    next_in: int | None
    following: Asked | None


class NodeRejected(NotPassed):
    """A node's evidence was judged, and is not good enough."""

    code = NotPassed.code

    def __init__(self, node: str, findings: tuple[Finding, ...]) -> None:
        reasons = ", ".join(sorted({finding.reason.value for finding in findings}))
        super().__init__(f"judging node {node}", expected="evidence that is good enough", found=reasons)
        self.findings = findings


@dataclass(frozen=True, slots=True)
class _Taken:
    """Evidence that is being judged: its challenge is used up."""

    boot: Boot
    node: Node
    asked: Asked
    signing_key: str
    at: datetime


@dataclass(frozen=True, slots=True)
class _Result:
    """What came of it, with all that is to be kept.

    ima_first, ima_list  the part of the list that is new, as it is kept.
    """

    compiled: CompiledPolicy
    verdict: Passed | Rejected
    findings: tuple[Finding, ...]
    bound: NonceWithKeys
    evidence: Evidence
    event_log: bytes | None
    ima_first: int | None
    ima_list: Parcel | None
    rebooted: int
    parcels: tuple[Parcel, ...]


class _Bug(Exception):
    """Judging evidence raised what it never should; the cause is what."""

    def __init__(self, taken: _Taken) -> None:
        super().__init__(taken.node.name)
        self.taken = taken


class Verifier:
    """Asks and judges nodes. Threads and processes share the work, as nothing about a node is kept but in the database.

    policies  the reference authority.
    """

    def __init__(self, database: Database, policies: Policies, signer: Signer, times: Times) -> None:
        self._database = database
        self._policies = policies
        self._compiled = CompiledPolicies(database, policies)
        self._signer = signer
        self._times = times
        self._steps = Buckets(STEP_RATE)

    # -- who ---------------------------------------------------------------------------------------------------------

    def admit(self, bearer: str) -> NodeSession:
        """Return whose session's token this is. Raises NotSignedIn, the same for every cause."""
        with self._database.reading() as connection:
            boot, _, _ = self._session(connection, bearer, self._database.clock())
        return NodeSession(boot.node, boot.id)

    def read(self, bearer: str, parse: Callable[[], T]) -> T:
        """Return what a body says. What is wrong with it is told to who may send one. Raises what `parse` does."""
        try:
            return parse()
        except SteelyardError:
            self.admit(bearer)
            raise

    def _session(self, connection: Connection, bearer: str, now: datetime) -> tuple[Boot, Node, str]:
        name = rules.boot_of_token(bearer)
        found = None if name is None else store.find_boot(connection, name)
        known = hmac.compare_digest(rules.NO_DIGEST if found is None else found[0].token, rules.token_digest(bearer))
        if found is None or not known:
            raise not_signed_in()
        boot, node, key = found
        # A session is over with its boot: when the node registers again, and when its owner says so.
        if node.boot != boot.id or boot.session_ends <= now:
            raise not_signed_in()
        return boot, node, key or ""

    def _session_of(self, connection: Connection, bearer: str, name: str, now: datetime) -> tuple[Boot, Node, str]:
        """Return the session of this node; for another's, there is no such node."""
        boot, node, key = self._session(connection, bearer, now)
        if node.name != name:
            raise not_found(f"node {name}")
        return boot, node, key

    # -- challenges --------------------------------------------------------------------------------------------------

    def challenge(self, bearer: str, name: str, purpose: Purpose) -> Asked:
        """Return what a node is to quote, and with what nonce; a challenge that it had is over.

        Raises NotSignedIn, NotFound, WrongState.
        """
        made: tuple[bytes, Policy] | None = None
        while True:
            with self._database.writing() as tx:
                boot, node, _ = self._session_of(tx.connection, bearer, name, tx.now)
                policy = rules.check_may_be_asked(node, purpose, boot.entered is not None)
                found = self._in_force(tx.connection, node.project, policy)
                ready = made[1] if made and made[0] == found.grounds else self._compiled.known(found.grounds)
                if ready is not None:
                    return self._ask(tx, boot, node, found, ready, purpose)
            # Out here, as to make a policy ready may take seconds; another may be in force by then.
            made = found.grounds, self._compiled.policy(found)

    def _ask(
        self, tx: Transaction, boot: Boot, node: Node, found: PolicyInForce, ready: Policy, purpose: Purpose
    ) -> Asked:
        asked = Asked(
            challenge=secrets.token_hex(16),
            nonce=secrets.token_bytes(NONCE_BYTES),
            purpose=purpose,
            policy=found.id.name,
            grounds=found.grounds,
            selection=ready.selection,
            first=_first(boot, purpose),
            until=tx.now + self._times.challenge,
        )
        store.change_boot(tx, boot.id, store.asked_values(asked))
        store.move(
            tx,
            node,
            Event.CHALLENGE,
            actor=f"node/{node.name}",
            why=f"asked for evidence ({purpose.value})",
            values={},
            detail={"policy": str(found.id)},
        )
        return asked

    def _in_force(self, connection: Connection, project: str, policy: str) -> PolicyInForce:
        try:
            return self._policies.in_force(connection, project, policy)
        except NotFound as cause:
            expected = f"a policy {policy} in force"
            raise WrongState("challenging a node", expected=expected, found="none") from cause

    # -- evidence ----------------------------------------------------------------------------------------------------

    def take(self, bearer: str, challenge: str, read: Callable[[], Claimed]) -> Judged:
        """Judge what a node sent, as `_take` has it. A bug fails the node, once nothing else is half done."""
        try:
            return self._take(bearer, challenge, read)
        except _Bug as bug:
            cause = bug.__cause__ or bug
            self._fail(bug.taken, f"its evidence could not be judged: {type(cause).__name__}")
            raise cause from None

    def _take(self, bearer: str, challenge: str, read: Callable[[], Claimed]) -> Judged:
        """Judge what a node sent in answer to a challenge; return what to tell it. See the head of this module.

        read  parses the body: only for who showed a valid token.

        Raises NotSignedIn, WrongState (attack 7), MalformedMessage, TooLarge; NodeRejected when it did not pass.
        """
        claimed = self.read(bearer, read)
        with self._database.writing() as tx:
            taken = self._session_asked(tx, bearer, challenge)
            # What takes no longer than a statement or two: using it up, result and state in one.
            weighed = self._weigh(taken, claimed) if self._is_quick(taken, claimed) else None
            if weighed is None:
                store.change_boot(tx, taken.boot.id, {"challenge": None})
                following = _NOTHING
            else:
                following = self._write(tx, taken, taken.node, claimed, *weighed)
        if weighed is None:
            weighed = self._weigh(taken, claimed)
            with self._database.writing() as tx:
                following = self._write(tx, taken, self._still(tx, taken), claimed, *weighed)
        result, verdict = weighed
        if verdict is None:
            raise NodeRejected(taken.node.name, result.findings)
        return Judged(verdict, *following)

    def _session_asked(self, tx: Transaction, bearer: str, challenge: str) -> _Taken:
        boot, node, key = self._session(tx.connection, bearer, tx.now)
        asked = rules.check_answers(boot.asked, challenge, tx.now)
        rules.check_may_be_asked(node, asked.purpose, boot.entered is not None)
        # Whole seconds, as a bundle says when it came, and is judged for that time.
        return _Taken(boot, node, asked, key, tx.now.replace(microsecond=0))

    def _is_quick(self, taken: _Taken, claimed: Claimed) -> bool:
        """Whether evidence is of the kind that comes all the time: a little that is new, by the policy as before."""
        good, asked = taken.boot.good, taken.asked
        small = claimed.ima_list is not None and len(claimed.ima_list.data) <= SMALL_EVIDENCE_BYTES.most
        goes_on = good is not None and good.grounds == asked.grounds and claimed.event_log is None
        return (
            asked.purpose is Purpose.RUNTIME
            and small
            and goes_on
            and not taken.node.expected_reboots
            and self._compiled.is_ready(asked.grounds, taken.at)
        )

    def _weigh(self, taken: _Taken, claimed: Claimed) -> tuple[_Result, str | None]:
        """Return what came of the evidence, and the verdict, to be given out when it is written; None: not good enough.

        Whatever is not the node's own doing raises, and leaves the node where it was; a bug raises, and fails the node.
        """
        try:
            result = self._judge(taken, claimed)
            return result, self._sign(taken, result)
        except (Unavailable, WrongState, NotFound, MalformedMessage, ServiceUnready):
            raise
        except Exception as bug:
            raise _Bug(taken) from bug

    def _judge(self, taken: _Taken, claimed: Claimed) -> _Result:
        boot, node, asked, at = taken.boot, taken.node, taken.asked, taken.at
        compiled = self._compiled.compiled(asked.grounds, at)
        bound = _bound(boot, asked, claimed)
        pcrs = _claimed_pcrs(asked, claimed)
        key = ready_key(boot.attestation_key, boot.endorsement_key)
        good = boot.good if asked.purpose is Purpose.RUNTIME else None
        accepted = None if good is None else _accepted(good, key, compiled, same=good.grounds == asked.grounds)
        rebooted = 0
        if accepted is not None and node.expected_reboots:
            rebooted = _resets(accepted, claimed)
            if 0 < rebooted <= node.expected_reboots:
                # As expected: this is another boot, of which nothing was judged.
                accepted = good = None
            else:
                rebooted = 0
        whole = accepted is None or accepted.grounds is _OTHER
        evidence = self._complete(taken, claimed, pcrs, good, whole=whole)
        try:
            verdict: Passed | Rejected = appraise(evidence, key, bound, accepted, compiled, at)
        except Malformed as malformed:
            verdict = reject_malformed(compiled.policy.id, malformed)
        findings = verdict.findings if isinstance(verdict, Rejected) else ()
        if asked.purpose is Purpose.AIRLOCK and not any(each.reason is Reason.BAD_QUOTE for each in findings):
            findings += rules.judge_parameters(node.terms.parameters, bound.parameters)
        return self._to_keep(taken, claimed, compiled, verdict, findings, bound, evidence, rebooted)

    def _complete(
        self, taken: _Taken, claimed: Claimed, pcrs: PcrValues, good: LastGood | None, *, whole: bool
    ) -> Evidence:
        """Return the evidence with what came before in this boot, where all of it is to be judged (attack 15)."""
        event_log, ima_list = claimed.event_log, claimed.ima_list
        if ima_list is not None and ima_list.first not in (0, taken.asked.first):
            expected = f"entries from number {taken.asked.first} on, as asked, or all"
            raise MalformedMessage("reading evidence", expected=expected, found=f"from {ima_list.first}")
        if whole and good is not None:
            before = b""
            needs_list = ima_list is not None and ima_list.first > 0
            entered = taken.boot.entered
            if needs_list or event_log is None:
                with self._database.reading() as connection:
                    if event_log is None and entered is not None and entered.event_log is not None:
                        event_log = archive.read(connection, entered.event_log)
                    if needs_list:
                        before = archive.read_list(connection, taken.boot.id, until=None)
            if ima_list is not None and needs_list:
                ima_list = ImaExcerpt(0, before + ima_list.data)
        return Evidence(claimed.quote, pcrs, event_log, ima_list)

    def _to_keep(
        self,
        taken: _Taken,
        claimed: Claimed,
        compiled: CompiledPolicy,
        verdict: Passed | Rejected,
        findings: tuple[Finding, ...],
        bound: NonceWithKeys,
        evidence: Evidence,
        rebooted: int,
    ) -> _Result:
        entered, good = taken.boot.entered, taken.boot.good
        parcels: list[Parcel] = []
        log: bytes | None = None
        if claimed.event_log is not None:
            parcels.append(parcel(claimed.event_log))
            log = parcels[-1].digest
        elif entered is not None:
            log = entered.event_log  # judged now, or when it came: of the same boot
        if taken.asked.purpose is Purpose.AIRLOCK and bound.parameters is not None:
            parcels.append(parcel(bound.parameters))
        ima_list, first = None, None
        if claimed.ima_list is not None and compiled.policy.runtime is not None:
            first = 0 if rebooted or good is None or good.ima is None else good.ima.entries
            new = _new_part(claimed.ima_list, first, verdict if not findings else None)
            if new is None:  # to be judged again as it came
                first, new = claimed.ima_list.first, claimed.ima_list.data
            if new:
                ima_list = parcel(new)
                parcels.append(ima_list)
        return _Result(compiled, verdict, findings, bound, evidence, log, first, ima_list, rebooted, tuple(parcels))

    def _sign(self, taken: _Taken, result: _Result) -> str | None:
        """Return the verdict of a node that passed, to be given out when it has been written that it did."""
        if not isinstance(result.verdict, Passed) or result.findings:
            return None
        policy = result.verdict.policy
        boot = taken.boot.entered.nonce if taken.boot.entered is not None else taken.asked.nonce
        return self._signer.sign(
            taken.signing_key,
            Statement(
                node=taken.node.name,
                policy=policy,
                policy_sha256=self._compiled.policy_sha256(taken.asked.grounds),
                purpose=taken.asked.purpose,
                boot=boot,
                bound=result.bound,
                chained=taken.boot.chained,
                at=taken.at,
                expires=self._expires(taken, result),
            ),
        )

    def _expires(self, taken: _Taken, result: _Result) -> datetime:
        expires = rules.pass_until(taken.node.terms, taken.asked.purpose, self._times.first_report, taken.at)
        ends = result.verdict.expires if isinstance(result.verdict, Passed) else None
        return expires if ends is None else min(expires, ends)

    # -- writing -----------------------------------------------------------------------------------------------------

    def _write(
        self, tx: Transaction, taken: _Taken, node: Node, claimed: Claimed, result: _Result, verdict: str | None
    ) -> _Following:
        """Write result and state at once; return when the next report is due, and the challenge for it."""
        record = AppraisalRecord(
            id=store.new_id(tx.now, node.appraisal),
            node=node.name,
            project=node.project,
            boot=taken.boot.id,
            purpose=taken.asked.purpose,
            at=taken.at,
            policy=result.compiled.policy.id,
            grounds=taken.asked.grounds,
            bound=result.bound,
            quote=claimed.quote,
            pcrs=result.evidence.claimed_pcrs,
            event_log=result.event_log,
            ima_list=None if result.ima_list is None else result.ima_list.digest,
            ima_first=result.ima_first,
            ima_entries=_entries(result),
            findings=result.findings,
        )
        archive.keep(tx, result.parcels)
        store.add_appraisal(tx, record)
        if verdict is None or not isinstance(result.verdict, Passed):
            store.change_boot(tx, taken.boot.id, {"challenge": None})
            self._write_failure(tx, node, record)
            return _NOTHING
        return self._write_pass(tx, taken, node, result, result.verdict, record, verdict)

    def _still(self, tx: Transaction, taken: _Taken) -> Node:
        """Return the node as it is now, in the same boot. Raises WrongState: what was judged is over."""
        node = store.find_node(tx.connection, taken.node.name)
        if node is None or node.boot != taken.boot.id:
            found = "another" if node is not None else "none"
            raise WrongState("writing down a result", expected="the boot that was judged to go on", found=found)
        return node

    def _write_failure(self, tx: Transaction, node: Node, record: AppraisalRecord) -> None:
        reasons = sorted({finding.reason.value for finding in record.findings})
        subjects = list(dict.fromkeys(finding.subject for finding in record.findings))
        store.move(
            tx,
            node,
            Event.FAIL,
            actor="attestation",
            why=f"its evidence was not good enough: {', '.join(reasons)}",
            values={"expires": None, "fails": None, "reported": tx.now, "appraisal": record.id},
            detail={
                "appraisal": record.id,
                "policy": str(record.policy),
                "reasons": list(reasons),
                "subjects": subjects[:20],
            },
        )

    def _write_pass(
        self,
        tx: Transaction,
        taken: _Taken,
        node: Node,
        result: _Result,
        passed: Passed,
        record: AppraisalRecord,
        verdict: str,
    ) -> _Following:
        terms, asked = node.terms, taken.asked
        expires = self._expires(taken, result)
        fails = None if terms.runtime is None else expires + terms.grace
        position = None if passed.runtime is None else passed.runtime.position
        changes: dict[str, object] = {
            "quote": record.quote.attest,
            "pcrs": store.pack_pcrs(record.pcrs),
            "grounds": asked.grounds,
            "ima_entries": None if position is None else position.entries,
            "ima_pcr": None if position is None else position.pcr10,
            "verdict": verdict,
            "session_ends": (fails or expires) + terms.grace,
            "challenge": None,
        }
        if result.event_log is not None and (asked.purpose is Purpose.AIRLOCK or _came_anew(taken, result)):
            changes["event_log"] = result.event_log
        if asked.purpose is Purpose.AIRLOCK:
            bound = result.bound
            changes |= {
                "nonce": asked.nonce,
                "transport_key": bound.transport_key,
                "wireguard_key": bound.wireguard_key,
                "parameters": None if bound.parameters is None else _sha256(bound.parameters),
            }
        following = self._follow(tx, taken, node, position.entries if position is not None else 0, expires)
        if following is not None:
            changes |= store.asked_values(following)
        store.change_boot(tx, taken.boot.id, changes)
        values: dict[str, object] = {"expires": expires, "fails": fails, "reported": tx.now, "appraisal": record.id}
        if result.rebooted:
            values["expected_reboots"] = node.expected_reboots - result.rebooted
        store.move(
            tx,
            node,
            Event.PASS,
            actor="attestation",
            why=f"its evidence was good ({asked.purpose.value}, {record.policy})",
            values=values,
            detail={"appraisal": record.id, "policy": str(record.policy), "purpose": asked.purpose.value},
        )
        if result.rebooted:
            store.note(tx, node, "rebooted", actor="attestation", detail={"resets": result.rebooted})
        if terms.runtime is None:
            return _NOTHING
        if asked.purpose is Purpose.AIRLOCK:
            return max(1, int(terms.interval.total_seconds())), None
        changed = following is None or following.grounds != asked.grounds
        return 1 if changed else max(1, int(terms.interval.total_seconds())), following

    def _follow(self, tx: Transaction, taken: _Taken, node: Node, entries: int, expires: datetime) -> Asked | None:
        """Return the next challenge of a node that reports, so that a report needs one request; None: it has to ask."""
        if taken.asked.purpose is not Purpose.RUNTIME or node.terms.runtime is None:
            return None
        try:
            found = self._policies.in_force(tx.connection, node.project, node.terms.runtime)
        except NotFound:
            return None
        policy = self._compiled.known(found.grounds)
        if policy is None:
            return None
        return Asked(
            challenge=secrets.token_hex(16),
            nonce=secrets.token_bytes(NONCE_BYTES),
            purpose=Purpose.RUNTIME,
            policy=node.terms.runtime,
            grounds=found.grounds,
            selection=policy.selection,
            first=entries,
            until=expires,
        )

    def _fail(self, taken: _Taken, why: str) -> None:
        """Fail a node whose evidence nobody could judge: a bug of ours never lets anybody in."""
        _log.exception("appraisal.bug", node=taken.node.name)
        with self._database.writing() as tx:
            try:
                node = self._still(tx, taken)
            except WrongState:
                return
            values = {"expires": None, "fails": None, "reported": tx.now}
            store.move(tx, node, Event.FAIL, actor="attestation", why=why, values=values, detail={})

    # -- steps -------------------------------------------------------------------------------------------------------

    def note_step(self, bearer: str, name: str, step: str, outcome: str, detail: str) -> None:
        """Keep what a node says that it is at. Raises TooMany, NotSignedIn, NotFound."""
        self._steps.take(name, f"noting a step of node {name}")
        with self._database.writing() as tx:
            _, node, _ = self._session_of(tx.connection, bearer, name, tx.now)
            said = Step(step, outcome, detail, tx.now)
            store.keep_step(tx, node, said)


def _came_anew(taken: _Taken, result: _Result) -> bool:
    """Whether a log came with what runs, of a boot that was to be judged whole."""
    entered = taken.boot.entered
    return entered is None or entered.event_log != result.event_log


def _first(boot: Boot, purpose: Purpose) -> int:
    good = boot.good
    return good.ima.entries if purpose is Purpose.RUNTIME and good is not None and good.ima is not None else 0


@lru_cache(maxsize=KEYS)
def ready_key(attestation_key: bytes, endorsement_key: bytes) -> BoundKey:
    """Return a key of our own store, ready to verify with."""
    return bound_key(parse_tpmt_public(attestation_key), ActivatedBy(endorsement_key))


def _bound(boot: Boot, asked: Asked, claimed: Claimed) -> NonceWithKeys:
    """Return what the quote must vouch for: in the airlock the keys that came with it, later those very keys."""
    if asked.purpose is Purpose.AIRLOCK:
        keys = claimed.keys
        if keys is None:
            raise MalformedMessage("reading evidence", expected="a transport key", found="none")
        return NonceWithKeys(asked.nonce, keys.transport_key, keys.wireguard_key, keys.parameters)
    if boot.entered is None:
        raise WrongState("judging evidence", expected="a node that has passed the airlock", found="another")
    return boot.entered.bound(asked.nonce)


def _claimed_pcrs(asked: Asked, claimed: Claimed) -> PcrValues:
    try:
        return PcrValues(asked.selection.bank, claimed.pcrs)
    except WrongUse as cause:
        raise MalformedMessage("reading evidence", expected=cause.expected, found=cause.found) from cause


def _accepted(good: LastGood, key: BoundKey, compiled: CompiledPolicy, *, same: bool) -> Accepted:
    """Return the last evidence that passed as the evidence core takes it; it was verified when it came."""
    attest = parse_tpms_attest(good.quote)
    quoted = QuotedPcrs(store.unpack_pcrs(good.pcrs), attest.clock_info, attest.firmware_version, key)
    return Accepted(quoted, good.ima if same else None, compiled.grounds if same else _OTHER)


def _resets(accepted: Accepted, claimed: Claimed) -> int:
    """Return how many resets a quote claims; whether it is to be believed is for the appraisal."""
    try:
        return parse_tpms_attest(claimed.quote.attest).clock_info.reset_count - accepted.quoted.clock.reset_count
    except Malformed:
        return 0


def _new_part(excerpt: ImaExcerpt, start: int, verdict: Passed | Rejected | None) -> bytes | None:
    """Return the entries of evidence that passed that were not judged before; None for evidence that did not."""
    if not isinstance(verdict, Passed) or verdict.runtime is None:
        return None
    return cut_binary(excerpt.data, excerpt.first, start, verdict.runtime.position.entries)


def _entries(result: _Result) -> int | None:
    passed = isinstance(result.verdict, Passed) and not result.findings
    if result.ima_first is None or not passed or result.verdict.runtime is None:
        return result.ima_first
    return result.verdict.runtime.position.entries


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
