"""The commands of imaging, over HTTP to a service that listens in this process; a worker of words alone."""

import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steelyard.cli.sizes import parse_size, size_words
from steelyard.cli.transfer import LEAST_PART_BYTES, next_length
from steelyard.model.errors import WrongUse
from steelyard.model.limits import UPLOAD_PART_BYTES
from steelyard.service.database import Database
from tests.api import Api, listening, make_api
from tests.imaging_worker import working
from tests.unit.cli.command import Command, sign_in

MIB: Final = 1 << 20
DISK: Final = b"".join(hashlib.sha256(bytes([number])).digest() * (MIB // 32) for number in range(5)) + bytes(MIB)
SHA256: Final = hashlib.sha256(DISK).hexdigest()
STEELYARD: Final = str(Path(sys.executable).parent / "steelyard")
BOOT: Final = ("--network", "red-net", "--mac", "02:00:00:00:00:01")


class Wire:
    """The way to the service: it can lose requests for a path, or the answers to them, or stop at one."""

    def __init__(self, app: ASGIApp, path: str) -> None:
        self._app = app
        self._path = path
        self.lost_requests: set[int] = set()
        self.lost_answers: set[int] = set()
        self.seen = 0
        self.stop_at: int | None = None
        self.stopped = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._path not in scope["path"]:
            await self._app(scope, receive, send)
            return
        self.seen += 1
        number = self.seen
        if number == self.stop_at:
            self.stopped.set()
        if number in self.lost_requests:
            while (await receive()).get("more_body"):
                pass
            await _break_off(send)
        elif number in self.lost_answers:
            await self._app(scope, receive, _nowhere)
            await _break_off(send)
        else:
            await self._app(scope, receive, send)


async def _nowhere(_message: Message) -> None:
    pass


async def _break_off(send: Send) -> None:
    """Promise more than comes, upon which the server ends the connection."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
    await send({"type": "http.response.body", "body": b"{"})


@pytest.fixture
def api(sqlite_database: Database) -> Iterator[Api]:
    api = make_api(sqlite_database)
    api.rack.free("n1")
    with working(api):
        yield api


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(DISK)
    return path


@pytest.fixture
def image(steelyard: Command, home: Path, disk: Path) -> str:
    """An image of red's, imported by a member, who is signed in."""
    sign_in(steelyard, home, "member")
    done = steelyard("image", "import", "debian", disk, "--format", "raw", "--json")
    assert done.exit_code == 0, done.errors
    return "debian"


# -- images ------------------------------------------------------------------------------------------------------------


def test_a_file_is_read_sent_and_made_an_image_and_each_is_told(steelyard: Command, home: Path, disk: Path) -> None:
    sign_in(steelyard, home, "member")
    done = steelyard("image", "import", "debian", disk, "--format", "raw", "--sha256", SHA256)
    assert done.exit_code == 0, done.errors
    assert SHA256 in done.output
    for line in ("reading disk.raw: 6.0 MiB of 6.0 MiB (100 %)", "sending disk.raw: 6.0 MiB of 6.0 MiB (100 %)"):
        assert line in done.errors
    assert "make-image image debian: " in done.errors
    [listed] = steelyard("image", "list", "--json").json()["items"]
    assert (listed["name"], listed["project"], listed["sha256"]) == ("debian", "red", SHA256)
    assert steelyard("image", "uploads", "--json").json() == {"items": []}


def test_what_a_broken_connection_lost_is_sent_again_and_no_more(
    steelyard: Command, home: Path, api: Api, disk: Path
) -> None:
    wire = Wire(api.app, "/content")
    wire.lost_requests, wire.lost_answers = {2}, {4}
    with listening(wire) as url:
        (home / "url").write_text(url)
        sign_in(steelyard, home, "member")
        done = steelyard("image", "import", "debian", disk, "--format", "raw", "--json")
    assert done.exit_code == 0, done.errors
    assert done.json()["sha256"] == SHA256


def test_after_an_interrupt_the_same_command_goes_on(steelyard: Command, home: Path, api: Api, disk: Path) -> None:
    wire = Wire(api.app, "/content")
    wire.stop_at, wire.lost_requests = 2, set(range(2, 100))
    with listening(wire) as url:
        (home / "url").write_text(url)
        sign_in(steelyard, home, "member")
        command = [STEELYARD, "image", "import", "debian", str(disk), "--format", "raw"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert wire.stopped.wait(30)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        assert process.returncode == 130
        assert "the same command goes on" in errors
        [begun] = steelyard("image", "uploads", "--json").json()["items"]
        assert begun["received_bytes"] == MIB
        wire.lost_requests = set()
        done = steelyard("image", "import", "debian", disk, "--format", "raw")
        assert done.exit_code == 0, done.errors
    assert "sending disk.raw: 1.0 MiB of 6.0 MiB" in done.errors


@pytest.mark.parametrize(
    ("content", "more", "code", "exit_code"),
    [
        (None, (), "wrong-use", 2),
        (b"", (), "wrong-use", 2),
        (b"disk", ("--sha256", "00" * 32), "wrong-digest", 3),
        (b"QFI\xfb disk", (), "malformed-image", 3),
        (b"disk", ("--format", "qcow2"), "malformed-image", 3),
        (b"disk", ("--public", "--share", "blue"), "wrong-use", 2),
        (b"disk", ("--signed-by", "x"), "wrong-use", 2),
    ],
)
def test_what_cannot_become_an_image_is_told_before_anything_is_sent(
    steelyard: Command,
    home: Path,
    tmp_path: Path,
    content: bytes | None,
    more: tuple[str, ...],
    code: str,
    exit_code: int,
) -> None:
    sign_in(steelyard, home, "member")
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    refused = steelyard("image", "import", "debian", path, "--format", "raw", *more, "--json")
    assert (refused.exit_code, refused.json()["error"]["code"]) == (exit_code, code)
    assert steelyard("image", "uploads", "--json").json() == {"items": []}


def test_a_file_that_changes_while_it_is_sent_is_given_up(steelyard: Command, home: Path, api: Api, disk: Path) -> None:
    sign_in(steelyard, home, "member")

    def change() -> None:
        with disk.open("r+b") as file:
            file.write(b"another disk")
            os.utime(file.fileno(), ns=(0, 0))

    api.storage.before_writing = change
    refused = steelyard("image", "import", "debian", disk, "--format", "raw", "--json")
    assert refused.json()["error"]["found"] == "one that was changed since"


def test_a_taken_name_is_told_before_a_file_is_read(steelyard: Command, image: str, disk: Path) -> None:
    refused = steelyard("image", "import", image, disk, "--format", "raw", "--json")
    assert (refused.exit_code, refused.json()["error"]["code"]) == (7, "already-there")
    assert "reading" not in refused.errors


def test_a_signed_image_is_imported_and_one_signed_by_another_is_not(
    steelyard: Command, home: Path, disk: Path, tmp_path: Path
) -> None:
    keys = {name: steelyard("reference", "keygen", "--out", tmp_path / name).output.strip() for name in ("a", "b")}
    signed = steelyard("image", "sign", disk, "--key", tmp_path / "a", "--out", tmp_path / "sig")
    assert signed.exit_code == 0, signed.errors
    sign_in(steelyard, home, "member")
    command = ("image", "import", "debian", disk, "--format", "raw", "--signature", tmp_path / "sig", "--json")
    refused = steelyard(*command, "--signed-by", keys["b"])
    assert (refused.exit_code, refused.json()["error"]["code"]) == (4, "reference-rejected")
    assert steelyard(*command, "--signed-by", keys["a"]).json()["signed_by"]
    disk.write_bytes(DISK + bytes(512))
    changed = steelyard("image", "import", "other", *command[3:], "--signed-by", keys["a"])
    assert changed.json()["error"]["code"] == "wrong-digest"


def test_an_address_is_fetched_by_the_service(steelyard: Command, home: Path) -> None:
    sign_in(steelyard, home, "member")
    made = steelyard("image", "import", "red/net", "https://example.org/disk", "--format", "raw", "--json")
    assert made.json()["source"] == "url https://example.org/disk"


def test_an_exported_disk_is_the_imported_one_and_its_zeros_take_no_room(
    steelyard: Command, image: str, tmp_path: Path
) -> None:
    out = tmp_path / "out.raw"
    done = steelyard("image", "export", image, out)
    assert done.exit_code == 0, done.errors
    assert out.read_bytes() == DISK
    assert out.stat().st_blocks * 512 < len(DISK)
    assert steelyard("image", "export", image, out).exit_code == 2
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


def test_an_export_that_was_cut_short_goes_on_and_bad_bytes_are_found(
    steelyard: Command, image: str, tmp_path: Path
) -> None:
    partial = tmp_path / f".out.raw.{SHA256[:16]}.part"
    partial.write_bytes(DISK[: 2 * MIB])
    assert steelyard("image", "export", image, tmp_path / "out.raw").exit_code == 0
    assert (tmp_path / "out.raw").read_bytes() == DISK
    (tmp_path / "out.raw").unlink()
    partial.write_bytes(bytes(2 * MIB))
    bad = steelyard("image", "export", image, tmp_path / "out.raw", "--json")
    assert bad.json()["error"]["code"] == "wrong-digest"
    assert not partial.exists()
    assert not (tmp_path / "out.raw").exists()


def test_an_image_is_shared_taken_back_copied_and_deleted(steelyard: Command, image: str, home: Path) -> None:
    assert steelyard("image", "share", image, "blue", "--json").json()["shared_with"] == ["blue"]
    sign_in(steelyard, home, "stranger")
    assert steelyard("image", "copy", "red/debian", "mine").exit_code == 0
    assert "red/debian" in steelyard("image", "list").output
    assert steelyard("image", "delete", "red/debian").exit_code == 7
    sign_in(steelyard, home, "member")
    assert steelyard("image", "unshare", image, "blue", "--json").json()["visibility"] == "private"
    assert steelyard("image", "unshare", image, "blue").exit_code == 2
    assert steelyard("image", "publish", image).exit_code == 7
    assert steelyard("image", "rename", image, "debian-13", "--json").json()["name"] == "debian-13"
    assert "volume" not in steelyard("image", "density", "debian-13").output
    assert steelyard("image", "delete", "debian-13").exit_code == 0
    assert steelyard("image", "show", "debian-13").exit_code == 7


# -- volumes -----------------------------------------------------------------------------------------------------------


def test_a_volume_lives_from_image_to_image(steelyard: Command, image: str) -> None:
    assert steelyard("volume", "create", "root", "--image", image).exit_code == 0
    assert steelyard("volume", "create", "data", "--size", "10M", "--ephemeral").exit_code == 0
    shown = steelyard("volume", "show", "root", "--json").json()
    assert (shown["image"], shown["size_bytes"], shown["keeping"]) == ("red/debian", len(DISK), "kept")
    for words in (("resize", "root", "8M"), ("snapshot", "root", "web"), ("roll-back", "root"), ("flatten", "root")):
        done = steelyard("volume", *words)
        assert done.exit_code == 0, done.errors
    assert steelyard("volume", "keep", "data", "--json").json()["keeping"] == "kept"
    assert steelyard("volume", "rename", "data", "more", "--json").json()["name"] == "more"
    assert steelyard("volume", "delete", "more").exit_code == 0
    assert [volume["name"] for volume in steelyard("volume", "list", "--json").json()["items"]] == ["root"]
    assert steelyard("volume", "create", "none").exit_code == 2
    assert steelyard("volume", "resize", "root", "much").exit_code == 2


def test_what_opens_a_volume_goes_to_a_new_file_for_its_owner_alone_and_nowhere_else(
    steelyard: Command, image: str, tmp_path: Path
) -> None:
    steelyard("volume", "create", "root", "--image", image)
    opened = steelyard("volume", "open", "root", "--network", "red-net", "--address", "10.8.0.60")
    assert opened.exit_code == 0, opened.errors
    out = tmp_path / "access.json"
    told = steelyard("volume", "access", "root", "--out", out)
    assert json.loads(out.read_text())["key"] == "key"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert "certificate" not in told.output + told.errors
    assert steelyard("volume", "access", "root", "--out", out).exit_code == 2
    assert steelyard("volume", "access", "root", "--out", "-").exit_code == 2
    assert "10.8.0.60 by nbd, open" in steelyard("volume", "list").output
    assert steelyard("volume", "delete", "root").exit_code == 7
    assert steelyard("volume", "close", "root").exit_code == 0
    assert steelyard("volume", "access", "root", "--out", tmp_path / "late").exit_code == 7


# -- what nodes boot ---------------------------------------------------------------------------------------------------


def test_a_node_is_told_what_to_boot_and_then_nothing(
    steelyard: Command, image: str, tmp_path: Path, home: Path
) -> None:
    steelyard("volume", "create", "root", "--image", image)
    key = tmp_path / "id.pub"
    key.write_text("ssh-ed25519 AAAA ann@example\n")
    done = steelyard("boot", "direct", "n1", *BOOT, "--volume", "root", "--ssh-key", key)
    assert done.exit_code == 0, done.errors
    told = steelyard("boot", "show", "n1", "--json").json()
    assert (told["state"], told["address"], told["boot"]["volume"]) == ("ready", "10.8.0.100", "root")
    # In the few words that the tenant's image of `steelyard image build` knows; cloud-init knows them too.
    assert told["boot"]["seed"] == {
        "meta-data": "instance-id: n1\nlocal-hostname: n1\n",
        "user-data": '#cloud-config\nssh_authorized_keys:\n  - "ssh-ed25519 AAAA ann@example"\n',
    }
    assert "direct root" in steelyard("boot", "list").output
    (tmp_path / "parameters").write_text("as told")
    for words in (("disk",), ("ipxe", "--volume", "root"), ("airlock", "--parameters", tmp_path / "parameters")):
        done = steelyard("boot", words[0], "n1", *BOOT, *words[1:])
        assert done.exit_code == 0, done.errors
    assert steelyard("boot", "end", "n1").exit_code == 0
    assert steelyard("boot", "list", "--json").json() == {"items": []}
    assert "no cable" in steelyard("boot", "networks").output
    key.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    assert steelyard("boot", "direct", "n1", *BOOT, "--volume", "root", "--ssh-key", key).exit_code == 2
    sign_in(steelyard, home, "provider")
    network = ("--network", "red-net", "--project", "red", "--nic")
    assert steelyard("boot", "disk", "n1", *network, "nic0").exit_code == 0
    assert steelyard("boot", "disk", "n1", *network, "nic7").exit_code == 2
    assert steelyard("boot", "disk", "n1", "--network", "red-net", "--project", "red").exit_code == 2


def test_room_is_shown_and_said_and_operations_of_both_services_are_found(
    steelyard: Command, image: str, home: Path
) -> None:
    shown = steelyard("storage", "show", "--json").json()
    assert (shown["used"]["images"], shown["real_bytes"]) == (1, len(DISK) // 2)
    sign_in(steelyard, home, "provider")
    assert steelyard("storage", "set", "red", "--size", "2T", "--json").json()["quota"]["size_bytes"] == 2 << 40
    assert steelyard("storage", "show").exit_code == 2, "a provider has no only project"
    assert image in steelyard("storage", "operations", "--verb", "make-image").output
    [operation] = steelyard("storage", "operations", "--json").json()["items"]
    assert steelyard("operation", "show", operation["id"], "--json").json()["subject"] == "image/debian"
    assert steelyard("operation", "wait", operation["id"]).exit_code == 0
    assert steelyard("operation", "cancel", operation["id"]).exit_code == 7
    assert steelyard("operation", "show", "0" * 28).exit_code == 7


def test_a_reference_with_a_project_is_not_overruled(steelyard: Command, image: str) -> None:
    assert steelyard("image", "show", f"red/{image}", "--project", "red").exit_code == 0
    assert steelyard("image", "show", f"red/{image}", "--project", "blue").exit_code == 2


# -- what decides ------------------------------------------------------------------------------------------------------


def test_parts_grow_while_they_are_quick_and_shrink_when_they_are_slow() -> None:
    assert next_length(MIB, 0.1) == 2 * MIB
    assert next_length(UPLOAD_PART_BYTES.most, 0.1) == UPLOAD_PART_BYTES.most
    assert next_length(MIB, 5) == MIB
    assert next_length(MIB, 20) == MIB // 2
    assert next_length(LEAST_PART_BYTES, 20) == LEAST_PART_BYTES


@pytest.mark.parametrize(("text", "size"), [("0", 0), ("512", 512), ("2K", 2048), ("1G", 1 << 30), ("3MiB", 3 << 20)])
def test_sizes_are_read_in_powers_of_1024(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1", "1.5G", "1P", "1 G", "\u0661", "9" * 20])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(WrongUse):
        parse_size(text)


def test_sizes_are_told_in_the_largest_unit_of_which_there_is_one() -> None:
    assert [size_words(size) for size in (0, 1023, 1536, 1 << 40, 5 << 50)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "1.0 TiB",
        "5120.0 TiB",
    ]
