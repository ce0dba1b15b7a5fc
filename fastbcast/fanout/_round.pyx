"""A round: every slot of a channel is visited once, and what it lacks is sent.

    visit  |  cursor == tail    nothing to do
           |  WRITABLE          one send(2) of all it lacks; without a descriptor, whole frames for its Transport
           |  PAUSED            judged (see _policy): stays, jumps, or is closed; or reads compacted from now on
           v
    set aside: refused | failed | over its limit | fell behind | compacted | transport only
               (settled with the GIL: here what only moves a cursor, the rest in _delivery.pyx)

A round goes once around the dense array of slots, from `position`, for `remaining` more visits; it is cut
into slices bounded in time, and what is published between two slices goes out with the visits that follow.

Invariants

1. After a round that nothing disturbed every slot is at the round's tail, or its socket is not WRITABLE.
   What disturbs a round (a publish, a removal that moves a slot, a Transport that could write after all, a
   backlog that takes more than one send) sets `needs_round`, and one more round follows: nobody is left behind on
   a channel that goes idle.
   `offered` is set when a round ends, unless there was such a backlog.
2. While Python has control each cursor is at a frame boundary: a slice's partial writes are settled,
   the rest of the frame handed to the Transport, before anything else may run.
3. A lane holds at most max_lag_bytes + max_burst_bytes + max_unswept_bytes, and one frame, for subscribers
   that are behind. Those of a conflating channel hold nothing of it.
4. Each subscriber gets the messages in order and at most once; those it does not get are counted.
5. No user code runs inside a sweep, and no Python object is touched without the GIL.
6. A slice writes nothing but its Slice, the slots that it visits and their details. What changes anything that other
   slots share (a lane's readers, the counts of a message's fate) is set aside and done in `settle`.
"""

from libc.errno cimport EAGAIN, EINTR, ENOBUFS, ENOMEM, errno
from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t
from libc.string cimport memset

from fastbcast._clock cimport now_ns
from fastbcast.fanout._delivery cimport Delivery
from fastbcast.fanout._policy cimport WITHIN_LIMITS
from fastbcast.fanout._roster cimport Subscription
from fastbcast.fanout._send cimport IOVEC_COUNT, MSG_DONTWAIT, MSG_NOSIGNAL, msghdr, send, sendmsg
from fastbcast.fanout._slot cimport (
    ASIDE_CAPACITY, COMPACTED, FAILED, FELL_BEHIND, OVER_LIMIT, PAUSED, REFUSED, TRANSPORT_ONLY, WRITABLE,
    Aside, Slice, Slot,
)
from fastbcast.log._log cimport PLAIN, WINDOWED, Lane, gather, iovec, seq_at, start_of

cdef enum:
    SENDS_PER_CLOCK_READ = 8    # a send costs microseconds, so a slice ends at most this much late


