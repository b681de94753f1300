"""What stands in the way of a rack is said at once, and nothing is begun."""

from dataclasses import replace

import pytest

from steelyard.lab.preflight import Computer, check_computer, look_at_computer, problems
from steelyard.lab.rack import STANDARD_SHAPE
from steelyard.model.errors import LabUnready

GOOD = Computer(frozenset(), frozenset(), administrator=True, tun_error=None, memory_free_mib=8192)


def test_a_computer_that_has_everything_is_taken() -> None:
    assert problems(GOOD, STANDARD_SHAPE) == ()
    check_computer(GOOD, STANDARD_SHAPE)


@pytest.mark.parametrize(
    ("lacking", "words"),
    [
        (replace(GOOD, missing_packages=frozenset({"swtpm", "ovmf"})), "install the packages ovmf swtpm"),
        (replace(GOOD, missing_libraries=frozenset({"aiohttp"})), "pip install 'steelyard[lab]'"),
        (replace(GOOD, administrator=False), "run it as root"),
        (replace(GOOD, tun_error="No such device"), "/dev/net/tun is of no use (No such device)"),
        (replace(GOOD, memory_free_mib=1000), "1000 are free"),
    ],
)
def test_each_lack_is_named_with_what_to_do(lacking: Computer, words: str) -> None:
    with pytest.raises(LabUnready) as raised:
        check_computer(lacking, STANDARD_SHAPE)
    assert words in raised.value.found


def test_all_that_is_lacking_is_named_at_once() -> None:
    bad = Computer(
        frozenset(), frozenset({"swtpm"}), administrator=False, tun_error="Permission denied", memory_free_mib=1
    )
    found = problems(bad, STANDARD_SHAPE)
    assert len(found) == 3
    # Who is not root may not open the device either: one cause, one message.
    assert not any("tun" in words and "of no use" in words for words in found)


def test_a_program_that_is_not_on_the_path_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert "qemu-system-x86" in look_at_computer(STANDARD_SHAPE).missing_packages
