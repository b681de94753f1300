"""The client's calls of the imaging service, over HTTP to one that listens in this process; a worker of words alone."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import pytest

from steelyard.client import imaging
from steelyard.client.connection import Client
from steelyard.client.imaging import AirlockBoot, DirectBoot, DiskBoot, ImageSource, IpxeBoot, UploadSource, WhatToBoot
from steelyard.client.imaging_objects import Image
from steelyard.model.errors import AlreadyThere, MalformedAnswer, NotFound, WrongDigest, WrongState
from steelyard.service.database import Database
from tests.api import Api, client_of, listening, make_api
from tests.imaging_worker import working

DISK: Final = bytes(range(256)) * 8
SHA256: Final = hashlib.sha256(DISK).hexdigest()
MAC: Final = "02:00:00:00:00:01"


@pytest.fixture
def api(sqlite_database: Database) -> Api:
    return make_api(sqlite_database)


@pytest.fixture
def member(api: Api) -> Iterator[Client]:
    with working(api), listening(api.app) as url, client_of(url, api.tokens["member"]) as client:
        yield client


def make_image(client: Client, name: str = "debian") -> Image:
    """Return an image that was uploaded in two parts."""
    begun = client.ask(imaging.put_upload("red", name, size_bytes=len(DISK), sha256=SHA256))
    for part in (DISK[:1000], DISK[1000:]):
        begun = client.ask(imaging.add_part("red", name, begun.received_bytes, part))
    assert begun == client.ask(imaging.read_upload("red", name))
    source = UploadSource(begun.name, "raw")
    client.wait_for(client.ask(imaging.make_image("red", name, source=source, sha256=SHA256)))
    return client.ask(imaging.read_image("red", name))


def make_volume(client: Client, name: str = "root") -> None:
    client.wait_for(client.ask(imaging.make_volume("red", name, image="debian")))


def test_a_file_goes_up_in_parts_and_the_disk_comes_down_from_any_byte(member: Client) -> None:
    image = make_image(member)
    assert (image.state, image.sha256, image.size_bytes) == ("ready", SHA256, len(DISK))
    assert image.boot is not None
    assert image.boot.command_line == "root=/dev/nbd0"
    for first in (0, 1, 2047):
        with member.pieces(imaging.read_content("red", "debian", first_byte=first)) as pieces:
            assert b"".join(pieces) == DISK[first:]
    assert list(member.every(imaging.list_uploads("red"))) == []


def test_an_answer_that_begins_elsewhere_than_was_asked_is_not_taken_for_the_rest(member: Client) -> None:
    make_image(member)
    # This route knows no ranges.
    whole = replace(imaging.read_content("red", "debian", first_byte=5), path="/v1/images")
    with pytest.raises(MalformedAnswer), member.pieces(whole):
        pass


def test_errors_of_the_service_are_raised_as_what_they_are(member: Client) -> None:
    with pytest.raises(NotFound), member.pieces(imaging.read_content("red", "none")):
        pass
    make_image(member)
    member.ask(imaging.put_upload("red", "u", size_bytes=8, sha256=SHA256))
    with pytest.raises(AlreadyThere):
        member.ask(imaging.put_upload("red", "u", size_bytes=9, sha256=SHA256))
    with pytest.raises(WrongState, match="from byte 0 on"):
        member.ask(imaging.add_part("red", "u", 1, b"x"))


def test_what_ended_an_operation_is_raised_by_who_waited_for_it(member: Client) -> None:
    member.ask(imaging.put_upload("red", "bad", size_bytes=4, sha256=SHA256))
    member.ask(imaging.add_part("red", "bad", 0, b"four"))
    begun = member.ask(imaging.make_image("red", "bad", source=UploadSource("bad", "raw"), sha256=SHA256))
    with pytest.raises(WrongDigest, match=SHA256):
        member.wait_for(begun)
    with pytest.raises(NotFound):
        member.ask(imaging.read_image("red", "bad"))


def test_an_image_is_shared_copied_renamed_measured_and_deleted(member: Client) -> None:
    image = make_image(member)
    shared = member.ask(imaging.set_visibility("red", "debian", "shared", shared_with=["blue"], version=image.version))
    assert (shared.visibility, shared.shared_with) == ("shared", ("blue",))
    member.wait_for(member.ask(imaging.make_image("red", "copy", source=ImageSource("red/debian"))))
    assert member.ask(imaging.rename_image("red", "copy", "other")).name == "other"
    make_volume(member)
    density = member.ask(imaging.read_density("red", "debian"))
    assert [use.name for use in density.volumes] == ["root"]
    member.ask(imaging.delete_image("red", "other"))
    assert [found.name for found in member.every(imaging.list_images(project="red"))] == ["debian"]


def test_a_volume_is_made_grown_rolled_back_flattened_renamed_and_deleted(member: Client) -> None:
    make_image(member)
    make_volume(member)
    for work in (
        imaging.resize_volume("red", "root", 4096),
        imaging.roll_back_volume("red", "root", None),
        imaging.flatten_volume("red", "root"),
    ):
        assert member.wait_for(member.ask(work)).subject == "volume/root"
    assert member.ask(imaging.set_keeping("red", "root", "ephemeral")).keeping == "ephemeral"
    assert member.ask(imaging.rename_volume("red", "root", "old")).image is None
    member.ask(imaging.delete_volume("red", "old"))
    assert list(member.every(imaging.list_volumes())) == []


def test_a_volume_is_opened_its_access_is_a_secret_and_it_is_closed(member: Client) -> None:
    make_image(member)
    make_volume(member)
    opening = imaging.open_volume("red", "root", network="red-net", protocol="nbd", address="10.8.0.50")
    member.wait_for(member.ask(opening))
    assert member.ask(imaging.read_opening("red", "root")).address == "10.8.0.50"
    access = member.ask(imaging.read_access("red", "root"))
    assert json.loads(access.reveal())["protocol"] == "nbd"
    assert "nbd" not in repr(access)
    member.wait_for(member.ask(imaging.close_volume("red", "root")))
    assert member.ask(imaging.read_volume("red", "root")).opening is None


@pytest.mark.parametrize(
    "what",
    [
        AirlockBoot("parameters", "debian"),
        DirectBoot("root", "iscsi", "quiet", {"user-data": "#cloud-config"}),
        IpxeBoot("root"),
        DiskBoot(),
    ],
)
def test_what_a_node_boots_is_told_as_it_was_said(member: Client, what: WhatToBoot) -> None:
    make_image(member)
    make_volume(member)
    member.wait_for(member.ask(imaging.put_boot("red", "n1", network="red-net", mac=MAC, what=what)))
    told = member.ask(imaging.read_boot("red", "n1"))
    assert (told.state, told.mac, told.address) == ("ready", MAC, "10.8.0.100")
    match what:
        case AirlockBoot(parameters, _):
            assert (told.boot.parameters, told.boot.image) == (parameters, "red/debian")
        case DirectBoot(volume, protocol, line, seed):
            said = (told.boot.volume, told.boot.protocol, told.boot.command_line, told.boot.seed)
            assert said == (volume, protocol, line, seed)
        case IpxeBoot(volume):
            assert told.boot.volume == volume
        case DiskBoot():
            assert told.boot.kind == "disk"
    assert [boot.node for boot in member.every(imaging.list_boots())] == ["n1"]
    member.wait_for(member.ask(imaging.end_boot("red", "n1")))
    with pytest.raises(NotFound):
        member.ask(imaging.read_boot("red", "n1"))


def test_networks_storage_and_operations_are_told(member: Client, api: Api) -> None:
    make_image(member)
    networks = {network.name: network.trouble for network in member.every(imaging.list_boot_networks())}
    assert networks == {"red-more": None, "red-net": "no cable"}
    storage = member.ask(imaging.read_storage("red"))
    assert (storage.used.images, storage.used.size_bytes, storage.apparent_bytes) == (1, len(DISK), len(DISK))
    with client_of(member.service.url, api.tokens["provider"]) as provider:
        call = imaging.put_storage_quota("red", images=1, volumes=0, size_bytes=0, version=storage.version)
        assert provider.ask(call).quota.images == 1
    [operation] = member.every(imaging.list_operations(project="red", verb="make-image", state="done"))
    assert member.ask(imaging.read_operation(operation.id)) == operation
    with pytest.raises(WrongState):
        member.ask(imaging.cancel_operation(operation.id))
