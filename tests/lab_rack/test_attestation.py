"""Attestation on a rack, as a provider and a tenant use it: real firmware, real TPMs, the airlock image and its agent.

The tenant's own machine, n2, gives what no artefact can tell; n1 is the one to be weighed. Nothing of what n1 says of
itself is taken for a reference.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import pytest

from steelyard.client import attestation
from steelyard.client import attestation_references as references
from steelyard.client.attestation_objects import Appraisal, AttestedNode, Endorsements
from steelyard.client.connection import Client, Service
from steelyard.imaging.airlock.build import SECOND_STAGE_NAME, UKI_NAME, AirlockImage
from steelyard.model.secret import Secret
from tests.lab_rack.airlock import build_image
from tests.lab_rack.rack import Rack, wait_until
from tests.lab_rack.site import Site, site_of
from tests.machine import OVMF

pytestmark = pytest.mark.rack

T = TypeVar("T")

VLAN: Final = 41
SERVICE: Final = "10.41.0.1"
BOOT_SECONDS: Final = 400
"""Some 20 s on an idle machine."""
ABOUT: Final = ("--version", "1.0", "--serial", "1", "--valid-days", "30")
COMPONENTS: Final = {
    "ovmf": "from-firmware",
    "ovmf-pei": "from-reference-boot",
    "secure-boot": "from-secure-boot",
    "airlock": "from-uki",
}
VARYING: Final = [
    {"pcr": 1, "event": "load-option", "at_most": 8, "reason": "boot entries name the network card"},
    {"pcr": 1, "event": "boot-order", "at_most": 1, "reason": "the order of boot entries is not code"},
    {"pcr": 5, "event": "partition-table", "at_most": 1, "reason": "the disk that it has has its own GUIDs"},
]
"""What differs between two machines of a class, and why that is no matter."""


@dataclass
class Owner:
    """The tenant: its nodes n1 and n2 on an airlock, its attestation service, its references and its policy."""

    site: Site
    image: AirlockImage
    folder: Path
    airlock: Path
    key: str

    # -- what is asked of services --

    def ask(self, act: Callable[[Client], T]) -> T:
        def do() -> T:
            token = Secret(self.site.tokens["blue"].read_bytes().strip())
            with Client(Service(self.site.url, self.site.directory / "authority.pem", token)) as client:
                return act(client)

        return self.site.rack.within(do)

    def node(self, name: str) -> AttestedNode:
        return self.ask(lambda client: client.ask(attestation.read_node(name)))

    def places(self, name: str) -> list[tuple[str, str]]:
        """Return reason and place of each finding of a node's last appraisal."""
        return [(finding.reason, finding.where.partition(",")[0]) for finding in self._judged(name).findings]

    def words(self, name: str) -> str:
        """Return all that is said of why a node failed."""
        return "\n".join(map(str, self._judged(name).findings))

    def _judged(self, name: str) -> Appraisal:
        appraisal = self.node(name).appraisal
        assert appraisal is not None
        return self.ask(lambda client: client.ask(attestation.read_appraisal(name, appraisal)))

    def findings(self, name: str) -> list[tuple[str, str]]:
        """Return why a node failed: reason and subject of each finding of its last appraisal."""
        return [(finding.reason, finding.subject) for finding in self._judged(name).findings]

    # -- references --

    def make_reference(self, component: str, *words: object) -> None:
        """Make a reference by the command line, sign it, and bring it in."""
        made, signed = self.folder / f"{component}.json", self.folder / f"{component}.signed.json"
        command = [*map(str, words), "--component", component, *ABOUT, "--out", str(made)]
        self.site.run(["reference", COMPONENTS[component], *command])
        self.bring_in(component, made, signed)

    def bring_in(self, component: str, made: Path, signed: Path) -> None:
        self.site.run(["reference", "sign", str(made), "--key", str(self.folder / "key.pem"), "--out", str(signed)])
        envelope = signed.read_bytes()
        add = references.add_reference("blue", component, envelope, standing="accepted")
        self.ask(lambda client: client.ask(add))

    def learn_class_from(self, name: str) -> None:
        """Take from a boot of the tenant's own machine what no artefact can tell of its class."""
        appraisal = self.node(name).appraisal
        assert appraisal is not None
        bundle = self.folder / "bundle.json"
        bundle.write_bytes(self.ask(lambda client: client.ask(attestation.read_bundle(name, appraisal))))
        self.make_reference("ovmf-pei", bundle, "--firmware", OVMF.code, "--machine-class", "rack")
        self.put_policy(2, list(COMPONENTS))

    def offer(self, uki: bytes) -> None:
        """Have nodes boot another image."""
        replacement = self.airlock / "replacement"
        replacement.write_bytes(uki)
        replacement.rename(self.airlock / UKI_NAME)

    def put_policy(self, number: int, components: list[str]) -> None:
        """Have nodes judged by these components from now on."""
        document = {
            "schema": "steelyard.policy/1",
            "name": "airlock",
            "version": number,
            "bank": "sha256",
            "pcrs": [0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 12, 13],
            "machine_class": "rack",
            "signers": {"threshold": 1, "keys": [{"name": "release", "ed25519": self.key}]},
            "components": [
                {
                    "component": component,
                    "presence": "required",
                    "least_version": "0",
                    "revoked": [],
                    "least_serial": 1,
                    "origins": [COMPONENTS[component]],
                    "at_most": 1,
                }
                for component in components
            ],
            "varying": VARYING,
            "runtime": None,
        }
        put = references.put_policy("blue", "airlock", json.dumps(document).encode())
        version = self.ask(lambda client: client.ask(put)).latest
        self.ask(lambda client: client.ask(references.make_live("blue", "airlock", version)))

    # -- machines --

    def enrol(self, name: str, as_node: str | None = None) -> None:
        """Say what the provider published of a node, and have it boot the airlock as that node."""
        published = self.site.rack.node(name)
        identity = Endorsements(dict(published.endorsement_certificates), ())
        parameters = self.folder / f"{name}.parameters"
        document = {
            "schema": "steelyard.parameters/1",
            "node": as_node or name,
            "attestation": f"https://{SERVICE}:{self.site.port}",
            "authority": (self.site.directory / "authority.pem").read_text(),
            "delivery": f"http://{SERVICE}/delivery",
            "on_failure": "power-off",
        }
        parameters.write_text(json.dumps(document))
        enrol = partial(
            attestation.enrol,
            name,
            project="blue",
            identity=identity,
            makers="rack",
            airlock_policy="airlock",
            runtime_policy=None,
            parameters_sha256=attestation.ANY_PARAMETERS,
            interval_seconds=60,
            grace_seconds=60,
        )
        self.ask(lambda client: client.ask(enrol()))
        self.site.run(
            ["boot", "airlock", name, "--network", "airlock", "--nic", "nic0", "--parameters", str(parameters)], "blue"
        )

    def weigh(self, *names: str) -> None:
        """Have nodes go through the airlock, as far as they come: with no share left for them they switch off."""
        for name in names:
            self.site.run(["node", "boot-device", "network", name], "blue")
            self.site.run(["node", "power", "cycle", name], "blue")
        for name in names:
            off = partial(self.is_off, name)
            wait_until(f"{name} has gone as far as it can", off, BOOT_SECONDS)

    def is_off(self, name: str) -> bool:
        return self.site.rack.ipmi_power(name) == "off"

    def let_try_again(self, name: str) -> None:
        self.ask(lambda client: client.ask(attestation.retry(name, "the next trial of this test")))


