"""The agent as a process, on Debian's own Python and libraries as in the image, against a real TPM and honest services.

All but what needs a machine: the firmware's log is one event long, and `kexec` is a program that keeps what it gets.
"""

import base64
import hashlib
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from steelyard.agent.session import parse_session_file
from steelyard.evidence.eventlog.events import EventType
from steelyard.evidence.keysplit import NodeBoot
from steelyard.model.errors import LogRejected
from steelyard.model.secret import Secret
from tests.airlock_service import (
    Authority,
    HonestService,
    Seen,
    WebServer,
    artefact,
    parameters,
    payload_document,
    serve,
)
from tests.tpm import EndorsementKind, SoftwareTpm, require_programs
from tests.unit.evidence.eventlog.build import Boot

pytestmark = pytest.mark.slow

PYTHON: Final = Path("/usr/bin/python3")
SOURCE: Final = Path(__file__).parents[2] / "src"
KERNEL: Final = b"a kernel" * 100_000
INITRAMFS: Final = b"an initramfs, of a length that is not a multiple of four: 7"
COMMAND_LINE: Final = "console=ttyS0 root=/dev/nbd0"
AIRLOCK_LIST: Final = b"what the airlock's kernel measured"
LUKS_KEY: Final = b"the key of the root volume"
_KEXEC: Final = """#!/bin/sh
echo "$@" >>FOLDER/kexec.log
ls -l "/proc/$PPID/fd" >FOLDER/open
for word; do case $word in --initrd=*) cp "${word#*=}" FOLDER/loaded ;; esac; done
"""


def accept(_: Seen) -> None:
    """Let every node pass."""


