"""HTTP to imaging's verbs and back: what is asked is read, passed on, and shown; nothing is decided here.

Each route says who may call it at all; whether this caller may do this to that image, volume or node, the verb decides.
No name of a stranger reaches a path: files are found by ids of ours.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Protocol

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool

from steelyard.imaging import boots, catalogue, images, operations, quotas, rules, uploads, views, volumes
from steelyard.imaging.netboot.plan import BootNetwork
from steelyard.imaging.objects import Boot, Image, Name, Operation, OperationState, Quota, Upload, Verb, Volume
from steelyard.imaging.ports import ImageDisk, Occupancy
from steelyard.imaging.schemas import (
    SECONDS,
    AccessBody,
    BootBody,
    BootInput,
    BootNetworkBody,
    DensityBody,
    FlattenInput,
    ImageBody,
    ImageInput,
    KeepingInput,
    NameInput,
    OpeningBody,
    OpeningInput,
    OperationBody,
    QuotaInput,
    RollBackInput,
    SizeInput,
    StorageBody,
    UploadBody,
    UploadInput,
    VisibilityInput,
    VolumeBody,
    VolumeInput,
    boot_body,
    boot_network_body,
    image_body,
    opening_body,
    operation_body,
    quota_body,
    upload_body,
    use_body,
    volume_body,
)
from steelyard.imaging.signature import agreed_digest
from steelyard.model.errors import NotFound, WrongUse
from steelyard.model.limits import OPERATION_SECONDS, UPLOAD_PART_BYTES
from steelyard.model.network import MacAddress
from steelyard.service.accounts import Session, look_again
from steelyard.service.authority import Right
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
"""For everybody, of what is theirs."""
CHANGING: Final = may(Who.MEMBER, Right.IMAGES)
QuerySeconds = Annotated[int, Query(ge=1, le=OPERATION_SECONDS.most)]
OPERATION: Final[dict[str, Any]] = {"status_code": 202}
"""What an answer that is an operation has; `Location` says where to follow it."""
MOST_OFFSET: Final = 2**62
_RANGE: Final = re.compile(r"bytes=([0-9]{1,19})-([0-9]{1,19})?", re.ASCII)


class Disks(Protocol):
    """What is asked of the store here, while somebody waits for an answer: nothing that changes it."""

    def image_occupancy(self, image: str) -> Occupancy:
        """See `Store`."""

    def volume_occupancy(self, volume: str) -> Occupancy:
        """See `Store`."""

    def image_disk(self, image: str) -> ImageDisk:
        """See `Store`."""


class UploadFiles(Protocol):
    """The files of uploads, by the uploads' ids."""

    def adding(self, upload: str) -> AbstractContextManager[Callable[[int, bytes], None]]:
        """Give what writes bytes at an offset of a file, on the disk when it returns.

        Inside, nobody else, in whatever process, writes to the file or makes an image of it.
        """


@dataclass(frozen=True, slots=True)
class Means:
    """What imaging's verbs need beside the database.

    networks  the boot networks on which this process has a foot, by name.
    quota     of a project for which none was set.
    trouble   tells what is wrong with which boot network, by name.
    """

    sealer: Sealer
    networks: Mapping[str, BootNetwork]
    quota: Quota
    disks: Disks
    uploads: UploadFiles
    trouble: Callable[[], Mapping[str, str]]


def imaging_router(means: Means) -> APIRouter:
    """Return the routes."""
    router = guarded_router()
    _add_uploads(router, means)
    _add_images(router, means)
    _add_image_contents(router, means)
    _add_volumes(router, means)
    _add_volume_work(router, means)
    _add_openings(router, means)
    _add_boots(router, means)
    _add_storage(router, means)
    _add_operations(router)
    return router


# -- uploads -----------------------------------------------------------------------------------------------------------


