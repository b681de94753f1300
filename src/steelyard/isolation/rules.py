"""What may happen. Pure: from what is, to what is to be done, or to the reason why not.

A state's successors are in `life.py`, what a port carries in `wanted.py`, verdicts in `admission.py`.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from steelyard.evidence.tpm.certificate import parse_certificate
from steelyard.evidence.verdict import parse_key
from steelyard.isolation.life import NodeState
from steelyard.isolation.objects import (
    Admission,
    Attachment,
    Identity,
    Members,
    Network,
    Nic,
    Node,
    OpenAdmission,
    PortName,
    Private,
    Project,
    Public,
    Release,
    ReleaseStep,
    SharedWith,
    Verb,
)
from steelyard.model.errors import (
    AlreadyThere,
    Changed,
    InUse,
    NotAllowed,
    NotEnough,
    OverQuota,
    TooLarge,
    TooMany,
    WrongState,
    WrongUse,
)
from steelyard.model.limits import (
    ADMISSION_AGE_SECONDS,
    ENDORSEMENTS,
    LABEL_CHARACTERS,
    LABELS,
    NODE_HOLDS,
    NODE_OPERATIONS,
    NODE_REFERENCES,
    OPERATION_SECONDS,
    WHY_CHARACTERS,
    Limit,
)
from steelyard.model.names import check_name
from steelyard.model.network import Vlan
from steelyard.service.authority import Caller, Office, not_found

POWER_VERBS: Final = frozenset({Verb.POWER_ON, Verb.POWER_OFF, Verb.POWER_CYCLE, Verb.POWER_SOFT, Verb.POWER_READ})
STARTING_VERBS: Final = frozenset({Verb.POWER_ON, Verb.POWER_CYCLE})
"""After these a machine runs something that no verdict from before speaks of."""
IDLE: Final = frozenset({NodeState.FREE, NodeState.MAINTENANCE, NodeState.REJECTED})
"""States of nodes that are nobody's."""

_KEY_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


# -- who, and which version --------------------------------------------------------------------------------------------


def check_reach(caller: Caller, project: str | None, what: str) -> None:
    """Let pass who may know of what is a project's. Raises NotFound, the same as for what is not there."""
    if caller.office is None and project not in caller.roles:
        raise not_found(what)


def check_version(what: str, version: int | None, expected: int | None) -> None:
    """Let pass a change of what the caller last saw.

    version   None: it is not there.
    expected  0: it must not be there; None: whatever it is.

    Raises AlreadyThere, Changed.
    """
    if expected is None or expected == (version or 0):
        return
    if expected == 0:
        raise AlreadyThere(f"making {what}", expected="a name that is not taken", found=what)
    raise Changed(f"changing {what}", expected=f"version {expected}", found="none" if version is None else f"{version}")


def check_quota(project: Project, what: str, quota: int, held: int, asked: int) -> None:
    """Let pass what stays within a quota. Raises OverQuota."""
    if held + asked > quota:
        raise OverQuota(
            f"giving {asked} {what} to project {project.name}", expected=f"at most {quota} in all", found=f"{held} held"
        )


# -- what is written down ----------------------------------------------------------------------------------------------


def check_count(limit: Limit, count: int, doing: str) -> None:
    """Let pass what is within a limit. Raises TooLarge."""
    if count > limit.most:
        raise TooLarge(doing, expected=f"at most {limit.most} {limit.unit} ({limit.reason})", found=f"{count}")


def check_words(words: Mapping[str, str], what: str) -> dict[str, str]:
    """Return labels or the like: names to short texts. Raises WrongUse, TooLarge."""
    check_count(LABELS, len(words), f"writing down {what}s")
    for name, text in words.items():
        check_text(text, LABEL_CHARACTERS, f"{what} {check_name(name, what)}")
    return dict(words)


