"""What the attestation service tells, as its client sees it: immutable facts of one moment. Digests are hexadecimal."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Endorsements:
    """What the provider published of a node's TPM; without any of it a node cannot be told from another.

    endorsement_certificates  kind -> PEM.
    endorsement_keys          digests of TPMT_PUBLIC areas, "sha256:<hex>", where there is no certificate.
    """

    endorsement_certificates: Mapping[str, str]
    endorsement_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """What a node said last that it is at; it proves nothing."""

    step: str
    outcome: str
    detail: str
    at: datetime


@dataclass(frozen=True, slots=True)
class AttestedNode:
    """A node that is enrolled, and what it is at this moment.

    makers                the set of TPM makers that its certificate's chain must end in; None: no chain is demanded.
    runtime_policy        None: nothing is asked of it once it has passed the airlock.
    parameters_sha256     of the parameters that it must have been given, or "any".
    state                 "unknown", "registered", "challenged", "passed", "overdue" or "failed".
    why                   how it came to its state, in words.
    endorsement_key_name  of the TPM that proved to be the node's; None until one did.
    expires               until when it has passed; None: it has not.
    reported              when evidence came last.
    appraisal             the last one; None: nothing was judged yet.
    """

    name: str
    project: str
    identity: Endorsements
    makers: str | None
    airlock_policy: str
    runtime_policy: str | None
    parameters_sha256: str
    interval_seconds: int
    grace_seconds: int
    expected_reboots: int
    state: str
    since: datetime
    why: str
    endorsement_key_name: str | None
    expires: datetime | None
    reported: datetime | None
    appraisal: str | None
    step: Step | None
    version: int


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was wrong: why, where it was, what it was about, what was expected, what was there."""

    reason: str
    where: str
    subject: str
    expected: str
    found: str


@dataclass(frozen=True, slots=True)
class Appraisal:
    """What was judged of a node, by what, and what came of it.

    purpose      "airlock": what booted; "runtime": what runs.
    grounds      digest of the policy and the references that judged.
    ima_entries  of the run-time list, that were good; None: none was judged.
    findings     all that was wrong; none: it passed.
    """

    id: str
    node: str
    purpose: str
    at: datetime
    passed: bool
    policy: str
    policy_version: int
    grounds: str
    boot: str
    ima_entries: int | None
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Grounds:
    """What a verdict rested on: a policy (JSON), and the references that were there (DSSE envelopes, JSON)."""

    policy: bytes
    references: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class SignedVerdict:
    """A signed verdict: an EAR, a JWT in compact form (docs/formats.md)."""

    verdict: str


@dataclass(frozen=True, slots=True)
class VerdictKey:
    """A public key that verdicts are signed with.

    kid    its name, as verdicts tell it.
    x      its 32 bytes, in base64url.
    signs  whether it signs now; an older one is there for verdicts that still hold.
    """

    kid: str
    kty: str
    crv: str
    use: str
    alg: str
    x: str
    pem: str
    signs: bool


@dataclass(frozen=True, slots=True)
class VerdictKeys:
    """The keys of verdicts that still hold, the one that signs now first."""

    keys: tuple[VerdictKey, ...]
