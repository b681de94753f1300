"""What judging costs: a real boot log of some hundred events, and a policy of 50,000 files.

The figures of an issue are CPU time on one core: run `./check bench` on an idle machine.
"""

import hashlib
import time

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from steelyard.evidence.boot import judge_boot
from steelyard.evidence.compiled_policy import compile_policy
from steelyard.evidence.eventlog.parse import parse_event_log
from steelyard.evidence.eventlog.replay import replay, verify_log
from steelyard.evidence.policy import parse_policy
from steelyard.evidence.reference.dsse import parse_envelope, sign
from steelyard.evidence.reference.manifest import PAYLOAD_TYPE, verify_manifest
from steelyard.evidence.reference.measurement import Measurement, Presence
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.pcrs import PcrValues
from tests.unit.evidence.samples import KEY, NOW, SIGNERS, component, encode, manifest, policy_document, reference
from tests.vectors_dir import shared_vectors

SHA256 = HashAlgorithm.SHA256
pytestmark = pytest.mark.benchmark(timer=time.process_time)


@pytest.mark.parametrize("name", ["tt-event-bootorder.bin", "rk-uefi_log.bin"])
def test_a_boot_log_parsed_replayed_and_appraised(benchmark: BenchmarkFixture, name: str) -> None:
    data = (shared_vectors("eventlogs") / name).read_bytes()
    log = parse_event_log(data)
    quoted = PcrValues(SHA256, replay(log, SHA256))
    events = verify_log(log, quoted, frozenset()).events
    half = len(events) // 2
    parts = [
        manifest(
            *[Measurement(event.pcr, "measured", Presence.ALWAYS, {SHA256: event.digests[SHA256]}) for event in part],
            component=name,
        )
        for name, part in (("first", events[:half]), ("second", events[half:]))
    ]
    rules = policy_document(
        pcrs=list(quoted.values),
        components=[component("first", at_most=9), component("second", at_most=9)],
    )
    compiled = compile_policy(parse_policy(encode(rules)), [reference(part) for part in parts], NOW)

    def appraise() -> int:
        return len(judge_boot(verify_log(parse_event_log(data), quoted, frozenset()), compiled).components)

    assert benchmark(appraise) == 2
    benchmark.extra_info["events"] = len(log.events)


def test_a_policy_of_50000_files_loaded_and_compiled(benchmark: BenchmarkFixture) -> None:
    files = {f"/usr/lib/package-{n % 900}/file-{n}": hashlib.sha256(b"%d" % n).hexdigest() for n in range(50_000)}
    envelope = sign(manifest(files={SHA256: files}).to_bytes(), PAYLOAD_TYPE, KEY).to_bytes()
    runtime: dict[str, list[object]] = {"exclude": [], "tolerate_violations": [], "signers": [], "buffers": []}
    rules = parse_policy(encode(policy_document(pcrs=[0, 10], runtime=runtime)))

    def load() -> int:
        trusted = verify_manifest(parse_envelope(envelope), SIGNERS)
        compiled = compile_policy(rules, [trusted], NOW)
        return 0 if compiled.runtime is None else len(compiled.runtime.allowed)

    assert benchmark(load) == 50_000
