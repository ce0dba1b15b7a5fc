"""What one process of a load run does: connect its share, play its part of the phases, report.

        CONNECTING ----> WARMING ----> MEASURING ----> DRAINING ----> DONE
      every process      published,     published,     nothing more    all processes
      its own share      not measured   measured       is published    report

The first process publishes and moves the phases; the others follow. Each runs its Fleet for some milliseconds at a
time, and does in between what needs Python: connect more, let clients of the churn go, take its own processor time.
"""

from __future__ import annotations

import enum
import os
import time
from dataclasses import dataclass, field

from ._audit import MIN_PAYLOAD_BYTES, Kind
from ._board import Board
from ._fleet import Fleet
from .connector import CannotConnect, Connector
from .endpoints import SlowEnds, look_at_slow_ends
from .machine import Usage, read_peak_bytes, read_socket_bytes, read_usage, read_wait_seconds, reset_peak
from .payload import make_bodies
from .plan import Client, Plan

__all__ = ["Part", "PartReport", "Phase"]

TURN_SECONDS = 0.02
"""How long a Fleet runs before Python has its turn."""
LINGER_SECONDS = 0.1
"""After the last message: one that comes twice, or too late, may still come."""
MAX_CHURN_PER_TURN = 256
HOPELESS_STALLS = 2
"""So many stalls in a row with nothing received in between, and the rest is not waited for."""


class Phase(enum.IntEnum):
    CONNECTING = 0
    WARMING = 1
    MEASURING = 2
    DRAINING = 3
    DONE = 4


@dataclass
class PartReport:
    """What one process has to say that is not on the board."""

    connecting_seconds: float = 0.0
    problems: dict[str, int] = field(default_factory=dict)
    closes: dict[int, int] = field(default_factory=dict)
    slow_closes: dict[int, int] = field(default_factory=dict)
    lateness: list[tuple[int, int]] = field(default_factory=list)
    slow_ends: SlowEnds = field(default_factory=SlowEnds)
    churned: int = 0
    wait_seconds: float | None = None
    failure: str = ""
    # Of the first process.
    has_stopped: bool = False
    was_throttled: bool = False
    server_start: Usage | None = None
    server_before: Usage | None = None
    server_after: Usage | None = None
    server_peak_bytes: int | None = None
    server_wait_seconds: float | None = None
    socket_bytes_idle: int | None = None
    socket_bytes_after: int | None = None
    socket_bytes_settled: int | None = None
    server_settled: Usage | None = None


