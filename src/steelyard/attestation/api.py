"""HTTP to attestation's verbs and back: what is asked is read, passed on, and shown; nothing is decided here.

Three kinds of callers: anybody, to register and to read keys; nodes, by the token of their boot; and everybody with an
account. A node's own routes are answered without a detour: they are what is asked all the time.
"""

import base64
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from steelyard.attestation import archive, enrolling, messages, rules, shares, verdicts
from steelyard.attestation.appraising import Appraising
from steelyard.attestation.life import State
from steelyard.attestation.objects import Node
from steelyard.attestation.registrar import Registrar
from steelyard.attestation.schemas import (
    AppraisalBody,
    GroundsBody,
    NodeBody,
    NodeInput,
    RebootsInput,
    ShareInput,
    VerdictBody,
    VerdictKeyBody,
    VerdictKeysBody,
    WhyInput,
    appraisal_body,
    node_body,
    reasons,
    verdict_key_body,
)
from steelyard.attestation.throttle import Buckets, Rate, subscriber
from steelyard.attestation.verifier import NodeRejected, Verifier
from steelyard.model.errors import NotSignedIn, TooMany
from steelyard.model.limits import (
    BEARER_BYTES,
    EVIDENCE_BYTES,
    REGISTRATION_BYTES,
    SMALL_EVIDENCE_BYTES,
    Limit,
)
from steelyard.model.secret import Secret
from steelyard.service.accounts import not_signed_in
from steelyard.service.authority import Right
from steelyard.service.database import Database
from steelyard.service.gate import FailureLimit
from steelyard.service.http import (
    DirectRoute,
    ExpectedVersion,
    Page,
    Paged,
    Rule,
    SignedIn,
    TheDatabase,
    Who,
    front_of,
    guarded_router,
    may,
    problem,
    tell_version,
)
from steelyard.service.sealing import Sealer

READING: Final = may(Who.SIGNED_IN, Right.READ)
CHANGING: Final = may(Who.MEMBER, Right.ATTEST)
SOURCE_RATE: Final = Rate(burst=200, seconds=0.2)
"""Of what nobody has to show a token for, by address: a rack behind one address can register at once."""
LARGE_AT_ONCE: Final = 8
"""How many bodies of large evidence are held in memory at a time."""
_JSON: Final = "application/json"


@dataclass(slots=True)
class Means:
    """What the routes need beside the database.

    longest  that a verdict holds.
    """

    registrar: Registrar
    verifier: Verifier
    appraising: Appraising
    sealer: Sealer
    longest: timedelta
    sources: Buckets = field(default_factory=lambda: Buckets(SOURCE_RATE))
    failures: FailureLimit = field(default_factory=FailureLimit)
    large: int = 0


def attestation_router(means: Means) -> APIRouter:
    """Return the routes."""
    nodes = APIRouter(route_class=_node_route(means))
    _add_node_routes(nodes, means)
    _add_registrations(nodes, means)
    router = guarded_router(nodes)
    _add_keys(router, means)
    _add_nodes(router)
    _add_acts(router, means)
    _add_appraisals(router)
    return router


# -- who asks, where it is not somebody with an account ----------------------------------------------------------------


def _bearer(request: Request) -> str:
    """Return the token that is shown. Raises NotSignedIn."""
    shown = request.headers.getlist("authorization")
    scheme, _, bearer = (shown[0] if len(shown) == 1 else "").partition(" ")
    if scheme.lower() != "bearer" or not bearer.isascii() or len(bearer) > BEARER_BYTES.most:
        raise not_signed_in()
    return bearer


def _source(request: Request) -> str:
    return subscriber(request.client.host if request.client is not None else "")


def _size(request: Request) -> int:
    """Return how large a body says that it is; the largest, if it does not."""
    said = request.headers.get("content-length", "")
    return int(said) if said.isascii() and said.isdecimal() and len(said) < 12 else EVIDENCE_BYTES.most


