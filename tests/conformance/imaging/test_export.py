"""What holds for every export, told by a node's programs and the real daemons."""

import importlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from steelyard.imaging.exports.daemons import find_daemon
from steelyard.imaging.exports.storage_daemon import Monitor, add_disk
from steelyard.imaging.ports import Access, Export, Opening, Overlay, RawFile, VolumeDisk
from steelyard.imaging.stores.directory import DirectoryStore
from steelyard.model.errors import InUse, NotFound, SteelyardError, StorageFailed, StorageUnready, WrongUse
from tests.conformance.imaging.exports import (
    EXPORTS,
    KINDS,
    LOOPBACK,
    can_open,
    living,
    none_serves,
    open_export,
    secrets_of,
    serving,
    session,
    wrong_credentials,
)
from tests.conformance.imaging.killing import DAEMON_CALLS, kills_at_each_step
from tests.conformance.imaging.store_verb import do
from tests.disks import BLOCK, block, content, opened, raw_disk

VERB = "tests.conformance.imaging.export_verb"
ACCEPTS = "00010000"
"""Flags of a listening socket in /proc/net/unix. Source: include/uapi/linux/net.h, __SO_ACCEPTCON."""


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def export(kind: str, root: Path) -> Iterator[Export]:
    export = open_export(kind, root)
    yield export
    for name in export.openings():
        export.close(name)
    assert none_serves(root)
    assert left_over(root) == []


def left_over(root: Path) -> list[Path]:
    return [path for place in ("open", "ended", "making") for path in (root / place).iterdir()]


def monitors(root: Path) -> list[Path]:
    return sorted(root.glob("open/*/qmp"))


def kill_servers(root: Path) -> None:
    for socket_path in [*monitors(root), *root.glob("open/*/tgtd.0")]:
        daemon = find_daemon(socket_path)
        assert daemon is not None
        with daemon:
            daemon.kill("killing a server")


def test_a_node_reads_and_writes_its_volume(export: Export, one: Overlay, tmp_path: Path) -> None:
    before = content(one, tmp_path)
    access = export.open("node", one, LOOPBACK)
    with session(access, tmp_path) as node:
        assert node.do(f"read -P {ord('a')} 0 {BLOCK}")
        assert not node.do(f"read -P {ord('x')} 0 {BLOCK}")
        assert node.do(f"write -P {ord('x')} {BLOCK} {BLOCK}")
        assert node.do(f"read -P {ord('x')} {BLOCK} {BLOCK}")
    assert export.openings() == {"node": Opening(one, LOOPBACK, served=True)}
    export.close("node")
    assert export.openings() == {}
    assert content(one, tmp_path) == before[:BLOCK] + block("x") + before[2 * BLOCK :]


def test_a_volume_that_is_a_plain_file_is_served(export: Export, tmp_path: Path) -> None:
    raw_disk(tmp_path / "plain", {0: "p"})
    access = export.open("node", RawFile(tmp_path / "plain"), LOOPBACK)
    assert export.openings() == {"node": Opening(RawFile(tmp_path / "plain"), LOOPBACK, served=True)}
    with session(access, tmp_path) as node:
        assert node.do(f"read -P {ord('p')} 0 {BLOCK}")
        assert node.do(f"write -P {ord('q')} 0 {BLOCK}")
    export.close("node")
    assert (tmp_path / "plain").read_bytes()[:BLOCK] == block("q")


def test_what_cannot_be_served_is_not_open(export: Export, root: Path, tmp_path: Path) -> None:
    raw_disk(tmp_path / "plain", {0: "p"})
    with pytest.raises(StorageFailed):
        export.open("node", Overlay(tmp_path / "plain", None), LOOPBACK)
    assert export.openings() == {}
    assert left_over(root) == []


def test_what_a_node_gives_back_takes_no_room(
    export: Export, volumes: DirectoryStore, one: Overlay, tmp_path: Path
) -> None:
    access = export.open("node", one, LOOPBACK)
    with session(access, tmp_path) as node:
        assert node.do(f"write -P 1 {8 * BLOCK} {16 * BLOCK}")
        held = volumes.volume_occupancy("one").real_bytes
        assert node.do(f"discard {8 * BLOCK} {16 * BLOCK}")
    export.close("node")
    assert volumes.volume_occupancy("one").real_bytes <= held - 15 * BLOCK


