"""What is measured: the scenarios, each a function that returns its cases.

Nothing here runs anything: run.py does.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from cases import Case, Variant
from columns import (
    ALLOWED_GROWTH,
    BATCH,
    CLIENT_SHARE,
    COMPLETION_P50,
    COMPLETION_P99,
    CPU_US,
    HANDSHAKES,
    KIB,
    MIB,
    PEAK_GROWTH,
    RATE,
    SERVER_SHARE,
    STEAL,
    WAITED,
    Column,
    Result,
    figure,
    growth,
)
from servers import SUBJECT

SPREAD_SOURCES = "--source-addresses 127.0.0.1-8"  # one address has some 28,000 ports, those of the row before included
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
    load = f"--clients {clients} --size 128 --in-flight 64 --duration {seconds:g} --warmup 200"
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


PEERS = ("picows", "socketify", "websockets", "tornado", "aiohttp", "starlette", "ws", "bun")


def peers(clients: int = 1000, seconds: float = 2) -> list[Case]:
    """The same on servers in use today, one in flight and 64, judged by all: what each costs per delivery."""
    load = f"--clients {clients} --size 128 --judge all --duration {seconds:g}"
    return [
        Case(
            f"{in_flight} in flight, judge all",
            [*load.split(), "--in-flight", str(in_flight), "--warmup", str(warmup)],
            (SUBJECT, *floors, *PEERS),
            floors[0],
            CLOSED_COLUMNS,
        )
        for in_flight, warmup, floors in ((1, 20, ("floor",)), (64, 64, ("floor-coalesce", "floor")))
    ]


def large(clients: int = 1000, seconds: float = 3) -> list[Case]:
    """4 KiB messages, 8 in flight, both judges: where copying begins to count."""
    load = f"--clients {clients} --size 4096 --in-flight 8 --duration {seconds:g} --warmup 50"
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
    columns = (SERVER_SHARE, CLIENT_SHARE, CPU_US, BATCH, COMPLETION_P50, COMPLETION_P99, WAITED, STEAL)
    load = f"--clients {clients} --size 128 --warmup 20"
    return [
        Case(
            f"{rate} messages/s",
            [*load.split(), "--rate", str(rate), "--messages", str(int(rate * seconds))],
            servers,
            servers[-1],
            columns,
        )
        for rate in rates
    ]


CONNECTS = Column("connects", figure("churn_handshake_ms", "count"), 0)
CONNECT_P50 = Column("101 p50 ms", figure("churn_handshake_ms", "p50"), 1)
CONNECT_P99 = Column("101 p99 ms", figure("churn_handshake_ms", "p99"), 1, has_spread=True, short="101 p99")


def many(clients: int = 15000, messages: int = 60, churn: float = 5) -> list[Case]:
    """15,000 subscribers; some leave and others come while the broadcast runs. Nothing may be missing."""
    load = (
        f"--clients {clients} --size 128 --in-flight 1 --judge all --messages {messages} --warmup 5"
        f" --churn {churn:g} {SPREAD_SOURCES}"
    )
    columns = (
        CPU_US,
        RATE,
        SERVER_SHARE,
        HANDSHAKES,
        Column("missing", figure("missing"), 0),
        CONNECTS,
        CONNECT_P50,
        Column("101 max ms", figure("churn_handshake_ms", "max"), 1),
        COMPLETION_P99,
        STEAL,
    )
    return [Case(f"{clients:,} subscribers", load.split(), (SUBJECT, "floor"), "floor", columns)]


def rss_bytes_per_connection(result: Result) -> float | None:
    grown_mib = growth("server", "rss_start_bytes", "rss_after_bytes")(result)
    return None if grown_mib is None else grown_mib * MIB / result["settings"]["clients"]


def memory(
    clients: int = 4000,
    seconds: float = 2,
    servers: tuple[str, ...] = (SUBJECT, "floor", "bun", "picows", "picows-aiofastnet"),
) -> list[Case]:
    """Idle connections: resident bytes of the server for each (kernel memory is not in it)."""
    rss = Column("rss bytes/conn", rss_bytes_per_connection, 0, has_spread=True)
    load = f"--clients {clients} --idle --duration {seconds:g}"
    return [Case(f"{clients:,} idle", load.split(), servers, servers[-1], (rss, HANDSHAKES), rss, is_about_speed=False)]


def keepalive(clients: int = 15000, seconds: float = 60) -> list[Case]:
    """15,000 idle connections: what pinging them costs the server's core, by how long they may be silent."""
    share = Column("server CPU", figure("server", "cpu_share"), 4, has_spread=True)
    load = f"--clients {clients} --idle --duration {seconds:g} {SPREAD_SOURCES}"
    variants = tuple(
        Variant(title, server_options=("--ping-seconds", str(ping_seconds)))
        for title, ping_seconds in (("off", 0), ("25 s", 25), ("5 s", 5))
    )
    columns = (share, CLIENT_SHARE, STEAL)
    return [
        Case(
            f"{clients:,} idle", load.split(), (SUBJECT,), "", columns, judged=None, is_about_speed=False,
            variants=variants,
        )
    ]


