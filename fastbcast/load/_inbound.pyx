"""What the clients read: bytes -> frames (RFC 6455) -> messages, which the Audit judges.

It must not be what is measured. One recv of up to 256 KiB for each socket that has something, one look at the
clock for each recv and not for each frame, and a frame that is the expected one costs two comparisons.

Invariants

1. A frame that straddles two reads is kept by its connection, and goes in front of the next read.
2. A message that came in fragments, or compressed, is judged as it would be if it had not.
3. Nothing that a server sends makes a connection hold more than `max_message_bytes`, one read, and MAX_UNSENT_PONGS.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy

from fastbcast._clock cimport now_ns
from fastbcast._frames cimport (
    MAX_CONTROL_PAYLOAD_BYTES,
    OPCODE_BINARY,
    OPCODE_CLOSE,
    OPCODE_CONTINUATION,
    OPCODE_PING,
    OPCODE_PONG,
    RSV1,
    frame_len,
)
from fastbcast.load._audit cimport PUBLISHER, SLOW, STEADY
from fastbcast.load._board cimport Board
from fastbcast.load._client_frames cimport Frame, read_header
from fastbcast.load._crowd cimport (
    ABNORMAL_CLOSURE,
    CONNECTING,
    EPOLLERR,
    EPOLLHUP,
    EPOLLIN,
    EPOLLOUT,
    EPOLLRDHUP,
    FREE,
    HANDSHAKING,
    MSG_DONTWAIT,
    NO_STATUS_RECEIVED,
    OPEN,
    Connection,
    Crowd,
)
from fastbcast.load._strand cimport (
    MAX_KEPT_BYTES,
    Follower,
    Strand,
    follow,
    new_strand,
    part,
    release_strand,
    unfollow,
    unpack,
)


cdef extern from "<sys/socket.h>" nogil:
    ssize_t recv(int fd, void* data, size_t len, int flags)


cdef class Inbound(Crowd):
    """The same Crowd, which reads; see there for the other arguments.

    With a `prefix` (bytes) nothing is published here: whatever the server sends is counted, and messages that do not
    begin with it count as corrupt.
    """

    def __cinit__(
        self, Board board not None, uint32_t process, uint32_t channels, uint64_t payload_bytes, uint32_t capacity,
        *rest, bytes prefix=None, **more,
    ):
        if not self._reserve(READ_BYTES):
            raise MemoryError
        self.has_prefix = prefix is not None
        # What is published says how long a message is. Some more, so that another one is corrupt and not the end.
        self.max_message_bytes = max(<uint64_t>READ_BYTES, payload_bytes) if prefix is None else MAX_MESSAGE_BYTES
        self.prefix = prefix or b""
        self.prefix_data = self.prefix
        self.prefix_bytes = len(self.prefix)

        self.newest = <Strand**>calloc(channels, sizeof(Strand*))
        if self.newest == NULL:
            raise MemoryError

    def __dealloc__(self):
        cdef uint32_t channel, number
        for number in range(self.top):
            if self.connections[number].state != FREE:
                unfollow(&self.connections[number].follower)
        for channel in range(self.channels if self.newest != NULL else 0):
            if self.newest[channel] != NULL:
                release_strand(self.newest[channel])
        free(self.newest)
        free(self.room.data)
        free(self.read_buf)

    @property
    def inflaters(self) -> int:
        """How many there are for what comes compressed, each of some 40 KiB."""
        cdef uint32_t number
        return len({
            <size_t>self.connections[number].follower.strand for number in range(self.top)
            if self.connections[number].state != FREE and self.connections[number].follower.strand != NULL
        })

    cdef void _free(self, Connection* connection) noexcept nogil:
        """The same; its inflater goes too."""
        if connection.state != FREE:
            unfollow(&connection.follower)
        Crowd._free(self, connection)

    cdef void _handle(self, Connection* connection, uint32_t events) noexcept nogil:
        """What epoll says of a connection. It may be gone afterwards."""
        if connection.state == FREE:    # ended since epoll said so
            return
        if connection.state == CONNECTING:
            self._send_request(connection)
        elif events & EPOLLOUT and not self._flush(connection):
            return
        elif events & EPOLLIN or (events & (EPOLLERR | EPOLLHUP) and connection.pace_ns == 0):
            self._read_all(connection, events & (EPOLLRDHUP | EPOLLERR | EPOLLHUP))
        elif events & (EPOLLERR | EPOLLHUP):
            self._lose(connection, ABNORMAL_CLOSURE)

    cdef void _read_all(self, Connection* connection, bint is_ended) noexcept nogil:
        """All there is, or a fair share of it; `is_ended`: the other side will send nothing more, so all."""
        cdef int reads = 0
        while self._read(connection, READ_BYTES) or (is_ended and connection.state != FREE):
            reads += 1
            if reads == READS_IN_A_ROW and not is_ended:
                self._watch_again(connection)
                return

    cdef void _read_slow(self, uint64_t now) noexcept nogil:
        """Let the slow subscribers read whose time has come."""
        cdef uint32_t i = self.slow_count
        cdef Connection* connection
        if now < self.next_read_ns:
            return
        self.next_read_ns = <uint64_t>-1
        while i:    # backwards: who ends gives its place to the last
            i -= 1
            connection = &self.connections[self.slow_numbers[i]]
            if now >= connection.next_read_ns:
                connection.next_read_ns = now + connection.pace_ns
                if connection.pace_bytes:
                    self._read(connection, connection.pace_bytes)
                else:
                    while self._read(connection, READ_BYTES):
                        pass
                if connection.state == FREE:
                    continue
            self.next_read_ns = min(self.next_read_ns, connection.next_read_ns)

    cdef bint _read(self, Connection* connection, size_t most_bytes) noexcept nogil:
        """One recv, and all whole frames in it. False: there is nothing more now, or the connection is gone.

        What is less than was asked for is all there was: epoll(7), "Questions and answers".
        """
        cdef size_t kept_bytes = connection.kept_bytes, len, taken = 0
        cdef ssize_t got
        cdef bint is_full
        cdef uint64_t read_ns
        cdef uint8_t* kept
        if not self._reserve(kept_bytes + most_bytes):
            self._lose(connection, ABNORMAL_CLOSURE)
            return False
        got = recv(connection.fd, self.read_buf + kept_bytes, most_bytes, MSG_DONTWAIT)
        if got <= 0:
            if got == 0 or (errno != EAGAIN and errno != EINTR):
                self._lose(connection, ABNORMAL_CLOSURE)
            return False
        read_ns = now_ns()
        is_full = <size_t>got == most_bytes
        if kept_bytes:
            memcpy(self.read_buf, connection.kept, kept_bytes)
        len = kept_bytes + <size_t>got
        if connection.state == HANDSHAKING:
            taken = self._take_response(connection, self.read_buf, len, read_ns)
            got = <ssize_t>(len - taken)    # the head may have begun in an earlier read
            if connection.state == OPEN and connection.has_deflate and connection.kind != PUBLISHER:
                self._begin_to_inflate(connection)
        if connection.state >= OPEN:
            if connection.kind != PUBLISHER:    # its own copies are no deliveries
                self.tally.counts.wire_bytes += got
            taken += self._take_frames(connection, self.read_buf + taken, len - taken, read_ns)
        if connection.state == FREE:
            return False
        len -= taken
        if len == 0:
            free(connection.kept)
            connection.kept = NULL
        elif len > kept_bytes:
            kept = <uint8_t*>realloc(connection.kept, len)
            if kept == NULL:
                self._lose(connection, ABNORMAL_CLOSURE)
                return False
            connection.kept = kept
        if len:
            memcpy(connection.kept, self.read_buf + taken, len)
        connection.kept_bytes = len
        return is_full

    cdef size_t _take_frames(
        self, Connection* connection, const uint8_t* data, size_t len, uint64_t read_ns
    ) noexcept nogil:
        """Take all whole frames; return how many bytes they are. The connection may be gone afterwards."""
        cdef size_t at = 0
        cdef Frame frame
        cdef int found
        cdef bint is_judged = connection.reader.receipts != NULL
        cdef uint64_t frames = 0
        while connection.state >= OPEN:
            found = read_header(data + at, len - at, &frame)
            if found == 0:
                break
            if found < 0 or frame.payload_bytes > self.max_message_bytes:
                self.tally.counts.corrupt += 1      # and what follows cannot be read
                self._lose(connection, ABNORMAL_CLOSURE)
                return len
            if len - at - frame.header_bytes < frame.payload_bytes:
                break
            at += frame.header_bytes
            if frame.opcode >= OPCODE_CLOSE and (
                frame.rsv or not frame.is_final or frame.payload_bytes > MAX_CONTROL_PAYLOAD_BYTES
            ):
                self.tally.counts.corrupt += 1
            elif frame.opcode >= OPCODE_CLOSE:
                self._take_control(connection, frame.opcode, data + at, frame.payload_bytes)
            elif connection.reader.receipts != NULL:
                frames += 1
                if frame.is_final and frame.rsv == 0 and frame.opcode and connection.message == NULL:
                    connection.message_opcode = frame.opcode
                    self._take_message(connection, 0, data + at, frame.payload_bytes, read_ns)
                else:
                    self._take_data(
                        connection, frame.opcode, frame.is_final, frame.rsv, data + at, frame.payload_bytes, read_ns
                    )
            at += frame.payload_bytes
        if is_judged and frames and connection.kind != SLOW:
            self.tally.counts.last_read_ns = read_ns
            if self.board.shared.window_start_ns:
                self.tally.counts.reads += 1
                self.tally.counts.frames += frames
        return at if connection.state != FREE else len

    cdef void _take_data(
        self, Connection* connection, uint8_t opcode, bint is_final, uint8_t rsv, const uint8_t* payload, size_t len,
        uint64_t read_ns
    ) noexcept nogil:
        """A data frame that is not a whole plain message: a fragment (section 5.4), a compressed one, or garbage."""
        cdef bint is_first = opcode != OPCODE_CONTINUATION
        cdef uint8_t* message
        if opcode > OPCODE_BINARY or is_first != (connection.message == NULL) or (rsv and not is_first):
            self.tally.counts.corrupt += 1
            return
        if is_first:
            connection.message_opcode = opcode
            connection.message_rsv = rsv
            if is_final:
                self._take_message(connection, rsv, payload, len, read_ns)
                return
        message = NULL
        if connection.message_bytes + len <= self.max_message_bytes:
            message = <uint8_t*>realloc(connection.message, connection.message_bytes + len + 1)
        if message == NULL:
            self.tally.counts.corrupt += 1
            self._lose(connection, ABNORMAL_CLOSURE)
            return
        connection.message = message
        memcpy(message + connection.message_bytes, payload, len)
        connection.message_bytes += len
        if is_final:
            self._take_message(connection, connection.message_rsv, message, connection.message_bytes, read_ns)
            free(connection.message)
            connection.message = NULL
            connection.message_bytes = 0

    cdef void _take_message(
        self, Connection* connection, uint8_t rsv, const uint8_t* payload, size_t len, uint64_t read_ns
    ) noexcept nogil:
        # No Python object here, not even in a branch: it would cost the GIL at the end of each call.
        cdef const uint8_t* inflated
        if rsv:
            if rsv != RSV1 or connection.follower.strand == NULL:
                self.tally.counts.corrupt += 1
                return
            self.tally.counts.compressed += 1
            inflated = unpack(&connection.follower, payload, len, self.max_message_bytes, &self.room, &len)
            if inflated == NULL:
                self.tally.counts.corrupt += 1
                return
            if connection.follower.strand.kept_bytes > MAX_KEPT_BYTES:
                self._shorten(connection.follower.strand)
            self._take_message(connection, 0, inflated, len, read_ns)
            return
        self.tally.counts.plain_bytes += frame_len(len)
        if not self.has_prefix:
            self.take(&connection.reader, payload, len, read_ns)
            return
        self.tally.counts.received += 1
        if len < self.prefix_bytes or memcmp(payload, self.prefix_data, self.prefix_bytes):
            self.tally.counts.corrupt += 1
        if self.board.shared.window_start_ns and connection.kind != SLOW:
            self.tally.counts.measured += 1
            self.tally.counts.payload_bytes += len

    cdef void _begin_to_inflate(self, Connection* connection) noexcept nogil:
        """Let it follow a strand.

        Steady ones share that of the others of their channel to whom nothing has come yet. Those that come and go, or
        read late, have their own: they would get other messages than the rest, or hold up what is kept for all.
        """
        cdef Strand** newest = &self.newest[connection.at]
        cdef Strand* strand
        if connection.kind != STEADY:
            strand = new_strand(connection.is_inflated_alone, False)
        elif newest[0] != NULL and newest[0].end == 0 and newest[0].is_alone == connection.is_inflated_alone:
            strand = newest[0]
        else:
            strand = new_strand(connection.is_inflated_alone, True)
            if strand != NULL:
                if newest[0] != NULL:
                    release_strand(newest[0])
                newest[0] = strand
                strand.holders += 1
        if strand == NULL:
            self._lose(connection, ABNORMAL_CLOSURE)
        else:
            follow(&connection.follower, strand)

    cdef void _shorten(self, Strand* strand) noexcept nogil:
        """Somebody is far behind: the older half of what is kept is for those, and they go on with their own inflaters."""
        cdef uint64_t middle = strand.first + (strand.end - strand.first) // 2
        cdef uint32_t number
        cdef Follower* follower
        for number in range(self.top):
            follower = &self.connections[number].follower
            if self.connections[number].state != FREE and follower.strand == strand and follower.position < middle:
                part(follower)

    cdef void _take_control(
        self, Connection* connection, uint8_t opcode, const uint8_t* payload, size_t len
    ) noexcept nogil:
        """RFC 6455 section 5.5, a frame that may be. The connection may be gone afterwards."""
        cdef uint32_t code = NO_STATUS_RECEIVED
        if opcode == OPCODE_PING:
            if connection.state == OPEN and connection.unsent_pongs < MAX_UNSENT_PONGS:
                connection.unsent_pongs += 1
                self._send_control(connection, OPCODE_PONG, payload, len)
        elif opcode == OPCODE_CLOSE:
            if len >= 2:
                code = payload[0] << 8 | payload[1]
            if connection.state == OPEN:
                self._send_control(connection, OPCODE_CLOSE, payload, 2 if len >= 2 else 0)
            if connection.state != FREE:
                self._lose(connection, code)
        elif opcode != OPCODE_PONG:
            self.tally.counts.corrupt += 1

    cdef bint _reserve(self, size_t len) noexcept nogil:
        """Make `read_buf` hold `len` bytes. False: no memory."""
        cdef uint8_t* read_buf
        if len > self.read_buf_bytes:
            read_buf = <uint8_t*>realloc(self.read_buf, len)
            if read_buf == NULL:
                return False
            self.read_buf = read_buf
            self.read_buf_bytes = len
        return True
