"""The whole of it, from registration to silence, by machines that are not there."""

import base64
import hashlib
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import OKPKey
from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy import func, insert, select

from steelyard.attestation import archive, enrolling, shares, verdicts
from steelyard.attestation.life import State
from steelyard.attestation.objects import AnyParameters, DemandedMakers, Endorsements, NoMakers
from steelyard.attestation.service import NodeFigures
from steelyard.attestation.tables import appraisals, boots, grounds, kept, maker_sets, verdict_keys
from steelyard.isolation.admission import admit
from steelyard.isolation.objects import VerdictAdmission
from steelyard.model.errors import NotAdmitted, WrongState
from steelyard.model.secret import Secret
from tests import simulated_references as references
from tests.attestation_site import FILES, GRACE, INTERVAL, PROVIDER, RED, SEALER, Site
from tests.simulated_boots import SHA256
from tests.simulated_nodes import BOOT_LIES, REGISTRATION_LIES, RUNTIME_LIES, Lie, Refused, SimulatedNode
from tests.simulated_tpm import Endorsement, RealTpm, make_tpm
from tests.tpm import EndorsementKind, SoftwareTpm
from tests.unit.cli.command import Command
from tests.unit.isolation import things

V = Secret(bytes(range(32)))


def leave_share(site: Site, name: str = "n1") -> None:
    with site.database.writing() as tx:
        shares.deposit(tx, SEALER, RED, name=name, share=V)


def verdict(site: Site, name: str = "n1") -> str:
    with site.database.reading() as connection:
        return enrolling.get_verdict(connection, RED, node=name, now=site.clock())


def claims(site: Site, token: str) -> dict[str, Any]:
    """Return what a library that is not ours reads in a verdict, by the published key."""
    [key, *_] = site.send("GET", "/v1/attestation/keys").json()["keys"]
    jwk = OKPKey.import_key({name: key[name] for name in ("kty", "crv", "x", "kid")})
    return dict(jwt.decode(token, jwk, algorithms=["Ed25519"]).claims)


# -- the good way ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", Endorsement)
def test_an_honest_node_passes_the_airlock_and_every_report(site: Site, kind: Endorsement) -> None:
    node = site.enrolled(kind=kind)
    assert site.shown() is State.UNKNOWN
    node.join()
    assert site.shown() is State.REGISTERED
    asked = node.ask_challenge()
    assert site.shown() is State.CHALLENGED
    node.submit(asked, node.evidence(asked))
    assert site.shown() is State.PASSED
    for count in (0, 3, 100):
        node.run_more(count)
        assert node.report().seconds_to_next == 60
        assert site.shown() is State.PASSED
    assert [each.ima_entries for each in site.appraisals()] == [None, 1, 4, 104]


def test_a_steady_report_is_one_request_and_sends_only_what_is_new(site: Site) -> None:
    node = site.enrolled()
    node.pass_airlock()
    node.report()
    before = len(site.requests)
    node.run_more(2)
    node.report()
    node.report()
    assert [each.split("/")[-1] for each in site.requests[before:]] == ["evidence", "evidence"]
    assert [each.ima_first for each in site.appraisals()[-2:]] == [1, 3]


def test_a_node_without_a_policy_for_what_runs_is_asked_nothing_more(site: Site) -> None:
    node = site.enrolled(runtime=None)
    assert node.pass_airlock().seconds_to_next is None
    with pytest.raises(Refused, match="wrong-state"):
        node.ask_runtime_challenge()


def test_a_tpm_without_certificate_is_known_by_its_published_key(site: Site) -> None:
    node = SimulatedNode("n1", site.call)
    digest = hashlib.sha256(node.tpm.keys().endorsement_key).digest()
    site.enrol(node, endorsements=Endorsements({}, (digest,)), makers=NoMakers())
    node.pass_airlock()
    said = claims(site, verdict(site))["submods"]["n1"]
    assert "hardware" not in said["ear.trustworthiness-vector"], "no maker stands behind it"


# -- verdicts ----------------------------------------------------------------------------------------------------------


