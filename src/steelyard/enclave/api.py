"""HTTP to the enclave's verbs and back: what is asked is read, passed on, and shown; nothing is decided here."""

from dataclasses import dataclass
from typing import Final

from fastapi import APIRouter, Response
from sqlalchemy import Connection

from steelyard.enclave import operations, store
from steelyard.enclave.objects import Enclave
from steelyard.enclave.schemas import (
    EnclaveBody,
    FileInput,
    PlaceBody,
    PlaceInput,
    PlanBody,
    enclave_body,
    place_body,
    plan_body,
)
from steelyard.model.limits import ENCLAVE_FILE_BYTES
from steelyard.service.accounts import Session, look_again
from steelyard.service.authority import Right
from steelyard.service.database import Database
from steelyard.service.http import (
    ExpectedVersion,
    Page,
    Paged,
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

READING: Final = may(Who.SIGNED_IN, Right.READ)
CHANGING: Final = may(Who.MEMBER, Right.ENCLAVES)
_BODY_BYTES: Final = 7 * ENCLAVE_FILE_BYTES.most
"""A file of which JSON writes every letter as six."""
_WHERE: Final = "/v1/projects/{project}/enclaves/{enclave}"


@dataclass(frozen=True, slots=True)
class Means:
    """What the verbs need beside the database. services: the attestation services that a file may name."""

    sealer: Sealer
    services: frozenset[str]


def enclave_router(means: Means) -> APIRouter:
    """Return the routes."""
    router = guarded_router()
    _add_looking(router)
    _add_files(router, means)
    _add_acts(router)
    return router


def _shown(connection: Connection, enclave: Enclave) -> EnclaveBody:
    return enclave_body(enclave, operations.settled(connection, enclave))


def _told(database: Database, enclave: Enclave, response: Response) -> EnclaveBody:
    tell_version(response, enclave.version)
    with database.reading() as connection:
        return _shown(connection, enclave)


def _add_looking(router: APIRouter) -> None:
    @router.get("/v1/enclaves", openapi_extra=READING)
    def list_enclaves(
        session: SignedIn, database: TheDatabase, paging: Paged, project: str | None = None
    ) -> Page[EnclaveBody]:
        """Tell which enclaves there are, the oldest first."""
        with database.reading() as connection:
            found = operations.list_enclaves(
                connection, session, project=project, after=paging.after, limit=paging.limit
            )
            return paging.page([_shown(connection, each) for each in found], found, lambda enclave: enclave.id)

    @router.get(_WHERE, openapi_extra=READING)
    async def read_enclave(
        project: str, enclave: str, session: SignedIn, front: TheFront, seconds: WaitSeconds, response: Response
    ) -> EnclaveBody:
        """Tell how an enclave is; with `wait`, when nothing is under way any more."""

        def look() -> EnclaveBody:
            with front.database.reading() as connection:
                now: Session = look_again(connection, session, front.database.clock())
                return _shown(connection, operations.get_enclave(connection, now, project, enclave))

        with front.database.reading() as connection:
            topic = store.topic_of(operations.get_enclave(connection, session, project, enclave).id)
        seen = await wait_for(front, topic, look, lambda body: body.settled, seconds)
        tell_version(response, seen.version)
        return seen

    @router.get(_WHERE + "/places", openapi_extra=READING)
    def list_places(
        project: str, enclave: str, session: SignedIn, database: TheDatabase, paging: Paged, *, over: bool = False
    ) -> Page[PlaceBody]:
        """Tell of an enclave's places, the oldest first; with `over`, of those that are over, with their receipts."""
        with database.reading() as connection:
            there = operations.get_enclave(connection, session, project, enclave)
            found = operations.list_places(connection, there, over=over, after=paging.after, limit=paging.limit)
        return paging.page(map(place_body, found), found, lambda place: place.id)


def _add_files(router: APIRouter, means: Means) -> None:
    @router.put(_WHERE, max_body_size=_BODY_BYTES, openapi_extra=CHANGING)
    def apply_enclave(
        project: str,
        enclave: str,
        body: FileInput,
        session: SignedIn,
        database: TheDatabase,
        version: ExpectedVersion,
        response: Response,
    ) -> EnclaveBody:
        """Have an enclave be as a file says."""
        with database.writing() as tx:
            applied = operations.apply(
                tx,
                means.sealer,
                session,
                project=project,
                name=enclave,
                text=body.file,
                services=means.services,
                expected_version=version,
            )
        return _told(database, applied, response)

    @router.post(_WHERE + "/plan", max_body_size=_BODY_BYTES, openapi_extra=may(Who.MEMBER, Right.READ))
    def plan_enclave(project: str, enclave: str, body: FileInput, session: SignedIn, database: TheDatabase) -> PlanBody:
        """Tell what applying a file would change."""
        with database.reading() as connection:
            return plan_body(operations.plan(connection, session, project=project, name=enclave, text=body.file))


def _add_acts(router: APIRouter) -> None:
    @router.delete(_WHERE, openapi_extra=CHANGING)
    def delete_enclave(
        project: str,
        enclave: str,
        session: SignedIn,
        database: TheDatabase,
        version: ExpectedVersion,
        response: Response,
    ) -> EnclaveBody:
        """Have every machine of an enclave given back."""
        with database.writing() as tx:
            ending = operations.delete(tx, session, project=project, name=enclave, expected_version=version)
        return _told(database, ending, response)

    @router.post(_WHERE + "/cancel", openapi_extra=CHANGING)
    def cancel_enclave(
        project: str, enclave: str, body: PlaceInput, session: SignedIn, database: TheDatabase, response: Response
    ) -> EnclaveBody:
        """Give up what is on its way; that many fewer machines are wanted from now on."""
        with database.writing() as tx:
            changed = operations.cancel(tx, session, project=project, name=enclave, place=body.place)
        return _told(database, changed, response)

    @router.post(_WHERE + "/retry", openapi_extra=CHANGING)
    def retry_enclave(
        project: str, enclave: str, body: PlaceInput, session: SignedIn, database: TheDatabase, response: Response
    ) -> EnclaveBody:
        """Give machines that are held back, and try others."""
        with database.writing() as tx:
            changed = operations.retry(tx, session, project=project, name=enclave, place=body.place)
        return _told(database, changed, response)
