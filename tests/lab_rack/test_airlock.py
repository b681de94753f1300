"""The airlock image on real firmware: what boots measures to what the build said, and the agent takes it from there."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from steelyard.imaging.airlock.build import AirlockImage
from steelyard.model.errors import LogRejected
from tests.airlock_service import Seen
from tests.lab_rack.airlock import (
    BOOT_FOLDER,
    COMMAND_LINE,
    LUKS_KEY,
    VLAN,
    Site,
    accept,
    build_image,
    expected_pcrs,
    iscsi_root_volume,
    site,
)
from tests.lab_rack.rack import Rack, Wire, bring_up, wait_until

pytestmark = pytest.mark.rack


@pytest.fixture(scope="session")
def image() -> AirlockImage:
    return build_image()


def came_through(place: Site, node: str, begin: int, image: AirlockImage) -> None:
    """Wait until the node has passed the airlock and the tenant's system has run, and look at what was seen."""
    rack = place.rack

    def ended() -> bool:
        return rack.ipmi_power(node) == "off"

    wait_until("the tenant's system has run and switched off", ended, 240)
    said = rack.console_since(node, begin)
    seen = place.service.seen
    assert seen is not None, said[-4000:]
    values = seen.quoted.pcrs.values
    expected = expected_pcrs(image.manifest)
    assert {pcr: values[pcr].hex() for pcr in expected} == {pcr: value.hex() for pcr, value in expected.items()}
    assert seen.log.events
    maker = rack.node(node).endorsement_certificates["rsa2048"]
    certificate = x509.load_pem_x509_certificate(maker.encode())
    assert seen.endorsement_certificates == (certificate.public_bytes(serialization.Encoding.DER),)
    assert f"tenant: {COMMAND_LINE}" in said
    assert f"tenant: key {hashlib.sha256(LUKS_KEY).hexdigest()}" in said
    assert "tenant: files /.steelyard/luks.key /.steelyard/root.json /.steelyard/wireguard.key" in said
    assert LUKS_KEY.decode() not in said


def test_a_node_that_boots_by_http_is_what_the_build_said_and_starts_the_tenants_system(
    rack: Rack, image: AirlockImage, tmp_path: Path
) -> None:
    with site(rack, "n1", image, accept, tmp_path) as place, place.dhcp():
        begin = place.start("n1")
        came_through(place, "n1", begin, image)


def test_a_node_of_512_mib_that_boots_by_pxe_is_the_same(place: Path, image: AirlockImage, tmp_path: Path) -> None:
    rack = bring_up(place, "--nodes", "1", "--network-boot", "pxe", "--memory", "512")
    ballast = os.urandom(32 << 20)  # a distribution's initramfs is of that size
    (tmp_path / "tftp").mkdir()
    (tmp_path / "tftp" / "airlock.efi").write_bytes(image.uki)
    pxe = ("--enable-tftp", f"--tftp-root={tmp_path / 'tftp'}", "--dhcp-match=set:efipxe,option:client-arch,7")
    served = site(rack, "n1", image, accept, tmp_path, ballast=ballast)
    with served as found, found.dhcp(*pxe, "--dhcp-boot=tag:efipxe,airlock.efi"):
        begin = found.start("n1")
        came_through(found, "n1", begin, image)


def test_a_root_volume_served_by_iscsi_is_looked_at_and_let_go(rack: Rack, image: AirlockImage, tmp_path: Path) -> None:
    with site(rack, "n1", image, accept, tmp_path, iscsi_root_volume) as place, place.dhcp():
        begin = place.start("n1")
        came_through(place, "n1", begin, image)
        assert "looking at the root volume: done" in rack.console_since("n1", begin)


@contextmanager
def impostor(rack: Rack, folder: Path) -> Iterator[dict[str, Any]]:
    """Give a volume whose target does not know the password that the tenant does."""
    with iscsi_root_volume(rack, folder) as root:
        yield root | {"target_password": "of-another-target"}


def test_a_target_that_cannot_prove_itself_is_not_looked_at(rack: Rack, image: AirlockImage, tmp_path: Path) -> None:
    with site(rack, "n1", image, accept, tmp_path, impostor) as place, place.dhcp():
        begin = place.start("n1")
        wait_until("the node switches itself off", lambda: rack.ipmi_power("n1") == "off", 240)
        said = rack.console_since("n1", begin)
    assert "looking at the root volume: failed" in said
    assert "login failure" in said
    assert "measuring" not in said
    assert "of-another-target" not in said


def reject(_: Seen) -> None:
    raise LogRejected("judging", expected="another boot", found="this one")


@pytest.mark.parametrize(("on_failure", "power"), [("power-off", "off"), ("wait", "on")])
def test_a_rejected_node_starts_nothing_and_is_off_or_waits_as_told(
    rack: Rack, image: AirlockImage, tmp_path: Path, on_failure: str, power: str
) -> None:
    with site(rack, "n1", image, reject, tmp_path, on_failure=on_failure) as place, place.dhcp():
        begin = place.start("n1")

        def ended() -> bool:
            return "airlock: waiting" in rack.console_since("n1", begin) or rack.ipmi_power("n1") == "off"

        wait_until("the node has ended", ended, 240)
        assert rack.ipmi_power("n1") == power
        assert "being judged: failed" in rack.console_since("n1", begin)
        assert place.service.steps[-1][:2] == ("being judged", "failed")
        assert f"GET {BOOT_FOLDER}/delivery" not in place.boot.requests


def test_a_node_that_hears_another_in_its_airlock_goes_no_further(
    rack: Rack, image: AirlockImage, tmp_path: Path
) -> None:
    with site(rack, "n1", image, accept, tmp_path) as place, place.dhcp(), closing(Wire(rack, "n2")) as neighbour:
        rack.put_on(VLAN, "n2")  # as no isolation service would
        begin = place.start("n1")

        def ended() -> bool:
            neighbour.send(b"somebody else's machine")
            return rack.ipmi_power("n1") == "off"

        wait_until("the node switches itself off", ended, 240)
        said = rack.console_since("n1", begin)
        assert "looking for neighbours: failed" in said
        assert neighbour.mac.hex(":") in said
        assert place.service.seen is None


def test_a_second_stage_that_is_not_the_images_own_is_never_started(
    rack: Rack, image: AirlockImage, tmp_path: Path
) -> None:
    changed = bytearray(image.second_stage)
    changed[len(changed) // 2] ^= 1
    with site(rack, "n1", replace(image, second_stage=bytes(changed)), accept, tmp_path) as place, place.dhcp():
        begin = place.start("n1")
        wait_until("the node switches itself off", lambda: rack.ipmi_power("n1") == "off", 240)
        assert "failed: the second stage is not the one that this image is for" in rack.console_since("n1", begin)
        assert place.service.web.requests == []