GROWTH = Column("growth MiB", growth("server", "rss_before_bytes", "rss_after_bytes"), 2, has_spread=True)
STALLED_COLUMNS = (
    GROWTH,
    PEAK_GROWTH,
    Column("kernel MiB", growth("kernel", "socket_bytes_idle", "socket_bytes_after"), 1),
    Column("unread MiB", figure("slow_clients", "unread_bytes", unit=MIB), 1),
    Column("stalled", figure("slow_clients", "count"), 0),
    Column("open", figure("slow_clients", "open"), 0),
    Column("lingering", figure("slow_clients", "lingering"), 0),
    Column("gone", figure("slow_clients", "gone"), 0),
    Column("saw a close", figure("slow_clients", "closes_seen"), 0),
)
STALLED_SHARES = (0, 0.01, 0.1, 0.5)
STALLED_SERVERS = (SUBJECT, f"{SUBJECT}-skip", f"{SUBJECT}-latest")
CLOSE_SECONDS = 6.0  # longer than fastbcast's close_seconds: until then an evicted client may still be connected


def stalled_variants(clients: int) -> tuple[Variant, ...]:
    """0, 1, 10 and 50 % that never read; and as a control as many healthy ones as the last leaves, alone."""
    shares = [
        Variant(f"{share:.0%}", [f"--clients={clients}", *([f"--slow={share:.0%}:stall"] if share else [])])
        for share in STALLED_SHARES
    ]
    healthy = clients - math.ceil(clients * STALLED_SHARES[-1])
    return (*shares, Variant(f"0% of {healthy:,}", [f"--clients={healthy}"]))


def stalled(
    clients: int = 1000,
    rate: float = 250,
    seconds: float = 15,
    flood_clients: int = 300,
    megabytes: float = 200,
    settle_seconds: float = CLOSE_SECONDS,
    hard_cap_bytes: int = 0,
    servers: tuple[str, ...] = STALLED_SERVERS,
) -> list[Case]:
    """0, 1, 10 and 50 % of the clients never read: what that costs the others (open loop), and the server."""
    common = f"--size 4096 --warmup 10 --settle {settle_seconds:g}"
    open_load = f"{common} --rate {rate:g} --messages {int(rate * seconds)}"
    flood_load = f"{common} --in-flight 8 --judge all --messages {math.ceil(megabytes * 1e6 / 4096)}"
    memory_columns = (GROWTH, PEAK_GROWTH, ALLOWED_GROWTH, *STALLED_COLUMNS[2:])
    shares = (SERVER_SHARE, CLIENT_SHARE)
    return [
        Case(
            f"{clients:,} clients, some stalled: 4 KiB, {rate:g} messages/s",
            open_load.split(),
            servers,
            "",
            (COMPLETION_P50, COMPLETION_P99, RATE, CPU_US, *shares, *memory_columns, WAITED, STEAL),
            judged=COMPLETION_P99,
            variants=stalled_variants(clients),
            has_bound=True,
            hard_cap_bytes=hard_cap_bytes,
        ),
        Case(
            f"{flood_clients:,} clients, some stalled: {megabytes:g} MB as fast as the healthy ones take them",
            flood_load.split(),
            servers,
            "",
            (RATE, CPU_US, COMPLETION_P50, COMPLETION_P99, *shares, *memory_columns, STEAL),
            variants=stalled_variants(flood_clients),
            has_bound=True,
            hard_cap_bytes=hard_cap_bytes,
        ),
    ]


