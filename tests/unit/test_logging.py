from __future__ import annotations

import json
import logging as standard_logging
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
import structlog

from anomaly_daemon.telemetry import logging


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Leaves the process's logging as it was."""
    root = standard_logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_line_is_one_json_object_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    logging.configure("info", "json")

    structlog.get_logger("any").info("started", records=3)

    shown = capsys.readouterr()
    line = json.loads(shown.err)
    assert shown.out == ""
    assert (line["event"], line["level"], line["records"]) == ("started", "info", 3)
    assert datetime.fromisoformat(line["timestamp"]).utcoffset() == timedelta(0)


def test_auto_is_json_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    logging.configure("info", "auto")

    structlog.get_logger().info("started")

    assert json.loads(capsys.readouterr().err)["event"] == "started"


def test_console_is_for_a_person(capsys: pytest.CaptureFixture[str]) -> None:
    logging.configure("info", "console")

    structlog.get_logger().warning("settings_refused", remedy="mend line 3")

    shown = capsys.readouterr().err
    assert "settings_refused" in shown
    assert "remedy" in shown
    assert not shown.startswith("{")


def test_less_than_the_level_is_not_shown_and_a_new_level_holds_for_old_loggers(capsys: pytest.CaptureFixture[str]) -> None:
    log = structlog.get_logger()
    logging.configure("warning", "json")
    log.info("batch_done")
    assert capsys.readouterr().err == ""

    logging.configure("debug", "json")
    log.debug("batch_done")
    assert "batch_done" in capsys.readouterr().err


@pytest.mark.parametrize("format_name", ["json", "console"])
def test_nothing_secret_is_shown(format_name: logging.Format, capsys: pytest.CaptureFixture[str]) -> None:
    logging.configure("info", format_name)

    structlog.get_logger().info(
        "connected", sasl_password="hunter2", kafka={"API_TOKEN": "hunter2"}, clients=[{"client_secret": "hunter2"}], user="me"
    )

    shown = capsys.readouterr().err
    assert "hunter2" not in shown
    assert "me" in shown


@pytest.mark.parametrize("format_name", ["json", "console"])
def test_a_traceback_shows_no_locals(format_name: logging.Format, capsys: pytest.CaptureFixture[str]) -> None:
    logging.configure("info", format_name)

    try:
        local = "hunter" + "2"
        raise ValueError(f"{len(local)} characters")
    except ValueError:
        structlog.get_logger().exception("crashed")

    shown = capsys.readouterr().err
    assert "7 characters" in shown
    assert "hunter2" not in shown


def test_a_library_s_warnings_come_out_in_the_same_form_once(capsys: pytest.CaptureFixture[str]) -> None:
    logging.configure("info", "json")
    logging.configure("info", "json")

    standard_logging.getLogger("library").warning("broker %s went away", "b1")
    standard_logging.getLogger("library").info("chatter")

    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "broker b1 went away"
