"""All connections before their 101: each waits for one thing, for a limited time, and there is a limit of them.

    reading     for the rest of the request's head      handshake_seconds, then 408
    deciding    for an async authorize hook             authorize_seconds, then 503
    lingering   for the peer to read its refusal        LINGER_SECONDS, then it is cut off
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from operator import methodcaller
from typing import TYPE_CHECKING

from ..deadlines import Deadlines
from ..options import ServerOptions

if TYPE_CHECKING:
    from ._handshake import Handshake

__all__ = ["PendingHandshakes"]

LINGER_SECONDS = 2.0
"""How long an answered connection may take to read its answer and close. Precedent: nginx' lingering_timeout is 5 s."""


class PendingHandshakes:
    """The Handshakes of a server; each is in exactly one of its three queues."""

    def __init__(self, options: ServerOptions) -> None:
        self._max_handshakes = options.max_handshakes
        self.reading: Deadlines[Handshake] = Deadlines(options.handshake_seconds, methodcaller("refuse_slow_head"))
        self.deciding: Deadlines[Handshake] = Deadlines(options.authorize_seconds, methodcaller("refuse_slow_decision"))
        self.lingering: Deadlines[Handshake] = Deadlines(LINGER_SECONDS, methodcaller("abort"))
        self._queues = (self.reading, self.deciding, self.lingering)
        self._first_to_go = (self.lingering.waiting, self.reading.waiting)
        """What makes room for another connection, in this order; a queue of idle connections would be the first."""

    def __len__(self) -> int:
        return sum([len(queue.waiting) for queue in self._queues])

    def __iter__(self) -> Iterator[Handshake]:
        return chain.from_iterable(queue.waiting for queue in self._queues)

    def make_room(self) -> bool:
        """Make room for one more Handshake. False if all there are wait for the hook: it is the server that is slow.

        Drops answered connections first, then the oldest that is still sending its head, so a flood of half-open
        connections displaces only itself.
        """
        while len(self) >= self._max_handshakes:
            handshake = next(chain(*self._first_to_go), None)
            if handshake is None:
                return False
            handshake.cut_off()
        return True

    def close(self) -> None:
        """Cut them all off."""
        for handshake in list(self):
            handshake.abort()
        for queue in self._queues:
            queue.close()
