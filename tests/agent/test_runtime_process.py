"""The agent in the tenant's system as a process, on Debian's own Python: the same TPM and key as in the airlock.

The airlock's agent runs first, and leaves what it leaves; there is no reset between, as with a kexec. The kernel's list
is a folder of files that the test lets grow, and the TPM's PCR 10 with it.
"""

import base64
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from steelyard.evidence.compiled_policy import CompiledPolicy, compile_policy
from steelyard.evidence.eventlog.events import EventType
from steelyard.evidence.reference.manifest import Origin
from steelyard.model.algorithms import HashAlgorithm
from tests.agent.test_agent_process import PYTHON, SOURCE, unpacked
from tests.airlock_service import (
    Authority,
    HonestService,
    WebServer,
    artefact,
    parameters,
    payload_document,
    serve,
)
from tests.simulated_boots import MeasurementList, file_entry, file_paths, good_files
from tests.small_verifier import SmallVerifier
from tests.tpm import EndorsementKind, SoftwareTpm, require_programs
from tests.unit.evidence.eventlog.build import Boot
from tests.unit.evidence.ima.lists import Entry
from tests.unit.evidence.samples import component, manifest, policy, reference

pytestmark = pytest.mark.slow

KEXEC: Final = """#!/bin/sh
for word; do case $word in --initrd=*) cp "${word#*=}" FOLDER/loaded ;; esac; done
"""
_SYSTEMCTL: Final = """#!/bin/sh
echo "$@" >>FOLDER/systemctl.log
"""
WORDS: Final = b"/sys is where it is"
PATHS: Final = file_paths(20)


def compiled(*pcrs: int, files: bool) -> CompiledPolicy:
    """Return a policy for the one thing that the machine's firmware measures, and for files."""
    runtime: dict[str, list[str]] | None = (
        {"exclude": [], "tolerate_violations": [], "signers": [], "buffers": []} if files else None
    )
    listed = component("files", presence="optional", origins=["from-rootfs"])
    rules = policy(pcrs=[*pcrs], components=[component(), *([listed] if files else [])], runtime=runtime)
    allowed = manifest(component="files", origin=Origin.ROOT_TREE, files={HashAlgorithm.SHA256: good_files(20)})
    return compile_policy(rules, [reference(manifest()), reference(allowed)], datetime.now(UTC))


@dataclass
class Tenant:
    """A node that went through the airlock, in the tenant's system."""

    directory: Path
    tpm: SoftwareTpm
    verifier: SmallVerifier
    web: WebServer
    own: MeasurementList
    process: subprocess.Popen[bytes] | None = None

    def measure(self, entry: Entry) -> None:
        """Let the kernel measure a file: the list first, then PCR 10, then the count."""
        for bank, digest in self.own.add(entry).items():
            self.tpm.run("tpm2_pcrextend", f"10:{bank.label}={digest.hex()}")
        self.show()

    def show(self) -> None:
        """Show the list as the kernel does."""
        folder = self.directory / "ima"
        folder.mkdir(exist_ok=True)
        for name, content in (
            ("binary_runtime_measurements", self.own.after(0)),
            ("runtime_measurements_count", b"%d\n" % len(self.own)),
        ):
            (folder / f"{name}.new").write_bytes(content)
            (folder / f"{name}.new").rename(folder / name)

    def start(self, on_rejection: str = "stop") -> None:
        """Start the agent."""
        places = [str(self.directory / "attestation.json"), f"swtpm:path={self.tpm.directory / 'tpm.sock'}"]
        with (self.directory / "said").open("ab") as said:
            self.process = subprocess.Popen(
                [PYTHON, "-B", "-m", "steelyard.agent.runtime", *places, self.directory / "ima", on_rejection],
                env={"PYTHONPATH": str(SOURCE), "PATH": f"{self.directory / 'bin'}:{os.environ['PATH']}"},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )

    def ended(self) -> int:
        """Return the agent's exit code, once it has ended."""
        assert self.process is not None
        return self.process.wait(60)

    def await_words(self, words: str) -> None:
        """Return when the agent has said something."""
        deadline = time.monotonic() + 60
        while words not in self.said():
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.02)

    def said(self) -> str:
        """Return what the agent has said."""
        return (self.directory / "said").read_text()


