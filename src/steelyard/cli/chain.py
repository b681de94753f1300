"""Draws the chain of trust of one appraisal: whose TPM signed which values, and what stands behind each of them.

All of it is judged here, from the bundle; what the service said of it is only set beside it.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from steelyard.cli import explain
from steelyard.cli.judging import Judged
from steelyard.cli.output import show_bad, show_good, show_lines
from steelyard.client.attestation_objects import Appraisal
from steelyard.evidence.appraisal import Passed
from steelyard.evidence.boot import BootAppraisal
from steelyard.evidence.bundle import Binding, Bundle, PemKey, bound_key
from steelyard.evidence.document import format_time
from steelyard.evidence.eventlog.events import Event, EventType
from steelyard.evidence.eventlog.parse import parse_event_log
from steelyard.evidence.eventlog.payloads import describe
from steelyard.evidence.findings import Reason
from steelyard.evidence.ima.records import IMA_PCR
from steelyard.evidence.reference.manifest import Manifest
from steelyard.evidence.tpm.keys import ActivatedBy, AssertedByOperator, CertifiedBy
from steelyard.evidence.tpm.nonce import NonceWithKeys
from steelyard.evidence.tpm.quote import verify_quote
from steelyard.model.errors import EvidenceRejected, Malformed
from steelyard.model.text import printable

_PCR: Final = re.compile(r"PCR ([0-9]+)(?:, event ([0-9]+))?")
BEYOND_A_BUNDLE: Final = {Reason.REBOOTED.value, Reason.WRONG_PARAMETERS.value}
"""What takes more than one bundle to see: the boot before, and what the node should have been given."""

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the service said, beside what was found here.

    agrees  whether it said the same of what can be judged here.
    beyond  findings of the service's that one bundle cannot show.
    """

    passed: bool
    agrees: bool
    beyond: tuple[Document, ...]


def compare(judged: Judged, said: Appraisal) -> Comparison:
    """Return what the service said of the same evidence."""
    here = set() if isinstance(judged.verdict, Passed) else {(f.reason.value, f.where) for f in judged.verdict.findings}
    there = {(finding.reason, finding.where) for finding in said.findings if finding.reason not in BEYOND_A_BUNDLE}
    here = {found for found in here if found[0] not in BEYOND_A_BUNDLE}
    beyond = tuple(
        {
            "reason": finding.reason,
            "where": finding.where,
            "subject": finding.subject,
            "expected": finding.expected,
            "found": finding.found,
        }
        for finding in said.findings
        if finding.reason in BEYOND_A_BUNDLE
    )
    return Comparison(said.passed, here == there, beyond)


# -- as a document -----------------------------------------------------------------------------------------------------


def chain_document(judged: Judged, said: Appraisal) -> Document:
    """Return the chain of trust, from the TPM's key to each component, and what the service said of it."""
    comparison = compare(judged, said)
    verdict = explain.verdict_document(judged.bundle, judged.verdict, judged.rules.compiled, judged.rules.unsigned)
    findings: Sequence[Document] = verdict["findings"]
    return {
        "appraisal": {"id": said.id, "purpose": said.purpose, "at": format_time(judged.bundle.received)},
        "service": {
            "verdict": "passed" if comparison.passed else "rejected",
            "agrees": comparison.agrees,
            "beyond_a_bundle": list(comparison.beyond),
        },
        "attestation_key": _key_document(judged.bundle),
        "quote": _quote_document(judged),
        "pcrs": list(_pcr_documents(judged, findings)),
        "elsewhere": [finding for finding in findings if _pcr_of(finding) not in _quoted(judged.bundle)],
        **verdict,
        "policy": {
            **verdict["policy"],
            "signers": sorted(judged.rules.compiled.policy.signers.keys),
            "threshold": judged.rules.compiled.policy.signers.threshold,
        },
    }


def _key_document(bundle: Bundle) -> Document:
    signing = bound_key(bundle.attestation_key, bundle.binding).signing
    return {
        "scheme": signing.scheme.name.lower(),
        "hash": signing.hash_algorithm.label,
        "fingerprint": signing.fingerprint.hex(),
        "restricted": not isinstance(bundle.attestation_key, PemKey),
        **_binding_document(bundle.binding),
    }


def _binding_document(binding: Binding) -> Document:
    match binding:
        case ActivatedBy(name):
            return {"binding": "activated", "bound_by": name.hex()}
        case CertifiedBy(name):
            return {"binding": "certified", "bound_by": name.hex()}
        case AssertedByOperator():
            return {"binding": "asserted", "bound_by": None}


