"""What a table shows: columns that read a figure out of one result, of the load generator or of a script."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Result = dict[str, Any]
Read = Callable[[Result], float | None]

KIB = 1024
MIB = 1024 * 1024


@dataclass(frozen=True)
class Column:
    title: str
    read: Read
    decimals: int = 2
    has_spread: bool = False
    short: str = ""  # the title in the ratio's column; "": its first word


def figure(*path: str, unit: float = 1) -> Read:
    """What the load generator, a script or a server does not know is missing or None."""

    def read(result: Result) -> float | None:
        value: Any = result
        for name in path:
            value = value.get(name) if value is not None else None
        return None if value is None else value / unit

    return read


def growth(group: str, before: str, after: str) -> Read:
    """In MiB, from one figure of a group to another."""

    def read(result: Result) -> float | None:
        start, end = figure(group, before)(result), figure(group, after)(result)
        return None if start is None or end is None else (end - start) / MIB

    return read


def greatest(*reads: Read) -> Read:
    return lambda result: max((value for read in reads if (value := read(result)) is not None), default=None)


CPU_US = Column("CPU us/delivery", figure("server", "cpu_us_per_delivery"), 3, has_spread=True)
SERVER_SHARE = Column("server CPU", figure("server", "cpu_share"))
CLIENT_SHARE = Column("client CPU", figure("client", "cpu_share"))
RATE = Column("deliveries/s", figure("deliveries_per_second"), 0, has_spread=True)
BATCH = Column("frames/read", figure("client", "frames_per_read"), 1)
COMPLETION_P50 = Column("done p50 ms", figure("completion_ms", "p50"))
COMPLETION_P99 = Column("done p99 ms", figure("completion_ms", "p99"), has_spread=True, short="done p99")
HANDSHAKES = Column("handshakes/s", figure("handshakes", "per_second"), 0)
WAITED = Column("waited", greatest(figure("server", "wait_share"), figure("client", "wait_share")))
STEAL = Column("steal", figure("steal_share"))
PEAK_GROWTH = Column("peak growth MiB", growth("server", "rss_before_bytes", "rss_peak_bytes"), 2, has_spread=True)
ALLOWED_GROWTH = Column("allowed MiB", figure("allowed_growth_bytes", unit=MIB), 2)
