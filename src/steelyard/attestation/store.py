"""Rows to objects, and back. Every statement that changes a node's state is in here, with its journal entry."""

import hashlib
import secrets
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Column, Connection, Row, Select, Table, Update, bindparam, delete, insert, select, update

from steelyard.attestation.life import Event, State, after
from steelyard.attestation.objects import (
    AnyParameters,
    AppraisalRecord,
    Asked,
    DemandedMakers,
    Endorsements,
    Entered,
    ExactParameters,
    MakerSet,
    Node,
    NoMakers,
    Purpose,
    Registration,
    Step,
    Terms,
)
from steelyard.attestation.tables import (
    appraisals,
    boots,
    identities,
    kept,
    maker_sets,
    nodes,
    registrations,
    verdict_keys,
)
from steelyard.evidence.findings import Finding, Reason
from steelyard.evidence.ima.replay import ImaPosition
from steelyard.evidence.policy import PolicyId
from steelyard.evidence.tpm.quote import SignedQuote
from steelyard.model.algorithms import HASH_BY_NAME
from steelyard.model.pcrs import PCR_COUNT, PcrSelection, PcrValues
from steelyard.service import journal
from steelyard.service.authority import not_found
from steelyard.service.database import Transaction

_TIME_DIGITS: Final = 12
_PLAIN: Final = b"\0"
_ZLIB: Final = b"\1"
_WORTH_IT: Final = 512
"""Bytes; less is not worth the time."""


def new_id(now: datetime, before: str | None) -> str:
    """Return a name that sorts after `before`, whatever the clock does, and otherwise by time, to the millisecond."""
    milliseconds = int(now.timestamp() * 1000)
    if before is not None:
        milliseconds = max(milliseconds, int(before[:_TIME_DIGITS], 16) + 1)
    return f"{milliseconds:0{_TIME_DIGITS}x}{secrets.token_hex(8)}"


# -- PCRs in bytes -----------------------------------------------------------------------------------------------------


def pack_selection(selection: PcrSelection) -> bytes:
    """Return a selection in few bytes: the bank's name, NUL, a bit for each PCR."""
    mask = sum(1 << index for index in selection.indices)
    return selection.bank.label.encode() + b"\0" + mask.to_bytes(3)


def unpack_selection(packed: bytes) -> PcrSelection:
    """Return what `pack_selection` packed."""
    label, _, mask = packed.partition(b"\0")
    bits = int.from_bytes(mask[:3])
    return PcrSelection(
        HASH_BY_NAME[label.decode()], frozenset(index for index in range(PCR_COUNT) if bits >> index & 1)
    )


def pack_pcrs(pcrs: PcrValues) -> bytes:
    """Return values in few bytes: the selection, and each value in order."""
    selection = PcrSelection(pcrs.bank, frozenset(pcrs.values))
    return pack_selection(selection) + pcrs.of(selection.indices)


def unpack_pcrs(packed: bytes) -> PcrValues:
    """Return what `pack_pcrs` packed."""
    selection = unpack_selection(packed)
    begin, size = packed.index(b"\0") + 4, selection.bank.size
    values = {
        index: packed[begin + place * size : begin + (place + 1) * size]
        for place, index in enumerate(sorted(selection.indices))
    }
    return PcrValues(selection.bank, values)


# -- nodes -------------------------------------------------------------------------------------------------------------

_NODE: Final[list[Any]] = list(nodes.c)
IDENTITY: Final[list[Any]] = [identities.c.certificates, identities.c.key_digests, identities.c.makers]
_ONE_NODE: Final = (
    select(*_NODE, *IDENTITY).join(identities, identities.c.node == nodes.c.name).where(nodes.c.name == bindparam("n"))
)


def find_node(connection: Connection, name: str) -> Node | None:
    """Return a node; None: there is none of that name."""
    row = connection.execute(_ONE_NODE, {"n": name}).one_or_none()
    return None if row is None else node_of(row)


def load_node(connection: Connection, name: str) -> Node:
    """Return a node. Raises NotFound."""
    node = find_node(connection, name)
    if node is None:
        raise not_found(f"node {name}")
    return node


def node_of(row: Row[Any]) -> Node:
    """Return the node that a row of `nodes` joined with `identities` is."""
    step = row.step
    return Node(
        name=row.name,
        project=row.project,
        terms=Terms(
            endorsements=Endorsements(row.certificates, tuple(map(bytes.fromhex, row.key_digests))),
            makers=NoMakers() if row.makers is None else DemandedMakers(row.makers),
            airlock=row.airlock_policy,
            runtime=row.runtime_policy,
            parameters=AnyParameters() if row.parameters is None else ExactParameters(row.parameters),
            interval=timedelta(seconds=row.interval_seconds),
            grace=timedelta(seconds=row.grace_seconds),
        ),
        expected_reboots=row.expected_reboots,
        state=State(row.state),
        since=row.since,
        why=row.why,
        endorsement_key=row.endorsement_key,
        boot=row.boot,
        expires=row.expires,
        fails=row.fails,
        reported=row.reported,
        appraisal=row.appraisal,
        step=None
        if step is None
        else Step(step["step"], step["outcome"], step["detail"], datetime.fromisoformat(step["at"])),
        version=row.version,
    )


