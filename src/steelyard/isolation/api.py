"""HTTP to isolation's verbs and back: what is asked is read, passed on, and shown; nothing is decided here.

Each route says who may call it at all; whether this caller may do this to that node, the verb decides.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from steelyard.isolation import consoles, networks, operations, rack, views
from steelyard.isolation.consoles import ConsoleText
from steelyard.isolation.life import NodeState
from steelyard.isolation.objects import Operation, OperationState, PortName, Verb
from steelyard.isolation.ports import Drivers
from steelyard.isolation.schemas import (
    SECONDS,
    AllocationBody,
    AllocationInput,
    AttachInput,
    AttachmentBody,
    BootDeviceInput,
    ConsoleBody,
    DeviceInput,
    HoldBody,
    KeysInput,
    NetworkBody,
    NetworkInput,
    NicBody,
    NicInput,
    NodeBody,
    NodeInput,
    OperationBody,
    PortBody,
    PowerInput,
    ProjectBody,
    ProjectInput,
    QuarantineInput,
    RackBody,
    ReleaseInput,
    SwitchBody,
    WhyInput,
    attachment_body,
    console_body,
    hold_body,
    network_body,
    nic_body,
    node_body,
    operation_body,
    port_body,
    project_body,
    switch_body,
)
from steelyard.model.errors import WrongUse
from steelyard.model.inventory import decode_inventory
from steelyard.model.limits import CONSOLE_READ_BYTES, INVENTORY_BYTES, LABELS, OPERATION_SECONDS
from steelyard.model.network import MacAddress, Vlan
from steelyard.service.accounts import look_again
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

CONSOLE_BYTES: Final = 64 * 1024
"""The most of a console that one answer tells, if no other length is asked for."""
MOST_OFFSET: Final = 2**62

READING: Final = may(Who.SIGNED_IN, Right.READ)
"""For everybody, of what is theirs."""
RACK: Final = may(Who.PROVIDER, Right.RACK)
QuerySeconds = Annotated[int, Query(ge=1, le=OPERATION_SECONDS.most)]
OPERATION: Final[dict[str, Any]] = {"status_code": 202}
"""What an answer that is an operation has; `Location` says where to follow it."""


@dataclass(frozen=True, slots=True)
class Means:
    """What isolation's verbs need beside the database.

    pool  the VLANs that networks get when none is named.
    """

    sealer: Sealer
    drivers: Drivers
    pool: tuple[Vlan, ...]


def isolation_router(means: Means) -> APIRouter:
    """Return the routes."""
    router = guarded_router()
    _add_projects(router)
    _add_nodes(router)
    _add_registration(router, means)
    _add_nics(router)
    _add_attachments(router)
    _add_bmc(router)
    _add_leaving(router)
    _add_holds(router)
    _add_consoles(router)
    _add_switches(router, means)
    _add_networks(router, means)
    _add_operations(router)
    return router


# -- projects ----------------------------------------------------------------------------------------------------------


def _add_projects(router: APIRouter) -> None:
    @router.get("/v1/projects", openapi_extra=READING)
    def list_projects(session: SignedIn, database: TheDatabase, paging: Paged) -> Page[ProjectBody]:
        """Tell which projects there are, by name: those that the caller has a part in."""
        with database.reading() as connection:
            found = views.list_projects(connection, session, after=paging.after, limit=paging.limit)
        return paging.page(map(project_body, found), found, lambda project: project.name)

    @router.get("/v1/projects/{project}", openapi_extra=may(Who.MEMBER, Right.READ))
    def read_project(project: str, session: SignedIn, database: TheDatabase, response: Response) -> ProjectBody:
        """Tell a project's quotas."""
        with database.reading() as connection:
            found = views.get_project(connection, session, project)
        tell_version(response, found.version)
        return project_body(found)

    @router.put("/v1/projects/{project}", openapi_extra=RACK)
    def put_project(
        project: str,
        body: ProjectInput,
        session: SignedIn,
        database: TheDatabase,
        version: ExpectedVersion,
        response: Response,
    ) -> ProjectBody:
        """Make a project, or change its quotas."""
        with database.writing() as tx:
            written = rack.put_project(
                tx,
                session,
                name=project,
                node_quota=body.node_quota,
                network_quota=body.network_quota,
                expected_version=version,
            )
        tell_version(response, written.version)
        return project_body(written)

    @router.delete("/v1/projects/{project}", status_code=204, openapi_extra=RACK)
    def delete_project(project: str, session: SignedIn, database: TheDatabase, version: ExpectedVersion) -> None:
        """Forget a project that has no nodes and owns no networks."""
        with database.writing() as tx:
            rack.delete_project(tx, session, name=project, expected_version=version)

    @router.put("/v1/projects/{project}/allocations/{allocation}", openapi_extra=may(Who.MEMBER, Right.NODES))
    def allocate(
        project: str, allocation: str, body: AllocationInput, session: SignedIn, database: TheDatabase
    ) -> AllocationBody:
        """Take free nodes, all or none; asked again by the same name, tell the same ones."""
        with database.writing() as tx:
            nodes = operations.allocate(
                tx,
                session,
                project=project,
                count=body.count,
                labels=body.labels,
                allocation=allocation,
                names=body.nodes,
            )
        shown = [node_body(views.view_of(node, session)) for node in nodes]
        return AllocationBody(name=allocation, project=project, nodes=shown)

    @router.get("/v1/projects/{project}/allocations/{allocation}", openapi_extra=may(Who.MEMBER, Right.READ))
    def read_allocation(project: str, allocation: str, session: SignedIn, database: TheDatabase) -> AllocationBody:
        """Tell which nodes of an allocation the project still has."""
        with database.reading() as connection:
            nodes = views.get_allocation(connection, session, project, allocation)
        return AllocationBody(name=allocation, project=project, nodes=[node_body(node) for node in nodes])


