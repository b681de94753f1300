import subprocess
from pathlib import Path

import pytest

from steelyard.agent.handover import Loaded, digests_of, plan_measurements, secrets_archive
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.secret import Secret
from tests.tpm import require_programs

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


@pytest.mark.parametrize("size", range(4))
def test_the_archive_begins_where_the_kernel_looks_for_it(size: int, tmp_path: Path) -> None:
    require_programs({"cpio": "cpio"})
    archive = secrets_archive(size, {"luks.key": Secret(b"secret"), "root.json": Secret(b"{}")})
    begin = archive.index(b"070701")
    assert (size + begin) % 4 == 0
    assert archive[:begin].strip(b"\0") == b""
    subprocess.run(["cpio", "--extract", "--quiet"], input=archive[begin:], cwd=tmp_path, check=True)
    assert (tmp_path / ".steelyard/luks.key").read_bytes() == b"secret"
    assert (tmp_path / ".steelyard/luks.key").stat().st_mode & 0o777 == 0o400
    assert (tmp_path / ".steelyard").stat().st_mode & 0o777 == 0o500