@pytest.fixture(scope="module")
def image() -> AirlockImage:
    return build_image()


@pytest.fixture
def owner(rack: Rack, image: AirlockImage, tmp_path: Path) -> Iterator[Owner]:
    with owner_on(rack, image, tmp_path) as owner:
        yield owner


@contextmanager
def owner_on(rack: Rack, image: AirlockImage, folder: Path) -> Iterator[Owner]:
    """Give a tenant that has references of everything but what only a boot can tell."""
    rack.lab("service", str(VLAN), f"{SERVICE}/24")
    airlock = folder / "airlock"
    write_image(airlock, image)
    configuration = f"""
[imaging]
airlock = "{airlock}"

[[imaging.networks]]
name = "airlock"
project = "blue"
interface = "vlan{VLAN}"
address = "{SERVICE}/24"
nodes = "10.41.0.100-10.41.0.119"
"""
    with site_of(rack, more=configuration, host="0.0.0.0", names=[SERVICE]) as site:  # noqa: S104 (in the rack alone)
        key = site.run(["reference", "keygen", "--out", str(folder / "key.pem")]).stdout.strip()
        owner = Owner(site, image, folder, airlock, key)
        site.run(["network", "create", "airlock", "--project", "blue", "--vlan", str(VLAN), "--isolated"])
        site.run(["node", "allocate", "all", "--project", "blue", "--node", "n1", "--node", "n2"], "blue")
        for node in ("n1", "n2"):
            site.run(["node", "attach", node, "nic0", "airlock"], "blue")
        anchors = rack.inventory.maker_certificates
        make = references.put_makers("blue", "rack", certificates=anchors, revocations=(), demands=())
        owner.ask(lambda client: client.ask(make))
        owner.ask(lambda client: client.ask(references.put_signers("blue", "_default", {"release": key}, 1)))
        owner.make_reference("ovmf", OVMF.code)
        owner.make_reference("secure-boot", OVMF.variables)
        manifest = folder / "airlock.json"
        manifest.write_bytes(image.manifest.to_bytes())
        owner.bring_in("airlock", manifest, folder / "airlock.signed.json")
        owner.put_policy(1, ["ovmf", "secure-boot", "airlock"])
        yield owner
        site.run(["node", "release", "n1", "n2"])


