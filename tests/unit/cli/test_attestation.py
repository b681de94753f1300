"""The commands of attestation, over HTTP to a service that listens in this process; the nodes are simulated."""

import base64
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import pytest

from steelyard.client import attestation
from steelyard.service.database import Database
from tests.api import Api, client_of, make_api
from tests.attesting import identity, make_grounds, node_of, publish, terms
from tests.filling import filled
from tests.simulated_nodes import Lie, Refused, SimulatedNode
from tests.unit.cli.command import Command, Outcome, sign_in
from tests.unit.isolation.rig import Rack

STEELYARD: Final = str(Path(sys.executable).parent / "steelyard")
TERMS: Final = ("--makers", "makers", "--airlock", "airlock", "--runtime", "runtime")


@pytest.fixture
def api(sqlite_database: Database) -> Api:
    api = make_api(sqlite_database)
    make_grounds(sqlite_database)
    filled(sqlite_database, _have_nodes)
    return api


def _have_nodes(database: Database) -> None:
    for name in ("n1", "n2"):
        Rack(database).free(name)


@pytest.fixture
def url(home: Path, steelyard: Command) -> str:
    """Where the service listens; a member of red is signed in."""
    sign_in(steelyard, home, "member")
    return (home / "url").read_text()


@contextmanager
def enrolled(api: Api, url: str, name: str = "n1", **how: Any) -> Iterator[SimulatedNode]:
    """Give a node that is enrolled."""
    with node_of(url, name, **how) as made, client_of(url, api.tokens["member"]) as client:
        client.ask(attestation.enrol(name, **terms(made)))
        yield made


@pytest.fixture
def node(api: Api, url: str) -> Iterator[SimulatedNode]:
    with enrolled(api, url) as made:
        yield made


def fail(node: SimulatedNode, lie: Lie = Lie.CHANGED_FIRMWARE) -> None:
    """Let a node not pass."""
    node.tell(lie, other=SimulatedNode("n9", node.call))
    with pytest.raises(Refused):
        node.pass_airlock()


def good(outcome: Outcome) -> Outcome:
    assert outcome.exit_code == 0, outcome.errors
    return outcome


# -- enrolling ---------------------------------------------------------------------------------------------------------


def test_nodes_are_enrolled_with_what_isolation_publishes_of_them_and_pass(
    steelyard: Command, api: Api, url: str, tmp_path: Path
) -> None:
    with node_of(url) as node:
        publish(url, api.tokens["provider"], node)
        (tmp_path / "parameters.json").write_bytes(node.parameters)
        done = good(
            steelyard(
                *("attest", "enrol", "n1", "--from-isolation", *TERMS),
                *("--parameters", tmp_path / "parameters.json", "--json"),
            )
        )
        told = done.json()
        assert told["identity"] == json.loads(json.dumps(asdict(identity(node))))
        assert told["parameters_sha256"] == hashlib.sha256(node.parameters).hexdigest()
        assert (told["state"], told["interval_seconds"], told["grace_seconds"]) == ("unknown", 60, 30)
        node.pass_airlock()
    assert good(steelyard("attest", "show", "n1", "--require-passed", "--json")).json()["state"] == "passed"


def test_of_a_node_that_is_enrolled_only_what_is_said_changes(steelyard: Command, node: SimulatedNode) -> None:
    node.pass_airlock()
    before = steelyard("attest", "show", "n1", "--json").json()
    after = good(steelyard("attest", "enrol", "n1", "--no-runtime", "--grace", "45", "--json")).json()
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"runtime_policy", "grace_seconds", "version"}
    assert (after["runtime_policy"], after["grace_seconds"], after["state"]) == (None, 45, "passed")


