"""Judges a bundle by a policy and signed references: what `evidence appraise` and `attest explain` share."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from steelyard.cli.files import list_directory, read_file
from steelyard.evidence.appraisal import Verdict, appraise_bundle, reject_malformed
from steelyard.evidence.bundle import Bundle
from steelyard.evidence.compiled_policy import CompiledPolicy, compile_policy
from steelyard.evidence.policy import Policy
from steelyard.evidence.reference.dsse import parse_envelope
from steelyard.evidence.reference.manifest import Manifest, Reference, verify_manifest
from steelyard.model.errors import EvidenceRejected, Malformed, WrongUse
from steelyard.model.limits import MANIFEST_BYTES, REFERENCES


@dataclass(frozen=True, slots=True)
class Rules:
    """A policy with its references, ready to judge by.

    references  those that enough of the policy's signers signed; unsigned: the others, by name, and why.
    """

    compiled: CompiledPolicy
    references: tuple[Reference, ...]
    unsigned: tuple[tuple[str, EvidenceRejected | Malformed], ...]

    def signers_of(self, manifest: Manifest) -> list[str]:
        """Return the names of those who signed a manifest."""
        return sorted({name for each in self.references if each.manifest == manifest for name in each.signed_by})


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict with all that it rests on."""

    bundle: Bundle
    rules: Rules
    verdict: Verdict


def make_rules(policy: Policy, envelopes: Iterable[tuple[str, bytes]], at: datetime) -> Rules:
    """Return a policy ready to judge as of a time; `envelopes`: name -> DSSE envelope of a manifest.

    Raises TooLarge; MalformedReference, MalformedPolicy, MalformedKey, KeyRejected for what only shows when it is used.
    """
    trusted: list[Reference] = []
    unsigned: list[tuple[str, EvidenceRejected | Malformed]] = []
    for name, content in envelopes:
        try:
            trusted.append(verify_manifest(parse_envelope(content), policy.signers))
        except (EvidenceRejected, Malformed) as error:
            unsigned.append((name, error))
    return Rules(compile_policy(policy, trusted, at), tuple(trusted), tuple(unsigned))


def judge(bundle: Bundle, rules: Rules, at: datetime) -> Judged:
    """Return what comes of judging a bundle. Raises Malformed (each part its own kind), TooLarge, KeyRejected."""
    return Judged(bundle, rules, appraise_bundle(bundle, rules.compiled, at))


def judge_as_a_service(bundle: Bundle, rules: Rules) -> Judged:
    """Return what comes of judging a bundle as of when it came; what cannot be read is rejected, as a node sent it."""
    try:
        return judge(bundle, rules, bundle.received)
    except Malformed as error:
        return Judged(bundle, rules, reject_malformed(rules.compiled.policy.id, error))


def read_envelopes(directory: Path) -> list[tuple[str, bytes]]:
    """Return the signed manifests in a directory. Raises WrongUse, TooLarge."""
    paths = [path for path in list_directory(directory) if path.suffix == ".json"]
    if not paths or len(paths) > REFERENCES.most:
        expected = f"1 to {REFERENCES.most} files *.json"
        raise WrongUse(f"reading references in {directory}", expected=expected, found=f"{len(paths)}")
    return [(path.name, read_file(path, MANIFEST_BYTES)) for path in paths]
