"""Who is heard in an airlock: on real cards of namespaces, with a switch between them that lets all of them through."""

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Interface
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.agent.neighbours import Card, Listener, arp_questions, gateways, known_here, stranger
from tests.namespaces import ip, namespaces, run_inside, within

OWN, SERVICE, OTHER = (bytes.fromhex(f"02000000000{number}") for number in (1, 2, 3))
CARD: Final = Card("card", OWN, IPv4Interface("10.9.0.1/24"))
ROUTES: Final = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0100090A\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t0000090A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""
TABLE: Final = """\
IP address       HW type     Flags       HW address            Mask     Device
10.9.0.2         0x1         0x2         02:00:00:00:00:02     *        eth0
10.9.0.7         0x1         0x2         02:00:00:00:00:03     *        eth0
"""


def test_the_services_are_known_by_the_kernels_table_and_nobody_else_in_it_is() -> None:
    assert gateways(lambda: ROUTES) == {"10.9.0.1"}
    assert known_here(["10.9.0.2", "10.99.0.1"], lambda: TABLE) == {SERVICE}


def test_whoever_is_not_known_is_a_stranger_but_for_what_switches_say_to_each_other() -> None:
    assert stranger(OTHER + SERVICE + b"rest", {SERVICE}) is None
    assert stranger(SERVICE + OTHER + b"rest", {SERVICE}) == OTHER
    for last, expected in ((0x00, None), (0x0E, None), (0x10, OTHER)):
        assert stranger(bytes.fromhex("0180c20000") + bytes([last]) + OTHER, {SERVICE}) == expected


@given(st.binary(max_size=64))
def test_any_frame_can_be_looked_at(frame: bytes) -> None:
    assert stranger(frame, {OWN}) in (None, frame[6:12])


def test_every_other_address_is_asked_for_and_of_a_large_network_a_thousand() -> None:
    asked = [question[-4:] for question in arp_questions(CARD)]
    assert len(asked) == len(set(asked)) == 253
    assert CARD.address.ip.packed not in asked
    assert len(list(arp_questions(Card("card", OWN, IPv4Interface("10.0.0.1/8"))))) == 1023


@contextmanager
def wire(*roles: str) -> Iterator[dict[str, str]]:
    """Give namespaces, each with a card `card` of the address 10.9.0.N, on one wire that all of them share."""
    with namespaces("wire", *roles) as names:
        # The bridge is the wire, and says nothing itself.
        run_inside(names["wire"], "sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6")
        ip(names["wire"], "link add wire type bridge mcast_snooping 0")
        ip(names["wire"], "link set wire up")
        for number, role in enumerate(roles, 1):
            ip(names["wire"], f"link add end{number} type veth peer name card netns {names[role]}")
            ip(names["wire"], f"link set end{number} master wire up")
            ip(names[role], f"link set card address 02:00:00:00:00:0{number}")
            ip(names[role], f"address add 10.9.0.{number}/24 dev card")
            ip(names[role], "link set card up")
        yield names


def heard(names: dict[str, str], known: set[bytes]) -> list[str]:
    def look() -> list[str]:
        listener = Listener([CARD])
        listener.ask_for_everybody()
        try:
            return listener.strangers(known)
        finally:
            listener.close()

    return within(names["node"], look)


@pytest.fixture(scope="module", autouse=True)
def _bridges_can_be_had() -> None:
    with namespaces("one") as names:
        made = run_inside(names["one"], "ip", "link", "add", "wire", "type", "bridge", check=False)
        if made.returncode != 0:
            pytest.skip(f"needs a kernel with bridges: {made.stderr.strip()}")


def test_a_neighbour_who_only_answers_is_found() -> None:
    with wire("node", "service", "other") as names:
        assert OTHER.hex(":") in heard(names, {SERVICE})


def test_where_there_are_services_alone_nobody_is_found() -> None:
    with wire("node", "service") as names:
        assert heard(names, {SERVICE}) == []
        assert heard(names, set()) == [SERVICE.hex(":")]


def test_one_that_speaks_to_somebody_else_is_found() -> None:
    with wire("node", "service", "other") as names:
        ip(names["other"], "neigh replace 10.9.0.9 lladdr 02:00:00:00:00:09 dev card")
        listener = within(names["node"], lambda: Listener([CARD]))
        try:
            run_inside(names["other"], "ping", "-c", "1", "-W", "1", "10.9.0.9", check=False)
            assert OTHER.hex(":") in listener.strangers({SERVICE})
        finally:
            listener.close()
