"""HTTP to the reference authority's verbs and back: what is asked is read, passed on, and shown."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from steelyard.attestation.references import dry_runs, makers, manifests, policies, publication, signers
from steelyard.attestation.references.objects import DryRun, Outcome, Standing
from steelyard.attestation.references.schemas import (
    DryRunBody,
    DryRunInput,
    LiveInput,
    MakersBody,
    MakersInput,
    NodeResultBody,
    PolicyBody,
    PolicyVersionBody,
    ReferenceBody,
    RepositoryBody,
    RepositoryInput,
    RepositoryKeysBody,
    RevokedBody,
    SignersBody,
    SignersInput,
    WhyInput,
    decoded,
    dry_run_body,
    makers_body,
    policy_body,
    reference_body,
    repository_body,
    repository_keys_body,
    result_body,
    revoked_body,
    signers_body,
    version_body,
)
from steelyard.model.errors import WrongUse
from steelyard.model.limits import ENVELOPE_UPLOAD_BYTES, MAKER_SET_BYTES, POLICY_BYTES, ROOT_METADATA_BYTES
from steelyard.service.accounts import Session, look_again
from steelyard.service.authority import Right
from steelyard.service.database import Database
from steelyard.service.http import (
    ExpectedVersion,
    Page,
    Paged,
    Paging,
    SignedIn,
    TheDatabase,
    TheFront,
    WaitSeconds,
    Who,
    guarded_router,
    may,
    tell_version,
    wait_for,
)
from steelyard.service.sealing import Sealer

PROJECT: Final = "/v1/attestation/projects/{project}"

READING: Final = may(Who.MEMBER, Right.READ)
CHANGING: Final = may(Who.MEMBER, Right.ATTEST)
RULING: Final = may(Who.ADMIN, Right.ATTEST)

_ID: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,6}", re.ASCII)
_BYTES: Final[Mapping[int | str, dict[str, Any]]] = {
    200: {"description": "The document.", "content": {"application/octet-stream": {}}}
}


def _taking_bytes(rule: dict[str, Any], words: str) -> dict[str, Any]:
    content = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    return {**rule, "requestBody": {"required": True, "description": words, "content": content}}


ReleaseQuery = Annotated[str, Query(min_length=1, max_length=200)]


@dataclass(frozen=True, slots=True)
class Means:
    """What the verbs need beside the database."""

    sealer: Sealer


def references_router(means: Means) -> APIRouter:
    """Return the routes."""
    router = guarded_router()
    _add_signers(router, means)
    _add_references(router, means)
    _add_revocations(router, means)
    _add_policies(router, means)
    _add_dry_runs(router)
    _add_repository(router, means)
    _add_makers(router)
    return router


# -- signers -----------------------------------------------------------------------------------------------------------


def _add_signers(router: APIRouter, means: Means) -> None:
    where = PROJECT + "/signers/{component}"

    @router.get(PROJECT + "/signers", openapi_extra=READING)
    def list_signers(project: str, session: SignedIn, database: TheDatabase) -> Page[SignersBody]:
        """Tell who signs a project's references; they are few."""
        with database.reading() as connection:
            found = signers.list_signers(connection, session, project=project)
        return Page[SignersBody](items=[signers_body(one) for one in found], next=None)

    @router.get(where, openapi_extra=READING)
    def read_signers(
        project: str, component: str, session: SignedIn, database: TheDatabase, response: Response
    ) -> SignersBody:
        """Tell who signs a component's references, or (`_default`) those of all that have no signers of their own."""
        with database.reading() as connection:
            found = signers.get_signers(connection, session, project=project, component=component)
        tell_version(response, found.version)
        return signers_body(found)

    @router.put(where, openapi_extra=RULING)
    def put_signers(
        project: str,
        component: str,
        body: SignersInput,
        session: SignedIn,
        database: TheDatabase,
        version: ExpectedVersion,
        response: Response,
    ) -> SignersBody:
        """Say who signs. What others signed stops counting at once."""
        with database.writing() as tx:
            made = signers.put_signers(
                tx,
                session,
                means.sealer,
                project=project,
                component=component,
                keys=body.raw_keys(),
                threshold=body.threshold,
                expected_version=version,
            )
        tell_version(response, made.version)
        return signers_body(made)

    @router.delete(where, status_code=204, openapi_extra=RULING)
    def delete_signers(
        project: str, component: str, session: SignedIn, database: TheDatabase, version: ExpectedVersion
    ) -> None:
        """Have a component's references be signed by the default signers again."""
        with database.writing() as tx:
            signers.delete_signers(
                tx, session, means.sealer, project=project, component=component, expected_version=version
            )