# -- nodes -------------------------------------------------------------------------------------------------------------


def _add_nodes(router: APIRouter) -> None:
    @router.get("/v1/nodes", openapi_extra=READING)
    def list_nodes(
        session: SignedIn,
        database: TheDatabase,
        paging: Paged,
        state: NodeState | None = None,
        project: str | None = None,
        label: Annotated[
            list[str], Query(max_length=LABELS.most, description="NAME=VALUE; each that is given must be there.")
        ] = [],  # noqa: B006 (it is copied by FastAPI)
    ) -> Page[NodeBody]:
        """Tell which nodes there are, by name: those of the caller's projects, and those that are free."""
        with database.reading() as connection:
            found = views.list_nodes(
                connection,
                session,
                state=state,
                project=project,
                labels=_labels(label),
                after=paging.after,
                limit=paging.limit,
            )
        return paging.page(map(node_body, found), found, lambda node: node.name)

    @router.get("/v1/nodes/{node}", openapi_extra=READING)
    def read_node(node: str, session: SignedIn, database: TheDatabase, response: Response) -> NodeBody:
        """Tell what the caller may know of a node."""
        with database.reading() as connection:
            found = views.get_node(connection, session, node)
        tell_version(response, found.version)
        return node_body(found)

    @router.put("/v1/nodes/{node}/maintenance", openapi_extra=RACK)
    def keep_for_maintenance(node: str, body: WhyInput, session: SignedIn, database: TheDatabase) -> NodeBody:
        """Take a free or rejected node out of what can be allocated."""
        with database.writing() as tx:
            kept = operations.hold_node(tx, session, node=node, why=body.why)
        return node_body(views.view_of(kept, session))

    @router.put("/v1/nodes/{node}/reject", openapi_extra=RACK)
    def reject_node(node: str, body: WhyInput, session: SignedIn, database: TheDatabase) -> NodeBody:
        """Put a node that is nobody's among those to be repaired."""
        with database.writing() as tx:
            rejected = operations.reject_node(tx, session, node=node, why=body.why)
        return node_body(views.view_of(rejected, session))