def test_isolation_admits_a_node_by_its_verdict(site: Site) -> None:
    node = site.enrolled()
    token = node.pass_airlock().verdict
    [key] = site.send("GET", "/v1/attestation/keys").json()["keys"]
    network = replace(things.a_network(), admission=VerdictAdmission(key["pem"].strip(), timedelta(minutes=5)))
    began = site.clock() - timedelta(seconds=1)
    assert admit(network, things.a_node(), token, began, site.clock()) == site.clock()
    with pytest.raises(NotAdmitted):
        admit(network, replace(things.a_node(), name="n2"), token, began, site.clock())
    site.clock.forward(timedelta(hours=1))
    with pytest.raises(NotAdmitted):
        admit(network, things.a_node(), token, began, site.clock())


def test_a_verdict_says_which_keys_parameters_boot_and_policy_it_is_about(site: Site) -> None:
    node = site.enrolled()
    node.join()
    asked = node.ask_challenge()
    evidence = node.evidence(asked)
    read = claims(site, node.submit(asked, evidence).verdict)
    said = read["submods"]["n1"]
    assert said["ear.status"] == "affirming"
    assert said["steelyard.boot"] == asked.nonce.hex()
    assert said["steelyard.transport-key"] == evidence.transport_key.hex()
    assert said["steelyard.wireguard-key"] == evidence.wireguard_key.hex()
    assert said["steelyard.parameters-sha256"] == hashlib.sha256(evidence.parameters).hexdigest()
    digest = hashlib.sha256(site.policies.documents["airlock"]).hexdigest()
    assert said["ear.appraisal-policy-id"] == f"airlock/1/{digest}"
    assert said["steelyard.purpose"] == "airlock"
    later = claims(site, node.report().verdict)["submods"]["n1"]
    assert (later["steelyard.purpose"], later["steelyard.boot"]) == ("runtime", asked.nonce.hex())
    assert read["exp"] <= int((site.clock() + timedelta(seconds=900)).timestamp())


def test_a_verdict_never_outlives_the_references_that_it_rests_on(site: Site) -> None:
    node = site.enrolled()
    site.clock.forward(timedelta(days=364, hours=23, minutes=55))
    token = node.pass_airlock().verdict
    ends = claims(site, token)["exp"]
    assert ends - int(site.clock().timestamp()) == 300


def test_an_old_key_is_published_until_its_last_verdict_has_expired(site: Site) -> None:
    node = site.enrolled()
    old = node.pass_airlock().verdict
    with site.database.writing() as tx:
        verdicts.rotate(tx, SEALER, actor="pia", longest=site.means.longest)
    fresh = node.report().verdict
    published = {key["kid"]: key["signs"] for key in site.send("GET", "/v1/attestation/keys").json()["keys"]}
    kids = [jwt_header(token)["kid"] for token in (fresh, old)]
    assert published == {kids[0]: True, kids[1]: False}
    site.clock.forward(site.means.longest + timedelta(seconds=1))
    site.keeping.tidy()
    assert [key["kid"] for key in site.send("GET", "/v1/attestation/keys").json()["keys"]] == kids[:1]
    with site.database.reading() as connection:
        assert connection.execute(select(func.count()).select_from(verdict_keys)).scalar() == 1


def jwt_header(token: str) -> dict[str, str]:
    part = token.split(".")[0]
    header: dict[str, str] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return header


# -- lies --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lie", BOOT_LIES)
def test_a_lie_about_the_boot_fails_the_node_and_says_why(site: Site, lie: Lie) -> None:
    node, other = site.enrolled(), site.enrolled("n2")
    other.join()
    node.tell(lie, other=other)
    with pytest.raises(Refused) as refused:
        node.pass_airlock()
    problem = refused.value.problem
    assert (problem["status"], problem["code"]) == (422, "not-passed")
    assert problem["reasons"]
    assert all(set(each) == {"reason", "where", "subject"} for each in problem["reasons"]), "no expected digests"
    assert site.shown() is State.FAILED
    assert site.appraisals()[-1].findings
    assert site.journal()[-1] == "attestation.failed"


