"""A service in which something of everything is there, for tests that ask for all of it."""

import asyncio
import hashlib
import re
import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from sqlalchemy import insert, select, update

from steelyard.attestation import enrolling, shares, verdicts
from steelyard.attestation import tables as attested
from steelyard.attestation.objects import AnyParameters, Endorsements, NoMakers, Terms
from steelyard.attestation.references import dry_runs, makers
from steelyard.attestation.references.objects import Change, Standing
from steelyard.attestation.references.tables import repository_targets
from steelyard.enclave import operations as enclaves
from steelyard.enclave import store
from steelyard.enclave.plan import Making
from steelyard.imaging import catalogue, outcomes
from steelyard.imaging.objects import BootDirect, Protocol
from steelyard.imaging.ports import NbdAccess
from steelyard.isolation import consoles, operations, tables
from steelyard.isolation.objects import PortName
from steelyard.isolation.rack import put_port
from steelyard.model.secret import Secret
from steelyard.service import accounts, webhooks
from steelyard.service.accounts import ALL_RIGHTS
from steelyard.service.authority import Office, Right
from steelyard.service.tables import tokens
from tests.api import ENCLAVE_SEALER, HOOKS, Api, make_token
from tests.simulated_nodes import Refused, SimulatedNode
from tests.unit.attestation.references import rig as references_rig
from tests.unit.enclave.rig import document, text
from tests.unit.imaging import rig as imaging_rig
from tests.unit.imaging.rig import red
from tests.unit.isolation import rig

NAMES: Final = {
    "account": "newcomer",
    "allocation": "web",
    "component": "firmware",
    "enclave": "lab",
    "hold": "volume",
    "image": "debian",
    "makers": "lab",
    "metadata": "timestamp.json",
    "name": "newcomer",
    "network": "lab",
    "nic": "nic0",
    "node": "held",
    "number": "1",
    "policy": "airlock",
    "port": "Ethernet1/1/3",
    "project": "red",
    "switch": "s1",
    "upload": "disk",
    "volume": "spare",
}
"""What the routes are asked for, unless a row says another. `token` and operations are added when they are made."""
DISK: Final = bytes(range(256)) * 4
"""What is in the image."""


