"""The airlock, seen from the node: one function a step, in the order in which they are taken.

Each step gives what the next one cannot do without. None goes on after a failure: whatever is raised ends the run.
"""

import time
from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from steelyard.agent.console import Reporter
from steelyard.agent.files import read_file
from steelyard.agent.handover import (
    HANDOVER_PCR,
    Digests,
    Loaded,
    digests_of,
    plan_measurements,
)
from steelyard.agent.parameters import Parameters
from steelyard.agent.payload import Artefact, LuksHeader, Payload, parse_payload
from steelyard.agent.programs import Kexec, write_private
from steelyard.agent.protocol import (
    Asked,
    Delivery,
    Judged,
    NodeEvidence,
    NodeKeys,
    Registered,
    activation_request,
    challenge_request,
    evidence_request,
    parse_challenge,
    parse_delivery,
    parse_judged,
    parse_registered,
    parse_session,
    parse_share,
    registration_request,
)
from steelyard.agent.service import Server
from steelyard.agent.session import FILE, Session
from steelyard.agent.tpm import Tpm
from steelyard.agent.volumes import attached
from steelyard.evidence.handover import secrets_archive
from steelyard.evidence.keysplit import (
    NodeBoot,
    join_shares,
    open_payload,
    open_share,
    raw_public_key,
    verify_auth_tag,
)
from steelyard.evidence.tpm.activation import activation_proof
from steelyard.evidence.tpm.nonce import NonceWithKeys
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import NodeFailed, ServiceRefused
from steelyard.model.limits import AIRLOCK_IMA_LIST_BYTES, DELIVERY_BYTES, EVENT_LOG_BYTES, MESSAGE_BYTES
from steelyard.model.secret import Secret

_API: Final = "/v1/attestation"
_LONGEST_DELIVERY_SECONDS: Final = 600
"""The tenant's share may wait for a person, and for nodes that are weighed before this one."""
_DELIVERY_PAUSE_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Machine:
    """What the agent acts on besides services.

    neighbourhood  tells who is there beside the services at these hosts, hardware addresses.
    event_log      the firmware's, as the kernel gives it.
    ima_list       the kernel's own, binary.
    work           a directory in memory.
    """

    tpm: Tpm
    kexec: Kexec
    neighbourhood: Callable[[Collection[str]], list[str]]
    event_log: Path
    ima_list: Path
    work: Path


@dataclass(frozen=True, slots=True)
class BootKeys:
    """Keys of this boot alone: shares are sealed to one, the tenant's network knows the node by the other."""

    transport: X25519PrivateKey
    wireguard: X25519PrivateKey


def pass_airlock(parameters: Parameters, machine: Machine, reporter: Reporter) -> NoReturn:
    """Take the node through the airlock into the tenant's system. Raises SteelyardError where it cannot go on."""
    attestation = Server(parameters.attestation, parameters.authority)
    with reporter.step("making keys"):
        keys = machine.tpm.make_keys()
        boot_keys = BootKeys(X25519PrivateKey.generate(), X25519PrivateKey.generate())
    with reporter.step("registering"):
        registered = register(attestation, parameters.node, keys)
    with reporter.step("activating"):
        attestation.token = activate(attestation, machine.tpm, registered, keys)
    reporter.report_to(attestation, f"{_API}/nodes/{parameters.node}/steps")
    with reporter.step("looking for neighbours"):
        look_for_neighbours(machine, parameters)
    with reporter.step("quoting"):
        asked = ask_challenge(attestation, parameters.node)
        evidence = collect_evidence(machine, asked, parameters, boot_keys)
    with reporter.step("being judged"):
        judged = submit_evidence(attestation, asked, evidence)
    with reporter.step("getting the verifier's share"):
        v = fetch_verifier_share(attestation, parameters.node, boot_keys, asked)
    with reporter.step("getting the tenant's share"):
        delivery = await_delivery(parameters.delivery, time.monotonic, time.sleep)
        payload = open_delivery(delivery, v, parameters.node, boot_keys, asked)
    with reporter.step("fetching the tenant's system"):
        banks = machine.tpm.banks()
        kernel = fetch(payload.kernel, machine.work / "kernel", banks)
        initramfs = fetch(payload.initramfs, machine.work / "initramfs", banks)
    with reporter.step("looking at the root volume"):
        header = look_at_volume(payload, machine.work, banks)
    with reporter.step("measuring the tenant's system"):
        command_line = digests_of(payload.command_line.encode(), banks)
        loaded = Loaded(digests_of(parameters.document, banks), kernel, initramfs, command_line, header)
        measure(machine.tpm, loaded)
    with reporter.step("loading the tenant's system"):
        session = hand_over_session(parameters, machine, attestation, evidence, judged)
        append_secrets(machine.work / "initramfs", payload, boot_keys, session)
        machine.kexec.load(machine.work / "kernel", machine.work / "initramfs", payload.command_line)
        machine.tpm.close()
    with reporter.step("starting the tenant's system"):
        attestation.close()
        machine.kexec.start()


