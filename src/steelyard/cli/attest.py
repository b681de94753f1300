"""`steelyard attest`: which machine is this, is it what it should be, and who says what it should be."""

import typer

from steelyard.cli.attest_references import maker_app, policy_app, reference_app

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Weigh nodes: what they are judged by, and what came of it.",
)
app.add_typer(policy_app, name="policy")
app.add_typer(reference_app, name="reference")
app.add_typer(maker_app, name="maker-ca")
