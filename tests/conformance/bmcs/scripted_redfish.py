"""A Redfish service that misbehaves as a test tells it to, with a certificate that the driver trusts."""

import ipaddress
import json
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final

from steelyard.isolation.bmcs.redfish import RedfishBmc
from steelyard.isolation.ports import Access
from steelyard.lab.build import issue_bmc_certificates
from steelyard.model.limits import MIB
from steelyard.model.secret import Secret

ADDRESS: Final = "127.0.0.1"
PASSWORD: Final = "open sesame"  # noqa: S105  of a service that ends with its test
TOKEN: Final = "a token"  # noqa: S105
SYSTEM: Final = "/redfish/v1/Systems/1"
RESET: Final = f"{SYSTEM}/Actions/ComputerSystem.Reset"


@dataclass(frozen=True)
class Answer:
    """What is answered: bytes as they are, anything else as JSON; drop by drop if `chunk` says of how many bytes."""

    status: int = 200
    body: object = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    chunk: int | None = None


def system(**changes: object) -> dict[str, Any]:
    """Return a ComputerSystem that is off."""
    whole = {
        "@odata.id": SYSTEM,
        "Id": "1",
        "Name": "n1",
        "PowerState": "Off",
        "Boot": {
            "BootSourceOverrideEnabled": "Disabled",
            "BootSourceOverrideTarget": "None",
            "BootSourceOverrideMode": "UEFI",
            "BootSourceOverrideTarget@Redfish.AllowableValues": ["None", "Pxe", "Hdd"],
        },
        "Actions": {
            "#ComputerSystem.Reset": {"target": RESET, "ResetType@Redfish.AllowableValues": ["On", "ForceOff"]}
        },
    }
    return {**whole, **changes}


class ScriptedRedfish:
    """The service. `answers` may be changed at any time; `asked` is what was asked for, with the token it came with.

    `kin`: another service, whose authority this one's certificate is of, too. `scheme`: "http" for one without TLS.
    """

    def __init__(self, folder: Path, kin: "ScriptedRedfish | None" = None, scheme: str = "https") -> None:
        self.answers: dict[tuple[str, str], Answer | Callable[[], Answer]] = {
            ("GET", "/redfish/v1/"): Answer(
                body={
                    "Id": "RootService",
                    "Name": "Scripted",
                    "Systems": {"@odata.id": "/redfish/v1/Systems"},
                    "Links": {"Sessions": {"@odata.id": "/redfish/v1/Sessions"}},
                }
            ),
            ("POST", "/redfish/v1/Sessions"): Answer(
                201, {}, {"X-Auth-Token": TOKEN, "Location": "/redfish/v1/Sessions/1"}
            ),
            ("DELETE", "/redfish/v1/Sessions/1"): Answer(204),
            ("GET", "/redfish/v1/Systems"): Answer(body={"Name": "Systems", "Members": [{"@odata.id": SYSTEM}]}),
            ("GET", SYSTEM): Answer(body=system()),
        }
        self.asked: list[tuple[str, str, str | None]] = []
        self.authorizations: list[str] = []
        self.changes: list[object] = []
        self.closed = Event()
        self._keys = folder / "scripted.pem"
        if kin is None:
            self._ca, pairs = issue_bmc_certificates({"n1": ipaddress.IPv4Address(ADDRESS)})
            self._keys.write_text(pairs["n1"])
        else:
            self._ca, self._keys = kin._ca, kin._keys
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._keys)
        self._server = ThreadingHTTPServer((ADDRESS, 0), self._handler())
        self._server.daemon_threads = False
        if scheme == "https":
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{scheme}://{ADDRESS}:{self._server.server_port}"
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                service.asked.append((self.command, self.path, self.headers.get("X-Auth-Token")))
                service.authorizations += self.headers.get_all("Authorization", [])
                content = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                if content and self.path != "/redfish/v1/Sessions":
                    service.changes.append(json.loads(content))
                answer = service.answers.get((self.command, self.path), Answer(404))
                answer = answer() if callable(answer) else answer
                body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
                self.send_response(answer.status)
                for name, value in {"Content-Length": str(len(body)), **answer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                with suppress(OSError):
                    for begin in range(0, len(body), answer.chunk or MIB):
                        self.wfile.write(body[begin : begin + (answer.chunk or MIB)])
                        # Woken by nobody: each chunk comes a little later than the one before.
                        service.closed.wait(0.05 if answer.chunk else 0)

            do_GET = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815  the library's names

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def access(self, **address: str) -> Access:
        """Return how to reach it."""
        return Access(
            {"url": self.url, "ca": self._ca, **address},
            {"username": Secret(b"admin"), "password": Secret(PASSWORD.encode())},
        )

    def connect(self, **address: str) -> RedfishBmc:
        """Return the driver."""
        return RedfishBmc(self.access(**address))

    def close(self) -> None:
        """End it."""
        self.closed.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def scripted_redfish(
    folder: Path, kin: ScriptedRedfish | None = None, scheme: str = "https"
) -> Iterator[ScriptedRedfish]:
    """Give a service that behaves, as yet."""
    service = ScriptedRedfish(folder, kin, scheme)
    try:
        yield service
    finally:
        service.close()
