"""Network boot with a real dnsmasq and real clients: who gets what, and who gets nothing."""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest

from steelyard.imaging.netboot.netboot import Netboot
from steelyard.imaging.netboot.plan import AirlockBoot, BootNetwork, DirectBoot, DiskBoot, IpxeBoot
from steelyard.imaging.ports import IscsiAccess
from steelyard.lab.namespace import inside
from steelyard.model.errors import InUse, StorageUnready, WrongUse
from steelyard.model.secret import Secret
from tests.conformance.netboot.site import (
    HTTP_BOOT,
    IPXE,
    NETWORK,
    PXE,
    PXE_9,
    SERVICE,
    BootSite,
    add_foot,
    airlock_boot,
    datagrams,
    wait_until,
)
from tests.namespaces import ip, run_inside, within

ONE, TWO = "10.8.0.100", "10.8.0.101"
NAME = NETWORK.name


@pytest.fixture
def netboot(site: BootSite) -> Iterator[Netboot]:
    with site.netboot() as running:
        yield running


def direct(folder: Path, key: bytes = b"secret") -> DirectBoot:
    kernel = folder / "kernel"
    kernel.write_bytes(b"MZ" + key * 100)
    return DirectBoot(kernel, None, "quiet", {"luks.key": Secret(key)})


# -- addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("client", "file"),
    [
        (HTTP_BOOT, f"http://{SERVICE}/boot.efi"),
        (PXE, "boot.efi"),
        (PXE_9, "boot.efi"),
        (IPXE, f"http://{SERVICE}/boot.ipxe"),
    ],
    ids=["http", "pxe", "pxe-9", "ipxe"],
)
def test_a_known_card_gets_its_address_and_the_file_for_its_firmware(
    site: BootSite, netboot: Netboot, client: tuple[str, ...], file: str
) -> None:
    netboot.serve(NAME, [site.cards[0].boot(ONE, airlock_boot())])
    told = site.cards[0].ask_dhcp(*client)
    assert (told["ip"], told["boot_file"], told["siaddr"]) == (ONE, file, SERVICE)
    assert told.get("vendor") == ("HTTPClient" if client is HTTP_BOOT else None)
    assert told["lease"] == str(2**32 - 1)


def test_an_unknown_card_hears_nothing_at_all(site: BootSite, netboot: Netboot) -> None:
    known, unknown, _ = site.cards
    netboot.serve(NAME, [known.boot(ONE, airlock_boot())])
    with unknown.listen() as wire:
        assert unknown.ask_dhcp(*HTTP_BOOT, tries=2) == {}
        assert datagrams(wire) == []
        assert known.ask_dhcp(*HTTP_BOOT)["ip"] == ONE
        assert len(datagrams(wire)) == 4  # what is said to all: two questions, two answers


def test_a_known_card_is_told_whether_an_address_is_its_own_and_an_unknown_one_nothing(
    site: BootSite, netboot: Netboot
) -> None:
    known, unknown, _ = site.cards
    netboot.serve(NAME, [known.boot(ONE, airlock_boot())])
    # It was never given it by this dnsmasq, and has it all the same, as after a restart.
    assert known.demand(ONE) == "ack"
    assert known.demand(TWO) == "nak"
    assert unknown.demand(ONE) is None
    assert unknown.demand("192.0.2.1") is None


def test_what_is_said_over_dhcp_unties_no_address_from_its_card(site: BootSite, netboot: Netboot) -> None:
    card = site.cards[0]
    netboot.serve(NAME, [card.boot(ONE, airlock_boot())])
    assert card.ask_dhcp(*HTTP_BOOT)["ip"] == ONE
    [neighbour] = run_inside(site.namespace, "ip", "neigh", "show", "dev", NETWORK.interface).stdout.splitlines()
    assert neighbour.split() == [ONE, "lladdr", card.mac, "PERMANENT"]


def test_a_card_is_unknown_after_its_boot_has_ended(site: BootSite, netboot: Netboot) -> None:
    card = site.cards[0]
    netboot.serve(NAME, [card.boot(ONE, airlock_boot())])
    card.take(card.ask_dhcp(*HTTP_BOOT)["ip"])
    assert card.fetch("parameters")[0] == 200
    netboot.serve(NAME, [])
    assert card.fetch("parameters")[0] == 404
    assert card.fetch_by_tftp("boot.efi") is None
    assert card.ask_dhcp(*HTTP_BOOT, tries=2) == {}


