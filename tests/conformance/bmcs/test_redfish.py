"""The Redfish driver's own: whom it trusts and speaks to, what it makes of odd answers, what it does not do twice."""

import gc
import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from steelyard.isolation.bmcs import redfish
from steelyard.isolation.ports import Access, Bmc, BootDevice, Power
from steelyard.model.errors import (
    DeviceError,
    DeviceGarbled,
    DeviceRefused,
    DeviceUnreachable,
    OutcomeUnknown,
    WrongUse,
)
from steelyard.model.limits import REDFISH_BODY_BYTES
from steelyard.model.secret import Secret
from tests.conformance.bmcs.rig import SimulatedBmc
from tests.conformance.bmcs.scripted_redfish import (
    PASSWORD,
    RESET,
    SYSTEM,
    TOKEN,
    Answer,
    ScriptedRedfish,
    scripted_redfish,
    system,
)

CREDENTIALS = {"username": Secret(b"admin"), "password": Secret(b"sesame")}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ScriptedRedfish]:
    with scripted_redfish(tmp_path) as found:
        yield found


@pytest.fixture
def scripted(service: ScriptedRedfish) -> Iterator[Bmc]:
    bmc = service.connect()
    yield bmc
    bmc.close()


# -- the access --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        {},
        {"url": ""},
        {"url": "http://bmc"},
        {"url": "https://"},
        {"url": "https://admin:sesame@bmc"},
        {"url": "https://bmc/redfish/v1"},
        {"url": "https://bmc?x"},
        {"url": "https://bmc:0"},
        {"url": "https://bmc:65536"},
        {"url": "https://-bmc"},
        {"url": "https://bmc\n"},
        {"url": "https://bmc", "ca": ""},
        {"url": "https://bmc", "ca": "no PEM"},
        {"url": "https://bmc", "verify": "false"},
        {"url": "https://bmc", "system": "../Chassis/1"},
        {"url": "https://bmc", "sol_port": "623"},
        {"url": "https://bmc", "sol_host": "-I"},
    ],
)
def test_an_address_that_is_none_is_refused(address: dict[str, str]) -> None:
    with pytest.raises(WrongUse):
        redfish.connect(Access(address, CREDENTIALS))


@pytest.mark.parametrize("url", ["https://bmc", "https://192.0.2.1:8443/", "https://[2001:db8::1]", "https://BMC.lan"])
def test_an_address_that_is_one_is_taken(url: str) -> None:
    redfish.connect(Access({"url": url}, CREDENTIALS)).close()


@pytest.mark.parametrize("credentials", [{}, {"username": Secret(b"a")}, {**CREDENTIALS, "password": Secret(b"\xff")}])
def test_credentials_that_are_none_are_refused(credentials: dict[str, Secret]) -> None:
    with pytest.raises(WrongUse):
        redfish.connect(Access({"url": "https://bmc"}, credentials))


# -- whom it trusts ----------------------------------------------------------------------------------------------------


def test_a_certificate_of_another_authority_is_refused(simulated: SimulatedBmc, service: ScriptedRedfish) -> None:
    other = service.access().address["ca"]
    elsewhere = f"https://localhost:{simulated.redfish_port}"
    for access in (simulated.redfish_access(ca=other), simulated.redfish_access(url=elsewhere)):
        bmc = redfish.connect(access)
        with pytest.raises(DeviceRefused, match="certificate"):
            bmc.read_power()
        bmc.close()


def test_without_an_authority_the_systems_are_asked(simulated: SimulatedBmc) -> None:
    whole = simulated.redfish_access()
    address = {name: value for name, value in whole.address.items() if name != "ca"}
    bmc = redfish.RedfishBmc(Access(address, whole.credentials))
    with pytest.raises(DeviceRefused, match="certificate"):
        bmc.read_power()
    bmc.close()


def test_an_authority_that_is_given_is_the_only_one(simulated: SimulatedBmc) -> None:
    bmc = redfish.RedfishBmc(simulated.redfish_access())
    bmc.read_power()
    assert len(bmc._wire._context.get_ca_certs()) == 1
    bmc.close()