# -- references --------------------------------------------------------------------------------------------------------


def _add_references(router: APIRouter, means: Means) -> None:
    where = PROJECT + "/references/{reference}"

    @router.get(PROJECT + "/references", openapi_extra=READING)
    def list_references(
        project: str,
        session: SignedIn,
        database: TheDatabase,
        paging: Paged,
        component: str | None = None,
        standing: Standing | None = None,
    ) -> Page[ReferenceBody]:
        """Tell which references a project has, by id."""
        after = bytes.fromhex(paging.after) if _ID.fullmatch(paging.after) else b""
        with database.reading() as connection:
            found = manifests.list_references(
                connection,
                session,
                project=project,
                component=component,
                standing=standing,
                after=after,
                limit=paging.limit,
            )
        return paging.page(map(reference_body, found), found, lambda one: one.id.hex())

    @router.post(
        PROJECT + "/references",
        status_code=201,
        max_body_size=ENVELOPE_UPLOAD_BYTES.most,
        openapi_extra=_taking_bytes(CHANGING, "A DSSE envelope with a signed manifest."),
    )
    async def add_reference(
        project: str,
        request: Request,
        session: SignedIn,
        database: TheDatabase,
        component: Annotated[str, Query(min_length=1, max_length=63)],
        standing: Annotated[Standing, Query()] = Standing.ACCEPTED,
    ) -> ReferenceBody:
        """Bring in a signed manifest; the same once more adds its new signatures."""
        content = await request.body()
        if standing is Standing.REVOKED:
            raise WrongUse("taking a manifest", expected="accepted or proposed", found=standing.value)

        def add() -> ReferenceBody:
            return reference_body(
                manifests.add_reference(
                    database,
                    session,
                    means.sealer,
                    project=project,
                    component=component,
                    content=content,
                    standing=standing,
                )
            )

        return await run_in_threadpool(add)

    @router.get(where, openapi_extra=READING)
    def read_reference(project: str, reference: str, session: SignedIn, database: TheDatabase) -> ReferenceBody:
        """Tell what is known of a reference."""
        with database.reading() as connection:
            return reference_body(manifests.get_reference(connection, session, project=project, reference=reference))

    @router.get(where + "/envelope", openapi_extra=READING, response_class=Response, responses=dict(_BYTES))
    def read_envelope(project: str, reference: str, session: SignedIn, database: TheDatabase) -> Response:
        """Send a reference's envelope."""
        with database.reading() as connection:
            return _bytes(manifests.get_envelope(connection, session, project=project, reference=reference))

    @router.put(where + "/acceptance", openapi_extra=CHANGING)
    def accept_reference(project: str, reference: str, session: SignedIn, database: TheDatabase) -> ReferenceBody:
        """Let a proposed reference count."""
        with database.writing() as tx:
            accepted = manifests.accept_reference(tx, session, means.sealer, project=project, reference=reference)
        return reference_body(accepted)

    @router.put(where + "/revocation", openapi_extra=CHANGING)
    def revoke_reference(
        project: str, reference: str, body: WhyInput, session: SignedIn, database: TheDatabase
    ) -> ReferenceBody:
        """Take a reference's word back, for good."""
        with database.writing() as tx:
            revoked = manifests.revoke_reference(
                tx, session, means.sealer, project=project, reference=reference, why=body.why
            )
        return reference_body(revoked)


