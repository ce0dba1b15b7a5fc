"""_deflate: frames that zlib's other half, in Python, inflates to what they were made of (RFC 7692 section 7.2)."""

import itertools
import random
import zlib

import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from fastbcast.deflate._deflate import Deflater

WINDOW_BITS = range(9, 16)
RSV1 = 4


def read_payload(frame, opcode=reference.BINARY):
    """The payload of a whole compressed frame, whose header is the shortest there is."""
    [(found, payload, is_final, rsv)], rest = reference.parse_frames(frame)
    assert (found, is_final, rsv, rest) == (opcode, True, RSV1, b"")
    return payload


def inflate(inflater, payload):
    return inflater.decompress(payload + reference.Inflater.TAIL)


def payloads():
    """Text that repeats itself, and bytes that do not."""
    repeating = st.builds(lambda part, times: part * times, st.binary(min_size=1, max_size=40), st.integers(1, 400))
    noise = st.integers(1, 70_000).map(random.Random(7).randbytes)
    return st.one_of(st.binary(min_size=1, max_size=300), repeating, noise)


@given(st.lists(payloads(), min_size=1, max_size=8), st.sampled_from(WINDOW_BITS), st.integers(1, 9))
def test_a_message_alone_is_inflated_by_any_window_that_is_not_smaller(messages, window_bits, level):
    deflater = Deflater(level, window_bits)
    kept = zlib.decompressobj(wbits=-window_bits)
    for message in messages:
        payload = read_payload(deflater.encode(message))
        assert inflate(zlib.decompressobj(wbits=-window_bits), payload) == message     # with nothing before it
        assert inflate(kept, payload) == message                                       # and with all that was before


@given(st.lists(payloads(), min_size=1, max_size=8), st.sampled_from(WINDOW_BITS), st.integers(1, 9))
def test_messages_of_a_window_are_inflated_one_after_the_other(messages, window_bits, level):
    deflater = Deflater(level, window_bits)
    inflater = zlib.decompressobj(wbits=-window_bits)
    for message in messages:
        assert inflate(inflater, read_payload(deflater.encode(message, is_alone=False))) == message


def test_a_window_refers_to_what_was_before_and_a_message_alone_does_not():
    deflater = Deflater(6, 15)
    message = random.Random(1).randbytes(200)
    sizes = [len(deflater.encode(message, is_alone=is_alone)) for is_alone in (True, False, False, True)]
    assert sizes[0] == sizes[3] > 200 > 10 > sizes[1] >= sizes[2]


@pytest.mark.parametrize("window_bits", WINDOW_BITS)
@pytest.mark.parametrize("level", [1, 6, 9])
def test_what_cannot_be_compressed_fits_where_it_is_written(window_bits, level):
    """Else it would have been cut short: the worst there is for the bound, at many sizes."""
    generator = random.Random(window_bits)
    deflater = Deflater(level, window_bits)
    inflater = zlib.decompressobj(wbits=-window_bits)
    for size in [*range(1, 60), *range(100, 20_000, 997), 65_535, 65_536, 200_000, 1 << 20]:
        message = generator.randbytes(size)
        assert inflate(inflater, read_payload(deflater.encode(message, is_alone=False))) == message


@pytest.mark.parametrize("compressed_bytes", [125, 126, 127, 65_535, 65_536])
def test_the_header_is_the_shortest_for_the_compressed_length(compressed_bytes):
    """Also where the message itself, or the room that was kept for it, would have needed a longer one."""
    generator = random.Random(2)
    deflater = Deflater(6, 15)
    sizes = itertools.cycle(range(compressed_bytes - 120, compressed_bytes))     # of what cannot be compressed
    while len(read_payload(deflater.encode(generator.randbytes(next(sizes)) + b" " * 2000))) != compressed_bytes:
        pass


def test_text_stays_text():
    frame = Deflater(6, 15).encode("Grüße " * 20)
    assert inflate(zlib.decompressobj(wbits=-15), read_payload(frame, reference.TEXT)) == ("Grüße " * 20).encode()


@pytest.mark.parametrize(("level", "window_bits"), [(0, 15), (10, 15), (6, 8), (6, 16), (-1, 15)])
def test_what_zlib_does_not_have_is_refused(level, window_bits):
    with pytest.raises(ValueError, match="zlib has no"):
        Deflater(level, window_bits)


def test_an_empty_message_is_refused():
    with pytest.raises(ValueError, match="empty"):
        Deflater(6, 15).encode(b"")


def test_a_message_that_is_refused_leaves_the_window_as_it_was():
    deflater = Deflater(6, 15)
    inflater = zlib.decompressobj(wbits=-15)
    assert inflate(inflater, read_payload(deflater.encode(b"a" * 100))) == b"a" * 100
    for message in (b"", None, "\ud800"):
        with pytest.raises((TypeError, ValueError)):
            deflater.encode(message, is_alone=False)
    assert inflate(inflater, read_payload(deflater.encode(b"b" * 100, is_alone=False))) == b"b" * 100
