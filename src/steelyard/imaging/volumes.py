"""What may be asked of volumes: make, grow, roll back, flatten, open, close, delete.

No verb here touches the store: each says what is wanted, and the worker makes it true. An opening's row says who may
have the volume before anything serves it, and goes only when nothing does any more.
"""

from collections.abc import Mapping
from datetime import timedelta
from ipaddress import IPv4Address
from typing import Any

from sqlalchemy import Connection, insert, select, tuple_, update

from steelyard.imaging import catalogue, images, quotas, rules
from steelyard.imaging.netboot.plan import BootNetwork
from steelyard.imaging.objects import (
    Keeping,
    Name,
    Opening,
    OpeningState,
    Operation,
    Protocol,
    Quota,
    Verb,
    Volume,
)
from steelyard.imaging.ports import Access
from steelyard.imaging.tables import boots, openings, volumes
from steelyard.model.errors import AlreadyThere, InUse, WrongState, WrongUse
from steelyard.model.names import check_name
from steelyard.service.authority import Caller, Right, not_found
from steelyard.service.database import Transaction
from steelyard.service.sealing import Sealer


def make_volume(
    tx: Transaction,
    caller: Caller,
    default_quota: Quota,
    *,
    name: Name,
    image: Name | None,
    keeping: Keeping,
    size_bytes: int | None,
    limit: timedelta,
) -> Operation:
    """Make a volume; asked again for the same one, return the same operation.

    image       what it begins as; None: blank.
    size_bytes  None: the image's.

    Raises NotAllowed, NotFound, WrongState, WrongUse, OverQuota, AlreadyThere.
    """
    doing = f"making volume {name}"
    check_name(name.name, "volume")
    rules.check_change(caller, name, "volume", doing)
    before = catalogue.find_volume(tx.connection, name)
    if before is not None:
        # First of all: its image may be gone by now, or not the caller's to use any more.
        return _same_again(tx, caller, before, image, keeping, size_bytes, doing)
    base = None if image is None else images.find_usable(tx.connection, caller, image)
    least = 0 if base is None else rules.ready(base, doing).size_bytes
    size = least if size_bytes is None else size_bytes
    rules.check_size(size, doing)
    if size < least:
        raise WrongUse(doing, expected=f"at least the {least} bytes of its image", found=f"{size}")
    parameters = {"image": "" if base is None else base.id, "size_bytes": str(size)} | _asked(image, size_bytes)
    quotas.take(tx, default_quota, name.project, volumes=1, size_bytes=size)
    identity = catalogue.new_id("v")
    tx.connection.execute(
        insert(volumes).values(
            id=identity,
            project=name.project,
            name=name.name,
            keeping=keeping.value,
            image=None if base is None else base.id,
            size_bytes=size,
            ready=False,
            made_by=caller.name,
            made_at=tx.now,
            version=1,
        )
    )
    return _begin(tx, caller, Verb.MAKE_VOLUME, name, identity, limit, parameters)


def _asked(image: Name | None, size_bytes: int | None) -> dict[str, str]:
    """Return a volume as it is asked for, which can be compared when its image is gone."""
    named = "" if image is None else str(image)
    return {"named": named, "asked_bytes": "" if size_bytes is None else str(size_bytes)}


def _same_again(
    tx: Transaction,
    caller: Caller,
    before: Volume,
    image: Name | None,
    keeping: Keeping,
    size_bytes: int | None,
    doing: str,
) -> Operation:
    """Return the operation that makes, or made, the volume that is there, when it is the one that is asked for."""
    made = catalogue.making_of(tx.connection, Verb.MAKE_VOLUME, before.id)
    base = None if image is None else catalogue.find_image(tx.connection, image)
    renewed = base is not None and images.may_see(caller, base) and base.id != made.parameters["image"]
    asked = _asked(image, size_bytes).items() <= made.parameters.items()
    if renewed or not asked or before.keeping is not keeping:
        found = f"a volume made {before.made_at.isoformat(timespec='seconds')}"
        raise AlreadyThere(doing, expected="a name that is not taken", found=found)
    return made


