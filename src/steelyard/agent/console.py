"""Says what the node is at: on its console, and to the service once that knows who asks."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from steelyard.agent.protocol import step_report
from steelyard.agent.service import Server
from steelyard.model.errors import SteelyardError
from steelyard.model.limits import MESSAGE_BYTES
from steelyard.model.text import printable


class Reporter:
    """Tells each step's begin and end. What it fails to tell the service is lost: the step itself decides."""

    def __init__(self) -> None:
        self._server: Server | None = None
        self._path = ""

    def report_to(self, server: Server, path: str) -> None:
        """Tell the service too, from now on."""
        self._server, self._path = server, path

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Tell that the step begins, and that it is done or how it failed."""
        self._tell(name, "begun", "")
        try:
            yield
        except SteelyardError as error:
            self._tell(name, "failed", str(error))
            raise
        except BaseException as error:
            self._tell(name, "failed", type(error).__name__)
            raise
        self._tell(name, "done", "")

    def _tell(self, name: str, outcome: str, detail: str) -> None:
        shown = f"airlock: {time.clock_gettime(time.CLOCK_BOOTTIME):.2f} {name}: {outcome} {printable(detail, 1000)}"
        print(shown.rstrip(), flush=True)  # noqa: T201  (this is the console)
        if self._server is not None and outcome != "begun":
            with suppress(SteelyardError):
                self._server.post(self._path, step_report(name, outcome, detail), 204, MESSAGE_BYTES)
