"""A lane's frames: bytes in segments, addressed by absolute offsets, and an index by seq.

        head                                       tail
         v                                          v
    ...  [ frame | frame | frame ][ frame | frame   ........ ]
          segment                  segment          free

    marks:  seq -> offset after the frame, when it was published      (a ring of 16 bytes a frame)

Invariants (`check_invariants` asserts them)

1. head <= every cursor <= tail, and all three are frame boundaries of the log.
2. Spans are contiguous: spans[i].end == spans[i + 1].start, the last end is the tail.
3. A frame never straddles segments; a frame larger than a segment has one of its own.
4. Bytes never change once they are written, and move only while nobody has a view of them: a view stays true for as
   long as it lives. A segment that is full is used by half at least, or somebody has a view of it.
5. An empty log holds no memory but its object.
6. `append` either adds a whole frame or raises (MemoryError) and leaves the log as it was.
7. The ledger has the sum of what all logs hold; a segment that is dropped while a Transport holds a view of
   it counts as pinned instead, until the last view is released.

Only the loop's thread calls the methods that change a log. The `nogil` ones read C memory that nobody
changes meanwhile, because whoever could is waiting for the sweep that calls them.
"""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memmove

from fastbcast._clock cimport coarse_ns
from fastbcast._frames cimport Payload, acquire_payload, frame_len, release_payload, write_frame

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX

cdef enum:
    # The first segment of a quiet channel: 100,000 channels must stay affordable.
    MIN_SEGMENT_BYTES = 256
    # Large enough that a backlog is a handful of iovecs, small enough that trimming frees memory soon.
    MAX_SEGMENT_BYTES = 65536
    MIN_INDEX_FRAMES = 4


cdef class Ledger:
    """What the logs of a hub hold together, in bytes."""

    def __cinit__(self, Py_ssize_t max_keyed_bytes=PY_SSIZE_T_MAX):
        self.max_keyed_bytes = max_keyed_bytes


@cython.no_gc    # nothing here can be part of a cycle, and __dealloc__ needs the ledger
cdef class Segment:
    """A piece of memory that speaks the buffer protocol, read-only."""

    def __cinit__(self, Py_ssize_t capacity):
        if capacity < 0:
            raise ValueError(f"a segment cannot have {capacity} bytes")
        self.data = <uint8_t*>malloc(capacity)
        if self.data == NULL:
            raise MemoryError(f"no memory for a segment of {capacity} bytes")
        self.capacity = capacity

    def __dealloc__(self):
        free(self.data)

    @property
    def is_pinned(self):
        """Whether only views keep it."""
        return self.pinned_in is not None

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.data, self.capacity, 1, flags)
        self.exports += 1

    cdef int drop(self, Ledger ledger) noexcept:
        """The log, or compact log, has no more use for it; only views may keep it."""
        if self.exports:
            self.pinned_in = ledger
            ledger.pinned_bytes += self.capacity
        return 0

    def __releasebuffer__(self, Py_buffer* buffer):
        self.exports -= 1
        if self.exports == 0 and self.pinned_in is not None:
            self.pinned_in.pinned_bytes -= self.capacity
            self.pinned_in = None


