"""The clock that deadlines are judged by: it counts the time in which this process ran, and lets its loop read first.

    timer --on time---------------------------> two turns of the loop --> on_tick
      `-----much too late --> one more tick ------^

A process can be frozen (SIGSTOP, a container's pause, a suspended machine) or its event loop blocked by a handler. The
monotonic clock goes on meanwhile, while what the peers send waits in the sockets. A timer that rings right after such a
pause would judge peers by what was read before the pause.

Invariants

1. What passes between two ticks counts as two ticks at most, however long the process was frozen. The clock never
   goes back.
2. Between the timer and `on_tick` the loop has polled its sockets, and the callbacks of what it found have run. uvloop
   runs timers before it polls, asyncio runs what was scheduled before what it finds by polling: two turns are enough
   for both.
3. A tick that is much too late judges nobody: the peers have one more tick. The next one judges, late or not, so that
   a process that is frozen again and again keeps nobody for ever.
"""

from asyncio import get_running_loop

from libc.stdint cimport uint64_t

from fastbcast cimport _clock

cdef enum:
    MAX_TICKS = 2               # that count between two ticks; what comes later than that is much too late

# A loop has other work for some milliseconds in every turn; that is not late.
cdef double MIN_TICK_SECONDS = 0.01


cdef class Ticker:
    """Calls `on_tick(now)` every `tick_seconds`, from `start()` on, as long as it is started again each time."""

    def __cinit__(self, double tick_seconds, on_tick):
        self.on_tick = on_tick
        self.tick_ns = <uint64_t>(max(tick_seconds, MIN_TICK_SECONDS) * 1e9)
        self.counted_ns = 1     # 0 is never
        self.ticked_ns = _clock.now_ns()

    @property
    def is_running(self):
        """Whether a tick will come."""
        return self.timer is not None

    def now(self):
        """Return the seconds that have counted until now."""
        return self.now_ns() / 1e9

    def limit(self, double tick_seconds):
        """Tick at least so often from the next tick on."""
        self.count()
        self.tick_ns = min(self.tick_ns, <uint64_t>(max(tick_seconds, MIN_TICK_SECONDS) * 1e9))

    def start(self, within_seconds=None):
        """Have a tick come, unless one is coming already; earlier than usual if it is wanted within so many seconds."""
        cdef double seconds = self.tick_ns / 1e9
        if self.timer is None:
            self.count()
            self.loop = get_running_loop()
            if within_seconds is not None:
                seconds = max(0.0, min(seconds, <double>within_seconds))
            self.timer = self.loop.call_later(seconds, self._ring)

    def stop(self):
        """Have no tick come."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    cdef uint64_t now_ns(self) noexcept nogil:
        return self.counted_ns + min(_clock.now_ns() - self.ticked_ns, MAX_TICKS * self.tick_ns)

    cdef int count(self) noexcept nogil:
        self.counted_ns = self.now_ns()
        self.ticked_ns = _clock.now_ns()
        return 0

    def _ring(self):
        cdef bint is_late = _clock.now_ns() - self.ticked_ns > MAX_TICKS * self.tick_ns
        self.count()
        if is_late and not self.is_excused:
            self.is_excused = True
            self.timer = self.loop.call_later(self.tick_ns / 1e9, self._ring)
        else:
            self.is_excused = False
            self.timer = self.loop.call_soon(self._turn)

    def _turn(self):
        self.timer = self.loop.call_soon(self._tick)

    def _tick(self):
        self.timer = None
        # As of the timer: a turn that took long since then has not been followed by a read.
        self.on_tick(self.counted_ns / 1e9)
