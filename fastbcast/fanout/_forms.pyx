"""Which subscriber is sent a channel's messages in which form, and how it changes from one to another.

    comes --> DEFLATED --(the window begins anew)--> WINDOWED --(skips, or has a second such channel)--> PLAIN, DEFLATED
                  ^                                                                                          |
                  `------------------------------------------------------------------------------------------'

A client's inflater builds its window of every compressed frame of its connection (RFC 7692 section 7.2.2). One that
follows a channel's window must have had all of that since the window last began anew, and nothing compressed beside
it: after one such frame it would inflate the next one of the window to wrong bytes, without an error. So

- a client that can follow one channel's window gets everything else plain (RSV1=0), and one that could follow those of
  several channels gets all of them compressed alone;
- a client changes to the window only when that begins anew, and is at the tail then;
- a client that has missed a message of the window leaves it.

Invariants

1. `slot.lane` is the lane that `slot.cursor` points into. A slot changes lanes at a frame boundary, and keeps its seq.
2. Of a client's slots either one is WINDOWED and none deflated alone, or none is WINDOWED (`windowed`, `deflated` of
   its Socket).
3. `lane.subscribers` is the number of slots there, and `misplaced` that of those which should be elsewhere.
4. Where the policy lets subscribers jump, or read from the compact log, the plain lane has what those of any form
   lack, as far back as its limits let them be, and the newest message: there is always a way out of a window.
"""

from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastbcast._frames cimport Payload, borrow_payload
from fastbcast.deflate._deflate cimport can_compress
from fastbcast.fanout._roster cimport Roster, Subscription
from fastbcast.fanout._slot cimport KEEPING_UP, WRITABLE, Slot, Socket
from fastbcast.fanout._wire cimport Wire
from fastbcast.log._compact cimport Entry, bytes_of
from fastbcast.log._lanes cimport Lanes
from fastbcast.log._log cimport DEFLATED, DEFLATED_SMALL, PLAIN, WINDOWED, Form, Lane, iovec, seq_at, start_of

cdef enum:
    LARGEST_WINDOW_BITS = 15


