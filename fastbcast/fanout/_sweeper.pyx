"""The end of a turn: which channels are swept, when, and for how long.

    publish --> mark_dirty --> queue of dirty channels --(call_soon)--> run: one after the other, until
                                  ^                                      |  all are clean, or the slice is over
                                  `--------- not finished ---------------'

Invariants

1. A channel with something to send is dirty, and `run` is scheduled; or, if it has to wait (coalescing, a limit of
   the rate, a sweep that failed), it has a timer. A publish never waits for the next one.
2. `run` gives the loop a turn after `slice_ns`; what is left goes on in the next turn, other channels first.
3. A channel whose sweep fails does not stop the others, nor is it left alone: it is tried again a little later.
4. A hub has one sweeper, of one loop's thread; nothing here may be called from another (`check_thread`).
5. The logs hold at most `max_log_bytes`, and one frame: who appends more has the slowest relieved of it.
"""

import logging
from collections import deque
from functools import partial

from cpython.pythread cimport PyThread_get_thread_ident
from libc.stdint cimport uint64_t

from fastbcast._clock cimport now_ns
from fastbcast._ticker cimport Ticker
from fastbcast.deflate._deflate cimport Deflaters
from fastbcast.log._log cimport Ledger

from fastbcast.exceptions import WrongThread
from fastbcast.logging import log_event

cdef extern from *:
    """
    #ifndef FASTBCAST_CHECKED
    #define FASTBCAST_CHECKED 0     /* setup.py: 1 in debug and sanitizer builds */
    #endif
    """
    bint FASTBCAST_CHECKED

# How soon an aborted Transport has let go of what it held.
RELIEF_SECONDS = 0.01
# When a sweep that failed is tried again.
RETRY_SECONDS = 0.1


cdef class Counters:
    """What a hub's channels did, in sum."""

    def as_dict(self):
        """Return all counters by name."""
        return {
            "published_messages": self.published_messages,
            "published_bytes": self.published_bytes,
            "delivered_messages": self.delivered_messages,
            "sent_bytes": self.sent_bytes,
            "sends": self.sends,
            "refused_sends": self.refused_sends,
            "failed_sends": self.failed_sends,
            "skipped_messages": self.skipped_messages,
            "conflated_messages": self.conflated_messages,
            "jumps": self.jumps,
            "sweeps": self.sweeps,
            "slices": self.slices,
            "inline_sweeps": self.inline_sweeps,
            "reliefs": self.reliefs,
            "rounds": self.rounds,
            "spread_seconds_mean": self.round_ns / 1e9 / self.rounds if self.rounds else 0.0,
            "spread_seconds_max": self.max_round_ns / 1e9,
        }

    cdef int add_round(self, uint64_t ns) noexcept:
        self.rounds += 1
        self.round_ns += ns
        self.max_round_ns = max(self.max_round_ns, ns)
        return 0


cdef class Sweepable:
    """A channel, as far as the sweeper is concerned."""

    cdef bint sweep(self, uint64_t deadline_ns, bint is_turn_end) except -1:
        """Send what is to be sent until the deadline; returns whether nothing is left."""
        raise NotImplementedError


