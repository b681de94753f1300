"""`steelyard login`: where the service is, and where the token lies."""

import os
from pathlib import Path
from typing import Annotated

import typer

from steelyard.cli.output import show_lines
from steelyard.cli.service import AsJson, show_thing
from steelyard.client import accounts
from steelyard.client.connection import Client, Service
from steelyard.client.settings import Settings, read_token, write_settings

app = typer.Typer(add_completion=False)


@app.command()
def login(
    url: Annotated[str, typer.Argument(metavar="URL", help="https://HOST:PORT")],
    *,
    token_file: Annotated[Path, typer.Option(help="The file that holds your token; yours alone (mode 600).")],
    ca: Annotated[Path | None, typer.Option(help="The installation's certificate authority: PEM.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say where the service is and where your token lies, for all later commands.

    Both are tried, and kept in ~/.config/steelyard/client.toml; the token stays in its own file. STEELYARD_URL,
    STEELYARD_CA and STEELYARD_TOKEN_FILE are stronger than what is kept.

    Example: `steelyard login https://steelyard.example:8443 --token-file ~/token --ca steelyard-ca.pem`
    """
    with Client(Service(url, ca, read_token(token_file))) as client:
        session = client.ask(accounts.read_session())
    path = write_settings(Settings(url, ca, token_file), os.environ)
    if as_json:
        show_thing(session, as_json=True)
    else:
        show_lines(f"signed in as {session.account}; kept in {path}")