def terms_values(terms: Terms) -> dict[str, Any]:
    """Return a node's terms as the columns of `nodes` have them."""
    return {
        "airlock_policy": terms.airlock,
        "runtime_policy": terms.runtime,
        "parameters": terms.parameters.sha256 if isinstance(terms.parameters, ExactParameters) else None,
        "interval_seconds": int(terms.interval.total_seconds()),
        "grace_seconds": int(terms.grace.total_seconds()),
    }


def identity_values(terms: Terms) -> dict[str, Any]:
    """Return them as the columns of `identities` have them."""
    return {
        "certificates": dict(terms.endorsements.certificates),
        "key_digests": [key.hex() for key in terms.endorsements.keys],
        "makers": terms.makers.name if isinstance(terms.makers, DemandedMakers) else None,
    }


_updates: dict[tuple[str, tuple[str, ...]], Update] = {}
"""Statements that were made once: to make one takes as long as to execute it."""


def _update(tx: Transaction, table: Table, key: Column[Any], which: str, values: Mapping[str, Any]) -> None:
    """Change columns of one row."""
    names = tuple(values)
    statement = _updates.get((table.name, names))
    if statement is None:
        own = {name: bindparam(f"v_{name}", type_=table.c[name].type) for name in names}
        statement = update(table).where(key == bindparam("which")).values(own)
        _updates[table.name, names] = statement
    tx.connection.execute(statement, {"which": which, **{f"v_{name}": value for name, value in values.items()}})


def move(
    tx: Transaction,
    node: Node,
    event: Event,
    *,
    actor: str,
    why: str,
    values: Mapping[str, Any],
    detail: Mapping[str, str | int | bool | list[str] | None],
) -> State:
    """Take a node to the state that follows, and change what else belongs to it; return that state. Raises WrongState.

    A step from a state to itself is journalled only when it is not one of the many of a node that reports.
    """
    state = after(node.state, event, node.name)
    moved = state is not node.state
    changed = dict(values)
    if moved:
        changed |= {"state": state.value, "since": tx.now, "why": why, "version": node.version + 1}
    if changed:
        _update(tx, nodes, nodes.c.name, node.name, changed)
    if moved or event not in (Event.PASS, Event.CHALLENGE):
        journal.record(
            tx,
            actor=actor,
            verb=f"attestation.{state.value}" if moved else f"attestation.{event.value}",
            subject=f"node/{node.name}",
            project=node.project,
            detail={"before": node.state.value, "why": why, **detail},
        )
    if moved:
        tx.wake(f"attestation/{node.name}")
    return state


def note(
    tx: Transaction, node: Node, verb: str, *, actor: str, detail: Mapping[str, str | int | bool | list[str] | None]
) -> None:
    """Write down in the journal what happened to a node and did not move it."""
    journal.record(
        tx, actor=actor, verb=f"attestation.{verb}", subject=f"node/{node.name}", project=node.project, detail=detail
    )


def keep_step(tx: Transaction, node: Node, step: Step) -> None:
    """Keep what a node says that it is at."""
    said = {"step": step.step, "outcome": step.outcome, "detail": step.detail}
    _update(tx, nodes, nodes.c.name, node.name, {"step": {**said, "at": step.at.isoformat()}})
    note(tx, node, "step", actor=f"node/{node.name}", detail=dict(said))


# -- boots -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LastGood:
    """The last evidence of a boot that passed."""

    quote: bytes
    pcrs: bytes
    grounds: bytes
    ima: ImaPosition | None


@dataclass(frozen=True, slots=True)
class Boot:
    """A node's time since it proved which TPM it has: one attestation key, one session."""

    id: str
    node: str
    token: bytes
    attestation_key: bytes
    endorsement_key: bytes
    chained: bool
    session_ends: datetime
    entered: Entered | None
    good: LastGood | None
    asked: Asked | None
    verdict: str | None


_SIGNING_KEY: Final = select(verdict_keys.c.id).where(verdict_keys.c.published_until.is_(None)).limit(1)
_ONE_BOOT: Final[Select[Any]] = (
    select(
        *_NODE,
        *IDENTITY,
        *[column.label(f"boot_{column.name}") for column in boots.c],
        kept.c.compressed,
        _SIGNING_KEY.scalar_subquery().label("signing_key"),
    )
    .join(nodes, nodes.c.name == boots.c.node)
    .join(identities, identities.c.node == nodes.c.name)
    .outerjoin(kept, kept.c.digest == boots.c.parameters)
    .select_from(boots)
    .where(boots.c.id == bindparam("b"))
)


