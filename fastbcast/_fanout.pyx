"""Fan-out: one channel's messages, and the sweep that moves its subscribers' cursors to the tail.

    publish --> append --> dirty --(end of the loop's turn)--> round: visit every slot once
                                                                 |  cursor == tail    nothing to do
                                                                 |  WRITABLE          one send(2) of all it lacks
                                                                 |  PAUSED            judged: may stay, jumps, or is
                                                                 v                    closed; or reads compacted
                                              set aside: refused | failed | over its limit | compacted
                                                                                      (settled with the GIL)

A round goes once around the dense array of slots, from `position`, for `remaining` more visits; it is cut
into slices bounded in time, and what is published between two slices goes out with the visits that follow.

Invariants

1. After a round that nothing disturbed every slot is at the round's tail, or its socket is not WRITABLE.
   What disturbs a round (a publish, a removal that moves a slot, a Transport that could write after all)
   sets `needs_round`, and one more round follows: nobody is left behind on a channel that goes idle.
   `offered` grows only when a round ends.
2. While Python has control each cursor is at a frame boundary: a slice's partial writes are settled,
   the rest of the frame handed to the Transport, before anything else may run.
3. A slot leaves the array before its client's CLOSE is written, when a send fails, and at the latest in
   `on_ws_disconnected`: until then its fd cannot be another's, and no dead slot holds back the log.
4. A lane holds at most max_lag_bytes + max_burst_bytes + max_unswept_bytes, and one frame, for subscribers
   that are behind: see `_policy`. Those of a conflating channel hold nothing of it.
5. Each subscriber gets the messages in order and at most once; those it does not get are counted, in its
   Place, in the hub's counters, and in the Fate of every message that somebody asked for.
6. No user code runs inside a sweep, and no Python object is touched without the GIL.
7. Everything is called from the loop's thread only; `Sweeper.check_thread` says so.
"""

import logging

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EINTR, ENOBUFS, ENOMEM, errno
from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t
from libc.string cimport memset

from fastbcast._clock cimport coarse_ns, now_ns
from fastbcast._compact cimport CompactLog, Entry, key_len
from fastbcast._flush cimport Fate, Flush, count_lost, count_passed
from fastbcast._frames cimport Payload, acquire_payload, frame_len, make_frame, release_payload
from fastbcast._log cimport Log, iovec
from fastbcast._policy cimport CONFLATE, EVICT, KEEPING_UP, LATEST, WITHIN_LIMITS, Policy, Slot
from fastbcast._roster cimport Roster, Subscription
from fastbcast._sweeper cimport (
    ASIDE_CAPACITY, COMPACTED, FAILED, OVER_LIMIT, REFUSED, Aside, Sweeper, Verdict,
)
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

_logger = logging.getLogger("fastbcast")


