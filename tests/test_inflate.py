"""What clients send compressed (permessage-deflate), cut anywhere: the compiled Parser against the slow one of
reference.py, which stands on Python's zlib."""

import itertools
import random
import subprocess
import sys
import zlib

import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import BINARY, CLOSE, PING, PONG, TEXT, client_frame, encode_frame
from test_parser import cut, masks, without_words

from fastbcast.connection._parser import Parser
from fastbcast.deflate._inflate import Inflater, Scratch

MAX_MESSAGE_BYTES = 600
MAX_FRAGMENTS = 6
TAIL = b"\x00\x00\xff\xff"
SCRATCH_BYTES = 65536
MIB = 1024 * 1024


class Sender:
    """Compresses messages as a peer may (RFC 7692 section 7.2.1)."""

    def __init__(self, keeps_window, **options):
        self.keeps_window = keeps_window
        self.options = {"wbits": -15} | options
        self.stream = zlib.compressobj(**self.options)

    def compress(self, message, flush=zlib.Z_SYNC_FLUSH):
        if not self.keeps_window:
            self.stream = zlib.compressobj(**self.options)
        data = self.stream.compress(message) + self.stream.flush(flush)
        if flush == zlib.Z_FINISH:      # its blocks, then the header of an empty one (section 7.2.3.4)
            self.stream = zlib.compressobj(**self.options)
            return data + b"\x00"
        assert data.endswith(TAIL)
        return data[: -len(TAIL)]


def make_parser(keeps_window, max_message_bytes=MAX_MESSAGE_BYTES, scratch=None):
    return Parser(max_message_bytes, MAX_FRAGMENTS, Inflater(scratch or Scratch(), keeps_window))


def frames_of(opcode, payload, places, mask, between=b""):
    """A compressed message in fragments."""
    pieces = cut(payload, places)
    return between.join(
        encode_frame(opcode if i == 0 else 0, piece, fin=i == len(pieces) - 1, rsv=4 if i == 0 else 0, mask=mask)
        for i, piece in enumerate(pieces)
    )


senders = st.fixed_dictionaries({
    "level": st.integers(0, 9),
    "wbits": st.integers(-15, -9),
    "memLevel": st.integers(1, 9),
    "strategy": st.integers(0, 4),
})
words = st.lists(st.sampled_from(["price", "size", "bid", "ask", "ä€😀", '{"a":1}', "0123456789" * 5]), max_size=12)
messages = st.one_of(
    words.map("".join), st.text(max_size=40), st.binary(max_size=200),
    st.integers(598, 602).map(lambda size: "x" * size),
)
flushes = st.sampled_from([zlib.Z_SYNC_FLUSH, zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH, zlib.Z_FINISH])


@st.composite
def conversations(draw):
    """(keeps_window, what is sent, what arrives of it)."""
    keeps_window = draw(st.booleans())
    sender = Sender(keeps_window, **draw(senders))
    sent, events = b"", []
    for message in draw(st.lists(messages, max_size=6)):
        opcode, data = (TEXT, message.encode()) if isinstance(message, str) else (BINARY, message)
        if draw(st.integers(0, 4)) == 0:    # a sender may leave a message as it is (section 6.1)
            sent += encode_frame(opcode, data, mask=draw(masks))
        else:
            payload = sender.compress(data, draw(flushes))
            ping = encode_frame(PING, b"between", mask=draw(masks)) if draw(st.booleans()) else b""
            frames = frames_of(opcode, payload, draw(st.lists(st.integers(0, 700), max_size=4)), draw(masks), ping)
            events += [("ping", b"between")] * frames.count(ping) if ping else []
            sent += frames
            if len(payload) > MAX_MESSAGE_BYTES:
                data = bytes(MAX_MESSAGE_BYTES + 1)
        if len(data) > MAX_MESSAGE_BYTES:
            return keeps_window, sent, None
        events.append(("message", message))
    return keeps_window, sent, events


