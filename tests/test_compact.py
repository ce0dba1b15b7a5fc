"""_compact: of each key the newest message, against a list (reference.CompactLog); its bounds; what can be a key."""

import gc

import pytest
import reference
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from support import POLICIES

from fastbcast import Hub, KeysFull
from fastbcast.log._compact import CompactLog
from fastbcast.log._log import Ledger

ENTRY_BYTES = 96
# Alike, but not the same: "1", b"1" and 1 are three keys.
KEYS = st.sampled_from(["", "a", b"a", "1", b"1", 1, 0, -1, 255, 256, 2**70, "long" * 30, "\u20ac"])
SIZES = st.one_of(st.integers(2, 100), st.just(3000))


class CompactLogMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.ledger = Ledger()
        self.log = CompactLog(self.ledger, max_keys=6, max_snapshot_bytes=4000)
        self.model = reference.CompactLog(max_keys=6, max_snapshot_bytes=4000)
        self.seq = self.end = self.keyless = 0

    def put(self, key, size, gap=1):
        seq, end, frame = self.seq + gap, self.end + size, bytes([self.seq % 256]) * size
        if self.model.put(seq, key, frame):
            self.log.put(seq, end, key, frame)
            self.seq, self.end = seq, end
            self.keyless += key is None
        else:
            with pytest.raises(KeysFull):
                self.log.put(seq, end, key, frame)

    @rule(key=KEYS, size=SIZES, gap=st.integers(1, 3))
    def put_with_a_key(self, key, size, gap):
        self.put(key, size, gap)

    @rule(size=SIZES)
    def put_without_a_key(self, size):
        self.put(None, size)

    @rule(keys=st.lists(st.one_of(KEYS, st.none()), min_size=30, max_size=90))
    def put_many(self, keys):
        for key in keys:
            self.put(key, 10)

    @rule(key=KEYS)
    def forget(self, key):
        assert self.log.forget(key) is self.model.forget(key)

    @rule(share=st.floats(0, 1), kept_bytes=st.integers(0, 2000))
    def drop(self, share, kept_bytes):
        before_seq = int(share * (self.seq + 1))
        self.log.drop(before_seq, kept_bytes)
        self.model.drop(before_seq, kept_bytes)

    @rule()
    def drop_all(self):
        self.log.drop(self.seq + 1, 0)
        self.model.drop(self.seq + 1, 0)

    @rule(share=st.floats(0, 1))
    def read_from(self, share):
        seq = int(share * (self.seq + 2))
        assert self.log.read(seq) == self.model.read(seq)

    @invariant()
    def agrees_with_the_model(self):
        assert self.log.read(0) == self.model.read(0)
        assert self.log.keys == len(self.model.keys())
        assert self.log.keyless == self.keyless
        assert (self.log.keyed_bytes, self.log.keyless_bytes) == (self.model.keyed_bytes(), self.model.keyless_bytes())
        assert self.ledger.log_bytes == self.log.keyed_bytes + self.log.keyless_bytes
        assert self.ledger.keyed_bytes == self.log.keyed_bytes


TestCompactLog = CompactLogMachine.TestCase


def test_a_frame_that_a_transport_may_hold_is_counted_until_it_lets_go():
    ledger = Ledger()
    log = CompactLog(ledger, max_keys=10, max_snapshot_bytes=10**6)
    frames = [bytes([number]) * 70_000 for number in range(4)]
    log.put(1, 1, "a", frames[0])
    log.put(2, 2, None, frames[1])
    log.put(3, 3, "b", frames[2])
    views = [log.view(seq) for seq in (1, 2, 3, 3)]
    assert ledger.pinned_bytes == 0
    log.put(4, 4, "a", frames[3])           # superseded
    assert ledger.pinned_bytes == 70_000
    log.drop(5, 0)
    assert ledger.pinned_bytes == 140_000
    assert log.read(0) == [(3, frames[2]), (4, frames[3])]
    assert ledger.log_bytes == 2 * (70_000 + ENTRY_BYTES + 1)
    del log                                 # the channel is gone
    assert (ledger.log_bytes, ledger.keyed_bytes, ledger.pinned_bytes) == (0, 0, 210_000)
    assert [bytes(view) for view in views] == [frames[0], frames[1], frames[2], frames[2]]
    while views:
        views.pop()
    assert ledger.pinned_bytes == 0