def test_the_environment_changes_nothing(
    service: ScriptedRedfish, scripted: Bmc, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login admin password another\n")
    for name, value in {
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "REQUESTS_CA_BUNDLE": "/etc/hosts",
        "NETRC": str(netrc),
    }.items():
        monkeypatch.setenv(name, value)
    assert scripted.read_power() is Power.OFF
    assert {token for _, path, token in service.asked if path == SYSTEM} == {TOKEN}
    assert service.authorizations == []


@pytest.fixture(params=["https", "http"])
def thief(request: pytest.FixtureRequest, service: ScriptedRedfish, tmp_path: Path) -> Iterator[ScriptedRedfish]:
    """Another service, that has all a BMC has, even a certificate of the same authority."""
    with scripted_redfish(tmp_path, service, request.param) as found:
        yield found
    assert found.asked == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("place", [("GET", "/redfish/v1/"), ("POST", "/redfish/v1/Sessions"), ("GET", SYSTEM)])
def test_a_redirect_to_another_host_is_not_followed(
    service: ScriptedRedfish, scripted: Bmc, thief: ScriptedRedfish, status: int, place: tuple[str, str]
) -> None:
    service.answers[place] = Answer(status, {}, {"Location": f"{thief.url}{place[1]}"})
    with pytest.raises(DeviceError):
        scripted.read_power()


def test_a_link_to_another_host_is_not_followed(
    service: ScriptedRedfish, scripted: Bmc, thief: ScriptedRedfish
) -> None:
    for target in (f"{thief.url}{RESET}", thief.url.partition(":")[2] + RESET):
        actions = {"#ComputerSystem.Reset": {"target": target, "ResetType@Redfish.AllowableValues": ["On"]}}
        service.answers["GET", SYSTEM] = Answer(body=system(Actions=actions))
        with pytest.raises(DeviceGarbled):
            scripted.set_power(Power.ON)


def test_a_redirect_within_the_host_is_followed(service: ScriptedRedfish, scripted: Bmc) -> None:
    service.answers["GET", "/redfish/v1"] = service.answers["GET", "/redfish/v1/"]
    service.answers["GET", "/redfish/v1/"] = Answer(308, {}, {"Location": "/redfish/v1"})
    assert scripted.read_power() is Power.OFF


def test_neither_password_nor_token_is_logged_or_in_an_error(
    service: ScriptedRedfish, scripted: Bmc, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    scripted.read_power()
    echo = {"error": {"code": "Base.1.0.GeneralError", "message": f"{PASSWORD} is not right"}}
    service.answers["GET", SYSTEM] = Answer(403, echo)
    service.answers["POST", "/redfish/v1/Sessions"] = Answer(401, echo)
    with pytest.raises(DeviceRefused) as refused:
        scripted.read_power()
    assert "is not right" in str(refused.value)
    assert "sushy" in {record.name.partition(".")[0] for record in caplog.records}
    for text in (caplog.text, str(refused.value)):
        assert PASSWORD not in text
        assert TOKEN not in text


# -- odd answers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        [],
        5,
        None,
        "On",
        {},
        system(PowerState="Sideways"),
        system(PowerState=["On"]),
        system(PowerState=None),
        b" " * REDFISH_BODY_BYTES.most + json.dumps(system()).encode(),
    ],
)
def test_nonsense_is_not_taken_for_an_answer(service: ScriptedRedfish, scripted: Bmc, body: object) -> None:
    service.answers["GET", SYSTEM] = Answer(body=body)
    with pytest.raises(DeviceGarbled):
        scripted.read_power()


@pytest.mark.parametrize(
    "body", [[], {}, {"Members": 5}, {"Members": [5]}, {"Members": [{"@odata.id": 5}]}, {"Members": [{}]}]
)
def test_a_nonsensical_list_of_systems_fails_as_a_device_does(
    service: ScriptedRedfish, scripted: Bmc, body: object
) -> None:
    service.answers["GET", "/redfish/v1/Systems"] = Answer(body=body)
    with pytest.raises(DeviceError):
        scripted.read_power()


