"""Judges a bundle by a policy and signed references: what `evidence appraise` and `attest explain` share."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from steelyard.cli.files import list_directory, read_file
from steelyard.evidence.appraisal import Verdict, appraise_bundle
from steelyard.evidence.bundle import Bundle
from steelyard.evidence.compiled_policy import CompiledPolicy, compile_policy
from steelyard.evidence.policy import Policy
from steelyard.evidence.reference.dsse import parse_envelope
from steelyard.evidence.reference.manifest import Manifest, Reference, verify_manifest
from steelyard.model.errors import EvidenceRejected, Malformed, WrongUse
from steelyard.model.limits import MANIFEST_BYTES, REFERENCES


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict with all that it rests on.

    references  those that enough of the policy's signers signed; unsigned: the others, by name, and why.
    """

    bundle: Bundle
    compiled: CompiledPolicy
    references: tuple[Reference, ...]
    unsigned: tuple[tuple[str, EvidenceRejected | Malformed], ...]
    verdict: Verdict

    def signers_of(self, manifest: Manifest) -> list[str]:
        """Return the names of those who signed a manifest."""
        return sorted({name for each in self.references if each.manifest == manifest for name in each.signed_by})


def judge(bundle: Bundle, policy: Policy, envelopes: Iterable[tuple[str, bytes]], at: datetime) -> Judged:
    """Return what comes of judging it as of a time; `envelopes`: name -> DSSE envelope of a manifest.

    Raises Malformed (each part its own kind), TooLarge, KeyRejected.
    """
    trusted: list[Reference] = []
    unsigned: list[tuple[str, EvidenceRejected | Malformed]] = []
    for name, content in envelopes:
        try:
            trusted.append(verify_manifest(parse_envelope(content), policy.signers))
        except (EvidenceRejected, Malformed) as error:
            unsigned.append((name, error))
    compiled = compile_policy(policy, trusted, at)
    return Judged(bundle, compiled, tuple(trusted), tuple(unsigned), appraise_bundle(bundle, compiled, at))


def read_envelopes(directory: Path) -> list[tuple[str, bytes]]:
    """Return the signed manifests in a directory. Raises WrongUse, TooLarge."""
    paths = [path for path in list_directory(directory) if path.suffix == ".json"]
    if not paths or len(paths) > REFERENCES.most:
        expected = f"1 to {REFERENCES.most} files *.json"
        raise WrongUse(f"reading references in {directory}", expected=expected, found=f"{len(paths)}")
    return [(path.name, read_file(path, MANIFEST_BYTES)) for path in paths]
