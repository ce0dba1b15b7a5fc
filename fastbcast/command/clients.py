"""What `fastbcast publish` and `fastbcast listen` do: small clients on picows' client side.

Both return the process's exit status, and say on standard error what went wrong in one line; they raise StreamFailed
for the caller to tell. They connect to the URL's host itself, whatever proxy the environment names, as `load` does: the
answer is that server's, and a token is for nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
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

from ..urls import hide_secrets, hide_secrets_in, prepare_url
from .streams import StreamFailed

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""What `listen` takes from a server it was told to trust."""
MAX_QUEUED_LINES = 64
"""How far reading the input may be ahead of sending it."""


def _connect(url: str, token: str | None) -> Any:
    url, authorization = prepare_url(url)
    if token is not None:
        authorization = f"Bearer {token}"
    options: dict[str, Any] = {
        "max_size": MAX_MESSAGE_BYTES,
        "proxy": None,
        "use_aiofastnet": False,    # else it would connect past interim.Loop
    }
    if authorization is not None:
        options["additional_headers"] = {"Authorization": authorization}
        options["max_redirects"] = 0    # it is for this server, and no other
    return connect(url, **options)


def read_lines(lines: Iterable[bytes]) -> Iterator[str]:
    """Each line of standard input as a message: without its LF or CRLF. Raises StreamFailed for what is not UTF-8."""
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode()
        except UnicodeDecodeError:
            problem = f"line {number} is not UTF-8 text, and neither it nor what follows was sent"
            raise StreamFailed("standard input", problem) from None
        yield text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text


async def publish_to(url: str, lines: Iterable[str], token: str | None = None) -> int:
    """Send each line as a text message, then close."""
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
        await connection.send(line)


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
            except Exception as error:  # whatever it is, who waits for a line must hear of it
                end = error
            loop.call_soon_threadsafe(queue.put_nowait, end)

    threading.Thread(target=read, daemon=True).start()
    while isinstance(line := await queue.get(), str):
        room.release()
        yield line
    if line is not None:
        raise line


async def listen_to(url: str, token: str | None = None) -> int:
    """Print each message and a newline until the server closes. Raises StreamFailed if that cannot be printed."""
    output = sys.stdout.buffer
    try:
        async with _connect(url, token) as connection:
            while True:
                message = await connection.recv()
                output.write((message.encode() if isinstance(message, str) else bytes(message)) + b"\n")
                output.flush()
    except ConnectionClosed as closed:
        return 0 if _is_normal(closed) else _failed(url, closed)
    except (OSError, ValueError, WebSocketException, WSInvalidURL) as error:
        return _failed(url, error)


def _is_normal(closed: ConnectionClosed) -> bool:
    return closed.rcvd is not None and closed.rcvd.code in (1000, 1001)


def _failed(url: str, error: Exception) -> int:
    if isinstance(error, ConnectionClosed):
        what = "connection closed"
    elif isinstance(error, OSError):    # first: a certificate that is not trusted is a ValueError as well
        what = "cannot connect"
    elif isinstance(error, InvalidURI | WSInvalidURL | ValueError):
        what = "not a WebSocket URL"
    elif isinstance(error, InvalidHandshake):
        what = "handshake refused"
    else:
        what = "cannot connect"
    shown = hide_secrets(url)
    click.echo(f"fastbcast: {shown}: {what}: {hide_secrets_in(str(error).replace(url, shown))}", err=True)
    return 1
