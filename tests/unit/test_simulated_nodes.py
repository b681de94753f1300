"""The simulated nodes: the honest pass, each lie fails with a reason that names it, and real TPMs are judged alike."""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from typing import Final

import pytest

from steelyard.evidence.compiled_policy import CompiledPolicy
from steelyard.evidence.tpm.keys import check_attestation_key, check_endorsement_key
from steelyard.evidence.tpm.public import parse_tpmt_public
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.pcrs import PcrSelection
from tests import simulated_references as references
from tests.simulated_boots import recorded_pcrs
from tests.simulated_nodes import BOOT_LIES, REGISTRATION_LIES, RUNTIME_LIES, Lie, Refused, SimulatedNode
from tests.simulated_tpm import BANKS, Endorsement, RealTpm, SimulatedTpm, make_tpm, maker
from tests.small_verifier import SmallVerifier
from tests.tpm import AttestationKey, EndorsementKind, SigningKind, SoftwareTpm

FILES: Final = 200
NAMED: Final = {
    Lie.CHANGED_FIRMWARE: "PCR 0, event 3",
    Lie.ANOTHER_AIRLOCK_IMAGE: "PCR 4, event 23",
    Lie.CHANGED_COMMAND_LINE: "PCR 11",
    Lie.CHANGED_SECURE_BOOT_VARIABLES: "PCR 7, event 7",
    Lie.RELAYED_QUOTE: "bad-signature",
    Lie.REPLAYED_QUOTE: "wrong-nonce",
    Lie.QUOTE_FROM_BEFORE_A_REBOOT: "clock-went-back",
    Lie.WRONG_BANK: "wrong-selection",
    Lie.PCR_SUBSET: "wrong-selection",
    Lie.SWAPPED_TRANSPORT_KEY: "wrong-nonce",
    Lie.EDITED_LOG: "the event log",
    Lie.TRUNCATED_LOG: "the event log",
    Lie.EXTRA_EVENT: "the event log",
    Lie.CHANGED_BINARY: "package-0/library-0.so.6",
    Lie.UNKNOWN_FILE: "/usr/local/bin/unknown",
    Lie.REMOVED_ENTRY: "the IMA list",
}
"""What the findings say of each lie."""


@cache
def policies() -> tuple[CompiledPolicy, CompiledPolicy]:
    now = datetime.now(UTC)
    envelopes = references.signed_references(FILES, now)
    return tuple(
        references.compiled(document, envelopes, now)
        for document in (references.airlock_policy(), references.runtime_policy())
    )  # type: ignore[return-value]  # two


def verifier(node: SimulatedNode, anchors: tuple[bytes, ...] | None = None) -> SmallVerifier:
    """Return a verifier that knows this node, and let the node speak to it."""
    made = SmallVerifier(
        node.name, node.tpm.keys().endorsement_key, anchors or (maker().root, maker().issuer), *policies()
    )
    node.call = made
    return made


def nowhere(*_: object) -> tuple[int, bytes]:
    return 500, b""


@pytest.fixture
def node() -> SimulatedNode:
    return SimulatedNode("n1", nowhere)


@pytest.mark.parametrize("kind", Endorsement)
def test_an_honest_node_passes_the_airlock_and_every_report(kind: Endorsement) -> None:
    node = SimulatedNode("n1", nowhere, make_tpm(kind))
    made = verifier(node)
    node.pass_airlock()
    for count in (0, 3, 100):
        node.run_more(count)
        assert node.report().seconds_to_next == 60
    assert made.rejections == []
    assert made.entries == 1 + 3 + 100
    assert [(first, log) for first, _, log in made.reports] == [(0, True), (1, False), (4, False)]
    assert made.reports[1][1] > 0


def test_a_node_passes_again_after_a_reboot_through_the_airlock(node: SimulatedNode) -> None:
    verifier(node)
    node.pass_airlock()
    node.run_more(2)
    node.report()
    node.switch_on_again()
    node.pass_airlock()
    node.report()


def test_what_a_simulated_tpm_holds_after_a_boot_is_what_the_real_one_held(node: SimulatedNode) -> None:
    assert isinstance(node.tpm, SimulatedTpm)
    for bank in BANKS:
        real = recorded_pcrs("first", bank)
        held = node.tpm.pcrs[bank]
        assert {index: held[index] for index in (*range(10), *range(11, 16))} == {
            index: real[index] for index in (*range(10), *range(11, 16))
        }


