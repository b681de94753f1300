"""Sends calls, blocking (`Client`) or awaited (`AsyncClient`); both decide by the same functions.

The token goes to the service named and nowhere else: no redirect is followed, no proxy or password file of the
environment is used, and nothing is sent unencrypted but to this computer itself.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar
from urllib.parse import urlsplit

import httpx

from steelyard.client import isolation
from steelyard.client.call import SUCCESS, Answer, Call, Page
from steelyard.client.events import EventReader
from steelyard.client.objects import Event
from steelyard.client.operations import AnyWork, must_be_done, read_again
from steelyard.client.problems import error_of
from steelyard.model.errors import MalformedAnswer, SteelyardError, Unavailable, WrongUse
from steelyard.model.limits import ANSWER_BYTES
from steelyard.model.secret import Secret

T = TypeVar("T")

CONNECT_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 30.0
"""On top of what the service was asked to wait."""
SILENCE_SECONDS: Final = 45.0
"""An event stream sends a sign of life every 15 seconds; after three without one it is dead."""
PAUSES: Final = (0.2, 0.5, 1.0, 2.0)
"""Seconds before each new attempt."""
MOST_PAUSE_SECONDS: Final = 30
"""The longest that a service's Retry-After is obeyed."""
WAIT_SECONDS: Final = 10
"""How long one request waits for an operation; the next goes on waiting."""
PARTIAL: Final = 206
"""The status of an answer that is a part of the whole. Source: RFC 9110, section 15.3.7."""
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Service:
    """A service and who asks it.

    url    "https://host:port"; http only to this computer.
    ca     certificate authorities, PEM; None: those that this computer trusts.
    token  None: health alone answers.
    """

    url: str
    ca: Path | None
    token: Secret | None

    def __post_init__(self) -> None:
        doing = "naming a service"
        try:
            parts = urlsplit(self.url)
            host, _ = parts.hostname, parts.port
        except ValueError as cause:
            raise WrongUse(doing, expected="https://HOST:PORT", found=self.url) from cause
        if parts.scheme not in ("http", "https") or not host or parts.username or parts.query or parts.fragment:
            raise WrongUse(doing, expected="https://HOST:PORT", found=self.url)
        if parts.scheme == "http" and host not in LOOPBACK:
            raise WrongUse(doing, expected="https, as a token is a secret", found=self.url)
        if self.token is not None and not self.token.reveal().isascii():
            raise WrongUse(doing, expected="a token of ASCII letters", found="others")

    def headers(self) -> dict[str, str]:
        """Return the headers of every request."""
        headers = {"Accept-Encoding": "identity", "User-Agent": "steelyard"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token.reveal().decode('ascii')}"
        return headers

    def verification(self) -> ssl.SSLContext:
        """Return whom to believe to be the service: its own authority alone, where one is given. Raises WrongUse."""
        try:
            return ssl.create_default_context(cafile=self.ca)
        except (OSError, ssl.SSLError) as cause:
            raise WrongUse("reading a CA", expected="certificates in PEM", found=f"{self.ca}: {cause}") from cause


