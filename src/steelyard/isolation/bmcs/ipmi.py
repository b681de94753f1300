"""A BMC that speaks IPMI 2.0, by the program `ipmitool`; its serial line by serial over LAN.

Every command is one run of `ipmitool raw`: what goes out and what comes back are the specification's bytes, not a
program's English, and a refusal is a number. Why a program and not a library: docs/drivers/ipmi.md.

Source: Intelligent Platform Management Interface Specification 2.0, revision 1.1; sections are named where they apply.
"""

import ipaddress
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import threading
import time
import tty
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Final, NoReturn

from steelyard.isolation.ports import BMC_CALL_SECONDS, Access, Bmc, BootDevice, Console, Power
from steelyard.model.errors import (
    DeviceError,
    DeviceGarbled,
    DeviceRefused,
    DeviceUnreachable,
    OutcomeUnknown,
    ServiceUnready,
    WrongUse,
)
from steelyard.model.secret import Secret

LIMIT_SECONDS: Final = BMC_CALL_SECONDS / 3 - 1
"""For one run of ipmitool, of which a call takes up to three. With a BMC that answers at once one needs 0.03; its own
limits end it after 6 with none.
"""
_WAIT_SECONDS, _TRIES = "1", "2"
"""For each answer, and how often a datagram is sent: one that is lost is made good."""
_CLOSE_SECONDS: Final = 3.0
READ_BYTES: Final = 64 * 1024

# -- what BMCs are known for -------------------------------------------------------------------------------------------

CIPHER_SUITES: Final = ("17", "3")
"""By SHA-256; and by SHA-1 for BMCs that have no better, only if the access says so. Both with AES-128.

Source: section 22.15.2; suite 17 is of the errata of 2013.
"""

_IN_THIS_STATE: Final = 0xD5
"""How a BMC may refuse to switch on what is on, or off what is off. Then it is fine. Source: section 5.2."""

_COMPLETIONS: Final[Mapping[int, type[DeviceError]]] = {
    0xC0: DeviceUnreachable,  # node busy: not taken
    0xC3: OutcomeUnknown,  # time-out within the BMC
    0xCE: OutcomeUnknown,  # done, perhaps; no answer could be made
    0xFF: OutcomeUnknown,  # unspecified error
}
"""Every other completion code is a refusal. Source: section 5.2."""

_NO_TIMEOUT: Final = (0x00, 0x08, 0x03, 0x08)
"""Keeps boot flags valid longer than the 60 s after which they lapse. Source: section 28.13, parameter 3.

Servers' self-tests take minutes. A BMC may not know the parameter: its refusal is let pass.
"""

# -- the commands: network function, command, data ---------------------------------------------------------------------

_GET_CHASSIS_STATUS: Final = (0x00, 0x01)
_CHASSIS_CONTROL: Final = (0x00, 0x02)
_CONTROLS: Final[Mapping[Power, int]] = {Power.OFF: 0x00, Power.ON: 0x01}
_SOFT_OFF: Final = 0x05
_SET_BOOT_FLAGS: Final = (0x00, 0x08, 0x05)
_GET_BOOT_FLAGS: Final = (0x00, 0x09, 0x05, 0x00, 0x00)
_DEACTIVATE_CONSOLE: Final = (0x06, 0x49, 0x01, 0x01, 0x00, 0x00, 0x00, 0x00)
_NOT_ACTIVE: Final = 0x80
"""Sources: sections 28.2, 28.3, 28.12, 28.13, 24.2."""

_VALID, _PERSISTENT, _UEFI = 0x80, 0x40, 0x20
_FLAGS_THAT_COUNT: Final = _VALID | _PERSISTENT | _UEFI
_SELECTORS: Final[Mapping[BootDevice, int]] = {BootDevice.NETWORK: 1, BootDevice.DISK: 2}
_SELECTOR_BITS: Final = 0x3C

# -- what ipmitool says; all seen in 1.8.19 ----------------------------------------------------------------------------

