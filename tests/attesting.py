"""Project red attests with the service of `tests/api.py`: makers, references, policies, and nodes that speak to it.

Policies `airlock` and `runtime`; the makers' set `makers`. The nodes are simulated and their evidence is real.
"""

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
from sqlalchemy import insert

from steelyard.attestation.references import manifests
from steelyard.attestation.references.objects import Standing
from steelyard.attestation.tables import maker_sets
from steelyard.attestation.verdicts import Signer
from steelyard.client import attestation, isolation
from steelyard.client.attestation_objects import Endorsements
from steelyard.client.connection import Client
from steelyard.client.objects import Identity
from steelyard.model.errors import NotFound
from steelyard.service.database import Database
from tests import attestation_site
from tests import simulated_references as references
from tests.api import client_of, listening, make_api
from tests.databases import make_tables
from tests.filling import filled
from tests.simulated_nodes import Lie, Refused, SimulatedNode, through
from tests.simulated_tpm import maker
from tests.unit.attestation.references.rig import RED, SEALER, Authority

FILES: Final = 200
LOOK_SECONDS: Final = 0.2


def make_grounds(database: Database) -> None:
    """Have what honest nodes pass by, and a key to sign verdicts with."""
    filled(database, _ground)


def _ground(database: Database) -> None:
    Signer(database, SEALER).ensure_key()
    authority = Authority(database)
    authority.signers()
    for component, content in references.signed_references(FILES).items():
        manifests.add_reference(
            database,
            RED,
            SEALER,
            project="red",
            component=component,
            content=content,
            standing=Standing.ACCEPTED,
        )
    for name, document in (("airlock", references.airlock_policy()), ("runtime", references.runtime_policy())):
        authority.put_policy(document, name)
        authority.make_live(1, name)
    with database.writing() as tx:
        tx.connection.execute(
            insert(maker_sets).values(
                project="red",
                name="makers",
                certificates=list(maker().anchors_pem()),
                revocations=[],
                demands=["usage", "names"],
                version=1,
            )
        )


@contextmanager
def node_of(url: str, name: str = "n1", **how: Any) -> Iterator[SimulatedNode]:
    """Give a node that speaks to the service that listens there; it is not enrolled."""
    with httpx.Client(base_url=url, verify=False) as client:  # noqa: S501 (plain HTTP: there is nothing to verify)
        yield SimulatedNode(name, through(client), **how)


def identity(node: SimulatedNode) -> Endorsements:
    """Return what a provider publishes of a node's TPM."""
    published = attestation_site.endorsements(node.tpm)
    return Endorsements(published.certificates, ())


def terms(node: SimulatedNode, **changes: Any) -> dict[str, Any]:
    """Return the terms on which an honest node passes, as the client's `enrol` takes them."""
    return {
        "project": "red",
        "identity": identity(node),
        "makers": "makers",
        "airlock_policy": "airlock",
        "runtime_policy": "runtime",
        "parameters_sha256": hashlib.sha256(node.parameters).hexdigest(),
        "interval_seconds": 60,
        "grace_seconds": 30,
        **changes,
    }


def publish(url: str, provider: str, node: SimulatedNode) -> None:
    """Have the provider, who has this token, publish in isolation what is known of a node's TPM."""
    with client_of(url, provider) as client:
        now = client.ask(isolation.read_node(node.name))
        assert now.bmc is not None
        call = isolation.put_node(
            node.name,
            bmc=now.bmc,
            credentials=None,
            labels=now.labels,
            hardware=now.hardware,
            identity=Identity(identity(node).endorsement_certificates, (), ()),
            version=now.version,
        )
        client.ask(call)


# -- for the pages -----------------------------------------------------------------------------------------------------


@contextmanager
def attestation_service(home: Path) -> Iterator[None]:
    """Have a member of a project signed in, and two machines that are free; n2 has a firmware that is not known.

    Each goes through the airlock whenever it may; n2's firmware is put back once it was rejected. `n1.json`, `n2.json`:
    the parameters that they are given.
    """
    database = Database(f"sqlite:///{home}/service.db")
    make_tables(database)
    api = make_api(database)
    make_grounds(database)
    for name in ("n1", "n2"):
        api.rack.free(name)
    token = home / "token"
    token.touch(mode=0o600)
    token.write_text(api.tokens["member"] + "\n")
    over = threading.Event()
    with ExitStack() as stack:
        stack.callback(database.close)
        url = stack.enter_context(listening(api.app))
        steelyard = Path(sys.executable).with_name("steelyard")
        environment = {"PATH": os.environ["PATH"], "HOME": str(home)}
        subprocess.run([steelyard, "login", url, "--token-file", token], env=environment, check=True)
        for name in ("n1", "n2"):
            node = stack.enter_context(node_of(url, name))
            (home / f"{name}.json").write_bytes(node.parameters)
            publish(url, api.tokens["provider"], node)
            if name == "n2":
                node.tell(Lie.CHANGED_FIRMWARE)
            client = stack.enter_context(client_of(url, api.tokens["member"]))
            machine = threading.Thread(target=_run, args=(node, client, over), name=name)
            machine.start()
            stack.callback(machine.join)
        stack.callback(over.set)
        yield


def _run(node: SimulatedNode, client: Client, over: threading.Event) -> None:
    """Go through the airlock whenever the node may, and report once."""
    while not over.wait(LOOK_SECONDS):
        try:
            state = client.ask(attestation.read_node(node.name)).state
        except NotFound:
            continue
        if state != "unknown":
            continue
        try:
            node.pass_airlock()
            node.run_more(3)
            node.report()
        except Refused:
            node.tell()
            node.switch_on_again()
