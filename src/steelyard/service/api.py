"""The routes that every service has: health, metrics, its OpenAPI document, events, the audit log, accounts, tokens."""

import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from steelyard.model.errors import NotSignedIn, Unavailable
from steelyard.model.limits import PAGE_ITEMS, WORDS
from steelyard.service import accounts, journal
from steelyard.service.accounts import Account, Kind, Member, OpenIdName, Session, Token, look_again
from steelyard.service.authority import Office, Right, Role
from steelyard.service.http import (
    STOPPING,
    Front,
    Input,
    Page,
    Paged,
    SignedIn,
    TheDatabase,
    TheFront,
    Who,
    describe,
    guarded_router,
    may,
)

SIGN_OF_LIFE_SECONDS: Final = 15.0
"""How often a quiet event stream says that it is there, and looks whether it still may be."""
EVENTS_AT_ONCE: Final = 200
MOST_NUMBER: Final = 2**63 - 1
MOST_SECONDS: Final = int(accounts.LONGEST.total_seconds())

Number = Annotated[int, Query(ge=0, le=MOST_NUMBER)]


def shared_router() -> APIRouter:
    """Return the routes."""
    router = guarded_router()
    _add_state(router)
    _add_journal(router)
    _add_accounts(router)
    _add_members(router)
    _add_tokens(router)
    return router


# -- how it is ---------------------------------------------------------------------------------------------------------


class Health(BaseModel):
    """Whether the service is up (it answers) and ready (all that it needs answers too)."""

    up: bool
    ready: bool


def _add_state(router: APIRouter) -> None:
    @router.get("/v1/health", openapi_extra=may(Who.ANYONE))
    def read_health(front: TheFront, response: Response) -> Health:
        """Tell whether the service is ready; 503 if not."""
        ready = _is_ready(front)
        response.status_code = 200 if ready else 503
        return Health(up=True, ready=ready)

    @router.get("/v1/metrics", openapi_extra=may(Who.OFFICE, Right.READ), response_class=PlainTextResponse)
    def read_metrics(front: TheFront) -> Response:
        """Tell the service's figures, for Prometheus."""
        return Response(generate_latest(front.registry), media_type=CONTENT_TYPE_LATEST)

    @router.get("/v1/openapi.json", openapi_extra=may(Who.SIGNED_IN))
    async def read_openapi(request: Request) -> JSONResponse:
        """Tell what this service answers."""
        return JSONResponse(describe(request.app))


def _is_ready(front: Front) -> bool:
    try:
        with front.database.reading() as connection:
            journal.read_head(connection)
    except Unavailable:
        return False
    return not front.stopping and front.ready()


# -- the journal -------------------------------------------------------------------------------------------------------


class AuditEntryBody(BaseModel):
    """A link of the audit log's chain; what was hashed only if the caller may see it. docs/formats.md."""

    number: int
    digest: str
    chain: str
    entry: dict[str, Any] | None


class AuditHeadBody(BaseModel):
    """The last entry's number, and the chain's value after it."""

    number: int
    chain: str


