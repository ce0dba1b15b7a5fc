"""Which names channels may have: any URL may ask for one, and they end up in logs, metrics and on pages.

A name is checked when its channel is made; one that there is has been checked.
"""

from __future__ import annotations

import re

__all__ = ["ChannelNames"]

_JOINERS = {0x200C: None, 0x200D: None}
"""ZERO WIDTH NON-JOINER and JOINER: words of Persian and Hindi, and many emoji, are spelled so (Unicode 23.2)."""


class ChannelNames:
    """The rule for the names of one hub's channels."""

    def __init__(self, max_bytes: int, pattern: str) -> None:
        self._max_bytes = max_bytes
        self._pattern = re.compile(pattern)

    def find_fault(self, name: str) -> str | None:
        """Say what is wrong with `name`, None if nothing is. From any thread."""
        visible = name.translate(_JOINERS)
        # First: what is printable has no lone surrogates, and can be encoded.
        if not visible.isprintable() or (name and not visible):
            return "it has characters that cannot be printed"
        if len(name.encode()) > self._max_bytes:
            return f"it has more than max_channel_name_bytes={self._max_bytes}"
        if self._pattern.fullmatch(name) is None:
            return f"it does not match channel_name_pattern={self._pattern.pattern!r}"
        return None
