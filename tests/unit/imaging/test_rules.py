from datetime import timedelta
from ipaddress import IPv4Address

import pytest

from steelyard.imaging import rules
from steelyard.imaging.objects import Name, Private, Public, Quota, SharedWith
from steelyard.model.errors import (
    Changed,
    NotAllowed,
    NotEnough,
    NotFound,
    OverQuota,
    SteelyardError,
    TooLarge,
    WrongUse,
)
from steelyard.model.limits import COMMAND_LINE_BYTES, IMAGE_BYTES, PARAMETERS_BYTES, SEED_BYTES, SHARED_PROJECTS
from steelyard.service.authority import Caller
from tests.unit.imaging.rig import AUDITOR, BLUE, NETWORKS, PROVIDER, READER, RED, STRANGER, red

NET = NETWORKS["red-net"]


@pytest.mark.parametrize(
    ("caller", "refusal"), [(STRANGER, NotFound), (BLUE, NotFound), (AUDITOR, NotAllowed), (READER, NotAllowed)]
)
def test_only_the_project_and_the_provider_change_what_is_the_projects(
    caller: Caller, refusal: type[SteelyardError]
) -> None:
    with pytest.raises(refusal):
        rules.check_change(caller, red("thing"), "image", "trying")
    for allowed in (RED, PROVIDER):
        rules.check_change(allowed, red("thing"), "image", "trying")


def test_a_project_is_called_by_a_name() -> None:
    with pytest.raises(WrongUse):
        rules.check_change(PROVIDER, Name("../red", "thing"), "image", "trying")


def test_only_a_provider_shows_an_image_to_everybody() -> None:
    rules.check_visibility(PROVIDER, Public(), "trying")
    rules.check_visibility(RED, Private(), "trying")
    with pytest.raises(NotAllowed):
        rules.check_visibility(RED, Public(), "trying")


def test_an_image_is_shared_with_projects_and_with_a_bounded_number_of_them() -> None:
    with pytest.raises(WrongUse):
        rules.check_visibility(RED, SharedWith(frozenset({"blue", "no/name"})), "trying")
    with pytest.raises(TooLarge):
        rules.check_visibility(RED, SharedWith(frozenset(f"p{n}" for n in range(SHARED_PROJECTS.most + 1))), "trying")
    with pytest.raises(WrongUse):
        SharedWith(frozenset())


def test_a_change_of_what_somebody_else_changed_meanwhile_is_refused() -> None:
    rules.check_version("it", 3, 3)
    rules.check_version("it", 3, None)
    with pytest.raises(Changed):
        rules.check_version("it", 3, 2)


@pytest.mark.parametrize("seconds", [0, 0.5, 24 * 3600 + 1])
def test_an_operation_has_a_limit(seconds: float) -> None:
    with pytest.raises(WrongUse):
        rules.check_limit(timedelta(seconds=seconds))


@pytest.mark.parametrize("rows", [0, -1, 1001])
def test_a_page_has_a_limit(rows: int) -> None:
    with pytest.raises(WrongUse):
        rules.check_rows(rows)


@pytest.mark.parametrize("asked", [Quota(1, 0, 0, 0), Quota(0, 1, 0, 0), Quota(0, 0, 1, 0)])
def test_nothing_is_given_beyond_a_quota(asked: Quota) -> None:
    full = Quota(2, 3, 4, 1)
    with pytest.raises(OverQuota):
        rules.check_quota("red", full, full, asked)
    rules.check_quota("red", full, Quota(1, 2, 3, 0), asked)


def test_who_has_more_than_a_quota_can_still_give_back() -> None:
    rules.check_quota("red", Quota(0, 0, 0, 1), Quota(2, 3, 4, 0), Quota(0, 0, -1, 0))


@pytest.mark.parametrize(
    ("size", "refusal"), [(0, WrongUse), (-512, WrongUse), (511, WrongUse), (IMAGE_BYTES.most + 512, TooLarge)]
)
def test_a_volume_has_whole_sectors_and_is_not_too_large(size: int, refusal: type[SteelyardError]) -> None:
    with pytest.raises(refusal):
        rules.check_size(size, "trying")
    rules.check_size(512, "trying")


def test_anothers_network_looks_as_if_it_was_not_there() -> None:
    assert rules.find_network(NETWORKS, "red-net", "red") is NET
    with pytest.raises(NotFound) as others:
        rules.find_network(NETWORKS, "red-net", "blue")
    with pytest.raises(NotFound) as nobodys:
        rules.find_network({}, "red-net", "blue")
    assert str(others.value) == str(nobodys.value)


@pytest.mark.parametrize("address", ["10.8.0.1", "10.8.1.5", "127.0.0.1"])
def test_a_node_has_an_address_of_the_network_that_is_not_ours(address: str) -> None:
    with pytest.raises(WrongUse):
        rules.check_address(NET, IPv4Address(address), "trying")
    rules.check_address(NET, IPv4Address("10.8.0.7"), "trying")


def test_a_node_is_given_the_lowest_free_address_until_there_is_none() -> None:
    taken = {IPv4Address("10.8.0.100"), IPv4Address("10.8.0.102")}
    assert rules.pick_address(NET, taken) == IPv4Address("10.8.0.101")
    with pytest.raises(NotEnough):
        rules.pick_address(NET, taken | {IPv4Address("10.8.0.101")})


@pytest.mark.parametrize("line", ["root=/dev/x\nquiet", "root=\0", "é", "x" * (COMMAND_LINE_BYTES.most + 1)])
def test_a_command_line_is_one_line_of_ascii(line: str) -> None:
    with pytest.raises(WrongUse):
        rules.check_command_line(line)
    rules.check_command_line("root=/dev/nbd0 quiet")
    rules.check_command_line(None)


def test_a_seed_has_the_files_of_nocloud_and_a_bounded_size() -> None:
    rules.check_seed({"meta-data": "local-hostname: n1", "user-data": "#cloud-config"})
    with pytest.raises(WrongUse):
        rules.check_seed({"root.json": "{}"})
    with pytest.raises(TooLarge):
        rules.check_seed({"meta-data": "x" * SEED_BYTES.most, "user-data": "x"})
    with pytest.raises(TooLarge):
        rules.check_parameters("é" * (PARAMETERS_BYTES.most // 2 + 1))
