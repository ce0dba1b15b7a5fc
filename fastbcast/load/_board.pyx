"""What the processes of a load run share: counts, histograms and how far each stream of messages has come.

One piece of anonymous memory, made before the processes are (fork): nobody sends anybody a message.

    Shared | Tally of process 0 | Tally of process 1 | ... | sent | measured_from | first | settled | times

Invariants

1. A word has one writer: its process, or the first one for what all share. So nothing is locked.
2. `settled` of a stream is stored (release) after the times of the messages below it, and never decreases.
3. The first process publishes no message `slots` or more after one that is not settled everywhere: its times are
   not written over before they are read.
"""

import mmap
import secrets

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

MAX_STREAMS = 65536
"""Streams are numbered by 4 hexadecimal digits in each message."""

MAX_SLOTS = 65536
MIN_SLOTS = 256
TOTAL_SLOTS = 262144
"""Messages that may be under way at once in all streams: some 20 MiB in each process. Past 1,024 streams it is more."""

HISTOGRAMS = ("handshake", "churn_handshake", "delivery", "slow_delivery", "completion", "spread")


def value_of(uint32_t bucket) -> int:
    """The least value in ns that is counted in `bucket`."""
    cdef uint32_t shift = 0 if bucket < 256 else bucket // 128 - 1
    return <uint64_t>(bucket - shift * 128) << shift


def find_bucket(uint64_t value_ns) -> int:
    """The bucket in which `value_ns` is counted."""
    return bucket_of(value_ns)


cdef class Board:
    """Shared memory for `processes` processes and `streams` streams; a stream is what one publisher sends."""

    def __cinit__(self, uint32_t processes, uint32_t streams):
        cdef uint32_t stream
        if not 1 <= streams <= MAX_STREAMS:
            raise ValueError(f"there may be 1 to {MAX_STREAMS} publishers, not {streams}")
        if processes < 1:
            raise ValueError("there must be a process")
        self.processes = processes
        self.streams = streams
        self.run_id = secrets.randbits(64)
        self.slots = MAX_SLOTS
        while self.slots > MIN_SLOTS and self.slots * streams > TOTAL_SLOTS:
            self.slots //= 2
        cdef uint64_t per_process = <uint64_t>processes * streams
        words = 2 * streams + 2 * per_process + 2 * per_process * self.slots
        self.memory = mmap.mmap(-1, sizeof(Shared) + processes * sizeof(Tally) + 8 * words)
        cdef unsigned char[::1] view = self.memory
        self.shared = <Shared*>&view[0]
        self.tallies = <Tally*>(self.shared + 1)
        self.sent = <uint64_t*>(self.tallies + processes)
        self.measured_from = self.sent + streams
        self.first = self.measured_from + streams
        self.settled = self.first + per_process
        self.first_ns = self.settled + per_process
        self.last_ns = self.first_ns + per_process * self.slots
        for stream in range(streams):
            self.measured_from[stream] = <uint64_t>-1

    @property
    def phase(self) -> int:
        return load_acquire(&self.shared.phase)

    @phase.setter
    def phase(self, uint64_t phase):
        store_release(&self.shared.phase, phase)

    @property
    def window_start_ns(self) -> int:
        return load_acquire(&self.shared.window_start_ns)

    @property
    def window_end_ns(self) -> int:
        return load_acquire(&self.shared.window_end_ns)

    @window_end_ns.setter
    def window_end_ns(self, uint64_t time_ns):
        store_release(&self.shared.window_end_ns, time_ns)

    @property
    def is_stopping(self) -> bool:
        return load_acquire(&self.shared.is_stopping) != 0

    def stop(self) -> None:
        """Ask for an early end: what was published by then is measured, and reported."""
        store_release(&self.shared.is_stopping, 1)

    @property
    def published(self) -> int:
        """Messages so far, of all streams."""
        cdef uint64_t total = 0, stream
        for stream in range(self.streams):
            total += self.sent[stream]
        return total

    @property
    def published_in_window(self) -> int:
        """Messages that are measured, of all streams."""
        cdef uint64_t total = 0, stream
        if self.shared.window_start_ns:
            for stream in range(self.streams):
                total += self.sent[stream] - self.measured_from[stream]
        return total

    def start_window(self, uint64_t time_ns) -> None:
        """What is published from now on is measured. First process; nothing may be under way."""
        cdef uint32_t stream
        for stream in range(self.streams):
            self.measured_from[stream] = self.sent[stream]
        store_release(&self.shared.window_start_ns, time_ns)

    def set_ready(self, uint32_t process) -> None:
        store_release(&self._tally(process).counts.ready, 1)

    def set_cpu(self, uint32_t process, uint64_t cpu_ns, uint64_t window_cpu_ns) -> None:
        """What the process itself has used, in all and in the window."""
        self._tally(process).counts.window_cpu_ns = window_cpu_ns
        store_release(&self._tally(process).counts.cpu_ns, cpu_ns)

    def write_off(self) -> None:
        """What is under way will not come: every process is to count it as missing. First process."""
        store_release(&self.shared.write_off_count, self.shared.write_off_count + 1)

    def read(self) -> dict:
        """The counts of all processes, by name; `last_read_ns` is the latest of them, `ready` how many are."""
        counts = {}
        cdef uint32_t process
        for process in range(self.processes):
            for name, value in (<dict>self.tallies[process].counts).items():
                counts[name] = max(counts.get(name, 0), value) if name == "last_read_ns" else counts.get(name, 0) + value
        return counts

    def read_histogram(self, str name) -> dict:
        """The counts of a histogram (one of HISTOGRAMS) over all processes: {least value in ns: count}."""
        cdef uint32_t at = HISTOGRAMS.index(name)
        cdef uint64_t sums[HISTOGRAM_BUCKETS]
        cdef uint64_t* counts
        cdef uint32_t process
        cdef int bucket
        memset(sums, 0, sizeof(sums))
        for process in range(self.processes):
            counts = (&self.tallies[process].handshake + at).counts
            for bucket in range(HISTOGRAM_BUCKETS):
                sums[bucket] += counts[bucket]
        found = {}
        for bucket in range(HISTOGRAM_BUCKETS):
            if sums[bucket]:
                found[value_of(bucket)] = sums[bucket]
        return found

    cdef Tally* _tally(self, uint32_t process) except NULL:
        if process >= self.processes:
            raise IndexError(f"there is no process {process}")
        return &self.tallies[process]
