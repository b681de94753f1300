"""What may happen, table by table; each row is a guard."""

import ssl
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from steelyard.isolation import rules
from steelyard.isolation.life import NodeState
from steelyard.isolation.objects import (
    Attachment,
    Identity,
    Members,
    Network,
    PortName,
    Private,
    Project,
    Public,
    Release,
    ReleaseStep,
    SharedWith,
    Sharing,
    VerdictAdmission,
)
from steelyard.isolation.rules import Place, Site
from steelyard.model.errors import (
    AlreadyThere,
    Changed,
    InUse,
    MalformedCertificate,
    MalformedKey,
    NotAllowed,
    NotEnough,
    NotFound,
    OverQuota,
    SteelyardError,
    TooLarge,
    TooMany,
    WrongState,
    WrongUse,
)
from steelyard.model.network import MacAddress, Vlan
from steelyard.service.authority import Caller
from tests.unit.isolation.rig import AUDITOR, BLUE, PROVIDER, RED, STRANGER
from tests.unit.isolation.things import SIGNER_PEM, WEIGHED, a_network, a_nic, a_node, an_attachment
from tests.vectors_dir import OWN

MINUTE = timedelta(minutes=1)
P0 = PortName("s1", "p0")

# -- who, which version, how many --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caller", "project", "known"),
    [
        (PROVIDER, None, True),
        (PROVIDER, "red", True),
        (AUDITOR, "red", True),
        (RED, "red", True),
        (RED, "blue", False),
        (RED, None, False),
        (STRANGER, None, False),
        (STRANGER, "red", False),
    ],
)
def test_what_is_anothers_looks_as_if_it_were_not_there(caller: Caller, project: str | None, known: bool) -> None:  # noqa: FBT001 (a table's column)
    if known:
        rules.check_reach(caller, project, "node n1")
    else:
        with pytest.raises(NotFound):
            rules.check_reach(caller, project, "node n1")


@pytest.mark.parametrize(
    ("version", "expected", "refused"),
    [
        (None, None, None),
        (3, None, None),
        (None, 0, None),
        (3, 3, None),
        (3, 0, AlreadyThere),
        (3, 2, Changed),
        (3, 4, Changed),
        (None, 1, Changed),
    ],
)
def test_a_change_is_of_the_version_that_was_seen(
    version: int | None, expected: int | None, refused: type[SteelyardError] | None
) -> None:
    if refused is None:
        rules.check_version("node n1", version, expected)
    else:
        with pytest.raises(refused):
            rules.check_version("node n1", version, expected)


def test_a_quota_can_be_filled_and_not_exceeded() -> None:
    project = Project("red", 3, 3, 1)
    rules.check_quota(project, "nodes", 3, 1, 2)
    with pytest.raises(OverQuota):
        rules.check_quota(project, "nodes", 3, 1, 3)


# -- what is written down ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        ({"rack": "r 1"}, None),
        ({"rack": "Gehäuse"}, None),
        ({"Rack": "r1"}, WrongUse),
        ({'a"b': "r1"}, WrongUse),
        ({"a' or 1=1": "r1"}, WrongUse),
        ({"": "r1"}, WrongUse),
        ({"rack": ""}, WrongUse),
        ({"rack": " "}, WrongUse),
        ({"rack": "r\n1"}, WrongUse),
        ({"rack": "\x1b[2J"}, WrongUse),
        ({"rack": "r" * 257}, TooLarge),
        ({f"k{number}": "v" for number in range(65)}, TooLarge),
    ],
)
def test_labels_are_names_and_short_texts(words: dict[str, str], refused: type[SteelyardError] | None) -> None:
    if refused is None:
        assert rules.check_words(words, "label") == words
    else:
        with pytest.raises(refused):
            rules.check_words(words, "label")


def test_a_reason_says_something_on_one_line() -> None:
    assert rules.check_why("it failed its weighing") == "it failed its weighing"
    for why in ("", "\t", "two\nlines"):
        with pytest.raises(WrongUse):
            rules.check_why(why)
    with pytest.raises(TooLarge):
        rules.check_why("w" * 401)