def test_a_node_of_elsewhere_is_enrolled_by_what_its_provider_wrote(
    steelyard: Command, api: Api, url: str, tmp_path: Path
) -> None:
    with node_of(url) as node:
        publish(url, api.tokens["provider"], node)
        file = tmp_path / "n1.json"
        file.write_text(good(steelyard("node", "show", "n1", "--json")).output)
        rest = (*TERMS, "--any-parameters", "--json")
        told = good(steelyard("attest", "enrol", "n1", "--identity", file, *rest)).json()
        assert told["identity"]["endorsement_certificates"] == identity(node).endorsement_certificates
        assert told["parameters_sha256"] == "any"
        file.write_text(json.dumps(told["identity"]))
        assert good(steelyard("attest", "enrol", "n1", "--identity", file, *rest)).json() == told


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--from-isolation", "--any-parameters"], "--makers or --no-makers"),
        (["--any-parameters", *TERMS], "--from-isolation or --identity"),
        (["--from-isolation", *TERMS], "--parameters or --any-parameters"),
        (["--from-isolation", "--any-parameters", "--no-makers", *TERMS], "one of --makers, --no-makers"),
        (["--from-isolation", "--any-parameters", *TERMS], "of whose TPM the provider published something"),
    ],
)
@pytest.mark.usefixtures("url")
def test_what_decides_about_trust_must_be_said(steelyard: Command, arguments: list[str], expected: str) -> None:
    outcome = steelyard("attest", "enrol", "n1", *arguments)
    assert outcome.exit_code == 2
    assert expected in outcome.errors


def test_a_node_that_is_forgotten_is_there_no_more(steelyard: Command, node: SimulatedNode) -> None:
    good(steelyard("attest", "forget", node.name))
    assert steelyard("attest", "show", "n1").exit_code == 7
    with pytest.raises(Refused):
        node.pass_airlock()


# -- looking -----------------------------------------------------------------------------------------------------------


def test_nodes_are_listed_by_what_they_are(steelyard: Command, api: Api, url: str, node: SimulatedNode) -> None:
    node.pass_airlock()
    with enrolled(api, url, "n2") as other:
        fail(other)
    listed = good(steelyard("attest", "nodes", "--json")).json()["items"]
    assert [(each["name"], each["state"]) for each in listed] == [("n1", "passed"), ("n2", "failed")]
    [failed] = good(steelyard("attest", "nodes", "--state", "failed", "--json")).json()["items"]
    assert failed["name"] == "n2"
    table = good(steelyard("attest", "nodes")).output
    assert "n1" in table
    assert "airlock, runtime" in table


def test_show_ends_with_4_for_a_node_that_has_not_passed_where_that_is_asked(
    steelyard: Command, node: SimulatedNode
) -> None:
    good(steelyard("attest", "show", "n1"))
    assert steelyard("attest", "show", "n1", "--require-passed").exit_code == 4
    node.pass_airlock()
    good(steelyard("attest", "show", "n1", "--require-passed"))


def test_the_history_of_a_node_tells_what_was_wrong(steelyard: Command, node: SimulatedNode) -> None:
    fail(node)
    good(steelyard("attest", "retry", "n1", "--why", "put back"))
    node.tell()
    node.switch_on_again()
    node.pass_airlock()
    node.run_more(2)
    node.report()
    items = good(steelyard("attest", "history", "n1", "--json")).json()["items"]
    told = [(each["purpose"], each["passed"], each["ima_entries"]) for each in items]
    assert told == [("airlock", False, None), ("airlock", True, None), ("runtime", True, 3)]
    [failed] = good(steelyard("attest", "history", "n1", "--failed", "--json")).json()["items"]
    assert failed == items[0]
    assert "missing-measurement PCR 0, 1 more" in good(steelyard("attest", "history", "n1", "--failed")).output


# -- what is let happen ------------------------------------------------------------------------------------------------