def healthy_share(result: Result) -> float | None:
    wanted = result["settings"]["messages"] * result["settings"]["steady_clients"]
    return 100 * result["deliveries"] / wanted if wanted else None


def backlog(
    clients: int = 105,
    stalled: int = 5,
    megabytes: float = 20,
    settle_seconds: float = CLOSE_SECONDS,
    servers: tuple[str, ...] = (*STALLED_SERVERS, "bun", "ws", "websockets", "aiohttp", "starlette", "picows"),
) -> list[Case]:
    """Some clients never read while 20 MB go out: what becomes of the backlog, on servers in use today."""
    load = (
        f"--clients {clients} --slow {stalled}:stall --size 4096 --in-flight 8 --judge all --warmup 10"
        f" --messages {math.ceil(megabytes * 1e6 / 4096)} --settle {settle_seconds:g}"
    )
    columns = (
        Column("healthy got %", healthy_share, 1),
        Column("in s", lambda result: None if result["stopped"] else result["seconds"], 2, has_spread=True),
        *STALLED_COLUMNS,
        STEAL,
    )
    return [
        Case(
            f"{clients:,} clients, {stalled:,} stalled, {megabytes:g} MB",
            load.split(),
            servers,
            "",
            columns,
            judged=None,
            is_about_speed=False,
            may_peers_stop=True,
            has_bound=True,
        )
    ]


SPREAD_P99 = Column("first to last p99 ms", figure("spread_ms", "p99"), 1, has_spread=True, short="first to last p99")


def fair(clients: int = 15000, seconds: float = 20, churn: float = 100) -> list[Case]:
    """15,000 subscribers, messages without a pause: how long everything else in the server has to wait."""
    load = (
        f"--clients {clients} --size 128 --in-flight 2 --judge all --duration {seconds:g} --warmup 5"
        f" --churn {churn:g} {SPREAD_SOURCES}"
    )
    columns = (
        Column("timer p50 ms", figure("timer_lateness_ms", "p50"), 1),
        Column("timer p99 ms", figure("timer_lateness_ms", "p99"), 1, has_spread=True, short="timer p99"),
        Column("timer max ms", figure("timer_lateness_ms", "max"), 1),
        CONNECTS,
        CONNECT_P50,
        CONNECT_P99,
        Column("first to last p50 ms", figure("spread_ms", "p50"), 1),
        SPREAD_P99,
        RATE,
        SERVER_SHARE,
        CLIENT_SHARE,
        WAITED,
        STEAL,
    )
    return [
        Case(
            f"{clients:,} subscribers, always a message under way",
            load.split(),
            (f"{SUBJECT}-timer", "floor"),
            "floor",
            columns,
            judged=SPREAD_P99,
            min_connects=200,
        )
    ]


def channels(channels: int = 100_000, connections: int = 10, size: int = 128) -> list[Case]:
    """100,000 channels with one subscriber each: resident bytes of a channel after its first message."""
    columns = (
        Column("bytes/channel", figure("bytes_per_channel"), 0, has_spread=True),
        Column("before its message", figure("subscribed_bytes_per_channel"), 0, has_spread=True),
        Column("of the log", figure("log_bytes_per_channel"), 0),
        Column("rss MiB", figure("rss_after_bytes", unit=MIB), 1),
        Column("in s", figure("seconds"), 1),
    )
    return [
        Case(
            f"{channels:,} channels",
            f"--channels {channels} --connections {connections} --size {size}".split(),
            (SUBJECT,),
            "",
            columns,
            judged=None,
            program="channels.py",
            has_server=False,
        )
    ]


HANDSHAKE_US = Column("CPU us/handshake", figure("cpu_us"), 1, has_spread=True, short="CPU us")


