"""A log line is one line, and has nothing secret in it, whatever was put in."""

import io
import json
import logging

import pytest
import structlog

from steelyard.model.secret import Secret
from steelyard.service.logs import LogForm, hide_secrets, set_up_logs

TOKEN = "sy_0123456789abcdef_" + "A" * 43
JWT = "eyJhbGciOiJFZDI1NTE5In0.eyJzdWIiOiIxNyJ9.c2lnbmF0dXJl"


@pytest.fixture
def stream(logs_as_before: None) -> io.StringIO:  # noqa: ARG001 (asked for what it does)
    return io.StringIO()


def test_an_event_is_one_json_object_with_time_level_and_request(stream: io.StringIO) -> None:
    set_up_logs(LogForm.JSON, stream)
    with structlog.contextvars.bound_contextvars(request="0123"):
        structlog.get_logger().info("node.moved", node="n1", ports=["a", "b"], count=2)
    [line] = stream.getvalue().splitlines()
    said = json.loads(line)
    assert said.pop("timestamp").endswith("Z")
    assert said == {
        "event": "node.moved",
        "node": "n1",
        "ports": ["a", "b"],
        "count": 2,
        "level": "info",
        "request": "0123",
    }


@pytest.mark.parametrize("form", LogForm)
def test_nothing_secret_is_logged_by_whatever_name(stream: io.StringIO, form: LogForm) -> None:
    set_up_logs(form, stream)
    log = structlog.get_logger()
    log.info(
        "a",
        password="hunter2",  # noqa: S106 (to be looked for in what is logged)
        Authorization="hunter2",
        bmc={"credentials": {"x": "hunter2"}},
        x=Secret(b"hunter2"),
    )
    log.info("b", words=f"with {TOKEN} and {JWT}", more=[TOKEN, {"deep": JWT}])
    logging.getLogger("library").warning("GET /?token=%s", TOKEN)
    try:
        raise RuntimeError(TOKEN)
    except RuntimeError:
        log.exception("c")
    said = stream.getvalue()
    assert "hunter2" not in said
    assert "A" * 43 not in said
    assert "eyJzdWIi" not in said
    assert "RuntimeError" in said


@pytest.mark.parametrize("form", LogForm)
def test_a_stranger_writes_no_line_of_its_own_and_no_colour(stream: io.StringIO, form: LogForm) -> None:
    set_up_logs(form, stream)
    evil = 'x\n{"event": "forged"}\r\x1b[31m\u202e\u2028'
    structlog.get_logger().info("request", path=evil, **{"a\nb": evil})
    logging.getLogger("library").warning(evil)
    said = stream.getvalue()
    assert len(said.splitlines()) == 2
    assert "\x1b" not in said
    assert "\u202e" not in said


def test_a_value_beyond_all_measure_is_cut(stream: io.StringIO) -> None:
    set_up_logs(LogForm.JSON, stream)
    structlog.get_logger().info("a", words="x" * 100_000)
    assert len(stream.getvalue()) < 3000


def test_what_is_no_text_is_kept_as_it_is() -> None:
    assert hide_secrets(None, "", {"a": None, "b": True, "c": 1.5, "d": ("x",)}) == {
        "a": None,
        "b": True,
        "c": 1.5,
        "d": ["x"],
    }
