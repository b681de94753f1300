"""What is shown does not steer the terminal it is shown on."""

import pytest

from steelyard.cli.output import show_bad, show_good, show_lines, show_table


@pytest.mark.parametrize("hostile", ["\x1b[2Jgood", "a\nPASSED", "\u202egpj.exe", "\udcff", "\r\x08\x07"])
def test_control_characters_are_escaped(hostile: str, capsys: pytest.CaptureFixture[str]) -> None:
    show_lines(hostile)
    show_good(hostile)
    show_bad(hostile)
    show_table(("a",), [[hostile]])
    printed = capsys.readouterr().out
    assert all(line.isprintable() for line in printed.splitlines())
    assert printed.count("\\") >= 4
    assert len(printed.splitlines()) == 6


def test_letters_of_other_languages_stay(capsys: pytest.CaptureFixture[str]) -> None:
    show_lines("für Zoë, Ωmega")
    assert capsys.readouterr().out == "für Zoë, Ωmega\n"
