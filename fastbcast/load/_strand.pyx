"""What came compressed (RFC 7692), inflated once for all connections that got the same.

What an inflater says depends on nothing but the bytes it was given since it was new. So connections that got the same
compressed messages, byte for byte and in the same order from their first one on, are in one state, and one inflater
stands for all of them. A follower's message is compared with the one that came to another at the same place, never with
what is expected; what was inflated of it is then judged for each follower on its own.

    kept ......... first ......................... end
      '- history    '- waited for       '- waited for '- inflated when the first of those that are here gets one

A follower whose message differs PARTS: its own inflater is told the HISTORY_BYTES that came before, which is all that
an inflater remembers at the end of a message, and goes on from there.

Invariants

1. A shared strand began with new inflaters: the first message of its followers is message 0.
2. `kept` <= `first` <= every follower's position <= `end`.
3. From `kept` to `first` there are HISTORY_BYTES, or all since message 0.
4. A message ends where a block ends, at a byte (section 7.2.1): what does not is refused. So the state between two
   messages is the history alone.
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy

from fastbcast.deflate._inflate cimport INFLATED, RAW_WINDOW_BITS, Inflated, Room, inflate_payload
from fastbcast.deflate._zlib cimport Z_OK, inflateEnd, inflateInit2, inflateReset, inflateSetDictionary, z_stream

cdef enum:
    MIN_CAPACITY = 64


cdef Strand* new_strand(bint is_alone, bint is_shared) noexcept nogil:
    """One without a holder; NULL: no memory."""
    cdef Strand* strand = <Strand*>calloc(1, sizeof(Strand))
    if strand == NULL:
        return NULL
    if inflateInit2(&strand.inflater, RAW_WINDOW_BITS) != Z_OK:
        free(strand)
        return NULL
    strand.is_alone = is_alone
    strand.is_shared = is_shared
    return strand


cdef void follow(Follower* follower, Strand* strand) noexcept nogil:
    """Nothing has come to the follower, or to anybody else of the strand."""
    strand.holders += 1
    strand.at_end += 1
    follower.strand = strand
    follower.position = 0


cdef void unfollow(Follower* follower) noexcept nogil:
    cdef Strand* strand = follower.strand
    if strand == NULL:
        return
    if follower.position < strand.end:
        message_at(strand, follower.position).waiting -= 1
        forget(strand)
    else:
        strand.at_end -= 1
    follower.strand = NULL
    release_strand(strand)


cdef void release_strand(Strand* strand) noexcept nogil:
    """A holder gives it up."""
    cdef uint64_t position
    strand.holders -= 1
    if strand.holders:
        return
    inflateEnd(&strand.inflater)
    for position in range(strand.kept, strand.end):
        free(message_at(strand, position))
    free(strand.messages)
    free(strand)


cdef bint part(Follower* follower) noexcept nogil:
    """Let the follower go on with an inflater of its own. False: no memory, and nothing has changed."""
    cdef Strand* strand = follower.strand
    cdef Strand* own = new_strand(strand.is_alone, False)
    if own == NULL:
        return False
    if not remember(&own.inflater, strand, follower.position):
        own.holders = 1
        release_strand(own)
        return False
    unfollow(follower)
    follow(follower, own)
    return True


cdef const uint8_t* unpack(
    Follower* follower, const uint8_t* payload, size_t len, size_t max_bytes, Room* room, size_t* inflated_bytes
) noexcept nogil:
    """The follower's next compressed message, inflated; valid until the next call.

    NULL: it cannot be inflated, or is longer than `max_bytes`, or there is no memory. Nothing after it can, then.
    """
    cdef Strand* strand = follower.strand
    cdef Message* message
    cdef Inflated inflated
    if follower.position < strand.end:
        message = message_at(strand, follower.position)
        if message.compressed_bytes == len and memcmp(message.compressed, payload, len) == 0:
            inflated_bytes[0] = message.inflated.all_bytes
            step(follower)
            return message.data
        if not part(follower):
            return NULL
        strand = follower.strand
    if strand.is_broken:
        return NULL
    if strand.is_alone:
        inflateReset(&strand.inflater)
    if (
        inflate_payload(&strand.inflater, payload, len, max_bytes, room, &inflated) != INFLATED
        or (strand.is_shared and not append(strand, payload, len, room.data, &inflated))
    ):
        spoil(follower)
        return NULL
    if strand.is_shared:
        step(follower)
    inflated_bytes[0] = inflated.all_bytes
    return room.data


cdef void spoil(Follower* follower) noexcept nogil:
    """Its message could not be inflated: it is on its own from now on, and the others are where they were."""
    cdef Strand* strand = follower.strand
    if strand.is_shared:
        if not part(follower):
            return      # it tries again with its next message, which fails, too
        if not remember(&strand.inflater, strand, strand.end):
            strand.is_broken = True
    if not strand.is_alone:
        follower.strand.is_broken = True


cdef bint remember(z_stream* inflater, const Strand* strand, uint64_t position) noexcept nogil:
    """Bring an inflater to where one is that has inflated all below `position`. False: no memory."""
    cdef uint8_t* history
    cdef size_t at = HISTORY_BYTES, len
    cdef Message* message
    inflateReset(inflater)
    if strand.is_alone:
        return True
    history = <uint8_t*>malloc(HISTORY_BYTES)
    if history == NULL:
        return False
    while position > strand.kept and at:    # from its end to its beginning
        position -= 1
        message = message_at(strand, position)
        len = min(<size_t>message.inflated.remembered_bytes, at)
        at -= len
        memcpy(history + at, message.data + message.inflated.all_bytes - len, len)
        if message.inflated.is_end:
            break
    if at < HISTORY_BYTES:
        inflateSetDictionary(inflater, history + at, <unsigned>(HISTORY_BYTES - at))
    free(history)
    return True


# What a shared strand keeps.


cdef Message* message_at(const Strand* strand, uint64_t position) noexcept nogil:
    return strand.messages[position & (strand.capacity - 1)]


cdef bint append(
    Strand* strand, const uint8_t* payload, size_t len, const uint8_t* data, const Inflated* inflated
) noexcept nogil:
    """Keep a message for those who are at the end. False: no memory."""
    cdef Message* message
    cdef Message** messages
    cdef uint64_t capacity, position
    if strand.end - strand.kept == strand.capacity:
        capacity = max(<uint64_t>MIN_CAPACITY, 2 * strand.capacity)
        messages = <Message**>malloc(capacity * sizeof(Message*))
        if messages == NULL:
            return False
        for position in range(strand.kept, strand.end):
            messages[position & (capacity - 1)] = message_at(strand, position)
        free(strand.messages)
        strand.messages = messages
        strand.capacity = capacity
    message = <Message*>malloc(sizeof(Message) + len + inflated.all_bytes)
    if message == NULL:
        return False
    message.waiting = strand.at_end
    message.compressed_bytes = len
    message.inflated = inflated[0]
    message.compressed = <uint8_t*>(message + 1)
    message.data = message.compressed + len
    memcpy(message.compressed, payload, len)
    memcpy(message.data, data, inflated.all_bytes)
    strand.messages[strand.end & (strand.capacity - 1)] = message
    strand.kept_bytes += len + inflated.all_bytes
    strand.end += 1
    strand.at_end = 0
    return True


cdef void step(Follower* follower) noexcept nogil:
    """Its next message is the one after the one that it has got."""
    cdef Strand* strand = follower.strand
    message_at(strand, follower.position).waiting -= 1
    follower.position += 1
    if follower.position == strand.end:
        strand.at_end += 1
    else:
        message_at(strand, follower.position).waiting += 1
    forget(strand)


cdef void forget(Strand* strand) noexcept nogil:
    """Let go what nobody waits for and no inflater remembers. The one before `first` stays: it was just given out."""
    cdef Message* message
    while strand.first < strand.end and message_at(strand, strand.first).waiting == 0:
        strand.history_bytes += message_at(strand, strand.first).inflated.all_bytes
        strand.first += 1
    while strand.kept + 1 < strand.first:
        message = message_at(strand, strand.kept)
        if strand.history_bytes - message.inflated.all_bytes < HISTORY_BYTES and not strand.is_alone:
            break
        strand.history_bytes -= message.inflated.all_bytes
        strand.kept_bytes -= message.compressed_bytes + message.inflated.all_bytes
        strand.kept += 1
        free(message)
