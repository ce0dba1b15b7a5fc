"""A server that breaks the rules, or stops in the middle: the load ends, in bounds, and says so."""

import socket
import struct
import zlib
from contextlib import closing

import pytest
from load_support import PAYLOAD_BYTES, RESPONSE, Loopback, make_key
from reference import BINARY, CLOSE, PING, PONG, TEXT, close_payload, encode_frame

from fastbcast.load._audience import Audience
from fastbcast.load._audit import Kind
from fastbcast.load._board import Board

# Handshakes.


def refuse(loopback, answer):
    end = loopback.begin()
    loopback.until(lambda: b"\r\n\r\n" in end.read())
    before = loopback.counts["refused"]
    end.sock.sendall(answer)
    loopback.until(lambda: loopback.counts["refused"] == before + 1)


@pytest.mark.parametrize("extension", [b"permessage-deflate", b"x-other; y=1"])
def test_an_extension_that_was_not_offered_is_refused(extension):
    with Loopback() as loopback:
        end = loopback.begin()
        loopback.until(lambda: b"\r\n\r\n" in end.read())
        end.answer(b"Sec-WebSocket-Extensions: " + extension)
        loopback.until(lambda: loopback.counts["refused"] == 1)
        assert loopback.fleet.read_problems() == {"the answer has an extension that was not offered": 1}


def test_a_subprotocol_that_was_not_offered_is_refused():
    with Loopback() as loopback:
        refused, offered = loopback.begin(), loopback.begin(offer=b"Sec-WebSocket-Protocol: a\r\n")
        for end in (refused, offered):
            loopback.until(lambda end=end: b"\r\n\r\n" in end.read())
            end.answer(b"Sec-WebSocket-Protocol: a")
        loopback.until(lambda: loopback.fleet.is_open(offered.number))
        loopback.until(lambda: loopback.counts["refused"] == 1)
        assert loopback.fleet.read_problems() == {"the answer has a subprotocol that was not offered": 1}


def test_interim_answers_of_any_number_take_no_memory():
    with Loopback() as loopback:
        end = loopback.begin()
        loopback.until(lambda: b"\r\n\r\n" in end.read())
        for _ in range(2000):
            end.sock.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: " + b"x" * 100 + b"\r\n\r\n")
            loopback.turn()
        end.answer()
        loopback.until(lambda: loopback.fleet.is_open(end.number))


def test_what_a_server_answers_cannot_move_the_terminals_cursor():
    with Loopback() as loopback:
        refuse(loopback, b"HTTP/1.1 403 \x1b[2J\x07\x9b1A no\r\n\r\n")
        assert loopback.fleet.read_problems() == {"HTTP/1.1 403 ?[2J??1A no": 1}


def test_a_server_with_a_reason_for_each_refusal_does_not_fill_the_memory():
    with Loopback() as loopback:
        for number in range(70):
            refuse(loopback, b"HTTP/1.1 503 request %d\r\n\r\n" % number)
        problems = loopback.fleet.read_problems()
        assert len(problems) == 65
        assert problems["other reasons"] == 6


def test_who_began_a_moment_ago_is_not_given_up():
    with Loopback() as loopback:
        end = loopback.begin()
        loopback.fleet.give_up_connecting(3600)
        assert loopback.fleet.connecting == 1
        loopback.fleet.give_up_connecting()
        assert loopback.fleet.connecting == 0
        assert end.is_at_end()


# Frames.


@pytest.mark.parametrize(
    "frame",
    [
        encode_frame(PING, b"in fragments", fin=False),
        encode_frame(PING, b"x" * 126),
        encode_frame(PONG, b"x" * 126),
        encode_frame(PONG, b"", rsv=4),
        encode_frame(CLOSE, close_payload(1000, "x" * 124)),
    ],
)
def test_control_frames_that_may_not_be_are_corrupt_and_not_answered(frame):
    with Loopback() as loopback:
        end = loopback.connect()
        end.sock.sendall(frame)
        loopback.until(lambda: loopback.counts["corrupt"] == 1)
        assert loopback.fleet.is_open(end.number)
        assert end.read_frames() == []


def test_pings_of_a_server_that_does_not_read_are_answered_up_to_a_bound():
    with Loopback() as loopback:
        end = loopback.connect()
        pings = encode_frame(PING, b"x" * 125) * 1000
        for _ in range(30):     # far more than the kernel holds of the answers
            end.send_pieces(pings, iter(lambda: 65536, None))
        loopback.turn()
        pongs = 0
        while frames := end.read_frames():
            pongs += len(frames)
            loopback.turn()
        assert 512 < pongs < 10_000
        end.sock.sendall(encode_frame(PING, b"it reads again"))
        loopback.until(lambda: end.read_frames() == [(PONG, b"it reads again")])