def _add_journal(router: APIRouter) -> None:
    @router.get("/v1/audit", openapi_extra=may(Who.SIGNED_IN, Right.READ))
    def list_audit(
        session: SignedIn,
        database: TheDatabase,
        after: Number = 0,
        limit: Annotated[int, Query(ge=1, le=PAGE_ITEMS.most)] = 100,
    ) -> Page[AuditEntryBody]:
        """Tell the audit log after an entry, the oldest first; of what the caller may not see, the digests."""
        with database.reading() as connection:
            links = journal.read_links(connection, session, after=after, limit=limit)
        items = [
            AuditEntryBody(
                number=link.number,
                digest=link.digest.hex(),
                chain=link.chain.hex(),
                entry=None if link.entry is None else link.entry.form(),
            )
            for link in links
        ]
        return Page[AuditEntryBody](items=items, next=str(links[-1].number) if len(links) == limit else None)

    @router.get("/v1/audit/head", openapi_extra=may(Who.SIGNED_IN, Right.READ))
    def read_audit_head(database: TheDatabase) -> AuditHeadBody:
        """Tell how far the audit log is."""
        with database.reading() as connection:
            head = journal.read_head(connection)
        return AuditHeadBody(number=head.number, chain=head.chain.hex())

    @router.get(
        "/v1/events",
        openapi_extra=may(Who.SIGNED_IN, Right.READ),
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {}}}},
    )
    async def follow_events(
        session: SignedIn,
        front: TheFront,
        after: Annotated[int | None, Query(ge=0, le=MOST_NUMBER)] = None,
        last_event_id: Annotated[int | None, Header(ge=0, le=MOST_NUMBER)] = None,
    ) -> StreamingResponse:
        """Stream what happens, from now on or after an entry; a client that was cut off says the last one it had."""
        begin = after if last_event_id is None else last_event_id
        stream = _events(front, session, begin)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def _events(front: Front, session: Session, after: int | None) -> AsyncIterator[str]:
    def read(session: Session, after: int | None) -> tuple[Session, tuple[journal.Entry, ...], int]:
        with front.database.reading() as connection:
            now = look_again(connection, session, front.database.clock())
            if not now.rights.issuperset({Right.READ}):
                raise accounts.not_signed_in()
            head = journal.read_head(connection).number
            if after is None:
                return now, (), head
            entries = journal.read_entries(connection, now, after=after, limit=EVENTS_AT_ONCE, until=head)
        return now, entries, head if len(entries) < EVENTS_AT_ONCE else entries[-1].number

    with front.database.wakeups.subscribe_async(journal.TOPIC, STOPPING) as alarm:
        while not front.stopping:
            try:
                session, entries, after = await run_in_threadpool(read, session, after)
            except (NotSignedIn, Unavailable):
                return  # it asks again, and is told why
            for entry in entries:
                form = {name: value for name, value in entry.form().items() if name != "salt"}
                yield f"id: {entry.number}\nevent: {entry.verb}\ndata: {json.dumps(form)}\n\n"
            if len(entries) < EVENTS_AT_ONCE and not await alarm.wait(SIGN_OF_LIFE_SECONDS):
                yield ": nothing new\n\n"


# -- accounts ----------------------------------------------------------------------------------------------------------


class OpenIdBody(Input):
    """Whom of an OpenID issuer an account belongs to; without subject, whom the issuer calls by the account's name."""

    issuer: str = Field(min_length=1, max_length=500)
    subject: str | None = Field(min_length=1, max_length=255)


class AccountInput(Input):
    """Somebody."""

    kind: Kind
    office: Office | None
    openid: OpenIdBody | None


class AccountBody(BaseModel):
    """Somebody."""

    name: str
    kind: Kind
    office: Office | None
    openid: OpenIdBody | None


def _account(account: Account) -> AccountBody:
    openid = account.openid
    shown = None if openid is None else OpenIdBody(issuer=openid.issuer, subject=openid.subject)
    return AccountBody(name=account.name, kind=account.kind, office=account.office, openid=shown)


def _add_accounts(router: APIRouter) -> None:
    @router.get("/v1/accounts", openapi_extra=may(Who.SIGNED_IN, Right.READ))
    def list_accounts(session: SignedIn, database: TheDatabase, paging: Paged) -> Page[AccountBody]:
        """Tell who there is, by name: the caller, or for providers and auditors everybody."""
        with database.reading() as connection:
            found = accounts.read_accounts(connection, session, after=paging.after, limit=paging.limit)
        return paging.page(map(_account, found), found, lambda account: account.name)

    @router.put("/v1/accounts/{name}", openapi_extra=may(Who.PROVIDER, Right.MEMBERS))
    def put_account(name: str, body: AccountInput, session: SignedIn, database: TheDatabase) -> AccountBody:
        """Register somebody, or change who it is."""
        openid = None if body.openid is None else OpenIdName(body.openid.issuer, body.openid.subject)
        with database.writing() as transaction:
            account = accounts.put_account(transaction, session, name, body.kind, body.office, openid)
        return _account(account)

    @router.delete("/v1/accounts/{name}", status_code=204, openapi_extra=may(Who.PROVIDER, Right.MEMBERS))
    def delete_account(name: str, session: SignedIn, database: TheDatabase) -> None:
        """Forget somebody, with memberships and tokens."""
        with database.writing() as transaction:
            accounts.delete_account(transaction, session, name)


# -- members -----------------------------------------------------------------------------------------------------------


class MemberInput(Input):
    """What somebody is in a project."""

    role: Role


class MemberBody(BaseModel):
    """Somebody in a project."""

    project: str
    account: str
    role: Role


def _member(member: Member) -> MemberBody:
    return MemberBody(project=member.project, account=member.account, role=member.role)