@pytest.fixture
def tenant(tmp_path: Path) -> Iterator[Tenant]:
    require_programs({"/usr/lib/python3/dist-packages/tpm2_pytss/ESAPI.py": "python3-tpm2-pytss"})
    for name, text in (("kexec", KEXEC), ("systemctl", _SYSTEMCTL)):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(text.replace("FOLDER", str(tmp_path)))
        program.chmod(0o755)
    with ExitStack() as stack:
        tpm = stack.enter_context(SoftwareTpm(tmp_path / "tpm"))
        authority = Authority("127.0.0.1")
        listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        web = stack.enter_context(WebServer(listening[0], authority.context))
        boot = stack.enter_context(WebServer(listening[1]))
        files = f"http://127.0.0.1:{boot.port}"
        boot.routes["GET", "/file"] = serve(WORDS)
        payload = payload_document(artefact(f"{files}/file", WORDS), artefact(f"{files}/file", WORDS))
        honest = HonestService(web, boot, "n1", "/delivery", lambda _: None, payload)
        web.routes.clear()
        endorsement = tpm.create_endorsement_key(EndorsementKind.RSA_2048)
        verifier = SmallVerifier(
            "n1",
            endorsement.public[2:],
            tuple(tpm.read_authority()),
            compiled(*range(10), files=False),
            compiled(*range(11), files=True),
            on_pass=honest.deliver,
        )
        web.otherwise = verifier
        own = pass_airlock(tmp_path, tpm, f"https://127.0.0.1:{web.port}", authority, f"{files}/delivery")
        made = Tenant(tmp_path, tpm, verifier, web, own)
        made.show()
        yield made
        if made.process is not None:
            made.process.kill()
            made.process.wait()