def _quote_document(judged: Judged) -> Document:
    challenge, claimed = judged.bundle.challenge, judged.bundle.evidence.claimed_pcrs
    with_keys = challenge if isinstance(challenge, NonceWithKeys) else None
    parameters = None if with_keys is None else with_keys.parameters
    return {
        "verified": _is_quote_good(judged),
        "bank": claimed.bank.label,
        "nonce": challenge.nonce.hex(),
        "transport_key": None if with_keys is None else with_keys.transport_key.hex(),
        "parameters_sha256": None if parameters is None else hashlib.sha256(parameters).hexdigest(),
    }


def _is_quote_good(judged: Judged) -> bool:
    bundle, selection = judged.bundle, judged.rules.compiled.policy.selection
    key = bound_key(bundle.attestation_key, bundle.binding)
    try:
        verify_quote(bundle.evidence.quote, key, bundle.challenge, selection, bundle.evidence.claimed_pcrs)
    except (EvidenceRejected, Malformed):
        return False
    return True


def _quoted(bundle: Bundle) -> frozenset[int]:
    return frozenset(bundle.evidence.claimed_pcrs.values)


def _pcr_of(finding: Mapping[str, Any]) -> int | None:
    """Return the PCR that a finding is about; None: it is about none alone."""
    if str(finding["where"]).startswith("IMA entry "):
        return IMA_PCR
    matched = _PCR.fullmatch(str(finding["where"]))
    return None if matched is None else int(matched[1])


def _pcr_documents(judged: Judged, findings: Sequence[Document]) -> Iterator[Document]:
    """Give what stands behind each quoted PCR: components, what may vary, firmware's own words, and what is wrong."""
    events = _events(judged)
    for index, value in sorted(judged.bundle.evidence.claimed_pcrs.values.items()):
        wrong = [finding for finding in findings if _pcr_of(finding) == index]
        parts = [*_boot_parts(judged, judged.verdict.boot, events.get(index, ()))]
        told = {number for part in parts for number in part["events"]} | {
            int(matched[2]) for finding in wrong if (matched := _PCR.fullmatch(finding["where"])) and matched[2]
        }
        parts += _other_parts(judged, [event for event in events.get(index, ()) if event.number not in told])
        if index == IMA_PCR and judged.verdict.runtime is not None:
            parts += _runtime_parts(judged, judged.verdict.runtime.judged)
        yield {
            "pcr": index,
            "value": value.hex(),
            "parts": parts,
            "findings": wrong,
        }


def _events(judged: Judged) -> Mapping[int, Sequence[Event]]:
    """Return the events that were judged, by PCR."""
    by_pcr: dict[int, list[Event]] = defaultdict(list)
    log = judged.bundle.evidence.event_log
    if log is not None and judged.verdict.boot is not None:
        for event in parse_event_log(log).events:
            if event.claimed_type != EventType.EV_NO_ACTION:
                by_pcr[event.pcr].append(event)
    return by_pcr


def _boot_parts(judged: Judged, boot: BootAppraisal | None, events: Sequence[Event]) -> Iterator[Document]:
    if boot is None:
        return
    here = {event.number: event for event in events}
    for found in boot.components:
        if numbers := [number for number in found.events if number in here]:
            yield {"kind": "component", **_component(judged, found.manifest), "events": numbers}
    for varied in boot.varied:
        if varied.event in here:
            what = printable(describe(here[varied.event]))
            yield {"kind": "varied", "what": what, "reason": varied.rule.reason, "events": [varied.event]}


def _other_parts(judged: Judged, events: Sequence[Event]) -> Iterator[Document]:
    """Give events that no complete component has, no rule covers, and with which nothing is wrong by themselves."""
    slots, bank = judged.rules.compiled.slots, judged.rules.compiled.policy.selection.bank
    incomplete: dict[str, list[int]] = defaultdict(list)
    own = []
    for event in events:
        found = slots.get((event.pcr, event.digests[bank]), ())
        for slot in found:
            incomplete[slot.manifest.component].append(event.number)
        if not found:
            own.append(event.number)
    for component, numbers in incomplete.items():
        yield {"kind": "incomplete", "component": component, "events": numbers}
    if own:
        yield {"kind": "firmware", "events": own}


def _runtime_parts(judged: Judged, entries: int) -> Iterator[Document]:
    yield {"kind": "run-time list", "entries": entries, "events": []}
    for manifests in judged.rules.compiled.manifests.values():
        for manifest in manifests:
            if manifest.files:
                yield {"kind": "files", **_component(judged, manifest), "events": []}


