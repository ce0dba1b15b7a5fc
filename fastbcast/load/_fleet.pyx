"""The loop of one process: it publishes what is due, reads what has come, and returns to Python every few milliseconds.

      closed loop     at most `in_flight` messages of each stream are under way: until the first steady subscriber has
                      them, or until all have
      open loop       message i is due at start + i / rate, whatever the server does, and its latency counts from then:
                      a server that falls behind cannot hide it (coordinated omission)

Invariants

1. Only the first process publishes; the others tell it by `wake_fd` that theirs have got something.
2. All messages of a stream that may go out at one time leave in one send.
3. No Python object is touched in the loop, but for what ends or begins a connection.
"""

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport strerror
from posix.unistd cimport close, read, write

from fastbcast._clock cimport now_ns
from fastbcast._frames cimport OPCODE_BINARY, OPCODE_TEXT
from fastbcast.load._audit cimport PUBLISHER
from fastbcast.load._board cimport Board, load_acquire
from fastbcast.load._client_frames cimport apply_mask, write_header
from fastbcast.load._crowd cimport (
    EPOLL_CTL_ADD,
    EPOLLIN,
    OPEN,
    Connection,
    epoll_ctl,
    epoll_event,
    epoll_wait,
)
from fastbcast.load._inbound cimport Inbound
from fastbcast.load._stamp cimport STAMP_BYTES

cdef enum:
    EVENTS_PER_ROUND = 64       # small: the publishers have their turn after each round
    MIN_TIMER_NS = 50000        # an open loop's timer does not tick more often; it publishes several then

cdef uint64_t TIMER = <uint64_t>-1      # epoll's names for what is no connection
cdef uint64_t WAKE = <uint64_t>-2


cdef extern from "<sys/timerfd.h>" nogil:
    int CLOCK_MONOTONIC, TFD_NONBLOCK, TFD_CLOEXEC
    cdef struct timespec:
        long tv_sec, tv_nsec
    cdef struct itimerspec:
        timespec it_interval, it_value
    int timerfd_create(int clock, int flags)
    int timerfd_settime(int fd, int flags, const itimerspec* value, itimerspec* old)


