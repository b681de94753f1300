"""Evidence as it is kept: compressed, by its digest, so that any appraisal can be done again by anyone, later.

Policies and references that judged are kept too: what a verdict rested on does not go away with the next version.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import (
    Column,
    Connection,
    Select,
    Table,
    bindparam,
    delete,
    exists,
    func,
    insert,
    not_,
    select,
    union,
    update,
)

from steelyard.attestation.objects import Purpose
from steelyard.attestation.ports import Policies, PolicyInForce
from steelyard.attestation.store import KeptAppraisal, appraisal_of, expand, shrink
from steelyard.attestation.tables import appraisals, boots, grounds, grounds_references, kept, nodes
from steelyard.evidence.bundle import Bundle, Evidence
from steelyard.evidence.ima.replay import ImaExcerpt
from steelyard.evidence.tpm.keys import ActivatedBy
from steelyard.evidence.tpm.nonce import NonceWithKeys
from steelyard.evidence.tpm.public import parse_tpmt_public
from steelyard.model.errors import NotFound
from steelyard.service.database import Database, Transaction

_FIND = select(kept.c.compressed).where(kept.c.digest == bindparam("d"))
_SINCE = select(kept.c.since).where(kept.c.digest == bindparam("d"))
_KEEP = insert(kept)
NOTED: Final = timedelta(hours=1)
"""How exactly it is kept when something was needed last."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """Bytes made ready to be kept, outside of any transaction: to compress takes its time."""

    digest: bytes
    compressed: bytes
    size_bytes: int


def parcel(data: bytes) -> Parcel:
    """Return bytes ready to be kept."""
    return Parcel(hashlib.sha256(data).digest(), shrink(data), len(data))


def keep(tx: Transaction, parcels: Iterable[Parcel]) -> None:
    """Keep what is not kept yet; of what is, note that it is needed anew."""
    for one in parcels:
        since = tx.connection.execute(_SINCE, {"d": one.digest}).scalar_one_or_none()
        if since is None:
            tx.connection.execute(
                _KEEP,
                {"digest": one.digest, "compressed": one.compressed, "size_bytes": one.size_bytes, "since": tx.now},
            )
        elif since < tx.now - NOTED:
            tx.connection.execute(update(kept).where(kept.c.digest == one.digest).values(since=tx.now))


def read(connection: Connection, digest: bytes) -> bytes:
    """Return what is kept by a digest. Raises NotFound when its time was over."""
    compressed = connection.execute(_FIND, {"d": digest}).scalar_one_or_none()
    if compressed is None:
        raise NotFound("reading kept evidence", expected="what is still kept", found="none")
    return expand(compressed)


# -- what verdicts rest on ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Grounds:
    """A version of a policy, with the references that were there for it: DSSE envelopes by their digests."""

    policy: bytes
    references: Mapping[bytes, bytes]


def keep_grounds(database: Database, policies: Policies, found: PolicyInForce) -> None:
    """Keep what verdicts will rest on, before the first of them is asked for."""
    wanted = [found.sha256, *found.references]
    with database.reading() as connection:
        if _has_grounds(connection, found.grounds):
            return
        there = [d for d in wanted if connection.execute(_SINCE, {"d": d}).one_or_none() is not None]
        contents = [policies.content(connection, digest) for digest in wanted if digest not in there]
    parcels = [parcel(content) for content in contents]
    with database.writing() as tx:
        if not _has_grounds(tx.connection, found.grounds):
            keep(tx, parcels)
            tx.connection.execute(insert(grounds).values(digest=found.grounds, policy=found.sha256, since=tx.now))
            if found.references:
                rows = [{"grounds": found.grounds, "reference": digest} for digest in found.references]
                tx.connection.execute(insert(grounds_references), rows)


def _has_grounds(connection: Connection, digest: bytes) -> bool:
    return connection.execute(select(grounds.c.digest).where(grounds.c.digest == digest)).one_or_none() is not None


def read_grounds(connection: Connection, digest: bytes) -> Grounds:
    """Return what a verdict rested on. Raises NotFound."""
    row = connection.execute(select(grounds).where(grounds.c.digest == digest)).one_or_none()
    if row is None:
        raise NotFound("reading what verdicts rest on", expected="what is still kept", found="none")
    columns = grounds_references.c
    query = select(columns.reference).where(columns.grounds == digest).order_by(columns.reference)
    digests = connection.execute(query).scalars().all()
    return Grounds(read(connection, row.policy), {each: read(connection, each) for each in digests})


# -- the run-time list -------------------------------------------------------------------------------------------------


def read_list(connection: Connection, boot: str, *, until: str | None) -> bytes:
    """Return the entries of a boot's list that came with evidence that passed, before the appraisal `until`."""
    columns = appraisals.c
    query = (
        select(columns.ima_first, columns.ima_list)
        .where(columns.boot == boot, columns.passed, columns.ima_list.is_not(None))
        .order_by(columns.id)
    )
    if until is not None:
        query = query.where(columns.id < until)
    parts: list[bytes] = []
    for row in connection.execute(query).all():
        if row.ima_first == 0:  # the machine was reset, as was expected
            parts = []
        parts.append(row.ima_list)
    return b"".join(read(connection, digest) for digest in parts)


