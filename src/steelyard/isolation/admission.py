"""Verdicts as tickets: whether a signed attestation result lets a node onto a network that demands one.

What makes one pass is decided by the network's owner, who names the key: not even a broken orchestrator can admit a
node that this key's holder did not. What a verdict is, and how it is checked: `evidence/verdict.py`.
"""

from datetime import datetime

from steelyard.evidence.verdict import parse_key, verify_verdict
from steelyard.isolation.objects import Network, Node, OpenAdmission
from steelyard.model.errors import NotAdmitted


def admit(network: Network, node: Node, verdict: str | None, not_before: datetime, now: datetime) -> datetime | None:
    """Return when the verdict that admits the node was issued; None: the network demands none.

    not_before  a verdict from before then speaks of something else than what runs now.

    Raises NotAdmitted, MalformedVerdict.
    """
    admission = network.admission
    if isinstance(admission, OpenAdmission):
        return None
    doing = f"admitting node {node.name} to network {network.name}"
    if verdict is None:
        raise NotAdmitted(doing, expected="a verdict", found="none")
    issued = verify_verdict(verdict, parse_key(admission.key), node.name, doing, now).issued
    if now - issued > admission.most_age:
        raise NotAdmitted(doing, expected=f"a verdict of the last {admission.most_age}", found=f"one of {issued}")
    # `iat` counts whole seconds.
    if issued < not_before.replace(microsecond=0):
        raise NotAdmitted(doing, expected=f"a verdict on what runs since {not_before}", found=f"one of {issued}")
    return issued
