"""Both forms of a list are read exactly, and whatever is not a list is refused with the entry named."""

import struct
from dataclasses import replace
from itertools import pairwise

import pytest

from steelyard.evidence.ima.records import file_claim, read_records
from steelyard.model import limits
from steelyard.model.errors import LogRejected, MalformedImaList, TooLarge
from tests.unit.evidence.ima.lists import (
    Blob,
    Digest,
    Entry,
    Form,
    boot_aggregate,
    buf,
    digest_of,
    modsig,
    ng,
    one_of_each,
    sig,
    violation,
    write,
)

BOTH_FORMS = pytest.mark.parametrize("form", Form)
EVERY_WIDTH = pytest.mark.parametrize("listed", ["sha1", "sha256", "sha384", "sha512"])


def datas(data: bytes) -> list[bytes]:
    return [template_data for _, _, template_data in read_records(data, 0)]


@BOTH_FORMS
@EVERY_WIDTH
def test_every_template_is_read_as_the_kernel_hashes_it(form: Form, listed: str) -> None:
    entries = one_of_each()
    records = list(read_records(write(entries, form, listed), 0))
    expected = [
        (None if entry.violation else entry.listed_hash(listed), entry.template.encode(), entry.data())
        for entry in entries
    ]
    assert records == expected


def test_no_bytes_are_no_entries() -> None:
    assert list(read_records(b"", 0)) == []


@BOTH_FORMS
@pytest.mark.parametrize(
    "path",
    [
        b"/a\nb",
        b"/ends\n",
        b"/a\n\n11 b",
        b"/a\\nb\\x41",
        b"/\xff\xfe\x80",
        b"/tab\tand\rreturn",
        b"/with spaces  in it",
        b"/bin/gone_(deleted)",
        b"/10 20",
        b"relative",
    ],
)
@pytest.mark.parametrize("make", [ng, sig, lambda path: modsig(path, b"x", b"sig", b"appended")])
def test_names_keep_every_byte(form: Form, path: bytes, make: object) -> None:
    assert callable(make)
    entries = [boot_aggregate(), make(path), ng(b"/bin/after")]
    assert datas(write(entries, form)) == [entry.data() for entry in entries]


def test_a_name_that_imitates_an_entry_is_exact_in_binary_and_refused_in_ascii() -> None:
    """No kernel writes one: it has a space."""
    imitation = ng(b"/bin/trusted").ascii("sha1")
    entries = [boot_aggregate(), ng(b"/srv/x\n" + imitation[:-1]), ng(b"/bin/after")]
    with pytest.raises(LogRejected, match="entry 2"):
        datas(write(entries, Form.ASCII))
    assert datas(write(entries, Form.BINARY)) == [entry.data() for entry in entries]


@BOTH_FORMS
@pytest.mark.parametrize("pcr", [0, 9, 11, 23])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_entry_in_another_pcr_is_refused_by_its_number(form: Form, pcr: int, at: int) -> None:
    entries = [boot_aggregate(), ng(b"/a"), ng(b"/b")]
    entries[at] = replace(entries[at], pcr=pcr)
    with pytest.raises(MalformedImaList, match=rf"entry {at + 8}: expected PCR 10"):
        list(read_records(write(entries, form), 7))


def test_an_entry_in_another_pcr_does_not_hide_in_the_name_of_a_violation() -> None:
    entries = [boot_aggregate(), violation(b"/var/log/x"), replace(ng(b"/b"), pcr=11)]
    with pytest.raises(MalformedImaList, match="entry 3: expected PCR 10"):
        datas(write(entries, Form.ASCII))


@BOTH_FORMS
@pytest.mark.parametrize("at", [0, 1])
def test_an_unknown_template_is_refused_by_its_number(form: Form, at: int) -> None:
    entries = [boot_aggregate(), ng(b"/a")]
    entries[at] = replace(entries[at], template="ima-xx")
    with pytest.raises(MalformedImaList, match=rf"entry {at + 1}: .*known template"):
        datas(write(entries, form))


