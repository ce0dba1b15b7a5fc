from collections.abc import Callable

from typing_extensions import Self, disjoint_base

from ._forms import Forms

@disjoint_base
class Flush:
    def __new__(cls, channel: object, on_done: Callable[[], object]) -> Self: ...

@disjoint_base
class Tally(Forms):
    def _flush(self, seq: int | None, on_done: Callable[[], object]) -> Flush: ...
    def _check_flushed(self) -> None: ...
    def _finish_flush(self, flush: Flush) -> tuple[int, int, int, int, int, int]: ...
