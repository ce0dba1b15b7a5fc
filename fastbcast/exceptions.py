"""Everything fastbcast raises on purpose.

    FastbcastError
    ├── MessageTooBig (ValueError)      publish, send: the message is above max_message_bytes
    ├── InvalidChannelName (ValueError) no channel may be called so
    ├── WrongThread (RuntimeError)      a method of the loop's thread was called from another
    ├── KeysFull                        publish: a conflating channel has max_keys or max_snapshot_bytes
    ├── TooManyChannels                 the hub has max_channels
    ├── TooManySubscriptions            client.subscribe: the client has max_subscriptions
    ├── PublishQueueFull                publish_threadsafe: the loop does not keep up
    ├── BadTokenFile (ValueError)       a token file of the command line cannot be used
    └── Reject                          raised BY an authorize hook, to refuse a client

An exception carries its facts as attributes; its text is made from them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from http import HTTPStatus

__all__ = [
    "BadTokenFile",
    "FastbcastError",
    "InvalidChannelName",
    "KeysFull",
    "MessageTooBig",
    "PublishQueueFull",
    "Reject",
    "TooManyChannels",
    "TooManySubscriptions",
    "WrongThread",
]


class FastbcastError(Exception):
    """Base of all exceptions of this package."""


class MessageTooBig(FastbcastError, ValueError):
    """A message is larger than the channel allows."""

    def __init__(self, message_bytes: int, max_message_bytes: int) -> None:
        super().__init__(message_bytes, max_message_bytes)
        self.message_bytes = message_bytes
        self.max_message_bytes = max_message_bytes

    def __str__(self) -> str:
        return f"message of {self.message_bytes} bytes is above max_message_bytes={self.max_message_bytes}"


class InvalidChannelName(FastbcastError, ValueError):
    """No channel may have this name: see `max_channel_name_bytes` and `channel_name_pattern`. `reason` says why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name[:80]!r} cannot be a channel's name: {self.reason}"


class WrongThread(FastbcastError, RuntimeError):
    """A method that belongs to the event loop's thread was called from another one."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return f"{self.what} belongs to the event loop's thread; from another one use hub.publish_threadsafe()"


class KeysFull(FastbcastError):
    """Conflating channels keep the newest message of every key, and one more is too many or too large.

    `max_bytes` is the channel's `max_snapshot_bytes`, or half of the hub's `max_log_bytes` for all of them.
    """

    def __init__(self, keys: int, max_keys: int, wanted_bytes: int, max_bytes: int) -> None:
        super().__init__(keys, max_keys, wanted_bytes, max_bytes)
        self.keys = keys
        self.max_keys = max_keys
        self.wanted_bytes = wanted_bytes
        self.max_bytes = max_bytes

    def __str__(self) -> str:
        return (
            f"{self.keys} keys of at most {self.max_keys} would need {self.wanted_bytes} bytes "
            f"of at most {self.max_bytes}; forget(key) drops one"
        )


class TooManyChannels(FastbcastError):
    """The hub has as many channels as it may have."""

    def __init__(self, name: str, max_channels: int) -> None:
        super().__init__(name, max_channels)
        self.name = name
        self.max_channels = max_channels

    def __str__(self) -> str:
        return f"no channel {self.name!r}: there are max_channels={self.max_channels} already"


class TooManySubscriptions(FastbcastError):
    """A client is subscribed to as many channels as it may be."""

    def __init__(self, channel: str, max_subscriptions: int) -> None:
        super().__init__(channel, max_subscriptions)
        self.channel = channel
        self.max_subscriptions = max_subscriptions

    def __str__(self) -> str:
        return f"not subscribed to {self.channel!r}: the client has max_subscriptions={self.max_subscriptions} already"


class PublishQueueFull(FastbcastError):
    """Other threads have published faster than the event loop took it."""

    def __init__(self, queued_bytes: int, max_queued_bytes: int) -> None:
        super().__init__(queued_bytes, max_queued_bytes)
        self.queued_bytes = queued_bytes
        self.max_queued_bytes = max_queued_bytes

    def __str__(self) -> str:
        return f"{self.queued_bytes} bytes wait for the event loop, max_threadsafe_bytes={self.max_queued_bytes}"


class BadTokenFile(FastbcastError, ValueError):
    """A token file cannot be used; `reason` says why, and does not show a token."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"token file {os.fspath(self.path)}: {self.reason}"


class Reject(FastbcastError):
    """Refuse a client before the 101: raise it in an authorize hook.

    `status` is one of HTTP's from 400 to 599 (ValueError otherwise), `reason` a short text for the body, `headers` are
    added to the answer: a 401 has `WWW-Authenticate: Bearer`, unless they say something else.
    """

    def __init__(self, status: int = 403, reason: str = "", headers: Mapping[str, str] | None = None) -> None:
        if not 400 <= status <= 599:
            raise ValueError(f"a rejection has a status from 400 to 599, got {status}")
        super().__init__(status, reason)
        self.status = HTTPStatus(status)
        self.reason = reason or self.status.phrase
        self.headers = dict(headers or {})

    def __str__(self) -> str:
        return f"{self.status.value} {self.reason}"
