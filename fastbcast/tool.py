"""What `fastbcast publish` and `fastbcast listen` do: small clients on picows' client side.

Both return the process's exit status, and say on standard error what went wrong in one line.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterable
from typing import Any

import click
from picows import WSInvalidURL
from picows.websockets import (
    ClientConnection,
    ConnectionClosed,
    InvalidHandshake,
    InvalidURI,
    WebSocketException,
    connect,
)

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""What `listen` takes from a server it was told to trust."""
MAX_QUEUED_LINES = 64
"""How far reading the input may be ahead of sending it."""


def _connect(url: str, token: str | None) -> Any:
    if token is None:
        return connect(url, max_size=MAX_MESSAGE_BYTES)
    return connect(
        url,
        max_size=MAX_MESSAGE_BYTES,
        additional_headers={"Authorization": f"Bearer {token}"},
        max_redirects=0,    # the token is for this server, and no other
    )


async def publish_to(url: str, lines: Iterable[str], token: str | None = None) -> int:
    """Send each line (without its newline) as a text message, then close."""
    try:
        async with _connect(url, token) as connection:
            # A relay sends everything back: whoever does not read is a slow consumer.
            receiving = asyncio.create_task(_receive_until_closed(connection))
            sending = asyncio.create_task(_send(connection, lines))
            await asyncio.wait([sending, receiving], return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():  # the server has gone while input stays open
                sending.cancel()
                raise await receiving
            await sending
            await connection.close()
            closed = await receiving
            if not _is_normal(closed):
                raise closed
    except (OSError, ValueError, WebSocketException, WSInvalidURL) as error:
        return _failed(url, error)
    return 0


async def _receive_until_closed(connection: ClientConnection) -> ConnectionClosed:
    while True:
        try:
            await connection.recv()
        except ConnectionClosed as closed:
            return closed


async def _send(connection: ClientConnection, lines: Iterable[str]) -> None:
    async for line in _read_in_thread(lines):
        await connection.send(line.rstrip("\n"))


async def _read_in_thread(lines: Iterable[str]) -> AsyncIterator[str]:
    """Iterate over lines that block (standard input) while the loop goes on answering pings.

    The thread is a daemon: nobody waits for the rest of the input when the connection or the user has
    had enough. It is at most MAX_QUEUED_LINES ahead.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[str | Exception | None] = asyncio.Queue()
    room = threading.Semaphore(MAX_QUEUED_LINES)

    def read() -> None:
        end: Exception | None = None
        with contextlib.suppress(RuntimeError):  # the loop has ended
            try:
                for line in lines:
                    room.acquire()
                    loop.call_soon_threadsafe(queue.put_nowait, line)
            except (OSError, UnicodeDecodeError) as error:
                end = error
            loop.call_soon_threadsafe(queue.put_nowait, end)

    threading.Thread(target=read, daemon=True).start()
    while isinstance(line := await queue.get(), str):
        room.release()
        yield line
    if line is not None:
        raise line


async def listen_to(url: str, token: str | None = None) -> int:
    """Print each message and a newline until the server closes or nobody reads the output any more."""
    output = sys.stdout.buffer
    try:
        async with _connect(url, token) as connection:
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
        return 0 if _is_normal(closed) else _failed(url, closed)
    except (OSError, ValueError, WebSocketException, WSInvalidURL) as error:
        return _failed(url, error)


def _is_normal(closed: ConnectionClosed) -> bool:
    return closed.rcvd is not None and closed.rcvd.code in (1000, 1001)


def _failed(url: str, error: Exception) -> int:
    if isinstance(error, ConnectionClosed):
        what = "connection closed"
    elif isinstance(error, UnicodeDecodeError):
        what = "the input is not text"
    elif isinstance(error, OSError):    # first: a certificate that is not trusted is a ValueError as well
        what = "cannot connect"
    elif isinstance(error, InvalidURI | WSInvalidURL | ValueError):
        what = "not a WebSocket URL"
    elif isinstance(error, InvalidHandshake):
        what = "handshake refused"
    else:
        what = "cannot connect"
    # Without the query, which may have a token; some errors say the URL, too.
    shown = url.partition("?")[0]
    click.echo(f"fastbcast: {shown}: {what}: {str(error).replace(url, shown)}", err=True)
    return 1