def _add_revocations(router: APIRouter, means: Means) -> None:
    where = PROJECT + "/components/{component}/revoked"

    @router.get(PROJECT + "/revocations", openapi_extra=READING)
    def list_revoked(project: str, session: SignedIn, database: TheDatabase) -> Page[RevokedBody]:
        """Tell which versions of components were revoked."""
        with database.reading() as connection:
            found = manifests.list_revoked(connection, session, project=project)
        return Page[RevokedBody](items=[revoked_body(one) for one in found], next=None)

    @router.put(where, openapi_extra=CHANGING)
    def revoke_release(
        project: str,
        component: str,
        body: WhyInput,
        session: SignedIn,
        database: TheDatabase,
        release: ReleaseQuery,
    ) -> RevokedBody:
        """Say that a version of a component is bad, by whomever it was signed or will be."""
        with database.writing() as tx:
            revoked = manifests.revoke_release(
                tx, session, means.sealer, project=project, component=component, release=release, why=body.why
            )
        return revoked_body(revoked)

    @router.delete(where, status_code=204, openapi_extra=RULING)
    def restore_release(
        project: str, component: str, session: SignedIn, database: TheDatabase, release: ReleaseQuery
    ) -> None:
        """Take that back."""
        with database.writing() as tx:
            manifests.restore_release(tx, session, means.sealer, project=project, component=component, release=release)


# -- policies ----------------------------------------------------------------------------------------------------------


def _add_policies(router: APIRouter, means: Means) -> None:
    where = PROJECT + "/policies/{policy}"

    @router.get(PROJECT + "/policies", openapi_extra=READING)
    def list_policies(project: str, session: SignedIn, database: TheDatabase, paging: Paged) -> Page[PolicyBody]:
        """Tell which policies a project has, by name."""
        with database.reading() as connection:
            found = policies.list_policies(connection, session, project=project, after=paging.after, limit=paging.limit)
        return paging.page(map(policy_body, found), found, lambda policy: policy.name)

    @router.get(where, openapi_extra=READING)
    def read_policy(
        project: str, policy: str, session: SignedIn, database: TheDatabase, response: Response
    ) -> PolicyBody:
        """Tell what a policy is, and what of it judges."""
        with database.reading() as connection:
            found = policies.get_policy(connection, session, project=project, name=policy)
        tell_version(response, found.version)
        return policy_body(found)

    @router.put(
        where,
        max_body_size=POLICY_BYTES.most,
        openapi_extra=_taking_bytes(CHANGING, "A policy, as docs/policy.md has it."),
    )
    async def put_policy(
        project: str,
        policy: str,
        request: Request,
        session: SignedIn,
        database: TheDatabase,
        version: ExpectedVersion,
        response: Response,
    ) -> PolicyBody:
        """Keep a new version of a policy; nothing is judged by it yet."""
        document = await request.body()

        def put() -> PolicyBody:
            with database.writing() as tx:
                made = policies.put_policy(
                    tx, session, project=project, name=policy, document=document, expected_version=version
                )
            tell_version(response, made.version)
            return policy_body(made)

        return await run_in_threadpool(put)

    @router.get(where + "/document", openapi_extra=READING, response_class=Response, responses=dict(_BYTES))
    def read_document(project: str, policy: str, session: SignedIn, database: TheDatabase) -> Response:
        """Send what judges: the live version, with what was revoked since in it."""
        with database.reading() as connection:
            return _bytes(policies.get_document(connection, session, project=project, name=policy, number=None))

    @router.put(where + "/live", openapi_extra=CHANGING)
    def make_live(
        project: str,
        policy: str,
        body: LiveInput,
        session: SignedIn,
        database: TheDatabase,
        version: ExpectedVersion,
        response: Response,
    ) -> PolicyBody:
        """Have nodes judged by this version from now on."""
        with database.writing() as tx:
            made = policies.make_live(
                tx,
                session,
                means.sealer,
                project=project,
                name=policy,
                number=body.number,
                expected_version=version,
            )
        tell_version(response, made.version)
        return policy_body(made)

    @router.get(where + "/versions", openapi_extra=READING)
    def list_versions(
        project: str, policy: str, session: SignedIn, database: TheDatabase, paging: Paged
    ) -> Page[PolicyVersionBody]:
        """Tell which versions a policy has had, the oldest first."""
        after = int(paging.after) if _NUMBER.fullmatch(paging.after) else 0
        with database.reading() as connection:
            found = policies.list_versions(
                connection, session, project=project, name=policy, after=after, limit=paging.limit
            )
        return paging.page(map(version_body, found), found, lambda version: str(version.number))

    @router.get(
        where + "/versions/{number}/document", openapi_extra=READING, response_class=Response, responses=dict(_BYTES)
    )
    def read_version(project: str, policy: str, number: str, session: SignedIn, database: TheDatabase) -> Response:
        """Send a version of a policy as it was put."""
        wanted = int(number) if _NUMBER.fullmatch(number) else 0
        with database.reading() as connection:
            return _bytes(policies.get_document(connection, session, project=project, name=policy, number=wanted))


