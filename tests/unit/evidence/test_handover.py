import subprocess
from pathlib import Path

import pytest

from steelyard.evidence.handover import secrets_archive
from steelyard.model.secret import Secret
from tests.tpm import require_programs


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
