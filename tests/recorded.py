"""The boots recorded in tests/vectors/ovmf as bundles, and what their components measured.

The manifests here are read off the first recorded boot, so that the big artefacts need not be kept; that references
computed from artefacts equal a boot is proven on live machines (tests/lab).
"""

import json
from datetime import UTC, datetime
from typing import Any

from steelyard.evidence.bundle import Bundle, Evidence
from steelyard.evidence.compiled_policy import CompiledPolicy, compile_policy
from steelyard.evidence.eventlog.events import Event
from steelyard.evidence.eventlog.parse import parse_event_log
from steelyard.evidence.ima.parse import MeasuredFile, parse_ima_list
from steelyard.evidence.ima.replay import ImaExcerpt
from steelyard.evidence.reference.manifest import Manifest, Origin
from steelyard.evidence.reference.measurement import Measurement, Presence
from steelyard.evidence.tpm.keys import AssertedByOperator
from steelyard.evidence.tpm.nonce import PlainNonce
from steelyard.evidence.tpm.public import parse_tpm2b_public
from steelyard.evidence.tpm.quote import SignedQuote
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.pcrs import PcrValues
from tests.unit.evidence.samples import component, manifest, policy, policy_document, reference
from tests.vectors_dir import OWN

RECEIVED = datetime(2026, 11, 24, 12, tzinfo=UTC)
QUOTED = range(15)
BOOTS = OWN / "ovmf" / "boots"

RULES: dict[str, Any] = {
    "pcrs": list(QUOTED),
    "components": [
        component("ovmf"),
        component("ovmf-pei", origins=["from-reference-boot"]),
        component("secure-boot", origins=["from-secure-boot"]),
        component("airlock", origins=["from-uki"]),
    ],
    "machine_class": "q35",
    "varying": [
        {"pcr": 1, "event": "load-option", "at_most": 8, "reason": "boot entries differ between machines"},
        {"pcr": 1, "event": "boot-order", "at_most": 1, "reason": "so does their order"},
        {"pcr": 5, "event": "partition-table", "at_most": 1, "reason": "the disk it was started from"},
    ],
    "runtime": {"exclude": [], "tolerate_violations": [], "signers": [], "buffers": []},
}


def bundle(name: str) -> Bundle:
    """Return the evidence of one recorded boot."""
    folder = BOOTS / name
    values = json.loads((folder / "pcrs.json").read_text())["sha256"]
    return Bundle(
        node=name,
        received=RECEIVED,
        attestation_key=parse_tpm2b_public((OWN / "ovmf" / "ak.pub").read_bytes()),
        binding=AssertedByOperator(),
        challenge=PlainNonce((folder / "nonce").read_bytes()),
        evidence=Evidence(
            SignedQuote((folder / "quote.msg").read_bytes(), (folder / "quote.sig").read_bytes()),
            PcrValues(HashAlgorithm.SHA256, {index: bytes.fromhex(values[str(index)]) for index in QUOTED}),
            (folder / "event_log.bin").read_bytes(),
            ImaExcerpt(0, (folder / "ima.ascii").read_bytes()),
        ),
    )


def manifests() -> dict[str, Manifest]:
    """Return a manifest for each component of the first boot, by name."""
    log = parse_event_log((BOOTS / "first" / "event_log.bin").read_bytes())

    def measured(*numbers: int) -> tuple[Measurement, ...]:
        return tuple(_measurement(log.events[number]) for number in numbers)

    ima_list = parse_ima_list((BOOTS / "first" / "ima.ascii").read_bytes())
    files = {
        entry.path.decode("utf-8", "surrogateescape"): entry.digest.value.hex()
        for entry in ima_list.entries
        if isinstance(entry, MeasuredFile) and entry.path.startswith(b"/")
    }
    boot = Origin.REFERENCE_BOOT
    return {
        "ovmf": manifest(*measured(1, 3), component="ovmf"),
        "ovmf-pei": manifest(*measured(2), component="ovmf-pei", origin=boot, machine_class="q35"),
        "secure-boot": manifest(*measured(*range(4, 9)), component="secure-boot", origin=Origin.SECURE_BOOT),
        "airlock": manifest(
            *measured(23, *range(24, 32), 32, 33, 34),
            component="airlock",
            origin=Origin.UKI,
            files={HashAlgorithm.SHA256: files},
        ),
    }


def _measurement(event: Event) -> Measurement:
    digests = {bank: digest for bank, digest in event.digests.items() if bank.believed}
    return Measurement(event.pcr, f"event {event.number}", Presence.ALWAYS, digests)


def compiled(made: dict[str, Manifest] | None = None, **changes: object) -> CompiledPolicy:
    """Return the policy that accepts what these manifests say, those of the first boot when none are given."""
    rules = policy(**{**policy_document(), **RULES, **changes})
    return compile_policy(rules, [reference(one) for one in (manifests() if made is None else made).values()], RECEIVED)
