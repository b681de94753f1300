"""What came of the worker's work, written down: each is the end of an operation, and of what it was on.

An operation that was given up meanwhile stays so, and what its work came to is left to what came after it.
"""

from datetime import timedelta
from typing import Any, Final

from sqlalchemy import Connection, and_, delete, select, update

from steelyard.imaging import boots, catalogue, quotas, uploads, volumes
from steelyard.imaging.catalogue import WORK, end_operation
from steelyard.imaging.objects import (
    BootState,
    ImageContents,
    Keeping,
    OpeningState,
    Operation,
    OperationState,
    Quota,
    Verb,
)
from steelyard.imaging.tables import boots as boots_table
from steelyard.imaging.tables import discarded, images, openings, operations
from steelyard.imaging.tables import volumes as volumes_table
from steelyard.model.errors import OutOfTime, SteelyardError
from steelyard.service.database import Transaction

WORKER: Final = "imaging"
"""Who the journal says it was."""
ENDING_LIMIT: Final = timedelta(minutes=5)
"""For work that nobody asked for in words: to take back what could not be made."""


# -- on the way --------------------------------------------------------------------------------------------------------


def begin(tx: Transaction, operation: Operation) -> Operation | None:
    """Write that an operation is being worked at, also once more after a crash; None: it has ended, leave it."""
    now = catalogue.load_operation(tx.connection, operation.id)
    if now.state.ended:
        return None
    its = operations.c.id == operation.id
    tx.connection.execute(update(operations).where(its).values(state=OperationState.RUNNING.value, progress="begun"))
    return now


def progress(tx: Transaction, operation: Operation, words: str, done: int | None, total: int | None) -> bool:
    """Write how far an operation is; return False when it is to be given up."""
    its = and_(operations.c.id == operation.id, operations.c.state.in_(catalogue.LIVE))
    said = {"progress": words, "done_bytes": done, "total_bytes": total}
    told = tx.connection.execute(update(operations).where(its).values(said).returning(operations.c.cancelling))
    tx.wake(catalogue.topic_of(operation.id))
    return told.scalar() is False


# -- done --------------------------------------------------------------------------------------------------------------


def image_made(tx: Transaction, operation: Operation, contents: ImageContents, default_quota: Quota) -> None:
    """Write that an image is ready; the upload that it was made of goes. Raises OverQuota."""
    if not _is_live(tx, operation):
        return
    _done(tx, operation)
    if upload := operation.parameters.get("upload"):
        uploads.use_up(tx, upload)
    row = tx.connection.execute(select(images).where(images.c.id == operation.target)).one()
    quotas.take(tx, default_quota, operation.project, size_bytes=contents.size_bytes - row.expected_bytes)
    catalogue.bump(
        tx,
        images,
        operation.target,
        digest=contents.digest,
        size_bytes=contents.size_bytes,
        real_bytes=contents.real_bytes,
        boot=None if contents.boot is None else catalogue.encode_boot_found(contents.boot),
        boot_trouble=contents.boot_trouble,
    )


def volume_made(tx: Transaction, operation: Operation) -> None:
    """Write that a volume is ready."""
    if _is_live(tx, operation):
        catalogue.bump(tx, volumes_table, operation.target, ready=True)
        _done(tx, operation)


def resized(tx: Transaction, operation: Operation) -> None:
    """Write that a volume has grown."""
    if _is_live(tx, operation):
        catalogue.bump(tx, volumes_table, operation.target, size_bytes=int(operation.parameters["size_bytes"]))
        _done(tx, operation)


def rolled_back(tx: Transaction, operation: Operation) -> None:
    """Write that a volume is what an image is."""
    if _is_live(tx, operation):
        image, size = operation.parameters["image"], int(operation.parameters["size_bytes"])
        catalogue.bump(tx, volumes_table, operation.target, image=image, size_bytes=size)
        _done(tx, operation)


def flattened(tx: Transaction, operation: Operation) -> None:
    """Write that a volume stands on no image."""
    if _is_live(tx, operation):
        catalogue.bump(tx, volumes_table, operation.target, image=None)
        _done(tx, operation)