@pytest.mark.parametrize("seconds", [-1, 0, 0.9, 86401])
def test_an_operation_lasts_between_a_second_and_a_day(seconds: float) -> None:
    rules.check_limit(timedelta(seconds=1))
    rules.check_limit(timedelta(days=1))
    with pytest.raises(WrongUse):
        rules.check_limit(timedelta(seconds=seconds))


CERTIFICATE = ssl.DER_cert_to_PEM_cert((OWN / "swtpm/certificates/ek-rsa2048.der").read_bytes())


@pytest.mark.parametrize(
    ("identity", "refused"),
    [
        (Identity({"rsa2048": CERTIFICATE}, ("sha256:" + "0" * 64,), ("ovmf",)), None),
        (Identity({"RSA 2048": CERTIFICATE}, (), ()), WrongUse),
        (Identity({}, ("sha256:" + "0" * 63,), ()), WrongUse),
        (Identity({}, ("sha1:" + "0" * 40,), ()), WrongUse),
        (Identity({}, ("sha256:" + "G" * 64,), ()), WrongUse),
        (Identity({}, (), ("Over There",)), WrongUse),
        (Identity({"rsa2048": "PEM"}, (), ()), MalformedCertificate),
        (Identity({"rsa2048": "-----BEGIN CERTIFICATE-----\n" + "A" * 20_000}, (), ()), TooLarge),
        (Identity({}, ("sha256:" + "0" * 64,) * 9, ()), TooLarge),
        (Identity({}, (), ("ovmf",) * 65), TooLarge),
    ],
)
def test_an_identity_has_the_shape_of_one(identity: Identity, refused: type[SteelyardError] | None) -> None:
    if refused is None:
        assert rules.check_identity(identity) == identity
    else:
        with pytest.raises(refused):
            rules.check_identity(identity)


# -- networks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sharing", "owner", "project", "allowed"),
    [
        (Private(), "red", "red", True),
        (Private(), "red", "blue", False),
        (Private(), None, "red", False),
        (Private(), None, None, False),
        (SharedWith(frozenset({"blue"})), "red", "red", True),
        (SharedWith(frozenset({"blue"})), "red", "blue", True),
        (SharedWith(frozenset({"blue"})), "red", "green", False),
        (SharedWith(frozenset({"blue"})), None, None, False),
        (Public(), "red", "green", True),
        (Public(), None, "green", True),
        (Public(), None, None, False),
    ],
)
def test_who_may_use_a_network(sharing: Sharing, owner: str | None, project: str | None, allowed: bool) -> None:  # noqa: FBT001 (a table's column)
    assert rules.may_use(a_network(owner=owner, sharing=sharing), project) is allowed


@pytest.mark.parametrize(
    ("caller", "before", "sharing", "vlan", "allowed"),
    [
        (RED, None, Private(), None, True),
        (RED, None, SharedWith(frozenset({"blue"})), None, True),
        (RED, None, Public(), None, False),
        (RED, None, Private(), Vlan(100), False),
        (RED, a_network(), Private(), Vlan(100), True),
        (RED, a_network(), Private(), Vlan(101), False),
        (RED, a_network(), Public(), None, False),
        (RED, a_network(sharing=Public()), Public(), None, True),
        (RED, a_network(sharing=Public()), Private(), None, True),
        (PROVIDER, None, Public(), Vlan(2), True),
        (PROVIDER, a_network(), Public(), Vlan(2), True),
    ],
)
def test_only_the_provider_publishes_a_network_or_chooses_its_vlan(
    caller: Caller,
    before: Network | None,
    sharing: Sharing,
    vlan: Vlan | None,
    allowed: bool,  # noqa: FBT001 (a table's column)
) -> None:
    if allowed:
        rules.check_publication(caller, before, sharing, vlan)
    else:
        with pytest.raises(NotAllowed):
            rules.check_publication(caller, before, sharing, vlan)


SHARED = a_network(sharing=SharedWith(frozenset({"blue"})))


