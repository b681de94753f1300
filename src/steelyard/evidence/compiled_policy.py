"""A policy together with the references it accepts, turned once into what every check looks up.

Compiling costs the size of the references; using the result costs only the evidence.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from steelyard.evidence.document import format_time
from steelyard.evidence.ima.policy import AllowedBuffer, RuntimePolicy, compile_runtime_policy
from steelyard.evidence.ima.records import IMA_PCR
from steelyard.evidence.ima.signatures import file_signing_key
from steelyard.evidence.policy import AcceptedComponent, Policy, PolicyId, RuntimeRules, Standing
from steelyard.evidence.reader import refuse_over
from steelyard.evidence.reference.manifest import Manifest, Reference
from steelyard.evidence.reference.measurement import Presence
from steelyard.evidence.reference.version import Version
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.limits import REFERENCES


@dataclass(frozen=True, slots=True)
class Slot:
    """What one accepted manifest says about one PCR and digest: the positions of its measurements that have it."""

    manifest: Manifest
    positions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class NotAccepted:
    """A reference that the policy does not use.

    why        for people.
    withdrawn  True when its component is accepted, and this version of it no longer is: what it measures to is known
               bad. Any other refused reference says nothing of the kind.
    """

    manifest: Manifest
    why: str
    withdrawn: bool


@dataclass(frozen=True, slots=True)
class Grounds:
    """What a verdict rests on, to be compared: two with the same grounds judge alike.

    issues  component, version, machine class and serial of each accepted reference: what an issue says never changes.
    """

    policy: PolicyId
    issues: frozenset[tuple[str, Version, str | None, int]]


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """What every check looks up. Only `compile_policy` makes it.

    slots         what may be measured: PCR and digest -> the accepted manifests that say so.
    not_accepted  what is known and not good, by the same key; only to name it in a finding.
    manifests     accepted manifests per component, newest version first.
    runtime       what may run; None when the policy has no run-time rules, or no accepted file or key to allow any.
    refused       references the policy does not use.
    grounds       the policy and which issues of references it rests on: what was judged on others is judged again.
    since         the time it was compiled for; it says nothing about evidence from before.
    expires       when the first of the accepted references ends or another comes into force; a verdict must not outlive
                  it.
    """

    policy: Policy
    slots: Mapping[tuple[int, bytes], tuple[Slot, ...]]
    not_accepted: Mapping[tuple[int, bytes], NotAccepted]
    manifests: Mapping[str, tuple[Manifest, ...]]
    runtime: RuntimePolicy | None
    refused: tuple[NotAccepted, ...]
    grounds: Grounds
    since: datetime
    expires: datetime | None


def compile_policy(policy: Policy, references: Collection[Reference], now: datetime) -> CompiledPolicy:
    """Return `policy` ready for use with those `references` that it accepts at `now`.

    A reference counts when its component is accepted in this version, it is for this machine class, in force at `now`,
    no earlier issue than the policy demands, and the latest issue about its version (attack 36).

    Raises TooLarge; MalformedReference, MalformedPolicy, MalformedKey, KeyRejected for what only shows when it is used.
    """
    refuse_over(REFERENCES, len(references), f"compiling the policy {policy.id}")
    latest = _latest_issues(references, now)
    manifests: dict[str, list[Manifest]] = defaultdict(list)
    refused = []
    for reference in references:
        manifest = reference.manifest
        why = _why_not(manifest, policy, latest, now)
        if why is not None:
            accepted = policy.components.get(manifest.component)
            withdrawn = accepted is not None and _version_why_not(manifest, accepted) is not None
            refused.append(NotAccepted(manifest, why, withdrawn))
        elif manifest not in manifests[manifest.component]:  # the same issue under two file names
            manifests[manifest.component].append(manifest)
    accepted_manifests = [manifest for found in manifests.values() for manifest in found]
    ends = [manifest.expires for manifest in accepted_manifests]
    begins = [reference.manifest.issued for reference in references if reference.manifest.issued > now]
    bank = policy.selection.bank
    slots = defaultdict(list)
    for issues in manifests.values():
        issues.sort(key=lambda manifest: manifest.version, reverse=True)
        for manifest in issues:
            positions: dict[tuple[int, bytes], list[int]] = defaultdict(list)
            for position, measurement in enumerate(manifest.measurements):
                positions[measurement.pcr, measurement.digests[bank]].append(position)
            for place, found in positions.items():
                slots[place].append(Slot(manifest, tuple(found)))
    return CompiledPolicy(
        policy=policy,
        slots={place: tuple(found) for place, found in slots.items()},
        not_accepted={
            (measurement.pcr, measurement.digests[bank]): other
            for other in refused
            for measurement in other.manifest.measurements
            if bank in measurement.digests
        },
        manifests={component: tuple(found) for component, found in manifests.items()},
        runtime=None if policy.runtime is None else _compile_runtime(policy.runtime, manifests, refused),
        refused=tuple(refused),
        grounds=Grounds(
            policy.id,
            frozenset(
                (manifest.component, manifest.version, manifest.machine_class, manifest.serial)
                for manifest in accepted_manifests
            ),
        ),
        since=now,
        expires=min([*ends, *begins], default=None),
    )


def _compile_runtime(
    rules: RuntimeRules, manifests: Mapping[str, list[Manifest]], refused: list[NotAccepted]
) -> RuntimePolicy | None:
    files = [manifest.files for found in manifests.values() for manifest in found if any(manifest.files.values())]
    if not files and not rules.signers:
        return None
    return compile_runtime_policy(
        files=files,
        revoked=[
            (f"{other.manifest.component} {other.manifest.version.text}: {other.why}", other.manifest.files)
            for other in refused
            if other.withdrawn
        ],
        signing_keys=[
            file_signing_key(
                signer.name,
                signer.certificate,
                not_after=signer.not_after,
                revoked=signer.standing is Standing.REVOKED,
                paths=signer.paths,
            )
            for signer in rules.signers
        ],
        excluded=[rule.pattern for rule in rules.exclude],
        tolerated_violations=[rule.pattern for rule in rules.tolerate_violations],
        buffers=[AllowedBuffer(buffer.name, HashAlgorithm.SHA256, buffer.digest) for buffer in rules.buffers],
    )


def _latest_issues(references: Collection[Reference], now: datetime) -> dict[tuple[str, object], list[Manifest]]:
    """Return per component, version and machine class the issues with the highest serial: one, if all is well.

    One that has ended still supersedes those before it; one that is not in force yet does not.
    """
    latest: dict[tuple[str, object], list[Manifest]] = {}
    for manifest in (reference.manifest for reference in references if reference.manifest.issued <= now):
        known = latest.setdefault(_issue_of(manifest), [manifest])
        if manifest.serial > known[0].serial:
            known[:] = [manifest]
        elif manifest.serial == known[0].serial and manifest != known[0]:
            known.append(manifest)
    return latest


def _issue_of(manifest: Manifest) -> tuple[str, object]:
    return manifest.component, (manifest.version, manifest.machine_class)


def _why_not(
    manifest: Manifest, policy: Policy, latest: Mapping[tuple[str, object], list[Manifest]], now: datetime
) -> str | None:
    accepted = policy.components.get(manifest.component)
    if accepted is None:
        return "the policy does not name this component"
    if manifest.machine_class is not None and manifest.machine_class != policy.machine_class:
        return f"it is for machine class {manifest.machine_class}, the policy for {policy.machine_class or 'none'}"
    if not manifest.issued <= now < manifest.expires:
        return f"it is in force from {format_time(manifest.issued)} to {format_time(manifest.expires)} only"
    why = _version_why_not(manifest, accepted)
    if why is not None:
        return why
    if manifest.serial < accepted.least_serial:
        return f"its serial {manifest.serial} is below {accepted.least_serial}"
    if manifest.origin not in accepted.origins:
        return f"it was made {manifest.origin.value}, which the policy does not accept for this component"
    for measurement in manifest.measurements:
        if policy.selection.bank not in measurement.digests:
            return f"it has no {policy.selection.bank.label} digest of {measurement.what}"
        if measurement.presence is Presence.ALWAYS and measurement.pcr not in policy.selection.indices - {IMA_PCR}:
            return f"it measures {measurement.what} in PCR {measurement.pcr}, which the policy wants no event log of"
    issues = latest[_issue_of(manifest)]
    if manifest.serial < issues[0].serial:
        return f"issue {issues[0].serial} about this version supersedes this one, {manifest.serial}"
    if len(issues) > 1:
        return f"another manifest with serial {manifest.serial} says something else about this version"
    return None


def _version_why_not(manifest: Manifest, accepted: AcceptedComponent) -> str | None:
    if manifest.version < accepted.least_version:
        return f"version {manifest.version.text} is older than {accepted.least_version.text}"
    if manifest.version in accepted.revoked:
        return f"version {manifest.version.text} is revoked"
    return None
