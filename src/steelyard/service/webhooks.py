"""Webhooks: who is told of what happens by a request to a URL of theirs, and what became of each try.

A webhook follows the journal from where it was made, and sees of it what its project may: nothing is queued beside the
journal, so that nothing can be lost between the two. This module has the verbs and what is written down of deliveries;
who delivers is `delivering.py`.
"""

import json
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, delete, func, insert, select, update

from steelyard.model.errors import AlreadyThere, OverQuota, ServiceUnready, WrongUse
from steelyard.model.limits import PATTERN_CHARACTERS, PATTERNS
from steelyard.model.names import check_name
from steelyard.model.notices import SECRET_BYTES
from steelyard.model.secret import Secret
from steelyard.service.authority import Caller, not_found
from steelyard.service.database import Transaction
from steelyard.service.journal import Detail, Entry, Heading, read_entry, read_head, read_headings, record
from steelyard.service.outbound import Plain, Reach, parse_networks, parse_target
from steelyard.service.sealing import Sealer
from steelyard.service.tables import leases, webhook_dead_letters, webhooks

TOPIC: Final = "webhooks"
"""What is woken when there may be more to deliver than the journal tells."""
KEEPER: Final = "webhooks"
"""Who acts in the journal where nobody asked."""
ID_BYTES: Final = 8
FIRST_SCANNED: Final = 16
"""How many entries are looked at first for one that is wanted: mostly it is among the next."""
SCANNED_AT_ONCE: Final = 1000
FAR_BEHIND: Final = 1000
"""After how many entries that are not wanted a position is written down, so that they are not looked at again."""

_PATTERN: Final = re.compile(r"[A-Za-z0-9/.:_-]*\*?", re.ASCII)


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """The table [webhooks] of the configuration.

    allow        networks that are called although they are private; plain http is for 127.0.0.0/8 and ::1 alone.
    refuse       networks that are not called although they are public.
    ca           authorities, PEM, that receivers' certificates are of; None: those that this computer trusts.
    per_project  how many webhooks a project may have.
    tries        after how many a notice is given up,
    hours        or after how long.
    seconds      how long one try may take.
    threads      how many tries are made at a time.
    """

    allow: tuple[str, ...] = ()
    refuse: tuple[str, ...] = ()
    ca: Path | None = None
    per_project: int = 20
    tries: int = 15
    hours: float = 24.0
    seconds: float = 10.0
    threads: int = 8

    def __post_init__(self) -> None:
        for name, least, most in (
            ("per_project", 0, 10_000),
            ("tries", 1, 1000),
            ("hours", 0, 24 * 365),
            ("seconds", 1, 60),
            ("threads", 2, 256),
        ):
            if not least <= (value := getattr(self, name)) <= most:
                raise ServiceUnready(f"reading webhooks.{name}", expected=f"{least} to {most}", found=str(value))
        self.reach()

    def reach(self) -> Reach:
        """Return which addresses may be called. Raises ServiceUnready."""
        allowed = parse_networks(self.allow, "webhooks.allow")
        return Reach(allowed, parse_networks(self.refuse, "webhooks.refuse"), Plain.LOOPBACK)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which entries are wanted: those of one of these verbs about one of these subjects.

    A pattern is the whole name ("node.quarantine.wanted", "node/n1"), or how it begins and a star: "node/*", "*".
    """

    verbs: tuple[str, ...]
    subjects: tuple[str, ...]

    def __post_init__(self) -> None:
        for patterns, what in ((self.verbs, "verbs"), (self.subjects, "subjects")):
            doing = f"choosing {what} of a webhook"
            if not 1 <= len(patterns) <= PATTERNS.most:
                raise WrongUse(
                    doing, expected=f'1 to {PATTERNS.most} patterns; "*" is everything', found=str(len(patterns))
                )
            for pattern in patterns:
                if not pattern or len(pattern) > PATTERN_CHARACTERS.most or not _PATTERN.fullmatch(pattern):
                    raise WrongUse(doing, expected="a name, or its beginning and a star", found=pattern or "none")

    def wants(self, verb: str, subject: str) -> bool:
        """Whether an entry of this verb about this subject is wanted."""
        return _fits(self.verbs, verb) and _fits(self.subjects, subject)


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook, and how it goes with its receiver.

    project        whose; None: the provider's, who sees everything.
    position       up to which entry of the journal everything wanted was delivered or given up.
    tries          of the first wanted entry after it.
    failures       of the receiver, in a row; not_before: when it is tried again.
    outcome        of the last try, in words; last_try None: there was none.
    failing_since  when a notice was given up first since one was last delivered; None: it was not.
    dead_letters   how many notices were given up and are still kept.
    """

    id: str
    project: str | None
    name: str
    url: str
    filter: Filter
    maker: str
    created: datetime
    position: int
    tries: int
    first_try: datetime | None
    failures: int
    not_before: datetime | None
    last_try: datetime | None
    outcome: str | None
    failing_since: datetime | None
    dead_letters: int

    @property
    def subject(self) -> str:
        """Return what it is in the journal."""
        return f"webhook/{self.name}"

    def tells_of(self, entry: Heading) -> bool:
        """Whether an entry is its project's to see, and wanted. It does not tell of itself."""
        if self.project is not None and entry.project != self.project:
            return False
        own = entry.subject == self.subject and entry.project == self.project
        return not own and self.filter.wants(entry.verb, entry.subject)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A notice that was given up; `wanted`: since when it is to be tried once more, None: it is not."""

    entry: Entry
    tries: int
    first_try: datetime
    given_up: datetime
    outcome: str
    wanted: datetime | None


@dataclass(frozen=True, slots=True)
class Due:
    """What is to be sent to whom now; `letter`: a dead letter, once more."""

    webhook: Webhook
    entry: Entry
    letter: bool


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """Everything wanted up to an entry of the journal was dealt with."""

    position: int
    number: int


@dataclass(frozen=True, slots=True)
class Later:
    """Something is wanted, and the receiver is not to be tried yet."""


@dataclass(frozen=True, slots=True)
class Gone:
    """There is no such webhook any more."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a try, in words. `retry_seconds`: for how long the receiver asked to be left alone."""

    delivered: bool
    words: str
    retry_seconds: float


