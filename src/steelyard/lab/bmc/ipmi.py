"""A BMC's IPMI 2.0 endpoint: sessions by RAKP, and the commands that power, boot device and console need.

Source: Intelligent Platform Management Interface Specification 2.0, revision 1.1; sections are named where they apply.
"""

import asyncio
import hmac
import logging
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Final, cast

from steelyard.lab.bmc import rmcp
from steelyard.lab.bmc.boot import Lifetime, Override
from steelyard.lab.bmc.controller import SLOWNESS_SECONDS, Controller, NotNow, Power
from steelyard.lab.bmc.rmcp import PayloadType, PlainDatagram, Request, SealedDatagram, SessionKeys, Suite
from steelyard.lab.bmc.sol import CHUNK_BYTES, HEADER_BYTES, SerialOverLan
from steelyard.lab.faults import BmcFault
from steelyard.lab.plan import BootDevice
from steelyard.model.errors import MalformedDatagram, SteelyardError
from steelyard.model.secret import Secret

log = logging.getLogger(__name__)

MOST_SESSIONS: Final = 32
IDLE_SECONDS: Final = 60.0
"""Source: section 6.12.15."""
_ANSWERS_KEPT: Final = 8

Address = tuple[str, int]


class Privilege(IntEnum):
    """What a session may do. Source: section 6.8."""

    CALLBACK = 1
    USER = 2
    OPERATOR = 3
    ADMINISTRATOR = 4


class Completion(IntEnum):
    """How a command ended. Source: section 5.2."""

    GOOD = 0x00
    NOT_ACTIVE = 0x80
    PAYLOAD_DISABLED = 0x81
    UNKNOWN_COMMAND = 0xC1
    WRONG_LENGTH = 0xC7
    WRONG_DATA = 0xCC
    INSUFFICIENT_PRIVILEGE = 0xD4
    NOT_IN_THIS_STATE = 0xD5
    UNSPECIFIED = 0xFF


ALREADY_ACTIVE: Final = Completion.NOT_ACTIVE
"""Of Activate Payload, where the code 0x80 is the command's own. Source: section 24.1."""
PARAMETER_UNKNOWN: Final = Completion.NOT_ACTIVE
"""Of the boot options and serial-over-LAN parameters, likewise. Source: sections 28.12 and 26.3."""
PRIVILEGE_TOO_HIGH: Final = Completion.PAYLOAD_DISABLED
"""Of Set Session Privilege Level, likewise. Source: section 22.18."""


class Rakp(IntEnum):
    """How a step of opening a session ended. Source: section 13.24."""

    GOOD = 0x00
    NO_RESOURCES = 0x01
    UNKNOWN_SESSION = 0x02
    NO_MATCHING_SUITE = 0x11
    UNAUTHORIZED_NAME = 0x0D
    BAD_CHECK = 0x0F


class Failed(Exception):
    """A command that is answered with a completion code and nothing else."""

    def __init__(self, completion: Completion) -> None:
        super().__init__(completion)
        self.completion = completion


_DEVICE_NUMBERS: Final[Mapping[int, BootDevice]] = {1: BootDevice.NETWORK, 2: BootDevice.DISK}
"""Boot device selectors, of which 0 is no override. Source: section 28.13, parameter 5."""
_BOOT_FLAGS: Final = 5
_VALID, _PERSISTENT, _UEFI = 0x80, 0x40, 0x20
_SOL_PARAMETERS: Final[Mapping[int, bytes]] = {
    0: b"\x00",  # set complete
    1: b"\x01",  # enabled
    2: b"\x84",  # encryption forced, administrator
    3: b"\x01\x60",  # characters are sent after 5 ms, or 96 of them
    4: b"\x07\x32",  # retried 7 times, 500 ms apart
    5: b"\x0a",  # 115200 baud
    6: b"\x0a",
    7: b"\x01",  # on channel 1
    8: (623).to_bytes(2, "little"),
}
"""Source: section 26.3. What there is to set makes no difference here."""


