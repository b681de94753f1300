"""What is particular to the reference authority's HTTP: envelopes and policies as bytes, versions, pages, waiting."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from steelyard.evidence.reference.version import Version
from steelyard.model.limits import POLICY_BYTES
from steelyard.service.database import Database
from tests import recorded
from tests.api import Api, make_api
from tests.unit.attestation.references.rig import Authority, ovmf, policy_bytes, signed

RED = "/v1/attestation/projects/red"


class Front:
    """The service, asked in this process."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.authority = Authority(api.database)
        self._loop = asyncio.Runner()
        transport = httpx.ASGITransport(api.app, raise_app_exceptions=False)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://api")

    def ask(self, method: str, path: str, who: str | None = "member", **request: Any) -> httpx.Response:
        """Return the answer."""
        headers = request.pop("headers", {})
        if who is not None:
            headers["Authorization"] = f"Bearer {self.api.tokens[who]}"
        return self._loop.run(self._client.request(method, path, headers=headers, **request))

    def close(self) -> None:
        """End it."""
        self._loop.run(self._client.aclose())
        self._loop.close()


@pytest.fixture
def front(database: Database) -> Iterator[Front]:
    made = Front(make_api(database))
    yield made
    made.close()


def test_what_is_brought_in_comes_out_byte_for_byte(front: Front) -> None:
    front.authority.signers()
    envelope = signed(front.authority.sample())
    added = front.ask("POST", f"{RED}/references", params={"component": "firmware"}, content=envelope)
    assert added.status_code == 201
    out = front.ask("GET", f"{RED}/references/{added.json()['id']}/envelope")
    assert (out.content, out.headers["Content-Type"]) == (envelope, "application/octet-stream")
    front.ask("PUT", f"{RED}/policies/airlock", content=policy_bytes())
    assert front.ask("GET", f"{RED}/policies/airlock/versions/1/document").content == policy_bytes()
    assert front.ask("GET", f"{RED}/policies/airlock/document").status_code == 404
    front.ask("PUT", f"{RED}/policies/airlock/live", json={"number": 1})
    assert front.ask("GET", f"{RED}/policies/airlock/document").content == policy_bytes()


def test_refusals_say_which_attack_it_is(front: Front) -> None:
    front.authority.signers()
    front.authority.add(front.authority.sample(serial=5))
    old = signed(front.authority.sample(serial=4))
    refused = front.ask("POST", f"{RED}/references", params={"component": "firmware"}, content=old)
    assert (refused.status_code, refused.json()["code"]) == (403, "reference-rejected")
    assert "roll-back" in refused.json()["found"]
    for content, status in ((b"", 422), (b"{}", 422), (b"\xff\x00", 422)):
        refused = front.ask("POST", f"{RED}/references", params={"component": "firmware"}, content=content)
        assert refused.status_code == status
    query = {"component": "firmware", "standing": "revoked"}
    assert front.ask("POST", f"{RED}/references", params=query, content=old).status_code == 400


def test_a_policy_that_somebody_else_changed_is_not_overwritten(front: Front) -> None:
    first = front.ask("PUT", f"{RED}/policies/airlock", content=policy_bytes())
    seen = first.headers["ETag"]
    live = front.ask("PUT", f"{RED}/policies/airlock/live", json={"number": 1}, headers={"If-Match": seen})
    assert live.status_code == 200
    assert live.headers["ETag"] != seen
    late = front.ask("PUT", f"{RED}/policies/airlock", content=policy_bytes(version=2), headers={"If-Match": seen})
    assert (late.status_code, late.json()["code"]) == (412, "changed")


def test_a_policy_that_is_too_large_is_refused(front: Front) -> None:
    answer = front.ask("PUT", f"{RED}/policies/airlock", content=bytes(POLICY_BYTES.most + 1))
    assert (answer.status_code, answer.json()["code"]) == (413, "too-large")


def test_lists_come_in_pages(front: Front) -> None:
    front.authority.signers()
    ids = {
        front.authority.add(front.authority.sample(serial=serial, version=f"1.{serial}")).id.hex()
        for serial in (1, 2, 3)
    }
    told: list[str] = []
    after = ""
    for _ in range(9):
        page = front.ask("GET", f"{RED}/references", params={"limit": 2, "after": after}).json()
        told += [one["id"] for one in page["items"]]
        after = page["next"]
        if after is None:
            break
    assert told == sorted(ids)
    for version in (1, 2, 3):
        front.authority.put_policy(policy_bytes(version=version))
    page = front.ask("GET", f"{RED}/policies/airlock/versions", params={"limit": 2}).json()
    assert [one["number"] for one in page["items"]] == [1, 2]
    page = front.ask("GET", f"{RED}/policies/airlock/versions", params={"after": page["next"]}).json()
    assert [one["number"] for one in page["items"]] == [3]


def test_a_dry_run_is_followed_to_its_end(front: Front) -> None:
    authority = front.authority
    authority.boots()
    authority.evidence.put("airlock", "n1", recorded.bundle("first"))
    authority.evidence.put("airlock", "n2", recorded.bundle("changed-firmware"))
    begun = front.ask("POST", f"{RED}/dry-runs", json={"policy": "airlock"})
    assert begun.status_code == 202
    where = begun.headers["Location"]
    runner = authority.runner()
    runner.start()
    try:
        ended = front.ask("GET", where, params={"wait": "30s"}).json()
    finally:
        runner.stop(20)
    assert (ended["state"], ended["passing"], ended["failing"], ended["already"]) == ("done", 1, 1, 1)
    [failing] = front.ask("GET", f"{where}/results", params={"outcome": "fail"}).json()["items"]
    assert failing["node"] == "n2"
    assert "unknown-event" in {finding["code"] for finding in failing["findings"]}
    assert front.ask("GET", where, "stranger").status_code == 404


def test_what_is_public_is_served_to_everybody_and_what_is_not_is_not_there(front: Front) -> None:
    front.authority.signers()
    front.authority.add(front.authority.fresh(ovmf("first"), version=Version("1:2~3")))
    front.authority.publish()
    for kind in ("metadata/timestamp.json", "metadata/1.root.json"):
        assert front.ask("GET", f"/v1/attestation/tuf/red/{kind}").status_code == 200
        assert front.ask("GET", f"/v1/attestation/tuf/red/{kind}", "stranger").status_code == 404
        assert front.ask("GET", f"/v1/attestation/tuf/red/{kind}", None).status_code == 401
        assert front.ask("GET", f"/v1/attestation/public-tuf/red/{kind}", None).status_code == 404
    assert front.ask("PUT", f"{RED}/repository", "admin", json={"root": "online", "public": True}).status_code == 200
    assert front.ask("GET", "/v1/attestation/public-tuf/red/metadata/timestamp.json", None).status_code == 200


@pytest.mark.parametrize(
    "file", ["root.json", "2.root.json", "01.root.json", "1.timestamp.json", "other.json", "1.keys.json"]
)
def test_metadata_that_is_not_there_is_not_found(front: Front, file: str) -> None:
    front.authority.signers()
    front.authority.publish()
    assert front.ask("GET", f"/v1/attestation/tuf/red/metadata/{file}").status_code == 404