def resize_volume(
    tx: Transaction, caller: Caller, default_quota: Quota, *, name: Name, size_bytes: int, limit: timedelta
) -> Operation:
    """Let a volume grow. Raises NotAllowed, NotFound, WrongState, WrongUse, TooLarge, InUse, OverQuota."""
    doing = f"resizing volume {name}"
    volume = _load_own(tx, caller, name, doing)
    work = catalogue.live_on(tx.connection, volume.id)
    if work is not None and work.verb is Verb.RESIZE and work.parameters["size_bytes"] == str(size_bytes):
        return work
    _check_unused(tx, volume, doing)
    rules.check_growth(volume, size_bytes, doing)
    quotas.take(tx, default_quota, name.project, size_bytes=size_bytes - volume.size_bytes)
    _count(tx, volume, size_bytes)
    parameters = {"size_bytes": str(size_bytes), "before_bytes": str(volume.size_bytes)}
    return _begin(tx, caller, Verb.RESIZE, name, volume.id, limit, parameters)


def roll_back_volume(
    tx: Transaction, caller: Caller, default_quota: Quota, *, name: Name, image: Name | None, limit: timedelta
) -> Operation:
    """Make a volume what an image is, whatever is on it; None: the image that it stands on.

    Raises NotAllowed, NotFound, WrongState, InUse, OverQuota.
    """
    doing = f"rolling back volume {name}"
    volume = _load_own(tx, caller, name, doing)
    named = "" if image is None else str(image)
    work = catalogue.live_on(tx.connection, volume.id)
    if work is not None and work.verb is Verb.ROLL_BACK and work.parameters["named"] == named:
        return work
    _check_unused(tx, volume, doing)
    if image is not None:
        base = images.find_usable(tx.connection, caller, image)
    elif volume.image is None:
        raise WrongState(doing, expected="an image to be named", found="a volume that stands on none")
    else:
        base = catalogue.load_image(tx.connection, volume.image)
    size = rules.ready(base, doing).size_bytes
    quotas.take(tx, default_quota, name.project, size_bytes=size - volume.size_bytes)
    _count(tx, volume, max(size, volume.size_bytes))
    sizes = {"size_bytes": str(size), "before_bytes": str(volume.size_bytes)}
    parameters = {"image": base.id, "named": named} | sizes
    return _begin(tx, caller, Verb.ROLL_BACK, name, volume.id, limit, parameters)


def flatten_volume(tx: Transaction, caller: Caller, *, name: Name, limit: timedelta) -> Operation:
    """Let a volume stand on no image. Raises NotAllowed, NotFound, WrongState, InUse."""
    doing = f"flattening volume {name}"
    volume = _load_own(tx, caller, name, doing)
    work = catalogue.live_on(tx.connection, volume.id)
    if work is not None and work.verb is Verb.FLATTEN:
        return work
    _check_unused(tx, volume, doing)
    return _begin(tx, caller, Verb.FLATTEN, name, volume.id, limit, {})


def rename_volume(
    tx: Transaction, caller: Caller, *, name: Name, new_name: str, expected_version: int | None
) -> Volume:
    """Give a volume another name in its project. Raises NotAllowed, NotFound, Changed, AlreadyThere."""
    volume = _load_own(tx, caller, name, f"renaming volume {name}")
    rules.check_version(f"volume {name}", volume.version, expected_version)
    wanted = Name(name.project, check_name(new_name, "volume"))
    if wanted == name:
        return volume
    rules.check_name_free(catalogue.find_volume(tx.connection, wanted), wanted, "volume")
    return _change(tx, caller, volume, "volume.renamed", name=new_name)


