"""`steelyard webhook`: who is told of what happens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from steelyard.cli.files import write_secret_file
from steelyard.cli.output import show_json, show_lines
from steelyard.cli.service import AsJson, completing, connected, own_project, show_thing, show_things
from steelyard.client import webhooks
from steelyard.client.connection import Client
from steelyard.client.webhooks import DeadLetter, Webhook
from steelyard.model.errors import NotFound, WrongUse

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help=(
        "Webhooks: an https URL of yours is told of every event that you choose, in order, signed, and again until it\n"
        "answers 2xx. What it never takes becomes a dead letter. docs/howto/receive-notices.md shows a receiver."
    ),
)

Name = Annotated[
    str,
    typer.Argument(metavar="WEBHOOK", help="Its name, or its id.", autocompletion=completing(webhooks.list_webhooks)),
]
Project = Annotated[str | None, typer.Option(help="Whose it is; without it, whichever has that name.")]
Numbers = Annotated[
    list[int] | None, typer.Argument(metavar="NUMBER...", help="The dead letters, as `dead-letters` shows them.")
]


def _find(client: Client, name: str, project: str | None) -> Webhook:
    found = [
        hook
        for hook in client.every(webhooks.list_webhooks())
        if name in (hook.name, hook.id) and project in (None, hook.project)
    ]
    if not found:
        raise NotFound(f"looking for webhook {name}", expected="one of yours", found="none")
    if len(found) > 1:
        projects = ", ".join(hook.project or "the provider" for hook in found)
        raise WrongUse(f"choosing webhook {name}", expected="--project, or its id", found=f"those of {projects}")
    return found[0]


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is to be called.")],
    url: Annotated[str, typer.Argument(metavar="URL", help="https://..., which is told. No secret belongs in it.")],
    *,
    verb: Annotated[
        list[str], typer.Option(help="What is told: a verb, or its beginning and a star; may be given again.")
    ],
    out: Annotated[Path, typer.Option(help="The new file that the secret is written to; it is told this once.")],
    subject: Annotated[
        list[str] | None, typer.Option(help="About what: node/n1, 'node/*'; may be given again. Without it, all.")
    ] = None,
    project: Annotated[str | None, typer.Option(help="Whose; without it, your only project's.")] = None,
    provider: Annotated[bool, typer.Option("--provider", help="The provider's own: of all projects.")] = False,
    as_json: AsJson = False,
) -> None:
    """Have a URL told of what happens from now on. `steelyard audit list` shows which verbs and subjects there are.

    Example: `steelyard webhook create alarms https://hooks.example/steelyard --verb 'node.*' --out alarms.secret`
    """
    if provider and project is not None:
        raise WrongUse("making a webhook", expected="--project or --provider", found="both")
    with connected() as client:
        whose = None if provider else own_project(client, project)
        new = client.ask(webhooks.make_webhook(name, project=whose, url=url, verbs=verb, subjects=subject or ["*"]))
        try:
            write_secret_file(out, new.secret.reveal() + b"\n")
        except BaseException:
            client.ask(webhooks.delete_webhook(new.webhook.id))  # nobody could verify what it tells
            raise
    show_thing(new.webhook, as_json=as_json)


@app.command("list")
def list_webhooks(*, as_json: AsJson = False) -> None:
    """List the webhooks of your projects, and how it goes with their receivers.

    Example: `steelyard webhook list`
    """
    with connected() as client:
        columns = ("webhook", "project", "verbs", "subjects", "url", "last try", "dead letters")
        show_things(client.every(webhooks.list_webhooks()), columns, _row, as_json=as_json)


def _row(hook: Webhook) -> Sequence[str | None]:
    tried = None if hook.last_try is None else f"{hook.outcome}, {hook.last_try.isoformat(timespec='minutes')}"
    return (
        hook.name,
        hook.project,
        " ".join(hook.verbs),
        " ".join(hook.subjects),
        hook.url,
        tried,
        str(hook.dead_letters),
    )


@app.command()
def show(webhook: Name, *, project: Project = None, as_json: AsJson = False) -> None:
    """Show a webhook: what it tells, how far it is, what its receiver answered last.

    Example: `steelyard webhook show alarms`
    """
    with connected() as client:
        show_thing(_find(client, webhook, project), as_json=as_json)


@app.command()
def delete(webhook: Name, *, project: Project = None) -> None:
    """Tell its URL nothing more; its dead letters go with it.

    Example: `steelyard webhook delete alarms`
    """
    with connected() as client:
        client.ask(webhooks.delete_webhook(_find(client, webhook, project).id))


@app.command("dead-letters")
def dead_letters(webhook: Name, *, project: Project = None, as_json: AsJson = False) -> None:
    """List what a receiver did not take: each a number of the journal, with the last answer.

    Example: `steelyard webhook dead-letters alarms`
    """
    with connected() as client:
        hook = _find(client, webhook, project)
        columns = ("number", "what", "on", "at", "tries", "given up", "last answer", "again")
        show_things(client.every(webhooks.list_dead_letters(hook.id)), columns, _letter_row, as_json=as_json)


def _letter_row(letter: DeadLetter) -> Sequence[str | None]:
    at, given_up = (moment.isoformat(timespec="seconds") for moment in (letter.at, letter.given_up))
    again = None if letter.wanted is None else "wanted"
    return str(letter.number), letter.verb, letter.subject, at, str(letter.tries), given_up, letter.outcome, again


@app.command()
def redeliver(webhook: Name, numbers: Numbers = None, *, project: Project = None, as_json: AsJson = False) -> None:
    """Try dead letters once more, all of them if none is named; what is delivered is none any more.

    Example: `steelyard webhook redeliver alarms 4711`
    """
    with connected() as client:
        hook = _find(client, webhook, project)
        wanted = numbers or [letter.number for letter in client.every(webhooks.list_dead_letters(hook.id))]
        letters = [client.ask(webhooks.redeliver(hook.id, number)) for number in wanted]
    if as_json:
        show_json({"redelivering": [letter.number for letter in letters]})
    else:
        show_lines(*(f"to be tried again: {letter.number} {letter.verb} {letter.subject}" for letter in letters))


@app.command()
def drop(
    webhook: Name,
    numbers: Annotated[list[int], typer.Argument(metavar="NUMBER...", help="As `dead-letters` shows them.")],
    *,
    project: Project = None,
) -> None:
    """Forget dead letters. What they told of stays in the journal: `steelyard audit list`.

    Example: `steelyard webhook drop alarms 4711`
    """
    with connected() as client:
        hook = _find(client, webhook, project)
        for number in numbers:
            client.ask(webhooks.drop_dead_letter(hook.id, number))