@dataclass(slots=True)
class Session:
    """One client's session, from its first request to open it."""

    number: int
    client_number: int
    suite: Suite
    address: Address
    last_heard: float
    challenge: "Challenge | None" = None
    keys: SessionKeys | None = None
    privilege: Privilege = Privilege.USER
    privilege_limit: Privilege = Privilege.USER
    sequence: int = 0
    window: rmcp.ReplayWindow = field(default_factory=rmcp.ReplayWindow)
    answers: OrderedDict[bytes, bytes | None] = field(default_factory=OrderedDict)
    """Request -> answer, None while it is worked on: a client that asks again gets the same, and nothing twice."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """The random numbers of an opening session, and who it is for."""

    client_random: bytes
    our_random: bytes
    role: int
    user: bytes

    @property
    def tail(self) -> bytes:
        """The part of every check: role, length of the name, name."""
        return bytes([self.role, len(self.user)]) + self.user


Handler = Callable[[Session, bytes], Awaitable[bytes]]


class IpmiEndpoint(asyncio.DatagramProtocol):
    """One BMC's UDP port."""

    def __init__(self, controller: Controller, user: str, password: Secret) -> None:
        self._controller = controller
        self._user = user.encode()
        self._password = password
        self._identity = controller.node.identity.bytes_le
        self._sessions: dict[int, Session] = {}
        self._console: tuple[Session, SerialOverLan] | None = None
        self._work: set[asyncio.Task[None]] = set()
        self._transport: asyncio.DatagramTransport | None = None
        self._handlers: Mapping[tuple[int, int], tuple[Privilege, Handler]] = {
            (0x00, 0x01): (Privilege.USER, self._get_chassis_status),
            (0x00, 0x02): (Privilege.OPERATOR, self._control_chassis),
            (0x00, 0x08): (Privilege.OPERATOR, self._set_boot_options),
            (0x00, 0x09): (Privilege.OPERATOR, self._get_boot_options),
            (0x06, 0x01): (Privilege.USER, self._get_device),
            (0x06, 0x37): (Privilege.USER, self._get_identity),
            (0x06, 0x38): (Privilege.CALLBACK, self._get_capabilities),
            (0x06, 0x3B): (Privilege.CALLBACK, self._set_privilege),
            (0x06, 0x48): (Privilege.USER, self._activate_payload),
            (0x06, 0x49): (Privilege.USER, self._deactivate_payload),
            (0x06, 0x4A): (Privilege.USER, self._get_activation),
            (0x06, 0x54): (Privilege.CALLBACK, self._get_suites),
            (0x0C, 0x21): (Privilege.ADMINISTRATOR, self._set_console_parameter),
            (0x0C, 0x22): (Privilege.USER, self._get_console_parameter),
        }

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way out."""
        self._transport = cast("asyncio.DatagramTransport", transport)  # a UDP port has no other

    def close(self) -> None:
        """Stop answering. What was begun is brought to its end, so that no machine is left half started."""
        for session in tuple(self._sessions.values()):
            self._end_session(session)
        if self._transport is not None:
            self._transport.close()

    def datagram_received(self, data: bytes, addr: Address) -> None:
        """Take a datagram from the wire; one that makes no sense is dropped, as the specification has it."""
        if BmcFault.UNREACHABLE in self._controller.faults:
            return
        try:
            match rmcp.parse_datagram(data):
                case PlainDatagram() as plain:
                    self._receive_plain(plain, addr)
                case SealedDatagram() as sealed:
                    self._receive_sealed(sealed, addr)
        except MalformedDatagram as cause:
            log.debug("%s: dropped: %s", self._controller.node.name, cause)

    def _send(self, data: bytes, address: Address) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(data, address)

    # -- outside a session --

    def _receive_plain(self, datagram: PlainDatagram, address: Address) -> None:
        match datagram.payload_type:
            case PayloadType.IPMI:
                request = rmcp.parse_request(datagram.payload)
                handlers = {(0x06, 0x38): self._get_capabilities, (0x06, 0x54): self._get_suites}
                handler = handlers.get((request.function, request.command))
                if handler is not None:
                    self._do(self._answer_plain(request, handler, datagram, address))
            case PayloadType.OPEN_SESSION_REQUEST:
                self._do(self._send_plain(PayloadType.OPEN_SESSION_RESPONSE, self._open(datagram, address), address))
            case PayloadType.RAKP_1:
                self._do(self._send_plain(PayloadType.RAKP_2, self._challenge(datagram.payload), address))
            case PayloadType.RAKP_3:
                answer = self._establish(datagram.payload)
                if answer is not None:
                    self._do(self._send_plain(PayloadType.RAKP_4, answer, address))
            case _:
                raise MalformedDatagram(
                    "reading a datagram outside a session",
                    expected="one that opens it",
                    found=datagram.payload_type.name,
                )

    async def _answer_plain(
        self, request: Request, handler: Handler, datagram: PlainDatagram, address: Address
    ) -> None:
        nobody = Session(0, 0, rmcp.SUITES[0], address, 0.0)
        answer = await self._carry_out(nobody, request, handler)
        await self._delay()
        self._send(
            rmcp.build_legacy(answer) if datagram.legacy else rmcp.build_plain(PayloadType.IPMI, answer), address
        )

    async def _send_plain(self, payload_type: PayloadType, payload: bytes, address: Address) -> None:
        await self._delay()
        self._send(rmcp.build_plain(payload_type, payload), address)

    def _open(self, datagram: PlainDatagram, address: Address) -> bytes:
        """Answer an Open Session Request.

        1 tag, 1 privilege, 2 reserved, 4 the client's session number, three proposals of 8: type, 2 reserved, length,
        algorithm, 3 reserved. Source: sections 13.17 and 13.18.
        """
        payload = datagram.payload
        if len(payload) != 32:
            raise MalformedDatagram("opening a session", expected="32 bytes", found=f"{len(payload)}")
        tag, wanted, client = payload[0], payload[1] & 0x0F, payload[4:8]
        self._end_idle()
        proposal = (payload[12], payload[20], payload[28])
        suite = next(
            (s for s in rmcp.SUITES if proposal == (s.authentication, s.integrity, rmcp.CONFIDENTIALITY)), None
        )
        if suite is None:
            return bytes([tag, Rakp.NO_MATCHING_SUITE, 0, 0]) + client
        if len(self._sessions) >= MOST_SESSIONS:
            return bytes([tag, Rakp.NO_RESOURCES, 0, 0]) + client
        number = secrets.randbelow(2**32 - 1) + 1
        now = asyncio.get_running_loop().time()
        self._sessions[number] = Session(number, int.from_bytes(client, "little"), suite, address, now)
        granted = min(wanted, Privilege.ADMINISTRATOR) or Privilege.ADMINISTRATOR
        return bytes([tag, Rakp.GOOD, granted, 0]) + client + number.to_bytes(4, "little") + payload[8:]

    def _challenge(self, payload: bytes) -> bytes:
        """Answer RAKP message 1: prove that we know the password, and ask the client to.

        1 tag, 3 reserved, 4 our session number, 16 random, 1 role, 2 reserved, 1 length, name.
        Source: sections 13.20 and 13.21.
        """
        if len(payload) < 28 or len(payload) != 28 + payload[27]:
            raise MalformedDatagram("answering RAKP 1", expected="a name as long as it says", found=f"{len(payload)}")
        tag, number = payload[0], int.from_bytes(payload[4:8], "little")
        session = self._sessions.get(number)
        if session is None or session.keys is not None:
            return bytes([tag, Rakp.UNKNOWN_SESSION, 0, 0]) + bytes(4)
        client = session.client_number.to_bytes(4, "little")
        challenge = Challenge(payload[8:24], secrets.token_bytes(16), payload[24], payload[28:])
        limit = challenge.role & 0x0F
        if challenge.user != self._user or not Privilege.CALLBACK <= limit <= Privilege.ADMINISTRATOR:
            self._end_session(session)
            return bytes([tag, Rakp.UNAUTHORIZED_NAME, 0, 0]) + client
        session.challenge, session.privilege_limit = challenge, Privilege(limit)
        session.privilege = min(session.privilege, session.privilege_limit)
        check = session.suite.mac(
            self._password.reveal(),
            client + payload[4:8] + challenge.client_random + challenge.our_random + self._identity + challenge.tail,
        )
        return bytes([tag, Rakp.GOOD, 0, 0]) + client + challenge.our_random + self._identity + check

    def _establish(self, payload: bytes) -> bytes | None:
        """Answer RAKP message 3: the session is open if the client knows the password.

        1 tag, 1 status, 2 reserved, 4 our session number, check. Source: sections 13.22 and 13.23.
        """
        if len(payload) < 8:
            raise MalformedDatagram("answering RAKP 3", expected="at least 8 bytes", found=f"{len(payload)}")
        tag, status, number = payload[0], payload[1], payload[4:8]
        session = self._sessions.get(int.from_bytes(number, "little"))
        if session is None or session.challenge is None or session.keys is not None:
            return bytes([tag, Rakp.UNKNOWN_SESSION, 0, 0]) + bytes(4)
        if status != Rakp.GOOD:
            # The client did not like our proof: it or we have another password.
            self._end_session(session)
            return None
        suite, challenge = session.suite, session.challenge
        client = session.client_number.to_bytes(4, "little")
        password = self._password.reveal()
        if not hmac.compare_digest(suite.mac(password, challenge.our_random + client + challenge.tail), payload[8:]):
            self._end_session(session)
            return bytes([tag, Rakp.BAD_CHECK, 0, 0]) + client
        key = suite.mac(password, challenge.client_random + challenge.our_random + challenge.tail)
        session.keys = SessionKeys.derive(suite, key)
        check = suite.mac(key, challenge.client_random + number + self._identity)[: suite.check_size]
        return bytes([tag, Rakp.GOOD, 0, 0]) + client + check

    # -- within a session --

    def _receive_sealed(self, datagram: SealedDatagram, address: Address) -> None:
        session = self._sessions.get(datagram.session)
        if session is None or session.keys is None:
            raise MalformedDatagram("reading a session's datagram", expected="an open session", found="none such")
        payload = rmcp.open_datagram(datagram, session.keys)
        # After the check: else a forger could make us drop the true client's datagrams.
        session.window.take(datagram.sequence)
        session.address, session.last_heard = address, asyncio.get_running_loop().time()
        match datagram.payload_type:
            case PayloadType.IPMI:
                self._take_request(session, payload)
            case PayloadType.SOL:
                if self._console is not None and self._console[0] is session:
                    self._console[1].receive(payload)
            case _:
                raise MalformedDatagram(
                    "reading a session's datagram", expected="a command", found=datagram.payload_type.name
                )

    def _take_request(self, session: Session, payload: bytes) -> None:
        request = rmcp.parse_request(payload)
        if payload not in session.answers:
            session.answers[payload] = None
            self._do(self._answer(session, request, payload))
        elif (answer := session.answers[payload]) is not None:
            self._send_sealed(session, PayloadType.IPMI, answer)

    async def _answer(self, session: Session, request: Request, payload: bytes) -> None:
        closing = (request.function, request.command) == (0x06, 0x3C)
        if closing:
            answer = rmcp.build_response(request, Completion.GOOD, b"")
        else:
            answer = await self._carry_out(session, request, None)
        await self._delay()
        session.answers[payload] = answer
        while len(session.answers) > _ANSWERS_KEPT:
            session.answers.popitem(last=False)
        self._send_sealed(session, PayloadType.IPMI, answer)
        if closing:
            self._end_session(session)

    async def _carry_out(self, session: Session, request: Request, handler: Handler | None) -> bytes:
        """Return the answer to `request`; without a handler, to what the session's privilege lets it ask."""
        try:
            if handler is None:
                try:
                    needed, handler = self._handlers[request.function, request.command]
                except KeyError as cause:
                    raise Failed(Completion.UNKNOWN_COMMAND) from cause
                if session.privilege < needed:
                    raise Failed(Completion.INSUFFICIENT_PRIVILEGE)
            return rmcp.build_response(request, Completion.GOOD, await handler(session, request.data))
        except Failed as failed:
            return rmcp.build_response(request, failed.completion, b"")
        except NotNow:
            return rmcp.build_response(request, Completion.NOT_IN_THIS_STATE, b"")
        except SteelyardError as cause:
            log.error("%s: %s", self._controller.node.name, cause)
            return rmcp.build_response(request, Completion.UNSPECIFIED, b"")

    def _send_sealed(self, session: Session, payload_type: PayloadType, payload: bytes) -> None:
        if session.keys is None or BmcFault.UNREACHABLE in self._controller.faults:
            return
        session.sequence += 1
        self._send(
            rmcp.build_sealed(
                session.client_number, session.sequence, payload_type, payload, session.keys, secrets.token_bytes(16)
            ),
            session.address,
        )

    async def _delay(self) -> None:
        if BmcFault.SLOW in self._controller.faults:
            await asyncio.sleep(SLOWNESS_SECONDS)

    def _do(self, work: Awaitable[None]) -> None:
        async def finish() -> None:
            await work

        task = asyncio.get_running_loop().create_task(finish())
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    def _end_idle(self) -> None:
        now = asyncio.get_running_loop().time()
        for session in tuple(self._sessions.values()):
            if now - session.last_heard > IDLE_SECONDS:
                self._end_session(session)

    def _end_session(self, session: Session) -> None:
        self._sessions.pop(session.number, None)
        if self._console is not None and self._console[0] is session:
            self._console[1].close()
            self._console = None

    # -- commands: request data in, answer's data out --

    async def _get_device(self, _: Session, data: bytes) -> bytes:
        """Source: section 20.1. Device, revision, firmware 1.0, IPMI 2.0, a chassis device, no manufacturer."""
        _expect(data, 0)
        return bytes([0x20, 0x01, 0x01, 0x00, 0x02, 0x80]) + bytes(5)

    async def _get_identity(self, _: Session, data: bytes) -> bytes:
        """Source: section 22.14."""
        _expect(data, 0)
        return self._identity

    async def _get_capabilities(self, _: Session, data: bytes) -> bytes:
        """Source: section 22.13. Channel 1, IPMI 2.0 alone, users with names."""
        _expect(data, 2)
        return bytes([0x01, 0x80, 0x04, 0x02]) + bytes(4)

    async def _get_suites(self, _: Session, data: bytes) -> bytes:
        """Source: section 22.15. Sixteen bytes of the list at a time."""
        _expect(data, 3)
        records = b"".join(
            bytes([0xC0, suite.number, suite.authentication, 0x40 | suite.integrity, 0x80 | rmcp.CONFIDENTIALITY])
            for suite in rmcp.SUITES
        )
        start = (data[2] & 0x3F) * 16
        return b"\x01" + records[start : start + 16]

    async def _set_privilege(self, session: Session, data: bytes) -> bytes:
        """Source: section 22.18. 0: say what it is."""
        _expect(data, 1)
        wanted = data[0] & 0x0F
        if wanted:
            if not Privilege.USER <= wanted <= session.privilege_limit:
                raise Failed(PRIVILEGE_TOO_HIGH)
            session.privilege = Privilege(wanted)
        return bytes([session.privilege])

    async def _get_chassis_status(self, _: Session, data: bytes) -> bytes:
        """Source: section 28.2."""
        _expect(data, 0)
        return bytes([self._controller.power is Power.ON, 0, 0])

    async def _control_chassis(self, _: Session, data: bytes) -> bytes:
        """Source: section 28.3."""
        _expect(data, 1)
        match data[0] & 0x0F:
            case 0:
                await self._controller.power_off()
            case 1:
                await self._controller.power_on()
            case 2 | 3:
                await self._controller.restart()
            case 5:
                await self._controller.shut_down()
            case _:
                raise Failed(Completion.WRONG_DATA)
        return b""

    async def _set_boot_options(self, _: Session, data: bytes) -> bytes:
        """Source: section 28.12. The boot flags matter; what clients set besides says how the rest is to be taken."""
        if not data:
            raise Failed(Completion.WRONG_LENGTH)
        selector = data[0] & 0x7F
        if selector in (0, 3, 4):
            return b""
        if selector != _BOOT_FLAGS:
            raise Failed(PARAMETER_UNKNOWN)
        if len(data) != 6:
            raise Failed(Completion.WRONG_LENGTH)
        number = data[2] >> 2 & 0x0F
        override = None
        if data[1] & _VALID and number:
            try:
                device = _DEVICE_NUMBERS[number]
            except KeyError as cause:
                raise Failed(Completion.WRONG_DATA) from cause
            override = Override(device, Lifetime.PERSISTENT if data[1] & _PERSISTENT else Lifetime.ONCE)
        self._controller.set_boot(replace(self._controller.boot, override=override))
        return b""

    async def _get_boot_options(self, _: Session, data: bytes) -> bytes:
        """Source: section 28.13. Firmware knows UEFI alone, so that flag is always set."""
        _expect(data, 3)
        if data[0] & 0x7F != _BOOT_FLAGS:
            raise Failed(PARAMETER_UNKNOWN)
        flags, number = 0, 0
        override = self._controller.boot.override
        if override is not None:
            flags = _VALID | _UEFI | (_PERSISTENT if override.lifetime is Lifetime.PERSISTENT else 0)
            number = next(number for number, device in _DEVICE_NUMBERS.items() if device is override.device)
        return bytes([0x01, _BOOT_FLAGS, flags, number << 2, 0, 0, 0])

    async def _activate_payload(self, session: Session, data: bytes) -> bytes:
        """Source: section 24.1. One at a time, and the second does not push out the first."""
        _expect(data, 6)
        console = self._controller.console
        if data[0] & 0x3F != PayloadType.SOL or console is None or self._transport is None:
            raise Failed(Completion.PAYLOAD_DISABLED)
        self._end_idle()
        if self._console is not None:
            raise Failed(ALREADY_ACTIVE)

        def send(payload: bytes) -> None:
            self._send_sealed(session, PayloadType.SOL, payload)

        self._console = (session, SerialOverLan(console, send))
        size = (HEADER_BYTES + CHUNK_BYTES).to_bytes(2, "little")
        port: int = self._transport.get_extra_info("sockname")[1]
        return bytes(4) + size + size + port.to_bytes(2, "little") + b"\xff\xff"

    async def _deactivate_payload(self, _: Session, data: bytes) -> bytes:
        """Source: section 24.2. Anyone who may activate may end another's."""
        _expect(data, 6)
        if data[0] & 0x3F != PayloadType.SOL or self._console is None:
            raise Failed(Completion.NOT_ACTIVE)
        self._console[1].close()
        self._console = None
        return b""

    async def _get_activation(self, _: Session, data: bytes) -> bytes:
        """Source: section 24.4. One instance at most; whether it is active."""
        _expect(data, 1)
        return bytes([1, self._console is not None, 0])

    async def _set_console_parameter(self, _: Session, data: bytes) -> bytes:
        """Source: section 26.2."""
        if len(data) < 2 or data[1] not in _SOL_PARAMETERS:
            raise Failed(PARAMETER_UNKNOWN)
        return b""

    async def _get_console_parameter(self, _: Session, data: bytes) -> bytes:
        """Source: section 26.3."""
        _expect(data, 4)
        if data[1] not in _SOL_PARAMETERS:
            raise Failed(PARAMETER_UNKNOWN)
        return b"\x11" + _SOL_PARAMETERS[data[1]]


def _expect(data: bytes, size: int) -> None:
    if len(data) != size:
        raise Failed(Completion.WRONG_LENGTH)
