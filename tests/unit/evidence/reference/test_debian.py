import gzip
import hashlib
import lzma
import os
import subprocess
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from steelyard.evidence.reference import debian
from steelyard.evidence.reference.debian import files_of_package, files_of_tree
from steelyard.model.errors import MalformedArtefact, TooLarge
from steelyard.model.limits import (
    FILE_PATH_BYTES,
    MANIFEST_FILES,
    MIB,
    PACKAGE_BYTES,
    PACKAGE_MEMBERS,
    PACKAGE_UNPACKED_BYTES,
)
from tests.artefacts import TAR_END, ar_member, debian_package, gzipped, tar_member
from tests.tpm import require_programs


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


# -- a root tree -------------------------------------------------------------------------------------------------------


def test_files_of_a_tree_are_listed_by_path_whatever_pieces_they_come_in() -> None:
    files: list[tuple[bytes, list[bytes]]] = [
        (b"/usr/bin/a", [b"one", b"two"]),
        (b"/usr/bin/\xff\n", []),
        (b"/b", [b"x"]),
    ]
    assert files_of_tree(files) == {
        b"/usr/bin/a": sha256(b"onetwo"),
        b"/usr/bin/\xff\n": sha256(b""),
        b"/b": sha256(b"x"),
    }


@pytest.mark.parametrize(
    "path", [b"", b"usr/bin/a", b"/", b"//a", b"/usr//a", b"/usr/./a", b"/usr/../a", b"/usr/a/", b"/usr/..", b"/a\0b"]
)
def test_a_path_that_the_kernel_would_not_give_is_refused(path: bytes) -> None:
    with pytest.raises(MalformedArtefact, match="absolute path"):
        files_of_tree([(path, [b"x"])])


def test_a_path_that_comes_twice_is_refused() -> None:
    with pytest.raises(MalformedArtefact, match="every path once"):
        files_of_tree([(b"/a", [b"x"]), (b"/a", [b"y"])])


def test_a_path_longer_than_the_kernel_allows_is_refused() -> None:
    assert files_of_tree([(b"/" + b"x" * (FILE_PATH_BYTES.most - 1), [])])
    with pytest.raises(TooLarge):
        files_of_tree([(b"/" + b"x" * FILE_PATH_BYTES.most, [])])


@pytest.mark.parametrize("most", [1000, pytest.param(MANIFEST_FILES.most, marks=pytest.mark.slow)])
def test_more_files_than_any_tree_has_are_refused(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(debian, "MANIFEST_FILES", replace(MANIFEST_FILES, most=most))
    with pytest.raises(TooLarge, match="files"):
        files_of_tree((b"/%d" % number, ()) for number in range(most + 1))


# -- a package ---------------------------------------------------------------------------------------------------------


def test_a_package_made_by_dpkg_has_the_files_that_dpkg_unpacks(tmp_path: Path) -> None:
    require_programs({"dpkg-deb": "dpkg"})
    tree = tmp_path / "tree"
    contents = {
        "bin/tool": b"#!/bin/sh\n",
        "sbin/init": b"",
        "lib/modules/one.ko": os.urandom(200_000),
        "usr/bin/other": b"x" * 511,
        f"usr/share/{'long/' * 40}name": b"y" * 512,
        "etc/with space\\and \xe9": b"z" * 513,
    }
    for name, content in contents.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tree / "usr/bin/link").symlink_to("other")
    (tree / "usr/bin/same").hardlink_to(tree / "usr/bin/other")
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN/control").write_text(
        "Package: test\nVersion: 1\nArchitecture: all\nMaintainer: test <test@example.org>\nDescription: test\n"
    )
    expected = {
        (b"/usr/" if name.startswith(("bin/", "sbin/", "lib/")) else b"/") + name.encode(): sha256(content)
        for name, content in {**contents, "usr/bin/same": contents["usr/bin/other"]}.items()
    }
    for compression in ("xz", "gzip", "none"):
        package = tmp_path / f"{compression}.deb"
        subprocess.run(
            ["dpkg-deb", f"-Z{compression}", "--root-owner-group", "--build", tree, package],
            check=True,
            capture_output=True,
        )
        assert files_of_package(package.read_bytes()) == expected


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (b"./bin/a", b"/usr/bin/a"),
        (b"./sbin/a", b"/usr/sbin/a"),
        (b"./lib/x/a", b"/usr/lib/x/a"),
        (b"./lib32/a", b"/usr/lib32/a"),
        (b"./lib64/a", b"/usr/lib64/a"),
        (b"./libx32/a", b"/usr/libx32/a"),
        (b"bin/a", b"/usr/bin/a"),
        (b"./binary/a", b"/binary/a"),
        (b"./opt/bin/a", b"/opt/bin/a"),
        (b"./bin", b"/bin"),
    ],
)
def test_a_file_is_listed_where_a_merged_usr_has_it(name: bytes, path: bytes) -> None:
    assert files_of_package(debian_package([tar_member(name, b"x")])) == {path: sha256(b"x")}