_ANSWER: Final = re.compile(rb"(?: [0-9a-f]{2}){0,64}(?:\n(?: [0-9a-f]{2}){1,64})*\n?", re.ASCII)
_COMPLETION: Final = re.compile(r"^Unable to send RAW command \(.* rsp=0x([0-9a-f]{1,2})\): ", re.ASCII | re.MULTILINE)
_SENT: Final = "RAW REQ ("
"""Said before the command goes out, not before: what fails earlier has done nothing."""
_FOR_NOW: Final = re.compile("insufficient resources for session|no response from RAKP", re.ASCII)
"""What makes a refusal one for now. A slow BMC answers the first of two equal questions when it has drawn other random
numbers for the second: then a right password looks wrong.
"""
_REFUSALS: Final = re.compile(
    r"RAKP 2 HMAC is invalid|RAKP [24] message (?:has invalid|indicates an error)|Error in open session response"
    r"|Set Session Privilege Level to \w+ failed: |Info: (?:SOL payload|cannot activate)|Error activating SOL payload:",
    re.ASCII,
)
_NO_ANSWER: Final = re.compile(
    r"Unable to establish IPMI|Address lookup for|Set Session Privilege Level to \w+ failed$"
)
_ESCAPE: Final = ord("~")
_ACTIVATE_CONSOLE: Final = ("-e", chr(_ESCAPE), "sol", "activate")
_CONSOLE_SENT: Final = "No response activating SOL payload"
_CONSOLE_READY: Final = re.compile(rb"\[SOL Session operational\.  Use ~\? for help\]\r?\n")

