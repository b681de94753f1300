"""HTTP as a node speaks it: to the attestation service over TLS with one authority, to whoever serves files plainly."""

import http.client
import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from steelyard.evidence.reader import refuse_over
from steelyard.model.errors import ServiceRefused
from steelyard.model.limits import Limit
from steelyard.model.secret import Secret

_LONGEST_SILENCE_SECONDS: Final = 30
_PIECE_BYTES: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Answer:
    """Any answer: its status, its body, and of a problem document in it the code, and what it says for people."""

    status: int
    body: bytes
    code: str
    told: str


class Server:
    """A server at an address; one connection, that is opened when it is needed."""

    def __init__(self, address: str, authority: str | None) -> None:
        """Take the server at an address: scheme, host, port.

        authority  what the server's certificate must be signed by, PEM; None for http, whose answers prove nothing.
        """
        parts = urlsplit(address)
        self._address = f"{parts.scheme}://{parts.netloc}"
        self._connection: http.client.HTTPConnection
        host = parts.hostname or ""
        if parts.scheme == "https":
            context = ssl.create_default_context(cadata=authority)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            self._connection = http.client.HTTPSConnection(
                host, parts.port, timeout=_LONGEST_SILENCE_SECONDS, context=context
            )
        else:
            self._connection = http.client.HTTPConnection(host, parts.port, timeout=_LONGEST_SILENCE_SECONDS)
        self.token: Secret | None = None
        """What proves to it who asks, once it has given it."""

    def ask(self, path: str, body: bytes, limit: Limit) -> Answer:
        """Return whatever is answered to a POST. Raises ServiceRefused when nothing is; TooLarge."""
        with self._request("POST", path, body) as answer:
            content = answer.read(limit.most + 1)
            refuse_over(limit, len(content), f"asking {self._address}{path}")
            code = _fields_of(content).get("code", "")
            return Answer(answer.status, content, code, f"status {answer.status}{_problem(content)}")

    def post(self, path: str, body: bytes, expected: int, limit: Limit) -> bytes:
        """Return the answer's body. Raises ServiceRefused when it is not of the status `expected`; TooLarge."""
        with self._request("POST", path, body) as answer:
            return self._body(answer, path, expected, limit)

    def get(self, path: str, limit: Limit) -> bytes:
        """Return the body of a good answer. Raises ServiceRefused, TooLarge."""
        with self._request("GET", path, None) as answer:
            return self._body(answer, path, http.HTTPStatus.OK, limit)

    def get_when_there(self, path: str, limit: Limit) -> bytes | None:
        """Return the body of a good answer, None when there is nothing yet. Raises ServiceRefused, TooLarge."""
        with self._request("GET", path, None) as answer:
            if answer.status == http.HTTPStatus.NOT_FOUND:
                answer.read(limit.most)
                return None
            return self._body(answer, path, http.HTTPStatus.OK, limit)

    def pieces(self, path: str, size_bytes: int) -> Iterator[bytes]:
        """Yield a file of this size, piece by piece. Raises ServiceRefused, also for a file of another size."""
        with self._request("GET", path, None) as answer:
            if answer.status != http.HTTPStatus.OK:
                raise self._refused(path, f"status {answer.status}")
            left = size_bytes
            while piece := answer.read(min(_PIECE_BYTES, left + 1)):
                left -= len(piece)
                if left < 0:
                    break
                yield piece
            if left:
                raise self._refused(path, f"a file that is not of {size_bytes} bytes")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    @contextmanager
    def _request(self, method: str, path: str, body: bytes | None) -> Iterator[http.client.HTTPResponse]:
        headers: dict[str, str] = {"Content-Type": "application/json"} if body is not None else {}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token.reveal().decode('ascii')}"
        try:
            self._connection.request(method, path, body, headers)
            with self._connection.getresponse() as answer:
                yield answer
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise self._refused(path, f"{type(error).__name__}: {error}") from error

    def _body(self, answer: http.client.HTTPResponse, path: str, expected: int, limit: Limit) -> bytes:
        body = answer.read(limit.most + 1)
        refuse_over(limit, len(body), f"asking {self._address}{path}")
        if answer.status != expected:
            raise self._refused(path, f"status {answer.status}{_problem(body)}")
        return body

    def _refused(self, path: str, found: str) -> ServiceRefused:
        return ServiceRefused(f"asking {self._address}{path}", expected="a good answer", found=found)


def _problem(body: bytes) -> str:
    """Return what a problem document says, for people."""
    fields = _fields_of(body)
    return "".join(f", {fields[name]}" for name in ("title", "detail") if name in fields)


def _fields_of(body: bytes) -> Mapping[str, str]:
    """Return the texts in a problem document, none for anything else. Source: RFC 9457, section 3.1."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(document, Mapping):
        return {}
    return {name: value for name, value in document.items() if isinstance(value, str)}
