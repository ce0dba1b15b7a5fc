"""What a client sends, cut anywhere: the compiled Parser against the slow one of reference.py."""

import random
import tracemalloc

import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import BINARY, CLOSE, PING, PONG, TEXT, close_payload, encode_frame

from fastbcast.connection._parser import Parser

MAX_MESSAGE_BYTES = 300
MAX_FRAGMENTS = 4

masks = st.binary(min_size=4, max_size=4)
texts = st.text(max_size=40).map(str.encode)
# Where a character is not over, and what is read next is long enough to be looked at a word at a time.
broken_texts = st.builds(
    lambda text, size, more: text[:size] + more, texts, st.integers(0, 40), st.sampled_from([b"", b"a" * 8, b"a" * 17])
)
# Text, almost text, anything; and sizes about the limits of a control frame, of a length's form, of a message.
payloads = st.one_of(
    texts,
    broken_texts,
    st.binary(max_size=20),
    st.sampled_from([b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf", b"\xf0\x9f\x98\x80", b"\xe2\x82"]),
    st.sampled_from([124, 125, 126, 127, 128, 299, 300, 301]).map(lambda size: b"x" * size),
)
close_payloads = st.builds(
    lambda code, reason: close_payload(code) + reason, st.sampled_from([0, 999, 1000, 1004, 1006, 1014, 3000, 5000]),
    payloads.map(lambda payload: payload[:123]),
)
# Of which some together are at the limit of a message.
message_parts = st.one_of(
    texts, broken_texts, st.binary(max_size=9), st.sampled_from([100, 149, 150, 151, 200]).map(lambda size: b"x" * size)
)


@st.composite
def well_made(draw):
    """Whole messages in fragments, with control frames between them."""
    opcode = draw(st.sampled_from([TEXT, BINARY]))
    parts = draw(st.lists(message_parts, min_size=1, max_size=MAX_FRAGMENTS + 1))
    data = b""
    for i, part in enumerate(parts):
        data += encode_frame(opcode if i == 0 else 0, part, fin=i == len(parts) - 1, mask=draw(masks))
        if draw(st.booleans()):
            data += encode_frame(draw(st.sampled_from([PING, PONG])), draw(payloads)[:125], mask=draw(masks))
    return data


single_frames = st.builds(
    lambda opcode, payload, fin, mask: encode_frame(opcode, payload, fin=fin, mask=mask),
    st.sampled_from([0, TEXT, BINARY, PING, PONG]), payloads, st.booleans(), masks,
)
odd_frames = st.builds(
    lambda opcode, payload, fin, rsv, mask: encode_frame(opcode, payload, fin=fin, rsv=rsv, mask=mask),
    st.integers(0, 15), payloads, st.booleans(), st.integers(0, 7), st.one_of(st.none(), masks),
)
closes = st.builds(
    lambda payload, mask: encode_frame(CLOSE, payload, mask=mask), st.one_of(payloads, close_payloads), masks
)
long_forms = st.builds(
    lambda opcode, form, length, mask: bytes([0x80 | opcode, 0x80 | form])
    + (length % 65536 if form == 126 else length).to_bytes(2 if form == 126 else 8, "big") + mask,
    st.sampled_from([TEXT, BINARY, PING]), st.sampled_from([126, 127]),
    st.sampled_from([0, 125, 126, 300, 65535, 65536, 2**62, 2**63, 2**64 - 1]), masks,
)
streams = st.lists(
    st.one_of(well_made(), well_made(), single_frames, odd_frames, closes, long_forms, st.binary(max_size=8)),
    max_size=6,
).map(b"".join)


def without_words(events):
    """A failure's code is what counts here; its words are for people."""
    return [event[:2] if event[0] == "failed" else event for event in events]


def cut(data, places):
    """`data` in pieces, cut at `places`."""
    places = sorted({place % (len(data) + 1) for place in places})
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


@settings(max_examples=500)
@given(data=streams, places=st.lists(st.integers(0, 2000), max_size=8), is_held_back=st.booleans())
def test_it_agrees_with_the_slow_parser_at_every_cut(data, places, is_held_back):
    fast, slow = Parser(MAX_MESSAGE_BYTES, MAX_FRAGMENTS), reference.Parser(MAX_MESSAGE_BYTES, MAX_FRAGMENTS)
    for piece in cut(data, places):
        assert without_words(fast.parse(piece, is_held_back)) == slow.parse(piece)


@settings(max_examples=100)
@given(data=streams)
def test_it_agrees_byte_by_byte(data):
    fast, slow = Parser(MAX_MESSAGE_BYTES, MAX_FRAGMENTS), reference.Parser(MAX_MESSAGE_BYTES, MAX_FRAGMENTS)
    for i in range(len(data)):
        assert without_words(fast.parse(data[i : i + 1])) == slow.parse(data[i : i + 1])


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 125, 126, 65535, 65536, 200_001])
def test_a_large_message_in_reads_of_any_size_is_what_was_sent(opcode, size):
    chance = random.Random(size)
    payload = chance.randbytes(size)
    if opcode == TEXT:
        payload = ("aä€😀" * size).encode()[:size].decode(errors="ignore").encode()
    frame = encode_frame(opcode, payload, mask=b"\x12\x34\x56\x78")
    some = [chance.randrange(1, 70_000) for _ in range(400)]
    for reads in ([len(frame)], [1] * min(len(frame), 40) + [len(frame)], some):
        parser, events, start = Parser(2**20, 4), [], 0
        for read in reads:
            events += parser.parse(frame[start : start + read])
            start += read
        assert events == [("message", payload.decode() if opcode == TEXT else payload)]


def test_every_text_that_matters_is_judged_at_once():
    edges = bytes.fromhex("00 7f 80 8f 90 9f a0 bf c1 c2 df e0 e1 ec ed ef f0 f4 f5 ff")
    for first in edges:
        for second in edges:
            # The last two: a character that is not over, and then a word that is looked at as a whole.
            for rest in (b"", b"\x80", b"\x80\x80", b"\xc0", b"\x80\xff", b"a" * 8, b"\x80" + b"a" * 17):
                text = bytes([first, second]) + rest
                parser = Parser(100, 4)
                frame = encode_frame(TEXT, text + b"more", mask=bytes(4))[:-4]  # the frame is not over
                assert (parser.parse(frame) == []) == reference.is_utf8(text, False), text


def test_nothing_behind_an_error_or_a_close_is_looked_at():
    for end in (encode_frame(CLOSE, b"", mask=bytes(4)), encode_frame(3, b"", mask=bytes(4))):
        parser = Parser(100, 4)
        assert len(parser.parse(end + encode_frame(TEXT, b"late", mask=bytes(4)))) == 1
        assert parser.parse(encode_frame(TEXT, b"later", mask=bytes(4))) == []


def test_half_a_close_code_is_not_completed_by_what_came_before():
    parser = Parser(100, 4)
    ping, half = encode_frame(PING, close_payload(1000), mask=bytes(4)), encode_frame(CLOSE, b"\x03", mask=bytes(4))
    assert without_words(parser.parse(ping + half)) == [("ping", b"\x03\xe8"), ("failed", 1002)]


def test_what_is_announced_takes_no_memory_before_it_comes():
    parser = Parser(2**40, 4)
    header = encode_frame(BINARY, b"", fin=False, mask=bytes(4))[:1] + b"\xff" + (2**39).to_bytes(8, "big") + bytes(4)
    tracemalloc.start()
    try:
        parser.parse(header + bytes(1000))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10_000