cdef class Sweeper:
    """Runs the sweeps of a hub's dirty channels at the end of the loop's turn, in slices."""

    def __init__(
        self, double slice_seconds, Py_ssize_t max_log_bytes, on_log_full, Py_ssize_t max_pinned_bytes, on_pinned_full,
        Py_ssize_t max_window_bytes, Ticker ticker not None
    ):
        self.dirty = deque()
        self.counters = Counters()
        self.ledger = Ledger(max_log_bytes // 2)
        self.deflaters = Deflaters(max_window_bytes)
        self.max_log_bytes = max_log_bytes
        self.on_log_full = on_log_full
        self.max_pinned_bytes = max_pinned_bytes
        self.on_pinned_full = on_pinned_full
        self.slice_ns = <uint64_t>(slice_seconds * 1e9)
        self.ticker = ticker

    def bind(self, loop):
        """Belong to `loop` and the calling thread, which runs it."""
        self.loop = loop
        self.thread_ident = PyThread_get_thread_ident()
        self.schedule()

    def check(self, str what):
        """Raise WrongThread unless called from the loop's thread."""
        self.check_thread(what)

    cdef int check_thread(self, str what) except -1:
        if self.thread_ident != 0 and self.thread_ident != PyThread_get_thread_ident():
            raise WrongThread(what)
        return 0

    cdef int mark_dirty(self, Sweepable channel) except -1:
        """Have `channel` swept at the end of this turn, or when it has waited for more."""
        if channel.is_dirty:
            return 0
        if channel.coalesce_seconds > 0 and self.loop is not None:
            self.mark_dirty_later(channel, channel.coalesce_seconds)
        else:
            self._enqueue(channel)
        return 0

    cdef int mark_dirty_later(self, Sweepable channel, double seconds) except -1:
        """Have it swept in `seconds`, if no timer is set for that already."""
        if channel.timer is None:
            channel.timer = self.loop.call_later(seconds, self._time_has_come, channel)
        return 0

    def _time_has_come(self, Sweepable channel):
        channel.timer = None
        if not channel.is_dirty:
            self._enqueue(channel)

    cdef int _enqueue(self, Sweepable channel) except -1:
        channel.is_dirty = True
        self.dirty.append(channel)
        return self.schedule()

    cdef int forget(self, Sweepable channel) except -1:
        """Nobody is there to be sent anything: a timer must not keep the channel."""
        if channel.timer is not None:
            channel.timer.cancel()
            channel.timer = None
        return 0

    cdef int schedule(self) except -1:
        if not self.is_scheduled and self.dirty and self.loop is not None:
            self.is_scheduled = True
            self.loop.call_soon(self.run)
        return 0

    cdef int relieve_logs(self) except -1:
        """Have memory freed now if the logs hold more than they may."""
        if self.ledger.log_bytes > self.max_log_bytes and not self.is_sweeping and not self.is_relieving_logs:
            self.is_relieving_logs = True
            try:
                self.counters.reliefs += 1
                self.on_log_full()
            except Exception as error:  # not the publisher's fault
                self.report("relief_failed", None, error)
            finally:
                self.is_relieving_logs = False
        return 0

    cdef int relieve_pinned(self) except -1:
        """The same for what Transports pin; they let go of it a little later."""
        if self.ledger.pinned_bytes > self.max_pinned_bytes and not self.is_relieving_pinned:
            self.is_relieving_pinned = True
            self.loop.call_later(RELIEF_SECONDS, self._relieved_pinned)
            self.counters.reliefs += 1
            self.on_pinned_full(self.ledger.pinned_bytes - self.max_pinned_bytes)
        return 0

    cdef bint attempt(self, Sweepable channel, uint64_t deadline_ns, bint is_turn_end) except -1:
        """Sweep `channel`; returns whether it is clean, or has failed and will be tried again."""
        cdef bint is_clean
        try:
            is_clean = channel.sweep(deadline_ns, is_turn_end)
            if FASTBCAST_CHECKED:
                (<object>channel).check_invariants()
            return is_clean
        except Exception as error:
            self.report("sweep_failed", channel.name, error)
            self.mark_dirty_later(channel, RETRY_SECONDS)
            return True

    cdef int report(self, str event, str channel, object error) except -1:
        """Log it in a turn of its own: a logging handler is user code, which must not run inside a sweep."""
        self.loop.call_soon(partial(log_event, logging.ERROR, event, exception=error, channel=channel))
        return 0

    cdef uint64_t turn_deadline(self) except 0:
        """Until when sockets that became writable in this turn are served at once: one slice for all of them."""
        if self.turn_deadline_ns == 0:
            self.turn_deadline_ns = now_ns() + self.slice_ns
            self.loop.call_soon(self._turn_is_over)
        return self.turn_deadline_ns

    def _turn_is_over(self):
        self.turn_deadline_ns = 0

    def _relieved_pinned(self):
        self.is_relieving_pinned = False
        self.relieve_pinned()  # several may have held the same

    def run(self):
        """Sweep the dirty channels in turn until all are clean or the slice's time is up."""
        cdef Sweepable channel
        cdef uint64_t deadline = now_ns() + self.slice_ns
        self.is_scheduled = False
        self.counters.slices += 1
        while self.dirty:
            channel = self.dirty.popleft()
            if self.attempt(channel, deadline, True):
                channel.is_dirty = False
            else:
                self.dirty.append(channel)
            if now_ns() >= deadline:
                break
        self.schedule()