def _add_uploads(router: APIRouter, means: Means) -> None:
    where = "/v1/projects/{project}/uploads/{upload}"

    @router.get("/v1/projects/{project}/uploads", openapi_extra=may(Who.MEMBER, Right.READ))
    def list_uploads(project: str, session: SignedIn, database: TheDatabase, paging: Paged) -> Page[UploadBody]:
        """Tell which uploads of a project's are not used yet, by name."""
        with database.reading() as connection:
            found = uploads.list_uploads(connection, session, project=project, after=paging.after, limit=paging.limit)
        return paging.page(map(upload_body, found), found, lambda upload: upload.name.name)

    @router.get(where, openapi_extra=may(Who.MEMBER, Right.READ))
    def read_upload(project: str, upload: str, session: SignedIn, database: TheDatabase) -> UploadBody:
        """Tell how far an upload is."""
        with database.reading() as connection:
            return upload_body(uploads.get_upload(connection, session, Name(project, upload)))

    @router.put(where, openapi_extra=CHANGING)
    def put_upload(
        project: str, upload: str, body: UploadInput, session: SignedIn, database: TheDatabase
    ) -> UploadBody:
        """Begin to upload a file; asked again, tell how far it is."""
        with database.writing() as tx:
            begun = uploads.put_upload(
                tx,
                session,
                means.quota,
                name=Name(project, upload),
                size_bytes=body.size_bytes,
                sha256=bytes.fromhex(body.sha256),
            )
        return upload_body(begun)

    @router.delete(where, status_code=204, openapi_extra=CHANGING)
    def delete_upload(project: str, upload: str, session: SignedIn, database: TheDatabase) -> None:
        """Throw an upload away."""
        with database.writing() as tx:
            uploads.delete_upload(tx, session, name=Name(project, upload))

    @router.put(
        where + "/content",
        max_body_size=UPLOAD_PART_BYTES.most,
        openapi_extra={
            **CHANGING,
            "requestBody": {
                "required": True,
                "description": f"The next part of the file, 1 to {UPLOAD_PART_BYTES.most} bytes.",
                "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
            },
        },
    )
    async def add_part(
        project: str,
        upload: str,
        request: Request,
        session: SignedIn,
        database: TheDatabase,
        offset: Annotated[int, Query(ge=0, le=MOST_OFFSET)],
    ) -> UploadBody:
        """Take the part of a file that follows what was received; it is kept when this is answered."""
        part = await request.body()
        name = Name(project, upload)

        def keep() -> UploadBody:
            def check() -> Upload:
                with database.reading() as connection:
                    return uploads.check_part(connection, session, name=name, offset=offset, length=len(part))

            with means.uploads.adding(check().id) as write:
                # Again: until now another part, or an image made of it, could have come first.
                there = check()
                if not part:
                    raise WrongUse(f"adding to upload {name}", expected="a part of the file", found="no bytes")
                write(offset, part)
                with database.writing() as tx:
                    return upload_body(uploads.note_received(tx, there, offset + len(part)))

        return await run_in_threadpool(keep)


# -- images ------------------------------------------------------------------------------------------------------------


