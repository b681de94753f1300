"""The IPMI driver's own: what it lets into an argument list, what it makes of ipmitool's words, what it leaves."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from steelyard.isolation.bmcs import ipmi
from steelyard.isolation.ports import Access, BootDevice, Power
from steelyard.lab.faults import BmcFault
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
from tests.conformance.bmcs.relay import relay
from tests.conformance.bmcs.rig import ADDRESS, PASSWORD, USER, SimulatedBmc
from tests.conformance.bmcs.subjects import children

CREDENTIALS = {"username": Secret(b"admin"), "password": Secret(b"sesame")}


# -- the access --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        {},
        {"host": ""},
        {"host": "-I"},
        {"host": "--help"},
        {"host": "192.0.2.1 -v"},
        {"host": "bmc;reboot"},
        {"host": "bmc\n"},
        {"host": "bmc..lan"},
        {"host": "fe80::1%eth0"},
        {"host": "a" * 64},
        {"host": "bmc", "port": "0"},
        {"host": "bmc", "port": "0623"},
        {"host": "bmc", "port": "65536"},
        {"host": "bmc", "port": "٦٢٣"},
        {"host": "bmc", "port": ""},
        {"host": "bmc", "cipher_suite": "0"},
        {"host": "bmc", "cipher_suite": "1"},
        {"host": "bmc", "colour": "blue"},
    ],
)
def test_an_address_that_is_none_is_refused(address: dict[str, str]) -> None:
    with pytest.raises(WrongUse):
        ipmi.connect(Access(address, CREDENTIALS))


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "bmc", "n1-bmc.rack7.example.org"])
def test_an_address_or_a_host_name_is_taken(host: str) -> None:
    ipmi.connect(Access({"host": host, "port": "6230", "cipher_suite": "3"}, CREDENTIALS)).close()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("username", b""),
        ("username", b"-E"),
        ("username", b"two words"),
        ("username", b"seventeen-letters"),
        ("username", "jürgen".encode()),
        ("password", b""),
        ("password", b"hush-hush\nand more"),
        ("password", b"hush-hush\0"),
        ("password", b"hush-hush, twenty-one"),
        ("key", b"hush-hush"),
    ],
)
def test_credentials_that_ipmitool_would_take_otherwise_are_refused_and_not_shown(name: str, value: bytes) -> None:
    with pytest.raises(WrongUse) as refused:
        ipmi.connect(Access({"host": "bmc"}, {**CREDENTIALS, name: Secret(value)}))
    assert "hush" not in str(refused.value)


def test_without_ipmitool_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServiceUnready, match="Debian's package ipmitool"):
        ipmi.connect(Access({"host": "bmc"}, CREDENTIALS))


@pytest.mark.parametrize("suite", ["3", "17"])
def test_both_cipher_suites_are_spoken(simulated: SimulatedBmc, suite: str) -> None:
    assert ipmi.connect(simulated.ipmi_access(cipher_suite=suite)).read_power() is Power.OFF


# -- what others on this computer see ----------------------------------------------------------------------------------


def test_the_password_is_in_no_argument_list_environment_or_file_and_the_services_environment_stays_its_own(
    simulated: SimulatedBmc, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://steelyard:sesame@localhost")
    console = ipmi.connect(simulated.ipmi_access()).open_console()
    try:
        [process] = children()
        about = Path(f"/proc/{process}")
        assert USER.encode() in (about / "cmdline").read_bytes().split(b"\0")
        assert PASSWORD.reveal() not in (about / "cmdline").read_bytes()
        assert (about / "environ").read_bytes() == b"LC_ALL=C\0"
        files = {str(file.readlink()) for file in (about / "fd").iterdir()}
        assert not {file for file in files if file.startswith("/") and not file.startswith("/dev/")}
    finally:
        console.close()


# -- time --------------------------------------------------------------------------------------------------------------


def test_a_program_that_takes_too_long_is_ended_before_it_sent_anything(
    simulated: SimulatedBmc, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ipmi, "LIMIT_SECONDS", 0.5)
    simulated.fail(BmcFault.SLOW)
    begin = time.monotonic()
    with pytest.raises(DeviceUnreachable, match=r"within 0\.5 s"):
        ipmi.connect(simulated.ipmi_access()).set_power(Power.ON)
    assert time.monotonic() - begin < 1.5


def test_a_program_that_takes_too_long_after_it_sent_something_leaves_the_outcome_unknown(
    simulated: SimulatedBmc, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ipmi, "LIMIT_SECONDS", 1.0)
    with relay(socket.SOCK_DGRAM, simulated.ipmi_port, lambda: simulated.machine.running) as port:
        with pytest.raises(OutcomeUnknown, match="within 1 s"):
            ipmi.connect(simulated.ipmi_access(port=str(port))).set_power(Power.ON)
        assert simulated.machine.running


def test_a_crash_of_ours_ends_the_console_at_both_ends(simulated: SimulatedBmc) -> None:
    script = f"""
