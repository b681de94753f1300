"""What makes a manifest a reference, and which of them a policy takes. Pure.

A manifest comes in when enough of the project's signers vouch for it and nothing later was seen (attack 36). It goes on
counting only while enough of the signers *of now* do, so that a key that is taken out takes its word with it.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from steelyard.attestation.references.objects import DEFAULT, Change, SignerSet, Standing, StoredReference
from steelyard.evidence.document import format_time
from steelyard.evidence.policy import Policy, parse_policy
from steelyard.evidence.reader import refuse_over
from steelyard.evidence.reference.dsse import Envelope, Signers, key_id, verify
from steelyard.evidence.reference.manifest import PAYLOAD_TYPE, Manifest, Reference, verify_manifest
from steelyard.evidence.reference.version import Version
from steelyard.model.errors import Changed, ReferenceRejected, WrongState, WrongUse
from steelyard.model.limits import REFERENCES, SIGNATURES
from steelyard.model.names import check_name

KEY_BYTES: Final = 32


# -- signers -----------------------------------------------------------------------------------------------------------


def check_signers(component: str, keys: Mapping[str, bytes], threshold: int) -> Signers:
    """Return who may sign. Raises WrongUse, TooLarge."""
    doing = "naming signers"
    if component != DEFAULT:
        check_name(component, "component")
    refuse_over(SIGNATURES, len(keys), doing)
    for name, key in keys.items():
        check_name(name, "signer")
        if len(key) != KEY_BYTES:
            raise WrongUse(doing, expected=f"an Ed25519 public key of {KEY_BYTES} bytes", found=f"{len(key)} bytes")
    return Signers({name: Ed25519PublicKey.from_public_bytes(key) for name, key in keys.items()}, threshold)


def signers_for(component: str, sets: Mapping[str, SignerSet]) -> SignerSet:
    """Return the signers of a component: its own, or else the default ones. Raises WrongState when there are none."""
    found = sets.get(component, sets.get(DEFAULT))
    if found is None:
        raise WrongState(
            f"looking for the signers of {component}", expected="signers of its own, or default ones", found="none"
        )
    return found


def vouched(reference: StoredReference, sets: Mapping[str, SignerSet]) -> bool:
    """Whether enough of the signers of now signed it."""
    signers = sets.get(reference.component, sets.get(DEFAULT))
    return signers is not None and len(_ids(signers) & reference.key_ids) >= signers.threshold


def _ids(signers: SignerSet) -> frozenset[str]:
    return frozenset(hashlib.sha256(key).hexdigest() for key in signers.keys.values())


def good_key_ids(envelope: Envelope, sets: Iterable[SignerSet]) -> frozenset[str]:
    """Return the ids of those of the project's keys whose signatures in the envelope are good."""
    claimed = {signature.key_id for signature in envelope.signatures}
    good = set()
    for key in {raw for signers in sets for raw in signers.keys.values()}:
        public = Ed25519PublicKey.from_public_bytes(key)
        if key_id(public) not in claimed:
            continue
        try:
            verify(envelope, PAYLOAD_TYPE, Signers({"key": public}, 1))
        except ReferenceRejected:
            continue
        good.add(key_id(public))
    return frozenset(good)


# -- manifests ---------------------------------------------------------------------------------------------------------


def admit(
    envelope: Envelope, component: str, signers: SignerSet, seen: Collection[StoredReference], now: datetime
) -> Reference:
    """Return the manifest in an envelope as a reference for this component.

    component  what the sender says it is about: whose signatures count depends on it, and nothing of the manifest is
               read before they were checked.
    seen       the project's references for that component, whatever their standing.

    Raises ReferenceRejected, MalformedReference, TooLarge.
    """
    doing = f"taking a manifest of {component}"
    reference = verify_manifest(envelope, check_signers(signers.component, signers.keys, signers.threshold))
    manifest = reference.manifest
    if manifest.component != component:
        raise ReferenceRejected(doing, expected=f"a manifest of {component}", found=f"one of {manifest.component}")
    if manifest.expires <= now:
        raise ReferenceRejected(
            doing, expected=f"one that is in force after {format_time(now)}", found=format_time(manifest.expires)
        )
    check_serial(manifest, manifest_id(envelope.payload), seen, doing)
    return reference


def manifest_id(payload: bytes) -> bytes:
    """Return what a manifest is called: the SHA-256 of its bytes."""
    return hashlib.sha256(payload).digest()


