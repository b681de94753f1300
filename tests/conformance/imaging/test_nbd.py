"""What an export by NBD is to the clients of others: nbd-client, libnbd, QEMU without TLS."""

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from steelyard.imaging.ports import NbdAccess, Overlay
from tests.conformance.imaging.exports import LOOPBACK, client_arguments, open_export
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