@pytest.mark.parametrize("lie", RUNTIME_LIES)
def test_a_lie_at_run_time_fails_the_node_and_says_why(site: Site, lie: Lie) -> None:
    node, other = site.enrolled(), site.enrolled("n2")
    other.join()
    node.pass_airlock()
    node.report()
    node.tell(lie, other=other)
    if lie is Lie.REPLAYED_QUOTE:
        node.runtime_evidence(node.ask_runtime_challenge())
        node._next = None
    with pytest.raises(Refused) as refused:
        node.report()
    assert refused.value.status == 422
    assert site.shown() is State.FAILED


@pytest.mark.parametrize("lie", REGISTRATION_LIES)
def test_who_is_not_the_node_cannot_register_as_it(site: Site, lie: Lie) -> None:
    node, other = site.enrolled(), site.enrolled("n2")
    node.pass_airlock()
    liar = other if lie is Lie.ANOTHER_NODES_NAME else SimulatedNode("n1", site.call)
    liar.tell(lie, other=node if lie is Lie.ANOTHER_NODES_NAME else other)
    with pytest.raises(Refused) as refused:
        liar.join()
    assert refused.value.status == 403
    assert site.shown() is State.PASSED, "the true node's state is as it was"


def test_parameters_that_are_not_the_nodes_fail_it(site: Site) -> None:
    node = site.enrolled()
    node.parameters = b'{"attestation": "https://elsewhere"}'
    with pytest.raises(Refused) as refused:
        node.pass_airlock()
    assert [each["reason"] for each in refused.value.problem["reasons"]] == ["wrong-parameters"]
    [found] = site.appraisals()[-1].findings
    assert hashlib.sha256(node.parameters).hexdigest() in found.found


def test_any_parameters_do_where_that_was_said(site: Site) -> None:
    node = site.enrolled(parameters=AnyParameters())
    node.parameters = b"whatever"
    node.pass_airlock()


# -- reboots, silence, and what its owner does -------------------------------------------------------------------------


def test_a_reboot_through_the_airlock_is_another_boot(site: Site) -> None:
    node = site.enrolled()
    node.pass_airlock()
    node.run_more(2)
    node.report()
    first = site.node().boot
    node.switch_on_again()
    node.pass_airlock()
    node.report()
    assert site.node().boot != first
    assert site.shown() is State.PASSED


def test_a_reset_that_nobody_expected_fails_the_node(site: Site) -> None:
    node = site.enrolled()
    node.pass_airlock()
    node.report()
    keys = node.transport, node.wireguard
    node.switch_on_again()
    node.transport, node.wireguard = keys
    with pytest.raises(Refused) as refused:
        node.report()
    assert "rebooted" in {each["reason"] for each in refused.value.problem["reasons"]}
    assert site.shown() is State.FAILED


def test_an_expected_reset_is_judged_as_another_boot_whole(site: Site) -> None:
    node = site.enrolled()
    node.pass_airlock()
    node.run_more(5)
    node.report()
    with site.database.writing() as tx:
        enrolling.expect_reboots(tx, RED, name="n1", count=1)
    keys = node.transport, node.wireguard
    node.switch_on_again()
    node.transport, node.wireguard = keys
    asked = node.ask_runtime_challenge()
    node.submit_runtime(asked, node.runtime_evidence(replace(asked, from_entry=0)))
    assert site.node().expected_reboots == 0
    node.run_more(2)
    node.report()
    assert [each.ima_entries for each in site.appraisals()][-3:] == [6, 1, 3]
    with site.database.reading() as connection:
        bundle = archive.make_bundle(connection, site.appraisals()[-1])
    assert bundle.evidence.ima_list is not None
    assert bundle.evidence.ima_list.data == node.measurements.after(0)


