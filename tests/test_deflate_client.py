"""deflate_client.py, the reference: it refuses what a client must refuse."""

import random
import zlib

import pytest
from deflate_client import MOST_WINDOW_BITS, TAIL, Parameters, StrictInflater

BITS = range(9, MOST_WINDOW_BITS + 1)


def deflate(message, bits=MOST_WINDOW_BITS, flush=zlib.Z_SYNC_FLUSH):
    compressor = zlib.compressobj(wbits=-bits)
    return (compressor.compress(message) + compressor.flush(flush)).removesuffix(TAIL)


def repeat_after(distance):
    """Text whose end is found again exactly so many bytes before, and not nearer."""
    mark = b"ABCDEFGH"
    return mark + bytes(random.Random(distance).choices(b"0123456789abcdef", k=distance - len(mark))) + mark


@pytest.mark.parametrize("bits", BITS)
def test_the_strict_inflater_takes_the_window_that_was_negotiated_and_no_larger_one(bits):
    # zlib refers back as far as its window less 262 bytes (MIN_LOOKAHEAD).
    assert StrictInflater(bits).inflate(deflate(repeat_after(2**bits - 262), bits)) == repeat_after(2**bits - 262)
    if bits < MOST_WINDOW_BITS:
        with pytest.raises(ValueError, match="too far back"):
            StrictInflater(bits).inflate(deflate(repeat_after(2**bits + 1), bits + 1))


@pytest.mark.parametrize("payload", [
    deflate(b"abc")[:-1], deflate(b"abc") + b"\x00", deflate(b"abc", flush=zlib.Z_FINISH), deflate(b"abc") + TAIL
])
def test_the_strict_inflater_refuses_what_does_not_end_as_it_should(payload):
    with pytest.raises(ValueError, match=r"left over|invalid"):
        StrictInflater().inflate(payload)


@pytest.mark.parametrize(("offer", "answer"), [
    ("permessage-deflate; server_no_context_takeover", "permessage-deflate"),
    ("permessage-deflate; server_max_window_bits=10", "permessage-deflate"),
    ("permessage-deflate; server_max_window_bits=10", "permessage-deflate; server_max_window_bits=11"),
    ("permessage-deflate", "permessage-deflate; client_max_window_bits=10"),
    ("permessage-deflate; client_max_window_bits=10", "permessage-deflate; client_max_window_bits=11"),
    ("permessage-deflate", "permessage-deflate; unknown"),
])
def test_the_reference_refuses_an_answer_that_the_offer_does_not_allow(offer, answer):
    with pytest.raises((AssertionError, KeyError)):
        Parameters.settle(offer, answer)
