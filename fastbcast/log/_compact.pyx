"""The compact log of a conflating channel: of each key only the newest message, in the order of publishing.

    published    A1  B2  A3  -4  B5  A6  -7           (- is a message without a key)
    kept                     -4  B5  A6  -7           what a subscriber that has nothing since 0 is sent

Whoever is behind on a conflating channel reads from here instead of from the channel's log, and so costs
neither of them more than a position. What it has not got and does not find here was superseded (conflated)
or, if it had no key, dropped at its bound (skipped).

Invariants (`check_invariants` asserts them)

1. Entries are sorted by seq. `seqs` names exactly the live ones that have a key, one each.
2. At most max_keys keys, and max_snapshot_bytes of their frames, keys and entries: `admit` raises KeysFull before
   anything is changed. What a slow client does never makes it raise.
3. Less than half of the entries are dead, or there are fewer than MIN_ENTRIES and one is alive. Empty, it holds
   no memory but its object and its dict.
4. A frame that a Transport may be given a view of is in a Segment: when it is superseded while there are views, it
   counts as pinned until the last one is released.
5. Counting by subtraction is exact: of the messages a subscriber passes over, those without a key that it
   was not sent were skipped, the others conflated.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.unicode cimport PyUnicode_KIND
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from fastbcast._clock cimport coarse_ns
from fastbcast.log._log cimport COPIED_REST_BYTES, Ledger, Segment, iovec

from fastbcast.exceptions import KeysFull

cdef enum:
    MIN_ENTRIES = 16
    # What a message costs beside its frame: an Entry, and what the bytes object or Segment itself takes.
    ENTRY_BYTES = 96


cdef object shareable(bytes frame):
    """Return what a compact log may keep: `frame`, or a Segment with its bytes if views of it must be counted."""
    cdef Segment segment
    if PyBytes_GET_SIZE(frame) <= COPIED_REST_BYTES:
        return frame
    segment = Segment(PyBytes_GET_SIZE(frame))
    memcpy(segment.data, PyBytes_AS_STRING(frame), segment.capacity)
    return segment


cdef iovec bytes_of(PyObject* frame) noexcept:
    """Return where the bytes of a frame are."""
    cdef iovec found
    if type(<object>frame) is Segment:
        found.iov_base = (<Segment>frame).data
        found.iov_len = (<Segment>frame).capacity
    else:
        found.iov_base = PyBytes_AS_STRING(<object>frame)
        found.iov_len = PyBytes_GET_SIZE(<object>frame)
    return found


cdef Py_ssize_t cost(PyObject* frame) noexcept:
    return <Py_ssize_t>bytes_of(frame).iov_len + ENTRY_BYTES


cdef Py_ssize_t key_len(object key) except -1:
    """Return what a key takes; TypeError unless it is a str, bytes or int (whose hash runs no user code)."""
    if type(key) is str:
        return len(key) * PyUnicode_KIND(key)
    if type(key) is bytes:
        return len(key)
    if type(key) is int:
        return 1 + key.bit_length() // 8
    raise TypeError(f"a key must be str, bytes or int, got {type(key).__name__}")


def measure_key(key):
    """Return what `key` takes in bytes; TypeError if it cannot be one."""
    return key_len(key)


@cython.no_gc_clear    # __dealloc__ needs the ledger
cdef class CompactLog:
    """The newest message of every key, and messages without a key up to a bound."""

    def __cinit__(self, Ledger ledger not None, *, Py_ssize_t max_keys, Py_ssize_t max_snapshot_bytes):
        self.ledger = ledger
        self.max_keys = max_keys
        self.max_snapshot_bytes = max_snapshot_bytes
        self.seqs = {}

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.count):
            if self.entries[i].frame != NULL:
                self._kill(i)
        self._account(-self.keyed_bytes, 0)     # the keys
        free(self.entries)

    @property
    def keys(self):
        """How many keys there are."""
        return len(self.seqs)

    cdef int admit(self, object key, Py_ssize_t frame_bytes) except -1:
        """Make room for one message, or raise: KeysFull, TypeError, MemoryError; then nothing has changed."""
        cdef Py_ssize_t grown_bytes
        cdef object seq
        if key is not None:
            grown_bytes = frame_bytes + ENTRY_BYTES
            seq = self.seqs.get(key)
            if seq is None:
                grown_bytes += key_len(key)
            else:
                grown_bytes -= cost(self.entries[self.find(seq)].frame)
            if self.keyed_bytes + grown_bytes > self.max_snapshot_bytes or (
                seq is None and len(self.seqs) >= self.max_keys
            ):
                raise KeysFull(len(self.seqs), self.max_keys, self.keyed_bytes + grown_bytes, self.max_snapshot_bytes)
            if grown_bytes > 0 and self.ledger.keyed_bytes + grown_bytes > self.ledger.max_keyed_bytes:
                raise KeysFull(
                    len(self.seqs), self.max_keys, self.ledger.keyed_bytes + grown_bytes, self.ledger.max_keyed_bytes
                )
        if self.count == self.capacity:
            self._grow()
        return 0

    cdef int add(self, uint64_t seq, uint64_t end, object key, object frame) except -1:
        """Add what `admit` has admitted, made `shareable`: message `seq`, which ends at offset `end` of the log."""
        cdef Py_ssize_t kept_bytes = cost(<PyObject*>frame)
        cdef object superseded = None
        if key is None:
            self.keyless += 1
            self._account(0, kept_bytes)
        else:
            superseded = self.seqs.get(key)
            self.seqs[key] = seq
            self._account(kept_bytes + (key_len(key) if superseded is None else 0), 0)
        Py_INCREF(frame)
        self.entries[self.count] = Entry(seq, end, self.keyless, coarse_ns(), <PyObject*>frame, NULL, 0, key is not None)
        self.count += 1
        if superseded is not None:
            self._kill(self.find(superseded))
        self._tidy()
        return 0

    cdef bint has_room_for_deflated(self, Py_ssize_t frame_bytes) noexcept:
        """Whether a compressed form may be kept: together with the newest of keys, of which nobody can be relieved."""
        cdef Ledger ledger = self.ledger
        return frame_bytes <= ledger.max_keyed_bytes - ledger.keyed_bytes - ledger.deflated_bytes

    cdef int keep_deflated(self, uint32_t index, bytes frame) except -1:
        """Keep the compressed form of a live message, or None if it is not shorter, for as long as the message."""
        cdef object kept = None if frame is None else shareable(frame)
        Py_INCREF(kept)
        self.entries[index].deflated = <PyObject*>kept
        self._account_deflated(kept, 1)
        return 0

    cdef int _account_deflated(self, object kept, int sign) noexcept:
        cdef Py_ssize_t size = 0 if kept is None else sign * <Py_ssize_t>bytes_of(<PyObject*>kept).iov_len
        self.deflated_bytes += size
        self.ledger.deflated_bytes += size
        self.ledger.log_bytes += size
        return 0

    cdef int _release(self, PyObject* frame) noexcept:
        if type(<object>frame) is Segment:
            (<Segment>frame).drop(self.ledger)
        Py_DECREF(<object>frame)
        return 0

    cdef int _kill(self, uint32_t index) noexcept:
        cdef Entry* entry = &self.entries[index]
        if entry.has_key:
            self._account(-cost(entry.frame), 0)
        else:
            self._account(0, -cost(entry.frame))
        self._release(entry.frame)
        entry.frame = NULL
        if entry.deflated != NULL:
            self._account_deflated(<object>entry.deflated, -1)
            self._release(entry.deflated)
            entry.deflated = NULL
        entry.next = index + 1
        self.dead += 1
        return 0

    cdef int _account(self, Py_ssize_t keyed_bytes, Py_ssize_t keyless_bytes) noexcept:
        self.keyed_bytes += keyed_bytes
        self.keyless_bytes += keyless_bytes
        self.ledger.keyed_bytes += keyed_bytes
        self.ledger.log_bytes += keyed_bytes + keyless_bytes
        return 0

    cdef int _grow(self) except -1:
        cdef uint32_t wanted = max(<uint32_t>MIN_ENTRIES, 2 * self.capacity)
        cdef Entry* entries = <Entry*>realloc(self.entries, wanted * sizeof(Entry))
        if entries == NULL:
            raise MemoryError("no memory for a channel's keys")
        self.entries = entries
        self.capacity = wanted
        return 0

    cdef int _tidy(self) noexcept:
        """Leave out the dead if they are many, and give back the memory: indexes change."""
        cdef Entry* entries
        cdef uint32_t wanted
        cdef uint32_t i
        cdef uint32_t live = 0
        if 2 * self.dead < self.count or (self.count < MIN_ENTRIES and self.dead < self.count):
            return 0
        for i in range(self.count):
            if self.entries[i].frame != NULL:
                self.entries[live] = self.entries[i]
                live += 1
        self.count = live
        self.dead = 0
        if live == 0:
            free(self.entries)
            self.entries = NULL
            self.capacity = 0
            return 0
        wanted = max(<uint32_t>MIN_ENTRIES, 2 * live)
        if wanted <= self.capacity // 2:
            entries = <Entry*>realloc(self.entries, wanted * sizeof(Entry))
            if entries != NULL:
                self.entries = entries
                self.capacity = wanted
        return 0

    def forget(self, key):
        """Drop a key and its message; returns whether there was one. TypeError if `key` cannot be one."""
        cdef Py_ssize_t key_bytes = key_len(key)
        cdef object seq = self.seqs.pop(key, None)
        if seq is None:
            return False
        self._kill(self.find(seq))
        self._account(-key_bytes, 0)
        self._tidy()
        return True

    cdef int drop_keyless(self, uint64_t before_seq, Py_ssize_t kept_bytes) noexcept:
        """Drop messages without a key, the oldest first, before `before_seq`, until `kept_bytes` of them are left."""
        cdef Entry* entry
        cdef uint32_t i
        if self.keyless_bytes <= kept_bytes:
            return 0
        i = self.find(self.keyless_from)
        while i < self.count and self.keyless_bytes > kept_bytes:
            entry = &self.entries[i]
            if entry.seq >= before_seq:
                break
            if entry.frame != NULL and not entry.has_key:
                self._kill(i)
            self.keyless_from = entry.seq + 1
            i += 1
        self._tidy()
        return 0

    cdef uint32_t find(self, uint64_t seq) noexcept nogil:
        """Return the index of the first entry at or after `seq`; `count` if there is none."""
        cdef uint32_t low = 0
        cdef uint32_t high = self.count
        cdef uint32_t middle
        while low < high:
            middle = low + (high - low) // 2
            if self.entries[middle].seq < seq:
                low = middle + 1
            else:
                high = middle
        return low

    cdef uint32_t find_live(self, uint64_t seq) noexcept nogil:
        """Return the index of the first live entry at or after `seq`; `count` if there is none."""
        return self.live_from(self.find(seq))

    cdef uint32_t live_from(self, uint32_t start) noexcept nogil:
        """Return `start`, or the index of the first live entry after it; `count` if there is none."""
        cdef uint32_t live = start
        cdef uint32_t next
        while live < self.count and self.entries[live].frame == NULL:
            live = self.entries[live].next
        while start < live:     # who asks next does not walk: so asking is O(1), all in all
            next = self.entries[start].next
            self.entries[start].next = live
            start = next
        return live

    cdef bint holds(self, uint64_t seq) noexcept nogil:
        """Whether message `seq` is still to be had."""
        cdef uint32_t i = self.find(seq)
        return i < self.count and self.entries[i].seq == seq and self.entries[i].frame != NULL

    cdef uint64_t keyless_before(self, uint64_t seq) noexcept nogil:
        """Return how many messages without a key came before `seq`; none since has been dropped."""
        cdef uint32_t i = self.find(seq)
        if i == self.count:
            return self.keyless
        return self.entries[i].keyless - (not self.entries[i].has_key)

    cdef uint64_t oldest_ns(self, uint64_t seq) noexcept nogil:
        """Return when the oldest live message at or after `seq` was published; 0 if there is none."""
        cdef uint32_t i = self.find_live(seq)
        return self.entries[i].published_ns if i < self.count else 0

    # For tests and debug builds.

    def put(self, uint64_t seq, uint64_t end, key, bytes frame not None):
        """Admit and add a message."""
        self.admit(key, len(frame))
        self.add(seq, end, key, shareable(frame))

    def drop(self, uint64_t before_seq, Py_ssize_t kept_bytes):
        """Drop messages without a key."""
        self.drop_keyless(before_seq, kept_bytes)

    def read(self, uint64_t seq):
        """Return (seq, frame) of the live messages from `seq` on."""
        cdef uint32_t i = self.find_live(seq)
        cdef iovec frame
        cdef list found = []
        while i < self.count:
            frame = bytes_of(self.entries[i].frame)
            found.append((self.entries[i].seq, PyBytes_FromStringAndSize(<char*>frame.iov_base, frame.iov_len)))
            i = self.live_from(i + 1)
        return found

    def view(self, uint64_t seq):
        """Return a view of the first live message at or after `seq`."""
        return memoryview(<object>self.entries[self.find_live(seq)].frame)

    def check_invariants(self):
        """Assert invariants 1 to 4; slow."""
        cdef uint32_t i
        cdef uint32_t k
        cdef uint32_t dead = 0
        cdef Py_ssize_t keyless_bytes = 0
        cdef Py_ssize_t keyed_bytes = sum([key_len(key) for key in self.seqs])
        cdef set keyed = set()
        for i in range(self.count):
            assert i == 0 or self.entries[i - 1].seq < self.entries[i].seq
            if self.entries[i].frame == NULL:
                dead += 1
                assert i < self.entries[i].next <= self.count and self.entries[i].deflated == NULL
                for k in range(i, self.entries[i].next):
                    assert self.entries[k].frame == NULL
                continue
            assert cost(self.entries[i].frame) <= COPIED_REST_BYTES + ENTRY_BYTES \
                or type(<object>self.entries[i].frame) is Segment
            if self.entries[i].has_key:
                keyed.add(self.entries[i].seq)
                keyed_bytes += cost(self.entries[i].frame)
            else:
                assert self.entries[i].seq >= self.keyless_from
                keyless_bytes += cost(self.entries[i].frame)
        assert keyed == set(self.seqs.values()) and len(keyed) == len(self.seqs) <= self.max_keys
        assert (dead, keyed_bytes, keyless_bytes) == (self.dead, self.keyed_bytes, self.keyless_bytes)
        assert self.keyed_bytes <= self.max_snapshot_bytes
        assert 0 <= self.deflated_bytes <= self.keyed_bytes + self.keyless_bytes
        assert 2 * self.dead < self.count or self.dead < self.count < MIN_ENTRIES or self.count == 0
        assert self.capacity == 0 if self.count == 0 else self.count <= self.capacity