_HOST_LABEL: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?", re.ASCII)
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)
_USERNAME: Final = re.compile(rb"[!-,.-~][!-~]{0,15}")
"""At most 16 characters (section 22.28); none that begins an option."""
_MOST_PASSWORD_BYTES: Final = 20
"""Source: section 22.30."""


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a BMC is, and who we are to it. Made by `parse` alone, so that each word is safe in an argument list."""

    host: str
    port: str
    cipher_suite: str
    username: str
    password: Secret

    @classmethod
    def parse(cls, access: Access) -> "_Target":
        """Return the target. Raises WrongUse."""
        address = {"port": "623", "cipher_suite": CIPHER_SUITES[0], **access.address}
        _check("its address", 'just "host", "port", "cipher_suite"', set(address) == {"host", "port", "cipher_suite"})
        credentials = {name: secret.reveal() for name, secret in access.credentials.items()}
        _check("its credentials", 'just "username", "password"', set(credentials) == {"username", "password"})
        # A host that begins with "-" would be an option to ipmitool.
        _check("its host", "an address or a host name", is_host(address["host"]))
        _check("its port", "1 to 65535", bool(_PORT.fullmatch(address["port"])) and int(address["port"]) < 65536)
        _check("its cipher suite", " or ".join(CIPHER_SUITES), address["cipher_suite"] in CIPHER_SUITES)
        _check("its user", "1 to 16 visible characters, no - first", bool(_USERNAME.fullmatch(credentials["username"])))
        password = credentials["password"]
        # ipmitool reads one line of it: a line break would cut it short unseen.
        usable = 0 < len(password) <= _MOST_PASSWORD_BYTES and not set(password) & set(b"\0\r\n")
        _check("its password", f"1 to {_MOST_PASSWORD_BYTES} bytes in one line", usable)
        return cls(**address, username=credentials["username"].decode(), password=access.credentials["password"])

    @contextmanager
    def command(self, *words: str) -> Iterator[tuple[list[str], int]]:
        """Give what to run, and the file descriptor it wants: a pipe with the password, that no other process sees."""
        reading, writing = os.pipe()
        try:
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(self.password.reveal())
            yield (
                [
                    *(_find_program(), "-I", "lanplus", "-H", self.host, "-p", self.port, "-U", self.username),
                    *("-C", self.cipher_suite, "-f", f"/dev/fd/{reading}", "-N", _WAIT_SECONDS, "-R", _TRIES, *words),
                ],
                reading,
            )
        finally:
            os.close(reading)


class IpmiBmc:
    """A `Bmc`. Nothing is kept between calls; each opens and ends a session of its own."""

    def __init__(self, access: Access) -> None:
        """Raises WrongUse for an access that cannot be, ServiceUnready without ipmitool."""
        _find_program()
        self._target = _Target.parse(access)

    def read_power(self) -> Power:
        """Return whether the node has power. Raises DeviceUnreachable for want of an answer: nothing was changed."""
        try:
            status = self._ask("reading its power", _GET_CHASSIS_STATUS)
        except OutcomeUnknown as cause:
            raise DeviceUnreachable(cause.doing, expected=cause.expected, found=cause.found) from cause
        if not 3 <= len(status) <= 4:
            self._fail(DeviceGarbled, "reading its power", "3 or 4 bytes", status.hex())
        return Power.ON if status[0] & 0x01 else Power.OFF

    def set_power(self, wanted: Power) -> None:
        """Ask for power on or off."""
        self._control(f"switching it {wanted.value}", _CONTROLS[wanted], wanted)

    def shut_down(self) -> None:
        """Press its power button, shortly."""
        self._control("shutting it down", _SOFT_OFF, Power.OFF)

    def _control(self, doing: str, control: int, end: Power) -> None:
        try:
            self._ask(doing, (*_CHASSIS_CONTROL, control))
        except _NotNow:
            if self.read_power() is not end:
                raise

    def set_boot_device(self, device: BootDevice, *, once: bool) -> None:
        """Set the boot flags, for UEFI, and read them back. Raises DeviceGarbled if they are others."""
        doing = f"having it boot from {device.value}"
        selector = _SELECTORS.get(device)
        flags, number = 0, 0
        if selector is not None:
            flags, number = _VALID | _UEFI | (0 if once else _PERSISTENT), selector << 2
            with suppress(DeviceRefused):
                self._ask(doing, _NO_TIMEOUT)
        self._ask(doing, (*_SET_BOOT_FLAGS, flags, number, 0, 0, 0))
        found = self._ask(doing, _GET_BOOT_FLAGS)
        if len(found) != 7 or found[1] & 0x7F != 0x05:
            self._fail(DeviceGarbled, doing, "the boot flags", found.hex())
        told = found[2] & _FLAGS_THAT_COUNT, found[3] & _SELECTOR_BITS
        # Flags that are not valid say nothing, whatever else is in them.
        if told != (flags, number) and (flags, told[0] & _VALID) != (0, 0):
            self._fail(DeviceGarbled, doing, f"boot flags {flags:02x} {number:02x}", f"{told[0]:02x} {told[1]:02x}")

    def open_console(self) -> Console:
        """Take the node's serial line, also from a session that was left behind."""
        self._ask("taking its console", _DEACTIVATE_CONSOLE, harmless={_NOT_ACTIVE})
        return _SerialOverLan(self._target)

    def close(self) -> None:
        """There is nothing to give up."""

    def _ask(self, doing: str, request: Collection[int], harmless: Collection[int] = ()) -> bytes:
        """Return the data that the BMC answers, empty for a completion code that is `harmless`. Raises DeviceError."""
        output, errors = self._run(doing, request)
        if refused := _COMPLETION.search(errors):
            completion = int(refused[1], 16)
            if completion in harmless:
                return b""
            kind = _NotNow if completion == _IN_THIS_STATE else _COMPLETIONS.get(completion, DeviceRefused)
            self._fail(kind, doing, "it done", f"completion code {completion:#04x}")
        if output is None:
            kind = OutcomeUnknown if _SENT in errors else _failure(errors, DeviceGarbled)
            self._fail(kind, doing, "an answer", _last_words(errors))
        if not _ANSWER.fullmatch(output):
            self._fail(DeviceGarbled, doing, "bytes in hexadecimal", repr(output))
        return bytes.fromhex(output.decode("ascii"))

    def _run(self, doing: str, request: Collection[int]) -> tuple[bytes | None, str]:
        """Return what ipmitool printed, None if it failed or took too long, and what it complained of."""
        words = ["-v", "raw", *(f"{byte:#04x}" for byte in request)]
        with (
            self._target.command(*words) as (command, password),
            _start(command, password, subprocess.DEVNULL, subprocess.PIPE) as process,
        ):
            try:
                output, errors = process.communicate(timeout=LIMIT_SECONDS)
            except subprocess.TimeoutExpired:
                _kill(process)
                words_found = _text(process.communicate()[1])
                kind = OutcomeUnknown if _SENT in words_found else DeviceUnreachable
                self._fail(kind, doing, f"an answer within {LIMIT_SECONDS:g} s", _last_words(words_found))
            except BaseException:
                _kill(process)
                raise
        return (output if process.returncode == 0 else None), _text(errors)

    def _fail(self, kind: type[DeviceError], doing: str, expected: str, found: str) -> NoReturn:
        _fail(self._target, kind, doing, expected, found)