def find_boot(connection: Connection, boot: str) -> tuple[Boot, Node, str | None] | None:
    """Return a boot, its node, and the key that signs verdicts now; None: there is no such boot."""
    row: Row[Any] | None = connection.execute(_ONE_BOOT, {"b": boot}).one_or_none()
    if row is None:
        return None
    return _boot_of(row), node_of(row), row.signing_key


def _boot_of(row: Row[Any]) -> Boot:
    from_list = row.boot_ima_entries is not None
    bank = None if row.boot_pcrs is None else unpack_selection(row.boot_pcrs).bank
    return Boot(
        id=row.boot_id,
        node=row.boot_node,
        token=row.boot_token,
        attestation_key=row.boot_attestation_key,
        endorsement_key=row.boot_endorsement_key,
        chained=row.boot_chained,
        session_ends=row.boot_session_ends,
        entered=None
        if row.boot_nonce is None
        else Entered(
            row.boot_nonce,
            row.boot_transport_key,
            row.boot_wireguard_key,
            row.boot_parameters,
            None if row.compressed is None else expand(row.compressed),
            row.boot_event_log,
            row.boot_released,
        ),
        good=None
        if row.boot_quote is None or bank is None
        else LastGood(
            row.boot_quote,
            row.boot_pcrs,
            row.boot_grounds,
            ImaPosition(bank, row.boot_ima_entries, row.boot_ima_pcr) if from_list else None,
        ),
        asked=None
        if row.boot_challenge is None
        else Asked(
            row.boot_challenge,
            row.boot_asked_nonce,
            Purpose(row.boot_asked_purpose),
            row.boot_asked_policy,
            row.boot_asked_grounds,
            unpack_selection(row.boot_asked_pcrs),
            row.boot_asked_first,
            row.boot_asked_until,
        ),
        verdict=row.boot_verdict,
    )


_INSERT_BOOT: Final = insert(boots)


def add_boot(tx: Transaction, boot: str, found: Registration, token: bytes, session_ends: datetime) -> None:
    """Have a boot begin, of the node and with the keys of a registration."""
    tx.connection.execute(
        _INSERT_BOOT,
        {
            "id": boot,
            "node": found.node,
            "token": token,
            "attestation_key": found.attestation_key,
            "endorsement_key": found.endorsement_key,
            "chained": found.chained,
            "began": tx.now,
            "session_ends": session_ends,
        },
    )


def change_boot(tx: Transaction, boot: str, values: Mapping[str, Any]) -> None:
    """Change a boot's row."""
    _update(tx, boots, boots.c.id, boot, values)


def asked_values(asked: Asked) -> dict[str, Any]:
    """Return what was asked as the columns of `boots` have it."""
    return {
        "challenge": asked.challenge,
        "asked_nonce": asked.nonce,
        "asked_purpose": asked.purpose.value,
        "asked_policy": asked.policy,
        "asked_grounds": asked.grounds,
        "asked_pcrs": pack_selection(asked.selection),
        "asked_first": asked.first,
        "asked_until": asked.until,
    }


# -- what is kept ------------------------------------------------------------------------------------------------------


def expand(compressed: bytes) -> bytes:
    """Return what `shrink` made smaller."""
    return compressed[1:] if compressed[:1] == _PLAIN else zlib.decompress(compressed[1:])


def shrink(data: bytes) -> bytes:
    """Return bytes as they are kept: a byte that says how, and they or what zlib made of them."""
    if len(data) < _WORTH_IT:
        return _PLAIN + data
    return _ZLIB + zlib.compress(data, 1)


# -- registrations -----------------------------------------------------------------------------------------------------

_ONE_REGISTRATION: Final = select(registrations).where(registrations.c.id == bindparam("r"))
_INSERT_REGISTRATION: Final = insert(registrations)
_FORGET_OLDER: Final = delete(registrations).where(
    registrations.c.node == bindparam("n"),
    registrations.c.id.not_in(
        select(registrations.c.id)
        .where(registrations.c.node == bindparam("n"))
        .order_by(registrations.c.made.desc())
        .limit(bindparam("newest"))
    ),
)
_FORGET_ALL: Final = delete(registrations).where(registrations.c.node == bindparam("n"))


def find_registration(connection: Connection, name: str) -> Registration | None:
    """Return a registration; None: there is none of that name."""
    row = connection.execute(_ONE_REGISTRATION, {"r": name}).one_or_none()
    if row is None:
        return None
    return Registration(row.id, row.node, row.attestation_key, row.endorsement_key, row.chained, row.proof, row.expires)


