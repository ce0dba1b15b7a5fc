"""Taking over: a new process gets the listening sockets of the one that serves, and sends it home.

    new                                      old, which listens on a Unix socket at `path` (mode 0600)
     |---- connect ------------------------->|    both check the other's user
     |<--- the sockets, and their files -----|    (SCM_RIGHTS)
     |  begins to accept                     |  goes on accepting: they share the kernel's queue
     |---- "ready" ------------------------->|
     |<--- "yours" --------------------------|  stops accepting, and drains
     |  listens at `path` in its place       |
     |---- (closes) ------------------------>|  closes its own socket there

The sockets are passed on, never bound again: with SO_REUSEPORT each process has a queue of its own, and what waits in
the old one's is reset when that closes.

Invariants

1. Until the old process has read "ready" it serves as if nothing had happened, whatever becomes of the new one.
2. From the moment the new process has the sockets it serves, whatever becomes of the old one.
3. `path` names a living process at every moment in between. One process at a time is served there; the next one waits,
   and asks whoever is there then.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import socket
import struct
from collections.abc import Callable, Iterator

from ..deadlines import wait_for
from ..logging import log_event
from .listeners import Listeners, inherit

READY_SECONDS = 10.0
"""How long either side waits for the other's next word: a process that starts has nothing else to do."""
OFFER_SECONDS = 30.0
"""How long a new process waits for its turn: others may be before it."""
ASK_AGAIN_SECONDS = 0.05
MAX_SOCKETS = 64
MAX_OFFER_BYTES = 16 * 1024
READY = b"ready\n"
YOURS = b"yours\n"


class HandoverFailed(Exception):
    """What is at the path does not hand over; the text says why."""


class Predecessor:
    """The process that serves until now, as the new one sees it."""

    def __init__(self, connection: socket.socket, sockets: list[socket.socket], files: list[str]) -> None:
        self._connection = connection
        self._files = files
        self.sockets = sockets

    async def dismiss(self, listeners: Listeners) -> None:
        """Tell it that `listeners`, made of its sockets, are accepting: it drains. One that is gone is no error."""
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            await _send(self._connection, READY)
            await _receive(self._connection, len(YOURS))
        for path in self._files:
            listeners.adopt_file(path)

    def close(self) -> None:
        """Let it go: its place at the path has been taken."""
        self._connection.close()


async def find_predecessor(path: str) -> Predecessor | None:
    """Ask the process at `path` for its sockets; None if there is no process. HandoverFailed if it gives none."""
    # Counted, not timed: a process that was frozen meanwhile asks as often.
    for _ in range(math.ceil(OFFER_SECONDS / ASK_AGAIN_SECONDS)):
        with contextlib.ExitStack() as stack:
            connection = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            connection.setblocking(False)
            try:
                connection.connect(path)
                _check_peer(connection)
                sockets, files = await _receive_offer(connection)
            except (FileNotFoundError, ConnectionRefusedError):
                return None
            except (BlockingIOError, ConnectionError, EOFError):     # others ask too, and one of them was served
                pass
            except asyncio.TimeoutError:
                raise HandoverFailed(f"no answer within {OFFER_SECONDS:g} s") from None
            except ValueError as error:
                raise HandoverFailed(f"no fastbcast is there: {error}") from None
            except OSError as error:
                raise HandoverFailed(error.strerror or str(error)) from None
            else:
                stack.pop_all()
                return Predecessor(connection, sockets, files)
        await asyncio.sleep(ASK_AGAIN_SECONDS)
    raise HandoverFailed("others are taking over again and again")


class Offer:
    """What the process that serves offers at `path`: its listeners, to the next one that asks."""

    def __init__(self, path: str, listeners: Listeners, on_taken: Callable[[], None]) -> None:
        self._listeners = listeners
        self._on_taken = on_taken
        self._is_made = False       # somebody has our sockets, and may be accepting
        self._is_taken = False
        self._place = Listeners()
        with _umask(0o177):
            self._place.replace_file(path)
        self._task = asyncio.create_task(self._serve(self._place.sockets[0]))

    async def _serve(self, place: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                connection, _ = await loop.sock_accept(place)
                with connection:
                    connection.setblocking(False)
                    try:
                        if await self._hand_over(connection):
                            await _receive(connection, 1)   # until it is at the path in our place
                            return
                    except (OSError, EOFError, ValueError, asyncio.TimeoutError) as error:
                        log_event(logging.WARNING, "handover_failed", reason=str(error) or type(error).__name__)
                    self._is_made = False
        finally:
            self._place.close()

    async def _hand_over(self, connection: socket.socket) -> bool:
        _check_peer(connection)
        offer = json.dumps({"fastbcast": 1, "files": self._listeners.files}).encode()
        self._is_made = True
        socket.send_fds(connection, [offer], [listener.fileno() for listener in self._listeners.sockets])
        if await _receive(connection, len(READY)) != READY:
            raise ValueError("the other process is not a fastbcast, or has failed to start")
        self._is_taken = True
        self._listeners.leave_files()
        self._on_taken()
        with contextlib.suppress(OSError):
            await _send(connection, YOURS)
        return True

    def withdraw(self) -> None:
        """Offer them to nobody else.

        A process that has the sockets already keeps them, and the files; one that has taken over gets our place, too.
        """
        if self._is_made:
            self._listeners.leave_files()
        if not self._is_taken:
            self._task.cancel()

    async def close(self) -> None:
        """Withdraw it, and wait until that is done."""
        self.withdraw()
        await asyncio.wait([self._task])


async def _send(connection: socket.socket, data: bytes) -> None:
    await wait_for(asyncio.get_running_loop().sock_sendall(connection, data), READY_SECONDS)


async def _receive(connection: socket.socket, size: int) -> bytes:
    return await wait_for(asyncio.get_running_loop().sock_recv(connection, size), READY_SECONDS)


async def _receive_offer(connection: socket.socket) -> tuple[list[socket.socket], list[str]]:
    """Return the listening sockets and their files; EOFError at the end of the stream, ValueError for nonsense."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(connection.fileno(), readable.set)
    try:
        await wait_for(readable.wait(), OFFER_SECONDS)
    finally:
        loop.remove_reader(connection.fileno())
    data, fds, _, _ = socket.recv_fds(connection, MAX_OFFER_BYTES, MAX_SOCKETS)
    with contextlib.ExitStack() as stack:
        for fd in fds:
            stack.callback(os.close, fd)
        if not data:
            raise EOFError
        offer = json.loads(data)
        if not isinstance(offer, dict) or offer.get("fastbcast") != 1 or not fds:
            raise ValueError("it offers no sockets")
        sockets = [inherit(fd) for fd in fds]
        files = [str(path) for path in offer.get("files", ())]
        stack.pop_all()
    return sockets, files


def _check_peer(connection: socket.socket) -> None:
    """PermissionError if the process at the other end is another user's."""
    if hasattr(socket, "SO_PEERCRED"):  # elsewhere the file's mode has to do
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, uid, _ = struct.unpack("3i", credentials)
        if uid != os.geteuid():
            raise PermissionError(1, f"the process at the other end is of user {uid}, not of {os.geteuid()}")


@contextlib.contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)
