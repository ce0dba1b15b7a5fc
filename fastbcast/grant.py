"""What a client may do: Grant, which an authorize hook returns instead of a bare identity.

Invariants

1. A Grant does not change: a client keeps the rights that it came in with.
2. A client without a Grant may do everything. `client.subscribe()` and `hub.publish()` are the application's own
   decisions, and are never refused here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

__all__ = ["Grant"]


@dataclass(frozen=True)
class Grant:
    """Who the client is, and the channels it may subscribe to and publish to.

    Patterns are those of fnmatch, as in `hub.configure`. TypeError if they are no str, or one str alone.
    """

    identity: Any = None
    """Becomes `client.identity`."""
    _: KW_ONLY
    subscribe: Iterable[str] = ("*",)
    """Patterns of channels it may subscribe to."""
    publish: Iterable[str] = ("*",)
    """Patterns of channels it may publish to."""

    def __post_init__(self) -> None:
        for name in ("subscribe", "publish"):
            patterns = getattr(self, name)
            # Of a str each letter would be a pattern.
            patterns = (None,) if isinstance(patterns, str) else tuple(patterns)
            if not all(isinstance(pattern, str) for pattern in patterns):
                raise TypeError(f"{name} needs several patterns of channels, got {getattr(self, name)!r}")
            object.__setattr__(self, name, patterns)

    def may_subscribe(self, channel: str) -> bool:
        """Whether one of its patterns matches `channel`."""
        return _matches(channel, tuple(self.subscribe))

    def may_publish(self, channel: str) -> bool:
        """Whether one of its patterns matches `channel`."""
        return _matches(channel, tuple(self.publish))


@lru_cache(maxsize=4096)    # asked for every message that is relayed, of the same few channels
def _matches(channel: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(channel, pattern) for pattern in patterns)
