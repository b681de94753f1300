"""A run-time policy allows exactly the files it was made of."""

import hashlib
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.evidence.ima.policy import AllowedBuffer, FileDigests, RuntimePolicy, compile_runtime_policy
from steelyard.evidence.ima.records import file_claim
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import MalformedPolicy, MalformedReference
from tests.unit.evidence.ima.lists import ng

SHA256, SHA512 = HashAlgorithm.SHA256, HashAlgorithm.SHA512


def hexadecimal(content: bytes, algorithm: HashAlgorithm = SHA256) -> str:
    return hashlib.new(algorithm.label, content).hexdigest()


def compiled(*files: FileDigests, revoked: Mapping[str, FileDigests] | None = None) -> RuntimePolicy:
    return compile_runtime_policy(
        files=files,
        revoked=tuple((revoked or {}).items()),
        signing_keys=(),
        excluded=(),
        tolerated_violations=(),
        buffers=(),
    )


def test_each_path_has_its_digests_of_every_component_and_algorithm() -> None:
    policy = compiled(
        {SHA256: {"/a": hexadecimal(b"1"), "/b": hexadecimal(b"2")}, SHA512: {"/a": hexadecimal(b"1", SHA512)}},
        {SHA256: {"/a": hexadecimal(b"3")}},
        {SHA256: {"/a": hexadecimal(b"1")}},
    )
    assert policy.allowed == {
        ng(b"/a", b"1").data(),
        ng(b"/b", b"2").data(),
        ng(b"/a", b"1", "sha512").data(),
        ng(b"/a", b"3").data(),
    }
    assert policy.digests[b"/a"].split() == [hexadecimal(b"1"), hexadecimal(b"1", SHA512), hexadecimal(b"3")]
    assert policy.digests[b"/b"] == hexadecimal(b"2")


def test_paths_are_known_as_the_kernel_records_them() -> None:
    policy = compiled({SHA256: {"/my app/a b": hexadecimal(b"1"), "/caf\u00e9/\udcff": hexadecimal(b"2")}})
    assert policy.allowed == {ng(b"/my_app/a_b", b"1").data(), ng(b"/caf\xc3\xa9/\xff", b"2").data()}
    assert set(policy.digests) == {b"/my_app/a_b", b"/caf\xc3\xa9/\xff"}


PATHS = st.binary(max_size=40).filter(lambda path: b"\0" not in path).map(lambda path: b"/" + path.replace(b" ", b"_"))


@given(st.dictionaries(PATHS, st.binary(max_size=5), min_size=1))
def test_what_a_kernel_measures_of_an_allowed_file_is_allowed(files: dict[bytes, bytes]) -> None:
    column = {path.decode("utf-8", "surrogateescape"): hexadecimal(content) for path, content in files.items()}
    policy = compiled({SHA256: column})
    measured = {file_claim(b"ima-ng", ng(path, content).data()) for path, content in files.items()}
    assert policy.allowed == measured


@pytest.mark.parametrize("path", ["a", "", "/a\0/b", "/a\0b", "\0", "/\ud800"])
def test_a_path_that_is_none_is_refused(path: str) -> None:
    for column in ({path: "00" * 32}, {"/good": "00" * 32, path: "00" * 32}, {path: "00" * 32, "/good": "00" * 32}):
        with pytest.raises(MalformedReference, match="paths"):
            compiled({SHA256: {"/good": "00" * 32}, SHA512: {}}, {SHA256: column})


@pytest.mark.parametrize(
    "digest", ["", "00" * 31, "00" * 33, "00" * 64, "AB" * 32, "xy" * 32, " 0" * 32, "\u0661\u0661" * 32]
)
def test_a_digest_that_is_none_is_refused(digest: str) -> None:
    with pytest.raises(MalformedReference, match=r"digests|digits"):
        compiled({SHA256: {"/good": "00" * 32, "/bad": digest}})


@pytest.mark.parametrize("algorithm", [HashAlgorithm.SHA1, HashAlgorithm.SM3_256, HashAlgorithm.SHA3_256])
def test_digests_that_are_not_believed_are_refused(algorithm: HashAlgorithm) -> None:
    with pytest.raises(MalformedReference, match="SHA-256 or better"):
        compiled({algorithm: {"/a": "00" * algorithm.size}})


NOTHING: list[list[FileDigests]] = [[], [{}], [{SHA256: {}}]]


def test_a_policy_under_which_nothing_may_run_is_refused() -> None:
    for files in NOTHING:
        with pytest.raises(MalformedPolicy, match="nothing may run"):
            compiled(*files)


def test_revoked_digests_are_those_that_only_revoked_versions_have() -> None:
    accepted: FileDigests = {SHA256: {"/a": hexadecimal(b"2"), "/same": hexadecimal(b"0")}}
    old: FileDigests = {
        SHA256: {"/a": hexadecimal(b"1"), "/same": hexadecimal(b"0")},
        SHA512: {"/a": hexadecimal(b"1", SHA512)},
    }
    policy = compiled(accepted, revoked={"a 1.0": old})
    assert policy.revoked == {hexadecimal(b"1"): "a 1.0", hexadecimal(b"1", SHA512): "a 1.0"}


@pytest.mark.parametrize(
    "buffer", [AllowedBuffer(".ima", HashAlgorithm.SHA1, bytes(20)), AllowedBuffer(".ima", SHA256, bytes(31))]
)
def test_a_buffer_by_a_digest_that_is_none_is_refused(buffer: AllowedBuffer) -> None:
    with pytest.raises(MalformedPolicy, match=r"\.ima"):
        compile_runtime_policy(
            files=({SHA256: {"/a": "00" * 32}},),
            revoked=(),
            signing_keys=(),
            excluded=(),
            tolerated_violations=(),
            buffers=(buffer,),
        )