# -- verbs -------------------------------------------------------------------------------------------------------------


def make_webhook(
    transaction: Transaction,
    caller: Caller,
    sealer: Sealer,
    settings: WebhookSettings,
    *,
    project: str | None,
    name: str,
    url: str,
    wanted: Filter,
) -> tuple[Webhook, Secret]:
    """Return a new webhook, and the secret that its notices are signed with, which is told this once.

    It tells of what comes after it. Raises NotFound, NotAllowed, WrongUse, AddressRefused, AlreadyThere, OverQuota.
    """
    doing = f"making webhook {name}"
    check_name(name, "webhook")
    if project is not None:
        caller.must_see(project, f"project {project}")
        check_name(project, "project")
    _must_administer(caller, project, doing)
    _check_url(url, settings, doing)
    connection = transaction.connection
    whose = webhooks.c.project.is_(None) if project is None else webhooks.c.project == project
    names = set(connection.execute(select(webhooks.c.name).where(whose)).scalars())
    if name in names:
        raise AlreadyThere(doing, expected="a name that is free", found=name)
    if len(names) >= settings.per_project:
        raise OverQuota(doing, expected=f"fewer than {settings.per_project} webhooks", found=str(len(names)))
    identifier, secret = secrets.token_hex(ID_BYTES), Secret(secrets.token_bytes(SECRET_BYTES))
    detail: Detail = {
        "origin": parse_target(url, "a webhook").origin,
        "verbs": list(wanted.verbs),
        "subjects": list(wanted.subjects),
    }
    position = record(
        transaction, actor=caller.name, verb="webhook.made", subject=f"webhook/{name}", project=project, detail=detail
    )
    connection.execute(
        insert(webhooks).values(
            id=identifier,
            project=project,
            name=name,
            url=url,
            verbs=list(wanted.verbs),
            subjects=list(wanted.subjects),
            sealed=sealer.seal(context_of(identifier), secret),
            maker=caller.name,
            created=transaction.now,
            position=position,
            tries=0,
            failures=0,
        )
    )
    transaction.wake(TOPIC)
    return load(connection, identifier), secret


def delete_webhook(transaction: Transaction, caller: Caller, identifier: str) -> None:
    """Tell its receiver nothing more; dead letters go with it. Raises NotFound, NotAllowed."""
    webhook = _must_change(transaction.connection, caller, identifier, "deleting")
    connection = transaction.connection
    connection.execute(delete(webhook_dead_letters).where(webhook_dead_letters.c.webhook == identifier))
    connection.execute(delete(webhooks).where(webhooks.c.id == identifier))
    connection.execute(delete(leases).where(leases.c.name == context_of(identifier)))
    _record(transaction, caller.name, "webhook.deleted", webhook)


