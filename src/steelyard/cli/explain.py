"""How results look: each as one document for programs, and as a table or a few lines for people."""

import base64
from collections import Counter
from collections.abc import Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from steelyard.cli.output import error_document, show_bad, show_good, show_lines, show_table
from steelyard.evidence.appraisal import Passed, Verdict
from steelyard.evidence.boot import BootAppraisal
from steelyard.evidence.bundle import Bundle, PemKey
from steelyard.evidence.compiled_policy import CompiledPolicy
from steelyard.evidence.document import format_time
from steelyard.evidence.eventlog.content import covers_data
from steelyard.evidence.eventlog.events import Event, EventLog, EventType, type_name
from steelyard.evidence.eventlog.payloads import describe
from steelyard.evidence.eventlog.replay import replay
from steelyard.evidence.ima.judge import ImaAppraisal
from steelyard.evidence.ima.parse import Violation, parse_ima_list
from steelyard.evidence.ima.replay import pcr10_values
from steelyard.evidence.reference.manifest import Reference
from steelyard.evidence.tpm.endorsement import VerifiedEndorsement
from steelyard.evidence.tpm.public import TpmtPublic
from steelyard.evidence.tpm.quote import QuotedPcrs
from steelyard.model.errors import SteelyardError, WrongUse
from steelyard.model.text import printable

Unused = Sequence[tuple[str, SteelyardError]]
"""File names of references that were left out before the policy was asked, and why."""


# -- event logs --------------------------------------------------------------------------------------------------------


def event_log_document(log: EventLog) -> dict[str, Any]:
    """Return a log's PCRs per bank and its events; "trusted" means that a believed digest covers the data shown."""
    return {
        "banks": {
            bank.label: {str(index): value.hex() for index, value in sorted(replay(log, bank).items())}
            for bank in log.algorithms
            if bank.computable
        },
        "events": [
            {
                "pcr": event.pcr,
                "type": type_name(event.claimed_type),
                "digests": {bank.label: digest.hex() for bank, digest in event.digests.items()},
                "what": printable(describe(event)),
                "trusted": _is_trusted(event, log),
            }
            for event in log.events
        ],
    }


def _is_trusted(event: Event, log: EventLog) -> bool:
    believed = [bank for bank in log.algorithms if bank.believed and bank in event.digests]
    return bool(believed) and all(covers_data(event, bank) for bank in believed)


def show_event_log(log: EventLog) -> None:
    """Print a log's events, then its PCRs."""
    document = event_log_document(log)
    rows = []
    for event, entry in zip(log.events, document["events"], strict=True):
        digest = next((digest for bank, digest in event.digests.items() if bank.believed), b"")
        pcr = "-" if event.claimed_type == EventType.EV_NO_ACTION else str(event.pcr)
        trusted = "yes" if entry["trusted"] else "no"
        rows.append((str(event.number), pcr, entry["type"], digest.hex()[:16], trusted, entry["what"]))
    show_table(("event", "pcr", "type (claimed)", "digest", "trusted", "what"), rows)
    pcrs = [(bank, index, value) for bank, values in document["banks"].items() for index, value in values.items()]
    show_table(("bank", "pcr", "replays to"), pcrs)
    if not any(bank.believed for bank in log.algorithms):
        show_bad("SHA-1 only: read, and not believed.")


# -- IMA lists ---------------------------------------------------------------------------------------------------------


def ima_document(data: bytes) -> dict[str, Any]:
    """Return what a run-time list holds, and the PCR 10 it replays to per bank."""
    ima_list = parse_ima_list(data)
    return {
        "entries": len(ima_list.entries),
        "violations": sum(isinstance(entry, Violation) for entry in ima_list.entries),
        "templates": dict(Counter(entry.template for entry in ima_list.entries)),
        "pcr10": {bank.label: value.hex() for bank, value in pcr10_values(ima_list).items()},
    }


def show_ima(document: dict[str, Any]) -> None:
    """Print the summary of a run-time list."""
    templates = ", ".join(f"{count} {name}" for name, count in document["templates"].items())
    show_lines(f"entries     {document['entries']} ({templates or 'none'})", f"violations  {document['violations']}")
    show_table(("bank", "pcr 10 replays to"), document["pcr10"].items())


# -- quotes ------------------------------------------------------------------------------------------------------------


