"""What one subscriber is sent while Python has control: what a round could not finish, and what it catches up with.

    refused       hand_over          the rest of a frame, or all of one          -> its Transport
    no descriptor send_by_transport  whole frames, until that has to keep any    -> its Transport (under TLS: tls.py)
    compacted     send_compacted     of each key the newest message              -> its socket, and the rest likewise
    failed, over its limit           nothing more: its client is closed

Invariants

1. The cursor is at a frame boundary before and after: what a Transport is given ends with a frame.
2. Whoever still lacks something and has a socket that is WRITABLE is visited by one more round, which is asked for here.
3. A Transport or a client that raises costs its own connection: it is reported, and nothing is raised here.
4. A message counts as delivered when the kernel or the Transport has it; what is passed over in the compact log counts
   as skipped or conflated.
"""

from cpython.object cimport PyObject
from libc.errno cimport EAGAIN, EINTR, ENOBUFS, ENOMEM, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from fastbcast._clock cimport now_ns
from fastbcast.fanout._roster cimport Subscription
from fastbcast.fanout._send cimport IOVEC_COUNT, MSG_DONTWAIT, MSG_NOSIGNAL, msghdr, sendmsg
from fastbcast.fanout._slot cimport KEEPING_UP, PAUSED, WRITABLE, Slot, SlotDetails
from fastbcast.fanout._tally cimport Tally
from fastbcast.log._compact cimport CompactLog, Entry, bytes_of
from fastbcast.log._log cimport end_of, gather, iovec, published_ns, seq_at, view

cdef enum:
    # Whole frames that a Transport is given at once where there is no descriptor, if one frame is not larger: four TLS
    # records (RFC 8446 section 5.1: at most 16 KiB each).
    TRANSPORT_BYTES = 65536