def _add_images(router: APIRouter, means: Means) -> None:
    where = "/v1/projects/{project}/images/{image}"

    @router.get("/v1/images", openapi_extra=READING)
    def list_images(
        session: SignedIn, database: TheDatabase, paging: Paged, project: str | None = None
    ) -> Page[ImageBody]:
        """Tell which images the caller may use, by project and name."""
        with database.reading() as connection:
            found = images.list_images(
                connection, session, project=project, after=_after(paging.after), limit=paging.limit
            )
        return paging.page((_shown(image, session) for image in found), found, lambda image: str(image.name))

    @router.get(where, openapi_extra=READING)
    def read_image(project: str, image: str, session: SignedIn, database: TheDatabase, response: Response) -> ImageBody:
        """Tell what is known of an image."""
        with database.reading() as connection:
            found = images.get_image(connection, session, Name(project, image))
        tell_version(response, found.version)
        return _shown(found, session)

    @router.put(where, openapi_extra=CHANGING, **OPERATION)
    def make_image(
        project: str, image: str, body: ImageInput, session: SignedIn, database: TheDatabase, response: Response
    ) -> OperationBody:
        """Make an image of a file, a volume or another image; asked again for the same, tell of the same operation."""
        signed = body.signed()
        announced = None if body.sha256 is None else bytes.fromhex(body.sha256)
        with database.writing() as tx:
            operation = images.make_image(
                tx,
                session,
                means.quota,
                name=Name(project, image),
                source=body.source_of(project),
                sha256=agreed_digest(announced, signed),
                signed_by=None if signed is None else signed.signed_by,
                visibility=body.visibility_of(),
                limit=timedelta(seconds=body.seconds),
            )
        return _begun(operation, response)

    @router.put(where + "/visibility", openapi_extra=CHANGING)
    def set_visibility(
        project: str,
        image: str,
        body: VisibilityInput,
        session: SignedIn,
        database: TheDatabase,
        version: ExpectedVersion,
        response: Response,
    ) -> ImageBody:
        """Say for whom an image is."""
        with database.writing() as tx:
            changed = images.set_visibility(
                tx, session, name=Name(project, image), visibility=body.visibility_of(), expected_version=version
            )
        tell_version(response, changed.version)
        return _shown(changed, session)

    @router.put(where + "/name", openapi_extra=CHANGING)
    def rename_image(
        project: str,
        image: str,
        body: NameInput,
        session: SignedIn,
        database: TheDatabase,
        version: ExpectedVersion,
        response: Response,
    ) -> ImageBody:
        """Give an image another name."""
        with database.writing() as tx:
            changed = images.rename_image(
                tx, session, name=Name(project, image), new_name=body.name, expected_version=version
            )
        tell_version(response, changed.version)
        return _shown(changed, session)

    @router.delete(where, status_code=204, openapi_extra=CHANGING)
    def delete_image(
        project: str, image: str, session: SignedIn, database: TheDatabase, version: ExpectedVersion
    ) -> None:
        """Delete an image that nothing stands on."""
        with database.writing() as tx:
            images.delete_image(tx, session, name=Name(project, image), expected_version=version)


def _add_image_contents(router: APIRouter, means: Means) -> None:
    where = "/v1/projects/{project}/images/{image}"
    answers: dict[int | str, dict[str, Any]] = {
        status: {"description": what, "content": {"application/octet-stream": {}}}
        for status, what in ((200, "The disk."), (206, "The part of it that `Range` asked for."))
    }

    @router.get(where + "/content", openapi_extra=READING, response_class=FileResponse, responses=answers)
    def read_content(
        project: str, image: str, session: SignedIn, database: TheDatabase, request: Request
    ) -> FileResponse:
        """Send the disk of an image, byte for byte, or the one part of it that `Range` asks for."""
        name = Name(project, image)
        doing = f"reading the disk of image {name}"
        with database.reading() as connection:
            found = images.get_image(connection, session, name)
        contents = rules.ready(found, doing)
        _check_range(request.headers.get("range"), contents.size_bytes, doing)
        path = means.disks.image_disk(found.id).path
        # An image never changes: its digest names these bytes for ever.
        return FileResponse(
            path,
            headers={"ETag": f'"{contents.digest.hex()}"'},
            media_type="application/octet-stream",
            stat_result=_look_at(path, doing),
        )

    @router.get(where + "/density", openapi_extra=may(Who.MEMBER, Right.READ))
    def read_density(project: str, image: str, session: SignedIn, database: TheDatabase) -> DensityBody:
        """Tell the room that an image takes, and what the project's own volumes take beside it."""
        name = Name(project, image)
        with database.reading() as connection:
            session.must_see(project, f"image {name}")
            found = images.get_image(connection, session, name)
            rules.ready(found, f"measuring image {name}")
            standing = views.standing_on(connection, project, found.id)
        whole = means.disks.image_occupancy(found.id)
        uses = [(volume.name.name, _measured(means.disks.volume_occupancy, volume.id)) for volume in standing]
        return DensityBody(
            apparent_bytes=whole.apparent_bytes,
            real_bytes=whole.real_bytes,
            volumes=[use_body(name, occupancy) for name, occupancy in uses],
        )