class Part:
    """The part of process number `process`. Raises CannotConnect, and ValueError for what the Fleet refuses."""

    def __init__(self, plan: Plan, board: Board, process: int, wake_fd: int, parent_pid: int) -> None:
        self.plan = plan
        self.board = board
        self.is_first = process == 0
        self.report = PartReport()
        self.connector = Connector(plan)
        self._process = process
        self._parent_pid = parent_pid
        self._clients = plan.all_clients()[process :: plan.processes]
        self._guests = [client for client in self._clients if client.is_guest]
        self._guest_numbers: dict[int, int] = {}  # which guest -> its connection
        publishers = plan.publishers if self.is_first else 0
        size_bytes = max(plan.size_bytes, MIN_PAYLOAD_BYTES)
        self.fleet = Fleet(
            board,
            process,
            plan.channels,
            size_bytes,
            len(self._clients) + len(self._guests) + publishers,  # a guest that comes back may meet itself leaving
            bodies=make_bodies(plan.payload, size_bytes - MIN_PAYLOAD_BYTES),
            is_text=not plan.is_binary,
            prefix=plan.expect_prefix,
            wake_fd=wake_fd,
        )
        self._publishers = publishers
        self._churn_start = 0.0
        self._window_cpu_start: int | None = None
        self._window_cpu_end: int | None = None
        self._wait_start: float | None = None
        self._has_peak = False

    # The phases.

    def play(self) -> PartReport:
        """From the first connection to the last."""
        try:
            if self.is_first:
                self.report.server_start = read_usage(self.plan.server_pids)
                self._has_peak = reset_peak(self.plan.server_pids)
            self._connect_all()
            self.board.set_ready(self._process)
            while self.board.phase == Phase.CONNECTING and not (self.is_first and self._all_are_ready()):
                self._turn()
            self._churn_start = time.monotonic()
            if self.is_first:
                self._publish()
            while self.board.phase < Phase.DONE:
                self._turn()
            self._finish()
        finally:
            self.fleet.close()
        return self.report

    def _all_are_ready(self) -> bool:
        return bool(self.board.read()["ready"] == self.board.processes)

    def _publish(self) -> None:
        """Warm up, then publish what is measured, and wait until it is settled."""
        plan, board, fleet = self.plan, self.board, self.fleet
        self.report.socket_bytes_idle = read_socket_bytes()
        if not plan.is_listening and plan.warmup_messages and not board.is_stopping:
            board.phase = Phase.WARMING
            fleet.start(plan.warmup_messages, in_flight=min(plan.in_flight, board.slots), rate=plan.rate)
            self._wait_until_settled()
        if not board.is_stopping:
            board.phase = Phase.MEASURING
            self.report.server_before = read_usage(plan.server_pids)
            server_wait = read_wait_seconds(plan.server_pids[0]) if plan.server_pids else None
            board.start_window(time.monotonic_ns())
            if plan.is_listening:
                self._turn_for(plan.duration_seconds)
            else:
                fleet.start(
                    plan.messages or 2**62, in_flight=plan.in_flight, judge_all=plan.judge == "all", rate=plan.rate
                )
                self._wait_until_settled(None if plan.messages else plan.duration_seconds)
            self.report.server_after = read_usage(plan.server_pids)
            if self._has_peak:
                self.report.server_peak_bytes = read_peak_bytes(plan.server_pids)
            if server_wait is not None:
                ended = read_wait_seconds(plan.server_pids[0])
                self.report.server_wait_seconds = None if ended is None else ended - server_wait
            last_read_ns = board.read()["last_read_ns"]
            is_settled = not plan.is_listening and last_read_ns > board.window_start_ns and not self.report.has_stopped
            board.window_end_ns = last_read_ns if is_settled else time.monotonic_ns()
        self.report.was_throttled = fleet.was_throttled
        self.report.socket_bytes_after = read_socket_bytes()
        self._note_cpu()
        self._turn_for(LINGER_SECONDS)
        self._turn_for(plan.settle_seconds)
        if plan.settle_seconds:
            self.report.server_settled = read_usage(plan.server_pids)
            self.report.socket_bytes_settled = read_socket_bytes()
        board.phase = Phase.DONE

    def _wait_until_settled(self, publish_seconds: float | None = None) -> None:
        """Run until the schedule is published (or for `publish_seconds`) and settled. What stalls is given up."""
        moved = before = (0, 0)
        moved_at = time.monotonic()
        end_at = moved_at + publish_seconds if publish_seconds is not None else float("inf")
        hopeless = 0
        while not self.fleet.is_done:
            self._turn()
            now = time.monotonic()
            # The schedule goes round all publishers: without one of them it could not be kept.
            if now >= end_at or self.board.is_stopping or self.fleet.open_publishers < self._publishers:
                self.fleet.stop()
                if self.board.phase == Phase.MEASURING:
                    self.board.phase = Phase.DRAINING
            counts = self.board.read()
            if (counts["received"], self.fleet.scheduled) != moved:
                moved, moved_at = (counts["received"], self.fleet.scheduled), now
            elif now - moved_at > self.plan.stall_seconds and (self.fleet.under_way or self.fleet.is_blocked):
                hopeless = hopeless + 1 if moved[0] == before[0] else 1
                before = moved
                self.board.write_off()
                if hopeless == HOPELESS_STALLS or not counts["received"]:
                    self.fleet.stop()
                    self.report.has_stopped = True
                moved_at = now

    def _finish(self) -> None:
        self._note_cpu()
        self.fleet.give_up_connecting(min(self.plan.stall_seconds, self.plan.connect_timeout_seconds))
        self.fleet.finish()
        if self._wait_start is not None:
            ended = read_wait_seconds(os.getpid())
            self.report.wait_seconds = None if ended is None else ended - self._wait_start
        self.report.slow_ends = look_at_slow_ends(self.fleet.slow_descriptors())
        self.report.problems = self.fleet.read_problems()
        self.report.closes = self.fleet.read_closes()
        self.report.slow_closes = self.fleet.read_closes(of_slow=True)
        self.report.lateness = self.fleet.read_lateness()

    # Turns.

    def _turn_for(self, seconds: float) -> None:
        end_at = time.monotonic() + seconds
        while (left := end_at - time.monotonic()) > 0 and not (
            self.board.is_stopping or (self.plan.is_listening and not self.board.read()["open"])
        ):
            self._turn(min(TURN_SECONDS, left))

    def _turn(self, seconds: float = TURN_SECONDS, most_connecting: int = -1) -> None:
        if os.getppid() != self._parent_pid:  # killed: nobody would end this process, or hear what it has to say
            raise SystemExit(1)
        self.fleet.run(seconds, most_connecting)
        if self._guests and Phase.WARMING <= self.board.phase <= Phase.MEASURING:
            self._churn()
        self._note_cpu()

    def _note_cpu(self) -> None:
        """Put this process's time on the board; in the window from the first turn in it to the last."""
        cpu_ns = time.process_time_ns()
        phase = self.board.phase
        if self._window_cpu_start is None and phase >= Phase.MEASURING:
            self._window_cpu_start = cpu_ns
            self._wait_start = read_wait_seconds(os.getpid())
        if self._window_cpu_start is not None and self._window_cpu_end is None:
            if self.board.window_end_ns:
                self._window_cpu_end = cpu_ns
            self.board.set_cpu(self._process, cpu_ns, cpu_ns - self._window_cpu_start)

    # Connecting.

    def _connect_all(self) -> None:
        """The subscribers first, then the publishers: nobody can miss what is published."""
        plan = self.plan
        start = time.monotonic()
        at_once = max(1, plan.connecting // plan.processes)
        rate = plan.connect_rate / plan.processes
        wanted: list[Client | int] = [*self._clients, *range(self._publishers)]
        for count, what in enumerate(wanted):
            if rate:
                while (due_in := start + count / rate - time.monotonic()) > 0 and not self.board.is_stopping:
                    self._turn(min(TURN_SECONDS, due_in))
            elif self.fleet.connecting >= at_once:
                self._finish_handshakes(at_once // 2)
                if not self.fleet.open_subscribers and self.fleet.read_problems():
                    break  # nobody gets in: it is not tried once for each client
            if self.board.is_stopping:
                return
            self._connect(what)
        self._finish_handshakes(0)
        if self.board.is_stopping:
            return
        self.report.connecting_seconds = time.monotonic() - start
        opened = self.fleet.open_publishers + self.fleet.open_subscribers
        if not opened or self.fleet.open_publishers < self._publishers:
            problem = next(iter(self.fleet.read_problems()), "the server closed the connection")
            raise CannotConnect(f"{plan.shown_url}: {problem}")

    def _finish_handshakes(self, most_connecting: int) -> None:
        """Until only so many are under way. Who gets no answer in time is refused."""
        while self.fleet.connecting > most_connecting and not self.board.is_stopping:
            self._turn(TURN_SECONDS, most_connecting)
            self.fleet.give_up_connecting(self.plan.connect_timeout_seconds)

    def _connect(self, what: Client | int) -> int:
        """Begin one connection: a subscriber's, or that of the publisher of a stream."""
        if isinstance(what, int):
            request, accept = self.connector.make_request(what % self.plan.channels)
            return self.fleet.add(self.connector.open_socket(), Kind.PUBLISHER, what, request, accept)
        request, accept = self.connector.make_request(what.channel)
        descriptor = self.connector.open_socket()
        if what.slow is not None:
            return self.fleet.add(
                descriptor, Kind.SLOW, what.channel, request, accept,
                every_seconds=what.slow.every_seconds, read_bytes=what.slow.read_bytes,
            )
        number = self.fleet.add(descriptor, Kind.GUEST if what.is_guest else Kind.STEADY, what.channel, request, accept)
        if what.is_guest:
            self._guest_numbers[id(what)] = number
        return number

    def _churn(self) -> None:
        """Let guests go whose time has come, every other one without a word, and others come in their place."""
        due = int((time.monotonic() - self._churn_start) * self.plan.churn_per_second / self.plan.processes)
        for _ in range(min(due - self.report.churned, MAX_CHURN_PER_TURN)):
            if not self.fleet.has_room():
                self.fleet.give_up_connecting(self.plan.connect_timeout_seconds)
                break
            guest = self._guests[self.report.churned % len(self._guests)]
            number = self._guest_numbers.pop(id(guest), None)
            if number is not None:
                self.fleet.leave(number, is_abrupt=self.report.churned % 2 == 1)
            self._connect(guest)
            self.report.churned += 1