def set_keeping(
    tx: Transaction, caller: Caller, *, name: Name, keeping: Keeping, expected_version: int | None
) -> Volume:
    """Say how long a volume stays. Raises NotAllowed, NotFound, Changed."""
    volume = _load_own(tx, caller, name, f"changing volume {name}")
    rules.check_version(f"volume {name}", volume.version, expected_version)
    if volume.keeping is keeping:
        return volume
    return _change(tx, caller, volume, "volume.keeping", keeping=keeping.value)


def delete_volume(tx: Transaction, caller: Caller, *, name: Name, expected_version: int | None) -> None:
    """Throw a volume away that nobody uses. Raises NotAllowed, NotFound, Changed, InUse."""
    doing = f"deleting volume {name}"
    volume = _load_own(tx, caller, name, doing)
    rules.check_version(f"volume {name}", volume.version, expected_version)
    _check_unused(tx, volume, doing)
    catalogue.forget_volume(tx, volume.id)
    catalogue.record(tx, caller.name, "volume.deleted", f"volume/{name.name}", name.project)


# -- open and close ----------------------------------------------------------------------------------------------------


def open_volume(
    tx: Transaction,
    caller: Caller,
    networks: Mapping[str, BootNetwork],
    *,
    name: Name,
    network: str,
    protocol: Protocol,
    address: IPv4Address,
    limit: timedelta,
) -> Operation:
    """Serve a volume to one address of a network of the project's; asked again, it stays as it is.

    Raises NotAllowed, NotFound, WrongState, WrongUse, InUse.
    """
    doing = f"opening volume {name}"
    volume = _load_own(tx, caller, name, doing)
    there = rules.find_network(networks, network, name.project)
    rules.check_address(there, address, doing)
    parameters = {"network": network, "protocol": protocol.value, "address": str(address)}
    now = catalogue.find_opening(tx.connection, volume.id)
    asked = (network, protocol, address, None)
    if now is not None and (now.network, now.protocol, now.address, now.node) == asked:
        work = catalogue.live_on(tx.connection, volume.id)
        if now.state is OpeningState.OPEN:
            return _begin(tx, caller, Verb.OPEN, name, volume.id, limit, parameters, done=True)
        if work is not None and work.verb is Verb.OPEN:
            return work
    _check_unused(tx, volume, doing)
    tx.connection.execute(
        insert(openings).values(
            volume=volume.id,
            network=network,
            protocol=protocol.value,
            address=str(address),
            state=OpeningState.OPENING.value,
        )
    )
    return _begin(tx, caller, Verb.OPEN, name, volume.id, limit, parameters)


def close_volume(tx: Transaction, caller: Caller, *, name: Name, limit: timedelta) -> Operation:
    """Serve a volume to nobody, sessions cut; one that is ephemeral is thrown away then. It ends an opening under way.

    Raises NotAllowed, NotFound, InUse (it is open for a boot, which is to be ended).
    """
    doing = f"closing volume {name}"
    volume = _load_own(tx, caller, name, doing)
    now = catalogue.find_opening(tx.connection, volume.id)
    work = catalogue.live_on(tx.connection, volume.id)
    if work is not None and work.verb is Verb.CLOSE:
        return work
    if now is None:
        return _begin(tx, caller, Verb.CLOSE, name, volume.id, limit, {}, done=True)
    if now.node is not None:
        raise InUse(doing, expected="a volume that no boot has open", found=f"one that node {now.node} boots")
    if work is not None:
        # It finds the row closing, and leaves the rest to this.
        catalogue.cancel(tx, work, actor=caller.name, why="the volume is being closed")
    close(tx, volume.id)
    return _begin(tx, caller, Verb.CLOSE, name, volume.id, limit, {})


def close(tx: Transaction, volume: str) -> None:
    """Let nobody have a volume any more; its row stays until nothing serves it."""
    tx.connection.execute(
        update(openings).where(openings.c.volume == volume).values(state=OpeningState.CLOSING.value, sealed=None)
    )


# -- looking -----------------------------------------------------------------------------------------------------------