@pytest.mark.parametrize(
    ("after", "members", "refused"),
    [
        (replace(SHARED, owner="blue"), (), WrongUse),
        (replace(SHARED, owner=None), (), WrongUse),
        (replace(SHARED, sharing=Private()), (), None),
        (replace(SHARED, sharing=Private()), ("red",), None),
        (replace(SHARED, sharing=Private()), ("red", "blue"), InUse),
        (replace(SHARED, sharing=SharedWith(frozenset({"green"}))), ("blue",), InUse),
        (replace(SHARED, sharing=SharedWith(frozenset({"blue", "green"}))), ("blue",), None),
        (replace(SHARED, sharing=Public()), ("blue",), None),
        (replace(SHARED, sharing=Private()), (None,), InUse),
        (replace(SHARED, vlan=Vlan(101)), (), None),
        (replace(SHARED, vlan=Vlan(101)), ("red",), InUse),
        (replace(SHARED, members=Members.ISOLATED), (), None),
        (replace(SHARED, members=Members.ISOLATED), ("red",), InUse),
        (replace(SHARED, admission=WEIGHED), (), None),
        (replace(SHARED, admission=WEIGHED), ("red",), InUse),
    ],
)
def test_a_network_does_not_change_under_those_on_it(
    after: Network, members: tuple[str | None, ...], refused: type[SteelyardError] | None
) -> None:
    if refused is None:
        rules.check_change(SHARED, after, members)
    else:
        with pytest.raises(refused):
            rules.check_change(SHARED, after, members)


def test_the_lowest_vlan_that_is_left_is_taken() -> None:
    pool = [Vlan(12), Vlan(10), Vlan(11)]
    assert rules.pick_vlan(pool, []) == Vlan(10)
    assert rules.pick_vlan(pool, [Vlan(10), Vlan(9)]) == Vlan(11)
    with pytest.raises(NotEnough):
        rules.pick_vlan(pool, pool)


@pytest.mark.parametrize(
    ("admission", "refused"),
    [
        (WEIGHED, None),
        (VerdictAdmission(SIGNER_PEM, timedelta(seconds=1)), None),
        (VerdictAdmission("", MINUTE), MalformedKey),
        (VerdictAdmission(SIGNER_PEM, timedelta(0)), WrongUse),
        (VerdictAdmission(SIGNER_PEM, timedelta(days=2)), WrongUse),
    ],
)
def test_an_admission_can_be_satisfied(admission: VerdictAdmission, refused: type[SteelyardError] | None) -> None:
    if refused is None:
        rules.check_admission(admission)
    else:
        with pytest.raises(refused):
            rules.check_admission(admission)


def test_shared_with_nobody_cannot_be_said() -> None:
    with pytest.raises(WrongUse):
        SharedWith(frozenset())


# -- attachments -------------------------------------------------------------------------------------------------------

NET, OTHER = a_network(), a_network("other", 200)
AIRLOCK = a_network("airlock", 300, members=Members.ISOLATED)
ENCLAVE = a_network("enclave", 400, admission=WEIGHED)
NETWORKS = {network.name: network for network in (NET, OTHER, AIRLOCK, ENCLAVE)}


def site(network: Network, *attached: Attachment, **changes: Any) -> Site:
    whole: dict[str, Any] = {"node": a_node(), "nic": "nic0", "switches": frozenset(), "starting": False} | changes
    return Site(network=network, attached=attached, networks=NETWORKS, **whole)


@pytest.mark.parametrize(
    ("where", "tagged", "before"),
    [
        (site(NET), False, None),
        (site(NET), True, None),
        (site(NET, an_attachment("other", tagged=True)), False, None),
        (site(NET, an_attachment("other")), True, None),
        (site(NET, an_attachment("other", tagged=True)), True, None),
        (site(NET, an_attachment("other", "nic1")), False, None),
        (site(NET, an_attachment("other", wanted=False)), False, None),
        (site(NET, an_attachment("airlock", wanted=False)), False, None),
        (site(NET, an_attachment("airlock", "nic1")), False, None),
        (site(AIRLOCK, an_attachment("other", wanted=False)), False, None),
        (site(AIRLOCK, switches={"s1"}), False, None),
        (site(AIRLOCK), True, None),
        (site(NET, switches={"s1", "s2"}), False, None),
        (site(NET, an_attachment()), False, an_attachment()),
        (site(NET, an_attachment(wanted=False)), True, an_attachment(wanted=False)),
        (site(ENCLAVE), False, None),
        (site(NET, starting=True), False, None),
    ],
)
def test_what_may_be_attached(where: Site, tagged: bool, before: Attachment | None) -> None:  # noqa: FBT001 (a table's column)
    assert rules.plan_attach(where, tagged=tagged) == Place(P0, before)


