/* wire.h: the WebSocket wire (RFC 6455), as far as floor.c needs it.
 *
 * Three nouns:
 *
 *   accept key   Sec-WebSocket-Key -> Sec-WebSocket-Accept (section 1.3: SHA-1, base64)
 *   request      the head of an HTTP message, ended by an empty line
 *   frame        2, 4 or 10 bytes of header, 4 more for a mask, then the payload (section 5.2)
 *
 * Everything is `static inline` on purpose: the program is one translation unit, `cc -O2 floor.c`.
 * Nothing here allocates, and nothing here touches a socket.
 */
#ifndef FASTBCAST_FLOOR_WIRE_H
#define FASTBCAST_FLOOR_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum opcode {
    OPCODE_CONTINUATION = 0x0,
    OPCODE_TEXT = 0x1,
    OPCODE_BINARY = 0x2,
    OPCODE_CLOSE = 0x8,
    OPCODE_PING = 0x9,
    OPCODE_PONG = 0xA,
};

enum {
    FRAME_FIN = 0x80,
    FRAME_RSV = 0x70,
    FRAME_MASKED = 0x80,
    FRAME_MAX_HEADER_BYTES = 14,        /* 2 + 8 of length + 4 of mask */
    CONTROL_MAX_PAYLOAD_BYTES = 125,    /* section 5.5 */
    ACCEPT_KEY_BYTES = 28,              /* base64 of 20 bytes */
};

/* ---- accept key ------------------------------------------------------------------------------ */

static inline uint32_t rotate_left(uint32_t word, int bits)
{
    return word << bits | word >> (32 - bits);
}

