"""The IPMI endpoint against clients that are not well-behaved: what ipmitool would never send."""

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from steelyard.lab.bmc.ipmi import IDLE_SECONDS, MOST_SESSIONS, IpmiEndpoint
from steelyard.lab.bmc.rmcp import (
    SUITES,
    PayloadType,
    PlainDatagram,
    SealedDatagram,
    SessionKeys,
    build_plain,
    build_sealed,
    open_datagram,
    parse_datagram,
)
from steelyard.lab.faults import BmcFault
from steelyard.model.secret import Secret
from tests.unit.lab.bmc.machines import NotedMachine, controller_of

PASSWORD = b"0123456789abcdef"
ADDRESS = ("192.0.2.1", 40000)
SUITE = SUITES[0]
ADMINISTRATOR_BY_NAME = 0x14
CLIENT_NUMBER = b"\xa4\xa3\xa2\xa0"
OUR_RANDOM = bytes(range(16))

POWER_ON = bytes.fromhex("2000e081040201")
POWER_OFF = bytes.fromhex("2000e081080200")
SET_ADMINISTRATOR = bytes.fromhex("2018c881003b04")


def _with_checksum(command: bytes) -> bytes:
    return command + bytes([-sum(command[3:]) & 0xFF])


@dataclass
class Wire:
    """Where the endpoint's datagrams go."""

    sent: list[bytes] = field(default_factory=list)

    def sendto(self, data: bytes, address: tuple[str, int]) -> None:
        assert address == ADDRESS
        self.sent.append(data)

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass


class Client:
    """A client of one endpoint that can do right and wrong."""

    def __init__(self, endpoint: IpmiEndpoint, wire: Wire) -> None:
        self.endpoint = endpoint
        self.wire = wire
        self.number = b""
        self.keys: SessionKeys | None = None
        self.sequence = 0

    async def exchange(self, data: bytes) -> list[bytes]:
        """Return the datagrams that come back."""
        begin = len(self.wire.sent)
        self.endpoint.datagram_received(data, ADDRESS)
        for _ in range(10):
            await asyncio.sleep(0)
        return self.wire.sent[begin:]

    async def ask_plain(self, payload_type: PayloadType, payload: bytes) -> bytes:
        (answer,) = await self.exchange(build_plain(payload_type, payload))
        datagram = parse_datagram(answer)
        assert isinstance(datagram, PlainDatagram)
        return datagram.payload

    async def open(self) -> bytes:
        request = b"\x01\x00\0\0" + CLIENT_NUMBER + bytes.fromhex("0000000801000000 0100000801000000 0200000801000000")
        return await self.ask_plain(PayloadType.OPEN_SESSION_REQUEST, request)

    async def sign_in(self, password: bytes = PASSWORD, user: bytes = b"admin") -> int:
        """Go through RAKP as far as it gets; return the status of the last answer."""
        self.number = (await self.open())[8:12]
        tail = bytes([ADMINISTRATOR_BY_NAME, len(user)]) + user
        message = b"\x02\0\0\0" + self.number + OUR_RANDOM + bytes([ADMINISTRATOR_BY_NAME, 0, 0, len(user)]) + user
        answer = await self.ask_plain(PayloadType.RAKP_1, message)
        if answer[1]:
            return answer[1]
        theirs = answer[8:24]
        proof = hmac.digest(password, theirs + CLIENT_NUMBER + tail, "sha1")
        answer = await self.ask_plain(PayloadType.RAKP_3, b"\x03\0\0\0" + self.number + proof)
        key = hmac.digest(password, OUR_RANDOM + theirs + tail, "sha1")
        self.keys = SessionKeys.derive(SUITE, key)
        return answer[1]

    def seal(self, command: bytes) -> bytes:
        assert self.keys is not None
        self.sequence += 1
        number = int.from_bytes(self.number, "little")
        return build_sealed(number, self.sequence, PayloadType.IPMI, _with_checksum(command), self.keys, bytes(16))

    async def command(self, command: bytes) -> int:
        """Return the completion code."""
        (answer,) = await self.exchange(self.seal(command))
        datagram = parse_datagram(answer)
        assert isinstance(datagram, SealedDatagram)
        assert self.keys is not None
        return open_datagram(datagram, self.keys)[6]


def _run(story: Callable[[Client], Awaitable[None]], faults: frozenset[BmcFault] = frozenset()) -> NotedMachine:
    machine = NotedMachine()

    async def play() -> None:
        controller = controller_of(machine)
        controller.faults = set(faults)
        endpoint, wire = IpmiEndpoint(controller, "admin", Secret(PASSWORD)), Wire()
        endpoint.connection_made(cast("asyncio.BaseTransport", wire))
        await story(Client(endpoint, wire))
        endpoint.close()

    asyncio.run(play())
    return machine


async def _as_administrator(client: Client) -> None:
    assert await client.sign_in() == 0
    assert await client.command(SET_ADMINISTRATOR) == 0


def test_who_knows_the_password_may_switch_on() -> None:
    async def story(client: Client) -> None:
        await _as_administrator(client)
        assert await client.command(POWER_ON) == 0

    assert _run(story).notes == ["start network"]


