"""Appraisal policies: which components are accepted, which events may vary and why, what may run.

A policy is the root of trust of an appraisal: it names the keys that references must be signed with. It comes from the
verifier's own side, never from the machine that is judged. `docs/policy.md` describes each field.
"""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from steelyard.evidence.document import Fields, parse_document
from steelyard.evidence.ima.records import IMA_PCR
from steelyard.evidence.reader import refuse_over
from steelyard.evidence.reference.dsse import Signers
from steelyard.evidence.reference.manifest import Origin
from steelyard.evidence.reference.version import Version
from steelyard.model.algorithms import HASH_BY_NAME, HashAlgorithm
from steelyard.model.errors import MalformedPolicy, WrongUse
from steelyard.model.limits import POLICY_BYTES, POLICY_RULES, SIGNATURES
from steelyard.model.names import check_name
from steelyard.model.pcrs import PCR_COUNT, PcrSelection

_SCHEMA: Final = "steelyard.policy/1"
_DOING: Final = "reading a policy"
_MOST: Final = 1_000_000

_CONFIGURATION_PCRS: Final = frozenset({1, 3, 5, 6})
"""What holds no code; where firmware measures boot entries: PCR 1, in logs of older profiles PCR 5.

Source: TCG PC Client Platform Firmware Profile 1.06, section 3.3.4 (PCR usage).
"""


class Requirement(StrEnum):
    """Whether a component must be found in the log."""

    REQUIRED = "required"
    OPTIONAL = "optional"


@dataclass(frozen=True, slots=True)
class AcceptedComponent:
    """Which issues of one component are good.

    least_version  the oldest good one.
    revoked        versions that are not good although they are new enough.
    least_serial   no manifest issued before this one counts: stops the roll-back to an old word about a good version.
    origins        how its values may have come to be known; a reference boot counts only where it is named.
    at_most        how often the whole component may have been measured in one boot.
    """

    component: str
    requirement: Requirement
    least_version: Version
    revoked: frozenset[Version]
    least_serial: int
    origins: frozenset[Origin]
    at_most: int


@dataclass(frozen=True, slots=True)
class VariableMatch:
    """A UEFI variable of any content, by vendor GUID and name, where the event's digest covers both."""

    vendor: uuid.UUID
    name: str


@dataclass(frozen=True, slots=True)
class LoadOptionMatch:
    """A boot entry of any content (EFI_LOAD_OPTION). Its variable's name is not measured, and so not asked for."""


@dataclass(frozen=True, slots=True)
class BootOrderMatch:
    """The list of boot entries, in any order."""


@dataclass(frozen=True, slots=True)
class PartitionTableMatch:
    """A GUID partition table of any content."""


@dataclass(frozen=True, slots=True)
class TextMatch:
    """A text of the boot loader or firmware; `*` stands for any run of signs within a word, all else for itself."""

    pattern: str


@dataclass(frozen=True, slots=True)
class AnythingMatch:
    """Any event at all: for digests whose data the log does not carry. Only in PCRs that hold configuration."""


_LOOSE: Final = (LoadOptionMatch, BootOrderMatch, AnythingMatch)
"""What short texts or numbers of another kind may fit too."""

Match = VariableMatch | LoadOptionMatch | BootOrderMatch | PartitionTableMatch | TextMatch | AnythingMatch


@dataclass(frozen=True, slots=True)
class VaryingEvent:
    """Events that may come, with content that may vary, at most so often, and why that is no danger."""

    pcr: int
    match: Match
    at_most: int
    reason: str


@dataclass(frozen=True, slots=True)
class PathRule:
    """Paths a run-time rule is about (`*` within a directory, `**` across), and why."""

    pattern: str
    reason: str


class Standing(StrEnum):
    """Whether a key's signatures count. A revoked key stays named, so that its signatures are known for such."""

    IN_FORCE = "in-force"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class FileSigner:
    """A key whose signature on a file counts instead of a reference, for some paths, until an end.

    certificate  DER of an X.509 certificate or of a SubjectPublicKeyInfo.
    """

    name: str
    certificate: bytes
    paths: tuple[str, ...]
    not_after: datetime
    standing: Standing