@cython.no_gc    # as above
cdef class Log:
    """The frames of one lane between `head` and `tail`."""

    def __cinit__(self, Ledger ledger=None, Form form=PLAIN, uint64_t next_seq=1):
        self.lane.form = form
        self.lane.next_seq = self.lane.first_seq = next_seq
        self.next_segment_bytes = MIN_SEGMENT_BYTES
        self.ledger = Ledger() if ledger is None else ledger

    @property
    def head(self):
        """The offset of the oldest byte kept, a frame boundary."""
        return self.lane.head

    @property
    def tail(self):
        """The offset where the next frame goes."""
        return self.lane.tail

    @property
    def first_seq(self):
        """The seq of the frame that starts at `head`."""
        return self.lane.first_seq

    @property
    def next_seq(self):
        """The seq of the next frame; the first is 1."""
        return self.lane.next_seq

    def __dealloc__(self):
        self._drop_segments(self.lane.span_count)
        self._account(-self.allocated_bytes)
        free(self.lane.spans)
        free(self.lane.marks)

    cdef int _account(self, Py_ssize_t grown_bytes) noexcept:
        self.allocated_bytes += grown_bytes
        self.ledger.log_bytes += grown_bytes
        return 0

    cdef uint64_t append(self, Payload* payload) except 0:
        """Frame `payload` at the tail and return its seq."""
        cdef Py_ssize_t frame_bytes = frame_len(payload.len)
        cdef uint8_t* out = self.reserve(frame_bytes)
        write_frame(out, payload.opcode, payload.data, payload.len)
        return self.commit(frame_bytes)

    cdef uint64_t skip(self) noexcept:
        """Number a message that nobody is there to get: the log must be empty. Returns its seq."""
        self.lane.first_seq += 1
        self.lane.next_seq += 1
        return self.lane.next_seq - 1

    cdef int trim(self, uint64_t offset) except -1:
        """Forget the frames before `offset`, a frame boundary that no cursor is behind."""
        cdef int dropped = 0
        if offset <= self.lane.head:
            return 0
        self.lane.first_seq = seq_at(&self.lane, offset)
        self.lane.head = offset
        if offset == self.lane.tail:
            return self._empty()
        while self.lane.spans[dropped].end <= offset:
            dropped += 1
        if dropped:
            self._drop_segments(dropped)
        return 0

    cdef int _empty(self) except -1:
        # Size what comes next by what this burst needed, so that a steady load uses one segment a turn.
        cdef uint64_t burst_bytes = self.lane.tail - self.burst_start
        cdef Py_ssize_t wanted_bytes = MIN_SEGMENT_BYTES
        while wanted_bytes < MAX_SEGMENT_BYTES and <uint64_t>wanted_bytes < burst_bytes:
            wanted_bytes *= 2
        self.next_segment_bytes = max(wanted_bytes, self.next_segment_bytes // 2)
        self.burst_start = self.lane.tail
        self._drop_segments(self.lane.span_count)
        free(self.lane.spans)
        self.lane.spans = NULL
        self.lane.span_capacity = 0
        self._account(-self.allocated_bytes)
        free(self.lane.marks)
        self.lane.marks = NULL
        self.lane.index_capacity = 0
        return 0

    cdef int _drop_segments(self, int count) noexcept:
        cdef Segment segment
        cdef int i
        for i in range(count):
            segment = <Segment>self.lane.spans[i].segment
            self._account(-segment.capacity)
            segment.drop(self.ledger)
            Py_DECREF(segment)
        self.lane.span_count -= count
        if self.lane.span_count:
            memmove(self.lane.spans, self.lane.spans + count, self.lane.span_count * sizeof(Span))
        return 0

    cdef uint8_t* reserve(self, Py_ssize_t wanted_bytes) except NULL:
        """Return where `wanted_bytes` may be written at the tail; `commit` then makes them a frame."""
        cdef Span* last
        if self.lane.next_seq - self.lane.first_seq == self.lane.index_capacity:
            self._grow_index()
        if self.lane.span_count:
            last = &self.lane.spans[self.lane.span_count - 1]
            if <Py_ssize_t>(last.end - last.start) + wanted_bytes <= (<Segment>last.segment).capacity:
                return last.data + (last.end - last.start)
            self._shrink(last)
        self._add_segment(max(wanted_bytes, self.next_segment_bytes))
        return self.lane.spans[self.lane.span_count - 1].data

    cdef int release_reserved(self) except -1:
        """What was reserved is not written after all: an empty log gives it back."""
        return self._empty() if self.lane.head == self.lane.tail else 0

    cdef uint64_t commit(self, Py_ssize_t frame_bytes) noexcept:
        cdef uint64_t seq = self.lane.next_seq
        self.lane.tail += frame_bytes
        self.lane.spans[self.lane.span_count - 1].end = self.lane.tail
        self.lane.marks[seq & (self.lane.index_capacity - 1)] = Mark(self.lane.tail, coarse_ns())
        self.lane.next_seq = seq + 1
        return seq

    cdef int _shrink(self, Span* span) noexcept:
        # A compressed frame takes much less than was reserved for it, and the next one needs as much room again: many
        # of them would take a multiple of what their readers are behind.
        cdef Segment segment = <Segment>span.segment
        cdef Py_ssize_t used_bytes = <Py_ssize_t>(span.end - span.start)
        cdef uint8_t* data
        if segment.exports == 0 and 0 < used_bytes < segment.capacity // 2:
            data = <uint8_t*>realloc(segment.data, used_bytes)
            if data != NULL:
                self._account(used_bytes - segment.capacity)
                segment.data = span.data = data
                segment.capacity = used_bytes
        return 0

    cdef int _add_segment(self, Py_ssize_t capacity) except -1:
        cdef Span* spans
        cdef int wanted
        cdef Segment segment
        if self.lane.span_count == self.lane.span_capacity:
            wanted = max(2, 2 * self.lane.span_capacity)
            spans = <Span*>realloc(self.lane.spans, wanted * sizeof(Span))
            if spans == NULL:
                raise MemoryError("no memory for a lane's list of segments")
            self.lane.spans = spans
            self.lane.span_capacity = wanted
        segment = Segment(capacity)
        Py_INCREF(segment)
        self.lane.spans[self.lane.span_count] = Span(self.lane.tail, self.lane.tail, segment.data, <PyObject*>segment)
        self.lane.span_count += 1
        self._account(capacity)
        self.next_segment_bytes = min(2 * self.next_segment_bytes, MAX_SEGMENT_BYTES)
        return 0

    cdef int _grow_index(self) except -1:
        cdef uint64_t wanted = max(<uint64_t>MIN_INDEX_FRAMES, 2 * self.lane.index_capacity)
        cdef uint64_t seq
        cdef Mark* marks = <Mark*>malloc(wanted * sizeof(Mark))
        if marks == NULL:
            raise MemoryError("no memory for a lane's index")
        for seq in range(self.lane.first_seq, self.lane.next_seq):
            marks[seq & (wanted - 1)] = self.lane.marks[seq & (self.lane.index_capacity - 1)]
        free(self.lane.marks)
        self._account(<Py_ssize_t>((wanted - self.lane.index_capacity) * sizeof(Mark)))
        self.lane.marks = marks
        self.lane.index_capacity = wanted
        return 0

    # The same from Python, for tests and debug builds.

    def add(self, message):
        """Append `message` as a frame; return its seq."""
        cdef Payload payload
        acquire_payload(message, None, &payload)
        try:
            return self.append(&payload)
        finally:
            release_payload(&payload)

    def read(self, uint64_t start):
        """Return the bytes from `start` to the tail, through as many pieces as `gather` gives."""
        cdef iovec[4] pieces
        cdef int i
        cdef bytes data = b""
        if not self.lane.head <= start <= self.lane.tail:
            raise ValueError(f"offset {start} is not in [{self.lane.head}, {self.lane.tail}]")
        while start < self.lane.tail:
            for i in range(gather(&self.lane, start, pieces, 4)):
                data += PyBytes_FromStringAndSize(<char*>pieces[i].iov_base, pieces[i].iov_len)
                start += pieces[i].iov_len
        return data

    def drop_before(self, uint64_t offset):
        """Trim to `offset`."""
        self.trim(offset)

    def locate(self, uint64_t offset):
        """Return the seq of the frame that holds the byte at `offset`, where it starts, and where it ends."""
        cdef uint64_t seq = seq_at(&self.lane, offset)
        return seq, start_of(&self.lane, seq), end_of(&self.lane, seq)

    def get_view(self, uint64_t start, uint64_t end):
        """Return a view of bytes of one frame."""
        return view(&self.lane, start, end)

    def check_invariants(self):
        """Assert invariants 1 to 3 and 5; slow."""
        cdef int i
        cdef uint64_t offset
        cdef uint64_t seq
        assert self.lane.head <= self.lane.tail
        assert self.allocated_bytes == <Py_ssize_t>(self.lane.index_capacity * sizeof(Mark)) + sum(
            [(<Segment>self.lane.spans[i].segment).capacity for i in range(self.lane.span_count)]
        )
        assert self.ledger.log_bytes >= self.allocated_bytes
        assert self.ledger.pinned_bytes >= 0
        for i in range(self.lane.span_count):
            assert self.lane.spans[i].start <= self.lane.spans[i].end
            assert self.lane.spans[i].end - self.lane.spans[i].start <= <uint64_t>(<Segment>self.lane.spans[i].segment).capacity
            if i:
                assert self.lane.spans[i].start == self.lane.spans[i - 1].end
        if self.lane.span_count:
            assert self.lane.spans[0].start <= self.lane.head
            assert self.lane.spans[self.lane.span_count - 1].end == self.lane.tail
        if self.lane.head == self.lane.tail:
            assert self.allocated_bytes == 0 and self.lane.span_capacity == 0
            assert self.lane.first_seq == self.lane.next_seq
        offset = self.lane.head
        for seq in range(self.lane.first_seq, self.lane.next_seq):
            assert end_of(&self.lane, seq) > offset
            offset = end_of(&self.lane, seq)
        assert offset == self.lane.tail


cdef object view(Lane* lane, uint64_t start, uint64_t end):
    """Return the bytes from `start` to `end`, which lie in one segment (as a frame does), as a view that keeps it."""
    cdef int i = lane.span_count - 1
    while lane.spans[i].start > start:
        i -= 1
    return memoryview(<object>lane.spans[i].segment)[start - lane.spans[i].start:end - lane.spans[i].start]


cdef int gather(Lane* lane, uint64_t start, iovec* out, int max_count) noexcept nogil:
    """Describe the bytes from `start` to the tail in at most `max_count` pieces; returns how many.

    The caller guarantees head <= start < tail. It cannot fail: it only reads the spans.
    """
    cdef int i = lane.span_count - 1
    cdef int count = 0
    while lane.spans[i].start > start:
        i -= 1
    while i < lane.span_count and count < max_count:
        out[count].iov_base = lane.spans[i].data + (start - lane.spans[i].start)
        out[count].iov_len = lane.spans[i].end - start
        start = lane.spans[i].end
        count += 1
        i += 1
    return count


cdef uint64_t end_of(Lane* lane, uint64_t seq) noexcept nogil:
    """Return the offset after frame `seq` (first_seq <= seq < next_seq)."""
    return lane.marks[seq & (lane.index_capacity - 1)].end


cdef uint64_t start_of(Lane* lane, uint64_t seq) noexcept nogil:
    """Return the offset of frame `seq` (first_seq <= seq <= next_seq)."""
    return lane.head if seq == lane.first_seq else end_of(lane, seq - 1)


cdef uint64_t published_ns(Lane* lane, uint64_t seq) noexcept nogil:
    """Return the coarse time at which frame `seq` was appended (first_seq <= seq < next_seq)."""
    return lane.marks[seq & (lane.index_capacity - 1)].published_ns


cdef uint64_t seq_at(Lane* lane, uint64_t offset) noexcept nogil:
    """Return the seq of the frame that holds the byte at `offset` (head <= offset <= tail: next_seq)."""
    cdef uint64_t low = lane.first_seq
    cdef uint64_t high = lane.next_seq
    cdef uint64_t middle
    if offset == lane.tail:
        return high
    while low < high:
        middle = low + (high - low) // 2
        if end_of(lane, middle) <= offset:
            low = middle + 1
        else:
            high = middle
    return low