def test_a_failed_node_may_try_again_when_somebody_says_why(steelyard: Command, node: SimulatedNode) -> None:
    assert steelyard("attest", "retry", "n1", "--why", "x").exit_code == 7
    fail(node)
    assert "put back" in good(steelyard("attest", "retry", "n1", "--why", "put back")).output
    told = good(steelyard("attest", "expect-reboots", "n1", "2", "--json")).json()
    assert (told["state"], told["expected_reboots"]) == ("unknown", 2)
    node.tell()
    node.switch_on_again()
    node.pass_airlock()
    told = good(steelyard("attest", "replace-tpm", "n1", "--why", "new mainboard", "--json")).json()
    assert (told["state"], told["endorsement_key_name"]) == ("unknown", None)


# -- why ---------------------------------------------------------------------------------------------------------------


def test_the_chain_of_trust_names_what_stands_behind_every_register(steelyard: Command, node: SimulatedNode) -> None:
    node.pass_airlock()
    told = good(steelyard("attest", "explain", "n1", "--json")).json()
    assert (told["verdict"], told["service"]) == (
        "passed",
        {"verdict": "passed", "agrees": True, "beyond_a_bundle": []},
    )
    assert told["quote"]["verified"]
    assert told["quote"]["parameters_sha256"] == hashlib.sha256(node.parameters).hexdigest()
    assert told["attestation_key"]["binding"] == "activated"
    by_pcr = {pcr["pcr"]: pcr["parts"] for pcr in told["pcrs"]}
    assert set(by_pcr) == {*range(10), 11, 12, 13, 14}
    firmware = [part for part in by_pcr[0] if part["kind"] == "component"]
    assert [(part["component"], part["signed_by"]) for part in firmware] == [
        ("ovmf", ["release"]),
        ("ovmf-pei", ["release"]),
    ]
    assert {part["component"] for part in by_pcr[11] if part["kind"] == "component"} == {"airlock"}
    drawn = good(steelyard("attest", "explain", "n1")).output
    assert drawn.startswith("PASSED: n1 for airlock by")
    assert "ovmf 1.0 (from-firmware, signed by release): events 1, 3" in drawn
    assert "may vary (boot entries differ between machines)" in drawn


def test_every_event_of_the_log_is_accounted_for(steelyard: Command, node: SimulatedNode) -> None:
    node.pass_airlock()
    told = steelyard("attest", "explain", "n1", "--json").json()
    numbers = [number for pcr in told["pcrs"] for part in pcr["parts"] for number in part["events"]]
    assert sorted(numbers) == list(range(1, max(numbers) + 1))


def test_what_is_wrong_is_drawn_where_it_is_with_what_was_expected(steelyard: Command, node: SimulatedNode) -> None:
    fail(node)
    outcome = steelyard("attest", "explain", "n1", "--json")
    assert outcome.exit_code == 4
    told = outcome.json()
    assert (told["verdict"], told["service"]["agrees"]) == ("rejected", True)
    wrong = [(pcr["pcr"], finding["where"]) for pcr in told["pcrs"] for finding in pcr["findings"]]
    assert (0, "PCR 0, event 3") in wrong
    assert {"kind": "incomplete", "component": "ovmf", "events": [1]} in told["pcrs"][0]["parts"]
    outcome = steelyard("attest", "explain", "n1")
    assert outcome.exit_code == 4
    lines = outcome.output.splitlines()
    [at] = [number for number, line in enumerate(lines) if "WRONG" in line and "PCR 0, event 3" in line]
    assert lines[at + 1].split()[0] == "expected"
    assert lines[at + 2].split()[0] == "found"


@pytest.mark.parametrize("lie", [Lie.SWAPPED_TRANSPORT_KEY, Lie.TRUNCATED_LOG, Lie.CHANGED_COMMAND_LINE])
def test_other_rejections_are_drawn_too(steelyard: Command, node: SimulatedNode, lie: Lie) -> None:
    fail(node, lie)
    outcome = steelyard("attest", "explain", "n1")
    assert outcome.exit_code == 4, outcome.errors
    assert "WRONG" in outcome.output
    assert "the service found the same" in outcome.output
    assert ("only claimed" in outcome.output) == (lie is Lie.SWAPPED_TRANSPORT_KEY)


