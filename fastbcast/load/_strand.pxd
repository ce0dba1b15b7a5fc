from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastbcast.deflate._inflate cimport Inflated, Room
from fastbcast.deflate._zlib cimport z_stream

cdef enum:
    HISTORY_BYTES = 32768           # all that an inflater remembers, RFC 7692 section 7.1.2
    MAX_KEPT_BYTES = 67108864       # 64 MiB of one strand; past it those who are behind leave it


cdef struct Message:
    uint32_t waiting                # followers whose next one it is
    size_t compressed_bytes
    Inflated inflated
    uint8_t* compressed             # as it came; behind the Message
    uint8_t* data                   # inflated; behind that


cdef struct Strand:
    z_stream inflater               # has inflated all below `end`
    bint is_alone                   # each message was compressed without those before
    bint is_shared                  # messages are kept; else there is one follower, and nobody comes
    bint is_broken                  # something could not be inflated: nothing after it can
    uint32_t holders                # followers, and who lets others follow; without one it is freed
    uint32_t at_end                 # followers that wait for what has not come to anybody
    # If it is shared; else nothing is kept, and all of it is 0.
    Message** messages              # [position & (capacity - 1)], valid from `kept` to `end`
    uint64_t capacity               # a power of two
    uint64_t kept                   # the oldest one, which somebody waits for or an inflater would remember
    uint64_t first                  # the oldest one that somebody waits for
    uint64_t end
    size_t history_bytes            # inflated, from `kept` to `first`
    size_t kept_bytes


cdef struct Follower:
    Strand* strand                  # NULL: none
    uint64_t position               # of its next message


cdef Strand* new_strand(bint is_alone, bint is_shared) noexcept nogil
cdef void follow(Follower* follower, Strand* strand) noexcept nogil
cdef void unfollow(Follower* follower) noexcept nogil
cdef void release_strand(Strand* strand) noexcept nogil
cdef bint part(Follower* follower) noexcept nogil
cdef const uint8_t* unpack(
    Follower* follower, const uint8_t* payload, size_t len, size_t max_bytes, Room* room, size_t* inflated_bytes
) noexcept nogil
