"""The agent's process: `python3 -m steelyard.agent TPM PARAMETERS EVENT-LOG IMA-LIST WORK`.

TPM is named as tpm2-tools do, such as device:/dev/tpm0; the others are files and a directory in memory. It ends with 1
for a node to be switched off, with 3 for one that is to wait. It never ends well: what follows success is another
kernel.
"""

import sys
from collections.abc import Callable, Collection
from contextlib import closing
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from steelyard.agent.airlock import Machine, pass_airlock
from steelyard.agent.console import Reporter
from steelyard.agent.files import read_file
from steelyard.agent.neighbours import Listener, cards_up, known_here
from steelyard.agent.parameters import OnFailure, parse_parameters
from steelyard.agent.programs import KexecTools
from steelyard.agent.tss import TssTpm
from steelyard.model.errors import SteelyardError
from steelyard.model.limits import PARAMETERS_BYTES

_EXIT: Final = {OnFailure.POWER_OFF: 1, OnFailure.WAIT: 3}


def main(tpm_name: str, parameters_file: Path, event_log: Path, ima_list: Path, work: Path) -> int:
    """Run the agent to the failure that ends it; return the process's exit code."""
    reporter = Reporter()
    on_failure = OnFailure.POWER_OFF
    try:
        with reporter.step("reading parameters"):
            parameters = parse_parameters(read_file(parameters_file, PARAMETERS_BYTES, "reading the parameters"))
            on_failure = parameters.on_failure
        with reporter.step("opening the TPM"):
            tpm = TssTpm(tpm_name)
        with reporter.step("asking who is there"):
            neighbourhood = _ask_who_is_there(work / "boot-url")
        pass_airlock(parameters, Machine(tpm, KexecTools(), neighbourhood, event_log, ima_list, work), reporter)
    except SteelyardError:
        pass  # the step has told it
    except Exception:  # the process's edge: a bug ends the run as well, and is told
        sys.excepthook(*sys.exc_info())
    return _EXIT[on_failure]


def _ask_who_is_there(boot_url: Path) -> Callable[[Collection[str]], list[str]]:
    """Return what tells later who is there, beside services at some hosts and the one that the image came from.

    boot_url  where the first stage leaves that one's address, without which it goes no further. Where there is no such
              file, nothing was fetched over an airlock's network, and there is none to listen on.
    """
    if not boot_url.exists():
        return lambda _: []
    boot_server = urlsplit(boot_url.read_text().strip()).hostname or ""
    listener = Listener(cards_up())
    listener.ask_for_everybody()

    def neighbourhood(hosts: Collection[str]) -> list[str]:
        with closing(listener):
            return listener.strangers(known_here({*hosts, boot_server}))

    return neighbourhood


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *(Path(place) for place in sys.argv[2:])))