def test_a_wrong_credential_opens_nothing(export: Export, one: Overlay, two: Overlay, tmp_path: Path) -> None:
    access, other = export.open("one", one, LOOPBACK), export.open("two", two, LOOPBACK)
    wrong = list(wrong_credentials(access, other))
    assert wrong
    for credential in wrong:
        assert not can_open(credential, tmp_path), credential
    assert can_open(access, tmp_path)
    assert can_open(other, tmp_path)


def test_a_second_node_cannot_open_the_first_ones_volume(
    export: Export, one: Overlay, two: Overlay, tmp_path: Path
) -> None:
    access, other = export.open("one", one, LOOPBACK), export.open("two", two, LOOPBACK)
    assert not can_open(replace(other, port=access.port), tmp_path)
    assert not can_open(replace(access, port=other.port), tmp_path)


def test_closing_cuts_open_sessions_and_the_credential_is_worthless(
    export: Export, one: Overlay, tmp_path: Path
) -> None:
    access = export.open("node", one, LOOPBACK)
    with session(access, tmp_path) as node:
        assert node.do(f"read 0 {BLOCK}")
        export.close("node")
        # libiscsi goes on trying to come back, and says nothing meanwhile.
        assert not node.do(f"read 0 {BLOCK}", seconds=1)
    assert not can_open(access, tmp_path)
    again = export.open("node", one, LOOPBACK)
    assert not can_open(replace(access, port=again.port), tmp_path)
    assert can_open(again, tmp_path)


def test_closing_what_is_not_open_is_no_error(export: Export) -> None:
    export.close("node")


def test_what_a_killed_node_left_open_does_not_block_its_next_boot(
    export: Export, one: Overlay, tmp_path: Path
) -> None:
    access = export.open("node", one, LOOPBACK)
    with session(access, tmp_path) as first, session(access, tmp_path) as second:
        first.stop()
        second.stop()
        # Its next boot may come without anybody having noticed that it died; or with a fresh opening, as it should.
        assert can_open(access, tmp_path)
        again = export.open("node", one, LOOPBACK)
        assert can_open(again, tmp_path)
        assert not can_open(replace(access, port=again.port), tmp_path)


def test_a_volume_that_is_open_is_not_opened_by_another_name(export: Export, one: Overlay, tmp_path: Path) -> None:
    access = export.open("first", one, LOOPBACK)
    with pytest.raises(InUse):
        export.open("second", one, LOOPBACK)
    assert set(export.openings()) == {"first"}
    assert can_open(access, tmp_path)


def test_a_volume_that_is_worked_on_is_not_opened(export: Export, one: Overlay) -> None:
    with opened(one), pytest.raises(InUse):
        export.open("node", one, LOOPBACK)
    assert export.openings() == {}


@pytest.mark.parametrize("verb", ["flatten", "delete volume"])
def test_a_volume_that_is_open_is_in_use(export: Export, volumes: DirectoryStore, one: Overlay, verb: str) -> None:
    export.open("node", one, LOOPBACK)
    with pytest.raises(InUse):
        do(volumes, verb, "one")
    export.close("node")
    do(volumes, verb, "one")