# -- volumes -----------------------------------------------------------------------------------------------------------


def _add_volumes(router: APIRouter, means: Means) -> None:
    where = "/v1/projects/{project}/volumes/{volume}"

    @router.get("/v1/volumes", openapi_extra=READING)
    def list_volumes(
        session: SignedIn, database: TheDatabase, paging: Paged, project: str | None = None
    ) -> Page[VolumeBody]:
        """Tell which volumes there are, by project and name: those of the caller's projects."""
        with database.reading() as connection:
            found = volumes.list_volumes(
                connection, session, project=project, after=_after(paging.after), limit=paging.limit
            )
            shown = views.view_volumes(connection, session, found)
        return paging.page(map(volume_body, shown), found, lambda volume: str(volume.name))

    @router.get(where, openapi_extra=may(Who.MEMBER, Right.READ))
    def read_volume(
        project: str, volume: str, session: SignedIn, database: TheDatabase, response: Response
    ) -> VolumeBody:
        """Tell what is known of a volume."""
        with database.reading() as connection:
            found = volumes.get_volume(connection, session, Name(project, volume))
            return _told(connection, session, found, response)

    @router.put(where, openapi_extra=CHANGING, **OPERATION)
    def make_volume(
        project: str, volume: str, body: VolumeInput, session: SignedIn, database: TheDatabase, response: Response
    ) -> OperationBody:
        """Make a volume, of an image or blank; asked again for the same, tell of the same operation."""
        with database.writing() as tx:
            operation = volumes.make_volume(
                tx,
                session,
                means.quota,
                name=Name(project, volume),
                image=body.image_name(project),
                keeping=body.keeping,
                size_bytes=body.size_bytes,
                limit=timedelta(seconds=body.seconds),
            )
        return _begun(operation, response)

    @router.put(where + "/name", openapi_extra=CHANGING)
    def rename_volume(
        project: str,
        volume: str,
        body: NameInput,
        session: SignedIn,
        database: TheDatabase,
        version: ExpectedVersion,
        response: Response,
    ) -> VolumeBody:
        """Give a volume another name."""
        with database.writing() as tx:
            changed = volumes.rename_volume(
                tx, session, name=Name(project, volume), new_name=body.name, expected_version=version
            )
            return _told(tx.connection, session, changed, response)

    @router.put(where + "/keeping", openapi_extra=CHANGING)
    def set_keeping(
        project: str,
        volume: str,
        body: KeepingInput,
        session: SignedIn,
        database: TheDatabase,
        version: ExpectedVersion,
        response: Response,
    ) -> VolumeBody:
        """Say how long a volume stays."""
        with database.writing() as tx:
            changed = volumes.set_keeping(
                tx, session, name=Name(project, volume), keeping=body.keeping, expected_version=version
            )
            return _told(tx.connection, session, changed, response)

    @router.delete(where, status_code=204, openapi_extra=CHANGING)
    def delete_volume(
        project: str, volume: str, session: SignedIn, database: TheDatabase, version: ExpectedVersion
    ) -> None:
        """Delete a volume that nobody uses."""
        with database.writing() as tx:
            volumes.delete_volume(tx, session, name=Name(project, volume), expected_version=version)