@pytest.mark.parametrize("key", [None, 1.5, ["a"], ("a",), object()])
def test_what_cannot_be_a_key_cannot_be_forgotten_either(key):
    hub = Hub()
    hub.configure("x", policy="conflate")
    channel = hub.channel("x")
    for forget in (CompactLog(Ledger(), max_keys=1, max_snapshot_bytes=1).forget, channel.forget):
        with pytest.raises(TypeError, match="a key must be"):
            forget(key)
    for name in ("x", "no such channel"):
        with pytest.raises(TypeError, match="a key must be"):
            hub.forget(name, key)


# Bounds.


def make(max_keys=100, max_snapshot_bytes=100_000):
    return CompactLog(Ledger(), max_keys=max_keys, max_snapshot_bytes=max_snapshot_bytes)


def test_max_keys_may_be_reached_and_not_passed():
    log = make(max_keys=2)
    log.put(1, 10, "a", b"x" * 10)
    log.put(2, 20, "b", b"x" * 10)
    with pytest.raises(KeysFull) as caught:
        log.put(3, 30, "c", b"x" * 10)
    assert (caught.value.keys, caught.value.max_keys) == (2, 2)
    log.put(3, 30, "a", b"y" * 10)  # a key that is there needs no room
    assert log.read(0) == [(2, b"x" * 10), (3, b"y" * 10)]
    assert log.forget("b")
    log.put(4, 40, "c", b"x" * 10)
    assert log.keys == 2


@pytest.mark.parametrize(("key", "key_bytes"), [
    ("abc", 3), ("\xfc", 1), ("a\u20ac", 4), ("a\U0001f600", 8), (b"abc", 3), ("", 0), (5, 1), (256, 2), (-1, 1),
])
def test_max_snapshot_bytes_may_be_reached_and_not_passed(key, key_bytes):
    """It holds frames, keys, and 96 bytes for each."""
    log = make(max_snapshot_bytes=100 + key_bytes + ENTRY_BYTES)
    with pytest.raises(KeysFull) as caught:
        log.put(1, 1, key, bytes(101))
    assert (caught.value.keys, caught.value.wanted_bytes) == (0, caught.value.max_bytes + 1)
    log.put(1, 1, key, bytes(100))
    assert log.keyed_bytes == 100 + key_bytes + ENTRY_BYTES


def test_a_newer_message_takes_the_place_of_the_older_and_no_more():
    log = make(max_snapshot_bytes=2 * (100 + 1 + ENTRY_BYTES))
    log.put(1, 1, "a", bytes(100))
    log.put(2, 2, "b", bytes(60))
    log.put(3, 3, "a", bytes(140))
    with pytest.raises(KeysFull):
        log.put(4, 4, "a", bytes(141))
    assert log.read(0) == [(2, bytes(60)), (3, bytes(140))]
    log.put(4, 4, "b", bytes(60))


def test_messages_without_a_key_have_another_bound():
    log = make(max_keys=1, max_snapshot_bytes=1)
    for seq in range(100):
        log.put(seq, seq, None, bytes(50))
    assert log.keyless_bytes == 100 * (50 + ENTRY_BYTES)
    log.drop(100, 3 * (50 + ENTRY_BYTES))
    assert [seq for seq, _ in log.read(0)] == [97, 98, 99]
    log.drop(100, 3 * (50 + ENTRY_BYTES) - 1)
    assert [seq for seq, _ in log.read(0)] == [98, 99]
    log.drop(99, 0)
    assert [seq for seq, _ in log.read(0)] == [99]


def test_many_messages_of_few_keys_take_no_more_memory_than_the_keys():
    log = make()
    for seq in range(10_000):
        log.put(seq, seq, seq % 3, bytes(100))
        log.check_invariants()
    assert [seq for seq, _ in log.read(0)] == [9997, 9998, 9999]
    assert log.keyed_bytes == 3 * (100 + 1 + ENTRY_BYTES)