@settings(max_examples=300)
@given(conversation=conversations(), places=st.lists(st.integers(0, 3000), max_size=8))
def test_what_is_sent_compressed_arrives_at_every_cut(conversation, places):
    keeps_window, sent, events = conversation
    fast, slow = make_parser(keeps_window), reference.Parser(MAX_MESSAGE_BYTES, MAX_FRAGMENTS, keeps_window)
    arrived = []
    for piece in cut(sent, places):
        events_of_piece = without_words(fast.parse(piece))
        assert events_of_piece == slow.parse(piece)
        arrived += events_of_piece
    if events is None:
        assert arrived[-1] == ("failed", 1009)
    else:
        assert arrived == events


# Empty and full blocks of both plain kinds, final or not, and what is none.
blocks = st.one_of(
    st.sampled_from([
        b"\x00\x00\x00\xff\xff", b"\x01\x00\x00\xff\xff", b"\x02\x00", b"\x03\x00", b"\x00", b"\x01", b"\x02", b"\x03",
        b"\x00\x04\x00\xfb\xff", b"\x01\x04\x00\xfb\xff", b"\x00\x01\x00\xfe\xffx", b"\x01\x02\x00\xfd\xffxy", TAIL,
        b"\x07", b"\x00\x01\x00\xff\xff", b"\xf2\x48\xcd\xc9\xc9\x07\x00", b"\xf3\x48\xcd\xc9\xc9\x07\x00",
        b"\xf2\x00\x11\x00\x00",    # section 7.2.3.2: refers to what came before
        zlib.compress(bytes(599))[2:-4], zlib.compress(bytes(601))[2:-4], zlib.compress(bytes(100_000))[2:-4],
    ]),
    st.binary(max_size=6),
)


@st.composite
def damaged(draw):
    """What a sender made, with a byte changed, lost or added."""
    sender = Sender(True, **draw(senders))
    payload = b"".join(sender.compress(message.encode()) for message in draw(st.lists(words.map("".join), max_size=3)))
    place = draw(st.integers(0, len(payload)))
    return payload[:place] + draw(st.binary(max_size=1)) + payload[place + draw(st.integers(0, 1)) :]


@settings(max_examples=500)
@given(
    payloads=st.lists(st.one_of(st.lists(blocks, max_size=5).map(b"".join), damaged()), max_size=4),
    opcode=st.sampled_from([TEXT, BINARY]), keeps_window=st.booleans(),
    rsv=st.sampled_from([4, 4, 4, 0, 1, 2, 5, 6, 7]),   # of the messages behind the first
    places=st.lists(st.integers(0, 200), max_size=4),
)
def test_it_agrees_with_the_slow_parser_on_what_no_sender_makes(payloads, opcode, keeps_window, rsv, places):
    fast, slow = make_parser(keeps_window), reference.Parser(MAX_MESSAGE_BYTES, MAX_FRAGMENTS, keeps_window)
    sent = b"".join(
        encode_frame(opcode, payload, rsv=rsv if i else 4, mask=bytes(4)) for i, payload in enumerate(payloads)
    )
    for piece in cut(sent, places):
        assert without_words(fast.parse(piece)) == slow.parse(piece)


# The examples of the RFC.


@pytest.mark.parametrize("payloads", [
    ["f2 48 cd c9 c9 07 00"],                               # section 7.2.3.1: one block
    ["f2 48 cd c9 c9 07 00", "f2 48 cd c9 c9 07 00"],
    ["f2 48 cd c9 c9 07 00", "f2 00 11 00 00"],             # 7.2.3.2: the window of the one before
    ["00 05 00 fa ff 48 65 6c 6c 6f 00"],                   # 7.2.3.3: a block without compression
    ["f3 48 cd c9 c9 07 00 00", "f3 48 cd c9 c9 07 00 00"],  # 7.2.3.4: BFINAL
    ["f2 48 05 00 00 00 ff ff ca c9 c9 07 00"],             # 7.2.3.5: two blocks
])
def test_the_examples_of_the_rfc_say_hello(payloads):
    parser = make_parser(keeps_window=True)
    for payload in payloads:
        assert parser.parse(client_frame(TEXT, bytes.fromhex(payload), rsv=4)) == [("message", "Hello")]


