import subprocess
from pathlib import Path

from steelyard.evidence.cpio import make_archive
from tests.tpm import require_programs


def test_cpio_unpacks_what_was_packed(tmp_path: Path) -> None:
    require_programs({"cpio": "cpio"})
    files = {"init": b"#!/bin/sh\n", "a/b/c": b"", "a/d": bytes(range(256))}
    archive = make_archive(files, file_mode=0o755, folder_mode=0o711)
    subprocess.run(["cpio", "--extract", "--quiet"], input=archive, cwd=tmp_path, check=True)
    found = {str(path.relative_to(tmp_path)): path for path in tmp_path.rglob("*")}
    assert {name: path.read_bytes() for name, path in found.items() if path.is_file()} == files
    assert {path.stat().st_mode & 0o777 for path in found.values() if path.is_file()} == {0o755}
    assert {path.stat().st_mode & 0o777 for path in found.values() if path.is_dir()} == {0o711}


def test_the_order_in_which_files_are_named_changes_nothing() -> None:
    one = make_archive({"b": b"1", "a/c": b"2"}, file_mode=0o644, folder_mode=0o755)
    assert one == make_archive({"a/c": b"2", "b": b"1"}, file_mode=0o644, folder_mode=0o755)
