"""Who may have whom told of what; and what a receiver gets, by passes that the test makes at times that it sets."""

import dataclasses
import json
import socket
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import select

from steelyard.model.errors import (
    AddressRefused,
    AlreadyThere,
    NotAllowed,
    NotFound,
    OverQuota,
    ServiceUnready,
    SteelyardError,
    WrongUse,
)
from steelyard.model.secret import Secret
from steelyard.service import accounts, leases, tables, webhooks
from steelyard.service.authority import Caller
from steelyard.service.database import Database
from steelyard.service.delivering import MOST_PAUSE_SECONDS, TAKE_OVER_SECONDS, pause_after
from steelyard.service.journal import Heading
from steelyard.service.sealing import Sealer
from steelyard.service.webhooks import Filter, WebhookSettings, context_of
from tests.fakes.receiver import Receiver, Sent, answer, make_tls, receiving
from tests.unit.service.hooks import (
    ADMIN,
    MEMBER,
    PROVIDER,
    SEALER,
    SETTINGS,
    STRANGER,
    World,
    clocked,
    make_deliverer,
)


@pytest.fixture
def world(database: Database) -> Iterator[World]:
    with clocked(database) as one:
        one.happen("installation/new", None)
        yield one


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


# -- who may -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caller", "project", "error"),
    [
        (ADMIN, "red", None),
        (PROVIDER, "red", None),
        (PROVIDER, None, None),
        (MEMBER, "red", NotAllowed),
        (STRANGER, "red", NotFound),
        (ADMIN, None, NotAllowed),
    ],
)
def test_an_admin_has_a_url_told_of_the_project_and_a_provider_of_everything(
    world: World, caller: Caller, project: str | None, error: type[SteelyardError] | None
) -> None:
    if error is None:
        world.hook("https://hooks.example/x", project=project, caller=caller)
        [made] = world.entries("webhook.made")
        assert made.project == project
        assert "hooks.example" in json.dumps(made.form())
        assert "/x" not in json.dumps(made.form()["detail"]), "a path may be somebody's secret, and this is for ever"
    else:
        with pytest.raises(error):
            world.hook("https://hooks.example/x", project=project, caller=caller)
        assert world.entries("webhook.made") == []


def test_a_webhook_is_seen_by_its_project_and_changed_by_its_admin(world: World) -> None:
    mine, providers = world.hook("https://hooks.example/x"), world.hook("https://hooks.example/x", project=None)
    for caller, seen in ((ADMIN, {mine}), (MEMBER, {mine}), (STRANGER, set()), (PROVIDER, {mine, providers})):
        with world.database.reading() as connection:
            found = webhooks.read_webhooks(connection, caller, after="", limit=10)
        assert {hook.id for hook in found} == seen
    for caller, error in ((MEMBER, NotAllowed), (STRANGER, NotFound)):
        with pytest.raises(error), world.database.writing() as tx:
            webhooks.delete_webhook(tx, caller, mine)
        with pytest.raises((error, NotFound)), world.database.writing() as tx:
            webhooks.redeliver(tx, caller, mine, 1)
    with world.database.writing() as tx:
        webhooks.delete_webhook(tx, ADMIN, mine)
    with pytest.raises(NotFound), world.database.reading() as connection:
        webhooks.read_webhook(connection, ADMIN, mine)


def test_names_are_a_projects_own_and_there_are_no_more_than_its_quota(world: World) -> None:
    world.settings = dataclasses.replace(SETTINGS, per_project=2)
    for project in ("red", "blue", None):
        world.hook("https://hooks.example", "a", project=project)
        with pytest.raises(AlreadyThere):
            world.hook("https://hooks.example", "a", project=project)
        world.hook("https://hooks.example", "b", project=project)
        with pytest.raises(OverQuota):
            world.hook("https://hooks.example", "c", project=project)


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("http://169.254.169.254/latest", AddressRefused),
        ("https://10.0.0.1", AddressRefused),
        ("https://[::1]", AddressRefused),
        ("http://1.1.1.1", AddressRefused),
        ("ftp://hooks.example", WrongUse),
        ("https://user:tell-nobody@hooks.example", WrongUse),
        ("hooks.example", WrongUse),
    ],
)
def test_what_can_be_known_to_be_no_receiver_is_refused_at_once(
    world: World, url: str, error: type[SteelyardError]
) -> None:
    with pytest.raises(error) as refused:
        world.hook(url)
    assert "tell-nobody" not in str(refused.value)


