import enum
from typing import Any

from typing_extensions import Self, disjoint_base

from fastbcast.load._board import Board

MIN_PAYLOAD_BYTES: int

class Kind(enum.IntEnum):
    STEADY = 0
    GUEST = 1
    SLOW = 2
    PUBLISHER = 3

@disjoint_base
class Audit:
    def __new__(
        cls, board: Board, process: int, channels: int, payload_bytes: int, *rest: Any,
        bodies: tuple[bytes, ...] | None = None, **more: Any
    ) -> Self: ...
    @property
    def channels(self) -> int: ...
    @property
    def payload_bytes(self) -> int: ...
    @property
    def process(self) -> int: ...
    @property
    def streams(self) -> int: ...
    @property
    def under_way(self) -> int: ...
