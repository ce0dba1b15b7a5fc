"""Real WebSocket clients in a thread of their own, and what each of them got.

    the test's thread                       the fleet's thread
        counts, messages   -- function -->      Audience.listen(), between two of them the functions
                           <-- result ----
"""

from __future__ import annotations

import concurrent.futures
import os
import resource
import socket
import time
from collections.abc import Collection, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..connection._client import Client
from .drain import drain
from .fleet_thread import FleetThread
from .server import DRAIN_SECONDS, BroadcastServer

try:
    from ..load._audience import Audience
    from ..load._audit import MIN_PAYLOAD_BYTES, Kind
    from ..load._board import Board
    from ..load.connector import CannotConnect, Connector
    from ..load.plan import Plan, Slow, parse_slow
except ImportError as error:
    raise ImportError(
        f"fleet and slow_client need fastbcast's compiled clients, which are built on Linux only ({error})"
    ) from error

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Fleet", "FleetClient", "parse_rate"]

CONNECT_SECONDS = 30.0
CONNECTING_AT_ONCE = 128
"""Handshakes that are under way: far below what may wait in a server's backlog."""
LEAVE_SECONDS = 2.0
"""How long a server may take to answer our CLOSEs."""
EVICTIONS = ("slow_consumer", "stalled", "log_full", "pinned_full", "direct_overflow")
"""Causes of a Disconnect: the client has lost what was published to it."""
MAX_KEPT_BYTES = 256 * 1024 * 1024
"""What the messages of one fleet may have, in all."""
SLOW_RECEIVE_BUFFER_BYTES = 4096
"""SO_RCVBUF of a slow client: with the kernel's own some hundred KiB would go out before it is slow."""
DESCRIBE_SECONDS = 1.0
SPARE_DESCRIPTORS = 16
COARSE_SECONDS = 0.01
"""The time at which a message was published is taken from a clock that may be so far behind."""


