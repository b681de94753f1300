"""The story: from an empty computer to two sealed machines that speak to each other, and back to an empty rack.

Each chapter looks for itself whether what it tells is so, and ends the story when it is not.
"""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from steelyard.lab import rack
from steelyard.lab.control import ask
from steelyard.lab.demo.files import (
    COMPONENTS,
    ENCLAVE,
    ENCLAVE_SERVICE,
    ENCRYPTED,
    FOOT,
    MACHINE_CLASS,
    SERVICES,
    SSH,
    VLAN,
    WALL,
    parameters,
    policy,
)
from steelyard.lab.demo.place import PORT, STEELYARD, Place, run_program, wait_for
from steelyard.lab.plan import FIRMWARE_FILES, Firmware
from steelyard.model.errors import LabFailed

_BOOT_SECONDS: Final = 600.0
"""For a whole boot; a minute on an idle computer of two cores, without virtualisation."""
_REPORTS_SECONDS: Final = 300.0
_STATES: Final = ("allocated", "airlock", "weighed", "admitted", "running")
_ABOUT: Final = ("--version", "1.0", "--serial", "1", "--valid-days", "30")


@dataclass(frozen=True, slots=True)
class Built:
    """What the story needs and takes minutes to build. seal: what an enclave file pins the image by."""

    airlock: Path
    image: Path
    seal: Path


def build(place: Place) -> Built:
    """Return the airlock image and the tenant's image; what was built before is not built again."""
    place.images.mkdir(parents=True, exist_ok=True)
    airlock, image = place.images / "airlock", place.images / "debian.qcow2"
    built = Built(airlock, image, image.with_name(f"{image.name}.seal.yaml"))
    wanted: list[list[str]] = []
    if not (airlock / "airlock.spdx.json").exists():
        wanted.append(["airlock", "build", "--output", str(airlock), "--serial", "1", "--valid-days", "30"])
    if not built.seal.exists():
        wanted.append(["image", "build", "debian", "--output", str(image), "--size", "1G", "--with-agent", "stop"])
    for words in wanted:
        place.screen.show_command("tenant", ["steelyard", *words])
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda words: run_program([str(STEELYARD), *words]), wanted))
    return built


