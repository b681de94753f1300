"""`steelyard token`: what signs requests."""

from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from steelyard.cli.account import Office
from steelyard.cli.files import write_secret_file
from steelyard.cli.service import AsJson, connected, show_thing, show_things
from steelyard.client import accounts
from steelyard.client.objects import Token

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Tokens: who holds one may what it is for. A token never gives more than its account has.",
)


class Right(StrEnum):
    """What a token can be for."""

    READ = "read"
    NODES = "nodes"
    NETWORKS = "networks"
    POWER = "power"
    CONSOLE = "console"
    MEMBERS = "members"
    IMAGES = "images"
    ATTEST = "attest"
    ENCLAVES = "enclaves"
    RACK = "rack"


@app.command()
def create(
    *,
    out: Annotated[Path, typer.Option(help="The new file that the token is written to, for your eyes alone.")],
    right: Annotated[list[Right], typer.Option(help="What it is for; may be given several times.")],
    days: Annotated[int, typer.Option(metavar="N", help="How long it is good.")],
    account: Annotated[str | None, typer.Option(help="Whose; without it, yours.")] = None,
    project: Annotated[str | None, typer.Option(help="For this project alone.")] = None,
    office: Annotated[Office | None, typer.Option(help="With the account's office in the whole service.")] = None,
    words: Annotated[str, typer.Option("--for", help="What it is for, in your words.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make a token, and write it to a file; it is told this once.

    Example: `steelyard token create --right read --right power --days 30 --project blue --out ci.token`
    """
    with connected() as client:
        new = client.ask(
            accounts.make_token(
                account or client.ask(accounts.read_session()).account,
                project=project,
                rights=[each.value for each in right],
                office=office and office.value,
                lasts=timedelta(days=days),
                words=words,
            )
        )
        try:
            write_secret_file(out, new.bearer.reveal() + b"\n")
        except BaseException:
            client.ask(accounts.revoke_token(new.token.id))  # nobody has it
            raise
    show_thing(new.token, as_json=as_json)


@app.command("list")
def list_tokens(*, as_json: AsJson = False) -> None:
    """List your tokens; providers and auditors see everybody's.

    Example: `steelyard token list`
    """
    with connected() as client:
        columns = ("token", "account", "project", "office", "rights", "until", "used", "for")
        show_things(client.every(accounts.list_tokens()), columns, _row, as_json=as_json)


def _row(token: Token) -> tuple[str | None, ...]:
    until = "revoked" if token.revoked is not None else token.expires.isoformat(timespec="minutes")
    used = None if token.used is None else token.used.isoformat(timespec="minutes")
    rights = " ".join(token.rights)
    return token.id, token.account, token.project, token.office, rights, until, used, token.words


@app.command()
def show(*, as_json: AsJson = False) -> None:
    """Show who you are to the service, and what your token leaves of it.

    Example: `steelyard token show`
    """
    with connected() as client:
        show_thing(client.ask(accounts.read_session()), as_json=as_json)


@app.command()
def revoke(token: Annotated[str, typer.Argument(metavar="ID", help="As `token list` shows it.")]) -> None:
    """End a token, at once.

    Example: `steelyard token revoke 0123456789abcdef`
    """
    with connected() as client:
        client.ask(accounts.revoke_token(token))
