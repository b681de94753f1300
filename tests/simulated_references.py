"""References and policies by which simulated nodes pass: signed by one key, from the recorded boot `first`.

`airlock_policy` judges the boot, `runtime_policy` boot and files: those of the airlock image, and of a tenant's image
with as many files as asked for. PCR 13 is in neither at run time, as the agent extends it after the airlock.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from steelyard.evidence.compiled_policy import CompiledPolicy, compile_policy
from steelyard.evidence.policy import parse_policy
from steelyard.evidence.reference.dsse import parse_envelope, sign
from steelyard.evidence.reference.manifest import PAYLOAD_TYPE, Manifest, Origin, verify_manifest
from steelyard.model.algorithms import HashAlgorithm
from tests.recorded import RULES, manifests
from tests.simulated_boots import good_files
from tests.unit.evidence.samples import KEY, component, encode, manifest, policy_document

BOOT_PCRS: Final = (*range(10), 11, 12, 13, 14)
RUNTIME_PCRS: Final = (*range(13), 14)
BENCHMARK_FILES: Final = 50_000
SIGNING_KEY: Final = KEY
"""Of the signer `release`, whom the policies name."""


def signed_references(files: int, now: datetime | None = None) -> Mapping[str, bytes]:
    """Return component -> DSSE envelope: the boot's, and `tenant-files` with so many files. They hold for a year."""
    since = (now or datetime.now(UTC)).replace(microsecond=0) - timedelta(days=1)
    made: dict[str, Manifest] = dict(manifests())
    made["tenant-files"] = replace(
        manifest(component="tenant-files", origin=Origin.ROOT_TREE, artefact="tenant.img"),
        measurements=(),
        files={HashAlgorithm.SHA256: good_files(files)},
    )
    return {
        name: sign(
            replace(each, issued=since, expires=since + timedelta(days=366)).to_bytes(), PAYLOAD_TYPE, KEY
        ).to_bytes()
        for name, each in made.items()
    }


def airlock_policy(**changes: Any) -> bytes:
    """Return the policy of the airlock, a JSON document."""
    own = {"name": "airlock", "pcrs": list(BOOT_PCRS), "runtime": None}
    return encode({**policy_document(), **RULES, **own, **changes})


def runtime_policy(**changes: Any) -> bytes:
    """Return the policy of the run time, a JSON document."""
    files = component("tenant-files", presence="optional", origins=["from-rootfs"])
    own = {"name": "runtime", "pcrs": list(RUNTIME_PCRS), "components": [*RULES["components"], files]}
    return encode({**policy_document(), **RULES, **own, **changes})


def compiled(document: bytes, envelopes: Mapping[str, bytes], now: datetime) -> CompiledPolicy:
    """Return a policy with the references that it accepts, ready for use."""
    policy = parse_policy(document)
    trusted = [verify_manifest(parse_envelope(each), policy.signers) for each in envelopes.values()]
    return compile_policy(policy, trusted, now)
