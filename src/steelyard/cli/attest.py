"""`steelyard attest`: which machine is this, is it what it should be, and who says what it should be."""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, TypeVar

import typer

from steelyard.cli.attest_references import maker_app, policy_app, reference_app
from steelyard.cli.chain import chain_document, show_chain
from steelyard.cli.files import read_file, write_file
from steelyard.cli.judging import Judged, judge_as_a_service, make_rules, read_envelopes
from steelyard.cli.output import show_bad, show_good, show_json, show_lines
from steelyard.cli.service import AsJson, completing, connected, own_project, show_thing, show_things
from steelyard.client import attestation, isolation
from steelyard.client.attestation_objects import Appraisal, AttestedNode, Endorsements, VerdictKey
from steelyard.client.codec import decode, encode
from steelyard.client.connection import Client
from steelyard.client.objects import Event
from steelyard.evidence.appraisal import Passed
from steelyard.evidence.bundle import parse_bundle
from steelyard.evidence.policy import parse_policy
from steelyard.model.errors import ExitCode, MalformedAnswer, NotFound, Unavailable, WrongUse
from steelyard.model.limits import IDENTITY_FILE_BYTES, PARAMETERS_BYTES, POLICY_BYTES

T = TypeVar("T")

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help=(
        "Weigh nodes: enrol them, see what they are, and why.\n\n"
        "A node is enrolled with what its provider published of its TPM and with the policies that judge it. Then it\n"
        "registers, is judged in the airlock, and reports from then on. `show` tells what it is now, `explain` draws\n"
        "why, judged again on this computer. What is good is said by `policy`, `reference` and `maker-ca`."
    ),
)

app.add_typer(policy_app, name="policy")
app.add_typer(reference_app, name="reference")
app.add_typer(maker_app, name="maker-ca")

VERBS: Final = "attestation."
"""What the verbs of attestation begin with in the journal; a state's name after it: that a node is this now."""
STATES: Final = frozenset({"unknown", "registered", "challenged", "passed", "overdue", "failed"})
NODE_COLUMNS: Final = ("node", "project", "state", "since", "good until", "policies", "why")
PAGE: Final = 1000
"""How many of a list are asked for at a time."""
INTERVAL_SECONDS: Final = 60
GRACE_SECONDS: Final = 30
AGAIN_SECONDS: Final = (0.2, 1.0, 5.0, 15.0)
"""Before an event stream that ended is asked for again; after as many failures in a row it is given up."""

NodeName = Annotated[
    str, typer.Argument(metavar="NODE", help="The node.", autocompletion=completing(attestation.list_nodes))
]
AppraisalId = Annotated[
    str | None, typer.Option("--appraisal", metavar="ID", help="Which one, as `history` has it; else the last.")
]
Why = Annotated[str, typer.Option("--why", help="What for, in your words; it is kept in the audit log.")]


class Until(StrEnum):
    """What to wait for."""

    PASSED = "passed"
    FAILED = "failed"
    OVERDUE = "overdue"


# -- looking -----------------------------------------------------------------------------------------------------------


