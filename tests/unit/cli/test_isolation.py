"""The commands that speak to the isolation service, over HTTP to one that listens in this process. No keeper runs."""

import json
import stat
import subprocess
import sys
from pathlib import Path

from steelyard.cli.token import Right as TokenRight
from steelyard.service.authority import Right
from tests.api import Api
from tests.unit.cli.command import Command, sign_in


def test_login_keeps_where_and_not_the_token(steelyard: Command, home: Path, api: Api) -> None:
    sign_in(steelyard, home, "member")
    settings = home / ".config" / "steelyard" / "client.toml"
    assert stat.S_IMODE(settings.stat().st_mode) == 0o600
    assert api.tokens["member"] not in settings.read_text()
    shown = steelyard("token", "show")
    assert "member" in shown.output
    assert api.tokens["member"] not in shown.output


def test_a_token_that_others_can_read_is_not_used(steelyard: Command, home: Path) -> None:
    (home / "member.token").chmod(0o644)
    refused = steelyard("login", (home / "url").read_text(), "--token-file", home / "member.token")
    assert refused.exit_code == 2
    assert "600" in refused.errors


def test_nothing_is_sent_unencrypted_to_another_computer(steelyard: Command, home: Path) -> None:
    refused = steelyard("login", "http://192.0.2.1:8443", "--token-file", home / "member.token")
    assert refused.exit_code == 2
    assert "https" in refused.errors


def test_without_a_sign_in_it_is_said_how(steelyard: Command, home: Path) -> None:
    assert home.is_dir()
    refused = steelyard("node", "list")
    assert refused.exit_code == 2
    assert "steelyard login" in refused.errors


def test_a_wrong_token_and_an_unknown_one_are_told_alike(steelyard: Command, home: Path, api: Api) -> None:
    errors = set()
    known = api.tokens["member"]
    for token in (known[:-4] + "AAAA", "sy_0123456789abcdef_" + "A" * 43, "nonsense"):
        (home / "member.token").write_text(token)
        refused = steelyard("login", (home / "url").read_text(), "--token-file", home / "member.token", "--json")
        assert refused.exit_code == 7
        errors.add(refused.errors)
    assert len(errors) == 1


def test_a_node_is_taken_by_its_label_and_asking_again_gives_the_same(steelyard: Command, home: Path) -> None:
    sign_in(steelyard, home, "member")
    command = ("node", "allocate", "web", "--project", "red", "--count", 1, "--label", "gpu=no")
    assert steelyard(*command).output == "n2\n"
    assert steelyard(*command).output == "n2\n"
    listed = steelyard("node", "list", "--project", "red", "--json").json()
    assert [node["name"] for node in listed["items"]] == ["n2"]


def test_more_than_there_are_is_refused_and_none_taken(steelyard: Command, home: Path) -> None:
    sign_in(steelyard, home, "member")
    refused = steelyard("node", "allocate", "all", "--project", "red", "--count", 3, "--json")
    assert refused.exit_code == 7
    assert refused.json()["error"]["code"] == "not-enough"
    assert steelyard("node", "list", "--project", "red", "--json").json() == {"items": []}


def test_an_operation_is_begun_shown_and_cancelled(steelyard: Command, home: Path) -> None:
    sign_in(steelyard, home, "member")
    steelyard("node", "allocate", "web", "--project", "red", "--node", "n1")
    assert steelyard("network", "create", "lab", "--project", "red").exit_code == 0
    begun = steelyard("node", "attach", "n1", "nic0", "lab", "--no-wait", "--json").json()
    [operation] = begun["items"]
    assert operation["state"] == "pending"
    shown = steelyard("operation", "show", operation["id"])
    assert "switch s1" in shown.output or "s1/n1-nic0" in shown.output
    assert steelyard("operation", "cancel", operation["id"], "--json").json()["state"] == "cancelled"


def test_what_fails_ends_with_the_failures_exit_code(steelyard: Command, home: Path, api: Api) -> None:
    sign_in(steelyard, home, "member")
    steelyard("node", "allocate", "web", "--project", "red", "--node", "n1")
    refused = steelyard("node", "power", "on", "n2")
    assert refused.exit_code == 7
    assert "error (not-allowed)" in refused.errors
    assert api.tokens["member"] not in refused.errors + refused.output


def test_another_tenants_node_looks_as_if_there_were_none(steelyard: Command, home: Path) -> None:
    sign_in(steelyard, home, "member")
    steelyard("node", "allocate", "web", "--project", "red", "--node", "n1")
    sign_in(steelyard, home, "stranger")
    foreign, absent = (steelyard("node", "show", name).errors.replace(name, "NODE") for name in ("n1", "n9"))
    assert foreign == absent


def test_a_network_is_shared_and_taken_back(steelyard: Command, home: Path) -> None:
    sign_in(steelyard, home, "member")
    steelyard("network", "create", "lab", "--project", "red")
    shared = steelyard("network", "share", "lab", "blue", "--json").json()
    assert (shared["sharing"], shared["shared_with"]) == ("shared", ["blue"])
    taken_back = steelyard("network", "unshare", "lab", "blue", "--json").json()
    assert (taken_back["sharing"], taken_back["shared_with"]) == ("private", [])
    assert steelyard("network", "publish", "lab").exit_code == 7


def test_passwords_are_read_from_a_file_and_never_shown(steelyard: Command, home: Path) -> None:
    sign_in(steelyard, home, "provider")
    credentials = home / "bmc.txt"
    credentials.touch(mode=0o600)
    credentials.write_text("username=admin\npassword=hunter2\n")
    registered = steelyard(
        "node", "register", "n3", "--driver", "fake", "--address", "host=b3", "--credentials", credentials, "--json"
    )
    assert registered.json()["state"] == "maintenance"
    for told in (registered, steelyard("node", "show", "n3", "--json"), steelyard("audit", "list", "--json")):
        assert "hunter2" not in told.output + told.errors
    credentials.chmod(0o640)
    again = ("node", "register", "n3", "--driver", "fake", "--address", "host=b3", "--credentials", credentials)
    assert steelyard(*again).exit_code == 2


def test_a_journal_that_was_cut_short_is_noticed(steelyard: Command, home: Path) -> None:
    sign_in(steelyard, home, "stranger")
    good = steelyard("audit", "check")
    assert good.exit_code == 0
    heads = home / ".local" / "state" / "steelyard" / "audit.json"
    [(url, head)] = json.loads(heads.read_text()).items()
    heads.write_text(json.dumps({url: {**head, "number": head["number"] + 1}}))
    assert steelyard("audit", "check").exit_code == 4
    heads.write_text(json.dumps({url: {**head, "chain": "00" * 32}}))
    assert steelyard("audit", "check").exit_code == 4


def test_help_comes_without_the_web_library(steelyard: Command) -> None:
    """Shown by what Python imports in a process of its own."""
    code = "import sys; import steelyard.cli.main; print(sorted({'fastapi', 'sqlalchemy', 'httpx'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert steelyard("--help").exit_code == 0


def test_a_token_can_be_for_each_right_that_there_is() -> None:
    assert {right.value for right in TokenRight} == {right.value for right in Right}