def _add_volume_work(router: APIRouter, means: Means) -> None:
    where = "/v1/projects/{project}/volumes/{volume}"

    @router.put(where + "/size", openapi_extra=CHANGING, **OPERATION)
    def resize_volume(
        project: str, volume: str, body: SizeInput, session: SignedIn, database: TheDatabase, response: Response
    ) -> OperationBody:
        """Let a volume grow."""
        with database.writing() as tx:
            operation = volumes.resize_volume(
                tx,
                session,
                means.quota,
                name=Name(project, volume),
                size_bytes=body.size_bytes,
                limit=timedelta(seconds=body.seconds),
            )
        return _begun(operation, response)

    @router.put(where + "/roll-back", openapi_extra=CHANGING, **OPERATION)
    def roll_back_volume(
        project: str, volume: str, body: RollBackInput, session: SignedIn, database: TheDatabase, response: Response
    ) -> OperationBody:
        """Make a volume what an image is, whatever is on it."""
        with database.writing() as tx:
            operation = volumes.roll_back_volume(
                tx,
                session,
                means.quota,
                name=Name(project, volume),
                image=body.image_name(project),
                limit=timedelta(seconds=body.seconds),
            )
        return _begun(operation, response)

    @router.put(where + "/flatten", openapi_extra=CHANGING, **OPERATION)
    def flatten_volume(
        project: str, volume: str, body: FlattenInput, session: SignedIn, database: TheDatabase, response: Response
    ) -> OperationBody:
        """Let a volume stand on no image."""
        with database.writing() as tx:
            operation = volumes.flatten_volume(
                tx, session, name=Name(project, volume), limit=timedelta(seconds=body.seconds)
            )
        return _begun(operation, response)


def _add_openings(router: APIRouter, means: Means) -> None:
    where = "/v1/projects/{project}/volumes/{volume}"

    @router.get(where + "/opening", openapi_extra=may(Who.MEMBER, Right.READ))
    def read_opening(project: str, volume: str, session: SignedIn, database: TheDatabase) -> OpeningBody:
        """Tell whom a volume is open for."""
        with database.reading() as connection:
            return opening_body(volumes.get_opening(connection, session, Name(project, volume)))

    @router.put(where + "/opening", openapi_extra=CHANGING, **OPERATION)
    def open_volume(
        project: str, volume: str, body: OpeningInput, session: SignedIn, database: TheDatabase, response: Response
    ) -> OperationBody:
        """Serve a volume to one address of a boot network; asked again, it stays as it is."""
        with database.writing() as tx:
            operation = volumes.open_volume(
                tx,
                session,
                means.networks,
                name=Name(project, volume),
                network=body.network,
                protocol=body.protocol,
                address=body.address,
                limit=timedelta(seconds=body.seconds),
            )
        return _begun(operation, response)

    @router.delete(where + "/opening", openapi_extra=CHANGING, **OPERATION)
    def close_volume(
        project: str,
        volume: str,
        session: SignedIn,
        database: TheDatabase,
        response: Response,
        seconds: QuerySeconds = SECONDS,
    ) -> OperationBody:
        """Serve a volume to nobody; its sessions are cut."""
        with database.writing() as tx:
            operation = volumes.close_volume(tx, session, name=Name(project, volume), limit=timedelta(seconds=seconds))
        return _begun(operation, response)

    @router.get(where + "/access", openapi_extra=CHANGING, response_model=AccessBody)
    def read_access(project: str, volume: str, session: SignedIn, database: TheDatabase) -> dict[str, Any]:
        """Tell what opens a volume: a secret. The journal says who asked."""
        with database.writing() as tx:
            access = volumes.get_access(tx, session, means.sealer, name=Name(project, volume))
        return catalogue.access_document(access)


# -- what nodes boot ---------------------------------------------------------------------------------------------------


