"""Every route with every kind of caller: one table says what comes of each. A route that is not in it fails."""

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from steelyard.evidence.reference.version import Version
from steelyard.service.authority import Right
from tests.conformance.api.world import World
from tests.unit.attestation.references import rig as references_rig
from tests.unit.enclave.rig import text as enclave_file
from tests.unit.evidence import samples

DEVICE: Final = {"driver": "fake", "address": {"host": "x"}, "credentials": {"password": "p"}}
NETWORK: Final = {"owner": "red", "sharing": "private"}
NODE: Final = {
    "labels": {},
    "hardware": {},
    "identity": {"endorsement_certificates": {}, "endorsement_keys": [], "references": []},
    "bmc": DEVICE,
}
HOOK: Final = {"project": "red", "name": "new", "url": "https://127.0.0.1/x", "verbs": ["*"], "subjects": ["*"]}
WHY: Final = {"why": "a test"}
OPENING: Final = {"network": "red-net", "protocol": "nbd", "address": "10.8.0.60"}
BOOT: Final = {"network": "red-net", "mac": "02:00:00:00:00:01", "boot": {"kind": "disk"}}
AUTHORITY: Final = "/v1/attestation/projects/{project}"
ATTESTED: Final = "GET /v1/attestation/nodes/{node}"
TERMS: Final = {
    "project": "red",
    "identity": {"endorsement_certificates": {}, "endorsement_keys": ["sha256:" + "75" * 32]},
    "makers": None,
    "airlock_policy": "airlock",
    "runtime_policy": None,
    "parameters_sha256": "any",
    "interval_seconds": 60,
    "grace_seconds": 60,
}
PROVIDERS_MAKERS: Final = "GET /v1/attestation/makers/{makers}"
"""The provider's are for all to name."""
KEY: Final = base64.b64encode(references_rig.SECOND.public_key().public_bytes_raw()).decode()
MAKERS: Final = {"certificates": [references_rig.maker_certificate("Other")]}
NOW: Final = datetime.now(UTC).replace(microsecond=0)
ENVELOPE: Final = references_rig.signed(
    samples.manifest(serial=3, version=Version("1.2"), issued=NOW - timedelta(days=1), expires=NOW + timedelta(days=9))
)
ACCESS: Final = "GET /v1/projects/{project}/volumes/{volume}/access"
"""The one route whose answer is a secret."""


@dataclass(frozen=True)
class Row:
    """What comes of a route.

    right     that the token must have; None: none in particular.
    statuses  for a stranger (a member of another project), a member, an admin, an auditor, a provider.
    """

    right: str | None
    statuses: tuple[int, int, int, int, int]
    body: object = None
    names: Mapping[str, str] | None = None
    query: Mapping[str, str] | None = None


EVERYBODY: Final = (200, 200, 200, 200, 200)
OURS: Final = (404, 200, 200, 200, 200)
"""Of a project: shown to its members and to who sees all."""
OFFICES: Final = (403, 403, 403, 200, 200)


def sampled(routes: Iterable[str]) -> list[object]:
    """Return routes as cases, of which ./check fast has every third."""
    return [
        pytest.param(route, marks=[] if number % 3 == 0 else [pytest.mark.slow]) for number, route in enumerate(routes)
    ]


def provider(status: int) -> tuple[int, int, int, int, int]:
    """Return what comes of what is the provider's alone."""
    return (403, 403, 403, 403, status)


def members(status: int) -> tuple[int, int, int, int, int]:
    """Return what comes of what is a project's own, to be changed by its members and the provider."""
    return (404, status, status, 403, status)


def admins(status: int) -> tuple[int, int, int, int, int]:
    """Return what comes of what a project's admins and the provider decide."""
    return (404, 403, status, 403, status)


