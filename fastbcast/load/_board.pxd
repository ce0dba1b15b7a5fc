from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    # Buckets of a histogram: exact below 256 ns, then 128 to each power of two (0.8 %), to 4,398 s. It is the
    # layout of an HdrHistogram of two significant digits.
    HISTOGRAM_BUCKETS = 4608


cdef struct Histogram:
    uint64_t counts[HISTOGRAM_BUCKETS]


cdef struct Counts:
    uint64_t opened                 # handshakes that were answered with 101; those of the churn included
    uint64_t open                   # subscribers that are connected now
    uint64_t refused                # handshakes that were not
    uint64_t lost                   # connections that the server ended, but for slow ones
    uint64_t lost_slow              # of those, too: what a server's policy may do
    uint64_t published              # messages
    uint64_t received               # messages, each counted once for each subscriber that has it
    uint64_t measured               # of them, those of the measured window; slow subscribers' are not in it
    uint64_t payload_bytes          # of those measured
    uint64_t wire_bytes             # everything that subscribers read after the handshakes
    uint64_t plain_bytes            # what the messages in it would be if they were not compressed, with their headers
    uint64_t reads                  # recv calls of subscribers that read all they can, in the window
    uint64_t frames                 # data frames in them
    uint64_t missing                # of subscribers that read all they can: passed over and not come since
    uint64_t skipped                # the same of slow ones: what a server's policy may do
    uint64_t doubled
    uint64_t reordered
    uint64_t corrupt
    uint64_t compressed             # messages that came with RSV1
    uint64_t last_read_ns           # when a subscriber last got something
    uint64_t cpu_ns                 # the process's own user and system time
    uint64_t window_cpu_ns          # of it, in the window
    uint64_t ready                  # 1: its share of the clients is connected


cdef struct Tally:
    # What one process has seen; written by it alone, read by all.
    Counts counts
    Histogram handshake
    Histogram churn_handshake       # of the clients that came in the window
    Histogram delivery              # intended time of a message -> read by one subscriber
    Histogram slow_delivery         # the same for slow subscribers
    Histogram completion            # intended time -> read by the last subscriber; first process only
    Histogram spread                # first subscriber -> last subscriber; first process only


cdef struct Shared:
    # Written by the first process.
    uint64_t phase
    uint64_t write_off_count        # how often what is under way was given up
    uint64_t window_start_ns
    uint64_t window_end_ns
    # Written by whoever asks for an early end.
    uint64_t is_stopping


cdef class Board:
    # Set once.
    cdef object memory              # the mmap
    cdef readonly uint32_t processes, streams
    cdef readonly uint64_t run_id   # goes into each message: one of another run is not ours
    cdef readonly uint64_t slots    # messages of a stream that may be under way; a power of two
    cdef Shared* shared
    cdef Tally* tallies             # [process]
    cdef uint64_t* sent             # [stream]: messages so far, written by the first process
    cdef uint64_t* measured_from    # [stream]: the first message of the window, written by the first process
    cdef uint64_t* first            # [process][stream]: below it, one subscriber at least has it
    cdef uint64_t* settled          # [process][stream]: below it, settled for every subscriber there
    # [process][stream][seq & (slots - 1)], valid below `settled`: when the first and the last subscriber of that
    # process got it. 0: nobody did, or (last) not everybody.
    cdef uint64_t* first_ns
    cdef uint64_t* last_ns

    cdef Tally* _tally(self, uint32_t process) except NULL


cdef extern from *:
    """
    #define fastbcast_load_acquire(address) __atomic_load_n(address, __ATOMIC_ACQUIRE)
    #define fastbcast_store_release(address, value) __atomic_store_n(address, value, __ATOMIC_RELEASE)

    static inline unsigned fastbcast_bucket_of(unsigned long long value_ns) {
        int shift = 56 - __builtin_clzll(value_ns | 255);
        return shift > 34 ? 4607 : (unsigned)(shift * 128 + (value_ns >> shift));
    }
    """
    # Other processes' words: what was written before the release is seen after the acquire.
    uint64_t load_acquire "fastbcast_load_acquire" (const uint64_t* address) noexcept nogil
    void store_release "fastbcast_store_release" (uint64_t* address, uint64_t value) noexcept nogil
    uint32_t bucket_of "fastbcast_bucket_of" (uint64_t value_ns) noexcept nogil


cdef inline void record(Histogram* histogram, uint64_t value_ns) noexcept nogil:
    histogram.counts[bucket_of(value_ns)] += 1
