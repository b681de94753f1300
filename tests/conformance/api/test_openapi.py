"""Whatever the OpenAPI document allows to be sent, and much that it does not: never a server error, never a surprise.

Schemathesis makes the requests from the document, and checks the answers against it.
"""

from collections.abc import Iterator
from typing import Any, Final

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import BaseSchema, Case, GenerationMode
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

from steelyard.client.problems import BY_CODE
from tests.api import listening
from tests.conformance.api.test_authority import NODES, OPEN, REGISTERING, TABLE, sampled
from tests.conformance.api.world import World

ROUTES: Final = sorted({*TABLE, *OPEN, *REGISTERING, *NODES} - {"GET /v1/events"})
"""The stream of events has no end."""
BOUNDED: Final = settings(
    max_examples=settings().max_examples // 8,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def url(world: World) -> Iterator[str]:
    with listening(world.api.app) as listening_url:
        yield listening_url


@pytest.fixture(scope="module")
def documented(world: World) -> BaseSchema:
    document: dict[str, Any] = world.ask("GET /v1/openapi.json", world.tokens["provider"], {}, None).json()
    # Or some would come with another token, or none: those are in test_authority.py, and whoever fails to sign in often
    # is let in no more, so that nothing would be tried here.
    for operations in document["paths"].values():
        for operation in operations.values():
            operation.pop("security", None)
    return schemathesis.openapi.from_dict(document)


@pytest.mark.parametrize("caller", ["provider", pytest.param("member", marks=pytest.mark.slow)])
@pytest.mark.parametrize("route", sampled(ROUTES))
def test_whatever_is_asked_is_answered_as_documented(
    world: World, url: str, documented: BaseSchema, route: str, caller: str
) -> None:
    method, path = route.split(" ")
    operation = documented[path][method]
    headers = {"Authorization": f"Bearer {world.tokens[caller]}"}
    # Left out is the check that what fits the schema is accepted: that a quota is reached, no schema says.
    modes = [GenerationMode.POSITIVE]
    if operation.body or operation.query:
        modes.append(GenerationMode.NEGATIVE)

    @BOUNDED
    @given(
        case=st.one_of([operation.as_strategy(generation_mode=mode) for mode in modes]),
        there=st.booleans(),
    )
    def ask(case: Case[Any], there: bool) -> None:  # noqa: FBT001 (hypothesis gives it so)
        if there:  # or it would be NotFound nearly always
            for name in case.path_parameters:
                case.path_parameters[name] = world.names[name]
        try:
            answer = case.call(base_url=url, headers=headers)
        finally:
            world.restore()
        case.validate_response(answer, headers=headers, excluded_checks=[positive_data_acceptance, ignored_auth])
        assert answer.status_code < 500, answer.text
        # Nodes' own routes let no user in: what they do with what comes then, tests/fuzz and tests/attestation try.
        assert route in NODES or answer.status_code not in (401, 429), "nothing was tried"
        if answer.status_code >= 400:
            problem = answer.json()
            assert BY_CODE[problem["code"]].http_status == problem["status"] == answer.status_code

    # Nothing is waited for when the service is about to end; health alone would say so.
    world.api.front.stopping = route not in OPEN
    ask()
