from collections.abc import Sequence

from typing_extensions import Self, disjoint_base

from ..deflate._deflate import Deflaters
from ._log import Log

@disjoint_base
class Lanes:
    def __new__(cls, plain: Log, deflaters: Deflaters, compression: dict[str, int]) -> Self: ...
    def check_invariants(self, subscribers: Sequence[int]) -> None: ...
