"""Fan-out: one channel's subscribers, and the sweep that moves their cursors to the tail.

    publish --> append --> dirty --(end of the loop's turn)--> round: visit every slot once
                                                                 |  cursor == tail    nothing to do
                                                                 |  WRITABLE          one send(2) of all it lacks
                                                                 |  PAUSED, CLOSED    one branch
                                                                 v
                                              set aside: refused | failed | over its limit  (settled with the GIL)

A round goes once around the dense array of slots, from `position`, for `remaining` more visits; it is cut
into slices bounded in time, and what is published between two slices goes out with the visits that follow.

Invariants

1. After a round that nothing disturbed every slot is at the round's tail, or its socket is not WRITABLE.
   What disturbs a round (a publish, a removal that moves a slot, a Transport that could write after all)
   sets `needs_round`, and one more round follows: nobody is left behind on a channel that goes idle.
   `offered` grows only when a round ends.
2. While Python has control each cursor is at a frame boundary: a slice's partial writes are settled,
   the rest of the frame handed to the Transport, before anything else may run.
3. A slot is in the array if and only if its subscription is active, and slots[i].subscription.index == i.
   It leaves before its client's CLOSE is written, when a send fails, and at the latest in
   `on_ws_disconnected`: until then its fd cannot be another's, and no dead slot holds back the log.
4. Limits are judged only for sockets that the kernel refused, at the end of a turn. A burst is not lag:
   lag counts from the end of the burst in which the subscriber fell behind (`judged_from`), until
   `max_burst_bytes` more than the limit are waiting. So a lane holds at most
   max_lag_bytes + max_burst_bytes + max_unswept_bytes, and one frame.
5. No user code runs inside a sweep, and no Python object is touched without the GIL.
6. Everything is called from the loop's thread only; `Sweeper.check_thread` says so.
"""

import logging

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EAGAIN, EINTR, ENOBUFS, ENOMEM, errno
from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from fastbcast._frames cimport Payload, acquire_payload, frame_len, release_payload
from fastbcast._log cimport Log, iovec
from fastbcast._sweeper cimport ASIDE_CAPACITY, FAILED, OVER_LIMIT, REFUSED, Aside, Sweepable, Sweeper, Verdict, now_ns
from fastbcast._wire cimport PAUSED, WRITABLE, Wire

from fastbcast.exceptions import MessageTooBig

cdef extern from *:
    """
    #include <sys/types.h>
    #include <sys/socket.h>
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0      /* macOS: CPython ignores SIGPIPE anyway */
    #endif
    """
    struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    int MSG_DONTWAIT
    int MSG_NOSIGNAL
    ssize_t send(int fd, const void* data, size_t size, int flags) nogil
    ssize_t sendmsg(int fd, const msghdr* message, int flags) nogil

cdef enum:
    IOVEC_COUNT = 16            # pieces of one send; a lane with more segments takes several
    SENDS_PER_CLOCK_READ = 8    # a send costs microseconds, so a slice ends at most this much late

cdef uint64_t KEEPING_UP = UINT64_MAX    # judged_from of a subscriber that is not behind

_logger = logging.getLogger("fastbcast")


cdef class Subscription:
    """One client's place in one channel."""

    def __init__(self):
        raise TypeError("use client.subscribe(channel)")


cdef class Flush:
    """Waits until a channel's subscribers of now have what was published so far."""