def handshakes(batch: int = 3000, window: int = 64, seconds: float = 4, rate: float = 10) -> list[Case]:
    """A reconnect storm: what a handshake costs, of a plain client, of a browser, and while broadcasts go on."""
    columns = (
        HANDSHAKE_US,
        Column("handshakes/s", figure("handshakes_per_second"), 0, has_spread=True),
        Column("server CPU", figure("server_share")),
        Column("101 p50 ms", figure("handshake_p50_ms"), 1),
        Column("101 p99 ms", figure("handshake_p99_ms"), 1),
        Column("lack messages", figure("missing"), 0),
        STEAL,
    )
    common = f"--batch {batch} --window {window} --seconds {seconds:g}".split()
    few = f"--batch {batch // 3} --window {window} --seconds {seconds:g} --rate {rate:g}".split()
    return [
        Case(
            title,
            load,
            (SUBJECT, "picows"),
            "picows",
            columns,
            judged=HANDSHAKE_US,
            program="handshakes.py",
            has_server_pid=True,
        )
        for title, load in (
            ("handshakes, the shortest", common),
            ("handshakes, as Chromium sends them", [*common, "--chromium"]),
            (f"handshakes while {rate:g} messages/s go to all", few),
        )
    ]


def freshness(
    max_lag_bytes: int = 64 * KIB, fill_seconds: float = 4, seconds: float = 5, read_rate: float = 64_000
) -> list[Case]:
    """A client reads 64 KB/s of 1 MB/s, policy latest: how old is what it reads, by the sockets' options?"""
    variants = tuple(
        Variant(
            f"notsent {notsent // KIB} KiB, send buffer {send_buffer // KIB} KiB",
            server_options=(
                "--policy", "latest",
                "--max-lag-bytes", str(max_lag_bytes),
                "--notsent-lowat-bytes", str(notsent),
                "--send-buffer-bytes", str(send_buffer),
            ),
        )
        for notsent in (0, 16 * KIB, 64 * KIB, 256 * KIB)
        for send_buffer in (0, 64 * KIB)
    )
    columns = (
        Column("age p50 s", figure("age_p50_seconds"), 2, has_spread=True),
        Column("age max s", figure("age_max_seconds"), 2, has_spread=True),
        Column("in flight p50 KiB", figure("in_flight_p50_bytes", unit=KIB), 0, has_spread=True),
        Column("in flight max KiB", figure("in_flight_max_bytes", unit=KIB), 0),
        Column("to drain s", figure("drain_seconds"), 2),
        Column("read", figure("read_messages"), 0),
        Column("passed over", figure("passed_over"), 0),
        Column("read KB/s", figure("read_bytes_per_second", unit=1000), 1),
    )
    common = f"--read-rate {read_rate:g} --fill-seconds {fill_seconds:g} --seconds {seconds:g}"
    return [
        Case(
            f"a slow reader with {title}",
            [*common.split(), "--receive-buffer-bytes", str(receive_buffer)],
            (SUBJECT,),
            "",
            columns,
            judged=None,
            variants=variants,
            program="freshness.py",
        )
        for title, receive_buffer in (("the default receive buffer", 0), ("a 64 KiB receive buffer", 64 * KIB))
    ]


def quick(clients: int = 200) -> list[Case]:
    """All of the above but the peers, small and once, in under a minute: a check for CI, its figures mean little."""
    own = (SUBJECT, "floor-coalesce")
    return [
        *lockstep(clients, 100),
        *pipelined(clients, 0.5, own),
        *large(clients, 0.5),
        *openloop(clients, 1, (100,), own),
        *many(clients * 10, 20),
        *memory(clients * 10, 0.5, own),
        *stalled(clients, 100, 1, clients, 4, settle_seconds=0, servers=(SUBJECT,)),
    ]


SCENARIOS: dict[str, Callable[..., list[Case]]] = {
    scenario.__name__: scenario
    for scenario in (
        lockstep, pipelined, peers, large, openloop, many, memory, keepalive, stalled, backlog, fair, channels,
        handshakes, freshness, quick,
    )
}
