"""The demo's story on a rack, whole; and an enclave of trust `attested` through all that can happen to it."""

from collections.abc import Iterator

import pytest

from steelyard.lab import rack
from steelyard.lab.control import ask
from steelyard.lab.demo.place import wait_for
from steelyard.lab.demo.story import CHAPTERS, SETTING_UP, Story
from tests.lab_rack.enclaves import BOOT_SECONDS, Enclave, story_begun

pytestmark = pytest.mark.rack


@pytest.fixture
def story() -> Iterator[Story]:
    with story_begun() as story:
        yield story


def test_the_story_goes_as_it_is_told(story: Story) -> None:
    for _, chapter in CHAPTERS[len(SETTING_UP) :]:
        chapter(story)


def test_whatever_fails_in_the_midst_of_it_machines_come_up_or_go_back(story: Story) -> None:
    place = story.place
    enclave = Enclave(story, "attested")

    def fault(target: str, state: str) -> None:
        ask(place.rack.control_socket, "fault", target=target, fault="unreachable", state=state, image=None)

    # The switch does not answer while the first machine is prepared; the services die while it is weighed.
    fault("switch", "on")
    enclave.apply(1)
    first = enclave.wait_until_one_is("allocated")
    fault("switch", "off")
    assert enclave.wait_until_one_is("airlock") == first
    place.kill_services()
    place.start_services()
    enclave.wait_for("running")
    # It grows while the BMCs of all others are away; and when the second is on its way at last, it is not wanted.
    others = [node for node in story.pool if node != first]
    for node in others:
        fault(f"{node}/bmc", "on")
    enclave.apply(2)
    second = enclave.wait_until_one_is("allocated")
    for node in others:
        fault(f"{node}/bmc", "off")
    assert enclave.wait_until_one_is("airlock") == second
    place.run("blue", "enclave", "cancel", "lab", "--no-wait")
    enclave.wait_for("running")

    def over() -> list[dict[str, str]]:
        return [each["receipt"] for each in enclave.places(over=True) if each["node"] == second and each["receipt"]]

    wait_for("the second is back", lambda: bool(over()), BOOT_SECONDS)
    assert over()[0]["power"].startswith("off")
    assert over()[0]["networks"].startswith("none")
    enclave.delete()
    nodes = place.ask("provider", "node", "list")["items"]
    assert {each["name"]: each["state"] for each in nodes} == dict.fromkeys((*story.pool, story.own), "free")
    assert {node["power"] for node in rack.status(place.rack)["nodes"]} == {"off"}
    assert place.ask("blue", "volume", "list")["items"] == []
