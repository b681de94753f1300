"""What entries say is read exactly, and an entry that says something impossible is refused."""

from dataclasses import replace

import pytest

from steelyard.evidence.ima.parse import FileDigest, ImaList, MeasuredBuffer, MeasuredFile, Violation, parse_ima_list
from steelyard.evidence.ima.records import DigestKind
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import MalformedImaList
from tests.unit.evidence.ima.lists import (
    Blob,
    Digest,
    Entry,
    Form,
    boot_aggregate,
    digest_of,
    modsig,
    ng,
    one_of_each,
    sig,
    violation,
    write,
)

BOTH_FORMS = pytest.mark.parametrize("form", Form)


@BOTH_FORMS
def test_every_template_says_what_was_put_into_it(form: Form) -> None:
    made = one_of_each()
    parsed = parse_ima_list(write(made, form)).entries
    assert [entry.number for entry in parsed] == list(range(1, len(made) + 1))
    for entry, source in zip(parsed, made, strict=True):
        assert entry.template == source.template
        assert entry.template_data == source.data()
        match entry:
            case Violation():
                assert source.violation
                assert entry.path == source.name
            case MeasuredBuffer():
                assert entry.name == source.name
                assert isinstance(source.blobs[0], Blob)
                assert entry.content == source.blobs[0].value
            case MeasuredFile():
                assert entry.path == source.name
                assert entry.digest.value == source.digest.value


def test_digests_have_their_kind_and_algorithm() -> None:
    entries = parse_ima_list(write(one_of_each())).entries
    digests = {entry.template_data: entry.digest for entry in entries if not isinstance(entry, Violation)}
    said = {(digest.kind, digest.algorithm) for digest in digests.values()}
    assert said == {
        (DigestKind.IMA, HashAlgorithm.SHA1),
        (DigestKind.IMA, HashAlgorithm.SHA256),
        (DigestKind.IMA, HashAlgorithm.SHA384),
        (DigestKind.VERITY, HashAlgorithm.SHA512),
    }


@pytest.mark.parametrize(
    ("head", "algorithm"),
    [
        ("sha1", HashAlgorithm.SHA1),
        ("sha512", HashAlgorithm.SHA512),
        ("sm3", HashAlgorithm.SM3_256),
        ("sm3-256", HashAlgorithm.SM3_256),
        ("sha3-384", HashAlgorithm.SHA3_384),
    ],
)
def test_the_kernels_names_of_hashes_are_known(head: str, algorithm: HashAlgorithm) -> None:
    (entry,) = parse_ima_list(write([Entry("ima-ng", Digest(bytes(algorithm.size), head), b"/a")])).entries
    assert isinstance(entry, MeasuredFile)
    assert entry.digest == FileDigest(DigestKind.IMA, algorithm, bytes(algorithm.size))


def test_a_digest_shows_what_it_was_taken_of_and_how() -> None:
    assert str(FileDigest(DigestKind.IMA, HashAlgorithm.SHA256, b"\xab" * 32)) == "sha256:" + "ab" * 32
    assert str(FileDigest(DigestKind.VERITY, HashAlgorithm.SHA512, b"\1" * 64)) == "verity:sha512:" + "01" * 64


def test_signatures_are_absent_or_there() -> None:
    entries = [
        sig(b"/a"),
        sig(b"/b", signature=b"\3\2"),
        modsig(b"/c", b"c", b"", b""),
        modsig(b"/d", b"d", b"\3", b"PKCS"),
    ]
    files = parse_ima_list(write(entries)).entries
    assert all(isinstance(entry, MeasuredFile) for entry in files)
    said = [(entry.signature, entry.modsig) for entry in files if isinstance(entry, MeasuredFile)]
    assert said == [(None, None), (b"\3\2", None), (None, None), (b"\3", b"PKCS")]


def test_nothing_is_a_list_of_nothing() -> None:
    assert parse_ima_list(b"") == ImaList(())


@pytest.mark.parametrize("size", [20, 32])
def test_violations_of_older_and_newer_kernels_are_read(size: int) -> None:
    for form in Form:
        entry = violation(b"/var/log/messages", digest=Digest(bytes(size)))
        assert parse_ima_list(write([entry], form)).entries == (
            Violation(1, "ima-ng", entry.data(), b"/var/log/messages"),
        )
    old = violation(b"/x", "ima", Digest(bytes(20)))
    assert parse_ima_list(write([old])).entries == (Violation(1, "ima", old.data(), b"/x"),)


@BOTH_FORMS
def test_a_violation_has_no_digest(form: Form) -> None:
    entry = violation(b"/bin/x", digest=digest_of(b"x"))
    with pytest.raises(MalformedImaList, match="digest of zeros"):
        parse_ima_list(write([entry], form))


@BOTH_FORMS
def test_twenty_zeros_are_no_digest_where_there_was_no_violation(form: Form) -> None:
    with pytest.raises(MalformedImaList, match="as long as"):
        parse_ima_list(write([boot_aggregate(), Entry("ima-ng", Digest(bytes(20)), b"/a")], form))


@pytest.mark.parametrize(
    "entry",
    [
        ng(b""),
        ng(b"/bin/a\0b"),
        ng(b"/bin/a\0"),
        replace(ng(b"/bin/a"), digest=Digest(bytes(33))),
        replace(ng(b"/bin/a"), digest=Digest(bytes(31))),
        replace(ng(b"/bin/a"), digest=Digest(bytes(32), "sha257")),
        replace(ng(b"/bin/a"), digest=Digest(bytes(32), "ima:sha256")),
        Entry("ima-ngv2", Digest(bytes(32)), b"/bin/a"),
        Entry("ima-ngv2", Digest(bytes(32), "other:sha256"), b"/bin/a"),
        Entry("ima-ng", digest_of(b"x"), b"/bin/a", (Blob(b"more"),)),
        Entry("ima-sig", digest_of(b"x"), b"/bin/a"),
        Entry("ima-sig", digest_of(b"x"), b"/bin/a", (Blob(b""), Blob(b""))),
        Entry("ima-modsig", digest_of(b"x"), b"/bin/a", (Blob(b""), Blob(b"sha256"), Blob(b""))),
        Entry("ima", digest_of(b"x", "sha1"), b"/a\0b"),
        Entry("ima", digest_of(b"x", "sha1"), b""),
    ],
)
def test_data_that_no_kernel_hashes_is_refused_by_its_number(entry: Entry) -> None:
    with pytest.raises(MalformedImaList, match="reading IMA entry 2"):
        parse_ima_list(write([boot_aggregate(), entry]))


def test_a_name_with_a_nul_is_refused_in_ascii_too() -> None:
    with pytest.raises(MalformedImaList, match="one NUL"):
        parse_ima_list(write([ng(b"/bin/a\0b")], Form.ASCII))