def test_an_address_goes_to_another_card_at_once(site: BootSite, netboot: Netboot) -> None:
    one, two, _ = site.cards
    netboot.serve(NAME, [one.boot(ONE, airlock_boot())])
    assert one.ask_dhcp(*HTTP_BOOT)["ip"] == ONE
    netboot.serve(NAME, [two.boot(ONE, airlock_boot())])
    assert two.ask_dhcp(*HTTP_BOOT)["ip"] == ONE


def test_a_node_is_added_without_disturbing_the_others(site: BootSite, netboot: Netboot) -> None:
    one, two, _ = site.cards
    netboot.serve(NAME, [one.boot(ONE, airlock_boot())])
    before = site.servers()
    netboot.serve(NAME, [one.boot(ONE, airlock_boot()), two.boot(TWO, airlock_boot())])
    assert site.servers() == before
    assert two.ask_dhcp(*HTTP_BOOT)["ip"] == TWO


def test_a_node_that_boots_its_disk_gets_an_address_and_no_file(site: BootSite, netboot: Netboot) -> None:
    card = site.cards[0]
    netboot.serve(NAME, [card.boot(ONE, DiskBoot())])
    for client in (HTTP_BOOT, PXE, IPXE):
        told = card.ask_dhcp(*client)
        assert told["ip"] == ONE
        assert "boot_file" not in told
        assert "vendor" not in told
    card.take(ONE)
    assert card.fetch("boot.efi")[0] == 404
    assert card.fetch_by_tftp("boot.efi") is None


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_node_gets_its_files_by_exact_name_and_no_others(site: BootSite, netboot: Netboot, tmp_path: Path) -> None:
    (tmp_path / "kernel-of-one").write_bytes(b"kernel of one")
    one, two, _ = site.cards
    netboot.serve(
        NAME,
        [
            one.boot(ONE, airlock_boot(kernel=tmp_path / "kernel-of-one")),
            two.boot(TWO, AirlockBoot(b"parameters of two", {})),
        ],
    )
    one.take(ONE)
    two.take(TWO)
    image = (site.airlock / "airlock.efi").read_bytes()
    assert one.fetch("boot.efi") == (200, image)
    assert one.fetch("boot.efi", "HEAD") == (200, b"")
    assert one.fetch("airlock.squashfs") == (200, b"second stage")
    assert one.fetch("parameters") == (200, b"parameters of this node")
    assert two.fetch("parameters") == (200, b"parameters of two")
    assert one.fetch("kernel") == (200, b"kernel of one")
    refused = {
        two.fetch("kernel"),
        *(
            one.fetch(name)
            for name in ("", "nothing", "/kernel", "./kernel", "%6bernel", "kernel?", "../lock", "Kernel")
        ),
        *(one.fetch(name) for name in ("airlock.efi", "../airlock/airlock.efi", f"{tmp_path}/kernel-of-one")),
        one.fetch("kernel", "POST"),
        one.fetch("kernel", "DELETE"),
    }
    assert refused == {(404, b"")}


@pytest.mark.parametrize("options", [(), ("-b", "1400"), ("-b", "65464")], ids=["plain", "blksize", "too-large"])
def test_a_node_gets_its_boot_file_by_tftp_and_no_other(
    site: BootSite, netboot: Netboot, options: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "kernel").write_bytes(b"kernel")
    one, two, three = site.cards
    netboot.serve(NAME, [one.boot(ONE, airlock_boot(kernel=tmp_path / "kernel")), two.boot(TWO, direct(tmp_path))])
    for card, address in ((one, ONE), (two, TWO), (three, "10.8.0.102")):
        card.take(address)
    assert one.fetch_by_tftp("boot.efi", *options) == (site.airlock / "airlock.efi").read_bytes()
    own = two.fetch_by_tftp("boot.efi", *options)
    assert own is not None
    assert b"secret" in own
    for name in ("kernel", "parameters", "../airlock/airlock.efi", "/boot.efi", str(site.airlock / "airlock.efi")):
        assert one.fetch_by_tftp(name, *options) is None
    assert three.fetch_by_tftp("boot.efi", *options) is None