def check_text(text: str, limit: Limit, what: str) -> str:
    """Return a text of one line that says something. Raises WrongUse, TooLarge."""
    check_count(limit, len(text), f"writing down {what}")
    if not text.strip() or not text.isprintable():
        raise WrongUse(f"writing down {what}", expected="printable characters, on one line", found=text or "none")
    return text


def check_why(why: str) -> str:
    """Return a reason that was given. Raises WrongUse, TooLarge."""
    return check_text(why, WHY_CHARACTERS, "why")


def check_limit(limit: timedelta) -> timedelta:
    """Return how long an operation may take. Raises WrongUse."""
    if not timedelta(seconds=1) <= limit <= timedelta(seconds=OPERATION_SECONDS.most):
        raise WrongUse(
            "limiting an operation", expected=f"1 to {OPERATION_SECONDS.most} seconds", found=f"{limit.total_seconds()}"
        )
    return limit


def check_identity(identity: Identity) -> Identity:
    """Return a node's identity whose parts have the shape they should; whom they belong to is for the tenant to check.

    Raises WrongUse, TooLarge, MalformedCertificate.
    """
    check_count(
        ENDORSEMENTS,
        len(identity.endorsement_certificates) + len(identity.endorsement_keys),
        "writing down endorsement keys",
    )
    check_count(NODE_REFERENCES, len(identity.references), "writing down references")
    for kind, certificate in identity.endorsement_certificates.items():
        check_name(kind, "kind of endorsement key")
        parse_certificate(certificate.encode())
    for digest in identity.endorsement_keys:
        if not _KEY_DIGEST.fullmatch(digest):
            raise WrongUse("writing down an endorsement key", expected="sha256: and 64 hex digits", found=digest)
    for reference in identity.references:
        check_name(reference, "reference")
    return identity


# -- networks ----------------------------------------------------------------------------------------------------------


def may_use(network: Network, project: str | None) -> bool:
    """Whether a project's nodes may be on a network."""
    match network.sharing:
        case Public():
            return project is not None
        case SharedWith(projects):
            return project is not None and (project == network.owner or project in projects)
        case Private():
            return project is not None and project == network.owner


def may_know(caller: Caller, network: Network) -> bool:
    """Whether a network may be spoken of to a caller: one that a project of theirs may use."""
    return caller.office is not None or any(may_use(network, project) for project in caller.roles)


def check_admission(admission: Admission) -> None:
    """Let pass an admission that can be satisfied. Raises WrongUse, MalformedKey."""
    if isinstance(admission, OpenAdmission):
        return
    parse_key(admission.key)
    if not timedelta(seconds=1) <= admission.most_age <= timedelta(seconds=ADMISSION_AGE_SECONDS.most):
        raise WrongUse(
            "limiting a verdict's age",
            expected=f"1 to {ADMISSION_AGE_SECONDS.most} seconds",
            found=f"{admission.most_age.total_seconds()}",
        )


def check_publication(caller: Caller, before: Network | None, sharing: object, vlan: Vlan | None) -> None:
    """Let pass what a project may decide of its network: not to publish it, nor its VLAN. Raises NotAllowed."""
    published = isinstance(sharing, Public) and not (before and isinstance(before.sharing, Public))
    chosen = vlan is not None and not (before and before.vlan == vlan)
    if caller.office is not Office.PROVIDER and (published or chosen):
        raise NotAllowed(
            "making a network",
            expected="the provider, for a public network or a VLAN of one's choice",
            found=f"{caller.name}, who is not",
        )


def check_change(before: Network, after: Network, members: Collection[str | None]) -> None:
    """Let pass a change of a network that those on it stand.

    members  the project of each node that is on it, or not yet off it.

    Raises WrongUse, InUse.
    """
    doing = f"changing network {before.name}"
    if before.owner != after.owner:
        raise WrongUse(doing, expected=f"the owner it has, {before.owner or 'the provider'}", found=str(after.owner))
    if outside := sorted({str(project) for project in members if not may_use(after, project)}):
        raise InUse(doing, expected="no nodes of projects that lose it", found=f"nodes of {', '.join(outside)}")
    fixed = (before.vlan, before.members, before.admission) == (after.vlan, after.members, after.admission)
    if members and not fixed:
        raise InUse(
            doing, expected="no nodes on it while its VLAN, members or admission change", found=f"{len(members)}"
        )


