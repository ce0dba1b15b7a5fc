"""What one subscriber has of one stream: all below `next_seq`, but for its gaps.

    0 ...... [gap) ... [gap) ... next_seq

Invariants

1. Gaps are in order, are not empty and lie below `next_seq`; there are at most MAX_GAPS.
2. A gap that was forgotten lies below `forgotten_seq`.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memmove

cdef enum:
    # Of one subscriber and stream. Past it the oldest gap is forgotten: its messages stay missing for good.
    MAX_GAPS = 1024


cdef void add_gap(Receipt* receipt, uint64_t start, uint64_t end) noexcept nogil:
    """Remember [start, end). Without memory for it, or past MAX_GAPS, the oldest is forgotten."""
    cdef uint32_t capacity
    cdef Gap* gaps
    if receipt.gap_count == receipt.gap_capacity and receipt.gap_capacity < MAX_GAPS:
        capacity = receipt.gap_capacity * 2 if receipt.gap_capacity else 4
        gaps = <Gap*>realloc(receipt.gaps, capacity * sizeof(Gap))
        if gaps != NULL:
            receipt.gaps = gaps
            receipt.gap_capacity = capacity
    if receipt.gap_count == receipt.gap_capacity:
        if receipt.gap_count == 0:
            receipt.forgotten_seq = end
            return
        forget_gap(receipt)
    receipt.gaps[receipt.gap_count].start = start
    receipt.gaps[receipt.gap_count].end = end
    receipt.gap_count += 1


cdef void forget_gap(Receipt* receipt) noexcept nogil:
    """Forget the oldest gap."""
    receipt.forgotten_seq = receipt.gaps[0].end
    receipt.gap_count -= 1
    memmove(receipt.gaps, receipt.gaps + 1, receipt.gap_count * sizeof(Gap))


cdef bint close_gap(Receipt* receipt, uint64_t seq) noexcept nogil:
    """True if `seq` had been passed over: it is taken out of its gap. The gaps stay in order."""
    cdef uint32_t i
    cdef uint64_t end
    for i in range(receipt.gap_count):
        if not receipt.gaps[i].start <= seq < receipt.gaps[i].end:
            continue
        end = receipt.gaps[i].end
        if receipt.gaps[i].start == seq:
            receipt.gaps[i].start += 1
        elif end == seq + 1:
            receipt.gaps[i].end -= 1
        else:
            if receipt.gap_count == receipt.gap_capacity:   # no room to split it: the older part is forgotten
                receipt.forgotten_seq = seq
                receipt.gaps[i].start = seq + 1
                return True
            memmove(receipt.gaps + i + 2, receipt.gaps + i + 1, (receipt.gap_count - i - 1) * sizeof(Gap))
            receipt.gap_count += 1
            receipt.gaps[i].end = seq
            receipt.gaps[i + 1].start = seq + 1
            receipt.gaps[i + 1].end = end
            return True
        if receipt.gaps[i].start == receipt.gaps[i].end:
            receipt.gap_count -= 1
            memmove(receipt.gaps + i, receipt.gaps + i + 1, (receipt.gap_count - i) * sizeof(Gap))
        return True
    return False