def _add_registration(router: APIRouter, means: Means) -> None:
    @router.put("/v1/nodes/{node}", openapi_extra=RACK)
    def put_node(
        node: str,
        body: NodeInput,
        session: SignedIn,
        database: TheDatabase,
        version: ExpectedVersion,
        response: Response,
    ) -> NodeBody:
        """Register a node, in maintenance, or change what is known of it."""
        with database.writing() as tx:
            written = rack.put_node(
                tx,
                session,
                means.sealer,
                means.drivers,
                name=node,
                labels=body.labels,
                hardware=body.hardware,
                identity=body.identity.identity(),
                bmc_driver=body.bmc.driver,
                bmc_address=body.bmc.address,
                bmc_credentials=body.bmc.secrets(),
                expected_version=version,
            )
        tell_version(response, written.version)
        return node_body(views.view_of(written, session))

    @router.delete("/v1/nodes/{node}", status_code=204, openapi_extra=RACK)
    def delete_node(node: str, session: SignedIn, database: TheDatabase, version: ExpectedVersion) -> None:
        """Forget a node that is nobody's."""
        with database.writing() as tx:
            rack.delete_node(tx, session, name=node, expected_version=version)

    @router.put(
        "/v1/inventory",
        max_body_size=INVENTORY_BYTES.most,
        openapi_extra={
            **RACK,
            "requestBody": {
                "required": True,
                "description": "What `steelyard lab up` writes; docs/formats.md.",
                "content": {"application/json": {"schema": {"type": "object"}}},
            },
        },
    )
    async def import_inventory(request: Request, session: SignedIn, database: TheDatabase) -> RackBody:
        """Register everything in a rack's inventory, all or nothing; again, it changes nothing."""
        body = await request.body()

        def read_and_import() -> RackBody:
            inventory = decode_inventory(body.decode("utf-8", "replace"))
            with database.writing() as tx:
                nodes = rack.import_rack(tx, session, means.sealer, means.drivers, inventory=inventory)
            return RackBody(nodes=[node_body(views.view_of(node, session)) for node in nodes])

        return await run_in_threadpool(read_and_import)


def _add_nics(router: APIRouter) -> None:
    @router.put("/v1/nodes/{node}/nics/{nic}", openapi_extra=RACK)
    def put_nic(node: str, nic: str, body: NicInput, session: SignedIn, database: TheDatabase) -> NicBody:
        """Register a NIC, or where its cable goes."""
        with database.writing() as tx:
            written = rack.put_nic(tx, session, node=node, name=nic, mac=MacAddress(body.mac), port=body.port_name())
        return nic_body(written)

    @router.delete("/v1/nodes/{node}/nics/{nic}", status_code=204, openapi_extra=RACK)
    def delete_nic(node: str, nic: str, session: SignedIn, database: TheDatabase) -> None:
        """Forget a NIC of a node that is nobody's."""
        with database.writing() as tx:
            rack.delete_nic(tx, session, node=node, name=nic)


def _add_attachments(router: APIRouter) -> None:
    @router.get("/v1/attachments", openapi_extra=READING)
    def list_attachments(
        session: SignedIn,
        database: TheDatabase,
        paging: Paged,
        node: str | None = None,
        network: str | None = None,
    ) -> Page[AttachmentBody]:
        """Tell which NIC is on which network, by node, NIC and network."""
        with database.reading() as connection:
            found = views.list_attachments(
                connection,
                session,
                node=node,
                network=network,
                after=_attachment_key(paging.after),
                limit=paging.limit,
            )
        return paging.page(map(attachment_body, found), found, lambda last: f"{last.node}/{last.nic}/{last.network}")

    where = "/v1/nodes/{node}/nics/{nic}/attachments/{network}"

    @router.put(where, openapi_extra=may(Who.MEMBER, Right.NETWORKS), **OPERATION)
    def attach(
        node: str,
        nic: str,
        network: str,
        body: AttachInput,
        session: SignedIn,
        database: TheDatabase,
        response: Response,
    ) -> OperationBody:
        """Put a NIC on a network; asked again, tell of an operation that waits for the same."""
        with database.writing() as tx:
            operation = operations.attach(
                tx,
                session,
                node=node,
                nic=nic,
                network=network,
                tagged=body.tagged,
                verdict=body.verdict,
                limit=timedelta(seconds=body.seconds),
            )
        return _begun(operation, response)

    @router.delete(where, openapi_extra=may(Who.MEMBER, Right.NETWORKS), **OPERATION)
    def detach(
        node: str,
        nic: str,
        network: str,
        session: SignedIn,
        database: TheDatabase,
        response: Response,
        seconds: QuerySeconds = SECONDS,
    ) -> OperationBody:
        """Take a NIC off a network."""
        with database.writing() as tx:
            operation = operations.detach(
                tx, session, node=node, nic=nic, network=network, limit=timedelta(seconds=seconds)
            )
        return _begun(operation, response)


