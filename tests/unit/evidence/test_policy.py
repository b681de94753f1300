"""Policies: nothing by default, nothing unknown, nothing empty."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.evidence.policy import (
    FileSigner,
    MeasuredBuffer,
    PathRule,
    RuntimeRules,
    Standing,
    VariableMatch,
    parse_policy,
)
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import Malformed, MalformedPolicy, TooLarge, WrongUse
from steelyard.model.limits import POLICY_RULES
from steelyard.model.pcrs import PcrSelection
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
    {"varying": [varying(pcr=10, event="text", pattern="x")], "pcrs": [0, 10], "runtime": RUNTIME},
    {"signers": {**policy_document()["signers"], "surprise": 1}},
    {"signers": {"threshold": 1, "keys": [{**policy_document()["signers"]["keys"][0], "surprise": 1}]}},
    {"varying": [varying(pcr=7, event="text", pattern="x")]},
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


def test_rules_are_for_quoted_pcrs_those_that_fit_much_where_no_code_is_measured() -> None:
    rules = [*(varying(pcr=pcr) for pcr in (1, 3, 5, 6)), varying(pcr=4, event="text", pattern="x")]
    assert [rule.pcr for rule in policy(pcrs=list(range(8)), varying=rules).varying] == [1, 3, 5, 6, 4]


def test_run_time_rules_are_read() -> None:
    signer = {
        "name": "vendor",
        "certificate": "AAEC",
        "paths": ["/usr/**"],
        "not_after": "2027-01-01T00:00:00Z",
        "standing": "revoked",
    }
    buffer = {"name": ".ima", "sha256": "00" * 32}
    exclusion = {"path": "/run/**", "reason": "made at boot"}
    rules = {
        "exclude": [exclusion],
        "tolerate_violations": [{"path": "/var/log/*", "reason": "written while read"}],
        "signers": [signer],
        "buffers": [buffer],
    }
    assert policy(pcrs=[0, 10], runtime=rules).runtime == RuntimeRules(
        exclude=(PathRule("/run/**", "made at boot"),),
        tolerate_violations=(PathRule("/var/log/*", "written while read"),),
        signers=(FileSigner("vendor", b"\0\1\2", ("/usr/**",), datetime(2027, 1, 1, tzinfo=UTC), Standing.REVOKED),),
        buffers=(MeasuredBuffer(".ima", bytes(32)),),
    )
    for name, entry in (("signers", signer), ("buffers", buffer), ("exclude", exclusion)):
        for spoilt in ({**entry, "surprise": 1}, dict(list(entry.items())[1:])):
            with pytest.raises(MalformedPolicy):
                policy(pcrs=[0, 10], runtime={**rules, name: [spoilt]})
    with pytest.raises(TooLarge):
        policy(pcrs=[0, 10], runtime={**rules, "signers": [{**signer, "paths": ["/a"] * (POLICY_RULES.most + 1)}]})


def test_a_policy_is_never_of_a_bank_that_proves_nothing() -> None:
    with pytest.raises(WrongUse, match="SHA-256 or better"):
        replace(policy(), selection=PcrSelection(HashAlgorithm.SHA1, frozenset({0, 1})))


@pytest.mark.parametrize("event", ["anything", "load-option", "boot-order"])
@pytest.mark.parametrize("pcr", [0, 2, 4, 7, 8, 9, 11, 12, 14])
def test_rules_that_fit_much_are_refused_where_code_is_measured(pcr: int, event: str) -> None:
    with pytest.raises(MalformedPolicy, match="any content"):
        policy(pcrs=[0, pcr], varying=[varying(pcr=pcr, event=event)])


@given(st.binary(max_size=400))
def test_any_bytes_are_a_policy_or_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse_policy(data)
