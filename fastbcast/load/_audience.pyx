"""Clients that somebody looks at: what each got, kept to be read, and whether it has read all there is.

    thread of its own                                   any thread
      listen() ... until there is news <--- eventfd ---   wake()
      take_kept(), read_*(), ping(), send() between two listen()

It publishes nothing and judges nothing: `_take_message` is all that it does with a message.

Invariants

1. All of it belongs to one thread, but `wake`.
2. While it listens no Python object is touched but for what ends or begins a connection, and to inflate: a message
   is copied into the journal, and becomes an object when it is taken.
3. `unanswered` is the number of connections whose `ping` is not 0. An end is an answer.
4. A number is used once: who has gone is still known by it.
"""

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy, strerror
from posix.unistd cimport close, read, write

from fastbcast._clock cimport now_ns
from fastbcast._frames cimport OPCODE_BINARY, OPCODE_PING, OPCODE_PONG, OPCODE_TEXT
from fastbcast.load._board cimport Board
from fastbcast.load._client_frames cimport apply_mask, write_header
from fastbcast.load._crowd cimport (
    ABNORMAL_CLOSURE,
    CLOSE_CODES,
    EPOLL_CTL_ADD,
    EPOLLIN,
    LEAVING,
    OPEN,
    Connection,
    epoll_ctl,
    epoll_event,
    epoll_wait,
)
from fastbcast.load._inbound cimport MAX_MESSAGE_BYTES, Inbound

cdef enum:
    EVENTS_PER_ROUND = 64
    MIN_JOURNAL_BYTES = 65536

cdef uint64_t WAKE = <uint64_t>-1       # epoll's name for what is no connection


cdef extern from "<sys/eventfd.h>" nogil:
    int EFD_CLOEXEC, EFD_NONBLOCK
    int eventfd(unsigned value, int flags)