class World:
    """A service in which something of everything is project red's. Each request finds it as it was made."""

    def __init__(self, api: Api, path: Path) -> None:
        self.api = api
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
        self._make_storage()
        self._make_enclave()
        self._make_webhook()
        self._make_references()
        self._make_attested()
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
        self._now = sqlite3.connect(path)
        self._now.execute("PRAGMA synchronous=OFF")
        self._kept = sqlite3.connect(":memory:")
        self._now.backup(self._kept)
        self._writes = self._count_writes()

    def _make_storage(self) -> None:
        """Have an image, an upload that has begun, and volumes: one at rest, one open, one that a node boots."""
        storage = self.api.imaging
        image = storage.image(red("debian"), imaging_rig.contents(len(DISK)))
        self.api.storage.put_image(image.id, DISK)
        for name in ("spare", "data", "root"):
            storage.volume(red(name), red("debian"))
        opening = storage.ask_open(red("data"))
        access = NbdAccess(imaging_rig.NODE, 20000, "data", b"ca", b"certificate", Secret(b"tell nobody of this key"))
        with storage.tx() as tx:
            sealed = catalogue.seal_access(imaging_rig.SEALER, opening.target, access)
            outcomes.opened(tx, opening, opening.target, sealed)
        storage.do(storage.ask_boot("held", BootDirect("root", Protocol.NBD, None, {"user-data": "#cloud-config"})))
        storage.begin_upload(red("disk"))
        self.names["imaging_operation"] = storage.ask_image(red("fresh")).id

    def _make_enclave(self) -> None:
        """Have an enclave of red's, with a place that wants a machine."""
        with self.api.rack.tx() as tx:
            caller = accounts.sign_in(tx.connection, self.api.tokens["admin"], tx.now)
            enclave = enclaves.apply(
                tx,
                ENCLAVE_SEALER,
                caller,
                project="red",
                name="lab",
                text=text("open", 1),
                services=frozenset(),
                expected_version=None,
            )
            store.make_places(tx, enclave, document("open", 1), [Making(1, ())])

    def _make_webhook(self) -> None:
        """Have a webhook of red's, with a notice that was given up."""
        with self.api.rack.tx() as tx:
            caller = accounts.sign_in(tx.connection, self.api.tokens["admin"], tx.now)
            hook, _ = webhooks.make_webhook(
                tx,
                caller,
                rig.SEALER,
                HOOKS,
                project="red",
                name="alarms",
                url="https://127.0.0.1/",
                wanted=webhooks.Filter(("*",), ("*",)),
            )
        self.names["webhook"] = hook.id
        self.api.rack.network("told", "red")
        with self.api.rack.tx() as tx:
            due = webhooks.read_due(tx.connection, hook.id, tx.now)
            assert isinstance(due, webhooks.Due)
            self.names["entry"] = str(due.entry.number)
            refused = webhooks.Outcome(delivered=False, words="status 500", retry_seconds=0)
            webhooks.tried(tx, due, refused, replace(HOOKS, tries=1), timedelta(0))

    def _make_references(self) -> None:
        """Have signers, an accepted and a proposed reference, a policy that judges, a dry run, all of it published."""
        authority = references_rig.Authority(self.api.database)
        authority.signers()
        authority.signers(component="firmware")
        authority.add(authority.sample())
        proposed = authority.add(authority.sample(serial=2, version="1.1"), standing=Standing.PROPOSED)
        authority.revoke_release("firmware", "0.9")
        authority.put_policy()
        authority.make_live()
        authority.publish(public=True)
        self.names["reference"] = proposed.id.hex()
        with authority.tx() as tx:
            change = Change("airlock", None, frozenset(), frozenset())
            run = dry_runs.begin(
                tx, references_rig.RED, project="red", change=change, evidence=None, limit=references_rig.LIMIT
            )
            self.names["dry_run"] = run.id
            served = tx.connection.execute(select(repository_targets.c.file)).scalars()
            self.names["target"] = next(file for file in served if "firmware" in file)
            for project in ("red", None):
                makers.put_makers(
                    tx,
                    references_rig.PROVIDER,
                    project=project,
                    name="lab",
                    certificates=[references_rig.maker_certificate()],
                    revocations=[],
                    demands=[],
                    expected_version=None,
                )

    def _make_attested(self) -> None:
        """Have a node of which evidence was judged, and that failed; and another, that has passed."""
        database = self.api.database
        node = SimulatedNode("held", self._call)
        digest = hashlib.sha256(node.tpm.keys().endorsement_key).digest()
        terms = Terms(
            Endorsements({}, (digest,)),
            NoMakers(),
            "airlock",
            None,
            AnyParameters(),
            timedelta(seconds=60),
            timedelta(seconds=60),
        )
        verdicts.Signer(database, references_rig.SEALER).ensure_key()
        for name in ("held", "bench"):
            with database.writing() as tx:
                enrolling.enrol(tx, references_rig.RED, name=name, project="red", terms=terms, expected_version=None)
        with pytest.raises(Refused):
            node.pass_airlock()
        self.names["registration"] = "0" * 32
        self.names["challenge"] = "0" * 32
        with database.writing() as tx:
            shares.deposit(tx, references_rig.SEALER, references_rig.RED, name="held", share=Secret(bytes(32)))
            self.names["appraisal"] = tx.connection.execute(select(attested.appraisals.c.id)).scalar_one()
            later = tx.now + timedelta(hours=1)
            own = {"name": "bench"}
            passed = update(attested.nodes).where(attested.nodes.c.name == own["name"])
            tx.connection.execute(passed.values(state="passed", boot="b", expires=later))
            row = dict.fromkeys(("token", "attestation_key", "endorsement_key"), b"")
            tx.connection.execute(
                insert(attested.boots).values(
                    id="b", node="bench", chained=False, began=tx.now, session_ends=later, verdict="signed", **row
                )
            )

    def _call(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Answer a simulated node."""

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.api.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
                return await client.request(method, path, content=body, headers=dict(headers))

        answer = asyncio.run(ask())
        return answer.status_code, answer.content

    def ask(
        self,
        route: str,
        token: str | None,
        names: Mapping[str, str],
        body: object,
        query: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Return the answer to a request, and have everything as it was before. A body of bytes goes as it is."""
        method, path = route.split(" ")
        url = re.sub(r"\{(\w+)\}", lambda found: names[found[1]], path)
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        # Else the event stream would go on for ever.
        self.api.front.stopping = route == "GET /v1/events"
        sent: dict[str, Any] = {"content": body} if isinstance(body, bytes) else {"json": body}
        answer = self.send(method, url, headers=headers, params=query, **sent)
        self.restore()
        return answer

    def send(self, method: str, url: str, **request: Any) -> httpx.Response:
        """Return the answer to a request, as httpx takes one."""
        return self._loop.run(self._client.request(method, url, **request))

    def restore(self) -> None:
        """Have everything as it was made."""
        if self._count_writes() != self._writes:
            self._kept.backup(self._now)
            self._writes = self._count_writes()

    def _count_writes(self) -> int:
        """Return a number that is another one when somebody else has written to the database."""
        number: int = self._now.execute("PRAGMA data_version").fetchone()[0]
        return number

    def close(self) -> None:
        """End it."""
        self._loop.run(self._client.aclose())
        self._loop.close()
        self._now.close()
        self._kept.close()
        self.api.database.close()