def test_a_client_that_goes_on_with_a_wrong_proof_is_refused() -> None:
    """ipmitool stops by itself when it sees our proof; an attacker goes on."""

    async def story(client: Client) -> None:
        assert await client.sign_in(password=b"guess") == 0x0F
        # The session is gone: nothing that is sealed for it is answered.
        assert await client.exchange(client.seal(POWER_ON)) == []

    assert _run(story).notes == []


def test_an_unknown_name_is_refused() -> None:
    async def story(client: Client) -> None:
        assert await client.sign_in(user=b"root") == 0x0D

    _run(story)


@pytest.mark.parametrize("name", ["", "0", "1"])
def test_a_third_message_without_a_second_opens_nothing(name: str) -> None:
    async def story(client: Client) -> None:
        number = (await client.open())[8:12]
        answer = await client.ask_plain(PayloadType.RAKP_3, b"\x03\0\0\0" + number + name.encode())
        assert answer[1] == 0x02

    _run(story)


def test_a_command_in_a_session_that_is_not_open_yet_is_not_answered() -> None:
    async def story(client: Client) -> None:
        client.number = (await client.open())[8:12]
        client.keys = SessionKeys.derive(SUITE, b"")
        assert await client.exchange(client.seal(POWER_ON)) == []

    assert _run(story).notes == []


def test_a_command_outside_a_session_is_not_carried_out() -> None:
    async def story(client: Client) -> None:
        assert await client.exchange(build_plain(PayloadType.IPMI, _with_checksum(POWER_ON))) == []

    assert _run(story).notes == []


def test_a_datagram_that_is_sent_again_by_somebody_is_not_carried_out_again() -> None:
    async def story(client: Client) -> None:
        await _as_administrator(client)
        overheard = client.seal(POWER_ON)
        await client.exchange(overheard)
        assert await client.command(POWER_OFF) == 0
        assert await client.exchange(overheard) == []

    assert _run(story).notes == ["start network", "kill"]


def test_a_client_that_asks_again_gets_the_same_answer_and_nothing_is_done_twice() -> None:
    async def story(client: Client) -> None:
        await _as_administrator(client)
        assert await client.command(POWER_ON) == 0
        restart = bytes.fromhex("2000e0810c0202")
        assert await client.command(restart) == 0
        assert await client.command(restart) == 0

    assert _run(story).notes == ["start network", "kill", "start network"]


def test_before_a_privilege_is_asked_for_a_session_may_only_look() -> None:
    async def story(client: Client) -> None:
        assert await client.sign_in() == 0
        assert await client.command(POWER_ON) == 0xD4

    assert _run(story).notes == []


def test_a_suite_without_integrity_is_refused() -> None:
    async def story(client: Client) -> None:
        none = b"\x01\x00\0\0" + CLIENT_NUMBER + bytes.fromhex("0000000800000000 0100000800000000 0200000800000000")
        assert (await client.ask_plain(PayloadType.OPEN_SESSION_REQUEST, none))[1] == 0x11

    _run(story)


def test_more_sessions_than_it_holds_are_refused_until_old_ones_are_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(client: Client) -> None:
        for _ in range(MOST_SESSIONS):
            assert (await client.open())[1] == 0
        assert (await client.open())[1] == 0x01
        loop = asyncio.get_running_loop()
        later = loop.time() + IDLE_SECONDS + 1
        monkeypatch.setattr(loop, "time", lambda: later)
        assert (await client.open())[1] == 0
        monkeypatch.undo()

    _run(story)


def test_an_unreachable_one_says_nothing() -> None:
    async def story(client: Client) -> None:
        request = b"\x01\x00\0\0" + CLIENT_NUMBER + bytes(24)
        assert await client.exchange(build_plain(PayloadType.OPEN_SESSION_REQUEST, request)) == []

    _run(story, frozenset({BmcFault.UNREACHABLE}))


@pytest.mark.parametrize(
    ("command", "completion"),
    [
        ("2018c881103400", 0xC1),  # a command that it does not know
        ("2000e081140204", 0xCC),  # chassis control 4, a diagnostic interrupt
        ("2000e0811402", 0xC7),  # chassis control without saying what
        ("2000e08118080580180000", 0xC7),  # boot flags a byte short
        ("2000e0811808058018000000", 0xCC),  # boot device 6, a remote one
        ("2000e08118085500", 0x80),  # a boot parameter that it does not know
        ("2018c8811c48020100000000", 0x81),  # a payload other than serial over LAN
    ],
)
def test_what_makes_no_sense_is_refused_with_the_specifications_code(command: str, completion: int) -> None:
    async def story(client: Client) -> None:
        await _as_administrator(client)
        assert await client.command(bytes.fromhex(command)) == completion

    assert _run(story).notes == []


def test_a_machine_that_does_not_start_is_an_error_to_the_client() -> None:
    machine = NotedMachine()
    machine.broken = True

    async def play() -> Any:
        endpoint, wire = IpmiEndpoint(controller_of(machine), "admin", Secret(PASSWORD)), Wire()
        endpoint.connection_made(cast("asyncio.BaseTransport", wire))
        client = Client(endpoint, wire)
        await _as_administrator(client)
        assert await client.command(POWER_ON) == 0xFF
        endpoint.close()

    asyncio.run(play())