def redeliver(transaction: Transaction, caller: Caller, identifier: str, number: int) -> DeadLetter:
    """Have a dead letter tried once more, and the receiver as soon as can be. Raises NotFound, NotAllowed."""
    webhook = _must_change(transaction.connection, caller, identifier, "delivering again for")
    connection = transaction.connection
    letter = _load_letter(connection, identifier, number)
    if letter.wanted is None:
        connection.execute(
            update(webhook_dead_letters).where(_is_letter(identifier, number)).values(wanted=transaction.now)
        )
        connection.execute(update(webhooks).where(webhooks.c.id == identifier).values(not_before=None))
        _record(transaction, caller.name, "webhook.redelivery-wanted", webhook, number=number)
    transaction.wake(TOPIC)
    return _load_letter(connection, identifier, number)


def drop_letter(transaction: Transaction, caller: Caller, identifier: str, number: int) -> None:
    """Forget a dead letter; what it told of stays in the journal. Raises NotFound, NotAllowed."""
    webhook = _must_change(transaction.connection, caller, identifier, "dropping a letter of")
    _load_letter(transaction.connection, identifier, number)
    transaction.connection.execute(delete(webhook_dead_letters).where(_is_letter(identifier, number)))
    _record(transaction, caller.name, "webhook.letter-dropped", webhook, number=number)


def read_webhooks(connection: Connection, caller: Caller, *, after: str, limit: int) -> tuple[Webhook, ...]:
    """Return the webhooks that the caller may know of, by id."""
    wanted = _selected().where(webhooks.c.id > after).order_by(webhooks.c.id).limit(limit)
    if not caller.sees_all():
        wanted = wanted.where(webhooks.c.project.in_([project for project in caller.roles if caller.sees(project)]))
    return tuple(map(_webhook, connection.execute(wanted)))


def read_webhook(connection: Connection, caller: Caller, identifier: str) -> Webhook:
    """Return a webhook. Raises NotFound."""
    row = connection.execute(_selected().where(webhooks.c.id == identifier)).one_or_none()
    if row is None or not caller.sees(row.project):
        raise not_found(f"webhook {identifier}")
    return _webhook(row)


def read_letters(
    connection: Connection, caller: Caller, identifier: str, *, after: int, limit: int
) -> tuple[DeadLetter, ...]:
    """Return the dead letters of a webhook after an entry, the oldest first. Raises NotFound."""
    read_webhook(connection, caller, identifier)
    table = webhook_dead_letters
    rows = connection.execute(
        select(table).where(table.c.webhook == identifier, table.c.number > after).order_by(table.c.number).limit(limit)
    ).all()
    return tuple(_letter(connection, row) for row in rows)


def _check_url(url: str, settings: WebhookSettings, doing: str) -> None:
    """Refuse at once what can be known now; a name is looked up at each try."""
    target, reach = parse_target(url, "a webhook"), settings.reach()
    if target.scheme == "http" and not settings.allow:
        raise WrongUse(doing, expected="https", found="http")
    try:
        addresses = [ip_address(target.host)]
    except ValueError:
        return
    reach.must_have(target, addresses, doing)


def _must_administer(caller: Caller, project: str | None, doing: str) -> None:
    if project is None:
        caller.must_keep_accounts(doing)
    else:
        caller.must_administer(project, doing)


def _must_change(connection: Connection, caller: Caller, identifier: str, doing: str) -> Webhook:
    webhook = read_webhook(connection, caller, identifier)
    _must_administer(caller, webhook.project, f"{doing} webhook {identifier}")
    return webhook


def _record(transaction: Transaction, actor: str, verb: str, webhook: Webhook, **detail: str | int | None) -> None:
    record(transaction, actor=actor, verb=verb, subject=webhook.subject, project=webhook.project, detail={**detail})


# -- deliveries --------------------------------------------------------------------------------------------------------


def context_of(identifier: str) -> str:
    """Return what its secret is sealed for, and its lease is of."""
    return f"webhook/{identifier}"


def read_all(connection: Connection) -> tuple[Webhook, ...]:
    """Return all webhooks, for who delivers."""
    return tuple(map(_webhook, connection.execute(_selected())))


def read_some(connection: Connection, identifiers: Collection[str]) -> tuple[Webhook, ...]:
    """Return those of these webhooks that there are."""
    return tuple(map(_webhook, connection.execute(_selected().where(webhooks.c.id.in_(identifiers)))))


# Made once, as each entry of the journal has these asked.
_IDS: Final = select(webhooks.c.id)
_WANTED_LETTERS: Final = (
    select(webhook_dead_letters.c.webhook).where(webhook_dead_letters.c.wanted.is_not(None)).distinct()
)


