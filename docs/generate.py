"""Writes the pages that come from the code: errors, limits, commands. `--check` only tells whether they are current."""

import json
import sys
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from steelyard.attestation import life as attestation
from steelyard.cli.main import PARTS, load
from steelyard.enclave import life as enclave
from steelyard.enclave.file import schema
from steelyard.isolation.life import TRANSITIONS, NodeEvent, NodeState
from steelyard.model import errors, limits

DOCS = Path(__file__).parent
EXIT_CODES = "Exit codes: " + ", ".join(f"{code:d} {code.name.lower().replace('_', ' ')}" for code in errors.ExitCode)
MADE = "<!-- Made by docs/generate.py from the code; change it there. -->\n\n"


def error_page() -> str:
    lines = [
        "# Errors",
        "",
        "Every error says what was being done, what was expected, what came. Programs read the code; the exit",
        "code is the command line's, the status that of the services' answers (RFC 9457 problems).",
        "",
        "| code | exit | status | means | what to do |",
        "| --- | --- | --- | --- | --- |",
    ]
    for error in sorted(_kinds(errors.SteelyardError), key=lambda kind: (kind.exit_code, kind.code)):
        meaning = (error.__doc__ or "").strip().splitlines()[0]
        lines.append(f"| `{error.code}` | {error.exit_code:d} | {error.http_status} | {meaning} | {error.remedy} |")
    return "\n".join(lines) + "\n"


def _kinds(kind: type[errors.SteelyardError]) -> Iterator[type[errors.SteelyardError]]:
    for child in kind.__subclasses__():
        yield child
        yield from _kinds(child)


def limits_page() -> str:
    lines = [
        "# Limits on what is read",
        "",
        "Checked before the input is parsed; beyond them, `too-large`.",
        "",
        "| of what | most | because |",
        "| --- | --- | --- |",
    ]
    for name, limit in vars(limits).items():
        if isinstance(limit, limits.Limit):
            what = name.lower().replace("_", " ")
            lines.append(f"| {what} | {limit.most:,} {limit.unit} | {limit.reason} |")
    return "\n".join(lines) + "\n"


def cli_page() -> str:
    lines = ["# Commands", "", EXIT_CODES, ""]
    for path, command in _commands("steelyard", {name: load(name) for name in PARTS}):
        with typer.Context(command, info_name=path) as context:
            usage = " ".join(command.collect_usage_pieces(context))
            lines += [f"## `{path} {usage}`", "", (command.help or "").strip(), ""]
            for parameter in command.params:
                record = parameter.get_help_record(context)
                if record is not None and "--help" not in parameter.opts:
                    lines.append(f"- `{record[0]}`: {record[1]}")
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _commands(path: str, commands: Mapping[str, object]) -> Iterator[tuple[str, TyperCommand]]:
    for name, child in commands.items():
        if isinstance(child, TyperGroup):
            yield from _commands(f"{path} {name}", child.commands)
        elif isinstance(child, TyperCommand):
            yield f"{path} {name}", child


def states_page() -> str:
    lines = ["# The lives of a node", "", "What is not drawn is refused, and changes nothing.", ""]
    lines += _life("As isolation sees it", NodeState.MAINTENANCE, TRANSITIONS, NodeState, NodeEvent)
    lines += ["", *_life("As attestation sees it", attestation.State.UNKNOWN, attestation.TRANSITIONS, *_ATTESTATION)]
    lines += ["", *_life("As an enclave sees a place", enclave.State.WANTED, enclave.TRANSITIONS, *_ENCLAVE)]
    return "\n".join(lines) + "\n"


def schema_page() -> str:
    return json.dumps(schema(), indent=2) + "\n"


_ENCLAVE = (enclave.State, enclave.Event)
_ATTESTATION = (attestation.State, attestation.Event)


def _life(
    title: str, first: Enum, transitions: Mapping[Any, Enum], states: type[Enum], events: type[Enum]
) -> Iterator[str]:
    yield from (f"## {title}", "", "```mermaid", "stateDiagram-v2", f"    [*] --> {first.value}")
    for (before, event), then in transitions.items():
        yield f"    {before.value} --> {then.value}: {event.value}"
    yield "```"
    for kind, meant, words in (("state", "means", states), ("event", "is", events)):
        yield from ("", f"| {kind} | {meant} |", "| --- | --- |")
        yield from (f"| {word.value} | {vars(word)['meaning']} |" for word in words)


PAGES = {"states.md": states_page, "errors.md": error_page, "input-limits.md": limits_page, "cli.md": cli_page}
DOCUMENTS = {"enclave.schema.json": schema_page}


def main() -> None:
    old = []
    for name, make in {**PAGES, **DOCUMENTS}.items():
        page = make()
        if name in PAGES:
            title, rest = page.split("\n", 1)
            page = f"{title}\n\n{MADE}{rest.lstrip()}"
        path = DOCS / name
        if path.is_file() and path.read_text() == page:
            continue
        if "--check" in sys.argv[1:]:
            old.append(name)
        else:
            path.write_text(page)
    if old:
        sys.exit(f"not up to date: {', '.join(old)}; run ./check fix")


main()