def _node_route(means: Means) -> type[DirectRoute]:
    """Return the kind of route that nodes call: cheap to refuse, and no large body is read of a stranger."""

    class NodeRoute(DirectRoute):
        async def admit(self, request: Request, rule: Rule) -> None:
            source = _source(request)
            if rule.who is Who.ANYONE:
                means.sources.take(source, f"{request.method} {request.scope['path']}")
                return
            means.failures.must_be_few(source)
            bearer = _bearer(request)
            if rules.boot_of_token(bearer) is None:
                means.failures.count(source)
                raise not_signed_in()
            if request.method != "GET" and _size(request) > SMALL_EVIDENCE_BYTES.most:
                await _counted(means, source, means.appraising.answer(lambda: means.verifier.admit(bearer)))

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def bounded(request: Request) -> Response:
                if self._most_bytes <= REGISTRATION_BYTES.most or _size(request) <= SMALL_EVIDENCE_BYTES.most:
                    return await handle(request)
                if means.large >= LARGE_AT_ONCE:
                    found = f"{LARGE_AT_ONCE} at a time"
                    raise TooMany("taking evidence", expected="fewer large pieces of evidence", found=found)
                means.large += 1
                try:
                    return await handle(request)
                finally:
                    means.large -= 1

            return bounded

    return NodeRoute


async def _counted(means: Means, source: str, work: Coroutine[Any, Any, Any]) -> Any:
    """Return what comes of work for which a token is shown; whoever shows bad ones too often is not listened to."""
    try:
        return await work
    except NotSignedIn:
        means.failures.count(source)
        raise


def _takes(what: str, limit: Limit) -> dict[str, Any]:
    """Return how the OpenAPI document tells of a body of the native protocol."""
    description = f"{what}; at most {limit.most} bytes. docs/formats.md, Native protocol."
    return {
        "requestBody": {
            "required": True,
            "description": description,
            "content": {_JSON: {"schema": {"type": "object"}}},
        }
    }


def _told(status: int) -> dict[str, Any]:
    return {
        "status_code": status,
        "response_class": Response,
        "responses": {status: {"description": "docs/formats.md, Native protocol.", "content": {_JSON: {}}}},
    }


def _answer(content: bytes, status: int = 200) -> Response:
    return Response(content, status, media_type=_JSON)


# -- registering -------------------------------------------------------------------------------------------------------


def _add_registrations(router: APIRouter, means: Means) -> None:
    @router.post(
        "/v1/attestation/registrations",
        max_body_size=REGISTRATION_BYTES.most,
        openapi_extra={**may(Who.ANYONE), **_takes("Which node, by which keys", REGISTRATION_BYTES)},
        **_told(201),
    )
    async def register(request: Request) -> Response:
        """Offer a credential to whoever says to be a node; only the TPM published for that node opens it."""
        body = await request.body()

        def work() -> bytes:
            return messages.registered_answer(means.registrar.register(messages.parse_registration(body)))

        return _answer(await means.appraising.answer(work), 201)

    @router.post(
        "/v1/attestation/registrations/{registration}/activation",
        max_body_size=SMALL_EVIDENCE_BYTES.most,
        openapi_extra={**may(Who.ANYONE), **_takes("The proof", SMALL_EVIDENCE_BYTES)},
        **_told(200),
    )
    async def activate(registration: str, request: Request) -> Response:
        """Give a session to who opened the credential."""
        body = await request.body()

        def work() -> bytes:
            proof = messages.parse_activation(body)
            return messages.session_answer(means.registrar.activate(registration, proof))

        return _answer(await means.appraising.answer(work))


# -- what nodes ask ----------------------------------------------------------------------------------------------------