def test_silence_makes_a_node_overdue_and_then_failed(site: Site) -> None:
    node = site.enrolled()
    node.pass_airlock()
    node.report()
    site.clock.forward(INTERVAL + GRACE)
    assert site.shown() is State.OVERDUE, "shown so before anybody wrote it"
    assert site.node().state is State.PASSED
    with pytest.raises(Exception, match="one that exists"):
        verdict(site)
    site.keeping.look()
    assert site.node().state is State.OVERDUE
    site.clock.forward(GRACE)
    site.keeping.look()
    assert site.node().state is State.FAILED
    assert site.journal()[-2:] == ["attestation.overdue", "attestation.failed"]


def test_a_late_report_within_the_second_grace_passes_again(site: Site) -> None:
    node = site.enrolled()
    node.pass_airlock()
    node.report()
    site.clock.forward(INTERVAL + GRACE)
    site.keeping.look()
    node._next = None
    node.report()
    assert site.shown() is State.PASSED


def test_the_figures_have_nodes_by_what_they_are_shown_to_be(site: Site) -> None:
    registry = CollectorRegistry()
    registry.register(NodeFigures(site.database))

    def told() -> dict[str, int]:
        found = {
            each.value: registry.get_sample_value("steelyard_attestation_nodes", {"state": each.value})
            for each in State
        }
        return {state: int(count or 0) for state, count in found.items() if count != 0}

    assert told() == {}
    assert 'state="failed"} 0.0' in generate_latest(registry).decode(), "none is a figure too"
    site.enrolled("n1")
    for name in ("n2", "n3"):
        site.enrolled(name).pass_airlock()
    assert told() == {"unknown": 1, "passed": 2}
    site.clock.forward(timedelta(days=1))
    assert told() == {"unknown": 1, "overdue": 2}, "before anybody wrote it"


def test_a_node_that_has_nothing_to_report_is_overdue_and_not_failed(site: Site) -> None:
    node = site.enrolled(runtime=None)
    node.pass_airlock()
    site.clock.forward(timedelta(days=1))
    site.keeping.look()
    site.keeping.look()
    assert site.node().state is State.OVERDUE


def test_a_failed_node_stays_failed_until_it_is_let_try_again(site: Site) -> None:
    node = site.enrolled()
    node.tell(Lie.CHANGED_FIRMWARE)
    with pytest.raises(Refused):
        node.pass_airlock()
    node.tell()
    node.switch_on_again()
    with pytest.raises(Refused, match="wrong-state"):
        node.pass_airlock()
    with site.database.writing() as tx:
        enrolling.retry(tx, RED, name="n1", why="the firmware was flashed again")
    assert site.shown() is State.UNKNOWN
    node.pass_airlock()
    assert site.shown() is State.PASSED


def test_a_replaced_tpm_is_known_only_when_somebody_said_so(site: Site) -> None:
    node = site.enrolled()
    node.pass_airlock()
    known = node.tpm
    spare = SimulatedNode("spare", site.call)
    both = {
        "one": site.terms(node).endorsements.certificates["one"],
        "two": site.terms(spare).endorsements.certificates["one"],
    }
    site.enrol(node, endorsements=Endorsements(both, ()))
    node.pass_airlock()
    node.tpm = spare.tpm
    node.switch_on_again()
    with pytest.raises(Refused) as refused:
        node.join()
    assert refused.value.status == 403
    assert site.shown() is State.PASSED
    with site.database.writing() as tx:
        enrolling.replace_tpm(tx, RED, name="n1", why="the board was changed")
    assert site.shown() is State.UNKNOWN
    assert "attestation.unknown" in site.journal()
    node.pass_airlock()
    node.tpm = known
    with pytest.raises(Refused):
        node.join()


def test_other_terms_of_who_a_node_is_end_its_boot_and_other_intervals_do_not(site: Site) -> None:
    node = site.enrolled()
    node.pass_airlock()
    site.enrol(node, interval=timedelta(seconds=10))
    assert site.shown() is State.PASSED
    site.enrol(node, parameters=AnyParameters())
    assert site.shown() is State.UNKNOWN
    with pytest.raises(Refused) as refused:
        node.report()
    assert refused.value.status == 401


