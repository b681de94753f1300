"""Enclave files: what is refused, where, and that what is published of them is so."""

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.enclave.file import parse_file, schema, spec_of
from steelyard.enclave.objects import Trust
from steelyard.model.errors import MalformedEnclave
from tests.unit.enclave.rig import SEAL, document, text

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("trust", ["open", "attested", "sealed"])
def test_a_file_is_read_and_what_is_stored_of_it_says_the_same(trust: str) -> None:
    spec, stored = parse_file(text(trust))
    assert spec.trust is Trust(trust)
    assert spec_of(json.loads(json.dumps(stored))) == spec


def test_json_is_read_too() -> None:
    assert parse_file(json.dumps(document("sealed")))[0] == parse_file(text("sealed"))[0]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("trust: &a open", "line 2: expected no anchors"),
        ("trust: !!str open", "line 2: expected no tags"),
        ("trust: closed", "line 2: expected trust to be open or attested or sealed"),
        ("trust: [open]", "line 2: expected a mapping or a single value"),
        ("trust: open\ntrust: sealed", "line 3: expected each field once"),
        ("trust: open\ntrusts: sealed", "line 3: expected a field of an enclave file"),
        ("trust: yes", "line 2: expected trust to be open"),
        ("trust: 'open", "line"),
    ],
)
def test_what_is_not_of_the_form_is_refused_with_its_line(line: str, words: str) -> None:
    with pytest.raises(MalformedEnclave, match=words):
        parse_file(text("open").replace("trust: open", line))


@pytest.mark.parametrize(
    "wrong",
    [
        {"trust": "attested"},  # by whom?
        {"attestation": {"service": "own", "airlock_policy": "a"}},  # what for?
        {"networks": {"boot": "a/b", "enclave": "a"}},
        {"nodes": {"count": -1}},
        {"nodes": {"count": 10**9}},
        {"nodes": {"count": True}},
        {"nodes": {"count": "2"}},
        {"name": "../lab"},
        {"disk": {"after": "maybe"}},
        {"disk": {}},
        {"wireguard": {"port": 1, "addresses": "10.0.0.0/8"}},
        {"limits": {"airlock": 0}},
        {"limits": {"running": 10}},
        {"image": "a\x1bb"},
    ],
)
def test_a_file_that_says_less_or_more_than_it_must_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(MalformedEnclave):
        parse_file(json.dumps({**document("open"), **wrong}))


@pytest.mark.parametrize(
    "wrong",
    [
        {"wireguard": None},
        {"seal": None},
        {"seal": {**SEAL, "root_hash": "ab" * 31}},
        {"seal": {name: value for name, value in SEAL.items() if name != "kernel"}},
        {"command_line": "init=/bin/sh"},  # beside the one that is sealed
        {"disk": {"after": "destroy", "size_bytes": SEAL["image_bytes"]}},  # with no room for what is written
        {"attestation": {"service": "own", "airlock_policy": "a"}},  # nobody asks what runs
        {"networks": {"boot": "a", "enclave": "a", "addresses": "10.0.0.0/8"}},
        {"networks": {"boot": "a", "enclave": "b"}},
        {"nodes": {"count": 200}, "wireguard": {"port": 1, "addresses": "10.0.0.0/24"}},
    ],
)
def test_sealed_is_refused_unless_all_that_seals_is_there(wrong: dict[str, Any]) -> None:
    with pytest.raises(MalformedEnclave):
        parse_file(json.dumps({**document("sealed"), **wrong}))


def test_a_bomb_of_aliases_or_depth_is_refused_at_once() -> None:
    begun = time.thread_time()
    bomb = "a: &a [x]\n" + "".join(f"b{n}: &b{n} [*a, *a]\n" for n in range(50))
    for hostile in (bomb, "{" * 100_000, "a: " + "{b: " * 500 + "}" * 500, "x" * 10**6, "- " * 20_000, "---\n---\n"):
        with pytest.raises(MalformedEnclave):
            parse_file(hostile)
    assert time.thread_time() - begun < 5


@given(st.text(max_size=200))
def test_nothing_but_its_own_error_leaves_the_reader(anything: str) -> None:
    with pytest.raises(MalformedEnclave):
        parse_file(anything)


@given(st.text(max_size=40), st.integers(0, 600))
def test_nothing_but_its_own_error_leaves_it_for_a_file_that_was_damaged(damage: str, place: int) -> None:
    whole = text("sealed")
    with suppress(MalformedEnclave):
        parse_file(whole[:place] + damage + whole[place + len(damage) :])


def test_the_published_schema_is_that_of_the_reader() -> None:
    assert json.loads((ROOT / "docs" / "enclave.schema.json").read_text()) == schema()