def _add_bmc(router: APIRouter) -> None:
    @router.put("/v1/nodes/{node}/power", openapi_extra=may(Who.MEMBER, Right.POWER), **OPERATION)
    def power(
        node: str, body: PowerInput, session: SignedIn, database: TheDatabase, response: Response
    ) -> OperationBody:
        """Switch a node on or off; done when the power was read to be so."""
        with database.writing() as tx:
            limit = timedelta(seconds=body.seconds)
            operation = operations.power(tx, session, node=node, verb=body.power_verb(), limit=limit)
        return _begun(operation, response)

    @router.put("/v1/nodes/{node}/boot-device", openapi_extra=may(Who.MEMBER, Right.POWER), **OPERATION)
    def set_boot_device(
        node: str, body: BootDeviceInput, session: SignedIn, database: TheDatabase, response: Response
    ) -> OperationBody:
        """Say from what a node starts, by UEFI."""
        with database.writing() as tx:
            operation = operations.set_boot_device(
                tx,
                session,
                node=node,
                device=body.device,
                once=body.once,
                limit=timedelta(seconds=body.seconds),
            )
        return _begun(operation, response)


def _add_leaving(router: APIRouter) -> None:
    @router.put("/v1/nodes/{node}/quarantine", openapi_extra=may(Who.MEMBER, Right.NODES), **OPERATION)
    def quarantine(
        node: str, body: QuarantineInput, session: SignedIn, database: TheDatabase, response: Response
    ) -> OperationBody:
        """Cut all of a node's ports, ahead of every queue."""
        with database.writing() as tx:
            limit = timedelta(seconds=body.seconds)
            operation = operations.quarantine(tx, session, node=node, why=body.why, limit=limit)
        return _begun(operation, response)

    @router.put("/v1/nodes/{node}/release", openapi_extra=may(Who.MEMBER, Right.NODES), **OPERATION)
    def release(
        node: str, body: ReleaseInput, session: SignedIn, database: TheDatabase, response: Response
    ) -> OperationBody:
        """Give a node back: off, cut off, both confirmed, then free."""
        with database.writing() as tx:
            operation = operations.release(
                tx,
                session,
                node=node,
                to=NodeState(body.to),
                why=body.why,
                waives=frozenset(body.waives),
                limit=timedelta(seconds=body.seconds),
            )
        return _begun(operation, response)


def _add_holds(router: APIRouter) -> None:
    @router.get("/v1/nodes/{node}/holds", openapi_extra=may(Who.MEMBER, Right.READ))
    def list_holds(node: str, session: SignedIn, database: TheDatabase) -> Page[HoldBody]:
        """Tell what a release of a node waits for; they are few."""
        with database.reading() as connection:
            found = views.list_holds(connection, session, node=node)
        return Page[HoldBody](items=[hold_body(hold) for hold in found], next=None)

    @router.put("/v1/nodes/{node}/holds/{hold}", openapi_extra=may(Who.MEMBER, Right.NODES))
    def place_hold(node: str, hold: str, body: WhyInput, session: SignedIn, database: TheDatabase) -> HoldBody:
        """Let a later release of a node wait."""
        with database.writing() as tx:
            return hold_body(operations.place_hold(tx, session, node=node, name=hold, why=body.why))

    @router.delete("/v1/nodes/{node}/holds/{hold}", status_code=204, openapi_extra=may(Who.MEMBER, Right.NODES))
    def lift_hold(node: str, hold: str, session: SignedIn, database: TheDatabase) -> None:
        """Let it wait no more; nothing if there is no such hold."""
        with database.writing() as tx:
            operations.lift_hold(tx, session, node=node, name=hold)


