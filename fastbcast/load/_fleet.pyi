from typing import Any

from typing_extensions import Self, disjoint_base

from fastbcast.load._board import Board
from fastbcast.load._inbound import Inbound

@disjoint_base
class Fleet(Inbound):
    def __new__(
        cls,
        board: Board,
        process: int,
        channels: int,
        payload_bytes: int,
        capacity: int,
        *,
        prefix: bytes | None = None,
        bodies: tuple[bytes, ...] | None = None,
        is_text: bool = True,
        wake_fd: int = -1,
        **rest: Any,
    ) -> Self: ...
    @property
    def is_blocked(self) -> bool: ...
    @property
    def is_done(self) -> bool: ...
    @property
    def open_publishers(self) -> int: ...
    @property
    def scheduled(self) -> int: ...
    @property
    def was_throttled(self) -> bool: ...
    def run(self, seconds: float, most_connecting: int = -1) -> None: ...
    def start(
        self, messages: int, *, in_flight: int = 1, judge_all: bool = True, rate: float = 0.0
    ) -> None: ...
    def stop(self) -> None: ...