# -- dry runs ----------------------------------------------------------------------------------------------------------


def _add_dry_runs(router: APIRouter) -> None:
    where = PROJECT + "/dry-runs/{dry_run}"

    @router.post(PROJECT + "/dry-runs", status_code=202, openapi_extra=CHANGING)
    def begin_dry_run(
        project: str, body: DryRunInput, session: SignedIn, database: TheDatabase, response: Response
    ) -> DryRunBody:
        """Judge the newest evidence of every node by what is supposed; nothing that judges changes."""
        with database.writing() as tx:
            run = dry_runs.begin(
                tx,
                session,
                project=project,
                change=body.change(),
                evidence=body.evidence,
                limit=timedelta(seconds=body.seconds),
            )
        response.headers["Location"] = f"/v1/attestation/projects/{project}/dry-runs/{run.id}"
        return dry_run_body(run)

    @router.get(PROJECT + "/dry-runs", openapi_extra=READING)
    def list_dry_runs(
        project: str, session: SignedIn, database: TheDatabase, paging: Paged, policy: str | None = None
    ) -> Page[DryRunBody]:
        """Tell of a project's dry runs, the oldest first."""
        with database.reading() as connection:
            found = dry_runs.list_dry_runs(
                connection, session, project=project, policy=policy, after=paging.after, limit=paging.limit
            )
        return paging.page(map(dry_run_body, found), found, lambda run: run.id)

    @router.get(where, openapi_extra=READING)
    async def read_dry_run(
        project: str, dry_run: str, session: SignedIn, front: TheFront, seconds: WaitSeconds
    ) -> DryRunBody:
        """Tell how far a dry run is; with `wait`, when it is over."""

        def look() -> DryRun:
            with front.database.reading() as connection:
                now = look_again(connection, session, front.database.clock())
                return dry_runs.get_dry_run(connection, now, project=project, dry_run=dry_run)

        topic = dry_runs.topic_of(dry_run)
        return dry_run_body(await wait_for(front, topic, look, lambda run: run.state.ended, seconds))

    @router.delete(where, openapi_extra=CHANGING)
    def cancel_dry_run(project: str, dry_run: str, session: SignedIn, database: TheDatabase) -> DryRunBody:
        """Give a dry run up."""
        with database.writing() as tx:
            return dry_run_body(dry_runs.cancel(tx, session, project=project, dry_run=dry_run))

    @router.get(where + "/results", openapi_extra=READING)
    def list_results(
        project: str,
        dry_run: str,
        session: SignedIn,
        database: TheDatabase,
        paging: Paged,
        outcome: Outcome | None = None,
    ) -> Page[NodeResultBody]:
        """Tell what a dry run came to, by node."""
        with database.reading() as connection:
            found = dry_runs.list_results(
                connection,
                session,
                project=project,
                dry_run=dry_run,
                outcome=outcome,
                after=paging.after,
                limit=paging.limit,
            )
        return paging.page(map(result_body, found), found, lambda result: result.node)


