"""What only the Open vSwitch driver has to see to. ovs-vsctl and the forwarder itself are the referees."""

import ipaddress
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from steelyard.isolation.ports import Access, Missing, Other, PortReading, Switch
from steelyard.isolation.switches.openvswitch import OpenVSwitch, open_vswitch
from steelyard.lab.build import issue_bmc_certificates
from steelyard.model.errors import DeviceGarbled, DeviceRefused, OutcomeUnknown
from steelyard.model.limits import MIB, OVSDB_MESSAGE_BYTES
from steelyard.model.network import SHUT, PortVlans, Vlan
from steelyard.model.secret import Secret
from tests.conformance.switches.bench import PORTS
from tests.conformance.switches.openvswitch_bench import BRIDGE, OpenVSwitchBench, served

A, B = Vlan(100), Vlan(200)
ON_A, ON_B = PortVlans(A), PortVlans(B)
MULTICAST = "udp,dl_dst=01:00:5e:01:01:01,nw_dst=239.1.1.1,nw_src=10.0.0.1,udp_dst=77"


@pytest.fixture
def switch(openvswitch: OpenVSwitchBench) -> Iterator[Switch]:
    with openvswitch.connect() as switch:
        yield switch


def _reading(switch: Switch, port: str) -> PortReading:
    return switch.read([port])[port]


# -- what the columns say ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vlans", "columns"),
    [
        (SHUT, "trunk [] [4095] true"),
        (ON_A, "access 100 [] false"),
        (PortVlans(A, isolated=True), "access 100 [] true"),
        (PortVlans(tagged=frozenset({A, B})), "trunk [] [100, 200] false"),
        (PortVlans(A, frozenset({B})), "native-untagged 100 [200] false"),
    ],
)
def test_what_was_written_is_what_an_operator_sees(
    openvswitch: OpenVSwitchBench, switch: Switch, vlans: PortVlans, columns: str
) -> None:
    switch.write({"p1": vlans}, fence=1)
    seen = openvswitch.vsctl("get", "port", "p1", "vlan_mode", "tag", "trunks", "protected")
    assert seen.split("\n") == [*_split(columns), ""]


def _split(columns: str) -> list[str]:
    mode, tag, rest = columns.split(" ", 2)
    trunks, _, protected = rest.rpartition(" ")
    return [mode, tag, trunks, protected]


@pytest.mark.parametrize(
    "columns",
    [
        "vlan_mode=[] tag=[] trunks=[] protected=false",
        "vlan_mode=[] tag=100 trunks=[] protected=false",
        "vlan_mode=trunk trunks=[] protected=false",
        "vlan_mode=trunk trunks=[] protected=true",
        "vlan_mode=trunk trunks=[4095] protected=false",
        "vlan_mode=trunk trunks=[100,4095] protected=false",
        "vlan_mode=trunk trunks=[0,100] protected=false",
        "vlan_mode=trunk trunks=[1,100] protected=false",
        "vlan_mode=trunk tag=100 trunks=[200] protected=false",
        "vlan_mode=access tag=1 trunks=[] protected=false",
        "vlan_mode=access tag=[] trunks=[] protected=false",
        "vlan_mode=access tag=100 trunks=[200] protected=false",
        "vlan_mode=native-untagged tag=100 trunks=[] protected=false",
        "vlan_mode=native-untagged tag=100 trunks=[100] protected=false",
        "vlan_mode=native-tagged tag=100 trunks=[200] protected=false",
        "vlan_mode=dot1q-tunnel tag=100 trunks=[] protected=false",
        "vlan_mode=access tag=100 trunks=[] protected=false other_config:priority-tags=always",
        "other_config:mcast-snooping-flood=true",
        "other_config:mcast-snooping-flood-reports=true",
    ],
)
def test_what_a_write_would_not_have_made_is_other_until_written(
    openvswitch: OpenVSwitchBench, switch: Switch, columns: str
) -> None:
    openvswitch.vsctl("set", "port", "p1", *columns.split())
    assert isinstance(_reading(switch, "p1"), Other)
    switch.write({"p1": ON_A}, fence=1)
    assert _reading(switch, "p1") == ON_A
    assert openvswitch.vsctl("get", "port", "p1", "other_config") == "{}\n"