def test_nobody_else_works_on_an_opening_that_is_worked_on(
    kind: str, root: Path, export: Export, one: Overlay, two: Overlay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = open_export(kind, root)
    refused = 0

    def add_disk_late(monitor: Monitor, disk: VolumeDisk) -> None:
        nonlocal refused
        for verb in (lambda: other.open("node", two, LOOPBACK), lambda: other.close("node")):
            with pytest.raises(InUse):
                verb()
            refused += 1
        other.restore()
        add_disk(monitor, disk)

    monkeypatch.setattr(importlib.import_module(f"steelyard.imaging.exports.{kind}"), "add_disk", add_disk_late)
    access = export.open("node", one, LOOPBACK)
    assert refused == 2
    assert can_open(access, tmp_path)


@pytest.mark.parametrize("verb", [("roll back", "one", "golden"), ("delete volume", "one")])
def test_a_volume_that_is_replaced_while_it_is_opened_is_not_served(
    kind: str, export: Export, volumes: DirectoryStore, one: Overlay, monkeypatch: pytest.MonkeyPatch, verb: list[str]
) -> None:
    module = importlib.import_module(f"steelyard.imaging.exports.{kind}")

    def add_disk_late(monitor: Monitor, disk: VolumeDisk) -> None:
        do(volumes, *verb)
        add_disk(monitor, disk)

    monkeypatch.setattr(module, "add_disk", add_disk_late)
    try:
        export.open("node", one, LOOPBACK)
    except (InUse, StorageFailed):
        assert export.openings() == {}
    else:
        # It looked for the file when that had been replaced.
        assert verb[0] == "roll back"
        with pytest.raises(InUse):
            volumes.delete_volume("one")


def test_a_volume_that_is_not_there_is_not_opened(export: Export, volumes: DirectoryStore, one: Overlay) -> None:
    volumes.delete_volume("one")
    with pytest.raises(NotFound):
        export.open("node", one, LOOPBACK)
    assert export.openings() == {}


@pytest.mark.parametrize("name", ["", "../node", "a,b", "-x", "A"])
def test_a_name_that_is_none_is_refused(export: Export, one: Overlay, name: str) -> None:
    with pytest.raises(WrongUse):
        export.open(name, one, LOOPBACK)
    with pytest.raises(WrongUse):
        export.close(name)


def test_no_secret_is_seen_from_outside(export: Export, root: Path, one: Overlay) -> None:
    access = export.open("node", one, LOOPBACK)
    servers = serving(root)
    assert servers
    assert living([secret.decode() for secret in secrets_of(access)]) == []
    for secret in secrets_of(access):
        assert not any(secret in Path(f"/proc/{pid}/environ").read_bytes() for pid in servers)
        assert secret.decode() not in repr(access)
    for path in root.rglob("*"):
        # Sockets are opened by whoever may enter the directory.
        assert path.stat().st_mode & 0o077 == 0 or path.is_socket()
        assert path.parent.stat().st_mode & 0o077 == 0
    for log in root.glob("open/*/log"):
        assert not any(secret in log.read_bytes() for secret in secrets_of(access))


# -- when the service dies ---------------------------------------------------------------------------------------------


def test_nodes_keep_their_disks_when_the_service_is_killed(
    kind: str, root: Path, export: Export, one: Overlay, tmp_path: Path
) -> None:
    assert one.base is not None
    code = (
        "import os, signal; from tests.conformance.imaging.export_verb import *; "
        "do(open_export(sys.argv[1], Path(sys.argv[2])), *sys.argv[3:]); os.kill(os.getpid(), signal.SIGKILL)"
    )
    arguments = [kind, str(root), "open", "node", str(one.path), str(one.base.path)]
    ended = subprocess.run([sys.executable, "-c", code, *arguments], cwd=Path(__file__).parents[3])
    assert ended.returncode == -signal.SIGKILL
    assert export.openings() == {"node": Opening(one, LOOPBACK, served=True)}
    export.restore()
    access = export.open("node", one, LOOPBACK)
    with session(access, tmp_path) as node:
        open_export(kind, root).restore()
        assert node.do(f"read 0 {BLOCK}")
    open_export(kind, root).close("node")
    assert export.openings() == {}


def test_what_work_that_was_cut_short_has_left_is_taken_away(root: Path, export: Export) -> None:
    (root / "making" / "opening" / "deep").mkdir(parents=True)
    (root / "ended" / "0123456789abcdef.01234567").mkdir()
    export.restore()
    assert left_over(root) == []


@pytest.mark.parametrize("part", ["qmp", "tgtd.0"])
def test_a_server_that_died_is_started_again_with_the_same_credential(
    kind: str, root: Path, export: Export, one: Overlay, tmp_path: Path, part: str
) -> None:
    access = export.open("node", one, LOOPBACK)
    daemon = find_daemon(next(root.glob("open/*")) / part)
    if daemon is None:
        assert (kind, part) == ("nbd", "tgtd.0")
        return
    with daemon:
        daemon.kill("killing a server")
    assert export.openings() == {"node": Opening(one, LOOPBACK, served=False)}
    assert not can_open(access, tmp_path)
    export.restore()
    assert export.openings() == {"node": Opening(one, LOOPBACK, served=True)}
    assert can_open(access, tmp_path)


def test_no_thread_of_a_server_waits_for_a_connection_that_another_took(
    root: Path, export: Export, one: Overlay
) -> None:
    export.open("node", one, LOOPBACK)
    place = monitors(root)[0]
    listeners = [line.split() for line in Path("/proc/net/unix").read_text().splitlines() if line.endswith(str(place))]
    listening = {f"socket:[{inode}]" for *_, flags, _, _, inode, _ in listeners if flags == ACCEPTS}
    daemon = find_daemon(place)
    assert daemon is not None
    with daemon:
        process = Path(f"/proc/{daemon.pid}")
        held = [fd.name for fd in process.glob("fd/*") if str(fd.readlink()) in listening]
        assert held
        for fd in held:
            flags = (process / "fdinfo" / fd).read_text().splitlines()[1].removeprefix("flags:")
            assert int(flags, 8) & os.O_NONBLOCK


def test_one_that_cannot_be_restored_does_not_keep_others_from_it(
    root: Path, export: Export, volumes: DirectoryStore, one: Overlay, two: Overlay, tmp_path: Path
) -> None:
    accesses = {"one": export.open("one", one, LOOPBACK), "two": export.open("two", two, LOOPBACK)}
    kill_servers(root)
    volumes.delete_volume("one")
    with pytest.raises(SteelyardError):
        export.restore()
    assert {name: opening.served for name, opening in export.openings().items()} == {"one": False, "two": True}
    assert can_open(accesses["two"], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["open", "open again", "close", "restore"])
def test_a_verb_killed_at_any_step_leaves_nothing_that_restore_does_not_put_right(
    kind: str, root: Path, export: Export, one: Overlay, tmp_path: Path, verb: str
) -> None:
    assert one.base is not None
    arguments = {
        "open": ["open", "node", str(one.path), str(one.base.path)],
        "open again": ["open", "node", str(one.path), str(one.base.path)],
        "close": ["close", "node"],
        "restore": ["restore"],
    }

    earlier: Access | None = None

    def begin() -> None:
        nonlocal earlier
        export.close("node")
        if verb != "open":
            earlier = export.open("node", one, LOOPBACK)
        if verb == "restore":
            kill_servers(root)

    seen = 0
    for step in kills_at_each_step(DAEMON_CALLS, begin, VERB, [kind, str(root), *arguments[verb]], tmp_path):
        seen += 1
        export.restore()
        openings = export.openings()
        assert openings in ({}, {"node": Opening(one, LOOPBACK, served=True)}), step
        assert len(monitors(root)) == len(openings), step
        if verb == "restore" or (verb == "close" and openings):
            assert earlier is not None
            assert can_open(earlier, tmp_path), step
        export.close("node")
        assert none_serves(root), step
        assert left_over(root) == [], step
    assert seen
    export.close("node")


def test_a_node_opens_its_volume_over_ipv6(kind: str, root: Path, one: Overlay, two: Overlay, tmp_path: Path) -> None:
    loopback = ip_address("::1")
    export = open_export(kind, root, loopback)
    accesses = export.open("one", one, loopback), export.open("two", two, loopback)
    assert all(can_open(access, tmp_path) for access in accesses)
    export.close("one")
    export.close("two")


def test_an_address_that_is_not_this_computers_is_told(kind: str, root: Path, one: Overlay) -> None:
    export = open_export(kind, root, ip_address("192.0.2.1"))
    with pytest.raises(StorageUnready):
        export.open("node", one, LOOPBACK)
    assert export.openings() == {}


def test_no_free_port_is_told(kind: str, root: Path, one: Overlay) -> None:
    with socket.create_server((str(LOOPBACK), 0)) as taken:
        port = taken.getsockname()[1]
        export = EXPORTS[kind](root, LOOPBACK, range(port, port + 1))
        with pytest.raises(StorageUnready):
            export.open("node", one, LOOPBACK)
    assert export.openings() == {}


@pytest.mark.parametrize("directory", ["a,b", "a" * 60])
def test_a_directory_that_daemons_would_misread_is_refused(kind: str, root: Path, directory: str) -> None:
    with pytest.raises(WrongUse):
        open_export(kind, root / directory)
    assert not (root / directory).exists()


def test_many_are_opened_at_once(export: Export, volumes: DirectoryStore, tmp_path: Path) -> None:
    accesses: dict[str, Access] = {}

    def open_one(name: str) -> None:
        volumes.clone("golden", name)
        accesses[name] = export.open(name, volumes.volume_disk(name), LOOPBACK)

    threads = [threading.Thread(target=open_one, args=(f"node-{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({access.port for access in accesses.values()}) == 8
    assert all(can_open(access, tmp_path) for access in accesses.values())
