"""What the hub's clients have sent that cannot be handled yet, in sum: messages that are not whole, and what the last
read had brought from a client that is held back.

    oldest  [client: bytes, client: bytes, ...]  newest     above max_bytes the oldest are closed, with 1013

Each client may keep up to `max_message_bytes` here for as long as it likes. A thousand that begin a message and never
end it must not take a gigabyte; and those who come later, and end theirs, must not suffer for them: so it is the one
that has been at it for the longest who is closed, not the one that went over the bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._client import Client


class Partials:
    """The unfinished messages of one hub."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes: dict[Client, int] = {}
        self.total_bytes = 0

    def update(self, client: Client, size: int) -> None:
        """`client` keeps `size` bytes now; 0: its message is whole, or it is gone. It may be closed for it."""
        if size:
            self.total_bytes += size - self._bytes.get(client, 0)
            self._bytes[client] = size  # where it was: how long it has been at it counts
        else:
            self.total_bytes -= self._bytes.pop(client, 0)
        while self.total_bytes > self._max_bytes:
            oldest = next(iter(self._bytes))
            self.total_bytes -= self._bytes.pop(oldest)
            oldest._drop_partial()