def opened(tx: Transaction, operation: Operation, volume: str, sealed: bytes) -> bool:
    """Write that a volume is served; False: it is not to be any more."""
    still = and_(openings.c.volume == volume, openings.c.state != OpeningState.CLOSING.value)
    if not _is_live(tx, operation):
        return False
    changed = tx.connection.execute(update(openings).where(still).values(state=OpeningState.OPEN.value, sealed=sealed))
    if operation.verb is Verb.OPEN and changed.rowcount:
        _done(tx, operation)
    return changed.rowcount > 0


def closed(tx: Transaction, volume: str) -> None:
    """Write that nothing serves a volume that was closing; one that is ephemeral is thrown away."""
    gone = tx.connection.execute(
        delete(openings).where(openings.c.volume == volume, openings.c.state == OpeningState.CLOSING.value)
    )
    if gone.rowcount:
        _throw_away(tx, volume)


def _throw_away(tx: Transaction, identity: str) -> None:
    """Forget a volume that is ephemeral, if nothing has it open and no node boots it."""
    volume = catalogue.load_volume(tx.connection, identity)
    booting = tx.connection.execute(select(boots_table.c.node).where(boots_table.c.volume == identity)).first()
    opening = catalogue.find_opening(tx.connection, identity)
    if volume.keeping is Keeping.EPHEMERAL and booting is None and opening is None:
        catalogue.forget_volume(tx, identity)
        subject = f"volume/{volume.name.name}"
        catalogue.record(tx, WORKER, "volume.thrown-away", subject, volume.name.project)


def close_done(tx: Transaction, operation: Operation) -> None:
    """Write that a volume was closed for who asked."""
    closed(tx, operation.target)
    _done(tx, operation)


def booted(tx: Transaction, operation: Operation) -> None:
    """Write that a node is served what it is to boot."""
    if _is_live(tx, operation):
        project, _, node = operation.target.partition("/")
        its = and_(boots_table.c.project == project, boots_table.c.node == node)
        preparing = boots_table.c.state == BootState.PREPARING.value
        tx.connection.execute(update(boots_table).where(its, preparing).values(state=BootState.READY.value))
        _done(tx, operation)


def boot_ended(tx: Transaction, operation: Operation) -> None:
    """Write that a node is served nothing; what was open for it is closed already, or closed now."""
    project, _, node = operation.target.partition("/")
    its = and_(boots_table.c.project == project, boots_table.c.node == node)
    ending = boots_table.c.state == BootState.ENDING.value
    gone = tx.connection.execute(delete(boots_table).where(its, ending).returning(boots_table.c.volume))
    booted = gone.scalar()
    opened = opened_for(tx.connection, project, node)
    for volume in opened:
        closed(tx, volume)
    if booted is not None and booted not in opened:
        _throw_away(tx, booted)  # it was closed before this
    _done(tx, operation)


def gone(tx: Transaction, identity: str) -> None:
    """Write that the store has nothing of this id."""
    tx.connection.execute(delete(discarded).where(discarded.c.id == identity))


# -- not done ----------------------------------------------------------------------------------------------------------


def failed(tx: Transaction, operation: Operation, error: SteelyardError) -> None:
    """End an operation that could not be done, and take back what it was to make."""
    if end_operation(tx, operation, OperationState.FAILED, actor=WORKER, progress=str(error)[:400], failure=error):
        _take_back(tx, operation)


def cancelled(tx: Transaction, operation: Operation, *, actor: str) -> None:
    """End an operation that was given up, and take back what it was to make."""
    if end_operation(tx, operation, OperationState.CANCELLED, actor=actor, progress=f"given up by {actor}"):
        _take_back(tx, operation)


def given_up(tx: Transaction, operation: Operation) -> None:
    """End an operation that `progress` said is to be given up: out of time, or cancelled."""
    if operation.deadline <= tx.now:
        failed(tx, operation, _out_of_time(tx, operation))
    else:
        cancelled(tx, operation, actor=WORKER)


def _out_of_time(tx: Transaction, operation: Operation) -> OutOfTime:
    now = catalogue.load_operation(tx.connection, operation.id)
    expected = f"it done by {operation.deadline.isoformat(timespec='seconds')}"
    return OutOfTime(f"{operation.verb.value} of {operation.subject}", expected=expected, found=now.progress)


