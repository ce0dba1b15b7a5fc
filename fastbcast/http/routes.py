"""Which answer a request gets that is no WebSocket handshake: one table, read from the top.

    Request --find_route--> Route --[authorize hook]--> answer(request) -> Response

A further kind of request (server-sent events, an HTTP API, metrics) is a row of `make_routes`, which hands each route
what it needs of the server. A route never sees the connection: whether that ends after the answer is not its affair.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from ..typing import Request
from .responses import Response

__all__ = ["METHODS", "Route", "find_route", "make_routes"]

METHODS = frozenset({b"GET", b"HEAD"})
"""The methods that some route answers; any other is 405 (RFC 9110 section 15.5.6)."""


@dataclass(frozen=True)
class Route:
    """A kind of request, and its answer."""

    matches: Callable[[Request], bool]
    answer: Callable[[Request], Response]
    is_authorized: bool = False
    """Whether the authorize hook is asked first, as for a handshake."""


def make_routes(page: bytes | None, count_subscribers: Callable[[str], int]) -> tuple[Route, ...]:
    """Return the routes of a server; `page` is shown to people, None: there is none."""

    def tell_subscribers(request: Request) -> Response:
        document = {"channel": request.channel, "listeners": count_subscribers(request.channel)}
        return Response(HTTPStatus.OK, json.dumps(document), {"Content-Type": "application/json"})

    upgrade = Response(HTTPStatus.UPGRADE_REQUIRED, "this is a WebSocket server")
    if page is None:
        return (Route(lambda request: True, lambda request: upgrade),)
    shown = Response(HTTPStatus.OK, page, {"Content-Type": "text/html; charset=utf-8"})
    no_icon = Response(HTTPStatus.NOT_FOUND)
    return (
        Route(lambda request: request.query == "listeners", tell_subscribers, is_authorized=True),
        Route(lambda request: request.path == "/favicon.ico", lambda request: no_icon),
        Route(lambda request: True, lambda request: shown),
    )


def find_route(routes: tuple[Route, ...], request: Request) -> Route:
    """Return the first route that matches; the last one of a server's matches everything."""
    return next(route for route in routes if route.matches(request))
