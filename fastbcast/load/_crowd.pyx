"""Thousands of WebSocket clients in one thread: their handshakes, what they write, their leaving.

    add(fd) -> CONNECTING -> HANDSHAKING -> OPEN -> LEAVING -> FREE
                    '-- refused ---'----------'-- the server ended it --'

Invariants

1. A connection that is not FREE owns its fd, and the epoll set has it.
2. A subscriber has receipts while it is OPEN, and only then: nothing else is judged.
3. After anything that may end a connection its state is looked at before it is used again.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy, memmove, memset, strerror
from posix.unistd cimport close

from fastbcast._clock cimport now_ns
from fastbcast._frames cimport MAX_CONTROL_PAYLOAD_BYTES, OPCODE_CLOSE
from fastbcast.load._audit cimport PUBLISHER, SLOW, Audit, Reader
from fastbcast.load._board cimport Board, record
from fastbcast.load._client_frames cimport apply_mask, scramble, write_header
from fastbcast.load._response_head cimport find_header, has_text, memmem


cdef extern from "<sys/socket.h>" nogil:
    int MSG_NOSIGNAL, SOL_SOCKET, SO_ERROR
    ssize_t send(int fd, const void* data, size_t len, int flags)
    int getsockopt(int fd, int level, int option, void* value, unsigned* len)


cdef class Crowd(Audit):
    """Up to `capacity` connections, subscribers and publishers; see Audit for the other arguments."""

    def __cinit__(
        self, Board board not None, uint32_t process, uint32_t channels, uint64_t payload_bytes, uint32_t capacity,
        *rest, **more,
    ):
        self.epoll_fd = -1
        self.connections = <Connection*>calloc(capacity, sizeof(Connection))
        self.slow_numbers = <uint32_t*>calloc(capacity, sizeof(uint32_t))
        if self.connections == NULL or self.slow_numbers == NULL:
            raise MemoryError
        self.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll_fd < 0:
            raise OSError(errno, strerror(errno).decode())
        self.capacity = capacity
        self.free_numbers = []
        self.problems = {}
        self.next_read_ns = <uint64_t>-1
        self.mask_state = board.run_id

    def __dealloc__(self):
        cdef uint32_t number
        for number in range(self.top):
            if self.connections[number].state != FREE:
                release(&self.connections[number])
                self.free_reader(&self.connections[number].reader)
        if self.connections != NULL and self.epoll_fd >= 0:     # else __cinit__ did not get so far
            close(self.epoll_fd)
        free(self.connections)
        free(self.slow_numbers)

    def add(
        self, int fd, uint32_t kind, uint32_t at, bytes request not None, bytes accept not None,
        *, double every_seconds=0, uint64_t read_bytes=0,
    ) -> int:
        """Take over `fd`, a socket that connects; return the connection's number.

        kind: STEADY, GUEST or SLOW, of channel `at`; or PUBLISHER, of stream `at`. `request` is the whole head,
        `accept` what Sec-WebSocket-Accept must be. A SLOW one reads `read_bytes` (0: all there is) every
        `every_seconds` (infinite: never) once it is open.

        Raises ValueError if there is no room, or no such channel or stream; OSError, MemoryError. `fd` is closed then.
        """
        cdef Connection* connection
        cdef epoll_event event
        cdef bint has_room = self.free_numbers or self.top < self.capacity
        problem = None
        if len(accept) != sizeof(connection.accept):
            problem = "accept has 28 characters"
        elif kind > PUBLISHER or at >= (self.board.streams if kind == PUBLISHER else self.channels):
            problem = f"there is no channel, stream or kind like that: {kind}, {at}"
        elif not has_room:
            problem = f"there is room for {self.capacity} connections"
        if problem is not None:
            close(fd)
            raise ValueError(problem)
        if self.free_numbers:
            number = self.free_numbers.pop()
        else:
            number = self.top
            self.top += 1
        connection = &self.connections[number]
        memset(connection, 0, sizeof(Connection))
        connection.fd = fd
        connection.number = number
        connection.kind = kind
        connection.at = at
        connection.pace_ns = <uint64_t>min(every_seconds * 1e9, 1e18) if kind == SLOW else 0
        connection.pace_bytes = read_bytes
        connection.offers_extensions = b"\r\nsec-websocket-extensions:" in request.lower()
        connection.offers_subprotocols = b"\r\nsec-websocket-protocol:" in request.lower()
        connection.connect_ns = now_ns()
        memcpy(connection.accept, <const uint8_t*>accept, sizeof(connection.accept))
        connection.state = CONNECTING
        self.connecting += 1
        event.events = connection.watched = EPOLLOUT
        event.data.u64 = number
        if epoll_ctl(self.epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0:
            error = errno
            self._free(connection)
            self.free_numbers.append(number)
            raise OSError(error, strerror(error).decode())
        if not self._append(connection, <const uint8_t*>request, len(request)):
            self._free(connection)
            self.free_numbers.append(number)
            raise MemoryError
        return number

    def leave(self, uint32_t number, *, bint is_abrupt=False) -> bool:
        """End a connection: with a closing handshake, or just like that. False if it is not open (any more)."""
        cdef Connection* connection = &self.connections[number]
        if number >= self.top or connection.state != OPEN:
            return False
        self._close_reader(connection)
        if is_abrupt:
            self._free(connection)
            self.free_numbers.append(number)
        else:
            self._send_control(connection, OPCODE_CLOSE, b"\x03\xe8", 2)
            if connection.state == OPEN:
                connection.state = LEAVING
                connection.connect_ns = now_ns()
                self._watch(connection)     # a slow one reads from now on, or it would not see the answer
        return True

    def close(self) -> None:
        """End all connections, each with a CLOSE if its socket takes one."""
        cdef uint32_t number
        for number in range(self.top):
            self.leave(number)
            self._free(&self.connections[number])
        self.free_numbers = []
        self.top = 0

    def give_up_connecting(self, double after_seconds=0) -> None:
        """Who has waited so long for the answer to its handshake is refused."""
        cdef uint32_t number
        cdef Connection* connection
        cdef uint64_t now = now_ns()
        if self.connecting == 0:
            return
        for number in range(self.top):
            connection = &self.connections[number]
            if FREE < connection.state < OPEN and <double>(now - connection.connect_ns) >= after_seconds * 1e9:
                self._refuse(connection, "no answer to the handshake", 0)

    def has_room(self) -> bool:
        """Whether one more may be added. Who has been leaving for LEAVE_SECONDS makes room, answered or not."""
        cdef uint32_t number
        cdef uint64_t now = now_ns()
        if not self.free_numbers and self.top == self.capacity:
            for number in range(self.top):
                if (
                    self.connections[number].state == LEAVING
                    and now > self.connections[number].connect_ns + LEAVE_SECONDS * 1000000000
                ):
                    self._free(&self.connections[number])
                    self.free_numbers.append(number)
        return bool(self.free_numbers) or self.top < self.capacity

    def finish(self) -> None:
        """What has not come by now is missing."""
        self._write_off(now_ns())

    @property
    def open_subscribers(self) -> int:
        return self.tally.counts.open

    def is_open(self, uint32_t number) -> bool:
        return number < self.top and self.connections[number].state == OPEN

    def read_problems(self) -> dict:
        """Why handshakes failed: {reason: how often}."""
        return dict(self.problems)

    def read_closes(self, *, bint of_slow=False) -> dict:
        """Connections that the server ended, slow ones' or all others', by close code.

        1006 stands for no CLOSE at all, 1005 for one without a code (RFC 6455 section 7.4.1).
        """
        return {code: self.closes[of_slow][code] for code in range(CLOSE_CODES) if self.closes[of_slow][code]}

    def read_lateness(self) -> list:
        """(number, mean latency in ns) of each subscriber that reads all it can and is open."""
        cdef uint32_t number
        cdef Reader* reader
        means = []
        for number in range(self.top):
            reader = &self.connections[number].reader
            if reader.receipts != NULL and reader.kind != SLOW and reader.measured:
                means.append((number, reader.latency_ns // reader.measured))
        return means

    def slow_descriptors(self) -> list:
        """The descriptor of each slow subscriber that is open. They stay the Crowd's own."""
        cdef uint32_t i
        return [self.connections[self.slow_numbers[i]].fd for i in range(self.slow_count)]

    # Handshakes.

    cdef bint _send_request(self, Connection* connection) noexcept nogil:
        cdef int error = 0
        cdef unsigned error_len = sizeof(error)
        getsockopt(connection.fd, SOL_SOCKET, SO_ERROR, &error, &error_len)
        if error:
            self._refuse(connection, NULL, error)
            return False
        connection.state = HANDSHAKING
        return self._flush(connection)

    cdef size_t _take_response(
        self, Connection* connection, const uint8_t* head, size_t len, uint64_t read_ns
    ) noexcept nogil:
        """The bytes of all whole heads there are: of interim answers (RFC 9110 section 15.2), and of the final one.

        0 if the answer refuses the handshake. Whether the final head has come is seen by the connection's state.
        """
        cdef size_t value_len = 0
        cdef size_t skipped = 0
        cdef const char* text = <const char*>head
        cdef const char* end
        cdef const char* accept
        cdef const char* extensions
        while True:
            end = <const char*>memmem(text, len - skipped, b"\r\n\r\n", 4)
            if end == NULL:
                if len - skipped > MAX_HEAD_BYTES:
                    self._refuse(connection, "the response's head is too long", 0)
                    return 0
                return skipped
            if end - text < 12 or memcmp(text, b"HTTP/1.1 1", 10) or not memcmp(text + 10, b"01", 2):
                break
            skipped += end - text + 4
            text = end + 4
        len = end - text + 4
        if len < 12 or memcmp(text, b"HTTP/1.1 101", 12):
            with gil:
                line = text[:len].split(b"\r\n", 1)[0].decode("latin-1")
                line = "".join(letter if letter.isprintable() else "?" for letter in line)     # it goes to a terminal
                self._refuse(connection, line.encode()[:200], 0)
            return 0
        accept = find_header(text, len, "Sec-WebSocket-Accept", &value_len)
        if accept == NULL or value_len != 28 or memcmp(accept, connection.accept, 28):
            self._refuse(connection, "Sec-WebSocket-Accept is missing or wrong", 0)
            return 0
        extensions = find_header(text, len, "Sec-WebSocket-Extensions", &value_len)
        if extensions != NULL and value_len and not connection.offers_extensions:   # RFC 6455 section 4.1
            self._refuse(connection, "the answer has an extension that was not offered", 0)
            return 0
        if not connection.offers_subprotocols and find_header(text, len, "Sec-WebSocket-Protocol", &value_len) != NULL:
            self._refuse(connection, "the answer has a subprotocol that was not offered", 0)    # the same
            return 0
        connection.has_deflate = has_text(extensions, value_len, "permessage-deflate")
        connection.is_inflated_alone = has_text(extensions, value_len, "server_no_context_takeover")
        record(&self.tally.handshake, read_ns - connection.connect_ns)
        if self.board.shared.window_start_ns:
            record(&self.tally.churn_handshake, read_ns - connection.connect_ns)
        self.tally.counts.opened += 1
        self.connecting -= 1
        connection.state = OPEN
        if connection.kind != PUBLISHER:
            with gil:
                self.open_reader(&connection.reader, connection.kind, connection.at)
            self.tally.counts.open += 1
        if connection.kind == SLOW:
            connection.next_read_ns = read_ns + connection.pace_ns
            self.next_read_ns = min(self.next_read_ns, connection.next_read_ns)
            self.slow_numbers[self.slow_count] = connection.number
            self.slow_count += 1
        self._watch(connection)
        return skipped + len

    cdef void _refuse(self, Connection* connection, const char* problem, int error) noexcept nogil:
        """The handshake failed: `problem` says how, or `error` (an errno)."""
        self.tally.counts.refused += 1
        with gil:
            reason = (problem if problem != NULL else strerror(error)).decode("utf-8", "replace")
            if len(self.problems) >= MAX_PROBLEMS and reason not in self.problems:
                reason = "other reasons"
            self.problems[reason] = self.problems.get(reason, 0) + 1
            self._free(connection)
            self.free_numbers.append(connection.number)

    # Ends.

    cdef void _lose(self, Connection* connection, uint32_t code) noexcept nogil:
        """The server, or what is between, ended the connection."""
        if connection.state < OPEN:
            self._refuse(connection, "the connection was closed during the handshake", 0)
            return
        if connection.state == OPEN:    # else it leaves, and we began it
            if connection.kind == SLOW:
                self.tally.counts.lost_slow += 1
            else:
                self.tally.counts.lost += 1
            self.closes[connection.kind == SLOW][code if code < CLOSE_CODES else ABNORMAL_CLOSURE] += 1
        self._close_reader(connection)
        self._free(connection)
        with gil:
            self.free_numbers.append(connection.number)

    cdef void _close_reader(self, Connection* connection) noexcept nogil:
        cdef uint32_t i
        if connection.reader.receipts != NULL:
            self.tally.counts.open -= 1
            self.close_reader(&connection.reader)
        if connection.kind == SLOW:
            for i in range(self.slow_count):
                if self.slow_numbers[i] == connection.number:
                    self.slow_count -= 1
                    self.slow_numbers[i] = self.slow_numbers[self.slow_count]
                    break

    cdef void _free(self, Connection* connection) noexcept nogil:
        """Give back what it holds. Its number stays taken."""
        if connection.state == FREE:
            return
        if connection.state < OPEN:
            self.connecting -= 1
        self._close_reader(connection)
        release(connection)

    # Writing.

    cdef bint _append(self, Connection* connection, const uint8_t* data, size_t len) noexcept nogil:
        """Room for `len` more bytes behind what is unsent, and `data` in it unless that is NULL. False: no memory."""
        cdef size_t waiting = connection.unsent_end - connection.unsent_start
        cdef size_t capacity
        cdef uint8_t* unsent
        if connection.unsent_start:
            memmove(connection.unsent, connection.unsent + connection.unsent_start, waiting)
            connection.unsent_start = 0
            connection.unsent_end = waiting
        if waiting + len > connection.unsent_capacity:
            capacity = 2 * connection.unsent_capacity + len
            unsent = <uint8_t*>realloc(connection.unsent, capacity)
            if unsent == NULL:
                return False
            connection.unsent = unsent
            connection.unsent_capacity = capacity
        if data != NULL:
            memcpy(connection.unsent + waiting, data, len)
            connection.unsent_end += len
        return True

    cdef bint _flush(self, Connection* connection) noexcept nogil:
        """Write what is unsent; watch for room if the kernel does not take all. False: the connection is gone."""
        cdef size_t waiting = connection.unsent_end - connection.unsent_start
        cdef ssize_t sent
        if waiting:
            sent = send(connection.fd, connection.unsent + connection.unsent_start, waiting, MSG_DONTWAIT | MSG_NOSIGNAL)
            if sent < 0 and errno != EAGAIN and errno != EINTR:
                self._lose(connection, ABNORMAL_CLOSURE)
                return False
            if sent > 0:
                connection.unsent_start += sent
        if connection.unsent_start == connection.unsent_end:
            connection.unsent_start = connection.unsent_end = 0
            connection.unsent_pongs = 0
            if connection.kind != PUBLISHER:    # it has said what it had to
                free(connection.unsent)
                connection.unsent = NULL
                connection.unsent_capacity = 0
        self._watch(connection)
        return True

    cdef void _send_control(
        self, Connection* connection, uint8_t opcode, const uint8_t* payload, size_t len
    ) noexcept nogil:
        cdef uint8_t frame[14 + MAX_CONTROL_PAYLOAD_BYTES]
        cdef uint32_t mask = self._next_mask()
        cdef uint32_t header_bytes = write_header(frame, opcode, len, mask)
        apply_mask(frame + header_bytes, payload, len, mask)
        if self._append(connection, frame, header_bytes + len):
            self._flush(connection)

    cdef void _watch(self, Connection* connection) noexcept nogil:
        """Be told of what the connection waits for now: once, when it comes (epoll(7), edge-triggered)."""
        cdef uint32_t wanted = EPOLLET
        if connection.pace_ns == 0 or connection.state != OPEN:
            wanted |= EPOLLIN | EPOLLRDHUP
        if connection.unsent_end > connection.unsent_start:
            wanted |= EPOLLOUT
        if wanted != connection.watched:
            connection.watched = wanted
            self._watch_again(connection)

    cdef void _watch_again(self, Connection* connection) noexcept nogil:
        """The same as before, and be told of what is there already."""
        cdef epoll_event event
        event.events = connection.watched
        event.data.u64 = connection.number
        epoll_ctl(self.epoll_fd, EPOLL_CTL_MOD, connection.fd, &event)

    cdef uint32_t _next_mask(self) noexcept nogil:
        self.mask_state = scramble(self.mask_state)
        return <uint32_t>self.mask_state

    cdef void _write_off(self, uint64_t now) noexcept nogil:
        cdef uint32_t number
        for number in range(self.top):
            self.write_off_reader(&self.connections[number].reader, now)


cdef void release(Connection* connection) noexcept nogil:
    close(connection.fd)    # the epoll set forgets it
    free(connection.kept)
    free(connection.message)
    free(connection.unsent)
    connection.kept = connection.message = connection.unsent = NULL
    connection.kept_bytes = connection.message_bytes = 0
    connection.state = FREE