def test_settings_that_change_nothing_for_vlans_are_left_alone(openvswitch: OpenVSwitchBench, switch: Switch) -> None:
    openvswitch.vsctl("set", "port", "p1", "other_config:lacp-time=fast", "external_ids:rack=7")
    openvswitch.vsctl("set", "bridge", BRIDGE, "external_ids:site=north", "other_config:mac-aging-time=60")
    switch.write({"p1": ON_A}, fence=12)
    assert _reading(switch, "p1") == ON_A
    assert openvswitch.vsctl("get", "port", "p1", "other_config", "external_ids") == '{lacp-time=fast}\n{rack="7"}\n'
    assert openvswitch.vsctl("get", "bridge", BRIDGE, "external_ids") == '{site=north, steelyard-fence="12"}\n'


# -- frames that come in by a side door --------------------------------------------------------------------------------


@pytest.mark.parametrize("vlans", [SHUT, ON_B])
def test_multicast_of_other_vlans_does_not_come_by_snooping(
    openvswitch: OpenVSwitchBench, switch: Switch, vlans: PortVlans
) -> None:
    openvswitch.vsctl(
        *("set", "bridge", BRIDGE, "mcast_snooping_enable=true"),
        "other_config:mcast-snooping-disable-flood-unregistered=true",
    )
    switch.write({"p1": ON_A, "p2": vlans}, fence=1)
    openvswitch.vsctl("set", "port", "p2", "other_config:mcast-snooping-flood=true")
    assert openvswitch.trace("p1", MULTICAST) == ["p2"]
    assert isinstance(_reading(switch, "p2"), Other)
    switch.write({"p2": vlans}, fence=1)
    assert openvswitch.trace("p1", MULTICAST) == []


@pytest.mark.parametrize("vlans", [SHUT, ON_B, PortVlans(tagged=frozenset({B}))])
@pytest.mark.parametrize("to", ["port", "vlan"])
def test_copies_of_other_frames_do_not_come_by_a_mirror(
    openvswitch: OpenVSwitchBench, switch: Switch, vlans: PortVlans, to: str
) -> None:
    switch.write({"p1": ON_A, "p2": vlans}, fence=1)
    output = ("--id=@p", "get", "port", "p2", "--") if to == "port" else ()
    where = "output_port=@p" if to == "port" else f"output_vlan={200 if vlans.vlans else 4095}"
    openvswitch.vsctl(
        *("--", *output, "--id=@m", "create", "mirror", "name=m", "select_all=true", where),
        *("--", "set", "bridge", BRIDGE, "mirrors=@m"),
    )
    assert openvswitch.reaches("p1", "p2")
    assert isinstance(_reading(switch, "p2"), Other)
    switch.write({"p2": vlans}, fence=1)
    assert not openvswitch.reaches("p1", "p2")
    assert _reading(switch, "p2") == vlans


def test_a_mirror_to_somewhere_else_is_left_alone(openvswitch: OpenVSwitchBench, switch: Switch) -> None:
    openvswitch.vsctl(
        *("--", "--id=@p", "get", "port", "p4"),
        *("--", "--id=@m", "create", "mirror", "name=m", "select_all=true", "output_port=@p"),
        *("--", "set", "bridge", BRIDGE, "mirrors=@m"),
    )
    switch.write({"p1": ON_A, "p2": ON_A}, fence=1)
    assert switch.read(["p1", "p2"]) == {"p1": ON_A, "p2": ON_A}
    assert openvswitch.reaches("p1", "p4")


