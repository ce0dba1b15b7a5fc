"""What comes compressed is inflated once for all that got the same, and judged as if each had its own inflater."""

import random
import zlib

import pytest
from load_support import Loopback
from reference import TEXT, encode_frame

from fastbcast.load._audit import Kind
from fastbcast.load.payload import make_bodies

EXTENSION = b"Sec-WebSocket-Extensions: permessage-deflate"


class Deflater:
    """A server's compressor of one connection, RFC 7692 section 7.2.1."""

    def __init__(self, is_alone=False):
        self.is_alone = is_alone
        self.compressor = zlib.compressobj(wbits=-15)

    def frame(self, payload, ended_bytes=None):
        """A stream ends behind `ended_bytes` of it (section 7.2.3.4), and a new one begins."""
        ended = b""
        if self.is_alone:
            self.compressor = zlib.compressobj(wbits=-15)
        if ended_bytes is not None:
            ended = self.compressor.compress(payload[:ended_bytes]) + self.compressor.flush()
            self.compressor = zlib.compressobj(wbits=-15)
            payload = payload[ended_bytes:]
        data = self.compressor.compress(payload) + self.compressor.flush(zlib.Z_SYNC_FLUSH)
        return encode_frame(TEXT, ended + data[:-4], rsv=4)


def connect(loopback, *, kind=Kind.STEADY, is_alone=False):
    end = loopback.begin(kind, offer=EXTENSION + b"\r\n")
    loopback.until(lambda: b"\r\n\r\n" in end.read())
    end.answer(EXTENSION + (b"; server_no_context_takeover" if is_alone else b""))
    loopback.until(lambda: loopback.fleet.is_open(end.number))
    return end


def make_loopback(payload_bytes=128):
    return Loopback(payload_bytes=payload_bytes, bodies=make_bodies("ticks", payload_bytes - 40))


def until_received(loopback, count):
    loopback.until(lambda: loopback.counts["received"] + loopback.counts["corrupt"] >= count)
    assert (loopback.counts["received"], loopback.counts["corrupt"]) == (count, 0)


@pytest.mark.parametrize("is_alone", [False, True])
def test_clients_that_get_the_same_share_an_inflater(is_alone):
    with make_loopback() as loopback:
        publisher = loopback.connect(Kind.PUBLISHER)
        ends = [connect(loopback, is_alone=is_alone) for _ in range(5)]
        deflater = Deflater(is_alone)
        frames = [deflater.frame(payload) for payload in loopback.publish(publisher, 200)]
        for number, end in enumerate(ends):     # one is far ahead of the next
            end.sock.sendall(b"".join(frames[: 40 * (number + 1)]))
            loopback.turn()
        for number, end in enumerate(ends):
            end.sock.sendall(b"".join(frames[40 * (number + 1) :]))
        until_received(loopback, 5 * 200)
        assert loopback.counts["compressed"] == 5 * 200
        assert loopback.counts["plain_bytes"] == 5 * 200 * (128 + 4)
        assert loopback.counts["wire_bytes"] == 5 * len(b"".join(frames))
        assert loopback.fleet.inflaters == 1


def test_a_client_that_gets_something_else_goes_on_alone():
    """Its own compressor knows what came before, more than a window of it."""
    with make_loopback() as loopback:
        publisher = loopback.connect(Kind.PUBLISHER)
        ends = [connect(loopback) for _ in range(3)]
        deflaters = [Deflater() for _ in ends]
        for number, payload in enumerate(loopback.publish(publisher, 500)):
            for end, deflater in zip(ends, deflaters, strict=True):
                if number == 400 and end is ends[1]:    # RSV1 = 0: in nobody's window
                    end.sock.sendall(encode_frame(TEXT, payload))
                else:
                    end.sock.sendall(deflater.frame(payload))
            loopback.turn()
        until_received(loopback, 3 * 500)
        assert loopback.fleet.inflaters == 2


@pytest.mark.parametrize("seed", range(6))
def test_it_is_as_if_each_client_had_its_own_inflater(seed):
    """Clients that lag, that leave the others' way at any time, and get plain messages and ends of streams between."""
    chance = random.Random(seed)
    size = chance.choice([60, 128, 700, 40_000])
    with make_loopback(size) as loopback:
        publisher = loopback.connect(Kind.PUBLISHER)
        payloads = loopback.publish(publisher, 120)
        ends, streams = [], []
        common = Deflater()
        steps = [chance.choice(["plain", "compressed", "compressed", "compressed", "finished"]) for _ in payloads]
        ends_of_streams = [chance.randrange(size + 1) if form == "finished" else None for form in steps]
        shared = [
            encode_frame(TEXT, payload) if form == "plain" else common.frame(payload, ended_bytes)
            for payload, form, ended_bytes in zip(payloads, steps, ends_of_streams, strict=True)
        ]
        for number in range(6):
            ends.append(connect(loopback, kind=Kind.GUEST if number == 5 else Kind.STEADY))
            parting = chance.randrange(240)     # past the end: never
            own = Deflater()
            frames = []
            for at, (payload, form) in enumerate(zip(payloads, steps, strict=True)):
                if at >= parting:
                    frames.append(own.frame(payload))
                elif form == "plain":
                    frames.append(shared[at])
                else:
                    frames.append(own.frame(payload, ends_of_streams[at]))
                    assert frames[-1] == shared[at]
            streams.append(b"".join(frames))
        while any(streams):
            at = chance.choice([number for number, stream in enumerate(streams) if stream])
            piece, streams[at] = streams[at][:5000], streams[at][5000:]
            piece, rest = piece[: chance.randrange(1, 5000)], piece
            streams[at] = rest[len(piece) :] + streams[at]
            ends[at].send_pieces(piece, iter([len(piece)] * 1000))
        until_received(loopback, 6 * 120)