@pytest.mark.parametrize("payload", [b"", b"\x00", b"\x02\x00", b"\x03\x00", b"\x01\x00\x00\xff\xff\x00"])
@pytest.mark.parametrize("keeps_window", [False, True])
def test_an_empty_message_is_empty_however_it_is_compressed(payload, keeps_window):
    parser = make_parser(keeps_window)
    for _ in range(2):
        assert parser.parse(client_frame(TEXT, payload, rsv=4)) == [("message", "")]


# Reserved bits.


@pytest.mark.parametrize("sent", [
    *(client_frame(TEXT, b"", rsv=rsv) for rsv in (1, 2, 3, 5, 6, 7)),
    *(client_frame(opcode, b"", rsv=4) for opcode in (PING, PONG, CLOSE, 3, 11)),
    client_frame(TEXT, b"\x00", rsv=4, fin=False) + client_frame(0, b"", rsv=4),
    client_frame(TEXT, b"x", fin=False) + client_frame(0, b"", rsv=4),
    client_frame(TEXT, b"x", fin=False) + client_frame(TEXT, b"", rsv=4),
    client_frame(0, b"", rsv=4),
], ids=itertools.count())   # the masks are random, and the names of tests are not
def test_rsv1_is_for_the_first_frame_of_a_message_only(sent):
    assert without_words(make_parser(True).parse(sent)) == [("failed", 1002)]


def test_rsv1_is_an_error_where_nothing_was_negotiated():
    parser = Parser(MAX_MESSAGE_BYTES, MAX_FRAGMENTS)
    assert without_words(parser.parse(client_frame(TEXT, b"\x00", rsv=4))) == [("failed", 1002)]


def test_messages_of_both_kinds_alternate():
    parser, sender = make_parser(True), Sender(True)
    for text in ("Hello", "ä€😀", "Hello") * 3:
        sent = frames_of(TEXT, sender.compress(text.encode()), [3], bytes(4))
        sent += client_frame(TEXT, text.encode()[:2], fin=False) + client_frame(0, text.encode()[2:])
        assert parser.parse(sent) == [("message", text)] * 2


# Windows.


def test_clients_with_windows_of_their_own_share_a_scratch_and_nothing_else():
    scratch = Scratch()
    clients = [(make_parser(True, scratch=scratch), Sender(True, wbits=-9 - i), f"client {i} " * 9) for i in range(6)]
    for _ in range(3):
        for parser, sender, text in clients:
            assert parser.parse(client_frame(TEXT, sender.compress(text.encode()), rsv=4)) == [("message", text)]
    assert scratch.messages == 18


def test_one_inflater_serves_all_who_compress_each_message_alone():
    inflater = Inflater(Scratch(), False)
    parsers = [Parser(MAX_MESSAGE_BYTES, MAX_FRAGMENTS, inflater) for _ in range(3)]
    halves = []
    for i, parser in enumerate(parsers):    # all are in the middle of a message at once
        sent = client_frame(TEXT, Sender(False).compress(b"client %d " % i * 9), rsv=4)
        assert parser.parse(sent[:-3]) == []
        halves.append(sent[-3:])
    for i, (parser, half) in enumerate(zip(parsers, halves, strict=True)):
        assert parser.parse(half) == [("message", f"client {i} " * 9)]


def test_a_window_that_must_not_be_taken_over_is_an_error():
    parser, sender = make_parser(keeps_window=False), Sender(True)
    sent = [client_frame(TEXT, sender.compress(b"the same words"), rsv=4) for _ in range(2)]
    assert parser.parse(sent[0]) == [("message", "the same words")]
    assert parser.parse(sent[1])[0][::3] == ("failed", "invalid_data")


@pytest.mark.parametrize("block", [b"\x00\x04\x00\xfb\xff", b"\x01\x04\x00\xfb\xff"])
def test_the_bytes_that_senders_leave_out_do_not_fill_up_a_block(block):
    """Four bytes of it are missing; with those it would inflate to them."""
    assert make_parser(True).parse(client_frame(BINARY, block, rsv=4))[0][::3] == ("failed", "invalid_data")


def test_an_error_of_one_client_does_not_hurt_those_who_share_the_inflater():
    inflater = Inflater(Scratch(), False)
    for payload in (b"garbage", Sender(False).compress(bytes(MAX_MESSAGE_BYTES + 1)), b"\x00\x04"):
        bad, good = (Parser(MAX_MESSAGE_BYTES, MAX_FRAGMENTS, inflater) for _ in range(2))
        assert bad.parse(client_frame(BINARY, payload, rsv=4))[0][0] == "failed"
        assert good.parse(client_frame(TEXT, Sender(False).compress(b"good"), rsv=4)) == [("message", "good")]


