"""What a person sees while a load runs: a line on the terminal, from standard error; nothing in a pipe."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from ._board import Board
from .part import Phase
from .plan import Plan
from .timeline import Interval

__all__ = ["Progress"]

_TITLES = {
    Phase.CONNECTING: "connecting",
    Phase.WARMING: "warming up",
    Phase.MEASURING: "publishing",
    Phase.DRAINING: "draining",
    Phase.DONE: "counting",
}


class Progress:
    """A context manager; `show` is for `run_load`."""

    def __init__(self, plan: Plan, *, is_quiet: bool = False, title: str = "") -> None:
        console = Console(stderr=True)
        self._plan = plan
        self._title = f"{title}: " if title else ""
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=is_quiet or not console.is_terminal,
            auto_refresh=False,
        )
        self._task = self._bars.add_task(self._title + _TITLES[Phase.CONNECTING], total=1.0, figures="")
        self._published_before = 0

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._bars.disable:  # rich before 14.3 ends even a display that never began, with an empty line
            self._bars.stop()

    def show(self, interval: Interval, board: Board) -> None:
        if self._bars.disable:
            return
        phase = interval.phase
        figures = f"{interval.open_clients:,} clients"
        if phase == Phase.CONNECTING:
            done = interval.open_clients / self._plan.clients
        elif phase == Phase.MEASURING:
            done = self._share_published(interval, board)
        else:
            done = None
        if phase >= Phase.MEASURING:
            figures += f"  {interval.deliveries_per_second:,.0f} deliveries/s"
            if interval.p50_ms is not None:
                figures += f"  p50 {interval.p50_ms:,.1f} ms  p99 {interval.p99_ms:,.1f} ms"
            if interval.client_cpu_share:
                figures += f"  own CPU {interval.client_cpu_share:.0%}"
        self._bars.update(
            self._task, description=self._title + _TITLES[phase], completed=done or 0.0,
            total=1.0 if done is not None else None, figures=figures, refresh=True,
        )

    def _share_published(self, interval: Interval, board: Board) -> float:
        if self._plan.messages:
            return max(0, board.published - self._plan.warmup_messages) / self._plan.messages
        elapsed_ns = board.read()["last_read_ns"] - board.window_start_ns
        return max(0.0, elapsed_ns / 1e9 / self._plan.duration_seconds)