@pytest.mark.parametrize(
    "command",
    [
        ("--no-wait", "set-controller", BRIDGE, "unix:/nonexistent"),
        ("set", "bridge", BRIDGE, "fail_mode=secure"),
    ],
    ids=["controller", "secure"],
)
def test_a_bridge_that_does_not_go_by_its_ports_vlans_is_refused(
    openvswitch: OpenVSwitchBench, switch: Switch, command: tuple[str, ...]
) -> None:
    openvswitch.vsctl(*command)
    with pytest.raises(DeviceRefused, match="OpenFlow"):
        switch.read(PORTS)
    with pytest.raises(DeviceRefused, match="OpenFlow"):
        switch.write({"p1": ON_A}, fence=1)


def test_ports_of_another_bridge_are_missing(openvswitch: OpenVSwitchBench, switch: Switch) -> None:
    openvswitch.vsctl(
        *("add-br", "other", "--", "set", "bridge", "other", "datapath_type=dummy"),
        *("--", "add-port", "other", "q1", "--", "set", "interface", "q1", "type=dummy"),
    )
    try:
        assert _reading(switch, "q1") == Missing()
        with pytest.raises(DeviceRefused, match="q1"):
            switch.write({"q1": ON_A}, fence=1)
    finally:
        openvswitch.vsctl("del-br", "other")


def test_a_bridge_that_is_not_there_has_no_ports(openvswitch: OpenVSwitchBench) -> None:
    switch = open_vswitch(Access({"endpoint": openvswitch.endpoint, "bridge": "none", "settle_ms": "1"}, {}))
    assert switch.read(["p1"]) == {"p1": Missing()}
    with pytest.raises(DeviceRefused, match="bridge"):
        switch.write({"p1": ON_A}, fence=1)
    switch.close()


@pytest.mark.parametrize("fence", ["", "-1", "1e3", "seven", "9" * 30])
def test_a_fence_that_is_no_number_lets_nobody_write(openvswitch: OpenVSwitchBench, switch: Switch, fence: str) -> None:
    openvswitch.vsctl("set", "bridge", BRIDGE, f'external_ids:steelyard-fence="{fence}"')
    with pytest.raises(DeviceGarbled, match="fence"):
        switch.write({"p1": ON_A}, fence=1000)
    assert _reading(switch, "p1") == SHUT


@contextmanager
def _meanwhile(openvswitch: OpenVSwitchBench, act: Callable[[], object]) -> Iterator[OpenVSwitch]:
    """Give a connection on which `act` is done once, when a write has looked and not changed anything yet."""
    acts = [act]

    def is_change(request: bytes) -> bool:
        if b'"next_cfg","+="' in request and acts:
            acts.pop()()
        return False

    with openvswitch.between(is_change, pass_on=True) as endpoint:
        switch = openvswitch.reach(endpoint)
        yield switch
        switch.close()
    assert not acts


def test_a_writer_that_is_overtaken_between_its_look_and_its_change_changes_nothing(
    openvswitch: OpenVSwitchBench,
) -> None:
    def overtake() -> None:
        with openvswitch.connect() as other:
            other.write({"p1": ON_B}, fence=8)

    with _meanwhile(openvswitch, overtake) as switch:
        with pytest.raises(DeviceRefused, match="fence"):
            switch.write({"p1": ON_A, "p2": ON_A}, fence=7)
        assert switch.read(["p1", "p2"]) == {"p1": ON_B, "p2": SHUT}


def test_a_port_that_leaves_between_the_look_and_the_change_is_refused_and_the_others_stay(
    openvswitch: OpenVSwitchBench,
) -> None:
    with _meanwhile(openvswitch, lambda: openvswitch.remove("p2")) as switch:
        with pytest.raises(DeviceRefused, match="p2"):
            switch.write({"p1": ON_A, "p2": ON_A}, fence=1)
        assert switch.read(["p1", "p2"]) == {"p1": SHUT, "p2": Missing()}


def test_settings_of_the_bridge_that_came_between_the_look_and_the_change_are_kept(
    openvswitch: OpenVSwitchBench,
) -> None:
    def label() -> None:
        openvswitch.vsctl("set", "bridge", BRIDGE, "external_ids:site=north")

    with _meanwhile(openvswitch, label) as switch:
        switch.write({"p1": ON_A}, fence=1)
        assert _reading(switch, "p1") == ON_A
    assert "site=north" in openvswitch.vsctl("get", "bridge", BRIDGE, "external_ids")


