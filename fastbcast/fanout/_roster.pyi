from typing_extensions import disjoint_base

from ..typing import LagTotals
from ._sweeper import Sweepable

LAG_BOUNDS: tuple[int, ...]

@disjoint_base
class Subscription:
    def __init__(self, *args: object, **kwargs: object) -> None: ...
    @property
    def channel(self) -> Roster: ...
    @property
    def is_active(self) -> bool: ...

@disjoint_base
class Roster(Sweepable):
    @property
    def subscribers(self) -> int: ...
    def _sum_lag(self) -> LagTotals: ...
