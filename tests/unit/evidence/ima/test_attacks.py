"""Attacks 23 to 29 on the IMA list, each made as an attacker would and refused as it must be."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from steelyard.evidence.findings import Reason
from steelyard.evidence.ima.judge import judge_ima
from steelyard.evidence.ima.parse import parse_ima_list
from steelyard.evidence.ima.replay import ImaExcerpt, ImaPosition
from steelyard.evidence.ima.signatures import file_signing_key
from steelyard.model.errors import LogRejected, MalformedImaList
from steelyard.model.pcrs import PcrValues
from tests.unit.evidence.ima.lists import (
    BOOT_PCRS,
    Blob,
    Digest,
    Entry,
    Form,
    boot_aggregate,
    buf,
    digest_of,
    ng,
    pcr10,
    sig,
    violation,
    write,
)
from tests.unit.evidence.ima.signing import LATER, NOW, Kind, public_der, sign
from tests.unit.evidence.ima.test_judge import (
    KEY,
    SHA256,
    START,
    judged,
    policy,
    quoted,
    reasons,
    signing_key,
)

ATTACKER = ec.generate_private_key(ec.SECP256R1())
TRUE = [boot_aggregate(), ng(b"/bin/sh", b"shell"), ng(b"/srv/rootkit"), ng(b"/usr/lib/libc.so", b"libc")]

Forgery = Callable[[list[Entry]], list[Entry]]
FORGERIES: dict[str, Forgery] = {
    "removed": lambda entries: [*entries[:2], *entries[3:]],
    "removed at the end": lambda entries: entries[:-1],
    "inserted": lambda entries: [*entries[:2], ng(b"/x"), *entries[2:]],
    "edited": lambda entries: [*entries[:2], ng(b"/bin/sh", b"shell"), *entries[3:]],
    "reordered": lambda entries: [entries[0], entries[2], entries[1], *entries[3:]],
    "duplicated": lambda entries: [*entries[:2], entries[1], *entries[2:]],
    "emptied": lambda _: [],
    "made a violation": lambda entries: [*entries[:2], replace(entries[2], violation=True), *entries[3:]],
}


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES)
def test_attack_23_a_forged_list_does_not_reach_the_quoted_value(form: Form, forgery: Forgery) -> None:
    excerpt = ImaExcerpt(0, write(forgery(TRUE), form))
    with pytest.raises(LogRejected, match="replaying"):
        judge_ima(excerpt, START, quoted(TRUE), policy(excluded=["/**"]), NOW)


def test_attack_23_a_list_shorter_than_already_accepted_is_refused() -> None:
    position = ImaPosition(SHA256, 4, pcr10(TRUE))
    with pytest.raises(LogRejected, match="4 entries, as many as before"):
        judge_ima(ImaExcerpt(0, write(TRUE[:3])), position, quoted(TRUE), policy(), NOW)


def test_attack_23_a_list_with_a_gap_after_the_position_is_refused() -> None:
    position = ImaPosition(SHA256, 1, pcr10(TRUE[:1]))
    with pytest.raises(LogRejected, match="from number 2 on"):
        judge_ima(ImaExcerpt(2, write(TRUE[2:])), position, quoted(TRUE), policy(), NOW)


def test_attack_23_a_list_of_before_a_reboot_does_not_go_on_from_a_position_of_after_it() -> None:
    new_boot = [boot_aggregate(), ng(b"/bin/other")]
    position = ImaPosition(SHA256, 2, pcr10(new_boot))
    with pytest.raises(LogRejected):
        judge_ima(ImaExcerpt(2, write(TRUE[2:])), position, quoted(TRUE), policy(), NOW)


def test_attack_23_a_list_longer_than_the_quote_is_judged_up_to_it() -> None:
    appraisal = judge_ima(ImaExcerpt(0, write(TRUE)), START, quoted(TRUE[:2]), policy(), NOW)
    assert (appraisal.findings, appraisal.judged, appraisal.waiting) == ((), 2, 2)
    later = judge_ima(ImaExcerpt(2, write(TRUE[2:])), appraisal.position, quoted(TRUE), policy(), NOW)
    assert reasons(later) == [("IMA entry 3", Reason.UNKNOWN_FILE)]


@pytest.mark.parametrize("data", [b"", write(TRUE)])
def test_attack_23_a_kernel_that_measured_nothing_does_not_pass(data: bytes) -> None:
    untouched = PcrValues(SHA256, {**BOOT_PCRS, 10: bytes(32)})
    appraisal = judge_ima(ImaExcerpt(0, data), START, untouched, policy(excluded=["/**"]), NOW)
    assert [finding.reason for finding in appraisal.findings] == [Reason.MISSING_EVIDENCE]


@pytest.mark.parametrize(
    "first",
    [
        ng(b"/bin/sh", b"shell"),
        ng(b"/srv/x"),
        violation(b"boot_aggregate"),
        buf(b"boot_aggregate", b"x"),
        replace(boot_aggregate(), name=b"/boot_aggregate"),
    ],
)
def test_attack_23_a_list_begins_with_its_boot_aggregate(first: Entry) -> None:
    entries = [first, boot_aggregate()]
    appraisal = judge_ima(
        ImaExcerpt(0, write(entries)), START, quoted(entries), policy(excluded=["/**"], tolerated=["/**"]), NOW
    )
    assert ("IMA entry 1", Reason.IMA_BOOT_AGGREGATE) in reasons(appraisal)


def test_attack_23_a_boot_aggregate_of_other_boot_pcrs_is_refused() -> None:
    entries = [boot_aggregate({**BOOT_PCRS, 4: b"\xee" * 32})]
    appraisal = judge_ima(ImaExcerpt(0, write(entries)), START, quoted(entries), policy(excluded=["/**"]), NOW)
    assert reasons(appraisal) == [("IMA entry 1", Reason.IMA_BOOT_AGGREGATE)]


def test_attack_23_a_boot_aggregate_without_quoted_boot_pcrs_is_missing_evidence() -> None:
    only_10 = PcrValues(SHA256, {10: pcr10([boot_aggregate()])})
    appraisal = judge_ima(ImaExcerpt(0, write([boot_aggregate()])), START, only_10, policy(), NOW)
    assert reasons(appraisal) == [("IMA entry 1", Reason.MISSING_EVIDENCE)]


def test_attack_24_a_violation_extends_all_ones_and_fails_unless_the_policy_names_its_path() -> None:
    entries = [violation(b"/var/log/x"), violation(b"/etc/shadow")]
    assert reasons(judged(entries, policy())) == [
        ("IMA entry 2", Reason.IMA_VIOLATION),
        ("IMA entry 3", Reason.IMA_VIOLATION),
    ]
    appraisal = judged(entries, policy(tolerated=["/var/log/*"]))
    assert reasons(appraisal) == [("IMA entry 3", Reason.IMA_VIOLATION)]
    assert appraisal.violations_tolerated == {"/var/log/*": 1}


def test_attack_24_an_exclusion_tolerates_no_violation() -> None:
    assert reasons(judged([violation(b"/srv/x")], policy(excluded=["/**"]))) == [("IMA entry 2", Reason.IMA_VIOLATION)]


@pytest.mark.parametrize("form", Form)
def test_attack_25_the_listed_template_hash_is_never_what_is_extended(form: Form) -> None:
    """The true hash of the rootkit is kept, and its name changed: who trusts the list's hash sees a good file."""
    disguised = replace(ng(b"/bin/sh", b"shell"), listed=TRUE[2].listed_hash("sha1"))
    excerpt = ImaExcerpt(0, write([*TRUE[:2], disguised, TRUE[3]], form))
    with pytest.raises(LogRejected, match="IMA entry 3"):
        judge_ima(excerpt, START, quoted(TRUE), policy(), NOW)


