"""_log against a list of frames (reference.Log), with random schedules."""

import reference
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fastbcast.log._log import Log

SIZES = st.one_of(st.integers(0, 300), st.sampled_from([0, 125, 126, 1000, 60_000, 65_536, 200_000]))


class LogMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.log = Log()
        self.model = reference.Log()
        self.views = []
        self.count = 0

    @rule(size=SIZES)
    def append(self, size):
        self.count += 1
        payload = bytes([self.count % 256]) * size
        assert self.log.add(payload) == self.model.append(reference.encode_frame(reference.BINARY, payload))

    @rule(share=st.floats(0, 1))
    def trim_to_a_frame_boundary(self, share):
        boundaries = [self.model.head, *self.model.ends()]
        offset = boundaries[int(share * (len(boundaries) - 1))]
        self.log.drop_before(offset)
        self.model.trim(offset)

    @rule()
    def trim_all(self):
        self.log.drop_before(self.model.tail)
        self.model.trim(self.model.tail)

    @rule(share=st.floats(0, 1))
    def look_up(self, share):
        if not self.model.frames:
            return
        offset = self.model.head + int(share * (self.model.tail - self.model.head - 1))
        end = self.model.frame_end(offset)
        index = sum(end <= offset for end in self.model.ends())
        start = end - len(self.model.frames[index])
        assert self.log.locate(offset) == (self.model.next_seq - len(self.model.frames) + index, start, end)
        assert self.log.read(offset) == self.model.read(offset)
        view = self.log.get_view(offset, end)
        self.views.append((view, bytes(view)))
        assert bytes(view) == self.model.read(offset)[: end - offset]

    @rule()
    def forget_views(self):
        self.views.clear()

    @invariant()
    def agrees_with_the_model(self):
        self.log.check_invariants()
        assert (self.log.head, self.log.tail) == (self.model.head, self.model.tail)
        assert self.log.next_seq == self.model.next_seq
        assert self.log.read(self.log.head) == self.model.read(self.model.head)

    @invariant()
    def views_never_change(self):
        for view, data in self.views:
            assert bytes(view) == data


TestLog = LogMachine.TestCase


def test_an_idle_log_holds_at_most_a_kibibyte():
    log = Log()
    log.add(b"x" * 200_000)
    for _ in range(1000):
        log.add(b"y" * 100)
    log.drop_before(log.tail)
    assert log.allocated_bytes <= 1024


def test_a_quiet_channel_fits_in_a_kibibyte():
    log = Log()
    log.add(b"x" * 128)
    assert log.allocated_bytes <= 512


@given(st.integers(1, 2000))
def test_a_steady_load_stops_allocating(size):
    log = Log()
    held = []
    for _ in range(8):
        for _ in range(20):
            log.add(b"x" * size)
        held.append(log.allocated_bytes)
        log.drop_before(log.tail)
    # Sized by the bursts before, one segment is enough: at most twice what a burst needs, rounded up.
    assert held[-1] <= 2 * 20 * (size + 4) + 256 or held[-1] <= 2 * 65536