def test_plain_http_is_refused_unless_a_network_of_ours_is_allowed(world: World) -> None:
    world.settings = WebhookSettings()
    with pytest.raises(WrongUse, match="https"):
        world.hook("http://hooks.example")


@pytest.mark.parametrize(
    "patterns", [(), ("",), ("a*b",), ("**",), ("a b",), ("node.?",), ("\u00e4",), ("a" * 201,), ("a",) * 33]
)
def test_a_filter_says_what_it_wants(patterns: tuple[str, ...]) -> None:
    for verbs, subjects in ((patterns, ("*",)), (("*",), patterns)):
        with pytest.raises(WrongUse):
            Filter(verbs, subjects)


def test_a_pattern_is_a_whole_name_or_its_beginning() -> None:
    wanted = Filter(("node.moved", "network.*"), ("node/n1", "network/*"))
    assert wanted.wants("node.moved", "node/n1")
    assert wanted.wants("network.made", "network/lab")
    for verb, subject in (
        ("node.moved", "node/n11"),
        ("node.moved.again", "node/n1"),
        ("xnode.moved", "node/n1"),
        ("networks", "network/lab"),
        ("network.made", "a/network/lab"),
    ):
        assert not wanted.wants(verb, subject)


def test_the_secret_is_told_once_and_kept_sealed(world: World) -> None:
    hook = world.hook("https://hooks.example")
    secret = world.secrets[hook].reveal()
    assert len(secret) == 32
    with world.database.reading() as connection:
        row = connection.execute(select(tables.webhooks)).one()
    assert secret not in row.sealed
    assert secret.hex() not in repr(row)
    assert SEALER.open(context_of(hook), row.sealed) == world.secrets[hook]


def test_secrets_are_sealed_anew_by_the_first_key(world: World) -> None:
    hook = world.hook("https://hooks.example")
    both = Sealer({b"key2": Secret(b"2" * 32), b"key1": Secret(bytes(32))})
    with world.database.writing() as tx:
        assert webhooks.seal_anew(tx, both) == []
        sealed = webhooks.read_sealed(tx.connection, hook)
        assert sealed is not None
        assert both.is_current(sealed)
        assert both.open(context_of(hook), sealed) == world.secrets[hook]
        assert webhooks.seal_anew(tx, Sealer({b"key3": Secret(b"3" * 32)})) == [hook]


def test_a_project_that_is_deleted_leaves_no_webhook_to_the_next_one_of_its_name(
    world: World, receiver: Receiver
) -> None:
    hook, other = world.hook(receiver), world.hook(receiver, project="blue")
    world.settings = dataclasses.replace(SETTINGS, tries=1)
    receiver.answering = answer(500)
    world.happen("node/n1")
    world.work(hook)
    assert len(world.letters(hook)) == 1
    with world.database.writing() as tx:
        accounts.forget_project(tx, "red")
        assert [one.id for one in webhooks.read_all(tx.connection)] == [other]
        assert tx.connection.execute(select(tables.webhook_dead_letters)).all() == []


@pytest.mark.parametrize(
    "wrong",
    [{"tries": 0}, {"seconds": 0.5}, {"threads": 1}, {"hours": -1}, {"allow": ("10.0.0.1/8",)}, {"refuse": ("x",)}],
)
def test_settings_out_of_their_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ServiceUnready, match="webhooks"):
        WebhookSettings(**wrong)  # type: ignore[arg-type]  # which is the point