def register(attestation: Server, node: str, keys: NodeKeys) -> Registered:
    """Offer the node's keys. Source: docs/formats.md, Native protocol, 1."""
    body = registration_request(node, keys)
    return parse_registered(attestation.post(f"{_API}/registrations", body, HTTPStatus.CREATED, MESSAGE_BYTES))


def activate(attestation: Server, tpm: Tpm, registered: Registered, keys: NodeKeys) -> Secret:
    """Prove that the keys live in one TPM; return the session's token. Source: docs/formats.md, Native protocol, 2."""
    secret = tpm.activate(registered.credential)
    proof = activation_proof(secret, registered.registration.encode(), keys.attestation_key_name)
    path = f"{_API}/registrations/{registered.registration}/activation"
    return parse_session(attestation.post(path, activation_request(proof), HTTPStatus.OK, MESSAGE_BYTES))


def look_for_neighbours(machine: Machine, parameters: Parameters) -> None:
    """Go on where nobody but the services is to be heard. Raises NodeFailed: this is no airlock."""
    hosts = {urlsplit(address).hostname or "" for address in (parameters.attestation, parameters.delivery)}
    if strangers := machine.neighbourhood(hosts):
        doing = "listening on the airlock's network"
        raise NodeFailed(doing, expected="nobody but the services", found=f"also {', '.join(strangers[:8])}")


def ask_challenge(attestation: Server, node: str) -> Asked:
    """Ask for a nonce and what to quote. Source: docs/formats.md, Native protocol, 3."""
    path = f"{_API}/nodes/{node}/challenges"
    return parse_challenge(attestation.post(path, challenge_request(), HTTPStatus.CREATED, MESSAGE_BYTES))


def collect_evidence(machine: Machine, asked: Asked, parameters: Parameters, boot_keys: BootKeys) -> NodeEvidence:
    """Quote, vouching for this boot's keys and for what the boot service said (docs/formats.md, extraData)."""
    transport, wireguard = raw_public_key(boot_keys.transport), raw_public_key(boot_keys.wireguard)
    bound = NonceWithKeys(asked.nonce, transport, wireguard, parameters.document)
    quoted = machine.tpm.quote(bound.qualifying_data(), asked.selection)
    log = read_file(machine.event_log, EVENT_LOG_BYTES, "reading the firmware's event log")
    return NodeEvidence(quoted.attest, quoted.signature, quoted.pcrs, log, transport, wireguard, parameters.document)


def submit_evidence(attestation: Server, asked: Asked, evidence: NodeEvidence) -> Judged:
    """Send the evidence; return what a node that passed hears. Source: docs/formats.md, Native protocol, 4."""
    path = f"{_API}/challenges/{asked.challenge}/evidence"
    return parse_judged(attestation.post(path, evidence_request(evidence), HTTPStatus.OK, MESSAGE_BYTES))


def fetch_verifier_share(attestation: Server, node: str, boot_keys: BootKeys, asked: Asked) -> Secret:
    """Return V. Source: docs/formats.md, Native protocol, 5."""
    sealed = parse_share(attestation.get(f"{_API}/nodes/{node}/share", MESSAGE_BYTES))
    return open_share(sealed, boot_keys.transport, NodeBoot(node, asked.nonce))


