"""Logs: one event a line, JSON for machines or text for people, with nothing secret and nothing a terminal obeys."""

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from enum import Enum
from typing import Any, Final, TextIO

import structlog
from structlog.typing import Processor

from steelyard.model.secret import Secret
from steelyard.model.text import printable

LONGEST: Final = 2000
"""Letters of one value; a traceback is longer and is not cut."""

_HIDDEN: Final = "<secret>"
_NAMES: Final = re.compile(r"authorization|password|secret|credential|bearer|cookie|sealed|private", re.IGNORECASE)
_LOOKS: Final = re.compile(r"sy_[0-9a-f]{16}_[A-Za-z0-9_-]{20,}|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
"""Tokens, ours and JWTs, wherever they slipped in."""


class LogForm(Enum):
    """Who reads the log."""

    JSON = "json"
    CONSOLE = "console"


def set_up_logs(form: LogForm, stream: TextIO = sys.stderr) -> None:
    """Let everything in this process, its libraries too, log so from now on."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    ending: list[Processor] = (
        [structlog.processors.EventRenamer("event"), structlog.processors.JSONRenderer()]
        if form is LogForm.JSON
        else [structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback)]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                hide_secrets,
                *ending,
            ],
        )
    )
    # What no line of ours tells need not be found out for each.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    for chatty in ("alembic", "httpcore", "httpx", "uvicorn"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def hide_secrets(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Return the event with what is secret hidden and what is not printable escaped."""
    traceback = event.pop("exception", None)
    shown: MutableMapping[str, Any] = {printable(name): _shown(name, value) for name, value in event.items()}
    if traceback is not None:
        shown["exception"] = _LOOKS.sub(_HIDDEN, "\n".join(printable(line, 10_000) for line in traceback.splitlines()))
    return shown


def _shown(name: str, value: object) -> object:
    match value:
        case _ if _NAMES.search(name):
            return _HIDDEN
        case None | bool() | int() | float():
            return value
        case Secret():
            return _HIDDEN
        case Mapping():
            return {printable(str(key)): _shown(str(key), inner) for key, inner in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_shown(name, inner) for inner in value]
        case _:
            return _LOOKS.sub(_HIDDEN, printable(str(value), LONGEST))
