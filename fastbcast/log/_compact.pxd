from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from fastbcast.log._log cimport Ledger, iovec


cdef Py_ssize_t key_len(object key) except -1
cdef object shareable(bytes frame)
cdef iovec bytes_of(PyObject* frame) noexcept


cdef struct Entry:
    uint64_t seq
    uint64_t end            # offset after it in the channel's log, which may have forgotten it
    uint64_t keyless        # messages without a key up to this one, itself included
    uint64_t published_ns   # coarse_ns()
    PyObject* frame         # an owned bytes object or Segment; NULL: dead, that is superseded or dropped
    PyObject* deflated      # the same, compressed alone; None: that is not shorter; NULL: nobody has asked for it
    uint32_t next           # of a dead one: between it and this index all are dead
    bint has_key


cdef class CompactLog:
    cdef Entry* entries                 # by seq
    cdef uint32_t count, capacity
    cdef uint32_t dead                  # entries without a frame
    cdef dict seqs                      # key -> seq of its newest message
    cdef readonly uint64_t keyless      # messages without a key so far
    cdef uint64_t keyless_from          # no message without a key before this seq is kept
    cdef readonly Py_ssize_t keyed_bytes, keyless_bytes     # what is kept, and its entries
    cdef readonly Py_ssize_t deflated_bytes                 # and what of it was compressed: less than those two together
    # Set once.
    cdef Ledger ledger
    cdef Py_ssize_t max_keys, max_snapshot_bytes

    cdef int admit(self, object key, Py_ssize_t frame_bytes) except -1
    cdef int add(self, uint64_t seq, uint64_t end, object key, object frame) except -1
    cdef bint has_room_for_deflated(self, Py_ssize_t frame_bytes) noexcept
    cdef int keep_deflated(self, uint32_t index, bytes frame) except -1
    cdef int drop_keyless(self, uint64_t before_seq, Py_ssize_t kept_bytes) noexcept

    cdef uint32_t find(self, uint64_t seq) noexcept nogil
    # These shorten the way over dead entries for whoever asks next: only the loop's thread may.
    cdef uint32_t find_live(self, uint64_t seq) noexcept nogil
    cdef uint32_t live_from(self, uint32_t start) noexcept nogil
    cdef bint holds(self, uint64_t seq) noexcept nogil
    cdef uint64_t keyless_before(self, uint64_t seq) noexcept nogil
    cdef uint64_t oldest_ns(self, uint64_t seq) noexcept nogil

    cdef int _account(self, Py_ssize_t keyed_bytes, Py_ssize_t keyless_bytes) noexcept
    cdef int _account_deflated(self, object kept, int sign) noexcept
    cdef int _release(self, PyObject* frame) noexcept
    cdef int _kill(self, uint32_t index) noexcept
    cdef int _grow(self) except -1
    cdef int _tidy(self) noexcept