@dataclass(frozen=True, slots=True)
class MeasuredBuffer:
    """A buffer or keyring entry the kernel may measure, by the name in the list and its digest."""

    name: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class RuntimeRules:
    """What may run besides the files of accepted components."""

    exclude: tuple[PathRule, ...]
    tolerate_violations: tuple[PathRule, ...]
    signers: tuple[FileSigner, ...]
    buffers: tuple[MeasuredBuffer, ...]


@dataclass(frozen=True, slots=True)
class PolicyId:
    """Which policy judged; a verdict names it."""

    name: str
    version: int

    def __str__(self) -> str:
        return f"{self.name} version {self.version}"


@dataclass(frozen=True, slots=True)
class Policy:
    """The whole of what decides an appraisal.

    selection      the bank and PCRs to be quoted; includes PCR 10 exactly when there are run-time rules.
    machine_class  of the machine, None when no reference of a class is to be used.
    """

    id: PolicyId
    selection: PcrSelection
    machine_class: str | None
    signers: Signers
    components: Mapping[str, AcceptedComponent]
    varying: tuple[VaryingEvent, ...]
    runtime: RuntimeRules | None

    def __post_init__(self) -> None:
        doing = f"making the policy {self.id}"
        check_name(self.id.name, "policy")
        if not any(part.requirement is Requirement.REQUIRED for part in self.components.values()):
            raise WrongUse(doing, expected="at least one required component", found="none: an empty boot would pass")
        if not self.selection.bank.believed:
            raise WrongUse(doing, expected="a bank of SHA-256 or better", found=self.selection.bank.label)
        if (IMA_PCR in self.selection.indices) != (self.runtime is not None):
            raise WrongUse(
                doing,
                expected="PCR 10 together with run-time rules, or neither",
                found="PCR 10 without rules" if self.runtime is None else "rules without PCR 10",
            )
        for rule in self.varying:
            if isinstance(rule.match, _LOOSE) and rule.pcr not in _CONFIGURATION_PCRS:
                raise WrongUse(
                    doing,
                    expected=f"boot entries, their order, and any content only in PCRs {sorted(_CONFIGURATION_PCRS)}",
                    found=f"PCR {rule.pcr}",
                )
            if rule.pcr not in self.selection.indices:
                raise WrongUse(doing, expected="rules for quoted PCRs", found=f"a rule for PCR {rule.pcr}")


def parse_policy(data: bytes) -> Policy:
    """Return the policy in a JSON document. Raises MalformedPolicy, TooLarge."""
    fields = parse_document(data, POLICY_BYTES, _DOING, MalformedPolicy)
    fields.schema(_SCHEMA)
    try:
        policy = Policy(
            id=PolicyId(fields.text("name"), fields.integer("version", 1, _MOST)),
            selection=PcrSelection(_believed_bank(fields), frozenset(fields.integers("pcrs", 0, PCR_COUNT - 1))),
            machine_class=None if fields.null("machine_class") else fields.text("machine_class"),
            signers=_parse_signers(fields.fields("signers")),
            components=_parse_components(fields),
            varying=tuple(_parse_varying(rule) for rule in fields.list_of_fields("varying", POLICY_RULES)),
            runtime=None if fields.null("runtime") else _parse_runtime(fields.fields("runtime")),
        )
    except WrongUse as error:
        raise MalformedPolicy(_DOING, expected=error.expected, found=error.found) from error
    fields.end()
    return policy


def _believed_bank(fields: Fields) -> HashAlgorithm:
    bank: HashAlgorithm = fields.choice("bank", {name: bank for name, bank in HASH_BY_NAME.items() if bank.believed})
    return bank


def _parse_signers(fields: Fields) -> Signers:
    threshold = fields.integer("threshold", 1, SIGNATURES.most)
    keys = {}
    for entry in fields.list_of_fields("keys", SIGNATURES):
        name, raw = entry.text("name"), entry.base64("ed25519")
        entry.end()
        if name in keys or len(raw) != 32:
            raise entry.wrong("", "a new name and an Ed25519 public key of 32 bytes", f"{name}, {len(raw)} bytes")
        keys[name] = Ed25519PublicKey.from_public_bytes(raw)
    fields.end()
    return Signers(keys, threshold)


