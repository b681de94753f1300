"""Machines that are not there: they make real evidence, speak the native protocol, and lie in any way they are told.

A node reaches a service by a `Call`: whatever does HTTP, such as `through(httpx.Client(...))` or a test client of the
app in this process. `pass_airlock` and `report` do all that the agent does; each step is there for itself as well. What
a service refuses is raised as `Refused`.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any, Final

import httpx
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from steelyard.agent.protocol import (
    Asked,
    Judged,
    NodeEvidence,
    Registered,
    RuntimeEvidence,
    activation_request,
    challenge_request,
    evidence_request,
    parse_challenge,
    parse_judged,
    parse_registered,
    parse_session,
    parse_share,
    registration_request,
    runtime_challenge_request,
    runtime_evidence_request,
    step_report,
)
from steelyard.agent.tpm import Quoted
from steelyard.evidence.keysplit import NodeBoot, open_share, raw_public_key
from steelyard.evidence.tpm.activation import activation_proof
from steelyard.evidence.tpm.nonce import NonceWithKeys
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.pcrs import PcrSelection
from steelyard.model.secret import Secret
from tests.simulated_boots import (
    AIRLOCK_IMAGE,
    SECURE_BOOT_DB,
    SHA256,
    SHA384,
    BootLog,
    MeasurementList,
    file_entry,
    file_paths,
    measured,
    recorded_boot,
)
from tests.simulated_tpm import NodeTpm, SimulatedTpm, make_tpm

_API: Final = "/v1/attestation"
PARAMETERS: Final = b'{"schema": "steelyard.parameters/1", "node": "%b"}'

Call = Callable[[str, str, bytes | None, Mapping[str, str]], tuple[int, bytes]]
"""Method, path, body, headers -> status, body."""


def through(client: httpx.Client) -> Call:
    """Return what calls through a client: any that httpx has, or Starlette's test client."""

    def call(method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> tuple[int, bytes]:
        answer = client.request(method, path, content=body, headers=dict(headers))
        return answer.status_code, answer.content

    return call


class Refused(Exception):
    """The service did not answer as a node would like it to."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"{status} {body[:2000].decode(errors='replace')}")
        self.status = status
        self.body = body

    @property
    def problem(self) -> dict[str, Any]:
        """The problem document (RFC 9457)."""
        found: dict[str, Any] = json.loads(self.body)
        return found


class Lie(Enum):
    """A way to be, or to seem, what the node is not. Each must end in a refusal that names what is wrong.

    The machine's: it truly booted or ran something else, and says so. The sender's: what it shows is not what was.
    """

    # the machine's, at boot
    CHANGED_FIRMWARE = auto()
    ANOTHER_AIRLOCK_IMAGE = auto()
    CHANGED_COMMAND_LINE = auto()
    CHANGED_SECURE_BOOT_VARIABLES = auto()
    # whose TPM it is
    SWAPPED_TPM = auto()
    """A good TPM of the same maker, which is not this node's."""
    RELAYED_TPM = auto()
    """Another node's TPM answers for all."""
    RELAYED_QUOTE = auto()
    """Its own registers, another node's quotes."""
    ANOTHER_NODES_NAME = auto()
    # the quote
    REPLAYED_QUOTE = auto()
    """What was sent for the challenge before; the first one is for no challenge."""
    QUOTE_FROM_BEFORE_A_REBOOT = auto()
    """Its clock is that of the boot before."""
    WRONG_BANK = auto()
    PCR_SUBSET = auto()
    SWAPPED_TRANSPORT_KEY = auto()
    # the log
    EDITED_LOG = auto()
    TRUNCATED_LOG = auto()
    EXTRA_EVENT = auto()
    # the machine's, at run time
    CHANGED_BINARY = auto()
    UNKNOWN_FILE = auto()
    # the list
    REMOVED_ENTRY = auto()


BOOT_LIES: Final = (
    *(Lie.CHANGED_FIRMWARE, Lie.ANOTHER_AIRLOCK_IMAGE, Lie.CHANGED_COMMAND_LINE, Lie.CHANGED_SECURE_BOOT_VARIABLES),
    *(Lie.RELAYED_QUOTE, Lie.REPLAYED_QUOTE, Lie.WRONG_BANK, Lie.PCR_SUBSET, Lie.SWAPPED_TRANSPORT_KEY),
    *(Lie.EDITED_LOG, Lie.TRUNCATED_LOG, Lie.EXTRA_EVENT),
)
"""Those that registration cannot see, and the evidence from the airlock must show."""
REGISTRATION_LIES: Final = (Lie.SWAPPED_TPM, Lie.RELAYED_TPM, Lie.ANOTHER_NODES_NAME)
RUNTIME_LIES: Final = (
    *(Lie.CHANGED_BINARY, Lie.UNKNOWN_FILE, Lie.REMOVED_ENTRY, Lie.RELAYED_QUOTE, Lie.REPLAYED_QUOTE),
    *(Lie.QUOTE_FROM_BEFORE_A_REBOOT, Lie.WRONG_BANK, Lie.PCR_SUBSET),
)
"""Those that a report at run time must show. The list has a file at least when it is told to lie."""

_MACHINE_LIES: Final[Mapping[Lie, Callable[[], BootLog]]] = {
    Lie.CHANGED_FIRMWARE: lambda: recorded_boot("changed-firmware"),
    Lie.ANOTHER_AIRLOCK_IMAGE: lambda: recorded_boot("first").with_another(AIRLOCK_IMAGE, b"another airlock image"),
    Lie.CHANGED_COMMAND_LINE: lambda: recorded_boot("other-command-line"),
    Lie.CHANGED_SECURE_BOOT_VARIABLES: lambda: recorded_boot("first").with_variable(SECURE_BOOT_DB, b"a key" * 20),
}


@dataclass
class SimulatedNode:
    """A node with its TPM, switched on when it is made.

    call        reaches the attestation service.
    parameters  what the boot service gave it.
    boot        what it boots.
    lies        what it does otherwise than an honest node, until it is told to stop.
    other       the node whose name or TPM it borrows for some lies.
    template    of its measurement list.
    """

    name: str
    call: Call
    tpm: NodeTpm = field(default_factory=make_tpm)
    parameters: bytes = b""
    boot: BootLog = field(default_factory=lambda: recorded_boot("first"))
    lies: frozenset[Lie] = frozenset()
    other: "SimulatedNode | None" = None
    template: str = "ima-sig"
    token: Secret | None = None
    transport: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate)
    wireguard: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate)

    def __post_init__(self) -> None:
        self.parameters = self.parameters or PARAMETERS % self.name.encode()
        self._next: Asked | None = None
        self._sent: Quoted | None = None
        self._files = 0
        self._judged = 0
        self._share_nonce = b""
        self._measure_boot()

    # -- the machine ---------------------------------------------------------------------------------------------------

    def switch_on_again(self) -> None:
        """Reset it: it boots, with new keys but for its attestation key, which it keeps until it registers."""
        self.tpm.reboot()
        self.transport, self.wireguard = X25519PrivateKey.generate(), X25519PrivateKey.generate()
        self._next, self._sent = None, None
        self._measure_boot()

    def _measure_boot(self) -> None:
        machine = [_MACHINE_LIES[lie] for lie in self.lies if lie in _MACHINE_LIES]
        self.booted = machine[0]() if machine else self.boot
        for index, digests in self.booted.extended:
            self.tpm.extend(index, _known(digests))
        self._judged = 0
        self.measurements = MeasurementList(_boot_pcrs(self.booted))
        self.tpm.extend(10, self.measurements.began)

    def tell(self, *lies: Lie, other: "SimulatedNode | None" = None) -> None:
        """Make it lie so from now on, and in no other way. What a machine boots it tells when it is switched on."""
        self.lies = frozenset(lies)
        self.other = other
        if self.lies & _MACHINE_LIES.keys():
            self.switch_on_again()

    def run_files(self, paths: Iterable[str]) -> None:
        """Run files, all of them as they are meant to be."""
        for path in paths:
            self._measure(path, None)

    def run_more(self, count: int) -> None:
        """Run the next so many of `simulated_boots.file_paths`, of which there are 50,000."""
        self.run_files(_ALL_PATHS[self._files : self._files + count])
        self._files += count

    def _measure(self, path: str, content: bytes | None) -> None:
        self.tpm.extend(10, self.measurements.add(file_entry(path, content, self.template)))

    # -- the protocol, step by step ------------------------------------------------------------------------------------

    def register(self) -> Registered:
        """Offer a fresh attestation key. Raises Refused."""
        name, tpm = self.name, self._registering_tpm()
        if self.other is not None and Lie.ANOTHER_NODES_NAME in self.lies:
            name = self.other.name
        if tpm is self.tpm:
            tpm.new_attestation_key()
        answer = self._ask("POST", f"{_API}/registrations", registration_request(name, tpm.keys()), 201)
        return parse_registered(answer)

    def activate(self, registered: Registered) -> None:
        """Prove that the keys live in one TPM; hold the session's token. Raises Refused."""
        tpm = self._registering_tpm()
        secret = Secret(tpm.activate(registered.credential))
        proof = activation_proof(secret, registered.registration.encode(), tpm.keys().attestation_key_name)
        path = f"{_API}/registrations/{registered.registration}/activation"
        self.token = parse_session(self._ask("POST", path, activation_request(proof), 200))
        self._judged = 0

    def ask_challenge(self) -> Asked:
        """Ask for a challenge in the airlock. Raises Refused."""
        return parse_challenge(self._ask("POST", f"{_API}/nodes/{self.name}/challenges", challenge_request(), 201))

    def ask_runtime_challenge(self) -> Asked:
        """Ask for a challenge at run time. Raises Refused."""
        body = runtime_challenge_request(len(self.measurements))
        return parse_challenge(self._ask("POST", f"{_API}/nodes/{self.name}/challenges", body, 201))

    def evidence(self, asked: Asked) -> NodeEvidence:
        """Return what the node answers in the airlock."""
        transport, wireguard = raw_public_key(self.transport), raw_public_key(self.wireguard)
        quoted = self._quote(NonceWithKeys(asked.nonce, transport, wireguard, self.parameters), asked.selection)
        if Lie.SWAPPED_TRANSPORT_KEY in self.lies:
            transport = raw_public_key(X25519PrivateKey.generate())
        log = self._shown_log()
        return NodeEvidence(quoted.attest, quoted.signature, quoted.pcrs, log, transport, wireguard, self.parameters)

    def runtime_evidence(self, asked: Asked) -> RuntimeEvidence:
        """Return what the node answers at run time, with the log of its boot only when that is to be judged again."""
        shown = self.measurements
        if Lie.CHANGED_BINARY in self.lies:
            self._measure(_ALL_PATHS[0], b"changed")
        if Lie.UNKNOWN_FILE in self.lies:
            self._measure("/usr/local/bin/unknown", b"unknown")
        if Lie.REMOVED_ENTRY in self.lies:
            self.run_more(2)
            shown = self.measurements.without(len(self.measurements) - 2)
        bound = NonceWithKeys(
            asked.nonce, raw_public_key(self.transport), raw_public_key(self.wireguard), self.parameters
        )
        quoted = self._quote(bound, asked.selection)
        log = self._shown_log() if asked.from_entry == 0 else None
        return RuntimeEvidence(
            *(quoted.attest, quoted.signature, quoted.pcrs, log, asked.from_entry, shown.after(asked.from_entry))
        )

    def submit(self, asked: Asked, evidence: NodeEvidence) -> Judged:
        """Send what was collected in the airlock. Raises Refused."""
        judged = self._submit(asked, evidence_request(evidence))
        self._share_nonce = asked.nonce
        return judged

    def submit_runtime(self, asked: Asked, evidence: RuntimeEvidence) -> Judged:
        """Send what was collected at run time; keep the challenge that comes with the answer. Raises Refused."""
        judged = self._submit(asked, runtime_evidence_request(evidence))
        self._next = judged.next
        return judged

    def _submit(self, asked: Asked, body: bytes) -> Judged:
        return parse_judged(self._ask("POST", f"{_API}/challenges/{asked.challenge}/evidence", body, 200))

    def fetch_share(self) -> Secret:
        """Return V, opened. Raises Refused."""
        sealed = parse_share(self._ask("GET", f"{_API}/nodes/{self.name}/share", None, 200))
        return open_share(sealed, self.transport, NodeBoot(self.name, self._share_nonce))

    def tell_step(self, step: str, outcome: str, detail: str) -> None:
        """Say what it is at. Raises Refused."""
        self._ask("POST", f"{_API}/nodes/{self.name}/steps", step_report(step, outcome, detail), 204)

    # -- the protocol, as the agent goes through it --------------------------------------------------------------------

    def join(self) -> None:
        """Register and activate. Raises Refused."""
        self.activate(self.register())

    def pass_airlock(self) -> Judged:
        """Do all up to the verdict. Raises Refused."""
        self.join()
        if Lie.REPLAYED_QUOTE in self.lies:
            self.evidence(self.ask_challenge())
        asked = self.ask_challenge()
        return self.submit(asked, self.evidence(asked))

    def report(self) -> Judged:
        """Report once at run time, by the challenge that came with the last answer where one did. Raises Refused."""
        asked, self._next = self._next or self.ask_runtime_challenge(), None
        return self.submit_runtime(asked, self.runtime_evidence(asked))

    # -- inside --------------------------------------------------------------------------------------------------------

    def _registering_tpm(self) -> NodeTpm:
        if Lie.SWAPPED_TPM in self.lies:
            self._swapped = getattr(self, "_swapped", None) or make_tpm()
            return self._swapped
        return self.other.tpm if self.other is not None and Lie.RELAYED_TPM in self.lies else self.tpm

    def _quote(self, bound: NonceWithKeys, selection: PcrSelection) -> Quoted:
        tpm, data = self.tpm, bound.qualifying_data()
        if self.other is not None and self.lies & {Lie.RELAYED_QUOTE, Lie.RELAYED_TPM}:
            return self.other.tpm.quote(data, selection)
        if Lie.REPLAYED_QUOTE in self.lies:
            self._sent = self._sent or tpm.quote(bytes(32), selection)
            return self._sent
        if Lie.WRONG_BANK in self.lies:
            other = SHA384 if selection.bank is SHA256 else SHA256
            signed = tpm.quote(data, PcrSelection(other, selection.indices))
            return replace(signed, pcrs={index: value[: selection.bank.size] for index, value in signed.pcrs.items()})
        if Lie.PCR_SUBSET in self.lies:
            whole = tpm.quote(data, selection)
            few = tpm.quote(data, PcrSelection(selection.bank, selection.indices - {4}))
            return replace(few, pcrs=whole.pcrs)
        if Lie.QUOTE_FROM_BEFORE_A_REBOOT in self.lies:
            assert isinstance(tpm, SimulatedTpm), "a real TPM does not sign this"
            return tpm.quote_at(replace(tpm.clock, reset_count=tpm.clock.reset_count - 1), data, selection)
        self._sent = tpm.quote(data, selection)
        return self._sent

    def _shown_log(self) -> bytes:
        boot = self.booted
        if Lie.EDITED_LOG in self.lies:
            boot = boot.with_another(AIRLOCK_IMAGE, b"what it would like to have booted")
        if Lie.TRUNCATED_LOG in self.lies:
            boot = replace(boot, events=boot.events[:-1])
        if Lie.EXTRA_EVENT in self.lies:
            boot = replace(boot, events=(*boot.events, measured(4, 0x80000003, bytes(32), b"one more application")))
        return boot.to_bytes()

    def _ask(self, method: str, path: str, body: bytes | None, expected: int) -> bytes:
        headers = {} if body is None else {"Content-Type": "application/json"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token.reveal().decode()}"
        status, answer = self.call(method, path, body, headers)
        if status != expected:
            raise Refused(status, answer)
        return answer


_ALL_PATHS: Final = file_paths(50_000)


def _known(digests: Mapping[HashAlgorithm, bytes]) -> Mapping[HashAlgorithm, bytes]:
    return {bank: digest for bank, digest in digests.items() if bank in (SHA256, SHA384)}


def _boot_pcrs(boot: BootLog) -> Mapping[int, bytes]:
    """Return PCR 0 to 9 of the SHA-256 bank after a boot."""
    values = dict.fromkeys(range(10), bytes(32))
    for index, digests in boot.extended:
        if index in values:
            values[index] = SHA256.digest(values[index] + digests[SHA256])
    return values
