"""What the provider and the tenant of the demo write down: configuration, policies, the enclave file."""

import json
from collections.abc import Mapping
from typing import Any, Final

VLAN: Final = 61
"""The airlock's."""
FOOT: Final = "10.61.0.1"
"""Where the services are on it."""
WALL: Final = "10.60.0.0/24"
ENCRYPTED: Final = "10.77.0.0/24"
MACHINE_CLASS: Final = "rack"

SERVICES: Final = """
[isolation]
check_seconds = 2
power_check_seconds = 10

[imaging]
airlock = "{airlock}"

[[imaging.networks]]
name = "airlock"
project = "blue"
interface = "vlan{vlan}"
address = "{foot}/24"
nodes = "10.61.0.100-10.61.0.119"
"""

ENCLAVE_SERVICE: Final = """
[enclave]
deliveries = "{foot}"
deliveries_port = 8090

[enclave.isolation]
url = "https://127.0.0.1:{port}"
ca = "authority.pem"
token_file = "enclave.token"

[enclave.imaging]
url = "https://127.0.0.1:{port}"
ca = "authority.pem"
token_file = "enclave.token"

[[enclave.attestation]]
name = "own"
url = "https://127.0.0.1:{port}"
ca = "authority.pem"
token_file = "enclave.token"
address = "https://{foot}:{port}"
authority = "authority.pem"
verdict_keys = ["verdict.pem"]
"""

ENCLAVE: Final = """\
name: lab
trust: sealed
nodes:
  count: {count}
  labels: {{for: tenants}}
image: debian
networks:
  boot: airlock
  enclave: wall
  addresses: {wall}
disk:
  after: destroy
attestation:
  service: own
  airlock_policy: airlock
  runtime_policy: debian
  makers: rack
  interval_seconds: 30
  grace_seconds: 60
wireguard:
  port: 51820
  addresses: {encrypted}
rejected:
  then: hold
  attempts: 1
user_data: |
  #cloud-config
  ssh_authorized_keys:
    - "{key}"
{seal}"""


SSH: Final = """\
Host *
    IdentityFile {key}
    UserKnownHostsFile {known}
    StrictHostKeyChecking accept-new
    BatchMode yes
    ConnectTimeout 30
    LogLevel ERROR
"""
"""Host keys are made at the first start, and told on the console; here the first one that is seen is believed."""

COMPONENTS: Final[Mapping[str, tuple[str, str]]] = {
    "ovmf": ("from-firmware", "required"),
    "ovmf-pei": ("from-reference-boot", "required"),
    "secure-boot": ("from-secure-boot", "required"),
    "airlock": ("from-uki", "required"),
    "debian": ("from-rootfs", "optional"),
}
"""Components: how their values come to be known, and whether they must be in the boot log; files alone never are."""

VARYING: Final = [
    {"pcr": 1, "event": "load-option", "at_most": 8, "reason": "boot entries name the network cards"},
    {"pcr": 1, "event": "boot-order", "at_most": 1, "reason": "the order of boot entries is not code"},
    {"pcr": 5, "event": "partition-table", "at_most": 1, "reason": "no local disk is used"},
]

_WRITTEN: Final = {
    "/var/log/**": "logs",
    "/var/lib/systemd/**": "what systemd remembers",
    "/var/lib/steelyard/**": "which instance the machine is",
    "/etc/machine-id": "made at the first start",
    "/etc/hostname": "from the seed",
    "/etc/ssh/ssh_host_ed25519_key*": "made at the first start",
    "/root/.ssh/authorized_keys": "from the seed",
    "/etc/iscsi/**": "links into /run",
    "/var/tmp/**": "systemd's private directories",  # noqa: S108 (not of this computer)
}
"""Files that machines write and root reads: no reference can know them."""


def policy(name: str, key: str, *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a policy: "airlock" for what may have booted, "debian" for what may run besides.

    key      who signs references, as `steelyard reference keygen` prints it.
    without  components that nobody knows yet.
    """
    runtime = name == "debian"
    left_out = without if runtime else (*without, "debian")
    return {
        "schema": "steelyard.policy/1",
        "name": name,
        "version": 1,
        "bank": "sha256",
        "pcrs": [*range(10), *([10] if runtime else []), 11, 12, *([] if runtime else [13])],
        "machine_class": MACHINE_CLASS,
        "signers": {"threshold": 1, "keys": [{"name": "release", "ed25519": key}]},
        "components": [
            {
                "component": component,
                "presence": presence,
                "least_version": "0",
                "revoked": [],
                "least_serial": 1,
                "origins": [origin],
                "at_most": 1,
            }
            for component, (origin, presence) in COMPONENTS.items()
            if component not in left_out
        ],
        "varying": VARYING,
        "runtime": {
            "exclude": [{"path": path, "reason": reason} for path, reason in _WRITTEN.items()],
            "tolerate_violations": [{"path": "/var/log/**", "reason": "logs are written while they are read"}],
            "signers": [],
            "buffers": [],
        }
        if runtime
        else None,
    }


def parameters(node: str, port: int, authority: str) -> str:
    """Return what the tenant's own machine is told in the airlock. Nothing is ever delivered to it."""
    document = {
        "schema": "steelyard.parameters/1",
        "node": node,
        "attestation": f"https://{FOOT}:{port}",
        "authority": authority,
        "delivery": f"http://{FOOT}:8090/none",
        "on_failure": "power-off",
    }
    return json.dumps(document)