def get_volume(connection: Connection, caller: Caller, name: Name) -> Volume:
    """Return a volume. Raises NotFound."""
    volume = catalogue.find_volume(connection, name)
    if volume is None or not caller.sees(name.project):
        raise not_found(f"volume {name}")
    return volume


def list_volumes(
    connection: Connection, caller: Caller, *, project: str | None, after: Name | None, limit: int
) -> tuple[Volume, ...]:
    """Return the volumes that the caller may know of, by project and name: all, or one project's."""
    where = [] if project is None else [volumes.c.project == project]
    if after is not None:
        where.append(tuple_(volumes.c.project, volumes.c.name) > (after.project, after.name))
    if not caller.sees_all():
        where.append(volumes.c.project.in_([each for each in caller.roles if caller.sees(each)]))
    query = select(volumes).where(*where).order_by(volumes.c.project, volumes.c.name).limit(rules.check_rows(limit))
    return tuple(catalogue.volume_of(row) for row in connection.execute(query))


def get_opening(connection: Connection, caller: Caller, name: Name) -> Opening:
    """Return whom a volume is open for. Raises NotFound."""
    opening = catalogue.find_opening(connection, get_volume(connection, caller, name).id)
    if opening is None:
        raise not_found(f"an opening of volume {name}")
    return opening


def get_access(tx: Transaction, caller: Caller, sealer: Sealer, *, name: Name) -> Access:
    """Return what opens a volume; the journal says who got it. Raises NotAllowed, NotFound, WrongState."""
    doing = f"reading the access to volume {name}"
    volume = _load_own(tx, caller, name, doing)
    row = tx.connection.execute(select(openings).where(openings.c.volume == volume.id)).one_or_none()
    if row is None or row.sealed is None:
        raise WrongState(doing, expected="a volume that is open", found="not open" if row is None else row.state)
    catalogue.record(tx, caller.name, "volume.access-read", f"volume/{name.name}", name.project)
    return catalogue.open_access(sealer, volume.id, row.sealed)


# -- what these have in common -----------------------------------------------------------------------------------------


def _load_own(tx: Transaction, caller: Caller, name: Name, doing: str) -> Volume:
    volume = catalogue.find_volume(tx.connection, name)
    if volume is None or not caller.sees(name.project):
        raise not_found(f"volume {name}")
    caller.must_act_for(name.project, Right.IMAGES, doing)
    return volume


def _count(tx: Transaction, volume: Volume, size_bytes: int) -> None:
    """Have the quota count what a volume may become while that is under way; `before_bytes` takes it back."""
    tx.connection.execute(update(volumes).where(volumes.c.id == volume.id).values(size_bytes=size_bytes))


def _check_unused(tx: Transaction, volume: Volume, doing: str) -> None:
    opening = catalogue.find_opening(tx.connection, volume.id)
    rules.check_at_rest(volume, opening, catalogue.work_with(tx.connection, volume.id), doing)
    named = tx.connection.execute(select(boots.c.node).where(boots.c.volume == volume.id)).scalars().first()
    if named is not None:
        raise InUse(doing, expected="a volume that no node boots", found=f"one that node {named} does")


def _change(tx: Transaction, caller: Caller, volume: Volume, verb: str, **values: Any) -> Volume:
    catalogue.bump(tx, volumes, volume.id, **values)
    catalogue.record(tx, caller.name, verb, f"volume/{volume.name.name}", volume.name.project, **values)
    return catalogue.load_volume(tx.connection, volume.id)


def _begin(
    tx: Transaction,
    caller: Caller,
    verb: Verb,
    name: Name,
    target: str,
    limit: timedelta,
    parameters: Mapping[str, str],
    *,
    done: bool = False,
) -> Operation:
    return catalogue.begin_operation(
        tx,
        verb,
        project=name.project,
        subject=f"volume/{name.name}",
        target=target,
        actor=caller.name,
        limit=rules.check_limit(limit),
        parameters=parameters,
        done=done,
    )