cdef class Forms(Roster):
    """A roster whose subscribers may be sent the same messages in several forms."""

    @property
    def subscribers_by_form(self):
        """How many subscribers are sent each form: plain, deflated alone, windowed."""
        if self.lanes is None:
            return self.count, 0, 0
        return (
            self.log.lane.subscribers,
            self.lanes.lane_of(DEFLATED).subscribers + self.lanes.lane_of(DEFLATED_SMALL).subscribers,
            self.lanes.lane_of(WINDOWED).subscribers,
        )

    cdef uint64_t append(self, Payload* payload) except 0:
        """Put a message where its readers will find it; returns its seq. MemoryError: nothing was appended."""
        if self.lanes is None:
            return self.log.append(payload) if self.count else self.log.skip()
        if self.count == 0:
            return self.lanes.skip()
        if self.forms.misplaced and (
            self.forms.moves_due or self.lanes.messages_since_reset == self.policy.compression.reset_messages
        ):
            self.join_window()
        return self.lanes.append(payload, self.policy.keeps_plain)

    cdef int join_window(self) except -1:
        """Before a message is appended, move each slot that may change its form, to the window, too.

        The message may be the first of a window, if somebody waits for that and the last time is long enough ago.
        """
        cdef Lane* windowed = self.lanes.lane_of(WINDOWED)
        cdef bint may_begin = windowed.subscribers == 0 \
            or self.lanes.messages_since_reset >= self.policy.compression.reset_messages
        cdef bint has_begun = False
        cdef uint32_t i
        cdef Slot* slot
        self.forms.moves_due = False
        for i in range(self.count):
            slot = &self.slots[i]
            if not self._may_change(slot):
                continue
            self.move_to_tail(slot)
            if slot.details.wanted == WINDOWED and slot.socket.state == WRITABLE and slot.socket.windowed == 0 \
                    and slot.socket.deflated == (slot.lane.form != PLAIN):
                if may_begin and not has_begun:
                    has_begun = may_begin = self.lanes.begin_window()
                if has_begun:
                    self.change(slot, windowed, windowed.tail)
        return 0

    # One subscriber.

    cdef Subscription admit(self, Wire wire):
        """Add `wire`'s client at the tail."""
        cdef Subscription subscription
        cdef Slot* slot
        if self.lanes is None and self._may_compress(&wire.socket):
            self.lanes = Lanes(self.log, self.sweeper.deflaters, self.policy.compression)
        subscription = self.enroll(wire)
        slot = &self.slots[subscription.index]
        wire.socket.sharable += self._may_share(&wire.socket)
        slot.details.wanted = self._wanted_form(&wire.socket)
        self._count(slot, 1)
        self.move_to_tail(slot)
        self.forms.moves_due = True
        return subscription

    cdef int dismiss(self, Subscription subscription) except -1:
        """Remove an active subscription."""
        cdef Slot* slot = &self.slots[subscription.index]
        self._count(slot, -1)
        slot.socket.sharable -= self._may_share(slot.socket)
        return self.strike(subscription)

    cdef int reconsider(self, Subscription subscription) except -1:
        """The client has come to other channels, or left some: what it should get here may be another form now."""
        cdef Slot* slot = &self.slots[subscription.index]
        self._count(slot, -1)
        slot.details.wanted = self._wanted_form(slot.socket)
        self._count(slot, 1)
        return self.move_if_possible(slot)

    cdef int move_if_possible(self, Slot* slot) noexcept:
        """Let a slot that is at the tail change at once, as far as it can; to the window it goes at the next message."""
        if self._may_change(slot):
            self.move_to_tail(slot)
        self.forms.moves_due = True
        return 0

    cdef bint _may_change(self, Slot* slot) noexcept:
        """Whether a slot is where it should not be, and at the tail."""
        return slot.lane.form != slot.details.wanted and slot.seq == self.log.lane.next_seq \
            and not slot.details.is_compacted

    cdef bint _may_compress(self, Socket* socket) noexcept nogil:
        """Whether a client can be in any lane but the plain one; with a limit of the rate all read the compact log."""
        return self.policy.best_form != PLAIN and self.policy.release_ns == 0 and socket.window_bits != 0

    cdef bint _may_share(self, Socket* socket) noexcept nogil:
        """Whether a client can follow the window of this channel."""
        return self.policy.best_form == WINDOWED and self._may_compress(socket) and socket.may_follow_window \
            and socket.window_bits >= self.policy.compression.window_bits

    cdef Form _wanted_form(self, Socket* socket) noexcept nogil:
        if not self._may_compress(socket):
            return PLAIN
        if socket.sharable == 1:
            return WINDOWED if self._may_share(socket) else PLAIN
        return alone_form(socket)

    cdef int move_to_tail(self, Slot* slot) noexcept:
        """Put a slot that is at the tail into the best form that it may have at once: any but a window."""
        cdef Form form = slot.details.wanted
        if form == WINDOWED and slot.lane.form != WINDOWED:
            form = alone_form(slot.socket)
        if slot.socket.windowed != (slot.lane.form == WINDOWED):
            form = PLAIN    # it follows another channel's window still
        if form != slot.lane.form:
            self.change(slot, self._lane_of(form), self._lane_of(form).tail)
        return 0

    cdef int change(self, Slot* slot, Lane* lane, uint64_t cursor) noexcept nogil:
        """Put a slot into a lane, where its next message starts at `cursor`."""
        slot.cursor = cursor
        if lane != slot.lane:
            self._count(slot, -1)
            slot.lane = lane
            self._count(slot, 1)
            if slot.details.judged_from != KEEPING_UP:
                slot.details.judged_from = cursor     # lag is counted in the bytes of its lane
        return 0

    cdef int _count(self, Slot* slot, int added) noexcept nogil:
        slot.lane.subscribers += added
        if slot.lane.form != slot.details.wanted:
            self.forms.misplaced += added
        if slot.lane.form == WINDOWED:
            slot.socket.windowed += added
        elif slot.lane.form != PLAIN:
            slot.socket.deflated += added
        return 0

    cdef PyObject* compacted_frame(self, Slot* slot, uint32_t index) except NULL:
        """Return the frame of a live entry of the compact log as the slot's client may be sent it, borrowed."""
        cdef Entry* entry = &self.compact.entries[index]
        cdef iovec frame
        cdef Payload payload
        if self.policy.best_form == PLAIN or slot.socket.window_bits != LARGEST_WINDOW_BITS or slot.socket.windowed:
            return entry.frame
        if entry.deflated == NULL:
            frame = bytes_of(entry.frame)
            if not self.compact.has_room_for_deflated(<Py_ssize_t>frame.iov_len):
                return entry.frame
            borrow_payload(<const uint8_t*>frame.iov_base, <Py_ssize_t>frame.iov_len, &payload)
            self.compact.keep_deflated(
                index,
                self.sweeper.deflaters.make_frame(self.policy.compression.level, &payload)
                if can_compress(payload.len, self.policy.compression.min_bytes) else None
            )
        return entry.frame if entry.deflated == <PyObject*>None else entry.deflated

    cdef Lane* _lane_of(self, Form form) noexcept:
        return &self.log.lane if self.lanes is None else self.lanes.lane_of(form)

    # What nobody needs any more.

    cdef int trim_lanes(self) except -1:
        """Forget the frames that no subscriber lacks, and a window that nobody follows."""
        cdef uint64_t oldest_seq = self.log.lane.next_seq
        cdef uint32_t i
        cdef Slot* slot
        if self.lanes is None:
            return self.log.trim(self.oldest_cursor())
        self.lanes.begin_trim()
        for i in range(self.count):
            slot = &self.slots[i]
            if not slot.details.is_compacted:
                slot.lane.needed_from = min(slot.lane.needed_from, slot.cursor)
                oldest_seq = min(oldest_seq, slot.seq)
        if self.policy.keeps_plain:
            self.log.lane.needed_from = min(self.log.lane.needed_from, self.oldest_plain_needed(oldest_seq))
        return self.lanes.trim()

    cdef uint64_t oldest_plain_needed(self, uint64_t oldest_seq) noexcept:
        """Return from where the plain lane is kept, so that all who lack messages from `oldest_seq` on can go on there.

        Not farther back than the limits would let them: what is small in a window may be large here. The newest message
        stays in any case, since a jump may go to nothing newer.
        """
        cdef Lane* lane = &self.log.lane
        cdef uint64_t start = start_of(lane, max(oldest_seq, lane.first_seq))
        cdef uint64_t limit = self.policy.max_lag_bytes + self.policy.max_burst_bytes
        if not self.policy.reads_compact and lane.tail - start > limit:
            start = start_of(lane, min(seq_at(lane, lane.tail - limit) + 1, lane.next_seq - 1))
        return start

    cdef Py_ssize_t lanes_bytes(self) noexcept:
        """Return what the frames in all forms take in memory."""
        if self.lanes is None:
            return self.log.allocated_bytes
        return self.lanes.allocated_bytes()

    def _check_forms(self):
        """Assert the invariants; slow."""
        cdef uint32_t i
        cdef Slot* slot
        cdef uint32_t misplaced = 0
        cdef uint64_t oldest_seq = self.log.lane.next_seq
        cdef list subscribers = [0, 0, 0, 0]
        for i in range(self.count):
            slot = &self.slots[i]
            subscribers[slot.lane.form] += 1
            misplaced += slot.lane.form != slot.details.wanted
            assert slot.socket.windowed == 0 or (slot.socket.windowed == 1 and slot.socket.deflated == 0)
            if not slot.details.is_compacted:
                assert slot.lane.head <= slot.cursor <= slot.lane.tail
                assert slot.cursor == start_of(slot.lane, slot.seq)
                oldest_seq = min(oldest_seq, slot.seq)
        assert misplaced == self.forms.misplaced
        assert subscribers[PLAIN] == self.log.lane.subscribers
        if self.lanes is None:
            self.log.check_invariants()
        else:
            self.lanes.check_invariants(subscribers)
            if self.policy.reads_compact:
                assert self.log.lane.first_seq <= oldest_seq
            elif self.policy.keeps_plain and oldest_seq != self.log.lane.next_seq:
                assert self.log.lane.first_seq < self.log.lane.next_seq, "nothing to jump to"


cdef Form alone_form(Socket* socket) noexcept nogil:
    return DEFLATED if socket.window_bits == LARGEST_WINDOW_BITS else DEFLATED_SMALL
