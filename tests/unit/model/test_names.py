"""Attack 5: names that are not what they look like, or do more than name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.model.errors import WrongUse
from steelyard.model.names import check_name


@pytest.mark.parametrize(
    "name", ["a", "7", "node-7", "rack_1.node-7", "d432fbb3-d2f1-4a97-9ef7-75bd81c00000", "x" * 63]
)
def test_a_plain_name_is_one(name: str) -> None:
    assert check_name(name, "node") == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x" * 64,
        "x" * 10_000,
        "Node",
        "a/b",
        "../a",
        ".hidden",
        "-rf",
        "_a",
        "a b",
        "a\n",
        "a\x00",
        "a\x1b[2J",
        "n\u043ede",
        "\uff4eode",
        "node\u0661",
        "\ud800",
        "a%2f",
        "a:b",
        "a\\b",
    ],
)
def test_attack_5_any_other_name_is_refused_and_shown_escaped(name: str) -> None:
    with pytest.raises(WrongUse) as refusal:
        check_name(name, "node")
    assert str(refusal.value).isascii()
    assert str(refusal.value).isprintable()


@given(st.text())
def test_a_name_that_is_accepted_is_safe_in_a_path_a_url_and_a_shell(name: str) -> None:
    try:
        check_name(name, "node")
    except WrongUse:
        return
    assert name.isascii()
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-")
    assert name[0].isalnum()
