"""What is measured: the scenarios, each a function that returns its cases, and the columns of their tables.

A case is one load on some servers and becomes one table. Nothing here runs anything: run.py does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from servers import SUBJECT

Result = dict[str, Any]


@dataclass(frozen=True)
class Column:
    title: str
    read: Callable[[Result], float | None]
    decimals: int = 2
    has_spread: bool = False


def key(name: str) -> Callable[[Result], float | None]:
    return lambda result: result[name]


def time_ms(name: str, point: str) -> Callable[[Result], float | None]:
    return lambda result: result[name][point] if result[name]["count"] else None


CPU_US = Column("CPU us/delivery", key("server_cpu_us_per_delivery"), 3, has_spread=True)
SERVER_SHARE = Column("server CPU", key("server_cpu_share"))
CLIENT_SHARE = Column("client CPU", key("client_cpu_share"))
RATE = Column("deliveries/s", key("deliveries_per_second"), 0, has_spread=True)
BATCH = Column("frames/read", key("frames_per_read"), 1)
COMPLETION_P50 = Column("done p50 ms", time_ms("completion_ms", "p50"))
COMPLETION_P99 = Column("done p99 ms", time_ms("completion_ms", "p99"), has_spread=True)
HANDSHAKES = Column("handshakes/s", key("handshakes_per_second"), 0)
STEAL = Column("steal", key("steal_share"))


@dataclass(frozen=True)
class Case:
    """One load: what is measured, on which servers, and the columns that answer its question."""

    title: str
    load: list[str]
    servers: tuple[str, ...]
    reference: str
    columns: tuple[Column, ...]
    judged: Column = CPU_US  # the figure whose ratio is taken
    loop: str = "closed"  # closed, open or none


CLOSED_COLUMNS = (CPU_US, RATE, BATCH, SERVER_SHARE, CLIENT_SHARE, COMPLETION_P50, COMPLETION_P99, STEAL)


def lockstep(clients: int = 1000, messages: int = 400) -> list[Case]:
    """1,000 subscribers, 128 bytes, one message in flight until ALL have it: the price of a send."""
    load = f"--clients {clients} --size 128 --in-flight 1 --judge all --messages {messages} --warmup 50"
    return [Case("1 in flight, judge all", load.split(), (SUBJECT, "floor"), "floor", CLOSED_COLUMNS)]


def pipelined(
    clients: int = 1000,
    seconds: float = 3,
    servers: tuple[str, ...] = (SUBJECT, "floor-coalesce", "bun", "picows"),
) -> list[Case]:
    """64 in flight: what coalescing is worth. `first` keeps the server busy, `all` waits for the last."""
    load = f"--clients {clients} --size 128 --in-flight 64 --seconds {seconds} --warmup 200"
    return [
        Case(
            f"64 in flight, judge {judge}",
            [*load.split(), "--judge", judge],
            servers,
            "floor-coalesce",
            CLOSED_COLUMNS,
        )
        for judge in ("first", "all")
    ]


def large(clients: int = 1000, seconds: float = 3) -> list[Case]:
    """4 KiB messages, 8 in flight, both judges: where copying begins to count."""
    load = f"--clients {clients} --size 4096 --in-flight 8 --seconds {seconds} --warmup 50"
    return [
        Case(
            f"4 KiB, 8 in flight, judge {judge}",
            [*load.split(), "--judge", judge],
            (SUBJECT, "floor-coalesce"),
            "floor-coalesce",
            CLOSED_COLUMNS,
        )
        for judge in ("first", "all")
    ]


def openloop(
    clients: int = 1000,
    seconds: float = 4,
    rates: tuple[int, ...] = (50, 100, 200, 400),
    servers: tuple[str, ...] = (SUBJECT, "picows"),
) -> list[Case]:
    """A fixed rate, whatever the server does: how much CPU it takes, and how late the last one has it."""
    columns = (SERVER_SHARE, CLIENT_SHARE, CPU_US, BATCH, COMPLETION_P50, COMPLETION_P99, STEAL)
    load = f"--clients {clients} --size 128 --warmup 20"
    return [
        Case(
            f"{rate} messages/s",
            [*load.split(), "--rate", str(rate), "--messages", str(int(rate * seconds))],
            servers,
            servers[-1],
            columns,
            loop="open",
        )
        for rate in rates
    ]


def many(clients: int = 15000, messages: int = 60, probes: int = 20) -> list[Case]:
    """15,000 subscribers; others connect while the broadcast runs. Nothing may be missing."""
    load = (
        f"--clients {clients} --size 128 --in-flight 1 --judge all --messages {messages} --warmup 5"
        f" --connect-probes {probes} --source-spread"
    )
    columns = (
        CPU_US,
        RATE,
        SERVER_SHARE,
        HANDSHAKES,
        Column("missing", key("missing"), 0),
        Column("probes", lambda result: result["probe_connect_ms"]["count"], 0),
        Column("probe p50 ms", time_ms("probe_connect_ms", "p50"), 1),
        Column("probe max ms", time_ms("probe_connect_ms", "max"), 1),
        COMPLETION_P99,
        STEAL,
    )
    return [Case(f"{clients:,} subscribers", load.split(), (SUBJECT, "floor"), "floor", columns)]


def memory(
    clients: int = 4000,
    seconds: float = 2,
    servers: tuple[str, ...] = (SUBJECT, "floor", "bun", "picows", "picows-aiofastnet"),
) -> list[Case]:
    """Idle connections: resident bytes of the server for each (kernel memory is not in it)."""
    rss = Column("rss bytes/conn", key("rss_bytes_per_connection"), 0, has_spread=True)
    columns = (rss, Column("pss bytes/conn", key("pss_bytes_per_connection"), 0), HANDSHAKES)
    load = f"--clients {clients} --hold {seconds}"
    return [Case(f"{clients:,} idle", load.split(), servers, servers[-1], columns, rss, loop="none")]


def quick(clients: int = 200) -> list[Case]:
    """All of the above, small and once, in under a minute: a check for CI, its figures mean little."""
    own = (SUBJECT, "floor-coalesce")
    return [
        *lockstep(clients, 100),
        *pipelined(clients, 0.5, own),
        *large(clients, 0.5),
        *openloop(clients, 1, (100,), own),
        *many(clients * 10, 20, 5),
        *memory(clients * 10, 0.5, own),
    ]


SCENARIOS: dict[str, Callable[..., list[Case]]] = {
    scenario.__name__: scenario for scenario in (lockstep, pipelined, large, openloop, many, memory, quick)
}
