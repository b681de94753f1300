"""Enclaves on a rack where the demo's story has set the scene."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from steelyard.lab import rack
from steelyard.lab.demo.files import ENCLAVE, ENCRYPTED, WALL
from steelyard.lab.demo.place import Place, Screen, wait_for
from steelyard.lab.demo.story import SETTING_UP, Built, Story
from tests.lab_rack.airlock import build_image
from tests.lab_rack.rack import room_for_a_rack
from tests.lab_rack.tenant import plain_image
from tests.lab_rack.test_attestation import write_image

BOOT_SECONDS: Final = 600.0
"""From the free pool into the tenant's system; a minute on an idle machine."""
_PLAIN: Final = """
name: lab
trust: {trust}
nodes:
  count: {count}
  labels: {{for: tenants}}
image: debian
networks:
  boot: airlock
  enclave: {network}
disk:
  after: destroy
limits:
  allocated: 600
  airlock: 600
  admitted: 600
rejected:
  then: retry
  attempts: 3
"""
_WEIGHED: Final = """
attestation:
  service: own
  airlock_policy: airlock
  makers: rack
"""


@contextmanager
def story_begun(machines: int = 3) -> Iterator[Story]:
    """Give the story when its scene is set: rack, services, references; nothing of it is left in the end."""
    with room_for_a_rack() as root:
        folder = root.with_name("p")
        built = _built_in(folder / "images")
        place = Place(folder, Screen(Console(file=StringIO(), width=200), folder))
        place.tenant.mkdir(mode=0o700)
        story = Story(place, built, machines)
        try:
            for _, chapter in SETTING_UP:
                chapter(story)
            yield story
        finally:
            place.end_services()
            place.end_servers()
            rack.down(place.rack, lambda _: None)


def _built_in(folder: Path) -> Built:
    """Return what the demo builds, built once for all tests."""
    folder.mkdir(parents=True)
    image = plain_image()
    airlock = build_image()
    write_image(folder / "airlock", airlock)
    (folder / "airlock" / "airlock.manifest.json").write_bytes(airlock.manifest.to_bytes())
    seal = folder / "seal.yaml"
    seal.write_text(image.seal)
    return Built(folder / "airlock", image.file, seal)


def file_of(trust: str, count: int, seal: str) -> str:
    """Return an enclave file."""
    if trust == "sealed":
        return ENCLAVE.format(count=count, wall=WALL, encrypted=ENCRYPTED, key="ssh-ed25519 AAAA none", seal=seal)
    network = "airlock" if trust == "open" else "wall"
    return _PLAIN.format(trust=trust, count=count, network=network) + ("" if trust == "open" else _WEIGHED)


class Enclave:
    """An enclave, and the place it is in."""

    def __init__(self, story: Story, trust: str) -> None:
        self.place, self._trust, self._seal = story.place, trust, story.seal

    def apply(self, count: int) -> None:
        """Have so many machines; they come while time goes on."""
        file = self.place.tenant / "enclave.yaml"
        file.write_text(file_of(self._trust, count, self._seal))
        self.place.run("blue", "enclave", "apply", "-f", str(file), "--no-wait")

    def delete(self) -> None:
        """Give all of them back."""
        self.place.run("blue", "enclave", "delete", "lab")

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
