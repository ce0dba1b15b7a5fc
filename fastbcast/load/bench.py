"""`fastbcast bench`: the matrix of clients, messages in flight, sizes, slow clients, compression, beside the C floor.

Procedure. The server has the first processor to itself, the clients the last. In each round every cell's servers are
started, measured and stopped one after the other, so that a slow minute of the machine hits all of them. A figure is
the median of the rounds; the ratio to the floor is taken within each round.

A cell is left out, with a note, if more than MAX_FLYING_BYTES would be under way to all clients together (the floor
keeps them in memory for each client), or if the processes may not open so many files. The floor has no policy for slow
clients, and no permessage-deflate: it would keep everything for them, so those rows stand alone. Compressed rows have
trade ticks as payload (payload.py), and the clients inflate and check them; all others have letters.

A row is marked if its figures are not the server's, see MARKS.
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from .crew import SPARE_FILES, LoadFailed, run_load
from .plan import Plan, parse_slow
from .progress import Progress
from .result import Result, make_result
from .target import Server, ServerUnavailable, floor_command
from .verdict import find_problems

__all__ = ["FULL", "QUICK", "Cell", "Matrix", "Row", "measure_matrix"]

KIB = 1024
COMPRESSED_BYTES = 1 * KIB
MAX_FLYING_BYTES = 1024**3
START_SECONDS = 1.5
"""About what it takes to start and stop a server and to count at the end."""
HANDSHAKES_PER_SECOND = 3000
"""A cautious guess, to say how long it will take."""
FASTBCAST = "fastbcast"
FLOOR = "C floor"


@dataclass(frozen=True)
class Cell:
    """One load of the matrix."""

    clients: int
    in_flight: int
    size_bytes: int
    slow_share: float = 0.0
    compression: str = "off"
    """The server's: `off`, `deflate` or `window`."""

    @property
    def flying_bytes(self) -> int:
        return self.clients * self.in_flight * self.size_bytes

    @property
    def has_floor(self) -> bool:
        return not self.slow_share and self.compression == "off"

    def plan(self, url: str, seconds: float, pids: Iterable[int], core: int) -> Plan:
        slow = (parse_slow(f"{self.slow_share:.0%}:stall"),) if self.slow_share else ()
        return Plan(
            url=url, clients=self.clients, in_flight=self.in_flight, size_bytes=self.size_bytes, slow=slow,
            duration_seconds=seconds, warmup_messages=5, has_deflate=self.compression != "off",
            server_pids=tuple(pids), cores=(core,),
        )


@dataclass(frozen=True)
class Matrix:
    """The loads that are measured, `seconds` each; compressed ones of one size only, and without slow clients."""

    clients: tuple[int, ...]
    in_flight: tuple[int, ...]
    sizes_bytes: tuple[int, ...]
    slow_shares: tuple[float, ...]
    seconds: float
    compressions: tuple[str, ...] = ()

    def cells(self) -> list[Cell]:
        plain = [Cell(*cell) for cell in product(self.clients, self.in_flight, self.sizes_bytes, self.slow_shares)]
        return plain + [
            Cell(clients, in_flight, COMPRESSED_BYTES, compression=compression)
            for clients, in_flight, compression in product(self.clients, self.in_flight, self.compressions)
        ]


FULL = Matrix(
    (100, 1000, 5000, 15000), (1, 64), (64, 1 * KIB, 64 * KIB), (0.0, 0.1), 2.0, compressions=("deflate", "window")
)
QUICK = Matrix((100, 1000), (1, 64), (64, 1 * KIB), (0.0,), 0.5, compressions=("window",))


MARKS = {
    "c": ("INVALID: the clients", "the clients were the limit"),
    "s": ("INVALID as a limit", "the server used less than 95 % of its processor: deliveries/s are not its limit"),
    "b": ("the slow clients were never behind", "the slow clients' sockets took everything: slow they were for nobody"),
    "w": ("the clients waited", "the clients waited for their processor: latency is partly theirs"),
}
"""The marks of a row: how the note begins that each is for, and what is to be known."""


