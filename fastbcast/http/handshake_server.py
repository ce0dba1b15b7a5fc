"""What a Handshake needs of the server that accepted its connection, for type checkers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

from ..connection._client import Client
from ..hub import Hub
from ..options import ServerOptions
from .admission import Admission
from .origins import Origins
from .pending import PendingHandshakes
from .proxies import TrustedProxies
from .routes import Route

__all__ = ["HandshakeServer"]


class HandshakeServer(Protocol):
    """Its settings and rules, the counters that a Handshake counts in, and where its client goes."""

    hub: Hub
    options: ServerOptions
    routes: tuple[Route, ...]
    origins: Origins
    proxies: TrustedProxies
    has_proxies: bool
    admission: Admission
    handshakes: PendingHandshakes
    is_closing: bool
    responses: Counter[int]
    refused: Counter[str]

    @property
    def on_client_gone(self) -> Callable[[Client], None]:
        """Called when the connection of a client that was let in has ended."""

    def let_in(self, client: Client, response: bytes, early_data: bytes, form: str, counted_as: str | None) -> None:
        """Answer with the 101 `response`: `client` is one from now on."""