cdef class Round(Delivery):
    """The sweep of one channel, round after round."""

    cdef bint sweep(self, uint64_t deadline_ns, bint is_turn_end) except -1:
        """Run rounds until none is needed (returns True) or the deadline has passed (returns False)."""
        cdef Slice part
        part.deadline_ns = deadline_ns
        part.is_turn_end = is_turn_end
        if self.round.remaining == 0:
            if not self._begin_round():
                return True
            # The start rotates, so that nobody is always first; xorshift32 is enough for that.
            self.counters.sweeps += 1
            self.round.random ^= self.round.random << 13
            self.round.random ^= self.round.random >> 17
            self.round.random ^= self.round.random << 5
            self.round.position = self.round.random % self.count
        self.sweeper.is_sweeping = True
        try:
            while True:
                part.position = self.round.position
                part.remaining = self.round.remaining
                with nogil:
                    self.run_slice(&part)
                self.round.position = part.position
                self.round.remaining = part.remaining
                if part.has_leftover:
                    self.delivery.needs_round = True
                    self.round.has_leftover = True
                self.settle(&part, deadline_ns)
                if self.round.remaining == 0:
                    self._end_round()
                    if not self._begin_round():
                        return True
                if now_ns() >= deadline_ns:
                    return False
        except Exception:
            self.delivery.needs_round = True
            raise
        finally:
            self.sweeper.is_sweeping = False

    cdef bint _begin_round(self) except -1:
        """Begin a round if one is needed and, with a limit of the rate, already allowed."""
        cdef uint64_t now
        if not self.delivery.needs_round or self.count == 0:
            return False
        now = now_ns()
        if self.policy.release_ns:
            if now < self.round.next_release_ns:
                self.round.offered = self.round.appended
                self.trim()
                self.check_flushes()
                self.sweeper.mark_dirty_later(self, (self.round.next_release_ns - now) / 1e9)
                return False
            self.round.next_release_ns = now + self.policy.release_ns
        self.delivery.needs_round = False
        self.round.remaining = self.count
        self.round.end = self.round.appended
        self.round.began_ns = now
        return True

    cdef int _end_round(self) except -1:
        if not self.round.has_leftover:
            self.round.offered = self.round.end
        self.round.has_leftover = False
        self.forms.moves_due = True
        self.delivery.has_returners = self.delivery.has_returners and self.delivery.needs_round
        self.counters.add_round(now_ns() - self.round.began_ns)
        self.trim()
        self.check_flushes()
        self.sweeper.relieve_pinned()
        return 0

    cdef int run_slice(self, Slice* part) noexcept nogil:
        """Visit slots until `part.remaining` is 0, its deadline has passed, or its asides are full.

        The caller guarantees that nothing changes log, slots or sockets meanwhile: whatever could
        belongs to the loop's thread, which is here. It cannot fail: what does not work is set aside.
        The caller calls `settle` with the same Slice before anything else may run.
        """
        cdef uint64_t next_seq = self.log.lane.next_seq
        cdef uint64_t now = 0       # read for the first slot that is judged
        cdef bint is_conflating = self.policy.reads_compact
        cdef uint32_t aside_count = 0
        cdef uint64_t sends = 0
        cdef uint64_t tail
        cdef uint64_t seq
        cdef uint64_t limit
        cdef int python_sends = 0
        cdef uint32_t index = part.position
        cdef uint32_t remaining = part.remaining
        cdef Slot* slot
        cdef iovec[IOVEC_COUNT] pieces
        cdef msghdr message
        cdef ssize_t sent
        cdef ssize_t wanted
        cdef int count
        cdef int i
        memset(&message, 0, sizeof(msghdr))
        message.msg_iov = pieces
        part.has_leftover = False
        part.delivered_messages = part.sent_bytes = 0
        while remaining:
            slot = &self.slots[index]
            tail = slot.lane.tail
            if slot.cursor == tail:
                pass
            elif is_conflating and slot.details.is_compacted:
                if slot.socket.state == WRITABLE:
                    part.asides[aside_count] = Aside(index, COMPACTED, 0)
                    aside_count += 1
                    python_sends += 1
            elif slot.socket.state == WRITABLE:
                count = gather(slot.lane, slot.cursor, pieces, IOVEC_COUNT)
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
                    part.sent_bytes += <uint64_t>sent
                    slot.cursor += sent
                    seq = next_seq if slot.cursor == tail else seq_at(slot.lane, slot.cursor)
                    part.delivered_messages += seq - slot.seq
                    slot.seq = seq
                if sent == wanted:
                    if slot.cursor == tail:
                        if self.delivery.has_returners:
                            self.keeps_up(slot.details)
                    else:   # more pieces than one send takes: the others come first
                        part.has_leftover = True
                elif sent >= 0 or errno == EAGAIN or errno == ENOBUFS or errno == ENOMEM:
                    part.asides[aside_count] = Aside(index, REFUSED, 0)
                    aside_count += 1
                elif errno == EINTR:
                    continue
                elif slot.socket.fd < 0:    # send(2) failed with EBADF: asked last, this costs the others nothing
                    part.asides[aside_count] = Aside(index, TRANSPORT_ONLY, 0)
                    aside_count += 1
                    sends -= 1
                    python_sends += 1
                else:
                    part.asides[aside_count] = Aside(index, FAILED, <uint64_t>errno)
                    aside_count += 1
            elif slot.socket.state == PAUSED:
                if is_conflating:
                    part.asides[aside_count] = Aside(index, FELL_BEHIND, 0)
                    aside_count += 1
                else:
                    if now == 0:
                        now = self.sweeper.ticker.now_ns()
                    limit = self.policy.judge(slot, now, part.is_turn_end)
                    if limit != WITHIN_LIMITS:
                        part.asides[aside_count] = Aside(index, OVER_LIMIT, limit)
                        aside_count += 1
            index += 1
            if index == self.count:
                index = 0
            remaining -= 1
            if aside_count == ASIDE_CAPACITY or python_sends == SENDS_PER_CLOCK_READ:
                break
            if sends % SENDS_PER_CLOCK_READ == SENDS_PER_CLOCK_READ - 1 and now_ns() >= part.deadline_ns:
                break
        part.position = index
        part.remaining = remaining
        part.sends = sends
        part.aside_count = aside_count
        return 0

    cdef int _read_compacted(self, Slot* slot) noexcept:
        """Let a subscriber that fell behind on a conflating channel read from the compact log."""
        slot.details.keyless = self.compact.keyless_before(slot.seq)
        slot.details.is_compacted = True
        if slot.lane.form != PLAIN:
            self.change(slot, &self.log.lane, start_of(&self.log.lane, slot.seq))
        return 0

    cdef int _jump(self, Slot* slot, uint64_t limit) noexcept:
        """Move a cursor to the oldest message within `limit` bytes of the tail, or to the newest (`latest`).

        Who leaves a window that way goes on with the plain form: what follows a gap in the window could not be inflated.
        """
        cdef Lane* lane = &self.log.lane if slot.lane.form == WINDOWED else slot.lane
        cdef uint64_t seq = lane.next_seq - 1
        cdef uint64_t wanted = lane.tail - min(limit, lane.tail - lane.head)
        if not self.policy.jumps_to_newest and start_of(lane, seq) > wanted:
            seq = seq_at(lane, wanted)
            seq += start_of(lane, seq) < wanted
        if seq <= slot.seq:
            return 0
        self.count_skipped(slot, seq)
        self.counters.skipped_messages += seq - slot.seq
        self.counters.jumps += 1
        slot.seq = seq
        self.change(slot, lane, start_of(lane, seq))
        return 0

    cdef int settle(self, Slice* part, uint64_t deadline_ns) except -1:
        """Count what a slice did, and finish what it set aside: rests first, then the dead, then those over their limit.

        Nothing here runs user code; the removals that follow from it move slots, so the indexes are
        turned into subscriptions before the first of them. Of those that read from the compact log, or that only
        their Transport may write to, each gets at least one send, and more until the deadline.
        """
        cdef Subscription subscription
        cdef Aside aside
        cdef Slot* slot
        cdef uint32_t i
        cdef list refused, failed, over_limit, compacted, transport_only
        self.counters.delivered_messages += part.delivered_messages
        self.counters.sent_bytes += part.sent_bytes
        self.counters.sends += part.sends
        if part.aside_count == 0:
            return 0
        refused, failed, over_limit, compacted, transport_only = [], [], [], [], []
        for i in range(part.aside_count):
            aside = part.asides[i]
            slot = &self.slots[aside.index]
            subscription = <Subscription>slot.details.subscription
            if aside.verdict == REFUSED:
                refused.append(subscription)
            elif aside.verdict == FAILED:
                failed.append((subscription, aside.detail))
            elif aside.verdict == COMPACTED:
                compacted.append(subscription)
            elif aside.verdict == TRANSPORT_ONLY:
                transport_only.append(subscription)
            elif aside.verdict == FELL_BEHIND:
                self._read_compacted(slot)
            elif self.policy.closes:
                over_limit.append(subscription)
            else:
                self._jump(slot, aside.detail)
        self.counters.refused_sends += <uint64_t>len(refused)
        self.counters.failed_sends += <uint64_t>len(failed)
        for subscription in refused:
            self.hand_over(subscription)
        for subscription, error in failed:
            self.fail(subscription, error)
        for subscription in over_limit:
            if not self.excuse(subscription):
                self.evict(subscription, "slow_consumer")
        for subscription in compacted:
            self.send_compacted(subscription, self.policy.messages_per_release or UINT64_MAX, deadline_ns)
        for subscription in transport_only:
            self.send_by_transport(subscription, deadline_ns)
        return 0

    cdef int trim(self) except -1:
        """Forget what no subscriber lacks, and of messages without a key what has passed its bound."""
        self.trim_lanes()
        if self.compact is not None and self.compact.keyless_bytes:
            self.compact.drop_keyless(self.oldest_seq(), 0)
            self.compact.drop_keyless(self.log.lane.first_seq, self.policy.max_lag_bytes)
        return 0
