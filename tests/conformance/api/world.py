"""A service in which something of everything is there, for tests that ask for all of it."""

import asyncio
import re
import sqlite3
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Final

import httpx

from steelyard.isolation import consoles, operations, tables
from steelyard.isolation.objects import PortName
from steelyard.isolation.rack import put_port
from steelyard.service import accounts
from steelyard.service.accounts import ALL_RIGHTS
from steelyard.service.authority import Office, Right
from steelyard.service.tables import tokens
from tests.api import Api, make_token
from tests.unit.isolation import rig

NAMES: Final = {
    "account": "newcomer",
    "allocation": "web",
    "hold": "volume",
    "name": "newcomer",
    "network": "lab",
    "nic": "nic0",
    "node": "held",
    "port": "Ethernet1/1/3",
    "project": "red",
    "switch": "s1",
}
"""What the routes are asked for, unless a row says another. `operation` and `token` are added when they are made."""


class World:
    """A service in which something of everything is project red's. Each request finds it as it was made."""

    def __init__(self, api: Api, path: Path) -> None:
        self.api = api
        self._path = path
        self.names = dict(NAMES)
        rack = api.rack
        for node in ("held", "spare"):
            rack.free(node)
        rack.node("bench", None)
        rack.put(tables.nodes, "spare", trouble="not to be allocated")
        rack.allocate(rig.PROVIDER, "red", allocation="web")
        rack.network("lab", "red")
        attaching = rack.attach(rig.PROVIDER, "held", "lab")
        self.names["operation"] = attaching.id
        with rack.tx() as tx:
            put_port(tx, rig.PROVIDER, port=PortName("s1", NAMES["port"]))
            operations.place_hold(tx, rig.PROVIDER, node="held", name="volume", why="a test")
            consoles.open_console(tx, rig.PROVIDER, node="held")
            boss = accounts.sign_in(tx.connection, api.tokens["provider"], tx.now)
            accounts.put_account(tx, boss, "newcomer", accounts.Kind.USER, None, None)
        self.tokens = dict(api.tokens)
        newcomer = make_token(api.database, api.tokens["provider"], "newcomer")
        self.names["token"] = newcomer.split("_")[1]
        self.tokens["revoked"] = make_token(api.database, api.tokens["provider"], "provider", office=Office.PROVIDER)
        self.tokens["expired"] = make_token(api.database, api.tokens["provider"], "provider", office=Office.PROVIDER)
        for right in Right:
            rights = ALL_RIGHTS - {right}
            self.tokens[f"without {right.value}"] = make_token(
                api.database, api.tokens["provider"], "provider", rights=rights, office=Office.PROVIDER
            )
        with rack.tx() as tx:
            boss = accounts.sign_in(tx.connection, api.tokens["provider"], tx.now)
            accounts.revoke_token(tx, boss, self.tokens["revoked"].split("_")[1])
            table = tokens
            tx.connection.execute(
                table.update()
                .where(table.c.id == self.tokens["expired"].split("_")[1])
                .values(expires=tx.now - timedelta(seconds=1))
            )
        self._loop = asyncio.Runner()
        transport = httpx.ASGITransport(api.app, raise_app_exceptions=False)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://api")
        self._kept = path.with_suffix(".kept")
        with sqlite3.connect(path) as now, sqlite3.connect(self._kept) as kept:
            now.backup(kept)

    def ask(self, route: str, token: str | None, names: Mapping[str, str], body: object) -> httpx.Response:
        """Return the answer to a request, and have everything as it was before."""
        method, path = route.split(" ")
        url = re.sub(r"\{(\w+)\}", lambda found: names[found[1]], path)
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        # Else the event stream would go on for ever.
        self.api.front.stopping = route == "GET /v1/events"
        answer = self._loop.run(self._client.request(method, url, headers=headers, json=body))
        self.restore()
        return answer

    def restore(self) -> None:
        """Have everything as it was made."""
        with sqlite3.connect(self._kept) as kept, sqlite3.connect(self._path) as now:
            kept.backup(now)

    def close(self) -> None:
        """End it."""
        self._loop.run(self._client.aclose())
        self._loop.close()
        self.api.database.close()