class _NotNow(DeviceRefused):
    """The node is in a state in which the BMC does not do that."""


class _SerialOverLan:
    """A `Console`: `ipmitool sol activate` on a terminal of its own.

    Ends with its program and its program with it: when the terminal is closed, be it by a crash of this process,
    ipmitool deactivates the console and ends its session.
    """

    def __init__(self, target: _Target) -> None:
        """Raises DeviceError."""
        self._target = target
        self._reading, self._writing, self._ending = threading.Lock(), threading.Lock(), threading.Lock()
        self._line_begins = True
        with ExitStack() as undo:
            self._terminal, far_end = pty.openpty()
            undo.callback(os.close, self._terminal)
            with os.fdopen(far_end, "rb", buffering=0), target.command(*_ACTIVATE_CONSOLE) as (command, password):
                # Before the program does the same: nothing typed early is echoed or changed.
                tty.setraw(far_end)
                os.set_blocking(self._terminal, False)
                self._process = _start(command, password, far_end, far_end)
            undo.pop_all()
        self._closing = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._open = True
        self._last_words = ""
        try:
            self._early = self._await_ready()
        except BaseException:
            self.close()
            raise

    def _await_ready(self) -> bytes:
        """Return what the node said right after the console was opened; before that, no word is the node's."""
        seen = b""
        limit = time.monotonic() + LIMIT_SECONDS
        while (ready := _CONSOLE_READY.search(seen)) is None:
            said = self._read(limit - time.monotonic())
            if not said:
                self._fail(DeviceUnreachable, "a console", f"none within {LIMIT_SECONDS:g} s")
            seen += said
        return seen[ready.end() :]

    def read(self, seconds: float) -> bytes:
        """Return what the node said; empty if nothing for `seconds`. Raises DeviceUnreachable when the line ended."""
        with self._reading:
            early, self._early = self._early, b""
            return early or self._read(seconds)

    def _read(self, seconds: float) -> bytes:
        if not self._await_terminal(select.POLLIN, seconds):
            return b""
        try:
            return os.read(self._terminal, READ_BYTES)
        except OSError:
            # EIO: the far end was closed, as ipmitool ended.
            self._fail_ended()

    def write(self, keys: bytes) -> None:
        """Send keys. Raises DeviceUnreachable when the line ended, OutcomeUnknown if it does not take them in time."""
        with self._writing:
            rest = self._escape(keys)
            limit = time.monotonic() + LIMIT_SECONDS
            while rest:
                if not self._await_terminal(select.POLLOUT, limit - time.monotonic()):
                    self._fail(OutcomeUnknown, "the keys taken", f"{len(rest)} left after {LIMIT_SECONDS:g} s")
                try:
                    rest = rest[os.write(self._terminal, rest) :]
                except BlockingIOError:
                    pass
                except OSError:
                    self._fail_ended()

    def _escape(self, keys: bytes) -> bytes:
        """Return what has ipmitool send exactly `keys`.

        At the start of a line it takes "~" for the start of a command, such as "~." to end; doubled, for itself. A
        tenant at the console must not command a program of ours.
        """
        out = bytearray()
        for key in keys:
            if self._line_begins and key == _ESCAPE:
                out.append(key)
            out.append(key)
            self._line_begins = key in b"\r\n"
        return bytes(out)

    def _await_terminal(self, event: int, seconds: float) -> bool:
        """Say whether `event` came within `seconds`. Raises DeviceUnreachable if the console is, or gets, closed."""
        ready: dict[int, int] = {}
        if self._open:
            poll = select.poll()
            poll.register(self._terminal, event)
            poll.register(self._closing, select.POLLIN)
            ready = dict(poll.poll(max(0.0, seconds) * 1000))
        if not self._open or self._closing in ready:
            self._fail(DeviceUnreachable, "an open console", "one that was closed")
        if event == select.POLLOUT and ready.get(self._terminal, 0) & select.POLLHUP:
            # Keys would still be taken, by nobody. What was said before the end can still be read.
            self._fail_ended()
        return bool(ready)

    def close(self) -> None:
        """Give the line back; ends a `read` and a `write` that wait. Harmless when done twice."""
        with self._ending:
            if not self._open:
                return
            os.eventfd_write(self._closing, 1)
            with self._reading, self._writing, self._process as process:
                self._open = False
                os.close(self._terminal)
                os.close(self._closing)
                try:
                    process.wait(_CLOSE_SECONDS)
                except subprocess.TimeoutExpired:
                    _kill(process)

    def _fail_ended(self) -> NoReturn:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_CLOSE_SECONDS)
        self._last_words += _read_what_is_there(self._process)
        kind = OutcomeUnknown if _CONSOLE_SENT in self._last_words else _failure(self._last_words, DeviceUnreachable)
        self._fail(kind, "an open console", _last_words(self._last_words))

    def _fail(self, kind: type[DeviceError], expected: str, found: str) -> NoReturn:
        _fail(self._target, kind, "its console", expected, found)


