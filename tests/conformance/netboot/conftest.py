"""A boot network with nodes, and a network boot on it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.netboot.site import BootSite, boot_site
from tests.tpm import require_programs

PROGRAMS = {
    "busybox": "busybox-static",
    "bwrap": "bubblewrap",
    "dnsmasq": "dnsmasq-base",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "/usr/lib/ipxe/snponly.efi": "ipxe",
}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[BootSite]:
    if os.geteuid() != 0:
        pytest.skip("needs root: network boot sets up addresses and listens at low ports")
    require_programs(PROGRAMS)
    with boot_site(tmp_path) as made:
        yield made