def test_only_regular_files_and_hard_links_to_them_are_measured() -> None:
    package = debian_package(
        [
            tar_member(b"./", kind=b"5"),
            tar_member(b"./usr/a", b"x"),
            tar_member(b"./usr/old", b"y", kind=b"\0"),
            tar_member(b"./bin/b", kind=b"1", target=b"./usr/a"),
            tar_member(b"./usr/c", kind=b"1", target=b"./bin/b"),
            tar_member(b"./usr/s", kind=b"2", target=b"a"),
            tar_member(b"./usr/d", kind=b"3"),
            tar_member(b"./usr/e", kind=b"4"),
            tar_member(b"./usr/f", kind=b"6"),
        ]
    )
    assert files_of_package(package) == {
        b"/usr/a": sha256(b"x"),
        b"/usr/old": sha256(b"y"),
        b"/usr/bin/b": sha256(b"x"),
        b"/usr/c": sha256(b"x"),
    }


@pytest.mark.parametrize(
    "members",
    [
        [tar_member(b"./usr/b", kind=b"1", target=b"./usr/a")],
        [tar_member(b"./usr/a", b"x"), tar_member(b"./usr/a", kind=b"1", target=b"./usr/a")],
        [tar_member(b"./usr/b", kind=b"1", target=b"./usr/c"), tar_member(b"./usr/c", kind=b"1", target=b"./usr/b")],
    ],
)
def test_a_hard_link_to_nothing_before_it_is_refused(members: list[bytes]) -> None:
    with pytest.raises(MalformedArtefact, match="hard links to files before them"):
        files_of_package(debian_package(members))


def test_a_name_may_be_long_and_belongs_to_one_member() -> None:
    long = b"./usr/" + b"x" * 200
    members = [
        tar_member(b"././@LongLink", long + b"\0", kind=b"L"),
        tar_member(long[:100], b"x"),
        tar_member(b"././@LongLink", long + b"\0", kind=b"K"),
        tar_member(b"./usr/b", kind=b"1", target=long[:100]),
        tar_member(b"./usr/c", b"y"),
    ]
    assert files_of_package(debian_package(members)) == {
        b"/usr/" + b"x" * 200: sha256(b"x"),
        b"/usr/b": sha256(b"x"),
        b"/usr/c": sha256(b"y"),
    }


def test_a_prefix_belongs_to_the_name_in_the_posix_format_only() -> None:
    posix = tar_member(b"a", b"x", prefix=b"./usr/share", magic=b"ustar\x0000")
    gnu = tar_member(b"./a", b"x", prefix=b"00000000000")
    assert files_of_package(debian_package([posix, gnu])) == {b"/usr/share/a": sha256(b"x"), b"/a": sha256(b"x")}


def test_a_size_may_be_in_binary() -> None:
    member = tar_member(b"./a", b"x", size=b"\x80" + (1).to_bytes(11))
    assert files_of_package(debian_package([member])) == {b"/a": sha256(b"x")}


# -- refusals ----------------------------------------------------------------------------------------------------------

GOOD = tar_member(b"./usr/a", b"x")


def refused(package: bytes, expected: str, found: str = "") -> None:
    with pytest.raises(MalformedArtefact) as caught:
        files_of_package(package)
    assert expected in caught.value.expected
    assert found in caught.value.found


def test_a_package_of_files_in_zstd_is_refused_with_what_to_do() -> None:
    refused(
        debian_package([GOOD], name=b"data.tar.zst"), "data.tar.xz, data.tar.gz, data.tar", "data.tar.zst (unpack it"
    )


