"""Every entry up to the quote is judged, and everything that is wrong is said."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from steelyard.evidence.findings import Reason
from steelyard.evidence.ima.judge import ImaAppraisal, judge_ima
from steelyard.evidence.ima.policy import AllowedBuffer, RuntimePolicy, compile_runtime_policy
from steelyard.evidence.ima.replay import ImaExcerpt, ImaPosition
from steelyard.evidence.ima.signatures import FileSigningKey, file_signing_key
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import MalformedImaList, WrongUse
from steelyard.model.pcrs import PcrValues
from tests.unit.evidence.ima.lists import (
    BOOT_PCRS,
    Blob,
    Entry,
    Form,
    boot_aggregate,
    buf,
    digest_of,
    modsig,
    ng,
    pcr10,
    sig,
    violation,
    write,
)
from tests.unit.evidence.ima.signing import LATER, NOW, Kind, public_der, sign

SHA256 = HashAlgorithm.SHA256
START = ImaPosition.start(SHA256)
KEY = ec.generate_private_key(ec.SECP256R1())
STRANGER = ec.generate_private_key(ec.SECP256R1())

GOOD = {"/bin/sh": b"shell", "/bin/my tool": b"tool", "/usr/lib/libc.so": b"libc"}
OLD = {"/bin/sh": b"old shell"}


def column(files: dict[str, bytes]) -> dict[HashAlgorithm, dict[str, str]]:
    return {SHA256: {path: SHA256.digest(content).hex() for path, content in files.items()}}


def signing_key(path: str = "/**") -> FileSigningKey:
    return file_signing_key("the publisher", public_der(KEY), not_after=LATER, revoked=False, paths=[path])


def policy(
    excluded: Iterable[str] = (),
    tolerated: Iterable[str] = (),
    buffers: Iterable[AllowedBuffer] = (),
    keys: Iterable[FileSigningKey] = (),
) -> RuntimePolicy:
    return compile_runtime_policy(
        files=[column(GOOD)],
        revoked=[("shell 1.0", column(OLD))],
        signing_keys=keys,
        excluded=excluded,
        tolerated_violations=tolerated,
        buffers=buffers,
    )


def quoted(entries: Sequence[Entry], start: bytes | None = None) -> PcrValues:
    return PcrValues(SHA256, {**BOOT_PCRS, 10: pcr10(entries, start=start)})


def judged(entries: Sequence[Entry], by: RuntimePolicy, form: Form = Form.BINARY) -> ImaAppraisal:
    """Return the appraisal of a whole list after its boot_aggregate."""
    whole = [boot_aggregate(), *entries]
    return judge_ima(ImaExcerpt(0, write(whole, form)), START, quoted(whole), by, NOW)


def reasons(appraisal: ImaAppraisal) -> list[tuple[str, Reason]]:
    return [(finding.where, finding.reason) for finding in appraisal.findings]


@pytest.mark.parametrize("form", Form)
def test_files_of_accepted_components_pass_by_every_template(form: Form) -> None:
    good = [
        ng(b"/bin/sh", b"shell"),
        ng(b"/bin/my_tool", b"tool"),
        sig(b"/usr/lib/libc.so", b"libc", signature=b"\3\2 by nobody"),
        Entry("ima-ngv2", digest_of(b"shell", "sha256", "ima:"), b"/bin/sh"),
        Entry("ima-sigv2", digest_of(b"shell", "sha256", "ima:"), b"/bin/sh", (Blob(b""),)),
        modsig(b"/bin/sh", b"shell", b"", b"PKCS"),
    ]
    appraisal = judged(good, policy(), form)
    assert appraisal.findings == ()
    assert (appraisal.judged, appraisal.waiting) == (7, 0)
    assert appraisal.position == ImaPosition(SHA256, 7, pcr10([boot_aggregate(), *good]))


def test_a_wrong_file_is_named_with_what_was_expected() -> None:
    (finding,) = judged([ng(b"/bin/sh", b"trojan")], policy()).findings
    assert (finding.reason, finding.where, finding.subject) == (Reason.WRONG_FILE, "IMA entry 2", "/bin/sh")
    assert SHA256.digest(b"shell").hex() in finding.expected
    assert SHA256.digest(b"trojan").hex() in finding.found


def test_a_file_that_nothing_covers_is_unknown() -> None:
    (finding,) = judged([ng(b"/srv/x")], policy()).findings
    assert (finding.reason, finding.subject) == (Reason.UNKNOWN_FILE, "/srv/x")


def test_paths_in_findings_are_fit_for_a_terminal() -> None:
    (finding,) = judged([ng(b"/srv/\x1b[2J\n\xff")], policy()).findings
    assert finding.subject == "/srv/\\x1b[2J\\n\\xff"


def test_findings_stay_small_where_a_path_has_many_digests() -> None:
    many = [column({"/bin/sh": b"%d" % number}) for number in range(100)]
    by = compile_runtime_policy(
        files=many, revoked=(), signing_keys=(), excluded=(), tolerated_violations=(), buffers=()
    )
    (finding,) = judged([ng(b"/bin/sh", b"trojan")], by).findings
    assert finding.expected.endswith("or 96 others")
    assert len(finding.expected) < 400


def test_digests_without_algorithm_or_of_another_kind_allow_no_file() -> None:
    entries = [
        Entry("ima", digest_of(b"shell", "sha1"), b"/bin/sh"),
        ng(b"/bin/sh", b"shell", "sha1"),
        Entry("ima-ngv2", digest_of(b"shell", "sha256", "verity:"), b"/bin/sh"),
    ]
    assert [finding.reason for finding in judged(entries, policy()).findings] == [Reason.WRONG_FILE] * 3


def test_a_signed_file_passes_without_a_reference() -> None:
    entries = [
        sig(b"/opt/x", b"x", sign(KEY, b"x")),
        modsig(b"/opt/y", b"y", sign(KEY, b"y"), b""),
        Entry("ima-sigv2", digest_of(b"z", "sha256", "verity:"), b"/opt/z", (Blob(sign(KEY, b"z", kind=Kind.VERITY)),)),
    ]
    assert judged(entries, policy(keys=[signing_key("/opt/**")])).findings == ()


def test_a_bad_signature_is_told_beside_the_wrong_file() -> None:
    entries = [sig(b"/bin/sh", b"x", sign(STRANGER, b"x")), sig(b"/opt/x", b"x", sign(STRANGER, b"x"))]
    appraisal = judged(entries, policy(keys=[signing_key()]))
    assert reasons(appraisal) == [
        ("IMA entry 2", Reason.BAD_FILE_SIGNATURE),
        ("IMA entry 2", Reason.WRONG_FILE),
        ("IMA entry 3", Reason.BAD_FILE_SIGNATURE),
    ]


def test_a_signature_means_nothing_to_a_policy_without_keys() -> None:
    assert reasons(judged([sig(b"/opt/x", b"x", sign(KEY, b"x"))], policy())) == [("IMA entry 2", Reason.UNKNOWN_FILE)]


def test_a_modsig_counts_as_no_signature() -> None:
    appraisal = judged([modsig(b"/opt/x", b"x", b"", b"PKCS #7")], policy(keys=[signing_key()]))
    assert reasons(appraisal) == [("IMA entry 2", Reason.UNKNOWN_FILE)]


def test_exclusions_are_counted_where_they_were_needed() -> None:
    entries = [ng(b"/bin/sh", b"shell"), ng(b"/srv/a"), ng(b"/srv/b"), ng(b"/var/x")]
    appraisal = judged(entries, policy(excluded=["/bin/**", "/srv/*", "/srv/**", "/var/x"]))
    assert appraisal.findings == ()
    assert appraisal.exclusions_used == {"/srv/*": 2, "/var/x": 1}
    assert appraisal.violations_tolerated == {}


def test_an_exclusion_is_no_use_to_a_revoked_file() -> None:
    (finding,) = judged([ng(b"/srv/sh", b"old shell")], policy(excluded=["/srv/**"])).findings
    assert finding.reason is Reason.REVOKED_COMPONENT


def test_tolerated_violations_are_counted() -> None:
    entries = [violation(b"/var/log/a"), violation(b"/var/log/b"), violation(b"/etc/passwd")]
    appraisal = judged(entries, policy(tolerated=["/var/log/*"], excluded=["/etc/**"]))
    assert reasons(appraisal) == [("IMA entry 4", Reason.IMA_VIOLATION)]
    assert appraisal.violations_tolerated == {"/var/log/*": 2}


def test_buffers_are_judged_by_their_bytes_and_name() -> None:
    by = policy(
        buffers=[
            AllowedBuffer("kexec-cmdline", SHA256, SHA256.digest(b"quiet")),
            AllowedBuffer("kexec-cmdline", HashAlgorithm.SHA512, HashAlgorithm.SHA512.digest(b"debug")),
        ]
    )
    lying = replace(buf(b"kexec-cmdline", b"init=/bin/sh"), digest=digest_of(b"quiet"))
    entries = [buf(b"kexec-cmdline", b"quiet"), buf(b"kexec-cmdline", b"debug"), lying, buf(b"other", b"quiet")]
    appraisal = judged(entries, by)
    assert reasons(appraisal) == [
        ("IMA entry 4", Reason.UNKNOWN_KEY_MEASURED),
        ("IMA entry 5", Reason.UNKNOWN_KEY_MEASURED),
    ]
    assert SHA256.digest(b"quiet").hex() in appraisal.findings[0].expected
    assert SHA256.digest(b"init=/bin/sh").hex() in appraisal.findings[0].found


def test_a_buffer_never_passes_for_a_file_nor_a_file_for_a_buffer() -> None:
    by = policy(buffers=[AllowedBuffer("/srv/x", SHA256, SHA256.digest(b"content"))])
    entries = [buf(b"/bin/sh", b"shell"), ng(b"/srv/x", b"content")]
    assert reasons(judged(entries, by)) == [
        ("IMA entry 2", Reason.UNKNOWN_KEY_MEASURED),
        ("IMA entry 3", Reason.UNKNOWN_FILE),
    ]


def test_the_next_kernels_boot_aggregate_is_judged_where_it_stands() -> None:
    again, forged = boot_aggregate(), replace(boot_aggregate(), digest=digest_of(b"another boot"))
    appraisal = judged([ng(b"/bin/sh", b"shell"), again, forged], policy(excluded=["/**"]))
    assert reasons(appraisal) == [("IMA entry 4", Reason.IMA_BOOT_AGGREGATE)]


def test_an_increment_is_judged_from_its_position_on() -> None:
    entries = [boot_aggregate(), ng(b"/srv/bad"), ng(b"/bin/sh", b"shell"), ng(b"/srv/worse"), ng(b"/srv/later")]
    first = judge_ima(ImaExcerpt(0, write(entries[:3])), START, quoted(entries[:3]), policy(), NOW)
    assert reasons(first) == [("IMA entry 2", Reason.UNKNOWN_FILE)]
    second = judge_ima(ImaExcerpt(3, write(entries[3:])), first.position, quoted(entries[:4]), policy(), NOW)
    assert reasons(second) == [("IMA entry 4", Reason.UNKNOWN_FILE)]
    assert (second.judged, second.waiting, second.position.entries) == (1, 1, 4)


def test_no_new_entries_are_fine_once_the_beginning_was_judged() -> None:
    entries = [boot_aggregate()]
    first = judge_ima(ImaExcerpt(0, write(entries)), START, quoted(entries), policy(), NOW)
    second = judge_ima(ImaExcerpt(1, b""), first.position, quoted(entries), policy(), NOW)
    assert (second.judged, second.findings, second.position) == (0, (), first.position)


def test_the_quote_must_be_in_the_positions_bank_and_hold_pcr_10() -> None:
    excerpt = ImaExcerpt(0, write([boot_aggregate()]))
    other_bank = PcrValues(HashAlgorithm.SHA384, {10: bytes(48)})
    for pcrs in (other_bank, PcrValues(SHA256, BOOT_PCRS)):
        with pytest.raises(WrongUse, match="PCR 10"):
            judge_ima(excerpt, START, pcrs, policy(), NOW)


def test_an_entry_that_no_kernel_makes_is_malformed_even_when_it_was_extended() -> None:
    with pytest.raises(MalformedImaList, match="entry 2"):
        judged([ng(b"/srv/a\0b")], policy(excluded=["/**"]))


def test_entries_that_wait_are_not_judged_yet() -> None:
    entries = [boot_aggregate(), ng(b"/srv/bad")]
    appraisal = judge_ima(ImaExcerpt(0, write(entries)), START, quoted(entries[:1]), policy(), NOW)
    assert (appraisal.findings, appraisal.waiting) == ((), 1)
