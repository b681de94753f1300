"""A receiver tells a notice of its webhook's from forged, altered, foreign, old and repeated ones (attack 35)."""

import hashlib
import hmac
import json
from base64 import b64encode
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from steelyard.client import webhooks
from steelyard.client.connection import Client
from steelyard.client.webhooks import TOLERANCE, Notice, verify_notice
from steelyard.model.errors import MalformedNotice, NotFound, NoticeRejected, NoticeRepeated, WrongUse
from steelyard.model.limits import NOTICE_BYTES
from steelyard.model.notices import parse_secret, sign_notice, write_secret
from steelyard.model.secret import Secret
from steelyard.service import tables
from steelyard.service import webhooks as service
from steelyard.service.database import Database
from tests.api import Api, client_of, listening, make_api
from tests.fakes.receiver import Receiver, answer, receiving
from tests.unit.service.hooks import make_deliverer

SECRET: Final = Secret(bytes(range(32)))
NOW: Final = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
SECONDS: Final = str(int(NOW.timestamp()))
ID: Final = "7-" + "ab" * 32
EVENT: Final[dict[str, Any]] = {
    "specversion": "1.0",
    "id": ID,
    "source": "urn:steelyard:journal:0011",
    "type": "steelyard.node.moved",
    "subject": "node/n1",
    "time": "2026-11-24T11:59:59.000000+00:00",
    "datacontenttype": "application/json",
    "data": {
        "actor": "ann",
        "at": "2026-11-24T11:59:59.000000+00:00",
        "detail": {"why": "a test"},
        "number": 7,
        "project": "red",
        "subject": "node/n1",
        "verb": "node.moved",
    },
}
BODY: Final = json.dumps(EVENT).encode()


def headers(body: bytes = BODY, *, secret: Secret = SECRET, **other: str) -> dict[str, str]:
    """Return the headers of a good notice, but for what is said."""
    told = {"id": ID, "timestamp": SECONDS, **other}
    told.setdefault("signature", sign_notice(secret, told["id"], int(told["timestamp"]), body))
    return {f"Webhook-{name.title()}": value for name, value in told.items()}


def verify(
    told: dict[str, str], body: bytes = BODY, *, now: datetime = NOW, seen: Collection[str] = frozenset()
) -> Notice:
    return verify_notice(SECRET, told, body, now=now, tolerance=TOLERANCE, seen=seen)


def test_a_good_notice_is_what_was_told() -> None:
    notice = verify(headers())
    assert (notice.id, notice.source) == (ID, "urn:steelyard:journal:0011")
    assert (notice.event.number, notice.event.verb, notice.event.project) == (7, "node.moved", "red")
    assert notice.event.detail == {"why": "a test"}


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """Computed as its specification says, by nothing of ours; and its own example, by ours."""
    code = hmac.new(SECRET.reveal(), f"{ID}.{SECONDS}.".encode() + BODY, hashlib.sha256).digest()
    assert sign_notice(SECRET, ID, int(SECONDS), BODY) == "v1," + b64encode(code).decode()
    theirs = parse_secret(Secret(b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"))
    signature = sign_notice(theirs, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    "forge",
    [
        lambda: (headers(secret=Secret(bytes(32))), BODY),
        lambda: (headers(), BODY.replace(b"n1", b"n2")),
        lambda: (headers(), BODY + b" "),
        lambda: (headers(signature=""), BODY),
        lambda: (headers(signature="v1,"), BODY),
        lambda: (headers(signature=sign_notice(SECRET, ID, int(SECONDS), BODY).replace("v1,", "v1a,")), BODY),
        lambda: (headers(signature=sign_notice(SECRET, ID, int(SECONDS), BODY).removeprefix("v1,")), BODY),
        lambda: (headers(signature=sign_notice(SECRET, ID, int(SECONDS), BODY)[:-4]), BODY),
        lambda: (headers(signature=" ".join(["v1,x"] * 8 + [headers()["Webhook-Signature"]])), BODY),
        lambda: (headers() | {"Webhook-Id": "8-" + "ab" * 32}, BODY),
        lambda: (headers() | {"Webhook-Timestamp": str(int(SECONDS) + 1)}, BODY),
        lambda: (headers(id="8-" + "ab" * 32), BODY),
    ],
    ids=range(12),
)
def test_what_the_service_did_not_sign_for_this_webhook_is_rejected(
    forge: Callable[[], tuple[dict[str, str], bytes]],
) -> None:
    told, body = forge()
    with pytest.raises(NoticeRejected) as rejected:
        verify(told, body)
    assert sign_notice(SECRET, ID, int(SECONDS), body) not in str(rejected.value)


def test_one_good_signature_of_several_is_enough_as_when_a_secret_is_changed() -> None:
    good = headers()["Webhook-Signature"]
    other = sign_notice(Secret(bytes(32)), ID, int(SECONDS), BODY)
    assert verify(headers(signature=f"v2,abc {other} {good}")).id == ID


def test_an_old_notice_and_one_of_the_future_are_rejected() -> None:
    for away in (TOLERANCE, -TOLERANCE):
        verify(headers(), now=NOW + away)
        with pytest.raises(NoticeRejected):
            verify(headers(), now=NOW + away * 1.01)


def test_a_notice_that_was_taken_is_not_taken_again() -> None:
    taken = verify(headers())
    with pytest.raises(NoticeRepeated):
        verify(headers(timestamp=str(int(SECONDS) + 60)), now=NOW + timedelta(minutes=1), seen={taken.id})


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"Webhook-Id": ID},
        headers() | {"Webhook-Timestamp": ""},
        headers() | {"Webhook-Timestamp": "x"},
        headers() | {"Webhook-Timestamp": "-1"},
        headers() | {"Webhook-Timestamp": "9" * 5000},
        headers() | {"Webhook-Timestamp": "\u0661"},
        headers() | {"Webhook-Id": ""},
        headers() | {"Webhook-Signature": "v1,\u00e4"},
    ],
    ids=range(9),
)
def test_headers_that_are_none_are_malformed(told: dict[str, str]) -> None:
    with pytest.raises(MalformedNotice):
        verify(told)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        json.dumps({**EVENT, "specversion": "2.0"}).encode(),
        json.dumps({**EVENT, "id": 7}).encode(),
        json.dumps({**EVENT, "source": None}).encode(),
        json.dumps({**EVENT, "data": None}).encode(),
        json.dumps({**EVENT, "data": {}}).encode(),
        json.dumps({**EVENT, "type": "steelyard.node.freed"}).encode(),
        json.dumps({**EVENT, "subject": "node/n2"}).encode(),
        bytes(NOTICE_BYTES.most + 1),
    ],
    ids=range(13),
)
def test_a_body_that_is_no_notice_is_malformed_even_if_it_is_signed(body: bytes) -> None:
    with pytest.raises(MalformedNotice):
        verify(headers(body), body)