TABLE: Final[Mapping[str, Row]] = {
    "GET /v1/openapi.json": Row(None, EVERYBODY),
    "GET /v1/metrics": Row("read", OFFICES),
    "GET /v1/audit": Row("read", EVERYBODY),
    "GET /v1/audit/head": Row("read", EVERYBODY),
    "GET /v1/events": Row("read", EVERYBODY),
    # -- who there is
    "GET /v1/accounts": Row("read", EVERYBODY),
    "PUT /v1/accounts/{name}": Row("members", provider(200), {"kind": "user", "office": None, "openid": None}),
    "DELETE /v1/accounts/{name}": Row("members", provider(204)),
    "GET /v1/projects/{project}/members": Row("read", OURS),
    "PUT /v1/projects/{project}/members/{account}": Row("members", (404, 403, 200, 403, 200), {"role": "member"}),
    "DELETE /v1/projects/{project}/members/{account}": Row(
        "members", (404, 403, 204, 403, 204), names={"account": "member"}
    ),
    "GET /v1/tokens": Row("read", EVERYBODY),
    "GET /v1/tokens/current": Row(None, EVERYBODY),
    "POST /v1/tokens": Row(
        "members",
        provider(201),  # for another; for oneself everybody may
        {"account": "newcomer", "project": None, "rights": ["read"], "office": None, "seconds": 60, "words": ""},
    ),
    # Of another's: who sees all is told that it may not, the rest that there is none.
    "DELETE /v1/tokens/{token}": Row(None, (404, 404, 404, 403, 204)),
    # -- projects
    "GET /v1/projects": Row("read", EVERYBODY),
    "GET /v1/projects/{project}": Row("read", OURS),
    "PUT /v1/projects/{project}": Row("rack", provider(200), {"node_quota": 5, "network_quota": 5}),
    "DELETE /v1/projects/{project}": Row("rack", provider(409)),
    # A project's name alone is no secret to who guesses it: the answer is the same whether there is one.
    "PUT /v1/projects/{project}/allocations/{allocation}": Row("nodes", (403, 200, 200, 403, 200), {"count": 1}),
    "GET /v1/projects/{project}/allocations/{allocation}": Row("read", OURS),
    # -- who is told
    "GET /v1/webhooks": Row("read", EVERYBODY),
    "POST /v1/webhooks": Row("members", (404, 403, 201, 403, 201), HOOK),
    "GET /v1/webhooks/{webhook}": Row("read", OURS),
    "DELETE /v1/webhooks/{webhook}": Row("members", (404, 403, 204, 403, 204)),
    "GET /v1/webhooks/{webhook}/dead-letters": Row("read", OURS),
    "PUT /v1/webhooks/{webhook}/dead-letters/{entry}/redelivery": Row("members", (404, 403, 202, 403, 202)),
    "DELETE /v1/webhooks/{webhook}/dead-letters/{entry}": Row("members", (404, 403, 204, 403, 204)),
    # -- nodes
    "GET /v1/nodes": Row("read", EVERYBODY),
    "GET /v1/nodes/{node}": Row("read", OURS),
    "PUT /v1/nodes/{node}": Row("rack", provider(200), NODE),
    "DELETE /v1/nodes/{node}": Row("rack", provider(409)),
    "PUT /v1/nodes/{node}/maintenance": Row("rack", provider(200), WHY, {"node": "spare"}),
    "PUT /v1/nodes/{node}/reject": Row("rack", provider(200), WHY, {"node": "spare"}),
    "PUT /v1/inventory": Row("rack", provider(400), {}),
    "PUT /v1/nodes/{node}/nics/{nic}": Row(
        "rack", provider(200), {"mac": "02:00:00:00:00:09", "port": None}, {"node": "bench", "nic": "nic9"}
    ),
    "DELETE /v1/nodes/{node}/nics/{nic}": Row("rack", provider(204), names={"node": "bench"}),
    "GET /v1/attachments": Row("read", EVERYBODY),
    "PUT /v1/nodes/{node}/nics/{nic}/attachments/{network}": Row("networks", members(202), {}),
    "DELETE /v1/nodes/{node}/nics/{nic}/attachments/{network}": Row("networks", members(202)),
    "PUT /v1/nodes/{node}/power": Row("power", members(202), {"verb": "on"}),
    "PUT /v1/nodes/{node}/boot-device": Row("power", members(202), {"device": "network"}),
    "PUT /v1/nodes/{node}/quarantine": Row("nodes", members(202), WHY),
    "PUT /v1/nodes/{node}/release": Row("nodes", members(202), {}),
    "GET /v1/nodes/{node}/holds": Row("read", OURS),
    "PUT /v1/nodes/{node}/holds/{hold}": Row("nodes", members(200), WHY),
    "DELETE /v1/nodes/{node}/holds/{hold}": Row("nodes", members(204)),
    "PUT /v1/nodes/{node}/console": Row("console", members(204)),
    "GET /v1/nodes/{node}/console": Row("console", members(200)),
    "DELETE /v1/nodes/{node}/console": Row("console", members(204)),
    "POST /v1/nodes/{node}/console/keys": Row("console", members(204), {"keys": "bHM="}),
    # -- switches
    "GET /v1/switches": Row("read", OFFICES),
    "GET /v1/switches/{switch}": Row("read", OFFICES),
    "PUT /v1/switches/{switch}": Row("rack", provider(200), DEVICE),
    "DELETE /v1/switches/{switch}": Row("rack", provider(409)),
    "GET /v1/switches/{switch}/ports": Row("read", OFFICES),
    "PUT /v1/switches/{switch}/ports/{port}": Row("rack", provider(200)),
    "DELETE /v1/switches/{switch}/ports/{port}": Row("rack", provider(204)),
    # -- networks
    "GET /v1/networks": Row("read", EVERYBODY),
    "GET /v1/networks/{network}": Row("read", OURS),
    # Names are one space: that one is taken cannot be hidden, nothing else is told.
    "PUT /v1/networks/{network}": Row("networks", (409, 200, 200, 403, 200), NETWORK),
    "DELETE /v1/networks/{network}": Row("networks", (404, 409, 409, 403, 409)),
    # -- operations
    "GET /v1/operations": Row("read", EVERYBODY),
    "GET /v1/operations/{operation}": Row("read", OURS),
    "DELETE /v1/operations/{operation}": Row(None, (404, 200, 200, 403, 200)),
    # -- images, and the files that they are made of
    "GET /v1/projects/{project}/uploads": Row("read", OURS),
    "GET /v1/projects/{project}/uploads/{upload}": Row("read", OURS),
    "PUT /v1/projects/{project}/uploads/{upload}": Row(
        "images", members(200), {"size_bytes": 1 << 20, "sha256": "75" * 32}
    ),
    "PUT /v1/projects/{project}/uploads/{upload}/content": Row(
        "images", members(200), b"a part", query={"offset": "0"}
    ),
    "DELETE /v1/projects/{project}/uploads/{upload}": Row("images", members(204)),
    "GET /v1/images": Row("read", EVERYBODY),
    "GET /v1/projects/{project}/images/{image}": Row("read", OURS),
    "GET /v1/projects/{project}/images/{image}/content": Row("read", OURS),
    "GET /v1/projects/{project}/images/{image}/density": Row("read", OURS),
    "PUT /v1/projects/{project}/images/{image}": Row(
        "images", members(202), {"source": {"kind": "url", "url": "https://example.org/disk", "format": "raw"}}
    ),
    "PUT /v1/projects/{project}/images/{image}/visibility": Row("images", members(200), {"visibility": "private"}),
    "PUT /v1/projects/{project}/images/{image}/name": Row("images", members(200), {"name": "ubuntu"}),
    "DELETE /v1/projects/{project}/images/{image}": Row("images", members(409)),
    # -- volumes
    "GET /v1/volumes": Row("read", EVERYBODY),
    "GET /v1/projects/{project}/volumes/{volume}": Row("read", OURS),
    "PUT /v1/projects/{project}/volumes/{volume}": Row("images", members(202), {"image": "debian"}),
    "PUT /v1/projects/{project}/volumes/{volume}/size": Row("images", members(202), {"size_bytes": 1 << 20}),
    "PUT /v1/projects/{project}/volumes/{volume}/roll-back": Row("images", members(202), {}),
    "PUT /v1/projects/{project}/volumes/{volume}/flatten": Row("images", members(202), {}),
    "PUT /v1/projects/{project}/volumes/{volume}/name": Row("images", members(200), {"name": "other"}),
    "PUT /v1/projects/{project}/volumes/{volume}/keeping": Row("images", members(200), {"keeping": "ephemeral"}),
    "DELETE /v1/projects/{project}/volumes/{volume}": Row("images", members(204)),
    "GET /v1/projects/{project}/volumes/{volume}/opening": Row("read", OURS, names={"volume": "data"}),
    "PUT /v1/projects/{project}/volumes/{volume}/opening": Row("images", members(202), OPENING),
    "DELETE /v1/projects/{project}/volumes/{volume}/opening": Row("images", members(202), names={"volume": "data"}),
    # To read what opens a volume is to have it, so who may only look may not.
    ACCESS: Row("images", members(200), names={"volume": "data"}),
    # -- what nodes boot
    "GET /v1/boots": Row("read", EVERYBODY),
    "GET /v1/boot-networks": Row("read", EVERYBODY),
    "GET /v1/projects/{project}/boots/{node}": Row("read", OURS),
    "PUT /v1/projects/{project}/boots/{node}": Row("images", members(202), BOOT),
    "DELETE /v1/projects/{project}/boots/{node}": Row("images", members(202)),
    # -- enclaves
    "GET /v1/enclaves": Row("read", EVERYBODY),
    "GET /v1/projects/{project}/enclaves/{enclave}": Row("read", OURS),
    "GET /v1/projects/{project}/enclaves/{enclave}/places": Row("read", OURS),
    "PUT /v1/projects/{project}/enclaves/{enclave}": Row("enclaves", members(200), {"file": enclave_file("open")}),
    "POST /v1/projects/{project}/enclaves/{enclave}/plan": Row("read", OURS, {"file": enclave_file("open")}),
    "DELETE /v1/projects/{project}/enclaves/{enclave}": Row("enclaves", members(200)),
    "POST /v1/projects/{project}/enclaves/{enclave}/cancel": Row("enclaves", members(200), {"place": None}),
    "POST /v1/projects/{project}/enclaves/{enclave}/retry": Row("enclaves", members(200), {"place": None}),
    # -- what imaging is at
    "GET /v1/projects/{project}/storage": Row("read", OURS),
    "PUT /v1/projects/{project}/storage-quota": Row(
        "rack", provider(200), {"images": 1, "volumes": 1, "size_bytes": 1}
    ),
    "GET /v1/imaging/operations": Row("read", EVERYBODY),
    "GET /v1/imaging/operations/{imaging_operation}": Row("read", OURS),
    "DELETE /v1/imaging/operations/{imaging_operation}": Row("images", members(200)),
    # -- who signs references, and what they signed
    f"GET {AUTHORITY}/signers": Row("read", OURS),
    f"GET {AUTHORITY}/signers/{{component}}": Row("read", OURS),
    f"PUT {AUTHORITY}/signers/{{component}}": Row("attest", admins(200), {"keys": {"release": KEY}, "threshold": 1}),
    f"DELETE {AUTHORITY}/signers/{{component}}": Row("attest", admins(204)),
    f"GET {AUTHORITY}/references": Row("read", OURS),
    f"POST {AUTHORITY}/references": Row(
        "attest", members(201), ENVELOPE, query={"component": "firmware", "standing": "proposed"}
    ),
    f"GET {AUTHORITY}/references/{{reference}}": Row("read", OURS),
    f"GET {AUTHORITY}/references/{{reference}}/envelope": Row("read", OURS),
    f"PUT {AUTHORITY}/references/{{reference}}/acceptance": Row("attest", members(200)),
    f"PUT {AUTHORITY}/references/{{reference}}/revocation": Row("attest", members(200), WHY),
    f"GET {AUTHORITY}/revocations": Row("read", OURS),
    f"PUT {AUTHORITY}/components/{{component}}/revoked": Row("attest", members(200), WHY, query={"release": "1.0"}),
    f"DELETE {AUTHORITY}/components/{{component}}/revoked": Row("attest", admins(204), query={"release": "0.9"}),
    # -- policies
    f"GET {AUTHORITY}/policies": Row("read", OURS),
    f"GET {AUTHORITY}/policies/{{policy}}": Row("read", OURS),
    f"PUT {AUTHORITY}/policies/{{policy}}": Row("attest", members(200), references_rig.policy_bytes(version=5)),
    f"GET {AUTHORITY}/policies/{{policy}}/document": Row("read", OURS),
    f"PUT {AUTHORITY}/policies/{{policy}}/live": Row("attest", members(200), {"number": 1}),
    f"GET {AUTHORITY}/policies/{{policy}}/versions": Row("read", OURS),
    f"GET {AUTHORITY}/policies/{{policy}}/versions/{{number}}/document": Row("read", OURS, names={"number": "1"}),
    # -- dry runs
    f"GET {AUTHORITY}/dry-runs": Row("read", OURS),
    f"POST {AUTHORITY}/dry-runs": Row("attest", members(202), {"policy": "airlock"}),
    f"GET {AUTHORITY}/dry-runs/{{dry_run}}": Row("read", OURS),
    f"DELETE {AUTHORITY}/dry-runs/{{dry_run}}": Row("attest", members(200)),
    f"GET {AUTHORITY}/dry-runs/{{dry_run}}/results": Row("read", OURS),
    # -- references, published
    f"GET {AUTHORITY}/repository": Row("read", OURS),
    f"PUT {AUTHORITY}/repository": Row("attest", admins(200), {"root": "online", "public": False}),
    f"GET {AUTHORITY}/repository/keys": Row("read", OURS),
    f"PUT {AUTHORITY}/repository/root": Row("attest", admins(409), b"{}"),  # its root is online
    "GET /v1/attestation/tuf/{project}/metadata/{metadata}": Row("read", OURS),
    "GET /v1/attestation/tuf/{project}/targets/{target}": Row("read", OURS),
    # -- nodes, attested
    "GET /v1/attestation/nodes": Row("read", EVERYBODY),
    ATTESTED: Row("read", OURS),
    f"PUT {ATTESTED[4:]}": Row("attest", members(200), TERMS),
    f"DELETE {ATTESTED[4:]}": Row("attest", members(204)),
    f"POST {ATTESTED[4:]}/retry": Row("attest", members(200), WHY),
    f"POST {ATTESTED[4:]}/tpm-replacement": Row("attest", members(200), WHY),
    f"PUT {ATTESTED[4:]}/expected-reboots": Row("attest", members(200), {"count": 1}),
    f"PUT {ATTESTED[4:]}/share": Row("attest", members(204), {"share": "A" * 43 + "="}),
    f"DELETE {ATTESTED[4:]}/share": Row("attest", members(204)),
    f"{ATTESTED}/verdict": Row("read", OURS, names={"node": "bench"}),
    f"{ATTESTED}/appraisals": Row("read", OURS),
    f"{ATTESTED}/appraisals/{{appraisal}}": Row("read", OURS),
    f"{ATTESTED}/appraisals/{{appraisal}}/bundle": Row("read", OURS),
    f"{ATTESTED}/appraisals/{{appraisal}}/grounds": Row("read", OURS),
    "POST /v1/attestation/keys": Row("attest", provider(201)),
    # -- TPM makers
    f"GET {AUTHORITY}/makers": Row("read", OURS),
    f"GET {AUTHORITY}/makers/{{makers}}": Row("read", OURS),
    f"PUT {AUTHORITY}/makers/{{makers}}": Row("attest", admins(200), MAKERS),
    f"DELETE {AUTHORITY}/makers/{{makers}}": Row("attest", admins(204)),
    "GET /v1/attestation/makers": Row("read", EVERYBODY),
    PROVIDERS_MAKERS: Row("read", EVERYBODY),
    "PUT /v1/attestation/makers/{makers}": Row("attest", provider(200), MAKERS),
    "DELETE /v1/attestation/makers/{makers}": Row("attest", provider(204)),
}
OPEN: Final = frozenset(
    {
        "GET /v1/health",
        "GET /v1/attestation/keys",
        # Of what its project made public.
        "GET /v1/attestation/public-tuf/{project}/metadata/{metadata}",
        "GET /v1/attestation/public-tuf/{project}/targets/{target}",
    }
)
"""Routes that need no token."""
REGISTERING: Final = frozenset(
    {"POST /v1/attestation/registrations", "POST /v1/attestation/registrations/{registration}/activation"}
)
"""Routes that need no token, and take from everybody what only a TPM can give."""
NODES: Final = frozenset(
    {
        "POST /v1/attestation/nodes/{node}/challenges",
        "POST /v1/attestation/challenges/{challenge}/evidence",
        "GET /v1/attestation/nodes/{node}/share",
        "POST /v1/attestation/nodes/{node}/steps",
    }
)
"""Routes that need the token of a node's session, which no account has. tests/attestation asks them with it."""
WITHOUT_SECRECY: Final = frozenset(
    {"PUT /v1/networks/{network}", "PUT /v1/projects/{project}/allocations/{allocation}", PROVIDERS_MAKERS}
)
ROUTES: Final = sorted(TABLE)
NEED_A_RIGHT: Final = sorted(route for route, row in TABLE.items() if row.right is not None)
KINDS: Final = ("stranger", "member", "admin", "auditor", "provider")