cdef class Fanout(Roster):
    """One channel: its log, and the subscribers that are sent what is appended to it."""

    def __cinit__(self, str name not None, Sweeper sweeper not None, Policy policy not None):
        self.random = 2463534242  # Marsaglia's seed for xorshift32; any but 0
        self.name = name
        self.sweeper = sweeper
        self.counters = sweeper.counters
        self.policy = policy
        self.coalesce_seconds = policy.coalesce_seconds
        self.log = Log(sweeper.ledger)
        if policy.kind == CONFLATE:
            self.compact = CompactLog(
                sweeper.ledger, max_keys=policy.max_keys, max_snapshot_bytes=policy.max_snapshot_bytes
            )

    @property
    def log_bytes(self):
        """What the channel's messages take in memory: segments, index, and the newest of each key; in bytes."""
        if self.compact is None:
            return self.log.allocated_bytes
        return self.log.allocated_bytes + self.compact.keyed_bytes + self.compact.keyless_bytes

    @property
    def seq(self):
        """The seq of the newest message; 0 before the first."""
        return self.log.next_seq - 1

    # Publishing.

    def publish(self, message, *, text=None, key=None):
        """Queue `message` for every subscriber and return its seq (int, from 1, per channel).

        A str goes out as text, a bytes-like object as binary, or as text with `text=True`. The bytes are
        copied before this returns. `key` (str, bytes or int) names what the message is about: on a channel
        that conflates, it supersedes the older ones of that key for whoever is behind. Never blocks and
        never runs user code.

        Raises TypeError (not str or bytes-like; the key), ValueError (text that is not UTF-8, a buffer that
        is not C-contiguous), MessageTooBig (above `max_message_bytes`), KeysFull (above `max_keys` or
        `max_snapshot_bytes`), WrongThread (not the loop's thread: use `hub.publish_threadsafe`); nothing has
        been queued then.
        """
        cdef Payload payload
        cdef uint64_t seq
        self.sweeper.check_thread("publish")
        acquire_payload(message, text, &payload)
        try:
            if <uint64_t>payload.len > self.policy.max_message_bytes:
                raise MessageTooBig(payload.len, self.policy.max_message_bytes)
            if self.compact is not None:
                return self._publish_frame(make_frame(payload.opcode, payload.data, payload.len), key)
            if key is not None:
                key_len(key)
            seq = self.log.append(&payload) if self.count else self.log.skip()
        finally:
            release_payload(&payload)
        return self._appended(seq, frame_len(payload.len), key is not None)

    def _publish_frame(self, bytes frame not None, key):
        """Queue a frame that `_frames.encode` made; returns its seq. TypeError or KeysFull for the key."""
        cdef uint64_t seq
        self.sweeper.check_thread("publish")
        if key is not None:
            key_len(key)
        if self.compact is not None:
            self.compact.admit(key, len(frame))
        seq = self.log.append_frame(frame) if self.count else self.log.skip()
        if self.compact is not None and (self.count or key is not None):
            self.compact.add(seq, self.log.tail, key, frame)
        return self._appended(seq, len(frame), key is not None)

    cdef uint64_t _appended(self, uint64_t seq, uint64_t frame_bytes, bint has_key) except 0:
        self.counters.published_messages += 1
        self.counters.published_bytes += frame_bytes
        self.newest.seq = seq
        self.newest.subscribers = self.count
        self.newest.conflated = self.newest.skipped = self.newest.evicted = self.newest.left = 0
        self.newest.has_key = has_key
        if self.count:
            self.needs_round = True
            self.sweeper.mark_dirty(self)
            if self.log.tail - self.offered > self.policy.max_unswept_bytes and not self.sweeper.is_sweeping:
                self.counters.inline_sweeps += 1
                self._sweep_now()
            self.sweeper.relieve_logs()
        return seq

    def forget(self, key):
        """Drop a key's newest message, where it still waits for somebody; returns whether there was one.

        Only a channel that conflates keeps keys. Raises WrongThread.
        """
        self.sweeper.check_thread("forget")
        return self.compact is not None and self.compact.forget(key)

    # Subscribing.

    cdef Subscription subscribe(self, Wire wire):
        """Add `wire`'s client at the tail: it gets what is published from now on. Returns a Subscription."""
        cdef Subscription subscription
        self.sweeper.check_thread("subscribe")
        if self.count == 0:
            self.offered = self.log.tail
        subscription = self.enroll(wire)
        if self.policy.release_ns:
            subscription.place.keyless = self.compact.keyless
            subscription.place.is_compacted = True
        if self.remaining:
            self.remaining += 1  # the ring has become longer; without this the last slot of the round is missed
        return subscription

    cdef int unsubscribe(self, Subscription subscription, bint is_evicted) except -1:
        """Remove a subscription; its slot is gone when this returns. Does nothing the second time."""
        cdef uint32_t index = subscription.index
        cdef Fate* fate = &self.newest
        self.sweeper.check_thread("unsubscribe")
        if not subscription.is_active:
            return 0
        while fate != NULL:
            self._count_loss(&self.slots[index], fate, &fate.evicted if is_evicted else &fate.left)
            fate = fate.next
        self.strike(subscription)
        if index != self.count and self.remaining:
            # The slot that moved may have gone from an unvisited place to a visited one.
            self.needs_round = True
            self.sweeper.mark_dirty(self)
        self.remaining = min(self.remaining, self.count)
        if self.position >= self.count:
            self.position = 0
        if self.count == 0:
            self.remaining = 0
            self.needs_round = False
            self._trim()
        self._check_flushes()
        return 0

    # The sweep.

    cdef bint sweep(self, uint64_t deadline_ns, bint is_turn_end) except -1:
        """Run rounds until none is needed (returns True) or the deadline has passed (returns False)."""
        if self.remaining == 0:
            if not self._begin_round():
                return True
            # The start rotates, so that nobody is always first; xorshift32 is enough for that.
            self.counters.sweeps += 1
            self.random ^= self.random << 13
            self.random ^= self.random >> 17
            self.random ^= self.random << 5
            self.position = self.random % self.count
        self.sweeper.is_sweeping = True
        try:
            while True:
                with nogil:
                    self._run_slice(deadline_ns, is_turn_end)
                if self.sweeper.aside_count:
                    self._settle()
                if self.remaining == 0:
                    self._end_round()
                    if not self._begin_round():
                        return True
                if now_ns() >= deadline_ns:
                    return False
        finally:
            self.sweeper.is_sweeping = False

    def _sweep_now(self):
        """Sweep to the end without judging anybody: the turn's own sweep does that."""
        self.sweep(UINT64_MAX, False)
        self.needs_round = True

    def _judge(self):
        """Have the subscribers that are behind judged at the end of this turn, though nothing is published."""
        self.needs_round = True
        self.sweeper.mark_dirty(self)

    cdef bint _begin_round(self) except -1:
        """Begin a round if one is needed and, with a limit of the rate, already allowed."""
        cdef uint64_t now
        if not self.needs_round or self.count == 0:
            return False
        now = now_ns()
        if self.policy.release_ns:
            if now < self.next_release_ns:
                self.offered = self.log.tail
                self._trim()
                if not self.is_release_set:
                    self.is_release_set = True
                    self.sweeper.call_later((self.next_release_ns - now) / 1e9, self._release)
                return False
            self.next_release_ns = now + self.policy.release_ns
        self.needs_round = False
        self.remaining = self.count
        self.round_tail = self.log.tail
        self.round_began_ns = now
        return True

    def _release(self):
        self.is_release_set = False
        self.sweeper.mark_dirty(self)

    cdef int _end_round(self) except -1:
        self.offered = self.round_tail
        self.counters.add_round(now_ns() - self.round_began_ns)
        self._trim()
        self._check_flushes()
        self.sweeper.relieve_pinned()
        return 0

    cdef int _run_slice(self, uint64_t deadline_ns, bint is_turn_end) noexcept nogil:
        """Visit slots until the round ends, the deadline has passed, or the asides are full.

        The caller guarantees that nothing changes log, slots or sockets meanwhile: whatever could
        belongs to the loop's thread, which is here. It cannot fail: what does not work is set aside.
        """
        cdef uint64_t tail = self.log.tail
        cdef uint64_t next_seq = self.log.next_seq
        cdef uint64_t now = coarse_ns()
        cdef bint is_conflating = self.policy.kind == CONFLATE
        cdef uint64_t delivered = 0
        cdef uint64_t sent_bytes = 0
        cdef uint64_t sends = 0
        cdef uint64_t seq
        cdef uint64_t limit
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
            if slot.cursor == tail:
                pass
            elif is_conflating and slot.place.is_compacted:
                if slot.socket.state == WRITABLE:
                    self._set_aside(index, COMPACTED, 0)
            elif slot.socket.state == WRITABLE:
                count = self.log.gather(slot.cursor, pieces, IOVEC_COUNT)
                wanted = pieces[0].iov_len
                if count == 1:
                    sent = send(slot.socket.fd, pieces[0].iov_base, wanted, MSG_DONTWAIT | MSG_NOSIGNAL)
                else:
                    for i in range(1, count):
                        wanted += pieces[i].iov_len
                    message.msg_iovlen = count
                    sent = sendmsg(slot.socket.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
                sends += 1
                if sent > 0:
                    sent_bytes += sent
                    slot.cursor += sent
                    seq = next_seq if slot.cursor == tail else self.log.seq_at(slot.cursor)
                    delivered += seq - slot.seq
                    slot.seq = seq
                if sent == wanted:
                    if slot.cursor != tail:  # more pieces than one send takes: visit it again
                        continue
                elif sent >= 0 or errno == EAGAIN or errno == ENOBUFS or errno == ENOMEM:
                    self._set_aside(index, REFUSED, 0)
                elif errno == EINTR:
                    continue
                else:
                    self._set_aside(index, FAILED, errno)
            elif slot.socket.state == PAUSED:
                if is_conflating:
                    slot.place.keyless = self.compact.keyless_before(slot.seq)
                    slot.place.is_compacted = True
                else:
                    limit = self.policy.judge(slot, tail, now, is_turn_end)
                    if limit != WITHIN_LIMITS:
                        if self.policy.kind == EVICT:
                            self._set_aside(index, OVER_LIMIT, 0)
                        else:
                            self._jump(slot, limit)
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

    cdef int _jump(self, Slot* slot, uint64_t limit) noexcept nogil:
        """Move a cursor to the oldest message within `limit` bytes of the tail, or to the newest (`latest`)."""
        cdef uint64_t newest = self.log.next_seq - 1
        cdef uint64_t seq = newest
        cdef uint64_t wanted = self.log.tail - limit
        if self.policy.kind != LATEST and self.log.start_of(newest) > wanted:
            seq = self.log.seq_at(wanted)
            seq += self.log.start_of(seq) < wanted
        if seq <= slot.seq:
            return 0
        count_passed(&self.newest, slot.seq, seq, False)
        slot.place.skipped += seq - slot.seq
        self.counters.skipped_messages += seq - slot.seq
        self.counters.jumps += 1
        slot.seq = seq
        slot.cursor = self.log.start_of(seq)
        return 0

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
        cdef list compacted = []
        for i in range(self.sweeper.aside_count):
            subscription = <Subscription>self.slots[self.sweeper.asides[i].index].place.subscription
            if self.sweeper.asides[i].verdict == REFUSED:
                refused.append(subscription)
            elif self.sweeper.asides[i].verdict == FAILED:
                failed.append((subscription, self.sweeper.asides[i].error))
            elif self.sweeper.asides[i].verdict == COMPACTED:
                compacted.append(subscription)
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
            subscription.wire.owner._evict("slow_consumer")
        for subscription in compacted:
            self._send_compacted(subscription, self.policy.messages_per_release or UINT64_MAX)
        return 0

    cdef int _hand_over(self, Subscription subscription) except -1:
        """Give the rest of the current frame to the Transport; the cursor is at a boundary again."""
        cdef Slot* slot = &self.slots[subscription.index]
        cdef uint64_t seq = slot.seq
        cdef uint64_t start = slot.cursor
        slot.cursor = self.log.end_of(seq)
        slot.seq = seq + 1
        self._give(subscription, self.log.view(start, slot.cursor), self.log.published_ns(seq))
        if subscription.is_active and not subscription.place.rest_ns and slot.seq != self.log.next_seq:
            self.needs_round = True  # it could write after all, so no `resume_writing` will come
            self.sweeper.mark_dirty(self)
        return 0

    cdef int _give(self, Subscription subscription, object rest, uint64_t published_ns) except -1:
        """Hand the rest of a frame to the client's Transport; one that raises loses its connection."""
        self.counters.delivered_messages += 1
        self.counters.sent_bytes += <uint64_t>len(rest)
        try:
            if subscription.wire.hand_over(rest):
                subscription.place.rest_ns = published_ns
        except Exception:
            _logger.exception("a Transport refused the rest of a frame; its connection is aborted")
            subscription.wire.owner._send_failed(0)
        return 0

    # Behind on a conflating channel.

    cdef int _send_compacted(self, Subscription subscription, uint64_t max_messages) except -1:
        """Send what a subscriber lacks from the compact log, at most `max_messages`, and follow it to the tail."""
        cdef CompactLog compact = self.compact
        cdef iovec[IOVEC_COUNT] pieces
        cdef uint32_t[IOVEC_COUNT] indexes
        cdef msghdr message
        cdef Slot* slot
        cdef Entry entry
        cdef uint64_t left = max_messages
        cdef ssize_t sent
        cdef uint32_t i
        cdef int count
        cdef int k
        memset(&message, 0, sizeof(msghdr))
        message.msg_iov = pieces
        while subscription.is_active and subscription.wire.socket.state == WRITABLE:
            slot = &self.slots[subscription.index]
            count = 0
            i = compact.find(slot.seq)
            while i < compact.count and count < IOVEC_COUNT:
                if compact.entries[i].frame != NULL:
                    if <uint64_t>count == left:
                        break
                    pieces[count].iov_base = PyBytes_AS_STRING(<object>compact.entries[i].frame)
                    pieces[count].iov_len = PyBytes_GET_SIZE(<object>compact.entries[i].frame)
                    indexes[count] = i
                    count += 1
                i += 1
            if count == 0 and i < compact.count:    # no more in this release
                self.needs_round = True
                self.sweeper.mark_dirty(self)
                break
            if count == 0:
                self._pass_over(slot, self.log.next_seq, compact.keyless)
                slot.seq = self.log.next_seq
                slot.cursor = self.log.tail
                slot.place.judged_from = KEEPING_UP
                slot.place.is_compacted = self.policy.release_ns != 0
                break
            message.msg_iovlen = count
            sent = sendmsg(slot.socket.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
            self.counters.sends += 1
            if sent < 0:
                if errno == EINTR:
                    continue
                if errno != EAGAIN and errno != ENOBUFS and errno != ENOMEM:
                    self.counters.failed_sends += 1
                    subscription.wire.owner._send_failed(errno)
                    break
                sent = 0
            for k in range(count):
                entry = compact.entries[indexes[k]]
                self._pass_over(slot, entry.seq, entry.keyless - (not entry.has_key))
                slot.seq = entry.seq + 1
                slot.cursor = entry.end
                slot.place.keyless = entry.keyless
                left -= 1
                if sent >= PyBytes_GET_SIZE(<object>entry.frame):
                    self.counters.delivered_messages += 1
                    self.counters.sent_bytes += <uint64_t>PyBytes_GET_SIZE(<object>entry.frame)
                    sent -= PyBytes_GET_SIZE(<object>entry.frame)
                else:
                    self.counters.refused_sends += 1
                    self._give(subscription, memoryview(<object>entry.frame)[sent:], entry.published_ns)
                    break
        return 0

    cdef int _pass_over(self, Slot* slot, uint64_t seq, uint64_t keyless) noexcept:
        """Count what a reader of the compact log does not get before `seq`; `keyless` messages without a key
        came before that."""
        cdef uint64_t skipped = keyless - slot.place.keyless
        cdef uint64_t conflated = seq - slot.seq - skipped
        if seq == slot.seq:
            return 0
        count_passed(&self.newest, slot.seq, seq, True)
        slot.place.skipped += skipped
        slot.place.conflated += conflated
        self.counters.skipped_messages += skipped
        self.counters.conflated_messages += conflated
        return 0

    # Catching up, and forgetting what all have.

    cdef int catch_up(self, Subscription subscription) except -1:
        """Send one subscriber what it lacks, now: its socket is writable, and a direct frame may come next."""
        cdef uint32_t position = self.position
        cdef uint32_t remaining = self.remaining
        cdef uint64_t seq
        if not subscription.is_active or subscription.wire.socket.state != WRITABLE:
            return 0
        seq = self.slots[subscription.index].seq
        if seq == self.log.next_seq:
            subscription.place.judged_from = KEEPING_UP
            subscription.place.soft_since_ns = 0
            return 0
        if self.policy.release_ns:  # the next release serves it
            self._judge()
            return 0
        if subscription.place.is_compacted:
            self._send_compacted(subscription, UINT64_MAX)
        else:
            # A round of one slot.
            self.position = subscription.index
            self.remaining = 1
            with nogil:
                self._run_slice(UINT64_MAX, False)
            self.position = position
            self.remaining = remaining
            if self.sweeper.aside_count:
                self._settle()
        if subscription.is_active and self.slots[subscription.index].seq == self.log.next_seq:
            subscription.place.judged_from = KEEPING_UP
            subscription.place.soft_since_ns = 0
        if seq <= self.log.first_seq:
            self._trim()
        self._check_flushes()
        return 0

    cdef int resume(self, Subscription subscription) except -1:
        """The Transport has written the rest of the frame that ends at the cursor."""
        subscription.place.rest_ns = 0
        if subscription.is_active:
            self._check_flushes()
        return 0

    cdef int _trim(self) except -1:
        """Forget what no subscriber lacks, and of messages without a key what has passed its bound."""
        self.log.trim(self.oldest_cursor())
        if self.compact is not None and self.compact.keyless_bytes:
            self.compact.drop_keyless(self.oldest_seq(), 0)
            self.compact.drop_keyless(self.log.first_seq, self.policy.max_lag_bytes)
        return 0

    def _relieve(self, bint is_last_resort):
        """Free memory of the log: those that are furthest behind are evicted or jump, as the policy says.

        As a last resort all that are behind are evicted. Returns whether anything was freed.
        """
        cdef Py_ssize_t allocated_bytes
        cdef uint64_t middle
        cdef uint32_t i
        cdef Slot* slot
        cdef list evicted = []
        self._sweep_now()
        allocated_bytes = self.log.allocated_bytes
        middle = self.log.head + (self.log.tail - self.log.head) // 2
        for i in range(self.count):
            slot = &self.slots[i]
            if slot.place.is_compacted or slot.cursor > middle or slot.cursor == self.log.tail:
                continue
            if is_last_resort or self.policy.kind == EVICT:
                evicted.append(<Subscription>slot.place.subscription)
            else:
                self._jump(slot, self.log.tail - middle)
        for subscription in evicted:
            (<Subscription>subscription).wire.owner._evict("log_full")
        self._judge()
        self._trim()
        self._check_flushes()
        return self.log.allocated_bytes < allocated_bytes

    # Knowing what became of a message.

    def _flush(self, seq, on_done):
        """Return a Flush of message `seq` (None: the newest) that calls `on_done()` once nobody waits for it.

        ValueError if `seq` is not the newest message: ask before the next is published.
        """
        cdef Flush flush
        self.sweeper.check_thread("flushed")
        if seq is not None and seq != self.newest.seq:
            raise ValueError(
                f"{self.name}: {seq!r} is not the newest message ({self.newest.seq}): "
                "ask what becomes of a message before the next is published"
            )
        flush = Flush(self, on_done)
        flush.follow(&self.newest)
        return flush

    def _check_flushed(self):
        """Call `on_done` of those that wait for nothing."""
        self._check_flushes()

    def _finish_flush(self, Flush flush not None):
        """Stop a Flush and return its counts: written, conflated, skipped, evicted, left, pending."""
        cdef Fate* fate = &flush.fate
        cdef uint32_t pending = 0
        cdef uint32_t i
        flush.leave()
        flush.on_done = None  # it knows the Flush: a cycle, which would keep the channel
        for i in range(self.count):
            self._count_loss(&self.slots[i], fate, &pending)
        return (
            fate.subscribers - fate.conflated - fate.skipped - fate.evicted - fate.left - pending,
            fate.conflated, fate.skipped, fate.evicted, fate.left, pending,
        )

    cdef int _count_loss(self, Slot* slot, Fate* fate, uint32_t* counter) noexcept:
        """Count a subscriber that goes, or is asked about, in `counter`, unless it has the message or lost it before.

        The frame that ends at the cursor may still be in the Transport. Who joined later has its cursor
        behind the message.
        """
        if slot.seq <= fate.seq and slot.place.is_compacted and not self.compact.holds(fate.seq):
            count_lost(fate, True)
        elif self._is_waiting_for(slot, fate):
            counter[0] += 1
        return 0

    cdef bint _is_waiting_for(self, Slot* slot, Fate* fate) noexcept:
        if slot.seq <= fate.seq:
            return not slot.place.is_compacted or self.compact.holds(fate.seq)
        return slot.seq == fate.seq + 1 and slot.place.rest_ns != 0

    cdef int _check_flushes(self) except -1:
        cdef Fate* fate = self.newest.next
        cdef Flush flush
        cdef uint32_t i
        while fate != NULL:
            flush = <Flush>fate.flush
            fate = fate.next
            if flush.on_done is not None:
                for i in range(self.count):
                    if self._is_waiting_for(&self.slots[i], &flush.fate):
                        break
                else:
                    on_done, flush.on_done = flush.on_done, None
                    on_done()
        return 0

    # For tests and debug builds.

    def check_invariants(self):
        """Assert invariants 1 to 3, and those of the roster and the logs; slow."""
        cdef uint32_t i
        cdef Slot* slot
        cdef Subscription subscription
        self.log.check_invariants()
        if self.compact is not None:
            self.compact.check_invariants()
        assert self.remaining <= self.count
        assert self.position < self.count or self.count == 0
        for i in range(self.count):
            slot = &self.slots[i]
            subscription = <Subscription>slot.place.subscription
            assert subscription.is_active and subscription.index == i and &subscription.place == slot.place
            assert slot.cursor <= self.log.tail
            if not slot.place.is_compacted:
                assert self.log.head <= slot.cursor
                assert slot.cursor == self.log.start_of(slot.seq)
            if slot.seq != self.log.next_seq and slot.socket.state == WRITABLE:
                assert self.remaining or self.needs_round, f"{self.name}: slot {i} is left behind"