def test_a_message_that_was_left_out_is_no_reason_to_believe_the_next_one():
    """The same bytes that were right for another client: in this one's window they mean something else."""
    with make_loopback() as loopback:
        publisher = loopback.connect(Kind.PUBLISHER)
        ends = [connect(loopback) for _ in range(2)]
        deflater = Deflater()
        frames = [deflater.frame(payload) for payload in loopback.publish(publisher, 3)]
        ends[0].sock.sendall(b"".join(frames))
        until_received(loopback, 3)
        ends[1].sock.sendall(frames[0] + frames[2])
        loopback.until(lambda: loopback.counts["compressed"] == 5)
        assert (loopback.counts["received"], loopback.counts["corrupt"]) == (4, 1)
        assert loopback.fleet.inflaters == 2


def test_a_message_alone_in_the_midst_of_a_window_is_found():
    """RFC 7692's trap: it inflates, and shifts the window, so the next one is wrong without an error of zlib's."""
    with make_loopback() as loopback:
        publisher = loopback.connect(Kind.PUBLISHER)
        ends = [connect(loopback) for _ in range(3)]
        window = Deflater()
        payloads = loopback.publish(publisher, 12)
        for number, payload in enumerate(payloads):
            if number == 5:     # it is right, though there twice
                ends[2].sock.sendall(Deflater().frame(payloads[0]))
            frame = window.frame(payload)
            for end in ends:
                end.sock.sendall(frame)
            loopback.turn()
        loopback.until(lambda: loopback.counts["compressed"] == 37)
        assert loopback.counts["doubled"] == 1
        assert loopback.counts["corrupt"] > 0
        assert loopback.counts["received"] + loopback.counts["corrupt"] == 36


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff", b"\x00\x05\x00\xfa\xff", b"\x04"])
def test_what_cannot_be_inflated_is_corrupt_for_the_client_that_got_it(garbage):
    """Reserved block type; a stored block and a block of which not all is there: no message ends so, section 7.2.1."""
    with make_loopback() as loopback:
        publisher = loopback.connect(Kind.PUBLISHER)
        ends = [connect(loopback) for _ in range(3)]
        deflater = Deflater()
        frames = [deflater.frame(payload) for payload in loopback.publish(publisher, 4)]
        for end in ends:
            end.sock.sendall(frames[0])
        until_received(loopback, 3)
        ends[0].sock.sendall(encode_frame(TEXT, garbage, rsv=4))
        loopback.until(lambda: loopback.counts["corrupt"] == 1)
        for end in ends:
            end.sock.sendall(b"".join(frames[1:]))
        loopback.until(lambda: loopback.counts["compressed"] == 3 + 1 + 9)
        assert loopback.counts["received"] == 3 + 6     # the first has lost its way, and says so
        assert loopback.counts["corrupt"] == 1 + 3


def deflate_without_an_end(payload):
    """One block of fixed codes (RFC 1951 section 3.2.6) without its end: what is appended looks like one."""
    bits = [0, 1, 0] + [0x30 + letter >> at & 1 for letter in payload for at in range(7, -1, -1)]
    bits += [0] * (-len(bits) % 8)
    return bytes(sum(bit << at for at, bit in enumerate(bits[start : start + 8])) for start in range(0, len(bits), 8))


def test_a_message_that_does_not_end_where_a_block_ends_is_corrupt():
    """It inflates to what was published, and leaves the inflater in the midst of a block."""
    with make_loopback() as loopback:
        publisher, end = loopback.connect(Kind.PUBLISHER), connect(loopback)
        (payload,) = loopback.publish(publisher, 1)
        data = deflate_without_an_end(payload)
        assert zlib.decompressobj(wbits=-15).decompress(data + b"\x00\x00\xff\xff") == payload
        end.sock.sendall(encode_frame(TEXT, data, rsv=4))
        loopback.until(lambda: loopback.counts["compressed"] == 1)
        assert (loopback.counts["received"], loopback.counts["corrupt"]) == (0, 1)


