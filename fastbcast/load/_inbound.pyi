from typing import Any

from typing_extensions import Self, disjoint_base

from fastbcast.load._board import Board
from fastbcast.load._crowd import Crowd

@disjoint_base
class Inbound(Crowd):
    def __new__(
        cls,
        board: Board,
        process: int,
        channels: int,
        payload_bytes: int,
        capacity: int,
        *rest: Any,
        prefix: bytes | None = None,
        **more: Any,
    ) -> Self: ...
    @property
    def inflaters(self) -> int: ...