def names_of(world: World, row: Row) -> dict[str, str]:
    """Return what a row asks for."""
    return {**world.names, **(row.names or {})}


def routes(world: World) -> dict[str, dict[str, Any]]:
    """Return every route that the OpenAPI document tells of."""
    document = world.ask("GET /v1/openapi.json", world.tokens["provider"], {}, None).json()
    return {
        f"{method.upper()} {path}": operation
        for path, operations_ in document["paths"].items()
        for method, operation in operations_.items()
    }


def test_every_route_is_in_the_table_with_the_right_that_it_declares(world: World) -> None:
    found = routes(world)
    assert set(found) == set(TABLE) | OPEN | REGISTERING | NODES
    for route, row in TABLE.items():
        assert found[route].get("x-steelyard-right") == row.right, route
        assert found[route]["security"] == [{"token": []}], route
        assert "application/problem+json" in found[route]["responses"]["default"]["content"], route


def test_what_is_open_answers_without_a_token(world: World) -> None:
    for route in OPEN:
        assert world.ask(route, None, world.names, None).status_code == 200


@pytest.mark.parametrize("route", sorted(NODES))
def test_a_nodes_own_routes_are_closed_to_every_account(world: World, route: str) -> None:
    assert routes(world)[route]["security"] == [{"node": []}]
    for kind in (None, *KINDS):
        token = None if kind is None else world.tokens[kind]
        assert world.ask(route, token, world.names, {}).status_code == 401, kind


