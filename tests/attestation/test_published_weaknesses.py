"""What went wrong in other attestation services, and every attack on a service that applies here, must not be possible.

Each test is named after its row in the table of published weaknesses, or after its attack.
"""

import base64
import hashlib
import json
import stat
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from steelyard.attestation import enrolling, keeping, rules, shares, verifier
from steelyard.attestation.life import State
from steelyard.attestation.messages import Claimed, Keys
from steelyard.attestation.objects import Purpose
from steelyard.attestation.registrar import PENDING, REGISTRATION
from steelyard.attestation.throttle import Buckets, Rate
from steelyard.evidence.keysplit import split_key
from steelyard.evidence.tpm.activation import activation_proof
from steelyard.evidence.tpm.attest import parse_tpms_attest
from steelyard.evidence.tpm.identifiers import TpmaObject
from steelyard.evidence.tpm.public import parse_tpmt_public
from steelyard.evidence.tpm.quote import SignedQuote
from steelyard.model.errors import ServiceUnready
from steelyard.model.secret import Secret
from steelyard.service.configuration import check_directory
from tests.attestation_site import GRACE, INTERVAL, RED, SEALER, Site
from tests.simulated_nodes import Lie, Refused, SimulatedNode
from tests.simulated_tpm import Maker, SimulatedTpm, make_tpm

V = Secret(bytes(range(32)))


def refused(work: Callable[[], object]) -> Refused:
    with pytest.raises(Refused) as caught:
        work()
    return caught.value


def registration(simulated: SimulatedNode, **changes: Any) -> dict[str, Any]:
    """Return the body that registers a node, with something changed."""
    keys = simulated.tpm.keys()
    body = {
        "node": simulated.name,
        "endorsement_key": text(keys.endorsement_key),
        "endorsement_certificates": [text(each) for each in keys.endorsement_certificates],
        "attestation_key": text(keys.attestation_key),
    }
    return body | changes


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def register(site: Site, body: object) -> Any:
    return site.send("POST", "/v1/attestation/registrations", json=body)


def spoken(site: Site) -> str:
    """Return all that the database holds, as text."""
    return "\n".join(site.database.engine.raw_connection().iterdump())


# -- the published ones ------------------------------------------------------------------------------------------------


def test_cve_2021_3406_the_chain_from_maker_to_attestation_key_is_enforced_at_registration(site: Site) -> None:
    """Attacks 1 and 2: another maker; no certificate; keys that are no attestation keys; a certificate for another."""
    forger = SimulatedNode("n1", site.call, make_tpm(made_by=Maker("Somebody else")))
    site.enrol(forger)
    assert register(site, registration(forger)).status_code == 403
    node = site.enrolled("n2")
    other = SimulatedNode("n3", site.call)
    area = parse_tpmt_public(node.tpm.keys().attestation_key)
    for forbidden in (TpmaObject.RESTRICTED, TpmaObject.FIXED_TPM, TpmaObject.FIXED_PARENT, TpmaObject.SIGN_ENCRYPT):
        loose = replace(area, attributes=area.attributes & ~forbidden)
        answer = register(site, registration(node, attestation_key=text(loose.to_bytes())))
        assert (answer.status_code, answer.json()["code"]) == (403, "key-rejected")
    swapped = registration(node, endorsement_key=text(other.tpm.keys().endorsement_key))
    assert register(site, swapped).status_code == 403
    assert register(site, registration(node)).status_code == 201, "else nothing was wrong with it"
    assert site.shown("n2") is State.UNKNOWN