def _add_consoles(router: APIRouter) -> None:
    rule = may(Who.MEMBER, Right.CONSOLE)

    @router.put("/v1/nodes/{node}/console", status_code=204, openapi_extra=rule)
    def open_console(node: str, session: SignedIn, database: TheDatabase) -> None:
        """Have a node's serial line recorded; nothing if it is."""
        with database.writing() as tx:
            consoles.open_console(tx, session, node=node)

    @router.delete("/v1/nodes/{node}/console", status_code=204, openapi_extra=rule)
    def close_console(node: str, session: SignedIn, database: TheDatabase) -> None:
        """End the recording and delete it; nothing if there is none."""
        with database.writing() as tx:
            consoles.close_console(tx, session, node=node)

    @router.get("/v1/nodes/{node}/console", openapi_extra=rule)
    async def read_console(
        node: str,
        session: SignedIn,
        front: TheFront,
        seconds: WaitSeconds,
        offset: Annotated[int, Query(ge=0, le=MOST_OFFSET)] = 0,
        most: Annotated[int, Query(ge=1, le=CONSOLE_READ_BYTES.most)] = CONSOLE_BYTES,
    ) -> ConsoleBody:
        """Tell what a node said from an offset on; with `wait`, when it says something."""

        def look() -> ConsoleText:
            with front.database.reading() as connection:
                now = look_again(connection, session, front.database.clock())
                return consoles.read_console(connection, now, node=node, offset=offset, most=most)

        return console_body(await wait_for(front, f"console/{node}", look, lambda text: bool(text.said), seconds))

    @router.post("/v1/nodes/{node}/console/keys", status_code=204, openapi_extra=rule)
    def write_console(node: str, body: KeysInput, session: SignedIn, database: TheDatabase) -> None:
        """Press keys."""
        with database.writing() as tx:
            consoles.write_console(tx, session, node=node, keys=body.content())


# -- switches ----------------------------------------------------------------------------------------------------------


def _add_switches(router: APIRouter, means: Means) -> None:
    rule = may(Who.OFFICE, Right.READ)

    @router.get("/v1/switches", openapi_extra=rule)
    def list_switches(session: SignedIn, database: TheDatabase, paging: Paged) -> Page[SwitchBody]:
        """Tell which switches there are, by name."""
        with database.reading() as connection:
            found = views.list_switches(connection, session, after=paging.after, limit=paging.limit)
        return paging.page(map(switch_body, found), found, lambda switch: switch.name)

    @router.get("/v1/switches/{switch}", openapi_extra=rule)
    def read_switch(switch: str, session: SignedIn, database: TheDatabase, response: Response) -> SwitchBody:
        """Tell how a switch is reached, and what is wrong with it."""
        with database.reading() as connection:
            found = views.get_switch(connection, session, switch)
        tell_version(response, found.version)
        return switch_body(found)

    @router.put("/v1/switches/{switch}", openapi_extra=RACK)
    def put_switch(
        switch: str,
        body: DeviceInput,
        session: SignedIn,
        database: TheDatabase,
        version: ExpectedVersion,
        response: Response,
    ) -> SwitchBody:
        """Register a switch, or change how it is reached."""
        with database.writing() as tx:
            written = rack.put_switch(
                tx,
                session,
                means.sealer,
                means.drivers,
                name=switch,
                driver=body.driver,
                address=body.address,
                credentials=body.secrets(),
                expected_version=version,
            )
        tell_version(response, written.version)
        return switch_body(written)

    @router.delete("/v1/switches/{switch}", status_code=204, openapi_extra=RACK)
    def delete_switch(switch: str, session: SignedIn, database: TheDatabase, version: ExpectedVersion) -> None:
        """Forget a switch without ports."""
        with database.writing() as tx:
            rack.delete_switch(tx, session, name=switch, expected_version=version)

    @router.get("/v1/switches/{switch}/ports", openapi_extra=rule)
    def list_ports(switch: str, session: SignedIn, database: TheDatabase, paging: Paged) -> Page[PortBody]:
        """Tell a switch's ports, by name, and what each was last read to carry."""
        with database.reading() as connection:
            found = views.list_ports(connection, session, switch=switch, after=paging.after, limit=paging.limit)
        return paging.page(map(port_body, found), found, lambda port: port.name.port)

    # A port's name may have slashes, so nothing can follow it.
    @router.put("/v1/switches/{switch}/ports/{port:path}", openapi_extra=RACK)
    def put_port(switch: str, port: str, session: SignedIn, database: TheDatabase) -> PortBody:
        """Take charge of a port: it is shut, and read back."""
        with database.writing() as tx:
            return port_body(rack.put_port(tx, session, port=PortName(switch, port)))

    @router.delete("/v1/switches/{switch}/ports/{port:path}", status_code=204, openapi_extra=RACK)
    def delete_port(switch: str, port: str, session: SignedIn, database: TheDatabase) -> None:
        """Leave a port alone from now on; no NIC is plugged into it."""
        with database.writing() as tx:
            rack.delete_port(tx, session, port=PortName(switch, port))


# -- networks ----------------------------------------------------------------------------------------------------------


