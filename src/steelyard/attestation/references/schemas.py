"""What the reference authority's API takes and tells, as JSON. Keys and certificates are base64, ids hexadecimal."""

import base64
import binascii
from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import BaseModel, Field, StringConstraints

from steelyard.attestation.objects import MakerSet
from steelyard.attestation.ports import grounds_digest
from steelyard.attestation.references import objects
from steelyard.attestation.references.objects import Change, Outcome, RootKind, RunState, Standing
from steelyard.evidence.tpm.endorsement import Demand
from steelyard.model.errors import WrongUse
from steelyard.model.limits import (
    CERTIFICATE_BYTES,
    DRY_RUN_CHANGES,
    MAKER_CERTIFICATES,
    OPERATION_SECONDS,
    REVOCATION_LIST_BYTES,
    SIGNATURES,
    WHY_CHARACTERS,
)
from steelyard.service.http import Input

SECONDS: Final = 3600
"""How long a dry run may take, if nothing else is said."""
MOST_NUMBER: Final = 1_000_000
"""The highest version of a policy."""

Word = Annotated[str, StringConstraints(min_length=1, max_length=63)]
Why = Annotated[str, StringConstraints(min_length=1, max_length=WHY_CHARACTERS.most)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Number = Annotated[int, Field(strict=True, ge=1, le=MOST_NUMBER)]
References = Annotated[list[Sha256], Field(max_length=DRY_RUN_CHANGES.most)]


def decoded(text: str, what: str) -> bytes:
    """Return what base64 stands for. Raises WrongUse."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as cause:
        raise WrongUse(f"reading {what}", expected="base64", found="something else") from cause


# -- signers -----------------------------------------------------------------------------------------------------------

PublicKey = Annotated[str, StringConstraints(min_length=44, max_length=44)]
"""Ed25519, 32 bytes, base64."""


class SignersInput(Input):
    """Who signs: name -> key, and how many of them must."""

    keys: Annotated[dict[Word, PublicKey], Field(min_length=1, max_length=SIGNATURES.most)]
    threshold: Annotated[int, Field(strict=True, ge=1, le=SIGNATURES.most)]

    def raw_keys(self) -> dict[str, bytes]:
        """Return the keys as bytes. Raises WrongUse."""
        return {name: decoded(key, f"the key of {name}") for name, key in self.keys.items()}


class SignersBody(BaseModel):
    """Whose signatures make a manifest of a component count; `_default`: of every component without its own."""

    component: str
    keys: dict[str, str]
    threshold: int
    version: int


# -- references --------------------------------------------------------------------------------------------------------


class WhyInput(Input):
    """Why something is done."""

    why: Why


class ReferenceBody(BaseModel):
    """A signed manifest. `id`: SHA-256 of the manifest; `envelope`: of what it travels in; key_ids: who signed it."""

    id: str
    component: str
    release: str
    serial: int
    machine_class: str | None
    origin: str
    artefact: str
    issued: datetime
    expires: datetime
    standing: Standing
    key_ids: list[str]
    envelope: str
    size_bytes: int
    added_by: str
    added_at: datetime
    why: str


class RevokedBody(BaseModel):
    """A version of a component that is known bad."""

    component: str
    release: str
    why: str
    by: str
    at: datetime


# -- policies ----------------------------------------------------------------------------------------------------------


class LiveInput(Input):
    """Which version is to judge."""

    number: Number


class InForceBody(BaseModel):
    """What judges now.

    sha256      of the document: the live version, with what was revoked since in it.
    references  SHA-256 of each envelope that it takes.
    grounds     the digest of both, which verdicts name.
    """

    number: int
    sha256: str
    references: list[str]
    grounds: str


class PolicyBody(BaseModel):
    """A policy. `latest`: the number of its newest version; `in_force` null: none is live yet."""

    name: str
    project: str
    latest: int
    in_force: InForceBody | None
    version: int


class PolicyVersionBody(BaseModel):
    """A version of a policy. `live_since` null: it is not the live one."""

    number: int
    sha256: str
    components: list[str]
    made_by: str
    made_at: datetime
    live_since: datetime | None


# -- dry runs ----------------------------------------------------------------------------------------------------------


class DryRunInput(Input):
    """What is supposed.

    number    of the policy's version; null: the live one.
    accept    references that are proposed.
    revoke    references, whatever they are.
    evidence  the policy whose nodes' evidence is judged; null: the same one's.
    """

    policy: Word
    number: Number | None = None
    accept: References = Field(default_factory=list)
    revoke: References = Field(default_factory=list)
    evidence: Word | None = None
    seconds: Annotated[int, Field(strict=True, ge=1, le=OPERATION_SECONDS.most)] = SECONDS

    def change(self) -> Change:
        """Return it as the verbs take it."""
        accept, revoke = (frozenset(map(bytes.fromhex, named)) for named in (self.accept, self.revoke))
        return Change(self.policy, self.number, accept, revoke)


class DryRunBody(BaseModel):
    """A dry run. passing, failing: nodes that would; already: of those that would fail, the ones that fail today."""

    id: str
    project: str
    policy: str
    number: int
    accept: list[str]
    revoke: list[str]
    evidence: str
    actor: str
    state: RunState
    created: datetime
    deadline: datetime
    ended: datetime | None
    done: int
    total: int
    passing: int
    failing: int
    already: int
    cancelling: bool
    failure: dict[str, str] | None


class FindingBody(BaseModel):
    """One thing that would be wrong."""

    code: str
    where: str
    subject: str
    expected: str
    found: str


class NodeResultBody(BaseModel):
    """What would become of a node; `today`: of the same evidence by what is in force; `more` findings are left out."""

    node: str
    appraisal: str
    outcome: Outcome
    today: Outcome
    findings: list[FindingBody]
    more: int


# -- publication -------------------------------------------------------------------------------------------------------


class RepositoryInput(Input):
    """How references are published. `root`: who holds the root key; `public`: whether everybody may read them."""

    root: RootKind
    public: bool


class RepositoryBody(BaseModel):
    """A TUF repository. `keys`: role -> id of the key that signs for it here; root_version 0: root is to come."""

    project: str
    root: RootKind
    public: bool
    keys: dict[str, str]
    root_version: int
    root_expires: datetime | None
    timestamp_version: int
    timestamp_expires: datetime | None
    references: int
    version: int


class RepositoryKeysBody(BaseModel):
    """role -> Ed25519 public key, base64: what root metadata that is signed outside must name."""

    keys: dict[str, str]


# -- TPM makers --------------------------------------------------------------------------------------------------------

_BASE64: Final = 4 / 3


class MakersInput(Input):
    """Whom to believe about TPMs: certificates of authorities (PEM), and lists of what they revoked (DER, base64)."""

    certificates: Annotated[
        list[Annotated[str, StringConstraints(max_length=CERTIFICATE_BYTES.most)]],
        Field(min_length=1, max_length=MAKER_CERTIFICATES.most),
    ]
    revocations: Annotated[
        list[Annotated[str, StringConstraints(max_length=int(REVOCATION_LIST_BYTES.most * _BASE64) + 4)]],
        Field(max_length=MAKER_CERTIFICATES.most),
    ] = Field(default_factory=list)
    demands: list[Demand] = Field(default_factory=list, max_length=len(Demand))


class MakersBody(BaseModel):
    """A set of TPM makers; `project` null: the provider's, for all to name."""

    name: str
    project: str | None
    certificates: list[str]
    revocations: int
    demands: list[Demand]
    version: int


# -- objects, as they are told -----------------------------------------------------------------------------------------


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def signers_body(signers: objects.SignerSet) -> SignersBody:
    """Return signers as they are told."""
    keys = {name: _base64(key) for name, key in signers.keys.items()}
    return SignersBody(component=signers.component, keys=keys, threshold=signers.threshold, version=signers.version)


def reference_body(reference: objects.StoredReference) -> ReferenceBody:
    """Return a reference as it is told."""
    return ReferenceBody(
        id=reference.id.hex(),
        component=reference.component,
        release=reference.release,
        serial=reference.serial,
        machine_class=reference.machine_class,
        origin=reference.origin,
        artefact=reference.artefact,
        issued=reference.issued,
        expires=reference.expires,
        standing=reference.standing,
        key_ids=sorted(reference.key_ids),
        envelope=reference.envelope.hex(),
        size_bytes=reference.size_bytes,
        added_by=reference.added_by,
        added_at=reference.added_at,
        why=reference.why,
    )


def revoked_body(revoked: objects.RevokedRelease) -> RevokedBody:
    """Return a revoked version as it is told."""
    return RevokedBody(
        component=revoked.component, release=revoked.release, why=revoked.why, by=revoked.by, at=revoked.at
    )


def policy_body(policy: objects.StoredPolicy) -> PolicyBody:
    """Return a policy as it is told."""
    in_force = None
    if policy.live is not None:
        in_force = InForceBody(
            number=policy.live,
            sha256=policy.document.hex(),
            references=[one.hex() for one in policy.references],
            grounds=grounds_digest(policy.document, policy.references).hex(),
        )
    return PolicyBody(
        name=policy.name, project=policy.project, latest=policy.latest, in_force=in_force, version=policy.version
    )


def version_body(version: objects.PolicyVersion) -> PolicyVersionBody:
    """Return a version of a policy as it is told."""
    return PolicyVersionBody(
        number=version.number,
        sha256=version.sha256.hex(),
        components=list(version.components),
        made_by=version.made_by,
        made_at=version.made_at,
        live_since=version.live_since,
    )


def dry_run_body(run: objects.DryRun) -> DryRunBody:
    """Return a dry run as it is told."""
    return DryRunBody(
        id=run.id,
        project=run.project,
        policy=run.change.policy,
        number=run.change.number or 0,
        accept=sorted(one.hex() for one in run.change.accept),
        revoke=sorted(one.hex() for one in run.change.revoke),
        evidence=run.evidence,
        actor=run.actor,
        state=run.state,
        created=run.created,
        deadline=run.deadline,
        ended=run.ended,
        done=run.done,
        total=run.total,
        passing=run.passing,
        failing=run.failing,
        already=run.already,
        cancelling=run.cancelling,
        failure=None if run.failure is None else dict(run.failure),
    )


def result_body(result: objects.NodeResult) -> NodeResultBody:
    """Return what would become of a node as it is told."""
    found: list[dict[str, Any]] = [dict(one) for one in result.findings]
    return NodeResultBody(
        node=result.node,
        appraisal=result.appraisal,
        outcome=result.outcome,
        today=result.today,
        findings=[FindingBody(**one) for one in found],
        more=result.more,
    )


def repository_body(repository: objects.Repository) -> RepositoryBody:
    """Return a repository as it is told."""
    return RepositoryBody(
        project=repository.project,
        root=repository.root,
        public=repository.public,
        keys=dict(repository.keys),
        root_version=repository.root_version,
        root_expires=repository.root_expires,
        timestamp_version=repository.timestamp_version,
        timestamp_expires=repository.timestamp_expires,
        references=repository.references,
        version=repository.version,
    )


def repository_keys_body(keys: dict[str, bytes]) -> RepositoryKeysBody:
    """Return public keys as they are told."""
    return RepositoryKeysBody(keys={role: _base64(key) for role, key in keys.items()})


def makers_body(makers: MakerSet) -> MakersBody:
    """Return a set of TPM makers as it is told."""
    return MakersBody(
        name=makers.name,
        project=makers.project or None,
        certificates=list(makers.certificates),
        revocations=len(makers.revocations),
        demands=[Demand(one) for one in sorted(makers.demands)],
        version=makers.version,
    )