cdef class Audience(Inbound):
    """Up to `capacity` subscribers; see Inbound for the other arguments.

    max_kept_bytes: how much payload is kept, in all; 0: messages are only counted.
    """

    def __cinit__(
        self, Board board not None, uint32_t process, uint32_t channels, uint64_t payload_bytes, uint32_t capacity,
        *, uint64_t max_kept_bytes=0, **rest,
    ):
        cdef epoll_event event
        self.wake_fd = -1
        self.listeners = <Listener*>calloc(capacity, sizeof(Listener))
        if self.listeners == NULL:
            raise MemoryError
        self.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self.wake_fd < 0:
            raise OSError(errno, strerror(errno).decode())
        event.events = EPOLLIN
        event.data.u64 = WAKE
        if epoll_ctl(self.epoll_fd, EPOLL_CTL_ADD, self.wake_fd, &event) < 0:
            raise OSError(errno, strerror(errno).decode())
        self.max_kept_bytes = max_kept_bytes
        self.max_message_bytes = MAX_MESSAGE_BYTES

    def __dealloc__(self):
        if self.listeners != NULL and self.wake_fd >= 0:    # else __cinit__ did not get so far
            close(self.wake_fd)
        free(self.listeners)
        free(self.journal)

    def add(self, *arguments, **options) -> int:
        """As Inbound.add; ValueError once `capacity` connections were there, gone or not. The descriptor is closed then."""
        self.free_numbers = []      # nobody comes in the place of one that has gone
        return Inbound.add(self, *arguments, **options)

    # Listening.

    def listen(self, double seconds, int64_t most_connecting=-1) -> None:
        """Read for at most so long; no longer than until a connection has ended, all PONGs are there, or `wake`.

        Less, too, if there are only `most_connecting` handshakes under way.
        """
        cdef uint64_t until_ns = now_ns() + <uint64_t>(seconds * 1e9)
        with nogil:
            self._listen(until_ns, most_connecting)

    def wake(self) -> None:
        """End the `listen` that runs, or the next one. From any thread."""
        cdef uint64_t one = 1
        write(self.wake_fd, &one, sizeof(one))

    cdef void _listen(self, uint64_t until_ns, int64_t most_connecting) noexcept nogil:
        cdef epoll_event events[EVENTS_PER_ROUND]
        cdef uint64_t now, wait_ns, count, news = self.news
        cdef int ready, i
        while True:
            now = now_ns()
            self._read_slow(now)
            if now >= until_ns or <int64_t>self.connecting <= most_connecting or self.news != news:
                return
            wait_ns = min(until_ns, self.next_read_ns) - now if self.next_read_ns > now else 0
            ready = epoll_wait(self.epoll_fd, events, EVENTS_PER_ROUND, <int>((wait_ns + 999999) // 1000000))
            for i in range(ready):
                if events[i].data.u64 == WAKE:
                    read(self.wake_fd, &count, sizeof(count))
                    self.news += 1
                else:
                    self._handle(&self.connections[events[i].data.u64], events[i].events)

    cdef void _take_message(
        self, Connection* connection, uint8_t rsv, const uint8_t* payload, size_t len, uint64_t read_ns
    ) noexcept nogil:
        if rsv:
            Inbound._take_message(self, connection, rsv, payload, len, read_ns)   # comes back without it
            return
        self.tally.counts.received += 1
        self.listeners[connection.number].messages += 1
        if self.max_kept_bytes:
            self._keep(connection.number, connection.message_opcode, payload, len)

    cdef void _keep(self, uint32_t number, uint32_t opcode, const uint8_t* payload, size_t len) noexcept nogil:
        cdef size_t wanted = self.journal_bytes + sizeof(Entry) + len
        cdef size_t capacity
        cdef uint8_t* journal
        cdef Entry entry
        if self.dropped_messages or self.kept_bytes + len > self.max_kept_bytes:
            self.dropped_messages += 1      # and all after it: what is kept has no holes
            return
        if wanted > self.journal_capacity:
            capacity = max(2 * self.journal_capacity, max(<size_t>MIN_JOURNAL_BYTES, wanted))
            journal = <uint8_t*>realloc(self.journal, capacity)
            if journal == NULL:
                self.dropped_messages += 1
                return
            self.journal = journal
            self.journal_capacity = capacity
        entry.number = number
        entry.opcode = opcode
        entry.payload_bytes = len
        memcpy(self.journal + self.journal_bytes, &entry, sizeof(Entry))
        memcpy(self.journal + self.journal_bytes + sizeof(Entry), payload, len)
        self.journal_bytes = wanted
        self.kept_bytes += len

    cdef void _take_control(
        self, Connection* connection, uint8_t opcode, const uint8_t* payload, size_t len
    ) noexcept nogil:
        cdef Listener* listener = &self.listeners[connection.number]
        if opcode == OPCODE_PONG and len == sizeof(uint64_t) and memcmp(payload, &listener.ping, len) == 0:
            self._answered(listener)
        else:
            Inbound._take_control(self, connection, opcode, payload, len)

    cdef void _answered(self, Listener* listener) noexcept nogil:
        if listener.ping:
            listener.ping = 0
            self.unanswered -= 1
            if self.unanswered == 0:
                self.news += 1

    cdef void _lose(self, Connection* connection, uint32_t code) noexcept nogil:
        if connection.state == OPEN:
            self.listeners[connection.number].close_code = code if code < CLOSE_CODES else ABNORMAL_CLOSURE
        Inbound._lose(self, connection, code)

    cdef void _free(self, Connection* connection) noexcept nogil:
        self._answered(&self.listeners[connection.number])
        self.news += 1
        Inbound._free(self, connection)

    # Between two `listen`.

    def send(self, uint32_t number, message not None) -> bool:
        """Send a message, str or bytes, behind what is unsent. False if the connection is not open (any more)."""
        if isinstance(message, str):
            return self._send(number, OPCODE_TEXT, message.encode())
        return self._send(number, OPCODE_BINARY, message)

    cdef bint _send(self, uint32_t number, uint8_t opcode, bytes payload) except -1:
        cdef Connection* connection = &self.connections[number]
        cdef size_t message_bytes = <size_t>len(payload)
        cdef uint32_t mask = self._next_mask()
        cdef uint8_t* out
        if not self.is_open(number):
            return False
        if not self._append(connection, NULL, 14 + message_bytes):
            raise MemoryError
        out = connection.unsent + connection.unsent_end
        out += write_header(out, opcode, message_bytes, mask)
        apply_mask(out, <const uint8_t*>payload, message_bytes, mask)
        connection.unsent_end = out + message_bytes - connection.unsent
        return self._flush(connection)

    def ping(self, uint32_t number) -> bool:
        """Send a PING unlike all others, and count it in `unanswered`. False if the connection is not open."""
        cdef Listener* listener = &self.listeners[number]
        self.pings += 1
        if not self._send(number, OPCODE_PING, (<const char*>&self.pings)[:sizeof(uint64_t)]):
            return False
        if listener.ping == 0:
            self.unanswered += 1
        listener.ping = self.pings
        return True

    def read_freely(self, uint32_t number) -> bool:
        """Let a slow connection read all there is from now on. False if it is not open (any more)."""
        cdef Connection* connection = &self.connections[number]
        if not self.is_open(number):
            return False
        connection.pace_ns = 0
        connection.next_read_ns = <uint64_t>-1      # it is no turn of _read_slow's any more
        self._watch(connection)
        return True

    def take_kept(self) -> list:
        """(number, message) of all that was kept since the last call, in the order of reading; text as str.

        Text that is no UTF-8 has surrogates in it: see PEP 383.
        """
        cdef size_t at = 0
        cdef Entry entry
        cdef bytes payload
        taken = []
        while at < self.journal_bytes:
            memcpy(&entry, self.journal + at, sizeof(Entry))
            at += sizeof(Entry)
            payload = (<const char*>self.journal + at)[:entry.payload_bytes]
            at += entry.payload_bytes
            taken.append((entry.number, payload.decode(errors="surrogateescape") if entry.opcode == OPCODE_TEXT else payload))
        free(self.journal)
        self.journal = NULL
        self.journal_bytes = self.journal_capacity = 0
        return taken

    def read_counts(self) -> list:
        """How many messages each connection has got, by number; also after `close`."""
        cdef uint32_t number
        return [self.listeners[number].messages for number in range(self.capacity)]

    def read_close_codes(self) -> list:
        """The close code with which the server ended each connection, by number; 0: it did not. Also after `close`."""
        cdef uint32_t number
        return [self.listeners[number].close_code for number in range(self.capacity)]

    def read_open(self) -> list:
        """The numbers of the connections that are open."""
        cdef uint32_t number
        return [number for number in range(self.top) if self.connections[number].state == OPEN]

    def read_unanswered(self) -> list:
        """The numbers of the connections whose PING has no PONG."""
        cdef uint32_t number
        return [number for number in range(self.top) if self.listeners[number].ping]

    @property
    def leaving(self) -> int:
        """Connections whose CLOSE has no answer yet."""
        cdef uint32_t number, count = 0
        for number in range(self.top):
            if self.connections[number].state == LEAVING:
                count += 1
        return count