def _add_networks(router: APIRouter, means: Means) -> None:
    rule = may(Who.MEMBER, Right.NETWORKS)

    @router.get("/v1/networks", openapi_extra=READING)
    def list_networks(
        session: SignedIn, database: TheDatabase, paging: Paged, owner: str | None = None
    ) -> Page[NetworkBody]:
        """Tell which networks the caller's projects may use, by name."""
        with database.reading() as connection:
            found = views.list_networks(connection, session, owner=owner, after=paging.after, limit=paging.limit)
        return paging.page(map(network_body, found), found, lambda network: network.name)

    @router.get("/v1/networks/{network}", openapi_extra=READING)
    def read_network(network: str, session: SignedIn, database: TheDatabase, response: Response) -> NetworkBody:
        """Tell what a network is like, and for whom."""
        with database.reading() as connection:
            found = views.get_network(connection, session, network)
        tell_version(response, found.version)
        return network_body(found)

    @router.put("/v1/networks/{network}", openapi_extra=rule)
    def put_network(
        network: str,
        body: NetworkInput,
        session: SignedIn,
        database: TheDatabase,
        version: ExpectedVersion,
        response: Response,
    ) -> NetworkBody:
        """Make a network, or change for whom it is."""
        with database.writing() as tx:
            written = networks.put_network(
                tx,
                session,
                means.pool,
                name=network,
                owner=body.owner,
                sharing=body.sharing_of(),
                vlan=body.vlan_number(),
                members=body.members,
                admission=body.admission_of(),
                expected_version=version,
            )
        tell_version(response, written.version)
        return network_body(written)

    @router.delete("/v1/networks/{network}", status_code=204, openapi_extra=rule)
    def delete_network(network: str, session: SignedIn, database: TheDatabase, version: ExpectedVersion) -> None:
        """Forget a network that nothing is on; its VLAN goes back to the pool."""
        with database.writing() as tx:
            networks.delete_network(tx, session, name=network, expected_version=version)


# -- operations --------------------------------------------------------------------------------------------------------


def _add_operations(router: APIRouter) -> None:
    @router.get("/v1/operations", openapi_extra=READING)
    def list_operations(
        session: SignedIn,
        database: TheDatabase,
        paging: Paged,
        node: str | None = None,
        project: str | None = None,
        verb: Verb | None = None,
        state: OperationState | None = None,
    ) -> Page[OperationBody]:
        """Tell of operations, the oldest first."""
        with database.reading() as connection:
            found = views.list_operations(
                connection,
                session,
                node=node,
                project=project,
                verb=verb,
                state=state,
                after=paging.after,
                limit=paging.limit,
            )
        return paging.page(map(operation_body, found), found, lambda operation: operation.id)

    @router.get("/v1/operations/{operation}", openapi_extra=READING)
    async def read_operation(operation: str, session: SignedIn, front: TheFront, seconds: WaitSeconds) -> OperationBody:
        """Tell how far an operation is; with `wait`, when it has ended."""

        def look() -> Operation:
            with front.database.reading() as connection:
                now = look_again(connection, session, front.database.clock())
                return views.get_operation(connection, now, operation)

        topic = f"operation/{operation}"
        return operation_body(await wait_for(front, topic, look, lambda seen: seen.state.ended, seconds))

    @router.delete("/v1/operations/{operation}", openapi_extra=may(Who.SIGNED_IN))
    def cancel_operation(operation: str, session: SignedIn, database: TheDatabase) -> OperationBody:
        """Give an operation up, where that is possible; it takes the right that asking for it did."""
        with database.writing() as tx:
            return operation_body(operations.cancel(tx, session, operation=operation))


# -- what these have in common -----------------------------------------------------------------------------------------


def _begun(operation: Operation, response: Response) -> OperationBody:
    response.headers["Location"] = f"/v1/operations/{operation.id}"
    return operation_body(operation)


def _labels(words: list[str]) -> Mapping[str, str]:
    labels: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name in labels:
            raise WrongUse("reading `label`", expected="NAME=VALUE, each name once", found=word)
        labels[name] = value
    return labels


def _attachment_key(after: str) -> tuple[str, str, str] | None:
    if not after:
        return None
    parts = after.split("/")
    if len(parts) != 3:
        raise WrongUse("reading `after`", expected="the `next` of a page", found=after)
    return parts[0], parts[1], parts[2]
