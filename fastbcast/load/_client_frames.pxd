# A client's side of RFC 6455's wire. A header only: there is no module of this name.

from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef extern from *:
    """
    #include <string.h>

    struct fastbcast_frame {
        unsigned char opcode, is_final, rsv;    /* the reserved bits where they are in the first byte */
        unsigned header_bytes;
        unsigned long long payload_bytes;
    };

    /* Section 5.2. 1: a header; 0: not all of it is there; -1: masked, which no server may do (section 5.1). */
    static inline int fastbcast_read_header(const unsigned char *buf, size_t len, struct fastbcast_frame *frame) {
        if (len < 2)
            return 0;
        if (buf[1] & 0x80)
            return -1;
        unsigned length_bytes = buf[1] == 127 ? 8 : buf[1] == 126 ? 2 : 0;
        frame->header_bytes = 2 + length_bytes;
        if (len < frame->header_bytes)
            return 0;
        frame->opcode = buf[0] & 0x0F;
        frame->is_final = buf[0] >> 7;
        frame->rsv = buf[0] & 0x70;
        frame->payload_bytes = length_bytes ? 0 : buf[1];
        for (unsigned i = 0; i < length_bytes; i++)
            frame->payload_bytes = frame->payload_bytes << 8 | buf[2 + i];
        return 1;
    }

    /* Section 5.3; `out` may be `in`. */
    static inline void fastbcast_mask(unsigned char *out, const unsigned char *in, size_t len, unsigned mask) {
        unsigned long long wide = (unsigned long long)mask << 32 | mask, word;
        size_t at = 0;
        for (; at + 8 <= len; at += 8) {
            memcpy(&word, in + at, 8);
            word ^= wide;
            memcpy(out + at, &word, 8);
        }
        for (; at < len; at++)
            out[at] = in[at] ^ ((const unsigned char *)&wide)[at & 7];
    }

    /* splitmix64, for masks and checks: every bit of the input moves half of the output's. */
    static inline unsigned long long fastbcast_scramble(unsigned long long value) {
        value += 0x9E3779B97F4A7C15u;
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9u;
        value = (value ^ value >> 27) * 0x94D049BB133111EBu;
        return value ^ value >> 31;
    }

    /* A header with FIN and a mask; its length, at most 14. */
    static inline unsigned fastbcast_write_header(
        unsigned char *out, unsigned opcode, unsigned long long payload_bytes, unsigned mask
    ) {
        unsigned at = 2;
        int length_bytes = payload_bytes < 126 ? 0 : payload_bytes < 65536 ? 2 : 8;
        out[0] = 0x80 | opcode;
        out[1] = 0x80 | (length_bytes == 0 ? payload_bytes : length_bytes == 2 ? 126 : 127);
        while (length_bytes--)
            out[at++] = (unsigned char)(payload_bytes >> (8 * length_bytes));
        memcpy(out + at, &mask, 4);
        return at + 4;
    }
    """
    cdef struct Frame "fastbcast_frame":
        uint8_t opcode, is_final, rsv
        uint32_t header_bytes
        uint64_t payload_bytes

    int read_header "fastbcast_read_header" (const uint8_t* buf, size_t len, Frame* frame) noexcept nogil
    void apply_mask "fastbcast_mask" (uint8_t* out, const uint8_t* data, size_t len, uint32_t mask) noexcept nogil
    uint32_t write_header "fastbcast_write_header" (
        uint8_t* out, uint32_t opcode, uint64_t payload_bytes, uint32_t mask
    ) noexcept nogil
    uint64_t scramble "fastbcast_scramble" (uint64_t value) noexcept nogil
