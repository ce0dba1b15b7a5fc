"""The fleet's connections, with the test as their server."""

import gc
import itertools
import os
import socket
import struct
import zlib

import pytest
from conftest import seconds
from hypothesis import given, settings
from hypothesis import strategies as st
from load_support import PAYLOAD_BYTES, Loopback, make_key
from reference import BINARY, CLOSE, PING, PONG, TEXT, close_payload, encode_frame

from fastbcast.load._audience import Audience
from fastbcast.load._audit import Kind
from fastbcast.load._board import Board
from fastbcast.load._fleet import Fleet

# Handshakes.


def test_a_connection_is_open_when_the_right_answer_is_complete():
    with Loopback() as loopback:
        end = loopback.begin()
        loopback.until(lambda: b"\r\n\r\n" in end.read())
        response = b"HTTP/1.1 101 Whatever\r\nsec-websocket-accept:  " + end.accept + b" \r\n\r\n"
        for byte in response:
            assert not loopback.fleet.is_open(end.number)
            end.sock.sendall(bytes([byte]))
            loopback.turn()
        assert loopback.fleet.is_open(end.number)
        assert loopback.counts["opened"] == loopback.counts["open"] == 1
        assert loopback.counts["wire_bytes"] == 0


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 403 Forbidden"),
        (b"HTTP/1.1 503 \xff\r\n\r\n", "HTTP/1.1 503 ÿ"),
        (b"HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\n\r\n", "Sec-WebSocket-Accept is missing or wrong"),
        (
            b"HTTP/1.1 101 Yes\r\nSec-WebSocket-Accept: " + b"A" * 28 + b"\r\n\r\n",
            "Sec-WebSocket-Accept is missing or wrong",
        ),
        (b"garbage\r\n\r\n", "garbage"),
        (b"\r\n\r\n", ""),
        (b"HTTP/1.1 101 Yes\r\nX: " + b"y" * 20000, "the response's head is too long"),
        (None, "the connection was closed during the handshake"),
    ],
)
def test_a_handshake_that_fails_says_why(answer, problem):
    with Loopback() as loopback:
        end = loopback.begin()
        loopback.until(lambda: b"\r\n\r\n" in end.read())
        if answer is None:
            end.sock.close()
        else:
            end.sock.sendall(answer)
        loopback.until(lambda: loopback.counts["refused"] == 1)
        assert loopback.fleet.read_problems() == {problem: 1}
        assert loopback.fleet.connecting == 0
        assert loopback.counts["opened"] == loopback.counts["lost"] == 0


def test_who_does_not_answer_is_given_up():
    with Loopback() as loopback:
        end = loopback.begin()
        loopback.until(lambda: b"\r\n\r\n" in end.read())
        loopback.fleet.give_up_connecting()
        assert loopback.fleet.read_problems() == {"no answer to the handshake": 1}
        assert end.is_at_end()


def test_a_refused_connect_says_why():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    with Loopback() as loopback:
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(address)
        loopback.fleet.add(sock.detach(), Kind.STEADY, 0, b"GET / HTTP/1.1\r\n\r\n", make_key()[1])
        loopback.until(lambda: loopback.counts["refused"] == 1)
        assert loopback.fleet.read_problems() == {"Connection refused": 1}


def test_messages_right_behind_the_response_are_not_lost():
    with Loopback() as loopback:
        publisher = loopback.connect(Kind.PUBLISHER)
        end = loopback.begin()
        loopback.until(lambda: b"\r\n\r\n" in end.read())
        payloads = loopback.publish(publisher, 2)
        end.answer(after=b"".join(map(end.frame, payloads)))
        loopback.until(lambda: loopback.counts["received"] == 2)


def test_there_is_room_for_so_many_and_a_number_is_used_again():
    with Loopback(capacity=2) as loopback:
        ends = [loopback.connect(), loopback.connect()]
        assert not loopback.fleet.has_room()
        pair = socket.socketpair()
        with pair[0], pair[1], pytest.raises(ValueError, match="room for 2"):
            loopback.fleet.add(pair[0].detach(), Kind.STEADY, 0, b"", make_key()[1])
        assert loopback.fleet.leave(ends[0].number, is_abrupt=True)
        assert not loopback.fleet.leave(ends[0].number)
        assert loopback.connect().number == ends[0].number