def archive(*members: bytes) -> bytes:
    return b"!<arch>\n" + b"".join(members)


VERSION, CONTROL, DATA = (
    ar_member(b"debian-binary", b"2.0\n"),
    ar_member(b"control.tar.xz", b""),
    ar_member(b"data.tar", GOOD + TAR_END),
)


@pytest.mark.parametrize(
    ("package", "expected"),
    [
        pytest.param(b"", "an ar archive", id="empty"),
        pytest.param(b"!<arch>", "an ar archive", id="half-a-magic"),
        pytest.param(archive(), "the header of an ar member", id="no-members"),
        pytest.param(archive(VERSION, CONTROL), "the header of an ar member", id="no-data"),
        pytest.param(archive(VERSION, DATA, CONTROL), "debian-binary, control.tar and data.tar", id="order"),
        pytest.param(archive(CONTROL, CONTROL, DATA), "debian-binary, control.tar and data.tar", id="no-version"),
        pytest.param(archive(VERSION, CONTROL, DATA, DATA), "debian-binary, control.tar and data.tar", id="two-data"),
        pytest.param(archive(VERSION, CONTROL, DATA, b"\n"), "debian-binary, control.tar and data.tar", id="trailing"),
        pytest.param(archive(ar_member(b"debian-binary", b"3.0\n"), CONTROL, DATA), "format 2.0", id="version"),
        pytest.param(archive(VERSION, CONTROL, DATA[:59]), "the header of an ar member", id="header-cut"),
        pytest.param(archive(VERSION, CONTROL, DATA[:58] + b"xx" + DATA[60:]), "the header of an ar", id="header-end"),
        pytest.param(
            archive(VERSION, CONTROL, DATA[:48] + b"1_536" + DATA[53:]), "the header of an ar", id="not-digits"
        ),
        pytest.param(archive(VERSION, CONTROL, DATA[:-1]), "bytes left", id="member-cut"),
    ],
)
def test_an_archive_that_is_no_package_is_refused(package: bytes, expected: str) -> None:
    refused(package, expected)


def test_members_may_have_the_slash_that_other_archivers_put_behind_names() -> None:
    package = archive(ar_member(b"debian-binary/", b"2.0\n"), CONTROL, ar_member(b"data.tar/", GOOD + TAR_END))
    assert files_of_package(package) == {b"/usr/a": sha256(b"x")}


@pytest.mark.parametrize(("name", "packed"), [(b"data.tar.xz", lzma.compress), (b"data.tar.gz", gzipped)])
def test_files_that_do_not_unpack_whole_are_refused(name: bytes, packed: Callable[[bytes], bytes]) -> None:
    def package(change: Callable[[bytes], bytes]) -> bytes:
        return debian_package([GOOD], name=name, pack_with=lambda tar: change(packed(tar)))

    assert files_of_package(package(bytes)) == {b"/usr/a": sha256(b"x")}
    refused(package(lambda data: data[:-1]), "")
    refused(package(lambda data: data[:40]), "")
    refused(package(lambda data: b"x" + data[1:]), "compressed with")
    refused(package(lambda data: data + b"x"), "ends with the member")
    refused(package(lambda data: data + b"x" * 200_000), "")
    refused(package(lambda data: data + data), "")