def test_attack_25_sha1_template_hashes_that_fit_prove_nothing_in_a_sha256_bank() -> None:
    """Where a collision of SHA-1 leaves a forger: with a list that is right in itself."""
    disguised = [*TRUE[:2], ng(b"/bin/sh", b"shell"), TRUE[3]]
    with pytest.raises(LogRejected, match="PCR 10 to reach"):
        judge_ima(ImaExcerpt(0, write(disguised, Form.BINARY, "sha1")), START, quoted(TRUE), policy(), NOW)


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize(
    "entry",
    [
        Entry("ima-ng", Digest(bytes(32), "sha257"), b"/bin/sh"),
        Entry("ima-ng", Digest(bytes(31) + b"\1" * 2), b"/bin/sh"),
        Entry("ima-xx", digest_of(b"shell"), b"/bin/sh"),
        replace(ng(b"/bin/sh", b"shell"), pcr=11),
        replace(ng(b"/bin/sh", b"shell"), pcr=9),
    ],
    ids=["unknown algorithm", "wrong length", "unknown template", "PCR 11", "PCR 9"],
)
def test_attack_25_what_no_kernel_lists_is_refused_by_its_number(form: Form, entry: Entry) -> None:
    data = write([boot_aggregate(), ng(b"/bin/sh", b"shell"), entry], form)
    with pytest.raises(MalformedImaList, match="IMA entry 3"):
        parse_ima_list(data)
    with pytest.raises(MalformedImaList, match="IMA entry 3"):
        judged([ng(b"/bin/sh", b"shell"), entry], policy(excluded=["/**"]), form)