def connect(access: Access) -> Bmc:
    """Return the BMC. Raises WrongUse, ServiceUnready."""
    return IpmiBmc(access)


# -- the program and its words -----------------------------------------------------------------------------------------

_ENVIRONMENT: Final = {"LC_ALL": "C"}
"""Nothing of ours: what else is in the service's environment, ipmitool has no business to know."""


def _find_program() -> str:
    program = shutil.which("ipmitool")
    if program is None:
        raise ServiceUnready("speaking IPMI", expected="the program ipmitool (Debian's package ipmitool)", found="none")
    return program


def _start(command: list[str], password: int, source: int, target: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603  each word checked by _Target.parse
        command,
        stdin=source,
        stdout=target,
        stderr=subprocess.PIPE,
        pass_fds=[password],
        env=_ENVIRONMENT,
        start_new_session=True,
        # SIGPIPE stays ignored: when we have crashed, its first complaint must not kill it before it has signed out.
        restore_signals=False,
    )


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the program and what it may have started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _failure(errors: str, otherwise: type[DeviceError]) -> type[DeviceError]:
    """Return what it means that ipmitool ended with these words, and no command was sent."""
    if _FOR_NOW.search(errors):
        return DeviceUnreachable
    if _REFUSALS.search(errors):
        return DeviceRefused
    return DeviceUnreachable if any(map(_NO_ANSWER.search, errors.splitlines())) else otherwise


def _last_words(errors: str) -> str:
    return " / ".join(line.strip() for line in errors.strip().splitlines()[-3:]) or "it said nothing"


def _read_what_is_there(process: subprocess.Popen[bytes]) -> str:
    """Return what the program complained of so far, without waiting."""
    if process.stderr is None:
        return ""
    os.set_blocking(process.stderr.fileno(), False)
    return _text(process.stderr.read() or b"")


def _text(words: bytes) -> str:
    return words.decode("utf-8", "replace")


def _fail(target: _Target, kind: type[DeviceError], doing: str, expected: str, found: str) -> NoReturn:
    raise kind(f"{doing}, of the BMC at {target.host}", expected=expected, found=found)


def _check(what: str, expected: str, fits: bool) -> None:  # noqa: FBT001  what was found must not be shown
    if not fits:
        raise WrongUse(f"reaching a BMC by IPMI: {what}", expected=expected, found="another")


def is_host(text: str) -> bool:
    """Say whether `text` is an IP address or a host name, and nothing else."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return len(text) <= 253 and all(_HOST_LABEL.fullmatch(label) for label in text.split("."))
    return "%" not in text
