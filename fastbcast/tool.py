"""What `fastbcast publish` and `fastbcast listen` do: small clients on picows' client side.

Both return the process's exit status, and say on standard error what went wrong in one line.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterable

import click
from picows import WSInvalidURL
from picows.websockets import ConnectionClosed, InvalidHandshake, InvalidURI, WebSocketException, connect

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""What `listen` takes from a server it was told to trust."""


async def publish_to(url: str, lines: Iterable[str]) -> int:
    """Send each line (without its newline) as a text message, then close."""
    loop = asyncio.get_running_loop()
    try:
        async with connect(url, max_size=MAX_MESSAGE_BYTES) as connection:

            async def discard() -> None:
                # A relay sends everything back: whoever does not read is a slow consumer.
                async for _ in connection:
                    pass

            discarding = asyncio.create_task(discard())
            iterator = iter(lines)
            # Standard input blocks: in a thread, so that pings are answered meanwhile.
            while (line := await loop.run_in_executor(None, next, iterator, None)) is not None:
                await connection.send(line.rstrip("\n"))
            await connection.close()
            await discarding
    except (OSError, WebSocketException, WSInvalidURL) as error:
        return _failed(url, error)
    return 0


async def listen_to(url: str) -> int:
    """Print each message and a newline until the server closes or nobody reads the output any more."""
    output = sys.stdout.buffer
    try:
        async with connect(url, max_size=MAX_MESSAGE_BYTES) as connection:
            while True:
                message = await connection.recv()
                try:
                    output.write(message.encode() if isinstance(message, str) else bytes(message))
                    output.write(b"\n")
                    output.flush()
                except BrokenPipeError:
                    # The reader is done (`| head`). Python flushes standard output once more at exit.
                    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                    return 0
    except ConnectionClosed as closed:
        if closed.rcvd is not None and closed.rcvd.code in (1000, 1001):
            return 0
        return _failed(url, closed)
    except (OSError, WebSocketException, WSInvalidURL) as error:
        return _failed(url, error)


def _failed(url: str, error: Exception) -> int:
    if isinstance(error, ConnectionClosed):
        what = "connection closed"
    elif isinstance(error, (InvalidURI, WSInvalidURL)):
        what = "not a WebSocket URL"
    elif isinstance(error, InvalidHandshake):
        what = "handshake refused"
    else:
        what = "cannot connect"
    click.echo(f"fastbcast: {url}: {what}: {error}", err=True)
    return 1
