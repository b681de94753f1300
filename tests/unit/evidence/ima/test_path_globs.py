"""A glob means the paths it looks like and no others (attack 26)."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.evidence.ima.path_globs import path_glob
from steelyard.model.errors import MalformedPolicy


@pytest.mark.parametrize(
    ("glob", "path"),
    [
        ("/a/b", b"/a/b"),
        ("/a/*", b"/a/b"),
        ("/a/*.log", b"/a/.log"),
        ("/a/*.log", b"/a/x.log.log"),
        ("/a/x*y*z", b"/a/xyyz"),
        ("/*/b", b"/a/b"),
        ("/a/**", b"/a/b"),
        ("/a/**", b"/a/b/c/d"),
        ("/**", b"/a"),
        ("/a/**/b", b"/a/b"),
        ("/a/**/b", b"/a/x/b/y/b"),
        ("/**/*.pyc", b"/x.pyc"),
        ("/**/*.pyc", b"/a/b/x.pyc"),
        ("/**/a/**/b/*", b"/a/a/b/b/c"),
        ("/my app/*", b"/my_app/x"),
        ("/caf\u00e9/*", b"/caf\xc3\xa9/x"),
        ("/a/\udcff*", b"/a/\xffx"),
        ("/a/*", b"/a/new\nline"),
        ("/a/[b]?\\", b"/a/[b]?\\"),
    ],
)
def test_a_path_that_is_meant_matches(glob: str, path: bytes) -> None:
    assert path_glob(glob).matches(path)


@pytest.mark.parametrize(
    ("glob", "path"),
    [
        ("/var/log/**", b"/var/logevil"),
        ("/var/log/**", b"/var/logevil/x"),
        ("/var/log/**", b"/var/log"),
        ("/var/log/**", b"/x/var/log/y"),
        ("/var/log/*", b"/var/log/a/b"),
        ("/var/log", b"/var/log/x"),
        ("/a/*", b"/a/"),
        ("/a/**", b"/a/"),
        ("/a/**", b"/a/../bin/sh"),
        ("/a/**", b"/a/b/../../bin/sh"),
        ("/a/**", b"/a/./b"),
        ("/a/**", b"/a/.."),
        ("/a/**", b"/a//b"),
        ("/a/**", b"//a/b"),
        ("/a/**", b"/a/b\0c"),
        ("/**", b"a"),
        ("/**", b""),
        ("/**", b"/"),
        ("/*", b"boot_aggregate"),
        ("/**", b"/" + b"a" * 4096),
        ("/a/x*y", b"/a/xy/y"),
        ("/a/ab*b", b"/a/ab"),
        ("/a.c", b"/abc"),
        ("/a?", b"/ab"),
        ("/a/*", b"/A/b"),
        ("/a/b", b"/a/b\n"),
        ("/a/b", b"/a/b_(deleted)"),
        ("/my app/*", b"/my app/x"),
    ],
)
def test_a_path_that_only_looks_alike_does_not_match(glob: str, path: bytes) -> None:
    assert not path_glob(glob).matches(path)


@pytest.mark.parametrize(
    "glob",
    ["", "*", "**", "a/b", "/", "/a/", "/a//b", "/a/../b", "/a/./b", "/a**", "/a/**b", "/***", "/a\0b", "/\ud800"],
)
def test_a_glob_that_could_mean_two_things_is_refused(glob: str) -> None:
    with pytest.raises(MalformedPolicy):
        path_glob(glob)


COMPONENT = st.text("ab*", min_size=1, max_size=5).filter(lambda text: "**" not in text)
GLOB = st.lists(st.one_of(COMPONENT, st.just("**")), min_size=1, max_size=5).map(lambda parts: "/" + "/".join(parts))
PATH = st.lists(st.text("ab", min_size=1, max_size=6), min_size=1, max_size=6).map(lambda parts: "/" + "/".join(parts))


@given(GLOB, PATH)
def test_globs_mean_what_a_regular_expression_of_them_means(glob: str, path: str) -> None:
    expression = ""
    for number, part in enumerate(parts := glob[1:].split("/"), 1):
        last = number == len(parts)
        if part == "**":
            expression += "(/[^/]+)+" if last else "(/[^/]+)*"
        else:
            expression += "/" + part.replace("*", "[^/]*")
    assert path_glob(glob).matches(path.encode()) == bool(re.fullmatch(expression, path))


def test_many_stars_cost_no_more_than_the_lengths_multiplied() -> None:
    """With an expression that backtracks, this would outlast the machine it runs on."""
    assert not path_glob("/" + "*a" * 60 + "*b").matches(b"/" + b"a" * 4000)
    assert not path_glob("/" + "**/a/" * 60 + "b").matches(b"/a" * 2000)
