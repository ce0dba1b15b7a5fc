"""The rules of the opening handshake (RFC 6455 section 4.2): what a request must be, and the response it gets.

Nothing here reads or writes. Header names are lower case; lines of the same name have been joined by ", "
(RFC 9110 section 5.3), so a header that may come once only shows by a comma.

Invariants

1. `find_fault` returns None for exactly those requests that may be answered with `encode_response`.
2. A response names a subprotocol only if the client offered it (section 4.2.2). Of extensions: extensions.py.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from collections.abc import Iterable, Mapping
from hashlib import sha1
from http import HTTPStatus
from urllib.parse import unquote_to_bytes

from httptools import HttpParserError, parse_url

from .extensions import is_extension_list
from .fields import is_token, split_list

__all__ = ["Fault", "choose_subprotocol", "encode_response", "find_fault", "split_target"]

Fault = tuple[HTTPStatus, str]
"""How a wrong request is answered: the status and a short text."""

_RESPONSE_START = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
)
_KEY_SUFFIX = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""What is appended to the client's key before it is hashed (section 1.3)."""
_is_key = re.compile(r"[A-Za-z0-9+/]{22}==", re.ASCII).fullmatch
"""16 bytes in base64 (section 4.1)."""


def split_target(target: bytes) -> tuple[str, str]:
    """Return a request target's path, decoded, and query, as sent (RFC 9112 section 3.2); ValueError: malformed."""
    if target.startswith(b"/") and b"#" not in target:
        path, _, query = target.partition(b"?")
    else:   # the absolute form, of requests to a proxy
        try:
            url = parse_url(target)
        except HttpParserError as error:
            raise ValueError(str(error)) from None
        if url.schema is None:
            raise ValueError("neither a path nor a URL")
        path, query = url.path or b"/", url.query or b""
    return (unquote_to_bytes(path) if b"%" in path else path).decode(), query.decode("latin-1")


def _has_token(value: str, token: str) -> bool:
    # Most clients send the token alone; older Firefox and proxies send `keep-alive, Upgrade`.
    lowered = value.lower()
    return lowered == token or token in split_list(lowered)


def find_fault(headers: Mapping[str, str], http_version: str) -> Fault | None:
    """Check a GET that asks for an upgrade as section 4.2.1 says; None if it is right."""
    if not _has_token(headers["upgrade"], "websocket"):
        return HTTPStatus.BAD_REQUEST, "can upgrade to websocket only"
    if not _has_token(headers.get("connection", ""), "upgrade"):
        return HTTPStatus.BAD_REQUEST, "the Connection header lacks upgrade"
    if http_version != "1.1":
        return HTTPStatus.BAD_REQUEST, "a WebSocket handshake is HTTP/1.1"
    if "," in headers.get("host", ","):
        return HTTPStatus.BAD_REQUEST, "a request has one Host header"
    if headers.get("sec-websocket-version") != "13":
        return HTTPStatus.UPGRADE_REQUIRED, "Sec-WebSocket-Version must be 13"
    if _is_key(headers.get("sec-websocket-key", "")) is None:
        return HTTPStatus.BAD_REQUEST, "Sec-WebSocket-Key must be 16 bytes in base64"
    if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
        return HTTPStatus.BAD_REQUEST, "a WebSocket handshake has no body"
    if "sec-websocket-protocol" in headers and not all(map(is_token, _offers(headers))):
        return HTTPStatus.BAD_REQUEST, "Sec-WebSocket-Protocol must be a list of tokens"
    # Section 9.1: also if none would be used.
    if "sec-websocket-extensions" in headers and not is_extension_list(headers["sec-websocket-extensions"]):
        return HTTPStatus.BAD_REQUEST, "Sec-WebSocket-Extensions must be a list of extensions and their parameters"
    return None


def _offers(headers: Mapping[str, str]) -> list[str]:
    # Section 4.1: at least one, so that one empty line is no list.
    return split_list(headers["sec-websocket-protocol"]) or [""]


def choose_subprotocol(headers: Mapping[str, str], spoken: Iterable[str]) -> str | None:
    """Return the first of `spoken` that the client offers; None if there is none, and then it goes on without.

    Names are compared as they are, upper and lower case differ.
    """
    if "sec-websocket-protocol" not in headers:
        return None
    offered = _offers(headers)
    return next((name for name in spoken if name in offered), None)


def encode_response(key: str, subprotocol: str | None = None, extension: str | None = None) -> bytes:
    """Return the whole 101 response to a handshake with this Sec-WebSocket-Key (section 4.2.2)."""
    accept = b2a_base64(sha1(key.encode() + _KEY_SUFFIX, usedforsecurity=False).digest(), newline=False)
    more = b""
    if subprotocol is not None:
        more = b"\r\nSec-WebSocket-Protocol: %b" % subprotocol.encode()
    if extension is not None:
        more += b"\r\nSec-WebSocket-Extensions: %b" % extension.encode()
    return b"%b%b%b\r\n\r\n" % (_RESPONSE_START, accept, more)
