"""What an enclave is made of: plain, valid on construction, without a database or a network."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timedelta
from enum import Enum
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from steelyard.enclave.life import State
from steelyard.model.secret import Secret


class Trust(Enum):
    """How much a tenant wants to know of its machines before it lets them in."""

    OPEN = "open"
    ATTESTED = "attested"
    SEALED = "sealed"

    @property
    def weighs(self) -> bool:
        """Whether a machine is weighed before it joins."""
        return self is not Trust.OPEN


class AfterUse(Enum):
    """What becomes of a machine's disk when the machine is given back."""

    DESTROY = "destroy"
    KEEP = "keep"


class OnRejection(Enum):
    """What is done with a machine that did not pass."""

    HOLD = "hold"
    RETRY = "retry"


@dataclass(frozen=True, slots=True)
class Weighing:
    """By whom and by what machines are weighed.

    service         one of the attestation services that this enclave service knows.
    makers          set that endorsement certificates must chain to; None: none, where there are no certificates.
    runtime_policy  None: nothing is asked once it has passed the airlock.
    """

    service: str
    airlock_policy: str
    runtime_policy: str | None
    makers: str | None
    interval_seconds: int
    grace_seconds: int


@dataclass(frozen=True, slots=True)
class WireGuard:
    """The enclave's own encrypted network: each place has an address of `addresses`."""

    port: int
    addresses: IPv4Network

    def address(self, number: int) -> IPv4Address:
        """Return the address of the place with this number, from 1 on. Numbers are given out within the network."""
        return self.addresses[number]


@dataclass(frozen=True, slots=True)
class Seal:
    """What an image must be, whoever keeps it: `steelyard image build` says it of what it built.

    kernel, initramfs        SHA-256, hexadecimal.
    command_line             the kernel's.
    root_hash                of its file system, hexadecimal (dm-verity).
    data_bytes, image_bytes  of the file system, and with its hashes.
    """

    kernel: str
    initramfs: str
    command_line: str
    root_hash: str
    data_bytes: int
    image_bytes: int


@dataclass(frozen=True, slots=True)
class Limits:
    """For how long a place may be in each state; after that it is released."""

    wanted: timedelta
    allocated: timedelta
    airlock: timedelta
    weighed: timedelta
    admitted: timedelta

    def of(self, state: State) -> timedelta | None:
        """Return the limit of a state; None: it has none."""
        return getattr(self, state.value, None)


@dataclass(frozen=True, slots=True)
class Spec:
    """What a tenant wants, as an enclave file says it.

    boot_network     where machines boot, and reach their disks and whoever weighs them, for as long as they live. For
                     machines that are weighed it is the airlock: its members are isolated from one another.
    network          the enclave's, by another card of theirs. Where nobody is weighed, it may be the boot network.
    addresses        what machines are called there: each place has one; None: nobody says.
    disk_bytes       None: as large as the image.
    seal             what the image must be; None: what imaging says.
    attempts         how many machines are tried for one that is wanted, before it is left at that.
    """

    name: str
    trust: Trust
    count: int
    labels: Mapping[str, str]
    image: str
    boot_network: str
    network: str
    addresses: IPv4Network | None
    disk_bytes: int | None
    after_use: AfterUse
    weighing: Weighing | None
    wireguard: WireGuard | None
    seal: Seal | None
    user_data: str | None
    command_line: str | None
    limits: Limits
    on_rejection: OnRejection
    attempts: int

    @property
    def walled(self) -> bool:
        """Whether the enclave's network is another than the one that machines boot by."""
        return self.network != self.boot_network

    def makeup(self) -> str:
        """Return the digest of all that a machine is made by: one of another is replaced."""
        weighing, wireguard = self.weighing, self.wireguard
        said = {
            "trust": self.trust.value,
            "labels": dict(self.labels),
            "image": self.image,
            "boot_network": self.boot_network,
            "network": self.network,
            "addresses": None if self.addresses is None else str(self.addresses),
            "disk_bytes": self.disk_bytes,
            "weighing": None
            if weighing is None
            else [weighing.service, weighing.airlock_policy, weighing.runtime_policy, weighing.makers],
            "wireguard": None if wireguard is None else [wireguard.port, str(wireguard.addresses)],
            "seal": None if self.seal is None else asdict(self.seal),
            "user_data": self.user_data,
            "command_line": self.command_line,
        }
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found out or made about a place's machine. No secret is in it.

    asked      what a service is working at for the step that is being taken; None: nothing.
    nic, mac   the card that it boots by; wall_nic, wall_mac: the one that the enclave's network comes by.
    delivery   the unguessable part of the address where its delivery will be.
    boot       nonce of the quote that was judged, hexadecimal: which boot this is.
    transport, wireguard  public keys of this boot, hexadecimal, as the quote vouches for them.
    verdict    the signed verdict that admits it.
    address    where it is on the boot network.
    """

    asked: str | None = None
    nic: str | None = None
    mac: str | None = None
    wall_nic: str | None = None
    wall_mac: str | None = None
    delivery: str | None = None
    boot: str | None = None
    transport: str | None = None
    wireguard: str | None = None
    verdict: str | None = None
    address: str | None = None

    def document(self) -> dict[str, str]:
        """Return it as it is stored."""
        return {each.name: value for each in fields(self) if (value := getattr(self, each.name)) is not None}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Facts":
        """Return what was stored; what newer code said is left out."""
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in document.items() if name in known})


@dataclass(frozen=True, slots=True)
class Place:
    """What an enclave has for one machine that it wants.

    spec      the file as it was when the place was made: what is under way is finished by it.
    number    from 1 on, unique among those that are not over; the place's address in the enclave follows from it.
    makeup    of the file that it was made by.
    avoid     machines that are not to be taken: they were tried.
    step      the next one to be taken in this state, counted from 0.
    words     what it is doing or waiting for, for people.
    deadline  after it, the state is over; None: the state has none.
    due       when it is looked at next; None: when something happens to it.
    sealed    its secrets, sealed with the service's key: see `keys.py`.
    failed    whether it ended otherwise than it should.
    receipt   what was confirmed of the release.
    """

    id: str
    enclave: str
    project: str
    number: int
    spec: Spec
    makeup: str
    node: str | None
    avoid: tuple[str, ...]
    state: State
    since: datetime
    why: str
    step: int
    words: str
    deadline: datetime | None
    due: datetime | None
    facts: Facts
    sealed: bytes | None
    receipt: Mapping[str, Any] | None
    failed: bool
    version: int

    @property
    def volume(self) -> str:
        """Return what its disk is called."""
        return f"enclave-{self.id}"


@dataclass(frozen=True, slots=True)
class Enclave:
    """What a tenant wants, and how often it could not be had.

    spec      the newest file's.
    failures  places that ended for want of a machine, or by a machine that failed, since the file was applied.
    ending    it is to have no machines any more; gone: it has none, and nobody waits for it.
    """

    id: str
    project: str
    name: str
    spec: Spec
    made_by: str
    since: datetime
    failures: int
    ending: bool
    gone: bool
    version: int


@dataclass(frozen=True, slots=True)
class BootSecrets:
    """The secrets of one place. key, u: of this boot, K and U of evidence/keysplit.py; disk: opens the root volume."""

    key: Secret = field(repr=False)
    u: Secret = field(repr=False)
    disk: Secret = field(repr=False)
