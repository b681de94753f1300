"""Webhooks: each call about them, said once; and, for who receives notices, what tells a true one from all others."""

import hmac
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from steelyard.client.call import Call, Page, deleting, listing, path, putting, reading
from steelyard.client.codec import Json, decode
from steelyard.client.objects import Event
from steelyard.model.errors import MalformedAnswer, MalformedNotice, NoticeRejected, NoticeRepeated
from steelyard.model.limits import NOTICE_BYTES
from steelyard.model.notices import ID, SIGNATURE, TIMESTAMP, VERSION, sign_notice
from steelyard.model.secret import Secret

TOLERANCE: Final = timedelta(minutes=5)
"""How old a notice may be, or how far ahead, as Standard Webhooks recommends; each try is signed anew."""
MOST_SIGNATURES: Final = 8

_SECONDS: Final = re.compile(r"[0-9]{1,12}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Webhook:
    """Who is told of what, and how it goes.

    project        None: the provider's, who is told of everything.
    verbs          patterns: a name, or its beginning and a star; subjects: likewise.
    position       up to which entry of the journal all is dealt with; tries: of the first wanted one after it.
    outcome        of the last try, in words.
    failing_since  when a notice was given up first since one was last delivered.
    dead_letters   how many were given up and are kept.
    """

    id: str
    project: str | None
    name: str
    url: str
    verbs: tuple[str, ...]
    subjects: tuple[str, ...]
    maker: str
    created: datetime
    position: int
    tries: int
    not_before: datetime | None
    last_try: datetime | None
    outcome: str | None
    failing_since: datetime | None
    dead_letters: int


@dataclass(frozen=True, slots=True)
class NewWebhook:
    """A webhook, and the secret that its notices are signed with."""

    webhook: Webhook
    secret: Secret


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A notice that was given up: an entry of the journal. `wanted`: since when it is to be tried once more."""

    number: int
    at: datetime
    verb: str
    subject: str
    project: str | None
    tries: int
    first_try: datetime
    given_up: datetime
    outcome: str
    wanted: datetime | None


# -- calls -------------------------------------------------------------------------------------------------------------


def list_webhooks() -> Call[Page[Webhook]]:
    """Ask which webhooks there are in the caller's projects."""
    return listing("listing webhooks", path("webhooks"), Webhook)


def make_webhook(
    name: str, *, project: str | None, url: str, verbs: Sequence[str], subjects: Sequence[str]
) -> Call[NewWebhook]:
    """Have a URL told of what happens from now on; `project` None: the provider's own, of everything."""
    doing = f"making webhook {name}"
    body: Json = {"project": project, "name": name, "url": url, "verbs": list(verbs), "subjects": list(subjects)}
    return Call(doing, "POST", path("webhooks"), reading(NewWebhook, doing), body=body, repeatable=False)


def read_webhook(identifier: str) -> Call[Webhook]:
    """Ask for one webhook."""
    doing = f"reading webhook {identifier}"
    return Call(doing, "GET", path("webhooks", identifier), reading(Webhook, doing))


def delete_webhook(identifier: str) -> Call[None]:
    """Have its URL told nothing more."""
    return deleting(f"deleting webhook {identifier}", path("webhooks", identifier))


def list_dead_letters(identifier: str) -> Call[Page[DeadLetter]]:
    """Ask which of its notices were given up."""
    return listing(f"listing dead letters of {identifier}", path("webhooks", identifier, "dead-letters"), DeadLetter)


def redeliver(identifier: str, number: int) -> Call[DeadLetter]:
    """Have a dead letter tried once more."""
    doing = f"delivering {number} again"
    where = path("webhooks", identifier, "dead-letters", str(number), "redelivery")
    return putting(doing, where, None, reading(DeadLetter, doing))


def drop_dead_letter(identifier: str, number: int) -> Call[None]:
    """Forget that a notice was given up."""
    return deleting(f"dropping {number}", path("webhooks", identifier, "dead-letters", str(number)))


# -- for receivers -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Notice:
    """What a service tells, once it is known that it does.

    id      the same at each try and each repetition: to be remembered for as long as `tolerance`.
    source  whose journal it is of, a URN.
    event   the entry, as the event stream tells it.
    """

    id: str
    source: str
    event: Event


def verify_notice(
    secret: Secret,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: datetime,
    tolerance: timedelta,
    seen: Collection[str],
) -> Notice:
    """Return what a request tells, if the service sent it to this webhook, lately, and for the first time.

    secret   of this webhook alone (`parse_secret` of what was told): a notice of another webhook is foreign here.
    headers  of the request; their case does not matter.
    body     as it came, byte for byte.
    seen     ids of notices that were taken within `tolerance`. Who keeps none takes a replay for a notice.

    1. id, time and signature are there, and the body is within its limit.
    2. One of the signatures is that of id, time and body with this secret; compared in constant time.
    3. The time is no further from `now` than `tolerance`.
    4. The body is a notice, of the id that was signed.
    5. The id was not seen.

    Raises MalformedNotice, NoticeRejected; NoticeRepeated for what is good and was taken already: answer 2xx, do
    nothing. Nothing in an error is a signature that would have been right.
    Source: Standard Webhooks 1.0.0, "Verifying signatures"; docs/formats.md, "Notice".
    """
    doing = "verifying a notice"
    told = {name.lower(): value for name, value in headers.items()}
    identifier, seconds, signatures = (told.get(name, "") for name in (ID, TIMESTAMP, SIGNATURE))
    if not identifier or not identifier.isascii() or not _SECONDS.fullmatch(seconds) or not signatures.isascii():
        raise MalformedNotice(doing, expected=f"{ID}, {TIMESTAMP} and {SIGNATURE}", found="not all of these")
    if len(body) > NOTICE_BYTES.most:
        raise MalformedNotice(doing, expected=f"at most {NOTICE_BYTES.most} bytes", found=f"{len(body)}")
    good = sign_notice(secret, identifier, int(seconds), body).encode()
    claimed = [each.encode() for each in signatures.split(" ") if each.startswith(f"{VERSION},")]
    if not any([hmac.compare_digest(good, each) for each in claimed[:MOST_SIGNATURES]]):  # noqa: C419 (all, always)
        raise NoticeRejected(doing, expected="a signature with this webhook's secret", found="none")
    age = now.timestamp() - int(seconds)
    if abs(age) > tolerance.total_seconds():
        raise NoticeRejected(doing, expected=f"one of the last {tolerance.total_seconds():g} s", found=f"{age:.0f} s")
    notice = _parse(body, doing)
    if notice.id != identifier:
        raise NoticeRejected(doing, expected=f"notice {identifier}", found=f"notice {notice.id}")
    if notice.id in seen:
        raise NoticeRepeated(doing, expected="a notice that was not taken yet", found=notice.id)
    return notice


def _parse(body: bytes, doing: str) -> Notice:
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError) as cause:
        raise MalformedNotice(doing, expected="JSON", found=repr(body[:40])) from cause
    if not isinstance(document, dict) or document.get("specversion") != "1.0":
        raise MalformedNotice(doing, expected="a CloudEvent, version 1.0", found=repr(body[:40]))
    identifier, source = document.get("id"), document.get("source")
    if not isinstance(identifier, str) or not isinstance(source, str):
        raise MalformedNotice(doing, expected="an id and a source", found=repr(body[:40]))
    try:
        event = decode(Event, document.get("data"), doing)
    except MalformedAnswer as cause:
        raise MalformedNotice(doing, expected=cause.expected, found=cause.found) from cause
    if document.get("type") != f"steelyard.{event.verb}" or document.get("subject") != event.subject:
        raise MalformedNotice(doing, expected=f"type and subject of {event.verb}", found="others")
    return Notice(identifier, source, event)
