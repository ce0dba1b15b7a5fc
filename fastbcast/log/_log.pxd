from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastbcast._frames cimport Payload


cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void* iov_base
        size_t iov_len


cdef struct Span:
    # One segment as a sweep sees it: plain C, so that no Python object is touched without the GIL.
    uint64_t start          # absolute offset of the segment's first byte
    uint64_t end            # absolute offset after its last written byte
    uint8_t* data
    PyObject* segment       # an owned Segment


cdef struct Mark:
    # One frame, in the index.
    uint64_t end            # absolute offset after its last byte
    uint64_t published_ns   # coarse_ns() when it was appended


cdef enum Form:
    # How the messages of a lane are written: a row of the table of _lanes.pyx.
    PLAIN = 0
    DEFLATED = 1            # each message compressed alone
    DEFLATED_SMALL = 2      # each message compressed alone, for inflaters whose windows are small
    WINDOWED = 3            # compressed with one window over all of them
    FORM_COUNT = 4


cdef struct Lane:
    # A log as a sweep sees it: plain C, which only the loop's thread changes, and never during a slice.
    uint64_t head           # offset of the oldest byte kept, a frame boundary
    uint64_t tail           # offset where the next frame goes
    uint64_t next_seq       # seq of the next frame; the first is 1
    uint64_t first_seq      # seq of the frame that starts at head
    # Segments, oldest first.
    Span* spans
    int span_count
    int span_capacity
    # Index: frame `seq` is at marks[seq & (index_capacity - 1)].
    Mark* marks
    uint64_t index_capacity     # a power of two, or 0
    # Its readers, kept by _forms.pyx.
    Form form
    uint32_t subscribers    # slots whose cursors point into it
    uint64_t needed_from    # while it is trimmed: the lowest of their cursors


cdef class Ledger:
    # What all logs of a hub hold, in bytes.
    cdef readonly Py_ssize_t log_bytes      # segments and indexes, used or not, and compact logs
    cdef readonly Py_ssize_t deflated_bytes     # of that: what compact logs keep compressed beside
    cdef readonly Py_ssize_t keyed_bytes    # of that: messages with a key in compact logs
    cdef readonly Py_ssize_t pinned_bytes   # segments that only a Transport's view keeps alive
    cdef Py_ssize_t max_keyed_bytes         # set once; what nobody can be relieved of must leave room


cdef enum:
    # The rest of a frame up to this size is given to a Transport as a copy: a view would keep its whole segment,
    # which is about as large.
    COPIED_REST_BYTES = 65536


cdef class Segment:
    # Immutable bytes as soon as they are written. They move only if the log shrinks it, while there are no views.
    cdef uint8_t* data
    cdef readonly Py_ssize_t capacity
    cdef object __weakref__
    # Views that are out (a Transport's): while there are any the memory is not written again.
    cdef Py_ssize_t exports
    # Set when a log drops a segment that has views: who is told when the last one is released.
    cdef Ledger pinned_in

    cdef int drop(self, Ledger ledger) noexcept


cdef class Log:
    cdef Lane lane
    cdef readonly Py_ssize_t allocated_bytes    # what segments and index hold, used or not
    cdef Ledger ledger                          # the sum of it over all logs
    cdef Py_ssize_t next_segment_bytes  # size of the next segment, unless a frame needs more
    cdef uint64_t burst_start           # tail when the log was last empty

    cdef uint64_t append(self, Payload* payload) except 0
    cdef uint64_t skip(self) noexcept
    cdef int trim(self, uint64_t offset) except -1
    cdef uint8_t* reserve(self, Py_ssize_t wanted_bytes) except NULL
    cdef int release_reserved(self) except -1
    cdef uint64_t commit(self, Py_ssize_t frame_bytes) noexcept

    cdef int _shrink(self, Span* span) noexcept
    cdef int _add_segment(self, Py_ssize_t capacity) except -1
    cdef int _grow_index(self) except -1
    cdef int _account(self, Py_ssize_t grown_bytes) noexcept
    cdef int _empty(self) except -1
    cdef int _drop_segments(self, int count) noexcept


cdef object view(Lane* lane, uint64_t start, uint64_t end)

cdef int gather(Lane* lane, uint64_t start, iovec* out, int max_count) noexcept nogil
cdef uint64_t end_of(Lane* lane, uint64_t seq) noexcept nogil
cdef uint64_t start_of(Lane* lane, uint64_t seq) noexcept nogil
cdef uint64_t published_ns(Lane* lane, uint64_t seq) noexcept nogil
cdef uint64_t seq_at(Lane* lane, uint64_t offset) noexcept nogil