cdef class Delivery(Tally):
    """A tally of subscribers that can be sent something one by one."""

    cdef int ask_for_round(self) except -1:
        """Have one more round run at the end of this turn."""
        self.delivery.needs_round = True
        return self.sweeper.mark_dirty(self)

    cdef int leave_to_rounds(self) except -1:
        """Somebody is behind whose socket has room: rounds bring it to the tail."""
        self.delivery.has_returners = True
        return self.ask_for_round()

    cdef int keeps_up(self, SlotDetails* details) noexcept nogil:
        """A subscriber has everything: from here on it is sent every message, and its lag counts anew."""
        details.judged_from = KEEPING_UP
        details.soft_since_ns = 0
        details.is_compacted = self.policy.release_ns != 0
        return 0

    cdef int hand_over(self, Subscription subscription) except -1:
        """Give the rest of the current frame to the Transport; the cursor is at a boundary again."""
        cdef Slot* slot = &self.slots[subscription.index]
        cdef uint64_t seq = slot.seq
        cdef uint64_t start = slot.cursor
        slot.cursor = end_of(slot.lane, seq)
        slot.seq = seq + 1
        self._give(
            subscription, view(slot.lane, start, slot.cursor), seq, seq + 1, published_ns(slot.lane, seq)
        )
        if subscription.is_active and not subscription.details.rest_seq \
                and self.slots[subscription.index].seq != self.log.lane.next_seq:
            self.ask_for_round()    # it could write after all, so no `resume_writing` will come
        return 0

    cdef int send_by_transport(self, Subscription subscription, uint64_t deadline_ns) except -1:
        """Give the Transport what the subscriber lacks, some whole frames at a time, until it has to keep any.

        At the deadline what is left waits for one more round.
        """
        cdef iovec piece
        cdef Slot* slot
        cdef uint64_t start
        cdef uint64_t seq
        cdef bint has_sent = False
        while subscription.is_active and subscription.wire.socket.state == WRITABLE:
            slot = &self.slots[subscription.index]
            start = slot.cursor
            seq = slot.seq
            if start == slot.lane.tail:
                self.keeps_up(slot.details)
                break
            if has_sent and now_ns() >= deadline_ns:
                self.leave_to_rounds()
                break
            has_sent = True
            gather(slot.lane, start, &piece, 1)
            slot.seq = max(
                seq + 1, seq_at(slot.lane, start + min(<uint64_t>piece.iov_len, <uint64_t>TRANSPORT_BYTES))
            )
            slot.cursor = end_of(slot.lane, slot.seq - 1)
            self.counters.sends += 1
            self._give(
                subscription, view(slot.lane, start, slot.cursor), seq, slot.seq, published_ns(slot.lane, seq)
            )
            self.counters.refused_sends += subscription.wire.socket.state == PAUSED
        return 0

    cdef int _give(
        self, Subscription subscription, object rest, uint64_t seq, uint64_t end_seq, uint64_t first_ns
    ) except -1:
        """Hand the rest of message `seq`, and those up to `end_seq`, to the client's Transport.

        One that raises loses its connection.
        """
        self.counters.delivered_messages += end_seq - seq
        self.counters.sent_bytes += <uint64_t>len(rest)
        try:
            if subscription.wire.hand_over(rest):
                subscription.details.rest_seq = seq
                subscription.details.rest_end_seq = end_seq
                subscription.details.rest_ns = first_ns
        except Exception as error:
            self.sweeper.report("transport_failed", self.name, error)
            self.fail(subscription, 0)
        return 0

    # Behind on a conflating channel.

    cdef int send_compacted(self, Subscription subscription, uint64_t max_messages, uint64_t deadline_ns) except -1:
        """Send what a subscriber lacks from the compact log, at most `max_messages`, and follow it to the tail.

        At the deadline, or at that many, what is left waits for one more round.
        """
        cdef CompactLog compact = self.compact
        cdef iovec[IOVEC_COUNT] pieces
        cdef uint32_t[IOVEC_COUNT] indexes
        cdef (PyObject*)[IOVEC_COUNT] frames
        cdef msghdr message
        cdef Slot* slot
        cdef Entry entry
        cdef uint64_t left = max_messages
        cdef ssize_t sent = 0
        cdef ssize_t frame_bytes
        cdef uint32_t i
        cdef int count
        cdef int k
        memset(&message, 0, sizeof(msghdr))
        message.msg_iov = pieces
        while subscription.is_active and subscription.wire.socket.state == WRITABLE:
            slot = &self.slots[subscription.index]
            count = 0
            i = compact.find_live(slot.seq)
            while i < compact.count and count < IOVEC_COUNT and <uint64_t>count < left:
                frames[count] = self.compacted_frame(slot, i)
                pieces[count] = bytes_of(frames[count])
                indexes[count] = i
                count += 1
                i = compact.live_from(i + 1)
            if i < compact.count and (count == 0 or (left != max_messages and now_ns() >= deadline_ns)):
                self.ask_for_round()
                break
            if count == 0:
                self._pass_over(slot, self.log.lane.next_seq, compact.keyless)
                slot.seq = self.log.lane.next_seq
                slot.cursor = self.log.lane.tail
                slot.details.keyless = compact.keyless
                slot.details.is_compacted = self.policy.release_ns != 0
                self.move_to_tail(slot)
                break
            message.msg_iovlen = count
            if subscription.wire.is_transport_only:
                sent = 0    # the Transport gets one frame after the other
            else:
                with nogil:
                    sent = sendmsg(slot.socket.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
            self.counters.sends += 1
            if sent < 0:
                if errno == EINTR:
                    continue
                if errno != EAGAIN and errno != ENOBUFS and errno != ENOMEM:
                    self.counters.failed_sends += 1
                    self.fail(subscription, errno)
                    break
                sent = 0
            for k in range(count):
                entry = compact.entries[indexes[k]]
                self._pass_over(slot, entry.seq, entry.keyless - (not entry.has_key))
                slot.seq = entry.seq + 1
                slot.cursor = entry.end
                slot.details.keyless = entry.keyless
                left -= 1
                frame_bytes = pieces[k].iov_len
                if sent >= frame_bytes:
                    self.counters.delivered_messages += 1
                    self.counters.sent_bytes += <uint64_t>frame_bytes
                    sent -= frame_bytes
                else:
                    self.counters.refused_sends += not subscription.wire.is_transport_only
                    self._give(
                        subscription, memoryview(<object>frames[k])[sent:], entry.seq, entry.seq + 1, entry.published_ns
                    )
                    break
        return 0

    cdef int _pass_over(self, Slot* slot, uint64_t seq, uint64_t keyless) noexcept:
        """Count what a reader of the compact log does not get before `seq`; `keyless` messages without a key
        came before that."""
        cdef uint64_t skipped = keyless - slot.details.keyless
        if seq != slot.seq:
            self.count_compacted(slot, seq, skipped)
            self.counters.skipped_messages += skipped
            self.counters.conflated_messages += seq - slot.seq - skipped
        return 0

    # Ends.

    cdef bint excuse(self, Subscription subscription) except -1:
        """Whether a subscriber that is over its limit has room by now, and the loop has not looked at its socket yet.

        It was not slow then: the loop was blocked, or the process frozen. What was published meanwhile is a burst, from
        whose end its lag counts, and its Transport goes on in the next turn. `max_burst_bytes` bounds that as ever.
        """
        cdef Slot* slot
        if not subscription.is_active:
            return False
        slot = &self.slots[subscription.index]
        if slot.lane.tail - slot.cursor > self.policy.max_lag_bytes + self.policy.max_burst_bytes \
                or not subscription.wire.has_room():
            return False
        slot.details.judged_from = slot.lane.tail
        return True

    cdef int evict(self, Subscription subscription, str cause) except -1:
        """Close a subscriber's client because it does not keep up; what fails there does not keep the next one."""
        if subscription.is_active:
            try:
                subscription.wire.owner._evict(cause)
            except Exception as failure:
                self.sweeper.report("evict_failed", self.name, failure)
        return 0

    cdef int fail(self, Subscription subscription, int error) except -1:
        """The same for one whose send failed with errno `error`."""
        if subscription.is_active:
            try:
                subscription.wire.owner._send_failed(error)
            except Exception as failure:
                self.sweeper.report("abort_failed", self.name, failure)
        return 0
