"""An enclave of trust `open` on a rack: by one file two machines of the free pool run a tenant's system, and return."""

from pathlib import Path
from typing import Final

import pytest

from tests.conformance.imaging.test_service import end_servers, servers
from tests.lab_rack.rack import Rack, wait_until
from tests.lab_rack.site import Site, site_of
from tests.lab_rack.tenant import plain_image
from tests.lab_rack.test_imaging import CONFIGURATION, SERVICE, VLAN, Blue, left_over

pytestmark = pytest.mark.rack

ENCLAVE: Final = """
[enclave.isolation]
url = "{url}"
ca = "authority.pem"
token_file = "enclave.token"

[enclave.imaging]
url = "{url}"
ca = "authority.pem"
token_file = "enclave.token"
"""
FILE: Final = """
name: lab
trust: open
nodes:
  count: 2
image: debian
networks:
  boot: boot
  enclave: boot
disk:
  after: destroy
user_data: |
  #cloud-config
  ssh_authorized_keys:
    - "{key}"
"""


def join(site: Site) -> None:
    """Give the enclave service a token of its own, and start the services with it."""
    token = site.directory / "enclave.token"
    rights = [word for right in ("read", "nodes", "networks", "power", "images") for word in ("--right", right)]
    site.run(["token", "create", "--account", "blue", "--days", "1", "--out", str(token), *rights])
    with (site.directory / "steelyard.toml").open("a") as configuration:
        configuration.write(ENCLAVE.format(url=site.url))
    site.stop()
    site.start()


def test_machines_come_from_the_free_pool_run_and_go_back_by_one_file(rack: Rack, tmp_path: Path) -> None:
    rack.lab("service", str(VLAN), f"{SERVICE}/24")
    with site_of(rack, more=CONFIGURATION) as site:
        blue = Blue(site, tmp_path)
        site.run(["network", "create", "boot", "--project", "blue", "--vlan", str(VLAN)])
        blue.run("image", "import", "debian", str(plain_image().file), "--format", "qcow2")
        join(site)
        file = tmp_path / "lab.yaml"
        file.write_text(FILE.format(key=blue.key.with_name("ssh.key.pub").read_text().strip()))
        try:
            blue.run("enclave", "apply", "-f", str(file))
            for node in ("n1", "n2"):
                blue.wait_for_sshd(node)
                assert site.node(node)["project"] == "blue"
            blue.run("enclave", "delete", "lab")
        finally:
            end_servers(site.directory)
        for node in ("n1", "n2"):
            assert site.node(node)["state"] == "free"
            assert rack.ipmi_power(node) == "off"
        assert blue.ask("volume", "list")["items"] == []
        wait_until("nothing is left", lambda: not servers(site.directory) and not left_over(site))
