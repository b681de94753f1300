"""What an export by NBD is to the clients of others: nbd-client, libnbd, QEMU without TLS."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from steelyard.imaging.exports.daemons import find_daemon
from steelyard.imaging.ports import NbdAccess, Overlay
from tests.conformance.imaging.exports import LOOPBACK, can_open, client_arguments, open_export
from tests.disks import SIZE


@pytest.fixture
def access(root: Path, one: Overlay) -> Iterator[NbdAccess]:
    export = open_export("nbd", root)
    access = export.open("node", one, LOOPBACK)
    assert isinstance(access, NbdAccess)
    yield access
    export.close("node")


def certificates(access: NbdAccess, scratch: Path) -> Path:
    arguments = client_arguments(access, scratch)
    return Path(arguments[1].partition("dir=")[2])


def nbd_client(access: NbdAccess, scratch: Path, name: str) -> subprocess.CompletedProcess[str]:
    """Have nbd-client come as far as it can where the kernel has no device for it."""
    keys = certificates(access, scratch)
    files = ["-certfile", keys / "client-cert.pem", "-keyfile", keys / "client-key.pem", "-cacertfile"]
    command = ["nbd-client", "-nonetlink", "-N", access.export, str(access.address), str(access.port), "/dev/null"]
    command += ["-enable-tls", *map(str, files), str(keys / "ca-cert.pem"), "-tlshostname", name]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize("name", ["node", "127.0.0.1"])
def test_nbd_client_agrees_on_the_disk(access: NbdAccess, tmp_path: Path, name: str) -> None:
    assert f"size = {SIZE // 2**20}MB" in nbd_client(access, tmp_path, name).stdout


def test_nbd_client_refuses_a_server_of_another_name(access: NbdAccess, tmp_path: Path) -> None:
    assert "size" not in nbd_client(access, tmp_path, "other").stdout


def test_nbd_client_without_a_certificate_gets_nothing(access: NbdAccess, tmp_path: Path) -> None:
    assert "size" not in nbd_client(replace(access, certificate=b""), tmp_path, "node").stdout


def nbd_info(uri: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["nbdinfo", "--size", uri], capture_output=True, text=True, timeout=30)


def test_libnbd_agrees_on_the_disk(access: NbdAccess, tmp_path: Path) -> None:
    place = f"{access.address}:{access.port}/{access.export}"
    keys = certificates(access, tmp_path)
    assert nbd_info(f"nbds://{place}?tls-certificates={keys}").stdout == f"{SIZE}\n"
    assert nbd_info(f"nbds://{place}").returncode != 0


def test_nothing_is_told_without_tls(access: NbdAccess) -> None:
    plain = nbd_info(f"nbd://{access.address}:{access.port}/{access.export}")
    assert plain.returncode != 0
    assert plain.stdout == ""
    listed = subprocess.run(
        ["nbd-client", "-l", str(access.address), str(access.port)], capture_output=True, text=True, timeout=30
    )
    assert access.export not in listed.stdout


def test_certificates_follow_the_rules_for_them(access: NbdAccess, tmp_path: Path) -> None:
    keys = certificates(access, tmp_path)
    verify = ["openssl", "verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", str(keys / "ca-cert.pem")]
    subprocess.run([*verify, str(keys / "client-cert.pem")], check=True, capture_output=True)


def test_many_half_open_connections_do_not_keep_a_node_out(access: NbdAccess, tmp_path: Path) -> None:
    with ExitStack() as left:
        for _ in range(150):
            left.enter_context(socket.create_connection((str(access.address), access.port)))
        assert can_open(access, tmp_path)


def test_the_server_has_nothing_but_its_volume(root: Path, access: NbdAccess, one: Overlay) -> None:
    assert access.export == "node"
    daemon = find_daemon(next(root.glob("open/*")) / "qmp")
    assert daemon is not None
    with daemon:
        own, its = Path("/proc/self"), Path(f"/proc/{daemon.pid}")
        capabilities = dict(line.split(":") for line in (its / "status").read_text().splitlines())["CapEff"]
        assert int(capabilities, 16) == 0
        for kind in ("net", "mnt", "pid", "ipc", "uts"):
            assert (own / "ns" / kind).readlink() != (its / "ns" / kind).readlink(), kind
        assert not (its / "root" / "etc").exists()
        mounts = [line.split()[4:6] for line in (its / "mountinfo").read_text().splitlines()]
        writable = [path for path, options in mounts if options.split(",")[0] == "rw" and not path.startswith("/dev")]
        assert writable == ["/", str(one.path)]
        assert [path.name for path in (its / f"root{one.path.parent}").iterdir()] == [one.path.name]