@pytest.mark.parametrize(
    "digest",
    [
        Digest(bytes(32), "unknown"),
        Digest(bytes(32), "md5"),
        Digest(bytes(32) + b"\1"),
        Digest(bytes(19) + b"\1"),
        Digest(b""),
        Digest(bytes(32), "ima:sha256"),
    ],
)
def test_a_digest_that_does_not_fit_its_algorithm_is_refused_in_ascii(digest: Digest) -> None:
    with pytest.raises(MalformedImaList, match="entry 1"):
        datas(write([Entry("ima-ng", digest, b"/a")], Form.ASCII))


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"10",
        b"10 \n",
        b"10 abc\n",
        b"10  ima-ng sha256:00 /a\n",
        b"this-is-an-invalid-ima-log-file\n",
        ng(b"/a").ascii("sha1")[1:],
        ng(b"/a").ascii("sha1")[:-1],
        ng(b"/a").ascii("sha1").replace(b"sha256:", b"sha256"),
        ng(b"/a").ascii("sha1").replace(b"sha256:", b"sha256: "),
        ng(b"/a").ascii("sha1").replace(b"sha256:", b"sha256:gg"),
        ng(b"/a").ascii("sha1").replace(b"10 ", b"10 00"),
        ng(b"/a").ascii("sha1").replace(b" /a", b""),
        sig(b"/a").ascii("sha1").replace(b"/a ", b"/a"),
        sig(b"/a", signature=b"\3").ascii("sha1").replace(b"/a 03", b"/a 0"),
        buf(b".ima", b"key").ascii("sha1").replace(b"sha256:", b"sha1:"),
        boot_aggregate().ascii("sha1") + ng(b"/a").ascii("sha256"),
    ],
)
def test_a_line_that_no_kernel_writes_is_refused(line: bytes) -> None:
    data = boot_aggregate().ascii("sha1") + b"10 " + line if line == b"" else line
    with pytest.raises(MalformedImaList, match="entry"):
        datas(data)


def test_every_cut_of_a_list_is_refused_or_is_a_shorter_list() -> None:
    entries = one_of_each()
    for form in Form:
        data = write(entries, form)
        whole = {0}
        for entry in entries:
            whole.add(max(whole) + len(write([entry], form)))
        for end in range(len(data)):
            if end in whole:
                assert len(datas(data[:end])) < len(entries)
            else:
                with pytest.raises((MalformedImaList, LogRejected)):
                    datas(data[:end])


def test_a_binary_size_that_lies_is_refused() -> None:
    data = bytearray(write([boot_aggregate()]))
    for position in (24, 34):
        for value in (0, 2**31, 2**32 - 1, limits.IMA_ENTRY_BYTES.most + 1):
            lying = bytearray(data)
            lying[position : position + 4] = struct.pack("<I", value)
            with pytest.raises((MalformedImaList, LogRejected), match="entry 1"):
                datas(bytes(lying))


@pytest.mark.parametrize("name_bytes", [255, 256, 300])
@BOTH_FORMS
def test_the_oldest_template_has_names_of_less_than_256_bytes(form: Form, name_bytes: int) -> None:
    entry = replace(one_of_each()[1], name=b"/" * name_bytes)
    if name_bytes < 256:
        assert datas(write([entry], form)) == [entry.data()]
    else:
        with pytest.raises(MalformedImaList, match="less than 256"):
            datas(write([replace(entry, listed=bytes(20))], form))


def test_the_oldest_template_has_a_digest_of_20_bytes() -> None:
    entry = Entry("ima", Digest(bytes(16)), b"/a", listed=bytes(20))
    with pytest.raises(MalformedImaList, match="20 bytes"):
        datas(write([entry], Form.ASCII))


@BOTH_FORMS
@EVERY_WIDTH
def test_an_entry_without_the_template_hash_listed_with_it_is_refused(form: Form, listed: str) -> None:
    entries = [boot_aggregate(), ng(b"/a"), ng(b"/b")]
    entries[1] = replace(entries[1], listed=entries[2].listed_hash(listed))
    with pytest.raises(LogRejected, match="entry 2"):
        datas(write(entries, form, listed))


@BOTH_FORMS
def test_a_template_hash_is_a_violations_only_when_it_is_all_zeros(form: Form) -> None:
    almost = bytes(19) + b"\1"
    with pytest.raises(LogRejected, match="entry 1"):
        datas(write([replace(violation(b"/a"), listed=almost)], form))