@dataclass
class Airlock:
    """One node with its TPM, and the services it meets."""

    directory: Path
    tpm: SoftwareTpm
    service: HonestService
    web: WebServer
    boot: WebServer
    documents: dict[str, str]
    without_list: bool = False

    def run(self) -> subprocess.CompletedProcess[str]:
        """Run the agent to its end."""
        work = self.directory / "work"
        work.mkdir()
        (self.directory / "parameters").write_bytes(parameters(**self.documents))
        (self.directory / "event-log").write_bytes(self._measured().log)
        if not self.without_list:
            (self.directory / "ima-list").write_bytes(AIRLOCK_LIST)
        places = [self.directory / name for name in ("parameters", "event-log", "ima-list", "work")]
        return subprocess.run(
            [PYTHON, "-B", "-m", "steelyard.agent", f"swtpm:path={self.tpm.directory / 'tpm.sock'}", *places],
            env={"PYTHONPATH": str(SOURCE), "PATH": f"{self.directory / 'bin'}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )

    def _measured(self) -> Boot:
        boot = Boot()
        boot.measure(0, EventType.EV_POST_CODE, b"firmware")
        self.tpm.extend(0, "sha256", hashlib.sha256(b"firmware").digest())
        return boot

    def kexec_log(self) -> str:
        """Return what kexec was called with."""
        log = self.directory / "kexec.log"
        return log.read_text() if log.exists() else ""


@pytest.fixture
def airlock(tmp_path: Path) -> Iterator[Airlock]:
    require_programs({"/usr/lib/python3/dist-packages/tpm2_pytss/ESAPI.py": "python3-tpm2-pytss"})
    program = tmp_path / "bin" / "kexec"
    program.parent.mkdir()
    program.write_text(_KEXEC.replace("FOLDER", str(tmp_path)))
    program.chmod(0o755)
    with ExitStack() as stack:
        tpm = stack.enter_context(SoftwareTpm(tmp_path / "tpm"))
        authority = Authority("127.0.0.1")
        listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        web = stack.enter_context(WebServer(listening[0], authority.context))
        boot = stack.enter_context(WebServer(listening[1]))
        files = f"http://127.0.0.1:{listening[1].getsockname()[1]}"
        boot.routes["GET", "/kernel"], boot.routes["GET", "/initramfs"] = serve(KERNEL), serve(INITRAMFS)
        payload = payload_document(
            artefact(f"{files}/kernel", KERNEL),
            artefact(f"{files}/initramfs", INITRAMFS),
            command_line=COMMAND_LINE,
            files={"luks.key": base64.b64encode(LUKS_KEY).decode()},
        )
        service = HonestService(web, boot, "n1", "/delivery", accept, payload)
        documents = {
            "node": "n1",
            "attestation": f"https://127.0.0.1:{web.port}",
            "authority": authority.pem,
            "delivery": f"{files}/delivery",
        }
        yield Airlock(tmp_path, tpm, service, web, boot, documents)


def extended(*measured: bytes) -> bytes:
    """Return what a PCR holds that began as zeros and was extended with the SHA-256 of each of these."""
    value = bytes(32)
    for content in measured:
        value = hashlib.sha256(value + hashlib.sha256(content).digest()).digest()
    return value


def test_a_node_that_passes_loads_what_the_tenant_named_with_the_secrets_in_memory(airlock: Airlock) -> None:
    done = airlock.run()
    seen = airlock.service.seen
    assert seen is not None, done.stdout
    assert airlock.kexec_log().splitlines() == [
        f"--kexec-file-syscall --load {airlock.directory}/work/kernel --initrd={airlock.directory}/work/initramfs "
        f"--command-line={COMMAND_LINE}",
        "--exec",
    ]
    assert (airlock.directory / "work/kernel").read_bytes() == KERNEL
    loaded = (airlock.directory / "loaded").read_bytes()
    assert loaded.startswith(INITRAMFS)
    secrets = unpacked(loaded[len(INITRAMFS) :].lstrip(b"\0"), airlock.directory / "unpacked")
    assert secrets.keys() == {"luks.key", "wireguard.key"}
    assert secrets["luks.key"] == LUKS_KEY
    for file in (airlock.directory / "work").iterdir():
        assert file.stat().st_mode & 0o077 == 0
    assert LUKS_KEY.decode() not in done.stdout
    assert "socket:" not in (airlock.directory / "open").read_text(), "the next kernel would leave it half open"
    assert done.returncode == 1, "kexec came back"
    assert "starting the tenant's system: failed" in done.stdout


def test_a_node_that_is_to_report_on_is_handed_what_it_needs_for_it(airlock: Airlock) -> None:
    airlock.service.seconds_to_next = 60
    done = airlock.run()
    loaded = (airlock.directory / "loaded").read_bytes()
    handed = unpacked(loaded[len(INITRAMFS) :].lstrip(b"\0"), airlock.directory / "unpacked")
    assert handed.keys() == {"attestation.json", "luks.key", "wireguard.key"}
    session = parse_session_file(Secret(handed["attestation.json"]))
    assert session.parameters.document == (airlock.directory / "parameters").read_bytes()
    assert session.event_log == (airlock.directory / "event-log").read_bytes()
    assert session.ima_list == AIRLOCK_LIST
    assert session.token.reveal().decode() not in done.stdout
    public = X25519PrivateKey.from_private_bytes(handed["wireguard.key"]).public_key().public_bytes_raw()
    assert session.wireguard_key == public
    assert airlock.tpm.run("tpm2_getcap", "handles-transient") == b"", "it is saved, and not left in the TPM"


def test_a_node_without_a_measurement_list_is_not_started_when_it_is_to_report_on(airlock: Airlock) -> None:
    airlock.service.seconds_to_next = 60
    airlock.without_list = True
    assert "loading the tenant's system: failed reading the measurement list" in airlock.run().stdout
    assert airlock.kexec_log() == ""


def test_a_quote_is_over_the_values_that_come_with_it_while_the_kernel_goes_on_measuring(airlock: Airlock) -> None:
    """PCR 10 grows between reading and quoting: once, and then with every quote."""
    script = """
import sys
from steelyard.agent.tss import TssTpm
from steelyard.evidence.tpm.attest import parse_tpms_attest
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import NodeFailed
from steelyard.model.pcrs import PcrSelection, PcrValues
tpm = TssTpm(sys.argv[1])
tpm.make_keys()
quote = tpm._esys.quote
growing = 1
def quote_after_growth(*arguments):
    global growing
    if growing:
        growing -= 1
        tpm.extend(10, {bank: bytes(bank.size) for bank in tpm.banks()})
    return quote(*arguments)
tpm._esys.quote = quote_after_growth
asked = PcrSelection(HashAlgorithm.SHA256, frozenset({0, 10, 14}))
quoted = tpm.quote(b"data", asked)
digest = HashAlgorithm.SHA256.digest(PcrValues(asked.bank, quoted.pcrs).of(asked.indices))
assert parse_tpms_attest(quoted.attest).attested.pcr_digest == digest
assert any(quoted.pcrs[10])
growing = 1000
try:
    tpm.quote(b"data", asked)
except NodeFailed as error:
    print(error)
tpm.close()
"""
    done = subprocess.run(
        [PYTHON, "-B", "-c", script, f"swtpm:path={airlock.tpm.directory / 'tpm.sock'}"],
        env={"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "PCRs that hold still" in done.stdout


def test_what_is_started_is_in_pcr_13_and_the_parameters_are_in_the_quote(airlock: Airlock) -> None:
    airlock.run()
    document = (airlock.directory / "parameters").read_bytes()
    assert airlock.service.seen is not None
    assert airlock.service.seen.parameters == document
    assert airlock.service.seen.quoted.pcrs.values[13] == bytes(32)
    expected = extended(document, KERNEL, INITRAMFS, COMMAND_LINE.encode())
    assert airlock.tpm.read_pcrs("sha256")[13] == expected
    for bank in ("sha1", "sha384"):
        assert any(airlock.tpm.read_pcrs(bank)[13]), "a bank left out would look as if nothing had run"


def test_the_key_is_that_of_the_makers_certificate_and_cannot_lock_the_tpm(airlock: Airlock) -> None:
    airlock.run()
    assert airlock.tpm.run("tpm2_getcap", "handles-transient") == b"", "the first command, as each flushes what is left"
    seen = airlock.service.seen
    assert seen is not None
    expected = airlock.tpm.create_endorsement_key(EndorsementKind.RSA_2048)
    assert seen.endorsement_key_name == expected.name
    assert seen.endorsement_certificates == (airlock.tpm.read_endorsement_certificate(EndorsementKind.RSA_2048),)
    airlock.tpm.cut_power()
    counted = airlock.tpm.run("tpm2_getcap", "properties-variable").decode()
    assert "TPM2_PT_LOCKOUT_COUNTER: 0x0\n" in counted, "a guess is counted for a protected key that was in use"


@pytest.mark.parametrize(
    ("without", "kind", "certificates"),
    [
        (["0x01C00002"], EndorsementKind.ECC_P384, 1),
        (["0x01C00002", "0x01C00016"], EndorsementKind.RSA_2048, 0),
    ],
)
def test_the_key_is_one_that_has_a_certificate_or_else_stands_for_itself(
    airlock: Airlock, without: list[str], kind: EndorsementKind, certificates: int
) -> None:
    for index in without:
        airlock.tpm.run("tpm2_nvundefine", index, "--hierarchy=p")
    done = airlock.run()
    seen = airlock.service.seen
    assert seen is not None, done.stdout
    assert seen.endorsement_key_name == airlock.tpm.create_endorsement_key(kind).name
    assert len(seen.endorsement_certificates) == certificates


def test_each_step_is_told_on_the_console_and_to_the_service(airlock: Airlock) -> None:
    said = airlock.run().stdout
    told = [(step, outcome) for step, outcome, _ in airlock.service.steps]
    assert told[:3] == [("looking for neighbours", "done"), ("quoting", "done"), ("being judged", "done")]
    assert told[-1] == ("starting the tenant's system", "failed")
    assert all(f"{step}: {outcome}" in said for step, outcome in told)
    begun = [line.partition(": begun")[0].split(" ", 2)[2] for line in said.splitlines() if ": begun" in line]
    assert begun[-len(told) :] == [step for step, _ in told]
    before = ["reading parameters", "opening the TPM", "asking who is there", "making keys"]
    assert begun[: -len(told)] == [*before, "registering", "activating"]


def test_a_node_that_is_rejected_says_why_and_starts_nothing(airlock: Airlock) -> None:
    def reject(_: Seen) -> None:
        raise LogRejected("judging", expected="another boot", found="this one")

    airlock.service.judge = reject
    done = airlock.run()
    assert done.returncode == 1
    assert "being judged: failed" in done.stdout
    assert "another boot" in done.stdout
    assert airlock.kexec_log() == ""
    assert airlock.service.steps[-1][:2] == ("being judged", "failed")


@pytest.mark.parametrize(("name", "content"), [("kernel", KERNEL), ("initramfs", INITRAMFS)])
def test_a_file_that_is_not_the_one_named_is_neither_kept_nor_measured(
    airlock: Airlock, name: str, content: bytes
) -> None:
    airlock.boot.routes["GET", f"/{name}"] = serve(content[::-1])
    done = airlock.run()
    assert "fetching the tenant's system: failed" in done.stdout
    assert not (airlock.directory / "work" / name).exists()
    assert airlock.tpm.read_pcrs("sha256")[13] == bytes(32)
    assert airlock.kexec_log() == ""


def test_what_cannot_be_measured_is_not_loaded(airlock: Airlock) -> None:
    def serve_the_last_file(_: bytes) -> tuple[int, bytes]:
        airlock.tpm._switch_off()
        return 200, INITRAMFS

    airlock.boot.routes["GET", "/initramfs"] = serve_the_last_file
    done = airlock.run()
    assert "measuring the tenant's system: failed" in done.stdout
    assert done.returncode == 1
    assert airlock.kexec_log() == ""


@pytest.mark.parametrize("longer", [KERNEL + b"!", KERNEL[:-1]])
def test_a_kernel_of_another_size_is_refused(airlock: Airlock, longer: bytes) -> None:
    airlock.boot.routes["GET", "/kernel"] = serve(longer)
    done = airlock.run()
    assert "a file that is not of" in done.stdout
    assert airlock.kexec_log() == ""


def test_a_service_of_another_authority_hears_nothing(airlock: Airlock) -> None:
    airlock.documents["authority"] = Authority("127.0.0.1").pem
    done = airlock.run()
    assert "registering: failed" in done.stdout
    assert "CERTIFICATE_VERIFY_FAILED" in done.stdout
    assert airlock.web.requests == []


def test_a_payload_for_another_boot_is_not_opened(airlock: Airlock) -> None:
    deliver = airlock.service.deliver
    airlock.service.deliver = lambda transport, boot: deliver(transport, replace(boot, boot=bytes(32)))  # type: ignore[method-assign]  # a lying service
    done = airlock.run()
    assert "getting the verifier's share: failed" in done.stdout
    assert airlock.kexec_log() == ""


def test_a_key_that_the_tag_does_not_know_opens_nothing(airlock: Airlock) -> None:
    deliver = airlock.service.deliver

    def lie(transport: bytes, boot: NodeBoot) -> None:
        deliver(transport, boot)
        document = json.loads(airlock.boot.routes["GET", "/delivery"](b"")[1])
        document["tag"] = base64.b64encode(bytes(48)).decode()
        airlock.boot.routes["GET", "/delivery"] = serve(json.dumps(document).encode())

    airlock.service.deliver = lie  # type: ignore[method-assign]  # a lying service
    assert "getting the tenant's share: failed" in airlock.run().stdout
    assert airlock.kexec_log() == ""


def test_a_node_that_is_told_to_wait_ends_with_the_code_for_it(airlock: Airlock) -> None:
    airlock.documents |= {"on_failure": "wait"}
    del airlock.boot.routes["GET", "/initramfs"]
    assert airlock.run().returncode == 3


def test_a_bug_ends_the_run_as_told_and_is_told(airlock: Airlock) -> None:
    def serve_the_kernel(_: bytes) -> tuple[int, bytes]:
        (airlock.directory / "work/initramfs").touch()  # which nobody has thought of
        return 200, KERNEL

    airlock.documents |= {"on_failure": "wait"}
    airlock.boot.routes["GET", "/kernel"] = serve_the_kernel
    done = airlock.run()
    assert done.returncode == 3
    assert "fetching the tenant's system: failed FileExistsError" in done.stdout
    assert "Traceback" in done.stdout
    assert airlock.kexec_log() == ""


@pytest.mark.parametrize(
    "changed",
    [
        {"attestation": "http://127.0.0.1:1"},
        {"attestation": "https://127.0.0.1/path"},
        {"node": "../n1"},
        {"authority": "none"},
        {"more": "fields"},
    ],
)
def test_parameters_that_make_no_sense_end_it_at_once(airlock: Airlock, changed: dict[str, str]) -> None:
    airlock.documents |= changed
    done = airlock.run()
    assert done.returncode == 1
    assert "reading parameters: failed" in done.stdout
    assert airlock.web.requests == []


def unpacked(archive: bytes, directory: Path) -> dict[str, bytes]:
    """Return the files that cpio finds in the folder .steelyard of an archive."""
    require_programs({"cpio": "cpio"})
    directory.mkdir()
    subprocess.run(["cpio", "--extract", "--quiet"], input=archive, cwd=directory, check=True)
    return {file.name: file.read_bytes() for file in (directory / ".steelyard").iterdir()}