# -- what is told ------------------------------------------------------------------------------------------------------


def test_what_happens_is_told_in_order_signed_and_to_nobody_else(world: World, receiver: Receiver) -> None:
    world.happen("node/before")
    hook = world.hook(receiver, wanted=Filter(("node.*",), ("node/*",)))
    for subject, project, verb in (
        ("node/n1", "red", "node.moved"),
        ("node/n2", "blue", "node.moved"),
        ("node/n3", None, "node.moved"),
        ("node/n4", "red", "port.moved"),
        ("port/p1", "red", "node.moved"),
        ("node/n5", "red", "node.freed"),
    ):
        world.happen(subject, project, verb)
    world.work(hook)
    assert world.subjects(receiver, hook) == ["node/n1", "node/n5"]
    [first, _] = receiver.sent
    assert (first.method, first.path) == ("POST", "/hook")
    assert first.headers["content-type"] == "application/cloudevents+json"
    assert first.headers["host"] == f"127.0.0.1:{receiver.port}"
    event = json.loads(first.body)
    [entry, _] = [one for one in world.entries("node.moved") if one.subject in ("node/n1", "node/n2")]
    assert event.pop("source").startswith("urn:steelyard:journal:")
    assert event.pop("data") == {name: value for name, value in entry.form().items() if name != "salt"}
    assert event == {
        "specversion": "1.0",
        "id": f"{entry.number}-{entry.digest().hex()}",
        "type": "steelyard.node.moved",
        "subject": "node/n1",
        "time": "2026-11-24T12:00:00.000000+00:00",
        "datacontenttype": "application/json",
    }
    assert entry.salt.hex() not in first.body.decode(), "without it nobody can guess at what a digest hides"
    hook_now = world.read(hook)
    assert (hook_now.outcome, hook_now.failures, hook_now.dead_letters) == ("status 204", 0, 0)


def test_a_webhook_tells_of_its_project_alone_and_not_of_itself(world: World) -> None:
    hook = world.read(world.hook("https://hooks.example"))
    for project, subject, told in (
        ("red", "node/n1", True),
        ("blue", "node/n1", False),
        (None, "node/n1", False),
        ("red", "webhook/alarms", False),
        ("red", "webhook/others", True),
    ):
        assert hook.tells_of(Heading(1, project, "any.verb", subject)) == told


def test_a_receiver_is_known_by_its_certificate(world: World, tmp_path: Path) -> None:
    tls, authority = make_tls(tmp_path, "127.0.0.1")
    with receiving(tls) as receiver:
        hook = world.hook(f"https://127.0.0.1:{receiver.port}/hook")
        world.happen("node/n1")
        world.work(hook)
        assert receiver.sent == [], "it is of no authority that this computer trusts"
        outcome = world.read(hook).outcome
        assert outcome is not None
        assert "TLS" in outcome
        world.wait(hook)
        world.settings = dataclasses.replace(SETTINGS, ca=authority)
        world.work(hook)
        assert world.subjects(receiver, hook) == ["node/n1"]


def test_the_provider_is_told_of_every_project(world: World, receiver: Receiver) -> None:
    hook = world.hook(receiver, project=None, wanted=Filter(("node.*",), ("*",)))
    for project in ("red", "blue", None):
        world.happen(f"node/{project}", project)
    world.work(hook)
    assert world.subjects(receiver, hook) == ["node/red", "node/blue", "node/None"]


def test_what_is_far_behind_and_not_wanted_is_not_looked_at_for_ever(
    world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "FAR_BEHIND", 5)
    monkeypatch.setattr(webhooks, "SCANNED_AT_ONCE", 3)
    hook = world.hook(receiver, wanted=Filter(("node.freed",), ("*",)))
    last = [world.happen("node/n1") for _ in range(7)][-1]
    done = world.work(hook)
    assert world.read(hook).position == last == done.number
    world.happen("node/n2", verb="node.freed")
    world.work(hook)
    assert world.subjects(receiver, hook) == ["node/n2"]


