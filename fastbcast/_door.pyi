import asyncio
import socket
from typing import Any

from typing_extensions import Self, disjoint_base

from .server import Server

DEFAULT_CHANNEL: str
LINGER_BYTES: int
RETRY_SECONDS: int

def channel_of(path: str) -> str: ...
@disjoint_base
class Door(asyncio.Protocol):
    def __new__(cls, server: Server, accepted: socket.socket, address: Any) -> Self: ...
    def refuse_slow_head(self) -> None: ...
    def refuse_slow_decision(self) -> None: ...
    def cut_off(self) -> None: ...
    def abort(self) -> None: ...
