"""`steelyard evidence`: explain and judge evidence that lies in files, with no service, no network and no TPM."""

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from steelyard.cli import explain
from steelyard.cli.files import list_directory, read_file, write_file
from steelyard.cli.judging import judge, make_rules, read_envelopes
from steelyard.cli.output import show_json
from steelyard.evidence.appraisal import Passed
from steelyard.evidence.bundle import SIGNATURE_SCHEMES, Bundle, Evidence, PemKey, bound_key, parse_bundle
from steelyard.evidence.document import parse_time
from steelyard.evidence.eventlog.parse import parse_event_log
from steelyard.evidence.ima.replay import ImaExcerpt
from steelyard.evidence.policy import parse_policy
from steelyard.evidence.tpm.certificate import Certificate, parse_certificate
from steelyard.evidence.tpm.endorsement import (
    Demand,
    MakerTrust,
    check_key_matches,
    verify_endorsement,
)
from steelyard.evidence.tpm.keys import (
    AssertedByOperator,
    check_endorsement_key,
    default_scheme_of_pem,
)
from steelyard.evidence.tpm.nonce import PlainNonce
from steelyard.evidence.tpm.pcr_file import parse_pcr_file
from steelyard.evidence.tpm.public import TpmtPublic, parse_tpm2b_public
from steelyard.evidence.tpm.quote import SignedQuote, verify_quote
from steelyard.evidence.tpm.revocation import parse_revocation_list
from steelyard.model.algorithms import HASH_BY_NAME, HashAlgorithm
from steelyard.model.errors import ExitCode, WrongUse
from steelyard.model.limits import (
    BUNDLE_BYTES,
    CERTIFICATE_BYTES,
    EVENT_LOG_BYTES,
    IMA_LIST_BYTES,
    MAKER_CERTIFICATES,
    PCR_FILE_BYTES,
    POLICY_BYTES,
    REVOCATION_LIST_BYTES,
    TPM_STRUCTURE_BYTES,
)
from steelyard.model.pcrs import PcrSelection, PcrValues

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Explain and judge evidence in files: event logs, run-time lists, quotes, certificates, whole bundles.",
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
File = Annotated[Path, typer.Argument(help="The file; `-` reads standard input.", show_default=False)]


class DemandName(StrEnum):
    """Names of demands on an endorsement certificate, with one for none at all."""

    USAGE = "usage"
    NAMES = "names"
    NONE = "none"


@app.command()
def eventlog(file: File, *, json: Json = False) -> None:
    """Show a measured-boot event log: each event, and the PCR values it replays to.

    FILE is binary_bios_measurements, as Linux has it in /sys/kernel/security/tpm0/. The column "trusted" says whether
    the event's digest covers what is shown of it; the rest is the log's own word. A log alone proves nothing: it must
    replay to a quote (`evidence appraise`).
    """
    log = parse_event_log(read_file(file, EVENT_LOG_BYTES))
    if json:
        show_json(explain.event_log_document(log))
    else:
        explain.show_event_log(log)


@app.command()
def ima(file: File, *, json: Json = False) -> None:
    """Show a run-time measurement list: what it holds, and the PCR 10 it replays to.

    FILE is ascii_runtime_measurements or binary_runtime_measurements, as Linux has them in /sys/kernel/security/ima/.
    Template hashes are computed again, never taken from the list; a list whose own hashes do not fit is refused.
    """
    document = explain.ima_document(read_file(file, IMA_LIST_BYTES))
    if json:
        show_json(document)
    else:
        explain.show_ima(document)


@app.command()
def quote(
    ak: Annotated[Path, typer.Option(help="Attestation key: TPM2B_PUBLIC (tpm2_createak -u) or PEM.")],
    quote: Annotated[Path, typer.Option(help="TPMS_ATTEST (tpm2_quote -m).")],
    signature: Annotated[Path, typer.Option(help="TPMT_SIGNATURE (tpm2_quote -s).")],
    pcrs: Annotated[Path, typer.Option(help="PCR values (tpm2_quote -o).")],
    nonce: Annotated[str, typer.Option(help="The qualifying data you asked with, in hexadecimal.", metavar="HEX")],
    select: Annotated[
        str | None,
        typer.Option(help="The PCRs you asked for, as `sha256:0,1,2`; without it, those the PCR file claims."),
    ] = None,
    scheme: Annotated[str | None, typer.Option(help="For a PEM key: rsassa, rsapss or ecdsa.")] = None,
    hash_name: Annotated[str, typer.Option("--hash", help="For a PEM key: the hash it signs with.")] = "sha256",
    *,
    json: Json = False,
) -> None:
    """Verify a quote: signature, nonce, exactly these PCRs, and that the values are the signed ones.

    A TPM2B_PUBLIC is also checked to be a restricted signing key made inside its TPM; a PEM does not tell. Whose TPM it
    is, neither tells: that takes credential activation.
    """
    key_data = read_file(ak, TPM_STRUCTURE_BYTES)
    key = _read_attestation_key(key_data, scheme, hash_name)
    values = _one_bank(parse_pcr_file(read_file(pcrs, PCR_FILE_BYTES)))
    asked = _parse_selection(select) if select else PcrSelection(values.bank, frozenset(values.values))
    signed = SignedQuote(read_file(quote, TPM_STRUCTURE_BYTES), read_file(signature, TPM_STRUCTURE_BYTES))
    bound = bound_key(key, AssertedByOperator())
    quoted = verify_quote(signed, bound, PlainNonce(_parse_hex(nonce, "--nonce")), asked, values)
    if json:
        show_json(explain.quote_document(quoted, key))
    else:
        explain.show_quote(quoted, key)