cdef class Fleet(Inbound):
    """The connections of one process and what it publishes; see Inbound for the other arguments.

    is_text: whether messages are text. wake_fd: an eventfd that all processes share, if there are several.
    """

    def __cinit__(
        self, Board board not None, uint32_t process, uint32_t channels, uint64_t payload_bytes, uint32_t capacity,
        *, bint is_text=True, int wake_fd=-1, **rest,
    ):
        self.timer_fd = -1
        self.publishers = <Connection**>calloc(board.streams, sizeof(Connection*))
        if self.publishers == NULL:
            raise MemoryError
        self.timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
        if self.timer_fd < 0:
            raise OSError(errno, strerror(errno).decode())
        self.opcode = OPCODE_TEXT if is_text else OPCODE_BINARY
        self.wake_fd = wake_fd
        self._add_to_epoll(self.timer_fd, TIMER)
        if wake_fd >= 0 and process == 0:
            self._add_to_epoll(wake_fd, WAKE)

    def __dealloc__(self):
        if self.publishers != NULL and self.timer_fd >= 0:      # else __cinit__ did not get so far
            close(self.timer_fd)
        free(self.publishers)

    def _add_to_epoll(self, int fd, uint64_t name):
        cdef epoll_event event
        event.events = EPOLLIN
        event.data.u64 = name
        if epoll_ctl(self.epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0:
            raise OSError(errno, strerror(errno).decode())

    def start(self, uint64_t messages, *, uint64_t in_flight=1, bint judge_all=True, double rate=0) -> None:
        """Begin to publish `messages`, round the streams: `in_flight` of each stream, or `rate` a second in all.

        Raises ValueError if `in_flight` is more than the board has slots for.
        """
        cdef uint32_t number
        cdef itimerspec timer
        cdef uint64_t interval_ns = 0
        if in_flight > self.board.slots:
            raise ValueError(f"at most {self.board.slots} messages may be in flight with {self.streams} publishers")
        for number in range(self.top):
            if self.connections[number].kind == PUBLISHER and self.connections[number].state == OPEN:
                self.publishers[self.connections[number].at] = &self.connections[number]
        self.in_flight = in_flight
        self.is_judged_by_all = judge_all
        self.rate = rate
        self.scheduled = 0
        self.limit = messages
        self.start_ns = now_ns()
        if rate > 0:
            interval_ns = max(<uint64_t>MIN_TIMER_NS, <uint64_t>min(1e9 / rate, 1e18))
        timer.it_interval.tv_sec = timer.it_value.tv_sec = interval_ns // 1000000000
        timer.it_interval.tv_nsec = timer.it_value.tv_nsec = interval_ns % 1000000000
        timerfd_settime(self.timer_fd, 0, &timer, NULL)

    def stop(self) -> None:
        """Publish nothing more of the schedule."""
        self.limit = self.scheduled

    @property
    def is_done(self) -> bool:
        """The whole schedule was published, and is settled for all."""
        return self.scheduled >= self.limit and self.under_way == 0

    @property
    def is_blocked(self) -> bool:
        """A publisher has something to send that the server does not read."""
        cdef uint32_t stream
        for stream in range(self.streams):
            if self.publishers[stream] != NULL and self.publishers[stream].unsent_end:
                return True
        return False

    @property
    def open_publishers(self) -> int:
        cdef uint32_t number, count = 0
        for number in range(self.top):
            if self.connections[number].kind == PUBLISHER and self.connections[number].state == OPEN:
                count += 1
        return count

    def run(self, double seconds, int64_t most_connecting=-1) -> None:
        """Run for at most so long, one round at least; less if there are only `most_connecting` handshakes under way, or all is done."""
        cdef uint64_t until_ns = now_ns() + <uint64_t>(seconds * 1e9)
        with nogil:
            self._run(until_ns, most_connecting)

    cdef void _run(self, uint64_t until_ns, int64_t most_connecting) noexcept nogil:
        cdef epoll_event events[EVENTS_PER_ROUND]
        cdef uint64_t now, wait_ns, expirations, write_offs
        cdef bint was_busy = self.scheduled < self.limit, is_last
        cdef int ready, i
        while True:
            now = now_ns()
            write_offs = load_acquire(&self.board.shared.write_off_count)
            if write_offs != self.seen_write_offs:
                self.seen_write_offs = write_offs
                self._write_off(now)
            self._read_slow(now)
            if self.process == 0:
                self.complete()
                self._publish_due(now)
            elif self.wake_fd >= 0:
                self._wake_first()
            is_last = (
                now >= until_ns
                or <int64_t>self.connecting <= most_connecting
                or (was_busy and self.scheduled >= self.limit and self._is_settled())
            )
            wait_ns = min(until_ns, self.next_read_ns) - now if self.next_read_ns > now and not is_last else 0
            ready = epoll_wait(self.epoll_fd, events, EVENTS_PER_ROUND, <int>((wait_ns + 999999) // 1000000))
            for i in range(ready):
                if events[i].data.u64 == TIMER:
                    read(self.timer_fd, &expirations, sizeof(expirations))
                elif events[i].data.u64 == WAKE:
                    read(self.wake_fd, &expirations, sizeof(expirations))
                else:
                    self._handle(&self.connections[events[i].data.u64], events[i].events)
            if is_last:
                if self.process == 0:
                    self.complete()
                return

    cdef bint _is_settled(self) noexcept nogil:
        cdef uint32_t stream
        for stream in range(self.streams):
            if self.completed[stream] < self.sent[stream]:
                return False
        return True

    cdef void _wake_first(self) noexcept nogil:
        """Tell the first process if more has been settled here, or got by a first subscriber."""
        cdef uint64_t moved = 0, one = 1
        cdef uint32_t stream
        for stream in range(self.streams):
            moved += self.settled[stream] + self.first[stream]
        if moved != self.moved:
            self.moved = moved
            write(self.wake_fd, &one, sizeof(one))

    # Publishing.

    cdef void _publish_due(self, uint64_t now) noexcept nogil:
        """Publish whatever is due; what is due at one time leaves in one send."""
        cdef uint32_t stream, gone = 0
        cdef uint64_t due, arrived
        if self.scheduled >= self.limit:
            return
        if self.rate > 0:
            due = min(self.limit, 1 + <uint64_t>(<double>(now - self.start_ns) * self.rate / 1e9))
            while self.scheduled < due and gone < self.streams:
                stream = self.scheduled % self.streams
                if self.publishers[stream] == NULL:     # lost, which was counted; the others go on
                    self.scheduled += 1
                    gone += 1
                elif self._publish(stream, self.start_ns + <uint64_t>(<double>self.scheduled * 1e9 / self.rate)):
                    gone = 0
                else:
                    self.was_throttled = True
                    break
        else:
            for stream in range(self.streams):
                if self.publishers[stream] == NULL or self.publishers[stream].unsent_end:
                    continue    # the batch before is still on its way out
                arrived = self.completed[stream] if self.is_judged_by_all else self.first_seq(stream)
                while self.sent[stream] < arrived + self.in_flight and self.scheduled < self.limit:
                    if not self._publish(stream, now):
                        break
        for stream in range(self.streams):
            if self.publishers[stream] != NULL and self.publishers[stream].unsent_end:
                self._flush(self.publishers[stream])

    cdef bint _publish(self, uint32_t stream, uint64_t intended_ns) noexcept nogil:
        """Append a message to what its publisher has not sent yet. False: there is no room for it now."""
        cdef Connection* publisher = self.publishers[stream]
        cdef uint32_t mask = self._next_mask()
        cdef uint8_t stamp[STAMP_BYTES]
        cdef uint64_t seq
        cdef uint8_t* out
        if publisher == NULL or self.sent[stream] - self.completed[stream] > self.slot_mask:
            return False
        if publisher.unsent_end - publisher.unsent_start > MAX_UNSENT_BYTES:
            return False
        if not self._append(publisher, NULL, 14 + self.payload_bytes):
            return False
        seq = self.stamp_next(stream, intended_ns, stamp)
        out = publisher.unsent + publisher.unsent_end
        out += write_header(out, self.opcode, self.payload_bytes, mask)
        apply_mask(out, stamp, STAMP_BYTES, mask)
        apply_mask(out + STAMP_BYTES, self.body_of(stream, seq), self.body_bytes, mask)
        publisher.unsent_end = out + self.payload_bytes - publisher.unsent
        self.scheduled += 1
        return True

    cdef void _free(self, Connection* connection) noexcept nogil:
        """The same; a publisher's stream has none any more."""
        if connection.kind == PUBLISHER and self.publishers[connection.at] == connection:
            self.publishers[connection.at] = NULL
        Inbound._free(self, connection)
