"""What compression saves on the wire and costs the server, on feeds that look like real ones.

    python benchmarks/deflate.py --rounds 3 --json compression.json > compression.md
    python benchmarks/deflate.py --feeds ticks --clients 1,100 --servers fastbcast --memory-clients 0

Procedure. Each server publishes the feed by itself (pace.py): `--burst` messages in one turn of its loop, as one does
that reads what has gathered at its source; `--burst 1` is one message a turn. It has the first core to itself, the
clients have the last. In each round every row is measured once, one after the other, so that a slow minute of the
machine hits all of them; a figure is the median of the rounds with the least and the greatest, a difference or ratio is
taken within each round.

    bytes       read by all clients, frame headers included, over the messages they read: `fastbcast load --listen`.
                All that is compressed is inflated, too, once for all clients that got the same bytes
                (fastbcast/load/_strand.pyx), so the clients are not what is measured. It must begin as the feed does.
    CPU us      the server's user and system time from the first burst to the last, all threads, over the messages:
                sending to all clients is in it
    publish us  the time of the thread within publish(), over the messages: fastbcast compresses there. Its difference
                to plain is what compression itself costs; that of "CPU us" is less exact the more clients there are
    compressed  how often fastbcast has compressed a message, in all lanes (hub.stats()), and how long one took it
    memory      the server's resident memory before the first connection and with all connected and the feed running

All clients are there before the first message. With joiners one client leaves each second and another one comes, which
makes fastbcast begin a new window (at most every `reset_messages`). The rate is RATE_BY_CLIENTS; a server that cannot
keep it has a lower one, and `behind` says which part of what it published had not come to the clients.

A round is INVALID if the clients used more than 95 % of their core. Exit status: 0; 1 if a message was wrong, a
connection refused or lost, or a server did not start; 2 usage.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import feeds
from columns import KIB, figure
from run import read_commit, run_generator
from servers import HERE, PEERS, SUBJECT, find_node, require_module

from fastbcast.load.machine import describe_machine
from fastbcast.load.target import Server, ServerUnavailable
from fastbcast.load.verdict import find_problems

Result = dict[str, Any]

FEED_MESSAGES = 5000  # of 140 bytes and more: when they begin again every window has forgotten them
RATE_BY_CLIENTS = ((1, 400.0), (100, 64.0), (10_000, 32.0))  # messages a second with so many clients, or more
MEMORY_RATE = 16.0
JOINERS_SECONDS = 8.0
GUESTS = 2  # of `--churn 1`: each stays for two seconds
FORMS = ("plain", "deflate", "window")
PEER_CLIENTS = 1000  # with more a peer would take more than a round, and gigabytes


def feed_command(name: str, form: str) -> list[str]:
    """Raises ServerUnavailable."""
    if name == SUBJECT:
        require_module(name, "fastbcast")
        return [sys.executable, str(HERE / "feed_server.py"), "--compression", "off" if form == "plain" else form]
    options = ["--plain"] if form == "plain" else []
    if name == "ws":
        return [find_node(), str(PEERS / "ws_feed.js"), *options]
    python = os.environ.get("BENCHMARK_PEERS_PYTHON", sys.executable)
    for module in ("websockets", "uvloop"):
        require_module(name, module, python)
    return [python, str(PEERS / "websockets_feed.py"), *options]


@dataclass
class Row:
    """One server with one form of compression, and so many clients of one feed: a result for each round."""

    server: str
    form: str
    feed: str
    clients: int
    has_joiners: bool = False
    is_memory: bool = False
    results: list[Result] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        return f"{self.server} {self.form}{', a joiner a second' if self.has_joiners else ''}"

    def find(self, rows: Iterable[Row], form: str) -> Row | None:
        """The same with another form."""
        wanted = (self.server, form, self.feed, self.clients, self.is_memory)
        return next((
            row for row in rows
            if (row.server, row.form, row.feed, row.clients, row.is_memory) == wanted and not row.has_joiners
        ), None)


def rate_of(clients: int) -> float:
    return next(rate for least, rate in reversed(RATE_BY_CLIENTS) if clients >= least)


def make_rows(arguments: argparse.Namespace) -> list[Row]:
    rows = []
    for feed in arguments.feeds:
        for clients in arguments.clients:
            for server in arguments.servers:
                if server != SUBJECT and clients > PEER_CLIENTS:
                    continue
                rows += [Row(server, form, feed, clients) for form in (FORMS if server == SUBJECT else FORMS[:2])]
                if server == SUBJECT and feed == "ticks" and clients > 2 * GUESTS:
                    rows += [Row(server, "window", feed, clients, has_joiners=True)]
    if arguments.memory_clients:
        for server in arguments.servers:
            forms = FORMS if server == SUBJECT else FORMS[:2]
            clients = arguments.memory_clients if server == SUBJECT else min(PEER_CLIENTS, arguments.memory_clients)
            rows += [Row(server, form, "ticks", clients, is_memory=True) for form in forms]
    return rows


def measure(row: Row, arguments: argparse.Namespace, folder: Path, cores: list[int]) -> Result:
    """One round of one row. `problem` says what was wrong with it."""
    path = folder / f"{row.feed}.txt"
    rate = MEMORY_RATE if row.is_memory else arguments.rate or rate_of(row.clients)
    told = {
        "--port": 0, "--feed": path, "--rate": rate, "--burst": arguments.burst, "--await-clients": row.clients,
        "--spare": 2 * GUESTS if row.has_joiners else 0,
    }
    seconds = JOINERS_SECONDS if row.has_joiners else arguments.seconds
    start = path.read_text()[: len('{"type":"')]
    load = ["--listen", "--expect-prefix", start, "--clients", row.clients, "--duration", seconds]
    load += ["--deflate"] if row.form != "plain" else []  # what is offered and not used is a problem
    load += ["--churn", 1] if row.has_joiners else []
    try:
        command = [*feed_command(row.server, row.form), *(str(part) for option in told.items() for part in option)]
        with Server(row.server, command, core=cores[0]) as server:
            result = run_generator(server, [str(part) for part in load], cores[-1])
    except ServerUnavailable as unavailable:
        return {"problem": unavailable.reason}
    if "problem" not in result:
        result |= server.report
        if problems := find_problems(result):
            result["problem"] = ", ".join(problems)
        elif not result.get("published"):
            result["problem"] = f"it published nothing: {server.output[-500:]}"
    return result


def memory_kib(result: Result) -> float | None:
    start, end = (figure("server", name, unit=KIB)(result) for name in ("rss_start_bytes", "rss_after_bytes"))
    return None if start is None or end is None else (end - start) / result["settings"]["clients"]


BYTES = figure("wire_bytes_per_message")
CPU_US = figure("cpu_us_per_message")
PUBLISH_US = figure("publish_us_per_message")


COMPRESSIONS = figure("compressions_per_message")
COMPRESS_US = figure("compress_us_per_compression")
RESETS = figure("window_resets")


def behind(result: Result) -> float | None:
    return max(0.0, 1 - result["deliveries"] / result["settings"]["clients"] / result["published"])


def by_round(
    row: Row, other: Row | None, read: Callable[[Result], float | None], combine: Callable[[float, float], float]
) -> list[float]:
    """Both figures of each round that both finished, made one."""
    others = {result["round"]: read(result) for result in other.results} if other else {}
    pairs = [(read(result), others.get(result["round"])) for result in row.results]
    return [combine(own, theirs) for own, theirs in pairs if own is not None and theirs]


def describe(values: Iterable[float | None], decimals: int = 1) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    spread = f" ({min(known):,.{decimals}f}..{max(known):,.{decimals}f})" if len(known) > 1 else ""
    return f"{statistics.median(known):,.{decimals}f}{spread}"


def ratio(own: float, other: float) -> float:
    return own / other


def difference(own: float, other: float) -> float:
    return own - other


def print_markdown(header: list[str], lines: list[list[str]]) -> None:
    print("\n| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    for line in lines:
        print("| " + " | ".join(line) + " |")


def describe_row(row: Row, rows: list[Row]) -> list[str]:
    deflate = row.find(rows, "deflate") if row.form == "window" else None
    return [
        row.title, f"{row.clients:,}", describe(map(BYTES, row.results)),
        describe(by_round(row, row.find(rows, "plain"), BYTES, ratio), 3),
        describe(by_round(row, deflate, BYTES, ratio), 3),
        describe(map(CPU_US, row.results)), describe(map(PUBLISH_US, row.results)),
        describe(map(COMPRESSIONS, row.results), 2), describe(map(COMPRESS_US, row.results)),
        describe(map(RESETS, row.results), 0), describe(map(behind, row.results), 2),
    ]


def print_report(rows: list[Row]) -> None:
    measured = [row for row in rows if row.results]
    for feed in dict.fromkeys(row.feed for row in measured):
        print(f"\n### {feed}")
        print_markdown(
            ["server", "clients", "bytes a message", "of plain", "of deflate", "CPU us", "publish us", "compressed",
             "us each", "windows", "behind"],
            [describe_row(row, measured) for row in measured if row.feed == feed and not row.is_memory],
        )
    compressed = [row for row in measured if row.form != "plain" and row.server == SUBJECT and not row.is_memory]
    if compressed:
        print("\n### What compression itself takes: publish us above plain's")
        clients = sorted({row.clients for row in compressed})
        cells: dict[tuple[str, str], dict[int, str]] = {}
        for row in compressed:
            more = by_round(row, row.find(measured, "plain"), PUBLISH_US, difference)
            cells.setdefault((row.feed, row.title), {})[row.clients] = describe(more)
        print_markdown(
            ["feed", "server", *(f"{count:,} clients" for count in clients)],
            [[feed, title, *(line.get(count, "") for count in clients)] for (feed, title), line in cells.items()],
        )
    if memory := [row for row in measured if row.is_memory]:
        print("\n### Memory of the server for a client")
        print_markdown(
            ["server", "clients", "KiB a client", "more than plain"],
            [
                [row.title, f"{row.clients:,}", describe(map(memory_kib, row.results), 2),
                 describe(by_round(row, row.find(memory, "plain"), memory_kib, difference), 2)]
                for row in memory
            ],
        )
    for row in rows:
        for note in dict.fromkeys(row.notes):
            print(f"\n{row.feed}, {row.title}, {row.clients:,} clients: {note}")


def parse_arguments() -> argparse.Namespace:
    def names_of(known: Iterable[str]) -> Callable[[str], list[str]]:
        def parse(text: str) -> list[str]:
            if unknown := set(text.split(",")) - set(known):
                raise argparse.ArgumentTypeError(f"no such thing: {', '.join(sorted(unknown))}")
            return text.split(",")

        return parse

    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    servers = [SUBJECT, "websockets", "ws"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--feeds", type=names_of(feeds.FEEDS), default=list(feeds.FEEDS))
    parser.add_argument("--servers", type=names_of(servers), default=servers)
    parser.add_argument("--clients", type=numbers, default=[1, 100, 10_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each round of a row")
    parser.add_argument("--burst", type=int, default=8, help="messages in one turn of a server's loop")
    parser.add_argument("--rate", type=float, help="messages a second, instead of RATE_BY_CLIENTS")
    parser.add_argument("--memory-clients", type=int, default=5000, help="0: memory is not measured")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every round's figures")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    cores = sorted(os.sched_getaffinity(0))
    rows = make_rows(arguments)
    is_right = True
    with tempfile.TemporaryDirectory(prefix="fastbcast-feeds-") as folder:
        for feed in {row.feed for row in rows}:
            lines = b"\n".join(feeds.take(feed, FEED_MESSAGES)) + b"\n"
            Path(folder, f"{feed}.txt").write_bytes(lines)
        for number in range(1, arguments.rounds + 1):
            for row in rows:
                kind = "memory" if row.is_memory else row.feed
                print(f"round {number} of {arguments.rounds}: {kind}: {row.title}, {row.clients:,}", file=sys.stderr)
                result = measure(row, arguments, Path(folder), cores)
                if "problem" in result:
                    row.notes.append(f"WRONG in round {number}: {result['problem']}")
                    is_right = False
                    continue
                row.notes += [note for note in result["notes"] if note.startswith("INVALID")]
                row.results.append({**result, "round": number})
    print_report(rows)
    if arguments.json:
        settings = {name: value for name, value in vars(arguments).items() if name != "json"}
        document = {
            "machine": {**describe_machine(), "commit": read_commit()}, "settings": settings,
            "rows": [vars(row) for row in rows],
        }
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    if not any(row.results for row in rows):
        print("deflate.py: nothing was measured: no row has a result", file=sys.stderr)
        is_right = False
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