@pytest.mark.parametrize("route", sorted(REGISTERING))
def test_who_registers_needs_no_token_and_gets_nothing_for_nothing(world: World, route: str) -> None:
    assert routes(world)[route]["security"] == []
    assert world.ask(route, None, world.names, {}).status_code == 422
    assert world.ask(route, None, world.names, {"proof": "AAAA"}).status_code in (403, 422)


def test_without_a_token_no_route_answers(world: World) -> None:
    for route, row in TABLE.items():
        assert world.ask(route, None, names_of(world, row), row.body, row.query).status_code == 401, route


@pytest.mark.parametrize("route", [ROUTES[0], *(pytest.param(route, marks=pytest.mark.slow) for route in ROUTES[1:])])
def test_without_a_valid_token_nothing_is_told(world: World, route: str) -> None:
    row = TABLE[route]
    names = names_of(world, row)
    good = world.tokens["provider"]
    bad = {
        "none": None,
        "of another form": "letmein",
        "with another secret": good[:-4] + ("AAAA" if not good.endswith("AAAA") else "BBBB"),
        "of nobody": f"sy_{'0' * 16}_{'A' * 43}",
        "expired": world.tokens["expired"],
        "revoked": world.tokens["revoked"],
    }
    told = set()
    for kind, token in bad.items():
        world.api.front.gate._failures._forgiven.clear()  # or it would be TooMany before long
        answer = world.ask(route, token, names, row.body, row.query)
        assert answer.status_code == 401, kind
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        told.add(json.dumps({name: value for name, value in answer.json().items() if name != "request"}))
    assert len(told) == 1, "which of these it is, is told"


