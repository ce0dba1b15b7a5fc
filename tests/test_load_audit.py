"""The fleet's account of every message, compared with a slow and obvious one."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from load_support import Loopback

from fastbcast.load._audit import Kind
from fastbcast.load._board import Board, find_bucket, value_of
from fastbcast.load.timeline import make_histogram

COUNTS = ("received", "missing", "skipped", "doubled", "reordered", "corrupt")


class Expected:
    """What one subscriber has of one stream, the obvious way."""

    def __init__(self, kind):
        self.kind = kind
        self.next_seq = None if kind == Kind.GUEST else 0
        self.joined_seq = 0
        self.missing = set()
        self.counts = dict.fromkeys(COUNTS, 0)

    def take(self, seq):
        if self.next_seq is None:
            self.next_seq = self.joined_seq = seq
        if seq < self.joined_seq:   # nobody knows whether it is the first of its kind
            self.counts["reordered"] += 1
            return
        if seq >= self.next_seq:
            self.missing |= set(range(self.next_seq, seq))
            self.next_seq = seq + 1
        elif seq in self.missing:
            self.missing.remove(seq)
            self.counts["reordered"] += 1
        else:
            self.counts["doubled"] += 1
            return
        self.counts["received"] += 1

    def finish(self, sent):
        if self.kind != Kind.SLOW and self.next_seq is not None:
            self.missing |= set(range(self.next_seq, sent))

    def read(self):
        return {**self.counts, "skipped" if self.kind == Kind.SLOW else "missing": len(self.missing)}


@st.composite
def histories(draw):
    """What a bad server makes of `sent` messages for each subscriber: kept, lost, doubled, swapped, damaged."""
    sent = draw(st.integers(1, 12))
    subscribers = []
    kinds = st.sampled_from([Kind.STEADY, Kind.STEADY, Kind.GUEST, Kind.SLOW])
    for kind in draw(st.lists(kinds, min_size=1, max_size=4)):
        seqs = draw(st.lists(st.integers(0, sent - 1), max_size=2 * sent))
        if draw(st.booleans()):
            seqs = sorted(seqs)
        damaged = draw(st.sets(st.integers(0, max(0, len(seqs) - 1)), max_size=2))
        subscribers.append((kind, seqs, damaged, draw(st.integers(1, 100))))
    return sent, subscribers


@given(histories())
def test_every_message_is_accounted_for_whatever_the_server_does(history):
    sent, subscribers = history
    with Loopback() as loopback:
        ends = [
            loopback.connect(kind, every_seconds=0.001 if kind == Kind.SLOW else 0) for kind, _, _, _ in subscribers
        ]
        publisher = loopback.connect(Kind.PUBLISHER)
        payloads = loopback.publish(publisher, sent)
        totals = dict.fromkeys(COUNTS, 0)
        sent_bytes = 0
        for (kind, seqs, damaged, piece_bytes), end in zip(subscribers, ends, strict=True):
            expected = Expected(kind)
            frames = []
            for at, seq in enumerate(seqs):
                payload = payloads[seq]
                if at in damaged:
                    payload = payload[:20] + bytes([payload[20] ^ 1]) + payload[21:]
                    expected.counts["corrupt"] += 1
                else:
                    expected.take(seq)
                frames.append(end.frame(payload))
            data = b"".join(frames)
            end.send_pieces(data, itertools.repeat(piece_bytes))
            expected.finish(sent)
            sent_bytes += len(data)
            for name, count in expected.read().items():
                totals[name] += count
        loopback.until(lambda: loopback.counts["wire_bytes"] == sent_bytes)
        loopback.fleet.finish()
        assert {name: loopback.counts[name] for name in COUNTS} == totals
        loopback.turn()
        assert loopback.fleet.under_way == 0


def test_a_message_is_under_way_until_every_steady_subscriber_has_it_or_has_left():
    with Loopback() as loopback:
        first, second = loopback.connect(), loopback.connect()
        slow = loopback.connect(Kind.SLOW, every_seconds=float("inf"))
        publisher = loopback.connect(Kind.PUBLISHER)
        payloads = loopback.publish(publisher, 3)
        assert loopback.fleet.under_way == 3
        first.send(*payloads)
        loopback.turn()
        assert loopback.fleet.under_way == 3
        second.send(payloads[0])
        loopback.turn()
        assert loopback.fleet.under_way == 2
        second.sock.close()
        loopback.until(lambda: loopback.fleet.is_done)
        assert loopback.counts["missing"] == 0
        assert not slow.is_at_end()


def test_what_is_written_off_is_missing_and_reordered_if_it_comes_after_all():
    with Loopback() as loopback:
        end = loopback.connect()
        publisher = loopback.connect(Kind.PUBLISHER)
        payloads = loopback.publish(publisher, 3)
        end.send(payloads[0])
        loopback.turn()
        loopback.board.write_off()
        loopback.until(lambda: loopback.fleet.is_done)
        assert loopback.counts["missing"] == 2
        end.send(payloads[2])
        loopback.until(lambda: loopback.counts["reordered"] == 1)
        assert loopback.counts["missing"] == 1


def test_two_streams_of_a_channel_are_told_apart():
    with Loopback(Board(1, 4), channels=2) as loopback:
        ends = [loopback.connect(at=channel) for channel in (0, 1)]
        publishers = [loopback.connect(Kind.PUBLISHER, at=stream) for stream in range(4)]
        loopback.fleet.start(8, in_flight=2)
        payloads = [[], [], [], []]

        def has_all():
            for stream, publisher in enumerate(publishers):
                payloads[stream] += [payload for _, payload in publisher.read_frames()]
            return sum(map(len, payloads)) == 8

        loopback.until(has_all)
        ends[0].send(payloads[0][0], payloads[2][0], payloads[0][1], payloads[2][1])
        ends[1].send(payloads[3][0], payloads[3][1], payloads[1][0], payloads[0][0])  # the last is not its channel's
        loopback.until(lambda: loopback.counts["received"] == 7)
        loopback.until(lambda: loopback.counts["corrupt"] == 1)
        assert loopback.fleet.under_way == 1
        loopback.fleet.finish()
        assert loopback.counts["missing"] == 1


def test_more_gaps_than_are_remembered_still_count_as_missing():
    with Loopback(payload_bytes=40) as loopback:
        end = loopback.connect()
        publisher = loopback.connect(Kind.PUBLISHER)
        payloads = loopback.publish(publisher, 2400)
        for start in range(0, 2400, 100):
            end.send(*payloads[start : start + 100 : 2])
            loopback.turn()
        loopback.until(lambda: loopback.counts["received"] == 1200)
        loopback.fleet.finish()
        assert loopback.counts["missing"] == 1200
        end.send(payloads[1], payloads[2399], payloads[0])
        loopback.until(lambda: loopback.counts["reordered"] == 3)
        assert loopback.counts["doubled"] == 0    # of those too old to know
        assert loopback.counts["missing"] == 1199


def test_a_message_of_another_run_or_from_the_future_is_corrupt():
    with Loopback() as loopback, Loopback() as other:
        publisher = other.connect(Kind.PUBLISHER)
        foreign = other.publish(publisher, 2)
        end = loopback.connect()
        own = loopback.publish(loopback.connect(Kind.PUBLISHER), 2)
        end.send(foreign[0], own[0] + b"x", own[0][:39], b"", own[0])
        loopback.until(lambda: loopback.counts["received"] == 1)
        assert loopback.counts["corrupt"] == 4


def test_completion_is_when_the_last_subscriber_of_all_processes_has_it():
    board = Board(2, 1)
    with Loopback(board) as first, Loopback(board, process=1) as second:
        near, far = first.connect(), second.connect()
        payloads = first.publish(first.connect(Kind.PUBLISHER), 2)
        near.send(*payloads)
        first.turn()
        assert first.fleet.under_way == 2
        far.send(payloads[0])
        second.turn()
        first.turn()
        assert first.fleet.under_way == 1
        far.send(payloads[1])
        second.turn()
        first.turn()
        assert first.fleet.is_done
        assert board.read()["received"] == 4


def test_only_the_window_is_measured():
    with Loopback() as loopback:
        end = loopback.connect()
        publisher = loopback.connect(Kind.PUBLISHER)
        end.send(*loopback.publish(publisher, 3))
        loopback.until(lambda: loopback.fleet.is_done)
        assert not loopback.board.read_histogram("delivery")
        loopback.board.start_window(1)
        end.send(*loopback.publish(publisher, 2))
        loopback.until(lambda: loopback.fleet.is_done)
        counts = loopback.counts
        assert (counts["received"], counts["measured"], counts["frames"]) == (5, 2, 2)
        for name in ("delivery", "completion", "spread"):
            assert sum(loopback.board.read_histogram(name).values()) == 2, name


def test_messages_of_an_open_loop_carry_the_time_they_were_due():
    with Loopback() as loopback:
        publisher = loopback.connect(Kind.PUBLISHER)
        loopback.connect()
        payloads = loopback.publish(publisher, 5, rate=1000)
        times = [int(payload[16:32], 16) for payload in payloads]
        assert [later - sooner for sooner, later in itertools.pairwise(times)] == [1_000_000] * 4


def test_no_more_is_published_than_is_in_flight():
    with Loopback() as loopback:
        publisher = loopback.connect(Kind.PUBLISHER)
        end = loopback.connect()
        loopback.fleet.start(10, in_flight=3)
        loopback.until(lambda: loopback.fleet.scheduled == 3)
        loopback.turn()
        assert loopback.fleet.scheduled == 3
        payloads = [payload for _, payload in publisher.read_frames()]
        end.send(payloads[0])
        loopback.until(lambda: loopback.fleet.scheduled == 4)
        loopback.turn()
        assert loopback.fleet.scheduled == 4


@pytest.mark.parametrize(("judge_all", "published"), [(True, 1), (False, 2)])
def test_the_judge_says_whose_arrival_counts(judge_all, published):
    with Loopback() as loopback:
        publisher = loopback.connect(Kind.PUBLISHER)
        quick, _ = loopback.connect(), loopback.connect()
        loopback.fleet.start(10, in_flight=1, judge_all=judge_all)
        loopback.until(lambda: loopback.fleet.scheduled == 1)
        loopback.turn()
        quick.send(publisher.read_frames()[0][1])
        loopback.turn()
        loopback.turn()
        assert loopback.fleet.scheduled == published


@given(st.integers(0, 2**64 - 1))
def test_buckets_are_those_of_the_histogram_library(value):
    bucket = find_bucket(value)
    histogram = make_histogram({min(value, 4_398_046_511_103): 1})
    assert histogram.get_count_at_index(bucket) == 1
    assert value_of(bucket) == histogram.get_lowest_equivalent_value(min(value, 4_398_046_511_103))


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [((0, 1), "process"), ((1, 0), "publishers"), ((1, 65537), "publishers")],
)
def test_a_board_refuses_what_it_cannot_hold(arguments, problem):
    with pytest.raises(ValueError, match=problem):
        Board(*arguments)


def test_in_flight_has_the_board_as_its_bound():
    with Loopback(Board(1, 4096), channels=1) as loopback, pytest.raises(ValueError, match="at most 256"):
        loopback.fleet.start(1, in_flight=257)
