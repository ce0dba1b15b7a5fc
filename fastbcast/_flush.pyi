from collections.abc import Callable

from typing_extensions import Self, disjoint_base

@disjoint_base
class Flush:
    def __new__(cls, channel: object, on_done: Callable[[], object]) -> Self: ...