class _Attempts(Generic[T]):
    """What to do after each attempt at a call: the rule of what is asked again."""

    def __init__(self, service: Service, call: Call[T]) -> None:
        self._service = service
        self._call = call
        self._pauses = iter(PAUSES)

    def after_answer(self, answer: Answer) -> float | None:
        """Return the seconds to wait before asking again; None: the answer stands."""
        # 429: refused before anything was done. 503: the same, but something may have been begun.
        if answer.status == 429 or (answer.status == 503 and self._call.repeatable):
            pause = next(self._pauses, None)
            asked = answer.headers.get("retry-after", "")
            return max(pause, min(int(asked), MOST_PAUSE_SECONDS)) if pause is not None and asked.isdecimal() else pause
        return None

    def after_failure(self, failure: httpx.HTTPError) -> float:
        """Return the seconds to wait before asking again. Raises Unavailable."""
        unsent = isinstance(failure, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
        if self._call.repeatable or unsent:
            pause = next(self._pauses, None)
            if pause is not None and not isinstance(_cause(failure), ssl.SSLError):
                return pause
        found = str(failure) or type(failure).__name__
        if not unsent and not self._call.repeatable:
            found = f"{found}; it may have been done, so look before asking again"
        raise Unavailable(self._call.doing, expected=f"an answer of {self._service.url}", found=found) from failure

    def timeout(self) -> httpx.Timeout:
        return httpx.Timeout(ANSWER_SECONDS + self._call.wait_seconds, connect=CONNECT_SECONDS)


def _cause(failure: BaseException) -> BaseException:
    """Return what a failure began with: the library's own error hides the system's."""
    while (deeper := failure.__cause__ or failure.__context__) is not None:
        failure = deeper
    return failure


class _Body:
    """Gathers an answer's body within its limit."""

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._parts = bytearray()

    def add(self, part: bytes) -> None:
        if len(self._parts) + len(part) > ANSWER_BYTES.most:
            raise MalformedAnswer(self._doing, expected=f"at most {ANSWER_BYTES.most} bytes", found="more")
        self._parts += part

    def answer(self, response: httpx.Response) -> Answer:
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status_code, headers, bytes(self._parts))


