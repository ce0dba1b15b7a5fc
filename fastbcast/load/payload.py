"""What follows the stamp in the messages of a load: always the same letters, or text that compresses as real text does.

A message of constant letters would be nearly nothing in a compressor's window, and the figure a lie. So with
--deflate it is trade ticks (ticks.py), cut to the size that was asked for, and the next message has the next ticks.
They begin again after TEXT_BYTES: a window of 32 KiB (RFC 7692 section 7.1.2) has forgotten them by then.
"""

from __future__ import annotations

from collections.abc import Iterator

from .ticks import make_ticks

__all__ = ["PAYLOADS", "make_bodies"]

PAYLOADS = ("letters", "ticks")
TEXT_BYTES = 512 * 1024
TICK_BYTES = 160
"""A little more than one takes."""
SEED = 1


def make_bodies(payload: str, body_bytes: int) -> tuple[bytes, ...]:
    """One for each message in turn; their number is a power of two. The same for the same arguments."""
    if payload == "letters" or not body_bytes:
        return (bytes(97 + at % 26 for at in range(body_bytes)),)
    count = 1 << max(0, (TEXT_BYTES // max(body_bytes, TICK_BYTES)).bit_length() - 1)
    ticks = make_ticks(SEED)
    return tuple(_fill(ticks, body_bytes) for _ in range(count))


def _fill(ticks: Iterator[bytes], body_bytes: int) -> bytes:
    parts = [next(ticks)]
    size = len(parts[0])
    while size < body_bytes:
        parts.append(next(ticks))
        size += 1 + len(parts[-1])
    return b",".join(parts)[:body_bytes]
