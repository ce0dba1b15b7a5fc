"""Every exception of application code is caught; SystemExit and KeyboardInterrupt then end the program.

    handler, hook --(raises)--> caught where it was called: told, logged, one client is closed
                                     `--(SystemExit, KeyboardInterrupt, in the main thread)--> out of the loop

Invariants

1. Every exception is a failure of the code that raised it, those that are no `Exception` too: asyncio.CancelledError, a
   panic of a Rust extension, pytest's `fail()`.
2. SystemExit and KeyboardInterrupt are failures, too, and are then raised out of the loop, in a turn of their own:
   uvloop drops what a protocol's method raises, and asyncio does not. In another thread than the main one they would
   end that thread and no program, so there they go no further.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable
from typing import Any, NoReturn

__all__ = ["end_program", "settle"]


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
            asyncio.get_running_loop().call_soon(_raise, error)


def _raise(error: BaseException) -> NoReturn:
    raise error