def write_image(folder: Path, image: AirlockImage) -> None:
    folder.mkdir(exist_ok=True)
    (folder / UKI_NAME).write_bytes(image.uki)
    (folder / SECOND_STAGE_NAME).write_bytes(image.second_stage)


def test_the_true_node_passes_and_each_other_fails_by_the_name_of_what_differs(owner: Owner) -> None:
    rack = owner.site.rack
    for name in ("n1", "n2"):
        owner.enrol(name)
    # What firmware patches before it measures it nobody knows yet: of the tenant's own machine nothing else is unknown.
    owner.weigh("n2")
    assert owner.node("n2").state == "failed"
    assert {(reason, where) for reason, where in owner.places("n2")} == {("unknown-event", "PCR 0")}
    owner.learn_class_from("n2")
    owner.let_try_again("n2")

    owner.weigh("n1", "n2")
    for name in ("n1", "n2"):
        assert owner.node(name).state == "passed", owner.findings(name)
    verdict = owner.ask(lambda client: client.ask(attestation.read_verdict("n1"))).verdict
    assert verdict.count(".") == 2
    judged = owner.node("n2").appraisal

    rack.lab("fault", "n1", "modified-firmware")
    rack.lab("fault", "n2", "other-tpm")
    said = {name: len(rack.console(name)) for name in ("n1", "n2")}
    owner.weigh("n1", "n2")
    assert owner.node("n1").state == "failed"
    assert {where for _, where in owner.places("n1")} == {"PCR 0"}
    assert any("ovmf" in subject for _, subject in owner.findings("n1")), owner.findings("n1")
    # Whose TPM is another is refused before anything is judged.
    assert "registering: failed" in rack.console_since("n2", said["n2"])
    assert owner.node("n2").appraisal == judged
    for name, fault in (("n1", "modified-firmware"), ("n2", "other-tpm")):
        rack.lab("fault", name, fault, "off")

    owner.let_try_again("n1")
    owner.offer(owner.image.uki.replace(b" quiet", b" QUIET", 1))
    owner.enrol("n2", as_node="n1")
    said = {"n2": len(rack.console("n2"))}
    owner.weigh("n1", "n2")
    assert owner.node("n1").state == "failed"
    assert all("airlock" in subject for _, subject in owner.findings("n1")), owner.findings("n1")
    assert ".cmdline" in owner.words("n1")
    # With a name that is another's comes nobody in, whatever it booted.
    assert "registering: failed" in rack.console_since("n2", said["n2"])
