# With what a message begins: which one it is. A header only: there is no module of this name.
#
#     | stream: 4 hex | seq: 12 hex | intended time, ns: 16 hex | check: 8 hex | body, one of payload.py's |
#     '------------------------------ stamp (40 bytes) -----------------------'
#
# The check is of the other three and of the run, so that no byte may change, and another run's message is none of this.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastbcast.load._client_frames cimport scramble

cdef enum:
    STAMP_BYTES = 40


cdef extern from *:
    """
    #include <stdint.h>

    /* A digit's value, or 0xFF. */
    static inline unsigned fastbcast_hex_value(unsigned char digit) {
        return digit >= '0' && digit <= '9' ? (unsigned)(digit - '0')
             : digit >= 'a' && digit <= 'f' ? (unsigned)(digit - 'a' + 10) : 0xFFu;
    }
    static inline int fastbcast_read_hex(const unsigned char *text, int digits, uint64_t *value) {
        unsigned bad = 0;
        *value = 0;
        for (int i = 0; i < digits; i++) {
            unsigned digit = fastbcast_hex_value(text[i]);
            bad |= digit & 0xF0;
            *value = *value << 4 | (digit & 15);
        }
        return !bad;
    }
    static inline void fastbcast_write_hex(unsigned char *out, int digits, unsigned long long value) {
        for (int i = 0; i < digits; i++)
            out[i] = (unsigned char)"0123456789abcdef"[value >> (4 * (digits - 1 - i)) & 15];
    }
    """
    bint read_hex "fastbcast_read_hex" (const uint8_t* text, int digits, uint64_t* value) noexcept nogil
    void write_hex "fastbcast_write_hex" (uint8_t* out, int digits, uint64_t value) noexcept nogil


cdef inline uint32_t check_of(uint64_t run_id, uint64_t stream, uint64_t seq, uint64_t intended_ns) noexcept nogil:
    return <uint32_t>scramble(scramble(scramble(run_id ^ stream) ^ seq) ^ intended_ns)


cdef inline void write_stamp(
    uint8_t* out, uint64_t run_id, uint64_t stream, uint64_t seq, uint64_t intended_ns
) noexcept nogil:
    write_hex(out, 4, stream)
    write_hex(out + 4, 12, seq)
    write_hex(out + 16, 16, intended_ns)
    write_hex(out + 32, 8, check_of(run_id, stream, seq, intended_ns))


cdef inline bint read_stream(const uint8_t* stamp, uint64_t* stream) noexcept nogil:
    """The stream that a stamp names, unchecked. False: it is none."""
    return read_hex(stamp, 4, stream)


cdef inline bint read_stamp(
    const uint8_t* stamp, uint64_t run_id, uint64_t* stream, uint64_t* seq, uint64_t* intended_ns
) noexcept nogil:
    """False: it is none, or not of this run."""
    cdef uint64_t check
    return (
        read_hex(stamp, 4, stream) and read_hex(stamp + 4, 12, seq) and read_hex(stamp + 16, 16, intended_ns)
        and read_hex(stamp + 32, 8, &check) and check == check_of(run_id, stream[0], seq[0], intended_ns[0])
    )
