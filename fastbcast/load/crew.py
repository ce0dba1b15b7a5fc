"""The processes of a load run: started together, watched by the one that started them.

    run_load(plan) --fork--> Part 0 (publishes, moves the phases)   \
             |      --fork--> Part 1 ...                             >  the Board, in shared memory
             '-- looks at it several times a second: display, timeline /
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait

from ._board import Board
from .connector import CannotConnect
from .part import Part, PartReport
from .plan import Plan
from .timeline import Interval, Timeline

__all__ = ["LoadFailed", "Run", "run_load"]

LOOK_SECONDS = 0.25
END_SECONDS = 5.0
"""How long processes have for their end once they were told to stop."""
SPARE_FILES = 32
"""What a process may have open beside its connections."""


class LoadFailed(Exception):
    """There is no result: the text says why."""


@dataclass(frozen=True)
class Run:
    """What a run left behind: result.py makes the figures of it."""

    plan: Plan
    board: Board
    parts: list[PartReport]
    timeline: Timeline
    was_interrupted: bool
    own_cpu_seconds: float
    """Of the process that watched; not part of the load."""


def run_load(plan: Plan, on_look: Callable[[Interval, Board], None] = lambda interval, board: None) -> Run:
    """Run it, and call `on_look` several times a second. Ctrl-C ends it early, and what there is by then is the result.

    Raises LoadFailed: too few files may be open, nothing can be connected, a process died.
    """
    _allow_files(plan)
    streams = max(1, plan.publishers) if not plan.is_listening else plan.channels
    board = Board(plan.processes, streams)
    context = multiprocessing.get_context("fork")  # the board is memory that they inherit
    wake_fd = os.eventfd(0, os.EFD_NONBLOCK) if plan.processes > 1 else -1
    processes, pipes = [], []
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # closed by who started this
            stream.flush()
    own_cpu = time.process_time()
    try:
        for number in range(plan.processes):
            ours, theirs = context.Pipe(duplex=False)
            arguments = (plan, board, number, wake_fd, os.getpid(), theirs)
            process = context.Process(target=_play, args=arguments, daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            pipes.append(ours)
        timeline = Timeline(board, plan.server_pids)
        parts, was_interrupted = _watch(board, timeline, pipes, on_look)
    finally:
        board.stop()
        end_at = time.monotonic() + END_SECONDS
        for process in processes:
            process.join(max(0.0, end_at - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        for pipe in pipes:
            pipe.close()
        if wake_fd >= 0:
            os.close(wake_fd)
    return Run(plan, board, parts, timeline, was_interrupted, time.process_time() - own_cpu)


def _watch(
    board: Board, timeline: Timeline, pipes: list[Connection], on_look: Callable[[Interval, Board], None]
) -> tuple[list[PartReport], bool]:
    """Look until each process has reported. The first that fails ends it for all."""
    parts: dict[Connection, PartReport] = {}
    was_interrupted = False
    while len(parts) < len(pipes):
        try:
            for pipe in wait([pipe for pipe in pipes if pipe not in parts], LOOK_SECONDS):
                assert isinstance(pipe, Connection)
                try:
                    part = pipe.recv()
                except EOFError:
                    raise LoadFailed("a process of the load died; its messages may be above") from None
                if part.failure:
                    raise LoadFailed(part.failure)
                parts[pipe] = part
            on_look(timeline.look(), board)
        except KeyboardInterrupt:
            if was_interrupted:
                raise
            was_interrupted = True
            board.stop()
    return [parts[pipe] for pipe in pipes], was_interrupted


def _play(plan: Plan, board: Board, process: int, wake_fd: int, parent_pid: int, pipe: Connection) -> None:
    """The life of one process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that watches decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    report = PartReport()
    try:
        if plan.cores:
            _move_to(plan.cores[process % len(plan.cores)])
        report = Part(plan, board, process, wake_fd, parent_pid).play()
    except (CannotConnect, ValueError, OSError) as error:
        report.failure = str(error)
    with contextlib.suppress(BrokenPipeError):
        pipe.send(report)
    pipe.close()


def _move_to(core: int) -> None:
    try:
        os.sched_setaffinity(0, {core})
    except (OSError, ValueError):
        raise ValueError(f"--cores: there is no processor {core}, or it may not be used") from None


def _allow_files(plan: Plan) -> None:
    """Raise the limit of open files as far as it goes. It is inherited."""
    wanted = -(-plan.clients // plan.processes) + plan.publishers + plan.guests + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted <= hard or (soft < wanted and hard == resource.RLIM_INFINITY):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    elif soft < wanted:
        raise LoadFailed(
            f"each of {plan.processes} processes needs {wanted:,} open files, {hard:,} are allowed:"
            " raise `ulimit -Hn`, or use more --processes"
        )