def make_bundle(connection: Connection, appraisal: KeptAppraisal) -> Bundle:
    """Return all that an appraisal judged. Raises NotFound when a part of it is not kept any more."""
    row = connection.execute(select(boots).where(boots.c.id == appraisal.boot)).one_or_none()
    if row is None:
        raise NotFound("reading kept evidence", expected="what is still kept", found="none")
    parameters = None if appraisal.parameters is None else read(connection, appraisal.parameters)
    ima_list = None
    if appraisal.ima_first is not None:
        # What came before is the same bytes that were judged before.
        before = read_list(connection, appraisal.boot, until=appraisal.id) if appraisal.ima_first else b""
        new = b"" if appraisal.ima_list is None else read(connection, appraisal.ima_list)
        ima_list = ImaExcerpt(0, before + new)
    return Bundle(
        node=appraisal.node,
        received=appraisal.at,
        attestation_key=parse_tpmt_public(row.attestation_key),
        binding=ActivatedBy(row.endorsement_key),
        challenge=NonceWithKeys(appraisal.nonce, appraisal.transport_key, appraisal.wireguard_key, parameters),
        evidence=Evidence(
            appraisal.quote,
            appraisal.pcrs,
            None if appraisal.event_log is None else read(connection, appraisal.event_log),
            ima_list,
        ),
    )


class Archive:
    """The evidence that was kept, as the reference authority's dry runs ask for it."""

    def newest(self, connection: Connection, project: str, policy: str) -> Sequence[tuple[str, str]]:
        """Return (node, appraisal) of the newest evidence of each of the project's nodes that `policy` judged."""
        columns = appraisals.c
        query = (
            select(columns.node, func.max(columns.id))
            .where(columns.project == project, columns.policy == policy)
            .group_by(columns.node)
            .order_by(columns.node)
        )
        return [(row[0], row[1]) for row in connection.execute(query)]

    def bundle(self, connection: Connection, appraisal: str) -> Bundle:
        """Return what one appraisal judged. Raises NotFound when it is kept no longer."""
        row = connection.execute(select(appraisals).where(appraisals.c.id == appraisal)).one_or_none()
        if row is None:
            raise NotFound("reading kept evidence", expected="what is still kept", found="none")
        return make_bundle(connection, appraisal_of(row))


# -- retention ---------------------------------------------------------------------------------------------------------


def forget(tx: Transaction, *, before: datetime, at_most: int) -> int:
    """Forget so many appraisals from before a time, the oldest first, but for what judging a current boot takes.

    Of a boot that goes on, the pass of the airlock stays, and so does whatever brought a part of its list. Return how
    many went.
    """
    columns = appraisals.c
    goes_on = select(nodes.c.boot).where(nodes.c.boot.is_not(None))
    brought = columns.ima_list.is_not(None) | (columns.purpose == Purpose.AIRLOCK.value)
    needed = columns.boot.in_(goes_on) & brought
    query = select(columns.id).where(columns.at < before, not_(needed)).order_by(columns.at).limit(at_most)
    old = tx.connection.execute(query).scalars().all()
    for each in old:
        tx.connection.execute(delete(appraisals).where(columns.id == each))
    return len(old)


def sweep(tx: Transaction, *, before: datetime, at_most: int) -> int:
    """Forget so many boots that are over and of which nothing is kept, grounds and evidence to which nothing refers.

    What an appraisal brings is noted as needed then, and what it only refers to its boot refers to as well: so that of
    the appraisals, the many, those alone have to be looked through that are older than all that is thrown away.
    Return how many went.
    """
    columns = appraisals.c
    goes_on = select(nodes.c.boot).where(nodes.c.boot.is_not(None))
    over = boots.c.id.not_in(goes_on) & (boots.c.began < before) & ~exists().where(columns.boot == boots.c.id)
    gone = _delete(tx, boots, boots.c.id, select(boots.c.id).where(over).limit(at_most))
    asked = boots.c.asked_grounds == grounds.c.digest
    unused = (
        (grounds.c.since < before)
        & ~exists().where(boots.c.grounds == grounds.c.digest)
        & ~exists().where(asked & boots.c.challenge.is_not(None))
        & ~exists().where(columns.grounds == grounds.c.digest)
    )
    for each in tx.connection.execute(select(grounds.c.digest).where(unused).limit(at_most)).scalars().all():
        tx.connection.execute(delete(grounds_references).where(grounds_references.c.grounds == each))
        tx.connection.execute(delete(grounds).where(grounds.c.digest == each))
        gone += 1
    old = columns.at < before
    referred = [
        *(select(column).where(column.is_not(None)) for column in (boots.c.event_log, boots.c.parameters)),
        *(
            select(column).where(old, column.is_not(None))
            for column in (columns.event_log, columns.ima_list, columns.parameters)
        ),
        select(grounds.c.policy),
        select(grounds_references.c.reference),
    ]
    loose = (kept.c.since < before) & kept.c.digest.not_in(union(*referred))
    return gone + _delete(tx, kept, kept.c.digest, select(kept.c.digest).where(loose).limit(at_most))


def _delete(tx: Transaction, table: Table, column: Column[Any], which: Select[Any]) -> int:
    found = tx.connection.execute(which).scalars().all()
    for each in found:
        tx.connection.execute(delete(table).where(column == each))
    return len(found)
