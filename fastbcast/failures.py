"""Every exception of application code is caught; SystemExit and KeyboardInterrupt then end the program.

    handler, hook --(raises)--> caught where it was called: told, logged, one client is closed
                                     `--(SystemExit, KeyboardInterrupt, in the main thread)--> out of the loop

Invariants

1. Every exception is a failure of the code that raised it, those that are no `Exception` too: asyncio.CancelledError, a
   panic of a Rust extension, pytest's `fail()`.
2. SystemExit and KeyboardInterrupt are failures, too, and are then raised out of the loop, in a turn of their own:
   uvloop drops what a protocol's method raises, and asyncio does not. In another thread than the main one they would
   end that thread and no program, so there they go no further.
3. One of them leaves a loop at a time: a second one would leave what the program does at its end, which runs the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import weakref
from collections.abc import Awaitable
from typing import Any, NoReturn

from .logging import log_event

__all__ = ["end_program", "fail_connection", "settle"]

# Those that something is about to leave.
_ending: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()


async def settle(awaitable: Awaitable[Any]) -> tuple[Any, BaseException | None]:
    """Await it, and return its result and None, or None and whatever it has raised.

    In a frame of its own: the GeneratorExit of a caller that is closed while it waits comes up in the caller.
    """
    try:
        return await awaitable, None
    except BaseException as error:
        return None, error


def end_program(error: BaseException) -> None:
    """Let `error` out of the running loop, if it is one that ends a program, and this is the main thread."""
    if isinstance(error, SystemExit | KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
        with contextlib.suppress(RuntimeError):     # no loop runs: it is over already
            loop = asyncio.get_running_loop()
            if loop not in _ending:
                _ending.add(loop)
                loop.call_soon(_raise, loop, error)


def _raise(loop: asyncio.AbstractEventLoop, error: BaseException) -> NoReturn:
    _ending.discard(loop)
    raise error


def fail_connection(transport: asyncio.Transport, error: BaseException) -> None:
    """Abort a connection for an error of our own, or for what a signal handler has raised in its midst."""
    log_event(logging.ERROR, "internal_error", exception=error)
    transport.abort()
    end_program(error)