def check_serial(manifest: Manifest, its_id: bytes, seen: Collection[StoredReference], doing: str) -> None:
    """Let pass what no later issue was seen of, and no other one with the same serial. Raises ReferenceRejected.

    Issues about different machine classes are counted apart.
    """
    others = [one for one in seen if one.machine_class == manifest.machine_class and one.id != its_id]
    # What was only proposed holds nobody up: whoever has no more than the right to propose could block a component.
    highest = max((one.serial for one in others if one.standing is not Standing.PROPOSED), default=0)
    if manifest.serial < highest:
        raise ReferenceRejected(doing, expected=f"a serial from {highest} on", found=f"{manifest.serial}: a roll-back")
    issue = (manifest.component, manifest.version, manifest.machine_class)
    for one in others:
        same = one.serial == manifest.serial and (one.component, Version(one.release), one.machine_class) == issue
        if same and one.standing is not Standing.PROPOSED:
            raise ReferenceRejected(
                doing,
                expected=f"a new serial for another statement about version {one.release}",
                found=f"{manifest.serial} again",
            )


# -- what a policy takes -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Taken:
    """What judges: the bytes of a policy, and SHA-256 of each envelope with it, sorted."""

    document: bytes
    references: tuple[bytes, ...]


def take(
    document: bytes,
    components: Collection[str],
    references: Collection[StoredReference],
    revoked: Collection[tuple[str, str]],
    sets: Mapping[str, SignerSet],
) -> Taken:
    """Return a policy with the references that count for it.

    references  of the project, whatever their standing.
    revoked     component and version.

    A version that was revoked, or about which every word was taken back, is put among the revoked ones of the policy,
    and what is known of it stays: so that a verdict says that it is known bad, and not that it is unknown. A word that
    was taken back still supersedes those before it: nothing old comes back into force by it.
    """
    known = [
        one
        for one in references
        if one.component in components and one.standing is not Standing.PROPOSED and vouched(one, sets)
    ]
    withdrawn: dict[tuple[str, str, str | None], int] = {}
    for one in known:
        if one.standing is Standing.REVOKED:
            withdrawn[one.issue] = max(one.serial, withdrawn.get(one.issue, 0))
    good = [one for one in known if one.standing is Standing.ACCEPTED and one.serial > withdrawn.get(one.issue, 0)]
    vouched_for = {(one.component, one.release) for one in good}
    bad = {release for release in revoked if release[0] in components}
    bad |= {(component, release) for component, release, _ in withdrawn if (component, release) not in vouched_for}
    kept = good + [one for one in known if one not in good and (one.component, one.release) in bad]
    refuse_over(REFERENCES, len(kept), "gathering the references of a policy")
    return Taken(with_revoked(document, bad), tuple(sorted({one.envelope for one in kept})))


def with_revoked(document: bytes, revoked: Collection[tuple[str, str]]) -> bytes:
    """Return a policy's document that names these versions as revoked too; the same bytes if it does already."""
    policy = json.loads(document)
    changed = False
    for entry in policy["components"]:
        named = [Version(text) for text in entry["revoked"]]
        for component, release in sorted(revoked):
            if component == entry["component"] and Version(release) not in named:
                entry["revoked"].append(release)
                named.append(Version(release))
                changed = True
    return json.dumps(policy, indent=1).encode() + b"\n" if changed else document


def suppose(references: Collection[StoredReference], change: Change) -> tuple[StoredReference, ...]:
    """Return the references with the standing that a change gives them. Raises WrongState for what cannot be had."""
    doing = "supposing a change of references"
    supposed = []
    for one in references:
        standing = one.standing
        if one.id in change.accept:
            if standing is Standing.REVOKED:
                raise WrongState(doing, expected="a reference that is not revoked", found=one.id.hex())
            standing = Standing.ACCEPTED
        if one.id in change.revoke:
            standing = Standing.REVOKED
        supposed.append(replace(one, standing=standing))
    return tuple(supposed)


# -- policies ----------------------------------------------------------------------------------------------------------


def check_policy(document: bytes, name: str, latest: int) -> Policy:
    """Return the policy that is to be the next version. Raises MalformedPolicy, WrongUse, TooLarge."""
    policy = parse_policy(document)
    doing = f"keeping a version of policy {name}"
    if policy.id.name != name:
        raise WrongUse(doing, expected=f"a document of policy {name}", found=policy.id.name)
    if policy.id.version <= latest:
        raise WrongUse(doing, expected=f"version {latest + 1} or more in the document", found=f"{policy.id.version}")
    return policy


def check_version(what: str, version: int, expected: int | None) -> None:
    """Let pass who knows of the last change. Raises Changed."""
    if expected is not None and version != expected:
        raise Changed(f"changing {what}", expected=f"version {expected}, as you saw it", found=f"version {version}")
