"""What the clients here share that are no `fastbcast load`: each takes a URL, measures, and prints one JSON object."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from typing import Any

MINIMAL = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
"""The headers of the shortest handshake, but for Host and the key."""


class Failure(Exception):
    """Nothing can be said; the text is the result's `problem`."""


def encode_request(url: str, headers: tuple[str, ...] = MINIMAL) -> tuple[tuple[str, int], bytes]:
    """Return where `url` is, and the handshake's request."""
    match = re.fullmatch(r"ws://([\d.]+):(\d+)(/.*)?", url)
    if match is None:
        raise Failure(f"not a URL like ws://127.0.0.1:8080/path: {url}")
    host, port = match[1], int(match[2])
    lines = [f"GET {match[3] or '/'} HTTP/1.1", f"Host: {host}:{port}", *headers]
    return (host, port), "\r\n".join([*lines, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "", ""]).encode()


def print_result(measure: Callable[[argparse.Namespace], dict[str, Any]], arguments: argparse.Namespace) -> None:
    """Measure, and print the result, or the problem."""
    try:
        result = measure(arguments)
    except (Failure, OSError) as error:
        result = {"problem": str(error)}
    print(json.dumps(result))
