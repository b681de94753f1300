"""One verb of an export, as a program that can be killed: KIND ROOT VERB ARGUMENT..."""

import sys
from pathlib import Path

from steelyard.imaging.ports import Export, ImageFile, Overlay
from tests.conformance.imaging.exports import LOOPBACK, open_export


def do(export: Export, verb: str, *arguments: str) -> None:
    match verb, arguments:
        case "open", (name, volume, base):
            export.open(name, Overlay(Path(volume), ImageFile(Path(base))), LOOPBACK)
        case "close", (name,):
            export.close(name)
        case "restore", ():
            export.restore()
        case _:
            raise ValueError(verb)


if __name__ == "__main__":
    do(open_export(sys.argv[1], Path(sys.argv[2])), *sys.argv[3:])
