"""Every message accounted for: what was published, and what each subscriber has of it.

A message's payload says which one it is (_stamp.pxd), so that every process can judge it, and needs nobody's word.
A stream is what one publisher sends, numbered from 0 in each. Publisher p is of channel p % channels, so a subscriber
has a receipt for each stream of its channel.

    receipt     0 ...... next_seq              all messages below it were received, or are in its gaps
    stream      0 ... completed ... first ... sent
                       |              '-- below: one steady subscriber at least has it
                       '-- below: settled for all steady subscribers, in all processes

A message is SETTLED for a subscriber when that one has it, or will not get it in order (it was passed over or given
up), or has left. So a server that loses messages ends a run with a count of the missing, not with a hang.

Invariants

1. `passed` of a message is the number of steady subscribers here, now, whose next_seq is above it.
2. A slot holds the newest message of its place that anybody here has seen or passed over; an older one's has gone,
   and is judged by its check alone. Steady subscribers never need one that has gone (see _board.pyx, 3).
3. `missing` is the sum of the lengths of all gaps of steady subscribers and guests, forgotten ones included.
4. The usual message is the next one in order: a comparison with the slot, some counters, and nothing is allocated.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from fastbcast.load._board cimport Board, load_acquire, record, store_release
from fastbcast.load._receipt cimport Receipt, add_gap, close_gap
from fastbcast.load._stamp cimport STAMP_BYTES, read_stamp, read_stream, write_stamp

from .payload import make_bodies

MIN_PAYLOAD_BYTES = STAMP_BYTES

cdef enum:
    STREAM_STRIDE = 977     # bodies from one stream's to the next one's

cdef uint64_t UNJOINED = <uint64_t>-1
cdef uint64_t NOBODY = <uint64_t>-1     # `settled` where there is no steady subscriber


cdef class Audit:
    """The audit of one process. All of it belongs to one thread.

    bodies: what follows the stamp, one for each message in turn: a power of two of them, `payload_bytes` less the stamp.
    """

    def __cinit__(
        self, Board board not None, uint32_t process, uint32_t channels, uint64_t payload_bytes,
        *rest, tuple bodies=None, **more,
    ):
        cdef uint64_t i, streams = board.streams
        cdef bytes joined
        if payload_bytes < STAMP_BYTES:
            raise ValueError(f"a message needs {STAMP_BYTES} bytes to say which it is, not {payload_bytes}")
        if not 1 <= channels <= streams:
            raise ValueError(f"each of {channels} channels needs a publisher, there are {streams}")
        if process >= board.processes:
            raise ValueError(f"there is no process {process}")
        self.body_bytes = payload_bytes - STAMP_BYTES
        bodies = bodies or make_bodies("letters", self.body_bytes)
        self.body_mask = <uint64_t>len(bodies) - 1
        if self.body_mask & (self.body_mask + 1) or any(<uint64_t>len(body) != self.body_bytes for body in bodies):
            raise ValueError(f"there must be a power of two of bodies, of {self.body_bytes} bytes each")
        joined = b"".join(bodies)
        self.board = board
        self.tally = &board.tallies[process]
        self.process = process
        self.channels = channels
        self.payload_bytes = payload_bytes
        self.streams = board.streams
        self.slot_mask = board.slots - 1
        self.sent = board.sent
        self.measured_from = board.measured_from
        self.first = board.first + process * streams
        self.settled = board.settled + process * streams
        self.slots = <Slot*>calloc(streams * board.slots, sizeof(Slot))
        self.steady = <uint32_t*>calloc(channels, sizeof(uint32_t))
        self.completed = <uint64_t*>calloc(streams, sizeof(uint64_t))
        self.bodies = <uint8_t*>calloc(len(joined) + 1, 1)
        if self.slots == NULL or self.steady == NULL or self.completed == NULL or self.bodies == NULL:
            raise MemoryError
        memcpy(self.bodies, <const uint8_t*>joined, len(joined))
        for i in range(streams):
            self.settled[i] = NOBODY

    def __dealloc__(self):
        free(self.slots)
        free(self.steady)
        free(self.completed)
        free(self.bodies)

    @property
    def under_way(self) -> int:
        """Messages that were published and are not settled, as of the last look. First process."""
        cdef uint64_t total = 0, stream
        for stream in range(self.streams):
            total += self.sent[stream] - self.completed[stream]
        return total

    # Subscribers.

    cdef int open_reader(self, Reader* reader, uint32_t kind, uint32_t channel) except -1:
        """Begin to judge a subscriber. Steady ones come before the first message."""
        cdef uint32_t position, positions = self._count_positions(channel)
        if channel >= self.channels:
            raise ValueError(f"there is no channel {channel}")
        reader.receipts = <Receipt*>calloc(positions, sizeof(Receipt))
        if reader.receipts == NULL:
            raise MemoryError
        reader.kind = kind
        reader.channel = channel
        for position in range(positions):
            if kind == STEADY:
                self.settled[channel + position * self.channels] = 0
            elif kind == GUEST:
                reader.receipts[position].next_seq = UNJOINED
        if kind == STEADY:
            self.steady[channel] += 1
        return 0

    cdef void close_reader(self, Reader* reader) noexcept nogil:
        """It has left: what is under way is not expected to reach it."""
        cdef uint32_t position, stream
        cdef uint64_t seq
        if reader.receipts == NULL:
            return
        if reader.kind == STEADY:
            self.steady[reader.channel] -= 1
            for position in range(self._count_positions(reader.channel)):
                stream = reader.channel + position * self.channels
                for seq in range(self.settled[stream], reader.receipts[position].next_seq):
                    self._slot(stream, seq).passed -= 1
                self._settle(stream)
        self.free_reader(reader)

    cdef void free_reader(self, Reader* reader) noexcept nogil:
        """Give back what it holds; nothing is judged."""
        cdef uint32_t position
        if reader.receipts != NULL:
            for position in range(self._count_positions(reader.channel)):
                free(reader.receipts[position].gaps)
            free(reader.receipts)
            reader.receipts = NULL

    cdef void write_off_reader(self, Reader* reader, uint64_t now_ns) noexcept nogil:
        """What was published and has not come counts as missing from now on; if it comes later, as reordered."""
        cdef uint32_t position, stream
        cdef uint64_t sent
        cdef Receipt* receipt
        if reader.receipts == NULL or reader.kind == SLOW:
            return
        for position in range(self._count_positions(reader.channel)):
            receipt = &reader.receipts[position]
            stream = reader.channel + position * self.channels
            sent = load_acquire(&self.sent[stream])
            if receipt.next_seq < sent:
                self._pass_over(reader, receipt, stream, sent, now_ns)

    # Messages.

    cdef void take(
        self, Reader* reader, const uint8_t* payload, uint64_t payload_len, uint64_t read_ns
    ) noexcept nogil:
        """One message of a subscriber, whatever is in it."""
        cdef uint64_t stream = reader.channel
        cdef Receipt* receipt = reader.receipts
        cdef Slot* slot
        if self.streams != self.channels and payload_len >= STAMP_BYTES:
            if (
                not read_stream(payload, &stream)
                or stream >= self.streams
                or stream % self.channels != reader.channel
            ):
                self.tally.counts.corrupt += 1
                return
            receipt += stream // self.channels
        slot = self._slot(<uint32_t>stream, receipt.next_seq)
        if (
            slot.tag == receipt.next_seq + 1
            and slot.is_known
            and payload_len == self.payload_bytes
            and memcmp(payload, slot.stamp, STAMP_BYTES) == 0
            and memcmp(payload + STAMP_BYTES, self.body_of(<uint32_t>stream, receipt.next_seq), self.body_bytes) == 0
        ):
            self._receive_next(reader, receipt, <uint32_t>stream, slot, slot.intended_ns, read_ns)
        else:
            self._take_irregular(reader, payload, payload_len, read_ns)

    cdef void _take_irregular(
        self, Reader* reader, const uint8_t* payload, uint64_t payload_len, uint64_t read_ns
    ) noexcept nogil:
        cdef uint64_t stream, seq, intended_ns
        cdef Receipt* receipt
        cdef Slot* slot
        if (
            payload_len != self.payload_bytes
            or not read_stamp(payload, self.board.run_id, &stream, &seq, &intended_ns)
            or stream >= self.streams
            or stream % self.channels != reader.channel
            or seq >= load_acquire(&self.sent[stream])
            or memcmp(payload + STAMP_BYTES, self.body_of(<uint32_t>stream, seq), self.body_bytes)
        ):
            self.tally.counts.corrupt += 1
            return
        receipt = &reader.receipts[stream // self.channels]
        slot = self._ensure_slot(<uint32_t>stream, seq)
        if slot != NULL and not slot.is_known:
            slot.is_known = True
            slot.intended_ns = intended_ns
            memcpy(slot.stamp, payload, STAMP_BYTES)
        if receipt.next_seq == UNJOINED:
            receipt.next_seq = receipt.forgotten_seq = seq
        if seq >= receipt.next_seq:
            if seq > receipt.next_seq:
                self._pass_over(reader, receipt, <uint32_t>stream, seq, read_ns)
            self._receive_next(reader, receipt, <uint32_t>stream, slot, intended_ns, read_ns)
        elif close_gap(receipt, seq):
            self.tally.counts.reordered += 1
            if reader.kind == SLOW:
                self.tally.counts.skipped -= 1
            else:
                self.tally.counts.missing -= 1
            self._count(reader, <uint32_t>stream, seq, intended_ns, read_ns)
        elif seq < receipt.forgotten_seq:
            self.tally.counts.reordered += 1
        else:
            self.tally.counts.doubled += 1

    cdef void _receive_next(
        self, Reader* reader, Receipt* receipt, uint32_t stream, Slot* slot, uint64_t intended_ns, uint64_t read_ns
    ) noexcept nogil:
        """`slot` may be NULL for a subscriber that is not steady."""
        self._count(reader, stream, receipt.next_seq, intended_ns, read_ns)
        receipt.next_seq += 1
        if reader.kind != STEADY:
            return
        if receipt.next_seq > self.first[stream]:
            store_release(&self.first[stream], receipt.next_seq)
        if slot.first_ns == 0:
            slot.first_ns = read_ns
        self._pass(stream, slot, read_ns)

    cdef void _count(
        self, Reader* reader, uint32_t stream, uint64_t seq, uint64_t intended_ns, uint64_t read_ns
    ) noexcept nogil:
        cdef uint64_t latency_ns = read_ns - intended_ns if read_ns > intended_ns else 0
        self.tally.counts.received += 1
        if seq < self.measured_from[stream]:
            return
        if reader.kind == SLOW:
            record(&self.tally.slow_delivery, latency_ns)
            return
        self.tally.counts.measured += 1
        self.tally.counts.payload_bytes += self.payload_bytes
        reader.measured += 1
        reader.latency_ns += latency_ns
        record(&self.tally.delivery, latency_ns)

    cdef void _pass_over(
        self, Reader* reader, Receipt* receipt, uint32_t stream, uint64_t end_seq, uint64_t now_ns
    ) noexcept nogil:
        """The subscriber got none of the messages from its next one to `end_seq`, which is not one of them."""
        cdef uint64_t start_seq = receipt.next_seq, seq
        cdef Slot* slot
        add_gap(receipt, start_seq, end_seq)
        receipt.next_seq = end_seq
        if reader.kind == SLOW:
            self.tally.counts.skipped += end_seq - start_seq
            return
        self.tally.counts.missing += end_seq - start_seq
        if reader.kind == STEADY:
            for seq in range(start_seq, end_seq):
                slot = self._ensure_slot(stream, seq)
                slot.is_incomplete = True
                self._pass(stream, slot, now_ns)

    cdef void _pass(self, uint32_t stream, Slot* slot, uint64_t now_ns) noexcept nogil:
        slot.last_ns = now_ns
        slot.passed += 1
        if slot.passed >= self.steady[stream % self.channels]:
            self._settle(stream)

    cdef void _settle(self, uint32_t stream) noexcept nogil:
        """Move `settled` past all that every steady subscriber here has passed."""
        cdef uint64_t seq = self.settled[stream], at
        cdef uint32_t steady = self.steady[stream % self.channels]
        cdef uint64_t base = (<uint64_t>self.process * self.streams + stream) * self.board.slots
        cdef Slot* slot
        if steady == 0:
            store_release(&self.settled[stream], NOBODY)
            return
        while True:
            slot = self._slot(stream, seq)
            if slot.tag != seq + 1 or slot.passed < steady:
                break
            at = base + (seq & self.slot_mask)
            self.board.first_ns[at] = slot.first_ns
            self.board.last_ns[at] = 0 if slot.is_incomplete else slot.last_ns
            seq += 1
        store_release(&self.settled[stream], seq)

    cdef const uint8_t* body_of(self, uint32_t stream, uint64_t seq) noexcept nogil:
        """What follows the stamp of a message. No two streams are at the same ones: that would compress too well."""
        return self.bodies + (seq + stream * STREAM_STRIDE & self.body_mask) * self.body_bytes

    cdef Slot* _slot(self, uint32_t stream, uint64_t seq) noexcept nogil:
        return &self.slots[stream * self.board.slots + (seq & self.slot_mask)]

    cdef Slot* _ensure_slot(self, uint32_t stream, uint64_t seq) noexcept nogil:
        """The slot of a message, emptied if it held an older one's; NULL if it holds a newer one's."""
        cdef Slot* slot = self._slot(stream, seq)
        if slot.tag > seq + 1:
            return NULL
        if slot.tag <= seq:
            memset(slot, 0, sizeof(Slot))
            slot.tag = seq + 1
        return slot

    cdef uint32_t _count_positions(self, uint32_t channel) noexcept nogil:
        """How many streams a channel has."""
        return (self.streams - channel - 1) // self.channels + 1

    # What only the first process does.

    cdef uint64_t stamp_next(self, uint32_t stream, uint64_t intended_ns, uint8_t* out) noexcept nogil:
        """Write the stamp of a stream's next message, which counts as published now; returns its seq.

        There must be a free slot: fewer than `board.slots` messages of the stream are not completed.
        """
        cdef uint64_t seq = self.sent[stream]
        cdef Slot* slot = self._ensure_slot(stream, seq)
        write_stamp(out, self.board.run_id, stream, seq, intended_ns)
        memcpy(slot.stamp, out, STAMP_BYTES)
        slot.intended_ns = intended_ns
        slot.is_known = True
        store_release(&self.sent[stream], seq + 1)
        self.tally.counts.published += 1
        return seq

    cdef void complete(self) noexcept nogil:
        """Take note of what is settled in all processes since the last call, and of how long that took."""
        cdef uint64_t settled, least, at, last_ns, first_ns, streams = self.streams
        cdef uint32_t stream, process
        cdef bint is_complete
        cdef Slot* slot
        for stream in range(streams):
            least = self.sent[stream]
            for process in range(self.board.processes):
                settled = load_acquire(&self.board.settled[process * streams + stream])
                if settled < least:     # never NOBODY
                    least = settled
            while self.completed[stream] < least:
                slot = self._slot(stream, self.completed[stream])
                last_ns = 0
                first_ns = <uint64_t>-1
                is_complete = True
                for process in range(self.board.processes):
                    if load_acquire(&self.board.settled[process * streams + stream]) == NOBODY:
                        continue
                    at = (process * streams + stream) * self.board.slots
                    at += self.completed[stream] & self.slot_mask
                    is_complete &= self.board.last_ns[at] != 0
                    last_ns = max(last_ns, self.board.last_ns[at])
                    if self.board.first_ns[at]:
                        first_ns = min(first_ns, self.board.first_ns[at])
                if is_complete and last_ns and self.completed[stream] >= self.measured_from[stream]:
                    record(&self.tally.completion, last_ns - slot.intended_ns if last_ns > slot.intended_ns else 0)
                    record(&self.tally.spread, last_ns - first_ns)
                self.completed[stream] += 1

    cdef uint64_t first_seq(self, uint32_t stream) noexcept nogil:
        """Below it, one steady subscriber at least has each message of the stream."""
        cdef uint64_t first = self.completed[stream], streams = self.streams
        cdef uint32_t process
        for process in range(self.board.processes):
            first = max(first, load_acquire(&self.board.first[process * streams + stream]))
        return first
