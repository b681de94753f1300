"""Anything at all, sent to what nobody needs an account for: never a server error, never a node that passes by it."""

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steelyard.agent.protocol import evidence_request
from steelyard.attestation.life import State
from steelyard.service.database import Database
from tests.attestation.test_published_weaknesses import registration
from tests.attestation_site import Site, site_on

LONG: Final = settings(
    max_examples=settings().max_examples * 3 // 2, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
VALUES: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
WHERE: Final = (
    "registrations",
    "registrations/{registration}/activation",
    "nodes/n1/challenges",
    "challenges/{challenge}/evidence",
    "nodes/n1/steps",
)


@pytest.fixture
def site(sqlite_database: Database) -> Iterator[Site]:
    with site_on(sqlite_database) as made:
        yield made


def changed(good: bytes, data: st.DataObject) -> bytes:
    """Return a good body with something in it that is something else; or bytes changed, cut, doubled."""
    kind = data.draw(st.sampled_from(["value", "bytes", "cut", "other"]))
    if kind == "value":
        body: dict[str, Any] = json.loads(good)
        if body:
            body[data.draw(st.sampled_from(sorted(body)))] = data.draw(VALUES)
        return json.dumps(body).encode("utf-8", "surrogatepass")
    if kind == "bytes" and good:
        at = data.draw(st.integers(0, len(good) - 1))
        return good[:at] + data.draw(st.binary(min_size=1, max_size=4)) + good[at + 1 :]
    if kind == "cut":
        return good[: data.draw(st.integers(0, len(good)))]
    return data.draw(st.binary(max_size=200) | VALUES.map(lambda each: json.dumps(each).encode("utf-8", "replace")))


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("known", [False, True])
def test_no_body_is_a_server_error_and_none_passes_a_node(
    site: Site,
    where: str,
    known: bool,  # noqa: FBT001 (pytest gives it so)
) -> None:
    node = site.enrolled()
    registered = node.register()
    if known:
        node.activate(registered)
        registered = node.register()
    asked = node.ask_challenge() if known else None
    challenge = "0" * 32 if asked is None else asked.challenge
    good = {
        WHERE[0]: json.dumps(registration(node)).encode(),
        WHERE[1]: json.dumps({"proof": "A" * 43 + "="}).encode(),
        WHERE[2]: b'{"purpose": "airlock", "have": {"ima_entries": 0}}',
        WHERE[3]: b"{}" if asked is None else evidence_request(node.evidence(asked)),
        WHERE[4]: b'{"step": "boot", "outcome": "done", "detail": ""}',
    }[where]
    path = "/v1/attestation/" + where.format(registration=registered.registration, challenge=challenge)
    token = node.token.reveal().decode() if node.token else "sn_"
    headers = {"Authorization": f"Bearer {token}"} if known else {}

    @LONG
    @given(data=st.data())
    def send(data: st.DataObject) -> None:
        answer = site.send("POST", path, content=changed(good, data), headers=headers)
        assert answer.status_code < 500, answer.text
        assert len(answer.content) < 1 << 16
        assert site.node().state is not State.PASSED or answer.status_code == 200

    send()
