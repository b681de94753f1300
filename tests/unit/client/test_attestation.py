"""The client's calls of the attestation service, over HTTP to one that listens in this process; simulated nodes."""

import asyncio
import base64
import json
from collections.abc import Iterator
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from steelyard.client import attestation
from steelyard.client.attestation_objects import AttestedNode
from steelyard.client.connection import AsyncClient, Client
from steelyard.evidence.bundle import parse_bundle
from steelyard.evidence.policy import parse_policy
from steelyard.model.errors import Changed, NotAllowed, NotFound, WrongState
from steelyard.model.secret import Secret
from steelyard.service.database import Database
from tests.api import Api, client_of, listening, make_api
from tests.attesting import make_grounds, node_of, terms
from tests.simulated_nodes import Lie, Refused, SimulatedNode

SHARE: Final = Secret(bytes(range(32)))


@pytest.fixture
def api(sqlite_database: Database) -> Api:
    made = make_api(sqlite_database)
    make_grounds(sqlite_database)
    return made


@pytest.fixture
def url(api: Api) -> Iterator[str]:
    with listening(api.app) as listens:
        yield listens


@pytest.fixture
def member(api: Api, url: str) -> Iterator[Client]:
    with client_of(url, api.tokens["member"]) as client:
        yield client


@pytest.fixture
def node(url: str, member: Client) -> Iterator[SimulatedNode]:
    """A node that is enrolled."""
    with node_of(url) as made:
        member.ask(attestation.enrol("n1", **terms(made), version=0))
        yield made


def known(member: Client) -> AttestedNode:
    return member.ask(attestation.read_node("n1"))


def decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "==")


def test_a_node_is_enrolled_on_terms_that_are_told_again(member: Client, node: SimulatedNode) -> None:
    told = known(member)
    assert {name: getattr(told, name) for name in terms(node)} == terms(node)
    assert (told.state, told.appraisal, told.expires) == ("unknown", None, None)
    assert list(member.every(attestation.list_nodes(project="red", state="unknown"))) == [told]
    assert list(member.every(attestation.list_nodes(state="passed"))) == []
    with pytest.raises(Changed):
        member.ask(attestation.enrol("n1", **terms(node, grace_seconds=5), version=told.version + 1))
    open_terms = terms(node, parameters_sha256=attestation.ANY_PARAMETERS, runtime_policy=None)
    changed = member.ask(attestation.enrol("n1", **open_terms, version=told.version))
    assert (changed.parameters_sha256, changed.runtime_policy) == ("any", None)
    member.ask(attestation.delete_node("n1", version=changed.version))
    with pytest.raises(NotFound):
        known(member)


def test_a_node_that_passes_is_told_with_its_verdict_and_gets_its_share_once(
    member: Client, node: SimulatedNode
) -> None:
    with pytest.raises(NotFound):
        member.ask(attestation.read_verdict("n1"))
    member.ask(attestation.leave_share("n1", SHARE))
    node.pass_airlock()
    node.tell_step("payload", "done", "opened")
    told = known(member)
    assert told.state == "passed"
    assert told.expires is not None
    assert told.step is not None
    assert (told.step.step, told.step.outcome, told.step.detail) == ("payload", "done", "opened")
    assert node.fetch_share().reveal() == SHARE.reveal()
    with pytest.raises(Refused):
        node.fetch_share()
    [key] = member.ask(attestation.read_keys()).keys
    header, claims, signature = member.ask(attestation.read_verdict("n1")).verdict.split(".")
    public = load_pem_public_key(key.pem.encode())
    assert isinstance(public, Ed25519PublicKey)
    public.verify(decoded(signature), f"{header}.{claims}".encode())
    assert json.loads(decoded(header))["kid"] == key.kid
    assert json.loads(decoded(claims))["submods"]["n1"]["ear.status"] == "affirming"


def test_a_share_that_was_withdrawn_is_given_to_nobody(member: Client, node: SimulatedNode) -> None:
    member.ask(attestation.leave_share("n1", SHARE))
    for _ in range(2):
        member.ask(attestation.withdraw_share("n1"))
    node.pass_airlock()
    with pytest.raises(Refused):
        node.fetch_share()


def test_what_was_judged_is_told_with_every_reason_and_comes_out_whole(member: Client, node: SimulatedNode) -> None:
    node.tell(Lie.CHANGED_FIRMWARE)
    with pytest.raises(Refused):
        node.pass_airlock()
    [appraisal] = member.every(attestation.list_appraisals("n1"))
    assert known(member).appraisal == appraisal.id
    assert member.ask(attestation.read_appraisal("n1", appraisal.id)) == appraisal
    assert (appraisal.purpose, appraisal.passed, appraisal.policy) == ("airlock", False, "airlock")
    assert any(finding.where == "PCR 0, event 3" for finding in appraisal.findings)
    assert parse_bundle(member.ask(attestation.read_bundle("n1", appraisal.id))).node == "n1"
    grounds = member.ask(attestation.read_grounds("n1", appraisal.id))
    assert parse_policy(grounds.policy).id.name == "airlock"
    assert all("payload" in json.loads(envelope) for envelope in grounds.references)
    with pytest.raises(NotFound):
        member.ask(attestation.read_bundle("n1", "another"))


def test_a_failed_node_tries_again_and_a_replaced_tpm_registers_anew(member: Client, node: SimulatedNode) -> None:
    with pytest.raises(WrongState):
        member.ask(attestation.retry("n1", "why not"))
    node.tell(Lie.CHANGED_FIRMWARE)
    with pytest.raises(Refused):
        node.pass_airlock()
    assert member.ask(attestation.retry("n1", "firmware put back")).state == "unknown"
    node.tell()
    node.switch_on_again()
    node.pass_airlock()
    assert member.ask(attestation.expect_reboots("n1", 2)).expected_reboots == 2
    replaced = member.ask(attestation.replace_tpm("n1", "new mainboard"))
    assert (replaced.state, replaced.endorsement_key_name, replaced.why) == ("unknown", None, "new mainboard")


def test_keys_are_published_to_anybody_and_changed_by_the_provider_alone(api: Api, url: str, member: Client) -> None:
    with pytest.raises(NotAllowed):
        member.ask(attestation.rotate_key())
    with client_of(url, api.tokens["provider"]) as provider:
        made = provider.ask(attestation.rotate_key())
    with client_of(url, None) as anybody:
        newest, older = anybody.ask(attestation.read_keys()).keys
    assert (newest, newest.signs, older.signs) == (made, True, False)
    assert len(decoded(newest.x)) == 32


def test_awaited_calls_are_the_same_calls(member: Client, node: SimulatedNode) -> None:
    async def look() -> list[AttestedNode]:
        async with AsyncClient(member.service) as client:
            return [found async for found in client.every(attestation.list_nodes())]

    assert [found.name for found in asyncio.run(look())] == [node.name]
