"""HTTP to the verbs of webhooks and back."""

from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field, StringConstraints

from steelyard.model.limits import PAGE_ITEMS, PATTERN_CHARACTERS, PATTERNS, URL_CHARACTERS
from steelyard.model.notices import write_secret
from steelyard.service import webhooks
from steelyard.service.authority import Right
from steelyard.service.http import Input, Page, Paged, SignedIn, TheDatabase, Who, guarded_router, may
from steelyard.service.sealing import Sealer
from steelyard.service.webhooks import DeadLetter, Filter, Webhook, WebhookSettings

MOST_NUMBER: Final = 2**63 - 1

Pattern = Annotated[str, StringConstraints(min_length=1, max_length=PATTERN_CHARACTERS.most)]
Patterns = Annotated[list[Pattern], Field(min_length=1, max_length=PATTERNS.most)]
Number = Annotated[int, Path(ge=0, le=MOST_NUMBER)]


class WebhookInput(Input):
    """Whom to tell of what. `project` null: the provider's own, of everything. Patterns: a name, or its start and *."""

    project: str | None
    name: str
    url: Annotated[str, StringConstraints(max_length=URL_CHARACTERS.most)]
    verbs: Patterns
    subjects: Patterns


class WebhookBody(BaseModel):
    """A webhook, and how it goes with its receiver.

    position: up to which entry of the journal all is dealt with; tries: of the first wanted one after it;
    outcome: of the last try; failing_since: when a notice was given up first since one was last delivered.
    """

    id: str
    project: str | None
    name: str
    url: str
    verbs: list[str]
    subjects: list[str]
    maker: str
    created: datetime
    position: int
    tries: int
    not_before: datetime | None
    last_try: datetime | None
    outcome: str | None
    failing_since: datetime | None
    dead_letters: int


class NewWebhookBody(BaseModel):
    """A webhook and the secret that its notices are signed with, which is told this once."""

    webhook: WebhookBody
    secret: str


class DeadLetterBody(BaseModel):
    """A notice that was given up: entry `number` of the journal. `wanted`: since when it is to be tried once more."""

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


def webhooks_router(sealer: Sealer, settings: WebhookSettings) -> APIRouter:
    """Return the routes."""
    router = guarded_router()
    _add_webhooks(router, sealer, settings)
    _add_letters(router)
    return router


READING: Final[dict[str, Any]] = may(Who.SIGNED_IN, Right.READ)
CHANGING: Final[dict[str, Any]] = may(Who.ADMIN, Right.MEMBERS)


def _add_webhooks(router: APIRouter, sealer: Sealer, settings: WebhookSettings) -> None:
    @router.get("/v1/webhooks", openapi_extra=READING)
    def list_webhooks(session: SignedIn, database: TheDatabase, paging: Paged) -> Page[WebhookBody]:
        """Tell which webhooks there are, by id: those of the caller's projects, or for providers and auditors all."""
        with database.reading() as connection:
            found = webhooks.read_webhooks(connection, session, after=paging.after, limit=paging.limit)
        return paging.page(map(_webhook, found), found, lambda webhook: webhook.id)

    @router.post("/v1/webhooks", status_code=201, openapi_extra=CHANGING)
    def make_webhook(body: WebhookInput, session: SignedIn, database: TheDatabase) -> NewWebhookBody:
        """Have a URL told of what happens from now on."""
        wanted = Filter(tuple(body.verbs), tuple(body.subjects))
        with database.writing() as transaction:
            webhook, secret = webhooks.make_webhook(
                transaction,
                session,
                sealer,
                settings,
                project=body.project,
                name=body.name,
                url=body.url,
                wanted=wanted,
            )
        told = write_secret(secret).reveal().decode("ascii")
        return NewWebhookBody(webhook=_webhook(webhook), secret=told)

    @router.get("/v1/webhooks/{webhook}", openapi_extra=READING)
    def read_webhook(webhook: str, session: SignedIn, database: TheDatabase) -> WebhookBody:
        """Tell of one webhook."""
        with database.reading() as connection:
            return _webhook(webhooks.read_webhook(connection, session, webhook))

    @router.delete("/v1/webhooks/{webhook}", status_code=204, openapi_extra=CHANGING)
    def delete_webhook(webhook: str, session: SignedIn, database: TheDatabase) -> None:
        """Tell its URL nothing more."""
        with database.writing() as transaction:
            webhooks.delete_webhook(transaction, session, webhook)


def _add_letters(router: APIRouter) -> None:
    @router.get("/v1/webhooks/{webhook}/dead-letters", openapi_extra=READING)
    def list_dead_letters(
        webhook: str,
        session: SignedIn,
        database: TheDatabase,
        after: Annotated[int, Query(ge=0, le=MOST_NUMBER)] = 0,
        limit: Annotated[int, Query(ge=1, le=PAGE_ITEMS.most)] = 100,
    ) -> Page[DeadLetterBody]:
        """Tell which notices were given up, by the number of their entry."""
        with database.reading() as connection:
            found = webhooks.read_letters(connection, session, webhook, after=after, limit=limit)
        following = str(found[-1].entry.number) if len(found) == limit else None
        return Page[DeadLetterBody](items=list(map(_letter, found)), next=following)

    @router.put("/v1/webhooks/{webhook}/dead-letters/{number}/redelivery", status_code=202, openapi_extra=CHANGING)
    def redeliver(webhook: str, number: Number, session: SignedIn, database: TheDatabase) -> DeadLetterBody:
        """Have a notice tried once more; it is no dead letter any more once it is delivered."""
        with database.writing() as transaction:
            return _letter(webhooks.redeliver(transaction, session, webhook, number))

    @router.delete("/v1/webhooks/{webhook}/dead-letters/{number}", status_code=204, openapi_extra=CHANGING)
    def drop_dead_letter(webhook: str, number: Number, session: SignedIn, database: TheDatabase) -> None:
        """Forget that a notice was given up; what it told of stays in the journal."""
        with database.writing() as transaction:
            webhooks.drop_letter(transaction, session, webhook, number)


def _webhook(webhook: Webhook) -> WebhookBody:
    return WebhookBody(
        id=webhook.id,
        project=webhook.project,
        name=webhook.name,
        url=webhook.url,
        verbs=list(webhook.filter.verbs),
        subjects=list(webhook.filter.subjects),
        maker=webhook.maker,
        created=webhook.created,
        position=webhook.position,
        tries=webhook.tries,
        not_before=webhook.not_before,
        last_try=webhook.last_try,
        outcome=webhook.outcome,
        failing_since=webhook.failing_since,
        dead_letters=webhook.dead_letters,
    )


def _letter(letter: DeadLetter) -> DeadLetterBody:
    entry = letter.entry
    return DeadLetterBody(
        number=entry.number,
        at=entry.at,
        verb=entry.verb,
        subject=entry.subject,
        project=entry.project,
        tries=letter.tries,
        first_try=letter.first_try,
        given_up=letter.given_up,
        outcome=letter.outcome,
        wanted=letter.wanted,
    )