def test_zlib_is_asked_for_memory_by_the_first_compressed_message():
    inflater = Inflater(Scratch(), True)
    parser = Parser(MAX_MESSAGE_BYTES, MAX_FRAGMENTS, inflater)
    parser.parse(client_frame(TEXT, b"plain") + client_frame(TEXT, b"", rsv=4))
    assert (inflater.has_stream, inflater.scratch.capacity) == (False, 0)
    parser.parse(client_frame(TEXT, b"\x00", rsv=4))
    assert inflater.has_stream


# Bounds.


@pytest.mark.parametrize("keeps_window", [False, True])
@pytest.mark.parametrize("size", [1, SCRATCH_BYTES - 1, SCRATCH_BYTES, SCRATCH_BYTES + 1, 200_001, MIB])
def test_a_message_as_large_as_allowed_arrives_and_one_byte_more_does_not(size, keeps_window):
    scratch, chance = Scratch(), random.Random(size)
    data = (chance.randbytes(size // 3) * 4)[:size]
    parser, sender = make_parser(keeps_window, 2 * size + 10, scratch), Sender(keeps_window)
    for _ in range(2):
        assert parser.parse(client_frame(BINARY, sender.compress(data), rsv=4)) == [("message", data)]
    limit = size + 8    # room for what is compressed, too
    for flush in (zlib.Z_SYNC_FLUSH, zlib.Z_FINISH):
        allowed, refused = (Sender(keeps_window).compress(bytes(limit + more), flush) for more in (0, 1))
        parser = make_parser(keeps_window, limit, scratch)
        assert parser.parse(client_frame(BINARY, allowed, rsv=4)) == [("message", bytes(limit))]
        assert without_words(parser.parse(client_frame(BINARY, refused, rsv=4))) == [("failed", 1009)]
    assert scratch.capacity <= SCRATCH_BYTES


def test_the_compressed_bytes_are_bounded_before_the_message_is_whole():
    parser = make_parser(True)
    sent = client_frame(BINARY, bytes(400), rsv=4, fin=False) + client_frame(0, bytes(201), fin=False)
    assert without_words(parser.parse(sent[:-201])) == [("failed", 1009)]


BOMB = """
import resource, sys, zlib
sys.path[:0] = {path!r}
from reference import BINARY, encode_frame
from test_inflate import MIB, make_parser
stream = zlib.compressobj(9, wbits=-15)
eight = stream.compress(bytes(8 * MIB)) + stream.flush(zlib.Z_FULL_FLUSH)   # stands alone, so it may be repeated
frame = encode_frame(BINARY, eight * 128, rsv=4, mask=bytes(4))
assert len(frame) < MIB
parser = make_parser({keeps_window}, MIB)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(parser.parse(frame)[0][1:3])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("keeps_window", [False, True])
def test_a_bomb_of_a_gigabyte_is_refused_before_it_is_inflated(keeps_window):
    program = BOMB.format(path=sys.path, keeps_window=keeps_window)
    refused, kib = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.splitlines()
    assert refused == "(1009, 'message too big')"
    assert int(kib) < 32 * 1024


@pytest.mark.parametrize("block", [b"\x03\x00", b"\x01\x00\x00\xff\xff", b"\x00\x00\x00\xff\xff"])
def test_a_message_of_many_empty_blocks_is_empty(block):
    parser = make_parser(True, MIB)
    for _ in range(2):
        assert parser.parse(encode_frame(TEXT, block * 200_000 + b"\x00", rsv=4, mask=bytes(4))) == [("message", "")]


def test_text_is_checked_when_it_is_inflated():
    for text in (b"\xff", b"abc\xe2\x82", b"\xed\xa0\x80"):
        sent = client_frame(TEXT, Sender(False).compress(text), rsv=4)
        assert make_parser(False).parse(sent) == [("failed", 1007, "invalid UTF-8 in text", "invalid_text")]
