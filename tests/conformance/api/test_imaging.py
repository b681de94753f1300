"""What is particular to imaging's HTTP: files in parts, disks by range, operations that are followed, signatures."""

import hashlib
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from steelyard.imaging import catalogue, uploads
from steelyard.imaging.objects import Name
from steelyard.imaging.signature import sign_image
from steelyard.model.limits import UPLOAD_PART_BYTES
from tests.conformance.api.world import DISK, World
from tests.unit.imaging import rig
from tests.unit.imaging.rig import PROVIDER, red

CONTENT: Final = "/v1/projects/red/images/debian/content"
PART: Final = "/v1/projects/red/uploads/disk/content"
SOURCE: Final = {"kind": "url", "url": "https://example.org/other", "format": "raw"}
KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PEM: Final = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
FILE_DIGEST: Final = hashlib.sha256(b"a file").digest()


def ask(world: World, method: str, path: str, who: str = "member", **more: Any) -> Any:
    """Return the answer to a request, what it changed left as it is."""
    headers = {"Authorization": f"Bearer {world.tokens[who]}", **more.pop("headers", {})}
    return world.send(method, path, headers=headers, **more)


@pytest.fixture(autouse=True)
def _as_it_was_made(world: World) -> Any:
    yield
    world.restore()
    world.api.storage.uploads.clear()
    world.api.storage.before_writing = lambda: None


# -- uploads -----------------------------------------------------------------------------------------------------------


def test_parts_follow_one_another_and_any_bytes_will_do(world: World) -> None:
    first, second = b"\\u0000 \\ud800", bytes(range(256))
    assert ask(world, "PUT", PART, params={"offset": 0}, content=first).json()["received_bytes"] == len(first)
    told = ask(world, "PUT", PART, params={"offset": len(first)}, content=second).json()
    assert told["received_bytes"] == len(first + second)
    [kept] = world.api.storage.uploads.values()
    assert kept == first + second


@pytest.mark.parametrize("offset", [0, 2, 7])
def test_a_part_that_is_not_the_next_is_refused_with_what_is_the_next(world: World, offset: int) -> None:
    assert ask(world, "PUT", PART, params={"offset": 0}, content=b"four").status_code == 200
    refused = ask(world, "PUT", PART, params={"offset": offset}, content=b"five")
    assert (refused.status_code, refused.json()["code"]) == (409, "wrong-state")
    assert "from byte 4 on" in refused.json()["expected"]
    assert [bytes(kept) for kept in world.api.storage.uploads.values()] == [b"four"]


def test_a_part_that_came_second_is_not_written_over_the_first(world: World) -> None:
    with world.api.database.reading() as connection:
        upload = uploads.get_upload(connection, PROVIDER, red("disk"))

    def another_part_comes_first() -> None:
        world.api.storage.before_writing = lambda: None
        with world.api.storage.adding(upload.id) as write:
            write(0, b"first")
        with world.api.imaging.tx() as tx:
            uploads.note_received(tx, upload, 5)

    world.api.storage.before_writing = another_part_comes_first
    refused = ask(world, "PUT", PART, params={"offset": 0}, content=b"later")
    assert refused.json()["code"] == "wrong-state"
    assert world.api.storage.uploads[upload.id] == b"first"


def test_a_part_that_is_too_long_for_the_file_or_for_a_request_is_refused(world: World) -> None:
    assert ask(world, "PUT", PART, params={"offset": 0}, content=b"").json()["code"] == "wrong-use"
    for length in (rig.MIB + 1, UPLOAD_PART_BYTES.most + 1):
        refused = ask(world, "PUT", PART, params={"offset": 0}, content=bytes(length))
        assert (refused.status_code, refused.json()["code"]) == (413, "too-large")
    assert world.api.storage.uploads == {}


# -- disks of images ---------------------------------------------------------------------------------------------------


def test_the_whole_disk_is_sent_with_its_digest_for_a_name(world: World) -> None:
    told = ask(world, "GET", CONTENT)
    assert (told.status_code, told.content) == (200, DISK)
    assert told.headers["ETag"] == f'"{rig.contents().digest.hex()}"'
    assert told.headers["Content-Type"] == "application/octet-stream"
    assert told.headers["Cache-Control"] == "no-store"
    assert told.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("said", "first", "last"),
    [("bytes=0-", 0, 1023), ("bytes=1000-1009", 1000, 1009), ("bytes=1000-99999", 1000, 1023)],
)
def test_a_part_of_the_disk_is_sent_where_one_is_asked_for(world: World, said: str, first: int, last: int) -> None:
    told = ask(world, "GET", CONTENT, headers={"Range": said})
    assert (told.status_code, told.content) == (206, DISK[first : last + 1])
    assert told.headers["Content-Range"] == f"bytes {first}-{last}/{len(DISK)}"


@pytest.mark.parametrize(
    "said", ["bytes=1024-", "bytes=9-8", "bytes=-5", "bytes=0-1,3-4", "lines=0-1", "bytes=\u0661-"]
)
def test_any_other_range_is_a_problem_like_all_others(world: World, said: str) -> None:
    told = ask(world, "GET", CONTENT, headers={"Range": said.encode("utf-8")})
    assert (told.status_code, told.json()["code"]) == (400, "wrong-use")


def test_of_an_image_in_the_making_there_is_no_disk(world: World) -> None:
    assert ask(world, "GET", "/v1/projects/red/images/fresh/content").json()["code"] == "wrong-state"