class Story:
    """The chapters, in their order."""

    def __init__(self, place: Place, built: Built, machines: int = 3) -> None:
        """Take a place. machines: of the free pool; one more is the tenant's own, of the same class."""
        self.pool, self.own = tuple(f"n{number}" for number in range(1, machines + 1)), f"n{machines + 1}"
        self.place, self._built, self._screen = place, built, place.screen
        self._ssh_key = place.tenant / "ssh.key"
        self._outside: dict[str, str] = {}
        self._encrypted: dict[str, IPv4Address] = {}

    @property
    def seal(self) -> str:
        """What an enclave file pins the image by."""
        return self._built.seal.read_text()

    # -- the provider --

    def rack_up(self) -> None:
        """A rack of machines with two network cards each."""
        where, shape = ["--dir", str(self.place.rack.root)], ["--nodes", str(len(self.pool) + 1), "--nics", "2"]
        words = ["lab", "up", *where, *shape]
        self._screen.show_command("provider", ["steelyard", *words])
        run_program([str(STEELYARD), *words])
        ask(self.place.rack.control_socket, "leg", vlan=VLAN, address=f"{FOOT}/24")

    def services_up(self) -> None:
        """All services in one process; the machines are registered and free, and a tenant has a project."""
        place = self.place
        where = ["--directory", str(place.services), "--host", "0.0.0.0", "--port", str(PORT)]  # noqa: S104 (in there)
        place.run("provider", "init", *where, "--name", FOOT)
        with (place.services / "steelyard.toml").open("a") as configuration:
            configuration.write(SERVICES.format(airlock=self._built.airlock, vlan=VLAN, foot=FOOT))
        place.start_services()
        place.run("provider", "inventory", "import", str(place.rack.inventory))
        for node in self.pool:
            place.run("provider", "node", "register", node, "--label", "for=tenants")
        place.run("provider", "node", "release", *self.pool, self.own)
        place.run("provider", "project", "create", "blue", "--nodes", str(len(self.pool) + 1), "--networks", "2")
        place.run("provider", "account", "put", "blue")
        place.run("provider", "project", "add", "blue", "blue", "--role", "admin")
        self._make_token(
            "blue", place.tenant / "blue.token", "read nodes networks power images attest enclaves console"
        )
        place.tokens["blue"] = place.tenant / "blue.token"

    def _make_token(self, account: str, file: Path, rights: str) -> None:
        words = [word for right in rights.split() for word in ("--right", right)]
        self.place.run("provider", "token", "create", "--account", account, "--days", "1", "--out", str(file), *words)

    # -- the tenant --

    def networks_up(self) -> None:
        """An airlock, whose members cannot reach one another, and the wall, which admits by verdicts alone."""
        place = self.place
        verdict_keys = place.tenant / "verdict.pem"
        verdict_keys.write_text(place.run("blue", "attest", "keys", "--pem"))
        airlock = ["airlock", "--project", "blue", "--vlan", str(VLAN), "--isolated"]
        place.run("provider", "network", "create", *airlock)
        admission = ["--verdict-key", str(verdict_keys), "--verdict-seconds", "300"]
        place.run("blue", "network", "create", "wall", "--project", "blue", *admission)
        form = self._built.image.suffix.removeprefix(".")
        place.run("blue", "image", "import", "debian", str(self._built.image), "--format", form)
        # The enclave service is the tenant's: it has an account's token, and keys of verdicts that it believes.
        shutil.copy(verdict_keys, place.services / "verdict.pem")
        self._make_token("blue", place.services / "enclave.token", "read nodes networks power images attest")
        with (place.services / "steelyard.toml").open("a") as configuration:
            configuration.write(ENCLAVE_SERVICE.format(foot=FOOT, port=PORT))
        place.end_services()
        place.start_services()

    def references_made(self) -> None:
        """What is good is said by files that the tenant has, and signed; nothing is learnt from what is judged."""
        place = self.place
        key = place.run("tenant", "reference", "keygen", "--out", str(place.tenant / "key.pem")).strip()
        makers = place.tenant / "makers"
        makers.mkdir()
        inventory = json.loads(place.rack.inventory.read_text())
        files = []
        for number, certificate in enumerate(inventory["maker_certificates"]):
            files.append(makers / f"{number}.pem")
            files[-1].write_text(certificate)
        place.run("blue", "attest", "maker-ca", "put", "rack", *map(str, files))
        place.run("blue", "attest", "reference", "set-signers", "--key", f"release={key}", "--threshold", "1")
        firmware = FIRMWARE_FILES[Firmware.OVMF]
        self._bring_in("ovmf", str(firmware.code))
        self._bring_in("secure-boot", str(firmware.variables))
        self._sign("airlock", self._built.airlock / "airlock.manifest.json")
        self._bring_in("debian", str(self._unpack_image()))
        self._put_policy(policy("airlock", key, without=("ovmf-pei",)))
        self._weigh_own_machine()
        bundle = place.tenant / "own"
        place.run("blue", "attest", "export", self.own, "--out", str(bundle))
        words = [str(bundle / "bundle.json"), "--firmware", str(firmware.code), "--machine-class", MACHINE_CLASS]
        self._bring_in("ovmf-pei", *words)
        place.run("blue", "attest", "forget", self.own)
        place.run("blue", "node", "release", self.own)
        for name in ("airlock", "debian"):
            self._put_policy(policy(name, key))

    def _bring_in(self, component: str, *words: str) -> None:
        made = self.place.tenant / f"{component}.made.json"
        about = ["--component", component, *_ABOUT, "--out", str(made)]
        self.place.run("tenant", "reference", COMPONENTS[component][0], *words, *about)
        self._sign(component, made)

    def _sign(self, component: str, made: Path) -> None:
        place = self.place
        signed = place.tenant / f"{component}.json"
        place.run(
            "tenant", "reference", "sign", str(made), "--key", str(place.tenant / "key.pem"), "--out", str(signed)
        )
        place.run("blue", "attest", "reference", "upload", str(signed))

    def _unpack_image(self) -> Path:
        """Return a directory with the image's files."""
        tree, raw = self.place.tenant / "root", self.place.tenant / "debian.raw"
        tree.mkdir()
        for command in (
            ["qemu-img", "convert", "-O", "raw", str(self._built.image), str(raw)],
            ["debugfs", "-R", f"rdump / {tree}", str(raw)],
        ):
            self._screen.show_command("tenant", command)
            self.place.inside(command)
        raw.unlink()
        return tree

    def _put_policy(self, document: dict[str, Any]) -> None:
        place, name = self.place, document["name"]
        file = place.tenant / f"{name}.policy.json"
        file.write_text(json.dumps(document))
        self._screen.show_command("blue", ["steelyard", "attest", "policy", "put", str(file), "--renumber"])
        version = str(place.ask("blue", "attest", "policy", "put", str(file), "--renumber")["latest"])
        place.run("blue", "attest", "policy", "live", name, version)

    def _weigh_own_machine(self) -> None:
        """Boot a machine of the tenant's own once: of what it measures all is known but what depends on the class."""
        place = self.place
        file = place.tenant / "own.parameters.json"
        file.write_text(parameters(self.own, PORT, (place.services / "authority.pem").read_text()))
        place.run("blue", "node", "allocate", "own", "--project", "blue", "--node", self.own)
        place.run("blue", "node", "attach", self.own, "nic0", "airlock")
        terms = ["--makers", "rack", "--airlock", "airlock", "--no-runtime", "--any-parameters"]
        place.run("blue", "attest", "enrol", self.own, "--from-isolation", *terms)
        what = ["--network", "airlock", "--nic", "nic0", "--parameters", str(file)]
        place.run("blue", "boot", "airlock", self.own, *what)
        place.run("blue", "node", "boot-device", "network", self.own)
        place.run("blue", "node", "power", "on", self.own)
        self._screen.say(f"{self.own} boots, and says what its class measures to ...")
        wait_for(f"{self.own} has been weighed", lambda: self._attested(self.own) == "failed", _BOOT_SECONDS)
        place.run("blue", "node", "power", "off", self.own)
        place.run("blue", "boot", "end", self.own)

    def _attested(self, node: str) -> str:
        return str(self.place.ask("blue", "attest", "show", node)["state"])

    # -- the enclave --

    def enclave_up(self) -> None:
        """Three machines are wanted; two pass, and the one whose firmware was changed does not."""
        place = self.place
        ask(place.rack.control_socket, "fault", target="n3", fault="modified-firmware", state="on", image=None)
        self._screen.show_command("somebody", ["steelyard", "lab", "fault", "n3", "modified-firmware"])
        keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self._ssh_key)]
        place.inside(keygen)
        (place.tenant / "ssh.config").write_text(SSH.format(key=self._ssh_key, known=place.tenant / "known_hosts"))
        public = self._ssh_key.with_name(f"{self._ssh_key.name}.pub").read_text().strip()
        file = place.tenant / "enclave.yaml"
        file.write_text(ENCLAVE.format(count=3, wall=WALL, encrypted=ENCRYPTED, key=public, seal=self.seal))
        self._screen.say(file.read_text())
        place.watch("blue", "enclave", "apply", "-f", str(file))
        states = {each["node"]: each for each in self._machines()}
        self._expect("two run, and the third is held", sorted(each["state"] for each in states.values()),
                     ["held", "running", "running"])  # fmt: skip
        self._expect("the changed one is held", states["n3"]["state"], "held")
        self._screen.say(f"[red]n3[/red]: {states['n3']['why']}")
        self._show_stages()

    def _machines(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.place.ask("blue", "enclave", "show", "lab")["places"]
        return found

    def stages(self) -> dict[str, dict[str, float]]:
        """Return how many seconds each place was in each state on its way, by its id, as the journal has it."""
        times: dict[str, dict[str, datetime]] = {}
        for each in self.place.ask("blue", "audit", "list")["items"]:
            entry = each["entry"]
            if entry is not None and entry["verb"].startswith("enclave.place-"):
                place, state = entry["subject"].partition("/")[2], entry["verb"].removeprefix("enclave.place-")
                times.setdefault(place, {})[state] = datetime.fromisoformat(entry["at"])
        spans: dict[str, dict[str, float]] = {}
        for place, at in times.items():
            seen = [state for state in _STATES if state in at]
            spans[place] = {state: (at[after] - at[state]).total_seconds() for state, after in pairwise(seen)}
        return spans

    def _show_stages(self) -> None:
        stages = self.stages()
        table = Table("machine", *_STATES[:-1], "in all", title="seconds in each state", box=None, title_justify="left")
        for place in sorted(self._machines(), key=lambda each: str(each["node"])):
            spent = stages[place["id"]]
            cells = [f"{spent[state]:.0f}" if state in spent else "-" for state in _STATES[:-1]]
            whole = f"{sum(spent.values()):.0f}" if place["state"] == "running" else place["state"]
            table.add_row(place["node"], *cells, whole)
        self._screen.console.print(table)

    def machines_speak(self) -> None:
        """Each runs a command on the other, over WireGuard."""
        for each in self._machines():
            if each["state"] == "running":
                node = each["node"]
                self._outside[node] = self.place.ask("blue", "boot", "show", node)["address"]
                self._encrypted[node] = IPv4Network(ENCRYPTED)[each["number"]]
        for one, other in (("n1", "n2"), ("n2", "n1")):
            self._check_speaks(one, other)

    def _check_speaks(self, one: str, other: str) -> None:
        name = self._ssh(["-J", f"root@{self._outside[one]}", f"root@{self._encrypted[other]}", "hostname"])
        self._expect(f"{one} runs a command on {other} over WireGuard", name.strip(), other)

    def _ssh(self, words: list[str]) -> str:
        command = ["ssh", "-F", str(self.place.tenant / "ssh.config"), *words]
        self._screen.show_command("blue", command)
        return self.place.inside(command)

    def _on(self, node: str, command: str) -> str:
        return self._ssh([f"root@{self._outside[node]}", command])

    def services_restarted(self) -> None:
        """All services die in the midst of it all; the machines do not notice, and reports go on."""
        place = self.place
        self._screen.say("kill -9, all services")
        place.kill_services()
        self._check_speaks("n1", "n2")
        place.start_services()
        before = {node: self._judged(node) for node in ("n1", "n2")}
        self._screen.say("the next report of each ...")
        wait_for("each reports to the services that came back", lambda: all(
            self._judged(node) != before[node] and self._attested(node) == "passed" for node in before
        ), _REPORTS_SECONDS)  # fmt: skip
        self._expect("all as before", [each["state"] for each in self._machines() if each["node"] in before],
                     ["running", "running"])  # fmt: skip

    def _judged(self, node: str) -> str:
        return str(self.place.ask("blue", "attest", "show", node)["reported"])

    def one_falls(self) -> None:
        """On n2 a program runs that nobody vouched for: it is cut off at the switch, and its peer forgets it."""
        self._on("n2", "cp /usr/bin/true /root/unknown && echo >> /root/unknown && /root/unknown")
        wait_for("n2 has fallen", lambda: self._states().get("n2") == "held", _REPORTS_SECONDS)
        [fallen] = [each for each in self._machines() if each["node"] == "n2"]
        self._screen.say(f"[red]n2[/red]: {fallen['why']}")
        wait_for("n1 forgets n2", lambda: not self._on("n1", "wg show wall peers").split(), _REPORTS_SECONDS)
        self._screen.say("[green]so it is:[/green] n1 has no peer any more")
        try:
            self._ssh(["-o", "ConnectTimeout=5", f"root@{self._outside['n2']}", "true"])
        except LabFailed:
            self._screen.say("[green]so it is:[/green] n2 answers nobody any more")
        else:
            raise LabFailed("speaking to n2", expected="no answer of one that was cut off", found="one")

    def _states(self) -> dict[str, str]:
        return {each["node"]: each["state"] for each in self._machines()}

    def all_given_back(self) -> None:
        """Every machine off, on no network, free; nothing is left of what was theirs."""
        place = self.place
        place.watch("blue", "enclave", "delete", "lab")
        nodes = {each["name"]: each["state"] for each in place.ask("provider", "node", "list")["items"]}
        self._expect("every machine is free", nodes, dict.fromkeys((*self.pool, self.own), "free"))
        powers = {node["name"]: node["power"] for node in rack.status(place.rack)["nodes"]}
        self._expect("every machine is off", powers, dict.fromkeys((*self.pool, self.own), "off"))
        self._expect("no disk is left", place.ask("blue", "volume", "list")["items"], [])
        ask(place.rack.control_socket, "fault", target="n3", fault="modified-firmware", state="off", image=None)

    def _expect(self, what: str, found: object, expected: object) -> None:
        if found != expected:
            raise LabFailed(what, expected=str(expected), found=str(found))
        self._screen.say(f"[green]so it is:[/green] {what}")


SETTING_UP: Final = (
    ("a rack of four machines", Story.rack_up),
    ("the services, and a tenant", Story.services_up),
    ("the tenant's networks and image", Story.networks_up),
    ("what is good: references and policies", Story.references_made),
)
CHAPTERS: Final = (
    *SETTING_UP,
    ("the enclave: two pass, one does not", Story.enclave_up),
    ("they speak, encrypted", Story.machines_speak),
    ("all services die, and come back", Story.services_restarted),
    ("one runs what nobody vouched for", Story.one_falls),
    ("all is given back", Story.all_given_back),
)
