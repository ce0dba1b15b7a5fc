/* ledger.h: what was published, and what each subscriber has of it.
 *
 * A message's payload is
 *
 *     | seq: 16 hex digits | intended time, ns: 16 hex digits | filler: a fixed pattern ... |
 *     '-------------- stamp (32 bytes) ----------------------'
 *
 * One `struct message` (64 bytes) per message published, one `struct receipt` per
 * subscriber. The usual frame is the next one in order: two memcmp and two increments. All else
 * (gaps, duplicates, late or damaged messages) takes the slow path and is counted.
 *
 *     receipts:   0 ...... next_seq          all messages below it were received, or are in `gaps`
 *     messages:   0 ... all_seq .... first_seq .... published
 *                        |             '-- below: at least one subscriber has it
 *                        '-- below: settled for every subscriber
 *
 * A message is SETTLED for a subscriber when that one has it or will never get it in order (it was
 * passed over, or the subscriber is gone). So a server that loses messages ends the run with a
 * count of the missing instead of a hang. Completion (from its time to the last subscriber) and spread (from
 * the first subscriber to the last) count only messages that nobody missed.
 */
#ifndef FASTBCAST_BENCHMARKS_LEDGER_H
#define FASTBCAST_BENCHMARKS_LEDGER_H

#include "histogram.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STAMP_BYTES = 32 };

struct message {
    char stamp[STAMP_BYTES];
    uint64_t intended_ns, first_ns; /* `first_ns`: read by its first subscriber */
    uint32_t settled, expected;     /* subscribers; `expected` is how many were open at publish */
    bool is_incomplete;             /* somebody missed it */
};

struct gap {
    uint64_t start, end;            /* [start, end) was passed over */
};

struct receipt {
    uint64_t next_seq;
    struct gap *gaps;
    uint32_t gap_count;
};

struct ledger {
    struct message *messages;
    uint64_t capacity;
    uint64_t published, first_seq, all_seq;
    uint64_t measured_from_seq;     /* below it: warm-up */
    uint32_t payload_bytes;
    char *filler;
    uint64_t received, measured_received, duplicated, reordered, corrupt;
    struct histogram delivery, completion, spread;
};

static inline void *allocate(void *old, size_t bytes)
{
    void *memory = realloc(old, bytes);
    if (!memory) {
        fprintf(stderr, "load: out of memory\n");
        exit(1);
    }
    return memory;
}

static inline void write_hex(char *out, uint64_t value)
{
    for (int i = 0; i < 16; i++)
        out[i] = "0123456789abcdef"[value >> (60 - 4 * i) & 15];
}

static inline void ledger_open(struct ledger *ledger, uint32_t payload_bytes, uint64_t warmup_messages)
{
    *ledger = (struct ledger){.payload_bytes = payload_bytes, .measured_from_seq = warmup_messages};
    ledger->filler = allocate(NULL, payload_bytes);
    for (uint32_t i = 0; i < payload_bytes; i++)
        ledger->filler[i] = (char)('a' + i % 26);
}

/* The message that is published next. The caller sends stamp and filler. */
static inline struct message *ledger_publish(struct ledger *ledger, uint64_t intended_ns, uint32_t subscribers)
{
    if (ledger->published == ledger->capacity) {
        ledger->capacity = ledger->capacity ? ledger->capacity * 2 : 4096;
        ledger->messages = allocate(ledger->messages, ledger->capacity * sizeof *ledger->messages);
    }
    struct message *message = &ledger->messages[ledger->published];
    *message = (struct message){.intended_ns = intended_ns, .expected = subscribers};
    write_hex(message->stamp, ledger->published++);
    write_hex(message->stamp + 16, intended_ns);
    return message;
}

static inline void settle(struct ledger *ledger, uint64_t seq, uint64_t read_ns)
{
    struct message *message = &ledger->messages[seq];
    if (++message->settled < message->expected)
        return;
    if (!message->is_incomplete && seq >= ledger->measured_from_seq) {
        histogram_add(&ledger->completion, read_ns - message->intended_ns);
        histogram_add(&ledger->spread, read_ns - message->first_ns);
    }
    while (ledger->all_seq < ledger->published
           && ledger->messages[ledger->all_seq].settled >= ledger->messages[ledger->all_seq].expected)
        ledger->all_seq++;
}

