"""How much a project may have, and how much it has."""

from sqlalchemy import Connection, func, insert, select, update

from steelyard.imaging import catalogue, rules
from steelyard.imaging.objects import Quota
from steelyard.imaging.tables import images, quotas, uploads, volumes
from steelyard.model.errors import WrongUse
from steelyard.model.names import check_name
from steelyard.service.authority import Caller
from steelyard.service.database import Transaction


def put_quota(
    tx: Transaction,
    caller: Caller,
    default: Quota,
    *,
    project: str,
    images: int,
    volumes: int,
    size_bytes: int,
    expected_version: int | None,
) -> Quota:
    """Say how much a project may have (provider); what it has already stays. Raises NotAllowed, WrongUse, Changed."""
    doing = f"setting the storage quota of project {check_name(project, 'project')}"
    caller.must_provide(doing)
    if min(images, volumes, size_bytes) < 0:
        raise WrongUse(doing, expected="numbers from 0 on", found=f"{images}, {volumes}, {size_bytes}")
    before = load_quota(tx.connection, default, project)
    rules.check_version(f"the storage quota of {project}", before.version, expected_version)
    values = {"images": images, "volumes": volumes, "size_bytes": size_bytes, "version": before.version + 1}
    if before.version:
        tx.connection.execute(update(quotas).where(quotas.c.project == project).values(values))
    else:
        tx.connection.execute(insert(quotas).values(project=project, **values))
    catalogue.record(tx, caller.name, "storage-quota.set", f"project/{project}", project, **values)
    return Quota(**values)


def get_quota(connection: Connection, caller: Caller, default: Quota, project: str) -> tuple[Quota, Quota]:
    """Return what a project may have, and what it has. Raises NotFound."""
    caller.must_see(project, f"project {project}")
    return load_quota(connection, default, project), held(connection, project)


def load_quota(connection: Connection, default: Quota, project: str) -> Quota:
    """Return what a project may have; version 0: nobody said, it is the default."""
    row = connection.execute(select(quotas).where(quotas.c.project == project)).one_or_none()
    return default if row is None else Quota(row.images, row.volumes, row.size_bytes, row.version)


def held(connection: Connection, project: str) -> Quota:
    """Return what a project has, what is being made included."""
    size = func.coalesce(images.c.size_bytes, images.c.expected_bytes)
    image_count, image_bytes = connection.execute(
        select(func.count(), func.coalesce(func.sum(size), 0)).where(images.c.project == project)
    ).one()
    volume_count, volume_bytes = connection.execute(
        select(func.count(), func.coalesce(func.sum(volumes.c.size_bytes), 0)).where(volumes.c.project == project)
    ).one()
    upload_bytes = connection.scalar(
        select(func.coalesce(func.sum(uploads.c.size_bytes), 0)).where(uploads.c.project == project)
    )
    return Quota(image_count, volume_count, int(image_bytes + volume_bytes + (upload_bytes or 0)), 0)


def take(tx: Transaction, default: Quota, project: str, *, images: int = 0, volumes: int = 0, size_bytes: int) -> None:
    """Let pass that a project has this much more. Raises OverQuota."""
    quota = load_quota(tx.connection, default, project)
    rules.check_quota(project, quota, held(tx.connection, project), Quota(images, volumes, size_bytes, 0))