class Fleet:
    """`count` clients of `url`, connected: `fleet[3]`, `for client in fleet`, `with Fleet(...) as fleet`.

    server: whose url it is, if that is in this process, for `drain`. keep_messages: False if only counts are wanted.
    slow: how they read (see parse_rate); None: all there is, at once. receive_buffer_bytes: SO_RCVBUF; 0: the kernel's.

    Raises ConnectionError if not all can connect, ValueError for a URL or a count that cannot be.
    """

    def __init__(
        self,
        count: int,
        url: str,
        *,
        server: BroadcastServer | None = None,
        keep_messages: bool = True,
        slow: Slow | None = None,
        receive_buffer_bytes: int = 0,
    ) -> None:
        if count < 1:
            raise ValueError(f"a fleet has at least 1 client, not {count}")
        _check_descriptors(count if server is None else 2 * count)
        self.url = url
        self.server = server
        self.is_slow = slow is not None
        self._keeps_messages = keep_messages
        self._messages: list[list[str | bytes]] = [[] for _ in range(count)]
        self._has_sent = False
        self._has_left = False
        self._board = Board(1, 1)
        self._audience = Audience(
            self._board, 0, 1, MIN_PAYLOAD_BYTES, count, max_kept_bytes=MAX_KEPT_BYTES if keep_messages else 0
        )
        try:
            addresses = self._connect(count, slow, receive_buffer_bytes)
            self._peers: list[Client | None] = [] if server is None else server.call(_find_peers, server, addresses)
        except BaseException:
            self._audience.close()
            raise
        self._thread = FleetThread(self._audience)
        if server is not None:
            server.fleets.add(self)

    # What is there.

    def __len__(self) -> int:
        return len(self._messages)

    def __iter__(self) -> Iterator[FleetClient]:
        return (FleetClient(self, number) for number in range(len(self)))

    def __getitem__(self, number: int) -> FleetClient:
        return FleetClient(self, range(len(self))[number])

    @property
    def counts(self) -> list[int]:
        """How many messages each client has got."""
        return self._thread.ask(self._audience.read_counts)

    @property
    def messages(self) -> list[list[str | bytes]]:
        """The messages of each client, in the order they came: text as str, binary as bytes.

        RuntimeError if they are not kept, or were more than MAX_KEPT_BYTES in all.
        """
        return [list(messages) for messages in self._read_messages()]

    @property
    def open_count(self) -> int:
        """How many clients are connected."""
        return len(self._thread.ask(self._audience.read_open))

    @property
    def closes(self) -> dict[int, int]:
        """How many clients the server has closed, by code; 1005: it sent none, 1006: there was no CLOSE."""
        return self._thread.ask(self._audience.read_closes)

    # What may be done.

    def drain(self, timeout: float = DRAIN_SECONDS) -> None:
        """Return when every client has read all that was published so far.

        Of what clients send, that includes what a plain on_message handler published for it. Who has been closed has
        read all it will get. Without a `server`, it is what had been sent when the other end answered a PING.

        Raises NotDrained, which says who lacks what: after `timeout` seconds, or at once if the server has evicted
        somebody for being behind. RuntimeError for slow clients.
        """
        if self.is_slow:
            raise RuntimeError("slow clients are not waited for: drain the others, then look what these have")
        drain([self], timeout)

    def close(self) -> None:
        """Let all clients leave, with a closing handshake (1000). What they got can still be read."""
        if self._has_left:
            return
        self._has_left = True
        audience = self._audience
        left = self._thread.begin(
            lambda: [audience.leave(number) for number in audience.read_open()], lambda: audience.leaving == 0
        )
        concurrent.futures.wait([left], LEAVE_SECONDS)
        self._thread.end()
        audience.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # For drain().

    def take_sent(self) -> bool:
        """Whether a client has sent something since this was last asked."""
        has_sent, self._has_sent = self._has_sent, False
        return has_sent

    def begin_pings(self, numbers: Collection[int] | None) -> concurrent.futures.Future[Any]:
        """Let these clients (None: all) send a PING; done when each has its PONG, or has been closed."""
        audience = self._audience
        return self._thread.begin(
            lambda: [audience.ping(number) for number in (audience.read_open() if numbers is None else numbers)],
            lambda: audience.unanswered == 0,
        )

    def find_behind(
        self, numbers: Collection[int] | None, since: float, timeout: float
    ) -> tuple[list[int], dict[str, str]]:
        """For which of these (None: all) a message waits at the server that was published before `since`.

        And which of them the server has evicted: why, by client.
        """
        if self.server is None:
            return [], {}
        behind, evicted = self.server.call_within(timeout, self._find_behind, numbers, since)
        return behind, self._name(evicted)

    def _find_behind(self, numbers: Collection[int] | None, since: float) -> tuple[list[int], dict[int, str]]:
        newer_seconds = time.monotonic() - since - COARSE_SECONDS
        behind = []
        evicted = {}
        for number in range(len(self)) if numbers is None else numbers:
            peer = self._peers[number]
            if peer is None:
                continue
            if peer.disconnected is not None and peer.disconnected.cause in EVICTIONS:
                evicted[number] = f"the server has evicted it ({peer.disconnected.cause}); see its limits"
            elif (lag := peer.lag).messages and lag.seconds >= newer_seconds:
                behind.append(number)
        return behind, evicted

    def describe_lacking(self, behind: Collection[int]) -> dict[str, str]:
        """What is known of the clients that are `behind`, and of those whose PING has no PONG, by client."""
        lacking = dict.fromkeys(self._thread.ask(self._audience.read_unanswered), "its PING has no PONG")
        if self.server is not None:
            try:
                lacking |= self.server.call_within(DESCRIBE_SECONDS, self._describe_behind, behind)
            except TimeoutError:
                lacking |= dict.fromkeys(range(len(self)), "nothing is known, the server's event loop is blocked")
        return self._name(lacking)

    def _name(self, clients: dict[int, str]) -> dict[str, str]:
        return {f"client {number} of {self.url}": what for number, what in sorted(clients.items())}

    def _describe_behind(self, behind: Collection[int]) -> dict[int, str]:
        described = {}
        for number in behind:
            peer = self._peers[number]
            if peer is not None and (lag := peer.lag).messages:
                what = f"message{'s' if lag.messages > 1 else ''} ({lag.bytes:,} bytes)"
                described[number] = f"{lag.messages:,} {what} wait for it at the server"
        return described

    # For FleetClient.

    def _read_messages(self) -> list[list[str | bytes]]:
        if not self._keeps_messages:
            raise RuntimeError("this fleet was made with keep_messages=False: there are only counts")
        for number, message in self._thread.ask(self._audience.take_kept):
            self._messages[number].append(message)
        if self._thread.ask(lambda: self._audience.dropped_messages):
            raise RuntimeError(
                f"the messages of this fleet are more than {MAX_KEPT_BYTES:,} bytes: make it with keep_messages=False"
            )
        return self._messages

    def _send(self, number: int, message: str | bytes) -> None:
        self._has_sent = True
        if not self._thread.ask(lambda: self._audience.send(number, message)):
            raise ConnectionError(f"client {number} of {self.url} is not connected any more")

    def _read_freely(self, number: int) -> None:
        self.is_slow = False
        self._thread.ask(lambda: self._audience.read_freely(number))

    def _close(self, number: int) -> None:
        audience = self._audience
        self._thread.begin(lambda: audience.leave(number), lambda: audience.leaving == 0).result(LEAVE_SECONDS)

    def _wait_closed(self, number: int, timeout: float) -> int | None:
        audience = self._audience
        try:
            self._thread.begin(lambda: None, lambda: number not in audience.read_open()).result(timeout)
        except concurrent.futures.TimeoutError:
            raise TimeoutError(f"client {number} of {self.url} is still connected after {timeout:g} s") from None
        return self._close_code(number)

    def _close_code(self, number: int) -> int | None:
        return self._thread.ask(self._audience.read_close_codes)[number] or None

    # Connecting, before there is the thread.

    def _connect(self, count: int, slow: Slow | None, receive_buffer_bytes: int) -> list[Any]:
        """Connect all; return their addresses."""
        addresses = []
        end = time.monotonic() + CONNECT_SECONDS
        kind = Kind.STEADY if slow is None else Kind.SLOW
        pace = {} if slow is None else {"every_seconds": slow.every_seconds, "read_bytes": slow.read_bytes}
        try:
            connector = Connector(Plan(url=self.url, clients=count, expect_prefix=b""))
            for _ in range(count):
                self._finish_handshakes(CONNECTING_AT_ONCE, end)
                request, accept = connector.make_request(0)
                with socket.socket(fileno=connector.open_socket(receive_buffer_bytes)) as sock:
                    addresses.append(sock.getsockname())
                    self._audience.add(sock.detach(), kind, 0, request, accept, **pace)
            self._finish_handshakes(0, end)
        except CannotConnect as error:
            raise ConnectionError(str(error)) from None
        return addresses

    def _finish_handshakes(self, most_connecting: int, end: float) -> None:
        """Listen until only so many are under way; ConnectionError if one has failed, or at `end`."""
        audience = self._audience
        while audience.connecting > most_connecting and not audience.read_problems() and time.monotonic() < end:
            audience.listen(max(0.0, end - time.monotonic()), most_connecting)
        if audience.connecting > most_connecting and not audience.read_problems():
            audience.give_up_connecting()
        if problems := audience.read_problems():
            raise ConnectionError(f"not all of {len(self)} clients can connect to {self.url}: {', '.join(problems)}")


