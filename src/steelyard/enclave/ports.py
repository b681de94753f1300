"""What the enclave needs of the other services: few verbs, each of which states an end, so that to say it again is
harmless. The drivers over their HTTP APIs are in `services/`.

A verb that begins something answers at once with how far it is. `asked` is what it told before (None at first): with it
the driver asks how that went on, in place of asking for it anew. All raise SteelyardError: Unavailable where nobody
answered, a Refused where what was asked is not to be had.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from steelyard.model.secret import Secret


@dataclass(frozen=True, slots=True)
class Done:
    """It is so: the service has read it back, where there is something to read."""


@dataclass(frozen=True, slots=True)
class Pending:
    """It is being worked at. asked: under what name, if it has one."""

    asked: str | None
    words: str


Progress = Done | Pending


@dataclass(frozen=True, slots=True)
class Identity:
    """What the provider published of a node's TPM: kind -> PEM, and digests of keys ("sha256:...")."""

    certificates: Mapping[str, str]
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that is ours. cards: its NICs' hardware addresses by name, those with a cable alone."""

    name: str
    cards: Mapping[str, str]
    identity: Identity


@dataclass(frozen=True, slots=True)
class Tenure:
    """What isolation says of a machine at this moment.

    ours     whether it is the project's, under this allocation.
    cut      whether it is quarantined.
    leaving  whether it is being released; dark: and is off and on no network, as read back.
    words    what it waits for.
    """

    ours: bool
    cut: bool
    leaving: bool
    dark: bool
    words: str


class Power(Enum):
    """What a machine's power is to be."""

    ON = "on"
    OFF = "off"


class Machines(Protocol):
    """The isolation service, as far as one project's machines go."""

    def take(self, project: str, allocation: str, labels: Mapping[str, str], avoid: Collection[str]) -> Machine:
        """Return the machine of this allocation: one that it has, or a free one with these labels.

        Raises NotEnough when none is free.
        """

    def taken(self, project: str, allocation: str) -> str | None:
        """Return the machine that an allocation has; None: none."""

    def look(self, project: str, allocation: str, node: str) -> Tenure:
        """Return how a machine is; of one that this allocation has not, or not any more, that it is not ours."""

    def hold(self, node: str, name: str, why: str) -> None:
        """Keep a machine from being anybody else's until `lift`, whatever is released."""

    def lift(self, node: str, name: str) -> None:
        """End that; where there is nothing of this name, nothing."""

    def power(self, node: str, wanted: Power, asked: str | None) -> Progress:
        """Have a machine on or off; done when its power was read."""

    def boot_from_network(self, node: str, asked: str | None) -> Progress:
        """Have a machine boot from the network whenever it starts."""

    def check_airlock(self, network: str) -> None:
        """Let pass a network whose members cannot reach one another. Raises WrongState."""

    def check_admission(self, network: str, verdict_keys: Collection[str]) -> None:
        """Let pass a network that admits by verdicts of one of these keys (PEM) alone.

        Raises WrongState: an enclave would otherwise rest on good behaviour.
        """

    def attach(self, node: str, nic: str, network: str, *, verdict: str | None) -> Progress:
        """Have a card on a network, without a tag; done when the switch was read to carry it. Raises NotAdmitted."""

    def detach_all(self, node: str) -> Progress:
        """Have a machine on no network; done when the switch was read to be without it."""

    def cut(self, node: str, why: str) -> Progress:
        """Cut a machine off ahead of everything else; done when the switch was read."""

    def release(self, node: str, why: str) -> None:
        """Begin to give a machine back."""


