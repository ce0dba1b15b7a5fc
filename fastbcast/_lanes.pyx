"""A channel's messages in the forms that its subscribers have negotiated: a lane for each form.

    message --+-> plain                                       who has negotiated nothing, or may not be sent this
              +-> deflated, deflated_small    alone           whoever has negotiated permessage-deflate
              `-> windowed                    one window      those that have had all of it since it last began anew

Invariants

1. A message has the same seq in all lanes. What nobody reads is numbered and not made: a lane without subscribers
   compresses nothing; and a message is compressed once for all of a lane's.
2. What raises has appended to no lane: memory is reserved in all of them first, and nothing after that can fail.
3. The window is built of the frames in its lane that are compressed (RSV1=1), and of nothing else; what goes there
   uncompressed (too small) was not shown to the compressor, and what was shown to it goes out compressed, even if that
   is longer.
4. A message alone goes out as it is where compressing does not make it shorter.
5. There is a window only while its lane has subscribers.
"""

cimport cython
from libc.stdint cimport uint8_t, uint64_t

from fastbcast._deflate cimport Deflater, Deflaters, can_compress
from fastbcast._frames cimport Payload, frame_len, write_frame
from fastbcast._log cimport DEFLATED, DEFLATED_SMALL, WINDOWED, Log
from fastbcast._policy cimport Policy


@cython.no_gc    # nothing here can be part of a cycle, and __dealloc__ needs the deflaters
cdef class Lanes:
    """The logs of a channel, one for each form, and what fills them."""

    def __cinit__(self, Log plain not None, Policy policy not None, Deflaters deflaters not None):
        self.plain = plain
        self.policy = policy
        self.deflaters = deflaters
        self.deflated = Log(plain.ledger, DEFLATED, plain.lane.next_seq)
        self.deflated_small = Log(plain.ledger, DEFLATED_SMALL, plain.lane.next_seq)
        self.windowed = Log(plain.ledger, WINDOWED, plain.lane.next_seq)

    def __dealloc__(self):
        self._close_window()

    cdef uint64_t append(self, Payload* payload, bint is_plain_kept) except 0:
        """Put one message at the tail of each lane that has subscribers, and of the plain one if it `is_plain_kept`.

        Returns its seq.
        """
        cdef Log log
        cdef Deflater alone = None
        cdef Deflater small = None
        cdef Deflater window = None
        cdef uint8_t* alone_out
        cdef uint8_t* small_out
        cdef uint8_t* windowed_out
        is_plain_kept = is_plain_kept or self.plain.lane.subscribers != 0
        if can_compress(payload.len, self.policy.compress_min_bytes):
            if self.deflated.lane.subscribers:
                alone = self.deflaters.get_alone(self.policy.compression_level, payload.len, False)
            if self.deflated_small.lane.subscribers:
                small = self.deflaters.get_alone(self.policy.compression_level, payload.len, True)
            window = self.window
        # What may raise.
        try:
            if is_plain_kept:
                self.plain.reserve(frame_len(payload.len))
            alone_out = reserve(self.deflated, payload, alone)
            small_out = reserve(self.deflated_small, payload, small)
            windowed_out = reserve(self.windowed, payload, window)
        except MemoryError:
            for log in self._logs():
                log.release_reserved()
            raise
        # What may not.
        self._put(self.deflated, alone_out, payload, alone)
        self._put(self.deflated_small, small_out, payload, small)
        self._put(self.windowed, windowed_out, payload, window)
        self.messages_since_reset += 1
        return self.plain.append(payload) if is_plain_kept else skip_unread(self.plain)

    cdef int _put(self, Log log, uint8_t* out, Payload* payload, Deflater deflater) noexcept:
        """Write the message where `reserve` said, compressed if there is a `deflater`."""
        cdef Py_ssize_t plain_bytes = frame_len(payload.len)
        cdef Py_ssize_t size = plain_bytes
        cdef bint is_alone = log is not self.windowed
        if out == NULL:
            skip_unread(log)
            return 0
        if deflater is not None:
            size = self.deflaters.write_frame(deflater, out, payload, is_alone)
        if deflater is None or (is_alone and size >= plain_bytes):
            write_frame(out, payload.opcode, payload.data, payload.len)
            size = plain_bytes
        log.commit(size)
        return 0

    cdef uint64_t skip(self) noexcept:
        """Number a message that nobody is there to get. Returns its seq."""
        skip_unread(self.deflated)
        skip_unread(self.deflated_small)
        skip_unread(self.windowed)
        return skip_unread(self.plain)

    cdef bint begin_window(self) except -1:
        """Have the next message refer to nothing before it. Returns False if there is no room for a window."""
        if self.window is None:
            self.window = self.deflaters.open_window(self.policy.compression_level, self.policy.window_bits)
            if self.window is None:
                return False
        else:
            self.window.reset()
        self.deflaters.resets += 1
        self.messages_since_reset = 0
        return True

    cdef int begin_trim(self) noexcept:
        """Assume that nobody needs anything, in `needed_from` of each lane."""
        cdef Log log
        for log in self._logs():
            log.lane.needed_from = log.lane.tail
        return 0

    cdef int trim(self) except -1:
        """Forget what is before `needed_from` in each lane, and a window that nobody uses."""
        cdef Log log
        for log in self._logs():
            log.trim(log.lane.needed_from)
        if self.windowed.lane.subscribers == 0:
            self._close_window()
        return 0

    cdef Py_ssize_t allocated_bytes(self) noexcept:
        """Return what all lanes take in memory."""
        return self.plain.allocated_bytes + self.deflated.allocated_bytes \
            + self.deflated_small.allocated_bytes + self.windowed.allocated_bytes

    cdef tuple _logs(self):
        return self.plain, self.deflated, self.deflated_small, self.windowed

    cdef int _close_window(self) noexcept:
        if self.window is not None:
            self.deflaters.close_window(self.window)
            self.window = None
        return 0

    def check_invariants(self, subscribers):
        """Assert invariants 1 and 5, and those of the logs; `subscribers` (list of int) of each form. Slow."""
        cdef Log log
        for log in self._logs():
            log.check_invariants()
            assert log.lane.next_seq == self.plain.lane.next_seq
            assert log.lane.subscribers == subscribers[log.lane.form]
        assert self.window is not None or self.windowed.lane.subscribers == 0


cdef uint8_t* reserve(Log log, Payload* payload, Deflater deflater) except? NULL:
    """Return where the message may be written, compressed if there is a `deflater`; NULL in a lane without subscribers."""
    cdef Py_ssize_t wanted_bytes = frame_len(payload.len)
    if log.lane.subscribers == 0:
        return NULL
    if deflater is not None:
        wanted_bytes = max(wanted_bytes, deflater.bound(payload.len))
    return log.reserve(wanted_bytes)


cdef uint64_t skip_unread(Log log) noexcept:
    """Number a message that nobody reads in this form; what is left there nobody reads either."""
    log.trim(log.lane.tail)
    return log.skip()
