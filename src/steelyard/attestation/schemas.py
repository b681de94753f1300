"""Bodies of attestation's requests and answers: what is asked is read here, and what is told is shaped here.

What nodes themselves say and hear is in `messages.py`.
"""

import base64
import binascii
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints

from steelyard.attestation import objects, rules, store, verdicts
from steelyard.attestation.life import State
from steelyard.attestation.objects import (
    AnyParameters,
    DemandedMakers,
    Endorsements,
    ExactParameters,
    NoMakers,
    Purpose,
    Terms,
)
from steelyard.evidence.findings import Finding
from steelyard.model.errors import Malformed
from steelyard.model.limits import (
    CERTIFICATE_BYTES,
    ENDORSEMENTS,
    EXPECTED_REBOOTS,
    REPORT_SECONDS,
    WHY_CHARACTERS,
)
from steelyard.service.http import Input

Word = Annotated[str, StringConstraints(min_length=1, max_length=63)]
Pem = Annotated[str, StringConstraints(max_length=2 * CERTIFICATE_BYTES.most)]
Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
KeyDigest = Annotated[str, StringConstraints(pattern="^sha256:[0-9a-f]{64}$")]
Seconds = Annotated[int, Field(ge=1, le=REPORT_SECONDS.most)]


# -- nodes -------------------------------------------------------------------------------------------------------------


class EndorsementsBody(Input):
    """What the provider published of a node's TPM, as isolation shows it: kind -> PEM, and digests of TPMT_PUBLIC."""

    endorsement_certificates: dict[Word, Pem] = Field(max_length=ENDORSEMENTS.most)
    endorsement_keys: list[KeyDigest] = Field(max_length=ENDORSEMENTS.most)


class NodeInput(Input):
    """On what terms a node is attested.

    makers             the set that its certificate's chain must end in; null: none, where there is no certificate.
    runtime_policy     null: nothing is asked of it once it has passed the airlock.
    parameters_sha256  of the parameters that it must have been given, or "any".
    """

    project: Word
    identity: EndorsementsBody
    makers: Word | None
    airlock_policy: Word
    runtime_policy: Word | None
    parameters_sha256: Sha256 | Literal["any"]
    interval_seconds: Seconds
    grace_seconds: Seconds

    def terms(self) -> Terms:
        """Return them as the verbs take them."""
        identity, parameters = self.identity, self.parameters_sha256
        keys = tuple(bytes.fromhex(key.removeprefix("sha256:")) for key in identity.endorsement_keys)
        return Terms(
            endorsements=Endorsements(dict(identity.endorsement_certificates), keys),
            makers=NoMakers() if self.makers is None else DemandedMakers(self.makers),
            airlock=self.airlock_policy,
            runtime=self.runtime_policy,
            parameters=AnyParameters() if parameters == "any" else ExactParameters(bytes.fromhex(parameters)),
            interval=timedelta(seconds=self.interval_seconds),
            grace=timedelta(seconds=self.grace_seconds),
        )


class StepBody(BaseModel):
    """What a node said last that it is at; it proves nothing."""

    step: str
    outcome: str
    detail: str
    at: datetime


class NodeBody(BaseModel):
    """A node as it is known: on what terms, and what it is at this moment."""

    name: str
    project: str
    identity: EndorsementsBody
    makers: str | None
    airlock_policy: str
    runtime_policy: str | None
    parameters_sha256: str
    interval_seconds: int
    grace_seconds: int
    expected_reboots: int
    state: State
    since: datetime
    why: str
    endorsement_key_name: str | None
    expires: datetime | None
    reported: datetime | None
    appraisal: str | None
    step: StepBody | None
    version: int