@pytest.mark.parametrize("lie", BOOT_LIES)
def test_a_lie_about_the_boot_fails_and_is_named(node: SimulatedNode, lie: Lie) -> None:
    made = verifier(node)
    other = SimulatedNode("n2", nowhere)
    node.tell(lie, other=other)
    with pytest.raises(Refused) as refused:
        node.pass_airlock()
    assert refused.value.status == 422
    assert NAMED[lie] in str(made.rejections)


@pytest.mark.parametrize("lie", RUNTIME_LIES)
def test_a_lie_at_run_time_fails_and_is_named(node: SimulatedNode, lie: Lie) -> None:
    made = verifier(node)
    node.pass_airlock()
    node.run_more(3)
    node.report()
    node.tell(lie, other=SimulatedNode("n2", nowhere))
    with pytest.raises(Refused) as refused:
        node.report()
    assert refused.value.status == 422
    assert NAMED[lie] in str(made.rejections)


@pytest.mark.parametrize("lie", REGISTRATION_LIES)
def test_a_lie_about_whose_tpm_it_is_ends_at_the_registration(node: SimulatedNode, lie: Lie) -> None:
    verifier(node)
    node.tell(lie, other=SimulatedNode("n2", nowhere))
    with pytest.raises(Refused) as refused:
        node.pass_airlock()
    assert refused.value.status == 403


def test_every_lie_is_told_somewhere() -> None:
    assert {*BOOT_LIES, *RUNTIME_LIES, *REGISTRATION_LIES} == set(Lie)


def test_a_node_that_stops_lying_passes(node: SimulatedNode) -> None:
    verifier(node)
    node.tell(Lie.CHANGED_FIRMWARE)
    with pytest.raises(Refused):
        node.pass_airlock()
    node.tell()
    node.switch_on_again()
    node.pass_airlock()


# -- beside real TPMs --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tpm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftwareTpm]:
    with SoftwareTpm(tmp_path_factory.mktemp("tpm") / "tpm") as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("kind", [EndorsementKind.RSA_2048, EndorsementKind.ECC_P384])
def test_a_real_tpm_behind_the_same_node_is_judged_alike(tpm: SoftwareTpm, kind: EndorsementKind) -> None:
    tpm.restart()
    node = SimulatedNode("n1", nowhere, RealTpm(tpm, kind))
    made = verifier(node, tuple(tpm.read_authority()))
    node.pass_airlock()
    node.run_more(2)
    node.report()
    assert made.entries == 3
    node.tell(Lie.REMOVED_ENTRY)
    with pytest.raises(Refused):
        node.report()


@pytest.mark.slow
def test_the_tools_take_a_simulated_quote_for_a_tpms(tpm: SoftwareTpm) -> None:
    node = SimulatedNode("n1", nowhere)
    nonce = hashlib.sha256(b"nonce").digest()
    quoted = node.tpm.quote(nonce, PcrSelection(HashAlgorithm.SHA256, frozenset(range(15))))
    keys = node.tpm.keys()
    public = len(keys.attestation_key).to_bytes(2) + keys.attestation_key
    key = AttestationKey("", public, keys.attestation_key_name, SigningKind.ECC_P256_ECDSA_SHA256)
    tpm._write({"quote.msg": quoted.attest, "quote.sig": quoted.signature, "ak.pub": key.public})
    # Without -f: what the PCRs held is compared by the verifier, from the digest.
    tpm.run("tpm2_checkquote", "-u", "ak.pub", "-q", nonce.hex(), "-g", "sha256", "-m", "quote.msg", "-s", "quote.sig")
    printed = tpm.run("tpm2_print", "-t", "TPMS_ATTEST", "quote.msg").decode()
    digest = hashlib.sha256(b"".join(quoted.pcrs[index] for index in range(15))).hexdigest()
    assert digest in printed
    assert "resetCount: 7" in printed
    tpm.verify_signature(key, quoted.attest, quoted.signature)


@pytest.mark.slow
@pytest.mark.parametrize("kind", Endorsement)
def test_the_tools_load_simulated_keys_and_seal_to_them(tpm: SoftwareTpm, kind: Endorsement) -> None:
    made = make_tpm(kind)
    keys = made.keys()
    check_attestation_key(parse_tpmt_public(keys.attestation_key))
    check_endorsement_key(parse_tpmt_public(keys.endorsement_key))
    public = len(keys.endorsement_key).to_bytes(2) + keys.endorsement_key
    credential = tpm.make_credential(public, keys.attestation_key_name, b"a secret")
    assert made.activate(credential) == b"a secret"
