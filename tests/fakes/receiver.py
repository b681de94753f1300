"""A real HTTP server for tests, on a free port of this computer: keeps what it is sent, answers as it is told."""

import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

WAIT_SECONDS: Final = 30
"""How long a test waits for something that is to come."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as it came; names of headers in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


Answering = Callable[[Sent, socket.socket], bytes]
"""Answers a request with bytes of HTTP; may speak to the connection itself first, and wait."""


def answer(status: int, body: bytes = b"", **headers: str) -> Answering:
    """Return what answers the same to everything."""
    lines = [f"HTTP/1.1 {status} as told", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    whole = "\r\n".join([*lines, "", ""]).encode() + body
    return lambda _sent, _connection: whole


class Receiver:
    """The server. `answering` may be set at any time."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.answering: Answering = answer(204)
        self.sent: list[Sent] = []
        self._news = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def _take(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                sent = Sent(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body)
                with receiver._news:
                    receiver.sent.append(sent)
                    receiver._news.notify_all()
                self.close_connection = True
                with suppress(OSError):  # the client has gone
                    self.connection.sendall(receiver.answering(sent, self.connection))

            do_GET = do_POST = _take  # noqa: N815 (the names are the library's)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass  # a client that does not believe our certificate is what some tests are about

            def finish_request(self, request: socket.socket, address: object) -> None:  # type: ignore[override]  # the library's type is narrower than what it gives
                if tls is None:
                    super().finish_request(request, address)
                    return
                with tls.wrap_socket(request, server_side=True) as encrypted:
                    super().finish_request(encrypted, address)

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), name="receiver", daemon=True).start()

    def wait_for(self, count: int) -> list[Sent]:
        """Return what was sent, once it is that many requests."""
        with self._news:
            assert self._news.wait_for(lambda: len(self.sent) >= count, WAIT_SECONDS), len(self.sent)
            return list(self.sent)

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def receiving(tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """Give a server."""
    receiver = Receiver(tls)
    try:
        yield receiver
    finally:
        receiver.close()


def make_tls(directory: Path, *names: str) -> tuple[ssl.SSLContext, Path]:
    """Return what a server of these names needs, and the authority, PEM, that vouches for it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "receiver")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([_general_name(each) for each in names]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, key_pem = directory / "receiver.pem", directory / "receiver.key"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    key_pem.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key_pem)
    return context, pem


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
