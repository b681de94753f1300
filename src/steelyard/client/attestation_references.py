"""Each call of the reference authority, said once, and what it tells: immutable facts of one moment.

A reference is called by its id: the SHA-256 of its manifest, hexadecimal.
"""

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from steelyard.client.call import (
    Answer,
    Call,
    Page,
    deleting,
    given,
    listing,
    nothing,
    path,
    putting,
    reading,
)
from steelyard.client.codec import Json
from steelyard.client.objects import ENDED

DEFAULT: Final = "_default"
"""Names the signers of every component that has none of its own."""
DRY_RUN_SECONDS: Final = 3600
"""How long a dry run may take, if nothing else is said."""


# -- what is told ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Signers:
    """Whose signatures make a manifest of a component count: name -> Ed25519 key, base64; how many it takes."""

    component: str
    keys: Mapping[str, str]
    threshold: int
    version: int


@dataclass(frozen=True, slots=True)
class Reference:
    """A signed manifest. standing: "proposed", "accepted" or "revoked"; key_ids: of those who signed it."""

    id: str
    component: str
    release: str
    serial: int
    machine_class: str | None
    origin: str
    artefact: str
    issued: datetime
    expires: datetime
    standing: str
    key_ids: tuple[str, ...]
    envelope: str
    size_bytes: int
    added_by: str
    added_at: datetime
    why: str


@dataclass(frozen=True, slots=True)
class RevokedRelease:
    """A version of a component that is known bad."""

    component: str
    release: str
    why: str
    by: str
    at: datetime


@dataclass(frozen=True, slots=True)
class InForce:
    """What judges now: SHA-256 of a document and of each envelope it takes, and the digest of all that."""

    number: int
    sha256: str
    references: tuple[str, ...]
    grounds: str


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy; latest: the number of its newest version; in_force None: none is live."""

    name: str
    project: str
    latest: int
    in_force: InForce | None
    version: int


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """A version of a policy; live_since None: it is not the live one."""

    number: int
    sha256: str
    components: tuple[str, ...]
    made_by: str
    made_at: datetime
    live_since: datetime | None


@dataclass(frozen=True, slots=True)
class DryRun:
    """A supposed change, judged against what was kept.

    passing, failing  nodes that would; already: of those that would fail, the ones that fail today.
    """

    id: str
    project: str
    policy: str
    number: int
    accept: tuple[str, ...]
    revoke: tuple[str, ...]
    evidence: str
    actor: str
    state: str
    created: datetime
    deadline: datetime
    ended: datetime | None
    done: int
    total: int
    passing: int
    failing: int
    already: int
    cancelling: bool
    failure: Mapping[str, str] | None

    @property
    def verb(self) -> str:
        """What is done."""
        return "dry run"

    @property
    def about(self) -> str:
        """What it is done to, in words."""
        return f"policy {self.policy} version {self.number}"

    @property
    def progress(self) -> str:
        """How far it is, in words."""
        return f"{self.done} of {self.total} nodes" if self.total else ""

    @property
    def over(self) -> bool:
        """Whether nothing more comes."""
        return self.state in ENDED

    @property
    def place(self) -> tuple[str, ...]:
        """Where it is asked for again, below /v1."""
        return ("attestation", "projects", self.project, "dry-runs", self.id)


@dataclass(frozen=True, slots=True)
class NodeResult:
    """What would become of a node, and what comes of the same evidence today: "pass", "fail" or "unjudged".

    findings  each with code, where, subject, expected, found; `more` of them are left out.
    """

    node: str
    appraisal: str
    outcome: str
    today: str
    findings: tuple[Mapping[str, str], ...]
    more: int


@dataclass(frozen=True, slots=True)
class Repository:
    """How references are published: a TUF repository. keys: role -> id; root_version 0: its root is to come."""

    project: str
    root: str
    public: bool
    keys: Mapping[str, str]
    root_version: int
    root_expires: datetime | None
    timestamp_version: int
    timestamp_expires: datetime | None
    references: int
    version: int


@dataclass(frozen=True, slots=True)
class RepositoryKeys:
    """role -> Ed25519 public key, base64: what root metadata that is signed outside must name."""

    keys: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Makers:
    """A set of TPM makers: certificates, PEM; how many revocation lists; project None: the provider's."""

    name: str
    project: str | None
    certificates: tuple[str, ...]
    revocations: int
    demands: tuple[str, ...]
    version: int


# -- signers -----------------------------------------------------------------------------------------------------------


def list_signers(project: str) -> Call[Page[Signers]]:
    """Ask who signs a project's references."""
    return listing(f"listing the signers of {project}", _path(project, "signers"), Signers)


def put_signers(
    project: str, component: str, keys: Mapping[str, str], threshold: int, version: int | None = None
) -> Call[Signers]:
    """Say who signs; keys: name -> Ed25519, base64."""
    doing = f"naming the signers of {component}"
    body: Json = {"keys": dict(keys), "threshold": threshold}
    return putting(doing, _path(project, "signers", component), body, reading(Signers, doing), version)


