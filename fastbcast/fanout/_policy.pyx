"""Policies: when a subscriber is too far behind, and what becomes of it.

                        lag (bytes behind the log's tail)
    0 ........ soft_lag_bytes ........ max_lag_bytes ...(burst)... max_lag_bytes + max_burst_bytes
      fine     for soft_lag_seconds    at the end of a turn        at once

Invariants

1. Only a subscriber whose socket the kernel refused is ever judged.
2. A burst is not lag: lag counts from the end of the burst in which the subscriber fell behind
   (`judged_from`), until `max_burst_bytes` more than the limit are waiting.
3. `judge` gives the limit that was passed, in bytes; what follows is the policy's: `evict` closes, `skip`
   jumps to the oldest message within that limit, `latest` to the newest. A `conflate` channel does not
   judge: its subscribers that are behind hold nothing of the log.
"""

from libc.math cimport ceil
from libc.stdint cimport uint64_t

from fastbcast.deflate._deflate cimport Compression
from fastbcast.fanout._slot cimport KEEPING_UP, Slot, SlotDetails
from fastbcast.log._log cimport DEFLATED, PLAIN, WINDOWED

KINDS = {"evict": EVICT, "skip": SKIP, "latest": LATEST, "conflate": CONFLATE}
FORMS = {"off": PLAIN, "deflate": DEFLATED, "window": WINDOWED}

# Releases come at most so often: a timer each, and one send for all the messages of a release.
MAX_RELEASES_PER_SECOND = 20


# What "never" is made of: a century, which a 64-bit number of nanoseconds can hold.
MAX_SECONDS = 100 * 365 * 86400.0
cdef double _max_seconds = MAX_SECONDS


cdef uint64_t nanoseconds(double seconds) noexcept:
    return <uint64_t>(1e9 * min(seconds, _max_seconds))


cdef class Policy:
    """What a channel allows its subscribers; made of ChannelOptions."""

    def __cinit__(self, options not None, uint64_t max_message_bytes):
        cdef double per_second
        self.kind = CONFLATE if options.max_messages_per_second else KINDS[options.policy]
        self.closes = self.kind == EVICT
        self.jumps_to_newest = self.kind == LATEST
        self.reads_compact = self.kind == CONFLATE
        self.keeps_plain = not self.closes
        self.max_message_bytes = max_message_bytes
        self.max_lag_bytes = options.max_lag_bytes
        self.max_burst_bytes = options.max_burst_bytes
        self.max_unswept_bytes = options.max_unswept_bytes
        self.soft_lag_bytes = options.soft_lag_bytes
        self.soft_lag_ns = nanoseconds(options.soft_lag_seconds)
        self.max_keys = options.max_keys
        self.max_snapshot_bytes = options.max_snapshot_bytes
        self.coalesce_seconds = options.coalesce_seconds
        self.best_form = FORMS[options.compression]
        self.compression = Compression(
            options.compression_level, options.window_bits, options.compress_min_bytes, options.reset_messages
        )
        if options.max_messages_per_second:
            per_second = min(options.max_messages_per_second, 1e12)
            self.messages_per_release = <uint64_t>ceil(per_second / MAX_RELEASES_PER_SECOND)
            self.release_ns = nanoseconds(self.messages_per_release / per_second)

    cdef uint64_t judge(self, Slot* slot, uint64_t now, bint is_turn_end) noexcept nogil:
        """Return WITHIN_LIMITS, or the limit that a subscriber which the kernel refused has passed.

        `now`: by the Ticker, which does not count the time in which the process was frozen.
        """
        cdef SlotDetails* details = slot.details
        cdef uint64_t tail = slot.lane.tail
        cdef uint64_t lag
        if tail - slot.cursor > self.max_lag_bytes + self.max_burst_bytes:
            return self.max_lag_bytes
        if not is_turn_end:
            return WITHIN_LIMITS
        if details.judged_from == KEEPING_UP:
            details.judged_from = tail
            return WITHIN_LIMITS
        lag = tail - max(slot.cursor, details.judged_from)
        if lag > self.max_lag_bytes:
            return self.max_lag_bytes
        if lag <= self.soft_lag_bytes:
            details.soft_since_ns = 0
        elif details.soft_since_ns == 0:
            details.soft_since_ns = now
        elif now - details.soft_since_ns >= self.soft_lag_ns:
            details.soft_since_ns = 0
            return self.soft_lag_bytes
        return WITHIN_LIMITS
