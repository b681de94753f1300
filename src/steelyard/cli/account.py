"""`steelyard account`: who there is."""

from enum import StrEnum
from typing import Annotated

import typer

from steelyard.cli.service import AsJson, completing, connected, show_thing, show_things
from steelyard.client import accounts
from steelyard.client.objects import Account, OpenIdName

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Users and service accounts (provider).")

AccountName = Annotated[
    str, typer.Argument(metavar="ACCOUNT", help="Who.", autocompletion=completing(accounts.list_accounts))
]


class Kind(StrEnum):
    """What kind of somebody."""

    USER = "user"
    SERVICE = "service"


class Office(StrEnum):
    """What somebody is in the whole service."""

    PROVIDER = "provider"
    AUDITOR = "auditor"


@app.command("list")
def list_accounts(*, as_json: AsJson = False) -> None:
    """List who there is.

    Example: `steelyard account list`
    """
    with connected() as client:
        columns = ("account", "kind", "office", "OpenID issuer", "subject")
        show_things(client.every(accounts.list_accounts()), columns, _row, as_json=as_json)


def _row(account: Account) -> tuple[str | None, ...]:
    issuer, subject = (None, None) if account.openid is None else (account.openid.issuer, account.openid.subject)
    return account.name, account.kind, account.office, issuer, subject


@app.command()
def put(
    account: AccountName,
    *,
    kind: Annotated[Kind, typer.Option(help="A person, or a program.")] = Kind.USER,
    office: Annotated[Office | None, typer.Option(help="In the whole service; without it, none.")] = None,
    openid_issuer: Annotated[str | None, typer.Option(metavar="URL", help="Whose word is taken for who it is.")] = None,
    openid_subject: Annotated[
        str | None, typer.Option(metavar="ID", help="What the issuer calls it; without it, by the account's name.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Register somebody, or change who it is. What it may: `steelyard project add`.

    Example: `steelyard account put ada`
    """
    openid = None if openid_issuer is None else OpenIdName(openid_issuer, openid_subject)
    call = accounts.put_account(account, kind=kind.value, office=office and office.value, openid=openid)
    with connected() as client:
        show_thing(client.ask(call), as_json=as_json)


@app.command()
def delete(account: AccountName) -> None:
    """Forget somebody, with memberships and tokens.

    Example: `steelyard account delete ada`
    """
    with connected() as client:
        client.ask(accounts.delete_account(account))
