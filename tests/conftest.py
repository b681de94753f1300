"""How hard the random tests search: repeatably in every run, briefest in a fast one; at random, for long, in a hunt."""

import gc
import logging
import os
import time
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings

pytest_plugins = ["tests.databases"]

_MINUTES = os.environ.get("STEELYARD_FUZZ_MINUTES")

settings.register_profile("check", deadline=None, derandomize=True, database=None, max_examples=100)
settings.register_profile("fast", settings.get_profile("check"), max_examples=20)
settings.register_profile("hunt", deadline=None, database=None, max_examples=1000)
settings.load_profile("check" if _MINUTES is None else "hunt")

# As a service does that nobody set up, but for tracebacks: drawn with every value in them they take ten seconds each.
structlog.configure(
    [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)

gc.disable()  # while thousands of tests are collected, of which nothing is garbage


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have what takes long begin first, so that at the end no process waits long for another."""
    items.sort(key=lambda item: (item.get_closest_marker("rack") is None, item.get_closest_marker("slow") is None))


def pytest_collection_finish() -> None:
    """Have garbage collected again, but not looked for among the tests and the modules."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture
def logs_as_before() -> Iterator[None]:
    """Have logs go afterwards where they go now."""
    root, configured = logging.getLogger(), structlog.get_config()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.configure(**configured)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name cases with bytes by their number: the bytes may be fresh in every process that collects them."""
    return argname if isinstance(val, bytes) else None


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """In a hunt, run each test again and again, each time on other inputs, until its share of the time is over."""
    if _MINUTES is None:
        return None
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    end = time.monotonic() + float(_MINUTES) * 60 * workers / len(pyfuncitem.session.items)
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    while True:
        pyfuncitem.obj(**arguments)
        if time.monotonic() >= end:
            return True