def _add_node_routes(router: APIRouter, means: Means) -> None:
    own = may(Who.NODE)

    @router.post(
        "/v1/attestation/nodes/{node}/challenges",
        max_body_size=SMALL_EVIDENCE_BYTES.most,
        openapi_extra={**own, **_takes("For what", SMALL_EVIDENCE_BYTES)},
        **_told(201),
    )
    async def challenge(node: str, request: Request) -> Response:
        """Say what to quote, with what nonce."""
        bearer, body = _bearer(request), await request.body()

        def work() -> bytes:
            purpose = means.verifier.read(bearer, lambda: messages.parse_challenge_request(body))
            return messages.challenge_answer(means.verifier.challenge(bearer, node, purpose))

        return _answer(await _counted(means, _source(request), means.appraising.answer(work)), 201)

    @router.post(
        "/v1/attestation/challenges/{challenge}/evidence",
        max_body_size=EVIDENCE_BYTES.most,
        openapi_extra={**own, **_takes("The evidence", EVIDENCE_BYTES)},
        **_told(200),
    )
    async def take_evidence(challenge: str, request: Request) -> Response:
        """Judge a node."""
        bearer, body = _bearer(request), await request.body()

        def work() -> bytes:
            judged = means.verifier.take(bearer, challenge, lambda: messages.parse_evidence(body))
            return messages.judged_answer(judged.verdict, judged.next_in, judged.following)

        try:
            judging = means.appraising.run(rules.boot_of_token(bearer) or "", len(body), work)
            return _answer(await _counted(means, _source(request), judging))
        except NodeRejected as rejected:
            return problem(rejected, request, more={"reasons": reasons(rejected.findings)})

    @router.get("/v1/attestation/nodes/{node}/share", openapi_extra=own, **_told(200))
    async def release_share(node: str, request: Request) -> Response:
        """Give a node that has passed its share, once a boot, sealed to the key that its quote vouches for."""
        bearer, database = _bearer(request), front_of(request).database

        def work() -> bytes:
            session = means.verifier.admit(bearer)
            return messages.share_answer(shares.release(database, means.sealer, session.boot, node))

        return _answer(await _counted(means, _source(request), means.appraising.answer(work)))

    @router.post(
        "/v1/attestation/nodes/{node}/steps",
        max_body_size=SMALL_EVIDENCE_BYTES.most,
        status_code=204,
        openapi_extra={**own, **_takes("Step, outcome, detail", SMALL_EVIDENCE_BYTES)},
    )
    async def note_step(node: str, request: Request) -> Response:
        """Note what a node says that it is at."""
        bearer, body = _bearer(request), await request.body()

        def work() -> None:
            said = means.verifier.read(bearer, lambda: messages.parse_step(body))
            means.verifier.note_step(bearer, node, *said)

        await _counted(means, _source(request), means.appraising.answer(work))
        return Response(status_code=204)


# -- keys --------------------------------------------------------------------------------------------------------------


def _add_keys(router: APIRouter, means: Means) -> None:
    @router.get("/v1/attestation/keys", openapi_extra=may(Who.ANYONE))
    def list_keys(database: TheDatabase) -> VerdictKeysBody:
        """Publish the keys that verdicts are signed with."""
        with database.reading() as connection:
            found = verdicts.published(connection, database.clock())
        return VerdictKeysBody(keys=list(map(verdict_key_body, found)))

    @router.post("/v1/attestation/keys", status_code=201, openapi_extra=may(Who.PROVIDER, Right.ATTEST))
    def rotate_key(session: SignedIn, database: TheDatabase) -> VerdictKeyBody:
        """Sign with a new key from now on."""
        with database.writing() as tx:
            key = verdicts.rotate(tx, means.sealer, actor=session.name, longest=means.longest)
        return verdict_key_body(key)


# -- nodes, as their owners see them -----------------------------------------------------------------------------------


def _add_nodes(router: APIRouter) -> None:
    where = "/v1/attestation/nodes/{node}"

    @router.get("/v1/attestation/nodes", openapi_extra=READING)
    def list_nodes(
        session: SignedIn,
        database: TheDatabase,
        paging: Paged,
        project: str | None = None,
        state: State | None = None,
    ) -> Page[NodeBody]:
        """Tell which nodes are attested, by name, and what each is at this moment."""
        now = database.clock()
        with database.reading() as connection:
            found = enrolling.list_nodes(
                connection, session, project=project, state=state, now=now, after=paging.after, limit=paging.limit
            )
        return paging.page((node_body(node, now) for node in found), found, lambda node: node.name)

    @router.get(where, openapi_extra=READING)
    def read_node(node: str, session: SignedIn, database: TheDatabase, response: Response) -> NodeBody:
        """Tell what is known of a node."""
        with database.reading() as connection:
            found = enrolling.get_node(connection, session, node)
        return _shown(found, database, response)

    @router.put(where, openapi_extra=CHANGING)
    def enrol_node(
        node: str,
        body: NodeInput,
        session: SignedIn,
        database: TheDatabase,
        version: ExpectedVersion,
        response: Response,
    ) -> NodeBody:
        """Say on what terms a node is attested."""
        with database.writing() as tx:
            found = enrolling.enrol(
                tx, session, name=node, project=body.project, terms=body.terms(), expected_version=version
            )
        return _shown(found, database, response)

    @router.delete(where, status_code=204, openapi_extra=CHANGING)
    def delete_node(node: str, session: SignedIn, database: TheDatabase, version: ExpectedVersion) -> None:
        """Attest a node no more."""
        with database.writing() as tx:
            enrolling.delete_node(tx, session, name=node, expected_version=version)


def _shown(node: Node, database: Database, response: Response) -> NodeBody:
    tell_version(response, node.version)
    return node_body(node, database.clock())


