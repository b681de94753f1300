"""Sign-in by tokens of the site's OpenID provider.

Believed is a token that the configured issuer signed, for this service, with a key that its key set has now. Its keys
are fetched when they are needed, rarely, and within a time and a size; who sends tokens of unknown keys cannot make us
ask more often. Source: RFC 7519, section 7.2; OpenID Connect Discovery 1.0, section 4; RFC 8725.
"""

import json
import ssl
import threading
import time
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
from joserfc import jwk, jwt
from joserfc.errors import JoseError
from joserfc.jwk import Key, KeySet

from steelyard.model.errors import ServiceUnready, Unavailable
from steelyard.model.limits import OPENID_DOCUMENT_BYTES
from steelyard.service.accounts import OpenIdName, not_signed_in

ALGORITHMS: Final = ("EdDSA", "Ed25519", "ES256", "RS256")
"""Signatures alone, never a shared secret; each with keys of one kind."""
KEY_TYPES: Final = frozenset({"OKP", "EC", "RSA"})
FETCH_SECONDS: Final = 5.0
KEYS_GOOD_SECONDS: Final = 600.0
"""After this keys are asked for anew, so that one that the issuer took back is not believed for long."""
KEYS_KEPT_SECONDS: Final = 3600.0
"""For how long they are used when the issuer does not answer."""
FETCH_PAUSE_SECONDS: Final = 20.0
LEEWAY_SECONDS: Final = 30
"""By how much the issuer's clock may be ahead of ours."""
LEAST_RSA_BITS: Final = 2048
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})

_MALFORMED: Final = (JoseError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError)
"""What the library and the language raise at tokens and keys that are not as they should be."""


@dataclass(frozen=True, slots=True)
class OpenIdSettings:
    """What is believed.

    issuer      URL; https, or http to this computer.
    audience    what the tokens must be for.
    name_claim  the claim with the name that accounts are registered by: "preferred_username".
    ca          authorities that the issuer's certificate may be of; None: this computer's.
    """

    issuer: str
    audience: str
    name_claim: str
    ca: Path | None

    def __post_init__(self) -> None:
        _check_url(self.issuer, "reading the OpenID issuer")
        if not self.audience or not self.name_claim:
            raise ServiceUnready(
                "reading the OpenID settings", expected="audience and name_claim", found="an empty one"
            )


@dataclass(frozen=True, slots=True)
class Claimed:
    """Whom a token, whose signature is right, is about; `expires` when it stops being good."""

    who: OpenIdName
    name: str
    expires: datetime