static inline void settle_missing(struct ledger *ledger, uint64_t start, uint64_t end, uint64_t read_ns)
{
    for (uint64_t seq = start; seq < end; seq++) {
        ledger->messages[seq].is_incomplete = true;
        settle(ledger, seq, read_ns);
    }
}

static inline void count_received(struct ledger *ledger, uint64_t seq, uint64_t read_ns)
{
    ledger->received++;
    if (seq >= ledger->measured_from_seq) {
        ledger->measured_received++;
        histogram_add(&ledger->delivery, read_ns - ledger->messages[seq].intended_ns);
    }
}

static inline void receive_next(struct ledger *ledger, struct receipt *receipt, uint64_t read_ns)
{
    uint64_t seq = receipt->next_seq++;
    count_received(ledger, seq, read_ns);
    if (receipt->next_seq > ledger->first_seq) {
        ledger->first_seq = receipt->next_seq;
        ledger->messages[seq].first_ns = read_ns;
    }
    settle(ledger, seq, read_ns);
}

/* True if `seq` was passed over earlier: it is taken out of its gap. */
static inline bool close_gap(struct receipt *receipt, uint64_t seq)
{
    for (uint32_t i = 0; i < receipt->gap_count; i++) {
        struct gap *gap = &receipt->gaps[i];
        if (seq < gap->start || seq >= gap->end)
            continue;
        struct gap rest = {seq + 1, gap->end};
        gap->end = seq;
        if (rest.start < rest.end) {
            receipt->gaps = allocate(receipt->gaps, (receipt->gap_count + 1) * sizeof *receipt->gaps);
            receipt->gaps[receipt->gap_count++] = rest;
        }
        return true;
    }
    return false;
}

static inline void receive_irregular(struct ledger *ledger, struct receipt *receipt, const char *payload,
                                     uint64_t read_ns)
{
    char digits[17] = {0};
    memcpy(digits, payload, 16);
    uint64_t seq = strtoull(digits, NULL, 16);
    if (seq >= ledger->published || memcmp(payload, ledger->messages[seq].stamp, STAMP_BYTES)
        || memcmp(payload + STAMP_BYTES, ledger->filler, ledger->payload_bytes - STAMP_BYTES)) {
        ledger->corrupt++;
    } else if (seq >= receipt->next_seq) {
        receipt->gaps = allocate(receipt->gaps, (receipt->gap_count + 1) * sizeof *receipt->gaps);
        receipt->gaps[receipt->gap_count++] = (struct gap){receipt->next_seq, seq};
        settle_missing(ledger, receipt->next_seq, seq, read_ns);
        receipt->next_seq = seq;
        receive_next(ledger, receipt, read_ns);
    } else if (close_gap(receipt, seq)) {
        ledger->reordered++;
        count_received(ledger, seq, read_ns);
    } else {
        ledger->duplicated++;
    }
}

/* One payload of `payload_bytes`, whatever it holds. */
static inline void ledger_receive(struct ledger *ledger, struct receipt *receipt, const char *payload,
                                  uint64_t read_ns)
{
    if (receipt->next_seq < ledger->published
        && !memcmp(payload, ledger->messages[receipt->next_seq].stamp, STAMP_BYTES)
        && !memcmp(payload + STAMP_BYTES, ledger->filler, ledger->payload_bytes - STAMP_BYTES))
        receive_next(ledger, receipt, read_ns);
    else
        receive_irregular(ledger, receipt, payload, read_ns);
}

/* The subscriber is gone: nothing that is under way will reach it. */
static inline void ledger_leave(struct ledger *ledger, struct receipt *receipt, uint64_t now)
{
    settle_missing(ledger, receipt->next_seq, ledger->published, now);
}

#endif
