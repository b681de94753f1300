"""The services as a node in the airlock meets them: a small honest one, that judges by the evidence core and no more.

Attestation speaks HTTPS with an authority of its own, as docs/formats.md has it; the boot service speaks HTTP. Both
stand on sockets that the test opened, wherever that is.
"""

import base64
import hashlib
import json
import secrets
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.x509.oid import NameOID

from steelyard.evidence.document import format_time
from steelyard.evidence.eventlog.parse import parse_event_log
from steelyard.evidence.eventlog.replay import ReplayedLog, verify_log
from steelyard.evidence.keysplit import NodeBoot, auth_tag, seal_payload, seal_share, split_key
from steelyard.evidence.tpm.credential import (
    EccEntropy,
    PendingActivation,
    RsaEntropy,
    make_credential,
    verify_activation,
)
from steelyard.evidence.tpm.keys import BoundKey, check_attestation_key, check_endorsement_key
from steelyard.evidence.tpm.nonce import NonceWithKeys
from steelyard.evidence.tpm.public import parse_tpmt_public
from steelyard.evidence.tpm.quote import QuotedPcrs, SignedQuote, verify_quote
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import SteelyardError
from steelyard.model.pcrs import PcrSelection, PcrValues
from steelyard.model.secret import Secret

SELECTION: Final = PcrSelection(HashAlgorithm.SHA256, frozenset({*range(10), 11, 12, 13, 14}))
NO_EVENTS: Final = frozenset[int]()
_API: Final = "/v1/attestation"


@dataclass(frozen=True)
class Seen:
    """What a node proved."""

    endorsement_key_name: bytes
    endorsement_certificates: tuple[bytes, ...]
    quoted: QuotedPcrs
    log: ReplayedLog
    parameters: bytes


class Authority:
    """A certificate authority for one server at one address."""

    def __init__(self, address: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        own = _certificate(name, name, key.public_key())
        for extension, critical in ((x509.BasicConstraints(ca=True, path_length=0), True), (identifier, False)):
            own = own.add_extension(extension, critical=critical)
        self.pem = own.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
        server_key = ec.generate_private_key(ec.SECP256R1())
        server = _certificate(x509.Name([]), name, server_key.public_key())
        alternative = x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))])
        above = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
        server = server.add_extension(alternative, critical=True).add_extension(above, critical=False)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with TemporaryDirectory() as folder:
            file = Path(folder) / "server.pem"
            file.write_bytes(
                server_key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
                + server.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
            )
            self.context.load_cert_chain(file)


def _certificate(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
    )


Route = Callable[[bytes], tuple[int, bytes]]


Otherwise = Callable[[str, str, bytes, Mapping[str, str]], tuple[int, bytes]]
"""Method, path, body, headers -> status, body."""