# -- what fails --------------------------------------------------------------------------------------------------------


def test_what_fails_is_tried_again_later_and_nothing_overtakes_it(world: World, receiver: Receiver) -> None:
    hook = world.hook(receiver)
    world.happen("node/n1")
    world.happen("node/n2")
    receiver.answering = answer(500)
    pauses = []
    for number in (1, 2, 3):
        world.work(hook)
        world.work(hook)  # too early
        assert len(receiver.sent) == number
        assert world.read(hook).tries == number
        pauses.append(world.wait(hook).total_seconds())
    for pause, longest in zip(pauses, (5, 10, 20), strict=True):
        assert longest / 2 <= pause <= longest
    receiver.answering = answer(200)
    world.work(hook)
    assert world.subjects(receiver, hook) == ["node/n1"] * 4 + ["node/n2"]
    assert len({sent.headers["webhook-id"] for sent in receiver.sent}) == 2
    tries = receiver.sent[:4]
    assert len({sent.headers["webhook-signature"] for sent in tries}) == 4, "each try is signed for its own time"
    assert len({sent.body for sent in tries}) == 1
    assert world.read(hook).failures == 0


def test_pauses_double_differ_and_have_an_end() -> None:
    assert [pause_after(number, 1.0) for number in (1, 2, 3)] == [5, 10, 20]
    assert [pause_after(number, 0.0) for number in (1, 2, 3)] == [2.5, 5, 10]
    assert pause_after(10_000, 1.0) == MOST_PAUSE_SECONDS


def test_a_receiver_that_asks_for_time_gets_it_within_reason(world: World, receiver: Receiver) -> None:
    hook = world.hook(receiver)
    world.happen("node/n1")
    for asked, least, most in (("300", 300, 300), ("999999", 3600, 3600), ("soon", 10, 20), ("9" * 400, 20, 40)):
        receiver.answering = answer(503, Retry_After=asked)
        world.work(hook)
        assert least <= world.wait(hook).total_seconds() <= most


def test_what_was_tried_often_enough_is_given_up_and_the_next_goes_on(world: World, receiver: Receiver) -> None:
    hook = world.hook(receiver)
    first, second = world.happen("node/n1"), world.happen("node/n2")
    receiver.answering = answer(500)
    for _ in range(SETTINGS.tries):
        world.work(hook)
        world.wait(hook)
    [letter] = world.letters(hook)
    assert (letter.entry.number, letter.tries, letter.outcome) == (first, SETTINGS.tries, "status 500")
    assert world.read(hook).dead_letters == 1
    [failing] = world.entries("webhook.failing")
    assert (failing.subject, failing.project, failing.detail["outcome"]) == ("webhook/alarms", "red", "status 500")
    world.work(hook)
    assert world.subjects(receiver, hook)[-1] == "node/n2"
    receiver.answering = answer(200)
    world.wait(hook)
    world.work(hook)
    assert world.read(hook).position >= second
    assert world.read(hook).failing_since is None
    assert len(world.entries("webhook.recovered")) == 1


def test_tries_and_what_was_given_up_are_counted(world: World, receiver: Receiver) -> None:
    world.settings = dataclasses.replace(SETTINGS, tries=1)
    hook, registry = world.hook(receiver), CollectorRegistry()
    deliverer = make_deliverer(world.database, world.settings, registry)
    for number, status in enumerate((500, 204, 204)):
        receiver.answering = answer(status)
        world.happen(f"node/n{number}")
        deliverer.work(hook)
        world.clock.now += timedelta(hours=1)
    for outcome, count in (("failed", 1), ("delivered", 2)):
        assert registry.get_sample_value("steelyard_webhook_tries_total", {"outcome": outcome}) == count
    assert registry.get_sample_value("steelyard_webhook_dead_letters_total") == 1