# -- shares ------------------------------------------------------------------------------------------------------------


def test_a_share_is_given_out_once_a_boot_to_a_node_that_passed(site: Site) -> None:
    node = site.enrolled()
    node.join()
    leave_share(site)
    with pytest.raises(Refused, match="409"):
        node.fetch_share()
    asked = node.ask_challenge()
    node.submit(asked, node.evidence(asked))
    assert node.fetch_share() == V
    leave_share(site)
    with pytest.raises(Refused, match="409"):
        node.fetch_share()
    assert site.journal()[-1] == "attestation.share-asked-again"
    node.switch_on_again()
    node.pass_airlock()
    assert node.fetch_share() == V


def test_a_share_is_not_in_the_database_in_the_clear_and_gone_when_it_was_given_out(site: Site) -> None:
    node = site.enrolled()
    leave_share(site)
    dump = "".join(site.database.engine.raw_connection().iterdump())
    assert V.reveal().hex() not in dump.lower()
    node.pass_airlock()
    node.fetch_share()
    with site.database.reading() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM attested_shares").scalar() == 0


# -- policies ----------------------------------------------------------------------------------------------------------


def test_a_policy_that_changes_while_a_quote_is_in_flight_judges_nothing_of_it(site: Site) -> None:
    """Attack 15: judged wholly by the version that was in force when it was asked, and the verdict names it."""
    node = site.enrolled()
    node.pass_airlock()
    node.report()
    site.policies.documents["runtime"] = references.runtime_policy(version=2)
    judged = node.report()
    assert site.appraisals()[-1].policy.version == 1
    assert judged.seconds_to_next == 1, "it is to be judged by the new one at once"
    node.report()
    assert site.appraisals()[-1].policy.version == 2


def test_a_new_policy_judges_the_whole_boot_without_being_sent_it_again(site: Site) -> None:
    node = site.enrolled()
    node.pass_airlock()
    node.run_more(50)
    node.report()
    site.policies.documents["runtime"] = references.runtime_policy(version=2)
    site.policies.envelopes = tuple(references.signed_references(20, site.clock()).values())
    node.report()
    asked = node.ask_runtime_challenge()
    assert asked.from_entry == 51
    with pytest.raises(Refused) as refused:
        node.submit_runtime(asked, node.runtime_evidence(asked))
    assert len(refused.value.problem["reasons"]) == 30, "files that were good, and are not any more"


def test_a_node_whose_policy_is_not_there_cannot_be_asked(site: Site) -> None:
    node = site.enrolled(airlock="absent")
    with pytest.raises(Refused, match="wrong-state"):
        node.pass_airlock()
    assert site.shown() is State.REGISTERED


# -- the archive -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lie", [None, Lie.CHANGED_FIRMWARE, Lie.EDITED_LOG, Lie.UNKNOWN_FILE])
def test_what_was_judged_is_judged_alike_offline_by_the_command(
    site: Site, steelyard: Command, tmp_path: Path, lie: Lie | None
) -> None:
    node = site.enrolled()
    if lie is not None and lie is not Lie.UNKNOWN_FILE:
        node.tell(lie)
        with pytest.raises(Refused):
            node.pass_airlock()
    else:
        node.pass_airlock()
        for count in (3, 7):
            node.run_more(count)
            node.report()
        if lie is not None:
            node.tell(lie)
            with pytest.raises(Refused):
                node.report()
    headers = {"Authorization": f"Bearer {site.token()}"}
    for record in site.appraisals():
        where = f"/v1/attestation/nodes/n1/appraisals/{record.id}"
        shown = site.send("GET", where, headers=headers).json()
        (tmp_path / "bundle.json").write_bytes(site.send("GET", f"{where}/bundle", headers=headers).content)
        rested = site.send("GET", f"{where}/grounds", headers=headers).json()
        (tmp_path / "policy.json").write_bytes(base64.b64decode(rested["policy"]))
        (tmp_path / "references").mkdir(exist_ok=True)
        for number, envelope in enumerate(rested["references"]):
            (tmp_path / "references" / f"{number}.json").write_bytes(base64.b64decode(envelope))
        done = steelyard(
            *("evidence", "appraise", tmp_path / "bundle.json", "--policy", tmp_path / "policy.json"),
            *("--references", tmp_path / "references", "--json"),
        )
        judged = done.json()
        assert (judged["verdict"] == "passed") == shown["passed"]
        assert [each["reason"] for each in judged.get("findings", [])] == [each["reason"] for each in shown["findings"]]