# -- time --------------------------------------------------------------------------------------------------------------


def test_round_trips_do_not_grow_with_the_ports(openvswitch: OpenVSwitchBench) -> None:
    requests: list[bytes] = []

    def count(request: bytes) -> bool:
        requests.append(request)
        return False

    def round_trips(switch: Switch, wanted: Mapping[str, PortVlans]) -> tuple[int, int]:
        requests.clear()
        switch.read(wanted)
        read = len(requests)
        switch.write(wanted, fence=1)
        return read, len(requests) - read

    with openvswitch.between(count, pass_on=True) as endpoint:
        switch = openvswitch.reach(endpoint)
        switch.read([])
        # To look, to change, to see it applied.
        assert round_trips(switch, {"p1": ON_A}) == (1, 3)
        assert round_trips(switch, dict.fromkeys(PORTS, ON_B)) == (1, 3)
        switch.close()


@pytest.fixture
def slow(openvswitch: OpenVSwitchBench) -> Iterator[OpenVSwitch]:
    """A switch whose flows take long to settle."""
    switch = open_vswitch(Access({"endpoint": openvswitch.endpoint, "bridge": BRIDGE, "settle_ms": "300"}, {}))
    yield switch
    switch.close()


def _settles(call: Callable[[], object]) -> bool:
    begin = time.monotonic()
    call()
    return time.monotonic() - begin >= 0.3


def test_what_the_one_before_wrote_settles_before_it_is_told(slow: Switch) -> None:
    assert _settles(lambda: slow.read(PORTS))
    assert not _settles(lambda: slow.read(PORTS))


def test_what_is_taken_from_a_port_settles_and_what_is_given_does_not_wait(slow: Switch) -> None:
    slow.read(PORTS)
    assert not _settles(lambda: slow.write({"p1": ON_A, "p2": ON_A}, fence=1))
    assert _settles(lambda: slow.write({"p1": ON_B}, fence=1))
    assert not _settles(lambda: slow.write({"p1": ON_B, "p2": ON_A}, fence=1))
    assert _settles(lambda: slow.write({"p1": SHUT, "p3": ON_A}, fence=1))


def test_a_change_whose_answer_was_lost_settles_before_it_is_told(openvswitch: OpenVSwitchBench) -> None:
    with openvswitch.between(lambda request: b'"next_cfg","+="' in request, pass_on=True) as endpoint:
        switch = open_vswitch(Access({"endpoint": endpoint, "bridge": BRIDGE, "settle_ms": "300"}, {}))
        switch.read(PORTS)
        openvswitch.open("p1")
        with pytest.raises(OutcomeUnknown):
            switch.write({"p1": SHUT}, fence=1)
        assert _settles(lambda: switch.read(["p1"]))
        assert not _settles(lambda: switch.read(["p1"]))
        switch.close()


# -- TLS ---------------------------------------------------------------------------------------------------------------

US, SWITCH = ipaddress.IPv4Address("127.0.0.9"), ipaddress.IPv4Address("127.0.0.1")


class _Tls:
    """A switch that speaks TLS with who shows a certificate of its authority."""

    def __init__(self, bench: OpenVSwitchBench, folder: Path) -> None:
        self.authority, pairs = issue_bmc_certificates({"switch": SWITCH, "us": US})
        self.ours = pairs["us"]
        (folder / "pair.pem").write_text(pairs["switch"])
        (folder / "ca.pem").write_text(self.authority)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        bench.listen(f"pssl:{self.port}:127.0.0.1", socket.AF_INET, ("127.0.0.1", self.port))

    def connect(self, **changes: str) -> OpenVSwitch:
        key, _, certificate = self.ours.partition("-----BEGIN CERTIFICATE-----")
        address = {
            "endpoint": f"ssl:127.0.0.1:{self.port}",
            "bridge": BRIDGE,
            "settle_ms": "1",
            "ca": self.authority,
            "certificate": "-----BEGIN CERTIFICATE-----" + certificate,
            "key": key,
        } | changes
        return open_vswitch(Access(address, {"key": Secret(address.pop("key").encode())}))