def test_what_was_tried_for_long_enough_is_given_up(world: World, receiver: Receiver) -> None:
    hook = world.hook(receiver)
    world.happen("node/n1")
    receiver.answering = answer(500)
    world.work(hook)
    world.clock.now += timedelta(hours=SETTINGS.hours)
    world.work(hook)
    assert [letter.tries for letter in world.letters(hook)] == [2]


def test_a_dead_letter_is_delivered_again_or_dropped_when_asked(world: World, receiver: Receiver) -> None:
    hook = world.hook(receiver)
    world.settings = dataclasses.replace(SETTINGS, tries=1)
    receiver.answering = answer(410)
    numbers = [world.happen(f"node/n{each}") for each in range(3)]
    for _ in numbers:
        world.work(hook)
        world.wait(hook)
    assert [letter.entry.number for letter in world.letters(hook)] == numbers
    world.redeliver(hook, numbers[0])
    world.work(hook)
    assert [(letter.tries, letter.wanted) for letter in world.letters(hook)] == [(2, None), (1, None), (1, None)]
    receiver.answering = answer(204)
    before = len(receiver.sent)
    world.redeliver(hook, numbers[1])
    world.redeliver(hook, numbers[0])
    world.work(hook)
    assert world.subjects(receiver, hook)[before:] == ["node/n0", "node/n1"]
    assert [letter.entry.number for letter in world.letters(hook)] == [numbers[2]]
    with world.database.writing() as tx:
        webhooks.drop_letter(tx, PROVIDER, hook, numbers[2])
    assert world.letters(hook) == []
    assert [entry.detail["number"] for entry in world.entries("webhook.letter-dropped")] == [numbers[2]]
    with pytest.raises(NotFound):
        world.redeliver(hook, numbers[2])
    with pytest.raises(NotFound), world.database.writing() as tx:
        webhooks.drop_letter(tx, PROVIDER, hook, numbers[2])


def test_two_dead_receivers_that_are_told_of_each_other_come_to_an_end(world: World, receiver: Receiver) -> None:
    world.settings = dataclasses.replace(SETTINGS, tries=1)
    receiver.answering = answer(500)
    hooks = [world.hook(receiver, name) for name in ("a", "b")] + [world.hook(receiver, "c", project=None)]
    world.happen("node/n1")
    for _ in range(12):
        for hook in hooks:
            world.work(hook)
        world.clock.now += timedelta(hours=2)
    assert len(world.entries("webhook.failing")) == 3
    sent = len(receiver.sent)
    for hook in hooks:
        world.work(hook)
    assert len(receiver.sent) == sent


# -- hostile receivers -------------------------------------------------------------------------------------------------


def test_a_redirect_is_a_failure_and_is_not_followed(world: World, receiver: Receiver) -> None:
    hook = world.hook(receiver)
    world.happen("node/n1")
    with receiving() as elsewhere:
        receiver.answering = answer(307, Location=f"http://127.0.0.1:{elsewhere.port}/")
        world.work(hook)
        assert elsewhere.sent == []
    assert world.read(hook).outcome == "status 307"
    assert world.read(hook).tries == 1


def test_a_receiver_at_a_private_address_is_not_called(world: World, receiver: Receiver) -> None:
    """A name that led elsewhere when the webhook was made, or a network that is not allowed any more."""
    hooks = [world.hook(receiver, "a"), world.hook(f"https://localhost:{receiver.port}", "b")]
    world.happen("node/n1")
    world.settings = WebhookSettings()
    for hook in hooks:
        world.work(hook)
        assert world.read(hook).outcome == "its address is not called from here"
    assert receiver.sent == []


def test_an_answer_without_end_costs_nothing(world: World, receiver: Receiver) -> None:
    hook = world.hook(receiver)
    world.happen("node/n1")
    told = threading.Event()

    def endless(_sent: Sent, connection: socket.socket) -> bytes:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                connection.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")
        except OSError:
            told.set()
        return b""

    receiver.answering = endless
    world.work(hook)
    assert world.read(hook).outcome == "status 200"
    assert told.wait(10)