def pick_vlan(pool: Collection[Vlan], taken: Collection[Vlan]) -> Vlan:
    """Return the lowest VLAN of the pool that is not taken. Raises NotEnough."""
    left = set(pool) - set(taken)
    if not left:
        raise NotEnough("finding a VLAN", expected=f"one of {len(pool)} that is not taken", found="none")
    return min(left)


# -- attachments -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Site:
    """What an attachment is judged by.

    attached  every row of the node, those that are being taken off too; `networks` has each one's network.
    switches  where members of the network sit now, those that are being taken off too.
    starting  whether an operation is under way that may start the node anew.
    """

    node: Node
    nic: str
    network: Network
    attached: Sequence[Attachment]
    networks: Mapping[str, Network]
    switches: Collection[str]
    starting: bool


@dataclass(frozen=True, slots=True)
class Place:
    """Where an attachment goes. `before`: the row that is there already, wanted or on its way out."""

    port: PortName
    before: Attachment | None


def find_nic(node: Node, name: str) -> Nic:
    """Return a node's NIC. Raises NotFound."""
    for nic in node.nics:
        if nic.name == name:
            return nic
    raise not_found(f"NIC {name} of node {node.name}")


def plan_attach(site: Site, *, tagged: bool) -> Place:
    """Return where the attachment goes, when everything but a verdict allows it. Raises NotFound, WrongState."""
    node, network = site.node, site.network
    doing = f"attaching {site.nic} of node {node.name} to network {network.name}"
    nic = find_nic(node, site.nic)
    if node.state is not NodeState.ALLOCATED:
        raise WrongState(doing, expected="a node that is allocated", found=node.state.value)
    if nic.port is None:
        raise WrongState(doing, expected="a NIC plugged into a port", found="none at the other end of its cable")
    if not isinstance(network.admission, OpenAdmission) and site.starting:
        raise WrongState(doing, expected="a node that runs what was weighed", found="one that is being started")
    here = [row for row in site.attached if row.nic == nic.name and row.wanted and row.network != network.name]
    isolated = [row.network for row in here if site.networks[row.network].members is Members.ISOLATED]
    if isolated or (here and network.members is Members.ISOLATED):
        others = ", ".join(row.network for row in here)
        raise WrongState(doing, expected="an isolated network to be a NIC's only one", found=f"it is on {others}")
    if network.members is Members.ISOLATED and not {nic.port.switch}.issuperset(site.switches):
        # Protected ports are kept apart within a switch, not across an uplink.
        elsewhere = ", ".join(sorted(site.switches))
        raise WrongState(doing, expected=f"its isolated members all on switch {nic.port.switch}", found=elsewhere)
    untagged = [row.network for row in here if not row.tagged]
    if untagged and not tagged:
        raise WrongState(doing, expected="one untagged network at most", found=f"untagged on {untagged[0]}")
    before = next((row for row in site.attached if (row.nic, row.network) == (nic.name, network.name)), None)
    if before is not None and before.wanted and before.tagged != tagged:
        raise WrongState(doing, expected="a NIC that is not on it otherwise", found="on it, " + _channel(before.tagged))
    return Place(nic.port, before)


def plan_detach(node: Node, nic: str, network: str, attached: Sequence[Attachment]) -> Attachment | None:
    """Return the row to take off; None: it is off, or on its way. Raises NotFound, WrongState."""
    find_nic(node, nic)
    row = next((row for row in attached if (row.nic, row.network) == (nic, network)), None)
    if row is None or not row.wanted:
        return None
    if node.state is not NodeState.ALLOCATED:
        # A release takes it off when the node is off and not before: its disk may be behind it.
        doing = f"detaching {nic} of node {node.name} from network {network}"
        raise WrongState(doing, expected="a node that is allocated", found=node.state.value)
    return row


