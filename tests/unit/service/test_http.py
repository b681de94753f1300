"""Every route says who may call it and asks; every error is a problem; nothing inward is told."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager
from datetime import datetime
from functools import cache
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy import update
from structlog.testing import capture_logs

from steelyard.model.errors import DeviceRefused, InUse, SteelyardError, Unavailable, WrongUse
from steelyard.model.limits import REQUEST_BYTES
from steelyard.service import api, http
from steelyard.service.accounts import revoke_token
from steelyard.service.api import shared_router
from steelyard.service.authority import Office, Right, Role
from steelyard.service.database import Database
from steelyard.service.gate import Gate
from steelyard.service.http import (
    DirectRoute,
    ExpectedVersion,
    Front,
    GuardedRoute,
    Input,
    SignedIn,
    TheFront,
    WaitSeconds,
    Who,
    describe,
    guarded_router,
    make_app,
    may,
    rule_of,
    tell_version,
    wait_for,
)
from steelyard.service.journal import NOTHING, Entry, Link, check, record
from steelyard.service.tables import tokens
from tests.unit.service.people import People

WAIT_SECONDS = 20


class Thing(Input):
    count: int
    password: str


@cache
def _shared() -> APIRouter:
    """Return the shared routes; FastAPI takes long to look at what they take and give."""
    return shared_router()


class Bench:
    """A service to ask, with routes of its own beside the shared ones."""

    def __init__(self, database: Database) -> None:
        self.people = People(database)
        self.database = database
        self.raises: Exception | None = None
        self.seen: list[str] = []
        self.front = Front(database, Gate(database, None), CollectorRegistry(), lambda: True)
        self.app = make_app(self.front, [_shared(), self._router()], "1")

    def _router(self) -> APIRouter:
        direct = APIRouter(route_class=DirectRoute)

        @direct.post("/v1/direct/{name}", max_body_size=5, openapi_extra=may(Who.ANYONE))
        async def answer(name: str, request: Request) -> Response:
            if self.raises is not None:
                raise self.raises
            self.seen.append(name)
            return Response(await request.body())

        router = guarded_router(direct)

        @router.get("/v1/raise", openapi_extra=may(Who.ANYONE))
        def fail() -> None:
            if self.raises is not None:
                raise self.raises

        @router.put("/v1/things/{name}", openapi_extra=may(Who.MEMBER, Right.NODES))
        def put(name: str, body: Thing, session: SignedIn, version: ExpectedVersion, response: Response) -> str:
            self.seen.append(f"{session.name} {name} {body.count} {version}")
            tell_version(response, 7)
            return name

        @router.get("/v1/wait", openapi_extra=may(Who.SIGNED_IN))
        async def wait(front: TheFront, seconds: WaitSeconds) -> int:
            return await wait_for(front, "thing", lambda: len(self.seen), lambda seen: seen > 0, seconds)

        @router.put("/v1/large", max_body_size=REQUEST_BYTES.most + 1, openapi_extra=may(Who.SIGNED_IN))
        async def take(request: Request) -> int:
            return len(await request.body())

        for who in (Who.OFFICE, Who.PROVIDER):
            router.add_api_route(f"/v1/{who.value}", lambda: None, openapi_extra=may(who, Right.RACK))
        return router

    @asynccontextmanager
    async def client(self, bearer: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
        headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="https://test", headers=headers) as client:
            yield client

    def ask(self, method: str, path: str, bearer: str | None = None, **more: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with self.client(bearer) as client:
                return await client.request(method, path, **more)

        return asyncio.run(ask())


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[MutableMapping[str, Any]]]:
    """What was logged."""
    with capture_logs() as captured:
        yield captured


@pytest.fixture
def bench(sqlite_database: Database) -> Bench:
    return Bench(sqlite_database)


@pytest.fixture
def each_bench(database: Database) -> Bench:
    """On each kind of database, where what is told comes from there."""
    return Bench(database)


# -- who may -----------------------------------------------------------------------------------------------------------


def routes() -> list[GuardedRoute]:
    return [route for route in shared_router().routes if isinstance(route, GuardedRoute)]


def method_of(route: GuardedRoute) -> str:
    assert route.methods is not None
    return min(route.methods)


def test_a_route_that_does_not_say_who_may_call_it_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="who may call"):
        guarded_router().add_api_route("/v1/open", lambda: None)


def test_every_shared_route_is_guarded_and_health_alone_is_open() -> None:
    assert len(routes()) == len(shared_router().routes)
    assert [route.path for route in routes() if rule_of(route).who is Who.ANYONE] == ["/v1/health"]


def test_a_direct_route_answers_as_every_other_does(bench: Bench, logs: list[MutableMapping[str, Any]]) -> None:
    answer = bench.ask("POST", "/v1/direct/one", content=b"12345")
    assert (answer.status_code, answer.content, bench.seen) == (200, b"12345", ["one"])
    assert answer.headers["cache-control"] == "no-store"
    refused = {
        ("POST", "/v1/direct/one?a=1"): 400,
        ("POST", "/v1/direct/one%00"): 422,
        ("POST", "/v1/direct/one/two"): 404,
        ("PUT", "/v1/direct/one"): 405,
        ("HEAD", "/v1/direct/one"): 405,
    }
    told = {asked: bench.ask(*asked) for asked in refused}
    assert {asked: answer.status_code for asked, answer in told.items()} == refused
    assert bench.ask("POST", "/v1/direct/one", content=b"123456").status_code == 413
    assert [answer.headers["content-type"] for answer in told.values()] == ["application/problem+json"] * len(told)
    bench.raises = InUse("a test", expected="nothing", found="something")
    assert bench.ask("POST", "/v1/direct/one").json()["code"] == "in-use"
    bench.raises = ZeroDivisionError("the secret of it")
    answer = bench.ask("POST", "/v1/direct/one")
    assert (answer.status_code, answer.json()["code"]) == (500, "bug")
    assert "secret" not in answer.text
    assert [each["event"] for each in logs if each["event"] == "request.bug"] == ["request.bug"]
    figures = generate_latest(bench.front.registry).decode()
    assert 'steelyard_http_requests_total{method="POST",route="/v1/direct/{name}",status="200"} 1.0' in figures
    assert "/v1/direct/{name}" in describe(bench.app.app)["paths"]  # type: ignore[attr-defined]  # it is the Edge


@pytest.mark.parametrize("route", routes(), ids=lambda route: f"{method_of(route)} {route.path}")
def test_every_route_asks_for_a_token_before_anything_else(bench: Bench, route: GuardedRoute) -> None:
    if rule_of(route).who is Who.ANYONE:
        return
    method = method_of(route)
    for body in (b"", b"{", b"x" * (REQUEST_BYTES.most + 1)):
        answer = bench.ask(method, route.path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 401
        assert answer.json()["code"] == "not-signed-in"
        assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("route", routes(), ids=lambda route: f"{method_of(route)} {route.path}")
def test_every_route_asks_for_its_right_before_the_body(bench: Bench, route: GuardedRoute) -> None:
    rule = rule_of(route)
    method = method_of(route)
    if rule.right is not None:
        bearer = bench.people.bearer("ada", office=Office.PROVIDER, rights=set(Right) - {rule.right})
        answer = bench.ask(method, route.path, bearer, content=b"{")
        assert (answer.status_code, answer.json()["code"]) == (403, "not-allowed")
    if rule.who in (Who.OFFICE, Who.PROVIDER):
        answer = bench.ask(method, route.path, bench.people.bearer("ann", {"red": Role.ADMIN}), content=b"{")
        assert (answer.status_code, answer.json()["code"]) == (403, "not-allowed")


def test_an_office_opens_what_it_is_for(bench: Bench) -> None:
    auditor, provider = bench.people.bearer("eve", office=Office.AUDITOR), bench.people.provider_bearer
    assert bench.ask("GET", "/v1/office", auditor).status_code == 200
    assert bench.ask("GET", "/v1/provider", auditor).status_code == 403
    assert bench.ask("GET", "/v1/provider", provider).status_code == 200


def test_two_tokens_are_none(bench: Bench) -> None:
    headers = [("Authorization", f"Bearer {bench.people.provider_bearer}")] * 2
    assert bench.ask("GET", "/v1/tokens/current", headers=headers).status_code == 401


def test_tokens_tried_in_a_row_are_answered_too_many(bench: Bench) -> None:
    codes = [bench.ask("GET", "/v1/audit", "wrong").status_code for _ in range(25)]
    assert codes[0] == 401
    assert codes[-1] == 429


# -- problems ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        InUse("deleting x", expected="nothing on it", found="a\nport"),
        DeviceRefused("a", expected="b", found="c"),
        Unavailable("a", expected="b", found="c"),
    ],
)
def test_an_error_is_a_problem(bench: Bench, error: SteelyardError) -> None:
    bench.raises = error
    answer = bench.ask("GET", "/v1/raise")
    assert answer.status_code == error.http_status
    assert answer.headers["Content-Type"] == "application/problem+json"
    said = answer.json()
    assert {name: said[name] for name in ("code", "doing", "expected", "found", "remedy", "status", "detail")} == {
        "code": error.code,
        "doing": error.doing,
        "expected": error.expected,
        "found": error.found,
        "remedy": error.remedy,
        "status": error.http_status,
        "detail": str(error),
    }
    assert said["type"] == f"urn:steelyard:error:{error.code}"
    assert said["request"] == answer.headers["X-Request-Id"]


def test_a_bug_is_a_problem_that_tells_nothing(bench: Bench, logs: list[MutableMapping[str, Any]]) -> None:
    bench.raises = RuntimeError("the password is hunter2")
    answer = bench.ask("GET", "/v1/raise")
    assert answer.status_code == 500
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["code"] == "bug"
    assert "hunter2" not in answer.text
    assert "RuntimeError" not in answer.text
    assert [one["event"] for one in logs if one["log_level"] == "error"] == ["request.bug"]


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "where"),
    [
        ("/v1/things/a", b"{", 422, "malformed", "body"),
        ("/v1/things/a", b"", 422, "malformed", "body"),
        ("/v1/things/a", b"[]", 422, "malformed", "body"),
        ("/v1/things/a", b'{"count": "many", "password": "hunter2"}', 422, "malformed", "body.count"),
        ("/v1/things/a", b'{"count": 1, "password": ["hunter2"]}', 422, "malformed", "body.password"),
        ("/v1/things/a", b'{"count": 1, "password": "hunter2", "more": "hunter2"}', 422, "malformed", "body.more"),
        ("/v1/things/a", b'{"count": 1, "password": "hunter2\\u0000"}', 422, "malformed", "NUL"),
        ("/v1/things/a", b'{"count": 1, "password": "\\ud800"}', 422, "malformed", "half of one"),
        ("/v1/things/a%00", b'{"count": 1, "password": "hunter2"}', 422, "malformed", "NUL"),
        ("/v1/things/a?x=1", b'{"count": 1, "password": "hunter2"}', 400, "wrong-use", "x"),
        ("/v1/none", b"", 404, "not-found", "/v1/none"),
        ("/v1/health", b"", 405, "wrong-use", "PUT"),
        ("/v1/things/a", b"x" * (REQUEST_BYTES.most + 1), 413, "too-large", "more"),
    ],
    ids=range(13),
)
def test_a_request_that_is_not_right_is_a_problem_that_does_not_repeat_it(
    bench: Bench, path: str, body: bytes, status: int, code: str, where: str
) -> None:
    answer = bench.ask(
        "PUT", path, bench.people.provider_bearer, content=body, headers={"Content-Type": "application/json"}
    )
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert where in answer.text
    assert "hunter2" not in answer.text
    assert bench.seen == []


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "after=-1", f"after={2**63}", "after=x"])
def test_a_query_that_is_not_right_is_wrong_use(bench: Bench, query: str) -> None:
    answer = bench.ask("GET", f"/v1/audit?{query}", bench.people.provider_bearer)
    assert (answer.status_code, answer.json()["code"]) == (400, "wrong-use")


def test_a_letter_that_no_database_keeps_is_refused_in_a_query(each_bench: Bench) -> None:
    answer = each_bench.ask("GET", "/v1/accounts?after=%00", each_bench.people.provider_bearer)
    assert (answer.status_code, answer.json()["code"]) == (422, "malformed")


def test_a_route_may_take_more_and_still_asks_for_the_token_first(bench: Bench) -> None:
    body = b"x" * (REQUEST_BYTES.most + 1)
    assert bench.ask("PUT", "/v1/large", content=body).status_code == 401
    assert bench.ask("PUT", "/v1/large", bench.people.provider_bearer, content=body).json() == len(body)
    answer = bench.ask("PUT", "/v1/large", bench.people.provider_bearer, content=body + b"y")
    assert (answer.status_code, answer.json()["code"]) == (413, "too-large")


def test_a_body_that_does_not_come_is_not_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BODY_SECONDS", 0.05)

    async def parts() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(WAIT_SECONDS)

    answer = bench.ask("PUT", "/v1/things/a", bench.people.provider_bearer, content=parts())
    assert answer.status_code == 422


@pytest.mark.parametrize("path", ["/v1/health", "/v1/none", "/v1/audit"])
def test_every_answer_is_guarded_and_says_nothing_of_what_answers(bench: Bench, path: str) -> None:
    headers = bench.ask("GET", path).headers
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["Strict-Transport-Security"]
    assert len(headers["X-Request-Id"]) == 16
    assert "Server" not in headers


# -- versions, waiting -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("header", "seen"), [(None, "None"), ('"7"', "7"), ('"0"', "0")])
def test_the_version_that_is_expected_comes_to_the_verb(bench: Bench, header: str | None, seen: str) -> None:
    headers = {} if header is None else {"If-Match": header}
    answer = bench.ask(
        "PUT", "/v1/things/a", bench.people.provider_bearer, json={"count": 1, "password": ""}, headers=headers
    )
    assert answer.headers["ETag"] == '"7"'
    assert bench.seen == [f"provider a 1 {seen}"]


@pytest.mark.parametrize("header", ["7", '"x"', 'W/"7"', "*", '"7", "8"', '"-1"', '"07"', '"' + "9" * 30 + '"'])
def test_a_version_that_is_none_is_refused(bench: Bench, header: str) -> None:
    answer = bench.ask(
        "PUT",
        "/v1/things/a",
        bench.people.provider_bearer,
        json={"count": 1, "password": ""},
        headers={"If-Match": header},
    )
    assert (answer.status_code, answer.json()["code"]) == (400, WrongUse.code)


@pytest.mark.parametrize("wait", ["30", "s", "-1s", "61s", "1.5s", "1m", "", "99999s"])
def test_a_wait_that_is_none_is_refused(bench: Bench, wait: str) -> None:
    assert bench.ask("GET", f"/v1/wait?wait={wait}", bench.people.provider_bearer).status_code == 400


def test_a_wait_ends_with_what_is_waited_for(bench: Bench) -> None:
    """A thousand wait, in no thread; one change, and all go on."""

    async def story() -> None:
        async with bench.client(bench.people.provider_bearer) as client:
            waiting = [asyncio.create_task(client.get("/v1/wait?wait=60s", timeout=60)) for _ in range(200)]
            await until(lambda: len(bench.database.wakeups._bells.get("thing", ())) == 200)
            bench.seen.append("it")
            with bench.database.writing() as transaction:
                transaction.wake("thing")
            begin = time.monotonic()
            answers = await asyncio.gather(*waiting)
            assert time.monotonic() - begin < http.LOOK_SECONDS
            assert {answer.json() for answer in answers} == {1}

    asyncio.run(story())
    assert bench.database.wakeups._bells == {}


def test_a_wait_ends_with_its_time_and_with_the_service(bench: Bench) -> None:
    assert bench.ask("GET", "/v1/wait?wait=1ms", bench.people.provider_bearer).json() == 0

    async def story() -> None:
        async with bench.client(bench.people.provider_bearer) as client:
            waiting = asyncio.create_task(client.get("/v1/wait?wait=60s", timeout=60))
            await until(lambda: "thing" in bench.database.wakeups._bells)
            bench.front.stop()
            assert (await waiting).json() == 0

    asyncio.run(story())


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not true():
            await asyncio.sleep(0.005)


# -- what every service tells ------------------------------------------------------------------------------------------


def test_health_tells_up_and_ready_and_no_more(bench: Bench) -> None:
    answer = bench.ask("GET", "/v1/health")
    assert (answer.status_code, answer.json()) == (200, {"up": True, "ready": True})
    bench.front.ready = lambda: False
    answer = bench.ask("GET", "/v1/health")
    assert (answer.status_code, answer.json()) == (503, {"up": True, "ready": False})


def test_figures_are_told_to_offices(bench: Bench) -> None:
    bench.ask("GET", "/v1/health")
    bench.ask("BREW", "/v1/health")
    text = bench.ask("GET", "/v1/metrics", bench.people.provider_bearer).text
    assert 'steelyard_http_requests_total{method="GET",route="/v1/health",status="200"} 1.0' in text
    assert "BREW" not in text


def test_the_document_says_who_may_and_what_comes_instead(bench: Bench) -> None:
    document = bench.ask("GET", "/v1/openapi.json", bench.people.bearer("ann")).json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len(operations) > 10
    for operation in operations:
        assert operation["x-steelyard-who"] in [who.value for who in Who]
        assert operation["security"] == ([] if operation["x-steelyard-who"] == "anyone" else [{"token": []}])
        assert "application/problem+json" in operation["responses"]["default"]["content"]
        assert "422" not in operation["responses"]


def write(database: Database, project: str | None, verb: str = "node.moved") -> int:
    with database.writing() as transaction:
        return record(transaction, actor="x", verb=verb, subject="node/n1", project=project, detail={"why": "a\nb"})


def test_the_audit_log_comes_in_pages_that_everybody_can_check(each_bench: Bench) -> None:
    ann = each_bench.people.bearer("ann", {"red": Role.MEMBER})
    for project in ("red", "blue", None, "red"):
        write(each_bench.database, project)
    links: list[Link] = []
    path: str | None = "/v1/audit?limit=3"
    while path is not None:
        page = each_bench.ask("GET", path, ann).json()
        for item in page["items"]:
            said, entry = item["entry"], None
            if said is not None:
                at, salt = datetime.fromisoformat(said.pop("at")), bytes.fromhex(said.pop("salt"))
                entry = Entry(**said, at=at, salt=salt)
            links.append(Link(item["number"], bytes.fromhex(item["digest"]), bytes.fromhex(item["chain"]), entry))
        path = None if page["next"] is None else f"/v1/audit?limit=3&after={page['next']}"
    head = each_bench.ask("GET", "/v1/audit/head", ann).json()
    checked = check(links, NOTHING)
    assert {"number": checked.number, "chain": checked.chain.hex()} == head
    seen = {link.entry.project for link in links if link.entry is not None}
    assert seen == {"red"}


class Stream:
    """An event stream, read as it comes: httpx's ASGI transport would wait for its end."""

    def __init__(self, bench: Bench, bearer: str, query: str = "", last: int | None = None) -> None:
        headers = [(b"authorization", f"Bearer {bearer}".encode())]
        if last is not None:
            headers.append((b"last-event-id", str(last).encode()))
        self._scope = {
            "type": "http",
            "method": "GET",
            "scheme": "http",
            "path": "/v1/events",
            "raw_path": b"/v1/events",
            "query_string": query.encode(),
            "headers": headers,
            "client": ("192.0.2.1", 1),
            "server": ("test", 80),
        }
        self._app = bench.app
        self.said: asyncio.Queue[str | None] = asyncio.Queue()
        self.status = 0
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        gone = asyncio.Event()
        asked = False

        async def receive() -> dict[str, Any]:
            nonlocal asked
            if not asked:
                asked = True
                return {"type": "http.request", "body": b""}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
            elif message.get("body"):
                self.said.put_nowait(message["body"].decode())

        await self._app(self._scope, receive, send)
        self.said.put_nowait(None)

    async def next(self) -> str | None:
        async with asyncio.timeout(WAIT_SECONDS):
            return await self.said.get()

    async def event(self) -> dict[str, Any]:
        said = await self.next()
        assert said is not None
        fields = dict(line.split(": ", 1) for line in said.strip().split("\n"))
        assert set(fields) == {"id", "event", "data"}
        data: dict[str, Any] = json.loads(fields["data"])
        assert fields["id"] == str(data["number"])
        assert fields["event"] == data["verb"]
        return data

    async def leave(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def test_events_are_followed_from_now_on_and_from_where_one_was(each_bench: Bench) -> None:
    ann = each_bench.people.bearer("ann", {"red": Role.MEMBER})
    first = write(each_bench.database, "red", "one")

    async def story() -> None:
        fresh, by_query, by_header = (
            Stream(each_bench, ann),
            Stream(each_bench, ann, f"after={first - 1}"),
            Stream(each_bench, ann, "after=0", last=first),
        )
        assert (await by_query.event())["verb"] == "one"
        await until(lambda: len(each_bench.database.wakeups._bells.get("journal", ())) == 3)
        await asyncio.sleep(0.1)  # for the last one to have looked, and be waiting
        await asyncio.to_thread(write, each_bench.database, "blue", "hidden")
        second = await asyncio.to_thread(write, each_bench.database, "red", "two")
        for stream in (fresh, by_query, by_header):
            event = await stream.event()
            assert (event["verb"], event["number"], event["detail"]) == ("two", second, {"why": "a\nb"})
            assert "salt" not in event
            await stream.leave()

    asyncio.run(story())
    assert each_bench.database.wakeups._bells == {}


def test_a_stream_comes_in_parts_that_miss_nothing(each_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "EVENTS_AT_ONCE", 2)
    ann = each_bench.people.bearer("ann", {"red": Role.MEMBER})
    numbers = [write(each_bench.database, project) for project in ("red", "blue") * 5][::2]

    async def story() -> None:
        stream = Stream(each_bench, ann, "after=0")
        seen = [(await stream.event())["number"] for _ in range(6)]
        assert seen[1:] == numbers  # the first is that ann became a member
        await stream.leave()

    asyncio.run(story())


def test_a_quiet_stream_shows_signs_of_life(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "SIGN_OF_LIFE_SECONDS", 0.01)

    async def story() -> None:
        stream = Stream(bench, bench.people.provider_bearer)
        assert (await stream.next() or "").startswith(":")
        await stream.leave()

    asyncio.run(story())


@pytest.mark.parametrize("how", ["revoked", "expired", "stopped"])
def test_a_stream_ends_with_its_token_and_with_the_service(
    each_bench: Bench, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bearer = each_bench.people.bearer("ann", {"red": Role.MEMBER})
    token = each_bench.people.session(bearer).token or ""
    if how == "expired":
        monkeypatch.setattr(api, "SIGN_OF_LIFE_SECONDS", 0.05)

    def end() -> None:
        with each_bench.database.writing() as transaction:
            if how == "revoked":
                revoke_token(transaction, each_bench.people.provider, token)
            else:
                transaction.connection.execute(update(tokens).values(expires=transaction.now))

    async def story() -> None:
        stream = Stream(each_bench, bearer)
        await until(lambda: "journal" in each_bench.database.wakeups._bells)
        if how == "stopped":
            each_bench.front.stop()
        else:
            await asyncio.to_thread(end)
        said = await stream.next()
        while said is not None:
            said = await stream.next()
        assert stream.status == 200

    asyncio.run(story())
    assert each_bench.database.wakeups._bells == {}


def test_accounts_members_and_tokens_by_http(each_bench: Bench) -> None:
    """The verbs have their own tests; here is what they look like from outside."""
    provider = each_bench.people.provider_bearer
    openid = {"issuer": "https://id.example", "subject": None}
    account = {"kind": "user", "office": None, "openid": openid}
    assert each_bench.ask("PUT", "/v1/accounts/ann", provider, json=account).json() == {"name": "ann", **account}
    member = each_bench.ask("PUT", "/v1/projects/red/members/ann", provider, json={"role": "admin"}).json()
    assert member == {"project": "red", "account": "ann", "role": "admin"}
    rights = ["read", "members"]
    wish = {"account": "ann", "project": "red", "rights": rights, "office": None, "seconds": 60, "words": "x"}
    made = each_bench.ask("POST", "/v1/tokens", provider, json=wish)
    assert made.status_code == 201
    ann = made.json()["bearer"]
    session = each_bench.ask("GET", "/v1/tokens/current", ann).json()
    assert (session["account"], session["roles"], session["rights"]) == ("ann", {"red": "admin"}, ["members", "read"])
    assert each_bench.ask("GET", "/v1/projects/red/members", ann).json() == {"items": [member], "next": None}
    assert [one["name"] for one in each_bench.ask("GET", "/v1/accounts", ann).json()["items"]] == ["ann"]
    listed = each_bench.ask("GET", "/v1/tokens", ann).json()["items"]
    assert listed == [made.json()["token"] | {"used": listed[0]["used"]}]
    names = [one["name"] for one in each_bench.ask("GET", "/v1/accounts?limit=1", provider).json()["items"]]
    assert names == ["ann"]
    assert each_bench.ask("GET", "/v1/accounts?limit=1", provider).json()["next"] == "ann"
    assert each_bench.ask("DELETE", f"/v1/tokens/{session['token']}", ann).status_code == 204
    assert each_bench.ask("GET", "/v1/tokens/current", ann).status_code == 401
    assert each_bench.ask("DELETE", "/v1/projects/red/members/ann", provider).status_code == 204
    assert each_bench.ask("DELETE", "/v1/accounts/ann", provider).status_code == 204
    assert each_bench.ask("DELETE", "/v1/accounts/ann", provider).status_code == 404