@pytest.mark.parametrize(
    ("where", "tagged", "words"),
    [
        (site(NET, an_attachment("other")), False, "one untagged network"),
        (site(NET, an_attachment("airlock")), True, "only one"),
        (site(NET, an_attachment("airlock", tagged=True)), False, "only one"),
        (site(AIRLOCK, an_attachment("other", tagged=True)), False, "only one"),
        (site(AIRLOCK, switches={"s2"}), False, "all on switch s1"),
        (site(AIRLOCK, switches={"s1", "s2"}), False, "all on switch s1"),
        (site(NET, an_attachment()), True, "on it otherwise"),
        (site(NET, an_attachment(tagged=True)), False, "on it otherwise"),
        (site(NET, node=a_node(nics=(a_nic(port=None),))), False, "plugged into a port"),
        (site(ENCLAVE, starting=True), False, "being started"),
    ],
)
def test_what_may_not_be_attached(where: Site, tagged: bool, words: str) -> None:  # noqa: FBT001 (a table's column)
    with pytest.raises(WrongState, match=words):
        rules.plan_attach(where, tagged=tagged)


@pytest.mark.parametrize("state", [state for state in NodeState if state is not NodeState.ALLOCATED])
def test_only_an_allocated_node_is_attached(state: NodeState) -> None:
    with pytest.raises(WrongState, match="allocated"):
        rules.plan_attach(site(NET, node=a_node(state)), tagged=False)


def test_a_nic_that_is_not_there_is_not_attached() -> None:
    with pytest.raises(NotFound):
        rules.plan_attach(site(NET, nic="nic7"), tagged=False)


def test_what_is_on_is_taken_off_and_nothing_else() -> None:
    on, going = an_attachment(), an_attachment(wanted=False)
    assert rules.plan_detach(a_node(), "nic0", "net", [on]) == on
    assert rules.plan_detach(a_node(), "nic0", "net", [going]) is None
    assert rules.plan_detach(a_node(), "nic0", "other", [on]) is None
    with pytest.raises(NotFound):
        rules.plan_detach(a_node(), "nic7", "net", [on])


def test_the_disk_of_a_node_on_its_way_out_is_not_cut_off_before_it_is_off() -> None:
    with pytest.raises(WrongState):
        rules.plan_detach(a_node(NodeState.RELEASING), "nic0", "net", [an_attachment()])


# -- power and console -------------------------------------------------------------------------------------------------

OF_THE_PROVIDER = {NodeState.ALLOCATED, NodeState.QUARANTINED, NodeState.MAINTENANCE, NodeState.REJECTED}


@pytest.mark.parametrize("state", list(NodeState))
@pytest.mark.parametrize(("caller", "states"), [(RED, {NodeState.ALLOCATED}), (PROVIDER, OF_THE_PROVIDER)])
def test_whose_bmc_is_used_in_which_state(caller: Caller, states: set[NodeState], state: NodeState) -> None:
    if state in states:
        rules.check_bmc(caller, a_node(state), "switching it on")
    else:
        with pytest.raises(WrongState):
            rules.check_bmc(caller, a_node(state), "switching it on")


def test_nothing_is_started_where_a_verdict_is_demanded() -> None:
    rules.check_start(a_node(), [NET, AIRLOCK], "switching it on")
    with pytest.raises(WrongState, match="enclave"):
        rules.check_start(a_node(), [NET, ENCLAVE], "switching it on")


def test_a_node_has_a_queue_of_limited_length() -> None:
    rules.check_queue(a_node(), 63, "switching it on")
    with pytest.raises(TooMany):
        rules.check_queue(a_node(), 64, "switching it on")
    rules.check_holds(a_node(), 63)
    with pytest.raises(TooMany):
        rules.check_holds(a_node(), 64)


# -- release -----------------------------------------------------------------------------------------------------------

FREE, MAINTENANCE, REJECTED = NodeState.FREE, NodeState.MAINTENANCE, NodeState.REJECTED
PORTS = frozenset({ReleaseStep.PORTS})