def _add_boots(router: APIRouter, means: Means) -> None:
    where = "/v1/projects/{project}/boots/{node}"

    @router.get("/v1/boots", openapi_extra=READING)
    def list_boots(
        session: SignedIn, database: TheDatabase, paging: Paged, project: str | None = None
    ) -> Page[BootBody]:
        """Tell what nodes boot, by project and node."""
        with database.reading() as connection:
            found = boots.list_boots(
                connection, session, project=project, after=_after(paging.after), limit=paging.limit
            )
            shown = _boots(connection, session, found)
        return paging.page(shown, found, lambda boot: f"{boot.project}/{boot.node}")

    @router.get(where, openapi_extra=may(Who.MEMBER, Right.READ))
    def read_boot(project: str, node: str, session: SignedIn, database: TheDatabase, response: Response) -> BootBody:
        """Tell what a node boots."""
        with database.reading() as connection:
            found = boots.get_boot(connection, session, project, node)
            [shown] = _boots(connection, session, [found])
        tell_version(response, found.version)
        return shown

    @router.put(where, openapi_extra=CHANGING, **OPERATION)
    def put_boot(
        project: str, node: str, body: BootInput, session: SignedIn, database: TheDatabase, response: Response
    ) -> OperationBody:
        """Say what a node boots from now on. Said again it is another boot: what the last one had open is cut."""
        with database.writing() as tx:
            operation = boots.put_boot(
                tx,
                session,
                means.networks,
                project=project,
                node=node,
                network=body.network,
                mac=MacAddress(body.mac),
                what=body.what(),
                limit=timedelta(seconds=body.seconds),
            )
        return _begun(operation, response)

    @router.delete(where, openapi_extra=CHANGING, **OPERATION)
    def end_boot(
        project: str,
        node: str,
        session: SignedIn,
        database: TheDatabase,
        response: Response,
        seconds: QuerySeconds = SECONDS,
    ) -> OperationBody:
        """Give a node nothing any more: no address, no files, its volume closed."""
        with database.writing() as tx:
            operation = boots.end_boot(tx, session, project=project, node=node, limit=timedelta(seconds=seconds))
        return _begun(operation, response)

    @router.get("/v1/boot-networks", openapi_extra=READING)
    def list_boot_networks(session: SignedIn) -> Page[BootNetworkBody]:
        """Tell on which networks of the caller's projects nodes are given what they boot; they are few."""
        trouble = means.trouble()
        shown = [
            boot_network_body(network, trouble.get(name))
            for name, network in sorted(means.networks.items())
            if session.sees(network.project)
        ]
        return Page[BootNetworkBody](items=shown, next=None)


# -- quotas and operations ---------------------------------------------------------------------------------------------


def _add_storage(router: APIRouter, means: Means) -> None:
    def told(held: views.Held) -> StorageBody:
        room = [_measured(means.disks.image_occupancy, image) for image in held.images]
        room += [_measured(means.disks.volume_occupancy, volume) for volume in held.volumes]
        return StorageBody(
            project=held.project,
            quota=quota_body(held.quota),
            used=quota_body(held.used),
            apparent_bytes=sum(occupancy.apparent_bytes for occupancy in room),
            real_bytes=sum(occupancy.real_bytes for occupancy in room),
            version=held.quota.version,
        )

    @router.get("/v1/projects/{project}/storage", openapi_extra=may(Who.MEMBER, Right.READ))
    def read_storage(project: str, session: SignedIn, database: TheDatabase, response: Response) -> StorageBody:
        """Tell what a project may have, what it has, and the room that it takes."""
        with database.reading() as connection:
            held = views.view_held(connection, session, means.quota, project)
        tell_version(response, held.quota.version)
        return told(held)

    @router.put("/v1/projects/{project}/storage-quota", openapi_extra=may(Who.PROVIDER, Right.RACK))
    def put_quota(
        project: str,
        body: QuotaInput,
        session: SignedIn,
        database: TheDatabase,
        version: ExpectedVersion,
        response: Response,
    ) -> StorageBody:
        """Say what a project may have; what it has already stays."""
        with database.writing() as tx:
            quotas.put_quota(
                tx,
                session,
                means.quota,
                project=project,
                images=body.images,
                volumes=body.volumes,
                size_bytes=body.size_bytes,
                expected_version=version,
            )
            held = views.view_held(tx.connection, session, means.quota, project)
        tell_version(response, held.quota.version)
        return told(held)