@pytest.mark.parametrize("told", [b"", b"whsec_", b"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b"whsec_???", b"whsec_AAAA"])
def test_a_secret_that_is_none_is_refused_and_not_shown(told: bytes) -> None:
    with pytest.raises(WrongUse) as refused:
        parse_secret(Secret(told))
    assert told.decode()[6:] == "" or told.decode()[6:] not in str(refused.value)
    assert parse_secret(write_secret(SECRET)) == SECRET


# -- the service -------------------------------------------------------------------------------------------------------


@pytest.fixture
def api(sqlite_database: Database) -> Api:
    return make_api(sqlite_database)


@pytest.fixture
def admin(api: Api) -> Iterator[Client]:
    with listening(api.app) as url, client_of(url, api.tokens["admin"]) as client:
        yield client


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


def test_a_webhook_from_its_making_to_its_end(api: Api, admin: Client, receiver: Receiver) -> None:
    url = f"http://127.0.0.1:{receiver.port}/"
    new = admin.ask(webhooks.make_webhook("alarms", project="red", url=url, verbs=["network.*"], subjects=["*"]))
    hook = new.webhook
    assert [hook] == list(admin.every(webhooks.list_webhooks()))
    assert hook == admin.ask(webhooks.read_webhook(hook.id))
    assert (hook.name, hook.project, hook.url, hook.verbs, hook.dead_letters) == (
        "alarms",
        "red",
        url,
        ("network.*",),
        0,
    )
    api.rack.network("lab", "red")
    settings = service.WebhookSettings(allow=("127.0.0.0/8",), tries=1)
    receiver.answering = answer(500)
    make_deliverer(api.database, settings).work(hook.id)
    [letter] = admin.every(webhooks.list_dead_letters(hook.id))
    assert (letter.subject, letter.outcome, letter.wanted) == ("network/lab", "status 500", None)
    assert admin.ask(webhooks.redeliver(hook.id, letter.number)).wanted is not None
    receiver.answering = answer(204)
    make_deliverer(api.database, settings).work(hook.id)
    assert list(admin.every(webhooks.list_dead_letters(hook.id))) == []
    for sent in receiver.sent:
        notice = verify_notice(
            parse_secret(new.secret),
            sent.headers,
            sent.body,
            now=datetime.now(UTC),
            tolerance=TOLERANCE,
            seen=frozenset(),
        )
        assert notice.event.subject == "network/lab"
    with pytest.raises(NotFound):
        admin.ask(webhooks.drop_dead_letter(hook.id, letter.number))
    admin.ask(webhooks.delete_webhook(hook.id))
    with pytest.raises(NotFound):
        admin.ask(webhooks.read_webhook(hook.id))


def test_lists_come_in_pages(api: Api, admin: Client, receiver: Receiver) -> None:
    receiver.answering = answer(500)
    url = f"http://127.0.0.1:{receiver.port}/"
    call = webhooks.make_webhook("alarms", project="red", url=url, verbs=["network.*"], subjects=["*"])
    hook = admin.ask(call).webhook
    for number in range(3):
        api.rack.network(f"lab{number}", "red")
    for _ in range(3):
        make_deliverer(api.database, service.WebhookSettings(allow=("127.0.0.0/8",), tries=1)).work(hook.id)
        with api.rack.tx() as tx:
            tx.connection.execute(tables.webhooks.update().values(not_before=None))
    first = webhooks.list_dead_letters(hook.id)
    letters = list(admin.every(first))
    assert [letter.subject for letter in letters] == ["network/lab0", "network/lab1", "network/lab2"]