def read_ids(connection: Connection) -> frozenset[str]:
    """Return the ids of all webhooks."""
    return frozenset(connection.execute(_IDS).scalars())


def read_wanted_letters(connection: Connection) -> frozenset[str]:
    """Return of which webhooks dead letters are to be tried once more."""
    return frozenset(connection.execute(_WANTED_LETTERS).scalars())


def read_due(connection: Connection, identifier: str, now: datetime) -> Due | CaughtUp | Later | Gone:
    """Return what is to be sent to a webhook's receiver next."""
    row = connection.execute(_selected().where(webhooks.c.id == identifier)).one_or_none()
    if row is None:
        return Gone()
    webhook, table = _webhook(row), webhook_dead_letters
    letter = connection.execute(
        select(func.min(table.c.number)).where(table.c.webhook == identifier, table.c.wanted.is_not(None))
    ).scalar_one()
    if letter is not None:
        return Due(webhook, read_entry(connection, letter), letter=True)
    head = read_head(connection)
    number = next_wanted(connection, webhook, webhook.position)
    if number is None:
        return CaughtUp(webhook.position, head.number)
    if webhook.not_before is not None and now < webhook.not_before:
        return Later()
    return Due(webhook, read_entry(connection, number), letter=False)


def is_due(connection: Connection, due: Due) -> bool:
    """Whether nobody dealt with it since it was read."""
    if due.letter:
        row = connection.execute(
            select(webhook_dead_letters.c.wanted).where(_is_letter(due.webhook.id, due.entry.number))
        ).one_or_none()
        return row is not None and row.wanted is not None
    row = connection.execute(
        select(webhooks.c.position, webhooks.c.tries).where(webhooks.c.id == due.webhook.id)
    ).one_or_none()
    return row is not None and (row.position, row.tries) == (due.webhook.position, due.webhook.tries)


def read_sealed(connection: Connection, identifier: str) -> bytes | None:
    """Return a webhook's sealed secret; None: it is gone."""
    sealed: bytes | None = connection.execute(
        select(webhooks.c.sealed).where(webhooks.c.id == identifier)
    ).scalar_one_or_none()
    return sealed


def move_on(transaction: Transaction, caught: CaughtUp, identifier: str) -> None:
    """Write down that nothing up to there is wanted, unless it has moved already."""
    transaction.connection.execute(
        update(webhooks)
        .where(webhooks.c.id == identifier, webhooks.c.position == caught.position)
        .values(position=caught.number)
    )


def tried(
    transaction: Transaction, due: Due, outcome: Outcome, settings: WebhookSettings, pause: timedelta
) -> DeadLetter | None:
    """Write down what came of a try; return the dead letter, if it was the last. `pause`: until the next, if it failed.

    The caller has the webhook's lease.
    """
    row = transaction.connection.execute(_selected().where(webhooks.c.id == due.webhook.id)).one_or_none()
    if row is None:
        return None  # deleted meanwhile
    webhook, now = _webhook(row), transaction.now
    values: dict[str, object] = {"last_try": now, "outcome": outcome.words}
    if outcome.delivered:
        values |= {"failures": 0, "not_before": None, "failing_since": None}
        if webhook.failing_since is not None:
            _record(transaction, KEEPER, "webhook.recovered", webhook)
    else:
        values |= {"failures": webhook.failures + 1, "not_before": now + pause}
    dead = False
    if due.letter:
        _tried_again(transaction, due, outcome)
    elif outcome.delivered:
        values |= {"position": due.entry.number, "tries": 0, "first_try": None}
    else:
        tries, first_try = webhook.tries + 1, webhook.first_try or now
        dead = tries >= settings.tries or now - first_try >= timedelta(hours=settings.hours)
        if dead:
            _give_up(transaction, due, outcome, tries, first_try)
            values |= {"position": due.entry.number, "tries": 0, "first_try": None}
            if webhook.failing_since is None:
                # Once, not for each: of a webhook that tells of this one there would be no end of them.
                values["failing_since"] = now
                _record(transaction, KEEPER, "webhook.failing", webhook, outcome=outcome.words)
        else:
            values |= {"tries": tries, "first_try": first_try}
    transaction.connection.execute(update(webhooks).where(webhooks.c.id == webhook.id).values(**values))
    return _load_letter(transaction.connection, webhook.id, due.entry.number) if dead else None


def load(connection: Connection, identifier: str) -> Webhook:
    """Return a webhook that there is."""
    return _webhook(connection.execute(_selected().where(webhooks.c.id == identifier)).one())


