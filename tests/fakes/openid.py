"""An OpenID issuer over HTTP, as far as a service that believes its tokens sees it."""

import functools
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from joserfc import jwt
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey


@functools.cache
def _first_keys() -> Mapping[str, Key]:
    """Made once in a process, as an RSA key takes its time."""
    return {
        "ed": OKPKey.generate_key("Ed25519", {"kid": "ed", "use": "sig"}),
        "ec": ECKey.generate_key("P-256", {"kid": "ec"}),
        "rsa": RSAKey.generate_key(2048, {"kid": "rsa"}),
    }


class FakeIssuer:
    """Signs with `keys`, and publishes those that are in `published`.

    asked   paths of the requests that came.
    broken  what is answered instead: a status, or bytes.
    """

    def __init__(self) -> None:
        self.keys = dict(_first_keys())
        self.published = list(self.keys)
        self.asked: list[str] = []
        self.broken: int | bytes | None = None
        self.discovery: dict[str, Any] = {}
        self.more_keys: list[dict[str, Any]] = []
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked.append(self.path)
                status, body = issuer.answer(self.path)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/realm"

    def answer(self, path: str) -> tuple[int, bytes]:
        if isinstance(self.broken, int):
            return self.broken, b"{}"
        if isinstance(self.broken, bytes):
            return 200, self.broken
        if path == "/realm/.well-known/openid-configuration":
            return 200, json.dumps({"issuer": self.url, "jwks_uri": f"{self.url}/keys", **self.discovery}).encode()
        if path == "/realm/keys":
            keys = [self.keys[name].as_dict(private=False) for name in self.published]
            return 200, json.dumps({"keys": [*self.more_keys, *keys]}).encode()
        return 404, b""

    def token(self, claims: dict[str, Any], key: str = "ed", algorithm: str = "Ed25519", **header: Any) -> str:
        said = {"alg": algorithm, "kid": key, **header}
        return jwt.encode(said, claims, self.keys[key], algorithms=[algorithm])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