@pytest.fixture(scope="module")
def tls() -> Iterator[_Tls]:
    with TemporaryDirectory(prefix="ovs-") as there, TemporaryDirectory(prefix="tls-") as files:
        bench = OpenVSwitchBench(Path(there))
        bench.start(f"--private-key={files}/pair.pem", f"--certificate={files}/pair.pem", f"--ca-cert={files}/ca.pem")
        yield _Tls(bench, Path(files))
        bench.stop()


def test_over_tls_what_was_written_is_read(tls: _Tls) -> None:
    switch = tls.connect()
    switch.write({"p1": ON_A}, fence=1)
    assert _reading(switch, "p1") == ON_A
    switch.close()


def test_a_switch_with_a_certificate_of_another_authority_is_refused(tls: _Tls) -> None:
    other, _ = issue_bmc_certificates({})
    with pytest.raises(DeviceRefused, match="TLS"):
        tls.connect(ca=other).read(["p1"])


def test_a_switch_with_a_certificate_for_another_name_is_refused(tls: _Tls) -> None:
    for name in ("switch.example", "127.0.0.2"):
        with pytest.raises(DeviceRefused, match="TLS"):
            tls.connect(name=name).read(["p1"])


def test_a_switch_that_does_not_take_our_certificate_has_refused(tls: _Tls) -> None:
    _, pairs = issue_bmc_certificates({"us": US})
    key, _, certificate = pairs["us"].partition("-----BEGIN CERTIFICATE-----")
    with pytest.raises(DeviceRefused):
        tls.connect(key=key, certificate="-----BEGIN CERTIFICATE-----" + certificate).read(["p1"])


# -- hostile answers ---------------------------------------------------------------------------------------------------


@contextmanager
def _answering(*answers: bytes) -> Iterator[OpenVSwitch]:
    """Give a connection to a server that takes the monitor, and gives these for the transactions that follow."""

    def behave(connection: socket.socket) -> None:
        for answer in (b'{"id":1,"result":{},"error":null}', *answers):
            connection.recv(65536)
            connection.sendall(answer)
        connection.recv(1)

    with served(behave) as endpoint:
        switch = open_vswitch(Access({"endpoint": endpoint, "bridge": BRIDGE, "settle_ms": "1"}, {}), call_seconds=30)
        yield switch
        switch.close()


SWITCHES = b'{"rows":[{"next_cfg":5,"cur_cfg":5}]}'
BRIDGES = (
    b'{"rows":[{"_uuid":["uuid","b"],"name":"rack","external_ids":["map",[]],"ports":["uuid","p"],'
    b'"mirrors":["set",[]],"controller":["set",[]],"fail_mode":"standalone"}]}'
)
PORT_ROWS = (
    b'{"rows":[{"_uuid":["uuid","p"],"name":"p1","vlan_mode":"access","tag":100,"trunks":["set",[]],'
    b'"protected":false,"other_config":["map",[]]}]}'
)
NO_ROWS = b'{"rows":[]}'


def _answer(*results: bytes) -> bytes:
    return b'{"id":2,"error":null,"result":[' + b",".join(results) + b"]}"


GOOD = _answer(SWITCHES, BRIDGES, PORT_ROWS, NO_ROWS)


def test_an_answer_as_it_should_be_is_read() -> None:
    with _answering(GOOD) as switch:
        assert _reading(switch, "p1") == ON_A