def test_what_is_kept_long_enough_goes_and_what_a_running_boot_needs_stays(site: Site) -> None:
    node, other = site.enrolled(), site.enrolled("n2")
    for each in (node, other):
        each.pass_airlock()
        each.run_more(2)
        each.report()
        each.report()
    with site.database.writing() as tx:
        enrolling.delete_node(tx, RED, name="n2", expected_version=None)
    site.clock.forward(timedelta(days=31))
    site.keeping.tidy()
    with site.database.reading() as connection:
        left = connection.execute(select(appraisals.c.node, appraisals.c.purpose)).all()
        assert {row.node for row in left} == {"n1"}
        assert connection.execute(select(func.count()).select_from(boots)).scalar() == 1
        assert archive.read_list(connection, site.node().boot or "", until=None) == node.measurements.after(0)
        kept_now = connection.execute(select(func.count()).select_from(kept)).scalar()
    with site.database.writing() as tx:
        enrolling.delete_node(tx, RED, name="n1", expected_version=None)
    site.clock.forward(timedelta(days=31))
    site.keeping.tidy()
    site.keeping.tidy()
    with site.database.reading() as connection:
        for table in (appraisals, boots, grounds, kept):
            assert connection.execute(select(func.count()).select_from(table)).scalar() == 0, (table, kept_now)


def test_the_makers_that_a_node_needs_must_be_there(site: Site) -> None:
    node = site.enrolled()
    with pytest.raises(Exception, match="makers"):
        site.enrol(node, makers=DemandedMakers("absent"))


def test_what_is_not_in_the_table_of_states_changes_nothing(site: Site) -> None:
    site.enrolled()
    before = site.node()
    with site.database.writing() as tx, pytest.raises(WrongState):
        enrolling.retry(tx, PROVIDER, name="n1", why="for nothing")
    assert site.node() == before
    assert FILES


# -- a real TPM --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [EndorsementKind.RSA_2048, pytest.param(EndorsementKind.ECC_P384, marks=pytest.mark.slow)],
)
def test_a_real_tpm_registers_passes_and_reports(site: Site, tmp_path: Path, kind: EndorsementKind) -> None:
    """One that swtpm emulates, with a certificate of its own maker; it extends what a machine's firmware would."""
    with SoftwareTpm(tmp_path / "tpm") as tpm:
        node = SimulatedNode("n1", site.call, RealTpm(tpm, kind))
        site.clock.forward(timedelta(hours=1))  # its certificate is of just now
        with site.database.writing() as tx:
            tx.connection.execute(
                insert(maker_sets).values(
                    project="red",
                    name="swtpm",
                    certificates=[each.decode() for each in tpm.read_authority()],
                    revocations=[],
                    demands=["usage"],
                    version=1,
                )
            )
        site.enrol(node, makers=DemandedMakers("swtpm"))
        node.pass_airlock()
        node.run_more(3)
        node.report()
        assert site.shown() is State.PASSED
        thief = SimulatedNode("n1", site.call, make_tpm(Endorsement.RSA_2048))
        with pytest.raises(Refused):
            thief.join()
        node.tpm.extend(4, {SHA256: bytes(32)})
        with pytest.raises(Refused) as refused:
            node.report()
        assert refused.value.status == 422
        assert site.shown() is State.FAILED


def test_the_steps_that_the_agent_tells_are_taken_in_its_own_words(site: Site) -> None:
    node = site.enrolled()
    node.join()
    for step in ("quoting", "being judged", "getting the verifier's share"):
        node.tell_step(step, "done", "")
    assert site.node().step is not None