def quote_document(quoted: QuotedPcrs, key: TpmtPublic | PemKey) -> dict[str, Any]:
    """Return what a verified quote proves."""
    signing = quoted.key.signing
    return {
        "verified": True,
        "bank": quoted.pcrs.bank.label,
        "pcrs": {str(index): value.hex() for index, value in sorted(quoted.pcrs.values.items())},
        "clock": {
            "clock_ms": quoted.clock.clock,
            "reset_count": quoted.clock.reset_count,
            "restart_count": quoted.clock.restart_count,
            "safe": quoted.clock.safe,
        },
        "firmware_version": f"{quoted.firmware_version:016x}",
        "key": {
            "scheme": signing.scheme.name.lower(),
            "hash": signing.hash_algorithm.label,
            "fingerprint": signing.fingerprint.hex(),
            "restricted": isinstance(key, TpmtPublic),
        },
    }


def show_quote(quoted: QuotedPcrs, key: TpmtPublic | PemKey) -> None:
    """Print what a verified quote proves."""
    document = quote_document(quoted, key)
    show_good("The quote is good: this key signed these PCR values for this nonce.")
    clock = document["clock"]
    restricted = (
        "a restricted key made in its TPM" if isinstance(key, TpmtPublic) else "a PEM does not tell its properties"
    )
    show_lines(
        f"key    {document['key']['scheme']} with {document['key']['hash']}, {restricted}",
        f"clock  reset {clock['reset_count']}, restart {clock['restart_count']}, {clock['clock_ms']} ms"
        + ("" if clock["safe"] else ", not safe: the TPM lost power without notice"),
    )
    show_table((f"{document['bank']} pcr", "value"), document["pcrs"].items())


# -- endorsement certificates ------------------------------------------------------------------------------------------


def endorsement_document(endorsement: VerifiedEndorsement) -> dict[str, Any]:
    """Return whose TPM a verified certificate is for, and by what chain."""
    return {
        "verified": True,
        "manufacturer": endorsement.make.manufacturer,
        "model": endorsement.make.model,
        "firmware_version": endorsement.make.firmware_version,
        "serial": f"{endorsement.certificate.fields.serial_number:x}",
        "not_after": format_time(endorsement.certificate.fields.not_valid_after_utc),
        "chain": [certificate.subject() for certificate in endorsement.chain],
        "oddities": list(endorsement.certificate.oddities),
    }


def show_endorsement(endorsement: VerifiedEndorsement) -> None:
    """Print whose TPM a verified certificate is for, and by what chain."""
    document = endorsement_document(endorsement)
    show_good("The certificate is good: a trusted maker's, for an endorsement key.")
    show_lines(
        f"maker     {document['manufacturer']}",
        f"model     {document['model']}",
        f"version   {document['firmware_version']}",
        f"serial    {document['serial']}",
        f"good to   {document['not_after']}",
    )
    for depth, subject in enumerate(document["chain"]):
        show_lines(f"{'chain' if depth == 0 else '':9} {'  ' * depth}{subject}")
    for oddity in document["oddities"]:
        show_lines(f"odd       {oddity}")


# -- verdicts ----------------------------------------------------------------------------------------------------------


def verdict_document(bundle: Bundle, verdict: Verdict, compiled: CompiledPolicy, unused: Unused) -> dict[str, Any]:
    """Return a verdict with all that it rests on."""
    findings = () if isinstance(verdict, Passed) else verdict.findings
    return {
        "verdict": "passed" if isinstance(verdict, Passed) else "rejected",
        "node": bundle.node,
        "received": format_time(bundle.received),
        "policy": {"name": verdict.policy.name, "version": verdict.policy.version},
        "key": type(bundle.binding).__name__,
        "expires": format_time(compiled.expires) if compiled.expires else None,
        "findings": [
            {
                "reason": finding.reason.value,
                "where": finding.where,
                "subject": finding.subject,
                "expected": finding.expected,
                "found": finding.found,
            }
            for finding in findings
        ],
        "boot": _boot_document(verdict.boot),
        "runtime": _runtime_document(verdict.runtime),
        "references_not_used": [
            *({"file": name, "why": error_document(error)["error"]["code"]} for name, error in unused),
            *(
                {"component": other.manifest.component, "version": other.manifest.version.text, "why": other.why}
                for other in compiled.refused
            ),
        ],
    }


def _boot_document(boot: BootAppraisal | None) -> dict[str, Any] | None:
    if boot is None:
        return None
    return {
        "components": [
            {
                "component": found.manifest.component,
                "version": found.manifest.version.text,
                "origin": found.manifest.origin.value,
                "events": list(found.events),
            }
            for found in boot.components
        ],
        "varied": [
            {"event": varied.event, "pcr": varied.rule.pcr, "reason": varied.rule.reason} for varied in boot.varied
        ],
    }


