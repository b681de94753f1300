"""What a quote costs to verify, beside the bare signature that OpenSSL verifies: the rest is ours.

Asked for: CPU time of 60 microseconds with RSA-2048 and 110 with ECDSA P-256, a quote over 12 PCRs, the key read once.
The bare verification of such a machine costs 19 and 66.
"""

import time
from typing import Final

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from pytest_benchmark.fixture import BenchmarkFixture

from steelyard.evidence.tpm.attest import TpmsAttest, TpmsClockInfo, TpmsQuoteInfo
from steelyard.evidence.tpm.nonce import PlainNonce
from steelyard.evidence.tpm.quote import QuotedPcrs, verify_quote
from steelyard.evidence.tpm.selection import TpmlPcrSelection, TpmsPcrSelection
from steelyard.model.pcrs import PcrSelection, PcrValues
from tests.unit.evidence.tpm.keypairs import SHA256, Signer, ecc_key, ecdsa, rsa_key, rsassa

pytestmark = pytest.mark.benchmark(timer=time.process_time)

ROUNDS: Final = 20
CALLS: Final = 500
NONCE: Final = bytes(range(32))
PCRS: Final = PcrValues(SHA256, {index: bytes([index]) * 32 for index in range(12)})
ASKED: Final = PcrSelection(SHA256, frozenset(PCRS.values))
MESSAGE: Final = TpmsAttest(
    b"\x00\x0b" + bytes(32),
    NONCE,
    TpmsClockInfo(1, 2, 3, safe=True),
    4,
    TpmsQuoteInfo(TpmlPcrSelection((TpmsPcrSelection(SHA256, b"\xff\x0f\x00"),)), SHA256.digest(PCRS.of(PCRS.values))),
).to_bytes()


@pytest.mark.parametrize("signer", [rsassa(), ecdsa()], ids=["RSA-2048", "P-256"])
def test_verify_a_quote_over_12_pcrs(benchmark: BenchmarkFixture, signer: Signer) -> None:
    quote, key, challenge = signer.quote(MESSAGE), signer.bound(), PlainNonce(NONCE)

    def verify() -> QuotedPcrs:
        return verify_quote(quote, key, challenge, ASKED, PCRS)

    benchmark.group = signer.scheme.name
    result = benchmark.pedantic(verify, rounds=ROUNDS, iterations=CALLS)  # type: ignore[no-untyped-call]  # has no types
    assert result.pcrs is PCRS


def test_verify_the_bare_rsa_2048_signature(benchmark: BenchmarkFixture) -> None:
    key, signature = rsa_key().public_key(), rsassa().sign(MESSAGE)[6:]
    how, algorithm = padding.PKCS1v15(), hashes.SHA256()

    def verify() -> None:
        key.verify(signature, MESSAGE, how, algorithm)

    benchmark.group = "RSASSA"
    benchmark.pedantic(verify, rounds=ROUNDS, iterations=CALLS)  # type: ignore[no-untyped-call]  # has no types


def test_verify_the_bare_p256_signature(benchmark: BenchmarkFixture) -> None:
    how = ec.ECDSA(hashes.SHA256())
    key, signature = ecc_key().public_key(), ecc_key().sign(MESSAGE, how)

    def verify() -> None:
        key.verify(signature, MESSAGE, how)

    benchmark.group = "ECDSA"
    benchmark.pedantic(verify, rounds=ROUNDS, iterations=CALLS)  # type: ignore[no-untyped-call]  # has no types
