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
4. Bytes never change or move once they are written: a view of them stays true for as long as it lives.
5. An empty log holds no memory but its object.
6. `append` either adds a whole frame or raises (MemoryError) and leaves the log as it was.
7. The ledger has the sum of what all logs hold; a segment that is dropped while a Transport holds a view of
   it counts as pinned instead, until the last view is released.

Only the loop's thread calls the methods that change a log. The `nogil` ones read C memory that nobody
changes meanwhile, because whoever could is waiting for the sweep that calls them.
"""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove

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

    def __cinit__(self, Ledger ledger=None):
        self.next_seq = 1
        self.first_seq = 1
        self.next_segment_bytes = MIN_SEGMENT_BYTES
        self.ledger = Ledger() if ledger is None else ledger

    def __dealloc__(self):
        self._drop_segments(self.span_count)
        self._account(-self.allocated_bytes)
        free(self.spans)
        free(self.marks)

    cdef int _account(self, Py_ssize_t grown_bytes) noexcept:
        self.allocated_bytes += grown_bytes
        self.ledger.log_bytes += grown_bytes
        return 0

    cdef uint64_t append(self, Payload* payload) except 0:
        """Frame `payload` at the tail and return its seq."""
        cdef Py_ssize_t frame_bytes = frame_len(payload.len)
        cdef uint8_t* out = self._reserve(frame_bytes)
        write_frame(out, payload.opcode, payload.data, payload.len)
        return self._commit(frame_bytes)

    cdef uint64_t append_frame(self, bytes frame) except 0:
        """Put a frame that `_frames.encode` made at the tail and return its seq."""
        cdef Py_ssize_t frame_bytes = PyBytes_GET_SIZE(frame)
        cdef uint8_t* out = self._reserve(frame_bytes)
        memcpy(out, PyBytes_AS_STRING(frame), frame_bytes)
        return self._commit(frame_bytes)

    cdef uint64_t skip(self) noexcept:
        """Number a message that nobody is there to get: the log must be empty. Returns its seq."""
        self.first_seq += 1
        self.next_seq += 1
        return self.next_seq - 1

    cdef int trim(self, uint64_t offset) except -1:
        """Forget the frames before `offset`, a frame boundary that no cursor is behind."""
        cdef int dropped = 0
        if offset <= self.head:
            return 0
        self.first_seq = self.seq_at(offset)
        self.head = offset
        if offset == self.tail:
            return self._empty()
        while self.spans[dropped].end <= offset:
            dropped += 1
        if dropped:
            self._drop_segments(dropped)
        return 0

    cdef int _empty(self) except -1:
        # Size what comes next by what this burst needed, so that a steady load uses one segment a turn.
        cdef uint64_t burst_bytes = self.tail - self.burst_start
        cdef Py_ssize_t wanted_bytes = MIN_SEGMENT_BYTES
        while wanted_bytes < MAX_SEGMENT_BYTES and <uint64_t>wanted_bytes < burst_bytes:
            wanted_bytes *= 2
        self.next_segment_bytes = max(wanted_bytes, self.next_segment_bytes // 2)
        self.burst_start = self.tail
        self._drop_segments(self.span_count)
        free(self.spans)
        self.spans = NULL
        self.span_capacity = 0
        self._account(-self.allocated_bytes)
        free(self.marks)
        self.marks = NULL
        self.index_capacity = 0
        return 0

    cdef int _drop_segments(self, int count) noexcept:
        cdef Segment segment
        cdef int i
        for i in range(count):
            segment = <Segment>self.spans[i].segment
            self._account(-segment.capacity)
            segment.drop(self.ledger)
            Py_DECREF(segment)
        self.span_count -= count
        if self.span_count:
            memmove(self.spans, self.spans + count, self.span_count * sizeof(Span))
        return 0

    cdef uint8_t* _reserve(self, Py_ssize_t wanted_bytes) except NULL:
        """Return where `wanted_bytes` may be written at the tail; `_commit` then makes them a frame."""
        cdef Span* last
        if self.next_seq - self.first_seq == self.index_capacity:
            self._grow_index()
        if self.span_count:
            last = &self.spans[self.span_count - 1]
            if <Py_ssize_t>(last.end - last.start) + wanted_bytes <= (<Segment>last.segment).capacity:
                return last.data + (last.end - last.start)
        self._add_segment(max(wanted_bytes, self.next_segment_bytes))
        return self.spans[self.span_count - 1].data

    cdef uint64_t _commit(self, Py_ssize_t frame_bytes) noexcept:
        cdef uint64_t seq = self.next_seq
        self.tail += frame_bytes
        self.spans[self.span_count - 1].end = self.tail
        self.marks[seq & (self.index_capacity - 1)] = Mark(self.tail, coarse_ns())
        self.next_seq = seq + 1
        return seq

    cdef int _add_segment(self, Py_ssize_t capacity) except -1:
        cdef Span* spans
        cdef int wanted
        cdef Segment segment
        if self.span_count == self.span_capacity:
            wanted = max(2, 2 * self.span_capacity)
            spans = <Span*>realloc(self.spans, wanted * sizeof(Span))
            if spans == NULL:
                raise MemoryError("no memory for a lane's list of segments")
            self.spans = spans
            self.span_capacity = wanted
        segment = Segment(capacity)
        Py_INCREF(segment)
        self.spans[self.span_count] = Span(self.tail, self.tail, segment.data, <PyObject*>segment)
        self.span_count += 1
        self._account(capacity)
        self.next_segment_bytes = min(2 * self.next_segment_bytes, MAX_SEGMENT_BYTES)
        return 0

    cdef int _grow_index(self) except -1:
        cdef uint64_t wanted = max(<uint64_t>MIN_INDEX_FRAMES, 2 * self.index_capacity)
        cdef uint64_t seq
        cdef Mark* marks = <Mark*>malloc(wanted * sizeof(Mark))
        if marks == NULL:
            raise MemoryError("no memory for a lane's index")
        for seq in range(self.first_seq, self.next_seq):
            marks[seq & (wanted - 1)] = self.marks[seq & (self.index_capacity - 1)]
        free(self.marks)
        self._account(<Py_ssize_t>((wanted - self.index_capacity) * sizeof(Mark)))
        self.marks = marks
        self.index_capacity = wanted
        return 0

    cdef object view(self, uint64_t start, uint64_t end):
        """Return the bytes from `start` to `end`, which lie in one segment (as a frame does), as a view that keeps it."""
        cdef int i = self.span_count - 1
        while self.spans[i].start > start:
            i -= 1
        return memoryview(<object>self.spans[i].segment)[start - self.spans[i].start:end - self.spans[i].start]

    cdef int gather(self, uint64_t start, iovec* out, int max_count) noexcept nogil:
        """Describe the bytes from `start` to the tail in at most `max_count` pieces; returns how many.

        The caller guarantees head <= start < tail. It cannot fail: it only reads the spans.
        """
        cdef int i = self.span_count - 1
        cdef int count = 0
        while self.spans[i].start > start:
            i -= 1
        while i < self.span_count and count < max_count:
            out[count].iov_base = self.spans[i].data + (start - self.spans[i].start)
            out[count].iov_len = self.spans[i].end - start
            start = self.spans[i].end
            count += 1
            i += 1
        return count

    cdef uint64_t end_of(self, uint64_t seq) noexcept nogil:
        """Return the offset after frame `seq` (first_seq <= seq < next_seq)."""
        return self.marks[seq & (self.index_capacity - 1)].end

    cdef uint64_t start_of(self, uint64_t seq) noexcept nogil:
        """Return the offset of frame `seq` (first_seq <= seq <= next_seq)."""
        return self.head if seq == self.first_seq else self.end_of(seq - 1)

    cdef uint64_t published_ns(self, uint64_t seq) noexcept nogil:
        """Return the coarse time at which frame `seq` was appended (first_seq <= seq < next_seq)."""
        return self.marks[seq & (self.index_capacity - 1)].published_ns

    cdef uint64_t seq_at(self, uint64_t offset) noexcept nogil:
        """Return the seq of the frame that holds the byte at `offset` (head <= offset <= tail: next_seq)."""
        cdef uint64_t low = self.first_seq
        cdef uint64_t high = self.next_seq
        cdef uint64_t middle
        if offset == self.tail:
            return high
        while low < high:
            middle = low + (high - low) // 2
            if self.end_of(middle) <= offset:
                low = middle + 1
            else:
                high = middle
        return low

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
        if not self.head <= start <= self.tail:
            raise ValueError(f"offset {start} is not in [{self.head}, {self.tail}]")
        while start < self.tail:
            for i in range(self.gather(start, pieces, 4)):
                data += PyBytes_FromStringAndSize(<char*>pieces[i].iov_base, pieces[i].iov_len)
                start += pieces[i].iov_len
        return data

    def drop_before(self, uint64_t offset):
        """Trim to `offset`."""
        self.trim(offset)

    def locate(self, uint64_t offset):
        """Return the seq of the frame that holds the byte at `offset`, where it starts, and where it ends."""
        cdef uint64_t seq = self.seq_at(offset)
        return seq, self.start_of(seq), self.end_of(seq)

    def get_view(self, uint64_t start, uint64_t end):
        """Return a view of bytes of one frame."""
        return self.view(start, end)

    def check_invariants(self):
        """Assert invariants 1 to 3 and 5; slow."""
        cdef int i
        cdef uint64_t offset
        cdef uint64_t seq
        assert self.head <= self.tail
        assert self.allocated_bytes == <Py_ssize_t>(self.index_capacity * sizeof(Mark)) + sum(
            [(<Segment>self.spans[i].segment).capacity for i in range(self.span_count)]
        )
        assert self.ledger.log_bytes >= self.allocated_bytes
        assert self.ledger.pinned_bytes >= 0
        for i in range(self.span_count):
            assert self.spans[i].start <= self.spans[i].end
            assert self.spans[i].end - self.spans[i].start <= <uint64_t>(<Segment>self.spans[i].segment).capacity
            if i:
                assert self.spans[i].start == self.spans[i - 1].end
        if self.span_count:
            assert self.spans[0].start <= self.head
            assert self.spans[self.span_count - 1].end == self.tail
        if self.head == self.tail:
            assert self.allocated_bytes == 0 and self.span_capacity == 0
            assert self.first_seq == self.next_seq
        offset = self.head
        for seq in range(self.first_seq, self.next_seq):
            assert self.end_of(seq) > offset
            offset = self.end_of(seq)
        assert offset == self.tail