@pytest.mark.parametrize(("kind", "at"), [(Kind.STEADY, 1), (Kind.PUBLISHER, 1), (9, 0)])
def test_what_there_is_not_is_refused(kind, at):
    pair = socket.socketpair()
    with Loopback() as loopback, pair[0], pair[1], pytest.raises(ValueError, match="no channel, stream or kind"):
        loopback.fleet.add(pair[0].detach(), kind, at, b"", make_key()[1])


# Frames.


@st.composite
def fragmentations(draw):
    """How a message is cut into fragments, and the stream into pieces; control frames in between."""
    cuts = sorted(draw(st.lists(st.integers(0, PAYLOAD_BYTES), max_size=4)))
    pieces = draw(st.lists(st.integers(1, 80), min_size=1, max_size=6))
    return cuts, pieces, draw(st.booleans()), draw(st.sampled_from([TEXT, BINARY]))


@settings(deadline=None)     # how long it takes is not what is tested
@given(fragmentations())
def test_fragments_are_joined_however_they_come(fragmentation):
    cuts, pieces, has_ping, opcode = fragmentation
    with Loopback() as loopback:
        publisher, end = loopback.connect(Kind.PUBLISHER), loopback.connect()
        payloads = loopback.publish(publisher, 3)
        data = b""
        for payload in payloads:
            parts = [payload[start:stop] for start, stop in zip([0, *cuts], [*cuts, PAYLOAD_BYTES], strict=True)]
            for at, part in enumerate(parts):
                data += encode_frame(opcode if at == 0 else 0, part, fin=at == len(parts) - 1)
                if has_ping:
                    data += encode_frame(PING, b"in between")
        end.send_pieces(data, itertools.cycle(pieces))
        loopback.until(lambda: loopback.counts["received"] == 3)
        assert loopback.counts["corrupt"] == 0
        if has_ping:
            pongs = []
            loopback.until(lambda: len(pongs.extend(end.read_frames()) or pongs) == 3 * (len(cuts) + 1))
            assert set(pongs) == {(PONG, b"in between")}


def test_a_large_message_that_comes_in_pieces_is_whole():
    with Loopback(payload_bytes=3_000_000) as loopback:
        publisher, end = loopback.connect(Kind.PUBLISHER), loopback.connect()
        frame = end.frame(loopback.publish(publisher, 1)[0])
        sent = 0
        while sent < len(frame):
            try:
                sent += end.sock.send(frame[sent:])
            except BlockingIOError:
                loopback.turn()
        loopback.until(lambda: loopback.counts["received"] == 1)


@pytest.mark.parametrize(
    ("data", "corrupt"),
    [
        (encode_frame(0, b"a continuation of nothing"), 1),
        (encode_frame(TEXT, b"x", fin=False) + encode_frame(TEXT, b"a new message in a message"), 1),
        (encode_frame(TEXT, b"x", rsv=2), 1),
        (encode_frame(TEXT, b"compressed, but that was not agreed", rsv=4), 1),
        (encode_frame(3, b"a reserved opcode"), 1),
        (encode_frame(11, b"a reserved control opcode"), 1),
    ],
)
def test_frames_that_may_not_be_are_corrupt(data, corrupt):
    with Loopback() as loopback:
        end = loopback.connect()
        end.sock.sendall(data)
        loopback.until(lambda: loopback.counts["corrupt"] == corrupt)
        assert loopback.fleet.is_open(end.number)


@pytest.mark.parametrize(
    "data",
    [
        encode_frame(TEXT, b"masked", mask=b"abcd"),
        struct.pack("!BBQ", 0x82, 127, 2**40),
        b"\x81\x7f" + b"\xff" * 8,
    ],
)
def test_a_stream_that_cannot_be_read_on_is_ended(data):
    with Loopback() as loopback:
        end = loopback.connect()
        end.sock.sendall(data)
        loopback.until(lambda: loopback.counts["lost"] == 1)
        assert loopback.counts["corrupt"] == 1
        assert end.is_at_end()