def test_bytes_after_a_stream_that_fills_its_piece_are_refused() -> None:
    """The stream ends exactly where one piece of what is read does."""
    piece = 64 * 1024
    stream = gzip.compress(GOOD + TAR_END, mtime=0)
    # A gzip header may carry a comment of any length.
    comment = b"c" * (piece - len(stream) - 1) + b"\0"
    full = stream[:3] + b"\x10" + stream[4:10] + comment + stream[10:]
    assert len(full) == piece
    assert files_of_package(debian_package([], name=b"data.tar.gz", pack_with=lambda _: full))
    refused(debian_package([], name=b"data.tar.gz", pack_with=lambda _: full + b"x"), "ends with the member")


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        pytest.param([tar_member(b"./a", magic=b"notar   ")], "ustar or GNU", id="format"),
        pytest.param([b"x" + GOOD[1:]], "that its checksum fits", id="checksum"),
        pytest.param([GOOD[:148] + b"99999999" + GOOD[156:]], "octal digits", id="checksum-digits"),
        pytest.param([tar_member(b"./a", size=b"0000000000x\0")], "octal digits", id="size-digits"),
        pytest.param([tar_member(b"./a", size=b" " * 12)], "octal digits", id="size-blank"),
        pytest.param([tar_member(b"./a", size=b"\xff" * 12)], "octal digits", id="size-negative"),
        pytest.param([tar_member(b"./a", size=b"77777777777\0")], "more bytes of the tar", id="size-huge"),
        pytest.param([tar_member(b"./a", kind=b"x")], "a member of type b'x'"[:8], id="pax"),
        pytest.param([tar_member(b"./a", b"x", kind=b"5")], "content in regular files only", id="directory-content"),
        pytest.param([tar_member(b"./a", b"x", kind=b"1", target=b"b")], "content in regular files", id="link-content"),
        pytest.param([tar_member(b"./../a", b"x")], "an absolute path", id="parent"),
        pytest.param([tar_member(b"/etc/a", b"x")], "an absolute path", id="absolute"),
        pytest.param([tar_member(b"", b"x")], "an absolute path", id="nameless"),
        pytest.param([GOOD, GOOD], "every path once", id="twice"),
        pytest.param([tar_member(b"./bin/a"), tar_member(b"./usr/bin/a")], "every path once", id="twice-by-merging"),
        pytest.param([GOOD, TAR_END, GOOD], "nothing after the end", id="after-the-end"),
        pytest.param([GOOD, bytes(512), b"\1"], "nothing after the end", id="byte-after-the-end"),
    ],
)
def test_a_tar_archive_that_could_be_read_in_two_ways_is_refused(members: list[bytes], expected: str) -> None:
    if expected == "a member":
        expected = "files, directories, links"
    refused(debian_package(members), expected)


def test_an_archive_without_its_end_is_refused() -> None:
    refused(
        debian_package([GOOD], name=b"data.tar", pack_with=lambda tar: tar[: -len(TAR_END)]), "the tar archive", "end"
    )


# -- limits ------------------------------------------------------------------------------------------------------------


def test_a_package_over_the_limit_is_refused_unread() -> None:
    with pytest.raises(TooLarge):
        files_of_package(bytes(PACKAGE_BYTES.most + 1))


@pytest.mark.parametrize("most", [1000, pytest.param(PACKAGE_MEMBERS.most, marks=pytest.mark.slow)])
def test_more_members_than_any_package_has_are_refused(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(debian, "PACKAGE_MEMBERS", replace(PACKAGE_MEMBERS, most=most))
    with pytest.raises(TooLarge, match="members"):
        files_of_package(
            debian_package([tar_member(b"./", kind=b"5") * (most + 1)], name=b"data.tar.gz", pack_with=gzipped)
        )


@pytest.mark.parametrize("kind", [b"L", b"K"])
def test_a_name_as_long_as_a_file_is_refused_unread(kind: bytes) -> None:
    name = tar_member(b"././@LongLink", b"x" * (FILE_PATH_BYTES.most + 1), kind=kind)
    with pytest.raises(TooLarge):
        files_of_package(debian_package([name, GOOD]))


def test_xz_that_asks_for_gigabytes_of_memory_is_refused() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 256 * MIB}]
    stream = lzma.compress(GOOD + TAR_END, check=lzma.CHECK_CRC32, filters=filters)
    refused(debian_package([], pack_with=lambda _: stream), "compressed with xz", "emory")


@pytest.mark.parametrize("most", [32 * MIB, pytest.param(PACKAGE_UNPACKED_BYTES.most, marks=pytest.mark.slow)])
def test_a_package_that_unpacks_to_more_than_any_does_is_refused(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """A thousand times as many zeros as bytes that they are packed in, after the end of the archive."""
    monkeypatch.setattr(debian, "PACKAGE_UNPACKED_BYTES", replace(PACKAGE_UNPACKED_BYTES, most=most))
    part = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    zeros = part.compress(bytes(16 * MIB)) + part.flush(zlib.Z_FULL_FLUSH)
    bomb = gzipped(b"")[:10] + zeros * (most // (16 * MIB) + 1)
    with pytest.raises(TooLarge):
        files_of_package(debian_package([], name=b"data.tar.gz", pack_with=lambda _: bomb))