HOSTILE = {
    "not UTF-8": GOOD.replace(b"p1", b"\xff\xfe"),
    "a field twice": GOOD.replace(b'"tag":100', b'"tag":100,"tag":200'),
    "not a number": GOOD.replace(b'"next_cfg":5', b'"next_cfg":5,"more":NaN'),
    "a number of many digits": GOOD.replace(b"100", b"1" * 5000),
    "a fraction": GOOD.replace(b"100", b"100.0"),
    "true for a number": GOOD.replace(b"100", b"true"),
    "a text for a number": GOOD.replace(b"100", b'"100"'),
    "two tags": GOOD.replace(b"100", b'["set",[100,200]]'),
    "a number for a text": GOOD.replace(b'"access"', b"1"),
    "a number for a truth": GOOD.replace(b'"protected":false', b'"protected":0'),
    "no such column": GOOD.replace(b'"tag"', b'"label"'),
    "a VLAN twice": GOOD.replace(b'"trunks":["set",[]]', b'"trunks":["set",[7,7]]'),
    "a set in a set": GOOD.replace(b'"trunks":["set",[]]', b'"trunks":["set",[["set",[7]]]]'),
    "a map of numbers": GOOD.replace(b'"other_config":["map",[]]', b'"other_config":["map",[["a",1]]]'),
    "a key twice": GOOD.replace(b'"other_config":["map",[]]', b'"other_config":["map",[["a","1"],["a","2"]]]'),
    "a list for a map": GOOD.replace(b'"external_ids":["map",[]]', b'"external_ids":[]'),
    "no UUID": GOOD.replace(b'["uuid","b"]', b'["named-uuid","b"]'),
    "null for a UUID": GOOD.replace(b'["uuid","b"]', b"null"),
    "rows that are none": GOOD.replace(PORT_ROWS, b'{"rows":[7]}'),
    "rows that are no list": GOOD.replace(PORT_ROWS, b'{"rows":{}}'),
    "no switch": GOOD.replace(SWITCHES, NO_ROWS),
    "two bridges of one name": GOOD.replace(BRIDGES, BRIDGES.replace(b"]}", b"]},") + BRIDGES[9:]),
    "too few results": _answer(SWITCHES, BRIDGES, PORT_ROWS),
    "too many results": _answer(SWITCHES, BRIDGES, PORT_ROWS, NO_ROWS, NO_ROWS, NO_ROWS),
    "a result that is null": _answer(SWITCHES, BRIDGES, PORT_ROWS, b"null"),
    "a result that is a number": _answer(SWITCHES, BRIDGES, PORT_ROWS, b"7"),
    "results that are an object": b'{"id":2,"error":null,"result":{}}',
    "the answer to another question": GOOD.replace(b'"id":2', b'"id":3'),
    "an answer with more to it": GOOD.replace(b'"id":2', b'"id":2,"more":1'),
    "a request that there is not": b'{"id":null,"method":"shutdown","params":[]}',
    "an update of something else": b'{"id":null,"method":"update","params":["mine",{}]}',
    "an update that is none": b'{"id":null,"method":"update","params":[null,[]]}',
    "an update of a row that is none": (
        b'{"id":null,"method":"update","params":[null,{"Port":{"p":{"old":{},"new":{"tag":"x"}}}}]}'
    ),
    "an echo with more to it": b'{"id":1,"method":"echo","params":[],"result":1}',
    "a list": b"[]",
    "a text": b'"hello"',
    "an end without a beginning": b"}",
    "brackets that do not match": b'{"id":2]',
    "very deep": b'{"id":' + b"[" * 100_000,
    "deep and well formed": b'{"id":' + b"[" * 40 + b"]" * 40 + b"}",
    "one long text of escapes": b'{"id":"' + b"\\n" * (OVSDB_MESSAGE_BYTES.most // 2),
    "one long number": b'{"id":' + b"1" * OVSDB_MESSAGE_BYTES.most,
    "white space only": b" " * (OVSDB_MESSAGE_BYTES.most + 1) + b"x",
}


@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE)
def test_an_answer_that_cannot_be_is_garbled_and_soon(answer: bytes) -> None:
    begin = time.process_time()
    with _answering(answer) as switch, pytest.raises(DeviceGarbled):
        switch.read(["p1"])
    assert time.process_time() - begin < 4


