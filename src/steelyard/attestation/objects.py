"""What attestation speaks of: plain, valid on construction, without a database or a network."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from steelyard.attestation.life import State
from steelyard.evidence.findings import Finding
from steelyard.evidence.policy import PolicyId
from steelyard.evidence.tpm.nonce import NonceWithKeys
from steelyard.evidence.tpm.quote import SignedQuote
from steelyard.model.pcrs import PcrSelection, PcrValues


class Purpose(Enum):
    """What evidence is for."""

    AIRLOCK = "airlock"
    """To be let in: what booted."""
    RUNTIME = "runtime"
    """To stay in: what runs."""


@dataclass(frozen=True, slots=True)
class Endorsements:
    """What the provider published of a node's TPM.

    certificates  kind -> PEM: "rsa2048", "secp384r1".
    keys          SHA-256 of TPMT_PUBLIC areas, where there is no certificate.
    """

    certificates: Mapping[str, str]
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class DemandedMakers:
    """The endorsement certificate's chain must end in one of this set of the project's."""

    name: str


@dataclass(frozen=True, slots=True)
class NoMakers:
    """No chain is demanded: the published key alone says which TPM it is. For TPMs without a certificate."""


Makers = DemandedMakers | NoMakers


@dataclass(frozen=True, slots=True)
class ExactParameters:
    """The parameters document that the node must have been given, by its SHA-256."""

    sha256: bytes


@dataclass(frozen=True, slots=True)
class AnyParameters:
    """Whatever it was given is no matter here; the verdict names it."""


Parameters = ExactParameters | AnyParameters


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a node is attested.

    airlock   policy for its boot.
    runtime   policy for what runs after; None: nothing is asked of it once it has passed the airlock.
    interval  how often it reports.
    grace     how much later a report may come; as much later again, it fails.
    """

    endorsements: Endorsements
    makers: Makers
    airlock: str
    runtime: str | None
    parameters: Parameters
    interval: timedelta
    grace: timedelta


@dataclass(frozen=True, slots=True)
class Step:
    """What a node says that it is at; it proves nothing."""

    step: str
    outcome: str
    detail: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Node:
    """A node that is enrolled.

    why               how it came to its state, for people.
    endorsement_key   Name of the one that it proved to have; None until it did.
    boot              the current one; None: there is none.
    expires           until when it has passed; None: it has not.
    fails             when silence fails it; None: never.
    reported          when evidence came last.
    appraisal         the last.
    """

    name: str
    project: str
    terms: Terms
    expected_reboots: int
    state: State
    since: datetime
    why: str
    endorsement_key: bytes | None
    boot: str | None
    expires: datetime | None
    fails: datetime | None
    reported: datetime | None
    appraisal: str | None
    step: Step | None
    version: int


@dataclass(frozen=True, slots=True)
class Registration:
    """An answer that is waited for: whoever gives it has the attestation key in the endorsement key's TPM.

    attestation_key  TPMT_PUBLIC.
    endorsement_key  its Name.
    chained          whether a trusted maker stands behind the endorsement key.
    proof            SHA-256 of the right answer.
    """

    id: str
    node: str
    attestation_key: bytes
    endorsement_key: bytes
    chained: bool
    proof: bytes
    expires: datetime


@dataclass(frozen=True, slots=True)
class Asked:
    """What a node was asked.

    first  how many entries of the measurement list need not be sent, as they were judged already.
    """

    challenge: str
    nonce: bytes
    purpose: Purpose
    policy: str
    grounds: bytes
    selection: PcrSelection
    first: int
    until: datetime


@dataclass(frozen=True, slots=True)
class Entered:
    """What a boot's pass of the airlock said; `parameters` are a digest, `content` what it is of."""

    nonce: bytes
    transport_key: bytes
    wireguard_key: bytes | None
    parameters: bytes | None
    content: bytes | None
    event_log: bytes | None
    released: datetime | None

    def bound(self, nonce: bytes) -> NonceWithKeys:
        """Return what a quote of this boot must vouch for, with a nonce."""
        return NonceWithKeys(nonce, self.transport_key, self.wireguard_key, self.content)


@dataclass(frozen=True, slots=True)
class AppraisalRecord:
    """What was judged, on what, with what result: all that it takes to judge it again.

    grounds      digest of policy and references (`ports.grounds_digest`).
    event_log    digest of it as it is kept; None: none was judged.
    ima_list     digest of what came of the measurement list, from entry `ima_first` + 1 on; `ima_entries` were good.
    findings     what was wrong; none: it passed.
    """

    id: str
    node: str
    project: str
    boot: str
    purpose: Purpose
    at: datetime
    policy: PolicyId
    grounds: bytes
    bound: NonceWithKeys
    quote: SignedQuote
    pcrs: PcrValues
    event_log: bytes | None
    ima_list: bytes | None
    ima_first: int | None
    ima_entries: int | None
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class MakerSet:
    """Whom a project believes about TPMs.

    certificates  PEM: roots, or intermediates whose root is not to be had.
    revocations   lists of theirs, DER.
    demands       what every endorsement certificate must have.
    """

    project: str
    name: str
    certificates: tuple[str, ...]
    revocations: tuple[bytes, ...]
    demands: frozenset[str]
    version: int