def _parse_components(fields: Fields) -> dict[str, AcceptedComponent]:
    components: dict[str, AcceptedComponent] = {}
    for entry in fields.list_of_fields("components", POLICY_RULES):
        component = AcceptedComponent(
            component=check_name(entry.text("component"), "component"),
            requirement=entry.choice("presence", {choice.value: choice for choice in Requirement}),
            least_version=Version(entry.text("least_version")),
            revoked=frozenset(Version(text) for text in entry.texts("revoked")),
            least_serial=entry.integer("least_serial", 1, 2**53),
            origins=frozenset(_origin(entry, text) for text in entry.texts("origins")),
            at_most=entry.integer("at_most", 1, 64),
        )
        entry.end()
        if not component.origins:
            raise entry.wrong("origins", "at least one origin", "none: nothing would count")
        if component.component in components:
            raise entry.wrong("component", "named once", component.component)
        components[component.component] = component
    return components


def _origin(fields: Fields, text: str) -> Origin:
    try:
        return Origin(text)
    except ValueError as error:
        raise fields.wrong("origins", "some of " + ", ".join(Origin), text) from error


def _parse_varying(fields: Fields) -> VaryingEvent:
    pcr, at_most, reason = fields.integer("pcr", 0, 23), fields.integer("at_most", 1, 4096), fields.text("reason")
    if pcr == IMA_PCR:
        raise fields.wrong("pcr", "a boot PCR; run-time rules are in `runtime`", "10")
    read: Callable[[Fields], Match] = fields.choice("event", _MATCHES)
    rule = VaryingEvent(pcr, read(fields), at_most, reason)
    fields.end()
    return rule


def _read_variable(fields: Fields) -> Match:
    text = fields.text("vendor")
    try:
        vendor = uuid.UUID(text)
    except ValueError as error:
        raise fields.wrong("vendor", "a GUID", text) from error
    return VariableMatch(vendor, fields.text("name"))


_MATCHES: Final[Mapping[str, Callable[[Fields], Match]]] = {
    "variable": _read_variable,
    "load-option": lambda _: LoadOptionMatch(),
    "boot-order": lambda _: BootOrderMatch(),
    "partition-table": lambda _: PartitionTableMatch(),
    "text": lambda fields: TextMatch(fields.text("pattern")),
    "anything": lambda _: AnythingMatch(),
}


def _parse_runtime(fields: Fields) -> RuntimeRules:
    rules = RuntimeRules(
        exclude=_parse_path_rules(fields, "exclude"),
        tolerate_violations=_parse_path_rules(fields, "tolerate_violations"),
        signers=tuple(_parse_file_signer(entry) for entry in fields.list_of_fields("signers", POLICY_RULES)),
        buffers=tuple(_parse_buffer(entry) for entry in fields.list_of_fields("buffers", POLICY_RULES)),
    )
    fields.end()
    return rules


def _parse_path_rules(fields: Fields, name: str) -> tuple[PathRule, ...]:
    rules = []
    for entry in fields.list_of_fields(name, POLICY_RULES):
        rules.append(PathRule(entry.text("path"), entry.text("reason")))
        entry.end()
    return tuple(rules)


def _parse_file_signer(fields: Fields) -> FileSigner:
    signer = FileSigner(
        fields.text("name"),
        fields.base64("certificate"),
        fields.texts("paths"),
        fields.time("not_after"),
        fields.choice("standing", {standing.value: standing for standing in Standing}),
    )
    refuse_over(POLICY_RULES, len(signer.paths), _DOING)
    fields.end()
    return signer


def _parse_buffer(fields: Fields) -> MeasuredBuffer:
    buffer = MeasuredBuffer(fields.text("name"), fields.hexadecimal("sha256"))
    fields.end()
    return buffer