@app.command("nodes")
def list_nodes(
    *,
    project: Annotated[str | None, typer.Option(help="Only this project's.")] = None,
    state: Annotated[
        str | None, typer.Option(help="Only those that are unknown, registered, challenged, passed, overdue, failed.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the nodes that are enrolled, and what each is at this moment.

    Examples: `steelyard attest nodes`, `steelyard attest nodes --state failed`
    """
    with connected() as client:
        call = attestation.list_nodes(project=project, state=state, limit=PAGE)
        show_things(client.every(call), NODE_COLUMNS, _node_row, as_json=as_json)


def _node_row(node: AttestedNode) -> Sequence[str | None]:
    expires = None if node.expires is None else node.expires.isoformat(timespec="seconds")
    policies = ", ".join(policy for policy in (node.airlock_policy, node.runtime_policy) if policy is not None)
    return node.name, node.project, node.state, node.since.isoformat(timespec="seconds"), expires, policies, node.why


@app.command()
def show(
    node: NodeName,
    *,
    require_passed: Annotated[
        bool, typer.Option("--require-passed", help="End with 4 unless it has passed, and its pass still holds.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what is known of a node: what it is now, on what terms it is judged, what it is at.

    Examples: `steelyard attest show n1`, `steelyard attest show n1 --require-passed && ./deploy n1`
    """
    with connected() as client:
        found = client.ask(attestation.read_node(node))
    show_thing(found, as_json=as_json)
    if require_passed and found.state != Until.PASSED.value:
        raise typer.Exit(ExitCode.REJECTED)


@app.command()
def history(
    node: NodeName,
    *,
    failed: Annotated[bool, typer.Option("--failed", help="Only what was not good.")] = False,
    as_json: AsJson = False,
) -> None:
    """List what was judged of a node, the oldest first, and what came of it.

    Examples: `steelyard attest history n1`, `steelyard attest history n1 --failed`
    """
    with connected() as client:
        found = (
            each for each in client.every(attestation.list_appraisals(node, limit=PAGE)) if not (failed and each.passed)
        )
        columns = ("appraisal", "at", "for", "policy", "verdict", "entries", "wrong")
        show_things(found, columns, _appraisal_row, as_json=as_json)


def _appraisal_row(appraisal: Appraisal) -> Sequence[str | None]:
    first, rest = appraisal.findings[:1], appraisal.findings[1:]
    wrong = "".join(f"{finding.reason} {finding.where}" for finding in first) + (f", {len(rest)} more" if rest else "")
    return (
        appraisal.id,
        appraisal.at.isoformat(timespec="seconds"),
        appraisal.purpose,
        f"{appraisal.policy} version {appraisal.policy_version}",
        "passed" if appraisal.passed else "rejected",
        None if appraisal.ima_entries is None else str(appraisal.ima_entries),
        wrong,
    )


# -- enrolling ---------------------------------------------------------------------------------------------------------


@app.command()
def enrol(
    nodes: Annotated[list[str], typer.Argument(metavar="NODE...", help="The nodes, one or more, on the same terms.")],
    *,
    project: Annotated[str | None, typer.Option(help="Whose they are; without it, your only project's.")] = None,
    from_isolation: Annotated[
        bool,
        typer.Option(
            "--from-isolation", help="Take what the isolation service of this address publishes of their TPMs."
        ),
    ] = False,
    identity: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="What the provider published: `steelyard node show NODE --json` at their service, or its `identity`.",
        ),
    ] = None,
    makers: Annotated[
        str | None, typer.Option(metavar="SET", help="The TPM makers that the certificate's chain must end in.")
    ] = None,
    no_makers: Annotated[
        bool, typer.Option("--no-makers", help="No chain: the TPM has no certificate, its published key must do.")
    ] = False,
    airlock: Annotated[str | None, typer.Option(metavar="POLICY", help="What may have booted.")] = None,
    runtime: Annotated[str | None, typer.Option(metavar="POLICY", help="What may run from then on.")] = None,
    no_runtime: Annotated[
        bool, typer.Option("--no-runtime", help="Nothing is asked of them once they have passed the airlock.")
    ] = False,
    parameters: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The parameters that it must have been given, to the byte.")
    ] = None,
    parameters_sha256: Annotated[str | None, typer.Option(metavar="HEX", help="The same, by their SHA-256.")] = None,
    any_parameters: Annotated[
        bool, typer.Option("--any-parameters", help="Whatever they were given; the verdict names it.")
    ] = False,
    interval: Annotated[
        int | None, typer.Option(min=1, metavar="SECONDS", help=f"How often they report; {INTERVAL_SECONDS} at first.")
    ] = None,
    grace: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="SECONDS", help=f"How late a report may be; twice, it fails; {GRACE_SECONDS} at first."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Enrol nodes, or change the terms of some that are: what is not given stays.

    On other terms of who it is, of its boot or its parameters, a node must go through the airlock again.

    Examples: `steelyard attest enrol n1 --from-isolation --makers makers --airlock airlock --runtime web
    --parameters n1.json`, `steelyard attest enrol n1 n2 --runtime web-next`
    """
    if (identity is not None or parameters is not None) and len(nodes) > 1:
        raise WrongUse("enrolling nodes", expected="--identity or --parameters for one node", found=f"{len(nodes)}")
    digest = "" if parameters is None else hashlib.sha256(read_file(parameters, PARAMETERS_BYTES)).hexdigest()
    who = _given(
        ("--identity", identity is not None, None if identity is None else _read_identity(identity)),
        ("--from-isolation", from_isolation, None),
    )
    chained = _given(("--makers", makers is not None, makers), ("--no-makers", no_makers, None))
    boots = _given(("--airlock", airlock is not None, airlock or ""))
    runs = _given(("--runtime", runtime is not None, runtime), ("--no-runtime", no_runtime, None))
    told = _given(
        ("--parameters", parameters is not None, digest),
        ("--parameters-sha256", parameters_sha256 is not None, parameters_sha256 or ""),
        ("--any-parameters", any_parameters, attestation.ANY_PARAMETERS),
    )
    with connected() as client:
        enrolled = []
        for node in nodes:
            now = _enrolled(client, node)
            published = _kept(who, now, lambda known: known.identity, "--from-isolation or --identity")
            call = attestation.enrol(
                node,
                project=project or (own_project(client, None) if now is None else now.project),
                makers=_kept(chained, now, lambda known: known.makers, "--makers or --no-makers"),
                airlock_policy=_kept(boots, now, lambda known: known.airlock_policy, "--airlock"),
                runtime_policy=_kept(runs, now, lambda known: known.runtime_policy, "--runtime or --no-runtime"),
                parameters_sha256=_kept(
                    told, now, lambda known: known.parameters_sha256, "--parameters or --any-parameters"
                ),
                interval_seconds=interval or (INTERVAL_SECONDS if now is None else now.interval_seconds),
                grace_seconds=grace or (GRACE_SECONDS if now is None else now.grace_seconds),
                identity=published or _published(client, node),
                version=0 if now is None else now.version,
            )
            enrolled.append(client.ask(call))
    if len(enrolled) == 1:
        show_thing(enrolled[0], as_json=as_json)
    else:
        show_things(enrolled, NODE_COLUMNS, _node_row, as_json=as_json)


class _NotGiven:
    """An option that was left out: what is enrolled stays."""


NOT_GIVEN: Final = _NotGiven()


def _given(*options: tuple[str, bool, T]) -> T | _NotGiven:
    """Return the value of the one that was given, of options (name, whether it was given, value). Raises WrongUse."""
    taken = [(name, value) for name, given, value in options if given]
    if len(taken) > 1:
        found = " and ".join(name for name, _ in taken)
        raise WrongUse("enrolling nodes", expected="one of " + ", ".join(name for name, *_ in options), found=found)
    return taken[0][1] if taken else NOT_GIVEN


def _kept(given: T | _NotGiven, now: AttestedNode | None, known: Callable[[AttestedNode], T], options: str) -> T:
    """Return what was given, else what is enrolled. Raises WrongUse for a new node of which it must be said."""
    if not isinstance(given, _NotGiven):
        return given
    if now is None:
        raise WrongUse("enrolling a new node", expected=options, found="neither" if " or " in options else "none")
    return known(now)


def _enrolled(client: Client, node: str) -> AttestedNode | None:
    try:
        return client.ask(attestation.read_node(node))
    except NotFound:
        return None


def _published(client: Client, node: str) -> Endorsements:
    """Return what isolation publishes of a node's TPM. Raises WrongUse where that is nothing."""
    found = client.ask(isolation.read_node(node)).identity
    if not found.endorsement_certificates and not found.endorsement_keys:
        expected = "a node of whose TPM the provider published something"
        raise WrongUse(f"enrolling node {node}", expected=expected, found="nothing")
    return Endorsements(found.endorsement_certificates, found.endorsement_keys)


def _read_identity(path: Path) -> Endorsements:
    doing = f"reading {path}"
    try:
        document = json.loads(read_file(path, IDENTITY_FILE_BYTES))
    except ValueError as cause:
        raise WrongUse(doing, expected="JSON", found="something else") from cause
    if isinstance(document, dict) and isinstance(document.get("identity"), dict):
        document = document["identity"]
    try:
        return decode(Endorsements, document, doing)
    except MalformedAnswer as cause:
        raise WrongUse(doing, expected=cause.expected, found=cause.found) from cause


@app.command()
def forget(node: NodeName) -> None:
    """Attest a node no more: nobody can register as it. What was judged of it is kept as long as anything is.

    Example: `steelyard attest forget n1`
    """
    with connected() as client:
        client.ask(attestation.delete_node(node))


# -- what is let happen ------------------------------------------------------------------------------------------------


@app.command()
def retry(node: NodeName, *, why: Why, as_json: AsJson = False) -> None:
    """Let a node that failed register again; it goes through the airlock like any other.

    Example: `steelyard attest retry n1 --why "the firmware was put back"`
    """
    with connected() as client:
        show_thing(client.ask(attestation.retry(node, why)), as_json=as_json)


@app.command("replace-tpm")
def replace_tpm(node: NodeName, *, why: Why, as_json: AsJson = False) -> None:
    """Let a node be known by another TPM than before, of those that are published for it.

    What the provider publishes of the new one is told first: `attest enrol NODE --from-isolation`.

    Example: `steelyard attest replace-tpm n1 --why "new mainboard"`
    """
    with connected() as client:
        show_thing(client.ask(attestation.replace_tpm(node, why)), as_json=as_json)


@app.command("expect-reboots")
def expect_reboots(
    node: NodeName,
    count: Annotated[int, typer.Argument(metavar="N", help="How many; 0: none.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Say how many times a node may be reset from now on; a reset that nobody expected fails it.

    Example: `steelyard attest expect-reboots n1 1`
    """
    with connected() as client:
        show_thing(client.ask(attestation.expect_reboots(node, count)), as_json=as_json)


# -- why ---------------------------------------------------------------------------------------------------------------


@app.command()
def explain(
    node: NodeName,
    *,
    appraisal: AppraisalId = None,
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Judge by this policy, and not by what the service says it was.")
    ] = None,
    references: Annotated[
        Path | None, typer.Option(metavar="DIR", help="With --policy: signed manifests (*.json) of your own.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw why a node passed, or did not: each PCR, each component in it, by whose word it is good, or what is wrong.

    The evidence is fetched and judged again on this computer: the service's own verdict is only set beside it. Policy
    and references are those that the service says it judged by, unless they are given. Ends with 4 when it did not
    pass.

    Examples: `steelyard attest explain n1`, `steelyard attest explain n1 --appraisal 0190... --policy airlock.json
    --references references/`
    """
    if (policy is None) != (references is None):
        raise WrongUse("explaining an appraisal", expected="--policy and --references, or neither", found="one")
    with connected() as client:
        said = _appraisal(client, node, appraisal)
        bundle = client.ask(attestation.read_bundle(node, said.id))
        if policy is None or references is None:
            grounds = client.ask(attestation.read_grounds(node, said.id))
            rules, envelopes = grounds.policy, _named(grounds.references)
        else:
            rules, envelopes = read_file(policy, POLICY_BYTES), read_envelopes(references)
    judged = _judge(node, bundle, rules, envelopes)
    if as_json:
        show_json(chain_document(judged, said))
    else:
        show_chain(judged, said)
    if not isinstance(judged.verdict, Passed) or not said.passed:
        raise typer.Exit(ExitCode.REJECTED)


def _appraisal(client: Client, node: str, appraisal: str | None) -> Appraisal:
    """Return an appraisal, or the node's last. Raises NotFound, WrongUse."""
    if appraisal is None:
        appraisal = client.ask(attestation.read_node(node)).appraisal
    if appraisal is None:
        raise WrongUse(f"looking for what was judged of {node}", expected="a node that was judged", found="nothing yet")
    return client.ask(attestation.read_appraisal(node, appraisal))


def _named(references: Sequence[bytes]) -> list[tuple[str, bytes]]:
    return [(f"{hashlib.sha256(content).hexdigest()[:16]}.json", content) for content in references]


def _judge(node: str, content: bytes, policy: bytes, envelopes: Sequence[tuple[str, bytes]]) -> Judged:
    """Return what comes of judging a bundle here. Raises MalformedAnswer for one of another node."""
    bundle = parse_bundle(content)
    if bundle.node != node:
        raise MalformedAnswer(f"judging node {node} again", expected="evidence of that node", found=bundle.node)
    return judge_as_a_service(bundle, make_rules(parse_policy(policy), envelopes, bundle.received))


@app.command()
def export(
    node: NodeName,
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="A directory: made, if it is not there.")],
    appraisal: AppraisalId = None,
) -> None:
    """Write all that an appraisal judged into a directory, so that anyone can judge it again, now or in years.

    There are then bundle.json, policy.json, and the references in references/.

    Example: `steelyard attest export n1 --out n1` and then `steelyard evidence appraise n1/bundle.json --policy
    n1/policy.json --references n1/references`
    """
    with connected() as client:
        said = _appraisal(client, node, appraisal)
        bundle = client.ask(attestation.read_bundle(node, said.id))
        grounds = client.ask(attestation.read_grounds(node, said.id))
    directory = out / "references"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as cause:
        found = cause.strerror or str(cause)
        raise WrongUse(f"making {directory}", expected="a place that can be written", found=found) from cause
    write_file(out / "bundle.json", bundle)
    write_file(out / "policy.json", grounds.policy)
    for name, content in _named(grounds.references):
        write_file(directory / name, content)


# -- verdicts and their keys -------------------------------------------------------------------------------------------


@app.command()
def verdict(
    node: NodeName,
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write it; `-` is standard output.")],
) -> None:
    """Write the signed verdict of a node that has passed: what admits it to a network that demands one.

    Example: `steelyard attest verdict n1 --out n1.jwt` and then `steelyard node attach n1 eth0 lab --verdict n1.jwt`
    """
    with connected() as client:
        write_file(out, client.ask(attestation.read_verdict(node)).verdict.encode("ascii") + b"\n")


@app.command()
def keys(
    *,
    pem: Annotated[bool, typer.Option("--pem", help="The one that signs now, as PEM, alone.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the public keys that verdicts which still hold were signed with; the first one signs now.

    Example: `steelyard attest keys --pem > verdicts.pem`, for `steelyard network create --verdict-key verdicts.pem`
    """
    with connected() as client:
        found = client.ask(attestation.read_keys())
    if pem:
        show_lines(*(line for key in found.keys if key.signs for line in key.pem.splitlines()))
    elif as_json:
        show_thing(found, as_json=True)
    else:
        show_things(found.keys, ("key", "signs", "algorithm", "public key"), _key_row, as_json=False)


def _key_row(key: VerdictKey) -> Sequence[str]:
    return key.kid, "now" if key.signs else "no more", f"{key.alg} ({key.crv})", key.x


@app.command("rotate-key")
def rotate_key(*, as_json: AsJson = False) -> None:
    """Have verdicts signed with a new key from now on (provider). Networks that demand verdicts must be told it.

    The key before stays published until the last verdict that it signed has expired.

    Example: `steelyard attest rotate-key`
    """
    with connected() as client:
        show_thing(client.ask(attestation.rotate_key()), as_json=as_json)


# -- watching ----------------------------------------------------------------------------------------------------------


@app.command()
def watch(
    nodes: Annotated[list[str] | None, typer.Argument(metavar="NODE...", help="Only these; without any, all.")] = None,
    *,
    after: Annotated[int | None, typer.Option(metavar="N", help="Begin after this entry of the journal.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="What else happens to them too: steps, enrolments, shares.")
    ] = False,
    until: Annotated[Until | None, typer.Option(help="End when all the nodes named are that.")] = None,
    as_json: AsJson = False,
) -> None:
    """Follow what nodes become, as it happens: a line for each change, or with --json a document on each line.

    With --until it ends with 0 as soon as all nodes named are what is waited for, with 4 when one failed instead.

    Examples: `steelyard attest watch`, `timeout 600 steelyard attest watch n1 n2 --until passed`
    """
    wanted = frozenset(nodes or ())
    if until is not None and not wanted:
        raise WrongUse("waiting for nodes", expected="the nodes to wait for", found="none")
    with connected() as client:
        # From before the first look, so that nothing happens unseen between the two.
        begin = client.ask(isolation.read_audit_head()).number if after is None else after
        if until is not None and _are(client, wanted, until):
            return
        for event in _events(client, begin):
            node, what = event.subject.removeprefix("node/"), event.verb.removeprefix(VERBS)
            if not event.verb.startswith(VERBS) or (wanted and node not in wanted):
                continue
            if what in STATES or everything:
                _show_event(event, node, what, as_json=as_json)
            # At no other event: a node may be further already, and what it became would not be told.
            if until is not None and what in (until.value, Until.FAILED.value) and _are(client, wanted, until):
                return


def _are(client: Client, nodes: Iterable[str], until: Until) -> bool:
    """Whether all nodes are what is waited for. Ends the command with 4 when one has failed instead."""
    states = {client.ask(attestation.read_node(node)).state for node in nodes}
    if until is not Until.FAILED and Until.FAILED.value in states:
        raise typer.Exit(ExitCode.REJECTED)
    return states == {until.value}


def _events(client: Client, after: int) -> Iterator[Event]:
    """Give what happens after an entry, for ever: a stream that ends is asked for again from where it was.

    Raises Unavailable when the service is gone for long.
    """
    pauses = iter(AGAIN_SECONDS)
    while True:
        try:
            with client.events(after) as events:
                pauses = iter(AGAIN_SECONDS)
                for event in events:
                    after = event.number
                    yield event
        except Unavailable:
            pause = next(pauses, None)
            if pause is None:
                raise
            time.sleep(pause)


def _show_event(event: Event, node: str, what: str, *, as_json: bool) -> None:
    if as_json:
        show_lines(json.dumps(encode(event)))
        return
    detail = event.detail
    before = f"{detail['before']} -> " if what in STATES and "before" in detail else ""
    words = detail.get("why") or ", ".join(
        str(detail[name]) for name in ("step", "outcome", "detail") if name in detail
    )
    line = f"{event.at.isoformat(timespec='seconds')} {node}: {before}{what}" + (f", {words}" if words else "")
    if what == Until.PASSED.value:
        show_good(line)
    elif what in (Until.FAILED.value, Until.OVERDUE.value):
        show_bad(line)
    else:
        show_lines(line)