@pytest.mark.parametrize("route", sampled(NEED_A_RIGHT))
def test_a_token_for_other_things_is_refused(world: World, route: str) -> None:
    row = TABLE[route]
    answer = world.ask(route, world.tokens[f"without {row.right}"], names_of(world, row), row.body, row.query)
    assert answer.status_code == 403
    assert answer.json()["code"] == "not-allowed"


@pytest.mark.slow
@pytest.mark.parametrize("route", NEED_A_RIGHT)
def test_no_right_but_the_routes_is_asked_for(world: World, route: str) -> None:
    row = TABLE[route]
    for right in {*Right} - {Right(row.right)}:
        answer = world.ask(route, world.tokens[f"without {right.value}"], names_of(world, row), row.body, row.query)
        assert answer.status_code != 403 or right.value == "read", right


@pytest.mark.parametrize("route", ROUTES)
def test_each_caller_gets_what_the_table_says_and_no_credential(world: World, route: str) -> None:
    row = TABLE[route]
    for kind, status in zip(KINDS, row.statuses, strict=True):
        answer = world.ask(route, world.tokens[kind], names_of(world, row), row.body, row.query)
        assert answer.status_code == status, (kind, answer.text)
        assert ("tell nobody" in answer.text) == (route == ACCESS and answer.status_code == 200), kind
        if kind in ("stranger", "member", "admin"):
            assert "-bmc" not in answer.text, f"a tenant is told the way to a BMC: {kind}"
        if answer.status_code >= 400:
            assert answer.headers["Content-Type"] == "application/problem+json", kind


@pytest.mark.parametrize("route", sampled(route for route in ROUTES if "{" in route and route not in WITHOUT_SECRECY))
@pytest.mark.parametrize("kind", ["stranger", pytest.param("nobody", marks=pytest.mark.slow)])
def test_what_is_anothers_and_what_is_not_there_look_the_same(world: World, route: str, kind: str) -> None:
    row = TABLE[route]
    names = names_of(world, row)
    answers = []
    for what in (names, dict.fromkeys(names, "0" * 16)):
        answer = world.ask(route, world.tokens[kind], what, row.body, row.query)
        text = json.dumps({name: value for name, value in answer.json().items() if name != "request"})
        for name in sorted({*names.values(), "0" * 16}, key=len, reverse=True):
            text = text.replace(name, "NAME")
        answers.append((answer.status_code, text))
    assert answers[0] == answers[1]
    assert answers[0][0] in (403, 404)