@pytest.mark.parametrize("is_alone", [True, False])
def test_compressed_messages_are_inflated_and_judged(is_alone):
    with Loopback() as loopback:
        publisher = loopback.connect(Kind.PUBLISHER)
        end = loopback.begin(offer=b"Sec-WebSocket-Extensions: permessage-deflate\r\n")
        loopback.until(lambda: b"\r\n\r\n" in end.read())
        extension = b"Sec-WebSocket-Extensions: permessage-deflate"
        end.answer(extension + (b"; server_no_context_takeover" if is_alone else b""))
        loopback.until(lambda: loopback.fleet.is_open(end.number))
        deflater = zlib.compressobj(wbits=-15)
        for payload in loopback.publish(publisher, 4):
            data = deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH)
            end.sock.sendall(encode_frame(TEXT, data[:-4], rsv=4))
            if is_alone:
                deflater = zlib.compressobj(wbits=-15)
        loopback.until(lambda: loopback.counts["received"] == 4)
        assert (loopback.counts["compressed"], loopback.counts["corrupt"]) == (4, 0)
        end.sock.sendall(encode_frame(TEXT, b"\xff\xff\xff", rsv=4))
        loopback.until(lambda: loopback.counts["corrupt"] == 1)


def test_without_publishing_what_comes_is_counted_and_its_beginning_looked_at():
    with Loopback(prefix=b"price ") as loopback:
        end = loopback.connect()
        loopback.board.start_window(1)
        end.send(b"price 1", b"price ", b"prize 2", b"", b"price 333")
        loopback.until(lambda: loopback.counts["received"] == 5)
        counts = loopback.counts
        assert (counts["corrupt"], counts["measured"], counts["payload_bytes"]) == (2, 5, 7 + 6 + 7 + 9)


def test_what_slow_clients_get_of_a_server_that_only_sends_is_not_measured():
    with Loopback(prefix=b"") as loopback:
        slow, end = loopback.connect(Kind.SLOW, every_seconds=0.001), loopback.connect()
        loopback.board.start_window(1)
        slow.send(b"price 1")
        end.send(b"price 1")
        loopback.until(lambda: loopback.counts["received"] == 2)
        assert (loopback.counts["measured"], loopback.counts["payload_bytes"]) == (1, 7)


# Ends.


@pytest.mark.parametrize(
    ("payload", "code"),
    [(close_payload(1013, "slow consumer"), 1013), (b"", 1005), (close_payload(4999), 4999), (b"\xff\xff", 1006)],
)
def test_a_close_is_answered_and_counted_by_its_code(payload, code):
    with Loopback() as loopback:
        end = loopback.connect()
        end.sock.sendall(encode_frame(CLOSE, payload))
        loopback.until(lambda: loopback.counts["lost"] == 1)
        assert loopback.fleet.read_closes() == {code: 1}
        assert end.read_frames() == [(CLOSE, payload[:2])]
        assert loopback.counts["open"] == 0


def test_an_end_without_a_close_is_1006():
    with Loopback() as loopback:
        end = loopback.connect()
        end.sock.close()
        loopback.until(lambda: loopback.counts["lost"] == 1)
        assert loopback.fleet.read_closes() == {1006: 1}


def test_who_leaves_says_so_and_waits_for_the_answer():
    with Loopback() as loopback:
        end = loopback.connect()
        loopback.fleet.leave(end.number)
        assert end.read_frames() == [(CLOSE, close_payload(1000))]
        end.send(b"what comes now is not judged")
        loopback.turn()
        assert not end.is_at_end()
        end.sock.sendall(encode_frame(CLOSE, close_payload(1000)))
        loopback.until(end.is_at_end)
        assert (loopback.counts["lost"], loopback.counts["corrupt"]) == (0, 0)
        assert loopback.fleet.read_closes() == {}


def test_a_publisher_that_is_lost_publishes_nothing_more():
    with Loopback() as loopback:
        publisher, _ = loopback.connect(Kind.PUBLISHER), loopback.connect()
        loopback.fleet.start(100, in_flight=1)
        loopback.until(lambda: loopback.fleet.scheduled == 1)
        publisher.sock.close()
        loopback.until(lambda: loopback.fleet.open_publishers == 0)
        loopback.fleet.stop()
        assert loopback.fleet.scheduled == 1


def test_a_publisher_that_was_let_go_publishes_nothing_more():
    with Loopback() as loopback:
        publisher, end = loopback.connect(Kind.PUBLISHER), loopback.connect()
        loopback.fleet.start(100, in_flight=1)
        loopback.until(lambda: loopback.fleet.scheduled == 1)
        (_, payload), = publisher.read_frames()
        loopback.fleet.leave(publisher.number, is_abrupt=True)
        end.send(payload)
        loopback.until(lambda: loopback.counts["received"] == 1)
        loopback.turn()
        assert loopback.fleet.scheduled == 1


