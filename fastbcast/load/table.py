"""The figures of a run as a table on standard output, as wide as the terminal, plain in a pipe."""

from __future__ import annotations

import statistics
import sys
from io import TextIOWrapper
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .bench import FASTBCAST, MARKS, Row, describe_bytes, ratios
from .result import WRONG_COUNTS, Result
from .verdict import find_problems, judge

__all__ = ["make_bench_table", "print_bench", "print_result"]

MIB = 1024 * 1024
PIPE_COLUMNS = 120
BENCH_COLUMNS = 200
_POINTS = ("p50", "p90", "p99", "p99.9", "max")


def print_result(result: Result) -> None:
    console = _console()
    console.print(_figures(result))
    if result["delivery_ms"]["count"]:
        console.print(_times(result))
    problems = find_problems(result)
    for problem in problems:
        console.print(Text(f"✗ {problem}", style="bold red"))
    for note in result["notes"]:
        console.print(Text(f"! {note}", style="yellow"))
    for requirement in result["requirements"]:
        if requirement["is_met"]:
            console.print(Text(f"✓ required {requirement['text']}: {requirement['found']}", style="green"))
    sign, style = ("✗", "bold red") if problems else ("✓", "green")
    console.print(Text(f"{sign} {judge(result).text}", style=style))


def _number(value: float | None, unit: str = "", decimals: int = 0) -> str:
    """A figure with its unit; of one that is not known the unit says what it would be, if it is more than a word."""
    if value is None:
        return f"not known ({unit.strip()})" if " " in unit.strip() else "not known"
    return f"{value:,.{decimals}f}{unit}"


def _mib(value: int | None) -> float | None:
    return None if value is None else value / MIB


def _how(settings: dict[str, Any]) -> str:
    if settings["expect_prefix"] is not None:
        return "idle" if settings["is_idle"] else "only listening"
    if settings["rate"]:
        return f"{settings['rate']:,g} messages/s, latency from the intended time"
    judge = "all subscribers have" if settings["judge"] == "all" else "the first subscriber has"
    return f"{settings['in_flight']:,} in flight until {judge} them"


def print_bench(rows: list[Row]) -> None:
    """The table of `fastbcast bench`: Markdown, so that it can be pasted."""
    console = _console()
    console.width = max(console.width, BENCH_COLUMNS)  # a line of Markdown is never broken
    console.print(make_bench_table(rows))
    for mark, (_, meaning) in MARKS.items():
        if any(mark in row.marks for row in rows if row.server == FASTBCAST):
            console.print(f"{mark}: {meaning}")
    for row in rows:
        for problem in dict.fromkeys(row.problems):
            console.print(Text(f"✗ {row.server}, {row.cell.clients:,} clients: {problem}", style="bold red"))


def make_bench_table(rows: list[Row]) -> Table:
    """A line for each cell: fastbcast's figures, and the floor's processor time for comparison."""
    floors = {row.cell: row for row in rows if row.server != FASTBCAST}
    table = Table(box=box.MARKDOWN, pad_edge=True)
    for title in ("clients", "in flight", "size", "slow", "compression", "bytes each", "deliveries/s", "MB/s",
                  "last has it p50 ms", "p99 ms", "CPU us", "floor", "of the floor", "clients' CPU", "not valid"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        if row.server != FASTBCAST:
            continue
        cell, floor = row.cell, floors.get(row.cell)
        of_floor = ratios(row, floor) if floor is not None else []
        spread = f" ({min(of_floor):.2f}..{max(of_floor):.2f})" if len(of_floor) > 1 else ""
        table.add_row(
            f"{cell.clients:,}", f"{cell.in_flight}", describe_bytes(cell.size_bytes), f"{cell.slow_share:.0%}",
            cell.compression, _short(row.median("wire_bytes_per_message"), 0),
            _short(row.median("deliveries_per_second"), 0), _short(row.median("payload_mb_per_second"), 0),
            _short(row.median("completion_ms", "p50"), 1), _short(row.median("completion_ms", "p99"), 1),
            _short(row.median("server", "cpu_us_per_delivery"), 3),
            _short(floor.median("server", "cpu_us_per_delivery") if floor is not None else None, 3),
            f"{statistics.median(of_floor):.2f}{spread}" if of_floor else "",
            _short(row.median("client", "cpu_share"), 2), row.marks,
        )
    return table


def _short(value: float | None, decimals: int) -> str:
    return "" if value is None else f"{value:,.{decimals}f}"


def _console() -> Console:
    if isinstance(sys.stdout, TextIOWrapper):  # not every terminal has all signs
        sys.stdout.reconfigure(errors="replace")
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = PIPE_COLUMNS
    return console


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
    published = "nothing" if settings["expect_prefix"] is not None else f"{result['published']:,} messages"
    table.add_row("published", f"{published}; measured for {result['seconds']:,.2f} s")
    table.add_row(
        "deliveries",
        f"{_number(result['deliveries_per_second'], '/s')}, {_number(result['payload_mb_per_second'], ' MB/s', 1)}"
        f" of payload, {_number(result['wire_bytes_per_message'], ' bytes on the wire each', 1)}",
    )
    if settings["has_deflate"]:
        share = result["wire_share_of_plain"]
        table.add_row(
            "compressed",
            f"{result['messages_compressed']:,} of {result['messages_received']:,} messages;"
            f" {_number(share and 100 * share, ' %', 1)} of the bytes that all take plain",
        )
    known = [f"{result[name]:,} {name}" for name in WRONG_COUNTS if result[name] is not None]
    unknown = [name for name in WRONG_COUNTS if result[name] is None]
    wrong = [", ".join(known)] if known else []
    table.add_row("wrong", "; ".join([*wrong, f"not known: {', '.join(unknown)}"] if unknown else wrong))
    if result["slow_clients"]["count"]:
        slow = result["slow_clients"]
        table.add_row(
            "slow clients",
            f"{slow['count']:,}: {_number(slow['open'])} open, {_number(slow['lingering'])} closed with data unread,"
            f" {_number(slow['gone'])} gone,"
            f" {_number(result['skipped'])} messages skipped, {_number(_mib(slow['unread_bytes']), ' MiB', 1)} unread",
        )
    if settings["churn_per_second"]:
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
    rows = {"delivery": "one subscriber has it", "completion": "the last one has it",
            "slow_delivery": "a slow one has it", "churn_handshake": "a client that comes meanwhile has its 101"}
    for name, title in rows.items():
        times = result[f"{name}_ms"]
        if times["count"]:
            table.add_row(title, *(f"{times[point]:,.2f}" for point in _POINTS))
    return table