def add_registration(tx: Transaction, registration: Registration, at_most: int) -> None:
    """Keep a registration; of its node's others, the newest, so that there are at most so many."""
    tx.connection.execute(_FORGET_OLDER, {"n": registration.node, "newest": at_most - 1})
    tx.connection.execute(
        _INSERT_REGISTRATION,
        {
            "id": registration.id,
            "node": registration.node,
            "attestation_key": registration.attestation_key,
            "endorsement_key": registration.endorsement_key,
            "chained": registration.chained,
            "proof": registration.proof,
            "made": tx.now,
            "expires": registration.expires,
        },
    )


def forget_registrations(tx: Transaction, node: str) -> None:
    """Forget all registrations of a node."""
    tx.connection.execute(_FORGET_ALL, {"n": node})


# -- appraisals --------------------------------------------------------------------------------------------------------

_INSERT_APPRAISAL: Final = insert(appraisals)


def add_appraisal(tx: Transaction, record: AppraisalRecord) -> None:
    """Keep what was judged, and the result."""
    bound = record.bound
    tx.connection.execute(
        _INSERT_APPRAISAL,
        {
            "id": record.id,
            "node": record.node,
            "project": record.project,
            "boot": record.boot,
            "purpose": record.purpose.value,
            "at": record.at,
            "passed": not record.findings,
            "policy": record.policy.name,
            "policy_version": record.policy.version,
            "grounds": record.grounds,
            "nonce": bound.nonce,
            "quote": record.quote.attest,
            "signature": record.quote.signature,
            "pcrs": pack_pcrs(record.pcrs),
            "event_log": record.event_log,
            "ima_list": record.ima_list,
            "ima_first": record.ima_first,
            "ima_entries": record.ima_entries,
            "transport_key": bound.transport_key,
            "wireguard_key": bound.wireguard_key,
            "parameters": None if bound.parameters is None else hashlib.sha256(bound.parameters).digest(),
            "findings": [encode_finding(finding) for finding in record.findings] or None,
        },
    )


def encode_finding(finding: Finding) -> dict[str, str]:
    """Return a finding as it is kept and told."""
    return {
        "reason": finding.reason.value,
        "where": finding.where,
        "subject": finding.subject,
        "expected": finding.expected,
        "found": finding.found,
    }


@dataclass(frozen=True, slots=True)
class KeptAppraisal:
    """An appraisal as it is kept: with digests, in place of what they are of."""

    id: str
    node: str
    project: str
    boot: str
    purpose: Purpose
    at: datetime
    policy: PolicyId
    grounds: bytes
    nonce: bytes
    transport_key: bytes
    wireguard_key: bytes | None
    parameters: bytes | None
    quote: SignedQuote
    pcrs: PcrValues
    event_log: bytes | None
    ima_list: bytes | None
    ima_first: int | None
    ima_entries: int | None
    findings: tuple[Finding, ...]


def appraisal_of(row: Row[Any]) -> KeptAppraisal:
    """Return the appraisal that a row is."""
    return KeptAppraisal(
        id=row.id,
        node=row.node,
        project=row.project,
        boot=row.boot,
        purpose=Purpose(row.purpose),
        at=row.at,
        policy=PolicyId(row.policy, row.policy_version),
        grounds=row.grounds,
        nonce=row.nonce,
        transport_key=row.transport_key,
        wireguard_key=row.wireguard_key,
        parameters=row.parameters,
        quote=SignedQuote(row.quote, row.signature),
        pcrs=unpack_pcrs(row.pcrs),
        event_log=row.event_log,
        ima_list=row.ima_list,
        ima_first=row.ima_first,
        ima_entries=row.ima_entries,
        findings=tuple(
            Finding(Reason(each["reason"]), each["where"], each["subject"], each["expected"], each["found"])
            for each in row.findings or ()
        ),
    )


# -- makers ------------------------------------------------------------------------------------------------------------


_ONE_SET: Final = (
    select(maker_sets)
    .where(
        (maker_sets.c.project == bindparam("project")) | (maker_sets.c.project == ""),
        maker_sets.c.name == bindparam("name"),
    )
    .order_by(maker_sets.c.project.desc())
    .limit(1)
)


def find_makers(connection: Connection, project: str, name: str) -> MakerSet | None:
    """Return the set of makers that a project calls so, its own before the provider's; None: there is none."""
    row = connection.execute(_ONE_SET, {"project": project, "name": name}).one_or_none()
    return None if row is None else makers_of(row)


def makers_of(row: Row[Any]) -> MakerSet:
    """Return the set of makers that a row is."""
    return MakerSet(
        row.project,
        row.name,
        tuple(row.certificates),
        tuple(map(bytes.fromhex, row.revocations)),
        frozenset(row.demands),
        row.version,
    )