# -- publication -------------------------------------------------------------------------------------------------------


def _add_repository(router: APIRouter, means: Means) -> None:
    where = PROJECT + "/repository"

    @router.get(where, openapi_extra=READING)
    def read_repository(project: str, session: SignedIn, database: TheDatabase, response: Response) -> RepositoryBody:
        """Tell how a project's references are published."""
        with database.reading() as connection:
            found = publication.get_repository(connection, session, project)
        tell_version(response, found.version)
        return repository_body(found)

    @router.put(where, openapi_extra=RULING)
    def put_repository(project: str, body: RepositoryInput, session: SignedIn, database: TheDatabase) -> RepositoryBody:
        """Publish a project's references as a TUF repository."""
        with database.writing() as tx:
            made = publication.put_repository(
                tx, session, means.sealer, project=project, root=body.root, public=body.public
            )
        return repository_body(made)

    @router.get(where + "/keys", openapi_extra=READING)
    def read_keys(project: str, session: SignedIn, database: TheDatabase) -> RepositoryKeysBody:
        """Tell the public keys that a root signed outside must name."""
        with database.reading() as connection:
            return repository_keys_body(publication.public_keys(connection, session, means.sealer, project))

    @router.put(
        where + "/root",
        max_body_size=ROOT_METADATA_BYTES.most,
        openapi_extra=_taking_bytes(RULING, "TUF root metadata."),
    )
    async def put_root(project: str, request: Request, session: SignedIn, database: TheDatabase) -> RepositoryBody:
        """Take root metadata that was signed outside."""
        content = await request.body()

        def put() -> RepositoryBody:
            with database.writing() as tx:
                return repository_body(
                    publication.put_root(tx, session, means.sealer, project=project, content=content)
                )

        return await run_in_threadpool(put)

    @router.get(
        "/v1/attestation/tuf/{project}/metadata/{metadata}",
        openapi_extra=READING,
        response_class=Response,
        responses=dict(_BYTES),
    )
    def read_metadata(project: str, metadata: str, session: SignedIn, database: TheDatabase) -> Response:
        """Send metadata of the repository."""
        with database.reading() as connection:
            publication.get_repository(connection, session, project)
            return _bytes(publication.read_metadata(connection, project, metadata))

    @router.get(
        "/v1/attestation/tuf/{project}/targets/{target}",
        openapi_extra=READING,
        response_class=Response,
        responses=dict(_BYTES),
    )
    def read_target(project: str, target: str, session: SignedIn, database: TheDatabase) -> Response:
        """Send a target of the repository."""
        with database.reading() as connection:
            publication.get_repository(connection, session, project)
            return _bytes(publication.read_target(connection, project, target))

    public = may(Who.ANYONE)

    @router.get(
        "/v1/attestation/public-tuf/{project}/metadata/{metadata}",
        openapi_extra=public,
        response_class=Response,
        responses=dict(_BYTES),
    )
    def read_public_metadata(project: str, metadata: str, database: TheDatabase) -> Response:
        """Send metadata of a repository that is public."""
        with database.reading() as connection:
            publication.check_public(connection, project)
            return _bytes(publication.read_metadata(connection, project, metadata))

    @router.get(
        "/v1/attestation/public-tuf/{project}/targets/{target}",
        openapi_extra=public,
        response_class=Response,
        responses=dict(_BYTES),
    )
    def read_public_target(project: str, target: str, database: TheDatabase) -> Response:
        """Send a target of a repository that is public."""
        with database.reading() as connection:
            publication.check_public(connection, project)
            return _bytes(publication.read_target(connection, project, target))


# -- TPM makers --------------------------------------------------------------------------------------------------------