def _runtime_document(runtime: ImaAppraisal | None) -> dict[str, Any] | None:
    if runtime is None:
        return None
    return {
        "judged": runtime.judged,
        "waiting": runtime.waiting,
        "exclusions_used": dict(runtime.exclusions_used),
        "violations_tolerated": dict(runtime.violations_tolerated),
    }


def show_verdict(bundle: Bundle, verdict: Verdict, compiled: CompiledPolicy, unused: Unused) -> None:
    """Print a verdict: what it is, why, and what it rests on."""
    document = verdict_document(bundle, verdict, compiled, unused)
    line = f"{document['verdict'].upper()}: {bundle.node} by {verdict.policy}, evidence of {document['received']}"
    if isinstance(verdict, Passed):
        show_good(line)
    else:
        show_bad(line)
        show_table(
            ("reason", "where", "about", "expected", "found"),
            [
                [entry[name] for name in ("reason", "where", "subject", "expected", "found")]
                for entry in document["findings"]
            ],
        )
    if document["boot"] is not None:
        _show_boot(document["boot"])
    if document["runtime"] is not None:
        _show_runtime(document["runtime"])
    for entry in document["references_not_used"]:
        name = entry.get("file") or f"{entry['component']} {entry['version']}"
        show_lines(f"reference not used: {name}: {entry['why']}")


def _show_boot(boot: dict[str, Any]) -> None:
    rows = [
        (found["component"], found["version"], found["origin"], ", ".join(map(str, found["events"])))
        for found in boot["components"]
    ]
    if rows:
        show_table(("component", "version", "known", "events"), rows)
    if boot["varied"]:
        show_table(
            ("event", "pcr", "may vary because"),
            [(str(varied["event"]), str(varied["pcr"]), varied["reason"]) for varied in boot["varied"]],
        )


def _show_runtime(runtime: dict[str, Any]) -> None:
    show_lines(f"run time: {runtime['judged']} entries judged, {runtime['waiting']} later than the quote")
    for kind in ("exclusions_used", "violations_tolerated"):
        for pattern, count in runtime[kind].items():
            show_lines(f"  {kind.replace('_', ' ')}: {pattern} ({count})")


# -- references --------------------------------------------------------------------------------------------------------


def public_key_text(key: Ed25519PublicKey) -> str:
    """Return a public key as policies name it: its 32 bytes in base64."""
    return base64.b64encode(key.public_bytes_raw()).decode("ascii")


def parse_public_key_text(text: str) -> Ed25519PublicKey:
    """Return the key that `public_key_text` wrote. Raises WrongUse."""
    try:
        return Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True))
    except ValueError as error:
        raise WrongUse("reading a signer's key", expected="name=, then 32 bytes in base64", found=text) from error


def reference_document(reference: Reference) -> dict[str, Any]:
    """Return what a verified manifest says, without its lists of digests."""
    manifest = reference.manifest
    return {
        "verified": True,
        "signed_by": sorted(reference.signed_by),
        "component": manifest.component,
        "version": manifest.version.text,
        "serial": manifest.serial,
        "issued": format_time(manifest.issued),
        "expires": format_time(manifest.expires),
        "machine_class": manifest.machine_class,
        "origin": manifest.origin.value,
        "artefact": manifest.artefact,
        "artefact_sha256": manifest.artefact_sha256.hex(),
        "measurements": [
            {
                "pcr": measurement.pcr,
                "what": measurement.what,
                "presence": measurement.presence.value,
                "digests": {bank.label: digest.hex() for bank, digest in measurement.digests.items()},
            }
            for measurement in manifest.measurements
        ],
        "files": sum(len(paths) for paths in manifest.files.values()),
    }


def show_reference(reference: Reference) -> None:
    """Print what a verified manifest says."""
    document = reference_document(reference)
    show_good(f"Signed by {', '.join(document['signed_by'])}.")
    for name in ("component", "version", "serial", "issued", "expires", "machine_class", "origin", "artefact", "files"):
        show_lines(f"{name.replace('_', ' '):14} {document[name]}")
    show_table(
        ("pcr", "what", "presence", "sha256"),
        [
            (str(entry["pcr"]), entry["what"], entry["presence"], entry["digests"].get("sha256", ""))
            for entry in document["measurements"]
        ],
    )
