"""A service for the pages about policies: two machines whose evidence was recorded, one with new firmware already."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from steelyard.attestation.references.trying import DryRuns
from steelyard.evidence.reference.version import Version
from steelyard.service.database import Database
from tests import recorded
from tests.api import listening, make_api
from tests.databases import make_tables
from tests.fakes.evidence import FakeEvidence
from tests.unit.attestation.references import rig
from tests.unit.attestation.references.rig import Authority, components, ovmf, policy_bytes, signed


@contextmanager
def reference_service(home: Path) -> Iterator[None]:
    """Have an admin of a project signed in, whose policy `airlock` is live, and these files beside it.

    ovmf-2.json  the new firmware's manifest, signed; airlock.json: the policy, from the new firmware on.
    """
    database = Database(f"sqlite:///{home}/service.db")
    make_tables(database)
    api = make_api(database)
    authority = Authority(database)
    authority.boots()
    evidence = FakeEvidence()
    evidence.put("airlock", "n1", recorded.bundle("first"))
    evidence.put("airlock", "n2", recorded.bundle("changed-firmware"))
    updated = authority.fresh(ovmf("changed-firmware"), version=Version("2.0"), serial=2)
    (home / "ovmf-2.json").write_bytes(signed(updated))
    document = json.loads(policy_bytes(components=components(ovmf="2.0")))
    (home / "airlock.json").write_text(json.dumps(document, indent=1))
    token = home / "token"
    token.touch(mode=0o600)
    token.write_text(api.tokens["admin"] + "\n")
    runs = DryRuns(database, evidence, rig.SEALER)
    runs.start()
    try:
        with listening(api.app) as url:
            steelyard = Path(sys.executable).with_name("steelyard")
            environment = {"PATH": os.environ["PATH"], "HOME": str(home)}
            subprocess.run([steelyard, "login", url, "--token-file", token], env=environment, check=True)
            yield
    finally:
        runs.stop(20)
        database.close()