@app.command("ek-cert")
def ek_cert(
    file: File,
    maker_ca: Annotated[
        Path,
        typer.Option(help="Directory of the makers' certificates you trust: .pem .der .crt .cer, and .crl."),
    ],
    ek: Annotated[
        Path | None, typer.Option(help="Endorsement key, TPM2B_PUBLIC (tpm2_createek -u), to compare with.")
    ] = None,
    intermediate: Annotated[
        list[Path] | None, typer.Option(help="A certificate that came along, not trusted; may be given several times.")
    ] = None,
    demand: Annotated[
        list[DemandName] | None,
        typer.Option(help="What it must have: `usage` (tcg-kp-EKCertificate), `names` (of the TPM), or `none`."),
    ] = None,
    at: Annotated[str | None, typer.Option(help="Judge as of this time; now, if not given.", metavar="TIME")] = None,
    *,
    json: Json = False,
) -> None:
    """Verify an endorsement certificate: a trusted maker's, for an endorsement key, in force, not revoked.

    FILE is DER or PEM, as tpm2_getekcertificate or tpm2_nvread give it; padding and makers' odd encodings are read.
    Every certificate in the makers' directory is trusted as such, intermediates too.
    """
    certificate = parse_certificate(read_file(file, CERTIFICATE_BYTES))
    came_along = [parse_certificate(read_file(path, CERTIFICATE_BYTES)) for path in intermediate or ()]
    trust = _read_maker_trust(maker_ca, _parse_demands(demand))
    moment = parse_time(at) if at else datetime.now(UTC)
    endorsement = verify_endorsement(certificate, came_along, trust, moment)
    if ek is not None:
        check_key_matches(endorsement, check_endorsement_key(parse_tpm2b_public(read_file(ek, TPM_STRUCTURE_BYTES))))
    if json:
        show_json(explain.endorsement_document(endorsement))
    else:
        explain.show_endorsement(endorsement)


@app.command()
def bundle(
    node: Annotated[str, typer.Option(help="The machine's name, for people.")],
    ak: Annotated[Path, typer.Option(help="Attestation key you bound to this machine: TPM2B_PUBLIC or PEM.")],
    quote: Annotated[Path, typer.Option(help="TPMS_ATTEST (tpm2_quote -m).")],
    signature: Annotated[Path, typer.Option(help="TPMT_SIGNATURE (tpm2_quote -s).")],
    pcrs: Annotated[Path, typer.Option(help="PCR values (tpm2_quote -o).")],
    nonce: Annotated[str, typer.Option(help="The qualifying data you asked with, in hexadecimal.", metavar="HEX")],
    out: Annotated[Path, typer.Option(help="Where to write the bundle; `-` is standard output.")],
    eventlog: Annotated[Path | None, typer.Option(help="binary_bios_measurements.")] = None,
    ima: Annotated[Path | None, typer.Option(help="ascii_ or binary_runtime_measurements.")] = None,
    received: Annotated[str | None, typer.Option(help="When it came; now, if not given.", metavar="TIME")] = None,
    scheme: Annotated[str | None, typer.Option(help="For a PEM key: rsassa, rsapss or ecdsa.")] = None,
    hash_name: Annotated[str, typer.Option("--hash", help="For a PEM key: the hash it signs with.")] = "sha256",
) -> None:
    """Put one machine's evidence, and what you knew beforehand, into one file to be judged (`evidence appraise`).

    The bundle records that you answer for the attestation key: make sure whose TPM it is (credential activation).
    Nothing is judged here but the key itself.
    """
    made = Bundle(
        node=node,
        received=parse_time(received) if received else datetime.now(UTC).replace(microsecond=0),
        attestation_key=_read_attestation_key(read_file(ak, TPM_STRUCTURE_BYTES), scheme, hash_name),
        binding=AssertedByOperator(),
        challenge=PlainNonce(_parse_hex(nonce, "--nonce")),
        evidence=Evidence(
            SignedQuote(read_file(quote, TPM_STRUCTURE_BYTES), read_file(signature, TPM_STRUCTURE_BYTES)),
            _one_bank(parse_pcr_file(read_file(pcrs, PCR_FILE_BYTES))),
            None if eventlog is None else read_file(eventlog, EVENT_LOG_BYTES),
            None if ima is None else ImaExcerpt(0, read_file(ima, IMA_LIST_BYTES)),
        ),
    )
    bound_key(made.attestation_key, made.binding)
    write_file(out, made.to_bytes())


