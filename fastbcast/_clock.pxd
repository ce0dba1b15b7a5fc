# Monotonic time in nanoseconds. A header only: there is no module of this name.

from libc.stdint cimport uint64_t


cdef extern from *:
    """
    #include <time.h>
    #ifdef CLOCK_MONOTONIC_COARSE
    #define FASTBCAST_COARSE_CLOCK CLOCK_MONOTONIC_COARSE       /* Linux: the kernel's last tick */
    #else
    #define FASTBCAST_COARSE_CLOCK CLOCK_MONOTONIC
    #endif
    static inline unsigned long long fastbcast_read_clock(clockid_t clock) {
        struct timespec now;
        clock_gettime(clock, &now);
        return (unsigned long long)now.tv_sec * 1000000000ull + (unsigned long long)now.tv_nsec;
    }
    #define fastbcast_now_ns() fastbcast_read_clock(CLOCK_MONOTONIC)
    #define fastbcast_coarse_ns() fastbcast_read_clock(FASTBCAST_COARSE_CLOCK)
    """
    # Exact; some 25 ns.
    uint64_t now_ns "fastbcast_now_ns" () noexcept nogil
    # Up to 10 ms behind `now_ns`, never ahead of it; some 5 ns. For ages and limits of many milliseconds.
    uint64_t coarse_ns "fastbcast_coarse_ns" () noexcept nogil