@pytest.mark.parametrize(
    "path",
    [
        b"/var/logevil",
        b"/var/log",
        b"/var/log/../../bin/x",
        b"/var/log/..",
        b"/var/log//x",
        b"//var/log/x",
        b"/var/./log/x",
        b"/x/var/log/x",
        b"var/log/x",
        b"/var/log_(deleted)",
        b"/var/lo\xff/x",
        b"/VAR/LOG/x",
        b"\n/var/log/x",
        b"/srv/x\n/var/log/x",
    ],
)
@pytest.mark.parametrize("form", Form)
def test_attack_26_a_path_near_an_exclusion_is_not_excluded(form: Form, path: bytes) -> None:
    appraisal = judged([ng(path)], policy(excluded=["/var/log/**"]), form)
    assert reasons(appraisal) == [("IMA entry 2", Reason.UNKNOWN_FILE)]
    assert appraisal.exclusions_used == {}


@pytest.mark.parametrize("path", [b"/var/log/a", b"/var/log/a b", b"/var/log/a\nb", b"/var/log/\xff\xfe"])
@pytest.mark.parametrize("form", Form)
def test_attack_26_odd_paths_under_an_exclusion_are_excluded_and_the_exclusion_listed(form: Form, path: bytes) -> None:
    appraisal = judged([ng(path)], policy(excluded=["/var/log/**"]), form)
    assert appraisal.findings == ()
    assert appraisal.exclusions_used == {"/var/log/**": 1}


@pytest.mark.parametrize(
    "path", [b"/bin/sh_(deleted)", b"/bin/sh\n", b"/bin/sh ", b"/bin//sh", b"/bin/./sh", b"bin/sh"]
)
def test_attack_26_a_path_near_an_allowed_one_is_not_allowed(path: bytes) -> None:
    assert reasons(judged([ng(path, b"shell")], policy())) == [("IMA entry 2", Reason.UNKNOWN_FILE)]


def test_attack_26_a_nul_hides_nothing_behind_it() -> None:
    for form in Form:
        with pytest.raises(MalformedImaList, match="IMA entry 2"):
            judged([ng(b"/bin/sh\0evil", b"shell")], policy(excluded=["/**"]), form)


def test_attack_27_a_digest_allowed_for_one_path_is_not_allowed_for_another() -> None:
    entries = [ng(b"/bin/sh", b"libc"), ng(b"/opt/sh", b"shell")]
    assert reasons(judged(entries, policy())) == [
        ("IMA entry 2", Reason.WRONG_FILE),
        ("IMA entry 3", Reason.UNKNOWN_FILE),
    ]


@pytest.mark.parametrize("path", [b"/bin/sh", b"/opt/copy", b"/srv/sh"])
def test_attack_27_a_file_of_a_revoked_version_is_named_as_one_wherever_it_lies_and_whoever_signed_it(
    path: bytes,
) -> None:
    entry = sig(path, b"old shell", sign(KEY, b"old shell"))
    (finding,) = judged([entry], policy(keys=[signing_key()], excluded=["/srv/*"])).findings
    assert finding.reason is Reason.REVOKED_COMPONENT
    assert "shell 1.0" in finding.found


def test_attack_28_a_signature_by_an_unknown_key_is_refused() -> None:
    appraisal = judged([sig(b"/opt/x", b"x", sign(ATTACKER, b"x"))], policy(keys=[signing_key()]))
    assert reasons(appraisal) == [("IMA entry 2", Reason.BAD_FILE_SIGNATURE)]