@pytest.mark.parametrize(
    ("caller", "to", "waives", "refused"),
    [
        (RED, FREE, frozenset(), None),
        (RED, REJECTED, frozenset(), None),
        (RED, MAINTENANCE, frozenset(), NotAllowed),
        (RED, REJECTED, PORTS, NotAllowed),
        (PROVIDER, FREE, frozenset(), None),
        (PROVIDER, MAINTENANCE, frozenset(), None),
        (PROVIDER, REJECTED, PORTS, None),
        (PROVIDER, MAINTENANCE, frozenset(ReleaseStep), None),
        (PROVIDER, FREE, PORTS, WrongUse),
        (PROVIDER, NodeState.ALLOCATED, frozenset(), WrongUse),
        (PROVIDER, NodeState.QUARANTINED, frozenset(), WrongUse),
        (PROVIDER, NodeState.RELEASING, frozenset(), WrongUse),
    ],
)
def test_where_a_release_leads_and_what_it_may_skip(
    caller: Caller, to: NodeState, waives: frozenset[ReleaseStep], refused: type[SteelyardError] | None
) -> None:
    if refused is None:
        assert rules.plan_release(caller, a_node(), to, waives) == Release(None, to, waives)
    else:
        with pytest.raises(refused):
            rules.plan_release(caller, a_node(), to, waives)


def going(confirmed: ReleaseStep | None, to: NodeState, waives: frozenset[ReleaseStep] = frozenset()) -> Any:
    return a_node(NodeState.RELEASING, release=Release(confirmed, to, waives))


def test_a_release_goes_on_from_what_was_confirmed() -> None:
    node = going(ReleaseStep.POWER, FREE)
    for caller in (RED, PROVIDER):
        assert rules.plan_release(caller, node, FREE, frozenset()) == node.release


def test_a_tenant_does_not_undo_what_the_provider_decided_of_a_release() -> None:
    node = going(ReleaseStep.PORTS, REJECTED, PORTS)
    assert rules.plan_release(RED, node, FREE, frozenset()) == node.release


def test_what_was_waived_counts_as_unconfirmed_once_the_waiver_is_gone() -> None:
    node = going(ReleaseStep.PORTS, REJECTED, PORTS)
    assert rules.plan_release(PROVIDER, node, FREE, frozenset()) == Release(None, FREE, frozenset())
    assert rules.plan_release(PROVIDER, node, REJECTED, PORTS) == node.release


# -- cables ------------------------------------------------------------------------------------------------------------

NIC, LOOSE = a_nic(), a_nic(port=None)
NEW_CARD = replace(NIC, mac=MacAddress("02:00:00:00:00:02"))
MOVED = a_nic(port=PortName("s1", "p1"))


@pytest.mark.parametrize("state", list(NodeState))
@pytest.mark.parametrize(
    ("before", "after", "plugging"),
    [
        (None, NIC, True),
        (None, LOOSE, True),
        (LOOSE, NIC, True),
        (NIC, MOVED, True),
        (NIC, NEW_CARD, True),
        (NIC, LOOSE, False),
        (NIC, None, False),
    ],
)
def test_in_which_state_of_its_node_a_cable_is_changed(
    before: Any,
    after: Any,
    plugging: bool,  # noqa: FBT001 (a table's column)
    state: NodeState,
) -> None:
    legal = {MAINTENANCE, REJECTED} | (set() if plugging else {FREE})
    if state in legal:
        rules.check_cable(a_node(state), "nic0", before, after, [])
        with pytest.raises(InUse):
            rules.check_cable(a_node(state), "nic0", before, after, [an_attachment(wanted=False)])
        rules.check_cable(a_node(state), "nic0", before, after, [an_attachment(nic="nic1")])
    else:
        with pytest.raises(WrongState):
            rules.check_cable(a_node(state), "nic0", before, after, [])


def test_who_may_know_of_a_network() -> None:
    shared = a_network(owner="green", sharing=SharedWith(frozenset({"blue"})))
    assert [rules.may_know(caller, shared) for caller in (PROVIDER, AUDITOR, RED, BLUE)] == [True, True, False, True]
