"""Each call of the attestation service, said once. `Client.ask(read_node("n1"))` makes it.

What nodes themselves say is not here (`agent/protocol.py`), nor are references, policies and makers.
"""

import base64
from typing import Final

from steelyard.client.attestation_objects import (
    Appraisal,
    AttestedNode,
    Endorsements,
    Grounds,
    SignedVerdict,
    VerdictKey,
    VerdictKeys,
)
from steelyard.client.call import Answer, Call, Page, deleting, given, listing, nothing, path, putting, reading
from steelyard.client.codec import Json, encode
from steelyard.model.secret import Secret

ANY_PARAMETERS: Final = "any"
"""In place of a SHA-256: whatever parameters the node was given."""


# -- nodes -------------------------------------------------------------------------------------------------------------


def list_nodes(
    *, project: str | None = None, state: str | None = None, limit: int | None = None
) -> Call[Page[AttestedNode]]:
    """Ask for the nodes that are enrolled, by name: all that the caller sees, or a project's, or those in a state."""
    query = given(project=project, state=state, limit=limit)
    return listing("listing attested nodes", path("attestation", "nodes"), AttestedNode, query)


def read_node(name: str) -> Call[AttestedNode]:
    """Ask for what is known of a node."""
    doing = f"looking for node {name}"
    return Call(doing, "GET", _node(name), reading(AttestedNode, doing))


def enrol(
    name: str,
    *,
    project: str,
    identity: Endorsements,
    makers: str | None,
    airlock_policy: str,
    runtime_policy: str | None,
    parameters_sha256: str,
    interval_seconds: int,
    grace_seconds: int,
    version: int | None = None,
) -> Call[AttestedNode]:
    """Say on what terms a node is attested. On other terms than before of who it is, it must register anew.

    makers             None: no chain is demanded, where there is no certificate.
    parameters_sha256  hexadecimal, or ANY_PARAMETERS.
    """
    doing = f"enrolling node {name}"
    body: Json = {
        "project": project,
        "identity": encode(identity),
        "makers": makers,
        "airlock_policy": airlock_policy,
        "runtime_policy": runtime_policy,
        "parameters_sha256": parameters_sha256,
        "interval_seconds": interval_seconds,
        "grace_seconds": grace_seconds,
    }
    return putting(doing, _node(name), body, reading(AttestedNode, doing), version)


def delete_node(name: str, *, version: int | None = None) -> Call[None]:
    """Attest a node no more."""
    return deleting(f"deleting node {name}", _node(name), version)


def retry(name: str, why: str) -> Call[AttestedNode]:
    """Let a node that failed register again."""
    return _act(f"letting node {name} try again", name, "retry", why)


def replace_tpm(name: str, why: str) -> Call[AttestedNode]:
    """Let a node be known by another TPM than before, of those that are published for it."""
    return _act(f"replacing the TPM of node {name}", name, "tpm-replacement", why)


def expect_reboots(name: str, count: int) -> Call[AttestedNode]:
    """Say how many times a node may be reset from now on without failing for it."""
    doing = f"expecting reboots of node {name}"
    where = path("attestation", "nodes", name, "expected-reboots")
    return putting(doing, where, {"count": count}, reading(AttestedNode, doing))


def leave_share(name: str, share: Secret) -> Call[None]:
    """Leave V, 32 bytes, for a node, in place of one that it did not get; it gets it once, when it has passed."""
    body: Json = {"share": base64.b64encode(share.reveal()).decode("ascii")}
    return putting(f"leaving a share for node {name}", _share(name), body, nothing)


def withdraw_share(name: str) -> Call[None]:
    """Have the share that was left for a node forgotten, if it is still there."""
    return Call(f"taking back the share of node {name}", "DELETE", _share(name), nothing)


# -- what was judged ---------------------------------------------------------------------------------------------------


def read_verdict(name: str) -> Call[SignedVerdict]:
    """Ask for the signed verdict on a node that has passed; NotFound for any other."""
    doing = f"reading the verdict on node {name}"
    return Call(doing, "GET", path("attestation", "nodes", name, "verdict"), reading(SignedVerdict, doing))


def list_appraisals(node: str, *, limit: int | None = None) -> Call[Page[Appraisal]]:
    """Ask what was judged of a node, the oldest first."""
    where = path("attestation", "nodes", node, "appraisals")
    return listing(f"listing the appraisals of {node}", where, Appraisal, given(limit=limit))


def read_appraisal(node: str, appraisal: str) -> Call[Appraisal]:
    """Ask for what was judged, and what came of it."""
    doing = f"looking for appraisal {appraisal} of node {node}"
    return Call(doing, "GET", path("attestation", "nodes", node, "appraisals", appraisal), reading(Appraisal, doing))


def read_bundle(node: str, appraisal: str) -> Call[bytes]:
    """Ask for all that was judged: an evidence bundle (docs/formats.md), as the service wrote it."""
    doing = f"exporting appraisal {appraisal} of node {node}"
    return Call(doing, "GET", path("attestation", "nodes", node, "appraisals", appraisal, "bundle"), _content)


def read_grounds(node: str, appraisal: str) -> Call[Grounds]:
    """Ask for the policy and the references that judged."""
    doing = f"exporting the grounds of appraisal {appraisal} of node {node}"
    where = path("attestation", "nodes", node, "appraisals", appraisal, "grounds")
    return Call(doing, "GET", where, reading(Grounds, doing))


# -- keys --------------------------------------------------------------------------------------------------------------


def read_keys() -> Call[VerdictKeys]:
    """Ask for the keys that verdicts are signed with; needs no token."""
    doing = "reading the keys of verdicts"
    return Call(doing, "GET", path("attestation", "keys"), reading(VerdictKeys, doing))


def rotate_key() -> Call[VerdictKey]:
    """Have a new key sign from now on; the one before is published until its last verdict has expired."""
    doing = "making a new key for verdicts"
    return Call(doing, "POST", path("attestation", "keys"), reading(VerdictKey, doing), repeatable=False)


# -- parts of calls ----------------------------------------------------------------------------------------------------


def _node(name: str) -> str:
    return path("attestation", "nodes", name)


def _share(name: str) -> str:
    return path("attestation", "nodes", name, "share")


def _act(doing: str, node: str, what: str, why: str) -> Call[AttestedNode]:
    where = path("attestation", "nodes", node, what)
    # Done twice, it would undo what came of the first; or be a wrong state.
    return Call(doing, "POST", where, reading(AttestedNode, doing), body={"why": why}, repeatable=False)


def _content(answer: Answer) -> bytes:
    return answer.body
