"""What nodes boot: said per node by the project whose boot network it is, made true by the worker.

A boot that is said again begins anew: its volume is opened with a fresh credential, and what the node had open under
the old one is cut.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import timedelta
from ipaddress import IPv4Address
from typing import Any

from sqlalchemy import Connection, Select, insert, select, tuple_, update

from steelyard.imaging import catalogue, images, rules, volumes
from steelyard.imaging.netboot.plan import BootNetwork
from steelyard.imaging.objects import (
    Boot,
    BootAirlock,
    BootDirect,
    BootDisk,
    BootIpxe,
    BootState,
    BootWhat,
    KernelAndInitramfs,
    Name,
    OpeningState,
    Operation,
    Protocol,
    Verb,
    Volume,
)
from steelyard.imaging.tables import boots, openings
from steelyard.imaging.tables import volumes as volumes_table
from steelyard.model.errors import AlreadyThere, InUse, WrongState
from steelyard.model.names import check_name
from steelyard.model.network import MacAddress
from steelyard.service.authority import Caller, not_found
from steelyard.service.database import Transaction


def put_boot(
    tx: Transaction,
    caller: Caller,
    networks: Mapping[str, BootNetwork],
    *,
    project: str,
    node: str,
    network: str,
    mac: MacAddress,
    what: BootWhat,
    limit: timedelta,
) -> Operation:
    """Say what a node boots from now on; done when it is served. Asked again until then, return the same operation.

    what  with names ("root", "blue/debian") in place of ids.

    Raises NotAllowed, NotFound, WrongState, WrongUse, TooLarge, InUse, AlreadyThere, NotEnough.
    """
    doing = f"saying what node {node} boots"
    rules.check_change(caller, Name(project, check_name(node, "node")), "node", doing)
    there = rules.find_network(networks, network, project)
    before = catalogue.find_boot(tx.connection, project, node)
    asked = _asked(network, mac, what)
    work = catalogue.live_on(tx.connection, catalogue.boot_target(project, node))
    if work is not None and work.verb is Verb.BOOT and work.parameters["asked"] == asked:
        return work
    rules.check_free(work, doing)
    if before is not None and before.state is BootState.ENDING:
        raise WrongState(doing, expected="the last boot to have ended", found="it is being ended")
    _check_card(tx, there, project, node, mac, doing)
    resolved, image, volume, protocol = _resolve(tx, caller, project, node, what, doing)
    address = _address(tx, there, before)
    encoded = catalogue.encode_boot_what(resolved)
    values = {
        "network": network,
        "mac": str(mac),
        "address": str(address),
        "what": encoded,
        "image": image,
        "volume": None if volume is None else volume.id,
        "state": BootState.PREPARING.value,
        "version": 1 if before is None else before.version + 1,
    }
    if before is None:
        tx.connection.execute(insert(boots).values(project=project, node=node, **values))
    else:
        tx.connection.execute(update(boots).where(boots.c.project == project, boots.c.node == node).values(values))
    _close_others(tx, project, node, None if volume is None else volume.id)
    if volume is not None and protocol is not None:
        _open(tx, volume.id, network, protocol, address, node)
    kind = encoded["kind"]
    parameters = {"network": network, "mac": str(mac), "address": str(address), "kind": kind, "asked": asked}
    return _begin(tx, caller.name, Verb.BOOT, project, node, limit, parameters)


def end_boot(tx: Transaction, caller: Caller, *, project: str, node: str, limit: timedelta) -> Operation:
    """Give a node nothing any more: no address, no files, its volume closed. Asked again, it waits for the same.

    Raises NotAllowed, NotFound.
    """
    doing = f"ending the boot of node {node}"
    rules.check_change(caller, Name(project, node), "node", doing)
    if catalogue.find_boot(tx.connection, project, node) is None:
        raise not_found(f"a boot of node {node}")
    work = catalogue.live_on(tx.connection, catalogue.boot_target(project, node))
    if work is not None and work.verb is Verb.END_BOOT:
        return work
    if work is not None:
        catalogue.cancel(tx, work, actor=caller.name, why="the boot is being ended")
    return begin_end(tx, caller.name, project, node, limit)


def begin_end(tx: Transaction, actor: str, project: str, node: str, limit: timedelta) -> Operation:
    """Begin to end a boot; nothing is under way with it."""
    its = (boots.c.project == project, boots.c.node == node)
    tx.connection.execute(update(boots).where(*its).values(state=BootState.ENDING.value))
    _close_others(tx, project, node, None)
    return _begin(tx, actor, Verb.END_BOOT, project, node, limit, {})


def get_boot(connection: Connection, caller: Caller, project: str, node: str) -> Boot:
    """Return what a node boots. Raises NotFound."""
    boot = catalogue.find_boot(connection, project, node)
    if boot is None or not caller.sees(project):
        raise not_found(f"a boot of node {node}")
    return boot


def list_boots(
    connection: Connection, caller: Caller, *, project: str | None, after: Name | None, limit: int
) -> tuple[Boot, ...]:
    """Return what nodes boot, by project and node: all that the caller may know of, or one project's."""
    query: Select[Any] = select(boots).order_by(boots.c.project, boots.c.node).limit(rules.check_rows(limit))
    if project is not None:
        query = query.where(boots.c.project == project)
    if after is not None:
        query = query.where(tuple_(boots.c.project, boots.c.node) > (after.project, after.name))
    if not caller.sees_all():
        query = query.where(boots.c.project.in_([each for each in caller.roles if caller.sees(each)]))
    return tuple(catalogue.boot_of(row) for row in connection.execute(query))


