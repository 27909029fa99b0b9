"""JSON log lines on standard error that cannot carry patient data.

A closed list of keys is the guard: whatever is not on it is dropped and only its key is named, so a
name, identifier, birth date, accession number or free text never reaches a log by accident. The
libraries' own loggers and warnings quote element values, so they are silenced here too; an uncaught
exception is logged by its type and place, never by its message.
"""

import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import structlog

from qc_daemon.observe.events import KEYS, WITHHELD

LEVELS = ("debug", "info", "warning", "error", "critical")

# An event is a fixed phrase, never a sentence put together from values.
PHRASE = re.compile(r"[a-z][a-z0-9 \-]{0,63}")
_QUOTING_LIBRARIES = (
    "pynetdicom",
    "pydicom",
    "highdicom",
    "dicomweb_client",
    "urllib3",
    "PIL",
    "sqlalchemy",
    "alembic",
    "apscheduler",
    # They print tracebacks, whose last line may quote what was sent.
    "uvicorn",
    "authlib",
    "asyncio",
)

Logger = structlog.typing.FilteringBoundLogger


def only_allowed(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> Mapping[str, Any]:
    """Drop what is not on the list, and any value that is more than a plain scalar."""
    line: dict[str, Any] = {key: _plain(value) for key, value in event.items() if key in KEYS}
    if not PHRASE.fullmatch(str(line.get("event", ""))):
        line["event"] = WITHHELD
    dropped = sorted(key for key in event if key not in KEYS)
    if dropped:
        line["dropped"] = dropped
    return line


def _plain(value: object) -> str | int | float | bool | None:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str | Path):
        # One line, bounded: a value from the wire must not forge lines or flood the log.
        return "".join(c if c.isprintable() else "?" for c in str(value))[:256]
    return type(value).__name__


def configure(level: str | None = None, stream: TextIO | None = None) -> None:
    """Set logging up for this process; `level` beats QC_LOG, the default is info.

    An unknown level falls back to info rather than stopping a service over its log.
    """
    name = (level or os.environ.get("QC_LOG", "info")).lower()
    number = getattr(logging, name.upper()) if name in LEVELS else logging.INFO
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            only_allowed,
            structlog.processors.JSONRenderer(sort_keys=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=stream or sys.stderr),
        cache_logger_on_first_use=False,
    )


def configure_service(level: str) -> None:
    """Set logging up for a process of the service: QC_LOG beats the level of the settings."""
    configure(os.environ.get("QC_LOG") or level)


def configure_command() -> None:
    """Set logging up for a command, whose output says what happened: no lines unless QC_LOG asks.

    Unconfigured, structlog would print every value as it is.
    """
    configure()
    if "QC_LOG" not in os.environ:
        structlog.configure(processors=[_drop])


def _drop(_logger: object, _method: str, _event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    raise structlog.DropEvent


def quiet_libraries() -> None:
    """Silence library loggers and warnings: they quote element values."""
    for name in _QUOTING_LIBRARIES:
        library = logging.getLogger(name)
        library.handlers = [logging.NullHandler()]
        library.propagate = False
        library.setLevel(logging.CRITICAL + 1)
    warnings.simplefilter("ignore")


def quiet_crashes() -> None:
    """Log uncaught errors by type and place: a traceback's last line may quote element values."""
    sys.excepthook = _crashed
    threading.excepthook = _thread_crashed


def get(**bound: object) -> Logger:
    """A logger with `bound` on every line."""
    logger: Logger = structlog.get_logger(**bound)
    return logger


def first_line(error: BaseException) -> str:
    """An error's message for one line. Only where no object has been read yet: it may quote one."""
    return (str(error).strip().splitlines() or ["no message"])[0]


def where(error: BaseException) -> str:
    """The innermost `file:line` of an error: where to begin, without the message."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "unknown"
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"


def _crashed(kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
    get().critical("crashed", error_type=kind.__name__, error_at=where(error))


def _thread_crashed(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        _crashed(args.exc_type, args.exc_value, args.exc_traceback)
