"""A channel: what is published is appended, and its subscribers come, catch up, and go.

    publish --> append --> dirty --(end of the loop's turn)--> rounds (_round.pyx)

One object in layers, a file for each: Roster (who, and how far behind), Forms (in which form), Tally (what became of
a message), Delivery (one subscriber's turn), Round (the sweep), and this one, which the rest of the program calls.

Invariants

1. What is wrong with a message is raised before anything is queued. A publish never waits, never runs user
   code, and never raises for a client's fault.
2. A slot leaves the array before its client's CLOSE is written, when a send fails, and at the latest in
   `on_ws_disconnected`: until then its fd cannot be another's, and no dead slot holds back the log.
3. Everything is called from the loop's thread only; `Sweeper.check_thread` says so.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport UINT64_MAX, uint8_t, uint32_t, uint64_t

from fastbcast._clock cimport now_ns
from fastbcast._frames cimport (
    Payload, acquire_payload, borrow_payload, frame_len, make_frame, release_payload,
)
from fastbcast.fanout._policy cimport Policy
from fastbcast.fanout._roster cimport Subscription
from fastbcast.fanout._round cimport Round
from fastbcast.fanout._slot cimport WRITABLE, Slice, Slot
from fastbcast.fanout._sweeper cimport Sweeper
from fastbcast.fanout._wire cimport Wire
from fastbcast.log._compact cimport CompactLog, key_len, shareable
from fastbcast.log._log cimport Lane, Log

from fastbcast.exceptions import MessageTooBig


cdef class Fanout(Round):
    """One channel: its log, and the subscribers that are sent what is appended to it."""

    def __cinit__(self, str name not None, Sweeper sweeper not None, Policy policy not None):
        self.round.random = 2463534242  # Marsaglia's seed for xorshift32; any but 0
        self.name = name
        self.sweeper = sweeper
        self.counters = sweeper.counters
        self.policy = policy
        self.coalesce_seconds = policy.coalesce_seconds
        self.log = Log(sweeper.ledger)
        if policy.reads_compact:
            self.compact = CompactLog(
                sweeper.ledger, max_keys=policy.max_keys, max_snapshot_bytes=policy.max_snapshot_bytes
            )

    @property
    def log_bytes(self):
        """What the channel's messages take in memory: segments, index, and the newest of each key; in bytes."""
        if self.compact is None:
            return self.lanes_bytes()
        return self.lanes_bytes() + self.compact.keyed_bytes + self.compact.keyless_bytes + self.compact.deflated_bytes

    @property
    def seq(self):
        """The seq of the newest message; 0 before the first."""
        return self.log.lane.next_seq - 1

    # Publishing.

    def publish(self, message, *, text=None, key=None):
        """Queue `message` for every subscriber and return its seq (int, from 1, per channel).

        A str goes out as text, a bytes-like object as binary, or as text with `text=True`. The bytes are
        copied before this returns. `key` (str, bytes or int) names what the message is about: on a channel
        that conflates, it supersedes the older ones of that key for whoever is behind. Never blocks and
        never runs user code.

        Raises TypeError (not str or bytes-like; the key), ValueError (text that is not UTF-8, a buffer that
        is not C-contiguous), MessageTooBig (above `max_message_bytes`), KeysFull (above `max_keys` or
        `max_snapshot_bytes`), WrongThread (not the loop's thread: use `hub.publish_threadsafe`); nothing has
        been queued then.
        """
        cdef Payload payload
        cdef uint64_t seq
        self.sweeper.check_thread("publish")
        acquire_payload(message, text, &payload)
        try:
            if <uint64_t>payload.len > self.policy.max_message_bytes:
                raise MessageTooBig(payload.len, self.policy.max_message_bytes)
            if self.compact is not None:
                return self._publish_frame(make_frame(payload.opcode, payload.data, payload.len), key)
            if key is not None:
                key_len(key)
            seq = self.append(&payload)
        finally:
            release_payload(&payload)
        return self._appended(seq, frame_len(payload.len), key is not None)

    def _publish_frame(self, bytes frame not None, key):
        """Queue a frame that `_frames.encode` made; returns its seq. TypeError or KeysFull for the key."""
        cdef bint is_kept = self.compact is not None and (self.count != 0 or key is not None)
        cdef object kept = None
        cdef Payload payload
        cdef uint64_t seq
        self.sweeper.check_thread("publish")
        if key is not None:
            key_len(key)
        if is_kept:
            self.compact.admit(key, len(frame))
            kept = shareable(frame)
        borrow_payload(<const uint8_t*>PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame), &payload)
        seq = self.append(&payload)
        if is_kept:
            self.compact.add(seq, self.log.lane.tail, key, kept)
        return self._appended(seq, len(frame), key is not None)

    cdef uint64_t _appended(self, uint64_t seq, uint64_t frame_bytes, bint has_key) except 0:
        self.counters.published_messages += 1
        self.counters.published_bytes += frame_bytes
        self.begin_tally(seq, has_key)
        if self.count:
            self.round.appended += frame_bytes
            self.ask_for_round()
            if self.round.appended - self.round.offered > self.policy.max_unswept_bytes and not self.sweeper.is_sweeping:
                self.counters.inline_sweeps += 1
                self._sweep_now()
            self.sweeper.relieve_logs()
        return seq

    def forget(self, key):
        """Drop a key's newest message, where it still waits for somebody; returns whether there was one.

        Only a channel that conflates keeps keys. Raises TypeError if `key` cannot be one, and WrongThread.
        """
        self.sweeper.check_thread("forget")
        key_len(key)
        if self.compact is None or not self.compact.forget(key):
            return False
        self.check_flushes()
        return True

    # Subscribing.

    cdef Subscription subscribe(self, Wire wire):
        """Add `wire`'s client at the tail: it gets what is published from now on. Returns a Subscription."""
        cdef Subscription subscription
        self.sweeper.check_thread("subscribe")
        if self.count == 0:
            self.round.offered = self.round.appended
        subscription = self.admit(wire)
        if self.policy.release_ns:
            subscription.details.keyless = self.compact.keyless
            subscription.details.is_compacted = True
        if self.round.remaining:
            self.round.remaining += 1  # the ring has become longer; without this the last slot of the round is missed
        return subscription

    cdef int unsubscribe(self, Subscription subscription, bint is_evicted) except -1:
        """Remove a subscription; its slot is gone when this returns. Does nothing the second time."""
        cdef uint32_t index = subscription.index
        cdef Lane* lane
        cdef bint held_back
        self.sweeper.check_thread("unsubscribe")
        if not subscription.is_active:
            return 0
        lane = self.slots[index].lane
        held_back = self.slots[index].seq <= lane.first_seq or lane.subscribers == 1 or (
            self.compact is not None and self.compact.keyless_bytes != 0
        )
        self.count_leaver(&self.slots[index], is_evicted)
        self.dismiss(subscription)
        if index != self.count and self.round.remaining:
            # The slot that moved may have gone from an unvisited place to a visited one.
            self.ask_for_round()
        self.round.remaining = min(self.round.remaining, self.count)
        if self.round.position >= self.count:
            self.round.position = 0
        if self.count == 0:
            self.round.remaining = 0
            self.delivery.needs_round = False
            self.sweeper.forget(self)
        if held_back or self.count == 0:
            self.trim()     # on a channel that has gone idle nobody else comes to forget what was kept for it
        self.check_flushes()
        return 0

    cdef int _sweep_now(self) except -1:
        """Sweep to the end without judging anybody: the turn's own sweep does that."""
        self.sweeper.attempt(self, UINT64_MAX, False)
        self.delivery.needs_round = True
        return 0

    def _judge(self):
        """Have the subscribers that are behind judged at the end of this turn, though nothing is published."""
        self.ask_for_round()

    # Catching up, and forgetting what all have.

    cdef int catch_up(self, Subscription subscription, Occasion occasion) except -1:
        """Send one subscriber what it lacks, now, if its socket is writable.

        What does not fit into this turn's slice waits for a round, and what a limit of the rate holds back for its
        release, unless nothing but a CLOSE follows.
        """
        cdef uint64_t deadline_ns = UINT64_MAX
        cdef Slice part
        cdef uint64_t seq, first_seq
        if not subscription.is_active:
            return 0
        seq = self.slots[subscription.index].seq
        first_seq = self.slots[subscription.index].lane.first_seq
        if seq == self.log.lane.next_seq:
            return self.keeps_up(&subscription.details)
        if subscription.wire.socket.state != WRITABLE:
            return 0
        if occasion == ON_RESUME:
            deadline_ns = self.sweeper.turn_deadline()
        if now_ns() >= deadline_ns or (self.policy.release_ns and occasion != BEFORE_CLOSE):
            return self.leave_to_rounds()
        if subscription.details.is_compacted:
            self.send_compacted(subscription, UINT64_MAX, deadline_ns)
        else:
            # Slices of one slot: more than one if it takes several sends, or if the Transport can write what the
            # kernel had just refused.
            while (
                subscription.is_active and subscription.wire.socket.state == WRITABLE
                and self.slots[subscription.index].seq != self.log.lane.next_seq
            ):
                if now_ns() >= deadline_ns:
                    self.leave_to_rounds()
                    break
                part.position = subscription.index
                part.remaining = 1
                part.deadline_ns = UINT64_MAX
                part.is_turn_end = False
                with nogil:
                    self.run_slice(&part)
                self.settle(&part, deadline_ns)
        if subscription.is_active and self.slots[subscription.index].seq == self.log.lane.next_seq:
            self.keeps_up(&subscription.details)
        if subscription.is_active:
            self.move_if_possible(&self.slots[subscription.index])
        if seq <= first_seq:
            self.trim()
        self.check_flushes()
        return 0

    cdef int resume(self, Subscription subscription) except -1:
        """The Transport has written the rest of the frame that ends at the cursor."""
        subscription.details.rest_seq = 0
        if subscription.is_active:
            self.check_flushes()
        return 0

    def _relieve(self, bint is_last_resort):
        """Free memory of the log: those that are furthest behind are evicted or jump, as the policy says.

        As a last resort all that are behind are evicted. Returns whether anything was freed.
        """
        cdef Py_ssize_t log_bytes = self.log_bytes
        cdef uint64_t middle
        cdef uint32_t i
        cdef Slot* slot
        cdef list evicted = []
        self._sweep_now()
        self._judge()
        for i in range(self.count):
            slot = &self.slots[i]
            middle = slot.lane.head + (slot.lane.tail - slot.lane.head) // 2
            if slot.details.is_compacted or slot.cursor == slot.lane.tail:
                continue
            if is_last_resort or (self.policy.closes and slot.cursor <= middle):
                evicted.append(<Subscription>slot.details.subscription)
            elif slot.cursor <= middle:
                self._jump(slot, slot.lane.tail - middle)
        for subscription in evicted:
            self.evict(subscription, "log_full")
        self.trim()
        if self.compact is not None:
            kept_bytes = 0 if is_last_resort else self.compact.keyless_bytes // 2
            self.compact.drop_keyless(self.log.lane.first_seq, kept_bytes)
        self.check_flushes()
        return self.log_bytes < log_bytes

    # For tests and debug builds.

    def check_invariants(self):
        """Assert invariants 1 to 3, and those of the roster and the logs; slow."""
        cdef uint32_t i
        cdef Slot* slot
        cdef Subscription subscription
        self._check_forms()
        if self.compact is not None:
            self.compact.check_invariants()
        assert self.round.remaining <= self.count
        assert self.round.position < self.count or self.count == 0
        for i in range(self.count):
            slot = &self.slots[i]
            subscription = <Subscription>slot.details.subscription
            assert subscription.is_active and subscription.index == i and &subscription.details == slot.details
            assert slot.cursor <= slot.lane.tail
            if slot.seq != self.log.lane.next_seq and slot.socket.state == WRITABLE:
                assert self.round.remaining or self.delivery.needs_round, f"{self.name}: slot {i} is left behind"