def test_a_receiver_that_drips_is_cut_off(world: World, receiver: Receiver) -> None:
    world.settings = dataclasses.replace(SETTINGS, seconds=1)
    hook = world.hook(receiver)
    world.happen("node/n1")
    ended = threading.Event()

    def dripping(_sent: Sent, connection: socket.socket) -> bytes:
        while not ended.wait(0.05):
            connection.sendall(b"x")
        return b""

    receiver.answering = dripping
    world.work(hook)
    ended.set()
    outcome = world.read(hook).outcome
    assert outcome is not None
    assert outcome.startswith("no answer")


def test_a_receiver_that_is_not_there_is_a_failure(world: World) -> None:
    with receiving() as gone:
        hook = world.hook(gone)
    world.happen("node/n1")
    world.work(hook)
    assert world.read(hook).tries == 1


# -- several who deliver -----------------------------------------------------------------------------------------------


def test_what_another_process_is_at_is_left_to_it(world: World, receiver: Receiver) -> None:
    hook = world.hook(receiver)
    world.happen("node/n1")
    with world.database.writing() as tx:
        assert leases.acquire(tx, context_of(hook), "other", timedelta(seconds=30)) is not None
    done = world.work(hook)
    assert (done.number, done.seconds) == (None, TAKE_OVER_SECONDS)
    assert receiver.sent == []
    world.clock.now += timedelta(seconds=30)
    world.work(hook)
    assert len(receiver.sent) == 1


def test_who_lost_the_webhook_in_the_middle_writes_nothing_down(world: World, receiver: Receiver) -> None:
    """It was asleep: the notice is the other's by now, who sends it again rather than never."""
    hook = world.hook(receiver)
    world.happen("node/n1")

    def takes_over(_sent: Sent, _connection: socket.socket) -> bytes:
        world.clock.now += timedelta(minutes=5)
        with world.database.writing() as tx:
            assert leases.acquire(tx, context_of(hook), "other", timedelta(seconds=30)) is not None
        return b"HTTP/1.1 204 No Content\r\n\r\n"

    receiver.answering = takes_over
    world.work(hook)
    assert world.read(hook).last_try is None
    receiver.answering = answer(204)
    world.clock.now += timedelta(minutes=5)
    world.work(hook)
    assert world.subjects(receiver, hook) == ["node/n1"] * 2


def test_what_was_done_meanwhile_is_not_done_again(world: World, receiver: Receiver) -> None:
    hook = world.hook(receiver)
    world.happen("node/n1")
    with world.database.reading() as connection:
        due = webhooks.read_due(connection, hook, world.clock.now)
    assert isinstance(due, webhooks.Due)
    with world.database.reading() as connection:
        assert webhooks.is_due(connection, due)
    world.work(hook)
    with world.database.reading() as connection:
        assert not webhooks.is_due(connection, due)


def test_a_webhook_that_is_deleted_in_the_middle_is_gone(world: World, receiver: Receiver) -> None:
    hook = world.hook(receiver)
    world.happen("node/n1")

    def deletes(_sent: Sent, _connection: socket.socket) -> bytes:
        with world.database.writing() as tx:
            webhooks.delete_webhook(tx, ADMIN, hook)
        return b"HTTP/1.1 204 No Content\r\n\r\n"

    receiver.answering = deletes
    world.work(hook)
    with world.database.reading() as connection:
        assert webhooks.read_all(connection) == ()
    world.work(hook)
    assert len(receiver.sent) == 1


def test_a_secret_that_no_key_opens_is_a_failure_and_nothing_is_sent(world: World, receiver: Receiver) -> None:
    hook = world.hook(receiver)
    world.happen("node/n1")
    deliverer = make_deliverer(world.database)
    deliverer._sealer = Sealer({b"key9": Secret(b"9" * 32)})
    deliverer.work(hook)
    assert receiver.sent == []
    assert world.read(hook).outcome == "not sent: service-unready"