def delete_signers(project: str, component: str, version: int | None = None) -> Call[None]:
    """Have a component be signed by the default signers."""
    return deleting(f"forgetting the signers of {component}", _path(project, "signers", component), version)


# -- references --------------------------------------------------------------------------------------------------------


def list_references(
    project: str, *, component: str | None = None, standing: str | None = None
) -> Call[Page[Reference]]:
    """Ask for a project's references, by id."""
    query = given(component=component, standing=standing)
    return listing(f"listing the references of {project}", _path(project, "references"), Reference, query)


def add_reference(project: str, component: str, envelope: bytes, *, standing: str) -> Call[Reference]:
    """Bring in a signed manifest, "accepted" or "proposed"; the same once more brings its new signatures."""
    doing = f"bringing in a manifest of {component}"
    query = given(component=component, standing=standing)
    return Call(doing, "POST", _path(project, "references"), reading(Reference, doing), query=query, content=envelope)


def read_reference(project: str, reference: str) -> Call[Reference]:
    """Ask what is known of a reference."""
    doing = f"looking for reference {reference}"
    return Call(doing, "GET", _path(project, "references", reference), reading(Reference, doing))


def read_envelope(project: str, reference: str) -> Call[bytes]:
    """Ask for a reference's envelope."""
    return Call(f"reading reference {reference}", "GET", _path(project, "references", reference, "envelope"), _body)


def accept_reference(project: str, reference: str) -> Call[Reference]:
    """Let a proposed reference count."""
    doing = f"accepting reference {reference}"
    return putting(doing, _path(project, "references", reference, "acceptance"), None, reading(Reference, doing))


def revoke_reference(project: str, reference: str, why: str) -> Call[Reference]:
    """Take a reference's word back, for good."""
    doing = f"revoking reference {reference}"
    where = _path(project, "references", reference, "revocation")
    return putting(doing, where, {"why": why}, reading(Reference, doing))


def list_revoked(project: str) -> Call[Page[RevokedRelease]]:
    """Ask which versions of components were revoked."""
    return listing(f"listing what {project} revoked", _path(project, "revocations"), RevokedRelease)


def revoke_release(project: str, component: str, release: str, why: str) -> Call[RevokedRelease]:
    """Say that a version of a component is bad."""
    doing = f"revoking version {release} of {component}"
    where = _path(project, "components", component, "revoked")
    query = given(release=release)
    return Call(doing, "PUT", where, reading(RevokedRelease, doing), query=query, body={"why": why})


def restore_release(project: str, component: str, release: str) -> Call[None]:
    """Take that back."""
    doing = f"restoring version {release} of {component}"
    where = _path(project, "components", component, "revoked")
    return Call(doing, "DELETE", where, nothing, query=given(release=release), repeatable=False)


# -- policies ----------------------------------------------------------------------------------------------------------


def list_policies(project: str) -> Call[Page[Policy]]:
    """Ask for a project's policies, by name."""
    return listing(f"listing the policies of {project}", _path(project, "policies"), Policy)


def read_policy(project: str, name: str) -> Call[Policy]:
    """Ask what a policy is, and what of it judges."""
    doing = f"looking for policy {name}"
    return Call(doing, "GET", _path(project, "policies", name), reading(Policy, doing))


def put_policy(project: str, name: str, document: bytes, version: int | None = None) -> Call[Policy]:
    """Keep a new version; nothing is judged by it yet."""
    doing = f"keeping a version of policy {name}"
    return Call(
        doing,
        "PUT",
        _path(project, "policies", name),
        reading(Policy, doing),
        content=document,
        version=version,
        repeatable=version is None,
    )


def read_document(project: str, name: str, number: int | None) -> Call[bytes]:
    """Ask for a version as it was put; None: for what judges now."""
    parts = ("document",) if number is None else ("versions", str(number), "document")
    return Call(f"reading policy {name}", "GET", _path(project, "policies", name, *parts), _body)


def make_live(project: str, name: str, number: int, version: int | None = None) -> Call[Policy]:
    """Have nodes judged by this version from now on."""
    doing = f"making version {number} of policy {name} live"
    where = _path(project, "policies", name, "live")
    return putting(doing, where, {"number": number}, reading(Policy, doing), version)


def list_versions(project: str, name: str) -> Call[Page[PolicyVersion]]:
    """Ask for the versions of a policy, the oldest first."""
    doing = f"listing the versions of policy {name}"
    return listing(doing, _path(project, "policies", name, "versions"), PolicyVersion)


# -- dry runs ----------------------------------------------------------------------------------------------------------