def _add_members(router: APIRouter) -> None:
    @router.get("/v1/projects/{project}/members", openapi_extra=may(Who.MEMBER, Right.READ))
    def list_members(project: str, session: SignedIn, database: TheDatabase, paging: Paged) -> Page[MemberBody]:
        """Tell who is in a project, by name."""
        with database.reading() as connection:
            found = accounts.read_members(connection, session, project, after=paging.after, limit=paging.limit)
        return paging.page(map(_member, found), found, lambda member: member.account)

    @router.put("/v1/projects/{project}/members/{account}", openapi_extra=may(Who.ADMIN, Right.MEMBERS))
    def put_member(
        project: str, account: str, body: MemberInput, session: SignedIn, database: TheDatabase
    ) -> MemberBody:
        """Take somebody into a project, or give another role."""
        with database.writing() as transaction:
            return _member(accounts.put_member(transaction, session, project, account, body.role))

    @router.delete(
        "/v1/projects/{project}/members/{account}", status_code=204, openapi_extra=may(Who.ADMIN, Right.MEMBERS)
    )
    def delete_member(project: str, account: str, session: SignedIn, database: TheDatabase) -> None:
        """Take somebody out of a project."""
        with database.writing() as transaction:
            accounts.delete_member(transaction, session, project, account)


# -- tokens ------------------------------------------------------------------------------------------------------------


class TokenInput(Input):
    """What a token is to be for, and how many seconds it lasts. `project` null: every project of the account's."""

    account: str
    project: str | None
    rights: list[Right] = Field(min_length=1, max_length=len(Right))
    office: Office | None
    seconds: int = Field(ge=1, le=MOST_SECONDS)
    words: str = Field(max_length=WORDS.most)


class TokenBody(BaseModel):
    """What is known of a token."""

    id: str
    account: str
    project: str | None
    rights: list[Right]
    office: Office | None
    words: str
    maker: str
    created: datetime
    expires: datetime
    revoked: datetime | None
    used: datetime | None


class NewTokenBody(BaseModel):
    """A token and its text, which is told this once."""

    token: TokenBody
    bearer: str


class SessionBody(BaseModel):
    """Who the caller is to the service, and what the token that was shown leaves."""

    account: str
    office: Office | None
    roles: dict[str, Role]
    rights: list[Right]
    token: str | None
    project: str | None
    expires: datetime


def _token(token: Token) -> TokenBody:
    return TokenBody(
        id=token.id,
        account=token.account,
        project=token.project,
        rights=_sorted(token.rights),
        office=token.office,
        words=token.words,
        maker=token.maker,
        created=token.created,
        expires=token.expires,
        revoked=token.revoked,
        used=token.used,
    )


def _sorted(rights: frozenset[Right]) -> list[Right]:
    return sorted(rights, key=lambda right: right.value)


def _add_tokens(router: APIRouter) -> None:
    @router.get("/v1/tokens/current", openapi_extra=may(Who.SIGNED_IN))
    async def read_session(session: SignedIn) -> SessionBody:
        """Tell who the caller is, and what this token may."""
        return SessionBody(
            account=session.name,
            office=session.office,
            roles=dict(session.roles),
            rights=_sorted(session.rights),
            token=session.token,
            project=session.project,
            expires=session.expires,
        )

    @router.get("/v1/tokens", openapi_extra=may(Who.SIGNED_IN, Right.READ))
    def list_tokens(session: SignedIn, database: TheDatabase, paging: Paged) -> Page[TokenBody]:
        """Tell which tokens there are, by id: the caller's, or for providers and auditors everybody's."""
        with database.reading() as connection:
            found = accounts.read_tokens(connection, session, after=paging.after, limit=paging.limit)
        return paging.page(map(_token, found), found, lambda token: token.id)

    @router.post("/v1/tokens", status_code=201, openapi_extra=may(Who.SIGNED_IN, Right.MEMBERS))
    def make_token(body: TokenInput, session: SignedIn, database: TheDatabase) -> NewTokenBody:
        """Make a token, with no more than the one that is shown has."""
        with database.writing() as transaction:
            token, secret = accounts.make_token(
                transaction,
                session,
                body.account,
                project=body.project,
                rights=body.rights,
                office=body.office,
                lasts=timedelta(seconds=body.seconds),
                words=body.words,
            )
        return NewTokenBody(token=_token(token), bearer=secret.reveal().decode("ascii"))

    @router.delete("/v1/tokens/{token}", status_code=204, openapi_extra=may(Who.SIGNED_IN))
    def revoke_token(token: str, session: SignedIn, database: TheDatabase) -> None:
        """End a token; the one that is shown, or another of one's own."""
        with database.writing() as transaction:
            accounts.revoke_token(transaction, session, token)