def _add_operations(router: APIRouter) -> None:
    @router.get("/v1/imaging/operations", openapi_extra=READING)
    def list_imaging_operations(
        session: SignedIn,
        database: TheDatabase,
        paging: Paged,
        project: str | None = None,
        verb: Verb | None = None,
        state: OperationState | None = None,
    ) -> Page[OperationBody]:
        """Tell of imaging's operations, the oldest first."""
        with database.reading() as connection:
            found = operations.list_operations(
                connection,
                session,
                project=project,
                verb=verb,
                state=state,
                after=paging.after,
                limit=paging.limit,
            )
        return paging.page(map(operation_body, found), found, lambda operation: operation.id)

    @router.get("/v1/imaging/operations/{imaging_operation}", openapi_extra=READING)
    async def read_imaging_operation(
        imaging_operation: str, session: SignedIn, front: TheFront, seconds: WaitSeconds
    ) -> OperationBody:
        """Tell how far an operation is; with `wait`, when it has ended."""

        def look() -> Operation:
            with front.database.reading() as connection:
                now = look_again(connection, session, front.database.clock())
                return operations.get_operation(connection, now, imaging_operation)

        topic = catalogue.topic_of(imaging_operation)
        return operation_body(await wait_for(front, topic, look, lambda seen: seen.state.ended, seconds))

    @router.delete("/v1/imaging/operations/{imaging_operation}", openapi_extra=CHANGING)
    def cancel_imaging_operation(imaging_operation: str, session: SignedIn, database: TheDatabase) -> OperationBody:
        """Give an operation up, where that is possible."""
        with database.writing() as tx:
            return operation_body(operations.cancel(tx, session, operation=imaging_operation))


# -- what these have in common -----------------------------------------------------------------------------------------


def _begun(operation: Operation, response: Response) -> OperationBody:
    response.headers["Location"] = f"/v1/imaging/operations/{operation.id}"
    return operation_body(operation)


def _shown(image: Image, session: Session) -> ImageBody:
    return image_body(views.view_image(image, session))


def _told(connection: Connection, session: Session, volume: Volume, response: Response) -> VolumeBody:
    tell_version(response, volume.version)
    [view] = views.view_volumes(connection, session, [volume])
    return volume_body(view)


def _boots(connection: Connection, session: Session, found: Sequence[Boot]) -> list[BootBody]:
    named = views.view_boots(connection, session, found)
    return [boot_body(boot, what) for boot, what in zip(found, named, strict=True)]


def _after(after: str) -> Name | None:
    if not after:
        return None
    project, slash, name = after.partition("/")
    if not slash:
        raise WrongUse("reading `after`", expected="the `next` of a page", found=after)
    return Name(project, name)


def _measured(measure: Callable[[str], Occupancy], identity: str) -> Occupancy:
    """Return the room that something takes: none, if it is not there yet or was just deleted."""
    try:
        return measure(identity)
    except NotFound:
        return Occupancy(0, 0)


def _check_range(said: str | None, size_bytes: int, doing: str) -> None:
    """Let pass no range, or one that is within the disk; of several, the answer would be of another form.

    Raises WrongUse.
    """
    if said is None:
        return
    matched = _RANGE.fullmatch(said)
    first = int(matched[1]) if matched else size_bytes
    last = int(matched[2]) if matched and matched[2] else size_bytes - 1
    if not first <= last or first >= size_bytes:
        raise WrongUse(doing, expected=f"one range, as bytes=N-M, N less than {size_bytes}", found=said)


def _look_at(path: Path, doing: str) -> os.stat_result:
    try:
        return path.stat()
    except FileNotFoundError as cause:  # it was deleted since it was looked up
        raise NotFound(doing, expected="one that exists and is yours to see", found="none") from cause
