"""`steelyard attest policy|reference|maker-ca`: what nodes are judged by, tried before it counts."""

import base64
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding

from steelyard.attestation.references.repository import make_root as root_metadata
from steelyard.attestation.references.repository import sign_root
from steelyard.cli.explain import parse_public_key_text
from steelyard.cli.files import read_file, write_file
from steelyard.cli.output import show_bad, show_good, show_json, show_lines, show_table
from steelyard.cli.reference import read_signing_key
from steelyard.cli.service import AsJson, Seconds, connected, follow, own_project, pairs, show_thing, show_things
from steelyard.client import attestation_references as authority
from steelyard.client.attestation_references import DryRun, Makers, NodeResult, Policy, Reference
from steelyard.client.codec import encode
from steelyard.client.connection import Client, Service
from steelyard.client.operations import must_be_done
from steelyard.client.reference_mirror import fetching, mirror_references
from steelyard.evidence.document import parse_document
from steelyard.evidence.reference.dsse import parse_envelope
from steelyard.evidence.reference.manifest import parse_manifest
from steelyard.evidence.tpm.certificate import parse_certificate
from steelyard.evidence.tpm.endorsement import Demand
from steelyard.model.errors import ExitCode, MalformedPolicy, NotFound, WrongUse
from steelyard.model.limits import (
    CERTIFICATE_BYTES,
    ENVELOPE_UPLOAD_BYTES,
    MAKER_SET_BYTES,
    POLICY_BYTES,
    REVOCATION_LIST_BYTES,
    ROOT_METADATA_BYTES,
)

policy_app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help=(
        "Policies: what is good enough. Each version is kept, tried on the evidence of your nodes with `dry-run`, and\n"
        "judges nobody before it is made `live`. What a policy says: docs/policy.md."
    ),
)
reference_app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help=(
        "References: signed manifests of what good components measure to. They count when enough of the project's\n"
        "signers signed them. Make and sign them with `steelyard reference`. ID may be shortened to 8 digits."
    ),
)
maker_app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help=(
        "TPM makers that you believe, in named sets: a node's endorsement certificate must chain to the set that its\n"
        "enrolment names. The provider's own sets are for every project to name."
    ),
)

SHORT: Final = 12
"""How many digits of an id are shown."""
LEAST: Final = 8
"""How many digits of an id are enough to name it."""
ID_DIGITS: Final = 64

Project = Annotated[str | None, typer.Option(help="Whose it is; without it, your only project's.")]
PolicyName = Annotated[str, typer.Argument(metavar="POLICY", help="The policy.")]
ReferenceId = Annotated[str, typer.Argument(metavar="ID", help="The reference: its id, or the first digits of it.")]
Component = Annotated[str, typer.Argument(metavar="COMPONENT", help="The component, as manifests name it.")]
Why = Annotated[str, typer.Option(help="Why; everybody who asks later is told.")]


# -- policies ----------------------------------------------------------------------------------------------------------


@policy_app.command("list")
def list_policies(*, project: Project = None, as_json: AsJson = False) -> None:
    """List a project's policies.

    Example: `steelyard attest policy list`
    """
    with connected() as client:
        found = client.every(authority.list_policies(own_project(client, project)))
        columns = ("policy", "newest version", "live version", "references")
        show_things(found, columns, _policy_row, as_json=as_json)


def _policy_row(policy: Policy) -> Sequence[str | None]:
    live = policy.in_force
    return (
        policy.name,
        str(policy.latest),
        None if live is None else str(live.number),
        None if live is None else str(len(live.references)),
    )


