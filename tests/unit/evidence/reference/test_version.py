"""Versions are ordered as dpkg orders them."""

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.evidence.reference.version import Version
from steelyard.model.errors import WrongUse

VERSIONS = st.builds(
    lambda epoch, upstream, revision: epoch + "1" + upstream + revision,
    st.sampled_from(["", "0:", "2:"]),
    st.text("019a~.+b", max_size=5),
    st.text("01a~.+", max_size=4).map(lambda text: "-" + text if text else ""),
)


@settings(max_examples=60)
@given(VERSIONS, VERSIONS)
def test_the_order_is_that_of_dpkg(one: str, other: str) -> None:
    if shutil.which("dpkg") is None:
        pytest.skip("needs dpkg, to ask for its opinion (Debian package dpkg)")

    def dpkg_says(relation: str) -> bool:
        return subprocess.run(["dpkg", "--compare-versions", one, relation, other], check=False).returncode == 0

    assert (Version(one) < Version(other)) is dpkg_says("lt")
    assert (Version(one) == Version(other)) is dpkg_says("eq")
    if Version(one) == Version(other):
        assert hash(Version(one)) == hash(Version(other))


@pytest.mark.parametrize("text", ["", " ", "1 0", "1/0", "1\n", "1\x00", "ü", "1" * 300])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(WrongUse):
        Version(text)