@dataclass
class Row:
    """One server in one cell: a result of each round, None of one that has failed."""

    cell: Cell
    server: str
    results: list[Result | None] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def median(self, *path: str) -> float | None:
        values = [value for value in (_find(result, path) for result in self.results) if value is not None]
        return statistics.median(values) if values else None

    @property
    def marks(self) -> str:
        """What is to be known before the figures are believed, see MARKS."""
        notes = [note for result in self.results if result is not None for note in result["notes"]]
        return "".join(mark for mark, (start, _) in MARKS.items() if any(note.startswith(start) for note in notes))


def _find(result: Result | None, path: tuple[str, ...]) -> Any:
    value: Any = result
    for key in path:
        value = value.get(key) if value is not None else None
    return value


def ratios(row: Row, floor: Row) -> list[float]:
    """The server's processor time for a delivery over the floor's, in each round that both finished."""
    path = ("server", "cpu_us_per_delivery")
    pairs = zip(row.results, floor.results, strict=False)
    found = [(_find(own, path), _find(others, path)) for own, others in pairs]
    return [own / other for own, other in found if own is not None and other]


def why_left_out(cell: Cell) -> str | None:
    if cell.flying_bytes > MAX_FLYING_BYTES:
        return f"{cell.flying_bytes / 1024**3:.1f} GiB would be under way"
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and cell.clients + SPARE_FILES > hard:
        return f"only {hard:,} files may be open (ulimit -Hn)"
    return None


def estimate_seconds(matrix: Matrix, rounds: int) -> float:
    """About how long it takes."""
    cells = [cell for cell in matrix.cells() if why_left_out(cell) is None]
    each = [matrix.seconds + START_SECONDS + cell.clients / HANDSHAKES_PER_SECOND for cell in cells]
    return rounds * sum(seconds * (1 + cell.has_floor) for seconds, cell in zip(each, cells, strict=True))


def measure_matrix(
    matrix: Matrix, rounds: int, *, is_quiet: bool, on_row: Callable[[Row], None] = lambda row: None
) -> list[Row]:
    """Measure all cells; rows in the table's order. Raises ServerUnavailable if fastbcast itself cannot be started."""
    cores = sorted(os.sched_getaffinity(0))
    rows = {(cell, server): Row(cell, server) for cell in matrix.cells() if why_left_out(cell) is None
            for server in ((FASTBCAST, FLOOR) if cell.has_floor else (FASTBCAST,))}
    with tempfile.TemporaryDirectory(prefix="fastbcast-bench-") as folder:
        for number in range(1, rounds + 1):
            for row in rows.values():
                title = f"round {number} of {rounds}: {describe(row.cell)}: {row.server}"
                try:
                    _measure(row, matrix.seconds, title, Path(folder), cores, is_quiet)
                except ServerUnavailable as unavailable:
                    if row.server == FASTBCAST:
                        raise
                    row.results.append(None)
                    row.problems.append(str(unavailable))
                except LoadFailed as failed:
                    row.results.append(None)
                    row.problems.append(f"round {number}: {failed}")
                if number == rounds:
                    on_row(row)
    return list(rows.values())


def _measure(row: Row, seconds: float, title: str, folder: Path, cores: list[int], is_quiet: bool) -> None:
    """One round of one row: start the server, load it, stop it."""
    if row.server == FLOOR:
        command = floor_command("each" if row.cell.in_flight == 1 else "coalesce", folder)
    else:
        command = [sys.executable, "-m", "fastbcast", "serve", "--relay", "--port", "0"]
        command += ["--compression", row.cell.compression]
    with Server(row.server, command, core=cores[0]) as server:
        plan = row.cell.plan(f"{server.url}bench", seconds, [server.pid], cores[-1])
        with Progress(plan, is_quiet=is_quiet, title=title) as progress:
            result = make_result(run_load(plan, progress.show))
    row.results.append(result)
    row.problems += find_problems(result)


def describe(cell: Cell) -> str:
    slow = f", {cell.slow_share:.0%} slow" if cell.slow_share else ""
    form = f", {cell.compression}" if cell.compression != "off" else ""
    return f"{cell.clients:,} clients, {cell.in_flight} in flight, {describe_bytes(cell.size_bytes)}{slow}{form}"


def describe_bytes(size_bytes: int) -> str:
    return f"{size_bytes // KIB} KiB" if size_bytes >= KIB else f"{size_bytes} B"
