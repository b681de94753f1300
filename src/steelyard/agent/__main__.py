"""The agent's process: `python3 -m steelyard.agent`. It ends with 1 for a node to be switched off, 3 for one to wait.

It never ends well: what comes after success is another kernel.
"""

import argparse
import sys
import traceback
from pathlib import Path
from typing import Final

from steelyard.agent.airlock import Machine, pass_airlock
from steelyard.agent.console import Reporter
from steelyard.agent.parameters import OnFailure, parse_parameters
from steelyard.agent.programs import KexecTools
from steelyard.agent.tss import TssTpm
from steelyard.model.errors import NodeFailed, SteelyardError
from steelyard.model.limits import PARAMETERS_BYTES

_EXIT: Final = {OnFailure.POWER_OFF: 1, OnFailure.WAIT: 3}


def main() -> int:
    """Run the agent to the failure that ends it; return the process's exit code."""
    options = argparse.ArgumentParser("steelyard.agent")
    options.add_argument("--tpm", required=True, help="as tpm2-tools name it, such as device:/dev/tpm0")
    for name in ("parameters", "event-log", "work"):
        options.add_argument(f"--{name}", required=True, type=Path)
    places = options.parse_args()
    reporter = Reporter()
    on_failure = OnFailure.POWER_OFF
    try:
        with reporter.step("reading parameters"):
            parameters = parse_parameters(_read(places.parameters))
            on_failure = parameters.on_failure
        with reporter.step("opening the TPM"):
            tpm = TssTpm(places.tpm)
        pass_airlock(parameters, Machine(tpm, KexecTools(), places.event_log, places.work), reporter)
    except SteelyardError:
        pass  # the step has told it
    except Exception:  # the process's edge: a bug ends the run as well, and is told
        traceback.print_exc()
    return _EXIT[on_failure]


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(PARAMETERS_BYTES.most + 1)
    except OSError as error:
        raise NodeFailed("reading the parameters", expected=f"{path}", found=str(error)) from error


if __name__ == "__main__":
    sys.exit(main())