class Issuer:
    """The OpenID provider. Safe to share among threads."""

    def __init__(self, settings: OpenIdSettings) -> None:
        self._settings = settings
        try:
            verify = ssl.create_default_context(cafile=settings.ca)
        except OSError as cause:  # SSLError is one
            found = cause.strerror or str(cause)
            raise ServiceUnready("reading openid.ca", expected="certificates in PEM", found=found) from cause
        self._http = httpx.Client(verify=verify, timeout=FETCH_SECONDS, trust_env=False)
        self._fetching = threading.Lock()
        self._keys = KeySet([])
        self._fetched_at = -KEYS_KEPT_SECONDS
        self._tried_at = -KEYS_KEPT_SECONDS

    def verify(self, bearer: str, now: datetime) -> Claimed:
        """Return whom the token is about. Raises NotSignedIn, the same for every cause; Unavailable without keys."""
        try:
            return self._claimed(bearer, now)
        except _MALFORMED as cause:
            raise not_signed_in() from cause

    def close(self) -> None:
        """Give up the connection."""
        self._http.close()

    def _claimed(self, bearer: str, now: datetime) -> Claimed:
        # The library asks for the key when it has read the header, and found the algorithm among ours.
        token = jwt.decode(bearer, lambda said: self._keys_with(said.headers()["kid"]), algorithms=ALGORITHMS)
        registry = jwt.JWTClaimsRegistry(
            now=int(now.timestamp()),
            leeway=LEEWAY_SECONDS,
            iss={"essential": True, "value": self._settings.issuer},
            aud={"essential": True, "value": self._settings.audience},
            exp={"essential": True},
            sub={"essential": True},
        )
        registry.validate(token.claims)
        subject, name = token.claims["sub"], token.claims.get(self._settings.name_claim, "")
        if not isinstance(subject, str) or not isinstance(name, str) or "\0" in subject or "\0" in name:
            raise ValueError("a subject or name that is not a text")
        expires = datetime.fromtimestamp(token.claims["exp"], UTC)
        if expires <= now:  # no leeway for what has ended
            raise ValueError("ended")
        return Claimed(OpenIdName(self._settings.issuer, subject), name, expires)

    def _keys_with(self, key_id: str) -> KeySet:
        """Return the issuer's keys, fetched anew if they are old, or if this one is not among them."""
        if self._good(key_id):
            return self._keys
        with self._fetching:
            now = time.monotonic()
            if not self._good(key_id) and now - self._tried_at >= FETCH_PAUSE_SECONDS:
                self._tried_at = now
                try:
                    self._keys = self._fetch()
                    self._fetched_at = now
                except (httpx.HTTPError, httpx.InvalidURL, ServiceUnready, *_MALFORMED) as cause:
                    if now - self._fetched_at >= KEYS_KEPT_SECONDS:
                        raise self._unavailable(type(cause).__name__) from cause
            if time.monotonic() - self._fetched_at >= KEYS_KEPT_SECONDS:
                raise self._unavailable("none, moments ago")
            return self._keys

    def _good(self, key_id: str) -> bool:
        fresh = time.monotonic() - self._fetched_at < KEYS_GOOD_SECONDS
        return fresh and any(key.kid == key_id for key in self._keys.keys)

    def _fetch(self) -> KeySet:
        where = f"{self._settings.issuer.rstrip('/')}/.well-known/openid-configuration"
        discovery = self._read(where)
        if discovery["issuer"] != self._settings.issuer:
            raise ValueError("the configuration of another issuer")
        found = self._read(_check_url(discovery["jwks_uri"], "reading the OpenID configuration"))
        return KeySet([key for key in map(_import, found["keys"]) if key is not None])

    def _read(self, url: str) -> Mapping[str, Any]:
        end = time.monotonic() + FETCH_SECONDS
        content = bytearray()
        with self._http.stream("GET", url, headers={"Accept": "application/json"}) as answer:
            answer.raise_for_status()
            for part in answer.iter_raw():
                content += part
                if len(content) > OPENID_DOCUMENT_BYTES.most or time.monotonic() > end:
                    raise ValueError("too much, or too slow")
        document = json.loads(content)
        if answer.status_code != httpx.codes.OK or not isinstance(document, dict):
            raise ValueError("no document")
        return document

    def _unavailable(self, found: str) -> Unavailable:
        return Unavailable("asking the OpenID issuer for its keys", expected="its key set", found=found)


def _import(key: Mapping[str, Any]) -> Key | None:
    """Return a key that signatures can be checked with; None for the others, which are not our affair."""
    if key.get("kty") not in KEY_TYPES or key.get("use", "sig") != "sig" or "kid" not in key:
        return None
    if key["kty"] == "RSA" and int.from_bytes(urlsafe_b64decode(key["n"] + "==")).bit_length() < LEAST_RSA_BITS:
        return None
    try:
        return jwk.import_key({name: value for name, value in key.items() if isinstance(value, str)})
    except JoseError:
        return None


def _check_url(url: str, doing: str) -> str:
    parts = urlsplit(url)
    plain = parts.scheme == "http" and parts.hostname in LOOPBACK
    if not (parts.scheme == "https" or plain) or not parts.hostname or parts.username or parts.fragment:
        raise ServiceUnready(doing, expected="an https URL", found=url)
    return url