def await_delivery(address: str, now: Callable[[], float], pause: Callable[[float], None]) -> Delivery:
    """Return what the tenant left for the node, as soon as it is there. Source: docs/formats.md, Native protocol, 6."""
    limit = now() + _LONGEST_DELIVERY_SECONDS
    with closing(Server(address, None)) as server:
        while (found := server.get_when_there(urlsplit(address).path, DELIVERY_BYTES)) is None:
            if now() > limit:
                raise ServiceRefused(
                    f"asking {address}", expected=f"a delivery within {_LONGEST_DELIVERY_SECONDS} s", found="none"
                )
            pause(_DELIVERY_PAUSE_SECONDS)
    return parse_delivery(found)


def open_delivery(delivery: Delivery, v: Secret, node: str, boot_keys: BootKeys, asked: Asked) -> Payload:
    """Return the payload: U joined with V opens it, and only in this boot of this node."""
    boot = NodeBoot(node, asked.nonce)
    key = join_shares(open_share(delivery.share, boot_keys.transport, boot), v)
    verify_auth_tag(key, node, delivery.tag)
    return parse_payload(open_payload(key, delivery.payload, boot))


def fetch(artefact: Artefact, place: Path, banks: frozenset[HashAlgorithm]) -> Digests:
    """Put a file at `place` when it is the one that the payload names; return its digests. Raises ServiceRefused."""
    hashes = {bank: bank.new(b"") for bank in {*banks, HashAlgorithm.SHA256} if bank.new is not None}
    write_private(place, b"")
    with closing(Server(artefact.address, None)) as server, place.open("wb") as file:
        for piece in server.pieces(urlsplit(artefact.address).path, artefact.size_bytes):
            file.write(piece)
            for digest in hashes.values():
                digest.update(piece)
    digests = {bank: digest.digest() for bank, digest in hashes.items()}
    if digests[HashAlgorithm.SHA256] != artefact.sha256:
        place.unlink()
        found = digests[HashAlgorithm.SHA256].hex()
        raise ServiceRefused(f"fetching {artefact.address}", expected=f"SHA-256 {artefact.sha256.hex()}", found=found)
    return {bank: digests[bank] for bank in banks}


def look_at_volume(payload: Payload, work: Path, banks: frozenset[HashAlgorithm]) -> Digests | None:
    """Return the digests of the root volume's header, when that is what the payload says. Raises NodeFailed."""
    if payload.root is None:
        return None
    with attached(payload.root, work) as device:
        return None if payload.root.luks_header is None else _check_header(device, payload.root.luks_header, banks)


def _check_header(device: Path, expected: LuksHeader, banks: frozenset[HashAlgorithm]) -> Digests:
    with device.open("rb") as volume:
        header = volume.read(expected.size_bytes)
    found = HashAlgorithm.SHA256.digest(header)
    if found != expected.sha256:
        raise NodeFailed("reading the root volume's LUKS header", expected=expected.sha256.hex(), found=found.hex())
    return digests_of(header, banks)


def measure(tpm: Tpm, loaded: Loaded) -> None:
    """Extend PCR 13 with all that is to run, before any of it does."""
    for _, digests in plan_measurements(loaded):
        tpm.extend(HANDOVER_PCR, digests)


def hand_over_session(
    parameters: Parameters, machine: Machine, attestation: Server, evidence: NodeEvidence, judged: Judged
) -> Session | None:
    """Return what the next system reports with, when the verifier wants to hear of it again."""
    if judged.seconds_to_next is None or attestation.token is None:
        return None
    return Session(
        parameters,
        attestation.token,
        machine.tpm.save_signing_key(),
        evidence.transport_key,
        evidence.wireguard_key,
        evidence.event_log,
        read_file(machine.ima_list, AIRLOCK_IMA_LIST_BYTES, "reading the measurement list"),
    )


def append_secrets(initramfs: Path, payload: Payload, boot_keys: BootKeys, session: Session | None) -> None:
    """Give the next system its secrets in memory: a last archive of its initramfs, measured by nobody, seen by it."""
    raw = boot_keys.wireguard.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    files: dict[str, Secret] = {**payload.files, "wireguard.key": Secret(raw)}
    if payload.root_document is not None:
        files["root.json"] = payload.root_document
    if session is not None:
        files[FILE] = session.to_bytes()
    archive = secrets_archive(initramfs.stat().st_size, files)
    with initramfs.open("ab") as file:
        file.write(archive)
