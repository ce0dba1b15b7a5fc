from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastbcast.load._board cimport Board, Tally
from fastbcast.load._receipt cimport Receipt
from fastbcast.load._stamp cimport STAMP_BYTES

cpdef enum Kind:
    # Of a connection: subscribers, and who publishes.
    STEADY = 0      # there from the first message to the last: what "all" means, and what is missing
    GUEST = 1       # comes and goes: judged from its first message on
    SLOW = 2        # reads late, or not at all: may be skipped, and nobody waits for it
    PUBLISHER = 3


cdef struct Reader:
    # One subscriber.
    uint32_t channel, kind
    Receipt* receipts           # [position of the stream in the channel]
    uint64_t measured           # messages of the window
    uint64_t latency_ns         # their sum


cdef struct Slot:
    # One message that is under way, as this process knows it.
    uint64_t tag                # its seq + 1; 0: none
    uint64_t intended_ns
    uint64_t first_ns, last_ns  # when steady subscribers here got it
    uint32_t passed             # of the steady subscribers that are here, those whose next_seq is above
    bint is_known               # stamp and intended_ns are valid
    bint is_incomplete          # somebody missed it
    uint8_t stamp[STAMP_BYTES]


cdef class Audit:
    # Set once.
    cdef Board board
    cdef Tally* tally               # this process's own
    cdef readonly uint32_t process, channels, streams
    cdef readonly uint64_t payload_bytes
    cdef uint8_t* bodies            # what follows the stamp: one for each message in turn
    cdef uint64_t body_bytes, body_mask     # of each; how many there are - 1
    cdef uint64_t slot_mask         # board.slots - 1
    cdef uint64_t* sent             # the board's
    cdef uint64_t* measured_from    # the board's
    cdef uint64_t* settled          # of this process, [stream]
    cdef uint64_t* first            # of this process, [stream]
    # State.
    cdef Slot* slots                # [stream][seq & (board.slots - 1)]
    cdef uint32_t* steady           # [channel]: steady subscribers that are here
    cdef uint64_t* completed        # [stream]: below it, settled in all processes; first process

    cdef int open_reader(self, Reader* reader, uint32_t kind, uint32_t channel) except -1
    cdef void close_reader(self, Reader* reader) noexcept nogil
    cdef void free_reader(self, Reader* reader) noexcept nogil
    cdef void take(
        self, Reader* reader, const uint8_t* payload, uint64_t payload_len, uint64_t read_ns
    ) noexcept nogil
    cdef void write_off_reader(self, Reader* reader, uint64_t now_ns) noexcept nogil
    cdef uint64_t stamp_next(self, uint32_t stream, uint64_t intended_ns, uint8_t* out) noexcept nogil
    cdef void complete(self) noexcept nogil
    cdef const uint8_t* body_of(self, uint32_t stream, uint64_t seq) noexcept nogil
    cdef uint64_t first_seq(self, uint32_t stream) noexcept nogil

    cdef uint32_t _count_positions(self, uint32_t channel) noexcept nogil
    cdef void _take_irregular(
        self, Reader* reader, const uint8_t* payload, uint64_t payload_len, uint64_t read_ns
    ) noexcept nogil
    cdef void _receive_next(
        self, Reader* reader, Receipt* receipt, uint32_t stream, Slot* slot, uint64_t intended_ns, uint64_t read_ns
    ) noexcept nogil
    cdef void _count(
        self, Reader* reader, uint32_t stream, uint64_t seq, uint64_t intended_ns, uint64_t read_ns
    ) noexcept nogil
    cdef void _pass_over(
        self, Reader* reader, Receipt* receipt, uint32_t stream, uint64_t end_seq, uint64_t now_ns
    ) noexcept nogil
    cdef void _pass(self, uint32_t stream, Slot* slot, uint64_t now_ns) noexcept nogil
    cdef void _settle(self, uint32_t stream) noexcept nogil
    cdef Slot* _slot(self, uint32_t stream, uint64_t seq) noexcept nogil
    cdef Slot* _ensure_slot(self, uint32_t stream, uint64_t seq) noexcept nogil