def _channel(tagged: bool) -> str:  # noqa: FBT001 (a row's own field)
    return "tagged" if tagged else "untagged"


# -- what a BMC is asked -----------------------------------------------------------------------------------------------


def check_bmc(caller: Caller, node: Node, doing: str) -> None:
    """Let pass use of the node's BMC: of one's own, cut off for the provider alone. Raises WrongState."""
    if node.state is NodeState.ALLOCATED:
        return
    ours = (NodeState.QUARANTINED, NodeState.MAINTENANCE, NodeState.REJECTED)
    if caller.office is Office.PROVIDER and node.state in ours:
        return
    expected = "a node that is allocated, or for the provider one that is quarantined, in maintenance or rejected"
    raise WrongState(doing, expected=expected, found=node.state.value)


def check_start(node: Node, networks: Collection[Network], doing: str) -> None:
    """Let pass a start of a node that is on no network which demands a verdict. Raises WrongState."""
    if weighed := sorted(n.name for n in networks if not isinstance(n.admission, OpenAdmission)):
        # It would run there what nobody weighed.
        expected = f"node {node.name} on no network that demands a verdict: detach it first"
        raise WrongState(doing, expected=expected, found=", ".join(weighed))


def check_queue(node: Node, live: int, doing: str) -> None:
    """Let pass another operation of a node. Raises TooMany."""
    if live >= NODE_OPERATIONS.most:
        raise TooMany(doing, expected=f"at most {NODE_OPERATIONS.most} operations of {node.name}", found=f"{live}")


def check_holds(node: Node, count: int) -> None:
    """Let pass another hold on a node. Raises TooMany."""
    if count >= NODE_HOLDS.most:
        raise TooMany(f"holding node {node.name}", expected=f"at most {NODE_HOLDS.most} holds", found=f"{count}")


# -- leaving -----------------------------------------------------------------------------------------------------------


def plan_release(caller: Caller, node: Node, to: NodeState, waives: frozenset[ReleaseStep]) -> Release:
    """Return a node's way out: anew, or on from where it is. Raises NotAllowed, WrongUse, WrongState."""
    doing = f"releasing node {node.name}"
    provider = caller.office is Office.PROVIDER
    if to not in IDLE:
        expected = ", ".join(sorted(state.value for state in IDLE))
        raise WrongUse(doing, expected=f"to one of {expected}", found=to.value)
    if not provider and (waives or to is NodeState.MAINTENANCE):
        raise NotAllowed(doing, expected="the provider, to waive a step or for maintenance", found=caller.name)
    if waives and to is NodeState.FREE:
        raise WrongUse(doing, expected="to maintenance or rejected, with a step waived", found=to.value)
    if node.release is None:
        return Release(None, to, waives)
    if not provider:  # what the provider decided of it stays, whoever asks for it to go on
        return node.release
    # What was waived was not confirmed: without the waiver it begins again.
    return Release(node.release.confirmed if node.release.waives <= waives else None, to, waives)


# -- cables ------------------------------------------------------------------------------------------------------------


def check_cable(node: Node, name: str, before: Nic | None, after: Nic | None, attached: Sequence[Attachment]) -> None:
    """Let pass a change of a node's NIC `name`; None: not there before, not there after.

    Plugging in is for maintenance and rejected nodes, which are released before anyone gets them: their ports are then
    read. Raises WrongState, InUse.
    """
    doing = f"changing {name} of node {node.name}"
    plugging = after is not None and (
        before is None or before.mac != after.mac or after.port not in (None, before.port)
    )
    legal = IDLE - {NodeState.FREE} if plugging else IDLE
    if node.state not in legal:
        expected = " or ".join(sorted(state.value for state in legal))
        raise WrongState(doing, expected=f"a node that is {expected}", found=node.state.value)
    if rows := [row.network for row in attached if row.nic == name]:
        raise InUse(doing, expected="a NIC that is on no network", found=", ".join(rows))