def _check_card(tx: Transaction, network: BootNetwork, project: str, node: str, mac: MacAddress, doing: str) -> None:
    query = select(boots).where(boots.c.network == network.name, boots.c.mac == str(mac))
    for row in tx.connection.execute(query):
        if (row.project, row.node) != (project, node):
            raise AlreadyThere(doing, expected=f"a card that is no other node's on {network.name}", found=row.node)


def _resolve(
    tx: Transaction, caller: Caller, project: str, node: str, what: BootWhat, doing: str
) -> tuple[BootWhat, str | None, Volume | None, Protocol | None]:
    """Return what is booted with ids in place of names: the image, the volume to be open, and how."""
    match what:
        case BootAirlock(parameters, image_name):
            rules.check_parameters(parameters)
            image = None
            if image_name is not None:
                owner, _, name = image_name.rpartition("/")
                image = images.find_usable(tx.connection, caller, Name(owner or project, name))
                _check_kernel(image.id, tx, doing)
            identity = None if image is None else image.id
            return BootAirlock(parameters, identity), identity, None, None
        case BootDirect(volume_name, protocol, command_line, seed):
            rules.check_command_line(command_line)
            rules.check_seed(seed)
            volume = _usable(tx, caller, project, node, volume_name, doing)
            if volume.image is None:
                expected = "a volume that stands on an image, for its kernel; or a boot by iPXE"
                raise WrongState(doing, expected=expected, found=f"volume {volume.name} stands on none")
            line = _check_kernel(volume.image, tx, doing)
            if command_line is None and line is None:
                raise WrongState(doing, expected="a command line, as the image has none", found="none")
            resolved = BootDirect(volume.id, protocol, command_line, seed)
            return resolved, volume.image, volume, protocol
        case BootIpxe(volume_name):
            volume = _usable(tx, caller, project, node, volume_name, doing)
            return BootIpxe(volume.id), volume.image, volume, Protocol.ISCSI
        case BootDisk():
            return what, None, None, None


def _check_kernel(image: str, tx: Transaction, doing: str) -> str | None:
    """Let pass an image with a kernel in it; return its command line. Raises WrongState."""
    contents = rules.ready(catalogue.load_image(tx.connection, image), doing)
    if not isinstance(contents.boot, KernelAndInitramfs):
        found = contents.boot_trouble or ("none" if contents.boot is None else "a unified kernel image")
        raise WrongState(doing, expected="an image with a kernel to be found in it", found=found)
    return contents.boot.command_line


def _usable(tx: Transaction, caller: Caller, project: str, node: str, name: str, doing: str) -> Volume:
    """Return a volume of the project's that nobody but this node has."""
    volume = volumes.get_volume(tx.connection, caller, Name(project, name))
    opening = catalogue.find_opening(tx.connection, volume.id)
    if opening is not None and opening.node == node and opening.state is not OpeningState.CLOSING:
        opening = None
    rules.check_at_rest(volume, opening, catalogue.work_with(tx.connection, volume.id), doing)
    other = tx.connection.execute(
        select(boots.c.node).where(boots.c.volume == volume.id, boots.c.node != node)
    ).scalar()
    if other is not None:
        raise InUse(doing, expected="a volume that no other node boots", found=f"one that {other} does")
    return volume


def _asked(network: str, mac: MacAddress, what: BootWhat) -> str:
    """Return the SHA-256, in hexadecimal, of what is asked for as it is asked for."""
    said = [network, str(mac), catalogue.encode_boot_what(what)]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _address(tx: Transaction, network: BootNetwork, before: Boot | None) -> IPv4Address:
    """Return the node's address: the one that it had there, else the lowest that is free."""
    if before is not None and before.network == network.name and network.first <= before.address <= network.last:
        return before.address
    query = select(boots.c.address).where(boots.c.network == network.name)
    taken = {IPv4Address(address) for address in tx.connection.execute(query).scalars()}
    query = select(openings.c.address).where(openings.c.network == network.name)
    return rules.pick_address(network, taken | {IPv4Address(each) for each in tx.connection.execute(query).scalars()})


def _close_others(tx: Transaction, project: str, node: str, kept: str | None) -> None:
    """Close what was opened for this node's boot, but for the volume that it keeps."""
    own = select(volumes_table.c.id).where(volumes_table.c.project == project)
    query = select(openings.c.volume).where(openings.c.node == node, openings.c.volume.in_(own))
    for volume in tx.connection.execute(query).scalars().all():
        if volume != kept:
            volumes.close(tx, volume)


def _open(tx: Transaction, volume: str, network: str, protocol: Protocol, address: IPv4Address, node: str) -> None:
    values = {
        "network": network,
        "protocol": protocol.value,
        "address": str(address),
        "node": node,
        "state": OpeningState.OPENING.value,
        "sealed": None,
    }
    changed = tx.connection.execute(update(openings).where(openings.c.volume == volume).values(values))
    if changed.rowcount == 0:
        tx.connection.execute(insert(openings).values(volume=volume, **values))


def _begin(
    tx: Transaction, actor: str, verb: Verb, project: str, node: str, limit: timedelta, parameters: Mapping[str, str]
) -> Operation:
    return catalogue.begin_operation(
        tx,
        verb,
        project=project,
        subject=f"boot/{node}",
        target=catalogue.boot_target(project, node),
        actor=actor,
        limit=rules.check_limit(limit),
        parameters=parameters,
    )