def test_a_template_hash_of_another_width_is_refused() -> None:
    data = boot_aggregate().ascii("sha256") + ng(b"/a").ascii("sha1")
    with pytest.raises(MalformedImaList, match="entry 2: expected a hash of 32 bytes"):
        datas(data)


@BOTH_FORMS
def test_an_entry_may_be_as_large_as_its_limit_and_no_larger(form: Form) -> None:
    fixed = len(buf(b".ima", b"").data())
    most = limits.IMA_ENTRY_BYTES.most
    assert len(datas(write([buf(b".ima", bytes(most - fixed))], form))[0]) == most
    with pytest.raises(MalformedImaList, match=f"at most {most}"):
        datas(write([buf(b".ima", bytes(most - fixed + 1))], form))
    with pytest.raises(MalformedImaList, match="at most"):
        datas(write([ng(b"/" * 4 * most)], form))


def test_a_list_over_its_limit_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steelyard.evidence.ima.records.IMA_LIST_BYTES", limits.Limit(100, "bytes", "for this test"))
    with pytest.raises(TooLarge, match="at most 100 bytes"):
        datas(b"x" * 101)


@BOTH_FORMS
def test_more_entries_than_their_limit_are_refused(form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steelyard.evidence.ima.records.IMA_ENTRIES", limits.Limit(3, "entries", "for this test"))
    entries = [boot_aggregate()] * 4
    assert len(datas(write(entries[:3], form))) == 3
    with pytest.raises(TooLarge, match="at most 3 entries"):
        datas(write(entries, form))


def test_newlines_and_lying_sizes_cost_no_more_than_their_bytes() -> None:
    hostile = (
        boot_aggregate().ascii("sha1") + b"\n" * 2_000_000,
        boot_aggregate().ascii("sha1") + b"\n11" * 600_000 + b"\n",
        boot_aggregate().ascii("sha1") + b"10 " * 600_000 + b"\n",
        boot_aggregate().ascii("sha1") + b"\n   " * 500_000 + b"\n",
        b"\n\0\0\0" + bytes(2_000_000),
    )
    for data in hostile:
        # Two megabytes each: in any quadratic way this test takes minutes.
        with pytest.raises((MalformedImaList, LogRejected)):
            datas(data)


@pytest.mark.parametrize("kind", ["", "ima:"])
@pytest.mark.parametrize("path", [b"/bin/a", b"/" + b"a" * 300])
def test_the_templates_for_files_claim_alike(kind: str, path: bytes) -> None:
    claim = ng(path).data()
    digest = digest_of(b"content", "sha256", kind)
    names = ("ima-ngv2", "ima-sigv2") if kind else ("ima-ng", "ima-sig")
    for signature in (b"", b"\3\2"):
        for template, blobs in ((names[0], ()), (names[1], (Blob(signature),))):
            entry = Entry(template, digest, path, blobs)
            assert file_claim(template.encode(), entry.data()) == claim
    if not kind:
        for appended in (b"", b"PKCS"):
            entry = modsig(path, b"content", b"\3", appended)
            assert file_claim(b"ima-modsig", entry.data()) == claim


def test_other_entries_claim_no_file() -> None:
    others = [
        Entry("ima", digest_of(b"x", "sha1"), b"/bin/a"),
        Entry("ima-ngv2", digest_of(b"x", "sha256", "verity:"), b"/bin/a"),
        Entry("ima-sigv2", digest_of(b"x", "sha256", "verity:"), b"/bin/a", (Blob(b""),)),
        buf(b"/bin/a", b"content"),
    ]
    for entry in others:
        assert file_claim(entry.template.encode(), entry.data()) == b""


def test_data_that_is_not_well_formed_claims_nothing() -> None:
    good = sig(b"/bin/a", signature=b"\3\2\4").data()
    for damaged in (good + b"\0", good[:-1], good[:-7], b"", good[:3], b"\xff\xff\xff\xff" + good[4:]):
        assert file_claim(b"ima-sig", damaged) == b""


def test_widths_are_told_apart_by_what_follows_them() -> None:
    entries = one_of_each()
    for listed, other in pairwise(("sha1", "sha256", "sha384", "sha512")):
        assert datas(write(entries, Form.BINARY, listed)) == datas(write(entries, Form.BINARY, other))
