"""Real boots: from the network into Linux, weighed by the evidence core, alone and side by side on VLANs."""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sushy
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from steelyard.evidence.eventlog.events import EventType
from steelyard.evidence.eventlog.parse import parse_event_log
from steelyard.evidence.eventlog.replay import ReplayedLog, verify_log
from steelyard.evidence.tpm.keys import AssertedByOperator, BoundKey, check_attestation_key
from steelyard.evidence.tpm.nonce import PlainNonce
from steelyard.evidence.tpm.public import parse_tpm2b_public
from steelyard.evidence.tpm.quote import SignedQuote, verify_quote
from steelyard.lab.build import build_boot_disk
from steelyard.lab.namespace import inside
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.pcrs import PcrSelection, PcrValues
from tests.lab_rack.guest import UP, Guest, NodeTpm, guest_image
from tests.lab_rack.rack import Rack, wait_until

pytestmark = pytest.mark.rack

BANK = HashAlgorithm.SHA256
BOOT_PCRS = frozenset(range(10))
BOOT_VLAN = 30


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("image") / "guest.efi"
    file.write_bytes(guest_image())
    return file


@pytest.fixture(scope="session")
def boot_service(standing_rack: Rack, image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """DHCP and HTTP on the boot VLAN, that hand out the image."""
    folder = tmp_path_factory.mktemp("boot")
    standing_rack.lab("service", str(BOOT_VLAN), "10.30.0.1/24")
    dnsmasq = [
        *("dnsmasq", "--keep-in-foreground", "--port=0", "--conf-file=/dev/null", "--log-facility=-"),
        *(f"--interface=vlan{BOOT_VLAN}", "--bind-interfaces", "--dhcp-range=10.30.0.10,10.30.0.99,1h"),
        *(f"--dhcp-leasefile={folder / 'leases'}", f"--pid-file={folder / 'pid'}", "--user=root"),
        *("--dhcp-match=set:efihttp,option:client-arch,16", "--dhcp-option-force=tag:efihttp,60,HTTPClient"),
        "--dhcp-boot=tag:efihttp,http://10.30.0.1/guest.efi",
    ]
    web = [sys.executable, "-m", "http.server", "80", "--bind", "10.30.0.1", "--directory", str(image.parent)]
    with (folder / "log").open("wb") as log:
        services = [
            subprocess.Popen(inside(standing_rack.namespace, command), stdout=log, stderr=log)
            for command in (dnsmasq, web)
        ]
        try:
            yield
        finally:
            for service in services:
                service.kill()
                service.wait()


@pytest.fixture
def bootable(rack: Rack, image: Path) -> Rack:
    """The rack, both nodes with a disk that the image can be booted from, and told to."""
    for name in ("n1", "n2"):
        build_boot_disk(rack.root / "nodes" / name / "disk.img", image)
        rack.ipmi(name, "chassis", "bootdev", "disk", "options=efiboot,persistent")
    return rack


def _start(rack: Rack, name: str) -> Guest:
    begin = len(rack.console(name))
    rack.ipmi(name, "power", "on")
    return Guest.await_up(rack, name, begin)


@dataclass(frozen=True)
class Weighed:
    """What a boot was found to be.

    endorsement_key  SubjectPublicKeyInfo, DER, of the RSA key that the TPM makes from its seed.
    boot             the log's events that a quote stands behind.
    """

    endorsement_key: bytes
    boot: ReplayedLog
    reset_count: int


def _weigh(rack: Rack, name: str, guest: Guest, folder: Path, nonce: bytes) -> Weighed:
    """Return what the node's TPM and event log say of this boot, verified."""
    folder.mkdir()
    tpm = NodeTpm(rack, name, folder)
    tpm.run("tpm2_createek", "-c", "ek.ctx", "-G", "rsa", "-u", "ek.der", "-f", "der")
    tpm.run("tpm2_flushcontext", "-t")
    attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|sign"
    tpm.run("tpm2_createprimary", "-C", "o", "-G", "ecc256:ecdsa-sha256:null", "-a", attributes, "-c", "ak.ctx")
    tpm.run("tpm2_readpublic", "-c", "ak.ctx", "-o", "ak.pub")
    selection = f"sha256:{','.join(map(str, sorted(BOOT_PCRS)))}"
    tpm.run("tpm2_quote", "-c", "ak.ctx", "-l", selection, "-q", nonce.hex(), "-m", "quote", "-s", "signature")
    tpm.run("tpm2_flushcontext", "-t")
    values = {
        index: bytes.fromhex(guest.ask("run", f"cat /sys/class/tpm/tpm0/pcr-sha256/{index}")) for index in BOOT_PCRS
    }
    key = check_attestation_key(parse_tpm2b_public((folder / "ak.pub").read_bytes()))
    quoted = verify_quote(
        SignedQuote((folder / "quote").read_bytes(), (folder / "signature").read_bytes()),
        BoundKey(key.signing, AssertedByOperator()),
        PlainNonce(nonce),
        PcrSelection(BANK, BOOT_PCRS),
        PcrValues(BANK, values),
    )
    log = parse_event_log(guest.read("/sys/kernel/security/tpm0/binary_bios_measurements"))
    return Weighed(
        (folder / "ek.der").read_bytes(), verify_log(log, quoted.pcrs, frozenset()), quoted.clock.reset_count
    )


def _certified_key(rack: Rack, name: str) -> bytes:
    """Return the key that the maker certified for this node's TPM, and that the inventory holds."""
    certificate = x509.load_pem_x509_certificate(rack.node(name).endorsement_certificates["rsa2048"].encode())
    return certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _pcrs_that_differ(one: Weighed, other: Weighed) -> set[int]:
    return {index for index in BOOT_PCRS if one.boot.pcrs[index] != other.boot.pcrs[index]}


@pytest.mark.usefixtures("boot_service")
def test_two_nodes_boot_from_the_network_and_are_what_their_tpms_say(rack: Rack, tmp_path: Path) -> None:
    """One powered by ipmitool, one by sushy; each event log replays to what its TPM quotes."""
    rack.put_on(BOOT_VLAN, "n1", "n2")
    begins = {name: len(rack.console(name)) for name in ("n1", "n2")}
    rack.ipmi("n1", "chassis", "bootdev", "pxe", "options=efiboot")
    rack.ipmi("n1", "power", "on")
    rack.redfish("n2", lambda system: system.reset_system(sushy.ResetType.ON))
    guests = {name: Guest.await_up(rack, name, begin) for name, begin in begins.items()}
    weighed = {
        name: _weigh(rack, name, guest, tmp_path / name, f"nonce of {name}".encode()) for name, guest in guests.items()
    }
    for name, found in weighed.items():
        assert found.endorsement_key == _certified_key(rack, name)
        loaded = [
            event for event in found.boot.events if event.claimed_type == EventType.EV_EFI_BOOT_SERVICES_APPLICATION
        ]
        assert loaded, "the image that came over the network was measured"
    # Nodes of a class differ in their boot entries alone, which hold the card's address.
    assert _pcrs_that_differ(weighed["n1"], weighed["n2"]) == {1}

    # The nodes as they are, on VLANs.
    for number, name in enumerate(("n1", "n2"), start=1):
        guests[name].ask("run", f"ip address add 10.40.0.{number}/24 dev eth0")
    rack.put_on(40, "n1", "n2")
    assert _pings(guests["n1"])
    rack.put_on(41, "n2")
    assert not _pings(guests["n1"])
    rack.put_on(40, "n2")
    assert _pings(guests["n1"])
    for name in guests:
        rack.set_port(name, protected="true")
    assert not _pings(guests["n1"])
    rack.shut("n2")
    assert not _pings(guests["n1"])
    for guest in guests.values():
        guest.close()


def _pings(guest: Guest) -> bool:
    """Say whether 10.40.0.2 answers any of three tries."""
    answer = guest.ask("run", "ip neigh flush dev eth0; ping -c 3 -W 1 10.40.0.2")
    match = re.search(r"(\d) packets received", answer)
    assert match, answer
    return match[1] != "0"


def test_a_power_cycle_resets_the_pcrs_and_keeps_the_endorsement_key(bootable: Rack, tmp_path: Path) -> None:
    guest = _start(bootable, "n1")
    first = _weigh(bootable, "n1", guest, tmp_path / "first", b"one")
    NodeTpm(bootable, "n1", tmp_path).run("tpm2_pcrextend", f"16:sha256={'11' * 32}")
    extended = guest.ask("run", "cat /sys/class/tpm/tpm0/pcr-sha256/16")
    assert extended != "0" * 64
    guest.close()
    begin = len(bootable.console("n1"))
    bootable.ipmi("n1", "power", "cycle")
    guest = Guest.await_up(bootable, "n1", begin)
    second = _weigh(bootable, "n1", guest, tmp_path / "second", b"two")
    assert guest.ask("run", "cat /sys/class/tpm/tpm0/pcr-sha256/16") == "0" * 64
    assert second.endorsement_key == first.endorsement_key == _certified_key(bootable, "n1")
    assert _pcrs_that_differ(first, second) == set()
    assert second.reset_count > first.reset_count
    guest.close()


def test_once_is_used_up_when_the_machine_resets_itself(bootable: Rack) -> None:
    bootable.ipmi("n1", "chassis", "bootdev", "disk", "options=efiboot")
    guest = _start(bootable, "n1")
    begin = len(bootable.console("n1"))
    guest.tell("run", "reboot -f")
    wait_until("it boots from the network", lambda: ">>Start HTTP" in bootable.console_since("n1", begin), 60)
    assert bootable.ipmi_power("n1") == "on"
    guest.close()


def test_a_system_that_powers_off_is_off(bootable: Rack) -> None:
    guest = _start(bootable, "n1")
    guest.tell("run", "poweroff -f")
    wait_until("the BMC says off", lambda: bootable.ipmi_power("n1") == "off")
    assert bootable.true_power("n1") == "off"
    guest.close()


def test_the_power_button_is_pressed_and_no_more(bootable: Rack) -> None:
    guest = _start(bootable, "n1")
    guest.ask("run", "dd if=/dev/input/event0 of=/pressed bs=24 count=1 2>/dev/null &")
    bootable.ipmi("n1", "power", "soft")
    wait_until("the system hears it", lambda: guest.ask("run", "test -s /pressed && echo pressed") == "pressed")
    assert bootable.ipmi_power("n1") == "on"
    guest.close()


# -- faults ------------------------------------------------------------------------------------------------------------


def test_modified_firmware_boots_and_shows_in_pcr_0_alone(bootable: Rack, tmp_path: Path) -> None:
    good = _weigh(bootable, "n1", guest := _start(bootable, "n1"), tmp_path / "good", b"good")
    guest.close()
    bootable.ipmi("n1", "power", "off")
    bootable.lab("fault", "n1", "modified-firmware")
    bad = _weigh(bootable, "n1", guest := _start(bootable, "n1"), tmp_path / "bad", b"bad")
    guest.close()
    assert _pcrs_that_differ(good, bad) == {0}
    assert bad.endorsement_key == good.endorsement_key


def test_another_tpm_has_another_endorsement_key(bootable: Rack, tmp_path: Path) -> None:
    bootable.lab("fault", "n1", "other-tpm")
    found = _weigh(bootable, "n1", guest := _start(bootable, "n1"), tmp_path / "other", b"other")
    guest.close()
    assert found.endorsement_key != _certified_key(bootable, "n1")


def test_another_image_is_booted_whatever_the_boot_order_says(rack: Rack, tmp_path: Path) -> None:
    other = tmp_path / "other.efi"
    other.write_bytes(guest_image("other"))
    rack.lab("fault", "n1", "other-image", "--image", str(other))
    rack.ipmi("n1", "chassis", "bootdev", "pxe", "options=efiboot")
    guest = _start(rack, "n1")
    assert "kind=other" in guest.ask("run", "cat /proc/cmdline")
    guest.close()


def test_a_node_that_never_boots_has_power_and_says_nothing(rack: Rack) -> None:
    rack.lab("fault", "n1", "never-boots")
    begin = len(rack.console("n1"))
    rack.ipmi("n1", "power", "on")
    # The other node, started after it, is at its firmware.
    other = len(rack.console("n2"))
    rack.ipmi("n2", "power", "on")
    wait_until("the other node boots", lambda: ">>Start HTTP" in rack.console_since("n2", other), 60)
    assert rack.ipmi_power("n1") == "on"
    assert rack.console_since("n1", begin) == ""


def test_a_node_that_hangs_stops_after_its_firmware(bootable: Rack) -> None:
    bootable.lab("fault", "n1", "hangs")
    begin, other = len(bootable.console("n1")), len(bootable.console("n2"))
    bootable.ipmi("n1", "power", "on")
    wait_until("its firmware loads", lambda: "BdsDxe: loading" in bootable.console_since("n1", begin), 60)
    bootable.ipmi("n2", "power", "on")
    wait_until("the other node comes up", lambda: UP in bootable.console_since("n2", other), 120)
    assert UP not in bootable.console_since("n1", begin)
    assert bootable.ipmi_power("n1") == "on"
