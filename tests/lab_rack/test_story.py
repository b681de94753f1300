"""The demo's story on a rack, whole; and an enclave of trust `attested` through everything that can happen to it."""

from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any, Final

import pytest
from rich.console import Console

from steelyard.lab import rack
from steelyard.lab.control import ask
from steelyard.lab.demo.place import Place, Screen, wait_for
from steelyard.lab.demo.story import CHAPTERS, SETTING_UP, Built, Story
from tests.lab_rack.airlock import build_image
from tests.lab_rack.rack import room_for_a_rack
from tests.lab_rack.tenant import watched_image
from tests.lab_rack.test_attestation import write_image

pytestmark = pytest.mark.rack

BOOT_SECONDS: Final = 600.0
"""From the free pool into the tenant's system; a minute on an idle machine."""
ATTESTED: Final = """
name: lab
trust: attested
nodes:
  count: {count}
  labels: {{for: tenants}}
image: debian
networks:
  boot: airlock
  enclave: wall
disk:
  after: destroy
attestation:
  service: own
  airlock_policy: airlock
  makers: rack
limits:
  allocated: 600
  airlock: 600
  admitted: 600
rejected:
  then: retry
  attempts: 3
"""


@pytest.fixture
def story() -> Iterator[Story]:
    """Give a place where the story can begin: its rack, its services, its references."""
    with room_for_a_rack() as root:
        folder = root.with_name("p")
        built = built_in(folder / "images")
        place = Place(folder, Screen(Console(file=StringIO(), width=200), folder))
        place.tenant.mkdir(mode=0o700)
        story = Story(place, built)
        try:
            for _, chapter in SETTING_UP:
                chapter(story)
            yield story
        finally:
            place.end_services()
            place.end_servers()
            rack.down(place.rack, lambda _: None)


def built_in(folder: Path) -> Built:
    """Return what the demo builds, built once for all tests."""
    folder.mkdir(parents=True)
    image = watched_image()
    airlock = build_image()
    write_image(folder / "airlock", airlock)
    (folder / "airlock" / "airlock.manifest.json").write_bytes(airlock.manifest.to_bytes())
    seal = folder / "seal.yaml"
    seal.write_text(image.seal)
    return Built(folder / "airlock", image.file, seal)


def test_the_story_goes_as_it_is_told(story: Story) -> None:
    for _, chapter in CHAPTERS[len(SETTING_UP) :]:
        chapter(story)


class Enclave:
    """An enclave of trust `attested`, and the place it is in."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def apply(self, count: int) -> None:
        file = self.place.tenant / "attested.yaml"
        file.write_text(ATTESTED.format(count=count))
        self.place.run("blue", "enclave", "apply", "-f", str(file), "--no-wait")

    def places(self, *, over: bool = False) -> list[dict[str, Any]]:
        more = ["--receipts"] if over else []
        found: list[dict[str, Any]] = self.place.ask("blue", "enclave", "show", "lab", *more)["places"]
        return found

    def states(self) -> list[str]:
        return sorted(each["state"] for each in self.places())

    def wait_for(self, *states: str) -> None:
        wait_for(f"the machines are {', '.join(states)}", lambda: self.states() == sorted(states), BOOT_SECONDS)

    def wait_until_one_is(self, state: str) -> str:
        """Return its machine."""
        wait_for(f"one is {state}", lambda: state in self.states(), BOOT_SECONDS)
        return str(next(each["node"] for each in self.places() if each["state"] == state))

    def fault(self, target: str, fault: str, state: str) -> None:
        ask(self.place.rack.control_socket, "fault", target=target, fault=fault, state=state, image=None)


def test_whatever_fails_in_the_midst_of_it_machines_come_up_or_go_back(story: Story) -> None:
    place = story.place
    enclave = Enclave(place)
    # The switch does not answer while the first machine is prepared; the services die while it is weighed.
    enclave.fault("switch", "unreachable", "on")
    enclave.apply(1)
    wait_for("it is seen that the switch is away", lambda: "allocated" in enclave.states(), BOOT_SECONDS)
    enclave.fault("switch", "unreachable", "off")
    first = enclave.wait_until_one_is("airlock")
    place.kill_services()
    place.start_services()
    enclave.wait_for("running")
    # It grows, while the next machine's BMC is away; and when that is on its way at last, it is not wanted any more.
    others = [node for node in ("n1", "n2", "n3") if node != first]
    for node in others:
        enclave.fault(f"{node}/bmc", "unreachable", "on")
    enclave.apply(2)
    second = enclave.wait_until_one_is("allocated")
    for node in others:
        enclave.fault(f"{node}/bmc", "unreachable", "off")
    assert enclave.wait_until_one_is("airlock") == second
    place.run("blue", "enclave", "cancel", "lab", "--no-wait")
    enclave.wait_for("running")
    [cancelled] = [each for each in enclave.places(over=True) if each["node"] == second]
    assert cancelled["receipt"]["power"].startswith("off")
    assert cancelled["receipt"]["networks"].startswith("none")
    # A machine that never boots is given back at its limit, or when the tenant has had enough.
    place.run("blue", "enclave", "delete", "lab")
    states = {each["name"]: each["state"] for each in place.ask("provider", "node", "list")["items"]}
    assert states == dict.fromkeys(("n1", "n2", "n3", "n4"), "free")
    assert {node["power"] for node in rack.status(place.rack)["nodes"]} == {"off"}
    assert place.ask("blue", "volume", "list")["items"] == []
