"""A client that negotiates permessage-deflate (RFC 7692): slow, strict, and it tells in which form each message came.

    Parameters       what an answer to an offer settles; AssertionError if it may not answer that offer
    StrictInflater   zlib's inflater, with not a byte more of a window than was negotiated
    Reader           the server's bytes -> Messages
    DeflateClient    a RawClient with a Reader; it can compress what it sends, too

A message is `plain` (RSV1 is not set), `alone` (it can be inflated by itself) or `windowed` (it cannot: it refers to
earlier ones).
"""

import os
import zlib
from collections import Counter
from typing import NamedTuple

from raw_client import RawClient
from reference import BINARY, CLOSE, PING, PONG, TEXT, client_frame, parse_frames

DEFAULT_OFFER = "permessage-deflate; client_max_window_bits"     # Chromium's, Firefox' and websockets'
RSV1 = 4                        # as reference.Frame counts the reserved bits
TAIL = b"\x00\x00\xff\xff"      # what a sender cuts off (RFC 7692 section 7.2.1)
FINAL = b"\x01\x00\x00\xff\xff"     # an empty block, the last of a stream
MOST_WINDOW_BITS = 15


class Message(NamedTuple):
    payload: str | bytes
    form: str


class Parameters(NamedTuple):
    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False
    server_max_window_bits: int = MOST_WINDOW_BITS
    client_max_window_bits: int = MOST_WINDOW_BITS

    @classmethod
    def settle(cls, offer, answer):
        """What the server's `answer` to our one `offer` means for both sides; None: no compression."""
        if answer is None:
            return None
        offered, settled = parse_parameters(offer), parse_parameters(answer)
        bits = {name: int(value) for name, value in settled.items() if name.endswith("bits")}
        flags = {name: True for name, value in settled.items() if value is None}
        assert flags.keys() | bits.keys() == settled.keys() <= set(cls._fields)
        # Section 7.1.1.1: the server must do what it was asked.
        if "server_no_context_takeover" in offered:
            assert "server_no_context_takeover" in flags
        # Section 7.1.2.1: no larger a window than it was asked for.
        if "server_max_window_bits" in offered:
            assert 8 <= bits["server_max_window_bits"] <= int(offered["server_max_window_bits"])
        # Section 7.1.2.2: it may limit ours only if we say that we know how, and not above what we said.
        if "client_max_window_bits" in bits:
            most = offered["client_max_window_bits"]
            assert 8 <= bits["client_max_window_bits"] <= int(most or MOST_WINDOW_BITS)
        return cls(**flags, **bits)


def parse_parameters(extension):
    """The parameters of one `permessage-deflate; ...`, by name; None is the value of one that has none."""
    name, *parameters = (part.strip() for part in extension.split(";"))
    assert name == "permessage-deflate"
    pairs = [parameter.partition("=") for parameter in parameters]
    values = {name.strip(): value.strip().strip('"') if equals else None for name, equals, value in pairs}
    assert len(values) == len(pairs), "a parameter twice"
    return values


class StrictInflater:
    """Inflates a connection's compressed messages one after the other; ValueError for one that is not right.

    zlib refuses a distance that is beyond its window, but not within what the call itself has put out. So where the
    window is not the largest that there is, every call puts out one byte.
    """

    def __init__(self, window_bits=MOST_WINDOW_BITS, *, has_context=True):
        self.window_bits = window_bits
        self.has_context = has_context
        self.zlib = zlib.decompressobj(-window_bits)

    def inflate(self, payload):
        if not self.has_context:
            self.zlib = zlib.decompressobj(-self.window_bits)
        piece, step = (65536, 65536) if self.window_bits == MOST_WINDOW_BITS else (64, 1)
        compressed, output = payload + TAIL, bytearray()
        for start in range(0, len(compressed), piece):
            data = compressed[start : start + piece]
            while chunk := self._decompress(data, step):
                output += chunk
                data = self.zlib.unconsumed_tail
            if self.zlib.unconsumed_tail or self.zlib.unused_data or self.zlib.eof:
                raise ValueError("something is left over")
        # It must end where a block ends, at a whole byte: there, and only there, the stream could end, too.
        end = self.zlib.copy()
        if self._decompress(FINAL, 1, end) or not end.eof:
            raise ValueError("something is left over or missing")
        return bytes(output)

    def _decompress(self, data, step, inflater=None):
        try:
            return (inflater or self.zlib).decompress(data, step)
        except zlib.error as error:
            raise ValueError(str(error)) from None


def is_alone(compressed, payload):
    """Whether a new inflater makes `payload` of it."""
    try:
        return StrictInflater().inflate(compressed) == payload
    except ValueError:
        return False


