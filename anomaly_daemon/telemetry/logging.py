"""What the daemon says of itself: structured lines on standard error, for a person on a terminal or as JSON.

Lines of libraries that use the standard `logging` come out in the same form, from warnings up.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any, Literal

import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, Processor, WrappedLogger

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "console", "json"]

MASK = "***"
_SECRET_WORDS = ("password", "secret", "token")
_HANDLER_NAME = "anomaly-daemon"


def configure(level: Level, format: Format) -> None:  # noqa: A002 - the name of the setting
    """Set up all logging of the process; may be called again, as after a reload."""
    stream = sys.stderr
    is_console = stream.isatty() if format == "auto" else format == "console"
    render = _console(stream.isatty()) if is_console else _json()
    shared: list[Processor] = [structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True), mask_secrets]
    severity = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(severity),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    _configure_libraries(logging.StreamHandler(stream), shared, render, max(severity, logging.WARNING))


def mask_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Whatever stands under a key that names a password, a secret or a token is not shown."""
    return {key: _masked(key, value) for key, value in event.items()}


def _masked(key: object, value: Any) -> Any:
    if any(word in str(key).lower() for word in _SECRET_WORDS):
        return MASK
    if isinstance(value, Mapping):
        return {inner: _masked(inner, below) for inner, below in value.items()}
    if isinstance(value, (list, tuple)):
        return [_masked("", below) for below in value]
    return value


def _console(is_coloured: bool) -> list[Processor]:
    return [structlog.dev.ConsoleRenderer(colors=is_coloured, exception_formatter=structlog.dev.plain_traceback)]


def _json() -> list[Processor]:
    # Locals may hold records and settings: neither belongs in a log.
    tracebacks = structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False))
    return [tracebacks, structlog.processors.JSONRenderer()]


def _configure_libraries(handler: logging.Handler, shared: list[Processor], render: list[Processor], severity: int) -> None:
    handler.set_name(_HANDLER_NAME)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render], foreign_pre_chain=shared
        )
    )
    root = logging.getLogger()
    for former in [one for one in root.handlers if one.get_name() == _HANDLER_NAME]:
        root.removeHandler(former)
    root.addHandler(handler)
    root.setLevel(severity)
    # It calls an ordinary wait for pending offsets an error; what matters to us comes back as an exception and is told by us.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
