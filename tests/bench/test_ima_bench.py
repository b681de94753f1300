"""How fast IMA lists are replayed and judged, and that an increment costs its new entries only.

Asked for: 250,000 entries a second against 50,000 allowed paths, on first pass, from the bytes as sent. Each group says
how many entries a round has; `entries_per_second` is among what is saved of each benchmark.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from steelyard.evidence.ima.judge import ImaAppraisal, judge_ima
from steelyard.evidence.ima.policy import RuntimePolicy, compile_runtime_policy
from steelyard.evidence.ima.replay import ImaExcerpt, ImaPosition
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.pcrs import PcrValues
from tests.unit.evidence.ima.lists import BOOT_PCRS, Blob, Digest, Entry, Form, boot_aggregate, ng, pcr10, write

pytestmark = [pytest.mark.slow, pytest.mark.benchmark(timer=time.process_time)]

SHA256 = HashAlgorithm.SHA256
START = ImaPosition.start(SHA256)
NOW = datetime(2030, 1, 1, tzinfo=UTC)
PATHS = [f"/usr/lib/x86_64-linux-gnu/package-{number % 500}/library-{number}.so.6" for number in range(50_000)]
MEASURED = PATHS[::5]
SIGNATURE = Blob(b"\3\2\4" + bytes(range(76)))
NEW = 100


def files(copies: int = 1) -> dict[str, str]:
    """Return `copies` times 50,000 files, among them those of the lists."""
    prefixes = ["", *(f"/copy-{number}" for number in range(1, copies))]
    return {prefix + path: SHA256.digest(path.encode()).hex() for prefix in prefixes for path in PATHS}


def compiled(allowed: dict[str, str]) -> RuntimePolicy:
    return compile_runtime_policy(
        files=[{SHA256: allowed}], revoked=(), signing_keys=(), excluded=(), tolerated_violations=(), buffers=()
    )


def entry(template: str, path: str) -> Entry:
    made = ng(path.encode(), path.encode())
    if template.endswith("v2"):
        made = replace(made, digest=Digest(made.digest.value, "ima:sha256"))
    return replace(made, template=template, blobs=(SIGNATURE,) if "sig" in template else ())


def quoted(entries: list[Entry]) -> PcrValues:
    return PcrValues(SHA256, {**BOOT_PCRS, 10: pcr10(entries)})


def measure(benchmark: BenchmarkFixture, judge: Callable[[], ImaAppraisal], entries: int) -> None:
    benchmark.group = f"{entries} entries"
    appraisal = benchmark.pedantic(judge, rounds=10)  # type: ignore[no-untyped-call]  # pytest-benchmark has no types
    assert appraisal.findings == ()
    assert appraisal.judged == entries
    if benchmark.stats:
        benchmark.extra_info["entries_per_second"] = round(entries / benchmark.stats.stats.min)


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("template", ["ima-ng", "ima-sig", "ima-ngv2", "ima-sigv2"])
def test_first_pass(benchmark: BenchmarkFixture, template: str, form: Form) -> None:
    entries = [boot_aggregate(), *(entry(template, path) for path in MEASURED)]
    excerpt, pcrs, policy = ImaExcerpt(0, write(entries, form)), quoted(entries), compiled(files())
    measure(benchmark, lambda: judge_ima(excerpt, START, pcrs, policy, NOW), len(entries))


def test_first_pass_against_half_a_million_files(benchmark: BenchmarkFixture) -> None:
    entries = [boot_aggregate(), *(entry("ima-ng", path) for path in MEASURED)]
    excerpt, pcrs, policy = ImaExcerpt(0, write(entries)), quoted(entries), compiled(files(10))
    measure(benchmark, lambda: judge_ima(excerpt, START, pcrs, policy, NOW), len(entries))


@pytest.mark.parametrize("before", [1_000, 9_000])
def test_an_increment_after_few_and_after_many(benchmark: BenchmarkFixture, before: int) -> None:
    entries = [boot_aggregate(), *(entry("ima-ng", path) for path in MEASURED[: before + NEW])]
    old, new = entries[:-NEW], entries[-NEW:]
    position = ImaPosition(SHA256, len(old), pcr10(old))
    excerpt, pcrs, policy = ImaExcerpt(len(old), write(new)), quoted(entries), compiled(files())
    measure(benchmark, lambda: judge_ima(excerpt, position, pcrs, policy, NOW), NEW)


@pytest.mark.parametrize("copies", [1, 10])
def test_compiling_a_policy(benchmark: BenchmarkFixture, copies: int) -> None:
    allowed = files(copies)
    benchmark.group = f"{len(allowed)} files"
    policy = benchmark.pedantic(compiled, args=(allowed,), rounds=5)  # type: ignore[no-untyped-call]  # as above
    assert len(policy.allowed) == len(allowed)
