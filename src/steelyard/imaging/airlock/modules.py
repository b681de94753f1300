"""A kernel's modules, and what each depends on."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from steelyard.imaging.airlock.packages import run
from steelyard.model.errors import BuildFailed

_DOING: Final = "choosing kernel modules"
_LINE: Final = re.compile(r"(?P<module>\S+\.ko):(?P<needs>.*)")


@dataclass(frozen=True, slots=True)
class Modules:
    """The modules of one kernel.

    version  of the kernel, as uname -r has it.
    folder   where they are.
    files    name -> file; dashes in names are underscores.
    needs    name -> what must be loaded before it, in that order.
    """

    version: str
    folder: Path
    files: Mapping[str, Path]
    needs: Mapping[str, tuple[str, ...]]

    def in_order(self, names: Iterable[str]) -> list[Path]:
        """Return the files of these modules and of what they need, in the order in which they can be loaded.

        Raises BuildFailed for a module that this kernel does not have.
        """
        ordered: dict[str, Path] = {}
        for name in names:
            if name not in self.files:
                raise BuildFailed(_DOING, expected=f"a module {name} of kernel {self.version}", found="none")
            for each in (*self.needs[name], name):
                ordered[each] = self.files[each]
        return list(ordered.values())


def read_modules(root: Path, version: str) -> Modules:
    """Return the modules in usr/lib/modules/VERSION below `root`. Raises BuildFailed."""
    (root / "lib").symlink_to("usr/lib")  # where depmod looks
    listed = run(["depmod", "--dry-run", "--basedir", str(root), version], _DOING).decode()
    folder = root / "usr/lib/modules" / version
    files: dict[str, Path] = {}
    needs: dict[str, tuple[str, ...]] = {}
    for line in listed.splitlines():
        if match := _LINE.fullmatch(line):
            files[module_name(match["module"])] = folder / match["module"]
            needs[module_name(match["module"])] = tuple(module_name(path) for path in reversed(match["needs"].split()))
    return Modules(version, folder, files, needs)


def module_name(path: str | Path) -> str:
    """Return the name of the module in a file."""
    return Path(path).stem.replace("-", "_")
