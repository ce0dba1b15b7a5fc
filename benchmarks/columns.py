"""What a table shows: columns that read a figure out of one result, JSON of the load client or of a script."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Result = dict[str, Any]

KIB = 1024
MIB = 1024 * 1024


@dataclass(frozen=True)
class Column:
    title: str
    read: Callable[[Result], float | None]
    decimals: int = 2
    has_spread: bool = False
    short: str = ""  # the title in the ratio's column; "": its first word


def key(name: str, unit: float = 1) -> Callable[[Result], float | None]:
    """What a program or server does not know is missing or None."""
    return lambda result: None if result.get(name) is None else result[name] / unit


def time_ms(name: str, point: str) -> Callable[[Result], float | None]:
    return lambda result: result[name][point] if result.get(name, {}).get("count") else None


def greater_of(result: Result, *names: str) -> float | None:
    return max((result[name] for name in names if result.get(name) is not None), default=None)


CPU_US = Column("CPU us/delivery", key("server_cpu_us_per_delivery"), 3, has_spread=True)
SERVER_SHARE = Column("server CPU", key("server_cpu_share"))
CLIENT_SHARE = Column("client CPU", key("client_cpu_share"))
RATE = Column("deliveries/s", key("deliveries_per_second"), 0, has_spread=True)
BATCH = Column("frames/read", key("frames_per_read"), 1)
COMPLETION_P50 = Column("done p50 ms", time_ms("completion_ms", "p50"))
COMPLETION_P99 = Column("done p99 ms", time_ms("completion_ms", "p99"), has_spread=True, short="done p99")
HANDSHAKES = Column("handshakes/s", key("handshakes_per_second"), 0)
WAITED = Column("waited", lambda result: greater_of(result, "server_wait_share", "client_wait_share"))
STEAL = Column("steal", key("steal_share"))