@pytest.mark.parametrize("error", [b'"unknown database"', b'{"error":"not allowed"}'])
def test_an_error_for_an_answer_is_a_refusal(error: bytes) -> None:
    with _answering(b'{"id":2,"result":null,"error":' + error + b"}") as switch, pytest.raises(DeviceRefused):
        switch.read(["p1"])


def test_an_operation_that_failed_is_a_refusal() -> None:
    failed = _answer(b'{"error":"permission error","details":"no"}', b"null", b"null", b"null")
    with _answering(failed) as switch, pytest.raises(DeviceRefused, match="permission"):
        switch.read(["p1"])


COUNT = b'{"count":1}'
NEXT = b'{"rows":[{"next_cfg":6}]}'


def _taken(*results: bytes) -> bytes:
    return _answer(*results).replace(b'"id":2', b'"id":3')


@pytest.mark.parametrize(
    "answer",
    [
        _taken(b"{}", b'{"count":0}', COUNT, COUNT, COUNT, NEXT),
        _taken(b"{}", COUNT, COUNT, b'{"count":2}', COUNT, NEXT),
        _taken(b"{}", COUNT, COUNT, COUNT, COUNT, NO_ROWS),
        _taken(b"{}", COUNT, COUNT, COUNT, COUNT, b'{"rows":[{"next_cfg":6},{"next_cfg":7}]}'),
        _taken(b"{}", COUNT, COUNT, COUNT, COUNT, b'{"rows":[{"next_cfg":null}]}'),
        _taken(b"{}", COUNT, COUNT, COUNT, COUNT),
    ],
)
def test_a_change_with_an_answer_that_cannot_be_is_garbled(answer: bytes) -> None:
    with _answering(GOOD, answer) as switch, pytest.raises(DeviceGarbled):
        switch.write({"p1": ON_B}, fence=1)


def test_an_answer_that_does_not_say_that_a_change_was_applied_is_garbled() -> None:
    taken = _taken(b"{}", COUNT, COUNT, COUNT, COUNT, NEXT)
    nothing = b'{"id":4,"error":null,"result":[null]}'
    with _answering(GOOD, taken, nothing) as switch, pytest.raises(DeviceGarbled):
        switch.write({"p1": ON_B}, fence=1)


def test_a_change_that_was_taken_is_never_called_refused() -> None:
    taken = _taken(b"{}", COUNT, COUNT, COUNT, COUNT, NEXT)
    refused = b'{"id":4,"error":"not allowed","result":null}'
    with _answering(GOOD, taken, refused) as switch, pytest.raises(OutcomeUnknown, match="not allowed"):
        switch.write({"p1": ON_B}, fence=1)


def test_what_is_sent_without_end_takes_no_more_memory_than_the_limit_allows() -> None:
    sent = 0

    def behave(connection: socket.socket) -> None:
        nonlocal sent
        while True:
            sent += connection.send(b'{"a":"' if sent == 0 else b"a" * 65536)

    with served(behave) as endpoint:
        switch = open_vswitch(Access({"endpoint": endpoint, "bridge": BRIDGE}, {}))
        tracemalloc.start()
        try:
            with pytest.raises(DeviceGarbled):
                switch.read(["p1"])
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 3 * OVSDB_MESSAGE_BYTES.most
    assert sent < OVSDB_MESSAGE_BYTES.most + 16 * MIB  # what the kernel holds is on top


def test_a_server_that_asks_whether_we_live_is_answered() -> None:
    heard = b""

    def behave(connection: socket.socket) -> None:
        nonlocal heard
        connection.recv(65536)
        connection.sendall(b'{"id":1,"result":{},"error":null}{"id":"echo","method":"echo","params":["x"]}')
        heard = connection.recv(65536)

    with served(behave) as endpoint:
        switch = open_vswitch(Access({"endpoint": endpoint, "bridge": BRIDGE}, {}))
        switch.wait_for_change(5)  # the connection was made
        switch.wait_for_change(5)  # and ended
        switch.close()
    assert heard == b'{"id":"echo","result":["x"],"error":null}'