def _add_makers(router: APIRouter) -> None:
    where = PROJECT + "/makers/{makers}"

    @router.get(PROJECT + "/makers", openapi_extra=READING)
    def list_makers(project: str, session: SignedIn, database: TheDatabase, paging: Paged) -> Page[MakersBody]:
        """Tell which sets of TPM makers a project has of its own, by name."""
        return _list_makers(project, session, database, paging)

    @router.get(where, openapi_extra=READING)
    def read_makers(
        project: str, makers: str, session: SignedIn, database: TheDatabase, response: Response
    ) -> MakersBody:
        """Tell what is in a set of TPM makers."""
        return _read_makers(project, makers, session, database, response)

    @router.put(where, max_body_size=MAKER_SET_BYTES.most, openapi_extra=RULING)
    def put_makers(
        project: str,
        makers: str,
        body: MakersInput,
        session: SignedIn,
        database: TheDatabase,
        version: ExpectedVersion,
        response: Response,
    ) -> MakersBody:
        """Say whom a project believes about TPMs."""
        return _put_makers(project, makers, body, session, database, version, response)

    @router.delete(where, status_code=204, openapi_extra=RULING)
    def delete_makers(
        project: str, makers: str, session: SignedIn, database: TheDatabase, version: ExpectedVersion
    ) -> None:
        """Forget a set of TPM makers that no node names."""
        _delete_makers(project, makers, session, database, version)

    where = "/v1/attestation/makers/{makers}"
    reading, providing = may(Who.SIGNED_IN, Right.READ), may(Who.PROVIDER, Right.ATTEST)

    @router.get("/v1/attestation/makers", openapi_extra=reading)
    def list_provider_makers(session: SignedIn, database: TheDatabase, paging: Paged) -> Page[MakersBody]:
        """Tell which sets of TPM makers the provider has, for all to name."""
        return _list_makers(None, session, database, paging)

    @router.get(where, openapi_extra=reading)
    def read_provider_makers(makers: str, session: SignedIn, database: TheDatabase, response: Response) -> MakersBody:
        """Tell what is in a set of the provider's."""
        return _read_makers(None, makers, session, database, response)

    @router.put(where, max_body_size=MAKER_SET_BYTES.most, openapi_extra=providing)
    def put_provider_makers(
        makers: str,
        body: MakersInput,
        session: SignedIn,
        database: TheDatabase,
        version: ExpectedVersion,
        response: Response,
    ) -> MakersBody:
        """Say whom everybody may believe about TPMs."""
        return _put_makers(None, makers, body, session, database, version, response)

    @router.delete(where, status_code=204, openapi_extra=providing)
    def delete_provider_makers(makers: str, session: SignedIn, database: TheDatabase, version: ExpectedVersion) -> None:
        """Forget a set of the provider's."""
        _delete_makers(None, makers, session, database, version)


def _list_makers(project: str | None, session: Session, database: Database, paging: Paging) -> Page[MakersBody]:
    with database.reading() as connection:
        found = makers.list_makers(connection, session, project=project, after=paging.after, limit=paging.limit)
    return paging.page(map(makers_body, found), found, lambda one: one.name)


def _read_makers(
    project: str | None, name: str, session: Session, database: Database, response: Response
) -> MakersBody:
    with database.reading() as connection:
        found = makers.get_makers(connection, session, project=project, name=name)
    tell_version(response, found.version)
    return makers_body(found)


def _put_makers(
    project: str | None,
    name: str,
    body: MakersInput,
    session: Session,
    database: Database,
    version: int | None,
    response: Response,
) -> MakersBody:
    revocations = [decoded(one, "a revocation list") for one in body.revocations]
    with database.writing() as tx:
        made = makers.put_makers(
            tx,
            session,
            project=project,
            name=name,
            certificates=body.certificates,
            revocations=revocations,
            demands=body.demands,
            expected_version=version,
        )
    tell_version(response, made.version)
    return makers_body(made)


def _delete_makers(project: str | None, name: str, session: Session, database: Database, version: int | None) -> None:
    with database.writing() as tx:
        makers.delete_makers(tx, session, project=project, name=name, expected_version=version)


# -- what these have in common -----------------------------------------------------------------------------------------


def _bytes(content: bytes) -> Response:
    return Response(content, media_type="application/octet-stream")