@pytest.mark.slow
def test_who_takes_the_address_of_another_gets_nothing_of_it(site: BootSite, netboot: Netboot, tmp_path: Path) -> None:
    one, two, three = site.cards
    netboot.serve(NAME, [one.boot(ONE, direct(tmp_path)), two.boot(TWO, airlock_boot())])
    one.take(ONE)
    assert one.fetch("boot.efi")[0] == 200
    ip(one.namespace, f"link set {one.name} down")
    for thief in (two, three):
        thief.take(ONE)
        run_inside(thief.namespace, "busybox", "arping", "-U", "-c", "1", "-I", thief.name, ONE, check=False)
        assert not thief.is_answered("boot.efi")
        assert thief.fetch_by_tftp("boot.efi", seconds=1.5) is None


def test_a_stranger_gets_the_same_answer_as_a_node_that_asks_for_what_is_not_its_own(
    site: BootSite, netboot: Netboot
) -> None:
    one, two, stranger = site.cards
    netboot.serve(NAME, [one.boot(ONE, airlock_boot()), two.boot(TWO, DiskBoot())])
    two.take(TWO)
    stranger.take("10.8.0.102")
    assert two.fetch("parameters") == stranger.fetch("parameters") == stranger.fetch("nothing") == (404, b"")


def test_what_comes_over_another_interface_is_not_heard(site: BootSite, netboot: Netboot) -> None:
    netboot.serve(NAME, [site.cards[0].boot(ONE, airlock_boot())])
    elsewhere = site.cards[2]
    ip(site.namespace, f"link set {elsewhere.name} nomaster", f"address add 10.9.0.1/24 dev {elsewhere.name}")
    ip(
        elsewhere.namespace,
        f"address add 10.9.0.9/24 dev {elsewhere.name}",
        f"route add {NETWORK.address.network} via 10.9.0.1",
    )
    with pytest.raises(ConnectionRefusedError):
        elsewhere.fetch("boot.efi")
    assert elsewhere.fetch_by_tftp("boot.efi", seconds=2) is None


