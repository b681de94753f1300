"""The imaging service as a provider starts it, in a network namespace of its own: everything is real but the nodes."""

import hashlib
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest

from steelyard.client import imaging, isolation
from steelyard.client.connection import Client, Service
from steelyard.client.imaging import DirectBoot, ImageSource, UploadSource, VolumeSource
from steelyard.client.imaging_objects import ImagingOperation
from steelyard.lab.namespace import inside
from steelyard.model.errors import SteelyardError
from steelyard.model.secret import Secret
from tests.conformance.imaging.test_contents import INITRAMFS, KERNEL, ext
from tests.lab_rack.rack import wait_until
from tests.namespaces import ip, namespaces, within

pytestmark = pytest.mark.slow

STEELYARD: Final = Path(sys.executable).with_name("steelyard")
URL: Final = "https://127.0.0.1:8443"
READY_SECONDS: Final = 60
KILLS: Final = 8
CONFIGURATION: Final = """
[imaging]
nbd_ports = "24000-24019"
iscsi_ports = "24020-24039"

[[imaging.networks]]
name = "boot"
project = "red"
interface = "svc0"
address = "10.8.0.1/24"
nodes = "10.8.0.100-10.8.0.199"
"""


@dataclass
class Installation:
    """The service, started and killed as often as is wanted."""

    namespace: str
    directory: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.directory.parent / "log").open("ab") as log:
            self.process = subprocess.Popen(
                inside(self.namespace, [str(STEELYARD), "serve", "--directory", str(self.directory)]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until("the service answers", self._answers, READY_SECONDS)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        with suppress(SteelyardError):
            self.ask(lambda client: list(client.every(isolation.list_projects())))
            return True
        return False

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(how)
        self.process.wait(40)

    def log(self) -> str:
        return (self.directory.parent / "log").read_text()

    def client(self) -> Client:
        token = Secret((self.directory / "provider.token").read_bytes().strip())
        return Client(Service(URL, self.directory / "authority.pem", token))

    def ask(self, act: Callable[[Client], object]) -> None:
        """Do something with a client that is in the namespace."""

        def do() -> None:
            with self.client() as client:
                act(client)

        within(self.namespace, do)


@contextmanager
def installation() -> Iterator[Installation]:
    with namespaces("service") as names, TemporaryDirectory(prefix="inst-") as folder:
        ip(
            names["service"],
            "link add svc0 type veth peer name nobody",
            "address add 10.8.0.1/24 dev svc0",
            "link set svc0 up",
            "link set nobody up",
        )
        there = Installation(names["service"], Path(folder) / "s")
        subprocess.run([STEELYARD, "init", "--directory", there.directory], check=True, capture_output=True)
        with (there.directory / "steelyard.toml").open("a") as configuration:
            configuration.write(CONFIGURATION)
        there.start()
        try:
            there.ask(lambda client: client.ask(isolation.put_project("red", node_quota=4, network_quota=4)))
            yield there
        finally:
            assert there.process is not None
            if there.process.poll() is None:
                there.kill(signal.SIGTERM)
            end_servers(there.directory)


def servers(directory: Path) -> list[int]:
    """Return the processes that serve volumes of an installation: each has a file of its opening for its log."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "exe").readlink().name in ("qemu-storage-daemon", "tgtd"):
                files = [str((process / "fd" / name).readlink()) for name in ("1", "2")]
                found += [int(process.name)] * any(file.startswith(f"{directory}/") for file in files)
    return found


def end_servers(directory: Path) -> None:
    """End what a test that failed has left."""
    for pid in servers(directory):
        subprocess.run(["kill", "-9", str(pid)], check=False)


def make_image(client: Client, disk: bytes) -> None:
    """Upload a disk as red's golden image."""
    digest = hashlib.sha256(disk).hexdigest()
    begun = client.ask(imaging.put_upload("red", "golden", size_bytes=len(disk), sha256=digest))
    while begun.received_bytes < len(disk):
        part = disk[begun.received_bytes :][: 4 << 20]
        begun = client.ask(imaging.add_part("red", "golden", begun.received_bytes, part))
    source = UploadSource("golden", "raw")
    client.wait_for(client.ask(imaging.make_image("red", "golden", source=source, sha256=digest)))


def bootable_disk(folder: Path) -> bytes:
    files = {"boot/vmlinuz-6.1": KERNEL, "boot/initrd.img-6.1": INITRAMFS, "etc/kernel/cmdline": b"root=LABEL=root\n"}
    ext(folder / "disk", files, 16 << 20)
    return (folder / "disk").read_bytes()


def work(client: Client, number: int) -> None:
    """Ask for something of everything: a clone, a boot by each protocol, a blank disk that is opened, a snapshot."""
    for protocol in ("nbd", "iscsi"):
        name = f"{protocol}-{number}"
        client.ask(imaging.make_volume("red", name, image="golden"))
        client.wait_for(client.ask(imaging.make_volume("red", name, image="golden")))
        what = DirectBoot(name, protocol, None, {"meta-data": "instance-id: x\n"})
        mac = f"02:00:00:{number:02x}:00:{len(protocol):02x}"
        client.ask(imaging.put_boot("red", f"node-{name}", network="boot", mac=mac, what=what))
    client.wait_for(client.ask(imaging.make_volume("red", f"blank-{number}", image=None, size_bytes=8 << 20)))
    client.ask(imaging.make_image("red", f"snapshot-{number}", source=VolumeSource(f"blank-{number}")))
    client.ask(imaging.make_image("red", f"copy-{number}", source=ImageSource("golden")))
    client.wait_for(
        client.ask(
            imaging.put_boot(
                "red",
                f"node-nbd-{number}",
                network="boot",
                mac=f"02:00:00:{number:02x}:00:03",
                what=DirectBoot(f"nbd-{number}", "nbd", None, {}),
            )
        )
    )
    client.wait_for(client.ask(imaging.end_boot("red", f"node-nbd-{number}")))


def settled(client: Client) -> bool:
    """Whether every operation has come to its end."""
    return all(operation.over for operation in client.every(imaging.list_operations(project="red")))


def failures(client: Client) -> list[ImagingOperation]:
    return [each for each in client.every(imaging.list_operations(project="red")) if each.state == "failed"]


def test_killed_at_any_moment_it_loses_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    chance = random.Random(5)  # noqa: S311 (moments, not secrets)
    with installation() as there:
        there.ask(lambda client: make_image(client, bootable_disk(tmp_path)))
        for number in range(KILLS):
            asked = threading.Thread(target=_ask_until_it_dies, args=(there, number))
            asked.start()
            asked.join(chance.uniform(0.05, 2.0))
            there.kill()
            asked.join()
            there.start()
        there.ask(lambda client: wait_until("all work ends", lambda: settled(client), 120))
        there.ask(lambda client: _check_all_is_as_told(client, there.directory))
        there.ask(_delete_all)
        imaging_directory = there.directory / "imaging"
        wait_until("nothing is left", lambda: _left(imaging_directory) == [] and servers(there.directory) == [], 60)


def _ask_until_it_dies(there: Installation, number: int) -> None:
    with suppress(SteelyardError):
        there.ask(lambda client: work(client, number))


def _check_all_is_as_told(client: Client, directory: Path) -> None:
    assert failures(client) == []
    volumes = list(client.every(imaging.list_volumes(project="red")))
    assert volumes
    assert {volume.state for volume in volumes} == {"ready"}
    opened = [volume for volume in volumes if volume.opening is not None]
    stored = directory / "imaging" / "store"
    assert len(list((stored / "volumes").iterdir())) == len(volumes)
    assert len(list((stored / "images").iterdir())) == len(list(client.every(imaging.list_images(project="red"))))
    # Each is served by its own: two programs for iSCSI, one for NBD.
    wanted = sum(2 if volume.opening and volume.opening.protocol == "iscsi" else 1 for volume in opened)
    wait_until("what is open is served, and nothing else", lambda: len(servers(directory)) == wanted, 30)
    for boot in client.every(imaging.list_boots(project="red")):
        assert boot.state == "ready"


def _delete_all(client: Client) -> None:
    for boot in list(client.every(imaging.list_boots(project="red"))):
        client.wait_for(client.ask(imaging.end_boot("red", boot.node)))
    for volume in list(client.every(imaging.list_volumes(project="red"))):
        client.ask(imaging.delete_volume("red", volume.name))
    for image in list(client.every(imaging.list_images(project="red"))):
        client.ask(imaging.delete_image("red", image.name))


def _left(imaging_directory: Path) -> list[str]:
    places = [
        "store/volumes",
        "store/images",
        "store/work",
        "shelf/boot",
        "shelf/work",
        "shelf/uploads",
        "shelf/fetched",
    ]
    there = [path for place in places for path in (imaging_directory / place).iterdir()]
    return [str(path) for path in [*there, *imaging_directory.glob("open/*/*/open/*")]]
