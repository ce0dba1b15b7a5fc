"""The figures of a run as a table on standard output, as wide as the terminal, plain in a pipe."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .result import Result, find_problems

__all__ = ["MIB", "print_result"]

MIB = 1024 * 1024
PIPE_COLUMNS = 120
_POINTS = ("p50", "p90", "p99", "p99.9", "max")


def print_result(result: Result) -> None:
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = PIPE_COLUMNS
    console.print(_figures(result))
    if result["delivery_ms"]["count"]:
        console.print(_times(result))
    for problem in [*find_problems(result), *(f"not met: {unmet}" for unmet in result.get("unmet", ()))]:
        console.print(Text(f"✗ {problem}", style="bold red"))
    for note in result["notes"]:
        console.print(Text(f"! {note}", style="yellow"))
    if not find_problems(result) and not result.get("unmet"):
        console.print(Text("✓ no message missing, doubled, reordered or corrupt; no connection lost", style="green"))


def _number(value: float | None, unit: str = "", decimals: int = 0) -> str:
    return "not known" if value is None else f"{value:,.{decimals}f}{unit}"


def _how(settings: dict[str, Any]) -> str:
    if settings["expect_prefix"] is not None:
        return "only listening"
    if settings["rate"]:
        return f"{settings['rate']:,g} messages/s, latency from the intended time"
    judge = "all subscribers have" if settings["judge"] == "all" else "the first subscriber has"
    return f"{settings['in_flight']:,} in flight until {judge} them"


def _figures(result: Result) -> Table:
    settings, client, server, handshakes = (result[name] for name in ("settings", "client", "server", "handshakes"))
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    table.add_row("load", f"{settings['clients']:,} clients, {settings['size_bytes']:,} bytes, {_how(settings)}")
    table.add_row(
        "handshakes",
        f"{_number(handshakes['per_second'], '/s')}, p99 {_number(result['handshake_ms'].get('p99'), ' ms', 1)}"
        f", {handshakes['opened']:,} opened, {handshakes['refused']:,} refused",
    )
    table.add_row("published", f"{result['published']:,} messages; measured for {result['seconds']:,.2f} s")
    table.add_row(
        "deliveries",
        f"{_number(result['deliveries_per_second'], '/s')}, {_number(result['payload_mb_per_second'], ' MB/s', 1)}"
        f" of payload, {_number(result['wire_bytes_per_message'], ' bytes on the wire each', 1)}",
    )
    table.add_row("wrong", ", ".join(f"{result[name]:,} {name}" for name in ("missing", "doubled", "reordered", "corrupt")))
    if result["slow_clients"]["count"]:
        slow = result["slow_clients"]
        table.add_row(
            "slow clients",
            f"{slow['count']:,}: {slow['open']:,} open, {slow['lingering']:,} closed with data unread, {slow['gone']:,} gone,"
            f" {result['skipped']:,} messages skipped, {slow['unread_bytes'] / MIB:,.1f} MiB unread in the kernel",
        )
    if handshakes["churned"]:
        table.add_row("churn", f"{handshakes['churned']:,} clients came and went")
    if server is not None:
        table.add_row(
            "server",
            f"{_number(server['cpu_share'] and 100 * server['cpu_share'], ' %')} of a processor,"
            f" {_number(server['cpu_us_per_delivery'], ' us a delivery', 3)}, memory at most"
            f" {server['rss_peak_bytes'] / MIB:,.1f} MiB ({server['rss_before_bytes'] / MIB:,.1f} before)",
        )
    table.add_row(
        "load client",
        f"{_number(client['cpu_share'] and 100 * client['cpu_share'], ' %')} of a processor in {client['processes']}"
        f" process{'es' if client['processes'] > 1 else ''}, {_number(client['frames_per_read'], ' frames a read', 1)}",
    )
    kernel = result["kernel"]
    if kernel["socket_bytes_peak"]:
        table.add_row("kernel", f"at most {kernel['socket_bytes_peak'] / MIB:,.1f} MiB in TCP sockets, both ends")
    return table


def _times(result: Result) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("ms", style="dim")
    for point in _POINTS:
        table.add_column(point, justify="right")
    rows = {"delivery": "one subscriber has it", "completion": "the last one has it", "slow_delivery": "a slow one has it"}
    for name, title in rows.items():
        times = result[f"{name}_ms"]
        if times["count"]:
            table.add_row(title, *(f"{times[point]:,.2f}" for point in _POINTS))
    return table
