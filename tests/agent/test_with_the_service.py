"""The agent as it is against the attestation service as it is: through the airlock, and on at run time."""

import json
import secrets
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sqlalchemy import update

from steelyard.attestation import enrolling, shares
from steelyard.attestation.life import State
from steelyard.attestation.objects import AnyParameters, DemandedMakers, Endorsements, Terms
from steelyard.attestation.tables import maker_sets
from steelyard.evidence.keysplit import NodeBoot, auth_tag, seal_payload, seal_share, split_key
from steelyard.evidence.reference.dsse import sign
from steelyard.evidence.reference.manifest import PAYLOAD_TYPE, Manifest, Origin
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.secret import Secret
from steelyard.service.database import Database
from tests.agent.test_runtime_process import KEXEC, WORDS, Tenant, pass_airlock
from tests.airlock_service import Authority, WebServer, artefact, payload_document, serve
from tests.attestation_site import GRACE, INTERVAL, RED, SEALER, FakePolicies, Site, pem, site_on
from tests.simulated_boots import file_entry, file_paths, good_files
from tests.small_verifier import SmallVerifier, encoded
from tests.tpm import EndorsementKind, SoftwareTpm, require_programs
from tests.unit.evidence.samples import KEY, component, encode, manifest, policy_document

pytestmark = pytest.mark.slow

PATHS = file_paths(20)


def policies() -> FakePolicies:
    """Return policies for the one thing that the machine's firmware measures, and for files."""
    now = datetime.now(UTC).replace(microsecond=0)
    times: dict[str, Any] = {"issued": now - timedelta(days=1), "expires": now + timedelta(days=9)}
    files = manifest(component="files", origin=Origin.ROOT_TREE, files={HashAlgorithm.SHA256: good_files(20)}, **times)
    listed = component("files", presence="optional", origins=["from-rootfs"])
    runtime: dict[str, list[str]] = {"exclude": [], "tolerate_violations": [], "signers": [], "buffers": []}
    airlock = policy_document(name="airlock", pcrs=[*range(10)])
    watched = policy_document(name="runtime", pcrs=[*range(11)], components=[component(), listed], runtime=runtime)

    def signed(made: Manifest) -> bytes:
        return sign(made.to_bytes(), PAYLOAD_TYPE, KEY).to_bytes()

    documents = {"airlock": encode(airlock), "runtime": encode(watched)}
    return FakePolicies(documents, (signed(manifest(**times)), signed(files)))


@pytest.fixture
def site(sqlite_database: Database) -> Iterator[Site]:
    with site_on(sqlite_database) as made:
        made.policies.documents = policies().documents
        made.policies.envelopes = policies().envelopes
        yield made


def enrol(site: Site, tpm: SoftwareTpm, v: Secret) -> None:
    """Enrol the node n1, and leave V for it."""
    site.clock.forward(timedelta(minutes=5))  # the TPM was made since that clock was stopped
    certificate = tpm.read_endorsement_certificate(EndorsementKind.RSA_2048)
    terms = Terms(
        endorsements=Endorsements({"rsa2048": pem(certificate)}, ()),
        makers=DemandedMakers("makers"),
        airlock="airlock",
        runtime="runtime",
        parameters=AnyParameters(),
        interval=INTERVAL,
        grace=GRACE,
    )
    with site.database.writing() as tx:
        anchors = [each.decode() for each in tpm.read_authority()]
        tx.connection.execute(update(maker_sets).values(certificates=anchors, demands=[]))
        enrolling.enrol(tx, RED, name="n1", project="red", terms=terms, expected_version=None)
        shares.deposit(tx, SEALER, RED, name="n1", share=v)


def test_a_node_passes_the_airlock_and_reports_until_it_runs_what_is_not_allowed(tmp_path: Path, site: Site) -> None:
    require_programs({"/usr/lib/python3/dist-packages/tpm2_pytss/ESAPI.py": "python3-tpm2-pytss"})
    program = tmp_path / "bin" / "kexec"
    program.parent.mkdir()
    program.write_text(KEXEC.replace("FOLDER", str(tmp_path)))
    program.chmod(0o755)
    key, u = Secret(secrets.token_bytes(32)), Secret(secrets.token_bytes(32))
    one_at_a_time = threading.Lock()

    def answer(method: str, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        with one_at_a_time:
            return site.call(
                method,
                path,
                body,
                {name: headers[name] for name in ("Authorization", "Content-Type") if name in headers},
            )

    with ExitStack() as stack:
        tpm = stack.enter_context(SoftwareTpm(tmp_path / "tpm"))
        authority = Authority("127.0.0.1")
        listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        web = stack.enter_context(WebServer(listening[0], authority.context))
        boot = stack.enter_context(WebServer(listening[1]))
        web.otherwise = answer
        files = f"http://127.0.0.1:{boot.port}"
        boot.routes["GET", "/file"] = serve(WORDS)
        payload = payload_document(artefact(f"{files}/file", WORDS), artefact(f"{files}/file", WORDS))

        def deliver(_: bytes) -> tuple[int, bytes]:
            """Give U and the payload, as the tenant does once the verdict is good."""
            passed = site.appraisals()[0]
            to = NodeBoot("n1", passed.nonce)
            share = seal_share(u, passed.transport_key, X25519PrivateKey.generate(), to)
            box = seal_payload(key, Secret(payload), secrets.token_bytes(12), to)
            return 200, json.dumps(
                {"share": encoded(share), "tag": encoded(auth_tag(key, "n1")), "payload": encoded(box)}
            ).encode()

        boot.routes["GET", "/delivery"] = deliver
        enrol(site, tpm, split_key(key, u))
        own = pass_airlock(tmp_path, tpm, f"https://127.0.0.1:{web.port}", authority, f"{files}/delivery")
        assert site.node().step is not None, "the node's steps are told"
        verifier: SmallVerifier = None  # type: ignore[assignment]  # not in this story
        tenant = Tenant(tmp_path, tpm, verifier, web, own)
        tenant.show()
        tenant.start()
        try:
            tenant.await_words("passed with 2 entries")
            assert site.shown() is State.PASSED
            tenant.measure(file_entry(PATHS[0]))
            tenant.await_words("passed with 3 entries, 1 of them new")
            tenant.measure(file_entry("/usr/local/bin/unknown"))
            assert tenant.ended() == 3
        finally:
            assert tenant.process is not None
            tenant.process.kill()
            tenant.process.wait()
        assert site.shown() is State.FAILED
        assert "rejected: status 422" in tenant.said()
        assert [each.purpose.value for each in site.appraisals()] == ["airlock", *["runtime"] * 3]