def test_what_no_published_message_can_be_is_not_waited_for():
    """Or thousands of clients would hold 64 MiB each of a server that writes lengths wrong."""
    announced = struct.pack("!BBQ", 0x82, 127, 262_145)
    with Loopback() as loopback:
        end = loopback.connect()
        end.sock.sendall(announced)
        loopback.until(lambda: loopback.counts["lost"] == 1)
        assert loopback.counts["corrupt"] == 1
        fragmented = loopback.connect()
        fragment = encode_frame(BINARY, bytes(65536), fin=False)
        fragmented.send_pieces(fragment, iter(lambda: 65536, None))
        rest = encode_frame(0, bytes(65536), fin=False)
        for _ in range(3):
            fragmented.send_pieces(rest, iter(lambda: 65536, None))
        loopback.until(lambda: not fragmented.read() and loopback.fleet.is_open(fragmented.number))
        fragmented.sock.sendall(encode_frame(0, b"x", fin=False))
        loopback.until(lambda: loopback.counts["lost"] == 2)
    with Loopback(prefix=b"") as listening:     # here nobody knows
        end = listening.connect()
        end.sock.sendall(announced)
        listening.turn()
        assert listening.fleet.is_open(end.number)


def connect_with_deflate(loopback):
    end = loopback.begin(offer=b"Sec-WebSocket-Extensions: permessage-deflate\r\n")
    loopback.until(lambda: b"\r\n\r\n" in end.read())
    end.answer(b"Sec-WebSocket-Extensions: permessage-deflate")
    loopback.until(lambda: loopback.fleet.is_open(end.number))
    return end


def test_a_message_that_ends_its_deflate_stream_is_not_the_last():
    with Loopback() as loopback:
        publisher = loopback.connect(Kind.PUBLISHER)
        end = connect_with_deflate(loopback)
        for payload in loopback.publish(publisher, 3):
            deflater = zlib.compressobj(wbits=-15)
            data = deflater.compress(payload) + deflater.flush(zlib.Z_FINISH)     # RFC 7692 section 7.2.3.4
            end.sock.sendall(encode_frame(TEXT, data + b"\0", rsv=4))
        loopback.until(lambda: loopback.counts["received"] == 3)
        assert loopback.counts["corrupt"] == 0


# Publishing.


def test_a_publisher_that_is_lost_does_not_stop_the_others_of_an_open_loop():
    with Loopback(Board(1, 2)) as loopback:
        lost, publisher = loopback.connect(Kind.PUBLISHER, 0), loopback.connect(Kind.PUBLISHER, 1)
        loopback.fleet.start(0)
        lost.sock.close()
        loopback.until(lambda: loopback.fleet.open_publishers == 1)
        loopback.fleet.start(10, rate=1e6)
        loopback.until(lambda: loopback.fleet.scheduled == 10)
        assert loopback.counts["published"] == 5
        loopback.until(lambda: len(publisher.read_frames()) == 5)


def test_what_a_server_does_not_read_blocks_its_publisher():
    with Loopback(payload_bytes=1_000_000) as loopback:
        publisher, _ = loopback.connect(Kind.PUBLISHER), loopback.connect()
        assert not loopback.fleet.is_blocked
        loopback.fleet.start(1)
        loopback.until(lambda: loopback.fleet.scheduled == 1)
        assert loopback.fleet.is_blocked
        loopback.until(lambda: len(publisher.read()) > 1_000_000)
        assert not loopback.fleet.is_blocked


# The clients of tests.


def test_text_that_is_no_utf8_is_handed_over_and_what_came_with_it_too():
    audience = Audience(Board(1, 1), 0, 1, PAYLOAD_BYTES, 1, max_kept_bytes=1000)
    ours, theirs = socket.socketpair()
    with closing(audience), theirs:
        ours.setblocking(False)
        _, accept = make_key()
        audience.add(ours.detach(), Kind.STEADY, 0, b"GET /\r\n\r\n", accept)
        theirs.sendall(RESPONSE + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
        theirs.sendall(b"".join(encode_frame(TEXT, payload) for payload in (b"before", b"\xff\xfe", b"after")))
        while audience.read_counts() != [3]:
            audience.listen(0.001)
        assert audience.take_kept() == [(0, "before"), (0, "\udcff\udcfe"), (0, "after")]
