"""Policies: nothing by default, nothing unknown, nothing empty."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.evidence.policy import VariableMatch, parse_policy
from steelyard.model.errors import Malformed, MalformedPolicy
from tests.unit.evidence.samples import component, encode, policy, policy_document

RUNTIME: dict[str, Any] = {"exclude": [], "tolerate_violations": [], "signers": [], "buffers": []}


def varying(**changes: Any) -> dict[str, Any]:
    return {"pcr": 1, "event": "load-option", "at_most": 1, "reason": "it varies", **changes}


def test_a_whole_policy_is_read() -> None:
    rule = varying(event="variable", vendor="8be4df61-93ca-11d2-aa0d-00e098032b8c", name="BootOrder")
    read = policy(pcrs=[0, 1, 10], varying=[rule], runtime=RUNTIME)
    assert read.selection.indices == {0, 1, 10}
    assert isinstance(read.varying[0].match, VariableMatch)
    assert read.varying[0].match.name == "BootOrder"
    assert str(read.id) == "sample version 1"


@pytest.mark.parametrize("field", list(policy_document()))
def test_no_field_has_a_default(field: str) -> None:
    spoilt = policy_document()
    del spoilt[field]
    with pytest.raises(MalformedPolicy, match="present"):
        parse_policy(encode(spoilt))


@pytest.mark.parametrize("field", list(component()))
def test_no_field_of_a_component_has_a_default(field: str) -> None:
    spoilt = component()
    del spoilt[field]
    with pytest.raises(MalformedPolicy, match="present"):
        policy(components=[spoilt])


SPOILT: list[dict[str, Any]] = [
    {"surprise": 1},
    {"name": "a/b"},
    {"bank": "sha1"},
    {"bank": "md5"},
    {"pcrs": []},
    {"pcrs": [24]},
    {"pcrs": [-1]},
    {"components": []},
    {"components": [component(presence="optional")]},
    {"components": [component(), component()]},
    {"components": [component(origins=[])]},
    {"components": [component(origins=["from-hearsay"])]},
    {"components": [component(at_most=0)]},
    {"components": [component(least_version="")]},
    {"components": [{**component(), "surprise": 1}]},
    {"signers": {"threshold": 0, "keys": policy_document()["signers"]["keys"]}},
    {"signers": {"threshold": 2, "keys": policy_document()["signers"]["keys"]}},
    {"signers": {"threshold": 1, "keys": []}},
    {"signers": {"threshold": 1, "keys": [{"name": "short", "ed25519": "AAAA"}]}},
    {"signers": {"threshold": 1, "keys": policy_document()["signers"]["keys"] * 2}},
    {"varying": [varying(reason="")]},
    {"varying": [varying(event="whatever")]},
    {"varying": [varying(at_most=0)]},
    {"varying": [varying(surprise=1)]},
    {"varying": [varying(pcr=10)]},
    {"varying": [varying(pcr=7)]},
    {"varying": [varying(event="variable", vendor="x", name="y")]},
    {"varying": [varying(event="variable")]},
    {"varying": [varying(event="text")]},
    {"runtime": RUNTIME},
    {"pcrs": [0, 1, 10]},
    {"pcrs": [0, 1, 10], "runtime": {**RUNTIME, "surprise": 1}},
    {"pcrs": [0, 1, 10], "runtime": {**RUNTIME, "exclude": [{"path": "/srv/**"}]}},
]


@pytest.mark.parametrize("changes", SPOILT)
def test_a_policy_with_a_wrong_field_is_malformed(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedPolicy):
        policy(**changes)


@pytest.mark.parametrize("pcr", [0, 2, 4, 7, 8, 9, 11, 12, 14])
def test_events_of_any_content_are_refused_where_code_is_measured(pcr: int) -> None:
    with pytest.raises(MalformedPolicy, match="any content"):
        policy(pcrs=[0, pcr], varying=[varying(pcr=pcr, event="anything")])


@given(st.binary(max_size=400))
def test_any_bytes_are_a_policy_or_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse_policy(data)