@policy_app.command("show")
def show_policy(
    policy: PolicyName,
    *,
    out: Annotated[Path | None, typer.Option(help="Write the document there; `-` is standard output.")] = None,
    number: Annotated[int | None, typer.Option(help="With --out: this version, as it was put.", min=1)] = None,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Show a policy: what of it judges. With --out, write the document: what judges now, or a version's.

    What judges has the versions in it that were revoked since. Its `grounds` are the digest that verdicts name.

    Examples: `steelyard attest policy show airlock`, `steelyard attest policy show airlock --number 3 --out old.json`
    """
    if number is not None and out is None:
        raise WrongUse("showing a policy", expected="--out, with --number", found="none")
    with connected() as client:
        owner = own_project(client, project)
        if out is not None:
            write_file(out, client.ask(authority.read_document(owner, policy, number)))
            return
        show_thing(client.ask(authority.read_policy(owner, policy)), as_json=as_json)


@policy_app.command()
def put(
    file: Annotated[Path, typer.Argument(help="The document; `-` is standard input.")],
    *,
    renumber: Annotated[
        bool, typer.Option("--renumber", help="Write the next version into it first, and into FILE.")
    ] = False,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Keep a new version of a policy. Nothing is judged by it: see `dry-run`, then `live`.

    The document says which policy it is, and which version: a higher one than any before.

    Example: `steelyard attest policy put airlock.json`
    """
    data = read_file(file, POLICY_BYTES)
    name = parse_document(data, POLICY_BYTES, "reading a policy", MalformedPolicy).text("name")
    with connected() as client:
        owner = own_project(client, project)
        if renumber:
            data = _renumbered(client, owner, name, data)
            write_file(file, data)
        kept = client.ask(authority.put_policy(owner, name, data))
        show_thing(kept, as_json=as_json)


def _renumbered(client: Client, project: str, name: str, data: bytes) -> bytes:
    try:
        newest = client.ask(authority.read_policy(project, name)).latest
    except NotFound:
        newest = 0
    document = json.loads(data)
    document["version"] = newest + 1
    return json.dumps(document, indent=1).encode() + b"\n"


@policy_app.command()
def live(
    policy: PolicyName,
    number: Annotated[int, typer.Argument(metavar="VERSION", help="The version.", min=1)],
    *,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Have nodes be judged by this version from now on. An older version is gone back to in the same way.

    A node that is being judged is judged wholly by the version that it was asked by.

    Example: `steelyard attest policy live airlock 4`
    """
    with connected() as client:
        owner = own_project(client, project)
        seen = client.ask(authority.read_policy(owner, policy))
        show_thing(client.ask(authority.make_live(owner, policy, number, seen.version)), as_json=as_json)


@policy_app.command()
def history(policy: PolicyName, *, project: Project = None, as_json: AsJson = False) -> None:
    """List the versions of a policy, the oldest first.

    Example: `steelyard attest policy history airlock`
    """
    with connected() as client:
        found = client.every(authority.list_versions(own_project(client, project), policy))
        columns = ("version", "sha256", "made by", "made at", "live since")
        show_things(found, columns, _version_row, as_json=as_json)


def _version_row(version: authority.PolicyVersion) -> Sequence[str | None]:
    since = None if version.live_since is None else version.live_since.isoformat(timespec="seconds")
    made = version.made_at.isoformat(timespec="seconds")
    return str(version.number), version.sha256[:SHORT], version.made_by, made, since


@policy_app.command("dry-run")
def dry_run(
    policy: PolicyName,
    *,
    number: Annotated[int | None, typer.Option(help="Suppose this version; the live one, if not given.")] = None,
    accept: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Suppose this proposed reference too; may be given again.")
    ] = None,
    revoke: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Suppose this reference revoked; may be given again.")
    ] = None,
    evidence: Annotated[
        str | None, typer.Option(metavar="POLICY", help="Of the nodes that this policy judges, not the same one.")
    ] = None,
    seconds: Seconds = authority.DRY_RUN_SECONDS,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return at once; `results` shows what came.")] = False,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Show which nodes would fail, and why, before anything changes.

    Judges the newest evidence of every node by what is supposed, and by what is in force today. Exit code 4 when a node
    would fail that does not fail today.

    Examples: `steelyard attest policy dry-run airlock --number 4`, `steelyard attest policy dry-run airlock --accept
    3f9a1c22`
    """
    with connected() as client:
        owner = own_project(client, project)
        begun = client.ask(
            authority.begin_dry_run(
                owner,
                policy,
                number=number,
                accept=_ids(client, owner, accept or ()),
                revoke=_ids(client, owner, revoke or ()),
                evidence=evidence,
                seconds=seconds,
            )
        )
        if no_wait:
            show_thing(begun, as_json=as_json)
            return
        [ended] = follow(client, [begun])
        must_be_done(ended)
        _tell(client, ended, as_json=as_json)


@policy_app.command()
def results(
    run: Annotated[str, typer.Argument(metavar="DRY-RUN", help="The dry run, as `dry-run --no-wait` names it.")],
    *,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Show what a dry run came to. Exit code 4 when a node would fail that does not fail today.

    Example: `steelyard attest policy results 0193f2c3d4e5a1b2c3d4e5f6a7b8`
    """
    with connected() as client:
        _tell(client, client.ask(authority.read_dry_run(own_project(client, project), run)), as_json=as_json)


@policy_app.command()
def cancel(
    run: Annotated[str, typer.Argument(metavar="DRY-RUN", help="The dry run, as `dry-runs` lists it.")],
    *,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Give a dry run up.

    Example: `steelyard attest policy cancel 0193f2c3d4e5a1b2c3d4e5f6a7b8`
    """
    with connected() as client:
        show_thing(client.ask(authority.cancel_dry_run(own_project(client, project), run)), as_json=as_json)


@policy_app.command("dry-runs")
def list_dry_runs(*, project: Project = None, as_json: AsJson = False) -> None:
    """List a project's dry runs, the oldest first.

    Example: `steelyard attest policy dry-runs`
    """
    with connected() as client:
        found = client.every(authority.list_dry_runs(own_project(client, project)))
        columns = ("dry run", "policy", "version", "state", "nodes", "would pass", "would fail", "fail today")
        show_things(found, columns, _run_row, as_json=as_json)


def _run_row(run: DryRun) -> Sequence[str | None]:
    nodes = f"{run.done} of {run.total}"
    counts = (str(run.passing), str(run.failing), str(run.already))
    return run.id, run.policy, str(run.number), run.state, nodes, *counts


def _tell(client: Client, run: DryRun, *, as_json: bool) -> None:
    found = list(client.every(authority.list_results(run.project, run.id)))
    breaks = run.failing - run.already
    if as_json:
        show_json({"dry_run": encode(run), "breaks": breaks, "results": [encode(one) for one in found]})
    else:
        for one in found:
            _tell_node(one)
        words = f"{run.about}: {run.passing} of {run.done} nodes would pass, {run.failing} would fail"
        words += f", of which {run.already} fail today" if run.already else ""
        if breaks:
            show_bad(words)
        else:
            show_good(words)
    if breaks:
        raise typer.Exit(ExitCode.REJECTED)


_WORDS: Final = {
    ("pass", "pass"): "would pass",
    ("pass", "fail"): "would pass, and fails today",
    ("fail", "pass"): "WOULD FAIL, and passes today",
    ("fail", "fail"): "would fail, as it does today",
    ("fail", "unjudged"): "WOULD FAIL",
    ("pass", "unjudged"): "would pass",
}


def _tell_node(result: NodeResult) -> None:
    words = _WORDS.get((result.outcome, result.today), "its evidence is kept no longer")
    show_lines(f"{result.node}: {words}")
    if result.outcome == "pass":
        return
    rows = [
        (finding["code"], finding["where"], finding["subject"], finding["expected"], finding["found"])
        for finding in result.findings
    ]
    show_table(("why", "where", "what", "expected", "found"), rows)
    if result.more:
        show_lines(f"and {result.more} more")


# -- references --------------------------------------------------------------------------------------------------------


@reference_app.command("list")
def list_references(
    *,
    component: Annotated[str | None, typer.Option(help="Of this component.")] = None,
    standing: Annotated[str | None, typer.Option(help="`accepted`, `proposed` or `revoked`.")] = None,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """List a project's references.

    Example: `steelyard attest reference list --component ovmf`
    """
    with connected() as client:
        call = authority.list_references(own_project(client, project), component=component, standing=standing)
        found = sorted(client.every(call), key=lambda one: (one.component, one.serial, one.id))
        columns = ("id", "component", "version", "serial", "machine class", "standing", "expires", "signatures")
        show_things(found, columns, _reference_row, as_json=as_json)


def _reference_row(one: Reference) -> Sequence[str | None]:
    expires = one.expires.isoformat(timespec="seconds")
    signed = str(len(one.key_ids))
    short = one.id[:SHORT]
    return short, one.component, one.release, str(one.serial), one.machine_class, one.standing, expires, signed


@reference_app.command("show")
def show_reference(
    reference: ReferenceId,
    *,
    envelope: Annotated[Path | None, typer.Option(help="Write its envelope there; `-` is standard output.")] = None,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Show what is known of a reference.

    Example: `steelyard attest reference show 3f9a1c22 --envelope ovmf.json`
    """
    with connected() as client:
        owner = own_project(client, project)
        [its_id] = _ids(client, owner, [reference])
        if envelope is not None:
            write_file(envelope, client.ask(authority.read_envelope(owner, its_id)))
        if envelope != Path("-"):
            show_thing(client.ask(authority.read_reference(owner, its_id)), as_json=as_json)


@reference_app.command("upload")
def upload(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Envelopes, as `reference sign` makes them.")],
    *,
    propose: Annotated[
        bool, typer.Option("--propose", help="Only to be tried in dry runs, until `accept` lets them count.")
    ] = False,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Bring signed manifests in. Refused: signed by too few of the project's signers, older than one seen, expired.

    Several signers may each bring in their own envelope of the same manifest: their signatures are put together once
    the first is in.

    Example: `steelyard attest reference upload references/*.json`
    """
    with connected() as client:
        owner = own_project(client, project)
        added = []
        for file in files:
            data = read_file(file, ENVELOPE_UPLOAD_BYTES)
            # Which signers count depends on it, and the service reads nothing of the manifest before it checked them.
            component = parse_manifest(parse_envelope(data).payload).component
            standing = "proposed" if propose else "accepted"
            added.append(client.ask(authority.add_reference(owner, component, data, standing=standing)))
        _show_references(added, as_json=as_json)


@reference_app.command()
def accept(
    references: Annotated[list[str], typer.Argument(metavar="ID...", help="Proposed references.")],
    *,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Let proposed references count from now on.

    Example: `steelyard attest reference accept 3f9a1c22`
    """
    with connected() as client:
        owner = own_project(client, project)
        ids = _ids(client, owner, references)
        accepted = [client.ask(authority.accept_reference(owner, one)) for one in ids]
        _show_references(accepted, as_json=as_json)


@reference_app.command("revoke")
def revoke_reference(reference: ReferenceId, *, why: Why, project: Project = None, as_json: AsJson = False) -> None:
    """Take a reference's word back, for good: what it measured is bad from now on, unless a later one says otherwise.

    See what that does first: `steelyard attest policy dry-run POLICY --revoke ID`.

    Example: `steelyard attest reference revoke 3f9a1c22 --why "made of the wrong file"`
    """
    with connected() as client:
        owner = own_project(client, project)
        [its_id] = _ids(client, owner, [reference])
        show_thing(client.ask(authority.revoke_reference(owner, its_id, why)), as_json=as_json)


def _show_references(found: Iterable[Reference], *, as_json: bool) -> None:
    columns = ("id", "component", "version", "serial", "machine class", "standing", "expires", "signatures")
    show_things(found, columns, _reference_row, as_json=as_json)


@reference_app.command()
def revoked(*, project: Project = None, as_json: AsJson = False) -> None:
    """List which versions of components were revoked.

    Example: `steelyard attest reference revoked`
    """
    with connected() as client:
        found = client.every(authority.list_revoked(own_project(client, project)))
        columns = ("component", "version", "why", "by", "at")
        show_things(
            found,
            columns,
            lambda one: (one.component, one.release, one.why, one.by, one.at.isoformat(timespec="seconds")),
            as_json=as_json,
        )


@reference_app.command("revoke-version")
def revoke_version(
    component: Component,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="Its version.")],
    *,
    why: Why,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Say that a version of a component is bad, by whomever it was signed or will be: in every policy, at once.

    Example: `steelyard attest reference revoke-version ovmf 2022.11-6 --why CVE-2024-1298`
    """
    with connected() as client:
        call = authority.revoke_release(own_project(client, project), component, version, why)
        show_thing(client.ask(call), as_json=as_json)


@reference_app.command("restore-version")
def restore_version(
    component: Component,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="Its version.")],
    *,
    project: Project = None,
) -> None:
    """Take back that a version is bad (the project's admins, provider).

    Example: `steelyard attest reference restore-version ovmf 2022.11-6`
    """
    with connected() as client:
        client.ask(authority.restore_release(own_project(client, project), component, version))


# -- signers -----------------------------------------------------------------------------------------------------------


@reference_app.command()
def signers(*, project: Project = None, as_json: AsJson = False) -> None:
    """List who signs: by component, and (`_default`) for all that have no signers of their own.

    Example: `steelyard attest reference signers`
    """
    with connected() as client:
        found = client.every(authority.list_signers(own_project(client, project)))
        columns = ("component", "threshold", "keys")
        show_things(
            found,
            columns,
            lambda one: (
                one.component,
                f"{one.threshold} of {len(one.keys)}",
                ", ".join(f"{name}={key}" for name, key in sorted(one.keys.items())),
            ),
            as_json=as_json,
        )


@reference_app.command("set-signers")
def set_signers(
    key: Annotated[
        list[str], typer.Option(metavar="NAME=KEY", help="Who, and the key as `reference keygen` prints it.")
    ],
    threshold: Annotated[int, typer.Option(help="How many of them must sign.", min=1)],
    *,
    component: Annotated[str, typer.Option(help="Of this component alone.")] = authority.DEFAULT,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Say who signs (the project's admins, provider). What others signed stops counting at once.

    Example: `steelyard attest reference set-signers --key ada=11qYAYKx... --key ben=3n5GkUAW... --threshold 2`
    """
    keys = pairs(key, "signer")
    for text in keys.values():
        parse_public_key_text(text)
    with connected() as client:
        call = authority.put_signers(own_project(client, project), component, keys, threshold)
        show_thing(client.ask(call), as_json=as_json)


@reference_app.command("delete-signers")
def delete_signers(component: Component, *, project: Project = None) -> None:
    """Have a component be signed by the default signers again (the project's admins, provider).

    Example: `steelyard attest reference delete-signers ovmf`
    """
    with connected() as client:
        client.ask(authority.delete_signers(own_project(client, project), component))


# -- publication -------------------------------------------------------------------------------------------------------


@reference_app.command()
def publish(
    *,
    root: Annotated[str, typer.Option(help="Who holds the root key: `online` (the service) or `offline` (you).")],
    public: Annotated[bool, typer.Option("--public", help="For everybody, without a token.")] = False,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Publish the project's references as a TUF repository (its admins, provider); `mirror` fetches them.

    With an offline root nothing is served until `make-root` and `put-root` brought its root metadata in.

    Example: `steelyard attest reference publish --root offline --public`
    """
    with connected() as client:
        call = authority.put_repository(own_project(client, project), root=root, public=public)
        show_thing(client.ask(call), as_json=as_json)


@reference_app.command()
def published(*, project: Project = None, as_json: AsJson = False) -> None:
    """Show how the project's references are published, and until when they count as current.

    Example: `steelyard attest reference published`
    """
    with connected() as client:
        show_thing(client.ask(authority.read_repository(own_project(client, project))), as_json=as_json)


@reference_app.command("make-root")
def make_root(
    *,
    key: Annotated[Path, typer.Option(help="The root's private key, as `reference keygen` makes one. It stays here.")],
    out: Annotated[Path, typer.Option(help="Where to write the root metadata.")],
    valid_days: Annotated[int, typer.Option(help="How long it holds.", min=1, max=3660)] = 365,
    last_key: Annotated[
        Path | None, typer.Option(help="The root's key until now, where it is to be another: it must sign too.")
    ] = None,
    project: Project = None,
) -> None:
    """Make and sign the next root metadata of a repository whose root is offline. `put-root` brings it in.

    Example: `steelyard attest reference make-root --key root.pem --out root.json`
    """
    private = read_signing_key(key)
    with connected() as client:
        owner = own_project(client, project)
        now = client.ask(authority.read_repository(owner))
        told = client.ask(authority.read_repository_keys(owner)).keys
    keys = {role: Ed25519PublicKey.from_public_bytes(base64.b64decode(text)) for role, text in told.items()}
    ends = datetime.now(UTC) + timedelta(days=valid_days)
    made = root_metadata(now.root_version + 1, {**keys, "root": private.public_key()}, ends, private)
    if last_key is not None:
        made = sign_root(made, read_signing_key(last_key))
    write_file(out, made)


@reference_app.command("put-root")
def put_root(
    file: Annotated[Path, typer.Argument(help="Root metadata, signed.")],
    *,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Bring in root metadata that was signed outside (the project's admins, provider).

    Example: `steelyard attest reference put-root root.json`
    """
    with connected() as client:
        call = authority.put_root(own_project(client, project), read_file(file, ROOT_METADATA_BYTES))
        show_thing(client.ask(call), as_json=as_json)


@reference_app.command("get-root")
def get_root(
    *,
    out: Annotated[Path, typer.Option(help="Where to write it; `-` is standard output.")],
    project: Project = None,
) -> None:
    """Fetch the root metadata that a mirror begins with. Give it to who mirrors by a way that you both trust.

    Example: `steelyard attest reference get-root --out root.json`
    """
    with connected() as client:
        owner = own_project(client, project)
        version = client.ask(authority.read_repository(owner)).root_version
        write_file(out, client.ask(authority.read_root(owner, version)))


@reference_app.command()
def mirror(
    directory: Annotated[Path, typer.Argument(help="What becomes the mirror.")],
    *,
    project: Annotated[str, typer.Option(help="Whose references.")],
    root: Annotated[
        Path | None, typer.Option(help="Root metadata to begin with, for the first time: from somebody you trust.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="A service whose references are public; else the one you signed in to.")
    ] = None,
    ca: Annotated[Path | None, typer.Option(help="Who must have signed that service's certificate, PEM.")] = None,
    as_json: AsJson = False,
) -> None:
    """Mirror a project's published references, trusting neither the network nor the service.

    Refused, with what is there left as it is: an older state than was seen, one shown for longer than it holds, parts
    of two states, a file that is another. DIRECTORY/references is what `evidence appraise` and `attest reference
    upload` take; what was revoked is in DIRECTORY/revocations.json.

    Example: `steelyard attest reference mirror provider --project lab --root root.json`
    """
    start = None if root is None else read_file(root, ROOT_METADATA_BYTES)
    if url is None:
        with connected() as client:
            mirrored = mirror_references(fetching(client, project, public=False), directory, start)
    else:
        with Client(Service(url, ca, None)) as client:
            mirrored = mirror_references(fetching(client, project, public=True), directory, start)
    if as_json:
        document = encode(mirrored)
        show_json(document if isinstance(document, dict) else {})
        return
    until = mirrored.expires.isoformat(timespec="seconds")
    show_good(
        f"{len(mirrored.references)} references, {len(mirrored.fresh)} of them new, {len(mirrored.gone)} gone; "
        f"current until {until}"
    )


# -- TPM makers --------------------------------------------------------------------------------------------------------

Provider = Annotated[bool, typer.Option("--provider", help="The provider's set, for all to name.")]
MakersName = Annotated[str, typer.Argument(metavar="SET", help="The set.")]


@maker_app.command("list")
def list_makers(*, provider: Provider = False, project: Project = None, as_json: AsJson = False) -> None:
    """List sets of TPM makers.

    Example: `steelyard attest maker-ca list --provider`
    """
    with connected() as client:
        found = client.every(authority.list_makers(_owner(client, project, provider=provider)))
        show_things(found, ("set", "certificates", "revocation lists", "demands"), _makers_row, as_json=as_json)


def _makers_row(makers: Makers) -> Sequence[str | None]:
    return makers.name, str(len(makers.certificates)), str(makers.revocations), ", ".join(makers.demands)


@maker_app.command("show")
def show_makers(
    name: MakersName, *, provider: Provider = False, project: Project = None, as_json: AsJson = False
) -> None:
    """Show whose certificates are in a set.

    Example: `steelyard attest maker-ca show stm`
    """
    with connected() as client:
        found = client.ask(authority.read_makers(_owner(client, project, provider=provider), name))
    if as_json:
        show_thing(found, as_json=True)
        return
    rows = []
    for text in found.certificates:
        one = parse_certificate(text.encode())
        rows.append((one.subject(), one.issuer(), one.fields.not_valid_after_utc.isoformat(timespec="seconds")))
    show_table(("subject", "issuer", "until"), rows)


@maker_app.command("put")
def put_makers(
    name: MakersName,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Certificates, PEM or DER, one a file.")],
    *,
    revocation_list: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="What they revoked, DER or PEM; may be given again.")
    ] = None,
    demand: Annotated[
        list[Demand] | None,
        typer.Option(help="What endorsement certificates must have besides; older makers leave it out."),
    ] = None,
    provider: Provider = False,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Say which makers' certificates a chain may end in (the project's admins; the provider with --provider).

    The set is then what is given here, all of it.

    Example: `steelyard attest maker-ca put stm stm-root.pem stm-ecc-intermediate.pem`
    """
    certificates = [
        parse_certificate(read_file(file, CERTIFICATE_BYTES)).fields.public_bytes(Encoding.PEM).decode("ascii")
        for file in files
    ]
    revocations = [read_file(file, REVOCATION_LIST_BYTES) for file in revocation_list or ()]
    if sum(map(len, revocations)) > MAKER_SET_BYTES.most // 2:
        raise WrongUse("trusting TPM makers", expected="smaller revocation lists", found="larger ones")
    with connected() as client:
        call = authority.put_makers(
            _owner(client, project, provider=provider),
            name,
            certificates=certificates,
            revocations=revocations,
            demands=[one.value for one in demand or ()],
        )
        put_set = client.ask(call)
    if as_json:
        show_thing(put_set, as_json=True)
    else:
        show_lines(f"{put_set.name}: {len(put_set.certificates)} certificates, {put_set.revocations} revocation lists")


@maker_app.command("delete")
def delete_makers(name: MakersName, *, provider: Provider = False, project: Project = None) -> None:
    """Forget a set that no node names.

    Example: `steelyard attest maker-ca delete stm`
    """
    with connected() as client:
        client.ask(authority.delete_makers(_owner(client, project, provider=provider), name))


# -- what these have in common -----------------------------------------------------------------------------------------


def _owner(client: Client, project: str | None, *, provider: bool) -> str | None:
    if provider and project is not None:
        raise WrongUse("choosing a set of TPM makers", expected="--provider or --project", found="both")
    return None if provider else own_project(client, project)


def _ids(client: Client, project: str, named: Sequence[str]) -> list[str]:
    """Return the ids of references that were named by their first digits. Raises WrongUse, NotFound."""
    doing = "looking for a reference"
    if all(len(text) == ID_DIGITS for text in named):
        return list(named)
    known = [one.id for one in client.every(authority.list_references(project))]
    ids = []
    for text in named:
        found = [one for one in known if one.startswith(text)]
        if len(text) < LEAST or len(found) > 1:
            wanted = f"at least {LEAST} digits of an id, and enough to tell it from others"
            raise WrongUse(doing, expected=wanted, found=text)
        if not found:
            raise NotFound(doing, expected="the id of a reference of the project", found=text)
        ids += found
    return ids
