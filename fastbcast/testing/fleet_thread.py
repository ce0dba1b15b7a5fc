"""The thread that owns a fleet's clients: it listens, and between two turns does what others ask for."""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from ..load._audience import Audience

__all__ = ["FleetThread"]

ASK_SECONDS = 30.0
"""How long the thread may take to answer."""
LISTEN_SECONDS = 3600.0
"""It is woken; it does not look by itself."""

_Result = TypeVar("_Result")


class _Task:
    """Something that is looked at after all news until it is so."""

    def __init__(self, begin: Callable[[], object], is_so: Callable[[], bool]) -> None:
        self.begin = begin
        self.is_so = is_so
        self.has_begun = False
        self.future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self.future.set_running_or_notify_cancel()  # nobody can take it back: what is done is done
        self.result: object = None

    def look(self) -> bool:
        """Whether it need not be looked at any more."""
        try:
            if not self.has_begun:
                self.has_begun = True
                self.result = self.begin()
            if not self.is_so():
                return False
        except BaseException as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(self.result)
        return True

    def give_up(self) -> None:
        """Say to whoever waits for it that it will not be so."""
        self.future.set_exception(RuntimeError("the fleet was closed meanwhile"))


class FleetThread:
    """Owns `audience` from now on, until `end()`.

    There is no lock: a signal handler, or a `__del__` that the collector runs, may ask in the middle of `begin`.
    """

    def __init__(self, audience: Audience) -> None:
        self._audience = audience
        self._new: deque[_Task] = deque()
        self._is_ending = False
        self._thread = threading.Thread(target=self._work, name="fleet", daemon=True)
        self._thread.start()

    def ask(self, function: Callable[[], _Result]) -> _Result:
        """Run it on the thread and return its result; here, once the thread has ended."""
        result: _Result = self.begin(function, lambda: True).result(ASK_SECONDS)
        return result

    def begin(self, begin: Callable[[], object], is_so: Callable[[], bool]) -> concurrent.futures.Future[Any]:
        """Run `begin` on the thread; the future has its result as soon as `is_so()`, which is asked after all news."""
        wish = _Task(begin, is_so)
        self._new.append(wish)
        if self._is_ending:     # or the thread sees it before it ends
            self._thread.join()
            for late in self._take_new():
                if not late.look():
                    late.give_up()
        else:
            self._audience.wake()
        return wish.future

    def end(self) -> None:
        """End the thread. What was begun and is not so yet stays undone: its future has a RuntimeError."""
        self._is_ending = True
        self._audience.wake()
        self._thread.join()

    def _work(self) -> None:
        wishes: list[_Task] = []
        while True:
            is_ending = self._is_ending     # first: what was asked for before is among the new ones
            wishes += self._take_new()
            wishes = [wish for wish in wishes if not wish.look()]
            if is_ending:
                for wish in wishes:
                    wish.give_up()
                return
            self._audience.listen(LISTEN_SECONDS)

    def _take_new(self) -> list[_Task]:
        new = []
        with contextlib.suppress(IndexError):   # it is empty
            while True:
                new.append(self._new.popleft())
        return new
