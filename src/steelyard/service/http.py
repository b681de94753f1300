"""HTTP for the services: who may call a route, errors as problems, pages, versions, waiting.

A service's `api.py` has routers of `GuardedRoute`s and nothing that is in here. Every route says who may call it, in a
form that is in the OpenAPI document too; one that does not cannot be made.
"""

import asyncio
import json
import re
import secrets
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, Final, Generic, TypeVar

import structlog
from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.dependencies.utils import get_flat_params
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry, Counter, Histogram
from pydantic import BaseModel, ConfigDict
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steelyard.model.errors import Malformed, NotAllowed, NotFound, SteelyardError, TooLarge, WrongUse
from steelyard.model.limits import PAGE_ITEMS, REQUEST_BYTES, WAIT_SECONDS
from steelyard.model.text import printable
from steelyard.service.accounts import Session
from steelyard.service.authority import Office, Right
from steelyard.service.database import Database
from steelyard.service.gate import Gate

BODY_SECONDS: Final = 30.0
"""How long a request's body may take to arrive."""
LOOK_SECONDS: Final = 5.0
"""How long a wait goes by calls alone before it looks at the database again."""
STOPPING: Final = "stopping"
"""The topic that rings when the service is about to end."""

_log = structlog.get_logger(__name__)  # named, as to find out its name takes as long as to write a line

T = TypeVar("T")
Shown = TypeVar("Shown")


# -- what a service's answers stand on ---------------------------------------------------------------------------------


class Who(Enum):
    """Who may call a route, at the least; whether it may do this to that, the verb behind it decides."""

    ANYONE = "anyone"
    """Without a token."""
    SIGNED_IN = "signed-in"
    """Everybody who has a token, for what is theirs."""
    MEMBER = "member"
    """A member of the project that it is about, or a provider."""
    ADMIN = "admin"
    """An admin of the project that it is about, or a provider."""
    OFFICE = "office"
    """Providers and auditors."""
    PROVIDER = "provider"
    NODE = "node"
    """A machine, by the token of its own session, for what is its own. No token of an account is one."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may call a route, and what the token must be for (None: nothing in particular)."""

    who: Who
    right: Right | None

    def must_pass(self, session: Session, doing: str) -> None:
        """Pass who may call the route at all. Raises NotAllowed."""
        if self.right is not None:
            session.must_have_rights({self.right}, doing)
        if (self.who is Who.OFFICE and session.office is None) or (
            self.who is Who.PROVIDER and session.office is not Office.PROVIDER
        ):
            office = None if session.office is None else session.office.value
            raise NotAllowed(doing, expected=f"the office {self.who.value!r}", found=f"{office or 'none'}")


@dataclass(slots=True)
class Front:
    """What a service's answers stand on.

    ready     whether the service works: nothing that it needs is missing.
    stopping  whether it is about to end, so that nothing may be waited for.
    """

    database: Database
    gate: Gate
    registry: CollectorRegistry
    ready: Callable[[], bool]
    stopping: bool = field(default=False)

    def stop(self) -> None:
        """End what waits; to be called in the event loop."""
        self.stopping = True
        self.database.wakeups.ring([STOPPING])

    def admit(self, request: Request, rule: Rule) -> Session:
        """Return who asks. Raises NotSignedIn, TooMany, NotAllowed, Unavailable."""
        shown = request.headers.getlist("authorization")
        source = request.client.host if request.client is not None else ""
        # Two tokens are none: a proxy might have looked at the other one.
        session = self.gate.admit(shown[0] if len(shown) == 1 else None, source)
        rule.must_pass(session, f"{request.method} {request.scope['path']}")
        return session


def may(who: Who, right: Right | None = None) -> dict[str, Any]:
    """Return a route's `openapi_extra`: who may call it, with what right."""
    if who is Who.ANYONE:
        return {"x-steelyard-who": who.value, "security": []}
    rule = {"x-steelyard-who": who.value, "x-steelyard-right": None if right is None else right.value}
    return {**rule, "security": [{"node" if who is Who.NODE else "token": []}]}


def rule_of(route: APIRoute) -> Rule:
    """Return who may call a route. Raises ValueError if it does not say."""
    said = route.openapi_extra or {}
    if "x-steelyard-who" not in said:
        raise ValueError(f"{route.path} does not say who may call it")
    right = said.get("x-steelyard-right")
    return Rule(Who(said["x-steelyard-who"]), None if right is None else Right(right))


def _body_types(route: APIRoute) -> frozenset[str]:
    """Return of what types a route says its body is, where FastAPI does not find that out by itself."""
    return frozenset((route.openapi_extra or {}).get("requestBody", {}).get("content", {}))


