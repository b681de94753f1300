"""Root volumes are attached by programs that keep what they get: what they are told, when, and what is left of it.

That the real programs take it so is shown on the rack, as it needs a kernel with their modules.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from steelyard.agent import volumes
from steelyard.agent.payload import IscsiVolume, NbdVolume
from steelyard.agent.volumes import attached
from steelyard.model.errors import NodeFailed
from steelyard.model.secret import Secret

NBD: Final = NbdVolume("10.0.0.1", 10809, "volume-1", "AUTHORITY", "CERTIFICATE", Secret(b"PRIVATE KEY"), None)
TARGET: Final = "iqn.2026-11.internal.steelyard:0a1b"
PASSWORD: Final = Secret(b"password-of-node")
TARGET_PASSWORD: Final = Secret(b"password-of-target")
ISCSI: Final = IscsiVolume("10.0.0.1", 3260, TARGET, 1, "node", PASSWORD, "steelyard", TARGET_PASSWORD, None)
_PROGRAM: Final = """#!/bin/sh
echo "${0##*/} $*" >>HERE/calls
[ "${0##*/} $*" != "$(cat HERE/refused 2>/dev/null)" ] || { echo "it said why" >&2; exit 1; }
case $* in
*-keyfile*) (cd HERE/work && stat -c '%a %n' nbd.key && cat nbd.key) >HERE/seen ;;
*--login) mkdir -p HERE/sys/session1/device/target2:0:0/2:0:0:1/block/sda; touch HERE/dev/sda ;;
*--logout) rm -r HERE/sys/session1 ;;
esac
[ "${0##*/}" != iscsid ] || (cd HERE/work && stat -c '%a %n' iscsi iscsi/* && cat iscsi/*) >HERE/seen
"""


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give the directory of a node whose programs only write down what they are called with."""
    for name in ("bin", "work", "sys", "dev"):
        (tmp_path / name).mkdir()
    for name in ("modprobe", "nbd-client", "iscsid", "iscsiadm"):
        program = tmp_path / "bin" / name
        program.write_text(_PROGRAM.replace("HERE", str(tmp_path)))
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(volumes, "_SESSIONS", tmp_path / "sys")
    monkeypatch.setattr(volumes, "_DEVICES", tmp_path / "dev")
    yield tmp_path
    for secret in (NBD.key, PASSWORD, TARGET_PASSWORD):
        assert secret.reveal().decode() not in (tmp_path / "calls").read_text()
    left = [file.name for file in (tmp_path / "work").rglob("*")]
    assert set(left) <= {"nbd.authority", "nbd.certificate"}, "a secret is left"


def calls(node: Path) -> list[str]:
    return (node / "calls").read_text().splitlines()


def refuse(node: Path, call: str) -> None:
    (node / "refused").write_text(call)


ISCSIADM: Final = f"iscsiadm --mode node --targetname {TARGET} --portal 10.0.0.1:3260"
DETACH: Final = "nbd-client -d /dev/nbd0"


def test_a_volume_by_nbd_is_attached_read_only_and_its_key_is_for_root_alone(node: Path) -> None:
    with attached(NBD, node / "work") as device:
        assert device == Path("/dev/nbd0")
        assert DETACH not in calls(node)
    work = node / "work"
    assert calls(node) == [
        "modprobe nbd",
        "nbd-client 10.0.0.1 10809 /dev/nbd0 -N volume-1 -readonly "
        f"-cacertfile {work}/nbd.authority -certfile {work}/nbd.certificate -keyfile {work}/nbd.key",
        DETACH,
    ]
    assert (node / "seen").read_text() == "600 nbd.key\nPRIVATE KEY"


def test_a_volume_by_iscsi_is_attached_with_passwords_both_ways_that_only_root_can_read(node: Path) -> None:
    with attached(ISCSI, node / "work") as device:
        assert device == node / "dev/sda"
        assert calls(node)[-1] == f"{ISCSIADM} --login"
    assert calls(node) == [
        "modprobe -a iscsi_tcp sd_mod",
        "iscsid ",
        f"{ISCSIADM} --op new",
        f"{ISCSIADM} --login",
        f"{ISCSIADM} --logout",
        "iscsiadm --killiscsid 0",
    ]
    seen = (node / "seen").read_text().splitlines()
    assert seen[:3] == ["700 iscsi", "600 iscsi/initiatorname.iscsi", "600 iscsi/iscsid.conf"]
    assert {
        "node.session.auth.authmethod = CHAP",
        "node.session.auth.username = node",
        "node.session.auth.password = password-of-node",
        "node.session.auth.username_in = steelyard",
        "node.session.auth.password_in = password-of-target",
    } <= set(seen)


def test_the_address_of_an_iscsi_portal_may_be_of_version_6(node: Path) -> None:
    with attached(replace(ISCSI, address="fd00::1"), node / "work"):
        assert "--portal [fd00::1]:3260 --login" in calls(node)[-1]


@pytest.mark.parametrize(("volume", "last"), [(NBD, DETACH), (ISCSI, "iscsiadm --killiscsid 0")])
def test_a_look_that_fails_lets_the_volume_go(node: Path, volume: NbdVolume | IscsiVolume, last: str) -> None:
    with pytest.raises(NodeFailed, match="the header"), attached(volume, node / "work"):
        raise NodeFailed("looking", expected="the header", found="another")
    assert calls(node)[-1] == last


@pytest.mark.parametrize("call", ["modprobe -a iscsi_tcp sd_mod", "iscsid ", f"{ISCSIADM} --op new"])
def test_a_program_that_refuses_says_why_and_leaves_no_password(node: Path, call: str) -> None:
    refuse(node, call)
    with pytest.raises(NodeFailed, match="it said why"), attached(ISCSI, node / "work"):
        pytest.fail("attached")
    assert f"{ISCSIADM} --login" not in calls(node)


def test_a_target_that_lets_the_node_in_but_has_no_such_disk_is_let_go(
    node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volumes, "_LONGEST_SCAN_SECONDS", 0)
    with pytest.raises(NodeFailed, match="LUN 2"), attached(replace(ISCSI, lun=2), node / "work"):
        pytest.fail("attached")
    assert f"{ISCSIADM} --logout" in calls(node)
