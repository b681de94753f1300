"""What an export by iSCSI is to libiscsi's tools, and how tgtd is spoken to."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from steelyard.imaging.exports.tgt import LUN, Direction, Mode, Operation, pack_request
from steelyard.imaging.ports import Export, IscsiAccess, Overlay
from steelyard.model.secret import Secret
from tests.conformance.imaging.exports import ELSEWHERE, LOOPBACK, NEEDS_ROOT, can_open, open_export
from tests.disks import SIZE

pytestmark = NEEDS_ROOT


@pytest.fixture
def export(root: Path) -> Iterator[Export]:
    export = open_export("iscsi", root)
    yield export
    export.close("node")


def opened(export: Export, disk: Overlay, node: str = str(LOOPBACK)) -> IscsiAccess:
    access = export.open("node", disk, ip_address(node))
    assert isinstance(access, IscsiAccess)
    return access


def url(access: IscsiAccess) -> str:
    login = f"{access.user}%{access.password.reveal().decode()}"
    proof = f"target_user={access.target_user}&target_password={access.target_password.reveal().decode()}"
    return f"iscsi://{login}@{access.address}:{access.port}/{access.target}/{access.lun}?{proof}"


def libiscsi(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=30)


def test_target_and_node_prove_themselves_to_each_other(export: Export, one: Overlay) -> None:
    access = opened(export, one)
    assert f"Total size:{SIZE}\n" in libiscsi("iscsi-readcapacity16", url(access)).stdout
    impostor = replace(access, target_password=Secret(b"x" * 16))
    assert "Invalid CHAP_R response from the target" in libiscsi("iscsi-readcapacity16", url(impostor)).stderr


def test_the_right_credential_opens_nothing_from_another_address(export: Export, one: Overlay, tmp_path: Path) -> None:
    access = opened(export, one, str(ELSEWHERE))
    assert not can_open(access, tmp_path)
    assert libiscsi("iscsi-readcapacity16", url(access)).returncode != 0
    assert libiscsi("iscsi-readcapacity16", "-i", access.user, url(access)).returncode != 0


def test_nobody_else_is_told_the_name_of_the_target(export: Export, one: Overlay) -> None:
    access = opened(export, one, str(ELSEWHERE))
    assert access.target not in libiscsi("iscsi-ls", f"iscsi://{access.address}:{access.port}").stdout
    access = opened(export, one)
    assert access.target in libiscsi("iscsi-ls", f"iscsi://{access.address}:{access.port}").stdout


def test_each_opening_has_its_own_names_and_passwords(export: Export, one: Overlay) -> None:
    first, second = opened(export, one), opened(export, one)
    assert first.target != second.target
    secrets = {access.password.reveal() for access in (first, second)}
    secrets |= {access.target_password.reveal() for access in (first, second)}
    assert len(secrets) == 4
    assert all(12 <= len(secret) <= 16 and secret.isalnum() for secret in secrets)


@pytest.mark.parametrize(
    ("words", "request_sent"),
    [
        (
            "--op new --mode target --tid 1 --targetname iqn.2026-11.internal.steelyard:a",
            pack_request(Mode.TARGET, Operation.NEW, {"targetname": "iqn.2026-11.internal.steelyard:a"}),
        ),
        (
            "--op new --mode logicalunit --tid 1 --lun 1 --backing-store /disk --bstype rdwr",
            pack_request(Mode.DEVICE, Operation.NEW, {"path": "/disk", "bstype": "rdwr"}, lun=LUN),
        ),
        (
            "--op bind --mode account --tid 1 --user node",
            pack_request(Mode.ACCOUNT, Operation.BIND, {"user": "node"}),
        ),
        (
            "--op bind --mode account --tid 1 --user steelyard --outgoing",
            pack_request(Mode.ACCOUNT, Operation.BIND, {"user": "steelyard"}, direction=Direction.OUTGOING),
        ),
        (
            "--op bind --mode target --tid 1 --initiator-address 127.0.0.1",
            pack_request(Mode.TARGET, Operation.BIND, {"initiator-address": "127.0.0.1"}),
        ),
    ],
)
def test_tgtd_is_asked_what_tgtadm_would_ask(root: Path, words: str, request_sent: bytes) -> None:
    assert heard_of_tgtadm(root, words) == request_sent


def test_an_account_is_made_as_tgtadm_would_make_it(root: Path) -> None:
    heard = heard_of_tgtadm(root, "--op new --mode account --user node --password 0123456789ab")
    made = pack_request(Mode.ACCOUNT, Operation.NEW, {"user": "node", "password": "0123456789ab"})
    # Which target it is for is not looked at: it is bound to one later.
    assert heard[:76] + heard[80:] == made[:76] + made[80:]


def heard_of_tgtadm(root: Path, words: str) -> bytes:
    """Return what tgtadm sends to a tgtd: one request, after which it would wait for the answer."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "tgtd.0"))
        listener.listen()
        listener.settimeout(30)
        environment = {"TGT_IPC_SOCKET": str(root / "tgtd"), "PATH": "/usr/sbin"}
        with subprocess.Popen(
            ["tgtadm", "--lld", "iscsi", *words.split()], env=environment, stderr=subprocess.DEVNULL
        ) as tgtadm:
            wire, _ = listener.accept()
            with wire, wire.makefile("rb") as heard:
                head = heard.read(76)
                rest = heard.read(int.from_bytes(head[72:76], sys.byteorder) - 76)
            tgtadm.kill()
    return head + rest


@pytest.mark.parametrize("value", ["a,b", "a\0b"])
def test_a_parameter_cannot_become_two(value: str) -> None:
    with pytest.raises(ValueError, match="separator"):
        pack_request(Mode.ACCOUNT, Operation.NEW, {"user": "node", "password": value})


def test_to_look_whether_it_is_served_costs_tgtd_nothing(export: Export, one: Overlay, root: Path) -> None:
    opened(export, one)
    tgtd = next(process for process in Path("/proc").glob("[0-9]*") if _serves_from(process, root))
    before = len(list((tgtd / "fd").iterdir()))
    for _ in range(20):
        assert export.openings()["node"].served
    # It would keep every connection that says nothing, and go round them with all of its processor.
    assert len(list((tgtd / "fd").iterdir())) == before


def _serves_from(process: Path, root: Path) -> bool:
    """Whether a process is a tgtd whose log is in this directory."""
    try:
        program, log = (process / "exe").readlink(), (process / "fd" / "1").readlink()
    except OSError:
        return False
    return program.name == "tgtd" and root.resolve() in log.parents
