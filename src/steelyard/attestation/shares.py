"""V, the verifier's share of a node's key: left here by the tenant, given out once a boot to a node that passed.

It is sealed at rest, and is no more once it was given out. Its other half never comes here (`evidence/keysplit.py`).
"""

from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sqlalchemy import delete, insert, select

from steelyard.attestation import enrolling, rules, store
from steelyard.attestation.objects import Node
from steelyard.attestation.tables import shares
from steelyard.evidence.keysplit import KEY_BYTES, NodeBoot, seal_share
from steelyard.model.errors import Refused, WrongUse
from steelyard.model.secret import Secret
from steelyard.service.authority import Caller, not_found
from steelyard.service.database import Database, Transaction
from steelyard.service.sealing import Sealer

DOING: Final = "giving out a share"


def deposit(tx: Transaction, sealer: Sealer, caller: Caller, *, name: str, share: Secret) -> None:
    """Keep V for a node, in place of one that was not given out. Raises NotFound, NotAllowed, WrongUse."""
    node = enrolling.get_node(tx.connection, caller, name)
    rules.check_change(caller, node.project, f"node {name}", f"leaving a share for node {name}")
    if len(share.reveal()) != KEY_BYTES:
        expected = f"a share of {KEY_BYTES} bytes"
        raise WrongUse("leaving a share", expected=expected, found=f"{len(share.reveal())}")
    tx.connection.execute(delete(shares).where(shares.c.node == name))
    tx.connection.execute(insert(shares).values(node=name, sealed=sealer.seal(_context(node), share), deposited=tx.now))
    store.note(tx, node, "share-left", actor=caller.name, detail={})


def withdraw(tx: Transaction, caller: Caller, *, name: str) -> None:
    """Forget the share that was left for a node. Raises NotFound, NotAllowed."""
    node = enrolling.get_node(tx.connection, caller, name)
    rules.check_change(caller, node.project, f"node {name}", f"taking back the share of node {name}")
    if tx.connection.execute(delete(shares).where(shares.c.node == name)).rowcount:
        store.note(tx, node, "share-withdrawn", actor=caller.name, detail={})


def release(database: Database, sealer: Sealer, boot: str, name: str) -> bytes:
    """Return V sealed to the transport key that the node's quote vouched for; that it was given out is on record first.

    A process that dies between the two has given it to nobody, and nobody gets it again in this boot: the node
    registers anew, and the tenant leaves another.

    Raises NotFound (none was left), WrongState, Refused (a second time: attack 34), ServiceUnready.
    """
    try:
        with database.writing() as tx:
            found = store.find_boot(tx.connection, boot)
            if found is None or found[1].boot != boot or found[1].name != name:
                raise not_found(f"node {name}")
            node = found[1]
            entered = rules.check_releasable(node, found[0].entered, tx.now)
            sealed = tx.connection.execute(select(shares.c.sealed).where(shares.c.node == name)).scalar_one_or_none()
            if sealed is None:
                raise not_found(f"share of node {name}")
            share = sealer.open(_context(node), sealed)
            store.change_boot(tx, boot, {"released": tx.now})
            tx.connection.execute(delete(shares).where(shares.c.node == name))
            store.note(tx, node, "share-released", actor=f"node/{name}", detail={"boot": boot})
    except Refused as refused:
        if refused.code == Refused.code:
            with database.writing() as tx:
                store.note(
                    tx, store.load_node(tx.connection, name), "share-asked-again", actor=f"node/{name}", detail={}
                )
        raise
    return seal_share(share, entered.transport_key, X25519PrivateKey.generate(), NodeBoot(name, entered.nonce))


def _context(node: Node) -> str:
    return f"share/{node.project}/{node.name}"