def test_the_handover_is_in_nobodys_image_but_the_nodes_and_gone_with_its_boot(
    site: BootSite, netboot: Netboot, tmp_path: Path
) -> None:
    one, two, _ = site.cards
    boots = [one.boot(ONE, direct(tmp_path, b"secret of one"))]
    netboot.serve(NAME, boots)
    [image] = (site.root / "images").iterdir()
    assert (image.stat().st_mode & 0o777, image.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    netboot.serve(NAME, [*boots, two.boot(TWO, airlock_boot())])
    assert list((site.root / "images").iterdir()) == [image]
    one.take(ONE)
    two.take(TWO)
    assert b"secret of one" in one.fetch("boot.efi")[1]
    assert b"secret of one" not in two.fetch("boot.efi")[1]
    netboot.serve(NAME, [one.boot(ONE, direct(tmp_path, b"another secret"))])
    assert b"another secret" in one.fetch("boot.efi")[1]
    assert not image.exists()
    netboot.serve(NAME, [])
    assert list((site.root / "images").iterdir()) == []
    assert b"secret" not in b"".join(path.read_bytes() for path in site.root.rglob("*") if path.is_file())


def test_a_download_ends_with_its_boot(site: BootSite, netboot: Netboot, tmp_path: Path) -> None:
    card = site.cards[0]
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(200 * 2**20)
    netboot.serve(NAME, [card.boot(ONE, airlock_boot(large=large))])
    card.take(ONE)
    with card.connect() as wire:
        wire.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        assert wire.recv(12) == b"HTTP/1.1 200"
        netboot.serve(NAME, [])
        received = 0
        try:
            while more := wire.recv(2**16):
                received += len(more)
        except ConnectionResetError:
            pass
        assert received < 200 * 2**20


def test_a_node_that_boots_a_volume_alone_gets_its_password(site: BootSite, netboot: Netboot) -> None:
    one, two, _ = site.cards
    passwords = Secret(b"Password1"), Secret(b"Password2")
    access = IscsiAccess(
        IPv4Address(SERVICE), 3260, "iqn.2026-11.x:y", 10, "node", passwords[0], "target", passwords[1]
    )
    netboot.serve(NAME, [one.boot(ONE, IpxeBoot(access)), two.boot(TWO, airlock_boot())])
    one.take(ONE)
    two.take(TWO)
    _, script = one.fetch("boot.ipxe")
    assert script.decode().splitlines() == [
        "#!ipxe",
        "set username node",
        "set password Password1",
        "set reverse-username target",
        "set reverse-password Password2",
        f"sanboot iscsi:{SERVICE}::3260:a:iqn.2026-11.x:y || reboot",
    ]
    assert b"Password" not in two.fetch("boot.ipxe")[1]
    assert one.fetch("boot.efi")[1] == Path("/usr/lib/ipxe/snponly.efi").read_bytes()


# -- what cannot be served ---------------------------------------------------------------------------------------------


def test_one_that_cannot_be_served_does_not_keep_others_from_it(
    site: BootSite, netboot: Netboot, tmp_path: Path
) -> None:
    one, two, _ = site.cards
    broken = DirectBoot(tmp_path / "missing", None, "quiet", {})
    failures = netboot.serve(NAME, [one.boot(ONE, broken), two.boot(TWO, airlock_boot())])
    assert {node: type(failure) for node, failure in failures.items()} == {"n1": StorageUnready}
    assert two.ask_dhcp(*HTTP_BOOT)["ip"] == TWO
    assert one.ask_dhcp(*HTTP_BOOT, tries=2) == {}


def test_boots_that_contradict_each_other_are_refused_and_change_nothing(site: BootSite, netboot: Netboot) -> None:
    one, two, _ = site.cards
    netboot.serve(NAME, [one.boot(ONE, airlock_boot())])
    for boots in (
        [one.boot(ONE, DiskBoot()), two.boot(ONE, DiskBoot())],
        [one.boot(ONE, DiskBoot()), one.boot(TWO, DiskBoot())],
        [one.boot("10.8.0.1", DiskBoot())],
        [one.boot("10.8.0.200", DiskBoot())],
    ):
        with pytest.raises(WrongUse):
            netboot.serve(NAME, boots)
    with pytest.raises(WrongUse):
        netboot.serve("another", [])
    one.take(ONE)
    assert one.fetch("parameters")[0] == 200


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_a_dnsmasq_that_ends_is_started_again(site: BootSite, netboot: Netboot) -> None:
    card = site.cards[0]
    netboot.serve(NAME, [card.boot(ONE, airlock_boot())])
    [before] = site.servers()
    os.kill(before, signal.SIGKILL)
    wait_until("another answers", lambda: site.servers() not in ([], [before]) and netboot.trouble() == {})
    assert card.ask_dhcp(*HTTP_BOOT)["ip"] == ONE
    assert len(site.servers()) == 1


def test_a_missing_interface_is_told_and_used_when_it_comes(site: BootSite) -> None:
    card = site.cards[0]
    ip(site.namespace, f"link set {NETWORK.interface} name away")
    with site.netboot() as netboot:
        assert NETWORK.interface in netboot.trouble()[NAME]
        netboot.serve(NAME, [card.boot(ONE, airlock_boot())])
        assert site.servers() == []
        ip(site.namespace, f"link set away name {NETWORK.interface}")
        wait_until("there is no trouble any more", lambda: netboot.trouble() == {})
        assert card.ask_dhcp(*HTTP_BOOT)["ip"] == ONE
        card.take(ONE)
        assert card.fetch("parameters")[0] == 200


def test_an_interface_that_is_replaced_between_two_looks_is_used(site: BootSite, netboot: Netboot) -> None:
    card = site.cards[0]
    netboot.serve(NAME, [card.boot(ONE, airlock_boot())])
    foot = NETWORK.interface
    ip(
        site.namespace,
        "link add next type bridge",
        f"link set {card.name} master next",
        f"link del {foot}",
        f"link set next name {foot}",
        f"link set {foot} up",
        f"address add {NETWORK.address} dev {foot}",
    )
    card.take(ONE)
    wait_until("it is served again", lambda: card.is_answered("parameters"))
    assert card.ask_dhcp(*HTTP_BOOT)["ip"] == ONE


def test_an_interface_that_is_made_anew_is_used(site: BootSite, netboot: Netboot) -> None:
    card = site.cards[0]
    netboot.serve(NAME, [card.boot(ONE, airlock_boot())])
    ip(site.namespace, f"link del {NETWORK.interface}")
    wait_until("the trouble is told", lambda: NAME in netboot.trouble())
    add_foot(site.namespace)
    ip(site.namespace, f"link set {card.name} master {NETWORK.interface}")
    wait_until("there is no trouble any more", lambda: netboot.trouble() == {})
    card.take(ONE)
    assert card.fetch("parameters")[0] == 200
    assert card.ask_dhcp(*HTTP_BOOT)["ip"] == ONE


def test_an_address_that_is_no_longer_tied_is_tied_again(site: BootSite, netboot: Netboot) -> None:
    card = site.cards[0]
    netboot.serve(NAME, [card.boot(ONE, airlock_boot())])
    card.take(ONE)
    ip(site.namespace, f"neigh del {ONE} dev {NETWORK.interface}")
    wait_until("it is served again", lambda: card.fetch("parameters")[0] == 200)


def test_the_network_that_serves_is_served_by_one_process(site: BootSite, netboot: Netboot) -> None:
    del netboot
    another = Netboot(site.root, [NETWORK], None)
    with pytest.raises(InUse):
        within(site.namespace, another.start)
    another.stop()
    assert len(site.servers()) == 1
    assert (site.root / "images").exists()


_SERVE = """
import sys
from pathlib import Path
from steelyard.imaging.netboot.netboot import Netboot
from tests.conformance.netboot.site import NETWORK
netboot = Netboot(Path(sys.argv[1]), [NETWORK], None)
netboot.start()
print("serving", flush=True)
sys.stdin.read()
"""


def test_after_a_kill_nothing_serves_and_the_next_process_does(site: BootSite, tmp_path: Path) -> None:
    card = site.cards[0]
    killed = subprocess.Popen(
        inside(site.namespace, [sys.executable, "-c", _SERVE, str(site.root)]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    with killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == b"serving\n"
        killed.kill()
    wait_until("its dnsmasq has died with it", lambda: site.servers() == [])
    (site.root / "images" / "left").write_bytes(b"secret")
    with site.netboot() as netboot:
        assert list((site.root / "images").iterdir()) == []
        netboot.serve(NAME, [card.boot(ONE, direct(tmp_path))])
        assert card.ask_dhcp(*HTTP_BOOT)["ip"] == ONE
        assert len(site.servers()) == 1


def test_a_dnsmasq_that_was_left_is_ended_before_another_is_started(site: BootSite) -> None:
    place = site.root / "networks" / NAME
    place.mkdir(parents=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        left = subprocess.Popen(["sleep", "1000"], pass_fds=[lock.fileno()])
    try:
        with site.netboot() as netboot:
            assert left.wait(timeout=10) == -signal.SIGKILL
            assert netboot.trouble() == {}
            assert len(site.servers()) == 1
    finally:
        left.kill()
        left.wait()


def test_nothing_is_left_when_it_stops(site: BootSite, tmp_path: Path) -> None:
    with site.netboot() as netboot:
        netboot.serve(NAME, [site.cards[0].boot(ONE, direct(tmp_path))])
    assert site.servers() == []
    assert not (site.root / "images").exists()
    assert run_inside(site.namespace, "ip", "neigh", "show", "nud", "permanent", "dev", NETWORK.interface).stdout == ""
    wait_until("no port is open", lambda: run_inside(site.namespace, "ss", "-H", "-lntu").stdout == "")


def test_dnsmasq_is_another_user_that_sees_no_files_of_ours(site: BootSite, netboot: Netboot) -> None:
    del netboot
    [server] = site.servers()
    process = Path(f"/proc/{server}")
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
    assert 0 not in map(int, status["Uid"].split())
    rights = {name: int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    assert set(rights.values()) == {1 << 10 | 1 << 12}  # NET_BIND_SERVICE and NET_ADMIN
    assert status["NoNewPrivs"] == "1"
    assert sorted(path.name for path in (process / "root").iterdir()) == ["cards", "dev", "lib", "lib64", "usr"]


def test_networks_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    for name, interface, address in (
        (NAME, "svc1", "10.9.0.1/24"),
        ("green", "svc0", "10.9.0.1/24"),
        ("green", "svc1", "10.8.0.1/16"),
    ):
        first = IPv4Interface(address).network[20]
        other = BootNetwork(name, "green", interface, IPv4Interface(address), first, first)
        with pytest.raises(WrongUse):
            Netboot(tmp_path, [NETWORK, other], None)
