"""The airlock image as it is built: the same bytes each time, and everything in it accounted for."""

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from steelyard.evidence.reference.measurement import Presence
from steelyard.evidence.reference.uki import measurements_of_uki
from steelyard.imaging.airlock.build import AirlockImage, build_airlock
from steelyard.model.errors import BuildFailed
from tests.lab_rack.airlock import CACHE, build_image, edition

pytestmark = pytest.mark.rack


@pytest.fixture(scope="module")
def image() -> AirlockImage:
    return build_image()


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def test_two_builds_give_the_same_bytes(image: AirlockImage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In another place, for another user's files, with another seed for Python's hashes and another locale."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    monkeypatch.setenv("LC_ALL", "C")
    with umask(0o077):
        again = build_airlock(edition(), CACHE)
    assert again.second_stage == image.second_stage
    assert again == image


def test_the_manifest_is_of_this_image_and_binds_the_second_stage_to_it(image: AirlockImage) -> None:
    assert image.manifest.artefact_sha256 == hashlib.sha256(image.uki).digest()
    assert image.manifest.measurements == measurements_of_uki(image.uki)
    assert {each.pcr for each in image.manifest.measurements if each.presence is Presence.ALWAYS} == {4, 9, 11}
    assert f"steelyard.second={hashlib.sha256(image.second_stage).hexdigest()}".encode() in image.uki


def test_the_second_stage_has_no_source_no_cache_and_nothing_that_others_may_change(
    image: AirlockImage, tmp_path: Path
) -> None:
    (tmp_path / "image").write_bytes(image.second_stage)
    listed = subprocess.run(
        ["unsquashfs", "-lls", tmp_path / "image"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    rows = [line.split(maxsplit=5) for line in listed if " squashfs-root" in line]
    assert {owner for _, owner, *_ in rows} == {"root/root"}
    assert {f"{day} {time}" for _, _, _, day, time, _ in rows} == {"1970-01-01 00:00"}
    assert not [row for row in rows if row[0][0] != "l" and ("w" in row[0][5:] or "s" in row[0])]
    names = [row[5] for row in rows]
    assert not [name for name in names if name.endswith(".py") or "__pycache__" in name]
    assert any(name.endswith("steelyard/agent/__main__.pyc") for name in names)
    assert not [name for name in names if "/steelyard/lab" in name or "/steelyard/cli" in name]


PROGRAMS: Final = (
    "busybox true",
    "cryptsetup --version",
    "iscsiadm --version",
    "iscsid --version",
    "kexec --version",
    "nbd-client --version",
    "python3 -P -S -s -B -c 'import steelyard.agent.__main__'",
    "wg --version",
)


def test_every_program_of_the_second_stage_has_what_it_needs_to_start(image: AirlockImage, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(image.second_stage)
    subprocess.run(["unsquashfs", "-q", "-n", "-d", tmp_path / "root", tmp_path / "image"], check=True)
    environment = {"PATH": "/usr/sbin:/usr/bin", "PYTHONPATH": "/usr/lib/python3/dist-packages"}
    for program in PROGRAMS:
        started = subprocess.run(
            ["chroot", tmp_path / "root", "sh", "-c", program], env=environment, capture_output=True, text=True
        )
        assert "error while loading" not in started.stderr
        assert started.returncode == 0, f"{program}: {started.stderr}"


def test_every_kernel_module_comes_with_those_that_it_needs(image: AirlockImage, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(image.second_stage)
    subprocess.run(["unsquashfs", "-q", "-n", "-d", tmp_path / "root", tmp_path / "image"], check=True)
    [listed] = (tmp_path / "root/usr/lib/modules").glob("*/modules.dep")
    lines = [line.partition(": ") for line in listed.read_text().replace(":\n", ": \n").splitlines()]
    assert {Path(module).stem for module, _, _ in lines} >= {"dm-crypt", "iscsi_tcp", "nbd", "sd_mod", "wireguard"}
    for module, _, needed in lines:
        for file in (module, *needed.split()):
            assert (listed.parent / file).is_file(), f"{module} needs {file}"


def test_every_package_in_the_image_is_in_the_software_list(image: AirlockImage) -> None:
    document = json.loads(image.sbom)
    packages = {package["name"]: package for package in document["packages"]}
    assert {"busybox-static", "kexec-tools", "libssl3", "python3-tpm2-pytss", "systemd-boot-efi"} <= packages.keys()
    assert any(name.startswith("linux-image-6") for name in packages)
    assert "perl-base" not in packages, "it is needed to install others, and is not in the image"
    assert len({package["SPDXID"] for package in document["packages"]}) == len(document["packages"])
    debian = [package for name, package in packages.items() if name != "airlock"]
    for package in debian:
        assert package["checksums"][0]["algorithm"] == "SHA256"
        assert package["externalRefs"][0]["referenceLocator"].startswith("pkg:deb/debian/")
    assert document["files"][1]["checksums"][0]["checksumValue"] == hashlib.sha256(image.second_stage).hexdigest()


def test_a_package_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="linux-image-of-nobody"):
        build_airlock(replace(edition(), kernel="linux-image-of-nobody"), tmp_path)


def test_a_driver_that_the_kernel_does_not_have_is_named() -> None:
    with pytest.raises(BuildFailed, match="no_such_card"):
        build_airlock(replace(edition(), drivers=("no_such_card",)), CACHE)
