"""The gate of a service: a bearer token becomes a session here, or nothing."""

import ipaddress
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from typing import Final

from steelyard.model.errors import NotSignedIn, TooMany, Unavailable
from steelyard.model.limits import BEARER_BYTES
from steelyard.service.accounts import Session, not_signed_in, note_use, sign_in, sign_in_by_openid
from steelyard.service.database import Database
from steelyard.service.openid import Issuer

MOST_FAILURES: Final = 20
"""How often somebody can fail in a row."""
FORGIVEN_SECONDS: Final = 3.0
"""After how long a failure is forgotten."""
MOST_SOURCES: Final = 10_000
"""How many sources' failures are remembered; those who failed the longest ago are forgotten first."""
NEIGHBOURS: Final = 64
"""The bits of an IPv6 address that one subscriber cannot choose. Source: RFC 6177, section 2."""


class FailureLimit:
    """How often each source failed lately."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By source: until when it would take to forget all of its failures.
        self._forgiven: OrderedDict[str, float] = OrderedDict()

    def must_be_few(self, source: str) -> None:
        """Pass who has not failed too often. Raises TooMany."""
        with self._lock:
            wait = self._forgiven.get(_subscriber(source), 0.0) - time.monotonic()
        if wait > (MOST_FAILURES - 1) * FORGIVEN_SECONDS:
            raise TooMany("signing in", expected="fewer failures from one address", found=f"{MOST_FAILURES} or more")

    def count(self, source: str) -> None:
        """Remember a failure."""
        subscriber, now = _subscriber(source), time.monotonic()
        with self._lock:
            self._forgiven[subscriber] = max(self._forgiven.get(subscriber, now), now) + FORGIVEN_SECONDS
            self._forgiven.move_to_end(subscriber)
            while len(self._forgiven) > MOST_SOURCES:
                self._forgiven.popitem(last=False)


class Gate:
    """Lets in who shows a valid token. Safe to share among threads; called from one that may wait.

    issuer  whose tokens are believed beside our own; None: nobody's.
    """

    def __init__(self, database: Database, issuer: Issuer | None) -> None:
        self._database = database
        self._issuer = issuer
        self._failures = FailureLimit()

    def admit(self, authorization: str | None, source: str) -> Session:
        """Return who sends this header, from this address.

        Raises NotSignedIn, the same for every cause; TooMany, before anything is looked at; Unavailable.
        """
        if authorization is None:
            raise not_signed_in()
        self._failures.must_be_few(source)
        scheme, _, bearer = authorization.partition(" ")
        try:
            if scheme.lower() != "bearer" or len(bearer) > BEARER_BYTES.most or not bearer.isascii():
                raise not_signed_in()
            session = self._sign_in(bearer)
        except NotSignedIn:
            self._failures.count(source)
            raise
        if session.stale and session.token is not None:
            with suppress(Unavailable), self._database.writing() as transaction:
                note_use(transaction, session.token)
        return session

    def _sign_in(self, bearer: str) -> Session:
        now = self._database.clock()
        if self._issuer is None or bearer.startswith("sy_"):
            with self._database.reading() as connection:
                return sign_in(connection, bearer, now)
        claimed = self._issuer.verify(bearer, now)
        with self._database.reading() as connection:
            return sign_in_by_openid(connection, claimed.who, claimed.name, claimed.expires)


def _subscriber(source: str) -> str:
    try:
        address = ipaddress.ip_address(source)
    except ValueError:
        return source
    if isinstance(address, ipaddress.IPv4Address):
        return source
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), NEIGHBOURS), strict=False))