class FleetClient:
    """One client of a fleet."""

    __slots__ = ("fleet", "number")

    def __init__(self, fleet: Fleet, number: int) -> None:
        self.fleet = fleet
        self.number = number

    def __repr__(self) -> str:
        return f"<client {self.number} of {self.fleet.url}>"

    @property
    def count(self) -> int:
        """How many messages it has got."""
        return self.fleet.counts[self.number]

    @property
    def messages(self) -> list[str | bytes]:
        """Its messages; see Fleet.messages."""
        return list(self.fleet._read_messages()[self.number])

    @property
    def is_open(self) -> bool:
        return self.fleet._thread.ask(lambda: self.fleet._audience.is_open(self.number))

    @property
    def close_code(self) -> int | None:
        """With which the server closed it; None: it did not. 1005: it sent none, 1006: there was no CLOSE."""
        return self.fleet._close_code(self.number)

    def send(self, message: str | bytes) -> None:
        """Send a message to the server. ConnectionError if the client is not connected any more."""
        self.fleet._send(self.number, message)

    def close(self) -> None:
        """Leave with a closing handshake (1000), and wait for its end."""
        self.fleet._close(self.number)

    def read_freely(self) -> None:
        """Let a slow client read all there is from now on; `drain` waits for it then, too."""
        self.fleet._read_freely(self.number)

    def wait_closed(self, timeout: float = 10.0) -> int | None:
        """Wait until it is not connected any more; return `close_code`. TimeoutError.

        A client that does not read sees no end either: ask the server about it, or let it `read_freely`.
        """
        return self.fleet._wait_closed(self.number, timeout)


def parse_rate(rate: str | float) -> Slow:
    """How a slow client reads: "stall" (nothing, ever), "bursts", "1KB/s", or a number of bytes a second."""
    try:
        return parse_slow(f"1:{rate}" if isinstance(rate, str) else f"1:{rate}/s")
    except ValueError:
        raise ValueError(
            f'a rate is "stall", "bursts", like "1KB/s", or a number of bytes a second from 1, not {rate!r}'
        ) from None


def _find_peers(server: BroadcastServer, addresses: list[Any]) -> list[Client | None]:
    peers = {client.remote_address: client for client in server.hub.clients()}
    return [peers.get(address) for address in addresses]


def _check_descriptors(more: int) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    wanted = len(os.listdir("/proc/self/fd")) + more + SPARE_DESCRIPTORS
    if limit != resource.RLIM_INFINITY and wanted > limit:
        raise ValueError(f"{wanted:,} open files are needed, this process may have {limit:,}: raise `ulimit -n`")