def _add_acts(router: APIRouter, means: Means) -> None:
    where = "/v1/attestation/nodes/{node}"

    @router.post(where + "/retry", openapi_extra=CHANGING)
    def retry(node: str, body: WhyInput, session: SignedIn, database: TheDatabase, response: Response) -> NodeBody:
        """Let a node that failed register again."""
        with database.writing() as tx:
            found = enrolling.retry(tx, session, name=node, why=body.why)
        return _shown(found, database, response)

    @router.post(where + "/tpm-replacement", openapi_extra=CHANGING)
    def replace_tpm(
        node: str, body: WhyInput, session: SignedIn, database: TheDatabase, response: Response
    ) -> NodeBody:
        """Let a node be known by another TPM than before."""
        with database.writing() as tx:
            found = enrolling.replace_tpm(tx, session, name=node, why=body.why)
        return _shown(found, database, response)

    @router.put(where + "/expected-reboots", openapi_extra=CHANGING)
    def expect_reboots(
        node: str, body: RebootsInput, session: SignedIn, database: TheDatabase, response: Response
    ) -> NodeBody:
        """Say how many times a node may be reset from now on without failing for it."""
        with database.writing() as tx:
            found = enrolling.expect_reboots(tx, session, name=node, count=body.count)
        return _shown(found, database, response)

    @router.put(where + "/share", status_code=204, openapi_extra=CHANGING)
    def leave_share(node: str, body: ShareInput, session: SignedIn, database: TheDatabase) -> None:
        """Leave V for a node; it is given out once, when the node has passed."""
        with database.writing() as tx:
            shares.deposit(tx, means.sealer, session, name=node, share=Secret(body.content()))

    @router.delete(where + "/share", status_code=204, openapi_extra=CHANGING)
    def withdraw_share(node: str, session: SignedIn, database: TheDatabase) -> None:
        """Forget the share that was left for a node."""
        with database.writing() as tx:
            shares.withdraw(tx, session, name=node)

    @router.get(where + "/verdict", openapi_extra=READING)
    def read_verdict(node: str, session: SignedIn, database: TheDatabase) -> VerdictBody:
        """Tell the signed verdict of a node that has passed."""
        with database.reading() as connection:
            found = enrolling.get_verdict(connection, session, node=node, now=database.clock())
        return VerdictBody(verdict=found)


# -- appraisals --------------------------------------------------------------------------------------------------------


def _add_appraisals(router: APIRouter) -> None:
    where = "/v1/attestation/nodes/{node}/appraisals"

    @router.get(where, openapi_extra=READING)
    def list_appraisals(node: str, session: SignedIn, database: TheDatabase, paging: Paged) -> Page[AppraisalBody]:
        """Tell what was judged of a node, the oldest first, with every reason."""
        with database.reading() as connection:
            found = enrolling.list_appraisals(connection, session, node=node, after=paging.after, limit=paging.limit)
        return paging.page(map(appraisal_body, found), found, lambda appraisal: appraisal.id)

    @router.get(where + "/{appraisal}", openapi_extra=READING)
    def read_appraisal(node: str, appraisal: str, session: SignedIn, database: TheDatabase) -> AppraisalBody:
        """Tell what was judged, and what came of it."""
        with database.reading() as connection:
            return appraisal_body(enrolling.get_appraisal(connection, session, node=node, appraisal=appraisal))

    @router.get(where + "/{appraisal}/bundle", openapi_extra=READING, **_told(200))
    def read_bundle(node: str, appraisal: str, session: SignedIn, database: TheDatabase) -> Response:
        """Give all that was judged as an evidence bundle, for `steelyard evidence appraise`."""
        with database.reading() as connection:
            found = enrolling.get_appraisal(connection, session, node=node, appraisal=appraisal)
            return _answer(archive.make_bundle(connection, found).to_bytes())

    @router.get(where + "/{appraisal}/grounds", openapi_extra=READING)
    def read_grounds(node: str, appraisal: str, session: SignedIn, database: TheDatabase) -> GroundsBody:
        """Give the policy and the references by which it was judged."""
        with database.reading() as connection:
            found = enrolling.get_appraisal(connection, session, node=node, appraisal=appraisal)
            kept = archive.read_grounds(connection, found.grounds)
        return GroundsBody(
            policy=base64.b64encode(kept.policy).decode(),
            references=[base64.b64encode(each).decode() for each in kept.references.values()],
        )