@pytest.mark.parametrize(
    ("state", "power"), [("On", Power.ON), ("Off", Power.OFF), ("PoweringOff", Power.ON), ("PoweringOn", Power.ON)]
)
def test_a_node_on_its_way_is_not_off(service: ScriptedRedfish, scripted: Bmc, state: str, power: Power) -> None:
    service.answers["GET", SYSTEM] = Answer(body=system(PowerState=state))
    assert scripted.read_power() is power


def test_the_one_system_is_taken_and_of_several_the_one_named(service: ScriptedRedfish) -> None:
    blade = "/redfish/v1/Systems/blade-2"
    service.answers["GET", "/redfish/v1/Systems"] = Answer(
        body={"Name": "Systems", "Members": [{"@odata.id": SYSTEM}, {"@odata.id": blade}]}
    )
    service.answers["GET", blade] = Answer(body=system(PowerState="On"))
    for address, outcome in (({}, None), ({"system": "3"}, None), ({"system": "blade-2"}, Power.ON)):
        bmc = service.connect(**address)
        if outcome is None:
            with pytest.raises(DeviceRefused, match="found 1, blade-2"):
                bmc.read_power()
        else:
            assert bmc.read_power() is outcome
        bmc.close()


@pytest.mark.parametrize(("power", "pushes"), [("On", 1), ("Off", 0)])
def test_a_button_is_pushed_only_on_a_node_that_is_on(
    service: ScriptedRedfish, scripted: Bmc, power: str, pushes: int
) -> None:
    actions = {"#ComputerSystem.Reset": {"target": RESET, "ResetType@Redfish.AllowableValues": ["PushPowerButton"]}}
    service.answers["GET", SYSTEM] = Answer(body=system(PowerState=power, Actions=actions))
    service.answers["POST", RESET] = Answer(204)
    scripted.shut_down()
    assert service.changes == [{"ResetType": "PushPowerButton"}] * pushes
    with pytest.raises(DeviceRefused):
        scripted.set_power(Power.ON)


# -- refusals, lost answers, time --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "on_read", "on_change"),
    [
        (400, DeviceRefused, DeviceRefused),
        (403, DeviceRefused, DeviceRefused),
        (404, DeviceRefused, DeviceRefused),
        (409, DeviceRefused, DeviceRefused),
        (429, DeviceUnreachable, DeviceUnreachable),
        (500, DeviceUnreachable, OutcomeUnknown),
        (502, DeviceUnreachable, OutcomeUnknown),
        (503, DeviceUnreachable, DeviceUnreachable),
    ],
)
def test_each_status_is_told_from_the_others(
    service: ScriptedRedfish, scripted: Bmc, status: int, on_read: type[DeviceError], on_change: type[DeviceError]
) -> None:
    service.answers["POST", RESET] = Answer(status, {"error": {"code": "Base.1.0.GeneralError"}})
    with pytest.raises(on_change):
        scripted.set_power(Power.ON)
    # Want of rights may be a session that was forgotten: it is asked once more with another.
    assert len(service.changes) == (2 if status == 403 else 1)
    service.answers["GET", SYSTEM] = Answer(status)
    with pytest.raises(on_read):
        scripted.read_power()


def test_a_refusal_of_what_is_so_already_is_fine(service: ScriptedRedfish, scripted: Bmc) -> None:
    service.answers["POST", RESET] = Answer(409)
    scripted.set_power(Power.OFF)


