from libc.stdint cimport uint32_t, uint64_t


cdef struct Gap:
    uint64_t start, end         # [start, end) was passed over


cdef struct Receipt:
    # What one subscriber has of one stream.
    uint64_t next_seq           # all below it were received, or are in `gaps`; UNJOINED: nothing yet, of a guest
    uint64_t forgotten_seq      # gaps below it are not known any more
    Gap* gaps
    uint32_t gap_count, gap_capacity

cdef void add_gap(Receipt* receipt, uint64_t start, uint64_t end) noexcept nogil
cdef bint close_gap(Receipt* receipt, uint64_t seq) noexcept nogil