class GuardedRoute(APIRoute):
    """A route that asks for the token, and then its right, before it looks at anything else of the request.

    max_body_size  the most bytes of a body; None: as every route's.
    """

    def __init__(
        self, path: str, endpoint: Callable[..., Any], *, max_body_size: int | None = None, **more: Any
    ) -> None:
        # Kept from FastAPI, which would answer before the token was looked at, and not as we answer.
        self._most_bytes = REQUEST_BYTES.most if max_body_size is None else max_body_size
        super().__init__(path, endpoint, **more)

    async def admit(self, request: Request, rule: Rule) -> None:
        """Let pass who may ask, before the body is read. Raises NotSignedIn, TooMany, NotAllowed, Unavailable."""
        if rule.who is not Who.ANYONE:
            session = await run_in_threadpool(front_of(request).admit, request, rule)
            request.state.session = session
            structlog.contextvars.bind_contextvars(caller=session.name)

    def answering(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request that was let in, its body there."""
        return super().get_route_handler()

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers."""
        handle = self.answering()
        rule = rule_of(self)
        # A piece of a file means nothing to us; what else comes is texts.
        takes_bytes = "application/octet-stream" in _body_types(self)
        parameters = frozenset(field.alias for field in get_flat_params(self.dependant))

        async def guarded(request: Request) -> Response:
            await self.admit(request, rule)
            _check_query(request, parameters)
            body = await _read_body(request, self._most_bytes)
            if not takes_bytes:
                _check_texts(body)
            return await handle(Request(request.scope, _told_again(body, request.receive)))

        return guarded


class DirectRoute(GuardedRoute):
    """A route that is asked all the time: its endpoint is given the path's names and the request, and answers.

    Nothing has to be found out for that, so that such a route is found and called before FastAPI is asked, which would
    do the same at several times the price. In the OpenAPI document it is like every other.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **more: Any) -> None:
        super().__init__(path, endpoint, **more)
        self._handle = self.get_route_handler()

    def answering(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what calls the endpoint as it is."""
        endpoint = self.endpoint

        async def answer(request: Request) -> Response:
            response: Response = await endpoint(**request.path_params, request=request)
            return response

        return answer

    def names_in(self, scope: Scope) -> dict[str, str] | None:
        """Return the names in the path of a request for this route; None: it is for another."""
        if scope["method"] not in (self.methods or ()):
            return None
        matched = self.path_regex.match(scope["path"])
        return None if matched is None else matched.groupdict()

    async def answer_directly(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; a bug is answered, and raised."""
        request = Request(scope, receive)
        try:
            response = await self._handle(request)
        except SteelyardError as error:
            response = await _tell(request, error)
        except Exception as bug:
            await (await _tell_bug(request, bug))(scope, receive, send)
            raise
        await response(scope, receive, send)


def guarded_router(*first: APIRouter) -> APIRouter:
    """Return a router whose routes say who may call them, and which has those of others already."""
    return APIRouter(route_class=GuardedRoute, routes=[route for router in first for route in router.routes])


def front_of(request: Request) -> Front:
    """Return what the answers stand on."""
    front: Front = request.app.state.front
    return front


async def _session(request: Request) -> Session:
    session: Session = request.state.session
    return session


async def _database(request: Request) -> Database:
    return front_of(request).database


SignedIn = Annotated[Session, Depends(_session)]
"""In a route's parameters: who calls."""
TheDatabase = Annotated[Database, Depends(_database)]
TheFront = Annotated[Front, Depends(front_of)]


def _check_query(request: Request, parameters: frozenset[str]) -> None:
    """Pass a query of known parameters: a filter that is misspelt must not be none. Raises WrongUse."""
    if request.scope["query_string"] and (unknown := sorted(set(request.query_params) - parameters)):
        expected = ", ".join(sorted(parameters)) or "no parameters"
        raise WrongUse("reading the query", expected=expected, found=", ".join(unknown))


async def _read_body(request: Request, most_bytes: int) -> bytes:
    """Return the body, read within its time and size. Raises Malformed, TooLarge."""
    doing = "reading the request"
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > most_bytes:
                    raise TooLarge(doing, expected=f"at most {most_bytes} bytes", found="more")
    except TimeoutError as cause:
        raise Malformed(doing, expected=f"a body within {BODY_SECONDS:.0f} s", found="a part of it") from cause
    if "\0" in request.scope["path"] or b"%00" in request.scope["query_string"]:
        raise Malformed(doing, expected="texts without the letter NUL", found="it")
    return bytes(body)


def _check_texts(body: bytes) -> None:
    """Let pass a body whose texts can be kept. Raises Malformed."""
    doing = "reading the request"
    # No name or text has this letter, and PostgreSQL cannot keep it.
    if b"\\u0000" in body:
        raise Malformed(doing, expected="texts without the letter NUL", found="it")
    if not _is_text(body):
        raise Malformed(doing, expected="texts of letters", found="a half of one")


def _is_text(body: bytes) -> bool:
    """Whether a body has whole letters alone: JSON's escapes can say the half of a pair, which nobody can keep."""
    if b"\\u" not in body:
        return True
    try:
        json.dumps(json.loads(body), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    except (ValueError, RecursionError):
        pass  # no JSON; it is told by whoever reads it as that
    return True


def _told_again(body: bytes, receive: Receive) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def tell() -> Message:
        return messages.pop() if messages else await receive()

    return tell


# -- errors ------------------------------------------------------------------------------------------------------------


class Problem(BaseModel):
    """What went wrong. Source: RFC 9457."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    doing: str
    expected: str
    found: str
    remedy: str
    request: str


HEADERS_OF_STATUS: Final[Mapping[int, Mapping[str, str]]] = {
    401: {"WWW-Authenticate": "Bearer"},
    429: {"Retry-After": "1"},
    503: {"Retry-After": "1"},
}


def problem(
    error: SteelyardError,
    request: Request,
    *,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
    more: Mapping[str, object] | None = None,
) -> JSONResponse:
    """Return an error as an answer; `status` and `headers` where they are other than those of its kind.

    more  members of the problem beside the usual. Source: RFC 9457, section 3.2.
    """
    status = error.http_status if status is None else status
    headers = HEADERS_OF_STATUS.get(status) if headers is None else headers
    said = Problem(
        type=f"urn:steelyard:error:{error.code}",
        title=(type(error).__doc__ or "").splitlines()[0],
        status=status,
        code=error.code,
        detail=str(error),
        doing=error.doing,
        expected=error.expected,
        found=error.found,
        remedy=error.remedy,
        request=request.state.request,
    )
    content = {**said.model_dump(), **(more or {})}
    return JSONResponse(content, status, headers, media_type="application/problem+json")


async def _tell(request: Request, error: Exception) -> Response:
    if not isinstance(error, SteelyardError):
        raise error
    if error.http_status >= 500:
        _log.warning("request.failed", code=error.code, error=str(error))
    return problem(error, request)


async def _tell_invalid(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    # What was found is not told: it may be a password in the wrong place.
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    kind = Malformed if first["loc"][0] == "body" else WrongUse
    return problem(kind("reading the request", expected=first["msg"], found=f"something else at {where}"), request)


async def _tell_http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    doing, path = f"{request.method} {request.url.path}", request.url.path
    match error.status_code:
        case 404:
            return problem(NotFound(doing, expected="a path of this service", found=path), request)
        case 405:
            allowed = (error.headers or {}).get("Allow", "another")
            wrong = WrongUse(doing, expected=f"the method {allowed}", found=request.method)
            return problem(wrong, request, status=405, headers={"Allow": allowed})
        case _:
            return problem(Malformed(doing, expected="a request by HTTP's rules", found=error.detail), request)


async def _tell_bug(request: Request, _error: Exception) -> Response:
    # What happened is in the log, under the same name of the request.
    said = {
        "type": "about:blank",
        "title": "Internal Server Error",
        "status": 500,
        "code": "bug",
        "request": request.state.request,
    }
    return JSONResponse(said, 500, media_type="application/problem+json")


# -- pages, versions, waiting ------------------------------------------------------------------------------------------


class Input(BaseModel):
    """A request's body: what it does not describe is refused, and what was given is not told in errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Page(BaseModel, Generic[T]):
    """A part of a list. `next`: what to give as `after` for the next part; null at the end."""

    items: list[T]
    next: str | None


@dataclass(frozen=True, slots=True)
class Paging:
    """Which part of a list is asked for: those whose name comes after this one; the empty name is before all."""

    after: str
    limit: int

    def page(self, items: Iterable[Shown], found: Sequence[T], name: Callable[[T], str]) -> "Page[Shown]":
        """Return the answer: what was found with `limit`, as it is shown."""
        return Page[Shown](items=list(items), next=name(found[-1]) if len(found) == self.limit else None)


async def _paging(
    after: Annotated[str, Query(max_length=500)] = "", limit: Annotated[int, Query(ge=1, le=PAGE_ITEMS.most)] = 100
) -> Paging:
    return Paging(after, limit)


Paged = Annotated[Paging, Depends(_paging)]


_VERSION: Final = re.compile(r'"(0|[1-9][0-9]{0,17})"', re.ASCII)
_WAIT: Final = re.compile(r"([0-9]{1,4})(ms|s)", re.ASCII)


def tell_version(response: Response, version: int) -> None:
    """Say which version of a thing an answer shows."""
    response.headers["ETag"] = f'"{version}"'


async def _expected_version(request: Request) -> int | None:
    said = request.headers.get("if-match")
    if said is None:
        return None
    matched = _VERSION.fullmatch(said)
    if matched is None:
        raise WrongUse("reading If-Match", expected='the version that an ETag told: "7"', found=said)
    return int(matched[1])


ExpectedVersion = Annotated[int | None, Depends(_expected_version)]
"""In a route's parameters: the version that the thing must still have; None: any."""


async def _wait(
    wait: Annotated[str | None, Query(description="How long to wait for the end: 30s, 500ms.")] = None,
) -> float:
    if wait is None:
        return 0.0
    matched = _WAIT.fullmatch(wait)
    seconds = -1.0 if matched is None else int(matched[1]) / (1000 if matched[2] == "ms" else 1)
    if not 0 <= seconds <= WAIT_SECONDS.most:
        raise WrongUse("reading `wait`", expected=f"30s, 500ms; at most {WAIT_SECONDS.most}s", found=wait)
    return seconds


WaitSeconds = Annotated[float, Depends(_wait)]
"""In a route's parameters: how long the caller wants to wait for the end."""


async def wait_for(front: Front, topic: str, look: Callable[[], T], over: Callable[[T], bool], seconds: float) -> T:
    """Return what `look` (which may take a thread's time) sees when that is over, or after `seconds`."""
    end = time.monotonic() + seconds
    with front.database.wakeups.subscribe_async(topic, STOPPING) as alarm:
        while True:
            seen = await run_in_threadpool(look)
            left = end - time.monotonic()
            if over(seen) or left <= 0 or front.stopping:
                return seen
            await alarm.wait(min(left, LOOK_SECONDS))


# -- the application ---------------------------------------------------------------------------------------------------


_HEADERS: Final = [
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]
_TLS_HEADERS: Final = [(b"strict-transport-security", b"max-age=31536000")]


def make_app(front: Front, routers: Sequence[APIRouter], version: str) -> ASGIApp:
    """Return the application that answers by these routers."""
    app = FastAPI(
        title="Steelyard",
        version=version,
        openapi_url=None,  # as a route of its own, for who has a token
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.front = front
    for router in routers:
        app.include_router(router)
    for kind, tell in (
        (SteelyardError, _tell),
        (RequestValidationError, _tell_invalid),
        (HTTPException, _tell_http),
        (Exception, _tell_bug),
    ):
        app.add_exception_handler(kind, tell)
    direct = [route for router in routers for route in router.routes if isinstance(route, DirectRoute)]
    return Edge(app, front.registry, direct)


def describe(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document, with problems as what every route may answer; it is made once."""
    if app.openapi_schema is None:
        app.openapi_schema = _document(app)
    return app.openapi_schema


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    parts = document.setdefault("components", {})
    parts["securitySchemes"] = {name: {"type": "http", "scheme": "bearer"} for name in ("token", "node")}
    parts.setdefault("schemas", {})["Problem"] = Problem.model_json_schema()
    for unused in ("HTTPValidationError", "ValidationError"):
        parts["schemas"].pop(unused, None)
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = {"description": "A problem (RFC 9457).", "content": content}
    return document


class Edge:
    """The outermost of a service: names each request, logs and counts it, guards its answer, and catches bugs.

    direct  routes that are answered without asking `app`, which has them too.
    """

    def __init__(self, app: FastAPI, registry: CollectorRegistry, direct: Sequence[DirectRoute]) -> None:
        self.app = app
        self._direct = tuple(direct)
        self._requests = Counter(
            "steelyard_http_requests", "Requests answered.", ["method", "route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "steelyard_http_request_seconds", "Time until the answer began.", ["method", "route"], registry=registry
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, by the ASGI specification."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        name = secrets.token_hex(8)
        scope.setdefault("state", {})["request"] = name
        with structlog.contextvars.bound_contextvars(request=name, caller=None):
            await self._answer(scope, receive, send, name)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, name: str) -> None:
        begin, status, seconds = time.monotonic(), 0, 0.0
        headers = [*_HEADERS, *(_TLS_HEADERS if scope["scheme"] == "https" else ()), (b"x-request-id", name.encode())]

        async def send_guarded(message: Message) -> None:
            nonlocal status, seconds
            if message["type"] == "http.response.start":
                status, seconds = message["status"], time.monotonic() - begin
                message["headers"] = [*message.get("headers", ()), *headers]
            await send(message)

        try:
            await self._pass_on(scope, receive, send_guarded)
        except Exception:
            _log.exception("request.bug")  # it was answered, without a word of this
        finally:
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._requests.labels(method, route, str(status)).inc()
            self._seconds.labels(method, route).observe(seconds)
            path = printable(scope["path"])
            _log.info("request", method=method, path=path, status=status, milliseconds=round(seconds * 1000, 1))

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        for route in self._direct:
            names = route.names_in(scope)
            if names is not None:
                scope.update(app=self.app, route=route, endpoint=route.endpoint, path_params=names)
                await route.answer_directly(scope, receive, send)
                return
        await self.app(scope, receive, send)


_METHODS: Final = frozenset({"GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"})