def _component(judged: Judged, manifest: Manifest) -> Document:
    return {
        "component": manifest.component,
        "version": manifest.version.text,
        "origin": manifest.origin.value,
        "signed_by": judged.rules.signers_of(manifest),
    }


# -- as a drawing ------------------------------------------------------------------------------------------------------


def show_chain(judged: Judged, said: Appraisal) -> None:
    """Print the chain of trust, and the verdict above it."""
    document = chain_document(judged, said)
    passed = document["verdict"] == "passed"
    (show_good if passed else show_bad)(
        f"{document['verdict'].upper()}: {document['node']} for {said.purpose} by {judged.verdict.policy}, "
        f"evidence of {document['received']}, judged again here"
    )
    _show_what_was_said(document["service"])
    _show_key(document["attestation_key"])
    _show_quote(document["quote"])
    for finding in document["elsewhere"]:
        _show_finding(finding, 4)
    for pcr in document["pcrs"]:
        _show_pcr(pcr, document["quote"]["verified"])
    policy = document["policy"]
    show_lines(f"what is good is said by {policy['threshold']} of: {', '.join(policy['signers'])}")
    for entry in document["references_not_used"]:
        name = entry.get("file") or f"{entry['component']} {entry['version']}"
        show_lines(f"reference not used: {name}: {entry['why']}")


def _show_what_was_said(service: Document) -> None:
    if service["agrees"]:
        show_lines("the service found the same")
    else:
        show_bad(f"the service said {service['verdict']} of this evidence, and not for what is found here")
    for finding in service["beyond_a_bundle"]:
        show_bad("the service found also, and this evidence alone cannot show:")
        _show_finding(finding, 1)


def _show_key(key: Document) -> None:
    how = {
        "activated": f"which is in one TPM with the endorsement key {key['bound_by']}",
        "certified": f"which is in one TPM with the key {key['bound_by']}",
        "asserted": "taken for the node's on somebody's word",
    }[key["binding"]]
    kind = "restricted key" if key["restricted"] else "key"
    show_lines("TPM", f"  {kind} {key['fingerprint'][:16]} ({key['scheme']} with {key['hash']}), {how}")


def _show_quote(quote: Document) -> None:
    line = f"    quote for nonce {quote['nonce'][:16]}"
    if quote["verified"]:
        show_lines(f"{line}: signed by that key")
    else:
        show_bad(f"{line}: it proves nothing, so that what follows is only claimed")
    if quote["transport_key"] is not None:
        show_lines(f"      vouches for transport key {quote['transport_key'][:16]}")
    if quote["parameters_sha256"] is not None:
        show_lines(f"      vouches for parameters with SHA-256 {quote['parameters_sha256']}")


def _show_pcr(pcr: Document, verified: bool) -> None:  # noqa: FBT001 (a fact, no switch)
    line = f"      PCR {pcr['pcr']:<2} {pcr['value'][:16]}"
    if not pcr["parts"] and not pcr["findings"]:
        show_lines(line + ("  nothing was measured" if verified and not int(pcr["value"], 16) else "  not looked at"))
        return
    show_lines(line)
    for part in pcr["parts"]:
        show_lines(f"        {_part_words(part)}")
    for finding in pcr["findings"]:
        _show_finding(finding, 4)


def _part_words(part: Document) -> str:
    events = _event_words(part["events"])
    match part["kind"]:
        case "component":
            return f"{_reference_words(part)}: {events}"
        case "varied":
            return f"may vary ({part['reason']}): {part['what']}, {events}"
        case "incomplete":
            return f"parts of {part['component']}, which is not there as it should be: {events}"
        case "firmware":
            return f"firmware's own words: {events}"
        case "files":
            return f"  allowed by {_reference_words(part)}"
        case _:
            return f"run-time list: {part['entries']} entries judged"


def _reference_words(part: Document) -> str:
    return f"{part['component']} {part['version']} ({part['origin']}, signed by {', '.join(part['signed_by'])})"


def _event_words(numbers: Iterable[int]) -> str:
    """Return numbers of events, with what follows on one another drawn together."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    words = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
    return f"event{'' if ',' not in words and '-' not in words else 's'} {words}"


def _show_finding(finding: Mapping[str, Any], depth: int) -> None:
    indent = "  " * depth
    show_bad(f"{indent}WRONG {finding['reason']}, {finding['where']}: {finding['subject']}")
    show_lines(f"{indent}  expected  {finding['expected']}", f"{indent}  found     {finding['found']}")
