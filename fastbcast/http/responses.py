"""HTTP responses: what a route returns, and their bytes (RFC 9112 section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

__all__ = ["RETRY_SECONDS", "Response", "encode_response"]

RETRY_SECONDS = 5
"""When a client that was refused because of a limit may try again: the `Retry-After` of 429 and 503."""

TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True)
class Response:
    """An answer to one request. A body that is a str is a short text for people; an empty one is the status' phrase."""

    status: HTTPStatus
    body: bytes | str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    """They replace those that `encode_response` would give."""


def encode_response(response: Response, *, has_body: bool = True) -> bytes:
    """Return the bytes of a response after which the connection is closed; without its body for HEAD."""
    status = response.status
    body = response.body
    if isinstance(body, str):
        body = f"{body or status.phrase}\n".encode()
    fields = {"Content-Length": str(len(body)), "Connection": "close", "Content-Type": TEXT}
    if status == HTTPStatus.UPGRADE_REQUIRED:   # RFC 9110 section 15.5.22, RFC 6455 section 4.4
        fields |= {"Upgrade": "websocket", "Connection": "close, Upgrade", "Sec-WebSocket-Version": "13"}
    elif status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        fields |= {"Retry-After": str(RETRY_SECONDS)}
    elif status == HTTPStatus.UNAUTHORIZED:     # RFC 9110 section 15.5.2
        fields |= {"WWW-Authenticate": "Bearer"}
    lines = [f"{name}: {value}" for name, value in (fields | dict(response.headers)).items()]
    head = "\r\n".join([f"HTTP/1.1 {status.value} {status.phrase}", *lines, "", ""]).encode()
    return head + body if has_body else head