import os, sys
from steelyard.isolation.bmcs import ipmi
from steelyard.isolation.ports import Access
from steelyard.model.secret import Secret
address = {dict(simulated.ipmi_access().address)!r}
console = ipmi.connect(
    Access(address, {{"username": Secret({USER.encode()!r}), "password": Secret(sys.stdin.buffer.read())}})
).open_console()
[program] = [int(word) for word in open(f"/proc/self/task/{{os.getpid()}}/children").read().split()]
print(program, flush=True)
os.kill(os.getpid(), {int(signal.SIGKILL)})
"""
    ours = subprocess.run([sys.executable, "-c", script], input=PASSWORD.reveal(), capture_output=True, timeout=60)
    assert ours.returncode == -signal.SIGKILL, ours.stderr
    limit = time.monotonic() + 20
    while Path(f"/proc/{int(ours.stdout)}").exists() or simulated.console_is_taken:
        assert time.monotonic() < limit
        time.sleep(0.01)


# -- what ipmitool says ------------------------------------------------------------------------------------------------


def say(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> ipmi.IpmiBmc:
    """Return a driver whose ipmitool is a shell script."""
    program = folder / "ipmitool"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", str(folder))
    return ipmi.IpmiBmc(Access({"host": ADDRESS}, CREDENTIALS))


@pytest.mark.parametrize(
    "script",
    [
        "",
        "echo",
        "echo ' 00'",
        "echo ' 01 00 00 00 00'",
        "echo '01 00 00'",
        "echo ' 01 0g 00'",
        "echo ' 01 00 00' ; echo 'Chassis Power is on'",
        "echo 'Chassis Power is on'",
        "printf ' 01 00 00\\0\\n'",
        "echo 'words that are in no version' >&2; exit 1",
        "kill -9 $$",
    ],
)
def test_what_is_no_answer_is_not_taken_for_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    with pytest.raises(DeviceGarbled):
        say(monkeypatch, tmp_path, script).read_power()


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("Unable to send RAW command (channel=0x0 netfn=0x0 lun=0x0 cmd=0x2 rsp=0xd4): Insufficient", DeviceRefused),
        ("Unable to send RAW command (channel=0x0 netfn=0x0 lun=0x0 cmd=0x2 rsp=0xc1): Invalid command", DeviceRefused),
        ("Unable to send RAW command (channel=0x0 netfn=0x0 lun=0x0 cmd=0x2 rsp=0xc0): Node busy", DeviceUnreachable),
        ("Unable to send RAW command (channel=0x0 netfn=0x0 lun=0x0 cmd=0x2 rsp=0xc3): Timeout", OutcomeUnknown),
        ("Unable to send RAW command (channel=0x0 netfn=0x0 lun=0x0 cmd=0x2 rsp=0xff): Unspecified", OutcomeUnknown),
        ("RAW REQ (channel=0x0 netfn=0x0 lun=0x0 cmd=0x2 data_len=1)", OutcomeUnknown),
        ("> RAKP 2 HMAC is invalid", DeviceRefused),
        ("RAKP 2 message indicates an error : unauthorized name", DeviceRefused),
        ("RAKP 4 message has invalid integrity check value", DeviceRefused),
        ("Error in open session response message : no matching cipher suite", DeviceRefused),
        ("Set Session Privilege Level to ADMINISTRATOR failed: Exceeds privilege level", DeviceRefused),
        ("Error in open session response message : insufficient resources for session", DeviceUnreachable),
        ("Set Session Privilege Level to ADMINISTRATOR failed", DeviceUnreachable),
        ("Error: Unable to establish IPMI v2 / RMCP+ session", DeviceUnreachable),
        ("> Error: no response from RAKP 1 message\n> RAKP 2 HMAC is invalid", DeviceUnreachable),
        ("Address lookup for bmc failed", DeviceUnreachable),
    ],
)
def test_each_failure_is_told_from_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: str, kind: type[DeviceError]
) -> None:
    with pytest.raises(kind):
        say(monkeypatch, tmp_path, f"echo '{words}' >&2; exit 1").set_power(Power.ON)


def test_a_question_without_an_answer_has_changed_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(DeviceUnreachable):
        say(monkeypatch, tmp_path, "echo 'RAW REQ (channel=0x0 netfn=0x0 lun=0x0 cmd=0x1)' >&2; exit 1").read_power()


def test_keys_typed_before_ipmitool_has_set_its_terminal_are_not_changed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ready = "printf '[SOL Session operational.  Use ~? for help]\\n'"
    console = say(monkeypatch, tmp_path, f"case $* in *raw*) echo;; *) {ready}; exec /bin/cat;; esac").open_console()
    try:
        keys = bytes(byte for byte in range(256) if byte != ord("~"))
        console.write(keys)
        echoed = b""
        while len(echoed) < len(keys) and (more := console.read(5)):
            echoed += more
        assert echoed == keys
    finally:
        console.close()


def test_a_refusal_in_the_present_state_is_one_if_that_is_not_the_end(simulated: SimulatedBmc) -> None:
    simulated.fail(BmcFault.LYING)
    with pytest.raises(DeviceRefused, match="0xd5"):
        ipmi.connect(simulated.ipmi_access()).shut_down()


@pytest.mark.parametrize("flags", ["80 04", "a0 08", "e0 04", "20 04", "00 00"])
def test_boot_flags_that_read_back_as_others_are_not_believed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: str
) -> None:
    program = f"case $* in *'0x00 0x09'*) echo ' 01 05 {flags} 00 00 00';; *) echo;; esac"
    with pytest.raises(DeviceGarbled):
        say(monkeypatch, tmp_path, program).set_boot_device(BootDevice.NETWORK, once=True)


def test_a_bmc_that_knows_no_time_for_boot_flags_is_fine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    refusal = "Unable to send RAW command (channel=0x0 netfn=0x0 lun=0x0 cmd=0x8 rsp=0x80): Unknown (0x80)"
    answers = "*'0x08 0x03'*) echo '" + refusal + "' >&2; exit 1;; *'0x00 0x09'*) echo ' 01 05 a0 04 00 00 00';;"
    bmc = say(monkeypatch, tmp_path, f"case $* in {answers} *) echo;; esac")
    bmc.set_boot_device(BootDevice.NETWORK, once=True)


def test_flags_that_are_not_valid_are_the_default_whatever_is_in_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bmc = say(monkeypatch, tmp_path, "case $* in *'0x00 0x09'*) echo ' 01 05 60 04 00 00 00';; *) echo;; esac")
    bmc.set_boot_device(BootDevice.DEFAULT, once=True)


def test_a_node_without_a_serial_line_refuses_a_console(simulated: SimulatedBmc) -> None:
    simulated.controller.console = None
    with pytest.raises(DeviceRefused, match="disabled"):
        ipmi.connect(simulated.ipmi_access()).open_console()


def test_keys_that_nobody_takes_are_told_in_the_end(simulated: SimulatedBmc, monkeypatch: pytest.MonkeyPatch) -> None:
    console = ipmi.connect(simulated.ipmi_access()).open_console()
    try:
        [program] = children()
        os.kill(program, signal.SIGSTOP)
        monkeypatch.setattr(ipmi, "LIMIT_SECONDS", 0.2)
        with pytest.raises(OutcomeUnknown, match="keys taken"):
            console.write(b"x" * 1_000_000)
    finally:
        monkeypatch.setattr(ipmi, "_CLOSE_SECONDS", 0.2)
        console.close()