cdef class Fanout(Sweepable):
    """The subscribers of one channel, and its log."""

    def __cinit__(self, str name not None, Sweeper sweeper not None, *, uint64_t max_message_bytes,
                  uint64_t max_lag_bytes, uint64_t max_burst_bytes, uint64_t max_unswept_bytes,
                  double coalesce_seconds):
        self.random = 2463534242  # Marsaglia's seed for xorshift32; any but 0
        self.name = name
        self.sweeper = sweeper
        self.counters = sweeper.counters
        self.log = Log()
        self.max_message_bytes = max_message_bytes
        self.max_lag_bytes = max_lag_bytes
        self.max_burst_bytes = max_burst_bytes
        self.max_unswept_bytes = max_unswept_bytes
        self.coalesce_seconds = coalesce_seconds

    def __dealloc__(self):
        free(self.slots)

    @property
    def subscribers(self):
        """How many clients are subscribed."""
        return self.count

    @property
    def log_bytes(self):
        """What the lane's segments hold in memory, in bytes."""
        return self.log.allocated_bytes

    @property
    def seq(self):
        """The seq of the newest message; 0 before the first."""
        return self.log.next_seq - 1

    # Publishing.

    def publish(self, message, *, text=None):
        """Queue `message` for every subscriber and return its seq (int, from 1, per channel).

        A str goes out as text, a bytes-like object as binary, or as text with `text=True`. The bytes are
        copied before this returns. Never blocks and never runs user code.

        Raises TypeError (not str or bytes-like), ValueError (text that is not UTF-8, a buffer that is not
        C-contiguous), MessageTooBig (above `max_message_bytes`), WrongThread (not the loop's thread: use
        `hub.publish_threadsafe`); nothing has been queued then.
        """
        cdef Payload payload
        cdef uint64_t seq
        self.sweeper.check_thread("publish")
        acquire_payload(message, text, &payload)
        try:
            if <uint64_t>payload.len > self.max_message_bytes:
                raise MessageTooBig(payload.len, self.max_message_bytes)
            seq = self.log.append(&payload) if self.count else self.log.skip()
        finally:
            release_payload(&payload)
        return self._appended(seq, frame_len(payload.len))

    def _publish_frame(self, bytes frame not None):
        """Queue a frame that `_frames.encode` made (for `publish_threadsafe`); returns its seq."""
        self.sweeper.check_thread("publish")
        return self._appended(self.log.append_frame(frame) if self.count else self.log.skip(), len(frame))

    cdef uint64_t _appended(self, uint64_t seq, uint64_t frame_bytes) except 0:
        self.counters.published_messages += 1
        self.counters.published_bytes += frame_bytes
        if self.count:
            self.needs_round = True
            self.sweeper.mark_dirty(self)
            if self.log.tail - self.offered > self.max_unswept_bytes and not self.sweeper.is_sweeping:
                self.counters.inline_sweeps += 1
                self.sweep(UINT64_MAX, False)
                self.needs_round = True  # the turn's own sweep judges who is behind
        return seq

    # Subscribing.

    cdef Subscription subscribe(self, Wire wire):
        """Add `wire`'s client at the tail: it gets what is published from now on. Returns a Subscription."""
        cdef Slot* slots
        cdef uint32_t wanted
        cdef Subscription subscription
        self.sweeper.check_thread("subscribe")
        if self.count == self.capacity:
            wanted = max(1, self.capacity + self.capacity // 2 + 1)
            slots = <Slot*>realloc(self.slots, wanted * sizeof(Slot))
            if slots == NULL:
                raise MemoryError("no memory for a channel's subscribers")
            self.slots = slots
            self.capacity = wanted
        if self.count == 0:
            self.offered = self.log.tail
        subscription = Subscription.__new__(Subscription)
        subscription.fanout = self
        subscription.wire = wire
        subscription.index = self.count
        subscription.is_active = True
        Py_INCREF(subscription)
        self.slots[self.count] = Slot(self.log.tail, KEEPING_UP, &wire.socket, <PyObject*>subscription)
        self.count += 1
        if self.remaining:
            self.remaining += 1  # the ring has become longer; without this the last slot of the round is missed
        return subscription

    cdef int unsubscribe(self, Subscription subscription, bint is_evicted) except -1:
        """Remove a subscription; its slot is gone when this returns. Does nothing the second time."""
        cdef uint32_t index = subscription.index
        cdef Flush flush
        self.sweeper.check_thread("unsubscribe")
        if not subscription.is_active:
            return 0
        if self.flushes is not None:
            for flush in self.flushes:
                if self._is_pending(subscription, flush.target):
                    if is_evicted:
                        flush.evicted += 1
                    else:
                        flush.left += 1
        subscription.is_active = False
        self.count -= 1
        if index != self.count:
            self.slots[index] = self.slots[self.count]
            (<Subscription>self.slots[index].subscription).index = index
            if self.remaining:
                # The slot that moved may have gone from an unvisited place to a visited one.
                self.needs_round = True
                self.sweeper.mark_dirty(self)
        self.remaining = min(self.remaining, self.count)
        if self.position >= self.count:
            self.position = 0
        Py_DECREF(subscription)
        if self.count == 0:
            self.remaining = 0
            self.needs_round = False
            self.log.trim(self.log.tail)
        if self.flushes is not None:
            self._check_flushes()
        return 0

    # The sweep.

    cdef bint sweep(self, uint64_t deadline_ns, bint is_turn_end) except -1:
        """Run rounds until none is needed (returns True) or the deadline has passed (returns False)."""
        if self.remaining == 0:
            if not self.needs_round or self.count == 0:
                return True
            self.counters.sweeps += 1
            # The start rotates, so that nobody is always first; xorshift32 is enough for that.
            self.random ^= self.random << 13
            self.random ^= self.random >> 17
            self.random ^= self.random << 5
            self.position = self.random % self.count
            self._begin_round()
        self.sweeper.is_sweeping = True
        try:
            while True:
                with nogil:
                    self._run_slice(deadline_ns, is_turn_end)
                if self.sweeper.aside_count:
                    self._settle()
                if self.remaining == 0:
                    self.offered = self.round_tail
                    self._trim()
                    if self.flushes is not None:
                        self._check_flushes()
                    if not self.needs_round:
                        return True
                    self._begin_round()
                if now_ns() >= deadline_ns:
                    return False
        finally:
            self.sweeper.is_sweeping = False

    cdef int _begin_round(self) noexcept:
        self.needs_round = False
        self.remaining = self.count
        self.round_tail = self.log.tail

    cdef int _run_slice(self, uint64_t deadline_ns, bint is_turn_end) noexcept nogil:
        """Visit slots until the round ends, the deadline has passed, or the asides are full.

        The caller guarantees that nothing changes log, slots or sockets meanwhile: whatever could
        belongs to the loop's thread, which is here. It cannot fail: what does not work is set aside.
        """
        cdef uint64_t tail = self.log.tail
        cdef uint64_t frames_at_tail = self.log.count_frames(tail)
        cdef uint64_t counted_cursor = tail     # the last cursor whose lag in frames was looked up
        cdef uint64_t counted_frames = 0
        cdef uint64_t delivered = 0
        cdef uint64_t sent_bytes = 0
        cdef uint64_t sends = 0
        cdef uint64_t start
        cdef uint32_t index = self.position
        cdef Slot* slot
        cdef iovec[IOVEC_COUNT] pieces
        cdef msghdr message
        cdef ssize_t sent
        cdef ssize_t wanted
        cdef int count
        cdef int i
        memset(&message, 0, sizeof(msghdr))
        message.msg_iov = pieces
        while self.remaining:
            slot = &self.slots[index]
            start = slot.cursor
            if start != tail:
                if slot.socket.state == WRITABLE:
                    count = self.log.gather(start, pieces, IOVEC_COUNT)
                    wanted = pieces[0].iov_len
                    if count == 1:
                        sent = send(slot.socket.fd, pieces[0].iov_base, wanted, MSG_DONTWAIT | MSG_NOSIGNAL)
                    else:
                        for i in range(1, count):
                            wanted += pieces[i].iov_len
                        message.msg_iovlen = count
                        sent = sendmsg(slot.socket.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
                    sends += 1
                    if sent == wanted:
                        if start != counted_cursor:
                            counted_cursor = start
                            counted_frames = frames_at_tail - self.log.count_frames(start)
                        sent_bytes += sent
                        slot.cursor = start + sent
                        if slot.cursor != tail:  # more pieces than one send takes: visit it again
                            delivered += self.log.count_frames(slot.cursor) - self.log.count_frames(start)
                            continue
                        delivered += counted_frames
                        slot.judged_from = KEEPING_UP
                    elif sent >= 0 or errno == EAGAIN or errno == ENOBUFS or errno == ENOMEM:
                        if sent > 0:
                            sent_bytes += sent
                            slot.cursor = start + sent
                            delivered += self.log.count_frames(slot.cursor) - self.log.count_frames(start)
                        self._set_aside(index, REFUSED, 0)
                    elif errno == EINTR:
                        continue
                    else:
                        self._set_aside(index, FAILED, errno)
                elif slot.socket.state == PAUSED and self._is_over_limit(slot, is_turn_end):
                    self._set_aside(index, OVER_LIMIT, 0)
            index += 1
            if index == self.count:
                index = 0
            self.remaining -= 1
            if self.sweeper.aside_count == ASIDE_CAPACITY:
                break
            if sends % SENDS_PER_CLOCK_READ == SENDS_PER_CLOCK_READ - 1 and now_ns() >= deadline_ns:
                break
        self.position = index
        self.counters.delivered_messages += delivered
        self.counters.sent_bytes += sent_bytes
        self.counters.sends += sends
        return 0

    cdef int _set_aside(self, uint32_t index, Verdict verdict, int error) noexcept nogil:
        self.sweeper.asides[self.sweeper.aside_count] = Aside(index, verdict, error)
        self.sweeper.aside_count += 1
        return 0

    cdef bint _is_over_limit(self, Slot* slot, bint is_turn_end) noexcept nogil:
        """Judge a subscriber that the kernel refused (invariant 4)."""
        cdef uint64_t tail = self.log.tail
        if tail - slot.cursor > self.max_lag_bytes + self.max_burst_bytes:
            return True
        if not is_turn_end:
            return False
        if slot.judged_from == KEEPING_UP:
            slot.judged_from = tail
            return False
        return tail - max(slot.cursor, slot.judged_from) > self.max_lag_bytes

    cdef int _settle(self) except -1:
        """Finish what a slice set aside: rests first, then the dead, then those over their limit.

        Nothing here runs user code; the removals that follow from it move slots, so the indexes are
        turned into subscriptions before the first of them.
        """
        cdef Subscription subscription
        cdef uint32_t i
        cdef list refused = []
        cdef list failed = []
        cdef list over_limit = []
        for i in range(self.sweeper.aside_count):
            subscription = <Subscription>self.slots[self.sweeper.asides[i].index].subscription
            if self.sweeper.asides[i].verdict == REFUSED:
                refused.append(subscription)
            elif self.sweeper.asides[i].verdict == FAILED:
                failed.append((subscription, self.sweeper.asides[i].error))
            else:
                over_limit.append(subscription)
        self.sweeper.aside_count = 0
        self.counters.refused_sends += <uint64_t>len(refused)
        self.counters.failed_sends += <uint64_t>len(failed)
        for subscription in refused:
            self._hand_over(subscription)
        for subscription, error in failed:
            subscription.wire.owner._send_failed(error)
        for subscription in over_limit:
            # The seam for the policies: `evict` is the only one so far.
            subscription.wire.owner._evict()
        return 0

    cdef int _hand_over(self, Subscription subscription) except -1:
        """Give the rest of the current frame to the Transport; the cursor is at a boundary again."""
        cdef Slot* slot = &self.slots[subscription.index]
        cdef uint64_t end = self.log.frame_end(slot.cursor)
        try:
            subscription.has_rest = subscription.wire.hand_over(self.log, slot.cursor, end)
        except Exception:
            _logger.exception("a Transport refused the rest of a frame; its connection is aborted")
            subscription.wire.owner._send_failed(0)
            return 0
        self.counters.delivered_messages += 1
        self.counters.sent_bytes += end - slot.cursor
        slot.cursor = end
        if not subscription.has_rest and slot.cursor != self.log.tail:
            self.needs_round = True  # it could write after all, so no `resume_writing` will come
            self.sweeper.mark_dirty(self)
        return 0

    cdef int catch_up(self, Subscription subscription) except -1:
        """Send one subscriber what it lacks, now: its socket is writable, and a direct frame may come next."""
        cdef uint32_t position = self.position
        cdef uint32_t remaining = self.remaining
        cdef uint64_t cursor
        if not subscription.is_active:
            return 0
        cursor = self.slots[subscription.index].cursor
        if cursor == self.log.tail:
            return 0
        # A round of one slot.
        self.position = subscription.index
        self.remaining = 1
        with nogil:
            self._run_slice(UINT64_MAX, False)
        self.position = position
        self.remaining = remaining
        if self.sweeper.aside_count:
            self._settle()
        if cursor == self.log.head:
            self._trim()
        if self.flushes is not None:
            self._check_flushes()
        return 0

    cdef int resume(self, Subscription subscription) except -1:
        """The Transport has written the rest of the frame that ends at the cursor."""
        subscription.has_rest = False
        if not subscription.is_active:
            return 0
        if self.slots[subscription.index].cursor == self.log.tail:
            self.slots[subscription.index].judged_from = KEEPING_UP
        if self.flushes is not None:
            self._check_flushes()
        return self.catch_up(subscription)

    cdef int _trim(self) except -1:
        cdef uint64_t oldest = self.log.tail
        cdef uint32_t i
        for i in range(self.count):
            if self.slots[i].cursor < oldest:
                oldest = self.slots[i].cursor
                if oldest == self.log.head:
                    return 0
        return self.log.trim(oldest)

    # Knowing when all is written.

    def _flush(self, on_done):
        """Return a Flush that calls `on_done()` once, when every subscriber of now has all of now's messages."""
        cdef Flush flush = Flush()
        self.sweeper.check_thread("flushed")
        flush.target = self.log.tail
        flush.subscribers = self.count
        flush.on_done = on_done
        if self.flushes is None:
            self.flushes = []
        self.flushes.append(flush)
        self._check_flushes()
        return flush

    def _finish_flush(self, Flush flush not None):
        """Stop a Flush and return its counts (written, evicted, left, pending); they add up to its subscribers."""
        cdef uint32_t pending = 0
        cdef uint32_t i
        for i in range(self.count):
            if self._is_pending(<Subscription>self.slots[i].subscription, flush.target):
                pending += 1
        if self.flushes is not None and flush in self.flushes:
            self.flushes.remove(flush)
            if not self.flushes:
                self.flushes = None
        return flush.subscribers - flush.evicted - flush.left - pending, flush.evicted, flush.left, pending

    cdef bint _is_pending(self, Subscription subscription, uint64_t target) noexcept:
        """Whether the kernel does not have all bytes before `target` yet.

        The frame that ends at the cursor may still be in the Transport. Who joined later has its cursor
        at the tail of then, so it is never pending.
        """
        cdef uint64_t cursor = self.slots[subscription.index].cursor
        return cursor < target or (subscription.has_rest and cursor == target)

    cdef int _check_flushes(self) except -1:
        cdef uint64_t written = UINT64_MAX
        cdef uint64_t cursor
        cdef Flush flush
        cdef uint32_t i
        for i in range(self.count):
            cursor = self.slots[i].cursor
            if (<Subscription>self.slots[i].subscription).has_rest:
                cursor -= 1
            written = min(written, cursor)
        for flush in self.flushes:
            if flush.on_done is not None and written >= flush.target:
                flush.on_done()
                flush.on_done = None
        return 0

    # For tests and debug builds.

    def check_invariants(self):
        """Assert invariants 1 to 3; slow."""
        cdef uint32_t i
        cdef Slot* slot
        cdef Subscription subscription
        self.log.check_invariants()
        assert self.remaining <= self.count
        assert self.position < self.count or self.count == 0
        for i in range(self.count):
            slot = &self.slots[i]
            subscription = <Subscription>slot.subscription
            assert subscription.is_active and subscription.index == i
            assert self.log.head <= slot.cursor <= self.log.tail
            if slot.cursor != self.log.tail and slot.socket.state == WRITABLE:
                assert self.remaining or self.needs_round, f"{self.name}: slot {i} is left behind"
