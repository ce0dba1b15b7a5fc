"""The package's log lines: an event's word and its fields, on the standard logger "fastbcast".

    log_event(WARNING, "accept_paused", reason="Too many open files")
    accept_paused reason="Too many open files"

The fields are attributes of the LogRecord too, for formatters that make JSON of them. Levels, handlers and formats are
the application's, as with any library; `configure` is what the command does.

Invariants

1. Of each event at most MAX_LINES_PER_WINDOW lines are made in WINDOW_SECONDS, with their tracebacks; a line at the end
   tells how many were dropped. An event's word is a constant, so that their number is bounded.
2. No line shows a payload, a token or a query string. Fields are numbers, names and causes. Of an exception, which may
   quote what a client sent (`KeyError: 'Bearer ...'`), its type and where it was raised is shown; what it says only
   when the logger is at DEBUG.
3. A line is one line, but for the traceback: fields are quoted, and bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
import json
import logging
import re
import sys
import time
import traceback
from typing import Any

from pythonjsonlogger.json import JsonFormatter

MAX_LINES_PER_WINDOW = 10
WINDOW_SECONDS = 60.0
MAX_FIELD_CHARACTERS = 300
"""A channel's name, the longest of what is shown, may have 255 bytes."""
MAX_TRACEBACK_FRAMES = 20
MAX_CHAINED_EXCEPTIONS = 4

_PLAIN_VALUE = re.compile(r"[\w.:/+-]+", re.ASCII)

logger = logging.getLogger("fastbcast")
_report_to_stderr = logging.NullHandler()
"""Whose `handleError` does what logging's own handlers do when they fail, as `logging.raiseExceptions` says."""


class _Window:
    """The lines of one event since `start`."""

    def __init__(self, start: float) -> None:
        self.start = start
        self.lines = itertools.count(1)     # which is atomic, as `+= 1` is not


class RateLimit:
    """Counts the lines of each event, from any place: what logs may be a `__del__` or a signal handler.

    So there is no lock, but operations of dict and count that are atomic in CPython. If threads log the same event in
    the moment when its window ends, some of their lines may not be counted.
    """

    def __init__(self) -> None:
        self._windows: dict[str, _Window] = {}

    def count(self, event: str) -> tuple[int, int]:
        """Count a line of `event`: which of its window it is, from 1, and how many the window before had dropped."""
        now = time.monotonic()
        window = self._windows.get(event)
        is_over = window is not None and now - window.start >= WINDOW_SECONDS
        dropped = self.end_window(event) if is_over else 0
        return next(self._windows.setdefault(event, _Window(now)).lines), dropped

    def end_window(self, event: str) -> int:
        """Begin again with `event`; returns how many of its lines were dropped."""
        window = self._windows.pop(event, None)
        return 0 if window is None else max(0, next(window.lines) - 1 - MAX_LINES_PER_WINDOW)

    def clear(self) -> None:
        """Forget what was counted."""
        self._windows.clear()


rate_limit = RateLimit()
"""Of the whole process, whatever hubs it has."""


def log_event(level: int, event: str, *, exception: BaseException | None = None, **fields: Any) -> None:
    """Log `event` with its fields, unless there were too many of it lately."""
    if not logger.isEnabledFor(level):
        return
    number, dropped = rate_limit.count(event)
    _tell_dropped(event, dropped)
    if number <= MAX_LINES_PER_WINDOW:
        _log(level, event, fields, exception)
    elif number == MAX_LINES_PER_WINDOW + 1:
        _tell_later(event)


def _tell_later(event: str) -> None:
    """Tell at the window's end how many were dropped; where no loop runs, the event's next line does it."""
    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop().call_later(
            WINDOW_SECONDS, lambda: _tell_dropped(event, rate_limit.end_window(event))
        )


def _tell_dropped(event: str, dropped: int) -> None:
    if dropped:
        _log(logging.WARNING, "log_lines_dropped", {"dropped_event": event, "dropped_lines": dropped})


def _log(level: int, event: str, fields: dict[str, Any], exception: BaseException | None = None) -> None:
    fields = {name: value for name, value in fields.items() if value is not None}
    message = " ".join([event, *(f"{name}={_quote(value)}" for name, value in fields.items())])
    info = None if exception is None else (type(exception), exception, exception.__traceback__)
    extra = {"event": event, **fields}
    caller = sys._getframe(2)   # Logger.findCaller counts frames in another way before Python 3.11
    code = caller.f_code
    record = logger.makeRecord(
        logger.name, level, code.co_filename, caller.f_lineno, message, (), info, code.co_name, extra
    )
    if exception is not None and not logger.isEnabledFor(logging.DEBUG):
        record.exc_text = describe(exception)   # a Formatter takes this instead of making its own
    try:
        logger.handle(record)
    except Exception:   # of the application's handler or filter: it must not end what is going on here
        _report_to_stderr.handleError(record)


def _quote(value: object) -> str:
    text = str(value)
    if len(text) > MAX_FIELD_CHARACTERS:
        text = text[:MAX_FIELD_CHARACTERS] + "..."
    return text if _PLAIN_VALUE.fullmatch(text) else json.dumps(text)


def describe(exception: BaseException) -> str:
    """Return a traceback that says what was raised and where, and not what the exception says."""
    parts: list[str] = []
    current: BaseException | None = exception
    while current is not None and len(parts) < MAX_CHAINED_EXCEPTIONS:
        frames = traceback.format_tb(current.__traceback__, limit=-MAX_TRACEBACK_FRAMES)
        kind = type(current)
        parts.append("".join([*frames, f"{kind.__module__}.{kind.__qualname__}"]))
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "Traceback (most recent call last):\n" + "\nraised while handling:\n".join(parts)


# What the command does.


def configure(level: str, format_name: str) -> None:
    """Write what is logged to standard error: lines of text, or JSON objects, one a line."""
    handler = logging.StreamHandler()
    handler.setFormatter(_FORMATTERS[format_name]())
    logging.basicConfig(level=level.upper(), handlers=[handler])


class _TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")


class _JsonFormatter(JsonFormatter):
    def __init__(self) -> None:
        super().__init__(
            "%(levelname)s %(name)s %(message)s",
            timestamp="time",
            rename_fields={"levelname": "level", "name": "logger", "exc_info": "traceback"},
        )

    def format(self, record: logging.LogRecord) -> str:
        """Take `exc_text`, as logging's own Formatter does."""
        if record.exc_text:
            record = copy.copy(record)
            record.exc_info = None
        return super().format(record)


_FORMATTERS: dict[str, type[logging.Formatter]] = {"text": _TextFormatter, "json": _JsonFormatter}
FORMATS = tuple(_FORMATTERS)


def handle_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what the event loop reports, without the reprs of its handles, which show arguments: payloads."""
    exception = context.get("exception")
    if isinstance(exception, OSError) and "transport" in context:
        # uvloop reports some ends of a connection (ETIMEDOUT, EHOSTUNREACH), which are no news: they are counted.
        log_event(logging.DEBUG, "connection_failed", reason=exception.strerror)
    else:
        where = "callback" if "handle" in context else context.get("message", "")
        log_event(logging.ERROR, "event_loop_error", exception=exception, where=where)