def test_attack_28_a_signature_by_a_revoked_key_is_refused() -> None:
    revoked = file_signing_key("k", public_der(KEY), not_after=LATER, revoked=True, paths=["/**"])
    appraisal = judged([sig(b"/opt/x", b"x", sign(KEY, b"x"))], policy(keys=[revoked]))
    assert reasons(appraisal) == [("IMA entry 2", Reason.BAD_FILE_SIGNATURE)]


def test_attack_28_a_signature_by_an_expired_key_is_refused() -> None:
    entries = [boot_aggregate(), sig(b"/opt/x", b"x", sign(KEY, b"x"))]
    by = policy(keys=[signing_key()])
    for time, expected in ((LATER - timedelta(seconds=1), []), (LATER, [("IMA entry 2", Reason.BAD_FILE_SIGNATURE)])):
        appraisal = judge_ima(ImaExcerpt(0, write(entries)), START, quoted(entries), by, time)
        assert reasons(appraisal) == expected


@pytest.mark.parametrize(
    "signature",
    [
        sign(KEY, b"another file"),
        sign(KEY, b"x", "sha512"),
        sign(KEY, b"x", kind=Kind.FILE_ID, signed_as=Kind.FILE),
        sign(KEY, b"x", kind=Kind.VERITY),
        sign(KEY, b"x", kind=Kind.OLDEST, signed_as=Kind.FILE),
        sign(KEY, b"x", kind=Kind.METADATA),
        b"\3",
    ],
    ids=["other file", "other hash", "as version 3", "as verity", "as version 1", "over metadata", "cut"],
)
def test_attack_28_a_signature_of_the_right_key_over_something_else_is_refused(signature: bytes) -> None:
    appraisal = judged([sig(b"/opt/x", b"x", signature)], policy(keys=[signing_key()]))
    assert reasons(appraisal) == [("IMA entry 2", Reason.BAD_FILE_SIGNATURE)]


def test_attack_28_a_signature_over_a_files_digest_does_not_allow_an_fs_verity_file() -> None:
    entry = Entry("ima-sigv2", digest_of(b"x", "sha256", "verity:"), b"/opt/x", (Blob(sign(KEY, b"x")),))
    assert reasons(judged([entry], policy(keys=[signing_key()]))) == [("IMA entry 2", Reason.BAD_FILE_SIGNATURE)]


@pytest.mark.parametrize("keyring", [b".ima", b".builtin_trusted_keys", b".evm"])
def test_attack_28_a_key_added_to_a_keyring_is_judged(keyring: bytes) -> None:
    appraisal = judged([buf(keyring, public_der(ATTACKER))], policy(excluded=["/**"], keys=[signing_key()]))
    assert reasons(appraisal) == [("IMA entry 2", Reason.UNKNOWN_KEY_MEASURED)]
    assert appraisal.findings[0].subject == keyring.decode()


def test_attack_29_every_bad_entry_is_told_and_none_hides_another() -> None:
    entries = [
        ng(b"/bin/sh", b"trojan"),
        violation(b"/etc/shadow"),
        ng(b"/bin/sh", b"shell"),
        buf(b".ima", b"key"),
        ng(b"/bin/sh", b"old shell"),
        sig(b"/opt/x", b"x", sign(ATTACKER, b"x")),
        ng(b"/srv/last"),
    ]
    wrong_start = [ng(b"/first"), *entries]
    appraisal = judge_ima(
        ImaExcerpt(0, write(wrong_start)), START, quoted(wrong_start), policy(keys=[signing_key()]), NOW
    )
    assert reasons(appraisal) == [
        ("IMA entry 1", Reason.IMA_BOOT_AGGREGATE),
        ("IMA entry 1", Reason.UNKNOWN_FILE),
        ("IMA entry 2", Reason.WRONG_FILE),
        ("IMA entry 3", Reason.IMA_VIOLATION),
        ("IMA entry 5", Reason.UNKNOWN_KEY_MEASURED),
        ("IMA entry 6", Reason.REVOKED_COMPONENT),
        ("IMA entry 7", Reason.BAD_FILE_SIGNATURE),
        ("IMA entry 8", Reason.UNKNOWN_FILE),
    ]
    assert appraisal.judged == len(wrong_start)