def _take_back(tx: Transaction, operation: Operation) -> None:
    match operation.verb:
        case Verb.MAKE_IMAGE:
            catalogue.forget_image(tx, operation.target)
        case Verb.MAKE_VOLUME:
            catalogue.forget_volume(tx, operation.target)
        case Verb.RESIZE | Verb.ROLL_BACK:
            # As it was; what the store has of it is noted by `found`.
            before = int(operation.parameters["before_bytes"])
            catalogue.bump(tx, volumes_table, operation.target, size_bytes=before)
        case Verb.OPEN:
            volumes.close(tx, operation.target)
            begin_close(tx, operation.target)
        case Verb.BOOT:
            project, _, node = operation.target.partition("/")
            boots.begin_end(tx, WORKER, project, node, ENDING_LIMIT)
        case Verb.FLATTEN | Verb.CLOSE | Verb.END_BOOT:
            pass  # the volume is as it was; what is being ended is taken up again


def found(tx: Transaction, volume: str, image: str | None, size_bytes: int) -> None:
    """Write what the store has of a volume, after work on it that was not done as far as anybody knows."""
    its = and_(volumes_table.c.id == volume, volumes_table.c.ready)
    tx.connection.execute(update(volumes_table).where(its).values(image=image, size_bytes=size_bytes))


def begin_close(tx: Transaction, volume: str) -> None:
    """Begin to close a volume that nobody may have any more."""
    name = catalogue.load_volume(tx.connection, volume).name
    catalogue.begin_operation(
        tx,
        Verb.CLOSE,
        project=name.project,
        subject=f"volume/{name.name}",
        target=volume,
        actor=WORKER,
        limit=ENDING_LIMIT,
        parameters={},
    )


def end_overdue(tx: Transaction) -> None:
    """Fail the operations whose time is up and that nobody works at; the worker gives up the others itself."""
    query = select(operations).where(
        operations.c.state == OperationState.PENDING.value, operations.c.deadline <= tx.now
    )
    for operation in [catalogue.operation_of(row) for row in tx.connection.execute(query)]:
        failed(tx, operation, _out_of_time(tx, operation))
    overdue = and_(operations.c.state == OperationState.RUNNING.value, operations.c.deadline <= tx.now)
    tx.connection.execute(update(operations).where(overdue).values(cancelling=True))


def take_up_endings(tx: Transaction) -> None:
    """Begin again to end what is to end and nothing is under way with: an earlier try failed."""
    closing = (
        select(openings.c.volume, openings.c.node, volumes_table.c.project)
        .join(volumes_table, volumes_table.c.id == openings.c.volume)
        .where(openings.c.state == OpeningState.CLOSING.value)
    )
    for row in tx.connection.execute(closing).all():
        # What was open for a boot is closed by the work on that.
        boot = None if row.node is None else catalogue.find_boot(tx.connection, row.project, row.node)
        for_boot = boot is not None and (
            boot.state is BootState.ENDING
            or catalogue.live_on(tx.connection, catalogue.boot_target(row.project, row.node)) is not None
        )
        if not for_boot and catalogue.live_on(tx.connection, row.volume) is None:
            begin_close(tx, row.volume)
    ending = select(boots_table).where(boots_table.c.state == BootState.ENDING.value)
    for row in tx.connection.execute(ending).all():
        if catalogue.live_on(tx.connection, catalogue.boot_target(row.project, row.node)) is None:
            boots.begin_end(tx, WORKER, row.project, row.node, ENDING_LIMIT)


# -- looking -----------------------------------------------------------------------------------------------------------


def live(connection: Connection) -> tuple[Operation, ...]:
    """Return the work that there is, the oldest first."""
    return catalogue.live_operations(connection)


def opened_for(connection: Connection, project: str, node: str) -> tuple[str, ...]:
    """Return the volumes that have an opening for the boot of a node, whatever its state."""
    query: Any = (
        select(openings.c.volume)
        .join(volumes_table, volumes_table.c.id == openings.c.volume)
        .where(openings.c.node == node, volumes_table.c.project == project)
    )
    return tuple(connection.execute(query).scalars())


def _is_live(tx: Transaction, operation: Operation) -> bool:
    return not catalogue.load_operation(tx.connection, operation.id).state.ended


def _done(tx: Transaction, operation: Operation) -> None:
    end_operation(tx, operation, OperationState.DONE, actor=WORKER, progress="done")
    tx.wake(WORK)