def pass_airlock(
    directory: Path, tpm: SoftwareTpm, service: str, authority: Authority, delivery: str
) -> MeasurementList:
    """Take the node through the airlock; return the list of the system that follows, whose kernel carries none over."""
    boot = Boot()
    boot.measure(0, EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB, b"a place", b"volume")
    boot.separate()
    extended = [(0, b"volume"), *((index, bytes(4)) for index in range(8))]
    for index, content in extended:
        tpm.extend(index, "sha256", HashAlgorithm.SHA256.digest(content))
    pcrs = boot.quoted(*range(10)).values
    measured = MeasurementList(pcrs)
    for _ in range(2):  # the airlock's kernel, and the next
        for bank, digest in measured.began.items():
            tpm.extend(10, bank.label, digest)
    (directory / "parameters").write_bytes(
        parameters(node="n1", attestation=service, authority=authority.pem, delivery=delivery)
    )
    (directory / "event-log").write_bytes(boot.log)
    (directory / "ima-list").write_bytes(measured.after(0))
    (directory / "work").mkdir()
    places = [directory / name for name in ("parameters", "event-log", "ima-list", "work")]
    done = subprocess.run(
        [PYTHON, "-B", "-m", "steelyard.agent", f"swtpm:path={tpm.directory / 'tpm.sock'}", *places],
        env={"PYTHONPATH": str(SOURCE), "PATH": f"{directory / 'bin'}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    loaded = (directory / "loaded").read_bytes() if (directory / "loaded").exists() else b""
    assert loaded.startswith(WORDS), done.stdout
    handed = unpacked(loaded[len(WORDS) :].lstrip(b"\0"), directory / "unpacked")["attestation.json"]
    (directory / "attestation.json").write_bytes(handed)
    tpm.run("tpm2_shutdown", "--clear")  # as the kernel that ends says it, which resets nothing
    return MeasurementList(pcrs)


def test_it_reports_at_once_and_whenever_the_list_grew_and_sends_what_is_new(tenant: Tenant) -> None:
    tenant.start()
    tenant.verifier.await_reports(1)
    for number, path in enumerate(PATHS[:3], 2):
        tenant.measure(file_entry(path))
        tenant.verifier.await_reports(number)
    assert tenant.verifier.entries == 2 + 3, "the airlock's kernel measured one entry, the next began again"
    size = len(file_entry(PATHS[0]).binary("sha1"))
    assert [(first, log) for first, _, log in tenant.verifier.reports] == [
        (0, True),
        (2, False),
        (3, False),
        (4, False),
    ]
    assert [sent for _, sent, _ in tenant.verifier.reports[1:]] == [size] * 3
    challenges = [request for request in tenant.verifier.requests if request.endswith("/challenges")]
    assert len(challenges) == 1 + 1, "each answer brings the next challenge along"
    tenant.await_words("passed with 5 entries, 1 of them new")


def test_a_file_that_is_not_allowed_ends_it_and_the_machine_where_told_so(tenant: Tenant) -> None:
    tenant.start("power-off")
    tenant.verifier.await_reports(1)
    tenant.measure(file_entry("/usr/local/bin/unknown"))
    assert tenant.ended() == 3
    assert "rejected: status 422" in tenant.said()
    assert "/usr/local/bin/unknown" in tenant.said()
    assert (tenant.directory / "systemctl.log").read_text() == "poweroff --force\n"


def test_a_rejected_machine_that_is_to_stop_only_stops_reporting(tenant: Tenant) -> None:
    tenant.measure(file_entry(PATHS[0], b"changed"))
    tenant.start("stop")
    assert tenant.ended() == 3
    assert not (tenant.directory / "systemctl.log").exists()
    assert tenant.verifier.passed == ["airlock"]


def test_a_service_that_goes_away_is_waited_for(tenant: Tenant) -> None:
    tenant.start()
    tenant.verifier.await_reports(1)
    tenant.verifier.away = True
    tenant.measure(file_entry(PATHS[0]))
    tenant.verifier.await_refusals(2)
    tenant.verifier.away = False
    tenant.verifier.await_reports(2)
    assert tenant.verifier.entries == 3
    assert "no report: asking for a challenge: expected a challenge; found status 503" in tenant.said()


def test_a_challenge_that_is_too_old_is_replaced(tenant: Tenant) -> None:
    tenant.start()
    tenant.verifier.await_reports(1)
    tenant.verifier.forget_challenges()
    tenant.measure(file_entry(PATHS[0]))
    tenant.verifier.await_reports(2)
    assert "no report" not in tenant.said()


def test_a_session_that_ended_is_said_and_ends_it(tenant: Tenant) -> None:
    tenant.start("power-off")
    tenant.verifier.await_reports(1)
    tenant.verifier.end_session()
    tenant.measure(file_entry(PATHS[0]))
    assert tenant.ended() == 4
    assert "the session is over: status 401" in tenant.said()
    assert not (tenant.directory / "systemctl.log").exists(), "nobody judged it"


def test_it_goes_on_where_it_was_when_it_is_started_again(tenant: Tenant) -> None:
    tenant.start()
    tenant.verifier.await_reports(1)
    assert tenant.process is not None
    tenant.process.kill()
    tenant.process.wait()
    tenant.measure(file_entry(PATHS[0]))
    tenant.start()
    tenant.verifier.await_reports(2)
    assert tenant.verifier.reports[-1][::2] == (2, False)


def test_after_a_reset_the_key_is_gone(tenant: Tenant) -> None:
    tenant.tpm.restart()
    tenant.start()
    tenant.await_words("no report: loading the signing key")
    assert tenant.verifier.reports == []


def test_what_it_was_handed_is_for_this_boot_and_names_no_secret_but_the_token(tenant: Tenant) -> None:
    handed = json.loads((tenant.directory / "attestation.json").read_text())
    assert base64.b64decode(handed["parameters"]) == (tenant.directory / "parameters").read_bytes()
    assert handed["token"] == tenant.verifier.token
    assert ((tenant.directory / "unpacked/.steelyard/attestation.json").stat().st_mode & 0o777) == 0o400
    tenant.start()
    tenant.verifier.await_reports(1)
    assert tenant.process is not None
    assert tenant.verifier.token not in tenant.said()
    assert tenant.verifier.token.encode() not in Path(f"/proc/{tenant.process.pid}/cmdline").read_bytes()
    assert tenant.verifier.token.encode() not in Path(f"/proc/{tenant.process.pid}/environ").read_bytes()
