"""What a client sends, in reads of any size: the compiled Parser must agree with the slow one of reference.py.

An input is `n` (its lowest four bits), the sizes of `n` reads, one byte each, and then the bytes that are read; what
those reads leave comes in one more. The next two bits of its first byte say what was negotiated of permessage-deflate,
and the one after them whether the client has to wait after each message.
"""

import reference

from fastbcast.connection._parser import Parser
from fastbcast.deflate._inflate import Inflater, Scratch

MAX_MESSAGE_BYTES = 130
MAX_FRAGMENTS = 4
MAX_READS = 15
# Not at all, each message alone, or with the window of those before it; and once more not at all.
KEEPS_WINDOW = (None, False, True, None)


def reads_of(data):
    count = data[0] & MAX_READS if data else 0
    sizes, stream = data[1 : 1 + count], data[1 + count :]
    for size in sizes:
        yield stream[:size]
        stream = stream[size:]
    yield stream


def check(data):
    """AssertionError if the two differ at one of the reads."""
    keeps_window = KEEPS_WINDOW[data[0] >> 4 & 3] if data else None
    is_held_back = bool(data and data[0] >> 6 & 1)
    inflater = None if keeps_window is None else Inflater(Scratch(), keeps_window)
    fast = Parser(MAX_MESSAGE_BYTES, MAX_FRAGMENTS, inflater)
    slow = reference.Parser(MAX_MESSAGE_BYTES, MAX_FRAGMENTS, keeps_window)
    for read in reads_of(data):
        events = [event[:2] if event[0] == "failed" else event for event in fast.parse(read, is_held_back)]
        expected = slow.parse(read)
        assert events == expected, (read, events, expected)