def hang_up() -> Answer:
    raise ConnectionAbortedError


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_change_whose_answer_is_lost_is_not_sent_twice(
    service: ScriptedRedfish, scripted: Bmc, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answers["POST", RESET] = hang_up
    with pytest.raises(OutcomeUnknown):
        scripted.set_power(Power.ON)
    assert len(service.changes) == 1
    assert "ConnectionAbortedError" in capsys.readouterr().err


def test_a_resource_that_changed_in_between_is_written_once_more(service: ScriptedRedfish, scripted: Bmc) -> None:
    refusals = [Answer(412)]
    boot = {"BootSourceOverrideEnabled": "Once", "BootSourceOverrideTarget": "Hdd", "BootSourceOverrideMode": "UEFI"}

    def change() -> Answer:
        if refusals:
            return refusals.pop()
        service.answers["GET", SYSTEM] = Answer(body=system(Boot=boot))
        return Answer(204)

    service.answers["PATCH", SYSTEM] = change
    scripted.set_boot_device(BootDevice.DISK, once=True)
    assert service.changes == [{"Boot": boot}] * 2


def test_a_resource_that_always_changes_is_given_up(service: ScriptedRedfish, scripted: Bmc) -> None:
    service.answers["PATCH", SYSTEM] = Answer(412)
    with pytest.raises(DeviceRefused):
        scripted.set_boot_device(BootDevice.DISK, once=True)
    assert len(service.changes) == 2


@pytest.mark.parametrize(
    "boot",
    [
        {"BootSourceOverrideEnabled": "Once", "BootSourceOverrideTarget": "Pxe", "BootSourceOverrideMode": "Legacy"},
        {"BootSourceOverrideEnabled": "Once", "BootSourceOverrideTarget": "Hdd", "BootSourceOverrideMode": "UEFI"},
        {
            "BootSourceOverrideEnabled": "Continuous",
            "BootSourceOverrideTarget": "Pxe",
            "BootSourceOverrideMode": "UEFI",
        },
        {},
    ],
)
def test_an_override_that_reads_back_as_another_is_not_believed(
    service: ScriptedRedfish, scripted: Bmc, boot: dict[str, str]
) -> None:
    service.answers["GET", SYSTEM] = Answer(body=system(Boot=boot))
    service.answers["PATCH", SYSTEM] = Answer(204)
    with pytest.raises(DeviceGarbled):
        scripted.set_boot_device(BootDevice.NETWORK, once=True)


def say_nothing(service: ScriptedRedfish) -> Answer:
    service.closed.wait(10)
    return Answer()


@pytest.mark.parametrize(
    "answer",
    [
        say_nothing,
        lambda _: Answer(200, b"{", {"Content-Length": "1000"}),
        lambda _: Answer(200, b" " * 1000 + json.dumps(system()).encode(), chunk=1),
    ],
    ids=["silence", "cut short", "drop by drop"],
)
@pytest.mark.parametrize(
    ("verb", "kind"),
    [(lambda bmc: bmc.read_power(), DeviceUnreachable), (lambda bmc: bmc.set_power(Power.ON), OutcomeUnknown)],
)
def test_an_answer_that_does_not_come_in_time_is_not_waited_for(
    service: ScriptedRedfish,
    scripted: Bmc,
    monkeypatch: pytest.MonkeyPatch,
    verb: Callable[[Bmc], object],
    kind: type[DeviceError],
    answer: Callable[[ScriptedRedfish], Answer],
) -> None:
    scripted.read_power()
    monkeypatch.setattr(redfish, "LIMIT_SECONDS", 0.5)
    place = ("GET", SYSTEM) if kind is DeviceUnreachable else ("POST", RESET)
    service.answers[place] = lambda: answer(service)
    begin = time.monotonic()
    with pytest.raises(kind):
        verb(scripted)
    assert time.monotonic() - begin < 2


# -- sessions and console ----------------------------------------------------------------------------------------------


def test_it_signs_in_once_and_out_in_the_end(simulated: SimulatedBmc) -> None:
    bmc = redfish.connect(simulated.redfish_access())
    for _ in range(3):
        bmc.read_power()
    assert len(simulated._redfish._sessions) == 1
    bmc.close()
    assert not simulated._redfish._sessions


def test_signing_out_is_tried_once(service: ScriptedRedfish) -> None:
    service.answers["DELETE", "/redfish/v1/Sessions/1"] = Answer(200, b"{", {"Content-Length": "1000"})
    bmc = service.connect()
    bmc.read_power()
    bmc.close()
    del bmc
    gc.collect()
    assert [verb for verb, _, _ in service.asked].count("DELETE") == 1


def test_a_session_that_the_bmc_forgot_is_opened_anew(simulated: SimulatedBmc) -> None:
    bmc = redfish.connect(simulated.redfish_access())
    bmc.read_power()
    simulated._redfish._sessions.clear()
    bmc.set_power(Power.ON)
    assert simulated.machine.running
    bmc.close()


def test_a_bmc_without_a_place_for_its_console_says_so(scripted: Bmc) -> None:
    with pytest.raises(DeviceRefused, match="sol_host"):
        scripted.open_console()