@pytest.mark.parametrize("part", ["quote", "log"])
def test_what_cannot_be_read_is_rejected_and_drawn_like_anything_else(
    steelyard: Command, node: SimulatedNode, part: str
) -> None:
    node.join()
    asked = node.ask_challenge()
    whole = node.evidence(asked)
    sent = replace(whole, quote=b"no quote") if part == "quote" else replace(whole, event_log=b"no log")
    with pytest.raises(Refused):
        node.submit(asked, sent)
    outcome = steelyard("attest", "explain", "n1")
    assert outcome.exit_code == 4, outcome.errors
    assert f"WRONG bad-{part}" in outcome.output
    assert "the service found the same" in outcome.output
    assert ("only claimed" in outcome.output) == (part == "quote")


def test_a_report_at_run_time_is_explained_whole(steelyard: Command, node: SimulatedNode) -> None:
    node.pass_airlock()
    node.run_more(3)
    node.report()
    node.run_more(2)
    node.report()
    told = good(steelyard("attest", "explain", "n1", "--json")).json()
    [list_] = [pcr["parts"] for pcr in told["pcrs"] if pcr["pcr"] == 10]
    assert list_[0] == {"kind": "run-time list", "entries": 6, "events": []}
    assert {part["component"] for part in list_[1:]} == {"airlock", "tenant-files"}
    node.tell(Lie.UNKNOWN_FILE)
    with pytest.raises(Refused):
        node.report()
    outcome = steelyard("attest", "explain", "n1")
    assert outcome.exit_code == 4
    assert "WRONG unknown-file, IMA entry 7: /usr/local/bin/unknown" in outcome.output
    first = steelyard("attest", "history", "n1", "--json").json()["items"][0]["id"]
    good(steelyard("attest", "explain", "n1", "--appraisal", first))


def test_what_one_bundle_cannot_show_is_told_as_the_services_word(
    steelyard: Command, api: Api, url: str, node: SimulatedNode
) -> None:
    with client_of(url, api.tokens["member"]) as client:
        client.ask(attestation.enrol("n1", **terms(node, parameters_sha256="0" * 64)))
    with pytest.raises(Refused):
        node.pass_airlock()
    outcome = steelyard("attest", "explain", "n1", "--json")
    assert outcome.exit_code == 4
    told = outcome.json()
    assert (told["verdict"], told["service"]["verdict"], told["service"]["agrees"]) == ("passed", "rejected", True)
    [beyond] = told["service"]["beyond_a_bundle"]
    assert beyond["reason"] == "wrong-parameters"
    assert "this evidence alone cannot show" in steelyard("attest", "explain", "n1").output


def test_a_service_that_says_otherwise_than_the_evidence_is_not_believed(
    steelyard: Command, api: Api, node: SimulatedNode
) -> None:
    fail(node)
    with api.database.writing() as tx:
        tx.connection.exec_driver_sql("UPDATE appraisals SET findings = '[]'")
    outcome = steelyard("attest", "explain", "n1")
    assert outcome.exit_code == 4
    assert outcome.output.startswith("REJECTED: n1")
    assert "the service said passed of this evidence" in outcome.output


def test_evidence_is_judged_by_a_policy_of_ones_own_where_one_is_given(
    steelyard: Command, node: SimulatedNode, tmp_path: Path
) -> None:
    node.pass_airlock()
    good(steelyard("attest", "export", "n1", "--out", tmp_path / "n1"))
    policy = json.loads((tmp_path / "n1" / "policy.json").read_bytes())
    policy["components"] = [each for each in policy["components"] if each["component"] != "ovmf"]
    (tmp_path / "own.json").write_text(json.dumps(policy))
    own = ("--policy", tmp_path / "own.json", "--references", tmp_path / "n1" / "references")
    outcome = steelyard("attest", "explain", "n1", *own)
    assert outcome.exit_code == 4
    assert "REJECTED" in outcome.output
    assert "the service said passed of this evidence" in outcome.output
    assert steelyard("attest", "explain", "n1", *own[:2]).exit_code == 2