def test_all_descriptors_are_given_back():
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    with Loopback() as loopback:
        end = loopback.connect()
        loopback.connect(Kind.SLOW, every_seconds=1)
        loopback.begin()
        end.sock.sendall(encode_frame(TEXT, b"a part of", fin=False) + b"\x81")
        loopback.turn()
    del loopback, end
    fleet = Fleet(Board(1, 1), 0, 1, PAYLOAD_BYTES, 4)
    pair = socket.socketpair()
    fleet.add(pair[0].detach(), Kind.STEADY, 0, b"x", make_key()[1])
    del fleet
    pair[1].close()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("kind", [Fleet, Audience])
def test_what_cannot_be_made_closes_nothing_that_is_not_its_own(kind):
    with pytest.raises(ValueError, match="40 bytes"):
        kind(Board(1, 1), 0, 1, 1, 4)
    gc.collect()
    os.fstat(0)


def test_a_descriptor_that_add_refuses_is_closed_and_takes_no_place():
    with Loopback(capacity=1) as loopback:
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.settimeout(seconds(10))
            with pytest.raises(ValueError, match="no channel"):
                loopback.fleet.add(ours.detach(), 9, 0, b"x", make_key()[1])
            assert theirs.recv(1) == b""
        descriptor = os.open(__file__, os.O_RDONLY)  # epoll takes no files
        with pytest.raises(PermissionError):
            loopback.fleet.add(descriptor, Kind.STEADY, 0, b"x", make_key()[1])
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
        loopback.connect()
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.settimeout(seconds(10))
            with pytest.raises(ValueError, match="room for 1"):
                loopback.fleet.add(ours.detach(), Kind.STEADY, 0, b"x", make_key()[1])
            assert theirs.recv(1) == b""


# Slow ones.


def test_a_slow_client_that_leaves_sees_the_answer():
    with Loopback() as loopback:
        slow = loopback.connect(Kind.SLOW, every_seconds=float("inf"))
        loopback.fleet.leave(slow.number)
        loopback.until(lambda: slow.read() != b"")
        slow.sock.sendall(encode_frame(CLOSE, close_payload(1000)))
        loopback.until(slow.is_at_end)


def test_a_stalled_client_reads_nothing_and_nobody_waits_for_it():
    with Loopback() as loopback:
        publisher, end = loopback.connect(Kind.PUBLISHER), loopback.connect()
        stalled = loopback.connect(Kind.SLOW, every_seconds=float("inf"))
        payloads = loopback.publish(publisher, 3)
        stalled.send(*payloads)
        end.send(*payloads)
        loopback.until(lambda: loopback.fleet.is_done)
        assert loopback.counts["received"] == 3
        assert loopback.counts["missing"] == loopback.counts["skipped"] == 0
        assert loopback.fleet.slow_descriptors() != []


def test_a_slow_client_reads_so_many_bytes_at_a_time():
    with Loopback() as loopback:
        publisher = loopback.connect(Kind.PUBLISHER)
        frame_bytes = 2 + PAYLOAD_BYTES
        slow = loopback.connect(Kind.SLOW, every_seconds=0.001, read_bytes=frame_bytes)
        payloads = loopback.publish(publisher, 5)
        slow.send(*payloads[:1], *payloads[3:])
        seen = [0]
        while seen[-1] < 3:
            loopback.turn()     # looks once at who is slow
            seen.append(loopback.counts["received"])
        assert {after - before for before, after in itertools.pairwise(seen)} == {0, 1}
        assert (loopback.counts["skipped"], loopback.counts["missing"]) == (2, 0)


def test_a_slow_client_that_is_closed_is_lost():
    with Loopback() as loopback:
        slow = loopback.connect(Kind.SLOW, every_seconds=0.001)
        slow.sock.sendall(encode_frame(CLOSE, close_payload(1013)))
        loopback.until(lambda: loopback.counts["lost_slow"] == 1)
        assert loopback.counts["lost"] == 0
        assert loopback.fleet.read_closes() == {}
        assert loopback.fleet.read_closes(of_slow=True) == {1013: 1}
        assert loopback.fleet.slow_descriptors() == []


def test_a_guest_is_judged_from_its_first_message_on():
    with Loopback() as loopback:
        publisher, _ = loopback.connect(Kind.PUBLISHER), loopback.connect()
        loopback.publish(publisher, 3)
        guest = loopback.connect(Kind.GUEST)
        payloads = loopback.publish(publisher, 4)
        guest.send(payloads[1], payloads[3])
        loopback.until(lambda: loopback.counts["received"] == 2)
        assert loopback.counts["missing"] == 1