def seal_anew(transaction: Transaction, sealer: Sealer) -> Collection[str]:
    """Let all secrets be sealed by the first key; return the webhooks whose secret no key opens."""
    lost = []
    for identifier, sealed in transaction.connection.execute(select(webhooks.c.id, webhooks.c.sealed)).all():
        if sealer.is_current(sealed):
            continue
        context = context_of(identifier)
        try:
            anew = sealer.seal(context, sealer.open(context, sealed))
        except ServiceUnready:
            lost.append(identifier)
            continue
        transaction.connection.execute(update(webhooks).where(webhooks.c.id == identifier).values(sealed=anew))
    return lost


def notice_of(entry: Entry, origin: str) -> tuple[str, bytes]:
    """Return the id and the bytes of the notice of an entry: the same at each try. docs/formats.md.

    Source: CloudEvents 1.0.2, JSON event format; structured content mode.
    """
    identifier = f"{entry.number}-{entry.digest().hex()}"
    form = {name: value for name, value in entry.form().items() if name != "salt"}
    event = {
        "specversion": "1.0",
        "id": identifier,
        "source": origin,
        "type": f"steelyard.{entry.verb}",
        "subject": entry.subject,
        "time": entry.at.isoformat(timespec="microseconds"),
        "datacontenttype": "application/json",
        "data": form,
    }
    return identifier, json.dumps(event, separators=(",", ":")).encode("ascii")


def _fits(patterns: Collection[str], name: str) -> bool:
    return any(name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern for pattern in patterns)


def next_wanted(connection: Connection, webhook: Webhook, after: int) -> int | None:
    """Return the first entry after one that a webhook tells of."""
    limit = min(FIRST_SCANNED, SCANNED_AT_ONCE)
    while True:
        headings = read_headings(connection, project=webhook.project, after=after, limit=limit)
        for heading in headings:
            if webhook.tells_of(heading):
                return heading.number
        if len(headings) < limit:
            return None
        after, limit = headings[-1].number, SCANNED_AT_ONCE


def _tried_again(transaction: Transaction, due: Due, outcome: Outcome) -> None:
    if outcome.delivered:
        statement = delete(webhook_dead_letters).where(_is_letter(due.webhook.id, due.entry.number))
        transaction.connection.execute(statement)
        return
    table = webhook_dead_letters
    transaction.connection.execute(
        update(table)
        .where(_is_letter(due.webhook.id, due.entry.number))
        .values(tries=table.c.tries + 1, outcome=outcome.words, wanted=None)
    )


def _give_up(transaction: Transaction, due: Due, outcome: Outcome, tries: int, first_try: datetime) -> None:
    transaction.connection.execute(
        insert(webhook_dead_letters).values(
            webhook=due.webhook.id,
            number=due.entry.number,
            tries=tries,
            first_try=first_try,
            given_up=transaction.now,
            outcome=outcome.words,
        )
    )


def _selected() -> Select[Any]:
    letters = (
        select(func.count())
        .select_from(webhook_dead_letters)
        .where(webhook_dead_letters.c.webhook == webhooks.c.id)
        .scalar_subquery()
    )
    return select(webhooks, letters.label("dead_letters"))


def _is_letter(identifier: str, number: int) -> ColumnElement[bool]:
    return and_(webhook_dead_letters.c.webhook == identifier, webhook_dead_letters.c.number == number)


def _load_letter(connection: Connection, identifier: str, number: int) -> DeadLetter:
    row = connection.execute(select(webhook_dead_letters).where(_is_letter(identifier, number))).one_or_none()
    if row is None:
        raise not_found(f"dead letter {number} of webhook {identifier}")
    return _letter(connection, row)


def _letter(connection: Connection, row: Row[tuple[object, ...]]) -> DeadLetter:
    entry = read_entry(connection, row.number)
    return DeadLetter(entry, row.tries, row.first_try, row.given_up, row.outcome, row.wanted)


def _webhook(row: Row[tuple[object, ...]]) -> Webhook:
    return Webhook(
        id=row.id,
        project=row.project,
        name=row.name,
        url=row.url,
        filter=Filter(tuple(row.verbs), tuple(row.subjects)),
        maker=row.maker,
        created=row.created,
        position=row.position,
        tries=row.tries,
        first_try=row.first_try,
        failures=row.failures,
        not_before=row.not_before,
        last_try=row.last_try,
        outcome=row.outcome,
        failing_since=row.failing_since,
        dead_letters=row.dead_letters,
    )