def test_a_compact_log_that_goes_leaves_nothing_in_the_ledger():
    ledger = Ledger()
    log = CompactLog(ledger, max_keys=10, max_snapshot_bytes=1000)
    log.put(1, 1, "a", bytes(100))
    log.put(2, 2, None, bytes(100))
    assert (ledger.log_bytes, ledger.keyed_bytes) == (2 * (100 + ENTRY_BYTES) + 1, 100 + ENTRY_BYTES + 1)
    del log
    gc.collect()
    assert (ledger.log_bytes, ledger.keyed_bytes) == (0, 0)


def test_the_keys_of_all_channels_have_a_bound_together():
    ledger = Ledger(max_keyed_bytes=2 * (100 + 1 + ENTRY_BYTES))
    one, two = (CompactLog(ledger, max_keys=10, max_snapshot_bytes=10_000) for _ in range(2))
    one.put(1, 1, "a", bytes(100))
    one.put(2, 2, None, bytes(5000))  # not of the keys
    with pytest.raises(KeysFull) as caught:
        two.put(1, 1, "b", bytes(101))
    assert (caught.value.wanted_bytes, caught.value.max_bytes) == (ledger.keyed_bytes * 2 + 1, ledger.keyed_bytes * 2)
    two.put(1, 1, "b", bytes(100))
    with pytest.raises(KeysFull):
        one.put(3, 3, "a", bytes(101))
    one.put(3, 3, "a", bytes(99))
    one.put(4, 4, "a", bytes(100))
    del one
    two.put(2, 2, "c", bytes(100))
    assert two.keys == 2


def test_keys_take_at_most_half_of_what_the_logs_may():
    hub = Hub(max_log_bytes=2000)
    hub.configure("*", policy="conflate")
    channels = [hub.channel(f"channel {number}") for number in range(3)]
    channels[0].publish(bytes(500 - 4), key="")  # with 96 bytes: 596
    with pytest.raises(KeysFull):
        channels[1].publish(bytes(309 - 4), key="")
    channels[2].publish(bytes(308 - 4), key="")  # 1000 in all
    assert hub.stats()["log_bytes"] == 1000
    assert hub.forget("channel 0", "")
    assert channels[1].publish(bytes(500 - 4), key="") == 1


# Keys.


class Text(str):
    """Could have a hash of its own, and so run code in the middle of a publish."""

    __slots__ = ()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("key", [1.0, True, (), ("a",), bytearray(b"a"), memoryview(b"a"), Text("a"), object()])
def test_what_is_no_str_bytes_or_int_is_no_key_on_any_channel(policy, key):
    hub = Hub()
    hub.configure("x", policy=policy)
    channel = hub.channel("x")
    with pytest.raises(TypeError, match=f"str, bytes or int, got {type(key).__name__}"):
        channel.publish("message", key=key)
    with pytest.raises(TypeError, match="str, bytes or int"):
        hub.publish_threadsafe("x", "message", key=key)
    assert channel.seq == hub.stats()["published_messages"] == 0


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("key", ["", "a", b"", b"\xff", 0, -(2**100)])
def test_str_bytes_and_int_are_keys_on_every_channel(policy, key):
    hub = Hub()
    hub.configure("x", policy=policy)
    channel = hub.channel("x")
    assert [channel.publish("one", key=key), channel.publish("two", key=key)] == [1, 2]
    # Only a channel that conflates keeps it: then there is something to forget, once.
    assert [channel.forget(key), channel.forget(key)] == [policy == "conflate", False]


def test_forgetting_a_key_that_was_never_there_says_so():
    hub = Hub()
    hub.configure("x", policy="conflate")
    channel = hub.channel("x")
    channel.publish("message", key="a")
    assert [hub.forget("x", "b"), hub.forget("x", b"a"), hub.forget("nowhere", "a")] == [False, False, False]
    assert hub.forget("x", "a")
    assert hub.channels() == [channel]  # and made no channel
