from steelyard.agent.handover import Loaded, digests_of, plan_measurements
from steelyard.model.algorithms import HashAlgorithm

BANKS = frozenset({HashAlgorithm.SHA1, HashAlgorithm.SHA256})


def loaded(header: bytes | None) -> Loaded:
    return Loaded(
        parameters=digests_of(b"parameters", BANKS),
        kernel=digests_of(b"kernel", BANKS),
        initramfs=digests_of(b"initramfs", BANKS),
        command_line=digests_of(b"line", BANKS),
        luks_header=None if header is None else digests_of(header, BANKS),
    )


def test_every_part_is_measured_in_a_fixed_order_in_every_bank() -> None:
    planned = plan_measurements(loaded(b"header"))
    assert [what for what, _ in planned] == ["parameters", "kernel", "initramfs", "command line", "LUKS header"]
    assert all(digests.keys() == BANKS for _, digests in planned)
    assert planned[1][1][HashAlgorithm.SHA256] == HashAlgorithm.SHA256.digest(b"kernel")
    assert plan_measurements(loaded(None)) == planned[:4]