@app.command()
def appraise(
    bundle: Annotated[Path, typer.Argument(help="The bundle; `-` reads standard input.", show_default=False)],
    policy: Annotated[Path, typer.Option(help="What is good enough (docs/policy.md).")],
    references: Annotated[Path, typer.Option(help="Directory of signed manifests (*.json).")],
    at: Annotated[
        str | None,
        typer.Option(help="Judge as of this time; when the evidence was received, if not given.", metavar="TIME"),
    ] = None,
    *,
    json: Json = False,
) -> None:
    """Judge a bundle by a policy and signed references, offline; the same inputs give the same verdict for ever.

    Every reason is given, with what was expected. References that too few of the policy's signers signed are left out,
    and named. Ends with 0 when passed, with 4 when rejected.
    """
    record = parse_bundle(read_file(bundle, BUNDLE_BYTES))
    moment = parse_time(at) if at else record.received
    rules = make_rules(parse_policy(read_file(policy, POLICY_BYTES)), read_envelopes(references), moment)
    judged = judge(record, rules, moment)
    if json:
        show_json(explain.verdict_document(record, judged.verdict, rules.compiled, rules.unsigned))
    else:
        explain.show_verdict(record, judged.verdict, rules.compiled, rules.unsigned)
    if not isinstance(judged.verdict, Passed):
        raise typer.Exit(ExitCode.REJECTED)


def _read_attestation_key(data: bytes, scheme: str | None, hash_name: str) -> TpmtPublic | PemKey:
    if not data.lstrip().startswith(b"-----BEGIN"):
        return parse_tpm2b_public(data)
    if scheme is not None and scheme not in SIGNATURE_SCHEMES:
        raise WrongUse("reading --scheme", expected=", ".join(SIGNATURE_SCHEMES), found=scheme)
    chosen = SIGNATURE_SCHEMES[scheme] if scheme else default_scheme_of_pem(data)
    return PemKey(data, chosen, _parse_hash(hash_name))


def _parse_hash(name: str) -> HashAlgorithm:
    if name not in HASH_BY_NAME:
        raise WrongUse("reading a hash's name", expected=", ".join(HASH_BY_NAME), found=name)
    return HASH_BY_NAME[name]


def _parse_hex(text: str, option: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise WrongUse(f"reading {option}", expected="hexadecimal digits, two for a byte", found=text) from error


def _parse_selection(text: str) -> PcrSelection:
    bank, _, numbers = text.partition(":")
    listed = numbers.split(",")
    if not all(number.isascii() and number.isdecimal() for number in listed):
        raise WrongUse("reading --select", expected="a bank and PCRs, as sha256:0,1,2", found=text)
    return PcrSelection(_parse_hash(bank), frozenset(int(number) for number in listed))


def _one_bank(banks: tuple[PcrValues, ...]) -> PcrValues:
    if len(banks) != 1:
        raise WrongUse(
            "reading the PCR file",
            expected="values of one bank: quote one bank at a time",
            found=f"{len(banks)} banks",
        )
    return banks[0]


def _parse_demands(names: list[DemandName] | None) -> frozenset[Demand]:
    if names is None:
        return frozenset(Demand)
    if DemandName.NONE in names:
        if len(names) > 1:
            raise WrongUse("reading --demand", expected="`none` alone, or others", found="both")
        return frozenset()
    return frozenset(Demand(name.value) for name in names)


def _read_maker_trust(directory: Path, demands: frozenset[Demand]) -> MakerTrust:
    paths = list_directory(directory)
    certificates = [path for path in paths if path.suffix in {".pem", ".der", ".crt", ".cer"}]
    lists = [path for path in paths if path.suffix == ".crl"]
    if not certificates or len(certificates) > MAKER_CERTIFICATES.most:
        raise WrongUse(
            f"reading the makers' certificates in {directory}",
            expected=f"1 to {MAKER_CERTIFICATES.most} files .pem, .der, .crt or .cer",
            found=f"{len(certificates)}",
        )
    anchors: list[Certificate] = [parse_certificate(read_file(path, CERTIFICATE_BYTES)) for path in certificates]
    revocations = [parse_revocation_list(read_file(path, REVOCATION_LIST_BYTES)) for path in lists]
    return MakerTrust(tuple(anchors), tuple(revocations), demands)
