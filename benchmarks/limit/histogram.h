/* histogram.h: a histogram of nanoseconds in logarithmic buckets, 32 to each power of two.
 *
 * A value costs one count-leading-zeros and one increment, and is known to 1/32 (3 %) afterwards;
 * the largest is kept exactly. Below 64 ns the buckets are exact, too.
 *
 *     value   0 .. 63      64 .. 127         128 .. 255        ...
 *     width   1            2                 4
 */
#ifndef FASTBCAST_BENCHMARKS_HISTOGRAM_H
#define FASTBCAST_BENCHMARKS_HISTOGRAM_H

#include <stdint.h>

enum { HISTOGRAM_BUCKETS = 60 * 32 };

struct histogram {
    uint64_t counts[HISTOGRAM_BUCKETS];
    uint64_t total;
    uint64_t max_ns;
};

static inline void histogram_add(struct histogram *histogram, uint64_t value_ns)
{
    int shift = value_ns < 32 ? 0 : 63 - __builtin_clzll(value_ns) - 5;
    histogram->counts[(uint64_t)shift * 32 + (value_ns >> shift)]++;
    histogram->total++;
    if (value_ns > histogram->max_ns)
        histogram->max_ns = value_ns;
}

/* Upper edge of the bucket that holds the given share of all values; 0 if there are none. */
static inline uint64_t histogram_quantile_ns(const struct histogram *histogram, double share)
{
    uint64_t rank = (uint64_t)(share * (double)histogram->total), seen = 0;
    for (uint64_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += histogram->counts[i];
        if (seen > rank) {
            uint64_t shift = i < 64 ? 0 : i / 32 - 1;
            uint64_t edge = ((i - shift * 32 + 1) << shift) - 1;
            return edge < histogram->max_ns ? edge : histogram->max_ns;
        }
    }
    return histogram->max_ns;
}

#endif