def begin_dry_run(
    project: str,
    policy: str,
    *,
    number: int | None = None,
    accept: Iterable[str] = (),
    revoke: Iterable[str] = (),
    evidence: str | None = None,
    seconds: int = DRY_RUN_SECONDS,
) -> Call[DryRun]:
    """Have a change judged. number None: the live version; evidence None: of the same policy's nodes."""
    doing = f"beginning a dry run of policy {policy}"
    body: Json = {
        "policy": policy,
        "number": number,
        "accept": list(accept),
        "revoke": list(revoke),
        "evidence": evidence,
        "seconds": seconds,
    }
    # Asked twice, it would be done twice.
    return Call(doing, "POST", _path(project, "dry-runs"), reading(DryRun, doing), body=body, repeatable=False)


def list_dry_runs(project: str, policy: str | None = None) -> Call[Page[DryRun]]:
    """Ask for a project's dry runs, the oldest first."""
    return listing(f"listing the dry runs of {project}", _path(project, "dry-runs"), DryRun, given(policy=policy))


def read_dry_run(project: str, dry_run: str) -> Call[DryRun]:
    """Ask how far a dry run is."""
    doing = f"looking for dry run {dry_run}"
    return Call(doing, "GET", _path(project, "dry-runs", dry_run), reading(DryRun, doing))


def cancel_dry_run(project: str, dry_run: str) -> Call[DryRun]:
    """Give a dry run up."""
    doing = f"cancelling dry run {dry_run}"
    return Call(doing, "DELETE", _path(project, "dry-runs", dry_run), reading(DryRun, doing))


def list_results(project: str, dry_run: str, *, outcome: str | None = None) -> Call[Page[NodeResult]]:
    """Ask what a dry run came to, by node."""
    doing = f"listing the results of dry run {dry_run}"
    where = _path(project, "dry-runs", dry_run, "results")
    return listing(doing, where, NodeResult, given(outcome=outcome))


# -- publication -------------------------------------------------------------------------------------------------------


def read_repository(project: str) -> Call[Repository]:
    """Ask how a project's references are published."""
    doing = f"looking for the published references of {project}"
    return Call(doing, "GET", _path(project, "repository"), reading(Repository, doing))


def put_repository(project: str, *, root: str, public: bool) -> Call[Repository]:
    """Publish a project's references; root: "online" or "offline"."""
    doing = f"publishing the references of {project}"
    body: Json = {"root": root, "public": public}
    return putting(doing, _path(project, "repository"), body, reading(Repository, doing))


def read_repository_keys(project: str) -> Call[RepositoryKeys]:
    """Ask for the public keys that a root signed outside must name."""
    doing = f"looking for the keys of the published references of {project}"
    return Call(doing, "GET", _path(project, "repository", "keys"), reading(RepositoryKeys, doing))


def put_root(project: str, content: bytes) -> Call[Repository]:
    """Bring in root metadata that was signed outside."""
    doing = f"bringing in root metadata of {project}"
    return Call(doing, "PUT", _path(project, "repository", "root"), reading(Repository, doing), content=content)


def read_root(project: str, version: int) -> Call[bytes]:
    """Ask for root metadata: what a mirror begins with."""
    where = path("attestation", "tuf", project, "metadata", f"{version}.root.json")
    return Call(f"reading root metadata of {project}", "GET", where, _body)


# -- TPM makers --------------------------------------------------------------------------------------------------------


def list_makers(project: str | None) -> Call[Page[Makers]]:
    """Ask for a project's sets of TPM makers; None: for the provider's."""
    return listing("listing sets of TPM makers", _makers(project), Makers)


def read_makers(project: str | None, name: str) -> Call[Makers]:
    """Ask what is in a set."""
    doing = f"looking for the TPM makers {name}"
    return Call(doing, "GET", _makers(project, name), reading(Makers, doing))


def put_makers(
    project: str | None,
    name: str,
    *,
    certificates: Iterable[str],
    revocations: Iterable[bytes],
    demands: Iterable[str],
    version: int | None = None,
) -> Call[Makers]:
    """Say whom to believe about TPMs; certificates PEM, revocation lists DER."""
    doing = f"trusting the TPM makers {name}"
    body: Json = {
        "certificates": list(certificates),
        "revocations": [base64.b64encode(one).decode("ascii") for one in revocations],
        "demands": list(demands),
    }
    return putting(doing, _makers(project, name), body, reading(Makers, doing), version)


def delete_makers(project: str | None, name: str, version: int | None = None) -> Call[None]:
    """Forget a set that no node names."""
    return deleting(f"forgetting the TPM makers {name}", _makers(project, name), version)


def _makers(project: str | None, *parts: str) -> str:
    return path("attestation", "makers", *parts) if project is None else _path(project, "makers", *parts)


def _path(project: str, *parts: str) -> str:
    return path("attestation", "projects", project, *parts)


def _body(answer: Answer) -> bytes:
    return answer.body
