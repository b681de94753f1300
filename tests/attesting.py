"""Project red attests with the service of `tests/api.py`: makers, references, policies, and nodes that speak to it.

Policies `airlock` and `runtime`; the makers' set `makers`. The nodes are simulated and their evidence is real.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpx
from sqlalchemy import insert

from steelyard.attestation.references import manifests
from steelyard.attestation.references.objects import Standing
from steelyard.attestation.tables import maker_sets
from steelyard.client.attestation_objects import Endorsements
from steelyard.service.database import Database
from tests import attestation_site
from tests import simulated_references as references
from tests.simulated_nodes import SimulatedNode, through
from tests.simulated_tpm import maker
from tests.unit.attestation.references.rig import RED, SEALER, Authority

FILES: Final = 200


def make_grounds(database: Database) -> None:
    """Have what honest nodes pass by."""
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
    with httpx.Client(base_url=url) as client:
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