def test_an_image_that_goes_while_it_is_asked_for_is_not_found(world: World) -> None:
    made = world.api.imaging.image(red("short-lived"), rig.contents(1024))
    world.api.storage.put_image(made.id, DISK)
    world.api.storage.image_disk(made.id).path.unlink()
    assert ask(world, "GET", "/v1/projects/red/images/short-lived/content").json()["code"] == "not-found"


def test_other_projects_are_not_told_where_an_image_is_from_and_who_else_has_it(world: World) -> None:
    body = {"visibility": "shared", "shared_with": ["blue", "green"]}
    assert ask(world, "PUT", "/v1/projects/red/images/debian/visibility", json=body).status_code == 200
    ours = ask(world, "GET", "/v1/projects/red/images/debian").json()
    assert (ours["shared_with"], ours["source"]) == (["blue", "green"], "url https://example.org/disk")
    [theirs] = ask(world, "GET", "/v1/images", "stranger").json()["items"]
    assert (theirs["shared_with"], theirs["source"]) == (["blue"], None)


def test_a_volume_of_an_image_that_was_taken_back_tells_no_name_of_it(world: World) -> None:
    visibility = "/v1/projects/red/images/debian/visibility"
    ask(world, "PUT", visibility, json={"visibility": "shared", "shared_with": ["blue"]})
    world.api.imaging.volume(Name("blue", "root"), red("debian"))
    where = "/v1/projects/blue/volumes/root"
    assert ask(world, "GET", where, "stranger").json()["image"] == "red/debian"
    ask(world, "PUT", visibility, json={"visibility": "private"})
    assert "debian" not in ask(world, "GET", where, "stranger").text


# -- making images -----------------------------------------------------------------------------------------------------


def signature(digest: bytes = FILE_DIGEST, key: Ed25519PrivateKey = KEY) -> dict[str, str]:
    return {"envelope": sign_image(digest, 6, key).to_bytes().decode(), "key": PEM}


def make(world: World, **body: Any) -> Any:
    return ask(world, "PUT", "/v1/projects/red/images/signed", json={"source": SOURCE, **body})


def test_what_takes_long_says_where_it_can_be_followed(world: World) -> None:
    begun = make(world)
    assert begun.status_code == 202
    assert begun.headers["Location"] == f"/v1/imaging/operations/{begun.json()['id']}"
    assert ask(world, "GET", begun.headers["Location"]).json()["subject"] == "image/signed"


def test_a_signature_says_what_the_file_must_be_and_who_vouched_for_it(world: World) -> None:
    begun = make(world, signature=signature()).json()
    assert begun["parameters"]["sha256"] == FILE_DIGEST.hex()
    raw = KEY.public_key().public_bytes_raw()
    told = ask(world, "GET", "/v1/projects/red/images/signed").json()
    assert told["signed_by"] == hashlib.sha256(raw).hexdigest()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"signature": signature(key=Ed25519PrivateKey.from_private_bytes(bytes(32)))}, "reference-rejected"),
        ({"signature": signature(digest=b"short")}, "malformed-reference"),
        ({"signature": signature() | {"envelope": "{}"}}, "malformed-reference"),
        ({"signature": signature() | {"key": "no key"}}, "malformed-key"),
        ({"signature": signature(), "sha256": "00" * 32}, "wrong-use"),
        ({"signature": signature(), "source": {"kind": "volume", "volume": "spare"}}, "wrong-use"),
        ({"sha256": "00" * 32, "source": {"kind": "image", "image": "debian"}}, "wrong-use"),
        ({"sha256": "AA" * 32}, "malformed"),
        ({"visibility": "private", "shared_with": ["blue"]}, "wrong-use"),
        ({"source": SOURCE | {"format": "vmdk"}}, "malformed"),
    ],
)
def test_what_does_not_fit_together_makes_no_image(world: World, body: dict[str, Any], code: str) -> None:
    assert make(world, **body).json()["code"] == code
    assert ask(world, "GET", "/v1/projects/red/images/signed").status_code == 404


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://example.org/disk",
        "https://",
        "https://user@example.org/disk",
        "https://user:password@example.org/disk",
        "https://example.org\\@169.254.169.254/disk",
        "https://example.org/disk#part",
        "https://example.org/a disk",
        "https://example.org/\u2028disk",
        "https://example.org:0/disk",
        "http://[::1/disk",
    ],
)
def test_an_address_that_could_mean_two_things_or_holds_a_password_is_not_fetched(world: World, url: str) -> None:
    refused = make(world, source=SOURCE | {"url": url})
    assert (refused.status_code, refused.json()["code"]) == (400, "wrong-use")
    assert "password" not in refused.json()["found"]


# -- credentials -------------------------------------------------------------------------------------------------------


def test_what_opens_a_volume_is_told_once_asked_for_and_the_journal_says_to_whom(world: World) -> None:
    told = ask(world, "GET", "/v1/projects/red/volumes/data/access").json()
    assert told == {
        "protocol": "nbd",
        "address": "10.8.0.50",
        "port": 20000,
        "export": "data",
        "authority": "ca",
        "certificate": "certificate",
        "key": "tell nobody of this key",
    }
    entries = ask(world, "GET", "/v1/audit", "provider", params={"limit": 1000}).text
    assert "volume.access-read" in entries
    assert "tell nobody" not in entries


def test_an_operation_that_is_waited_for_is_told_of_when_it_ends(world: World) -> None:
    operation = world.names["imaging_operation"]
    world.api.front.stopping = False
    with world.api.database.reading() as connection:
        pending = catalogue.load_operation(connection, operation)
    world.api.imaging.do(pending)
    told = ask(world, "GET", f"/v1/imaging/operations/{operation}", params={"wait": "30s"}).json()
    assert (told["state"], told["failure"]) == ("done", None)
