from collections.abc import Sequence

from typing_extensions import Self, disjoint_base

from ._log import Log
from .deflate._deflate import Deflaters

@disjoint_base
class Lanes:
    def __new__(cls, plain: Log, deflaters: Deflaters, compression: dict[str, int]) -> Self: ...
    def check_invariants(self, subscribers: Sequence[int]) -> None: ...
