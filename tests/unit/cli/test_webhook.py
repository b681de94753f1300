"""The commands of webhooks, over HTTP to a service that listens in this process."""

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from steelyard.model.notices import parse_secret
from steelyard.model.secret import Secret
from steelyard.service.webhooks import WebhookSettings
from tests.api import Api
from tests.fakes.receiver import Receiver, answer, receiving
from tests.unit.cli.command import Command, sign_in
from tests.unit.service.hooks import make_deliverer

SETTINGS = WebhookSettings(allow=("127.0.0.0/8",), tries=1)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


def create(steelyard: Command, home: Path, receiver: Receiver, name: str = "alarms", *more: str) -> None:
    url = f"http://127.0.0.1:{receiver.port}/"
    done = steelyard("webhook", "create", name, url, "--verb", "network.*", "--out", home / f"{name}.secret", *more)
    assert done.exit_code == 0, done.errors


def test_a_webhook_is_made_shown_and_deleted_and_its_secret_is_in_a_file_alone(
    steelyard: Command, home: Path, receiver: Receiver
) -> None:
    sign_in(steelyard, home, "admin")
    create(steelyard, home, receiver)
    path = home / "alarms.secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    secret = path.read_text().strip()
    parse_secret(Secret(secret.encode()))
    [listed] = steelyard("webhook", "list", "--json").json()["items"]
    assert (listed["name"], listed["project"], listed["subjects"]) == ("alarms", "red", ["*"])
    assert "alarms" in steelyard("webhook", "list").output
    shown = steelyard("webhook", "show", "alarms")
    assert "network.*" in shown.output
    assert secret not in shown.output
    assert steelyard("webhook", "show", listed["id"], "--json").json() == listed
    assert steelyard("webhook", "delete", "alarms").exit_code == 0
    assert steelyard("webhook", "show", "alarms").exit_code == 7


def test_without_a_file_for_the_secret_there_is_no_webhook(steelyard: Command, home: Path, receiver: Receiver) -> None:
    sign_in(steelyard, home, "admin")
    (home / "taken").touch()
    url = f"http://127.0.0.1:{receiver.port}/"
    done = steelyard("webhook", "create", "alarms", url, "--verb", "*", "--out", home / "taken")
    assert done.exit_code == 2
    assert steelyard("webhook", "list", "--json").json() == {"items": []}


def test_dead_letters_are_listed_tried_again_and_dropped(
    steelyard: Command, home: Path, api: Api, receiver: Receiver
) -> None:
    sign_in(steelyard, home, "admin")
    create(steelyard, home, receiver)
    hook = steelyard("webhook", "show", "alarms", "--json").json()["id"]
    api.rack.network("lab", "red")
    receiver.answering = answer(500)
    make_deliverer(api.database, SETTINGS).work(hook)
    listed = steelyard("webhook", "dead-letters", "alarms")
    assert "network/lab" in listed.output
    assert "status 500" in listed.output
    [letter] = steelyard("webhook", "dead-letters", "alarms", "--json").json()["items"]
    done = steelyard("webhook", "redeliver", "alarms", "--json")
    assert done.json() == {"redelivering": [letter["number"]]}
    assert "wanted" in steelyard("webhook", "dead-letters", "alarms").output
    assert f"again: {letter['number']}" in steelyard("webhook", "redeliver", "alarms", letter["number"]).output
    assert steelyard("webhook", "drop", "alarms", letter["number"]).exit_code == 0
    assert steelyard("webhook", "dead-letters", "alarms", "--json").json() == {"items": []}
    assert steelyard("webhook", "drop", "alarms", letter["number"]).exit_code == 7


def test_of_two_of_one_name_the_project_says_which(steelyard: Command, home: Path, receiver: Receiver) -> None:
    sign_in(steelyard, home, "provider")
    create(steelyard, home, receiver, "alarms", "--project", "red")
    (home / "alarms.secret").unlink()
    create(steelyard, home, receiver, "alarms", "--provider")
    assert steelyard("webhook", "show", "alarms").exit_code == 2
    assert steelyard("webhook", "show", "alarms", "--project", "red", "--json").json()["project"] == "red"
    both = steelyard("webhook", "create", "x", "https://x", "--verb", "*", "--out", "x", "--project", "p", "--provider")
    assert both.exit_code == 2