def test_cve_2021_43310_nobody_can_have_or_send_key_shares_again(site: Site) -> None:
    """Attack 34: a second time; by another node; before the pass; after a failure; by somebody who is not the owner."""
    node, other = site.enrolled(), site.enrolled("n2")
    with site.database.writing() as tx:
        shares.deposit(tx, SEALER, RED, name="n1", share=V)
    node.join()
    assert refused(node.fetch_share).status == 409
    asked = node.ask_challenge()
    node.submit(asked, node.evidence(asked))
    other.pass_airlock()
    token = other.token.reveal().decode() if other.token else ""
    answer = site.send("GET", "/v1/attestation/nodes/n1/share", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 404, "as if there were no such node"
    assert node.fetch_share() == V
    assert refused(node.fetch_share).status == 409
    stranger = {"Authorization": f"Bearer {site.token('eve', 'blue')}"}
    put = site.send("PUT", "/v1/attestation/nodes/n1/share", json={"share": text(bytes(32))}, headers=stranger)
    assert put.status_code == 404
    node.tell(Lie.UNKNOWN_FILE)
    with site.database.writing() as tx:
        shares.deposit(tx, SEALER, RED, name="n1", share=V)
    refused(node.report)
    assert refused(node.fetch_share).status == 409


def test_neither_share_alone_tells_anything_of_the_key() -> None:
    key, u = Secret(bytes(range(32))), Secret(bytes([7]) * 32)
    v = split_key(key, u)
    assert split_key(v, u) == key
    other = Secret(bytes(32))
    assert split_key(split_key(other, v), v) == other, "for every key there is a U that goes with this V"


@pytest.mark.parametrize(
    "name", ["a/b", "a\0b", "a\nb", "../n1", "n" * 10_000, "\uff4e1", "n1 ", "N1", "-n1", "", "a\x1b[31mb"]
)
def test_cve_2022_23949_names_that_are_not_sane_are_refused_and_reach_no_log_unescaped(
    site: Site, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Attack 5."""
    node = SimulatedNode("n1", site.call)
    answer = register(site, registration(node, node=name))
    assert answer.status_code in (400, 422)
    assert "\x1b[31m" not in capsys.readouterr().out
    assert "\x1b" not in answer.text


def test_cve_2022_23950_bodies_that_are_large_or_deep_or_compressed_are_bounded(site: Site) -> None:
    """Attack 31: size before parsing, nothing decompressed, doubled fields and NaN refused."""
    url = "/v1/attestation/registrations"
    assert site.send("POST", url, content=b" " * (1 << 20)).status_code == 413
    for body in (b"[" * 100_000, b'{"node": NaN}', b'{"node": "a", "node": "b"}', b"9" * 10_000, b"\xff\xfe", b""):
        answer = site.send("POST", url, content=body, headers={"Content-Encoding": "gzip"})
        assert answer.status_code == 422, body[:40]
    node = site.enrolled()
    node.join()
    token = node.token.reveal().decode() if node.token else ""
    large = b" " * (1 << 20)
    where = "/v1/attestation/challenges/abc/evidence"
    assert site.send("POST", where, content=large).status_code == 401, "nothing of a stranger's body is read"
    answer = site.send("POST", where, content=large, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 422


def test_cve_2022_23952_an_installation_that_others_can_read_does_not_start(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(ServiceUnready):
        check_directory(tmp_path)
    tmp_path.chmod(0o700)
    check_directory(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_cve_2022_1053_the_verifier_takes_keys_from_its_own_activated_registration_alone(site: Site) -> None:
    """A registration that waits, even by the node's own TPM, is not what quotes are verified with."""
    node = site.enrolled()
    node.pass_airlock()
    assert isinstance(node.tpm, SimulatedTpm)
    bound = node.tpm.keys().attestation_key
    node.register()  # offers a fresh key, and does not prove it
    assert node.tpm.keys().attestation_key != bound
    answer = refused(node.report)
    assert "bad-quote" in {each["reason"] for each in answer.problem["reasons"]}


@pytest.mark.slow
@pytest.mark.parametrize("where", ["appraise", "ready_key", "parcel"])
def test_cve_2022_3500_an_exception_never_leaves_a_node_passed(
    site: Site, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Attack 30: a bug anywhere in judging fails the node, and says so."""
    node = site.enrolled()
    node.pass_airlock()
    node.report()
    node.run_more(1)

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(verifier, where, broken)
    assert refused(node.report).status == 500
    assert site.shown() is State.FAILED
    assert "could not be judged" in site.node().why
    assert site.journal()[-1] == "attestation.failed"


def test_attack_30_a_timer_survives_a_bug(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = threading.Semaphore(0)

    def broken(_: keeping.Keeping) -> int:
        calls.release()
        raise RuntimeError("a bug")

    monkeypatch.setattr(keeping.Keeping, "look", broken)
    site.keeping._check = timedelta(milliseconds=1)
    site.keeping.start()
    try:
        assert all(calls.acquire(timeout=10) for _ in range(3))
    finally:
        site.keeping.stop()


@pytest.mark.parametrize("place", range(0, 145, 9))
def test_cve_2023_3674_a_quote_with_any_byte_changed_fails_the_node_and_is_noticed(site: Site, place: int) -> None:
    node = site.enrolled()
    node.join()
    asked = node.ask_challenge()
    evidence = node.evidence(asked)
    quote = bytearray(evidence.quote)
    quote[place % len(quote)] ^= 1
    refused(lambda: node.submit(asked, replace(evidence, quote=bytes(quote))))
    assert site.shown() is State.FAILED
    assert site.journal()[-1] == "attestation.failed"
    assert site.appraisals()[-1].findings[0].reason.value == "bad-quote"


def test_cve_2023_3674_a_changed_signature_fails_the_node_too(site: Site) -> None:
    node = site.enrolled()
    node.join()
    asked = node.ask_challenge()
    evidence = node.evidence(asked)
    signature = bytearray(evidence.signature)
    signature[-1] ^= 1
    refused(lambda: node.submit(asked, replace(evidence, signature=bytes(signature))))
    assert site.shown() is State.FAILED


def test_cve_2023_38200_who_asks_too_often_or_for_too_much_stops_nobody_else(site: Site) -> None:
    """Attack 31: limits are by address and by node, and there are few registrations of a node at a time."""
    slow = Buckets(Rate(burst=3, seconds=60.0))
    site.means.sources = slow
    node = site.enrolled()
    codes = [register(site, registration(node)).status_code for _ in range(5)]
    assert codes == [201, 201, 201, 429, 429]
    slow.take("192.0.2.1", "asking")
    assert Buckets(Rate(burst=1, seconds=1.0))._full == {}


def test_attack_31_at_most_a_few_registrations_of_a_node_wait(site: Site) -> None:
    node = site.enrolled()
    for _ in range(PENDING + 4):
        node.register()
    with site.database.reading() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM attested_registrations").scalar() == PENDING


def test_cve_2023_38201_no_answer_to_a_wrong_proof_tells_the_right_one(site: Site) -> None:
    """Attacks 3 and 32: the same words for whatever is wrong; and the expected proof is not even kept."""
    node = site.enrolled()
    node.pass_airlock()
    before = site.node()
    registered = node.register()
    secret = Secret(node.tpm.activate(registered.credential))
    name = parse_tpmt_public(node.tpm.keys().attestation_key).name()
    right = activation_proof(secret, registered.registration.encode(), name)
    where = f"/v1/attestation/registrations/{registered.registration}/activation"
    told = set()
    for url, proof in (
        (where, bytes(32)),
        (where, right[:-1]),
        (where, b""),
        (where.replace(registered.registration, "0" * 32), right),
    ):
        answer = site.send("POST", url, json={"proof": text(proof)})
        assert answer.status_code == 403
        told.add(json.dumps({key: value for key, value in answer.json().items() if key != "request"}))
    assert len(told) == 1
    assert right.hex() not in spoken(site).lower()
    assert secret.reveal().hex() not in spoken(site).lower()
    assert site.node() == before, "nothing changed"
    assert site.send("POST", where, json={"proof": text(right)}).status_code == 200
    assert site.send("POST", where, json={"proof": text(right)}).status_code == 403, "once"


def test_attack_3_an_answer_after_its_time_or_to_another_registration_is_refused(site: Site) -> None:
    node = site.enrolled()
    first, second = node.register(), node.register()
    assert refused(lambda: node.activate(replace(second, registration=first.registration))).status == 403
    site.clock.forward(REGISTRATION)
    assert refused(lambda: node.activate(second)).status == 403
    assert site.shown() is State.UNKNOWN


def test_cve_2025_13609_a_name_is_not_taken_over_by_another_tpm(site: Site) -> None:
    """Attack 4: another key; the same key again proves itself, and is another boot; two at once; nothing unproven."""
    node = site.enrolled()
    node.pass_airlock()
    thief = SimulatedNode("n1", site.call)
    before = site.node()
    assert refused(thief.join).status == 403
    assert site.node() == before
    one = node.register()
    first_key = node.tpm.keys().attestation_key_name
    two = node.register()
    node.activate(two)
    boot = site.node().boot
    secret = Secret(node.tpm.activate(two.credential))
    proof = activation_proof(secret, one.registration.encode(), first_key)
    where = f"/v1/attestation/registrations/{one.registration}/activation"
    assert site.send("POST", where, json={"proof": text(proof)}).status_code == 403, "the slower of two at once"
    assert site.node().boot == boot


def test_an_address_is_nothing_that_registering_again_could_change(site: Site) -> None:
    """Attack 4: a node has no address here, as it pushes; only the session's own token speaks for it."""
    node = site.enrolled()
    node.pass_airlock()
    assert refused(SimulatedNode("n1", site.call).report).status == 401
    node.report()


@pytest.mark.parametrize(
    "token", [None, "", "Bearer", "Bearer x", "Basic YTpi", "Bearer sn_" + "0" * 32 + "_" + "A" * 43]
)
def test_cve_2026_1709_no_route_of_a_node_is_open_without_its_own_token(site: Site, token: str | None) -> None:
    """Attack 38; every route by every kind of caller is in tests/conformance/api."""
    site.enrolled().pass_airlock()
    headers = {} if token is None else {"Authorization": token}
    told = set()
    for method, path in (
        ("POST", "nodes/n1/challenges"),
        ("POST", "challenges/0/evidence"),
        ("GET", "nodes/n1/share"),
        ("POST", "nodes/n1/steps"),
        ("POST", "nodes/absent/steps"),
    ):
        answer = site.send(method, f"/v1/attestation/{path}", headers=headers, json={})
        assert answer.status_code == 401
        told.add(json.dumps({key: value for key, value in answer.json().items() if key != "request"}))
    assert len(told) == 1


def test_attack_38_a_nodes_token_is_no_token_of_an_account_and_the_other_way_round(site: Site) -> None:
    node = site.enrolled()
    node.pass_airlock()
    own = {"Authorization": f"Bearer {node.token.reveal().decode() if node.token else ''}"}
    for method, path in (
        ("GET", "/v1/attestation/nodes"),
        ("PUT", "/v1/attestation/nodes/n1/share"),
        ("GET", "/v1/audit"),
    ):
        assert site.send(method, path, headers=own, json={}).status_code == 401
    account = {"Authorization": f"Bearer {site.token()}"}
    body = {"purpose": "airlock"}
    assert site.send("POST", "/v1/attestation/nodes/n1/challenges", headers=account, json=body).status_code == 401


@pytest.mark.slow
def test_cve_2026_6420_the_nonces_of_10_000_challenges_differ(site: Site) -> None:
    node = site.enrolled()
    node.join()
    bearer = node.token.reveal().decode() if node.token else ""
    nonces = {site.means.verifier.challenge(bearer, "n1", Purpose.AIRLOCK).nonce for _ in range(10_000)}
    assert len(nonces) == 10_000
    assert {len(nonce) for nonce in nonces} == {32}


def test_cve_2026_6420_a_whole_exchange_replayed_is_refused(site: Site) -> None:
    node = site.enrolled()
    said: list[tuple[str, str, bytes | None, Any]] = []

    def listen(method: str, path: str, body: bytes | None, headers: Any) -> tuple[int, bytes]:
        said.append((method, path, body, headers))
        return site.call(method, path, body, headers)

    node.call = listen
    node.pass_airlock()
    node.report()
    for method, path, body, headers in said:
        if path.endswith(("activation", "evidence")):
            status, _ = site.call(method, path, body, headers)
            assert status in (403, 409), path
    assert site.shown() is State.PASSED


def test_cve_2024_29038_what_was_not_made_by_a_tpm_or_selects_other_pcrs_is_refused(site: Site) -> None:
    """Also CVE-2024-29039. Attacks 9, 10 and 12 in full are tests of the evidence core."""
    for number, lie in enumerate((Lie.PCR_SUBSET, Lie.WRONG_BANK), 1):
        node = site.enrolled(f"n{number}")
        node.tell(lie)
        refused(node.pass_airlock)
        assert site.shown(f"n{number}") is State.FAILED
    node = site.enrolled("n3")
    node.join()
    asked = node.ask_challenge()
    evidence = node.evidence(asked)
    assert isinstance(node.tpm, SimulatedTpm)
    forged = b"\xfeTCG" + evidence.quote[4:]
    refused(lambda: node.submit(asked, replace(evidence, quote=forged)))
    assert site.shown("n3") is State.FAILED


def test_the_qualifying_data_of_two_quotes_is_never_the_same(site: Site) -> None:
    """Attack 7: it commits to a nonce of ours, that is used once, by whichever process."""
    node = site.enrolled()
    node.join()
    extra = set()
    for _ in range(20):
        asked = node.ask_challenge()
        evidence = node.evidence(asked)
        extra.add(parse_tpms_attest(evidence.quote).extra_data)
    assert len(extra) == 20


def test_attack_7_old_nonces_others_nonces_and_nonces_used_twice_are_refused(site: Site) -> None:
    node, other = site.enrolled(), site.enrolled("n2")
    node.join()
    other.join()
    old, new = node.ask_challenge(), node.ask_challenge()
    assert refused(lambda: node.submit(old, node.evidence(old))).status == 409, "only the last one holds"
    theirs = other.ask_challenge()
    assert refused(lambda: node.submit(theirs, node.evidence(theirs))).status == 409
    evidence = node.evidence(new)
    node.submit(new, evidence)
    assert refused(lambda: node.submit(new, evidence)).status == 409
    assert site.shown() is State.PASSED
    other.ask_challenge()
    late = other.ask_challenge()
    site.clock.forward(timedelta(seconds=120))
    assert refused(lambda: other.submit(late, other.evidence(late))).status == 409


def test_attack_7_of_two_answers_at_once_one_is_taken(site: Site) -> None:
    node = site.enrolled()
    node.join()
    asked = node.ask_challenge()
    evidence = node.evidence(asked)
    bearer = node.token.reveal().decode() if node.token else ""
    claimed = Claimed(
        SignedQuote(evidence.quote, evidence.signature),
        evidence.pcrs,
        evidence.event_log,
        None,
        Keys(evidence.transport_key, evidence.wireguard_key, evidence.parameters),
    )
    outcomes: list[str] = []

    def answer() -> None:
        try:
            site.means.verifier.take(bearer, asked.challenge, lambda: claimed)
            outcomes.append("passed")
        except Exception as error:
            outcomes.append(type(error).__name__)

    threads = [threading.Thread(target=answer) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["WrongState"] * 7 + ["passed"]


def test_boot_policy_is_judged_again_after_every_reboot(site: Site) -> None:
    """Attack 13: what passed in the boot before is worth nothing in this one."""
    node = site.enrolled()
    node.pass_airlock()
    node.report()
    node.tell(Lie.CHANGED_COMMAND_LINE)
    refused(node.pass_airlock)
    assert site.shown() is State.FAILED


def test_attack_13_a_registration_ends_the_pass_of_the_boot_before(site: Site) -> None:
    node = site.enrolled()
    node.pass_airlock()
    node.report()
    token = node.token
    node.switch_on_again()
    node.join()
    assert site.shown() is State.REGISTERED
    node.token = token
    assert refused(node.report).status == 401


def test_attack_14_keys_that_the_quote_does_not_vouch_for_get_no_share(site: Site) -> None:
    node = site.enrolled()
    with site.database.writing() as tx:
        shares.deposit(tx, SEALER, RED, name="n1", share=V)
    node.tell(Lie.SWAPPED_TRANSPORT_KEY)
    refused(node.pass_airlock)
    assert refused(node.fetch_share).status == 409


def test_attack_14_at_run_time_the_quote_must_vouch_for_the_keys_of_the_airlock(site: Site) -> None:
    node = site.enrolled()
    node.pass_airlock()
    node.transport = SimulatedNode("n9", site.call).transport
    refused(node.report)
    assert site.shown() is State.FAILED


def test_a_verifier_that_died_leaves_nobody_passed_for_longer_than_the_verdict(site: Site) -> None:
    """Expiry is computed by whoever is asked: no timer has to live for it."""
    node = site.enrolled()
    node.pass_airlock()
    node.report()
    assert site.node().state is State.PASSED
    site.clock.forward(INTERVAL + GRACE)
    headers = {"Authorization": f"Bearer {site.token()}"}
    assert site.send("GET", "/v1/attestation/nodes/n1", headers=headers).json()["state"] == "overdue"
    assert site.send("GET", "/v1/attestation/nodes/n1/verdict", headers=headers).status_code == 404
    listed = site.send("GET", "/v1/attestation/nodes?state=passed", headers=headers).json()
    assert listed["items"] == []
    with site.database.writing() as tx:
        shares.deposit(tx, SEALER, RED, name="n1", share=V)
    refused(node.fetch_share)


# -- the rest of the attacks -------------------------------------------------------------------------------------------


def test_attack_32_no_secret_is_in_the_database_in_logs_or_in_answers(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    node = site.enrolled()
    with site.database.writing() as tx:
        shares.deposit(tx, SEALER, RED, name="n1", share=V)
    node.pass_airlock()
    node.report()
    token = node.token.reveal().decode() if node.token else ""
    secret = token.split("_", 2)[2]
    everything = spoken(site) + capsys.readouterr().out + "".join(site.requests)
    assert secret not in everything
    assert rules.token_digest(token).hex() in everything.lower(), "its hash is"
    assert V.reveal().hex() not in everything.lower()
    assert text(V.reveal()) not in everything


def test_attack_35_what_is_noticed_is_in_a_chain_that_shows_what_was_changed(site: Site) -> None:
    """Notices are the journal's entries; how receivers of webhooks tell a forged one is that part's test."""
    node = site.enrolled()
    node.tell(Lie.CHANGED_FIRMWARE)
    refused(node.pass_airlock)
    headers = {"Authorization": f"Bearer {site.token()}"}
    entries = site.send("GET", "/v1/audit", headers=headers).json()["items"]
    told = [each["entry"] for each in entries if each["entry"] and each["entry"]["verb"] == "attestation.failed"]
    assert told[0]["detail"]["reasons"]
    before = bytes(32)
    for each in entries:
        before = hashlib.sha256(before + bytes.fromhex(each["digest"])).digest()
        assert each["chain"] == before.hex()


def test_attack_37_a_failed_node_cannot_pass_by_itself(site: Site) -> None:
    node = site.enrolled()
    node.pass_airlock()
    node.tell(Lie.UNKNOWN_FILE)
    refused(node.report)
    node.tell()
    assert refused(node.ask_runtime_challenge).status == 409
    node.switch_on_again()
    refused(node.pass_airlock)
    assert site.shown() is State.FAILED
    with site.database.writing() as tx:
        enrolling.retry(tx, RED, name="n1", why="looked at")
    node.pass_airlock()
    assert site.shown() is State.PASSED


def test_who_is_not_enrolled_is_refused_as_who_is_with_another_key(site: Site) -> None:
    """Nobody finds out which nodes there are."""
    site.enrolled("n1")
    answers = []
    for name in ("n1", "nobody"):
        stranger = SimulatedNode(name, site.call)
        answer = register(site, registration(stranger))
        said = json.dumps({key: value for key, value in answer.json().items() if key != "request"})
        answers.append((answer.status_code, said.replace(name, "NAME")))
    assert answers[0] == answers[1]
    headers = {"Authorization": f"Bearer {site.token('eve', 'blue')}"}
    told = [site.send("GET", f"/v1/attestation/nodes/{name}", headers=headers) for name in ("n1", "nobody")]
    assert [each.status_code for each in told] == [404, 404]
