"""`steelyard project`: tenants."""

from enum import StrEnum
from typing import Annotated

import typer

from steelyard.cli.service import AsJson, ProjectName, connected, show_thing, show_things
from steelyard.client import accounts, isolation
from steelyard.client.objects import Member, Project

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Tenants: their quotas and their members.")


class Role(StrEnum):
    """What somebody is in a project."""

    ADMIN = "admin"
    MEMBER = "member"


Nodes = Annotated[int, typer.Option(metavar="N", help="The most nodes that it may have at a time.")]
Networks = Annotated[int, typer.Option(metavar="N", help="The most networks that it may own.")]
AccountName = Annotated[str, typer.Argument(metavar="ACCOUNT", help="Who.")]


@app.command("list")
def list_projects(*, as_json: AsJson = False) -> None:
    """List the projects that you have a part in.

    Example: `steelyard project list`
    """
    with connected() as client:
        columns = ("project", "nodes at most", "networks at most")
        show_things(client.every(isolation.list_projects()), columns, _row, as_json=as_json)


def _row(project: Project) -> tuple[str, ...]:
    return project.name, str(project.node_quota), str(project.network_quota)


@app.command()
def show(project: ProjectName, *, as_json: AsJson = False) -> None:
    """Show a project's quotas.

    Example: `steelyard project show blue`
    """
    with connected() as client:
        show_thing(client.ask(isolation.read_project(project)), as_json=as_json)


@app.command()
def create(project: ProjectName, *, nodes: Nodes, networks: Networks, as_json: AsJson = False) -> None:
    """Make a project (provider).

    Example: `steelyard project create blue --nodes 10 --networks 4`
    """
    call = isolation.put_project(project, node_quota=nodes, network_quota=networks, version=0)
    with connected() as client:
        show_thing(client.ask(call), as_json=as_json)


@app.command()
def quota(
    project: ProjectName,
    *,
    nodes: Annotated[int | None, typer.Option(metavar="N", help="The most nodes; without it, as it is.")] = None,
    networks: Annotated[int | None, typer.Option(metavar="N", help="The most networks; without it, as it is.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change a project's quotas (provider). What it has beyond them it keeps.

    Example: `steelyard project quota blue --nodes 20`
    """
    with connected() as client:
        now = client.ask(isolation.read_project(project))
        call = isolation.put_project(
            project,
            node_quota=now.node_quota if nodes is None else nodes,
            network_quota=now.network_quota if networks is None else networks,
            version=now.version,
        )
        show_thing(client.ask(call), as_json=as_json)


@app.command()
def delete(project: ProjectName) -> None:
    """Forget a project that has no nodes and owns no networks (provider).

    Example: `steelyard project delete blue`
    """
    with connected() as client:
        client.ask(isolation.delete_project(project))


@app.command()
def members(project: ProjectName, *, as_json: AsJson = False) -> None:
    """List who is in a project.

    Example: `steelyard project members blue`
    """
    with connected() as client:
        columns = ("account", "role")
        show_things(client.every(accounts.list_members(project)), columns, _member_row, as_json=as_json)


def _member_row(member: Member) -> tuple[str, ...]:
    return member.account, member.role


@app.command()
def add(
    project: ProjectName,
    account: AccountName,
    *,
    role: Annotated[Role, typer.Option(help="`admin` may also say who is in it.")] = Role.MEMBER,
    as_json: AsJson = False,
) -> None:
    """Take somebody into a project, or give another role (its admins, provider).

    Example: `steelyard project add blue ada --role admin`
    """
    with connected() as client:
        show_thing(client.ask(accounts.put_member(project, account, role.value)), as_json=as_json)


@app.command()
def remove(project: ProjectName, account: AccountName) -> None:
    """Take somebody out of a project (its admins, provider).

    Example: `steelyard project remove blue ada`
    """
    with connected() as client:
        client.ask(accounts.delete_member(project, account))