class Client:
    """A service, asked by threads; safe to share among them."""

    def __init__(self, service: Service, *, transport: httpx.BaseTransport | None = None) -> None:
        self.service = service
        self._http = httpx.Client(
            base_url=service.url,
            headers=service.headers(),
            verify=service.verification() if transport is None else True,
            transport=transport,
            trust_env=False,
        )

    def ask(self, call: Call[T]) -> T:
        """Return what the service answers. Raises the error that it raised; Unavailable, MalformedAnswer."""
        attempts = _Attempts(self.service, call)
        while True:
            try:
                answer = self._send(call, attempts.timeout())
            except httpx.HTTPError as failure:
                pause: float | None = attempts.after_failure(failure)
            else:
                pause = attempts.after_answer(answer)
                if pause is None:
                    return call.result(answer)
            time.sleep(pause or 0)

    def every(self, first: Call[Page[T]]) -> Iterator[T]:
        """Give each thing of a list, asking for its parts as they are wanted."""
        following: Call[Page[T]] | None = first
        while following is not None:
            page = self.ask(following)
            yield from page.items
            following = page.following

    def watch(self, operation: AnyWork, *, look_seconds: int = WAIT_SECONDS) -> Iterator[AnyWork]:
        """Give the operation as it is, then at each look, until it is over; that one is the last.

        It ends by its deadline, as the service promises.
        """
        yield operation
        while not operation.over:
            operation = self.ask(read_again(operation, wait_seconds=look_seconds))
            yield operation

    def wait_for(self, operation: AnyWork) -> AnyWork:
        """Return the operation when it is done. Raises the error that ended it, or WrongState if cancelled."""
        for seen in self.watch(operation):
            operation = seen
        return must_be_done(operation)

    @contextmanager
    def events(self, after: int | None = None) -> Iterator[Iterator[Event]]:
        """Give what happens from now on, or after an entry, for as long as the context is open.

        Raises Unavailable when the stream ends or falls silent; follow on with the last number seen.
        """
        doing = "following events"
        timeout = httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
        call = isolation.follow_events(after)
        try:
            with self._http.stream("GET", call.path, params=call.query, timeout=timeout) as response:
                if response.status_code not in SUCCESS:
                    raise error_of(response.status_code, response.read(), doing)
                yield self._read_events(response)
        except httpx.HTTPError as failure:
            raise _stream_ended(self.service, failure) from failure

    def _read_events(self, response: httpx.Response) -> Iterator[Event]:
        reader = EventReader()
        for part in response.iter_raw():
            yield from reader.feed(part)
        raise _stream_ended(self.service, None)

    @contextmanager
    def pieces(self, call: Call[None]) -> Iterator[Iterator[bytes]]:
        """Give a long answer from `first_byte` on, piece by piece, for as long as the context is open.

        Raises the error that the service raised, MalformedAnswer; Unavailable when it breaks off: ask for the rest.
        """
        timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
        try:
            with self._http.stream(call.method, call.path, headers=call.headers(), timeout=timeout) as response:
                if response.status_code not in SUCCESS:
                    raise error_of(response.status_code, response.read(), call.doing)
                if (response.status_code == PARTIAL) != bool(call.first_byte):
                    expected = f"what comes from byte {call.first_byte} on"
                    raise MalformedAnswer(call.doing, expected=expected, found=f"status {response.status_code}")
                yield response.iter_raw()
        except httpx.HTTPError as failure:
            expected = f"an answer of {self.service.url}"
            found = str(failure) or type(failure).__name__
            raise Unavailable(call.doing, expected=expected, found=found) from failure

    def _send(self, call: Call[Any], timeout: httpx.Timeout) -> Answer:
        with self._http.stream(
            call.method,
            call.path,
            params=call.query,
            json=call.body,
            content=call.content,
            headers=call.headers(),
            timeout=timeout,
        ) as response:
            body = _Body(call.doing)
            for part in response.iter_raw():
                body.add(part)
            return body.answer(response)

    def close(self) -> None:
        """End the connections."""
        self._http.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient:
    """A service, asked by tasks of one event loop. Each method is that of `Client`, awaited; long answers are not."""

    def __init__(self, service: Service, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.service = service
        self._http = httpx.AsyncClient(
            base_url=service.url,
            headers=service.headers(),
            verify=service.verification() if transport is None else True,
            transport=transport,
            trust_env=False,
        )

    async def ask(self, call: Call[T]) -> T:
        """Return what the service answers."""
        attempts = _Attempts(self.service, call)
        while True:
            try:
                answer = await self._send(call, attempts.timeout())
            except httpx.HTTPError as failure:
                pause: float | None = attempts.after_failure(failure)
            else:
                pause = attempts.after_answer(answer)
                if pause is None:
                    return call.result(answer)
            await asyncio.sleep(pause or 0)

    async def every(self, first: Call[Page[T]]) -> AsyncIterator[T]:
        """Give each thing of a list."""
        following: Call[Page[T]] | None = first
        while following is not None:
            page = await self.ask(following)
            for item in page.items:
                yield item
            following = page.following

    async def watch(self, operation: AnyWork, *, look_seconds: int = WAIT_SECONDS) -> AsyncIterator[AnyWork]:
        """Give the operation as it is, then at each look, until it is over."""
        yield operation
        while not operation.over:
            operation = await self.ask(read_again(operation, wait_seconds=look_seconds))
            yield operation

    async def wait_for(self, operation: AnyWork) -> AnyWork:
        """Return the operation when it is done."""
        async for seen in self.watch(operation):
            operation = seen
        return must_be_done(operation)

    @asynccontextmanager
    async def events(self, after: int | None = None) -> AsyncIterator[AsyncIterator[Event]]:
        """Give what happens from now on, or after an entry."""
        doing = "following events"
        timeout = httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
        call = isolation.follow_events(after)
        try:
            async with self._http.stream("GET", call.path, params=call.query, timeout=timeout) as response:
                if response.status_code not in SUCCESS:
                    raise error_of(response.status_code, await response.aread(), doing)
                yield self._read_events(response)
        except httpx.HTTPError as failure:
            raise _stream_ended(self.service, failure) from failure

    async def _read_events(self, response: httpx.Response) -> AsyncIterator[Event]:
        reader = EventReader()
        async for part in response.aiter_raw():
            for event in reader.feed(part):
                yield event
        raise _stream_ended(self.service, None)

    async def _send(self, call: Call[Any], timeout: httpx.Timeout) -> Answer:
        async with self._http.stream(
            call.method,
            call.path,
            params=call.query,
            json=call.body,
            content=call.content,
            headers=call.headers(),
            timeout=timeout,
        ) as response:
            body = _Body(call.doing)
            async for part in response.aiter_raw():
                body.add(part)
            return body.answer(response)

    async def close(self) -> None:
        """End the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _stream_ended(service: Service, failure: httpx.HTTPError | None) -> SteelyardError:
    found = "its end" if failure is None else str(failure) or type(failure).__name__
    return Unavailable("following events", expected=f"the event stream of {service.url}", found=found)