class WebServer:
    """Answers requests by method and path; anything else by `otherwise`, or with 404."""

    def __init__(self, listening: socket.socket, context: ssl.SSLContext | None = None) -> None:
        self.routes: dict[tuple[str, str], Route] = {}
        self.requests: list[str] = []
        self.otherwise: Otherwise | None = None
        routes, requests = self.routes, self.requests
        own = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = 1 << 20

            def _answer(self) -> None:
                requests.append(f"{self.command} {self.path}")
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                route = routes.get((self.command.replace("HEAD", "GET"), self.path))
                if route is None and own.otherwise is not None:
                    status, content = own.otherwise(self.command, self.path, body, dict(self.headers))
                else:
                    status, content = (404, b"") if route is None else route(body)
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_POST = do_HEAD = _answer  # noqa: N815  (names of the library)

            def log_message(self, *arguments: object) -> None:
                pass

        if context is not None:
            listening = context.wrap_socket(listening, server_side=True)
        self._server = ThreadingHTTPServer(listening.getsockname()[:2], Handler, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = listening
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a machine that is switched off
        self.port: int = listening.getsockname()[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def serve(content: bytes) -> Route:
    """Return a route that gives these bytes."""
    return lambda _: (200, content)


@dataclass
class HonestService:
    """Registrar, verifier and tenant of one node. It tells the node what to start only when `judge` does not object.

    judge            raises SteelyardError for a node that is not to pass.
    payload          the payload document.
    seconds_to_next  when the next report is due; None: none is wanted.
    """

    web: WebServer
    boot: WebServer
    node: str
    delivery_path: str
    judge: Callable[[Seen], None]
    payload: bytes
    steps: list[tuple[str, str, str]] = field(default_factory=list)
    seen: Seen | None = None
    complaint: str = ""
    seconds_to_next: int | None = None
    passed: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._token = secrets.token_urlsafe(32)
        self._bound: BoundKey | None = None
        self.web.routes["POST", f"{_API}/registrations"] = self._register
        self.web.routes["POST", f"{_API}/nodes/{self.node}/challenges"] = self._challenge
        self.web.routes["POST", f"{_API}/nodes/{self.node}/steps"] = self._step

    def _register(self, body: bytes) -> tuple[int, bytes]:
        request = json.loads(body)
        assert request["node"] == self.node
        endorsement = check_endorsement_key(parse_tpmt_public(_bytes(request["endorsement_key"])))
        attestation = check_attestation_key(parse_tpmt_public(_bytes(request["attestation_key"])))
        certificates = tuple(_bytes(each) for each in request["endorsement_certificates"])
        session, secret = secrets.token_hex(16), Secret(secrets.token_bytes(32))
        entropy = (
            EccEntropy(ec.generate_private_key(endorsement.key.curve))
            if isinstance(endorsement.key, ec.EllipticCurvePublicKey)
            else RsaEntropy(Secret(secrets.token_bytes(endorsement.public.name_algorithm.size)))
        )
        expires = datetime.now(UTC) + timedelta(minutes=1)
        pending = PendingActivation(session.encode(), attestation, endorsement.name, secret, expires)

        def activate(body: bytes) -> tuple[int, bytes]:
            proof = _bytes(json.loads(body)["proof"])
            self._bound = verify_activation(pending, session.encode(), proof, datetime.now(UTC))
            self._certificates, self._endorsement_key_name = certificates, endorsement.name
            return 200, _json(token=self._token, expires=format_time(expires))

        self.web.routes["POST", f"{_API}/registrations/{session}/activation"] = activate
        credential = make_credential(endorsement, attestation.name, secret, entropy).to_bytes()
        return 201, _json(registration=session, credential=_text(credential), expires=format_time(expires))

    def _challenge(self, _: bytes) -> tuple[int, bytes]:
        name, nonce = secrets.token_hex(16), secrets.token_bytes(32)
        self.web.routes["POST", f"{_API}/challenges/{name}/evidence"] = lambda body: self._evidence(body, nonce)
        expires = format_time(datetime.now(UTC) + timedelta(minutes=1))
        asked = sorted(SELECTION.indices)
        return 201, _json(challenge=name, nonce=_text(nonce), bank="sha256", pcrs=asked, expires=expires)

    def _evidence(self, body: bytes, nonce: bytes) -> tuple[int, bytes]:
        request = json.loads(body)
        transport, wireguard = _bytes(request["transport_key"]), _bytes(request["wireguard_key"])
        parameters = _bytes(request["parameters"])
        assert self._bound is not None
        try:
            quoted = verify_quote(
                SignedQuote(_bytes(request["quote"]), _bytes(request["signature"])),
                self._bound,
                NonceWithKeys(nonce, transport, wireguard, parameters),
                SELECTION,
                PcrValues(
                    HashAlgorithm.SHA256, {int(at): bytes.fromhex(value) for at, value in request["pcrs"].items()}
                ),
            )
            log = verify_log(parse_event_log(_bytes(request["event_log"])), quoted.pcrs, NO_EVENTS)
            self.seen = Seen(self._endorsement_key_name, self._certificates, quoted, log, parameters)
            self.judge(self.seen)
        except SteelyardError as error:
            self.complaint = str(error)
            return 422, _json(title="rejected", detail=str(error))
        self.deliver(transport, NodeBoot(self.node, nonce))
        return 200, _json(verdict="verdict", next_in=self.seconds_to_next)

    def deliver(self, transport: bytes, boot: NodeBoot) -> None:
        """Give the node what only it can open: V by the attestation service, U and the payload by the boot service."""
        key, u = Secret(secrets.token_bytes(32)), Secret(secrets.token_bytes(32))
        sealed = [seal_share(share, transport, X25519PrivateKey.generate(), boot) for share in (split_key(key, u), u)]
        box = seal_payload(key, Secret(self.payload), secrets.token_bytes(12), boot)
        delivery = _json(share=_text(sealed[1]), tag=_text(auth_tag(key, self.node)), payload=_text(box))
        self.web.routes["GET", f"{_API}/nodes/{self.node}/share"] = serve(_json(share=_text(sealed[0])))
        self.boot.routes["GET", self.delivery_path] = serve(delivery)
        self.passed.set()

    def _step(self, body: bytes) -> tuple[int, bytes]:
        request = json.loads(body)
        self.steps.append((request["step"], request["outcome"], request["detail"]))
        return 204, b""


def parameters(**changed: str) -> bytes:
    """Return a parameter document; `changed` says what is not as usual."""
    usual = {"schema": "steelyard.parameters/1", "on_failure": "power-off"}
    return _json(**(usual | changed))


def payload_document(kernel: Mapping[str, Any], initramfs: Mapping[str, Any], **more: Any) -> bytes:
    """Return a payload document."""
    usual: dict[str, Any] = {"schema": "steelyard.payload/1", "root": None, "files": {}, "command_line": "quiet"}
    return _json(**(usual | {"kernel": kernel, "initramfs": initramfs} | more))


def _json(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def artefact(address: str, content: bytes) -> dict[str, Any]:
    """Describe a file to fetch."""
    return {"address": address, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