class Reader:
    """Takes the bytes behind the server's 101, and gives messages."""

    def __init__(self, parameters):
        self.parameters = parameters
        self.inflater = parameters and StrictInflater(
            parameters.server_max_window_bits, has_context=not parameters.server_no_context_takeover
        )
        self.rest = b""
        self.forms = Counter()          # of all messages
        self.payload_bytes = 0          # of all messages, inflated
        self.wire_bytes = 0             # of the frames they came in, without headers
        self.close_payload = None
        self.pings = []
        self.pongs = []

    def feed(self, data):
        """Return the Messages that `data` makes whole."""
        frames, self.rest = parse_frames(self.rest + data)
        messages = []
        for frame in frames:
            assert self.close_payload is None, "something follows a CLOSE"
            assert frame.fin
            if frame.opcode in (TEXT, BINARY):
                messages.append(self.read_message(frame))
                continue
            assert frame.rsv == 0, "a compressed control frame (RFC 7692 section 6.1)"
            if frame.opcode == CLOSE:
                self.close_payload = frame.payload
            else:
                {PING: self.pings, PONG: self.pongs}[frame.opcode].append(frame.payload)
        return messages

    def read_message(self, frame):
        payload, form = frame.payload, "plain"
        if frame.rsv:
            assert (frame.rsv, self.inflater is None) == (RSV1, False), "reserved bits that nobody negotiated"
            payload = self.inflater.inflate(frame.payload)
            form = "alone" if is_alone(frame.payload, payload) else "windowed"
        self.forms[form] += 1
        self.payload_bytes += len(payload)
        self.wire_bytes += len(frame.payload)
        return Message(payload.decode() if frame.opcode == TEXT else payload, form)


def find_header(head, name):
    """The value of the header called `name` of a request or response, or None."""
    lines = (line.partition(": ") for line in head.split("\r\n")[1:])
    return next((value for field, _, value in lines if field.lower() == name.lower()), None)


class DeflateClient(RawClient):
    """`await DeflateClient.connect(port, "/path", offer="permessage-deflate; server_max_window_bits=9")`.

    Nothing is read but by `take_messages`, `read_messages` and `read_to`; pings are answered then.
    """

    @classmethod
    async def connect(cls, port, path="/", receive_buffer_bytes=None, *, offer=DEFAULT_OFFER, **headers):
        client = await super().connect(port, path, receive_buffer_bytes, Sec_WebSocket_Extensions=offer, **headers)
        client.parameters = Parameters.settle(offer, find_header(client.head, "Sec-WebSocket-Extensions"))
        client.reader = Reader(client.parameters)
        client.compressor = None
        client.messages = []            # read, not returned yet
        return client

    def take_messages(self):
        """All messages of what has been received so far."""
        data, self.data = self.data, b""
        answered = len(self.reader.pings)
        self.messages += self.reader.feed(data)
        for payload in self.reader.pings[answered:]:
            self.send_now(client_frame(PONG, payload))
        messages, self.messages = self.messages, []
        return messages

    async def read_messages(self, count):
        """The next `count` messages, fewer if the stream ends before."""
        messages = self.take_messages()
        while len(messages) < count and not self.is_eof:
            await self.receive()
            messages += self.take_messages()
        self.messages = messages[count:]
        return messages[:count]

    async def read_to(self, last):
        """All messages up to the first whose payload is `last`, which must come."""
        messages = []
        while not messages or messages[-1].payload != last:
            one = await self.read_messages(1)
            assert one, "the stream has ended"
            messages += one
        return messages

    def compress(self, payload):
        """Compress a message for the server, as was negotiated."""
        if self.compressor is None or self.parameters.client_no_context_takeover:
            self.compressor = zlib.compressobj(wbits=-self.parameters.client_max_window_bits)
        compressed = self.compressor.compress(payload) + self.compressor.flush(zlib.Z_SYNC_FLUSH)
        assert compressed.endswith(TAIL)
        return compressed.removesuffix(TAIL)

    async def send_message(self, message, *, is_compressed=True):
        opcode, payload = (TEXT, message.encode()) if isinstance(message, str) else (BINARY, message)
        if is_compressed:
            await self.send_frame(opcode, self.compress(payload), rsv=RSV1)
        else:
            await self.send_frame(opcode, payload)

    async def ping(self, payload=None):
        """Send a PING and read up to its PONG; returns the messages that came before it."""
        payload = os.urandom(8) if payload is None else payload
        await self.send_frame(PING, payload)
        messages = self.take_messages()
        while payload not in self.reader.pongs and not self.is_eof:
            await self.receive()
            messages += self.take_messages()
        return messages