class Disks(Protocol):
    """The imaging service, as far as one project's volumes and boots go."""

    def make_volume(self, project: str, volume: str, image: str, size_bytes: int | None, asked: str | None) -> Progress:
        """Have a volume that was made of an image."""

    def boot_open(self, project: str, node: str, what: "OpenBoot", asked: str | None) -> Progress:
        """Have a machine boot an image's kernel with a volume as its root, when it starts the next time."""

    def boot_airlock(self, project: str, node: str, what: "AirlockBoot", asked: str | None) -> Progress:
        """Have a machine boot the airlock image, when it starts the next time."""

    def address(self, project: str, node: str) -> str | None:
        """Return the address that a machine has where it boots; None: it boots nothing."""

    def open_volume(self, project: str, volume: str, network: str, address: str, asked: str | None) -> Progress:
        """Have a volume served to one address."""

    def system(self, project: str, image: str, network: str) -> "System":
        """Return where a machine in the airlock fetches an image's kernel, and what it must be."""

    def access(self, project: str, volume: str) -> Secret:
        """Return what opens an open volume: root.json of docs/formats.md."""

    def end_boot(self, project: str, node: str, marks: Collection[str], asked: str | None) -> Progress:
        """Have a machine boot nothing; done when nothing is served to it any more.

        marks  what tells our boot: the name of its volume, or what stands in its parameters. Another's is left alone.
        """

    def end_volume(self, project: str, volume: str, *, keep: bool, asked: str | None) -> Progress:
        """Have a volume closed, and gone unless it is to be kept."""


@dataclass(frozen=True, slots=True)
class OpenBoot:
    """A direct boot: see imaging's."""

    network: str
    mac: str
    volume: str
    command_line: str | None
    seed: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class AirlockBoot:
    """A boot of the airlock image with these parameters; the machine may fetch the image's kernel."""

    network: str
    mac: str
    parameters: str
    image: str


@dataclass(frozen=True, slots=True)
class File:
    """A file to fetch."""

    address: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class System:
    """What a payload names of an image."""

    kernel: File
    initramfs: File
    command_line: str


class Standing(Enum):
    """What attestation says of a machine, as far as it matters here."""

    ON_THE_WAY = "on the way"
    PASSED = "passed"
    OVERDUE = "overdue"
    FAILED = "failed"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Weighed:
    """A machine's standing.

    why      in words; of one that failed, the components.
    step     what the machine says that it is at, and how that went: "being judged", "done"; it proves nothing.
    detail   what it says besides, of a step that failed.
    reports  whether it has passed for what runs, after it passed for what booted.
    verdict  the signed one of a machine that passed.
    """

    standing: Standing
    why: str
    step: tuple[str, str] | None
    detail: str
    reports: bool
    verdict: str | None


@dataclass(frozen=True, slots=True)
class Enrolment:
    """On what terms a machine is attested."""

    identity: Identity
    parameters_sha256: str
    airlock_policy: str
    runtime_policy: str | None
    makers: str | None
    interval_seconds: int
    grace_seconds: int


class Scales(Protocol):
    """One attestation service, as far as one project's machines go."""

    def enrol(self, project: str, node: str, terms: Enrolment) -> None:
        """Have a machine attested on these terms, anew: whatever was judged of it before counts for nothing."""

    def leave_share(self, node: str, share: Secret) -> None:
        """Have V given out to the machine once it has passed."""

    def weigh(self, project: str, node: str) -> Weighed:
        """Return how a machine stands."""

    def holds(self, project: str, node: str) -> bool:
        """Return whether a machine that passed still does, or is a little late; as of a moment ago, asked for many."""

    def forget(self, node: str, parameters_sha256: str) -> None:
        """Have a machine attested no more, if it is on terms with these parameters; on others it is another's."""


@dataclass(frozen=True, slots=True)
class ScalesAt:
    """An attestation service, and how machines reach it.

    address, authority  as a machine's parameters say them.
    verdict_keys        whose verdicts count, PEM.
    """

    scales: Scales
    address: str
    authority: str
    verdict_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Services:
    """The other services. scales: by the names that enclave files use.

    deliveries  where machines fetch their deliveries: the beginning of the address.
    """

    machines: Machines
    disks: Disks
    scales: Mapping[str, ScalesAt]
    deliveries: str