static inline void sha1_block(uint32_t state[5], const uint8_t block[64])
{
    uint32_t w[80];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16
             | (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    for (int i = 16; i < 80; i++)
        w[i] = rotate_left(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
    for (int i = 0; i < 80; i++) {
        uint32_t f, k;
        if (i < 20) { f = (b & c) | (~b & d); k = 0x5A827999; }
        else if (i < 40) { f = b ^ c ^ d; k = 0x6ED9EBA1; }
        else if (i < 60) { f = (b & c) | (b & d) | (c & d); k = 0x8F1BBCDC; }
        else { f = b ^ c ^ d; k = 0xCA62C1D6; }
        uint32_t next = rotate_left(a, 5) + f + e + k + w[i];
        e = d; d = c; c = rotate_left(b, 30); b = a; a = next;
    }
    state[0] += a; state[1] += b; state[2] += c; state[3] += d; state[4] += e;
}

/* SHA-1 of at most 119 bytes: two blocks hold a key (24) and the GUID (36) with room to spare. */
static inline void sha1_short(const void *text, size_t len, uint8_t digest[20])
{
    uint8_t block[128] = {0};
    uint32_t state[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    size_t blocks = len < 56 ? 1 : 2;
    memcpy(block, text, len);
    block[len] = 0x80;
    for (int i = 0; i < 8; i++)
        block[64 * blocks - 1 - (size_t)i] = (uint8_t)((uint64_t)len * 8 >> (8 * i));
    for (size_t i = 0; i < blocks; i++)
        sha1_block(state, block + 64 * i);
    for (int i = 0; i < 20; i++)
        digest[i] = (uint8_t)(state[i / 4] >> (24 - 8 * (i % 4)));
}

/* `out` holds 4 * ceil(len / 3) characters; no NUL is written. */
static inline void base64_encode(const uint8_t *bytes, size_t len, char *out)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < len; i += 3) {
        uint32_t group = (uint32_t)bytes[i] << 16
                       | (i + 1 < len ? (uint32_t)bytes[i + 1] << 8 : 0)
                       | (i + 2 < len ? bytes[i + 2] : 0);
        *out++ = digits[group >> 18];
        *out++ = digits[group >> 12 & 63];
        *out++ = i + 1 < len ? digits[group >> 6 & 63] : '=';
        *out++ = i + 2 < len ? digits[group & 63] : '=';
    }
}

/* `key` may be any header value of at most 64 characters: longer ones are refused (false). */
static inline bool accept_key(const char *key, size_t key_len, char out[ACCEPT_KEY_BYTES])
{
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    char text[64 + sizeof guid];
    uint8_t digest[20];
    if (key_len > 64)
        return false;
    memcpy(text, key, key_len);
    memcpy(text + key_len, guid, sizeof guid - 1);
    sha1_short(text, key_len + sizeof guid - 1, digest);
    base64_encode(digest, sizeof digest, out);
    return true;
}

/* ---- request and response heads ---------------------------------------------------------------- */

/* Length of the head with its empty line, or 0 while it is incomplete. */
static inline size_t head_length(const char *buf, size_t len)
{
    const char *end = memmem(buf, len, "\r\n\r\n", 4);
    return end ? (size_t)(end - buf) + 4 : 0;
}

/* The value of a header, without surrounding blanks. NULL if the head has none of that name. */
static inline const char *find_header(const char *head, size_t head_len, const char *name, size_t *value_len)
{
    size_t name_len = strlen(name);
    const char *end = head + head_len;
    const char *line = memchr(head, '\n', head_len);
    while (line && ++line < end) {
        const char *line_end = memchr(line, '\r', (size_t)(end - line));
        if (!line_end)
            return NULL;
        if ((size_t)(line_end - line) > name_len && line[name_len] == ':'
            && !strncasecmp(line, name, name_len)) {
            const char *value = line + name_len + 1;
            while (value < line_end && (*value == ' ' || *value == '\t'))
                value++;
            while (line_end > value && (line_end[-1] == ' ' || line_end[-1] == '\t'))
                line_end--;
            *value_len = (size_t)(line_end - value);
            return value;
        }
        line = memchr(line, '\n', (size_t)(end - line));
    }
    return NULL;
}

/* ---- frames ---------------------------------------------------------------------------------- */

struct frame {
    uint8_t opcode;
    bool is_final;
    bool is_masked;
    bool has_rsv;
    uint8_t mask[4];
    size_t header_bytes;
    uint64_t payload_bytes;
};

/* Reads a frame's header. False: `len` bytes do not hold the whole header yet. */
static inline bool read_frame_header(const uint8_t *buf, size_t len, struct frame *frame)
{
    if (len < 2)
        return false;
    uint8_t short_len = buf[1] & 0x7F;
    size_t length_bytes = short_len == 127 ? 8 : short_len == 126 ? 2 : 0;
    frame->opcode = buf[0] & 0x0F;
    frame->is_final = buf[0] & FRAME_FIN;
    frame->has_rsv = buf[0] & FRAME_RSV;
    frame->is_masked = buf[1] & FRAME_MASKED;
    frame->header_bytes = 2 + length_bytes + (frame->is_masked ? 4 : 0);
    if (len < frame->header_bytes)
        return false;
    frame->payload_bytes = length_bytes ? 0 : short_len;
    for (size_t i = 0; i < length_bytes; i++)
        frame->payload_bytes = frame->payload_bytes << 8 | buf[2 + i];
    if (frame->is_masked)
        memcpy(frame->mask, buf + 2 + length_bytes, 4);
    return true;
}

/* Writes a header with FIN=1, unmasked unless `mask` is given; returns its length. */
static inline size_t write_frame_header(uint8_t *out, uint8_t opcode, uint64_t payload_bytes, const uint8_t *mask)
{
    size_t at = 2;
    out[0] = FRAME_FIN | opcode;
    if (payload_bytes < 126) {
        out[1] = (uint8_t)payload_bytes;
    } else {
        int length_bytes = payload_bytes <= 0xFFFF ? 2 : 8;
        out[1] = length_bytes == 2 ? 126 : 127;
        for (int i = length_bytes - 1; i >= 0; i--)
            out[at++] = (uint8_t)(payload_bytes >> (8 * i));
    }
    if (mask) {
        out[1] |= FRAME_MASKED;
        memcpy(out + at, mask, 4);
        at += 4;
    }
    return at;
}

/* Masking and unmasking are the same operation (section 5.3). `out` may be `in`. */
static inline void apply_mask(uint8_t *out, const uint8_t *in, size_t len, const uint8_t mask[4])
{
    uint64_t wide, word;
    size_t i = 0;
    for (int j = 0; j < 8; j++)
        ((uint8_t *)&wide)[j] = mask[j & 3];
    for (; i + 8 <= len; i += 8) {
        memcpy(&word, in + i, 8);
        word ^= wide;
        memcpy(out + i, &word, 8);
    }
    for (; i < len; i++)
        out[i] = in[i] ^ mask[i & 3];
}

#endif
