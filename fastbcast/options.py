"""Settings: each bound has its unit in its name, a default with its reason, and is checked when it is set."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["ChannelOptions", "HubOptions"]

KIB = 1024
MIB = 1024 * 1024


def _check(options: object, least: dict[str, float]) -> None:
    for field in fields(options):  # type: ignore[arg-type]
        value = getattr(options, field.name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{field.name} must be a number, got {value!r}")
        if field.type == "int" and not isinstance(value, int):
            raise TypeError(f"{field.name} must be an int, got {value!r}")
        if not least.get(field.name, 1) <= value < 2**62:
            raise ValueError(f"{field.name} must be at least {least.get(field.name, 1)}, got {value!r}")


@dataclass(frozen=True)
class ChannelOptions:
    """What a channel may hold for its subscribers. Set by pattern with `hub.configure`."""

    max_lag_bytes: int = 1 * MIB
    """A subscriber that the kernel refused and that is further behind than this is evicted (1013).
    Precedent: Centrifugo's queue of 1 MiB a client."""
    max_burst_bytes: int = 16 * MIB
    """How much more a burst may leave a subscriber behind without being held against it."""
    max_unswept_bytes: int = 4 * MIB
    """What may be published before a sweep runs at once instead of at the end of the loop's turn."""
    coalesce_seconds: float = 0.0
    """Wait this long after a publish before sending, to send less often. 0: the end of the loop's turn."""

    def __post_init__(self) -> None:
        _check(self, {"max_burst_bytes": 0, "coalesce_seconds": 0})


@dataclass(frozen=True)
class HubOptions:
    """What a hub allows a client, and how long it waits for one."""

    max_message_bytes: int = 1 * MIB
    """The largest message, in either direction: MessageTooBig, or 1009 to the client that sends it.
    Precedent: websockets' max_size."""
    max_fragments: int = 1024
    """Frames a client may cut one message into (1008 above); each costs a header's work."""
    max_direct_bytes: int = 1 * MIB
    """What may wait for a client of `client.send()` before it is closed with 1013."""
    max_inbox_messages: int = 32
    """Messages that wait for an async handler before reading from the client is paused."""
    max_threadsafe_bytes: int = 16 * MIB
    """What `publish_threadsafe` may queue before it raises PublishQueueFull."""
    close_seconds: float = 5.0
    """How long a peer may take to take our CLOSE and to answer it before the connection is aborted."""
    slice_seconds: float = 0.002
    """How long a sweep may run before the loop gets a turn."""

    def __post_init__(self) -> None:
        _check(self, {"close_seconds": 0.001, "slice_seconds": 0.0001})