def node_body(node: objects.Node, now: datetime) -> NodeBody:
    """Return a node as it is told."""
    terms, step = node.terms, node.step
    return NodeBody(
        name=node.name,
        project=node.project,
        identity=EndorsementsBody.model_construct(
            endorsement_certificates=dict(terms.endorsements.certificates),
            endorsement_keys=[f"sha256:{key.hex()}" for key in terms.endorsements.keys],
        ),
        makers=terms.makers.name if isinstance(terms.makers, DemandedMakers) else None,
        airlock_policy=terms.airlock,
        runtime_policy=terms.runtime,
        parameters_sha256=terms.parameters.sha256.hex() if isinstance(terms.parameters, ExactParameters) else "any",
        interval_seconds=int(terms.interval.total_seconds()),
        grace_seconds=int(terms.grace.total_seconds()),
        expected_reboots=node.expected_reboots,
        state=rules.shown_state(node, now),
        since=node.since,
        why=node.why,
        endorsement_key_name=None if node.endorsement_key is None else node.endorsement_key.hex(),
        expires=node.expires,
        reported=node.reported,
        appraisal=node.appraisal,
        step=None if step is None else StepBody(step=step.step, outcome=step.outcome, detail=step.detail, at=step.at),
        version=node.version,
    )


class WhyInput(Input):
    """Why it is done."""

    why: Annotated[str, StringConstraints(min_length=1, max_length=WHY_CHARACTERS.most)]


class RebootsInput(Input):
    """How many times it may be reset from now on."""

    count: Annotated[int, Field(ge=0, le=EXPECTED_REBOOTS.most)]


class ShareInput(Input):
    """V, 32 bytes in base64."""

    share: Annotated[str, StringConstraints(max_length=64)]

    def content(self) -> bytes:
        """Return it. Raises Malformed, without showing it."""
        try:
            return base64.b64decode(self.share, validate=True)
        except (binascii.Error, ValueError):
            raise Malformed("leaving a share", expected="bytes in base64", found="something else") from None


# -- appraisals --------------------------------------------------------------------------------------------------------


class FindingBody(BaseModel):
    """One thing that was wrong."""

    reason: str
    where: str
    subject: str
    expected: str
    found: str


class AppraisalBody(BaseModel):
    """What was judged, by what, and what came of it."""

    id: str
    node: str
    purpose: Purpose
    at: datetime
    passed: bool
    policy: str
    policy_version: int
    grounds: str
    boot: str
    ima_entries: int | None
    findings: list[FindingBody]


def appraisal_body(appraisal: store.KeptAppraisal) -> AppraisalBody:
    """Return an appraisal as its owner is told."""
    return AppraisalBody(
        id=appraisal.id,
        node=appraisal.node,
        purpose=appraisal.purpose,
        at=appraisal.at,
        passed=not appraisal.findings,
        policy=appraisal.policy.name,
        policy_version=appraisal.policy.version,
        grounds=appraisal.grounds.hex(),
        boot=appraisal.boot,
        ima_entries=appraisal.ima_entries,
        findings=[FindingBody(**store.encode_finding(finding)) for finding in appraisal.findings],
    )


def reasons(findings: Iterable[Finding]) -> list[dict[str, str]]:
    """Return what a node is told of findings: which components, and why; nothing of what was expected."""
    return [
        {"reason": finding.reason.value, "where": finding.where, "subject": finding.subject} for finding in findings
    ]


class GroundsBody(BaseModel):
    """What a verdict rested on: the policy, and the references that were there (DSSE envelopes), each in base64."""

    policy: str
    references: list[str]


class VerdictBody(BaseModel):
    """A signed verdict (EAR, a JWT)."""

    verdict: str


# -- keys --------------------------------------------------------------------------------------------------------------


class VerdictKeyBody(BaseModel):
    """A key that verdicts are signed with: a JSON Web Key, with the same as PEM."""

    kty: str
    crv: str
    use: str
    alg: str
    kid: str
    x: str
    pem: str
    signs: bool


class VerdictKeysBody(BaseModel):
    """The keys that verdicts which still hold were signed with, the one that signs now first (a JWK set)."""

    keys: list[VerdictKeyBody]


def verdict_key_body(key: verdicts.VerdictKey) -> VerdictKeyBody:
    """Return a key as it is published."""
    return VerdictKeyBody(**key.jwk(), pem=key.pem(), signs=key.published_until is None)
