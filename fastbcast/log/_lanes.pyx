"""A channel's messages in the forms that its subscribers have negotiated: a lane for each form.

    form              compressed by (`_deflater_of`)       read by clients that
    PLAIN             nothing                              negotiated no compression, or may not be sent another form
    DEFLATED          the hub's, each message alone        negotiated permessage-deflate
    DEFLATED_SMALL    the hub's, with its least window     negotiated permessage-deflate with a small window
    WINDOWED          the channel's window                 have had all of the window since it last began

A further form is a row here, a member of Form, and a case of `_deflater_of`, of `alone_form` or of whatever chooses it.

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
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GET_ITEM
from libc.stdint cimport uint8_t, uint64_t

from fastbcast._frames cimport Payload, frame_len, write_frame
from fastbcast.deflate._deflate cimport Compression, Deflater, Deflaters, can_compress
from fastbcast.log._log cimport DEFLATED_SMALL, FORM_COUNT, PLAIN, WINDOWED, Form, Lane, Log


@cython.no_gc    # nothing here can be part of a cycle, and __dealloc__ needs the deflaters
cdef class Lanes:
    """The logs of a channel, one for each form, and what fills them."""

    def __cinit__(self, Log plain not None, Deflaters deflaters not None, Compression compression):
        self.deflaters = deflaters
        self.compression = compression
        self.logs = (plain, *[
            Log(plain.ledger, <Form>form, plain.lane.next_seq) for form in range(PLAIN + 1, FORM_COUNT)
        ])

    def __dealloc__(self):
        self._close_window()

    cdef Log log_of(self, Form form):
        return <Log>PyTuple_GET_ITEM(self.logs, <Py_ssize_t>form)

    cdef Lane* lane_of(self, Form form) noexcept:
        return &(<Log>PyTuple_GET_ITEM(self.logs, <Py_ssize_t>form)).lane

    cdef Deflater _deflater_of(self, Form form, Py_ssize_t payload_bytes):
        """Return what compresses a message of this form that can be compressed; None: nothing does."""
        if form == WINDOWED:
            return self.window
        if form == PLAIN:
            return None
        return self.deflaters.get_alone(self.compression.level, payload_bytes, form == DEFLATED_SMALL)

    cdef uint64_t append(self, Payload* payload, bint is_plain_kept) except 0:
        """Put one message at the tail of each lane that has subscribers, and of the plain one if it `is_plain_kept`.

        Returns its seq.
        """
        cdef (PyObject*)[FORM_COUNT] deflaters      # borrowed: the hub keeps its own, and the channel its window
        cdef (uint8_t*)[FORM_COUNT] outs
        cdef bint is_compressible = can_compress(payload.len, self.compression.min_bytes)
        cdef Deflater deflater
        cdef Log log
        cdef int form
        # What may raise.
        try:
            for form in range(<int>FORM_COUNT):
                log = self.log_of(<Form>form)
                outs[form] = NULL
                if log.lane.subscribers or (form == PLAIN and is_plain_kept):
                    deflater = self._deflater_of(<Form>form, payload.len) if is_compressible else None
                    deflaters[form] = <PyObject*>deflater
                    outs[form] = reserve(log, payload, deflater)
        except MemoryError:
            for log in self.logs:
                log.release_reserved()
            raise
        # What may not.
        for form in range(<int>FORM_COUNT):
            log = self.log_of(<Form>form)
            if outs[form] == NULL:
                skip_unread(log)
            else:
                self._put(log, outs[form], payload, <Deflater>deflaters[form])
        self.messages_since_reset += 1
        return self.lane_of(PLAIN).next_seq - 1

    cdef int _put(self, Log log, uint8_t* out, Payload* payload, Deflater deflater) noexcept:
        """Write the message where `reserve` said, compressed if there is a `deflater`."""
        cdef Py_ssize_t plain_bytes = frame_len(payload.len)
        cdef Py_ssize_t size = plain_bytes
        cdef bint is_alone = log.lane.form != WINDOWED
        if deflater is not None:
            size = self.deflaters.write_frame(deflater, out, payload, is_alone)
        if deflater is None or (is_alone and size >= plain_bytes):
            write_frame(out, payload.opcode, payload.data, payload.len)
            size = plain_bytes
        log.commit(size)
        return 0

    cdef uint64_t skip(self) noexcept:
        """Number a message that nobody is there to get. Returns its seq."""
        cdef Log log
        for log in self.logs:
            skip_unread(log)
        return self.lane_of(PLAIN).next_seq - 1

    cdef bint begin_window(self) except -1:
        """Have the next message refer to nothing before it. Returns False if there is no room for a window."""
        if self.window is None:
            self.window = self.deflaters.open_window(self.compression.level, self.compression.window_bits)
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
        for log in self.logs:
            log.lane.needed_from = log.lane.tail
        return 0

    cdef int trim(self) except -1:
        """Forget what is before `needed_from` in each lane, and a window that nobody uses."""
        cdef Log log
        for log in self.logs:
            log.trim(log.lane.needed_from)
        if self.lane_of(WINDOWED).subscribers == 0:
            self._close_window()
        return 0

    cdef Py_ssize_t allocated_bytes(self) noexcept:
        """Return what all lanes take in memory."""
        cdef Log log
        cdef Py_ssize_t total_bytes = 0
        for log in self.logs:
            total_bytes += log.allocated_bytes
        return total_bytes

    cdef int _close_window(self) noexcept:
        if self.window is not None:
            self.deflaters.close_window(self.window)
            self.window = None
        return 0

    def check_invariants(self, subscribers):
        """Assert invariants 1 and 5, and those of the logs; `subscribers` (list of int) of each form. Slow."""
        cdef Log log
        for log in self.logs:
            log.check_invariants()
            assert log.lane.next_seq == self.lane_of(PLAIN).next_seq
            assert log.lane.subscribers == subscribers[log.lane.form]
        assert self.window is not None or self.lane_of(WINDOWED).subscribers == 0


cdef uint8_t* reserve(Log log, Payload* payload, Deflater deflater) except NULL:
    """Return where the message may be written, compressed if there is a `deflater`."""
    cdef Py_ssize_t wanted_bytes = frame_len(payload.len)
    if deflater is not None:
        wanted_bytes = max(wanted_bytes, deflater.bound(payload.len))
    return log.reserve(wanted_bytes)


cdef uint64_t skip_unread(Log log) noexcept:
    """Number a message that nobody reads in this form; what is left there nobody reads either."""
    log.trim(log.lane.tail)
    return log.skip()