@pytest.mark.parametrize("block", [b"\x00\x04\x00\xfb\xff", b"\x01\x04\x00\xfb\xff"])
def test_the_bytes_that_senders_leave_out_do_not_fill_up_a_block(block):
    with Loopback(prefix=b"") as loopback:
        connect(loopback).sock.sendall(encode_frame(TEXT, block, rsv=4))
        loopback.until(lambda: loopback.counts["compressed"] == 1)
        assert (loopback.counts["received"], loopback.counts["corrupt"]) == (0, 1)


@pytest.mark.parametrize("ended_bytes", [64, 128])
@pytest.mark.parametrize("is_first_remembered", [False, True])
def test_who_parts_remembers_nothing_from_before_the_end_of_a_stream(ended_bytes, is_first_remembered):
    """The second message has that end: neither what comes before it there, nor the first message."""
    with make_loopback() as loopback:
        publisher = loopback.connect(Kind.PUBLISHER)
        ends = [connect(loopback) for _ in range(2)]
        payloads = loopback.publish(publisher, 4)
        deflater, wrong = Deflater(), Deflater()
        wrong.frame(payloads[0] + payloads[1][ended_bytes:] if is_first_remembered else payloads[1])
        common = deflater.frame(payloads[0]) + deflater.frame(payloads[1], ended_bytes)
        ends[0].sock.sendall(common + deflater.frame(payloads[2]))
        ends[1].sock.sendall(common + encode_frame(TEXT, payloads[2]))
        until_received(loopback, 6)
        ends[1].sock.sendall(wrong.frame(payloads[3]))
        loopback.until(lambda: loopback.counts["compressed"] == 6)
        assert (loopback.counts["received"], loopback.counts["corrupt"]) == (6, 1)


def test_who_comes_when_messages_have_come_to_others_does_not_join_them():
    with Loopback(prefix=b"") as loopback:
        first = connect(loopback)
        first.sock.sendall(Deflater().frame(b"before"))
        until_received(loopback, 1)
        second, third = connect(loopback), connect(loopback)
        assert loopback.fleet.inflaters == 2
        deflater = Deflater()
        for frame in [deflater.frame(bytes([number]) * 1000) for number in range(100)]:
            second.sock.sendall(frame)
            third.sock.sendall(frame)
        until_received(loopback, 201)
        assert loopback.fleet.inflaters == 2


def test_alone_a_message_that_cannot_be_inflated_is_the_only_one():
    with make_loopback() as loopback:
        publisher = loopback.connect(Kind.PUBLISHER)
        end = connect(loopback, is_alone=True)
        frames = [Deflater().frame(payload) for payload in loopback.publish(publisher, 2)]
        end.sock.sendall(encode_frame(TEXT, b"\xff\xff\xff", rsv=4) + b"".join(frames))
        loopback.until(lambda: loopback.counts["received"] == 2)
        assert loopback.counts["corrupt"] == 1


def test_who_is_far_behind_does_not_make_the_load_keep_everything():
    with Loopback(prefix=b"") as loopback:
        ends = [connect(loopback) for _ in range(2)]
        deflater = Deflater()
        frames = [deflater.frame(bytes([number]) * 1_000_000) for number in range(80)]
        ends[0].send_pieces(b"".join(frames), iter([4096] * 1000))
        until_received(loopback, 80)
        assert loopback.fleet.inflaters == 2
        ends[1].send_pieces(b"".join(frames), iter([4096] * 1000))
        until_received(loopback, 160)


def test_those_who_come_and_go_or_read_late_have_their_own():
    with make_loopback() as loopback:
        loopback.connect(Kind.PUBLISHER)
        ends = [connect(loopback, kind=kind) for kind in (Kind.STEADY, Kind.STEADY, Kind.GUEST, Kind.SLOW)]
        assert loopback.fleet.inflaters == 3
        for end in ends:
            loopback.fleet.leave(end.number, is_abrupt=True)
        assert loopback.fleet.inflaters == 0


def test_bodies_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="power of two"):
        Loopback(bodies=(b"x" * 24,) * 3)
    with pytest.raises(ValueError, match="24 bytes"):
        Loopback(bodies=(b"x" * 23,))


@pytest.mark.parametrize("body_bytes", [0, 24, 88, 984, 65_496, 3_000_000])
def test_bodies_are_not_the_same_again_within_a_window(body_bytes):
    bodies = make_bodies("ticks", body_bytes)
    assert {len(body) for body in bodies} == {body_bytes}
    assert len(bodies) & (len(bodies) - 1) == 0
    if body_bytes:
        assert len(bodies) * body_bytes > 32 * 1024
    if body_bytes >= 984:   # a shorter one ends before what no other one has
        assert len(set(bodies)) == len(bodies)
    assert make_bodies("letters", body_bytes) == (bytes(97 + at % 26 for at in range(body_bytes)),)