def test_nothing_is_explained_of_a_node_that_was_not_judged(steelyard: Command, node: SimulatedNode) -> None:
    outcome = steelyard("attest", "explain", node.name)
    assert outcome.exit_code == 2
    assert "nothing yet" in outcome.errors


def test_what_was_exported_is_judged_alike_without_the_service(
    steelyard: Command, node: SimulatedNode, tmp_path: Path
) -> None:
    node.pass_airlock()
    good(steelyard("attest", "export", "n1", "--out", tmp_path / "n1"))
    appraise = (
        *("evidence", "appraise", tmp_path / "n1" / "bundle.json", "--policy", tmp_path / "n1" / "policy.json"),
        *("--references", tmp_path / "n1" / "references"),
    )
    assert good(steelyard(*appraise, "--json")).json()["verdict"] == "passed"


# -- verdicts and their keys -------------------------------------------------------------------------------------------


def test_a_verdict_is_written_for_a_node_that_has_passed(
    steelyard: Command, node: SimulatedNode, tmp_path: Path
) -> None:
    file = tmp_path / "n1.jwt"
    assert steelyard("attest", "verdict", "n1", "--out", file).exit_code == 7
    node.pass_airlock()
    good(steelyard("attest", "verdict", "n1", "--out", file))
    claims = file.read_text().strip().split(".")[1]
    assert json.loads(base64.urlsafe_b64decode(claims + "=="))["sub"] == "n1"


@pytest.mark.usefixtures("url")
def test_keys_are_listed_and_the_provider_makes_a_new_one(steelyard: Command, home: Path) -> None:
    [before] = good(steelyard("attest", "keys", "--json")).json()["keys"]
    assert good(steelyard("attest", "keys", "--pem")).output == before["pem"]
    assert steelyard("attest", "rotate-key").exit_code == 7
    sign_in(steelyard, home, "provider")
    good(steelyard("attest", "rotate-key"))
    now, old = good(steelyard("attest", "keys", "--json")).json()["keys"]
    assert (now["signs"], old["signs"], old["kid"]) == (True, False, before["kid"])
    assert "no more" in good(steelyard("attest", "keys")).output


# -- watching ----------------------------------------------------------------------------------------------------------


def test_what_a_node_becomes_is_told_as_it_happens_until_it_is_what_is_waited_for(
    steelyard: Command, node: SimulatedNode
) -> None:
    watching = subprocess.Popen(
        [STEELYARD, "attest", "watch", "n1", "--until", "passed", "--json", "--after", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    node.join()
    first = json.loads(watching.stdout.readline())
    assert first["verb"] == "attestation.registered"
    asked = node.ask_challenge()
    node.submit(asked, node.evidence(asked))
    output, _ = watching.communicate(timeout=60)
    assert watching.returncode == 0
    assert [json.loads(line)["verb"] for line in output.splitlines()] == [
        "attestation.challenged",
        "attestation.passed",
    ]
    good(steelyard("attest", "watch", "n1", "--until", "passed"))


def test_waiting_for_a_pass_ends_with_4_when_the_node_fails(node: SimulatedNode) -> None:
    watching = subprocess.Popen(
        [STEELYARD, "attest", "watch", "n1", "--until", "passed", "--after", "0", "--all"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    assert "n1: enrolled" in watching.stdout.readline()
    fail(node)
    output, _ = watching.communicate(timeout=60)
    assert watching.returncode == 4
    assert "n1: unknown -> registered" in output
    assert "n1: challenged -> failed" in output


@pytest.mark.usefixtures("url")
def test_who_waits_says_for_what_nodes(steelyard: Command) -> None:
    assert steelyard("attest", "watch", "--until", "passed").exit_code == 2
